//! `stagedoor config`: each value with the file and key it came from, secrets veiled, and what Backstage's own
//! settings should say. What is not known to be harmless is veiled.

use std::fmt::Write as _;

use serde_json::Value;

use crate::config::connection_string;
use crate::config::environment::PREFIX;
use crate::config::environment::is_key_part;
use crate::config::include::join;
use crate::config::load::Loaded;
use crate::config::merge::Effective;
use crate::config::model::DatabaseRule;
use crate::config::model::Route;
use crate::config::model::TlsMode;
use crate::config::yaml;

const VEIL: &str = "•••";
const ROOT: &str = "backend.database";

/// Every default, as the file that is shipped shows it; a test keeps it true.
const DEFAULTS: &str = include_str!("../../config/stagedoor.yaml");

/// Keys below a `connection` that may be seen.
const SHOWN: &[&str] = &[
    "host",
    "port",
    "user",
    "database",
    "type",
    "application_name",
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "sslnegotiation",
    "ssl.rejectUnauthorized",
    "ssl.require",
    "ssl.servername",
    "ssl.minVersion",
];

/// Shows the configuration to a person.
#[must_use]
pub fn render(loaded: &Loaded) -> String {
    let mut lines = Lines { effective: &loaded.effective, out: String::new() };
    lines.heading("backend.database, as Backstage's files say");
    lines.below(ROOT);
    lines.heading("stagedoor");
    lines.own();
    lines.heading("where clients go, the first match counts");
    for route in &loaded.config.routes {
        lines.line(&route_text(route));
    }
    if !loaded.config.warnings.is_empty() {
        lines.heading("warnings");
    }
    for warning in &loaded.config.warnings {
        lines.line(warning);
    }
    let host = if loaded.config.listen.host.is_unspecified() {
        "127.0.0.1".to_owned()
    } else {
        loaded.config.listen.host.to_string()
    };
    lines.backstage(&host, loaded.config.listen.port, &loaded.config.routes);
    lines.out
}

fn route_text(route: &Route) -> String {
    let database = match &route.database {
        DatabaseRule::Any => "any database".to_owned(),
        DatabaseRule::Only(name) => format!("database {name}"),
    };
    let mode = match route.upstream.tls.mode {
        TlsMode::VerifyFull => "verify-full",
        TlsMode::VerifyCa => "verify-ca",
        TlsMode::InsecureNoVerify => "insecure-no-verify",
        TlsMode::InsecurePlaintext => "insecure-plaintext",
    };
    let port = route.port.map_or_else(String::new, |port| format!("port {port}, "));
    let plugin = route.plugin.as_ref().map_or_else(String::new, |id| format!(" (plugin {id})"));
    format!("{port}user {}, {database} → {}, {mode}{plugin}", route.user, route.upstream.name)
}

struct Lines<'a> {
    effective: &'a Effective,
    out: String,
}

