//! The house rules, as a test: the map of ARCHITECTURE.md holds, pure rooms are pure, nothing is unfinished.
//! Line by line and without a parser: a rule that needs one is a rule that nobody can keep in mind.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test may panic: that is how it speaks"
)]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A source file: its path from `src/` with `/`, and its text.
struct Source {
    path: String,
    text: String,
}

/// Rooms and what each may import, in the order of the table.
struct Table(Vec<(String, BTreeSet<String>)>);

/// Rooms (a directory or a file of the first level) and files that touch no world.
const PURE: [&str; 14] = [
    "wire",
    "sql",
    "session",
    "route",
    "pool/book.rs",
    "pool/ledger.rs",
    "auth/scram.rs",
    "auth/verifier.rs",
    "auth/prover.rs",
    "auth/exchange.rs",
    "server/startup.rs",
    "config/resolve.rs",
    "config/change.rs",
    "admin/command.rs",
];

/// What a pure file may not name outside its tests.
const WORLD: [&str; 14] = [
    "tokio",
    "std::net::Tcp",
    "std::net::Udp",
    "std::net::ToSocketAddrs",
    "std::os::unix::net",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "rand::",
    "tracing",
    "getrandom",
];

/// Crates that have a home, and where it is (a path, or a directory that ends with `/`).
const HOMES: [(&str, &[&str]); 5] = [
    ("rustls", &["tls/"]),
    ("prometheus", &["metrics/"]),
    ("clap", &["cli/", "main.rs"]),
    ("pgwire", &["wire/message.rs", "admin/console.rs"]),
    ("serde_yaml", &["config/yaml.rs"]),
];

/// Signs of something unfinished. Put together here so that this file does not find itself.
const UNFINISHED: [&str; 4] =
    [concat!("FIX", "ME"), concat!("XX", "X:"), concat!("to", "do!("), concat!("TO", "DO")];

// ── the rules ────────────────────────────────────────────────────────────────────────────────────────────

/// Every breach of a rule, as `path:line: what`.
fn breaches(table: &Table, sources: &[Source]) -> Vec<String> {
    let mut found = table_breaches(table);
    for source in sources {
        let mut add = |line: usize, what: String| found.push(format!("src/{}:{line}: {what}", source.path));
        if !source.text.starts_with("//!") {
            add(1, "does not open with //!".to_owned());
        }
        for (number, line) in code(&source.text) {
            for what in import_breaches(table, source, line) {
                add(number, what);
            }
            for what in world_breaches(source, number, line) {
                add(number, what);
            }
        }
        for (number, line) in lines(&source.text) {
            for what in home_breaches(source, line) {
                add(number, what);
            }
            if let Some(sign) = UNFINISHED.iter().find(|sign| line.contains(**sign)) {
                add(number, format!("{sign}: finish it, or open an issue"));
            }
        }
        if source.path.ends_with("mod.rs") {
            for (number, what) in door_breaches(&source.text) {
                add(number, what);
            }
        }
    }
    found
}

/// Every name of a row stands in a lower row, so the map has no circle.
fn table_breaches(table: &Table) -> Vec<String> {
    let mut found = Vec::new();
    for (row, (room, imports)) in table.0.iter().enumerate() {
        for import in imports {
            if table.0.iter().skip(row + 1).all(|(lower, _)| lower != import) {
                found.push(format!(
                    "ARCHITECTURE.md: `{room}` may import `{import}`, which is in no lower row"
                ));
            }
        }
    }
    found
}

fn import_breaches(table: &Table, source: &Source, line: &str) -> Vec<String> {
    let mut found = Vec::new();
    if line.contains("crate::{") {
        found.push("one `use crate::room::thing;` a line".to_owned());
    }
    let from = room(&source.path);
    if from == "lib" {
        return found;
    }
    // main.rs is a crate of its own and calls the library by its name.
    let prefix = if from == "main" { "stagedoor::" } else { "crate::" };
    for to in named_rooms(line, prefix) {
        let allowed = table.0.iter().find(|(name, _)| name == from).map(|(_, imports)| imports);
        match allowed {
            None => found.push(format!("room `{from}` has no row in ARCHITECTURE.md")),
            Some(imports) if to != from && !imports.contains(to) => {
                found.push(format!("`{from}` may not import `{to}`"));
            }
            Some(_) => {}
        }
    }
    found
}

fn world_breaches(source: &Source, number: usize, line: &str) -> Vec<String> {
    if !is_pure(&source.path) || tests_begin(&source.text).is_some_and(|begin| number >= begin) {
        return Vec::new();
    }
    let named = WORLD.iter().filter(|name| line.contains(**name));
    named.map(|name| format!("a pure file names `{name}`")).collect()
}

fn home_breaches(source: &Source, line: &str) -> Vec<String> {
    let line = without_comment(line);
    let away = HOMES.iter().filter(|(name, homes)| names_crate(line, name) && !is_at(&source.path, homes));
    away.map(|(name, homes)| format!("`{name}` is named only in {}", homes.join(" and "))).collect()
}

