//! A hostile network, through the real process: while one server is in use, the address answers as somebody else.
//! Whether a cancel, a new connection for an old client or a login comes by: none of them tells it anything.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use rcgen::date_time_ymd;
use rustls::ServerConfig;

use crate::scram::Bent;
use crate::scram::exchange;
use crate::scripted::Authority;
use crate::scripted::authentication;
use crate::scripted::self_signed;
use crate::scripted::welcome;
use crate::support::front::Act;
use crate::support::front::Front;
use crate::support::front::Play;
use crate::support::front::Tape;
use crate::support::front::is_tls;
use crate::support::pki::Key;
use crate::support::pki::NONE;
use crate::support::pki::Pki;
use crate::support::postgres::PASSWORD;
use crate::support::postgres::Postgres;
use crate::support::postgres::USER;
use crate::support::postgres::shared;
use crate::support::raw::Frame;
use crate::support::raw::Raw;
use crate::support::raw::field;
use crate::support::raw::frame;
use crate::support::raw::query;
use crate::support::stagedoor::Stagedoor;
use crate::support::stagedoor::app_config;
use crate::support::stagedoor::own;
use crate::support::wait::until;

/// In a database's name and in a query, to be looked for on the wire.
const MARK: &str = "mark-5c0e";

/// The serial number of a certificate that is revoked.
const REVOKED: u64 = 77;

const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];

/// What a flood may bring to an end: what we read (256 KiB), and what the system keeps for a socket, twice.
const SENT_BYTES_MAX: usize = 24 << 20;

/// How far the answering server has proven to be the one that was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Not at all: it hears SSLRequest and ClientHello.
    Nobody,
    /// Its certificate is good: it may learn user, database and cancel keys.
    Server,
    /// As `Server`, and SCRAM is played with it.
    Scram,
}

struct Row {
    what: &'static str,
    play: Play,
    trust: Trust,
    /// The stage of the metric, the SQLSTATE and words of the error.
    stage: &'static str,
    sqlstate: &'static str,
    words: &'static [&'static str],
}

