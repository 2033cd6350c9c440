//! What the program may rely on: the configuration after every rule has been applied.
//! Inert values; nothing here reads a file or the environment.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::secret::Secret;

/// The whole configuration of one sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub listen: Listen,
    /// Every distinct PostgreSQL address with its TLS and authentication policy.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Where clients go. The first entry that matches wins; the base route is the last.
    pub routes: Vec<Arc<Route>>,
    pub reload: Reload,
    pub admin: Admin,
    pub shutdown: Shutdown,
    pub log: Log,
    /// What an operator should know although it is not an error (insecure modes, quirks of Backstage).
    pub warnings: Vec<String>,
}

/// The local side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// `stagedoor.listen.host`. For 127.0.0.1, `::1` is bound too where the machine has it.
    pub host: IpAddr,
    /// `stagedoor.listen.port`. 0 lets the system choose (tests).
    pub port: u16,
    /// Directory in which the Unix socket `.s.PGSQL.<port>` is made, mode 0600.
    pub socket: Option<PathBuf>,
    pub auth: ClientAuth,
    /// Most clients at a time; the next one is told 53300.
    pub clients_max: usize,
    /// How long a client may take from accept until it has proven itself.
    pub login_timeout: Duration,
}

/// How a client proves to us that it knows the configured password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    Scram,
    Password,
    Trust,
}

/// A PostgreSQL address with its TLS and authentication policy, and the budget of connections to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// `host:port`, the `upstream` label of metrics and logs.
    pub name: String,
    pub address: Address,
    pub tls: TlsPolicy,
    pub auth: AuthPolicy,
    /// `stagedoor.pool.maxServers`: the most server connections, all databases together.
    pub servers_max: usize,
    pub connect_timeout: Duration,
}

/// Where an upstream listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp {
        host: String,
        port: u16,
    },
    /// A Unix socket (only with `stagedoor.tls.mode: insecure-plaintext`).
    Unix {
        path: PathBuf,
    },
}

/// How an upstream is verified. See ARCHITECTURE.md, "TLS and secrets".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPolicy {
    pub mode: TlsMode,
    pub version_min: TlsVersion,
    pub roots: Roots,
    pub client_certificate: Option<ClientCertificate>,
    /// The name to verify and to send as SNI, where it is not the host (`ssl.servername`).
    pub server_name: Option<String>,
    pub negotiation: Negotiation,
    /// PEM texts of certificate revocation lists.
    pub crls: Vec<Pem>,
    pub channel_binding: ChannelBinding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    VerifyFull,
    VerifyCa,
    InsecureNoVerify,
    InsecurePlaintext,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negotiation {
    /// SSLRequest first, as every PostgreSQL understands.
    Postgres,
    /// ClientHello at once with ALPN `postgresql` (PostgreSQL 17 and later).
    Direct,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// Which certificate authorities are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Mozilla's list, which is Node's own, and what `NODE_EXTRA_CA_CERTS` adds to it.
    Public { extra: Vec<Pem> },
    /// `ssl.ca`: these and no others.
    Only(Vec<Pem>),
}

/// Text in PEM form and where it came from, for errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pem {
    pub text: String,
    /// A file's path, or the key of the configuration.
    pub origin: String,
}

/// `ssl.cert` and `ssl.key`: the whole chain, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    pub chain: Pem,
    pub key: Secret,
    pub key_origin: String,
}

/// What we are willing to answer when a server asks us to prove ourselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthPolicy {
    /// `stagedoor.auth.allow`; SCRAM-SHA-256(-PLUS) is always allowed.
    pub allow: BTreeSet<AuthMethod>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthMethod {
    Md5,
    /// Cleartext, over verified TLS only.
    Password,
    /// AuthenticationOk without having been asked for anything.
    Trust,
}

/// Where a client goes that arrives on `port` with a certain user and database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `None` for the base connection.
    pub plugin: Option<String>,
    pub upstream: Arc<Upstream>,
    pub user: String,
    /// What the client must know, and what we prove to PostgreSQL. Without one only `trust` works on
    /// either side (client certificates upstream).
    pub password: Option<Secret>,
    /// Whether the password stands in a file, which is watched: what the environment says is said for good.
    pub rotates: bool,
    /// Databases that belong to this route: one, or any.
    pub database: DatabaseRule,
    /// `stagedoor.listen.plugins.<id>.port`: a port of its own, if this route has one.
    pub port: Option<u16>,
    /// How a database's plugin is found, for labels.
    pub label: PluginLabel,
    pub pool: PoolPolicy,
    /// Policies of plugins that share this route, by plugin id (`stagedoor.pool.plugins.<id>`).
    pub plugins: Vec<(String, PoolPolicy)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseRule {
    Any,
    Only(String),
}

impl DatabaseRule {
    /// A database to try a login with, where no client has named one: `postgres` is there on every server,
    /// and Backstage itself begins with it.
    #[must_use]
    pub fn to_try(&self) -> &str {
        match self {
            Self::Any => "postgres",
            Self::Only(database) => database,
        }
    }
}

/// How the plugin of a connection is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginLabel {
    /// `pluginDivisionMode: database`: what follows the prefix in the database's name.
    DatabasePrefix(String),
    /// `pluginDivisionMode: schema`: what follows `backstage_plugin_` in `application_name`.
    ApplicationName,
    /// Always this plugin.
    Fixed(String),
}

/// How the pools of a route behave. The budget belongs to the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPolicy {
    pub mode: PoolMode,
    /// The most servers of one pool (database and user), within the budget.
    pub servers_max: usize,
    pub idle_min: usize,
    pub idle_timeout: Duration,
    /// With jitter, so that servers of one start do not end together.
    pub lifetime_max: Duration,
    /// How long a client may wait for a server, failover included.
    pub acquire_timeout: Duration,
    pub watch: Watch,
}

/// What the operator knows of functions whose bodies no text shows (`pool.watch`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Functions that may change the session: after a text that names one, the server is asked.
    pub functions: Vec<String>,
    /// Settings of the form `a.b` that they set: no view of PostgreSQL's shows them all, so each is asked for.
    pub settings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolMode {
    Transaction,
    Session,
}

/// How changed files are noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// `stagedoor.reload.interval`: how often the files are looked at.
    pub interval: Duration,
}

/// Metrics, health and status over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    pub host: IpAddr,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    pub grace_period: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `None`: text when stderr is a terminal, else JSON.
    pub format: Option<LogFormat>,
    pub level: LogLevel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}
