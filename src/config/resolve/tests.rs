//! Stories about whole configurations: what is accepted, what comes of it, what is refused and how.

use std::path::PathBuf;

use super::*;
use crate::config::load::Sources;
use crate::config::load::layers;
use crate::config::model::Address;
use crate::config::model::ClientCertificate;
use crate::config::model::DatabaseRule;
use crate::config::model::Negotiation;
use crate::config::model::PluginLabel;
use crate::config::model::Roots;
use crate::config::model::Route;
use crate::config::model::TlsVersion;
use crate::config::world::tests::Table;

const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----";

/// `base` indented below `backend.database`, and what else the file says at its top.
fn file(database: &str, rest: &str) -> String {
    let indented: String = database.lines().map(|line| format!("    {line}\n")).collect();
    format!("backend:\n  database:\n{indented}{rest}\n")
}

fn resolved(text: &str, variables: &[(&str, &str)]) -> Result<Config, Faults> {
    let files = [
        ("/app/app-config.yaml", text),
        ("/app/ca.pem", PEM),
        ("/etc/extra.pem", PEM),
        ("/app/crl.pem", "-----BEGIN X509 CRL-----"),
    ];
    let world = Table::new(&files, variables);
    let sources = Sources { configs: vec![], cwd: PathBuf::from("/app") };
    resolve(&layers(&world, &sources)?, &world)
}

/// The connection with `lines` in it, and a `stagedoor:` that says `own`.
fn with(lines: &str, own: &str) -> Result<Config, Faults> {
    let connection = format!("client: pg\nconnection: {{ host: db, user: u, password: p{lines} }}");
    resolved(&file(&connection, own), &[])
}

#[track_caller]
fn refused(result: Result<Config, Faults>, expected: &[&str]) {
    let faults = result.expect_err("it must be refused").to_string();
    for part in expected {
        assert!(faults.contains(part), "{part:?} is missing in: {faults}");
    }
}

fn routes(config: &Config) -> Vec<String> {
    config.routes.iter().map(|route| line(route)).collect()
}

fn line(route: &Route) -> String {
    let database = match &route.database {
        DatabaseRule::Any => "*",
        DatabaseRule::Only(name) => name,
    };
    let label = match &route.label {
        PluginLabel::DatabasePrefix(prefix) => format!("{prefix}*"),
        PluginLabel::ApplicationName => "application_name".to_owned(),
        PluginLabel::Fixed(id) => id.clone(),
    };
    let port = route.port.map_or_else(String::new, |port| format!(":{port} "));
    format!("{port}{}/{database} → {} {label}", route.user, route.upstream.name)
}

#[test]
fn the_example_of_the_documentation_resolves_and_verifies() {
    let text = include_str!("../../../config/app-config.example.yaml");
    let variables = [
        ("POSTGRES_HOST", "db.example.com"),
        ("POSTGRES_PORT", "5433"),
        ("POSTGRES_USER", "backstage"),
        ("POSTGRES_PASSWORD", "secret"),
    ];
    let config = resolved(text, &variables).unwrap();
    assert_eq!(routes(&config), ["backstage/* → db.example.com:5433 backstage_plugin_*"]);
    let tls = &config.upstreams[0].tls;
    assert_eq!((tls.mode, &tls.roots), (TlsMode::VerifyFull, &Roots::Public { extra: vec![] }));
    assert_eq!(config.warnings, [""; 0]);

    let uncommented = text
        .replace("      # ssl:", "      ssl:")
        .replace("      #   ca:", "        ca:")
        .replace("      #     $file: /ca/server.crt", "          $file: ca.pem");
    let config = resolved(&uncommented, &variables).unwrap();
    let Roots::Only(roots) = &config.upstreams[0].tls.roots else {
        panic!("the roots are those of the file")
    };
    assert_eq!((roots[0].text.as_str(), roots[0].origin.as_str()), (PEM, "/app/ca.pem"));
}

