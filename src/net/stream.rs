//! A byte stream to a client or a server: plain TCP, a Unix socket, or TLS over TCP.
//! TLS is driven by hand after its handshake: read in large pieces, written in as few system calls as can be.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;

use rustls::ClientConnection;
use socket2::SockRef;
use tokio::io::AsyncRead as _;
use tokio::io::AsyncWrite as _;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::net::UnixStream;

/// What is read from a TLS socket at a time.
const CIPHERTEXT_BYTES: usize = 32 * 1024;

/// Ciphertext that may wait to be sent before no more is accepted.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// What [`Stream::read_onto`] reads at most: more than any answer to a login or a probe.
const ONTO_BYTES: usize = 4096;

/// A connected stream.
pub struct Stream(Kind);

enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Tls>),
}

/// TLS over TCP.
struct Tls {
    socket: TcpStream,
    session: ClientConnection,
    /// Ciphertext that was read and not yet taken by the session. Empty and unallocated while idle.
    ciphertext: Vec<u8>,
    taken: usize,
    /// Ciphertext that the session made and the socket did not take yet.
    unsent: Vec<u8>,
    sent: usize,
    /// The last read was filled to the brim: there may be more plaintext.
    unread: bool,
    closed: bool,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Tcp(_) => "Stream(tcp)",
            Kind::Unix(_) => "Stream(unix)",
            Kind::Tls(_) => "Stream(tls)",
        })
    }
}

impl Stream {
    #[must_use]
    pub const fn tcp(socket: TcpStream) -> Self {
        Self(Kind::Tcp(socket))
    }

    #[must_use]
    pub const fn unix(socket: UnixStream) -> Self {
        Self(Kind::Unix(socket))
    }

    /// After a finished handshake.
    #[must_use]
    pub fn tls(socket: TcpStream, mut session: ClientConnection) -> Self {
        // Bounded by ourselves: what the session holds is taken out after each write.
        session.set_buffer_limit(None);
        Self(Kind::Tls(Box::new(Tls {
            socket,
            session,
            ciphertext: Vec::new(),
            taken: 0,
            unsent: Vec::new(),
            sent: 0,
            unread: false,
            closed: false,
        })))
    }

    /// The socket of a plain TCP stream.
    #[must_use]
    pub fn into_tcp(self) -> Option<TcpStream> {
        match self.0 {
            Kind::Tcp(socket) => Some(socket),
            Kind::Unix(_) | Kind::Tls(_) => None,
        }
    }

    /// Whether the system holds bytes of a plain TCP stream that were not read. Asks the system.
    #[must_use]
    pub fn holds_unread(&self) -> bool {
        match &self.0 {
            Kind::Tcp(socket) => {
                let mut byte = [MaybeUninit::uninit()];
                SockRef::from(socket).peek(&mut byte).is_ok_and(|count| count > 0)
            }
            Kind::Unix(_) | Kind::Tls(_) => false,
        }
    }

    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self.0, Kind::Tls(_))
    }

    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tcp(socket) => socket.peer_addr().ok(),
            Kind::Tls(tls) => tls.socket.peer_addr().ok(),
            Kind::Unix(_) => None,
        }
    }

    /// Reads plaintext into `buf`; 0 is the end of the stream (or an empty `buf`).
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Tcp(socket) => {
                let mut buf = ReadBuf::new(buf);
                ready!(Pin::new(socket).poll_read(cx, &mut buf))?;
                Poll::Ready(Ok(buf.filled().len()))
            }
            Kind::Unix(socket) => {
                let mut buf = ReadBuf::new(buf);
                ready!(Pin::new(socket).poll_read(cx, &mut buf))?;
                Poll::Ready(Ok(buf.filled().len()))
            }
            Kind::Tls(tls) => tls.poll_read(cx, buf),
        }
    }

    /// Takes as much of `bytes` as there is room for. With TLS they may still wait inside: see
    /// [`Stream::poll_flush`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Kind::Unix(socket) => Pin::new(socket).poll_write(cx, bytes),
            Kind::Tls(tls) => tls.poll_write(cx, bytes),
        }
    }

    /// Ready when nothing waits inside any more.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Tcp(_) | Kind::Unix(_) => Poll::Ready(Ok(())),
            Kind::Tls(tls) => tls.poll_flush(cx),
        }
    }

    /// Ready when a read would yield something: so one who waits needs no buffer.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Tcp(socket) => socket.poll_read_ready(cx),
            Kind::Unix(socket) => poll_unix_ready(socket, cx),
            Kind::Tls(tls) if tls.has_input() => Poll::Ready(Ok(())),
            Kind::Tls(tls) => tls.socket.poll_read_ready(cx),
        }
    }

    /// Whether, as far as the reactor knows, there is nothing to read. Makes no system call.
    pub fn is_quiet(&mut self) -> bool {
        self.poll_readable(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Reads once. Cancel-safe.
    ///
    /// # Errors
    /// The socket's own, and a TLS stream that ends without close_notify.
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Reads once, and puts what came behind `onto`; 0 is the end of the stream. Cancel-safe. For what is rare: the
    /// room that it needs is not kept while it waits, which every client may do at once.
    ///
    /// # Errors
    /// As [`Stream::read`].
    pub async fn read_onto(&mut self, onto: &mut Vec<u8>) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut chunk = [0; ONTO_BYTES];
            let count = ready!(self.poll_read(cx, &mut chunk))?;
            onto.extend_from_slice(chunk.get(..count).unwrap_or_default());
            Poll::Ready(Ok(count))
        })
        .await
    }

    /// Writes and flushes everything. Not cancel-safe: a part may have been written.
    ///
    /// # Errors
    /// The socket's own.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = poll_fn(|cx| self.poll_write(cx, bytes)).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.get(count..).unwrap_or_default();
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Says that nothing more will be written: close_notify, then the end of the stream.
    ///
    /// # Errors
    /// The socket's own.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    /// As [`Stream::shutdown`]. May be asked again when it is done.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Kind::Tls(tls) = &mut self.0 {
            tls.session.send_close_notify();
            ready!(tls.poll_flush(cx))?;
        }
        match &mut self.0 {
            Kind::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Kind::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Kind::Tls(tls) => Pin::new(&mut tls.socket).poll_shutdown(cx),
        }
    }
}

