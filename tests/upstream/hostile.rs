//! Each row of what a server may do, with the words that an operator reads then.

use std::sync::Arc;

use rcgen::CertificateRevocationListParams;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::RevocationReason;
use rcgen::RevokedCertParams;
use rcgen::SerialNumber;
use rcgen::date_time_ymd;
use stagedoor::config::model::AuthMethod;
use stagedoor::config::model::ChannelBinding;
use stagedoor::config::model::Pem;
use stagedoor::config::model::TlsMode;
use stagedoor::config::model::Upstream;
use stagedoor::server::connect::Stage;

use crate::scripted::Authority;
use crate::scripted::Script;
use crate::scripted::Scripted;
use crate::scripted::allowing;
use crate::scripted::authentication;
use crate::scripted::frame;
use crate::scripted::self_signed;
use crate::scripted::welcome;

/// Plays `script` and asserts the error: its stage, its SQLSTATE and what it says.
async fn refused(
    what: &str,
    script: Script,
    ca: &str,
    bend: impl FnOnce(Upstream) -> Upstream,
    expected: (Stage, &str, &[&str]),
) {
    let server = Scripted::play(script).await;
    let upstream = bend(server.upstream("localhost", ca));
    let error = server.log_in(upstream).await.expect_err(what);
    let (stage, sqlstate, words) = expected;
    assert_eq!(error.stage, stage, "{what}: {error}");
    assert_eq!(error.refusal().sqlstate(), sqlstate, "{what}: {error}");
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{what}: \"{text}\" lacks \"{word}\"");
    }
    assert!(text.contains("localhost:"), "{what}: the upstream is named: {text}");
}

#[tokio::test]
async fn what_is_not_a_yes_to_tls_is_an_error_and_never_plaintext() {
    let ca = Authority::new().pem;
    let rows: [(&str, &'static [u8], &str, &[&str]); 6] = [
        ("N", b"N", "08001", &["does not offer TLS", "insecure-plaintext"]),
        ("E", b"ESFATAL\0Mgo away\0\0", "08001", &["answered SSLRequest with an error"]),
        ("garbage", b"H", "08001", &["byte 0x48"]),
        ("nothing", b"", "08006", &["no answer within", "(tls)"]),
        ("bytes behind", b"S\x16\x03\x01", "08001", &["bytes behind its answer"]),
        ("plaintext behind", b"SR\0\0\0\x08\0\0\0\0", "08001", &["bytes behind its answer"]),
    ];
    for (what, answer, sqlstate, words) in rows {
        refused(what, Script::Answer(answer), &ca, |same| same, (Stage::Tls, sqlstate, words)).await;
    }
    let alert = b"\x15\x03\x01\x00\x02\x02\x46"; // protocol_version: a server that speaks TLS 1.1 at the most
    let words: &[&str] = &["ProtocolVersion", "minVersion"];
    refused("old", Script::InsteadOfHello(alert), &ca, |same| same, (Stage::Tls, "08001", words)).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_the_one_that_was_meant_is_named_with_what_to_change() {
    let ca = Authority::new();
    let other = Authority::new();
    let tls = |config| Script::Tls(config, Vec::new());
    let (own, _) = self_signed(&["localhost"]);
    let rows: Vec<(&str, Script, &[&str])> = vec![
        (
            "another CA",
            tls(other.server(&["localhost"], |_| ())),
            &["not trusted", "scripted server", "ssl.ca"],
        ),
        (
            "another host",
            tls(ca.server(&["db.example"], |_| ())),
            &["another host", "\"localhost\"", "db.example", "ssl.servername"],
        ),
        ("self-signed", tls(own), &["self-signed", "ssl.ca"]),
        (
            "expired",
            tls(ca.server(&["localhost"], |params| params.not_after = date_time_ymd(2020, 1, 1))),
            &["has expired", "2020-01-01", "issuer \"CN=scripted CA"],
        ),
        (
            "not yet valid",
            tls(ca.server(&["localhost"], |params| params.not_before = date_time_ymd(2090, 1, 1))),
            &["not valid yet", "2090-01-01", "clock"],
        ),
        (
            "for clients",
            tls(ca.server(&["localhost"], |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]
            })),
            &["not meant for servers", "serverAuth"],
        ),
    ];
    for (what, script, words) in rows {
        refused(what, script, &ca.pem, |same| same, (Stage::Tls, "08001", words)).await;
    }
}

