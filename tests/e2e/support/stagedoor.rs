//! The real stagedoor process: started as an operator would, watched from outside.

use std::collections::BTreeMap;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::deadline::PATIENCE;
use crate::support::deadline::until;
use crate::support::node::clean;
use crate::support::postgres::Cluster;
use crate::support::postgres::PASSWORD;
use crate::support::postgres::USER;
use crate::support::process::Process;
use crate::support::raw::Client;
use crate::support::raw::Target;
use crate::support::stand_in;

/// What every sidecar of the tests has in common: ports that the system chooses, on loopback.
const STAGEDOOR: &str = "\
stagedoor:
  listen: { host: 127.0.0.1, port: 0 }
  admin: { host: 127.0.0.1, port: 0 }
  shutdown: { gracePeriod: 8s }
  log: { format: json, level: info }
";

/// The configuration of an application that stands behind the sidecar.
pub const APP_CONFIG: &str = "\
backend:
  database:
    client: pg
    connection:
      host: ${POSTGRES_HOST}
      port: ${POSTGRES_PORT}
      user: ${POSTGRES_USER}
      password: ${POSTGRES_PASSWORD}
      ssl: { ca: { $file: '${POSTGRES_CA_FILE}' } }
";

/// The program under test: Cargo's own build of it, or another one (`STAGEDOOR_PROGRAM`, say the image's).
pub fn program() -> PathBuf {
    std::env::var_os("STAGEDOOR_PROGRAM")
        .map_or_else(|| env!("CARGO_BIN_EXE_stagedoor").into(), PathBuf::from)
}

/// A running sidecar.
pub struct Stagedoor {
    process: Process,
    pub port: u16,
    pub admin_port: u16,
    _directory: TempDir,
}

/// An HTTP answer of the admin port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub status: u16,
    pub body: String,
}

impl Stagedoor {
    /// A sidecar before `cluster`; `settings` is YAML for below `stagedoor:` (`pool: { maxServers: 2 }`, one key a
    /// line), ready to be used.
    pub fn start(cluster: &Cluster, settings: &str) -> Self {
        let directory = directory();
        let app_config = directory.path().join("app-config.yaml");
        std::fs::write(&app_config, APP_CONFIG).expect("app-config.yaml");
        Self::launch(cluster, directory, &[app_config], Path::new("/"), &BTreeMap::new(), settings)
    }

    /// A sidecar that is given an application's own `files`, relative to `cwd`, and further `environment`.
    pub fn beside(
        cluster: &Cluster,
        files: &[PathBuf],
        cwd: &Path,
        environment: &BTreeMap<String, String>,
        settings: &str,
    ) -> Self {
        Self::launch(cluster, directory(), files, cwd, environment, settings)
    }

    fn launch(
        cluster: &Cluster,
        directory: TempDir,
        files: &[PathBuf],
        cwd: &Path,
        environment: &BTreeMap<String, String>,
        settings: &str,
    ) -> Self {
        if stand_in::wanted() {
            let (process, port) = stand_in::pgbouncer(cluster, directory.path(), settings);
            return Self { process, port, admin_port: 0, _directory: directory };
        }
        let own = directory.path().join("stagedoor.yaml");
        std::fs::write(&own, STAGEDOOR).expect("stagedoor.yaml");
        let files: Vec<PathBuf> =
            files.iter().cloned().chain([own]).chain(extra(&directory, settings)).collect();
        let mut command = command(cluster, &["run"], &files, environment);
        let mut process = Process::start("stagedoor", command.current_dir(cwd));
        let port = address(&mut process, "listening");
        let admin_port = address(&mut process, "admin listening");
        let stagedoor = Self { process, port, admin_port, _directory: directory };
        stagedoor.ready();
        stagedoor
    }