/// A door has documentation, attributes, `mod` and `use`, and no rooms behind it of its own.
fn door_breaches(text: &str) -> Vec<(usize, String)> {
    let fits = |line: &str| {
        let line = line.trim();
        line.is_empty()
            || ["//", "#[", "#![", "pub mod ", "mod ", "pub use "].iter().any(|start| line.starts_with(start))
    };
    let wrong = lines(text).filter(|(_, line)| !fits(line));
    wrong
        .map(|(number, _)| (number, "mod.rs is a door: documentation, `mod` and `pub use` only".to_owned()))
        .collect()
}

// ── reading ──────────────────────────────────────────────────────────────────────────────────────────────

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// Lines with what stands before a comment.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    lines(text).map(|(number, line)| (number, without_comment(line)))
}

fn without_comment(line: &str) -> &str {
    match line.find("//") {
        // `https://` in a string is no comment.
        Some(at) if !line[..at].ends_with(':') => &line[..at],
        _ => line,
    }
}

/// The first line of the tests of a file.
fn tests_begin(text: &str) -> Option<usize> {
    code(text).find(|(_, line)| line.trim() == "#[cfg(test)]").map(|(number, _)| number)
}

/// `pool/ledger.rs` → `pool`, `app.rs` → `app`.
fn room(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

fn is_pure(path: &str) -> bool {
    PURE.iter().any(|pure| path == *pure || (!pure.ends_with(".rs") && room(path) == *pure))
}

fn is_at(path: &str, homes: &[&str]) -> bool {
    homes.iter().any(|home| path == *home || (home.ends_with('/') && path.starts_with(home)))
}

/// The rooms that a line names after `prefix`.
fn named_rooms<'a>(line: &'a str, prefix: &'static str) -> impl Iterator<Item = &'a str> {
    line.match_indices(prefix).filter_map(move |(at, _)| {
        let rest = &line[at + prefix.len()..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let name = &rest[..end];
        let is_whole = !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$');
        (is_whole && name.starts_with(|c: char| c.is_ascii_lowercase())).then_some(name)
    })
}

/// Whether `name::` stands in `line` as a word of its own (`tokio_rustls::` is not `rustls::`).
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + name.len()..];
        let whole = !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == '"');
        whole && (after.starts_with("::") || after.starts_with(';') && line.contains("use "))
    })
}

/// The table between its two marks: a room in backticks, then what it may import.
fn table(text: &str) -> Table {
    let (_, rest) = text.split_once("<!-- import table: begin -->").expect("the table's beginning");
    let (rows, _) = rest.split_once("<!-- import table: end -->").expect("the table's end");
    let rooms = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let row = |line: &str| {
        let mut cells = line.trim().trim_matches('|').splitn(2, '|');
        let room = rooms(cells.next()?).pop()?;
        Some((room, rooms(cells.next()?).into_iter().collect()))
    };
    Table(rows.lines().filter_map(row).collect())
}

