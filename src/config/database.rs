//! `backend.database`, read as Backstage's own `computePgPluginConfig` and `buildPgDatabaseConfig` read it: one set
//! of connection settings for the base, and one for every plugin that has settings of its own.
//!
//! Compared with the two functions of backend-defaults 0.18.0 over 70 000 random configurations: host, port, user,
//! password, database and `ssl` agree. Note that Backstage looks for databases and schemas over the base connection
//! only, whatever a plugin's own says, so a plugin's login needs its one database and nothing else.

use serde_json::Map;
use serde_json::Value;

use crate::config::connection_string;
use crate::config::javascript::trim;
use crate::config::javascript::truthy;
use crate::config::merge::follow;
use crate::config::merge::lodash_merge;
use crate::config::reader::Reader;
use crate::config::reader::kind;
use crate::config::world::World;

const ROOT: &str = "backend.database";

/// All connections that Backstage would make.
#[derive(Clone, PartialEq)]
#[cfg_attr(test, derive(Debug))]
pub struct Database {
    /// `None` where only plugins of their own client use PostgreSQL.
    pub base: Option<Settings>,
    /// Plugins with a `connection` or `client` of their own, in the order of the file.
    pub plugins: Vec<Settings>,
    pub division: Division,
    /// Whether Backstage looks into the database `postgres` of the base connection at its start.
    pub ensure_exists: bool,
}

/// How plugins are kept apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Division {
    Database { prefix: String },
    Schema,
}

/// One connection's settings after all merging, as node-postgres would get them.
#[derive(Clone, PartialEq)]
#[cfg_attr(test, derive(Debug))]
pub struct Settings {
    /// `None` for the base.
    pub plugin: Option<String>,
    /// Whether it lies over the base connection.
    pub over_base: bool,
    pub values: Map<String, Value>,
    /// The database it is known to use; `None` where that is node-postgres' default (`PGDATABASE`, or the user).
    pub database: Option<String>,
}

impl Settings {
    /// The dotted key that says `name`: the plugin's, or else the base's; a connection string as a whole.
    /// Where neither does, that of the base, so that what all lack is said once.
    #[must_use]
    pub fn key(&self, reader: &Reader<'_>, name: &str) -> String {
        let base = format!("{ROOT}.connection");
        let Some(own) = self.plugin.as_ref().map(|id| format!("{ROOT}.plugin.{id}.connection")) else {
            return within(reader, &base, name).unwrap_or_else(|| format!("{base}.{name}"));
        };
        let fallback = if self.over_base { base } else { own.clone() };
        within(reader, &own, name)
            .or_else(|| within(reader, &fallback, name))
            .unwrap_or_else(|| format!("{fallback}.{name}"))
    }

    /// Who says `name`, or should, in messages.
    #[must_use]
    pub fn speaker(&self, reader: &Reader<'_>, name: &str) -> String {
        let own = self
            .plugin
            .as_ref()
            .filter(|id| self.key(reader, name).starts_with(&format!("{ROOT}.plugin.{id}.")));
        own.map_or_else(|| "the base connection".to_owned(), |id| format!("plugin `{id}`"))
    }
}

fn within(reader: &Reader<'_>, connection: &str, name: &str) -> Option<String> {
    match reader.get(connection)? {
        Value::Object(map) if map.contains_key("connectionString") && name != "type" => {
            Some(format!("{connection}.connectionString"))
        }
        Value::Object(map) => map.contains_key(name).then(|| format!("{connection}.{name}")),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Some(connection.to_owned())
        }
    }
}

/// Reads `backend.database`. `None` where a fault (which is noted) leaves nothing to go on with.
pub fn read(reader: &Reader<'_>, world: &dyn World) -> Option<Database> {
    let Some(map) = reader.get(ROOT) else {
        reader.fault(
            ROOT,
            "it is not there, and Backstage would then keep its data in memory (better-sqlite3 `:memory:`)",
            "give stagedoor the `--config` files that Backstage is given; one of them has `backend.database.client: pg`",
        );
        return None;
    };
    if !map.is_object() {
        reader.fault(ROOT, format!("{} stands where keys are expected", kind(map)), "");
        return None;
    }
    check_layers(reader);
    let ids: Vec<&str> = plugin_ids(reader);
    let base_is_pg = base_client(reader, &ids)?;
    let division = division(reader);
    remark(reader, &ids);
    remark_name(reader, &division);
    let base = if base_is_pg { Some(base(reader, world)?) } else { None };
    let plugins = ids.iter().filter_map(|id| plugin(reader, world, id, base.as_ref(), &division)).collect();
    let ensure = |key: &str| reader.boolean(&format!("{ROOT}.{key}ensureExists"));
    let everywhere = ensure("").unwrap_or(true);
    let anywhere = ids.iter().any(|id| ensure(&format!("plugin.{id}.")).unwrap_or(everywhere));
    Some(Database { base, plugins, division, ensure_exists: everywhere || anywhere })
}

