//! Metrics, probes and three commands over HTTP. What changes anything answers to loopback only.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::Method;
use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::header;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio::time::timeout;
use tracing::debug;
use tracing::warn;

use crate::admin::control::Command;
use crate::admin::control::Control;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::State;
use crate::metrics::Metrics;

/// Connections at a time: a scraper, the kubelet's three probes and a few people. More wait in the backlog.
const CONNECTIONS_MAX: usize = 32;

/// How long a connection may take for its one request and answer. It bounds those who send or read slowly,
/// so nobody can hold all connections for long.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);

/// How long the head of a request may take.
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);

/// Bytes of a request's head. Probes and scrapers need a few hundred; hyper's least is 8 KiB.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// A pause after `accept` failed, which for want of descriptors (EMFILE) it would do again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Reply = Response<Full<Bytes>>;

/// What every request may need.
struct Admin {
    control: Arc<dyn Control>,
    metrics: Arc<Metrics>,
    lifecycle: Lifecycle,
}

/// Serves until `lifecycle` stops. Each connection is a task of `lifecycle`.
pub async fn serve(
    listener: TcpListener,
    control: Arc<dyn Control>,
    metrics: Arc<Metrics>,
    lifecycle: Lifecycle,
) {
    let admin = Arc::new(Admin { control, metrics, lifecycle: lifecycle.clone() });
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let stop = lifecycle.stop_token();
    while let Some(accepted) = stop.run_until_cancelled(accept(&listener, &room)).await {
        let Some((stream, peer, place)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let admin = Arc::clone(&admin);
        let stop = stop.clone();
        lifecycle.spawn(async move {
            let _ =
                stop.run_until_cancelled(timeout(CONNECTION_TIME_MAX, converse(stream, peer, admin))).await;
            drop(place);
        });
    }
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

/// Waits for a place, then for a connection that takes it.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> Option<Accepted> {
    let place = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            warn!(%error, "the admin port could not accept a connection");
            None
        }
    }
}

/// One request and its answer. No keep-alive: a scrape every few seconds does not need it, and a connection
/// that ends after its answer has one bound in time instead of many.
async fn converse(stream: TcpStream, peer: SocketAddr, admin: Arc<Admin>) {
    let service = service_fn(move |request| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(admin.answer(&request, peer).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new()) // Without a timer hyper has no time-outs at all.
        .header_read_timeout(HEADER_TIME_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, %peer, "an admin connection ended early");
    }
}

/// What a path leads to.
enum Page {
    Index,
    Metrics,
    Live,
    Ready,
    Startup,
    Command(Command),
}

impl Page {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Index,
            "/metrics" => Self::Metrics,
            "/livez" => Self::Live,
            "/readyz" => Self::Ready,
            "/startupz" => Self::Startup,
            "/-/reload" => Self::Command(Command::Reload),
            "/-/drain" => Self::Command(Command::Drain),
            "/-/quit" => Self::Command(Command::Quit),
            _ => return None,
        })
    }

    fn allow(&self) -> &'static str {
        match self {
            Self::Index | Self::Metrics | Self::Live | Self::Ready | Self::Startup => "GET, HEAD",
            Self::Command(_) => "POST",
        }
    }

    fn allows(&self, method: &Method) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }
}

impl Admin {
    async fn answer(&self, request: &Request<Incoming>, peer: SocketAddr) -> Reply {
        let Some(page) = Page::of(request.uri().path()) else {
            return text(StatusCode::NOT_FOUND, "no such page; see /\n".to_owned());
        };
        if !page.allows(request.method()) {
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {}\n", page.allow()));
            reply.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(page.allow()));
            return reply;
        }
        match page {
            Page::Index => text(StatusCode::OK, INDEX.to_owned()),
            Page::Metrics => {
                self.control.refresh();
                metrics(self.metrics.render())
            }
            Page::Live => text(StatusCode::OK, "alive\n".to_owned()),
            Page::Ready => self.ready(asks_for_upstreams(request.uri().query())),
            Page::Startup => self.started(),
            Page::Command(command) => self.command(command, request, peer).await,
        }
    }

    /// Ready means: the lifecycle says so, and `control` agrees; with `upstreams`, each must be up just now.
    fn ready(&self, upstreams: bool) -> Reply {
        let state = self.lifecycle.state();
        let readiness = self.control.readiness();
        let mut ready = state == State::Ready && readiness.ready;
        let mut body = format!("state: {}\n", name(state));
        for line in readiness.details {
            let _ = writeln!(body, "{line}");
        }
        if upstreams {
            for upstream in self.control.upstreams() {
                ready &= upstream.up;
                let word = if upstream.up { "up" } else { "down" };
                let _ = writeln!(body, "upstream {}: {word} {}", upstream.name, upstream.detail);
            }
        }
        verdict(ready, &body)
    }

    /// Started once, started for ever: a startup probe does not care that we drain.
    fn started(&self) -> Reply {
        match self.lifecycle.state() {
            State::Starting => verdict(false, &format!("{}\n", self.control.readiness().details.join("\n"))),
            State::Ready | State::Draining | State::Stopped => verdict(true, ""),
        }
    }

    async fn command(&self, command: Command, request: &Request<Incoming>, peer: SocketAddr) -> Reply {
        if !peer.ip().to_canonical().is_loopback() {
            return text(
                StatusCode::FORBIDDEN,
                "commands answer to loopback only: use kubectl exec\n".to_owned(),
            );
        }
        // A browser names the page that a request comes from. Through a port-forward any web page could
        // reach this port from loopback, and no tool of ours is a page.
        if request.headers().contains_key(header::ORIGIN) {
            return text(StatusCode::FORBIDDEN, "commands do not answer to web pages\n".to_owned());
        }
        match self.control.execute(command).await {
            Ok(said) => text(StatusCode::OK, format!("{said}\n")),
            Err(reason) => text(StatusCode::CONFLICT, format!("{reason}\n")),
        }
    }
}

