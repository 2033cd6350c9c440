//! The server's side of SCRAM-SHA-256 (RFC 5802), well done or bent, and what we say to it.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::hmac;
use aws_lc_rs::pbkdf2;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use stagedoor::config::model::Upstream;
use stagedoor::config::secret::Secret;
use stagedoor::server::connect::ConnectError;
use stagedoor::server::connect::Connected;
use stagedoor::server::connect::Dialer;
use stagedoor::server::connect::Stage;

use crate::scripted::Authority;
use crate::scripted::PASSWORD;
use crate::scripted::USER;
use crate::scripted::authentication;
use crate::scripted::upstream;
use crate::support::front::Act;
use crate::support::front::Front;
use crate::support::front::Play;
use crate::support::postgres::shared;
use crate::support::postgres::unique;
use crate::support::raw::frame;

/// What is wrong with the server's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bent {
    Nothing,
    /// `server-first-message` is this, with `$` for the client's nonce.
    First(&'static str),
    /// The server's signature is somebody else's.
    Signature,
    /// `server-final-message` is this.
    Final(&'static str),
}

/// The acts from the StartupMessage to AuthenticationSASLFinal and AuthenticationOk, without channel binding.
pub(crate) fn exchange(password: &'static str, bent: Bent) -> Vec<Act> {
    // What was spoken so far, by the client's nonce: several clients may be here at a time.
    let spoken = Arc::new(Mutex::new(HashMap::new()));
    let (heard, also_bent) = (spoken.clone(), bent.clone());
    let first = move |words: &[u8]| {
        let bare = client_first_bare(words);
        let nonce = bare.split_once(",r=").map_or("", |(_, nonce)| nonce);
        let template =
            if let Bent::First(template) = &bent { template } else { "r=$server,s=c2FsdA==,i=4096" };
        let words = template.replace('$', nonce);
        heard.lock().unwrap().insert(nonce.to_owned(), format!("{bare},{words}"));
        authentication(11, words.as_bytes())
    };
    let last = move |words: &[u8]| {
        let text = String::from_utf8_lossy(words.get(5..).unwrap_or_default()).into_owned();
        let without_proof = text.split_once(",p=").map_or("", |(before, _)| before);
        let spoken = spoken.lock().unwrap();
        let own = spoken.iter().find(|(nonce, _)| without_proof.contains(nonce.as_str()));
        let message = format!("{},{without_proof}", own.map_or("", |(_, words)| words));
        let words = match &also_bent {
            Bent::Final(words) => (*words).to_owned(),
            Bent::Signature => signature("another password", &message),
            Bent::Nothing | Bent::First(_) => signature(password, &message),
        };
        [authentication(12, words.as_bytes()), authentication(0, b"")].concat()
    };
    let offer = authentication(10, b"SCRAM-SHA-256\0\0");
    vec![Act::Say(offer), Act::Answer(Arc::new(first)), Act::Answer(Arc::new(last))]
}

/// Of a SASLInitialResponse, what follows the GS2 header.
fn client_first_bare(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words).into_owned();
    text.split_once("n=,r=").map_or_else(String::new, |(_, nonce)| format!("n=,r={nonce}"))
}

fn signature(password: &str, message: &str) -> String {
    let rounds = message.split(',').find_map(|part| part.strip_prefix("i=")?.parse().ok());
    let rounds = NonZeroU32::new(rounds.unwrap_or(4096)).unwrap();
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, b"salt", password.as_bytes(), &mut salted);
    let sign = |key: &[u8], message: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    let server_key = sign(&salted, b"Server Key");
    format!("v={}", STANDARD.encode(sign(server_key.as_ref(), message.as_bytes())))
}

/// The key and the readiness behind AuthenticationOk.
fn greeting() -> Act {
    Act::Add([frame(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]), frame(b'Z', b"I")].concat())
}

fn log_in(upstream: Upstream, user: &str, password: &str) -> Result<Connected, ConnectError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dialer = Dialer::new(Arc::new(upstream)).unwrap();
    let password = Secret::new(password.to_owned());
    runtime.block_on(dialer.connect("postgres", user, Some(&password)))
}

#[test]
fn a_server_that_does_its_part_is_believed_with_few_rounds_and_with_many() {
    let ca = Authority::new();
    let config = ca.server(&["localhost"], |_| ());
    for first in ["r=$server,s=c2FsdA==,i=4096", "r=$server,s=c2FsdA==,i=1", "r=$s,s=c2FsdA==,i=100000"] {
        let acts = [exchange(PASSWORD, Bent::First(first)), vec![greeting()]].concat();
        let front = Front::new(Play::Tls(config.clone(), acts));
        let mut upstream = upstream(front.port, "localhost", &ca.pem);
        upstream.connect_timeout = Duration::from_secs(20);
        let connected = log_in(upstream, USER, PASSWORD).unwrap();
        assert_eq!(connected.method, "SCRAM-SHA-256");
    }
}

