//! The doors: binds them, accepts, and hands each connection to a task of its own.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::SockRef;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::net::TcpSocket;
use tokio::net::UnixListener;
use tokio::time::sleep;
use tracing::warn;

use crate::client::lobby::Lobby;
use crate::client::login::Reception;
use crate::config::model::Listen;
use crate::lifecycle::Lifecycle;
use crate::net::dial::tune;
use crate::net::stream::Stream;

/// Connections that the system holds for us while we are busy.
const BACKLOG: u32 = 1024;

/// Ports of the system's choice that are tried until one is free on both loopback addresses.
const PORTS_TRIED: usize = 16;

/// How long a client may live and take nothing of what it is sent. PostgreSQL waits for ever, but others may want the
/// server that such a one holds. So long Linux itself goes on with a peer that does not answer (tcp_retries2).
const DEAF: Duration = Duration::from_secs(15 * 60);

/// Where we listen.
#[derive(Debug)]
pub enum Door {
    Tcp { listener: TcpListener, port: u16 },
    Unix { listener: UnixListener, port: u16, path: PathBuf },
}

/// Why a door could not be opened.
#[derive(Debug, Error)]
#[error("cannot listen on {place}: {source}. {mend}")]
pub struct BindError {
    place: String,
    source: io::Error,
    mend: &'static str,
}

/// Opens all doors: TCP on the configured address (both loopback addresses for 127.0.0.1), the ports that
/// plugins have of their own, and the Unix socket.
///
/// # Errors
/// Where an address is taken or not ours to take; `::1` may be missing, but not somebody else's: a client that looks
/// for `localhost` may go there, and would tell that one its password.
pub fn open(listen: &Listen, plugin_ports: &[u16]) -> Result<Vec<Door>, BindError> {
    let mut doors = Vec::new();
    let mut main = listen.port;
    for &port in std::iter::once(&listen.port).chain(plugin_ports) {
        let listeners = tcp_and_twin(listen.host, port)?;
        if let Some(bound) = listeners.first().and_then(|first| first.local_addr().ok())
            && port == listen.port
        {
            main = bound.port(); // The system's choice, where it was asked for one.
        }
        doors.extend(listeners.into_iter().map(|listener| Door::Tcp { listener, port }));
    }
    if let Some(directory) = &listen.socket {
        doors.push(unix(directory, main, listen.port)?);
    }
    Ok(doors)
}

/// The address, and for 127.0.0.1 the same port of `::1`.
fn tcp_and_twin(host: IpAddr, port: u16) -> Result<Vec<TcpListener>, BindError> {
    let six = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let mut tries = 0;
    loop {
        tries += 1;
        let first = tcp(host, port)?;
        if host != IpAddr::V4(Ipv4Addr::LOCALHOST) {
            return Ok(vec![first]);
        }
        let bound = first.local_addr().map_err(|source| BindError::new(host, port, source))?.port();
        match tcp(six, bound) {
            Ok(second) => return Ok(vec![first, second]),
            Err(error) if error.source.kind() != io::ErrorKind::AddrInUse => return Ok(vec![first]), // No IPv6.
            Err(_) if port == 0 && tries < PORTS_TRIED => {}
            Err(error) => return Err(error),
        }
    }
}

fn tcp(host: IpAddr, port: u16) -> Result<TcpListener, BindError> {
    let address = SocketAddr::new(host, port);
    let bind = || {
        let socket = if host.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        tune(SockRef::from(&socket), DEAF)?; // What is accepted inherits it.
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| BindError::new(host, port, source))
}

fn unix(directory: &Path, number: u16, port: u16) -> Result<Door, BindError> {
    let path = directory.join(format!(".s.PGSQL.{number}"));
    let listener = bind_unix(directory, &path).map_err(|source| BindError {
        place: path.display().to_string(),
        source,
        mend: "Change stagedoor.listen.socket, or see who uses it.",
    })?;
    Ok(Door::Unix { listener, port, path })
}