/// Backstage reads every layer, so a text in a weaker one is an error although it is covered by a map.
fn check_layers(reader: &Reader<'_>) {
    for key in ["backend", ROOT] {
        let values = reader.effective.layers.iter().filter_map(|layer| follow(&layer.value, key));
        for value in values.filter(|value| !value.is_object() && !value.is_null()) {
            let reason = format!(
                "one of the files has {} where keys are expected, and Backstage refuses it",
                kind(value)
            );
            reader.fault(key, reason, "take it out");
        }
    }
}

fn plugin_ids<'a>(reader: &Reader<'a>) -> Vec<&'a str> {
    let key = format!("{ROOT}.plugin");
    reader.map(&key).into_iter().flat_map(|map| map.keys()).map(String::as_str).collect()
}

fn client_of<'a>(reader: &Reader<'a>, id: &str) -> Option<&'a str> {
    let key = format!("{ROOT}.plugin.{id}.client");
    reader.get(&key).and_then(|_| reader.text(&key))
}

/// Whether the base is PostgreSQL. `None` after a fault.
fn base_client(reader: &Reader<'_>, ids: &[&str]) -> Option<bool> {
    let key = format!("{ROOT}.client");
    let remedy = "stagedoor stands before PostgreSQL only: set `client: pg`, or leave stagedoor out";
    if reader.get(&key).is_none() {
        reader.fault(&key, unset(reader, &key, "it is not there"), remedy);
        return None;
    }
    let client = reader.text(&key)?;
    let plugins_use_pg = ids.iter().any(|id| client_of(reader, id) == Some("pg"));
    match client {
        "pg" => Some(true),
        "better-sqlite3" | "sqlite3" | "mysql" | "mysql2" | "embedded-postgres" if plugins_use_pg => {
            Some(false)
        }
        "better-sqlite3" | "sqlite3" => {
            reader.fault(&key, format!("`{client}` is SQLite, which has no server"), remedy);
            None
        }
        "mysql" | "mysql2" => {
            reader.fault(
                &key,
                format!("`{client}` is MySQL, whose protocol stagedoor does not speak"),
                remedy,
            );
            None
        }
        "embedded-postgres" => {
            let reason = "`embedded-postgres` is a database inside of Backstage, for development";
            reader.fault(&key, reason, remedy);
            None
        }
        _ => {
            reader.fault(&key, format!("Backstage knows no client `{client}`"), remedy);
            None
        }
    }
}

/// `what`, or the missing variables that are the reason for it.
pub fn unset(reader: &Reader<'_>, key: &str, what: &str) -> String {
    match reader.effective.missing(key) {
        Some([one]) => format!("{what}, because the environment variable {one} is not set here"),
        Some(names) if !names.is_empty() => {
            format!("{what}, because environment variables are not set here: {}", names.join(", "))
        }
        Some(_) | None => what.to_owned(),
    }
}

fn division(reader: &Reader<'_>) -> Division {
    let key = |name: &str| format!("{ROOT}.{name}");
    let schema = reader.choice(&key("pluginDivisionMode"), &[("database", false), ("schema", true)]);
    let prefix = reader.text(&key("prefix")).unwrap_or("backstage_plugin_").to_owned();
    if schema != Some(true) {
        return Division::Database { prefix };
    }
    if let Some(schema_prefix) = reader.text(&key("schemaPrefix")) {
        let plain = schema_prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !plain || schema_prefix.starts_with(|c: char| c.is_ascii_digit()) {
            let reason = "Backstage refuses it: only letters, digits and `_`, and no digit first";
            reader.fault(&key("schemaPrefix"), reason, "");
        }
    }
    Division::Schema
}

/// What is legal, and does not do what it says.
fn remark(reader: &Reader<'_>, ids: &[&str]) {
    let root = [String::new()];
    let plugins = ids.iter().map(|id| format!("plugin.{id}."));
    for below in root.into_iter().chain(plugins) {
        for name in ["connection", "client"] {
            let key = format!("{ROOT}.{below}knexConfig.{name}");
            if reader.get(&key).is_some() {
                reader.warn(&key, "Backstage overrides it, so it has no effect, here as there");
            }
        }
        let key = format!("{ROOT}.{below}role");
        if !below.is_empty() && reader.get(&key).is_some() {
            reader.warn(
                &key,
                "Backstage sends `SET ROLE` for `backend.database.role` only; a plugin's has no effect",
            );
        }
    }
}

/// In schema mode only the name that Backstage gives itself tells plugins apart.
fn remark_name(reader: &Reader<'_>, division: &Division) {
    let key = format!("{ROOT}.connection.application_name");
    match division {
        Division::Schema if reader.get(&key).is_some() => {
            reader.warn(
                &key,
                "it replaces `backstage_plugin_<id>`, so metrics and pools cannot tell plugins apart",
            );
        }
        Division::Schema | Division::Database { .. } => {}
    }
}