fn poll_unix_ready(socket: &UnixStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    socket.poll_read_ready(cx)
}

impl Tls {
    /// Whether something lies here that nobody has read yet.
    const fn has_input(&self) -> bool {
        self.taken < self.ciphertext.len() || self.unread || self.closed
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut count = 0;
        loop {
            count += self.take_plaintext(buf.get_mut(count..).unwrap_or_default())?;
            if count == buf.len() || (self.closed && count == 0) {
                return Poll::Ready(Ok(count));
            }
            if self.decrypt()? {
                continue;
            }
            if count > 0 || self.closed {
                return Poll::Ready(Ok(count));
            }
            match self.poll_ciphertext(cx)? {
                Poll::Ready(()) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn take_plaintext(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        while count < buf.len() {
            match self.session.reader().read(buf.get_mut(count..).unwrap_or_default()) {
                Ok(0) => {
                    self.closed = true;
                    break;
                }
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.unread = count == buf.len();
        Ok(count)
    }

    /// Feeds what was read to the session. Tells whether there was anything.
    fn decrypt(&mut self) -> io::Result<bool> {
        let mut rest = self.ciphertext.get(self.taken..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(false);
        }
        let before = rest.len();
        self.session.read_tls(&mut rest)?;
        self.taken += before - rest.len();
        if self.taken >= self.ciphertext.len() {
            self.ciphertext = Vec::new();
            self.taken = 0;
        }
        self.session
            .process_new_packets()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(true)
    }

    /// Reads from the socket.
    fn poll_ciphertext(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.session.wants_write() {
            // A KeyUpdate is owed an answer. Where it cannot go now, the next flush takes it along.
            let _ = self.poll_flush(cx)?;
        }
        // On the stack and not initialised: most calls find nothing, and most finds are small.
        let mut space = [MaybeUninit::uninit(); CIPHERTEXT_BYTES];
        let mut buf = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buf))?;
        if buf.filled().is_empty() {
            // Tells the session, which then knows a truncated stream from one that was closed.
            self.session.read_tls(&mut io::empty())?;
            return Poll::Ready(Ok(()));
        }
        self.ciphertext = buf.filled().to_vec();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.unsent.len() - self.sent >= UNSENT_BYTES_MAX {
            ready!(self.poll_flush(cx))?;
        }
        let count = bytes.len().min(UNSENT_BYTES_MAX);
        self.session
            .writer()
            .write(bytes.get(..count).unwrap_or_default())
            .map(Ok)
            .map_or_else(|error| Poll::Ready(Err(error)), Poll::Ready)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.session.wants_write() {
                self.session.write_tls(&mut self.unsent)?;
            }
            let rest = self.unsent.get(self.sent..).unwrap_or_default();
            if rest.is_empty() {
                self.unsent.clear();
                self.sent = 0;
                if self.unsent.capacity() > UNSENT_BYTES_MAX {
                    self.unsent = Vec::new();
                }
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.socket).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
    }
}
