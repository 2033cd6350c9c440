//! From an upstream's policy to a server that is ready for its first query.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio::time::timeout;

use crate::auth::prover::ProofError;
use crate::auth::prover::Standing;
use crate::config::model::Address;
use crate::config::model::Negotiation;
use crate::config::model::TlsMode;
use crate::config::model::Upstream;
use crate::config::secret::Secret;
use crate::net::dial;
use crate::net::stream::Stream;
use crate::server::startup::Greeting;
use crate::server::startup::Startup;
use crate::server::startup::Step;
use crate::session::parameters::Parameters;
use crate::tls::certificate::Facts;
use crate::tls::connector::Connector;
use crate::tls::connector::TlsFacts;
use crate::tls::error::HandshakeError;
use crate::tls::error::TlsError;
use crate::tls::error::alert;
use crate::wire::refusal::Refusal;

/// How far a connect had come. The `stage` label of `stagedoor_connect_failures_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Dns,
    Tcp,
    Tls,
    Auth,
    Startup,
}

impl Stage {
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Startup => "startup",
        }
    }
}

/// Why there is no connection.
#[derive(Debug, Error)]
#[error("{text}")]
pub struct ConnectError {
    pub stage: Stage,
    text: String,
    retryable: bool,
    /// PostgreSQL said it, over a connection that is as it must be.
    told: bool,
    refusal: Refusal,
    /// The certificates of a server that was not believed, its own first.
    pub chain: Vec<Facts>,
    /// The session, where it came to one.
    pub tls: Option<Box<TlsFacts>>,
}

impl ConnectError {
    /// Whether it may pass by itself: a refused connection, a time-out, a server that is starting or full.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// Whether it says something of the upstream itself, which cannot be reached or is not verified, refuses our password
    /// or serves nobody. Anything else that PostgreSQL says is about what this one client asked for.
    #[must_use]
    pub fn is_upstreams(&self) -> bool {
        !self.told || matches!(self.refusal.sqlstate(), "28P01" | "57P01" | "57P02" | "57P03")
    }

    /// Whether the server refused the password that it was given, and said so itself.
    #[must_use]
    pub fn is_wrong_password(&self) -> bool {
        self.told && self.refusal.sqlstate() == "28P01"
    }

    /// What a client is told: PostgreSQL's own words where it gave any.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        self.refusal.clone()
    }

    /// What will not pass by itself.
    pub(crate) fn refused(stage: Stage, sqlstate: &str, text: &str) -> Self {
        let refusal = Refusal::fatal(sqlstate, &format!("stagedoor: {text}"));
        Self {
            stage,
            text: text.to_owned(),
            retryable: false,
            told: false,
            refusal,
            chain: Vec::new(),
            tls: None,
        }
    }

    /// What may pass by itself.
    fn passing(stage: Stage, text: &str) -> Self {
        Self { retryable: true, ..Self::refused(stage, "08006", text) }
    }

    /// Nothing came of `stage` within `limit`.
    pub(crate) fn timed_out(stage: Stage, limit: Duration) -> Self {
        Self::passing(stage, &format!("no answer within {limit:?} ({})", stage.label()))
    }

    fn of_handshake(error: HandshakeError) -> Self {
        let HandshakeError { reason, is_passing, chain } = error;
        let failed = if is_passing {
            Self::passing(Stage::Tls, &reason)
        } else {
            Self::refused(Stage::Tls, "08001", &reason)
        };
        Self { chain, ..failed }
    }

    /// PostgreSQL said it.
    pub(crate) fn told(stage: Stage, body: &[u8]) -> Self {
        let Some(refusal) = Refusal::well_formed(body) else {
            return Self::refused(
                stage,
                "08P01",
                "the server broke the protocol: an error that cannot be read",
            );
        };
        let retryable = matches!(refusal.sqlstate(), "57P03" | "53300" | "57P01" | "57P02");
        let text = format!("the server says {refusal}");
        Self { retryable, told: true, refusal, ..Self::refused(stage, "", &text) }
    }

    pub(crate) fn at(mut self, upstream: &str) -> Self {
        self.text = format!("{upstream}: {}", self.text);
        self
    }
}

/// A server that is ready for its first query.
#[derive(Debug)]
pub struct Connected {
    pub stream: Stream,
    /// By what we proved ourselves: `SCRAM-SHA-256-PLUS` and the like.
    pub method: &'static str,
    pub process_id: i32,
    pub secret_key: Vec<u8>,
    /// ParameterStatus up to the first ReadyForQuery.
    pub parameters: Vec<(String, String)>,
    /// The settings that it was asked to begin with.
    pub startup: Parameters,
    /// `None` where the upstream is plaintext by order.
    pub tls: Option<TlsFacts>,
    /// `None` for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// From the first look at the name to ReadyForQuery.
    pub took: Duration,
}