impl Lines<'_> {
    fn heading(&mut self, text: &str) {
        let gap = if self.out.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.out, "{gap}# {text}");
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}");
    }

    /// Every value below `key`, each with its place.
    fn below(&mut self, key: &str) {
        match self.effective.get(key) {
            None => {}
            Some(Value::Object(map)) if !map.is_empty() => {
                for name in map.keys() {
                    self.below(&join(key, name));
                }
            }
            Some(value) => {
                let text = shown(key, value);
                let place = self.effective.place(key);
                let via = self.effective.via(key).map_or_else(String::new, |via| format!(", {via}"));
                self.line(&format!("{key}: {text}    # {place}{via}"));
            }
        }
    }

    /// What stands under `stagedoor:`, and the defaults of what does not.
    fn own(&mut self) {
        self.below("stagedoor");
        let Ok(defaults) = yaml::parse(DEFAULTS) else {
            return;
        };
        let mut missing = Vec::new();
        leaves("", &defaults, &mut missing);
        for (key, value) in missing.iter().filter(|(key, _)| self.effective.get(key).is_none()) {
            self.line(&format!("{key}: {value}    # default"));
        }
    }

    fn backstage(&mut self, host: &str, port: u16, routes: &[std::sync::Arc<Route>]) {
        self.heading(
            "what the environment of the Backstage container should say (and only that container's)",
        );
        let base = format!("{ROOT}.connection");
        if self.effective.get(&base).is_some() {
            self.connection(&base, host, port);
        }
        let plugins = self.effective.get(&format!("{ROOT}.plugin")).and_then(Value::as_object);
        let ids: Vec<String> = plugins.into_iter().flat_map(|map| map.keys().cloned()).collect();
        for id in ids {
            let key = format!("{ROOT}.plugin.{id}.connection");
            let own =
                routes.iter().find(|route| route.plugin.as_ref() == Some(&id)).and_then(|route| route.port);
            let addressed =
                ["host", "port", "ssl"].iter().any(|name| self.effective.get(&join(&key, name)).is_some());
            let whole = self.effective.get(&key).is_some_and(Value::is_string);
            if addressed || whole || own.is_some() {
                self.connection(&key, host, own.unwrap_or(port));
            }
        }
    }

    /// The settings that lead one connection to us.
    fn connection(&mut self, key: &str, host: &str, port: u16) {
        if self.effective.get(key).is_some_and(Value::is_string) {
            return self.whole_connection(key, host, port);
        }
        for (name, value) in [("host", host.to_owned()), ("port", port.to_string())] {
            match self.variable(&join(key, name)) {
                Some(variable) => self.line(&format!("{variable}={value}")),
                None => self.set(&join(key, name), &value),
            }
        }
        // Explicitly, because PGSSLMODE would else decide.
        self.set(&join(key, "ssl"), "false");
    }

    /// A connection string can only be replaced as a whole.
    fn whole_connection(&mut self, key: &str, host: &str, port: u16) {
        match self.variable(key) {
            Some(variable) => {
                self.line(&format!(
                    "{variable}=postgresql://<user>:<password>@{host}:{port}/<database>?sslmode=disable"
                ));
            }
            None => {
                let object = format!(
                    r#"'{{"host":"{host}","port":{port},"user":"<user>","password":"<password>","ssl":false}}'"#
                );
                self.set(key, &object);
            }
        }
    }

    fn set(&mut self, key: &str, value: &str) {
        if key.split('.').all(|part| is_key_part(part) && !part.contains('_')) {
            self.line(&format!("{PREFIX}{}={value}", key.replace('.', "_")));
        } else {
            self.line(&format!("(in a file that only Backstage is given) {key}: {value}"));
        }
    }

    /// The one variable that is the whole of the value at `key`.
    fn variable(&self, key: &str) -> Option<String> {
        let via = self.effective.via(key).filter(|_| self.effective.get(key).is_some())?;
        let name = via.strip_prefix("$env ").or_else(|| via.strip_prefix("${")?.strip_suffix('}'))?;
        (!name.contains([' ', '$'])).then(|| name.to_owned())
    }
}

