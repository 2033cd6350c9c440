//! A real PostgreSQL that shows certificates of every kind: channel binding, versions of TLS, our own certificate.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use stagedoor::config::model::ChannelBinding;
use stagedoor::config::model::ClientCertificate;
use stagedoor::config::model::Pem;
use stagedoor::config::model::TlsMode;
use stagedoor::config::model::TlsVersion;
use stagedoor::config::model::Upstream;
use stagedoor::config::secret::Secret;
use stagedoor::server::connect::ConnectError;
use stagedoor::server::connect::Connected;
use stagedoor::server::connect::Dialer;
use stagedoor::server::connect::Stage;

use crate::scripted::upstream;
use crate::support::pki::Issued;
use crate::support::pki::Key;
use crate::support::pki::NONE;
use crate::support::pki::PSS256;
use crate::support::pki::PSS384;
use crate::support::pki::PSS512;
use crate::support::pki::Pki;
use crate::support::pki::SHA256;
use crate::support::pki::SHA384;
use crate::support::pki::SHA512;
use crate::support::postgres::PASSWORD;
use crate::support::postgres::Postgres;
use crate::support::postgres::USER;
use crate::support::wait::until;

const LIMIT: Duration = Duration::from_secs(20);

/// A login to `postgres`, by an upstream that trusts `ca`.
fn log_in(
    postgres: &Postgres,
    ca: &str,
    user: &str,
    bend: impl FnOnce(&mut Upstream),
) -> Result<Connected, ConnectError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut upstream = upstream(postgres.port, "localhost", ca);
    upstream.connect_timeout = LIMIT;
    bend(&mut upstream);
    let dialer = Dialer::new(Arc::new(upstream)).unwrap();
    let password = Secret::new(PASSWORD.to_owned());
    runtime.block_on(dialer.connect("postgres", user, Some(&password)))
}

/// Has `postgres` show `issued`, with these settings, and waits until it does.
fn show(postgres: &Postgres, issued: &Issued, settings: &[(&str, &str)]) {
    fs::write(postgres.socket().join("server.crt"), issued.pem()).unwrap();
    fs::write(postgres.socket().join("server.key"), issued.key_pem()).unwrap();
    for (name, value) in settings {
        postgres.sql("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'"));
    }
    postgres.ctl("reload");
    let shown = stagedoor::tls::certificate::Facts::read(&der(issued)).unwrap();
    until(&format!("it shows {}", shown.subject), LIMIT, || {
        let unverified = |upstream: &mut Upstream| upstream.tls.mode = TlsMode::InsecureNoVerify;
        let outcome = log_in(postgres, &issued.pem(), USER, unverified);
        let chain = outcome.map_or_else(|error| error.chain, |connected| connected.tls.unwrap().chain);
        // With TLS 1.2, one of version 1 is refused before it is noted: then its login fails, which is waited for.
        (chain.first().is_none_or(|leaf| *leaf == shown)).then_some(())
    });
}

fn der(issued: &Issued) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateDer::from_pem_file(&issued.certificate).unwrap().to_vec()
}

#[test]
fn postgresql_agrees_on_the_binding_to_each_kind_of_certificate() {
    let (pki, postgres) = (Pki::shared(), Postgres::start(&[]));
    let rows = [
        ("rsa-sha256", Key::Rsa2048, Key::Rsa2048, SHA256, true),
        ("rsa-sha384", Key::Rsa2048, Key::P256, SHA384, true),
        ("rsa4096-sha512", Key::Rsa4096, Key::Rsa4096, SHA512, true),
        ("pss-sha256", Key::Rsa2048, Key::Rsa2048, PSS256, true),
        ("pss-sha384", Key::Rsa2048, Key::P384, PSS384, true),
        ("pss-sha512", Key::Rsa2048, Key::P256, PSS512, true),
        ("p256-sha256", Key::P256, Key::P256, SHA256, true),
        ("p256-sha384", Key::P256, Key::Rsa2048, SHA384, true),
        ("p384-sha384", Key::P384, Key::P384, SHA384, true),
        ("p384-sha256", Key::P384, Key::Ed25519, SHA256, true),
        ("ed25519", Key::Ed25519, Key::Ed25519, NONE, false),
    ];
    for (name, above, own, signing, is_bound) in rows {
        let ca = pki.authority(&format!("{name}-ca"), above, signing);
        let issued = pki.server(name, own, signing, &ca, "DNS:localhost");
        show(&postgres, &issued, &[]);
        let method = |binding| {
            let outcome =
                log_in(&postgres, &ca.pem(), USER, |upstream| upstream.tls.channel_binding = binding);
            outcome.map(|connected| connected.method).map_err(|error| (error.stage, error.to_string()))
        };
        let preferred = if is_bound { "SCRAM-SHA-256-PLUS" } else { "SCRAM-SHA-256" };
        assert_eq!(method(ChannelBinding::Prefer), Ok(preferred), "{name}");
        assert_eq!(method(ChannelBinding::Disable), Ok("SCRAM-SHA-256"), "{name}");
        match method(ChannelBinding::Require) {
            Ok(method) => assert!(is_bound && method == "SCRAM-SHA-256-PLUS", "{name}: {method}"),
            Err((stage, text)) => {
                assert!(!is_bound && stage == Stage::Auth && text.contains("Ed25519"), "{name}: {text}");
                assert!(text.contains("stagedoor.tls.channelBinding"), "{text}");
            }
        }
    }
}

