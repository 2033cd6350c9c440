//! PostgreSQL refuses the password that the configuration gives: who waits for another one, and who does not.

use std::fs;
use std::time::Duration;

use crate::support::crowd::Crowd;
use crate::support::mount::Manner;
use crate::support::mount::Mount;
use crate::support::postgres::PASSWORD;
use crate::support::postgres::Postgres;
use crate::support::postgres::USER;
use crate::support::postgres::shared;
use crate::support::postgres::unique;
use crate::support::raw::Raw;
use crate::support::raw::field;
use crate::support::raw::query;
use crate::support::raw::values;
use crate::support::stagedoor::Stagedoor;
use crate::support::stagedoor::app_config;
use crate::support::stagedoor::own;
use crate::support::wait::until;

const LIMIT: Duration = Duration::from_secs(30);

/// A role of its own that logs in by `password`, an expression of YAML.
fn config(postgres: &Postgres, role: &str, password: &str, pool: &str) -> String {
    app_config(postgres, &own(&format!("  reload: {{ interval: 100ms }}\n  pool: {{ {pool} }}\n")))
        .replace(&format!("user: {USER}"), &format!("user: {role}"))
        .replace(&format!("password: {PASSWORD}"), &format!("password: {password}"))
}

fn role(postgres: &Postgres) -> String {
    let role = unique("waiting");
    postgres.sql("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'"));
    role
}

fn alter(postgres: &Postgres, role: &str, password: &str) {
    postgres.sql("postgres", &format!("ALTER ROLE {role} PASSWORD '{password}'"));
}

/// Logs in with the password of the start.
fn log_in(sidecar: &Stagedoor, role: &str, database: &str) -> Raw {
    Raw::login_as(sidecar.port, database, (role, PASSWORD), &[])
        .unwrap_or_else(|error| panic!("{}", field(&error, b'M')))
}

#[test]
fn a_password_from_a_file_is_waited_for_and_open_servers_are_shared_meanwhile() {
    let postgres = shared();
    let (role, database) = (role(&postgres), postgres.database("waiting"));
    let text = config(&postgres, &role, "{ $file: password }", "maxServers: 4, acquireTimeout: 1h");
    let mount = Mount::new(Manner::Swap, &[("app-config.yaml", &text), ("password", PASSWORD)]);
    let sidecar = Stagedoor::with_files(&[mount.path("app-config.yaml")], &[]);
    let [mut first, mut second, mut third] = [(); 3].map(|()| log_in(&sidecar, &role, &database));
    first.ask("BEGIN");
    alter(&postgres, &role, &format!("{PASSWORD}-2"));
    // There is one server, and the first one has it.
    second.send(&query("SELECT 2"));
    let refused = || sidecar.metric("stagedoor_connect_failures_total", &["stage=\"auth\""]);
    until("a login is refused", LIMIT, || (refused() > 0.5).then_some(()));
    first.ask("COMMIT");
    assert_eq!(values(&second.until_ready()), "2", "it is served by the server that is open");
    first.ask("BEGIN");
    second.send(&query("BEGIN"));
    third.send(&query("SELECT 3"));
    mount.write(&[("password", &format!("{PASSWORD}-2"))]);
    assert_eq!(values(&second.until_ready()), "", "the new password has come");
    assert_eq!(values(&third.until_ready()), "3");
    assert!(refused() < 4.5, "the old one was tried by one login at a time");
    drop((first, second, third));
    sidecar.terminate();
}

#[test]
fn who_has_waited_long_enough_is_told_what_postgresql_said() {
    let postgres = shared();
    let (role, database) = (role(&postgres), postgres.database("patience"));
    let text = config(&postgres, &role, "{ $file: password }", "maxServers: 4, acquireTimeout: 2s");
    let mount = Mount::new(Manner::Rename, &[("app-config.yaml", &text), ("password", PASSWORD)]);
    let sidecar = Stagedoor::with_files(&[mount.path("app-config.yaml")], &[]);
    let [mut first, mut second] = [(); 2].map(|()| log_in(&sidecar, &role, &database));
    first.ask("BEGIN");
    alter(&postgres, &role, &format!("{PASSWORD}-2"));
    let refused = second.ask("SELECT 2");
    let (_, error) = refused.iter().find(|(tag, _)| *tag == b'E').unwrap();
    assert_eq!(field(error, b'C'), "28P01");
    assert_eq!(field(error, b'M'), format!("password authentication failed for user \"{role}\""));
    // It was PostgreSQL that was wrong: the password is tried again although no file has changed.
    alter(&postgres, &role, PASSWORD);
    let mut third = until("it is accepted again", LIMIT, || {
        Raw::login_as(sidecar.port, &database, (&role, PASSWORD), &[]).ok()
    });
    until("a server is opened again", LIMIT, || (third.value("SELECT 3") == "3").then_some(()));
    drop((first, second, third));
    sidecar.terminate();
}