#[test]
fn the_shipped_file_says_the_defaults_and_every_key() {
    let text = include_str!("../../../config/stagedoor.yaml");
    let with_all = with("", text).unwrap();
    assert_eq!(with_all, with("", "").unwrap());
    let value = crate::config::yaml::parse(text).unwrap();
    for (section, keys) in stagedoor::SECTIONS {
        let at = crate::config::merge::follow(&value, section).and_then(serde_json::Value::as_object);
        let said: Vec<_> = at.expect(section).keys().map(String::as_str).collect();
        assert_eq!(&said, keys, "{section}");
    }
}

#[test]
fn what_is_not_postgresql_is_refused_by_name() {
    for (database, expected) in [
        ("client: better-sqlite3\nconnection: ':memory:'", "`better-sqlite3` is SQLite"),
        ("client: mysql2\nconnection: {}", "`mysql2` is MySQL"),
        ("client: oracle\nconnection: {}", "no client `oracle`"),
        ("client: ${NONE}\nconnection: {}", "variable NONE is not set"),
        ("client: pg", "connection: it is not there"),
        ("client: pg\nconnection: { type: rds, host: h }", "`rds` is not supported yet"),
        ("client: pg\nconnection: { type: banana }", "Unknown connection type: banana"),
        ("client: pg\nconnection: [1]", "a list stands where"),
        ("client: pg\npluginDivisionMode: table\nconnection: {}", "choose from: database, schema"),
    ] {
        refused(resolved(&file(database, ""), &[]), &["/app/app-config.yaml: ", expected]);
    }
    refused(resolved("a: 1", &[]), &["backend.database", "better-sqlite3"]);
}

#[test]
fn every_fault_is_told_at_once_with_its_key() {
    let own = "stagedoor: { pool: { maxserver: 3, idleTimeout: 30 }, listn: {}, tls: { mode: none } }";
    let text = file("client: pg\nconnection: { host: '${HOST}', port: x, password: 0777, ssl: false }", own);
    refused(
        resolved(&text, &[]),
        &[
            "has 9 faults",
            "stagedoor.pool.maxserver: there is no such key\n    → did you mean `maxServers`?",
            "stagedoor.listn: there is no such key\n    → did you mean `listen`?",
            "stagedoor.pool.idleTimeout: it is not a duration",
            "stagedoor.tls.mode: it is not one of the known words",
            "backend.database.connection.host: the base connection has no host, because the environment variable HOST",
            "backend.database.connection.port: it is not a port",
            "backend.database.connection.user: the base connection has no user",
            "backend.database.connection.password: a number stands where a text",
            "backend.database.connection.ssl: `ssl: false` means no TLS",
        ],
    );
}

#[test]
fn what_is_watched_for_all_is_watched_for_a_plugin_too() {
    let own = "stagedoor: { pool: { watch: { functions: enter, settings: [a.b] }, \
               plugins: { catalog: { watch: { functions: [leave] } } } } }";
    let config = with("", own).unwrap();
    let route = &config.routes[0];
    let (_, plugin) = route.plugins.iter().find(|(id, _)| id == "catalog").unwrap();
    assert_eq!((route.pool.watch.functions.len(), route.pool.watch.settings.len()), (1, 1));
    assert_eq!(plugin.watch.functions, ["enter", "leave"]);
    assert_eq!(plugin.watch.settings, ["a.b"]);
    for (watch, expected) in [
        (
            "functions: [app.enter]",
            "stagedoor.pool.watch.functions: `app.enter` is not the name of a function",
        ),
        ("functions: ['enter()']", "without schema and arguments"),
        (
            "settings: [work_mem]",
            "stagedoor.pool.watch.settings: `work_mem` is not a setting of the form a.b",
        ),
        ("settings: [a.]", "`a.` is not a setting"),
        ("function: [enter]", "did you mean `functions`?"),
    ] {
        refused(with("", &format!("stagedoor: {{ pool: {{ watch: {{ {watch} }} }} }}")), &[expected]);
    }
    let many = vec!["f"; 33].join(", ");
    refused(
        with("", &format!("stagedoor: {{ pool: {{ watch: {{ functions: [{many}] }} }} }}")),
        &["more than 32"],
    );
}

