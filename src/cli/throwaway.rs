//! A throw-away PostgreSQL for the demo: in a directory of its own, with a CA of its own, TLS only.

use std::fs;
use std::io;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::process::Child;
use tokio::process::Command;
use tokio::time::sleep;

use crate::cli::child::DemoError;
use crate::cli::child::command;
use crate::cli::child::end;
use crate::cli::child::output;
use crate::cli::child::spawn;
use crate::config::secret::Secret;

/// The superuser of the demo, and the user of "Backstage".
pub(super) const USER: &str = "backstage";

/// Where Debian puts PostgreSQL: a directory for each version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// How often and how long we ask whether something has started.
const STEP: Duration = Duration::from_millis(100);
const STEPS_MAX: usize = 300;

const OPENSSL_CONFIGURATION: &str = "[req]
distinguished_name = dn
prompt = no
[dn]
CN = stagedoor demo
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:FALSE
keyUsage = digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
";

/// A directory that is removed when it is dropped.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Self, DemoError> {
        let path = std::env::temp_dir().join(format!("stagedoor-demo-{}", std::process::id()));
        // PostgreSQL may run as another user and must pass through; what is secret in it is a file of 0600.
        fs::DirBuilder::new().mode(0o711).create(&path).map_err(|source| files(&path, source))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes the file `name`, readable by us alone.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, DemoError> {
        let path = self.path(name);
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        let written = opened.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()));
        written.map_err(|source| files(&path, source)).map(|()| path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A PostgreSQL server that runs.
#[derive(Debug)]
pub(super) struct Postgres {
    pub(super) port: u16,
    pub(super) password: Secret,
    programs: PathBuf,
    server: Child,
}

impl Postgres {
    /// Makes and starts one in `scratch`, and waits until it answers over verified TLS.
    pub(super) async fn start(scratch: &Scratch) -> Result<Self, DemoError> {
        let programs = programs();
        let owner = owner().await?;
        let password = random_password()?;
        certificates(scratch).await?;
        initialise(scratch, &programs, owner, &password).await?;
        let port = free_port()?;
        let mut server = as_owner(command(&programs.join("postgres")), owner);
        server.arg("-D").arg(scratch.path("data")).args(["-p", &port.to_string()]);
        let server = spawn(&mut server, &scratch.path("postgres.log"))?;
        let postgres = Self { port, password, programs, server };
        postgres.answers(scratch).await?;
        Ok(postgres)
    }

    /// psql straight to the server, over verified TLS.
    pub(super) fn psql_direct(&self, scratch: &Scratch) -> Command {
        let mut psql = self.psql("localhost", self.port, "postgres");
        psql.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", scratch.path("ca.crt"));
        psql
    }

    /// psql without TLS to `port` on loopback, as Backstage connects to the sidecar.
    pub(super) fn psql_plain(&self, port: u16, database: &str) -> Command {
        let mut psql = self.psql("127.0.0.1", port, database);
        psql.env("PGSSLMODE", "disable");
        psql
    }

    /// The password goes by the environment: arguments are for all to see.
    fn psql(&self, host: &str, port: u16, database: &str) -> Command {
        let mut psql = command(&self.programs.join("psql"));
        psql.args(["-X", "-A", "-t", "-F", " | ", "-v", "ON_ERROR_STOP=1", "-c"])
            .env("PGHOST", host)
            .env("PGPORT", port.to_string())
            .env("PGDATABASE", database)
            .env("PGUSER", USER)
            .env("PGPASSWORD", self.password.expose())
            .env("PGCONNECT_TIMEOUT", "10");
        psql
    }

    async fn answers(&self, scratch: &Scratch) -> Result<(), DemoError> {
        for _ in 0..STEPS_MAX {
            if output("psql", self.psql_direct(scratch).arg("SELECT 1")).await.is_ok() {
                return Ok(());
            }
            sleep(STEP).await;
        }
        let log = fs::read_to_string(scratch.path("postgres.log")).unwrap_or_default();
        Err(DemoError::Failed { what: "the start of PostgreSQL".to_owned(), output: log })
    }

    /// SIGINT is PostgreSQL's fast shutdown: sessions are ended, files are left in order.
    pub(super) async fn stop(mut self) {
        end(&mut self.server, "INT").await;
    }
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> Result<u16, DemoError> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    bound
        .map(|address| address.port())
        .map_err(|source| DemoError::Files { what: "a free port".to_owned(), source })
}

/// The newest PostgreSQL of Debian's, or nothing, which leaves it to PATH.
fn programs() -> PathBuf {
    let versions = fs::read_dir(DEBIAN).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let number = |path: &Path| path.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    versions.filter(|path| path.join("initdb").exists()).max_by_key(|path| number(path)).unwrap_or_default()
}

/// PostgreSQL refuses to run as root: then it runs as `postgres`, the user of Debian's package.
async fn owner() -> Result<Option<(u32, u32)>, DemoError> {
    let id = async |arguments: &[&str]| -> Result<u32, DemoError> {
        let printed = output("id", command(Path::new("id")).args(arguments)).await?;
        let failed = |_| DemoError::Failed { what: "id".to_owned(), output: printed.clone() };
        printed.parse().map_err(failed)
    };
    if id(&["-u"]).await? != 0 {
        return Ok(None);
    }
    Ok(Some((id(&["-u", "postgres"]).await?, id(&["-g", "postgres"]).await?)))
}

fn as_owner(mut command: Command, owner: Option<(u32, u32)>) -> Command {
    if let Some((user, group)) = owner {
        command.uid(user).gid(group);
    }
    command
}

fn give(path: &Path, owner: Option<(u32, u32)>) -> Result<(), DemoError> {
    let Some((user, group)) = owner else { return Ok(()) };
    chown(path, Some(user), Some(group)).map_err(|source| files(path, source))
}

fn random_password() -> Result<Secret, DemoError> {
    let mut bytes = [0; 18];
    let read = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|source| files(Path::new("/dev/urandom"), source))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

/// A CA (`ca.crt`) and a certificate of its for localhost (`server.crt`, `server.key`), good for two days.
async fn certificates(scratch: &Scratch) -> Result<(), DemoError> {
    scratch.write("openssl.cnf", OPENSSL_CONFIGURATION)?;
    let steps = [
        "req -x509 -config openssl.cnf -extensions ca -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
         -subj /CN=stagedoor-demo-CA -days 2 -keyout ca.key -out ca.crt",
        "req -new -config openssl.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
         -subj /CN=localhost -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
         -extfile openssl.cnf -extensions server -out server.crt",
    ];
    for step in steps {
        let mut openssl = command(Path::new("openssl"));
        openssl.current_dir(scratch.path("")).args(step.split_whitespace());
        output("openssl", &mut openssl).await?;
    }
    Ok(())
}

/// initdb, and a configuration that lets nobody in without TLS.
async fn initialise(
    scratch: &Scratch,
    programs: &Path,
    owner: Option<(u32, u32)>,
    password: &Secret,
) -> Result<(), DemoError> {
    let data = scratch.path("data");
    fs::DirBuilder::new().mode(0o700).create(&data).map_err(|source| files(&data, source))?;
    give(&data, owner)?;
    let secret = scratch.write("password", password.expose())?;
    let secret_of_owner = scratch.write("initdb-password", password.expose())?;
    give(&secret_of_owner, owner)?;
    let mut initdb = as_owner(command(&programs.join("initdb")), owner);
    initdb.current_dir("/").arg("-D").arg(&data).args(["-U", USER, "-A", "scram-sha-256", "-E", "UTF8"]);
    initdb.args(["--locale=C", "--no-sync"]).arg(format!("--pwfile={}", secret_of_owner.display()));
    output("initdb", &mut initdb).await?;
    fs::remove_file(&secret_of_owner).map_err(|source| files(&secret, source))?;
    for name in ["server.crt", "server.key"] {
        let (from, to) = (scratch.path(name), data.join(name));
        fs::copy(&from, &to).map_err(|source| files(&from, source))?;
        give(&to, owner)?;
    }
    let append = |name: &str, text: &str| {
        let path = data.join(name);
        let opened = fs::OpenOptions::new().append(true).open(&path);
        opened
            .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
            .map_err(|source| files(&path, source))
    };
    append(
        "postgresql.conf",
        "listen_addresses = 'localhost'\nunix_socket_directories = ''\nssl = on\nfsync = off\n",
    )?;
    let hba = data.join("pg_hba.conf");
    fs::write(&hba, "hostssl all all all scram-sha-256\n").map_err(|source| files(&hba, source))
}

fn files(path: &Path, source: io::Error) -> DemoError {
    DemoError::Files { what: path.display().to_string(), source }
}
