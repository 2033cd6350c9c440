//! TLS over TCP, driven by hand: read in large pieces that are decrypted where they lie, and written in as few system
//! calls as can be.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use rustls::ClientConfig;
use rustls::CommonState;
use rustls::client::ClientConnectionData;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::AppDataRecord;
use rustls::unbuffered::ConnectionState;
use rustls::unbuffered::EncodeError;
use rustls::unbuffered::EncodeTlsData;
use rustls::unbuffered::EncryptError;
use rustls::unbuffered::InsufficientSizeError;
use rustls::unbuffered::UnbufferedStatus;
use rustls::unbuffered::WriteTraffic;
use tokio::io::AsyncRead as _;
use tokio::io::AsyncWrite as _;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

/// What is read from a socket at a time, and held until a record of it is whole. A record has at most 18 437 bytes
/// (RFC 5246, 6.2.3), and a handshake message is at most 64 KiB long, says the library.
const CIPHERTEXT_BYTES: usize = 128 * 1024;

/// The least that is asked for, so that a small reader does not have a record come in small pieces.
const READ_BYTES_MIN: usize = 20 * 1024;

/// Plaintext that is encrypted at a time, and ciphertext that may wait before no more is taken.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// What a stream that has nothing to send keeps to write into.
const OUTGOING_BYTES_KEPT: usize = 8 * 1024;

/// What records add to a plaintext of [`UNSENT_BYTES_MAX`] at most: 4 records, 5 + 8 + 256 bytes each.
const OVERHEAD_BYTES: usize = 2 * 1024;

thread_local! {
    /// Where ciphertext is read to and decrypted. Streams share it, for nobody keeps anything in it: what is not
    /// decrypted at once is put aside.
    static CIPHERTEXT: RefCell<Vec<u8>> = RefCell::new(vec![0; CIPHERTEXT_BYTES]);
}

/// A TLS connection, ours the client's end.
pub struct TlsStream {
    socket: TcpStream,
    session: UnbufferedClientConnection,
    /// Ciphertext that is not decrypted yet: the beginning of a record, most likely. Unallocated while there is none.
    /// The session counts in it from its beginning, and must see it whole, whatever it is asked for.
    ciphertext: Vec<u8>,
    /// There are whole records in it: a reader had no room for them.
    unread: bool,
    /// Plaintext for which its reader had no room: less than a record.
    plaintext: Vec<u8>,
    taken: usize,
    /// What is to be sent lies between `sent` and `made`; behind that is room.
    outgoing: Vec<u8>,
    sent: usize,
    made: usize,
    /// The peer has said that it is done.
    closed: bool,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl TlsStream {
    /// Does the handshake.
    ///
    /// # Errors
    /// The socket's own, or a [`rustls::Error`] in one of kind `InvalidData`; the peer has been told then.
    pub(super) async fn connect(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        socket: TcpStream,
    ) -> io::Result<Self> {
        let mut stream = Self {
            socket,
            session: UnbufferedClientConnection::new(config, name).map_err(invalid)?,
            ciphertext: Vec::new(),
            unread: false,
            plaintext: Vec::new(),
            taken: 0,
            outgoing: Vec::new(),
            sent: 0,
            made: 0,
            closed: false,
        };
        let shaken = poll_fn(|cx| stream.poll_handshake(cx)).await;
        if let Err(error) = shaken {
            // The alert. That it could not be sent is not worth more than why it is.
            let _ = poll_fn(|cx| stream.poll_flush(cx)).await;
            return Err(error);
        }
        Ok(stream)
    }

    /// What was agreed on.
    pub(super) fn session(&self) -> &CommonState {
        &self.session
    }

    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The first words are ours.
        self.decrypt(&mut [], &mut [])?;
        loop {
            ready!(self.poll_flush(cx))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if self.closed {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            ready!(CIPHERTEXT.with_borrow_mut(|space| self.poll_more(cx, space, &mut [])))?;
        }
    }

    /// Whether there is something to send, and none of it has been.
    #[must_use]
    pub const fn holds_all(&self) -> bool {
        self.sent == 0 && self.made > 0
    }

    /// Whether something lies here that nobody has read yet.
    const fn has_input(&self) -> bool {
        self.unread || self.taken < self.plaintext.len() || self.closed
    }

    /// Ready when a read would yield something.
    ///
    /// # Errors
    /// The socket's own.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_input() { Poll::Ready(Ok(())) } else { self.socket.poll_read_ready(cx) }
    }