#[test]
fn ssl_that_verifies_is_taken_and_what_does_not_is_refused_with_the_way_out() {
    for ssl in ["", ", ssl: true", ", ssl: 'true'", ", ssl: {}", ", ssl: { require: true }"] {
        assert_eq!(with(ssl, "").unwrap().upstreams[0].tls.mode, TlsMode::VerifyFull, "{ssl}");
    }
    for ssl in [
        ", ssl: false",
        ", ssl: ''",
        ", ssl: 'false'",
        ", ssl: require",
        ", ssl: no-verify",
        ", ssl: { rejectUnauthorized: false }",
        ", ssl: 1",
        ", ssl: []",
    ] {
        refused(with(ssl, ""), &["backend.database.connection.ssl: ", "stagedoor.tls.mode"]);
        let mode = "stagedoor: { tls: { mode: verify-full } }";
        assert_eq!(with(ssl, mode).unwrap().upstreams[0].tls.mode, TlsMode::VerifyFull, "{ssl}");
    }
    for (ssl, expected) in [
        (", ssl: { passphrase: x }", "encrypted keys are not supported"),
        (", ssl: { pfx: x }", "PKCS#12"),
        (", ssl: { ca: /ca.pem }", "it is not a PEM text"),
        (", ssl: { ca: '' }", "it is empty"),
        (", ssl: { cert: '-----BEGIN' }", "no `ssl.key`"),
        (
            ", ssl: { cert: '-----BEGIN', key: '-----BEGIN ENCRYPTED PRIVATE KEY-----' }",
            "the key is encrypted",
        ),
        (", ssl: { minVersion: SSLv3 }", "none of TLSv1.2 and TLSv1.3"),
    ] {
        refused(with(ssl, ""), &[expected]);
    }
}

#[test]
fn the_forms_of_ssl_end_in_one_policy() {
    let ssl = ", ssl: { ca: [{ $file: ca.pem }, { $file: ca.pem }], cert: { $file: ca.pem }, key: '-----BEGIN KEY', \
            servername: s, minVersion: TLSv1.3 }, sslnegotiation: direct";
    let config = with(ssl, "stagedoor: { tls: { crl: [crl.pem], minVersion: 1.2 } }").unwrap();
    let tls = &config.upstreams[0].tls;
    let Roots::Only(roots) = &tls.roots else { panic!("the roots are those given") };
    assert_eq!(roots.len(), 2);
    let Some(ClientCertificate { chain, key, .. }) = &tls.client_certificate else { panic!("a certificate") };
    assert_eq!((chain.origin.as_str(), key.expose()), ("/app/ca.pem", "-----BEGIN KEY"));
    assert_eq!(tls.server_name.as_deref(), Some("s"));
    assert_eq!((tls.version_min, tls.negotiation), (TlsVersion::V1_3, Negotiation::Direct));
    assert_eq!(tls.crls[0].origin, "/app/crl.pem");
}

#[test]
fn sslmode_of_a_connection_string_is_judged_too() {
    let string = |query: &str| {
        resolved(&file(&format!("client: pg\nconnection: postgres://u:p@db/x?{query}"), ""), &[])
    };
    for query in ["", "sslmode=require", "sslmode=verify-full", "sslrootcert=/app/ca.pem", "ssl=true"] {
        assert_eq!(string(query).unwrap().upstreams[0].tls.mode, TlsMode::VerifyFull, "{query}");
    }
    for query in [
        "sslmode=disable",
        "sslmode=allow",
        "sslmode=prefer",
        "sslmode=no-verify",
        "sslmode=banana",
        "ssl=0",
        "ssl=false",
        "uselibpqcompat=true&sslmode=require",
        "uselibpqcompat=true&sslmode=verify-ca&sslrootcert=/app/ca.pem",
    ] {
        refused(string(query), &["backend.database.connection: ", "stagedoor.tls.mode"]);
    }
    refused(string("sslrootcert=system"), &["`sslrootcert` names a file that cannot be read"]);
}

