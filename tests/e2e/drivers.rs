//! Real drivers and tools: each script passes straight against PostgreSQL, and through stagedoor in both modes.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use crate::support::deadline::Stopwatch;
use crate::support::node::Project;
use crate::support::node::clean;
use crate::support::postgres::Cluster;
use crate::support::postgres::PASSWORD;
use crate::support::postgres::USER;
use crate::support::process::run;
use crate::support::stagedoor::Stagedoor;
use crate::support::stagedoor::directory;

const LIMIT: Duration = Duration::from_mins(3);

/// The ways to the server. With six servers in transaction mode, ten clients of a pool have to share.
const TRANSACTION: &str = "pool: { mode: transaction, maxServers: 6 }";
/// pgbench's eight clients with named statements hold a server each.
const TRANSACTION_PINNED: &str = "pool: { mode: transaction, maxServers: 10 }";
const SESSION: &str = "pool: { mode: session, maxServers: 30 }";

/// What libpq and node-postgres read.
fn libpq(port: u16, database: &str) -> BTreeMap<String, String> {
    [
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", &port.to_string()),
        ("PGUSER", USER),
        ("PGPASSWORD", PASSWORD),
        ("PGDATABASE", database),
        ("PGCONNECT_TIMEOUT", "20"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Runs `command` in a database of its own: without stagedoor if `settings` is `None`.
fn try_out(label: &str, settings: Option<&str>, command: impl Fn(&BTreeMap<String, String>) -> Command) {
    let _watch = Stopwatch::start(format!("{label}: {}", settings.unwrap_or("without stagedoor")));
    let cluster = Cluster::shared();
    let database = cluster.database(label);
    let stagedoor = settings.map(|settings| Stagedoor::start(cluster, settings));
    let mut environment = libpq(stagedoor.as_ref().map_or(cluster.port, |it| it.port), &database);
    if stagedoor.is_none() {
        let ca = cluster.ca_file().display().to_string();
        environment.insert("DRIVERS_CA_FILE".into(), ca.clone());
        environment.insert("PGSSLMODE".into(), "verify-full".into());
        environment.insert("PGSSLROOTCERT".into(), ca);
    }
    run(label, &mut command(&environment), LIMIT);
    if let Some(stagedoor) = stagedoor {
        stagedoor.finish();
    }
}

fn script(label: &'static str, file: &'static str, settings: Option<&str>) {
    let project = Project::ready("drivers");
    // `node` takes PostgreSQL's variables out of the environment, and then adds these.
    try_out(label, settings, |environment| project.node(&[file], environment));
}

fn tools(settings: Option<&str>) {
    let scratch = directory();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers/tools.sh");
    try_out("tools", settings, |environment| {
        let mut command = Command::new("sh");
        clean(&mut command);
        command.arg(&file).arg(scratch.path()).envs(environment);
        command
    });
}

#[test]
fn node_postgres_without_stagedoor() {
    script("node_postgres", "node-postgres.mjs", None);
}

#[test]
fn node_postgres_in_transaction_mode() {
    script("node_postgres", "node-postgres.mjs", Some(TRANSACTION));
}

#[test]
fn node_postgres_in_session_mode() {
    script("node_postgres", "node-postgres.mjs", Some(SESSION));
}

#[test]
fn knex_without_stagedoor() {
    script("knex", "knex.mjs", None);
}

#[test]
fn knex_in_transaction_mode() {
    script("knex", "knex.mjs", Some(TRANSACTION));
}

#[test]
fn knex_in_session_mode() {
    script("knex", "knex.mjs", Some(SESSION));
}

#[test]
fn psql_and_pgbench_without_stagedoor() {
    tools(None);
}

#[test]
fn psql_and_pgbench_in_transaction_mode() {
    tools(Some(TRANSACTION_PINNED));
}

#[test]
fn psql_and_pgbench_in_session_mode() {
    tools(Some(SESSION));
}
