//! A configuration that changes while clients are served: taken over whole, or not at all.

use std::fs;
use std::time::Duration;

use crate::support::postgres::PASSWORD;
use crate::support::postgres::Postgres;
use crate::support::postgres::shared;
use crate::support::postgres::unique;
use crate::support::raw::Raw;
use crate::support::stagedoor::Stagedoor;
use crate::support::stagedoor::app_config;
use crate::support::stagedoor::own;
use crate::support::wait::until;

const LIMIT: Duration = Duration::from_secs(10);

/// A sidecar whose file can be changed, with a role of its own.
struct Changing {
    sidecar: Stagedoor,
    directory: tempfile::TempDir,
    role: String,
    database: String,
}

impl Changing {
    fn new(postgres: &Postgres) -> Self {
        let role = unique("rotating");
        postgres.sql("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}-1'"));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("app-config.yaml");
        fs::write(&file, config(postgres, &role, "-1", "")).unwrap();
        let sidecar = Stagedoor::with_files(&[file], &[]);
        Self { sidecar, directory, role, database: postgres.database("reload") }
    }

    fn write(&self, text: &str) {
        fs::write(self.directory.path().join("app-config.yaml"), text).unwrap();
        self.sidecar.signal("HUP");
    }

    fn log_in(&self, suffix: &str) -> Result<Raw, Vec<u8>> {
        let password = format!("{PASSWORD}{suffix}");
        Raw::login_as(self.sidecar.port, &self.database, (&self.role, &password), &[])
    }
}

fn config(postgres: &Postgres, role: &str, suffix: &str, more: &str) -> String {
    app_config(postgres, &own(more))
        .replace("user: backstage", &format!("user: {role}"))
        .replace(&format!("password: {PASSWORD}"), &format!("password: {PASSWORD}{suffix}"))
}

#[test]
fn a_changed_password_is_taken_over_without_a_client_noticing() {
    let postgres = shared();
    let changing = Changing::new(&postgres);
    let mut before = changing.log_in("-1").unwrap();
    assert_eq!(before.value("SELECT 1"), "1");
    postgres.sql("postgres", &format!("ALTER ROLE {} PASSWORD '{PASSWORD}-2'", changing.role));
    changing.write(&config(&postgres, &changing.role, "-2", ""));
    until("the new password counts", LIMIT, || changing.log_in("-2").ok());
    // Backstage has read its configuration once, and proves the password of that time until it is restarted.
    assert_eq!(changing.log_in("-1").unwrap().value("SELECT 2"), "2");
    assert!(changing.log_in("-3").is_err(), "what never was a password is refused");
    assert_eq!(before.value("SELECT 2"), "2");
    // Servers that were opened with the old password are gone: a new one can be opened all the same.
    let terminate =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'", changing.role);
    postgres.sql("postgres", &terminate);
    until("a server is opened with the new password", LIMIT, || {
        (changing.log_in("-2").ok()?.value("SELECT 3") == "3").then_some(())
    });
    assert!((changing.sidecar.metric("stagedoor_config_reload_success", &[]) - 1.0).abs() < 0.1);
    drop(before);
    changing.sidecar.terminate();
}

#[test]
fn what_is_wrong_changes_nothing_and_says_so() {
    let postgres = shared();
    let changing = Changing::new(&postgres);
    let role = changing.role.clone();
    let rows = [
        (config(&postgres, &role, "-1", "  pool: { maxServers: none }\n"), "stagedoor.pool.maxServers"),
        (config(&postgres, &role, "-1", "  pool: { maxServers: 7 }\n"), "need a restart"),
        (config(&postgres, &role, "-wrong", ""), "password authentication failed"),
    ];
    for (text, why) in rows {
        changing.write(&text);
        until(why, LIMIT, || {
            let log = changing.sidecar.log();
            log.lines().any(|line| line.contains("old one stays") && line.contains(why)).then_some(())
        });
        assert!(changing.sidecar.metric("stagedoor_config_reload_success", &[]) < 0.5, "{why}");
        assert_eq!(changing.log_in("-1").unwrap().value("SELECT 1"), "1", "{why}");
    }
    changing.sidecar.terminate();
}
