//! From a name to a connected TCP socket.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use socket2::TcpKeepalive;
use tokio::net::TcpStream;
use tokio::net::lookup_host;

/// A dead peer is noticed after 30 s of silence and three unanswered probes; without that a node that vanished
/// would keep statements hanging for a quarter of an hour.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// How long what we sent to a server may stay unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(15);

/// The addresses of a host, asked for anew each time: after a failover the name means another one.
///
/// # Errors
/// The resolver's own, and a name without an address.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

/// Connects to the first of `addresses` that accepts.
///
/// # Errors
/// What the last of them said.
pub async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address to connect to");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(socket) => {
                tune(SockRef::from(&socket), USER_TIMEOUT)?;
                return Ok(socket);
            }
            Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
        }
    }
    Err(last)
}

/// A socket, or all that a listening one will accept: sends at once, and notices a peer that has vanished, or that takes nothing for `user_timeout`
/// (TCP_USER_TIMEOUT: sent and not acknowledged, or not to be sent because its window is closed).
///
/// # Errors
/// The socket's own.
pub fn tune(socket: SockRef<'_>, user_timeout: Duration) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let (time, interval, retries) = KEEPALIVE;
    let keepalive = TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(user_timeout))
}
