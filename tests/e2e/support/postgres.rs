//! Throw-away PostgreSQL clusters that let nobody in without TLS.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use tempfile::TempDir;

use crate::support::certs::Authority;
use crate::support::deadline::PATIENCE;
use crate::support::deadline::Stopwatch;
use crate::support::deadline::until;
use crate::support::process::Guard;
use crate::support::process::Process;
use crate::support::process::run;
use crate::support::raw::Client;
use crate::support::raw::Target;

/// The user that applications log in as, and its password. It may create databases, as Backstage needs.
pub const USER: &str = "backstage";
pub const PASSWORD: &str = "stage-left-Passw0rd/%:@";
/// A role that [`USER`] may take on.
pub const ROLE: &str = "bs_owner";
/// The superuser, who is let in without a password through the Unix socket only.
pub const SUPERUSER: &str = "postgres";

/// A running cluster.
pub struct Cluster {
    pub port: u16,
    directory: TempDir,
    postmaster: Process,
    _guard: Guard,
}

/// What the server's log says of its connections (`log_connections`, `log_disconnections`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    pub opened: usize,
    /// How many were let in without TLS, the superuser's local ones aside. Must be 0.
    pub plaintext: usize,
    /// The most that were open at a time.
    pub peak: usize,
}

impl Cluster {
    /// The cluster that most tests use, each with a database of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(400))
    }

    /// A cluster of its own, for a test that counts or breaks things.
    pub fn start(connections_max: u16) -> Self {
        let _watch = Stopwatch::start("a PostgreSQL cluster");
        let directory = tempfile::Builder::new().prefix("stagedoor-pg-").tempdir().expect("a directory");
        let root = directory.path().to_owned();
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).expect("permissions");
        let authority = Authority::new("stagedoor test authority");
        let port = free_port();
        std::fs::write(root.join("ca.pem"), &authority.pem).expect("ca.pem");
        initialise(&root, &authority, port, connections_max);
        let data = root.join("data");
        let postmaster = Process::start("postgres", as_postgres(&program("postgres")).arg("-D").arg(&data));
        let last_words = format!("kill -QUIT {}; sleep 1; rm -rf {}", postmaster.pid(), root.display());
        let guard = Guard::new(&last_words);
        let cluster = Self { port, directory, postmaster, _guard: guard };
        cluster.settle();
        cluster
    }

    /// The directory with `ca.pem`.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn ca_file(&self) -> PathBuf {
        self.path().join("ca.pem")
    }

    /// Where the Unix socket is (`host` of libpq).
    pub fn socket_directory(&self) -> PathBuf {
        self.path().join("socket")
    }

    /// Straight to the server through its Unix socket, with a password: the run without stagedoor.
    pub fn direct(&self, database: &str) -> Target {
        Target::unix(self.socket(), USER, PASSWORD, database)
    }

    /// The superuser's answer to `sql`: the rows' columns joined by `|`.
    pub fn admin(&self, sql: &str) -> Vec<String> {
        self.admin_in("postgres", sql)
    }

    pub fn admin_in(&self, database: &str, sql: &str) -> Vec<String> {
        self.superuser(database).query(sql).rows_text()
    }

    /// A connection of the superuser.
    pub fn superuser(&self, database: &str) -> Client {
        Client::connect(&Target::unix(self.socket(), SUPERUSER, "", database))
            .unwrap_or_else(|refusal| panic!("the superuser is not let in: {refusal:?}"))
    }

    /// A new database that [`USER`] owns, with a name that no other test has.
    pub fn database(&self, label: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{label}_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.admin(&format!("create database \"{name}\" owner {USER} template template0"));
        name
    }

    pub fn log(&self) -> String {
        self.postmaster.stderr.text()
    }

    /// What the log says of the connections of [`USER`] so far.
    pub fn connections(&self) -> Connections {
        count(&self.log(), USER)
    }

    /// How many connections of [`USER`] to `database` there are now, and how many of them without TLS.
    pub fn open(&self, database: &str) -> (usize, usize) {
        let rows = self.admin(&format!(
            "select count(*), count(*) filter (where not ssl) from pg_stat_activity join pg_stat_ssl using (pid) \
             where usename = '{USER}' and datname = '{database}' and client_addr is not null"
        ));
        let mut counts = rows[0].split('|').map(|count| count.parse().expect("a count"));
        (counts.next().expect("a column"), counts.next().expect("a column"))
    }

    fn socket(&self) -> PathBuf {
        self.socket_directory().join(format!(".s.PGSQL.{}", self.port))
    }

    fn settle(&self) {
        let superuser = Target::unix(self.socket(), SUPERUSER, "", "postgres");
        until("a login at the new cluster", PATIENCE, || Client::connect(&superuser).ok());
        self.admin(&format!("create role {USER} login createdb password '{PASSWORD}'"));
        self.admin(&format!("create role {ROLE} role {USER}"));
        self.admin(&format!("create database backstage owner {USER}"));
        self.admin(&format!("grant create on database backstage to {ROLE}"));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.postmaster.signal("QUIT");
        self.postmaster.wait(PATIENCE);
    }
}