/// A sidecar before an address that changes its mind.
struct Scene {
    postgres: Arc<Postgres>,
    front: Front,
    sidecar: Stagedoor,
    authority: Authority,
    database: String,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::trusting("", "")
    }

    /// With an authority beside, and more settings; in them, `$lists` is a file with lists of revoked certificates.
    fn trusting(more_ca: &str, more: &str) -> Self {
        let postgres = shared();
        let authority = Authority::new();
        let front = Front::new(Play::Pass(postgres.port));
        let directory = tempfile::tempdir().unwrap();
        let bundle = directory.path().join("bundle.pem");
        let own_ca = fs::read_to_string(&postgres.ca).unwrap();
        fs::write(&bundle, [&own_ca, &authority.pem, more_ca].concat()).unwrap();
        let lists = directory.path().join("lists.pem");
        fs::write(&lists, postgres.crl() + &authority.list(&[REVOKED], 2090)).unwrap();
        let more = more.replace("$lists", lists.to_str().unwrap());
        let times = "  pool: { connectTimeout: 2s, acquireTimeout: 1s }\n";
        let config = app_config(&postgres, &own(&format!("{times}{more}")))
            .replace(&format!("port: {}", postgres.port), &format!("port: {}", front.port))
            .replace(postgres.ca.to_str().unwrap(), bundle.to_str().unwrap());
        let sidecar = Stagedoor::with_config(&config);
        let database = postgres.database("network");
        Self { postgres, front, sidecar, authority, database, _directory: directory }
    }

    fn server(&self, bend: impl FnOnce(&mut rcgen::CertificateParams)) -> Arc<ServerConfig> {
        self.authority.server(&["localhost"], bend)
    }

    fn failures(&self, stage: &str) -> f64 {
        self.sidecar.metric("stagedoor_connect_failures_total", &[&format!("stage=\"{stage}\"")])
    }

    fn suffer(&self, row: &Row) {
        let port = self.sidecar.port;
        let mut old = self.alone();
        let mut busy = Raw::login(port, &self.database);
        busy.send(&query("SELECT pg_sleep(60)"));
        let asleep = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND query LIKE '%pg_sleep%' AND state = 'active'",
            self.database
        );
        until("the only server is busy", Duration::from_secs(10), || {
            (self.postgres.sql("postgres", &asleep) == "1").then_some(())
        });
        let before = (self.failures(row.stage), self.sidecar.log().len());
        self.front.take();
        self.front.change(row.play.clone());
        let stranger = (format!("database-{MARK}"), (USER, PASSWORD));
        let refused = std::thread::scope(|scope| {
            scope.spawn(|| Raw::cancel(port, busy.process_id, &busy.secret_key));
            let old = scope.spawn(|| old.ask(&format!("SELECT '{MARK}'")));
            let login = scope.spawn(|| Raw::login_as(port, &stranger.0, stranger.1, &[]).map(drop));
            let login = login.join().unwrap().expect_err(row.what);
            [told(row.what, &old.join().unwrap()), login]
        });
        self.front.change(Play::Pass(self.postgres.port));
        let tapes = self.front.take();
        assert!(tapes.len() >= 3, "{}: three came by", row.what);
        tapes.iter().for_each(|tape| nothing_was_told(row, tape));
        refused.iter().for_each(|body| is_told_why(row, body));
        self.is_noted(row, before);
        // The next one finds a healthy server at once, and so does the cancel.
        assert_eq!(Raw::login(port, &self.database).value("SELECT 7"), "7", "{}: healthy", row.what);
        Raw::cancel(port, busy.process_id, &busy.secret_key);
        assert_eq!(crate::support::raw::values(&busy.until_ready()), "ERROR 57014", "{}", row.what);
    }

    /// A client with the only server there is.
    fn alone(&self) -> Raw {
        let those = format!("FROM pg_stat_activity WHERE datname = '{}'", self.database);
        self.postgres.sql("postgres", &format!("SELECT pg_terminate_backend(pid, 10000) {those}"));
        until("a client with a server", Duration::from_secs(10), || {
            let mut client = Raw::login_with(self.sidecar.port, &self.database, &[]).ok()?;
            (client.value("SELECT 1") == "1").then_some(client)
        })
    }

    /// Log and metric say what went wrong, and where.
    fn is_noted(&self, row: &Row, (failures, length): (f64, usize)) {
        // A cancel to a server that proved itself does not fail, whatever that server would say to a login.
        let least = if row.trust == Trust::Nobody { 3.0 } else { 2.0 };
        let counted = self.failures(row.stage) - failures;
        assert!(counted > least - 0.5, "{}: {counted} failures are counted at {}", row.what, row.stage);
        let says = |marks: &[&str]| {
            let line =
                until(&format!("{}: a line with {marks:?}", row.what), Duration::from_secs(10), || {
                    let log = self.sidecar.log().split_off(length);
                    log.lines().find(|line| marks.iter().all(|mark| line.contains(mark))).map(str::to_owned)
                });
            let text = line.replace("\\\"", "\"");
            row.words
                .iter()
                .for_each(|word| assert!(text.contains(word), "{}: no {word} in {text}", row.what));
            assert!(text.contains(&format!("localhost:{}", self.front.port)), "{}: {text}", row.what);
        };
        says(&["\"message\":\"connecting failed\"", &format!("\"stage\":\"{}\"", row.stage)]);
        if row.trust == Trust::Nobody {
            says(&["cancel request", "delivered", "\"error\""]);
        }
    }
}

fn told(what: &str, frames: &[Frame]) -> Vec<u8> {
    let error = frames.iter().find(|(tag, _)| *tag == b'E');
    error.map(|(_, body)| body.clone()).unwrap_or_else(|| panic!("{what}: no error: {frames:?}"))
}

fn is_told_why(row: &Row, body: &[u8]) {
    assert_eq!(field(body, b'C'), row.sqlstate, "{}: {}", row.what, field(body, b'M'));
    for word in row.words {
        assert!(field(body, b'M').contains(word), "{}: no \"{word}\" in {}", row.what, field(body, b'M'));
    }
}

