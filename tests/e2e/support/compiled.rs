//! The drivers' programs that are compiled, once in a run. Their drivers are the distribution's own packages, in the
//! versions that it has: not every machine has them.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::support::process::run;

/// Go's standard library is compiled first where it never was.
const COMPILE_LIMIT: Duration = Duration::from_mins(5);

const JDBC: &str = "/usr/share/java/postgresql.jar";
const GO_PATH: &str = "/usr/share/gocode";

/// `source`, a Java class with a `main`, beside PostgreSQL's JDBC driver; or what is missing here.
pub fn java(source: &Path) -> Result<Command, String> {
    static COMPILED: OnceLock<PathBuf> = OnceLock::new();
    needs("javac", &[JDBC])?;
    let classes = COMPILED.get_or_init(|| {
        let classes = below_target("java");
        let mut javac = Command::new("javac");
        javac.args(["-nowarn", "-cp", JDBC, "-d"]).arg(&classes).arg(source);
        run("javac", &mut javac, COMPILE_LIMIT);
        classes
    });
    let mut java = Command::new("java");
    // The quick compiler alone: these programs are short.
    java.args(["-XX:TieredStopAtLevel=1", "-cp"]).arg(format!("{}:{JDBC}", classes.display()));
    java.arg(source.file_stem().expect("a class"));
    Ok(java)
}

/// `source`, a Go program with the distribution's lib/pq and pgx; or what is missing here.
pub fn go(source: &Path) -> Result<Command, String> {
    static COMPILED: OnceLock<PathBuf> = OnceLock::new();
    let packages = ["lib/pq", "jackc/pgx/v4"].map(|name| format!("{GO_PATH}/src/github.com/{name}"));
    needs("go", &packages.each_ref().map(String::as_str))?;
    let program = COMPILED.get_or_init(|| {
        let program = below_target("go").join("drivers");
        let mut go = Command::new("go");
        go.env("GO111MODULE", "off").env("GOPATH", GO_PATH).env("GOCACHE", below_target("go-cache"));
        go.env("GOTOOLCHAIN", "local").env("GOFLAGS", "");
        go.args(["build", "-o"]).arg(&program).arg(source);
        run("go build", &mut go, COMPILE_LIMIT);
        program
    });
    Ok(Command::new(program))
}

/// Whether `program` and all `files` are on this machine.
fn needs(program: &str, files: &[&str]) -> Result<(), String> {
    let found = |path: &Path| path.join(program).is_file();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|directory| found(&directory)) {
        return Err(format!("there is no {program} on this machine"));
    }
    match files.iter().find(|file| !Path::new(file).exists()) {
        Some(missing) => Err(format!("there is no {missing} on this machine")),
        None => Ok(()),
    }
}

fn below_target(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&directory).expect("a directory below target/");
    directory
}
