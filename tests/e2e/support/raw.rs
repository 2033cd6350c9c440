//! A blocking client that speaks frames: it can say anything, and remembers every answer.

use std::collections::BTreeMap;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use postgres_protocol::authentication::sasl::ChannelBinding;
use postgres_protocol::authentication::sasl::ScramSha256;
use socket2::SockRef;

use crate::support::frames;
use crate::support::message::Message;
use crate::support::message::Reply;

/// How long one answer may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(15);

/// Whom to connect to, and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    place: Place,
    pub user: String,
    pub password: String,
    pub database: String,
    /// Further parameters of the start-up packet.
    pub parameters: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
enum Place {
    Tcp(u16),
    Unix(PathBuf),
}

impl Target {
    pub fn tcp(port: u16, user: &str, password: &str, database: &str) -> Self {
        Self::new(Place::Tcp(port), user, password, database)
    }

    pub fn unix(path: PathBuf, user: &str, password: &str, database: &str) -> Self {
        Self::new(Place::Unix(path), user, password, database)
    }

    fn new(place: Place, user: &str, password: &str, database: &str) -> Self {
        let (user, password, database) = (user.into(), password.into(), database.into());
        Self { place, user, password, database, parameters: Vec::new() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = user.into();
        self
    }

    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = password.into();
        self
    }

    /// The start-up packet of this target in protocol `version`.
    pub fn startup(&self, version: u32) -> Vec<u8> {
        let mut parameters = vec![("user", self.user.as_str()), ("database", self.database.as_str())];
        parameters.extend(self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        frames::startup(version, &parameters)
    }

    /// A connection on which nothing has been said.
    pub fn open(&self) -> std::io::Result<Client> {
        let socket: Box<dyn Socket> = match &self.place {
            Place::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Place::Unix(path) => Box::new(UnixStream::connect(path)?),
        };
        Ok(Client::new(socket, self.clone()))
    }

    /// Asks for the cancellation of whatever the client with this process id and key runs.
    pub fn cancel(&self, pid: i32, key: &[u8]) {
        let mut client = self.open().expect("a connection to cancel with");
        client.send(&frames::cancel(pid, key));
        assert_eq!(client.rest(), Vec::<u8>::new(), "a cancel request has no answer");
    }
}

/// A stream that can be told how long to wait.
trait Socket: Read + Write + Send {
    fn patience(&self, limit: Option<Duration>) -> std::io::Result<()>;
    fn writer(&self) -> std::io::Result<Box<dyn Write + Send>>;
    /// Says that nothing more will be written.
    fn finish(&self) -> std::io::Result<()>;
    /// Has the connection end in a reset, where there is such a thing.
    fn linger_not(&self) -> std::io::Result<()>;
}

impl Socket for TcpStream {
    fn finish(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn linger_not(&self) -> std::io::Result<()> {
        SockRef::from(self).set_linger(Some(Duration::ZERO))
    }

    fn writer(&self) -> std::io::Result<Box<dyn Write + Send>> {
        Ok(Box::new(self.try_clone()?))
    }

    fn patience(&self, limit: Option<Duration>) -> std::io::Result<()> {
        self.set_read_timeout(limit)
    }
}

impl Socket for UnixStream {
    fn finish(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn linger_not(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn writer(&self) -> std::io::Result<Box<dyn Write + Send>> {
        Ok(Box::new(self.try_clone()?))
    }

    fn patience(&self, limit: Option<Duration>) -> std::io::Result<()> {
        self.set_read_timeout(limit)
    }
}

/// Why a login failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    pub sqlstate: String,
    pub message: String,
    /// The whole ErrorResponse as text, to compare two of them.
    pub text: String,
}

/// A connection.
pub struct Client {
    socket: Box<dyn Socket>,
    target: Target,
    pub pid: i32,
    pub key: Vec<u8>,
    pub parameters: BTreeMap<String, String>,
    /// NegotiateProtocolVersion, if the login had one.
    pub negotiated: Option<Message>,
    /// Everything that came, as text, without what must differ between two connections (process ids and keys).
    pub transcript: Vec<String>,
}

impl Client {
    fn new(socket: Box<dyn Socket>, target: Target) -> Self {
        socket.patience(Some(PATIENCE)).expect("a time-out");
        let (parameters, transcript) = (BTreeMap::new(), Vec::new());
        Self { socket, target, pid: 0, key: Vec::new(), negotiated: None, parameters, transcript }
    }

