//! One address behind which now a real server answers, and now one that plays a script. Remembers every byte that
//! it was sent, in the clear and inside TLS, and counts what it could send before it was left.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio::io::ReadBuf;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// What answers behind the address.
#[derive(Clone)]
pub enum Play {
    /// The server at this port: bytes are passed on, both ways.
    Pass(u16),
    /// Nobody: each connection is closed at once.
    HangUp,
    /// These bytes for the first packet, and then nothing more.
    Answer(Vec<u8>),
    /// A yes to TLS; then these bytes where the ServerHello is due, and then nothing more.
    InsteadOfHello(Vec<u8>),
    /// A yes to TLS; then this piece where the ServerHello is due, again and again.
    FloodOfHellos(Vec<u8>),
    /// TLS, by SSLRequest or directly; then one act after the other.
    Tls(Arc<ServerConfig>, Vec<Act>),
    /// TLS, by SSLRequest or directly; what is inside is passed on to this port in the clear.
    Unwrap(Arc<ServerConfig>, u16),
}

/// What is done inside TLS.
#[derive(Clone)]
pub enum Act {
    /// Waits for words of the client, and says this.
    Say(Vec<u8>),
    /// Waits for words of the client, and says what is made of them.
    Answer(Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>),
    /// Says this without waiting.
    Add(Vec<u8>),
    /// Ends TLS as it should be ended, and the connection.
    Close,
    /// Ends the connection without a word.
    Drop,
    /// The same without end, as fast as it is taken.
    Flood(Vec<u8>),
    /// The same without end, a byte at a time.
    Trickle(Vec<u8>),
}

/// What went over one connection.
#[derive(Clone, Debug, Default)]
pub struct Tape {
    /// All that the client sent, as it was on the wire.
    pub wire: Vec<u8>,
    /// What of it was inside TLS, where the script could read it.
    pub inside: Vec<u8>,
    /// What it was sent, as far as its socket took it.
    pub sent: Vec<u8>,
    /// Whether the client ended TLS by close_notify.
    pub is_closed_properly: bool,
    pub is_over: bool,
}

impl Tape {
    pub fn heard(&self, needle: &[u8]) -> bool {
        [&self.wire, &self.inside].iter().any(|bytes| memchr::memmem::find(bytes, needle).is_some())
    }
}

type Reel = Arc<Mutex<Tape>>;

/// The address.
pub struct Front {
    pub port: u16,
    play: Arc<Mutex<Play>>,
    reels: Arc<Mutex<Vec<Reel>>>,
    runtime: Option<Runtime>,
}