/// Connects to one upstream, by one immutable policy.
#[derive(Debug)]
pub struct Dialer {
    pub upstream: Arc<Upstream>,
    /// `None` where the upstream is plaintext by order.
    pub connector: Option<Connector>,
}

/// A secured stream, before anything of the protocol was said.
pub(crate) struct Secured {
    pub(crate) stream: Stream,
    pub(crate) tls: Option<TlsFacts>,
    pub(crate) peer: Option<SocketAddr>,
    binding: Option<Vec<u8>>,
}

impl Dialer {
    /// Prepares certificates and keys.
    ///
    /// # Errors
    /// What of them cannot be used.
    pub fn new(upstream: Arc<Upstream>) -> Result<Self, TlsError> {
        let connector = match (&upstream.address, upstream.tls.mode) {
            (Address::Unix { .. }, TlsMode::InsecurePlaintext) | (_, TlsMode::InsecurePlaintext) => None,
            (Address::Unix { path }, _) => {
                let reason = format!(
                    "{} is a Unix socket, which has no TLS. Set stagedoor.tls.mode to insecure-plaintext to allow it",
                    path.display()
                );
                return Err(TlsError::Settings { reason });
            }
            (Address::Tcp { host, .. }, _) => Some(Connector::new(&upstream.tls, host)?),
        };
        Ok(Self { upstream, connector })
    }

    /// Logs in, with the settings that the server gives of itself.
    ///
    /// # Errors
    /// As [`ConnectError`], within the upstream's connect time-out.
    pub async fn connect(
        &self,
        database: &str,
        user: &str,
        password: Option<&Secret>,
    ) -> Result<Connected, ConnectError> {
        self.connect_with(&Parameters::none(), database, user, password).await
    }

    /// Logs in, with the settings `startup` to begin with.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_with(
        &self,
        startup: &Parameters,
        database: &str,
        user: &str,
        password: Option<&Secret>,
    ) -> Result<Connected, ConnectError> {
        let began = Instant::now();
        let (mut stage, mut tls) = (Stage::Dns, None);
        let login = async {
            let secured = self.secure(None, &mut stage).await?;
            stage = Stage::Auth;
            tls = secured.tls.clone().map(Box::new);
            self.log_in(secured, (database, user), password, startup, began).await
        };
        let limit = self.upstream.connect_timeout;
        // Boxed: it needs far more room than whoever waits for it, and that may be any client.
        let outcome = timeout(limit, Box::pin(login)).await;
        outcome
            .unwrap_or_else(|_| Err(ConnectError::timed_out(stage, limit)))
            .map_err(|error| ConnectError { tls, ..error.at(&self.upstream.name) })
    }

    /// Dials and secures. `peer` is dialled instead of what the name means now, where it is given.
    pub(crate) async fn secure(
        &self,
        peer: Option<SocketAddr>,
        stage: &mut Stage,
    ) -> Result<Secured, ConnectError> {
        let socket = match &self.upstream.address {
            Address::Unix { path } => {
                *stage = Stage::Tcp;
                let socket = UnixStream::connect(path).await.map_err(|error| tcp_failed(&error))?;
                return Ok(Secured { stream: Stream::unix(socket), tls: None, peer: None, binding: None });
            }
            Address::Tcp { host, port } => {
                let addresses = match peer {
                    Some(peer) => vec![peer],
                    None => dial::resolve(host, *port).await.map_err(|error| dns_failed(host, &error))?,
                };
                *stage = Stage::Tcp;
                dial::connect(&addresses).await.map_err(|error| tcp_failed(&error))?
            }
        };
        let peer = socket.peer_addr().ok();
        *stage = Stage::Tls;
        let Some(connector) = &self.connector else {
            return Ok(Secured { stream: Stream::tcp(socket), tls: None, peer, binding: None });
        };
        let socket = match self.upstream.tls.negotiation {
            Negotiation::Postgres => ask_for_tls(socket).await?,
            Negotiation::Direct => socket,
        };
        let session = connector.connect(socket).await.map_err(ConnectError::of_handshake)?;
        let stream = Stream::tls(session.stream);
        Ok(Secured { stream, tls: Some(session.facts), peer, binding: session.binding })
    }

    async fn log_in(
        &self,
        secured: Secured,
        (database, user): (&str, &str),
        password: Option<&Secret>,
        startup: &Parameters,
        began: Instant,
    ) -> Result<Connected, ConnectError> {
        let Secured { mut stream, tls, peer, binding } = secured;
        let standing = Standing {
            user,
            password,
            policy: &self.upstream.auth,
            channel_binding: self.upstream.tls.channel_binding,
            binding,
            verified: tls.as_ref().is_some_and(|tls| tls.verified),
            is_tls: tls.is_some(),
            has_client_certificate: self.upstream.tls.client_certificate.is_some() && tls.is_some(),
        };
        let said = stream.write_all(&startup_message(database, user, startup)).await;
        said.map_err(|error| connection_failed(Stage::Auth, &error))?;
        let Greeting { method, process_id, secret_key, parameters } =
            start_up(&mut stream, Startup::new(standing)).await?;
        let (startup, took) = (startup.clone(), began.elapsed());
        Ok(Connected { stream, method, process_id, secret_key, parameters, startup, tls, peer, took })
    }
}