#[tokio::test]
async fn an_address_must_be_among_the_certificates_addresses() {
    let ca = Authority::new();
    let server = Scripted::play(Script::Tls(ca.server(&["localhost"], |_| ()), Vec::new())).await;
    let error = server.log_in(server.upstream("127.0.0.1", &ca.pem)).await.expect_err("no address");
    assert!(error.to_string().contains("another address: wanted \"127.0.0.1\""), "{error}");
    let script = Script::Tls(ca.server(&["127.0.0.1"], |_| ()), vec![welcome()]);
    let server = Scripted::play(script).await;
    server.log_in(allowing(server.upstream("127.0.0.1", &ca.pem), &[AuthMethod::Trust])).await.unwrap();
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_and_so_is_one_of_which_no_list_knows() {
    let ca = Authority::new();
    let serial = SerialNumber::from(77_u64);
    let revoked = RevokedCertParams {
        serial_number: serial.clone(),
        revocation_time: date_time_ymd(2024, 1, 1),
        reason_code: Some(RevocationReason::KeyCompromise),
        invalidity_date: None,
    };
    let list = |revoked_certs| CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2090, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let crl = list(vec![revoked]).signed_by(&ca.issuer()).unwrap().pem().unwrap();
    let foreign = list(Vec::new()).signed_by(&Authority::new().issuer()).unwrap().pem().unwrap();
    let config = || ca.server(&["localhost"], |params| params.serial_number = Some(serial.clone()));
    for (what, text, word) in
        [("revoked", crl, "is revoked"), ("unknown", foreign, "no list in stagedoor.tls.crl")]
    {
        let with_crl = |mut upstream: Upstream| {
            upstream.tls.crls = vec![Pem { text, origin: "crl.pem".to_owned() }];
            upstream
        };
        let script = Script::Tls(config(), Vec::new());
        refused(what, script, &ca.pem, with_crl, (Stage::Tls, "08001", &[word])).await;
    }
}

#[tokio::test]
async fn names_that_node_and_libpq_accept_are_accepted() {
    let ca = Authority::new();
    let trusting = |server: &Scripted, bend: &dyn Fn(&mut Upstream)| {
        let mut upstream = allowing(server.upstream("localhost", &ca.pem), &[AuthMethod::Trust]);
        bend(&mut upstream);
        upstream
    };
    let named =
        |name: &'static str| move |upstream: &mut Upstream| upstream.tls.server_name = Some(name.to_owned());
    let play = |config: Arc<rustls::ServerConfig>| Scripted::play(Script::Tls(config, vec![welcome()]));

    let wildcard = play(ca.server(&["*.db.example"], |_| ())).await;
    wildcard.log_in(trusting(&wildcard, &named("a.db.example"))).await.unwrap();
    wildcard.log_in(trusting(&wildcard, &named("a.b.db.example"))).await.expect_err("one label only");

    let common_name = |params: &mut rcgen::CertificateParams| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "project:instance");
    };
    let cloud = play(ca.server(&[], common_name)).await;
    cloud.log_in(trusting(&cloud, &named("project:instance"))).await.unwrap();
    cloud
        .log_in(trusting(&cloud, &|_| ()))
        .await
        .expect_err("the common name is nobody's unless it is asked for");
    let chain_only = |upstream: &mut Upstream| upstream.tls.mode = TlsMode::VerifyCa;
    cloud.log_in(trusting(&cloud, &chain_only)).await.unwrap();

    let (own, pem) = self_signed(&["localhost"]);
    let pinned = play(own).await;
    pinned.log_in(allowing(pinned.upstream("localhost", &pem), &[AuthMethod::Trust])).await.unwrap();
}

