//! TLS from the first byte on, sessions that are resumed, and how a connection ends. PostgreSQL 15 speaks no direct
//! TLS, so something before it takes TLS off, as a cloud's proxy does.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use stagedoor::config::model::AuthMethod;
use stagedoor::config::model::Negotiation;
use stagedoor::config::secret::Secret;
use stagedoor::server::connect::Connected;
use stagedoor::server::connect::Dialer;
use stagedoor::server::connect::Stage;
use stagedoor::server::connection::ExchangeError;

use crate::scripted::Authority;
use crate::scripted::PASSWORD;
use crate::scripted::USER;
use crate::scripted::allowing;
use crate::scripted::upstream;
use crate::scripted::welcome;
use crate::support::front::Act;
use crate::support::front::Front;
use crate::support::front::Play;
use crate::support::front::is_tls;
use crate::support::postgres::Postgres;
use crate::support::postgres::shared;
use crate::support::raw::Raw;
use crate::support::raw::frame;
use crate::support::raw::query;
use crate::support::raw::values;
use crate::support::stagedoor::Stagedoor;
use crate::support::stagedoor::app_config;
use crate::support::stagedoor::own;
use crate::support::wait::until;

const LIMIT: Duration = Duration::from_secs(20);

/// A server's side of TLS that agrees to `protocol` (ALPN).
fn agreeing(config: &Arc<ServerConfig>, protocol: &[u8]) -> Arc<ServerConfig> {
    let mut config = ServerConfig::clone(config);
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

/// A cluster that takes connections without TLS, for whoever has taken it off.
fn behind_a_proxy() -> Postgres {
    let postgres = Postgres::start(&[]);
    let hba = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    fs::write(postgres.data().join("pg_hba.conf"), hba).unwrap();
    postgres.ctl("reload");
    postgres
}

/// A sidecar before `front`, whose servers are `ca`'s.
fn before(postgres: &Postgres, front: &Front, ca: &Authority, tls: &str) -> (Stagedoor, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    fs::write(&file, &ca.pem).unwrap();
    let config = app_config(postgres, &own(tls))
        .replace(&format!("port: {}", postgres.port), &format!("port: {}", front.port))
        .replace(postgres.ca.to_str().unwrap(), file.to_str().unwrap());
    (Stagedoor::with_config(&config), directory)
}

/// A statement that is cancelled on its way, on a server of its own.
fn cancelled(sidecar: &Stagedoor, postgres: &Postgres, database: &str) {
    let mut busy = Raw::login(sidecar.port, database);
    busy.send(&query("SELECT pg_sleep(60)"));
    let asleep = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND query LIKE '%pg_sleep%' AND state = 'active'"
    );
    until("it sleeps", LIMIT, || (postgres.sql("postgres", &asleep) == "1").then_some(()));
    Raw::cancel(sidecar.port, busy.process_id, &busy.secret_key);
    assert_eq!(values(&busy.until_ready()), "ERROR 57014");
}

#[test]
fn direct_tls_is_tls_from_the_first_byte_on_and_sessions_are_resumed_and_counted() {
    let (postgres, ca) = (behind_a_proxy(), Authority::new());
    let database = postgres.database("direct");
    let newest = ca.server(&["localhost"], |_| ());
    let older = ca.server_with(&["localhost"], &[&rustls::version::TLS12]);
    for (config, version) in [(newest, "TLSv1.3"), (older, "TLSv1.2")] {
        let front = Front::new(Play::Unwrap(agreeing(&config, b"postgresql"), postgres.port));
        let (sidecar, _directory) = before(&postgres, &front, &ca, "  tls: { negotiation: direct }\n");
        let mut clients: Vec<_> = (0..3).map(|_| Raw::login(sidecar.port, &database)).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.value("SELECT 1"), "1"));
        cancelled(&sidecar, &postgres, &database);
        let seen = |resumed| {
            let labels = [&format!("version=\"{version}\""), &format!("resumed=\"{resumed}\"")];
            sidecar.metric("stagedoor_tls_info", &labels.map(String::as_str))
        };
        assert!(seen("false") > 0.5, "{version}: the first handshake is a whole one");
        assert!(seen("true") > 0.5, "{version}: no session was resumed");
        drop(clients);
        sidecar.terminate();
        let tapes = front.take();
        assert!(tapes.len() >= 3, "{version}");
        for tape in tapes {
            assert_eq!(tape.wire.first(), Some(&22), "{version}: a ClientHello comes first");
            assert!(is_tls(&tape.wire) && is_tls(&tape.sent), "{version}");
            assert!(
                memchr::memmem::find(&tape.wire, b"\x0apostgresql").is_some(),
                "{version}: ALPN is offered"
            );
        }
    }
}

/// Logs in as somebody who is let in without a proof.
fn trusting(front: &Front, ca: &Authority, negotiation: Negotiation) -> Result<Connected, String> {
    let mut upstream = allowing(upstream(front.port, "localhost", &ca.pem), &[AuthMethod::Trust]);
    (upstream.tls.negotiation, upstream.connect_timeout) = (negotiation, LIMIT);
    let dialer = Dialer::new(Arc::new(upstream)).unwrap();
    let password = Secret::new(PASSWORD.to_owned());
    let connected = runtime().block_on(dialer.connect("database", USER, Some(&password)));
    connected.map_err(|error| {
        assert_eq!(error.stage, Stage::Tls, "{error}");
        error.to_string()
    })
}

