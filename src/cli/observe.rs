//! What happens when an upstream is tried, stage by stage. Facts only: `check` judges them.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::cli::login::log_in;
use crate::config::model::Address;
use crate::config::model::Config;
use crate::config::model::Upstream;
use crate::tls::certificate::Facts;

/// What `check` asks a server. The order is that of [`ServerSeen::from_row`].
pub const QUESTION: &str = "SELECT current_setting('server_version'), current_setting('server_version_num'), \
     current_setting('max_connections'), current_setting('superuser_reserved_connections'), \
     (SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user), \
     (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), \
     floor(extract(epoch FROM clock_timestamp()))::bigint, pg_is_in_recovery()";

/// How one stage went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Attempt<T> {
    Done(T),
    Failed(Trouble),
    #[default]
    NotTried,
}

/// Why a stage failed, and what to change. Both without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub reason: String,
    pub mend: String,
    /// The certificates that were shown by a server that was not believed.
    pub chain: Vec<Facts>,
}

/// Everything that was seen of one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub dns: Attempt<Vec<IpAddr>>,
    pub tcp: Attempt<String>,
    pub login: Login,
}

/// What was seen from the first byte on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// What of our own TLS would be made use of; `None` where it is none.
    pub configured: Option<Configured>,
    pub tls: Attempt<TlsSeen>,
    /// The method by which we proved ourselves.
    pub authentication: Attempt<String>,
    pub server: Attempt<ServerSeen>,
}

/// The certificates that the configuration gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// Empty where Mozilla's list is trusted.
    pub authorities: Vec<Facts>,
    pub client_certificate: Option<Facts>,
}

/// The TLS of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSeen {
    /// As configured in so many words.
    Plaintext,
    Handshake {
        /// Whether chain (and name, if the mode says so) were verified.
        verified: bool,
        version: String,
        cipher: String,
        /// What the server showed, its own certificate first.
        chain: Vec<Facts>,
    },
}

/// What the server said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSeen {
    pub version: String,
    /// 150004 is 15.4.
    pub version_number: u32,
    pub connections_max: u32,
    /// Of these, kept for superusers.
    pub connections_reserved: u32,
    pub may_create_database: bool,
    /// Client connections at this moment, those of everybody.
    pub connections_now: u32,
    /// The server's clock, in seconds since the epoch.
    pub clock: i64,
    /// A standby: read-only.
    pub in_recovery: bool,
}

impl ServerSeen {
    /// Reads the answer to [`QUESTION`]; `None` where it is not one.
    #[must_use]
    pub fn from_row(row: &[Option<String>]) -> Option<Self> {
        let [version, number, max, reserved, create, now, clock, recovery] = row else {
            return None;
        };
        Some(Self {
            version: version.clone()?,
            version_number: number.as_deref()?.parse().ok()?,
            connections_max: max.as_deref()?.parse().ok()?,
            connections_reserved: reserved.as_deref()?.parse().ok()?,
            may_create_database: create.as_deref() == Some("t"),
            connections_now: now.as_deref()?.parse().ok()?,
            clock: clock.as_deref()?.parse().ok()?,
            in_recovery: recovery.as_deref() == Some("t"),
        })
    }
}

/// Tries `upstream`, each stage within its connect time-out, and stops at the first that fails.
pub async fn observe(upstream: Arc<Upstream>, config: &Config) -> Observed {
    let mut seen = Observed::default();
    let addresses = match &upstream.address {
        Address::Unix { path } => {
            let connect = timeout(upstream.connect_timeout, UnixStream::connect(path)).await;
            seen.tcp =
                attempt(connect, |_| path.display().to_string(), "is PostgreSQL running on this machine?");
            Vec::new()
        }
        Address::Tcp { host, port } => {
            let found = timeout(upstream.connect_timeout, lookup_host((host.as_str(), *port))).await;
            let found = found.map(|result| result.map(Iterator::collect::<Vec<_>>));
            let addresses = found.as_ref().ok().and_then(|result| result.as_ref().ok()).cloned();
            let to_ips = |all: Vec<SocketAddr>| all.iter().map(SocketAddr::ip).collect();
            seen.dns =
                attempt(found, to_ips, "check the host in backend.database.connection, and the pod's DNS");
            addresses.unwrap_or_default()
        }
    };
    for address in addresses {
        let connect = timeout(upstream.connect_timeout, TcpStream::connect(address)).await;
        let mend = format!(
            "let this pod reach {address}: security group, firewall, NetworkPolicy; is the port right?"
        );
        seen.tcp = attempt(connect, |_| address.to_string(), &mend);
        if matches!(seen.tcp, Attempt::Done(_)) {
            break;
        }
    }
    if matches!(seen.tcp, Attempt::Done(_)) {
        seen.login = log_in(upstream, config).await;
    }
    seen
}

/// A result within a time-out as an attempt.
fn attempt<T, U>(
    result: Result<std::io::Result<T>, tokio::time::error::Elapsed>,
    seen: impl FnOnce(T) -> U,
    mend: &str,
) -> Attempt<U> {
    let reason = match result {
        Ok(Ok(value)) => return Attempt::Done(seen(value)),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer within stagedoor.pool.connectTimeout".to_owned(),
    };
    Attempt::Failed(Trouble { reason, mend: mend.to_owned(), chain: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::backstage::tests::config;
    use std::path::PathBuf;
    use tokio::net::TcpListener;

    async fn observed(address: Address) -> Observed {
        let config = config();
        let upstream = Upstream { address, ..(*config.upstreams[0]).clone() };
        observe(Arc::new(upstream), &config).await
    }

    #[tokio::test]
    async fn an_open_port_is_reached_and_a_closed_one_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = observed(Address::Tcp { host: "127.0.0.1".to_owned(), port }).await;
        assert_eq!(open.dns, Attempt::Done(vec![[127, 0, 0, 1].into()]));
        assert_eq!(open.tcp, Attempt::Done(format!("127.0.0.1:{port}")));
        drop(listener);
        let closed = observed(Address::Tcp { host: "127.0.0.1".to_owned(), port }).await;
        let Attempt::Failed(trouble) = closed.tcp else { panic!("{closed:?}") };
        assert!(trouble.reason.contains("refused") && trouble.mend.contains("NetworkPolicy"), "{trouble:?}");
        assert_eq!(closed.login, Login::default());
    }

    #[tokio::test]
    async fn a_name_that_is_not_there_ends_at_dns() {
        let seen = observed(Address::Tcp { host: "db.invalid".to_owned(), port: 5432 }).await;
        assert!(matches!(seen.dns, Attempt::Failed(_)), "{seen:?}");
        assert_eq!(seen.tcp, Attempt::NotTried);
    }

    #[tokio::test]
    async fn a_socket_needs_no_dns() {
        let seen = observed(Address::Unix { path: PathBuf::from("/nowhere/.s.PGSQL.5432") }).await;
        assert_eq!(seen.dns, Attempt::NotTried);
        assert!(matches!(seen.tcp, Attempt::Failed(_)));
    }

    #[test]
    fn the_row_is_read_or_refused() {
        let row =
            ["15.4", "150004", "100", "3", "t", "7", "1700000000", "f"].map(|text| Some(text.to_owned()));
        let seen = ServerSeen::from_row(&row).unwrap();
        assert_eq!(
            (seen.version_number, seen.connections_max, seen.may_create_database),
            (150_004, 100, true)
        );
        assert!(!seen.in_recovery);
        assert_eq!(ServerSeen::from_row(&row[..7]), None);
        assert_eq!(ServerSeen::from_row(&[const { None }; 8]), None);
    }
}
