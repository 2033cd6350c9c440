//! The first words of a client: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage.

use std::io;

use thiserror::Error;

use crate::net::stream::Stream;
use crate::wire::frame::Frame;
use crate::wire::frame::LengthError;
use crate::wire::refusal::Refusal;
use crate::wire::startup;
use crate::wire::startup::Opening;
use crate::wire::startup::OpeningError;
use crate::wire::startup::Startup;

/// Before a client has proven who it is, it may not make us hold more than this.
const INBOX_BYTES_MAX: usize = 16 * 1024;

/// What a client wants.
#[derive(Debug)]
pub enum Arrival {
    Session(Startup),
    Cancel { process_id: i32, secret_key: Vec<u8> },
}

/// Why a client did not get past the door.
#[derive(Debug, Error)]
pub enum ArrivalError {
    #[error("the client closed the connection")]
    Gone,
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Opening(#[from] OpeningError),
    #[error("{0}")]
    Length(#[from] LengthError),
    #[error("more bytes than a login may have")]
    TooLong,
    /// The words of PostgreSQL (ProcessStartupPacket).
    #[error("received unencrypted data after {0} request")]
    Early(&'static str),
    #[error("a message of type {0:#04x} where a password was due")]
    Unexpected(u8),
}

impl ArrivalError {
    /// What the client is told; `None` where it would not hear it.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            // PostgreSQL tells its log only of a packet of a wrong length, a CancelRequest's among them
            // (ProcessStartupPacket).
            Self::Gone | Self::Io(_) | Self::Opening(OpeningError::Length) => None,
            Self::Opening(error @ OpeningError::Version { .. }) => {
                Some(Refusal::fatal("0A000", &error.to_string()))
            }
            Self::Opening(error @ OpeningError::NoUser) => Some(Refusal::fatal("28000", &error.to_string())),
            Self::Early(_) => Some(Refusal::fatal("08P01", &self.to_string()).detail(
                "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
            )),
            Self::Opening(_) | Self::Length(_) | Self::TooLong | Self::Unexpected(_) => {
                Some(Refusal::fatal("08P01", &self.to_string()))
            }
        }
    }
}

/// A client's stream before its session begins, with what was read and not yet understood.
#[derive(Debug)]
pub struct Doorway {
    pub stream: Stream,
    inbox: Vec<u8>,
    /// What goes to the client with what it is told next.
    owed: Vec<u8>,
}

impl Doorway {
    #[must_use]
    pub const fn new(stream: Stream) -> Self {
        Self { stream, inbox: Vec::new(), owed: Vec::new() }
    }

    /// Hears a client out until it says what it wants. Encryption is declined, as often as PostgreSQL does:
    /// each kind once.
    ///
    /// # Errors
    /// As [`ArrivalError`].
    pub async fn arrive(&mut self) -> Result<Arrival, ArrivalError> {
        let (mut ssl, mut gss) = (false, false);
        loop {
            let packet = self.packet().await?;
            match startup::parse(&packet)? {
                Opening::SslRequest if !std::mem::replace(&mut ssl, true) => self.decline("SSL").await?,
                Opening::GssEncRequest if !std::mem::replace(&mut gss, true) => {
                    self.decline("GSSAPI encryption").await?
                }
                Opening::SslRequest => return Err(OpeningError::Version { major: 1234, minor: 5679 }.into()),
                Opening::GssEncRequest => {
                    return Err(OpeningError::Version { major: 1234, minor: 5680 }.into());
                }
                Opening::Cancel { process_id, secret_key } => {
                    return Ok(Arrival::Cancel { process_id, secret_key });
                }
                Opening::Startup(startup) => return Ok(Arrival::Session(startup)),
            }
        }
    }

    /// What is sent with what the client is told next: each message of its own wakes it.
    pub fn owe(&mut self, message: &[u8]) {
        self.owed.extend_from_slice(message);
    }

    /// Sends what is owed, and `messages`.
    ///
    /// # Errors
    /// The socket's own.
    pub async fn tell(&mut self, messages: &[u8]) -> io::Result<()> {
        self.owe(messages);
        let words = std::mem::take(&mut self.owed);
        self.stream.write_all(&words).await
    }

    /// Nobody who asks for encryption says more before the answer.
    async fn decline(&mut self, encryption: &'static str) -> Result<(), ArrivalError> {
        self.tell(b"N").await?;
        if self.inbox.is_empty() { Ok(()) } else { Err(ArrivalError::Early(encryption)) }
    }

    /// A startup packet without its length.
    async fn packet(&mut self) -> Result<Vec<u8>, ArrivalError> {
        loop {
            if let Some((head, _)) = self.inbox.split_first_chunk::<4>() {
                let length = startup::length(*head)?;
                if self.inbox.len() >= length {
                    let packet: Vec<u8> = self.inbox.drain(..length).collect();
                    return Ok(packet.get(4..).unwrap_or_default().to_vec());
                }
            }
            self.read_more().await?;
        }
    }

    /// The body of the next frame, which must be a password message (`p`).
    ///
    /// # Errors
    /// As [`ArrivalError`].
    pub async fn password_message(&mut self) -> Result<Vec<u8>, ArrivalError> {
        loop {
            if let Some((frame, total)) = Frame::parse(&self.inbox)? {
                if frame.tag != b'p' {
                    return Err(ArrivalError::Unexpected(frame.tag));
                }
                let body = frame.body.to_vec();
                self.inbox.drain(..total);
                return Ok(body);
            }
            self.read_more().await?;
        }
    }

    async fn read_more(&mut self) -> Result<(), ArrivalError> {
        if self.stream.read_onto(&mut self.inbox).await? == 0 {
            return Err(ArrivalError::Gone);
        }
        if self.inbox.len() > INBOX_BYTES_MAX {
            return Err(ArrivalError::TooLong);
        }
        Ok(())
    }

    /// The stream, and what the client has already said behind its login.
    #[must_use]
    pub fn into_parts(self) -> (Stream, Vec<u8>) {
        (self.stream, self.inbox)
    }
}