    /// A connection that has logged in and is ready.
    ///
    /// # Errors
    /// The server's refusal, or that there is no server (then without a SQLSTATE).
    pub fn connect(target: &Target) -> Result<Self, Refused> {
        let unreachable =
            |error: std::io::Error| Refused { message: error.to_string(), ..Refused::default() };
        let mut client = target.open().map_err(unreachable)?;
        client.send(&target.startup(frames::VERSION_3_0));
        client.log_in()?;
        Ok(client)
    }

    /// Goes on after the start-up packet, until ReadyForQuery.
    ///
    /// # Errors
    /// The server's refusal.
    pub fn log_in(&mut self) -> Result<(), Refused> {
        let mut scram: Option<ScramSha256> = None;
        loop {
            let Some(message) = self.next() else {
                let message = "closed during the login".to_owned();
                return Err(Refused { message, ..Refused::default() });
            };
            match message.tag {
                b'R' => self.authenticate(&message.body, &mut scram),
                b'S' => {
                    let (name, value) = message.parameter();
                    self.parameters.insert(name, value);
                }
                b'K' => {
                    self.pid = i32::from_be_bytes(message.body[..4].try_into().unwrap());
                    self.key = message.body[4..].to_vec();
                }
                b'v' => self.negotiated = Some(message),
                b'E' => return Err(message.refused()),
                b'Z' => break,
                _ => {}
            }
        }
        // PostgreSQL promises no order here.
        self.transcript = self.parameters.iter().map(|(name, value)| format!("S {name}={value}")).collect();
        Ok(())
    }

    fn authenticate(&mut self, body: &[u8], scram: &mut Option<ScramSha256>) {
        let kind = u32::from_be_bytes(body[..4].try_into().unwrap());
        match kind {
            0 => {}
            3 => {
                let password = self.target.password.clone();
                self.send(&frames::password(password.as_bytes()));
            }
            10 => {
                let offered = String::from_utf8_lossy(&body[4..]);
                assert!(offered.contains("SCRAM-SHA-256"), "offered: {offered}");
                let exchange =
                    ScramSha256::new(self.target.password.as_bytes(), ChannelBinding::unsupported());
                self.send(&frames::sasl_initial("SCRAM-SHA-256", exchange.message()));
                *scram = Some(exchange);
            }
            11 => {
                let exchange = scram.as_mut().expect("a SASL exchange");
                exchange.update(&body[4..]).expect("a server-first-message");
                let answer = exchange.message().to_vec();
                self.send(&frames::sasl_response(&answer));
            }
            12 => {
                scram.as_mut().expect("a SASL exchange").finish(&body[4..]).expect("the server's signature")
            }
            other => panic!("authentication method {other}"),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("writing to the server");
    }

    /// The same connection, to be written to from another thread.
    pub fn writer(&self) -> Box<dyn Write + Send> {
        self.socket.writer().expect("a second handle")
    }

    /// Says that nothing more will be sent, and goes on listening.
    pub fn finish(&self) {
        self.socket.finish().expect("the end of what is said");
    }

    /// Is gone at once, with a reset (a Unix socket has none: it is closed).
    pub fn reset(self) {
        self.socket.linger_not().expect("SO_LINGER");
    }

    /// As [`Self::send`], where the other side may have gone already.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// Closes our half of the connection, where the other side has not closed all of it.
    pub fn say_no_more(&self) {
        let _ = self.socket.finish();
    }

    pub fn patience(&self, limit: Duration) {
        self.socket.patience(Some(limit)).expect("a time-out");
    }

    /// The next message, or `None` at the end of the connection.
    ///
    /// # Panics
    /// When nothing comes within the limit.
    pub fn next(&mut self) -> Option<Message> {
        let mut head = [0; 5];
        if !self.fill(&mut head) {
            return None;
        }
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        let size = usize::try_from(length).unwrap().checked_sub(4).expect("a length of at least 4");
        let mut body = vec![0; size];
        assert!(self.fill(&mut body), "the connection ended within a message");
        let message = Message { tag: head[0], body };
        if let Some(text) = message.comparable(&self.target.database) {
            self.transcript.push(text);
        }
        Some(message)
    }

    /// Fills `buffer`, or says that the connection ended before its first byte.
    fn fill(&mut self, buffer: &mut [u8]) -> bool {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.socket.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("no answer: {error}; so far: {:#?}", self.transcript),
            }
        }
        assert!(filled == 0 || filled == buffer.len(), "the connection ended within a message");
        filled == buffer.len()
    }

