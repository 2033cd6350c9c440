//! A throw-away PostgreSQL that accepts TLS only, with a CA of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CertificateRevocationListParams;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyIdMethod;
use rcgen::KeyPair;
use rcgen::SerialNumber;
use rcgen::date_time_ymd;
use tempfile::TempDir;

use crate::support::wait::until;

/// The role that Backstage and the tests log in as, over TCP.
pub const USER: &str = "backstage";
pub const PASSWORD: &str = "bs-secret-f3a9";

/// A running cluster; stopped when dropped.
pub struct Postgres {
    pub port: u16,
    /// The CA certificate, in PEM.
    pub ca: PathBuf,
    directory: TempDir,
}

/// The cluster that most tests share; each has databases of its own. The last test to let go of it stops it.
pub fn shared() -> Arc<Postgres> {
    static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let postgres = Arc::new(Postgres::start(&[("max_connections", "300")]));
        *shared = Arc::downgrade(&postgres);
        postgres
    })
}

/// A port that nobody uses just now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A name for a database that no other test has.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{name}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Postgres {
    /// Starts a cluster with these settings beside the usual ones.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::Builder::new().prefix("stagedoor-pg").tempdir().unwrap();
        let root = directory.path().to_owned();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        certificates(&root);
        let data = root.join("data");
        fs::create_dir(&data).unwrap();
        if is_root() {
            run(Command::new("chown").args(["-R", "postgres"]).arg(&root));
        }
        let postgres = Self { port: free_port(), ca: root.join("ca.crt"), directory };
        postgres.as_owner("initdb", "-U postgres --auth=trust -E UTF8 --locale=C.UTF-8 -N");
        let hba = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n\
                   hostnossl all all 127.0.0.1/32 reject\n";
        fs::write(data.join("pg_hba.conf"), hba).unwrap();
        let mut conf = fs::read_to_string(data.join("postgresql.conf")).unwrap();
        let port = postgres.port.to_string();
        let (cert, key, sock) = (root.join("server.crt"), root.join("server.key"), root.clone());
        let own = [
            ("port", port.as_str()),
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", sock.to_str().unwrap()),
            ("fsync", "off"),
            ("ssl", "on"),
            ("ssl_cert_file", cert.to_str().unwrap()),
            ("ssl_key_file", key.to_str().unwrap()),
        ];
        for (name, value) in own.iter().chain(settings) {
            conf.push_str(&format!("{name} = '{value}'\n"));
        }
        fs::write(data.join("postgresql.conf"), conf).unwrap();
        postgres.ctl("start");
        postgres.sql("postgres", &format!("CREATE ROLE {USER} LOGIN CREATEDB PASSWORD '{PASSWORD}'"));
        postgres
    }

    /// The CA's list of revoked certificates: none is.
    pub fn crl(&self) -> String {
        fs::read_to_string(self.ca.with_extension("crl")).unwrap()
    }

    /// `start`, `restart`, `stop`, `reload`.
    pub fn ctl(&self, what: &str) {
        let log = self.directory.path().join("log");
        let mode = if matches!(what, "stop" | "restart") { "-m fast" } else { "" };
        self.as_owner("pg_ctl", &format!("-w -t 30 -l {} {mode} {what}", log.display()));
    }

    /// The directory of the Unix socket, by which the superuser `postgres` gets in without a password.
    pub fn socket(&self) -> &Path {
        self.directory.path()
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Runs SQL as superuser and gives what psql prints (unaligned, rows only).
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = Command::new("psql")
            .args(["-h", self.socket().to_str().unwrap(), "-p", &self.port.to_string()])
            .args(["-U", "postgres", "-d", database, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// A new database that belongs to [`USER`].
    pub fn database(&self, name: &str) -> String {
        let name = unique(name);
        self.sql("postgres", &format!("CREATE DATABASE \"{name}\" OWNER {USER}"));
        name
    }

    /// Client connections of [`USER`] to databases like `pattern`, and how many of them are TLS.
    pub fn connections(&self, pattern: &str) -> (u32, u32) {
        let sql = format!(
            "SELECT count(*), count(*) FILTER (WHERE ssl) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
             WHERE usename = '{USER}' AND datname LIKE '{pattern}'"
        );
        let row = self.sql("postgres", &sql);
        let (all, tls) = row.split_once('|').unwrap();
        (all.parse().unwrap(), tls.parse().unwrap())
    }

    fn as_owner(&self, program: &str, arguments: &str) {
        let line = format!("{} -D {} {arguments}", binary(program).display(), self.data().display());
        let mut command = if is_root() {
            let mut command = Command::new("su");
            command.args(["postgres", "-s", "/bin/sh", "-c", &line]);
            command
        } else {
            let mut command = Command::new("sh");
            command.args(["-c", &line]);
            command
        };
        // The directory that the tests run in may be closed to the user postgres.
        command.current_dir("/").stdout(std::process::Stdio::null());
        run(&mut command);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let line = format!("{} -D {} -m immediate stop", binary("pg_ctl").display(), self.data().display());
        let mut command = Command::new(if is_root() { "su" } else { "sh" });
        command.args(if is_root() { &["postgres", "-s", "/bin/sh", "-c"][..] } else { &["-c"] }).arg(&line);
        let _ = command.current_dir("/").output();
    }
}

/// Whether we may become the user postgres, who alone may start a server where we are root.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0).unwrap_or(false)
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// A program of PostgreSQL: Debian keeps them out of the PATH.
pub fn binary(name: &str) -> PathBuf {
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin").join(name)).collect())
        .unwrap_or_default();
    versions.sort();
    versions.into_iter().rfind(|path| path.exists()).unwrap_or_else(|| PathBuf::from(name))
}

/// A CA, and a server certificate for localhost and 127.0.0.1.
fn certificates(root: &Path) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "stagedoor test CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(root.join("ca.crt"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut server = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    server.distinguished_name.push(DnType::CommonName, "localhost");
    server.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    let issuer = Issuer::from_params(&ca, &ca_key);
    fs::write(root.join("server.crt"), server.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(root.join("ca.crl"), nobody_revoked().signed_by(&issuer).unwrap().pem().unwrap()).unwrap();
    fs::write(root.join("server.key"), key.serialize_pem()).unwrap();
    fs::set_permissions(root.join("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
}

/// A list without an entry.
fn nobody_revoked() -> CertificateRevocationListParams {
    CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2090, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

/// Waits until nobody but the superuser is connected to `database`.
pub fn until_left(postgres: &Postgres, database: &str) {
    until("the servers are closed", Duration::from_secs(10), || {
        (postgres.connections(database).0 == 0).then_some(())
    });
}