#[test]
fn missing_settings_come_from_the_variables_that_node_postgres_reads() {
    let variables = [
        ("PGHOST", "pg.example"),
        ("PGPORT", "6000"),
        ("PGUSER", "pu"),
        ("PGPASSWORD", "pp"),
        ("PGSSLMODE", "disable"),
        ("NODE_TLS_REJECT_UNAUTHORIZED", "0"),
        ("NODE_EXTRA_CA_CERTS", "/etc/extra.pem"),
    ];
    let config = resolved(&file("client: pg\nconnection: { host: '' }", ""), &variables).unwrap();
    assert_eq!(routes(&config), ["pu/* → pg.example:6000 backstage_plugin_*"]);
    let Roots::Public { extra } = &config.upstreams[0].tls.roots else { panic!("public roots") };
    assert_eq!(extra[0].origin, "/etc/extra.pem");
    assert_eq!(config.warnings.len(), 2, "PGSSLMODE and NODE_TLS_REJECT_UNAUTHORIZED are ignored aloud");
}

#[test]
fn without_a_password_somebody_must_be_trusted() {
    let text =
        |own: &str| resolved(&file("client: pg\nconnection: { host: h, user: u, password: ' ' }", own), &[]);
    refused(text(""), &["no client could prove", "could not prove itself"]);
    refused(text("stagedoor: { listen: { auth: trust } }"), &["has 1 fault", "could not prove itself"]);
    let own = "stagedoor: { listen: { auth: trust }, auth: { allow: [trust] } }";
    assert_eq!(text(own).unwrap().routes[0].password, None);
}

#[test]
fn our_own_address_is_no_upstream() {
    for host in ["127.0.0.1", "localhost", "'::1'", "LOCALHOST.", "127.8.8.8", "0.0.0.0"] {
        let text = file(&format!("client: pg\nconnection: {{ host: {host}, user: u, password: p }}"), "");
        refused(resolved(&text, &[]), &["stagedoor's own address", "environment of the Backstage container"]);
    }
    let elsewhere = "stagedoor: { listen: { port: 6432 } }";
    let text = file("client: pg\nconnection: { host: localhost, user: u, password: p }", elsewhere);
    assert!(resolved(&text, &[]).is_ok());
}

#[test]
fn listening_to_the_network_must_be_allowed() {
    refused(with("", "stagedoor: { listen: { host: 0.0.0.0 } }"), &["not a loopback address", "allowRemote"]);
    assert!(with("", "stagedoor: { listen: { host: 0.0.0.0, allowRemote: true } }").is_ok());
    refused(with("", "stagedoor: { listen: { port: 9432 } }"), &["port 9432 is also that of"]);
}

#[test]
fn a_unix_socket_upstream_must_be_said_to_be_plaintext() {
    let text = |own: &str| {
        resolved(&file("client: pg\nconnection: { host: /run/pg, user: u, password: p }", own), &[])
    };
    refused(text(""), &["a Unix socket"]);
    let config = text("stagedoor: { tls: { mode: insecure-plaintext } }").unwrap();
    assert_eq!(config.upstreams[0].address, Address::Unix { path: "/run/pg/.s.PGSQL.5432".into() });
    assert!(config.warnings[0].contains("INSECURE"));
}

/// Plugins of their own over `client: pg` at the host `db`.
fn with_plugins(plugins: &str, rest: &str, own: &str) -> Result<Config, Faults> {
    let database = format!(
        "client: pg\nconnection: {{ host: db, user: u, password: p, database: base }}\n{rest}\nplugin:\n{plugins}"
    );
    resolved(&file(&database, own), &[])
}