/// Does what a start-up says, until the server is ready.
async fn start_up(stream: &mut Stream, mut startup: Startup<'_>) -> Result<Greeting, ConnectError> {
    let mut next = startup.step()?;
    loop {
        let stage = startup.stage();
        let failed = |error: io::Error| connection_failed(stage, &error);
        next = match next {
            Step::Ready(greeting) => return Ok(greeting),
            Step::Send(bytes) => {
                stream.write_all(&bytes).await.map_err(failed)?;
                startup.step()?
            }
            Step::Read => {
                let mut said = Vec::new();
                if stream.read_onto(&mut said).await.map_err(failed)? == 0 {
                    let text = "the server closed the connection during the login";
                    return Err(ConnectError::passing(stage, text));
                }
                startup.receive(&said)?;
                startup.step()?
            }
            // Many rounds, if the server likes: off the reactor.
            Step::Derive(derivation) => {
                let derived = spawn_blocking(move || derivation.run()).await;
                startup.answer(derived.unwrap_or_else(|error| Err(ProofError::Scram(error.to_string()))))?
            }
        };
    }
}

fn connection_failed(stage: Stage, error: &io::Error) -> ConnectError {
    match alert(error) {
        Some(why) => ConnectError::refused(Stage::Tls, "08001", &why),
        None => ConnectError::passing(stage, &format!("the connection failed: {error}")),
    }
}

fn dns_failed(host: &str, error: &io::Error) -> ConnectError {
    ConnectError::passing(Stage::Dns, &format!("the name \"{host}\" cannot be resolved: {error}"))
}

fn tcp_failed(error: &io::Error) -> ConnectError {
    ConnectError::passing(Stage::Tcp, &format!("connecting failed: {error}"))
}

/// SSLRequest. Whatever is not a plain yes ends the connection: never plaintext.
async fn ask_for_tls(socket: TcpStream) -> Result<TcpStream, ConnectError> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    let mut stream = Stream::tcp(socket);
    let failed =
        |error: io::Error| ConnectError::passing(Stage::Tls, &format!("asking for TLS failed: {error}"));
    stream.write_all(&SSL_REQUEST).await.map_err(failed)?;
    let mut answer = [0];
    let count = stream.read(&mut answer).await.map_err(failed)?;
    let refused = |text: &str| Err(ConnectError::refused(Stage::Tls, "08001", text));
    match (count, answer) {
        (0, _) => Err(ConnectError::passing(
            Stage::Tls,
            "the server closed the connection when it was asked for TLS",
        )),
        (_, [b'S']) => {
            // Bytes behind the answer, in plaintext, are somebody else's (CVE-2021-23222).
            if stream.holds_unread() {
                return refused(
                    "the server sent bytes behind its answer to SSLRequest, before TLS began: somebody may be on the wire",
                );
            }
            stream.into_tcp().ok_or_else(|| ConnectError::passing(Stage::Tls, "not a TCP connection"))
        }
        (_, [b'N']) => refused(
            "the server does not offer TLS, and nothing is sent in plaintext. Switch ssl on in postgresql.conf, \
             or, if it must be, set stagedoor.tls.mode to insecure-plaintext",
        ),
        (_, [b'E']) => {
            refused("the server answered SSLRequest with an error, which cannot be trusted to be its own")
        }
        (_, [other]) => refused(&format!(
            "the server answered SSLRequest with the byte {other:#04x}: not a PostgreSQL server?"
        )),
    }
}

fn startup_message(database: &str, user: &str, startup: &Parameters) -> Vec<u8> {
    let mut body = 0x0003_0000_u32.to_be_bytes().to_vec();
    let own = [("user", user.as_bytes()), ("database", database.as_bytes())];
    for (name, value) in own.into_iter().chain(startup.iter()) {
        for text in [name.as_bytes(), value] {
            body.extend(text.iter().filter(|&&byte| byte != 0));
            body.push(0);
        }
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes();
    [&length, body.as_slice()].concat()
}

/// A CancelRequest.
#[must_use]
pub(crate) fn cancel_request(process_id: i32, secret_key: &[u8]) -> Vec<u8> {
    const CODE: [u8; 4] = 80_877_102_u32.to_be_bytes();
    let length = u32::try_from(12 + secret_key.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length, &CODE, &process_id.to_be_bytes(), secret_key].concat()
}