fn leaves(key: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                leaves(&join(key, name), value, out);
            }
        }
        Value::Object(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_) => {
            out.push((key.to_owned(), plain(value)));
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A value as it may be seen. Below a connection, and in `knexConfig`, only what is known to be harmless.
fn shown(key: &str, value: &Value) -> String {
    let Some((_, name)) =
        key.rsplit_once(".connection.").or_else(|| key.rsplit_once("knexConfig.connection."))
    else {
        if key.ends_with(".connection") {
            return veiled_string(value);
        }
        return if is_free(key) { plain(value) } else { VEIL.to_owned() };
    };
    match name {
        "ssl" if value.is_boolean() => plain(value),
        "ssl.ca" | "ssl.cert" | "ssl.crl" => certificates(value),
        "connectionString" => veiled_string(value),
        _ if SHOWN.contains(&name) && !value.is_object() && !value.is_array() => plain(value),
        _ => VEIL.to_owned(),
    }
}

/// Whether a key outside of connections says nothing secret: ours, Backstage's own switches, and pool sizes.
fn is_free(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or_default();
    let switches = [
        "client",
        "prefix",
        "schemaPrefix",
        "pluginDivisionMode",
        "ensureExists",
        "ensureSchemaExists",
        "role",
        "skipMigrations",
    ];
    key.starts_with("stagedoor.")
        || switches.contains(&last)
        || key.contains(".knexConfig.pool.")
        || key.ends_with("searchPath")
}

fn certificates(value: &Value) -> String {
    let count = value.to_string().matches("-----BEGIN").count();
    format!("PEM, {count} block{}", if count == 1 { "" } else { "s" })
}

/// A connection string without its password and parameters.
fn veiled_string(value: &Value) -> String {
    let parsed = value.as_str().and_then(|text| connection_string::parse(text, |_| Ok(String::new())).ok());
    let Some(parsed) = parsed else {
        return VEIL.to_owned();
    };
    let part = |name: &str| parsed.get(name).and_then(Value::as_str).unwrap_or_default();
    let port = if part("port").is_empty() { String::new() } else { format!(":{}", part("port")) };
    format!("postgresql://{}:{VEIL}@{}{port}/{}", part("user"), part("host"), part("database"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::Sources;
    use crate::config::load::layers;
    use crate::config::resolve::resolve;
    use crate::config::world::tests::Table;

    fn rendered(text: &str, variables: &[(&str, &str)]) -> String {
        let world = Table::new(&[("/app/app-config.yaml", text), ("/run/pw", "hunter2\n")], variables);
        let sources = Sources { configs: vec![], cwd: "/app".into() };
        let effective = layers(&world, &sources).unwrap();
        let config = resolve(&effective, &world).unwrap();
        render(&Loaded { config, effective, files: crate::config::picture::Picture::default() })
    }

    #[test]
    fn each_value_is_shown_with_its_place_and_secrets_are_not_shown() {
        let text = "
backend:
  database:
    client: pg
    connection: { host: '${H}', port: 5433, user: u, password: { $file: /run/pw }, weird: hunter2 }
    knexConfig: { connection: { password: hunter2 }, pool: { max: 3 }, other: hunter2 }
    plugin: { catalog: { connection: 'postgres://v:hunter2@h2/x?sslpassword=hunter2' } }
stagedoor: { pool: { maxServers: 8 } }";
        let shown = rendered(text, &[("H", "db"), ("APP_CONFIG_stagedoor_listen_port", "6432")]);
        assert!(!shown.contains("hunter2"), "{shown}");
        for line in [
            "backend.database.connection.host: db    # /app/app-config.yaml, ${H}",
            "backend.database.connection.port: 5433    # /app/app-config.yaml",
            "backend.database.connection.password: •••    # /app/app-config.yaml, $file /run/pw",
            "backend.database.connection.weird: •••    # /app/app-config.yaml",
            "backend.database.knexConfig.pool.max: 3    # /app/app-config.yaml",
            "backend.database.plugin.catalog.connection: postgresql://v:•••@h2/x    # /app/app-config.yaml",
            "stagedoor.pool.maxServers: 8    # /app/app-config.yaml",
            "stagedoor.listen.port: 6432    # APP_CONFIG_stagedoor_listen_port",
            "stagedoor.pool.idleTimeout: 5m    # default",
            "user u, any database → db:5433, verify-full",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line:?} is missing in:\n{shown}");
        }
    }

    #[test]
    fn backstage_is_told_how_to_find_us() {
        let connection = |text: &str| format!("backend: {{ database: {{ client: pg, {text} }} }}");
        let variables = [("H", "db"), ("P", "5433"), ("URL", "postgres://u:p@db/x")];
        for (text, expected) in [
            (
                "connection: { host: '${H}', port: '${P}', user: u, password: p }",
                "H=127.0.0.1\nP=5432\nAPP_CONFIG_backend_database_connection_ssl=false\n",
            ),
            (
                "connection: { host: db, user: u, password: p }",
                "APP_CONFIG_backend_database_connection_host=127.0.0.1\n\
                 APP_CONFIG_backend_database_connection_port=5432\n\
                 APP_CONFIG_backend_database_connection_ssl=false\n",
            ),
            (
                "connection: '${URL}'",
                "URL=postgresql://<user>:<password>@127.0.0.1:5432/<database>?sslmode=disable\n",
            ),
            (
                "connection: 'postgres://u:p@db/x'",
                "APP_CONFIG_backend_database_connection='{\"host\":\"127.0.0.1\",\"port\":5432,\
                 \"user\":\"<user>\",\"password\":\"<password>\",\"ssl\":false}'\n",
            ),
            (
                "connection: { host: db, user: u, password: p }, plugin: { my-plugin: { connection: { host: h2 } } }",
                "APP_CONFIG_backend_database_plugin_my-plugin_connection_host=127.0.0.1\n\
                 APP_CONFIG_backend_database_plugin_my-plugin_connection_port=5432\n\
                 APP_CONFIG_backend_database_plugin_my-plugin_connection_ssl=false\n",
            ),
        ] {
            let shown = rendered(&connection(text), &variables);
            assert!(shown.ends_with(expected), "{shown}");
        }
    }
}