    /// Reads plaintext into `buf`; 0 is the end of the stream (or an empty `buf`).
    ///
    /// # Errors
    /// The socket's own, and a stream that ends without close_notify.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let count = self.take_plaintext(buf);
        if count > 0 || buf.is_empty() {
            return Poll::Ready(Ok(count));
        }
        while self.unread || !self.closed {
            let count = ready!(CIPHERTEXT.with_borrow_mut(|space| self.poll_more(cx, space, buf)))?;
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
        }
        Poll::Ready(Ok(0))
    }

    fn take_plaintext(&mut self, buf: &mut [u8]) -> usize {
        let rest = self.plaintext.get(self.taken..).unwrap_or_default();
        let count = copy(rest, buf);
        self.taken += count;
        if self.taken >= self.plaintext.len() {
            self.plaintext = Vec::new();
            self.taken = 0;
        }
        count
    }

    /// Reads from the socket, unless whole records are here, and decrypts into `buf`. Tells how much: that may be
    /// nothing, although something came.
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        space: &mut [u8],
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let kept = self.ciphertext.len();
        let mut filled = kept;
        if !self.unread {
            // A KeyUpdate is owed an answer. Where it cannot go now, the next flush takes it along.
            let _ = self.poll_flush(cx)?;
            let most = space.len().min(kept + buf.len().max(READ_BYTES_MIN));
            let mut room = ReadBuf::new(space.get_mut(kept..most).unwrap_or_default());
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut room))?;
            if room.filled().is_empty() {
                let why = "the peer closed the connection without a close_notify of TLS";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
            }
            filled += room.filled().len();
        }
        copy(&self.ciphertext, space);
        Poll::Ready(self.decrypt(space.get_mut(..filled).unwrap_or_default(), buf))
    }

    /// Takes in `incoming`, all that is here, and puts aside what cannot be decrypted yet. Tells how much plaintext
    /// is in `buf`.
    fn decrypt(&mut self, incoming: &mut [u8], buf: &mut [u8]) -> io::Result<usize> {
        let (mut used, mut count) = (0, 0);
        self.unread = false;
        loop {
            let rest = incoming.get_mut(used..).unwrap_or_default();
            let UnbufferedStatus { discard, state } = self.session.process_tls_records(rest);
            used += discard;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let AppDataRecord { discard, payload } = record.map_err(invalid)?;
                        used += discard;
                        let fits = copy(payload, buf.get_mut(count..).unwrap_or_default());
                        count += fits;
                        self.plaintext.extend_from_slice(payload.get(fits..).unwrap_or_default());
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing, &mut self.made)?,
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(), // The next flush does it.
                Ok(ConnectionState::PeerClosed) => self.closed = true,
                // More ciphertext is needed, or nothing comes any more.
                Ok(_) => break,
                Err(error) => {
                    // Where there is an alert for the peer, it is what comes next.
                    let rest = incoming.get_mut(used..).unwrap_or_default();
                    if let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(data)), .. } =
                        self.session.process_tls_records(rest)
                    {
                        encode(data, &mut self.outgoing, &mut self.made)?;
                    }
                    return Err(invalid(error));
                }
            }
            if count == buf.len() && used < incoming.len() && !self.session.is_handshaking() {
                self.unread = true;
                break;
            }
        }
        let rest = incoming.get(used..).unwrap_or_default();
        if rest.len() + READ_BYTES_MIN > CIPHERTEXT_BYTES && !self.unread {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of TLS has no end"));
        }
        if rest.is_empty() {
            self.ciphertext = Vec::new();
        } else {
            self.ciphertext.clear();
            self.ciphertext.extend_from_slice(rest);
        }
        Ok(count)
    }

    /// Takes as much of `bytes` as there is room for. They wait here until a flush.
    ///
    /// # Errors
    /// The socket's own.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.made - self.sent >= UNSENT_BYTES_MAX {
            ready!(self.poll_flush(cx))?;
        }
        let bytes = bytes.get(..UNSENT_BYTES_MAX).unwrap_or(bytes);
        let least = bytes.len() + OVERHEAD_BYTES;
        self.with_traffic(|traffic, outgoing, made| {
            write(outgoing, made, least, |room| traffic.encrypt(bytes, room))
        })?;
        Poll::Ready(Ok(bytes.len()))
    }

    /// Does what can be done as soon as the session may send. The session wants to see what is here each time: it
    /// counts from its beginning.
    fn with_traffic(
        &mut self,
        act: impl FnOnce(&mut WriteTraffic<'_, ClientConnectionData>, &mut Vec<u8>, &mut usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut used = 0;
        let done = loop {
            let rest = self.ciphertext.get_mut(used..).unwrap_or_default();
            let UnbufferedStatus { discard, state } = self.session.process_tls_records(rest);
            used += discard;
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    break act(&mut traffic, &mut self.outgoing, &mut self.made);
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(AppDataRecord { discard, payload })) = traffic.next_record() {
                        used += discard;
                        self.plaintext.extend_from_slice(payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing, &mut self.made)?,
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.closed = true,
                Ok(
                    ConnectionState::ReadEarlyData(_)
                    | ConnectionState::BlockedHandshake
                    | ConnectionState::Closed
                    | _,
                ) => break Err(io::ErrorKind::BrokenPipe.into()),
                Err(error) => break Err(invalid(error)),
            }
        };
        self.ciphertext.drain(..used.min(self.ciphertext.len()));
        done
    }

    /// Ready when nothing waits inside any more.
    ///
    /// # Errors
    /// The socket's own.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.made {
            let rest = self.outgoing.get(self.sent..self.made).unwrap_or_default();
            match ready!(Pin::new(&mut self.socket).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        self.sent = 0;
        let made = std::mem::take(&mut self.made);
        if self.outgoing.len() > OUTGOING_BYTES_KEPT && (1..OUTGOING_BYTES_KEPT).contains(&made) {
            self.outgoing = Vec::new(); // What was large is over.
        }
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more will be written. May be asked again when it is done.
    ///
    /// # Errors
    /// The socket's own.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Where the session cannot say it, the end of the stream does.
        let _ = self.with_traffic(|traffic, outgoing, made| {
            write(outgoing, made, OVERHEAD_BYTES, |room| traffic.queue_close_notify(room))
        });
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Copies what fits. Tells how much.
fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    if let (Some(from), Some(to)) = (from.get(..count), to.get_mut(..count)) {
        to.copy_from_slice(from);
    }
    count
}

