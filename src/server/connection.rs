//! One connection to PostgreSQL: the socket, what the server has been told, and questions of our own to it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;
use tokio::time::timeout;

use crate::net::stream::Stream;
use crate::server::cancel::CancelTarget;
use crate::server::connect::Connected;
use crate::server::connect::Dialer;
use crate::server::holders::Holders;
use crate::session::parameters::Parameters;
use crate::session::probe::Answer;
use crate::session::probe::PROBE;
use crate::session::reported::Reported;
use crate::session::state::ServerState;
use crate::session::transaction::Transaction;
use crate::wire::backend::parameter_status;
use crate::wire::backend::tag;
use crate::wire::frame::Frame;
use crate::wire::frame::LengthError;
use crate::wire::message;
use crate::wire::message::TERMINATE;
use crate::wire::refusal::Refusal;

/// What an answer to a question of ours may hold at most; a probe's has a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// How long a server may take for a question of ours before it is given up.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a closing server is waited for: its place in the budget is free when it is gone.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A server connection between login and goodbye.
#[derive(Debug)]
pub struct Server {
    pub stream: Stream,
    pub state: ServerState,
    /// What a CancelRequest must name.
    pub target: Arc<CancelTarget>,
    /// Which client holds which server of this upstream; its pool's.
    pub holders: Arc<Holders>,
    /// Its own entry there.
    holder: Arc<AtomicI32>,
    /// How often definitions have changed on this upstream, as far as clients of ours changed them.
    pub schema: Arc<AtomicU64>,
    /// How often it was changed what sessions of this upstream begin with, likewise.
    pub defaults: Arc<AtomicU64>,
    /// The label of its metrics.
    pub database: String,
    /// How many statements it keeps prepared, as it was last given back: to be looked at from elsewhere.
    pub statements: Arc<AtomicUsize>,
    pub opened: Instant,
    /// When its lifetime ends.
    pub expires: Instant,
    /// Nothing more reaches it: it was told that no more will come, or could not be written to. It ends, although it may
    /// say that it is ready before it does.
    pub ends: bool,
}

/// Why a question of ours had no answer.
#[derive(Debug, Error)]
pub enum ExchangeError {
    #[error("the server refused: {0}")]
    Refused(Refusal),
    #[error("the server closed the connection")]
    Closed,
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("the server broke the protocol: {0}")]
    Length(#[from] LengthError),
    #[error("the server's answer is not one to the question")]
    Nonsense,
    #[error("the server did not answer within {EXCHANGE_TIMEOUT:?}")]
    TimedOut,
}

impl ExchangeError {
    /// Whether the server has ended, or might as well have: another one may do better.
    #[must_use]
    pub fn is_of_the_server(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_fatal(),
            Self::Closed | Self::Io(_) | Self::TimedOut => true,
            Self::Length(_) | Self::Nonsense => false,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.holders.leave(self.target.process_id, &self.holder);
    }
}

impl Server {
    /// Makes a server of a fresh login: learns who it is.
    ///
    /// # Errors
    /// Where the first probe has no answer.
    pub async fn new(
        connected: Connected,
        dialer: Arc<Dialer>,
        database: &str,
        lifetime: Duration,
    ) -> Result<Self, ExchangeError> {
        let mut reported = Reported::default();
        for (name, value) in &connected.parameters {
            reported.set(name, value.as_bytes());
        }
        let opened = Instant::now();
        let mut server = Self {
            stream: connected.stream,
            state: ServerState::new(reported.clone(), Answer::default(), Parameters::none()),
            target: Arc::new(CancelTarget::new(
                dialer,
                connected.peer,
                connected.process_id,
                connected.secret_key,
            )),
            holders: Arc::default(),
            holder: Arc::default(),
            schema: Arc::default(),
            defaults: Arc::default(),
            database: database.to_owned(),
            statements: Arc::default(),
            opened,
            expires: opened + lifetime,
            ends: false,
        };
        let answer = server.probe(PROBE.as_bytes(), &mut Vec::new()).await?;
        server.state = ServerState::new(reported, answer, connected.startup);
        Ok(server)
    }

    /// It is one of those of `holders`.
    pub fn enter(&mut self, holders: &Arc<Holders>) {
        self.holder = holders.enter(self.target.process_id);
        self.holders = holders.clone();
    }

    /// The client with the process id `holder` takes it.
    pub fn held_by(&self, holder: i32) {
        self.holder.store(holder, Ordering::Relaxed);
    }

    /// Learns what others have defined.
    pub fn look_at_definitions(&mut self) {
        self.state.schema_is(self.schema.load(Ordering::Relaxed));
    }

