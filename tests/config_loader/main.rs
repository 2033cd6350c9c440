//! The same answers as the real thing: Backstage's config-loader and node-postgres' connection strings, from npm at
//! pinned versions, over the cases in `cases.rs`. Either both give the same value, or both refuse.
//!
//! Deliberate differences, each with its case in `cases.rs` under `DIFFERENT`:
//! * A number that JSON cannot hold (`.inf`, `.nan`, `1e400`) stays a text here; Backstage has a number.
//! * Maps and lists as keys are refused; JavaScript makes a name of their text.
//! * A file that includes itself is refused; Backstage never ends (so the oracle is not asked).
//! * Texts that are barely YAML: `[-, a]`, `''#b`, a block text in column 0 that begins with `#`. Found by comparing
//!   40 000 random documents, in which no other difference was found where both accept.
//! * `!!float 7` is 7 here and the text `7` there.
//! * A connection string must have `scheme://`, and not one of the web's; JavaScript takes `localhost/db` for the
//!   database `localhost/db` on the host `base`, also where only a blank precedes the scheme.

#![allow(clippy::expect_used, reason = "where the set-up fails, the test should say so and stop")]

mod cases;

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use stagedoor::config;
use stagedoor::config::connection_string;

use cases::Case;

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config_loader");

#[test]
fn the_effective_value_is_that_of_backstage() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cases: Vec<Case> = cases::CASES.iter().flat_map(|text| cases::read(text)).collect();
    assert!(60 <= cases.len(), "{} cases are too few", cases.len());
    let dirs: Vec<PathBuf> = (0..cases.len()).map(|n| dir.path().join(n.to_string())).collect();
    for (case, dir) in cases.iter().zip(&dirs) {
        case.write(dir);
    }
    let asked: Vec<Value> = cases.iter().zip(&dirs).map(|(case, dir)| case.asked(dir)).collect();
    let answers = ask(dir.path(), &json!({ "configs": asked, "strings": [] }));
    let mut wrong = Vec::new();
    for ((case, dir), theirs) in cases.iter().zip(&dirs).zip(list(&answers, "configs")) {
        let ours =
            config::load::effective_with(&case.sources(dir), case.variables()).map_err(|e| e.to_string());
        wrong.extend(difference(&case.name, &ours, theirs));
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn connection_strings_are_read_as_node_postgres_reads_them() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let pem = dir.path().join("ca.pem");
    std::fs::write(&pem, "CA\n").expect("a file");
    let strings: Vec<String> =
        cases::STRINGS.iter().map(|text| text.replace("PEM", &pem.to_string_lossy())).collect();
    assert!(30 <= strings.len(), "{} strings are too few", strings.len());
    let answers = ask(dir.path(), &json!({ "configs": [], "strings": strings }));
    let mut wrong = Vec::new();
    for (string, theirs) in strings.iter().zip(list(&answers, "strings")) {
        let read = |path: &str| std::fs::read_to_string(path).map_err(|error| error.to_string());
        let ours = connection_string::parse(string, read).map(Value::Object).map_err(|e| e.to_string());
        wrong.extend(difference(string, &ours, theirs));
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), strings.len(), wrong.join("\n"));
}

#[test]
fn deliberate_differences_are_as_written_down() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (n, case) in cases::read(cases::DIFFERENT).into_iter().enumerate() {
        let dir = dir.path().join(n.to_string());
        case.write(&dir);
        let ours = config::load::effective_with(&case.sources(&dir), case.variables());
        assert_eq!(ours.ok(), case.expected, "{}", case.name);
    }
    for text in ["localhost/db", "db", "http://u:p@h/db", "u:p@h/db", "  postgres://u:p@h/db", ""] {
        assert!(connection_string::parse(text, |_| Err(String::new())).is_err(), "{text}");
    }
}

/// A line that says how two answers differ, if they do.
fn difference(name: &str, ours: &Result<Value, String>, theirs: &Value) -> Option<String> {
    match (ours, theirs.get("value")) {
        (Err(_), None) => None,
        (Ok(ours), Some(theirs)) if same(ours, theirs) => None,
        (Ok(ours), _) => Some(format!("  {name}\n    ours   {ours}\n    theirs {theirs}")),
        (Err(error), _) => Some(format!("  {name}\n    ours   {error}\n    theirs {theirs}")),
    }
}

/// Equal, where every number is a double.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| same_at(key, a, b))
        }
        _ => a == b,
    }
}

fn same_at(key: &str, a: &Value, b: &Map<String, Value>) -> bool {
    b.get(key).is_some_and(|b| same(a, b))
}

fn list<'a>(answers: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    answers[key].as_array().expect("a list of answers").iter()
}

/// Runs the oracle, after installing what it needs.
fn ask(dir: &Path, cases: &Value) -> Value {
    install();
    let file = dir.join("cases.json");
    std::fs::write(&file, cases.to_string()).expect("the cases");
    let mut node = Command::new("node");
    let output = node.arg(Path::new(HERE).join("oracle.cjs")).arg(&file).output();
    let output =
        output.expect("`node` is needed to compare with the real Backstage: install Node.js 20 or later");
    assert!(output.status.success(), "the oracle failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("an answer in JSON")
}

/// `npm ci`, once, and again when the lock file has changed.
fn install() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let lock = std::fs::read(Path::new(HERE).join("package-lock.json")).expect("the lock file");
        let stamp = Path::new(HERE).join("node_modules/.stagedoor-lock.json");
        if std::fs::read(&stamp).is_ok_and(|installed| installed == lock) {
            return;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(HERE);
        let output =
            npm.output().expect("`npm` is needed to compare with the real Backstage: install Node.js");
        assert!(output.status.success(), "npm ci failed: {}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(stamp, lock).expect("the stamp");
    });
}