#[test]
fn each_part_of_an_exchange_that_is_wrong_is_named_and_ends_it() {
    let ca = Authority::new();
    let config = ca.server(&["localhost"], |_| ());
    // The number of messages of ours that the server heard: no proof is given to a challenge that is wrong.
    let rows = [
        (Bent::First("r=$,s=c2FsdA==,i=4096"), 2, "nonce is not an extension"),
        (Bent::First("r=stranger,s=c2FsdA==,i=4096"), 2, "nonce is not an extension"),
        (Bent::First("r=before$,s=c2FsdA==,i=4096"), 2, "nonce is not an extension"),
        (Bent::First("r=$server,s=,i=4096"), 2, "salt is empty"),
        (Bent::First("r=$server,s=?,i=4096"), 2, "SCRAM is wrong"),
        (Bent::First("r=$server,s=c2FsdA==,i=0"), 2, "asks for 0 rounds"),
        (Bent::First("r=$server,s=c2FsdA==,i=100001"), 2, "asks for 100001 rounds"),
        (Bent::First("r=$server,s=c2FsdA==,i=2147483647"), 2, "asks for 2147483647 rounds"),
        (Bent::First("r=$server,s=c2FsdA==,i=4294967297"), 2, "asks for 4294967297 rounds"),
        (Bent::First("r=$server,s=c2FsdA==,i=4096,x=extension"), 2, "goes on"),
        (Bent::First("m=must,r=$server,s=c2FsdA==,i=4096"), 2, "extension (m=)"),
        (Bent::First("e=no-resources"), 2, "challenge is none"),
        (Bent::Signature, 3, "its own proof does not hold"),
        (Bent::Final("v="), 3, "its own proof does not hold"),
        (Bent::Final("v=AAAA"), 3, "its own proof does not hold"),
        (Bent::Final(""), 3, "its own proof does not hold"),
        (Bent::Final("e=invalid-proof"), 3, "it says \"invalid-proof\""),
        (Bent::Final("e=\x1b[2J"), 3, "it says \"?[2J\""),
    ];
    for (bent, messages, word) in rows {
        let acts = [exchange(PASSWORD, bent.clone()), vec![greeting()]].concat();
        let front = Front::new(Play::Tls(config.clone(), acts));
        let error = log_in(upstream(front.port, "localhost", &ca.pem), USER, PASSWORD).expect_err(word);
        let text = error.to_string();
        assert!(text.contains("SCRAM is wrong") && text.contains(word), "{bent:?}: {text}");
        assert_eq!((error.stage, error.refusal().sqlstate()), (Stage::Auth, "28000"), "{bent:?}");
        let inside = front.tapes().remove(0).inside;
        assert_eq!(messages_in(&inside), messages, "{bent:?}");
    }
}

/// How many messages: a StartupMessage, then frames.
fn messages_in(mut inside: &[u8]) -> usize {
    let mut count = 0;
    while !inside.is_empty() {
        let header = usize::from(count > 0);
        let length = u32::from_be_bytes(inside[header..header + 4].try_into().unwrap());
        inside = &inside[header + length as usize..];
        count += 1;
    }
    count
}

#[test]
fn the_rounds_are_done_where_they_keep_nobody_waiting() {
    let ca = Authority::new();
    let config = ca.server(&["127.0.0.1"], |_| ());
    let acts = [exchange(PASSWORD, Bent::Nothing), vec![greeting()]].concat();
    let front = Front::new(Play::Tls(config, acts));
    // Its one thread for what blocks is taken: where the rounds are done elsewhere, the login would end all the same.
    let runtime =
        tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    runtime.spawn_blocking(move || held.recv());
    let mut upstream = upstream(front.port, "127.0.0.1", &ca.pem);
    upstream.connect_timeout = Duration::from_secs(30);
    let dialer = Dialer::new(Arc::new(upstream)).unwrap();
    let password = Secret::new(PASSWORD.to_owned());
    runtime.block_on(async {
        let mut login = Box::pin(dialer.connect("database", USER, Some(&password)));
        let early = tokio::time::timeout(Duration::from_millis(500), &mut login).await;
        assert!(early.is_err(), "the rounds were done on the thread that serves");
        drop(release);
        login.await.unwrap();
    });
}

#[test]
fn passwords_are_prepared_as_postgresql_prepares_them() {
    let postgres = shared();
    let ca = std::fs::read_to_string(&postgres.ca).unwrap();
    let same = [
        ("I\u{ad}X", "IX"),
        ("\u{2168}", "IX"),
        ("a\u{a0}b", "a b"),
        ("\u{ff21}\u{ff22}", "AB"),
        ("e\u{301}t\u{e9}", "\u{e9}te\u{301}"),
        ("пароль", "пароль"),
        // What SASLprep forbids is taken as it is: a control character, an unassigned one, mixed directions.
        ("bell\u{7}", "bell\u{7}"),
        ("key\u{1f511}", "key\u{1f511}"),
        ("\u{627}1", "\u{627}1"),
        (" ", " "),
    ];
    for (stored, typed) in same {
        let role = unique("prepared");
        postgres.sql("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD '{stored}'"));
        let upstream = || {
            let mut upstream = upstream(postgres.port, "localhost", &ca);
            upstream.connect_timeout = Duration::from_secs(20);
            upstream
        };
        let connected =
            log_in(upstream(), &role, typed).unwrap_or_else(|error| panic!("{stored:?}: {error}"));
        assert_eq!(connected.method, "SCRAM-SHA-256-PLUS");
        let wrong = log_in(upstream(), &role, "another").expect_err("another password");
        assert_eq!(wrong.refusal().sqlstate(), "28P01");
        postgres.sql("postgres", &format!("DROP ROLE {role}"));
    }
}
