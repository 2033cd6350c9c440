//! A byte stream to a client or a server: plain TCP, a Unix socket, or TLS over TCP.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;

use socket2::SockRef;
use tokio::io::AsyncRead as _;
use tokio::io::AsyncWrite as _;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::net::UnixStream;

use crate::tls::stream::TlsStream;

/// What [`Stream::read_onto`] reads at most: more than any answer to a login or a probe.
const ONTO_BYTES: usize = 4096;

/// A connected stream.
pub struct Stream(Kind);

enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream>),
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

    #[must_use]
    pub fn tls(stream: TlsStream) -> Self {
        Self(Kind::Tls(Box::new(stream)))
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
            Kind::Tls(tls) => tls.peer_addr(),
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

    /// Whether all of what was written and not flushed waits inside still: none of it has been sent.
    #[must_use]
    pub const fn holds_all(&self) -> bool {
        match &self.0 {
            Kind::Tcp(_) | Kind::Unix(_) => false,
            Kind::Tls(tls) => tls.holds_all(),
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
            Kind::Tls(tls) => tls.poll_readable(cx),
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
        match &mut self.0 {
            Kind::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Kind::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Kind::Tls(tls) => tls.poll_shutdown(cx),
        }
    }
}

fn poll_unix_ready(socket: &UnixStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    socket.poll_read_ready(cx)
}