/// The socket is made where nobody else gets in, closed to others, and moved to its place: at no moment may anybody
/// else connect. The move also replaces what a process left behind that is gone.
fn bind_unix(directory: &Path, path: &Path) -> io::Result<UnixListener> {
    warn_of_neighbours(directory)?;
    refuse_living(path)?;
    let closed = directory.join(format!(".sd{}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&closed)?;
    let own = closed.join("s");
    let bind = || {
        let listener = UnixListener::bind(&own)?;
        fs::set_permissions(&own, fs::Permissions::from_mode(0o600))?;
        fs::rename(&own, path)?;
        Ok(listener)
    };
    let bound = bind();
    let _ = fs::remove_file(&own);
    let _ = fs::remove_dir(&closed);
    bound
}

/// Whoever may write to the directory may put a socket of its own in the place of ours. An emptyDir of Kubernetes is
/// open to everybody in the pod, so this is said and not refused.
fn warn_of_neighbours(directory: &Path) -> io::Result<()> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let mode = fs::metadata(directory)?.permissions().mode();
    if mode & WRITABLE_BY_OTHERS != 0 && mode & STICKY == 0 {
        let directory = directory.display().to_string();
        let mode = format!("{:o}", mode & 0o7777);
        warn!(
            directory,
            mode,
            "others may replace the Unix socket: make stagedoor.listen.socket a directory of mode 0700, or 1777"
        );
    }
    Ok(())
}

/// An error where something is in the place that is not a socket whose process is gone.
fn refuse_living(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is not a socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
        Err(error) => Err(error),
    }
}

impl BindError {
    fn new(host: IpAddr, port: u16, source: io::Error) -> Self {
        Self {
            place: SocketAddr::new(host, port).to_string(),
            source,
            mend: "Change stagedoor.listen.host or stagedoor.listen.port, or see who listens there.",
        }
    }
}

impl Door {
    /// The address that clients dial.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Tcp { listener, .. } => {
                listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
            }
            Self::Unix { path, .. } => path.display().to_string(),
        }
    }

    /// Accepts clients until `lifecycle` stops, each in a task of its own.
    pub async fn accept(self, reception: Arc<ArcSwap<Reception>>, lobby: Arc<Lobby>, lifecycle: Lifecycle) {
        let stop = lifecycle.stop_token();
        loop {
            let accepted = tokio::select! {
                accepted = self.next() => accepted,
                () = stop.cancelled() => break,
            };
            let (stream, port) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: trying again at once would only burn the processor.
                    warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // While it waits here, the next ones wait in the system's queue.
            let Some(newcomer) = stop.run_until_cancelled(lobby.enter()).await else { break };
            let reception = reception.load_full();
            let goodbye = lifecycle.stop_token();
            lifecycle.spawn_client(async move {
                // A login needs more room than a client that is in: it has its own, and gives it back.
                let Some(guest) = Box::pin(reception.receive(newcomer, stream, port)).await else { return };
                let waiting = goodbye.cancelled();
                tokio::pin!(waiting);
                guest.stay(waiting).await;
            });
        }
        if let Self::Unix { path, .. } = &self {
            let _ = fs::remove_file(path);
        }
    }

    async fn next(&self) -> io::Result<(Stream, u16)> {
        match self {
            Self::Tcp { listener, port } => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::tcp(stream), *port))
            }
            Self::Unix { listener, port, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::unix(stream), *port))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::net::TcpStream;

    #[tokio::test]
    async fn a_client_that_vanishes_or_takes_nothing_is_noticed() {
        let listener = tcp(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let door = Door::Tcp { listener, port: 0 };
        let (accepted, _client) = tokio::join!(door.next(), client);
        let socket = accepted.unwrap().0.into_tcp().unwrap();
        let socket = SockRef::from(&socket);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(DEAF));
        assert!(
            socket.keepalive().unwrap() && socket.tcp_keepalive_time().unwrap() <= Duration::from_secs(60)
        );
    }
}