fn sources(directory: &Path, prefix: &str, found: &mut Vec<Source>) {
    for entry in fs::read_dir(directory).expect("a directory of src") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        let path = format!("{prefix}{name}");
        if entry.path().is_dir() {
            sources(&entry.path(), &format!("{path}/"), found);
        } else if path.ends_with(".rs") {
            found.push(Source { path, text: fs::read_to_string(entry.path()).expect("a source") });
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn all_sources() -> Vec<Source> {
    let mut found = Vec::new();
    sources(&root().join("src"), "", &mut found);
    found
}

// ── the house is tidy ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn the_map_holds_and_pure_rooms_are_pure() {
    let table = table(&read("ARCHITECTURE.md"));
    assert!(table.0.len() >= 18, "the table was not read");
    let found = breaches(&table, &all_sources());
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn no_file_lies_there_undeclared() {
    let sources = all_sources();
    let texts: BTreeMap<&str, &str> = sources.iter().map(|it| (it.path.as_str(), it.text.as_str())).collect();
    for path in texts.keys().filter(|path| !["lib.rs", "main.rs"].contains(path)) {
        let (doors, name) = doors(path);
        let text = doors.iter().find_map(|door| texts.get(door.as_str()));
        let text = text.unwrap_or_else(|| panic!("src/{path} has no door: {}", doors.join(" or ")));
        assert!(
            text.contains(&format!("mod {name};")),
            "src/{path} is not declared in {}",
            doors.join(" or ")
        );
    }
}

/// Where the module of `path` may be declared, and its name.
fn doors(path: &str) -> (Vec<String>, &str) {
    let whole = path.trim_end_matches(".rs").trim_end_matches("/mod");
    match whole.rsplit_once('/') {
        None => (vec!["lib.rs".to_owned()], whole),
        Some((directory, name)) => (vec![format!("{directory}/mod.rs"), format!("{directory}.rs")], name),
    }
}

#[test]
fn a_module_is_declared_in_its_directory_or_beside_it() {
    assert_eq!(doors("app.rs"), (vec!["lib.rs".to_owned()], "app"));
    assert_eq!(doors("pool/mod.rs"), (vec!["lib.rs".to_owned()], "pool"));
    let beside = ["config/resolve/mod.rs".to_owned(), "config/resolve.rs".to_owned()];
    assert_eq!(doors("config/resolve/tests.rs"), (beside.to_vec(), "tests"));
}

#[test]
fn every_dependency_has_its_reason() {
    let (manifest, reasons) = (read("Cargo.toml"), read("ARCHITECTURE.md"));
    let mut section = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if let (true, Some((name, _))) = (section.ends_with("dependencies]"), line.split_once(" = ")) {
            assert!(reasons.contains(&format!("| `{name}` | ")), "{name} has no line under Dependencies");
        }
    }
}

#[test]
fn the_readme_names_the_command_that_ci_runs() {
    assert!(read("README.md").contains("\nmake test"), "README.md says how to test");
    let ci = read(".ci/run");
    let commands: Vec<_> =
        ci.lines().filter(|line| !line.starts_with('#') && !line.starts_with("set ")).collect();
    assert!(commands.iter().any(|line| line.ends_with("make test")), ".ci/run runs it: {commands:?}");
}

// ── and this test can fail ───────────────────────────────────────────────────────────────────────────────

const SAMPLE_TABLE: &str = "<!-- import table: begin -->
| room | may import |
|---|---|
| `pool` | `session` `metrics` |
| `session` | |
| `metrics` | |
<!-- import table: end -->";

/// What is found in one sample file.
fn found(path: &str, text: &str) -> Vec<String> {
    breaches(&table(SAMPLE_TABLE), &[Source { path: path.to_owned(), text: text.to_owned() }])
}

#[test]
fn it_finds_each_kind_of_breach() {
    let cases = [
        ("session/state.rs", "//! x\nuse crate::pool::Lease;", "`session` may not import `pool`"),
        (
            "session/state.rs",
            "//! x\nfn f(x: crate::metrics::Metrics) {}",
            "`session` may not import `metrics`",
        ),
        ("session/state.rs", "//! x\nuse tokio::sync::Mutex;", "a pure file names `tokio`"),
        ("session/state.rs", "//! x\nuse std::time::SystemTime;", "a pure file names `SystemTime`"),
        ("pool/ledger.rs", "//! x\nlet now = Instant::now();", "a pure file names `Instant::now`"),
        ("pool/lease.rs", "//! x\nuse crate::{session, metrics};", "one `use crate::room::thing;` a line"),
        ("pool/lease.rs", "//! x\nuse rustls::ClientConfig;", "`rustls` is named only in"),
        ("pool/lease.rs", "//! x\nuse prometheus;", "`prometheus` is named only in"),
        ("pool/lease.rs", "//! x\nfn f(y: serde_yaml::Value) {}", "`serde_yaml` is named only in"),
        ("main.rs", "//! x\nstagedoor::pool::f();", "room `main` has no row"),
        ("pool/lease.rs", "use std::fmt;", "does not open with //!"),
        ("pool/mod.rs", "//! x\npub fn f() {}", "mod.rs is a door"),
        ("attic/old.rs", "//! x\nuse crate::pool::Lease;", "room `attic` has no row"),
        ("pool/lease.rs", concat!("//! x\n// FIX", "ME later"), "finish it"),
        ("pool/lease.rs", concat!("//! x\nto", "do!()"), "finish it"),
    ];
    for (path, text, expected) in cases {
        let found = found(path, text);
        assert!(found.iter().any(|breach| breach.contains(expected)), "{path}: {text:?} gave {found:?}");
    }
}

#[test]
fn it_leaves_good_files_alone() {
    let cases = [
        ("pool/lease.rs", "//! x\nuse crate::session::state::ServerState;\nuse tokio::sync::Mutex;"),
        ("pool/lease.rs", "//! x\nuse crate::pool::ledger::Ledger; // not crate::client::serve"),
        ("pool/lease.rs", "//! x\nuse tokio_rustls::client::TlsStream;"),
        ("session/state.rs", "//! x\n// Time is an argument: no Instant::now here.\nuse std::time::Instant;"),
        ("session/state.rs", "//! x\nfn f() {}\n#[cfg(test)]\nmod tests { use std::fs; }"),
        ("metrics/registry.rs", "//! x\nuse prometheus::Registry;"),
        ("pool/mod.rs", "//! x\n\npub mod lease;\npub use crate::pool::lease::Lease;"),
    ];
    for (path, text) in cases {
        assert_eq!(found(path, text), Vec::<String>::new(), "{path}: {text:?}");
    }
}

#[test]
fn it_finds_an_arrow_that_runs_upward() {
    let upward = SAMPLE_TABLE.replace("| `metrics` | |", "| `metrics` | `pool` |");
    assert_eq!(table_breaches(&table(&upward)).len(), 1);
    assert!(table_breaches(&table(SAMPLE_TABLE)).is_empty());
}