fn name(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Ready => "ready",
        State::Draining => "draining",
        State::Stopped => "stopped",
    }
}

fn asks_for_upstreams(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|pair| matches!(pair, "upstream=1" | "upstream=true")))
}

fn verdict(good: bool, body: &str) -> Reply {
    let (status, word) =
        if good { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    text(status, format!("{word}\n{body}"))
}

fn text(status: StatusCode, body: String) -> Reply {
    reply(status, "text/plain; charset=utf-8", body)
}

fn metrics(body: String) -> Reply {
    reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
}

/// hyper leaves the body of an answer to HEAD away by itself, and keeps its length.
fn reply(status: StatusCode, kind: &'static str, body: String) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    reply
}

const INDEX: &str = "stagedoor

/metrics    for Prometheus
/livez      the process answers
/readyz     Backstage can be served; ?upstream=1 asks for every PostgreSQL too
/startupz   the start is over

POST, on loopback only:
/-/reload   look at the configuration again
/-/drain    end when the last client has left
/-/quit     end now
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::control::Answer;
    use crate::admin::control::Readiness;
    use crate::admin::control::UpstreamStatus;
    use std::sync::Mutex;
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;

    #[derive(Default)]
    struct House {
        executed: Mutex<Vec<Command>>,
    }

    impl Control for House {
        fn readiness(&self) -> Readiness {
            Readiness { ready: true, details: vec!["port 5432 bound".to_owned()] }
        }

        fn upstreams(&self) -> Vec<UpstreamStatus> {
            vec![UpstreamStatus { name: "db:5432".to_owned(), up: false, detail: "refused".to_owned() }]
        }

        fn execute(&self, command: Command) -> Answer<'_> {
            self.executed.lock().unwrap().push(command);
            Box::pin(async move {
                match command {
                    Command::Reload => Err("no file changed".to_owned()),
                    Command::Drain | Command::Quit => Ok("as you wish".to_owned()),
                }
            })
        }
    }

    struct Bench {
        address: SocketAddr,
        house: Arc<House>,
        lifecycle: Lifecycle,
    }

    async fn bench() -> Bench {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (house, lifecycle) = (Arc::new(House::default()), Lifecycle::new());
        let metrics = Arc::new(Metrics::new());
        lifecycle.spawn(serve(listener, Arc::clone(&house) as Arc<dyn Control>, metrics, lifecycle.clone()));
        Bench { address, house, lifecycle }
    }

    impl Bench {
        /// Sends `request` as it stands and returns everything that comes until the end.
        async fn raw(&self, request: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }

        async fn ask(&self, method: &str, path: &str) -> String {
            self.raw(&format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
        }
    }

    #[tokio::test]
    async fn metrics_are_text_that_nobody_stores() {
        let answer = bench().await.ask("GET", "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{answer}");
        assert!(answer.contains("cache-control: no-store"), "{answer}");
        assert!(answer.contains("stagedoor_build_info{version="), "{answer}");
        assert!(answer.contains("process_resident_memory_bytes "), "{answer}");
    }

    #[tokio::test]
    async fn head_has_the_length_but_not_the_body() {
        let answer = bench().await.ask("HEAD", "/livez").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("content-length: 6"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn what_is_not_there_is_404_and_the_wrong_method_405() {
        let bench = bench().await;
        let cases = [
            ("GET", "/status", "404", ""),
            ("GET", "/metrics/", "404", ""),
            ("POST", "/metrics", "405", "allow: GET, HEAD"),
            ("DELETE", "/", "405", "allow: GET, HEAD"),
            ("GET", "/-/quit", "405", "allow: POST"),
            ("HEAD", "/-/drain", "405", "allow: POST"),
        ];
        for (method, path, status, header) in cases {
            let answer = bench.ask(method, path).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path}: {answer}");
            assert!(answer.contains(header), "{method} {path}: {answer}");
        }
        assert!(bench.house.executed.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn probes_follow_the_lifecycle() {
        let bench = bench().await;
        let probe = async |path: &str| bench.ask("GET", path).await.get(9..12).map(str::to_owned).unwrap();
        assert_eq!(
            [probe("/livez").await, probe("/startupz").await, probe("/readyz").await],
            ["200", "503", "503"]
        );
        bench.lifecycle.set_ready();
        assert_eq!(
            [probe("/livez").await, probe("/startupz").await, probe("/readyz").await],
            ["200", "200", "200"]
        );
        bench.lifecycle.begin_drain();
        assert_eq!(
            [probe("/livez").await, probe("/startupz").await, probe("/readyz").await],
            ["200", "200", "503"]
        );
    }

    #[tokio::test]
    async fn an_upstream_that_is_down_is_unready_only_for_those_who_ask() {
        let bench = bench().await;
        bench.lifecycle.set_ready();
        let plain = bench.ask("GET", "/readyz").await;
        assert!(plain.starts_with("HTTP/1.1 200 ") && plain.contains("port 5432 bound"), "{plain}");
        let strict = bench.ask("GET", "/readyz?upstream=1").await;
        assert!(strict.starts_with("HTTP/1.1 503 "), "{strict}");
        assert!(strict.contains("upstream db:5432: down refused"), "{strict}");
    }

    #[tokio::test]
    async fn commands_reach_the_house_and_say_what_came_of_it() {
        let bench = bench().await;
        let drain = bench.ask("POST", "/-/drain").await;
        assert!(drain.starts_with("HTTP/1.1 200 ") && drain.ends_with("as you wish\n"), "{drain}");
        let reload = bench.ask("POST", "/-/reload").await;
        assert!(reload.starts_with("HTTP/1.1 409 ") && reload.ends_with("no file changed\n"), "{reload}");
        assert_eq!(*bench.house.executed.lock().unwrap(), [Command::Drain, Command::Reload]);
    }

    #[tokio::test]
    async fn a_web_page_cannot_end_us_through_a_port_forward() {
        let bench = bench().await;
        let request = "POST /-/quit HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\n\r\n";
        let answer = bench.raw(request).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(bench.house.executed.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn commands_from_elsewhere_are_forbidden() {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (house, lifecycle) = (Arc::new(House::default()), Lifecycle::new());
        let control = Arc::clone(&house) as Arc<dyn Control>;
        lifecycle.spawn(serve(listener, control, Arc::new(Metrics::new()), lifecycle.clone()));
        let Some(ip) = own_address() else {
            return; // A machine without a network has nobody elsewhere.
        };
        let bench = Bench { address: SocketAddr::new(ip, port), house, lifecycle };
        let answer = bench.ask("POST", "/-/quit").await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(bench.ask("GET", "/livez").await.starts_with("HTTP/1.1 200 "), "looking is allowed");
        assert!(bench.house.executed.lock().unwrap().is_empty());
    }

    /// An address of this machine that is not loopback. Nothing is sent: `connect` only chooses the route.
    fn own_address() -> Option<std::net::IpAddr> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
    }

    #[tokio::test]
    async fn garbage_and_endless_heads_are_refused() {
        let bench = bench().await;
        let garbage = bench.raw("\x16\x03\x01\r\n\r\n").await;
        assert!(garbage.is_empty() || garbage.starts_with("HTTP/1.1 400 "), "{garbage}");
        let endless = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(2 * HEADER_BYTES_MAX));
        let mut stream = TcpStream::connect(bench.address).await.unwrap();
        let _ = stream.write_all(endless.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "), "{answer:?}");
    }

    #[tokio::test]
    async fn more_connections_than_places_wait_and_are_served() {
        let bench = bench().await;
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            held.push(TcpStream::connect(bench.address).await.unwrap());
        }
        let waiting = timeout(Duration::from_millis(100), bench.ask("GET", "/livez")).await;
        assert!(waiting.is_err(), "no place is free");
        drop(held);
        let answer = timeout(Duration::from_secs(5), bench.ask("GET", "/livez")).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    #[tokio::test]
    async fn it_ends_with_the_lifecycle_even_while_a_connection_is_silent() {
        let bench = bench().await;
        let _silent = TcpStream::connect(bench.address).await.unwrap();
        let ending = bench.lifecycle.wait_stopped(Duration::from_secs(5)).await;
        assert_eq!(ending, crate::lifecycle::Ending::Clean);
    }
}
