//! `stagedoor health`: one question to the running sidecar. Needs neither curl nor a shell, so that it works in
//! an image that has none.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

use crate::cli::arguments::Endpoint;
use crate::cli::arguments::HealthArguments;
use crate::cli::arguments::complain;
use crate::cli::arguments::say;
use crate::cli::exit::Exit;
use crate::config::load::Sources;
use crate::config::load::load;

/// A probe has a second or more by default; what takes longer is not healthy.
const PATIENCE: Duration = Duration::from_secs(2);

/// The answer has a line for each upstream.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

pub(super) fn run(sources: &Sources, arguments: &HealthArguments) -> Exit {
    let address = match arguments.port {
        Some(port) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
        None => match load(sources) {
            Ok(loaded) => SocketAddr::new(reachable(loaded.config.admin.host), loaded.config.admin.port),
            Err(faults) => {
                complain(&faults.to_string());
                return Exit::Configuration;
            }
        },
    };
    let path = match arguments.endpoint {
        Endpoint::Readyz => "/readyz",
        Endpoint::Livez => "/livez",
        Endpoint::Startupz => "/startupz",
    };
    match ask(address, path) {
        Ok(answer) => judge(&answer),
        Err(error) => {
            complain(&format!(
                "nobody answers on {address}: {error}. Is stagedoor running, and is this its admin port?"
            ));
            Exit::Failure
        }
    }
}

/// An address that one can connect to, where the configuration says "all".
fn reachable(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host @ (IpAddr::V4(_) | IpAddr::V6(_)) => host,
    }
}

fn ask(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn judge(answer: &str) -> Exit {
    let healthy = answer.starts_with("HTTP/1.1 200 ");
    match answer.split_once("\r\n\r\n") {
        Some((_, body)) => say(body),
        None => complain("what answers there does not speak HTTP"),
    }
    if healthy { Exit::Success } else { Exit::Failure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::path::PathBuf;
    use std::thread;

    /// The exit of `health` when the port answers `answer`.
    fn health(answer: &'static str) -> Exit {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let arguments = HealthArguments { port: Some(port), endpoint: Endpoint::Readyz };
        let exit = run(&Sources { configs: Vec::new(), cwd: PathBuf::from("/") }, &arguments);
        assert!(server.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
        exit
    }

    #[test]
    fn only_200_is_healthy() {
        assert_eq!(health("HTTP/1.1 200 OK\r\n\r\nok\n"), Exit::Success);
        assert_eq!(health("HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready\n"), Exit::Failure);
        assert_eq!(health("220 smtp.example ready\r\n"), Exit::Failure);
        assert_eq!(health(""), Exit::Failure);
    }

    #[test]
    fn nobody_there_is_a_failure() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let arguments = HealthArguments { port: Some(port), endpoint: Endpoint::Livez };
        assert_eq!(run(&Sources { configs: Vec::new(), cwd: PathBuf::from("/") }, &arguments), Exit::Failure);
    }

    #[test]
    fn all_addresses_are_asked_on_loopback() {
        assert_eq!(reachable([0, 0, 0, 0].into()), IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(reachable(Ipv6Addr::UNSPECIFIED.into()), IpAddr::V6(Ipv6Addr::LOCALHOST));
        assert_eq!(reachable([10, 0, 0, 1].into()), IpAddr::from([10, 0, 0, 1]));
    }
}