/// One for all, so that what a connection belongs to outlives it.
fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    })
}

#[test]
fn whoever_does_not_agree_to_speak_postgresql_hears_nothing() {
    let ca = Authority::new();
    let config = ca.server(&["localhost"], |_| ());
    let play = |config: &Arc<ServerConfig>| Front::new(Play::Tls(config.clone(), vec![Act::Say(welcome())]));
    let rows = [
        (play(&config), "did not agree"),
        (play(&agreeing(&config, b"h2")), "localhost"),
        // no_application_protocol
        (Front::new(Play::InsteadOfHello(b"\x15\x03\x03\0\x02\x02\x78".to_vec())), "NoApplicationProtocol"),
        (Front::new(Play::Pass(shared().port)), "during the TLS handshake"),
    ];
    for (front, word) in rows {
        let text = trusting(&front, &ca, Negotiation::Direct).unwrap_err();
        assert!(text.contains(word) && text.contains("PostgreSQL 17"), "{text}");
        assert!(front.tapes().iter().all(|tape| tape.inside.is_empty() && is_tls(&tape.wire)), "{word}");
    }
    let front = play(&agreeing(&config, b"postgresql"));
    trusting(&front, &ca, Negotiation::Direct).unwrap();
    // Without direct TLS nothing is offered, and so nothing has to be agreed to.
    trusting(&play(&config), &ca, Negotiation::Postgres).unwrap();
}

/// What a question is answered with by a server that ends with `act`.
fn ended_by(act: Act) -> ExchangeError {
    let ca = Authority::new();
    // The first probe is answered as if nothing was to be found.
    let cut = frame(b'T', &[0, 0])[..4].to_vec();
    let acts = vec![Act::Say(welcome()), Act::Say(cut), act];
    let front = Front::new(Play::Tls(ca.server(&["localhost"], |_| ()), acts));
    let connected = trusting(&front, &ca, Negotiation::Postgres).unwrap();
    let dialer = Arc::new(Dialer::new(Arc::new(upstream(front.port, "localhost", &ca.pem))).unwrap());
    let server = stagedoor::server::connection::Server::new(connected, dialer, "database", LIMIT);
    runtime().block_on(server).expect_err("it ends before it answers")
}

#[test]
fn a_connection_that_ends_without_close_notify_was_cut() {
    assert!(matches!(ended_by(Act::Close), ExchangeError::Closed));
    let ExchangeError::Io(error) = ended_by(Act::Drop) else { panic!("it was cut") };
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
    assert!(error.to_string().contains("close_notify"), "{error}");
}

#[test]
fn we_end_what_we_began_with_terminate_and_close_notify() {
    let ca = Authority::new();
    let front = Front::new(Play::Tls(ca.server(&["localhost"], |_| ()), vec![Act::Say(welcome())]));
    let mut stream = trusting(&front, &ca, Negotiation::Postgres).unwrap().stream;
    runtime().block_on(async {
        stream.write_all(&frame(b'X', b"")).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    until("it hears of the end", LIMIT, || front.tapes().first()?.is_over.then_some(()));
    let tape = front.take().remove(0);
    assert!(tape.is_closed_properly, "no close_notify");
    assert!(tape.inside.ends_with(b"X\0\0\0\x04"), "no Terminate");
}

#[test]
fn a_resumed_session_is_believed_no_longer_than_its_certificate() {
    let ca = Authority::new();
    // Valid for some seconds from now on: the first handshake is good, and a later one resumes what has expired.
    let now = std::time::SystemTime::now();
    let until_soon =
        |params: &mut rcgen::CertificateParams| params.not_after = (now + Duration::from_secs(6)).into();
    let config = ca.server(&["localhost"], until_soon);
    let front = Front::new(Play::Tls(config, vec![Act::Say(welcome())]));
    let mut upstream = allowing(upstream(front.port, "localhost", &ca.pem), &[AuthMethod::Trust]);
    upstream.connect_timeout = LIMIT;
    let dialer = Dialer::new(Arc::new(upstream)).unwrap();
    let password = Secret::new(PASSWORD.to_owned());
    let log_in = || runtime().block_on(dialer.connect("database", USER, Some(&password)));
    let mut was_resumed = false;
    let error = until("the certificate expires", LIMIT, || match log_in() {
        Ok(connected) => {
            was_resumed |= connected.tls.unwrap().resumed;
            None
        }
        Err(error) => Some(error),
    });
    assert!(was_resumed, "a session was resumed while its certificate was valid");
    assert!(error.to_string().contains("has expired"), "{error}");
    assert!(error.is_retryable(), "the next handshake is a whole one, and may find a new certificate");
    let again = log_in().expect_err("it has expired for good");
    assert!(again.to_string().contains("has expired") && !again.is_retryable(), "{again}");
    // The new one is found at once.
    front.change(Play::Tls(ca.server(&["localhost"], |_| ()), vec![Act::Say(welcome())]));
    log_in().unwrap();
}
