//! Real drivers and tools: each script passes straight against PostgreSQL, and through stagedoor in both modes.
//! What a script asserts is the same for all three: there is no word of stagedoor in it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use crate::support::compiled::go;
use crate::support::compiled::java;
use crate::support::node::Project;
use crate::support::node::clean;
use crate::support::postgres::Cluster;
use crate::support::postgres::PASSWORD;
use crate::support::postgres::ROLE;
use crate::support::postgres::USER;
use crate::support::process::run;
use crate::support::python::interpreter;
use crate::support::stagedoor::Stagedoor;

const LIMIT: Duration = Duration::from_mins(3);

/// A way to the server. In transaction mode, twelve clients have to share four servers.
#[derive(Clone, Copy)]
pub struct Way {
    pub name: &'static str,
    pub settings: Option<&'static str>,
}

const DIRECT: Way = Way { name: "without stagedoor", settings: None };
pub const TRANSACTION: Way =
    Way { name: "transaction mode", settings: Some("pool: { mode: transaction, maxServers: 4 }") };
pub const SESSION: Way =
    Way { name: "session mode", settings: Some("pool: { mode: session, maxServers: 30 }") };

/// A driver's script, three times.
macro_rules! three_ways {
    ($driver:ident, $command:expr) => {
        mod $driver {
            use super::*;

            #[test]
            fn without_stagedoor() {
                try_out(stringify!($driver), DIRECT, $command);
            }

            #[test]
            fn in_transaction_mode() {
                try_out(stringify!($driver), TRANSACTION, $command);
            }

            #[test]
            fn in_session_mode() {
                try_out(stringify!($driver), SESSION, $command);
            }
        }
    };
}

three_ways!(node_postgres, || node("node-postgres.mjs"));
three_ways!(knex, || node("knex.mjs"));
three_ways!(psycopg, || python("with_psycopg.py"));
three_ways!(asyncpg, || python("with_asyncpg.py"));
three_ways!(jdbc, || java(&scripts().join("Jdbc.java")));
three_ways!(lib_pq_and_pgx, || go(&scripts().join("drivers.go")));
three_ways!(psql_and_pgbench, tools);

/// Runs `command` in a database of its own, and tells how long it took. A driver that is not to be had on this machine
/// is passed over in so many words; CI (`CI=true`) has them all.
fn try_out(driver: &str, way: Way, command: impl Fn() -> Result<Command, String>) {
    let mut command = match command() {
        Ok(command) => command,
        Err(missing) => {
            assert!(std::env::var_os("CI").is_none(), "{driver}: {missing}: make deps-test");
            return say(&format!("{driver}, {}: SKIPPED, because {missing}", way.name));
        }
    };
    clean(&mut command);
    let cluster = Cluster::shared();
    let database = cluster.database(driver);
    let stagedoor = way.settings.map(|settings| Stagedoor::start(cluster, settings));
    command.envs(libpq(stagedoor.as_ref().map_or(cluster.port, |it| it.port), &database));
    command.env("DRIVERS_ROLE", ROLE);
    if stagedoor.is_none() {
        let ca = cluster.ca_file();
        command.env("DRIVERS_CA_FILE", &ca).env("PGSSLROOTCERT", &ca).env("PGSSLMODE", "verify-full");
    }
    let begun = Instant::now();
    run(driver, &mut command, LIMIT);
    say(&format!("{driver}, {}: {:.1} s", way.name, begun.elapsed().as_secs_f64()));
    if let Some(stagedoor) = stagedoor {
        stagedoor.finish();
    }
}

/// Says it to whoever runs the tests, whether they pass or not: what `eprintln!` says is captured.
pub fn say(words: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{words}");
}

/// What libpq understands, and with it most drivers.
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

/// Where the scripts are.
fn scripts() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/drivers"))
}

fn node(script: &str) -> Result<Command, String> {
    Ok(Project::ready("drivers").node(&[script], &BTreeMap::new()))
}

fn python(script: &str) -> Result<Command, String> {
    let mut command = Command::new(interpreter(&scripts().join("requirements.txt")));
    command.arg("-B").arg(scripts().join(script));
    Ok(command)
}

fn tools() -> Result<Command, String> {
    let mut command = Command::new("sh");
    command.arg(scripts().join("tools.sh"));
    Ok(command)
}