    fn ready(&self) {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let page = self.page("/readyz");
            if page.status == 200 {
                return;
            }
            assert!(
                std::time::Instant::now() < end,
                "/readyz says {} {}\n{}",
                page.status,
                page.body,
                self.process.stderr.tail(30)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where the application's user connects.
    pub fn target(&self, database: &str) -> Target {
        Target::tcp(self.port, USER, PASSWORD, database)
    }

    pub fn connect(&self, database: &str) -> Client {
        Client::connect(&self.target(database))
            .unwrap_or_else(|refused| panic!("{refused:?}\n{}", self.process.stderr.tail(30)))
    }

    /// A page of the admin port.
    pub fn page(&self, path: &str) -> Page {
        http(self.admin_port, "GET", path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    pub fn post(&self, path: &str) -> Page {
        http(self.admin_port, "POST", path).unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    pub fn metrics(&self) -> String {
        if stand_in::wanted() {
            return String::new();
        }
        self.page("/metrics").body
    }

    /// The sum of all samples of `family` whose labels contain every one of `labels` (`reason="temp_table"`).
    pub fn metric(&self, family: &str, labels: &[&str]) -> f64 {
        sum(&self.metrics(), family, labels)
    }

    pub fn log(&self) -> String {
        self.process.stderr.text()
    }

    pub fn signal(&mut self, signal: &str) {
        self.process.signal(signal);
    }

    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        self.process.wait(limit)
    }

    /// SIGTERM, and the end that an operator may expect: soon, with exit code 0, no secret told.
    pub fn finish(mut self) {
        self.tells_no_secret();
        self.process.signal("TERM");
        let status = self.process.wait(PATIENCE);
        assert!(status.code() == Some(0) || stand_in::wanted(), "{status}: {}", self.process.stderr.tail(30));
    }

    /// No password stands in the log or on any page.
    pub fn tells_no_secret(&self) {
        let mut told = vec![("the log", self.log()), ("stdout", self.process.stdout.text())];
        for path in ["/metrics", "/", "/status.json", "/readyz"] {
            told.extend(http(self.admin_port, "GET", path).ok().map(|page| (path, page.body)));
        }
        let encoded = "stage-left-Passw0rd%2F%25%3A%40";
        for (place, text) in told {
            for secret in [PASSWORD, encoded, "PRIVATE KEY"] {
                assert!(!text.contains(secret), "a secret stands in {place}:\n{text}");
            }
        }
    }
}

impl Drop for Stagedoor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of stagedoor's log\n{}", self.process.stderr.tail(40));
        } else if self.process.exited().is_none() {
            self.tells_no_secret();
        }
    }
}

/// The command line of `stagedoor` with these files, and the environment that its container would have.
pub fn command(
    cluster: &Cluster,
    arguments: &[&str],
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
) -> Command {
    let mut command = Command::new(program());
    clean(&mut command);
    command.args(arguments);
    for file in files {
        command.arg("--config").arg(file);
    }
    command.envs(upstream(cluster)).envs(environment);
    command
}

/// The environment that says where the real PostgreSQL is.
pub fn upstream(cluster: &Cluster) -> BTreeMap<String, String> {
    [
        ("POSTGRES_HOST", "localhost".to_owned()),
        ("POSTGRES_PORT", cluster.port.to_string()),
        ("POSTGRES_USER", USER.to_owned()),
        ("POSTGRES_PASSWORD", PASSWORD.to_owned()),
        ("POSTGRES_CA_FILE", cluster.ca_file().display().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The sum of the samples of `family` in Prometheus' text format whose labels contain all of `labels`.
pub fn sum(metrics: &str, family: &str, labels: &[&str]) -> f64 {
    let of_family = |line: &&str| {
        line.strip_prefix(family).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
            && labels.iter().all(|label| line.contains(label))
    };
    metrics.lines().filter(of_family).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

pub fn directory() -> TempDir {
    tempfile::Builder::new().prefix("stagedoor-e2e-").tempdir().expect("a directory")
}

/// The test's own settings in a file of their own: objects of several files are merged.
fn extra(directory: &TempDir, settings: &str) -> Option<PathBuf> {
    if settings.is_empty() {
        return None;
    }
    let path = directory.path().join("test.yaml");
    let indented: String = settings.lines().map(|line| format!("  {line}\n")).collect();
    std::fs::write(&path, format!("stagedoor:\n{indented}")).expect("test.yaml");
    Some(path)
}

/// The port in the event with this `message`.
fn address(process: &mut Process, message: &str) -> u16 {
    until(&format!("the event {message:?}"), PATIENCE, || {
        let log = process.stderr.text();
        let found = events(&log).into_iter().find(|event| event["message"] == message);
        if found.is_none() {
            let ended = process.exited();
            assert!(ended.is_none(), "stagedoor ended with {ended:?}:\n{}", process.stderr.tail(30));
        }
        found?["address"].as_str()?.rsplit(':').next()?.parse().ok()
    })
}

/// The events of a log in JSON form.
pub fn events(log: &str) -> Vec<Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// One request, one answer.
pub fn http(port: u16, method: &str, path: &str) -> std::io::Result<Page> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok(Page { status, body: body.to_owned() })
}
