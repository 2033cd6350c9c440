//! The commands as a person or a probe uses them: exit codes and words.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Output;

use crate::support::certs::Authority;
use crate::support::postgres::Cluster;
use crate::support::postgres::PASSWORD;
use crate::support::postgres::free_port;
use crate::support::stagedoor::APP_CONFIG;
use crate::support::stagedoor::Stagedoor;
use crate::support::stagedoor::command;
use crate::support::stagedoor::directory;

/// Runs `stagedoor <arguments> --config <text>` to its end.
fn stagedoor(cluster: &Cluster, arguments: &[&str], text: &str, environment: &[(&str, &str)]) -> Output {
    let directory = directory();
    let file: PathBuf = directory.path().join("app-config.yaml");
    std::fs::write(&file, text).expect("a file");
    let environment: BTreeMap<String, String> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    command(cluster, arguments, &[file], &environment).output().expect("the program")
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = String::from_utf8(text).expect("UTF-8");
    assert!(!text.contains(PASSWORD), "a secret: {text}");
    text
}

#[test]
fn check_finds_nothing_wrong_with_what_is_right() {
    let output = stagedoor(Cluster::shared(), &["check"], APP_CONFIG, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let output = stagedoor(Cluster::shared(), &["check", "--output", "json"], APP_CONFIG, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let parsed: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("JSON and nothing else on stdout");
    assert!(!parsed.is_null());
}

#[test]
fn check_names_what_is_wrong() {
    let cluster = Cluster::shared();
    let nobody = free_port().to_string();
    let others = directory();
    let other_ca = others.path().join("ca.pem");
    std::fs::write(&other_ca, Authority::new("somebody else").pem).expect("a file");
    let other_ca = other_ca.display().to_string();
    for (name, value, words) in [
        ("POSTGRES_PASSWORD", "wrong", "password authentication failed"),
        ("POSTGRES_PORT", nobody.as_str(), "refused"),
        ("POSTGRES_CA_FILE", other_ca.as_str(), "certificate"),
        ("POSTGRES_HOST", "no-such-host.invalid", "no-such-host.invalid"),
    ] {
        let output = stagedoor(cluster, &["check"], APP_CONFIG, &[(name, value)]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", said(&output));
        assert!(said(&output).contains(words), "{name}: {}", said(&output));
    }
}

#[test]
fn config_shows_every_value_with_its_origin_and_no_secret() {
    let output = stagedoor(Cluster::shared(), &["config"], APP_CONFIG, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    for part in ["localhost", "app-config.yaml", "backend.database.connection.host"] {
        assert!(said(&output).contains(part), "{part}: {}", said(&output));
    }
}

#[test]
fn a_bad_configuration_is_told_whole_with_exit_code_78_and_no_port_is_bound() {
    let port = free_port();
    let text = format!(
        "backend:\n  database:\n    client: better-sqlite3\n    connection: ':memory:'\n\
         stagedoor:\n  listen: {{ port: {port} }}\n  pool: {{ maxServer: 3, acquireTimeout: soon }}\n"
    );
    for arguments in [&["run"][..], &["check"], &["config"]] {
        let output = stagedoor(Cluster::shared(), arguments, &text, &[]);
        assert_eq!(output.status.code(), Some(78), "{arguments:?}: {}", said(&output));
        for part in ["better-sqlite3", "maxServer", "maxServers", "acquireTimeout", "app-config.yaml"] {
            assert!(said(&output).contains(part), "{part}: {}", said(&output));
        }
    }
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn unverified_tls_is_refused_by_name() {
    let text = APP_CONFIG
        .replace("ssl: { ca: { $file: '${POSTGRES_CA_FILE}' } }", "ssl: { rejectUnauthorized: false }");
    let output = stagedoor(Cluster::shared(), &["run"], &text, &[]);
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    assert!(said(&output).contains("rejectUnauthorized"), "{}", said(&output));
}

#[test]
fn our_own_address_as_upstream_is_refused() {
    let port = free_port().to_string();
    let text = format!(
        "{APP_CONFIG}stagedoor:\n  listen: {{ port: {port} }}\n  admin: {{ host: 127.0.0.1, port: 0 }}\n"
    );
    let output = stagedoor(Cluster::shared(), &["run"], &text, &[("POSTGRES_PORT", &port)]);
    assert!([Some(1), Some(78)].contains(&output.status.code()), "{}", said(&output));
    assert!(said(&output).contains(&port), "{}", said(&output));
}

#[test]
fn health_asks_the_running_sidecar() {
    let cluster = Cluster::shared();
    let sidecar = Stagedoor::start(cluster, "");
    let ask = |port: u16| {
        let text = format!("{APP_CONFIG}stagedoor:\n  admin: {{ host: 127.0.0.1, port: {port} }}\n");
        stagedoor(cluster, &["health"], &text, &[])
    };
    let healthy = ask(sidecar.admin_port);
    assert_eq!(healthy.status.code(), Some(0), "{}", said(&healthy));
    let nobody = ask(free_port());
    assert_eq!(nobody.status.code(), Some(1), "{}", said(&nobody));
    sidecar.finish();
}

#[test]
fn a_usage_error_has_exit_code_64() {
    for arguments in [&["nonsense"][..], &["run", "--nonsense"]] {
        let output = stagedoor(Cluster::shared(), arguments, APP_CONFIG, &[]);
        assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    }
}