#[test]
fn a_plugin_with_a_host_of_its_own_is_known_by_its_database() {
    let config = with_plugins("  catalog: { connection: { host: h2 } }", "", "").unwrap();
    let expected = ["u/backstage_plugin_catalog → h2:5432 catalog", "u/* → db:5432 backstage_plugin_*"];
    assert_eq!(routes(&config), expected);

    let config = with_plugins("  catalog: { connection: { database: catdb } }", "", "").unwrap();
    assert_eq!(routes(&config), ["u/catdb → db:5432 catalog", "u/* → db:5432 backstage_plugin_*"]);

    let config = with_plugins("  catalog: { connection: { port: 5432 } }", "", "").unwrap();
    assert_eq!(config.upstreams.len(), 1, "nothing differs: `5432` is the default");
    assert_eq!(routes(&config), ["u/* → db:5432 backstage_plugin_*"]);
}

#[test]
fn a_plugin_with_a_user_of_its_own_is_known_by_it() {
    let config = with_plugins("  catalog: { connection: { user: cat, password: q } }", "", "").unwrap();
    assert_eq!(
        routes(&config),
        [
            "cat/backstage_plugin_catalog → db:5432 catalog",
            "cat/* → db:5432 catalog",
            "u/* → db:5432 backstage_plugin_*",
        ]
    );
    assert_eq!(config.routes[0].password.as_ref().unwrap().expose(), "q");
}

#[test]
fn settings_of_a_plugin_lie_over_the_base_deeply() {
    let database =
        "client: pg\nconnection: { host: db, user: u, password: p, ssl: { ca: { $file: ca.pem } } }
plugin: { a: { connection: { ssl: { servername: s } } }, b: { connection: 'postgres://v:q@h3:1/bdb' } }";
    let config = resolved(&file(database, ""), &[]).unwrap();
    assert_eq!(
        routes(&config),
        [
            "u/backstage_plugin_a → db:5432 (a) a",
            "v/bdb → h3:1 b",
            "v/* → h3:1 b",
            "u/* → db:5432 backstage_plugin_*"
        ]
    );
    assert_eq!(config.upstreams.len(), 3);
    for upstream in &config.upstreams {
        assert!(matches!(upstream.tls.roots, Roots::Only(_)), "the base's authority holds for all");
    }
    assert_eq!(config.upstreams[1].tls.server_name.as_deref(), Some("s"));
}

#[test]
fn schema_mode_labels_by_application_name_and_refuses_two_hosts_behind_one_database() {
    let schema = "pluginDivisionMode: schema";
    let config = with_plugins("  catalog: { ensureExists: false }", schema, "").unwrap();
    assert_eq!(routes(&config), ["u/* → db:5432 application_name"]);

    let plugins = "  catalog: { connection: { host: h2 } }";
    refused(
        with_plugins(plugins, schema, ""),
        &[
            "plugin.catalog.connection.host: plugin `catalog` and the base connection both log in as `u` to the database `base`",
            "`stagedoor.listen.plugins.catalog.port`",
        ],
    );
    let own = "stagedoor: { listen: { plugins: { catalog: { port: 5433 } } } }";
    let config = with_plugins(plugins, schema, own).unwrap();
    assert_eq!(routes(&config), [":5433 u/* → h2:5432 catalog", "u/* → db:5432 application_name"]);
}

#[test]
fn two_plugins_that_could_not_be_told_apart_are_named() {
    let plugins =
        "  a: { connection: { host: h2, database: x } }\n  b: { connection: { host: h3, database: x } }";
    refused(with_plugins(plugins, "", ""), &["plugin `b` and plugin `a`", "(h3:5432 and h2:5432)"]);
    let plugins = "  a: { connection: { host: h2, database: postgres } }";
    refused(with_plugins(plugins, "", ""), &["plugin `a` and the base connection", "`postgres`"]);
    assert!(with_plugins(plugins, "ensureExists: false", "").is_ok());
}

#[test]
fn a_plugin_may_be_alone_in_using_postgresql() {
    let database = "client: better-sqlite3\nconnection: ':memory:'
plugin: { a: { client: pg, connection: { host: h, user: u, password: p } }, b: { connection: x } }";
    let config = resolved(&file(database, ""), &[]).unwrap();
    assert_eq!(routes(&config), ["u/backstage_plugin_a → h:5432 a", "u/* → h:5432 a"]);
}