#[test]
fn tls_is_as_new_as_is_asked_for_and_a_certificate_of_version_1_needs_the_newest() {
    let (pki, postgres) = (Pki::shared(), Postgres::start(&[("ssl_min_protocol_version", "TLSv1.2")]));
    let ca = pki.authority("versions-ca", Key::P256, SHA256);
    let issued = pki.server("versions", Key::P256, SHA256, &ca, "DNS:localhost");
    let old = pki.version_1("localhost", Key::Rsa2048);
    let newest = |upstream: &mut Upstream| upstream.tls.version_min = TlsVersion::V1_3;
    let named = |upstream: &mut Upstream| upstream.tls.server_name = Some("localhost".to_owned());
    let version = |outcome: Result<Connected, ConnectError>| {
        outcome.map(|connected| connected.tls.unwrap().version).map_err(|error| error.to_string())
    };

    show(&postgres, &issued, &[]);
    assert_eq!(version(log_in(&postgres, &ca.pem(), USER, |_| ())).as_deref(), Ok("TLSv1.3"));
    assert_eq!(version(log_in(&postgres, &ca.pem(), USER, newest)).as_deref(), Ok("TLSv1.3"));
    show(&postgres, &old, &[]);
    assert_eq!(version(log_in(&postgres, &old.pem(), USER, named)).as_deref(), Ok("TLSv1.3"));
    let unasked = version(log_in(&postgres, &old.pem(), USER, |_| ())).unwrap_err();
    assert!(unasked.contains("another host") && unasked.contains("no alternative names"), "{unasked}");
    let untrusted = version(log_in(&postgres, &ca.pem(), USER, named)).unwrap_err();
    assert!(untrusted.contains("self-signed") && untrusted.contains("ssl.ca"), "{untrusted}");

    show(&postgres, &issued, &[("ssl_max_protocol_version", "TLSv1.2")]);
    until("it speaks TLS 1.2", LIMIT, || {
        (version(log_in(&postgres, &ca.pem(), USER, |_| ())).as_deref() == Ok("TLSv1.2")).then_some(())
    });
    let refused = version(log_in(&postgres, &ca.pem(), USER, newest)).unwrap_err();
    assert!(refused.contains("ProtocolVersion") && refused.contains("stagedoor.tls.minVersion"), "{refused}");
    let bound =
        log_in(&postgres, &ca.pem(), USER, |upstream| upstream.tls.channel_binding = ChannelBinding::Require);
    assert_eq!(bound.unwrap().method, "SCRAM-SHA-256-PLUS");
    show(&postgres, &old, &[]);
    let refused = version(log_in(&postgres, &old.pem(), USER, named)).unwrap_err();
    assert!(refused.contains("X.509 version 1") && refused.contains("TLS 1.3"), "{refused}");
}

#[test]
fn our_own_certificate_is_shown_with_its_whole_chain_and_what_the_server_says_of_it_is_explained() {
    let (pki, postgres) = (Pki::shared(), Postgres::start(&[]));
    let root = pki.authority("clients-root", Key::P384, SHA384);
    let middle = pki.intermediate("clients-middle", Key::Rsa2048, SHA256, &root);
    let stranger = pki.authority("strangers-root", Key::P256, SHA256);
    fs::write(postgres.socket().join("clients.crt"), root.pem()).unwrap();
    postgres.sql("postgres", "CREATE ROLE carded LOGIN");
    let hba = "local all all trust\nhostssl all carded 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
    fs::write(postgres.data().join("pg_hba.conf"), hba).unwrap();
    let path = postgres.socket().join("clients.crt");
    postgres.sql("postgres", &format!("ALTER SYSTEM SET ssl_ca_file = '{}'", path.display()));
    postgres.ctl("restart");
    let ca = fs::read_to_string(&postgres.ca).unwrap();
    let with = |chain: String, key: String| {
        log_in(&postgres, &ca, "carded", |upstream| {
            upstream.tls.client_certificate = Some(ClientCertificate {
                chain: Pem { text: chain, origin: "ssl.cert".to_owned() },
                key: Secret::new(key),
                key_origin: "ssl.key".to_owned(),
            });
        })
    };
    let convert = |key: &std::path::Path, name: &str, how: &[&str]| {
        fs::read_to_string(pki.convert(key, name, how)).unwrap()
    };
    for kind in [Key::Rsa2048, Key::Rsa4096, Key::P256, Key::P384, Key::Ed25519] {
        let own = pki.client("carded", kind, &middle);
        let chain = own.pem() + &middle.pem();
        let mut forms = vec![own.key_pem()];
        match kind {
            Key::Rsa2048 | Key::Rsa4096 => {
                forms.push(convert(&own.key, "carded-1.key", &["rsa", "-traditional"]))
            }
            Key::P256 | Key::P384 => forms.push(convert(&own.key, "carded-sec1.key", &["ec"])),
            Key::Ed25519 => {}
        }
        for key in forms {
            let connected = with(chain.clone(), key).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            assert_eq!(connected.method, "nothing asked", "{kind:?}: the certificate was enough");
        }
        let cut = with(own.pem(), own.key_pem()).expect_err("without the intermediate");
        let text = cut.to_string();
        assert!(
            text.contains("UnknownCA") && text.contains("ssl.cert") && text.contains("whole chain"),
            "{text}"
        );
        assert!(!cut.is_retryable() && cut.stage == Stage::Tls, "{text}");
    }
    let own = pki.client("carded", Key::P256, &stranger);
    let text = with(own.pem(), own.key_pem()).expect_err("a stranger's").to_string();
    assert!(text.contains("UnknownCA") && text.contains("ssl_ca_file"), "{text}");
    let another = pki.client("somebody", Key::P256, &middle);
    let text = with(another.pem() + &middle.pem(), another.key_pem()).expect_err("another's").to_string();
    assert!(text.contains("28000"), "{text}");
}
