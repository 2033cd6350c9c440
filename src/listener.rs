//! The doors: binds them, accepts, and hands each connection to a task of its own.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::net::TcpSocket;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::warn;

use crate::client::login::Reception;
use crate::config::model::Listen;
use crate::lifecycle::Lifecycle;
use crate::net::dial::tune;
use crate::net::stream::Stream;

/// Connections that the system holds for us while we are busy.
const BACKLOG: u32 = 1024;

/// Connections beyond `maxClients` that are heard out, so that they can be told 53300 and so that cancel
/// requests come through even then.
const OVERFLOW: usize = 64;

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
/// Where an address is taken or not ours to take; `::1` may be missing.
pub fn open(listen: &Listen, plugin_ports: &[u16]) -> Result<Vec<Door>, BindError> {
    let mut doors = Vec::new();
    let mut main = listen.port;
    for &port in std::iter::once(&listen.port).chain(plugin_ports) {
        let first = tcp(listen.host, port)?;
        let bound = first.local_addr().map_err(|source| BindError::new(listen.host, port, source))?.port();
        if port == listen.port {
            main = bound; // The system's choice, where it was asked for one.
        }
        doors.push(Door::Tcp { listener: first, port });
        if listen.host == IpAddr::V4(Ipv4Addr::LOCALHOST)
            && let Ok(second) = tcp(IpAddr::V6(Ipv6Addr::LOCALHOST), bound)
        {
            doors.push(Door::Tcp { listener: second, port });
        }
    }
    if let Some(directory) = &listen.socket {
        doors.push(unix(directory, main, listen.port)?);
    }
    Ok(doors)
}

fn tcp(host: IpAddr, port: u16) -> Result<TcpListener, BindError> {
    let address = SocketAddr::new(host, port);
    let bind = || {
        let socket = if host.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| BindError::new(host, port, source))
}

fn unix(directory: &Path, number: u16, port: u16) -> Result<Door, BindError> {
    let path = directory.join(format!(".s.PGSQL.{number}"));
    let bind = || {
        if std::os::unix::net::UnixStream::connect(&path).is_err() {
            // Left behind by a process that is gone.
            let _ = std::fs::remove_file(&path);
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    let listener = bind().map_err(|source| BindError {
        place: path.display().to_string(),
        source,
        mend: "Change stagedoor.listen.socket, or see who uses it.",
    })?;
    Ok(Door::Unix { listener, port, path })
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
    pub async fn accept(self, reception: Arc<ArcSwap<Reception>>, lifecycle: Lifecycle) {
        let stop = lifecycle.stop_token();
        let places = Arc::new(Semaphore::new(reception.load().clients_max + OVERFLOW));
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
            let Ok(place) = places.clone().try_acquire_owned() else {
                continue; // Dropped: closed at once.
            };
            let reception = reception.load_full();
            let goodbye = lifecycle.stop_token();
            lifecycle.spawn_client(async move {
                let waiting = goodbye.cancelled();
                tokio::pin!(waiting);
                reception.receive(stream, port, waiting).await;
                drop(place);
            });
        }
        if let Self::Unix { path, .. } = &self {
            let _ = std::fs::remove_file(path);
        }
    }

    async fn next(&self) -> io::Result<(Stream, u16)> {
        match self {
            Self::Tcp { listener, port } => {
                let (stream, _) = listener.accept().await?;
                tune(&stream, DEAF)?;
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

    use socket2::SockRef;
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