#[tokio::test]
async fn a_proof_is_given_only_to_whom_it_may_be() {
    let ca = Authority::new();
    let config = ca.server(&["localhost"], |_| ());
    let after_hello = |frames: Vec<Vec<u8>>| Script::Tls(config.clone(), frames);
    let sasl = || authentication(10, b"SCRAM-SHA-256\0\0");
    let plus = || authentication(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
    let first = |text: &str| authentication(11, text.as_bytes());
    let rows: Vec<(&str, Vec<Vec<u8>>, &[&str])> = vec![
        (
            "cleartext",
            vec![authentication(3, b"")],
            &["cleartext password", "not allowed", "stagedoor.auth.allow"],
        ),
        ("md5", vec![authentication(5, b"salt")], &["md5", "not allowed"]),
        ("unasked", vec![welcome()], &["without asking for any proof", "\"trust\""]),
        ("kerberos", vec![authentication(7, b"")], &["code 7"]),
        ("no mechanism", vec![authentication(10, b"OAUTHBEARER\0\0")], &["OAUTHBEARER"]),
        ("a strange nonce", vec![sasl(), first("r=stranger,s=c2FsdA==,i=4096")], &["SCRAM is wrong"]),
        (
            "a strange nonce, bound",
            vec![plus(), first("r=x,s=c2FsdA==,i=4096")],
            &["nonce is not an extension"],
        ),
        ("ok in the middle", vec![sasl(), welcome()], &["without its own proof"]),
    ];
    for (what, frames, words) in rows {
        refused(what, after_hello(frames), &ca.pem, |same| same, (Stage::Auth, "28000", words)).await;
    }
    let require = |mut upstream: Upstream| {
        upstream.tls.channel_binding = ChannelBinding::Require;
        upstream
    };
    let blind = |mut upstream: Upstream| {
        upstream.tls.mode = TlsMode::InsecureNoVerify;
        allowing(upstream, &[AuthMethod::Password, AuthMethod::Md5])
    };
    for asked in [authentication(3, b""), authentication(5, b"salt")] {
        let words: &[&str] = &["not verified", "gets none"];
        refused("unverified", after_hello(vec![asked]), &ca.pem, blind, (Stage::Auth, "28000", words)).await;
    }
    let words: &[&str] = &["channel binding is required", "does not offer SCRAM-SHA-256-PLUS"];
    refused("stripped", after_hello(vec![sasl()]), &ca.pem, require, (Stage::Auth, "28000", words)).await;
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_is_left_in_time_and_bounded_memory() {
    let ca = Authority::new();
    let config = ca.server(&["localhost"], |_| ());
    let rows: Vec<(&str, Vec<u8>, Stage, &str, &str)> = vec![
        ("negative", b"R\xff\xff\xff\xff".to_vec(), Stage::Auth, "08P01", "length of 4294967295"),
        ("too short", b"R\0\0\0\x03".to_vec(), Stage::Auth, "08P01", "length of 3"),
        ("huge", b"R\x7f\xff\xff\xff".to_vec(), Stage::Auth, "08P01", "length of 2147483647"),
        ("cut", frame(b'R', b"\0\0"), Stage::Auth, "08P01", "no AuthenticationRequest"),
        ("an error without a code", frame(b'E', b"\0"), Stage::Auth, "08P01", "cannot be read"),
        ("silence", Vec::new(), Stage::Auth, "08006", "no answer within"),
    ];
    for (what, bytes, stage, sqlstate, word) in rows {
        let script = Script::Tls(config.clone(), vec![bytes]);
        refused(what, script, &ca.pem, |same| same, (stage, sqlstate, &[word])).await;
    }
    let words: &[&str] = &["does not end"];
    refused("endless", Script::Endless(config), &ca.pem, |same| same, (Stage::Auth, "08P01", words)).await;
}

#[tokio::test]
async fn the_words_of_postgresql_are_passed_on_to_the_letter() {
    let ca = Authority::new();
    let body = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"x\"\0\0";
    let script = Script::Tls(ca.server(&["localhost"], |_| ()), vec![frame(b'E', body)]);
    let server = Scripted::play(script).await;
    let error = server.log_in(server.upstream("localhost", &ca.pem)).await.expect_err("refused");
    assert_eq!(error.refusal().frame(), frame(b'E', body));
    assert!(!error.is_retryable());
}