/// What the other end heard is what it may know at that point, and it could not fill our memory.
fn nothing_was_told(row: &Row, tape: &Tape) {
    let what = row.what;
    assert!(tape.sent.len() < SENT_BYTES_MAX, "{what}: took {} bytes", tape.sent.len());
    for secret in [PASSWORD, &format!("SELECT '{MARK}'")] {
        assert!(!tape.heard(secret.as_bytes()), "{what}: {secret} went out");
    }
    let request = &tape.wire[..tape.wire.len().min(8)];
    assert!(SSL_REQUEST.starts_with(request), "{what}: {request:?}");
    let behind = &tape.wire[request.len()..];
    assert!(is_tls(behind), "{what}: something else than TLS went out: {behind:?}");
    assert!(!row.play.is_no() || behind.is_empty(), "{what}: it was no yes, and yet we went on: {behind:?}");
    match row.trust {
        Trust::Nobody => assert!(tape.inside.is_empty(), "{what}: {:?}", tape.inside),
        Trust::Server | Trust::Scram => {
            let Some(length) = tape.inside.first_chunk::<4>() else { return };
            let length = u32::from_be_bytes(*length) as usize;
            let rest = &tape.inside[length..];
            let is_cancel = tape.inside[4..8] == 80_877_102_u32.to_be_bytes();
            assert!(is_cancel || tape.heard(USER.as_bytes()), "{what}: {:?}", tape.inside);
            assert!(rest.is_empty() || row.trust == Trust::Scram && !is_cancel, "{what}: {rest:?}");
        }
    }
}

impl Play {
    /// Whether it leaves TLS unanswered.
    fn is_no(&self) -> bool {
        matches!(self, Self::HangUp | Self::Answer(_))
    }
}

fn row(
    what: &'static str,
    play: Play,
    trust: Trust,
    (stage, sqlstate): (&'static str, &'static str),
    words: &'static [&'static str],
) -> Row {
    Row { what, play, trust, stage, sqlstate, words }
}

#[test]
fn whoever_does_not_say_yes_to_tls_hears_nothing() {
    let scene = Scene::new();
    let answer = |bytes: &[u8]| Play::Answer(bytes.to_vec());
    let hello = |bytes: &[u8]| Play::InsteadOfHello(bytes.to_vec());
    let refused = ("tls", "08001");
    let passing = ("tls", "08006");
    // A ServerHello that is longer than any, an alert of no weight, and a record that is empty: again and again.
    let long = [&[22, 3, 3, 0x40, 0, 2, 0xff, 0xff, 0xff][..], &[0; 0x3ffc]].concat();
    let warnings = [21, 3, 3, 0, 2, 1, 90].repeat(500);
    let empty = [22, 3, 3, 0, 0].repeat(500);
    let rows = [
        row("N", answer(b"N"), Trust::Nobody, refused, &["does not offer TLS", "insecure-plaintext"]),
        row(
            "E",
            answer(b"E\0\0\0\x20SFATAL\0Mgo away\0\0"),
            Trust::Nobody,
            refused,
            &["answered SSLRequest with an error"],
        ),
        row(
            "garbage",
            answer(b"HTTP/1.1 400 Bad Request"),
            Trust::Nobody,
            refused,
            &["the byte 0x48", "not a PostgreSQL server"],
        ),
        row("a login without TLS", answer(&welcome()), Trust::Nobody, refused, &["the byte 0x52"]),
        row("nothing", answer(b""), Trust::Nobody, passing, &["no answer within", "(tls)"]),
        row("hung up", Play::HangUp, Trust::Nobody, passing, &["for TLS"]),
        row(
            "TLS behind the yes",
            answer(b"S\x16\x03\x03\0\x02"),
            Trust::Nobody,
            refused,
            &["bytes behind its answer"],
        ),
        row(
            "a login behind the yes",
            answer(&[b"S", welcome().as_slice()].concat()),
            Trust::Nobody,
            refused,
            &["bytes behind its answer"],
        ),
        // protocol_version: a server that speaks TLS 1.1 at the most.
        row(
            "an old one's alert",
            hello(b"\x15\x03\x01\0\x02\x02\x46"),
            Trust::Nobody,
            refused,
            &["ProtocolVersion", "minVersion"],
        ),
        row(
            "plaintext for a ServerHello",
            hello(&welcome()),
            Trust::Nobody,
            refused,
            &["TLS handshake failed"],
        ),
        row("no ServerHello", hello(b""), Trust::Nobody, passing, &["no answer within", "(tls)"]),
        row(
            "a hello without end",
            Play::FloodOfHellos(long),
            Trust::Nobody,
            refused,
            &["TLS handshake failed"],
        ),
        row(
            "warnings without end",
            Play::FloodOfHellos(warnings),
            Trust::Nobody,
            refused,
            &["TLS handshake failed"],
        ),
        row(
            "emptiness without end",
            Play::FloodOfHellos(empty),
            Trust::Nobody,
            refused,
            &["TLS handshake failed"],
        ),
    ];
    rows.iter().for_each(|row| scene.suffer(row));
    scene.sidecar.terminate();
}