#[test]
fn a_password_from_the_environment_is_not_waited_for() {
    let postgres = shared();
    let (role, database) = (role(&postgres), postgres.database("environment"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("app-config.yaml");
    fs::write(&file, config(&postgres, &role, "${DATABASE_PASSWORD}", "acquireTimeout: 1h")).unwrap();
    let sidecar = Stagedoor::with_files(&[file], &[("DATABASE_PASSWORD", PASSWORD)]);
    let [mut first, mut second] = [(); 2].map(|()| log_in(&sidecar, &role, &database));
    first.ask("BEGIN");
    alter(&postgres, &role, &format!("{PASSWORD}-2"));
    assert_eq!(second.value("SELECT 2"), "ERROR 28P01");
    assert_eq!(first.value("SELECT 1"), "1");
    drop((first, second));
    sidecar.terminate();
}

#[test]
fn a_start_with_a_wrong_password_is_mended_by_the_file() {
    let postgres = shared();
    let role = role(&postgres);
    let text = config(&postgres, &role, "{ $file: password }", "maxServers: 4");
    let mount = Mount::new(Manner::Rename, &[("app-config.yaml", &text), ("password", "wrong")]);
    let mut sidecar = Stagedoor::spawned(&[mount.path("app-config.yaml")], &[]);
    let failed = || sidecar.metric("stagedoor_connect_failures_total", &["stage=\"auth\""]);
    until("the login is refused", LIMIT, || (failed() > 0.5).then_some(()));
    assert!(sidecar.get("/readyz").starts_with("HTTP/1.1 503"));
    mount.write(&[("password", PASSWORD)]);
    sidecar.until_ready();
    assert_eq!(log_in(&sidecar, &role, "postgres").value("SELECT 1"), "1");
    sidecar.terminate();
}

#[test]
fn files_that_say_the_same_disturb_nobody() {
    let postgres = shared();
    let database = postgres.database("undisturbed");
    let text = config(&postgres, USER, "{ $file: password }", "maxServers: 5");
    let mount = Mount::new(Manner::Swap, &[("app-config.yaml", &text), ("password", PASSWORD)]);
    let sidecar = Stagedoor::with_files(&[mount.path("app-config.yaml")], &[]);
    let crowd = Crowd::enter(50, sidecar.port, std::slice::from_ref(&database), (USER, PASSWORD));
    let opened = || sidecar.metric("stagedoor_server_connections_opened_total", &[]);
    until("all servers are open", LIMIT, || (opened() > 4.5).then_some(()));
    let committed = || crowd.transactions();
    let reloads = || sidecar.log().matches("the configuration was read again").count();
    let goes_on = |what: &str| {
        let before = committed();
        until(what, LIMIT, || (committed() > before + 200).then_some(()));
        assert_eq!(crowd.complaints(), [""; 0], "{what}");
    };
    mount.write(&[]);
    goes_on("a swap for the same");
    fs::write(mount.path("password"), PASSWORD).unwrap();
    goes_on("the same written again");
    fs::File::open(mount.path("password")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    goes_on("a touch");
    assert_eq!(reloads(), 0, "{}", sidecar.log());
    mount.write(&[("app-config.yaml", &format!("# A remark.\n{text}"))]);
    until("a remark is read", LIMIT, || (reloads() == 1).then_some(()));
    goes_on("a remark");
    assert!(sidecar.log().contains("0 of 1 upstreams changed"), "{}", sidecar.log());
    assert_eq!(sidecar.metric("stagedoor_server_connections_closed_total", &[]), 0.0);
    assert!((opened() - 5.0).abs() < 0.1);
    assert_eq!(crowd.leave(), [""; 0]);
    sidecar.terminate();
}