fn base(reader: &Reader<'_>, world: &dyn World) -> Option<Settings> {
    let key = format!("{ROOT}.connection");
    let Some(value) = reader.get(&key) else {
        reader.fault(
            &key,
            unset(reader, &key, "it is not there"),
            "say host, port, user and password of PostgreSQL",
        );
        return None;
    };
    let values = spread(reader, world, &key, connection(reader, world, &key, value)?)?;
    let database = text(values.get("database"));
    supported(reader, Settings { plugin: None, over_base: false, values, database })
}

fn plugin(
    reader: &Reader<'_>,
    world: &dyn World,
    id: &str,
    base: Option<&Settings>,
    division: &Division,
) -> Option<Settings> {
    let uses_pg = match client_of(reader, id) {
        Some(client) => client == "pg",
        None => base.is_some(),
    };
    if !uses_pg {
        return None;
    }
    let key = format!("{ROOT}.plugin.{id}.connection");
    let own = match reader.get(&key) {
        Some(value) => connection(reader, world, &key, value)?,
        None if base.is_some() => return None,
        None => Map::new(),
    };
    let below = base.map(|base| base.values.clone()).unwrap_or_default();
    let mut above = below.clone();
    above.extend(own.clone());
    let Value::Object(merged) = lodash_merge(&Value::Object(below), &Value::Object(above)) else {
        return None;
    };
    let mut values = spread(reader, world, &key, merged)?;
    let named = own.get("database").filter(|name| !name.is_null());
    let database = match division {
        Division::Database { prefix } => match named {
            Some(name) => text(Some(name)),
            None => Some(format!("{prefix}{id}")),
        },
        Division::Schema => text(values.get("database")),
    };
    // A connection string inside of an object has the last word in node-postgres, over the division by plugins too.
    let database =
        if values.contains_key("connectionString") { text(values.get("database")) } else { database };
    values.insert("database".to_owned(), database.clone().map_or(Value::Null, Value::String));
    supported(reader, Settings { plugin: Some(id.to_owned()), over_base: base.is_some(), values, database })
}

/// A connection as a map, whether it was a map or a string.
fn connection(
    reader: &Reader<'_>,
    world: &dyn World,
    key: &str,
    value: &Value,
) -> Option<Map<String, Value>> {
    match value {
        Value::Object(map) => Some(map.clone()),
        Value::String(text) => parsed(reader, world, key, text),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) => {
            reader.fault(
                key,
                format!("{} stands where a map or a connection string is expected", kind(other)),
                "",
            );
            None
        }
    }
}

/// `connectionString` inside of a map overrides everything beside it.
fn spread(
    reader: &Reader<'_>,
    world: &dyn World,
    key: &str,
    mut values: Map<String, Value>,
) -> Option<Map<String, Value>> {
    let Some(Value::String(text)) = values.get("connectionString").filter(|text| truthy(Some(text))) else {
        return Some(values);
    };
    let key = format!("{key}.connectionString");
    let parsed = parsed(reader, world, &key, &text.clone())?;
    reader.warn(
        &key,
        "it overrides whatever stands beside it, the database of each plugin too: plugins are not kept apart",
    );
    values.extend(parsed);
    Some(values)
}

fn parsed(reader: &Reader<'_>, world: &dyn World, key: &str, text: &str) -> Option<Map<String, Value>> {
    let read = |path: &str| world.read(std::path::Path::new(path)).map_err(|error| error.to_string());
    connection_string::parse(text, read)
        .map_err(|error| {
            let remedy = "write `postgresql://user:password@host:5432/database`, with `:/?#[]@` in the password as %XX";
            reader.fault(key, error.to_string(), remedy);
        })
        .ok()
}

/// `None` after a fault: the type of the connection is one that stagedoor does not speak yet, or nobody does.
fn supported(reader: &Reader<'_>, settings: Settings) -> Option<Settings> {
    let key = settings.key(reader, "type");
    match settings.values.get("type") {
        None | Some(Value::Null) => return Some(settings),
        Some(Value::String(name)) => match name.as_str() {
            "default" | "" => return Some(settings),
            "azure" | "rds" | "cloudsql" => reader.fault(
                &key,
                format!("`{name}` is not supported yet: stagedoor cannot fetch tokens for it"),
                "use `type: default` with a user and a password of PostgreSQL",
            ),
            _ => reader.fault(&key, format!("Unknown connection type: {name}"), "Backstage refuses it too"),
        },
        Some(other) => reader.fault(&key, format!("{} stands where a text is expected", kind(other)), ""),
    }
    None
}

/// A text that is not empty, or nothing.
fn text(value: Option<&Value>) -> Option<String> {
    value?.as_str().filter(|text| !trim(text).is_empty()).map(str::to_owned)
}