#[test]
fn whoever_is_not_the_one_that_was_meant_hears_nothing() {
    let scene = Scene::new();
    let tls = |config| Play::Tls(config, vec![Act::Say(welcome())]);
    let refused = ("tls", "08001");
    let no = |what, config, words| row(what, tls(config), Trust::Nobody, refused, words);
    let expired = |params: &mut rcgen::CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let other = Authority::new();
    let rows = [
        no(
            "another CA",
            other.server(&["localhost"], |_| ()),
            &["authority that is not trusted", "scripted server", "names localhost", "ssl.ca"],
        ),
        no(
            "another host",
            scene.authority.server(&["db.example"], |_| ()),
            &["another host", "\"localhost\"", "db.example", "ssl.servername"],
        ),
        no(
            "an address for a name",
            scene.authority.server(&["127.0.0.1"], |_| ()),
            &["another host", "127.0.0.1"],
        ),
        no("self-signed", self_signed(&["localhost"]).0, &["self-signed", "ssl.ca"]),
        no("expired", scene.server(expired), &["has expired", "2020-01-01", "issuer \"CN=scripted CA"]),
        no(
            "not yet valid",
            scene.server(|params| params.not_before = date_time_ymd(2090, 1, 1)),
            &["not valid yet", "2090-01-01", "clock"],
        ),
        no(
            "for clients",
            scene.server(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            &["not meant for servers", "serverAuth"],
        ),
        no("all of it at once", other.server(&["db.example"], expired), &["has expired"]),
        no(
            "expired, and for another host",
            scene.authority.server(&["db.example"], expired),
            &["has expired"],
        ),
    ];
    rows.iter().for_each(|row| scene.suffer(row));
    scene.sidecar.terminate();
}

#[test]
fn whoever_is_revoked_or_on_nobodys_list_hears_nothing() {
    let other = Authority::named("another CA");
    let scene = Scene::trusting(&other.pem, "  tls: { crl: [$lists] }\n");
    let revoked = |params: &mut rcgen::CertificateParams| params.serial_number = Some(REVOKED.into());
    let no = |what, config, words| {
        row(what, Play::Tls(config, vec![Act::Say(welcome())]), Trust::Nobody, ("tls", "08001"), words)
    };
    let is_revoked: &[&str] =
        &["the server's certificate is revoked", "stagedoor.tls.crl", "CN=scripted server"];
    let rows = [
        no("revoked", scene.server(revoked), is_revoked),
        no("revoked, and for another host", scene.authority.server(&["db.example"], revoked), is_revoked),
        no(
            "on nobody's list",
            other.server(&["localhost"], |_| ()),
            &["no list in stagedoor.tls.crl", "each authority"],
        ),
    ];
    rows.iter().for_each(|row| scene.suffer(row));
    scene.sidecar.terminate();
}

#[test]
fn whoever_cannot_be_bound_to_where_binding_is_required_hears_no_proof() {
    let pki = Pki::shared();
    let ca = pki.authority("unbound-ca", Key::Ed25519, NONE);
    let edwards = pki.server("unbound", Key::Ed25519, NONE, &ca, "DNS:localhost");
    let scene = Scene::trusting(&ca.pem(), "  tls: { channelBinding: require }\n");
    let offer = authentication(10, b"SCRAM-SHA-256\0\0");
    let plus = authentication(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
    let rows = [
        row(
            "without PLUS",
            say(&scene.server(|_| ()), &[offer]),
            Trust::Server,
            ("auth", "28000"),
            &[
                "channel binding is required",
                "does not offer SCRAM-SHA-256-PLUS",
                "stagedoor.tls.channelBinding",
            ],
        ),
        row(
            "Ed25519",
            say(&edwards.serve(), &[plus]),
            Trust::Server,
            ("auth", "28000"),
            &["channel binding is required", "Ed25519"],
        ),
    ];
    rows.iter().for_each(|row| scene.suffer(row));
    scene.sidecar.terminate();
}

#[test]
fn whoever_answers_no_question_after_the_login_is_counted_and_left() {
    let scene = Scene::new();
    let config = scene.server(|_| ());
    let greeting = Act::Add([frame(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]), frame(b'Z', b"I")].concat());
    let nonsense = Act::Say(frame(b'Z', b"T"));
    let acts = [exchange(PASSWORD, Bent::Nothing), vec![greeting, nonsense]].concat();
    let before = scene.failures("startup");
    scene.front.change(Play::Tls(config, acts));
    let refused = Raw::login_as(scene.sidecar.port, &scene.database, (USER, PASSWORD), &[]).map(drop);
    let refused = refused.expect_err("no answer");
    assert_eq!(field(&refused, b'C'), "08006");
    assert!(field(&refused, b'M').contains("not one to the question"), "{}", field(&refused, b'M'));
    assert!(scene.failures("startup") > before + 0.5, "it is not counted");
    scene.front.change(Play::Pass(scene.postgres.port));
    assert_eq!(Raw::login(scene.sidecar.port, &scene.database).value("SELECT 7"), "7");
    scene.sidecar.terminate();
}

fn say(config: &Arc<ServerConfig>, frames: &[Vec<u8>]) -> Play {
    Play::Tls(config.clone(), frames.iter().cloned().map(Act::Say).collect())
}

/// Servers that have a good certificate, and want or give a proof that they should not.
fn wrong_proofs(config: &Arc<ServerConfig>) -> Vec<Row> {
    let sasl = || authentication(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
    let unsigned = Play::Tls(config.clone(), exchange(PASSWORD, Bent::Signature));
    let rows: [(_, Play, _, &[&str]); 8] = [
        (
            "cleartext",
            say(config, &[authentication(3, b"")]),
            Trust::Server,
            &["cleartext password", "not allowed", "stagedoor.auth.allow"],
        ),
        ("md5", say(config, &[authentication(5, b"salt")]), Trust::Server, &["md5", "not allowed"]),
        ("unasked", say(config, &[welcome()]), Trust::Server, &["without asking for any proof", "\"trust\""]),
        ("kerberos", say(config, &[authentication(7, b"")]), Trust::Server, &["code 7"]),
        (
            "an unknown mechanism",
            say(config, &[authentication(10, b"OAUTHBEARER\0\0")]),
            Trust::Server,
            &["OAUTHBEARER"],
        ),
        (
            "SCRAM, then a password",
            say(config, &[sasl(), authentication(3, b"")]),
            Trust::Scram,
            &["without its own proof"],
        ),
        ("SCRAM, then in", say(config, &[sasl(), welcome()]), Trust::Scram, &["without its own proof"]),
        ("no proof of its own", unsigned, Trust::Scram, &["SCRAM is wrong"]),
    ];
    rows.into_iter()
        .map(|(what, play, trust, words)| row(what, play, trust, ("auth", "28000"), words))
        .collect()
}

/// Servers that have a good certificate, and break the protocol behind it.
fn wrong_frames(config: &Arc<ServerConfig>) -> Vec<Row> {
    let broken = ("auth", "08P01");
    let frames =
        |what, frame: &[u8], words| row(what, say(config, &[frame.to_vec()]), Trust::Server, broken, words);
    let notices = Play::Tls(config.clone(), vec![Act::Flood(frame(b'N', &[b'S'; 1000]))]);
    let trickle = Play::Tls(config.clone(), vec![Act::Trickle(frame(b'N', b"\0"))]);
    let settings = vec![Act::Flood(frame(b'S', b"name\0value\0"))];
    let settings = Play::Tls(config.clone(), [exchange(PASSWORD, Bent::Nothing), settings].concat());
    let late = ("auth", "08006");
    vec![
        frames("a frame of 2 GiB", b"R\x7f\xff\xff\xff", &["length of 2147483647"]),
        frames("a negative length", b"R\xff\xff\xff\xff", &["length of 4294967295"]),
        frames("a length below its own", b"R\0\0\0\x03", &["length of 3"]),
        frames("an error without a code", &frame(b'E', b"Mwell\0\0"), &["an error that cannot be read"]),
        row("endless notices", notices, Trust::Server, broken, &["does not end"]),
        row("endless settings", settings, Trust::Scram, ("startup", "08P01"), &["does not end"]),
        row("silence", say(config, &[Vec::new()]), Trust::Server, late, &["no answer within", "(auth)"]),
        row("a byte at a time", trickle, Trust::Server, late, &["no answer within"]),
    ]
}

#[test]
fn whoever_is_the_one_that_was_meant_hears_no_password_all_the_same() {
    let scene = Scene::new();
    let config = scene.server(|_| ());
    for row in wrong_proofs(&config).iter().chain(&wrong_frames(&config)) {
        scene.suffer(row);
    }
    scene.sidecar.terminate();
}