    /// Lets others know where this server's client may have defined something, or what sessions begin with.
    pub fn share_definitions(&mut self) {
        if self.state.has_defined() {
            self.schema.fetch_add(1, Ordering::Relaxed);
        }
        if self.state.has_altered_defaults() {
            self.defaults.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks what the session holds. The bodies of notifications that come meanwhile are put into `aside`.
    ///
    /// # Errors
    /// Where there is no answer; the server must not be used on.
    pub async fn probe(
        &mut self,
        question: &[u8],
        aside: &mut Vec<Vec<u8>>,
    ) -> Result<Answer, ExchangeError> {
        let rows = self.exchange(question, aside).await?;
        Answer::read(rows.iter().map(Vec::as_slice)).ok_or(ExchangeError::Nonsense)
    }

    /// Sends a simple Query of ours and gathers the rows of its answer.
    ///
    /// Not cancel-safe: where the future is dropped, the server must be closed.
    ///
    /// # Errors
    /// As [`ExchangeError`]. After `Refused` the server is idle again.
    pub async fn exchange(
        &mut self,
        sql: &[u8],
        aside: &mut Vec<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>, ExchangeError> {
        let mut question = self.state.asked();
        message::push_frame(&mut question, b'Q', &[sql, b"\0"]);
        let answer = async {
            self.stream.write_all(&question).await?;
            self.gather(aside).await
        };
        timeout(EXCHANGE_TIMEOUT, answer).await.unwrap_or(Err(ExchangeError::TimedOut))
    }

    async fn gather(&mut self, aside: &mut Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, ExchangeError> {
        let mut buffer = Vec::new();
        let (mut rows, mut refusal, mut ready) = (Vec::new(), None, None);
        loop {
            while let Some((frame, total)) = Frame::parse(&buffer)? {
                match frame.tag {
                    tag::DATA_ROW => rows.push(frame.body.to_vec()),
                    tag::ERROR => refusal = refusal.or_else(|| Some(Refusal::verbatim(frame.body))),
                    tag::PARAMETER_STATUS => self.note_parameter(frame.body),
                    tag::NOTIFICATION => aside.push(frame.body.to_vec()),
                    tag::READY_FOR_QUERY => ready = frame.body.first().copied(),
                    _ => {}
                }
                buffer.drain(..total);
            }
            // A notification may stand right behind ReadyForQuery, and not be here whole yet.
            if let Some(status) = ready.filter(|_| buffer.is_empty()) {
                return match refusal {
                    Some(refusal) => Err(ExchangeError::Refused(refusal)),
                    None if Transaction::from_status(status) == Some(Transaction::Idle) => Ok(rows),
                    None => Err(ExchangeError::Nonsense),
                };
            }
            self.read_more(&mut buffer).await?;
        }
    }

    async fn read_more(&mut self, buffer: &mut Vec<u8>) -> Result<(), ExchangeError> {
        if self.stream.read_onto(buffer).await? == 0 {
            return Err(ExchangeError::Closed);
        }
        if buffer.len() > ANSWER_BYTES_MAX {
            return Err(ExchangeError::Nonsense);
        }
        Ok(())
    }

    fn note_parameter(&mut self, body: &[u8]) {
        if let Some((name, value)) = parameter_status(body) {
            self.state.reported.set(name, value);
        }
    }

    /// Whether an idle server is still there. Costs no system call unless it has said something: then that is
    /// read (a changed setting is noted, a goodbye means no).
    pub fn is_alive(&mut self) -> bool {
        if self.stream.is_quiet() {
            return true;
        }
        let mut context = Context::from_waker(Waker::noop());
        let mut chunk = [0; 4096];
        let mut said = Vec::new();
        loop {
            match self.stream.poll_read(&mut context, &mut chunk) {
                Poll::Pending => return self.heard(&said),
                Poll::Ready(Ok(count)) if count > 0 && said.len() < ANSWER_BYTES_MAX => {
                    said.extend_from_slice(chunk.get(..count).unwrap_or_default());
                }
                Poll::Ready(_) => return false,
            }
        }
    }

    /// Notes what an idle server said. Nobody listens here, so a stray notification is for nobody.
    fn heard(&mut self, mut said: &[u8]) -> bool {
        while let Ok(Some((frame, total))) = Frame::parse(said) {
            match frame.tag {
                tag::PARAMETER_STATUS => self.note_parameter(frame.body),
                tag::NOTICE | tag::NOTIFICATION => {}
                _ => return false,
            }
            said = said.get(total..).unwrap_or_default();
        }
        said.is_empty()
    }

    /// Says goodbye and waits until the server is gone, or for a short time. Boxed, because a server is large, and
    /// whoever makes room for another may be any client.
    pub fn close(mut self) -> Pin<Box<impl Future<Output = ()> + Send>> {
        Box::pin(async move {
            let gone = async {
                if self.stream.write_all(TERMINATE).await.is_err() {
                    return; // It is gone already.
                }
                // Whatever fails here: the end of the stream tells.
                let _ = self.stream.shutdown().await;
                let mut chunk = [0; 512];
                while matches!(self.stream.read(&mut chunk).await, Ok(count) if count > 0) {}
            };
            // The socket is dropped next, and that ends the connection as well.
            let _ = timeout(CLOSE_TIMEOUT, gone).await;
        })
    }
}