#[test]
fn pools_of_plugins_start_from_the_common_one() {
    let own = "stagedoor: { pool: { maxServers: 30, idleTimeout: 1m, plugins: { catalog: { mode: session, minIdle: '2' } } } }";
    let config = with("", own).unwrap();
    let (id, policy) = &config.routes[0].plugins[0];
    assert_eq!((id.as_str(), policy.servers_max, policy.idle_min), ("catalog", 30, 2));
    assert_eq!(policy.idle_timeout, config.routes[0].pool.idle_timeout);
    assert_eq!(config.upstreams[0].servers_max, 30);
    refused(with("", "stagedoor: { pool: { maxServers: 1 } }"), &["from 2 to 10000"]);
    refused(with("", "stagedoor: { pool: { minIdle: 21 } }"), &["21 servers cannot be kept"]);
}

#[test]
fn what_all_connections_lack_is_said_once() {
    let database =
        "client: pg\nconnection: { host: db, password: p }\nplugin: { a: { connection: { host: h2 } } }";
    refused(
        resolved(&file(database, ""), &[]),
        &["has 1 fault:", "backend.database.connection.user: the base connection has no user"],
    );
    let alone =
        "client: sqlite3\nconnection: x\nplugin: { a: { client: pg, connection: { host: h2, user: u } } }";
    refused(
        resolved(&file(alone, ""), &[]),
        &["backend.database.plugin.a.connection.password: plugin `a` has no password"],
    );
}

#[test]
fn two_policies_towards_one_address_have_two_names() {
    let database = "client: pg\nconnection: { host: db, user: u, password: p }
plugin: { a: { connection: { ssl: { servername: s } } }, b: { connection: { ssl: { servername: s } } } }";
    let config = resolved(&file(database, ""), &[]).unwrap();
    let names: Vec<_> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    assert_eq!(names, ["db:5432", "db:5432 (a)"]);
}

#[test]
fn verify_ca_needs_an_authority_and_require_needs_tls() {
    let own = "stagedoor: { tls: { mode: verify-ca } }";
    refused(with("", own), &["any public authority could answer"]);
    let config = with(", ssl: { ca: { $file: ca.pem } }", own).unwrap();
    assert_eq!(config.upstreams[0].tls.mode, TlsMode::VerifyCa);
    let own = "stagedoor: { tls: { mode: insecure-plaintext, channelBinding: require } }";
    refused(with("", own), &["stagedoor.tls.channelBinding: `require` cannot be kept"]);
}

#[test]
fn a_password_may_change_where_a_file_says_it() {
    let variables =
        [("PW", "p"), ("URL", "postgres://u:p@db/d"), ("APP_CONFIG_backend_database_connection_host", "db")];
    for (connection, rotates) in [
        ("{ user: u, password: p }", true),
        ("{ user: u, password: { $file: ca.pem } }", true),
        ("{ user: u, password: '${PW}' }", false),
        ("{ user: u, password: { $env: PW } }", false),
        ("'postgres://u:p@db/d'", true),
        ("'${URL}'", false),
    ] {
        let is_text = connection.starts_with('\'');
        let variables = if is_text { &variables[..2] } else { &variables[..] };
        let text = file(&format!("client: pg\nconnection: {connection}"), "");
        assert_eq!(resolved(&text, variables).unwrap().routes[0].rotates, rotates, "{connection}");
    }
    let text = file("client: pg\nconnection: { host: db, user: u }", "");
    assert!(!resolved(&text, &[("PGPASSWORD", "p")]).unwrap().routes[0].rotates);
    let said = [("APP_CONFIG_backend_database_connection_password", "q")];
    let text = file("client: pg\nconnection: { host: db, user: u, password: p }", "");
    assert!(!resolved(&text, &said).unwrap().routes[0].rotates, "the environment is stronger");
}
