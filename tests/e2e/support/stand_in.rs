//! PgBouncer in stagedoor's place, when `STAND_IN=pgbouncer` or `STAND_IN=pgbouncer-transaction`: to see that a
//! test can be passed at all, and that it fails where a pooler forgets what a session is.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::support::deadline::PATIENCE;
use crate::support::deadline::until;
use crate::support::postgres::Cluster;
use crate::support::postgres::PASSWORD;
use crate::support::postgres::USER;
use crate::support::postgres::free_port;
use crate::support::process::Process;

pub fn wanted() -> bool {
    mode().is_some()
}

fn mode() -> Option<&'static str> {
    match std::env::var("STAND_IN").as_deref() {
        Ok("pgbouncer") => Some("session"),
        Ok("pgbouncer-transaction") => Some("transaction"),
        _ => None,
    }
}

/// A PgBouncer before `cluster`; of `settings` only `maxServers` is understood.
pub fn pgbouncer(cluster: &Cluster, directory: &Path, settings: &str) -> (Process, u16) {
    let port = free_port();
    let servers =
        settings.split("maxServers: ").nth(1).and_then(|rest| rest.split([' ', ',']).next()).unwrap_or("60");
    let users = directory.join("users.txt");
    std::fs::write(&users, format!("\"{USER}\" \"{PASSWORD}\"\n")).expect("users.txt");
    let text = format!(
        "[databases]\n* = host=localhost port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = {}\ndefault_pool_size = {servers}\n\
         max_db_connections = {servers}\nmax_client_conn = 500\nserver_tls_sslmode = verify-full\n\
         server_tls_ca_file = {}\nignore_startup_parameters = extra_float_digits,options,statement_timeout,\
         lock_timeout\nserver_idle_timeout = 5\n",
        cluster.port,
        users.display(),
        mode().unwrap_or("session"),
        cluster.ca_file().display(),
    );
    let file = directory.join("pgbouncer.ini");
    std::fs::write(&file, text).expect("pgbouncer.ini");
    run_by_postgres(directory);
    let mut command = Command::new("/usr/sbin/pgbouncer");
    let process = Process::start("pgbouncer", command.args(["-u", "postgres"]).arg(&file));
    until("PgBouncer listens", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).ok());
    (process, port)
}

fn run_by_postgres(directory: &Path) {
    let done = Command::new("chmod").args(["-R", "a+rX"]).arg(directory).status();
    assert!(done.is_ok_and(|status| status.success()), "chmod");
}