    /// One byte, as the answer to SSLRequest.
    pub fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.fill(&mut byte).then_some(byte[0])
    }

    /// All bytes until the other side closes.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.socket.read_to_end(&mut bytes) {
            Ok(_) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => bytes,
            Err(error) => panic!("{:?} does not close: {error}", self.target.place),
        }
    }

    /// Whether nothing comes for `time`.
    pub fn silent(&mut self, time: Duration) -> bool {
        self.patience(time);
        let mut byte = [0];
        let silent = match self.socket.read(&mut byte) {
            Ok(_) => false,
            Err(error) => {
                matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
            }
        };
        self.patience(PATIENCE);
        silent
    }

    /// Messages up to and with the next one of `tag`.
    pub fn until(&mut self, tag: u8) -> Reply {
        let mut messages = Vec::new();
        loop {
            let message = self.next().unwrap_or_else(|| panic!("closed; so far: {:#?}", self.transcript));
            let found = message.tag == tag;
            messages.push(message);
            if found {
                return Reply(messages);
            }
        }
    }

    /// Messages up to and with ReadyForQuery.
    pub fn ready(&mut self) -> Reply {
        self.until(b'Z')
    }

    /// What comes until the end of the connection.
    pub fn last_words(&mut self) -> Reply {
        Reply(std::iter::from_fn(|| self.next()).collect())
    }

    /// Query with this text, whatever comes of it.
    pub fn query(&mut self, sql: &str) -> Reply {
        self.send(&frames::query(sql));
        self.ready()
    }

    /// Query with this text, which must succeed: the rows, columns joined by `|`.
    pub fn rows(&mut self, sql: &str) -> Vec<String> {
        let reply = self.query(sql);
        if let Some(error) = reply.error() {
            panic!("{sql}: {error:?}");
        }
        reply.rows_text()
    }

    /// The single value of a query that must succeed.
    pub fn value(&mut self, sql: &str) -> String {
        let rows = self.rows(sql);
        assert_eq!(rows.len(), 1, "{sql}");
        rows.into_iter().next().unwrap()
    }

    /// Query with this text, which must fail: its SQLSTATE.
    pub fn error(&mut self, sql: &str) -> String {
        self.query(sql).error().unwrap_or_else(|| panic!("{sql}: no error")).sqlstate
    }

    /// The extended protocol's usual round: Parse, Bind, Describe, Execute, Sync, all unnamed.
    pub fn extended(&mut self, sql: &str, values: &[Option<&str>]) -> Reply {
        self.send(
            &[
                frames::parse("", sql, &[]),
                frames::bind("", "", values),
                frames::describe(b'P', ""),
                frames::execute("", 0),
                frames::sync(),
            ]
            .concat(),
        );
        self.ready()
    }

    /// The backend's real process id.
    pub fn backend(&mut self) -> String {
        self.value("select pg_backend_pid()")
    }

    /// Says Terminate and waits for the end of the connection.
    pub fn leave(mut self) {
        if self.try_send(&frames::terminate()) {
            self.rest();
        }
    }

    pub fn target(&self) -> &Target {
        &self.target
    }
}