impl Drop for Front {
    fn drop(&mut self) {
        // Does not wait, and so may be done in a test that is asynchronous itself.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

impl Front {
    pub fn new(play: Play) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (play, reels) = (Arc::new(Mutex::new(play)), Arc::new(Mutex::new(Vec::new())));
        runtime.spawn(accept(listener, play.clone(), reels.clone()));
        Self { port, play, reels, runtime: Some(runtime) }
    }

    /// From now on, `play` answers new connections.
    pub fn change(&self, play: Play) {
        *self.play.lock().unwrap() = play;
    }

    /// All tapes so far; the next call begins behind them.
    pub fn take(&self) -> Vec<Tape> {
        let reels = std::mem::take(&mut *self.reels.lock().unwrap());
        reels.iter().map(|reel| reel.lock().unwrap().clone()).collect()
    }

    /// All tapes so far.
    pub fn tapes(&self) -> Vec<Tape> {
        self.reels.lock().unwrap().iter().map(|reel| reel.lock().unwrap().clone()).collect()
    }
}

async fn accept(listener: std::net::TcpListener, play: Arc<Mutex<Play>>, reels: Arc<Mutex<Vec<Reel>>>) {
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((socket, _)) = listener.accept().await {
        let reel = Reel::default();
        reels.lock().unwrap().push(reel.clone());
        let play = play.lock().unwrap().clone();
        tokio::spawn(async move {
            // A client that leaves is not an error of the script's.
            let _ = perform(play, Recorded { socket, reel: reel.clone() }).await;
            reel.lock().unwrap().is_over = true;
        });
    }
}

async fn perform(play: Play, mut client: Recorded) -> io::Result<()> {
    match play {
        Play::HangUp => Ok(()),
        Play::Pass(port) => {
            let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
        }
        Play::Answer(bytes) => {
            client.read_exact(&mut [0; 8]).await?;
            client.write_all(&bytes).await?;
            listen(&mut client).await
        }
        Play::InsteadOfHello(bytes) => {
            agree(&mut client).await?;
            hear_hello(&mut client).await?;
            client.write_all(&bytes).await?;
            listen(&mut client).await
        }
        Play::FloodOfHellos(piece) => {
            agree(&mut client).await?;
            hear_hello(&mut client).await?;
            flood(&mut client, &piece).await
        }
        Play::Unwrap(config, port) => {
            agree(&mut client).await?;
            let mut inside = TlsAcceptor::from(config).accept(client).await?;
            let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
            tokio::io::copy_bidirectional(&mut inside, &mut server).await.map(drop)
        }
        Play::Tls(config, acts) => {
            agree(&mut client).await?;
            let reel = client.reel.clone();
            let mut inside = TlsAcceptor::from(config).accept(client).await?;
            for act in acts {
                match act {
                    Act::Say(bytes) => {
                        read(&mut inside, &reel).await?;
                        inside.write_all(&bytes).await?;
                    }
                    Act::Answer(answer) => {
                        let words = read(&mut inside, &reel).await?;
                        inside.write_all(&answer(&words)).await?;
                    }
                    Act::Add(bytes) => inside.write_all(&bytes).await?,
                    Act::Close => return inside.shutdown().await,
                    Act::Drop => return Ok(()),
                    Act::Flood(piece) => return flood(&mut inside, &piece).await,
                    Act::Trickle(piece) => return trickle(&mut inside, &piece).await,
                }
                inside.flush().await?;
            }
            loop {
                read(&mut inside, &reel).await?;
            }
        }
    }
}

/// Says yes to an SSLRequest. A ClientHello needs no yes.
async fn agree(client: &mut Recorded) -> io::Result<()> {
    let mut first = [0];
    client.socket.peek(&mut first).await?;
    if first != [22] {
        client.read_exact(&mut [0; 8]).await?;
        client.write_all(b"S").await?;
    }
    Ok(())
}

/// A ClientHello is one record.
async fn hear_hello(client: &mut Recorded) -> io::Result<()> {
    let mut head = [0; 5];
    client.read_exact(&mut head).await?;
    let length = u16::from_be_bytes([head[3], head[4]]);
    client.read_exact(&mut vec![0; length.into()]).await.map(drop)
}

async fn read<S: AsyncRead + Unpin>(inside: &mut S, reel: &Reel) -> io::Result<Vec<u8>> {
    let mut words = vec![0; 65_536];
    let count = inside.read(&mut words).await?;
    if count == 0 {
        reel.lock().unwrap().is_closed_properly = true;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    words.truncate(count);
    reel.lock().unwrap().inside.extend_from_slice(&words);
    Ok(words)
}

async fn listen(client: &mut Recorded) -> io::Result<()> {
    let mut words = [0; 8192];
    while client.read(&mut words).await? > 0 {}
    Ok(())
}

async fn flood<S: AsyncWrite + Unpin>(client: &mut S, piece: &[u8]) -> io::Result<()> {
    loop {
        client.write_all(piece).await?;
    }
}

async fn trickle<S: AsyncWrite + Unpin>(client: &mut S, piece: &[u8]) -> io::Result<()> {
    for byte in piece.iter().cycle() {
        client.write_all(&[*byte]).await?;
        client.flush().await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// A socket that remembers.
struct Recorded {
    socket: TcpStream,
    reel: Reel,
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        self.reel.lock().unwrap().wire.extend_from_slice(&buf.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = polled {
            self.reel.lock().unwrap().sent.extend_from_slice(&bytes[..count]);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Whether `bytes` are TLS records and nothing else; the last one may be cut.
pub fn is_tls(mut bytes: &[u8]) -> bool {
    while let [kind, 3, _, high, low, rest @ ..] = bytes {
        if !(20..=23).contains(kind) {
            return false;
        }
        let length = usize::from(*high) << 8 | usize::from(*low);
        bytes = rest.get(length..).unwrap_or_default();
    }
    bytes.len() < 5
}
