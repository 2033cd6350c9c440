//! The real process, with ports of its own and its whole log.

use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::postgres::PASSWORD;
use crate::support::postgres::Postgres;
use crate::support::postgres::USER;
use crate::support::wait::until;

/// How long a start may take: a login to a loaded machine's PostgreSQL.
const START: Duration = Duration::from_secs(30);

/// A running sidecar; killed when dropped, after a look for secrets in all that it said.
pub struct Stagedoor {
    child: Child,
    log: Arc<Mutex<String>>,
    pub port: u16,
    pub admin: SocketAddr,
    _directory: TempDir,
}

/// An app-config for `postgres`, with `more` of YAML behind it (top level).
pub fn app_config(postgres: &Postgres, more: &str) -> String {
    format!(
        "backend:\n  database:\n    client: pg\n    connection:\n      host: localhost\n      port: {}\n      \
         user: {USER}\n      password: {PASSWORD}\n      ssl:\n        ca:\n          $file: {}\n{more}",
        postgres.port,
        postgres.ca.display()
    )
}

/// Settings of the sidecar itself: `stagedoor:` with free ports, and `more` lines below it, indented by two.
pub fn own(more: &str) -> String {
    format!(
        "stagedoor:\n  listen: {{ port: 0 }}\n  admin: {{ host: 127.0.0.1, port: 0 }}\n  log: {{ format: json }}\n{more}"
    )
}

impl Stagedoor {
    /// A sidecar before `postgres` with `more` settings below `stagedoor:`.
    pub fn before(postgres: &Postgres, more: &str) -> Self {
        Self::with_config(&app_config(postgres, &own(more)))
    }

    pub fn with_config(config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("app-config.yaml");
        fs::write(&file, config).unwrap();
        Self::spawn(&[file], &[], directory)
    }

    /// `run` with these files and environment variables.
    pub fn with_files(files: &[PathBuf], env: &[(&str, &str)]) -> Self {
        Self::spawn(files, env, tempfile::tempdir().unwrap())
    }

    /// The same, which may never become ready.
    pub fn spawned(files: &[PathBuf], env: &[(&str, &str)]) -> Self {
        Self::listening(files, env, tempfile::tempdir().unwrap())
    }

    fn spawn(files: &[PathBuf], env: &[(&str, &str)], directory: TempDir) -> Self {
        let mut sidecar = Self::listening(files, env, directory);
        sidecar.until_ready();
        sidecar
    }

    pub fn until_ready(&mut self) {
        until("the sidecar is ready", START, || {
            self.assert_running();
            self.get("/readyz").starts_with("HTTP/1.1 200").then_some(())
        });
    }

    fn listening(files: &[PathBuf], env: &[(&str, &str)], directory: TempDir) -> Self {
        let mut command = command();
        command.arg("run").envs(env.iter().copied());
        for file in files {
            command.arg("--config").arg(file);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let reader = BufReader::new(child.stderr.take().unwrap());
        let sink = log.clone();
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut sidecar =
            Self { child, log, port: 0, admin: SocketAddr::from(([127, 0, 0, 1], 0)), _directory: directory };
        sidecar.port = sidecar.announced("listening").port();
        sidecar.admin = sidecar.announced("admin listening");
        sidecar
    }

    fn announced(&mut self, message: &str) -> SocketAddr {
        let needle = format!("\"message\":\"{message}\",\"address\":\"127.0.0.1:");
        until(message, START, || {
            self.assert_running();
            let log = self.log();
            let (_, rest) = log.split_once(&needle)?;
            let port: u16 = rest.split('"').next()?.parse().ok()?;
            Some(SocketAddr::from(([127, 0, 0, 1], port)))
        })
    }

    fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("stagedoor ended: {status}\n{}", self.log());
        }
    }

    /// All that it logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// A page of the admin port, head and body.
    pub fn get(&self, path: &str) -> String {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    pub fn request(&self, request: &str) -> String {
        let mut page = String::new();
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_to_string(&mut page).unwrap();
        page
    }

    /// The sum of a family's samples whose labels contain all of `labels`.
    pub fn metric(&self, family: &str, labels: &[&str]) -> f64 {
        let page = self.get("/metrics");
        let samples = page.lines().filter(|line| {
            line.strip_prefix(family).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal (`TERM`, `INT`, `HUP`).
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        until("the sidecar ends", limit, || self.child.try_wait().unwrap())
    }

    /// SIGTERM, and a clean end.
    pub fn terminate(mut self) {
        self.signal("TERM");
        assert_eq!(self.wait(Duration::from_secs(60)).code(), Some(0), "{}", self.log());
    }

    /// URL-free connection facts for drivers: what PGHOST and the like should say.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", self.port.to_string()),
            ("PGUSER", USER.to_owned()),
            ("PGPASSWORD", PASSWORD.to_owned()),
            ("PGSSLMODE", "disable".to_owned()),
        ]
    }
}

impl Drop for Stagedoor {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) && !std::thread::panicking() {
            for page in ["/metrics", "/readyz", "/"] {
                assert!(!self.get(page).contains(PASSWORD), "a secret is on {page}");
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the log of stagedoor:\n{}", self.log());
        } else {
            assert!(!self.log().contains(PASSWORD), "a secret is in the log");
        }
    }
}

/// The binary, in an environment without what would change its configuration.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stagedoor"));
    for (name, _) in std::env::vars() {
        if name.starts_with("APP_CONFIG_") || name.starts_with("PG") || name.starts_with("POSTGRES_") {
            command.env_remove(name);
        }
    }
    command.current_dir(Path::new("/")).stdin(Stdio::null());
    command
}
