//! The binary from outside: exit codes, and what is said where.
#![allow(clippy::expect_used, clippy::panic, reason = "a test may panic: that is how it speaks")]

use std::process::Command;
use std::process::Output;

const COMMANDS: [&str; 5] = ["run", "check", "config", "health", "demo"];

fn stagedoor(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stagedoor"));
    // Of the environment nothing: APP_CONFIG_… would be configuration.
    command.args(arguments).env_clear().output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_command_helps_on_stdout() {
    for command in COMMANDS {
        let output = stagedoor(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        let text = stdout(&output);
        assert!(text.contains("--config <FILE>") && text.contains("Usage: stagedoor"), "{command}: {text}");
    }
    let text = stdout(&stagedoor(&["--help"]));
    assert!(COMMANDS.iter().all(|command| text.contains(command)), "{text}");
    assert!(text.contains("Exit codes: 0 success"), "{text}");
}

#[test]
fn the_version_is_the_packages() {
    let output = stagedoor(&["--version"]);
    assert_eq!(stdout(&output), format!("stagedoor {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_64_and_says_why_on_stderr() {
    for wrong in [
        &[][..],
        &["walk"],
        &["run", "--fast"],
        &["check", "--output", "xml"],
        &["health", "--port", "70000"],
    ] {
        let output = stagedoor(wrong);
        assert_eq!(output.status.code(), Some(64), "{wrong:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{wrong:?}");
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_78() {
    for command in ["run", "config", "health"] {
        let output = stagedoor(&[command, "--config", "/nowhere/app-config.yaml"]);
        assert_eq!(output.status.code(), Some(78), "{command}");
        assert!(stderr(&output).contains("/nowhere/app-config.yaml"), "{command}: {}", stderr(&output));
    }
}

#[test]
fn check_reports_a_bad_configuration_as_a_step_in_both_forms() {
    let file = "/nowhere/app-config.yaml";
    let text = stagedoor(&["check", "--config", file]);
    assert_eq!(text.status.code(), Some(78));
    assert!(stdout(&text).contains("✗ configuration") && stdout(&text).contains(file), "{}", stdout(&text));
    let json = stagedoor(&["check", "--config", file, "--output", "json"]);
    assert_eq!(json.status.code(), Some(78));
    let report: serde_json::Value =
        serde_json::from_slice(&json.stdout).expect("JSON and nothing else on stdout");
    assert_eq!(report.pointer("/good"), Some(&serde_json::Value::Bool(false)));
    assert_eq!(report.pointer("/sections/0/steps/0/outcome"), Some(&"failed".into()));
}

#[test]
fn health_of_nobody_is_1() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port().to_string();
    drop(listener);
    let output = stagedoor(&["health", "--port", &port]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("Is stagedoor running"), "{}", stderr(&output));
}