fn initialise(root: &Path, authority: &Authority, port: u16, connections_max: u16) {
    let data = root.join("data");
    let signed = authority.server(&["localhost", "127.0.0.1", "::1"]);
    for directory in ["data", "socket"] {
        std::fs::create_dir(root.join(directory)).expect("a directory");
        owned_by_postgres(&root.join(directory));
    }
    let mut initdb = as_postgres(&program("initdb"));
    initdb.arg("-D").arg(&data).args([
        "-U",
        SUPERUSER,
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "-N",
        "-A",
        "trust",
    ]);
    run("initdb", &mut initdb, PATIENCE * 2);
    for (name, text) in [
        ("server.crt", signed.certificate),
        ("server.key", signed.key),
        ("pg_hba.conf", hba()),
        ("postgresql.auto.conf", settings(root, port, connections_max)),
    ] {
        let path = data.join(name);
        std::fs::write(&path, text).expect("a file of the cluster");
        owned_by_postgres(&path);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    }
}

fn hba() -> String {
    format!(
        "local     all {SUPERUSER}              trust\n\
         local     all all                      scram-sha-256\n\
         hostssl   all all 127.0.0.1/32         scram-sha-256\n\
         hostnossl all all 0.0.0.0/0            reject\n"
    )
}

fn settings(root: &Path, port: u16, connections_max: u16) -> String {
    format!(
        "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n\
         max_connections = {connections_max}\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\n\
         max_prepared_transactions = 10\nssl = on\npassword_encryption = 'scram-sha-256'\nautovacuum = off\n\
         log_connections = on\nlog_disconnections = on\nlog_line_prefix = '%m [%p] '\nshared_buffers = '32MB'\n",
        root.join("socket").display()
    )
}

/// Reads the log forwards: each `connection authorized` opens, each `disconnection` closes.
fn count(log: &str, user: &str) -> Connections {
    let mut found = Connections::default();
    let mut open = std::collections::BTreeSet::new();
    for line in log.lines().filter(|line| line.contains(&format!("user={user} "))) {
        let pid = line.split(['[', ']']).nth(1).unwrap_or_default();
        if line.contains("connection authorized:") && !line.contains("LOG:  replication") {
            found.opened += 1;
            found.plaintext += usize::from(!line.contains("SSL enabled"));
            open.insert(pid);
            found.peak = found.peak.max(open.len());
        } else if line.contains("disconnection:") {
            open.remove(pid);
        }
    }
    found
}

/// A port that nobody listens on, and that no outgoing connection is given: from below the ephemeral range,
/// each one once, and other ones for another run of the tests at the same time.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(101);
    loop {
        let at = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 12_000 + u16::try_from(at % 20_000).expect("below 20 000");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// One of PostgreSQL's programs: the newest under /usr/lib/postgresql, or what PATH says.
pub fn program(name: &str) -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin").join(name)))
        })
        .filter(|(_, path)| path.exists())
        .collect();
    found.sort();
    found.pop().map_or_else(|| PathBuf::from(name), |(_, path)| path)
}

/// PostgreSQL refuses to run as root: as the package's own user then.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env_remove("PGDATA").env("LC_ALL", "C.UTF-8");
    if let Some((user, group)) = postgres_user() {
        command.uid(user).gid(group);
    }
    command
}

fn owned_by_postgres(path: &Path) {
    if let Some((user, group)) = postgres_user() {
        std::os::unix::fs::chown(path, Some(user), Some(group)).expect("chown");
    }
    if path.is_dir() {
        // The data directory must be closed; the socket's must let the tests in, who are root or the same user.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).expect("permissions");
    }
}

/// User and group of `postgres` where we are root, else `None`.
fn postgres_user() -> Option<(u32, u32)> {
    let number = |arguments: &[&str]| -> Option<u32> {
        let output = Command::new("id").args(arguments).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    if number(&["-u"]) != Some(0) {
        return None;
    }
    number(&["-u", SUPERUSER]).zip(number(&["-g", SUPERUSER]))
}