fn encode(
    mut data: EncodeTlsData<'_, ClientConnectionData>,
    outgoing: &mut Vec<u8>,
    made: &mut usize,
) -> io::Result<()> {
    write(outgoing, made, OVERHEAD_BYTES, |room| data.encode(room))
}

/// Writes behind what is there, with `least` bytes of room or as many as it takes.
fn write<E: Into<Failed>>(
    outgoing: &mut Vec<u8>,
    made: &mut usize,
    mut least: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> io::Result<()> {
    loop {
        if outgoing.len() < *made + least {
            outgoing.resize(*made + least, 0);
        }
        match write(outgoing.get_mut(*made..).unwrap_or_default()).map_err(Into::into) {
            Ok(count) => {
                *made += count;
                return Ok(());
            }
            Err(Failed::Small { needed }) if needed > least => least = needed,
            Err(Failed::Small { .. }) => return Err(io::ErrorKind::OutOfMemory.into()),
            Err(Failed::Broken(error)) => return Err(invalid(error)),
        }
    }
}

/// Why the session did not write.
enum Failed {
    Small { needed: usize },
    Broken(Box<dyn Error + Send + Sync>),
}

impl From<EncodeError> for Failed {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(InsufficientSizeError { required_size: needed }) => {
                Self::Small { needed }
            }
            EncodeError::AlreadyEncoded => Self::Broken(error.into()),
        }
    }
}

impl From<EncryptError> for Failed {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(InsufficientSizeError { required_size: needed }) => {
                Self::Small { needed }
            }
            EncryptError::EncryptExhausted => Self::Broken(error.into()),
        }
    }
}

fn invalid(error: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
