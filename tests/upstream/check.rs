//! `stagedoor check` says of each thing that a server may do, what it is and what to change, and shows the chain.

use std::fs;
use std::process::Output;

use rcgen::date_time_ymd;
use serde_json::Value;

use crate::scripted::Authority;
use crate::scripted::authentication;
use crate::scripted::self_signed;
use crate::scripted::serve;
use crate::support::front::Act;
use crate::support::front::Front;
use crate::support::front::Play;
use crate::support::pki::Key;
use crate::support::pki::Pki;
use crate::support::pki::SHA256;
use crate::support::postgres::PASSWORD;
use crate::support::postgres::USER;
use crate::support::postgres::shared;
use crate::support::stagedoor::command;
use crate::support::stagedoor::own;

/// Runs `check` before `front`, with the authorities `ca`.
fn check(front: &Front, ca: &str, more: &str, arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let (bundle, file) = (directory.path().join("ca.pem"), directory.path().join("app-config.yaml"));
    fs::write(&bundle, ca).unwrap();
    fs::write(&file, config(front.port, &format!("ca:\n          $file: {}", bundle.display()), more))
        .unwrap();
    let output = command().arg("--config").arg(&file).arg("check").args(arguments).output().unwrap();
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    assert!(!String::from_utf8_lossy(&text).contains(PASSWORD), "a secret is on the screen");
    output
}

/// An app-config with these lines below `ssl:`, and `more` below `stagedoor:`.
fn config(port: u16, ssl: &str, more: &str) -> String {
    format!(
        "backend:\n  database:\n    client: pg\n    connection:\n      host: localhost\n      port: {port}\n      \
         user: {USER}\n      password: {PASSWORD}\n      ssl:\n        {ssl}\n{}",
        own(more)
    )
}

/// The step `name` of the upstream, from the report in JSON.
fn step(report: &Value, name: &str) -> Value {
    let steps = report["sections"][1]["steps"].as_array().unwrap();
    steps.iter().find(|step| step["name"] == name).cloned().unwrap_or_else(|| panic!("no {name}: {report:#}"))
}

/// Asserts that the step `name` failed, with these words in text and JSON alike; gives it as JSON.
fn fails(what: &str, play: Play, ca: &str, more: &str, (name, words): (&str, &[&str])) -> Value {
    let front = Front::new(play);
    let output = check(&front, ca, more, &[]);
    assert_eq!(output.status.code(), Some(1), "{what}");
    let text = String::from_utf8(output.stdout).unwrap();
    let output = check(&front, ca, more, &["--output", "json"]);
    assert_eq!(output.status.code(), Some(1), "{what}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let step = step(&report, name);
    assert_eq!(step["outcome"], "failed", "{what}: {report:#}");
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("  ✗ {name}")))
        .unwrap_or_else(|| panic!("{text}"));
    for word in words {
        assert!(line.contains(word), "{what}: no \"{word}\" in {text}");
        assert!(step["reason"].as_str().unwrap().contains(word), "{what}: {step:#}");
    }
    assert!(text.ends_with("1 step failed\n"), "{text}");
    step
}

#[test]
fn what_is_no_yes_to_tls_is_explained() {
    let ca = Authority::new();
    let answer = |bytes: &[u8]| Play::Answer(bytes.to_vec());
    let rows: [(&str, Play, &[&str]); 4] = [
        ("N", answer(b"N"), &["does not offer TLS", "postgresql.conf"]),
        ("E", answer(b"E"), &["answered SSLRequest with an error"]),
        ("bytes behind", answer(b"S\x16"), &["bytes behind its answer", "on the wire"]),
        (
            "old",
            Play::InsteadOfHello(b"\x15\x03\x01\0\x02\x02\x46".to_vec()),
            &["ProtocolVersion", "minVersion"],
        ),
    ];
    for (what, play, words) in rows {
        let step = fails(what, play, &ca.pem, "", ("TLS", words));
        assert_eq!(step["certificates"], Value::Null, "{what}: none was shown");
    }
}

#[test]
fn a_certificate_that_is_not_believed_is_explained_and_its_chain_is_shown() {
    let ca = Authority::new();
    let tls = |config| Play::Tls(config, Vec::new());
    let middle = ca.below("scripted intermediate", |_| ());
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &middle.issuer())
        .unwrap();
    let other = Authority::named("another CA");
    let late = |params: &mut rcgen::CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let rows: [(&str, Play, &[&str], usize); 5] = [
        (
            "another CA",
            tls(other.server(&["localhost"], |_| ())),
            &["not trusted", "CN=another CA", "ssl.ca"],
            1,
        ),
        (
            "another host",
            tls(ca.server(&["db.example"], |_| ())),
            &["wanted \"localhost\"", "db.example", "ssl.servername"],
            1,
        ),
        ("expired", tls(ca.server(&["localhost"], late)), &["has expired", "2020-01-01"], 1),
        ("self-signed", tls(self_signed(&["localhost"]).0), &["self-signed", "ssl.ca"], 1),
        (
            "two floors of a stranger's",
            tls(serve(vec![leaf.der().clone(), middle.der.clone()], &key)),
            &["not trusted", "sent 1 more"],
            2,
        ),
    ];
    for (what, play, words, count) in rows {
        let trusted = if count == 2 { &other.pem } else { &ca.pem };
        let step = fails(what, play, trusted, "", ("TLS", words));
        let chain = step["certificates"].as_array().unwrap();
        assert_eq!(chain.len(), count, "{what}: {step:#}");
        assert!(chain[0]["subject"].as_str().is_some_and(|subject| subject.starts_with("CN=")), "{step:#}");
        let days = chain[0]["daysLeft"].as_i64().unwrap();
        assert_eq!(days < -1000, what == "expired", "{what}: {days}");
    }
}

#[test]
fn a_certificate_that_is_revoked_or_lacks_what_stands_above_it_is_explained() {
    let ca = Authority::new();
    let middle = ca.below("scripted intermediate", |_| ());
    let tls = |config| Play::Tls(config, Vec::new());
    let words: &[&str] = &["not trusted", "sent no other certificate", "ssl_cert_file"];
    fails("cut", tls(middle.server(&["localhost"], |_| ())), &ca.pem, "", ("TLS", words));

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("crl.pem");
    fs::write(&file, ca.list(&[42], 2090)).unwrap();
    let more = format!("  tls: {{ crl: [{}] }}\n", file.display());
    let revoked = ca.server(&["localhost"], |params| params.serial_number = Some(42_u64.into()));
    fails(
        "revoked",
        tls(revoked),
        &ca.pem,
        &more,
        ("TLS", &["is revoked", "stagedoor.tls.crl", "CN=scripted server"]),
    );
    fs::write(&file, ca.list(&[], 2025)).unwrap();
    fails(
        "stale",
        tls(ca.server(&["localhost"], |_| ())),
        &ca.pem,
        &more,
        ("TLS", &["has expired", "Renew it"]),
    );
}

#[test]
fn a_key_with_a_passphrase_is_a_fault_of_the_configuration_and_the_way_out_is_named() {
    let pki = Pki::shared();
    let client = pki.client("checked", Key::P256, &pki.authority("checked-ca", Key::P256, SHA256));
    let locked =
        pki.convert(&client.key, "checked-locked.key", &["pkcs8", "-topk8", "-passout", "pass:open sesame"]);
    let ssl = format!(
        "cert:\n          $file: {}\n        key:\n          $file: {}",
        client.certificate.display(),
        locked.display()
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("app-config.yaml");
    fs::write(&file, config(5432, &ssl, "")).unwrap();
    let output = command().arg("--config").arg(&file).arg("check").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("connection.ssl.key") && text.contains("the key is encrypted"), "{text}");
    assert!(text.contains("openssl pkey -in key.pem -out plain.pem"), "{text}");
}

#[test]
fn a_proof_that_is_not_given_is_explained_and_tls_was_good() {
    let ca = Authority::new();
    let config = ca.server(&["localhost"], |_| ());
    let ask = |code, rest: &[u8]| Play::Tls(config.clone(), vec![Act::Say(authentication(code, rest))]);
    let rows: [(&str, Play, &str, &[&str]); 3] = [
        ("cleartext", ask(3, b""), "", &["cleartext password", "stagedoor.auth.allow"]),
        ("in without a question", ask(0, b""), "", &["without asking for any proof"]),
        (
            "stripped",
            ask(10, b"SCRAM-SHA-256\0\0"),
            "  tls: { channelBinding: require }\n",
            &["channel binding is required", "stagedoor.tls.channelBinding"],
        ),
    ];
    for (what, play, more, words) in rows {
        let step = fails(what, play, &ca.pem, more, ("authentication", words));
        assert_eq!(step["certificates"], Value::Null, "{what}");
    }
}

#[test]
fn what_is_good_is_shown_with_names_and_days() {
    let postgres = shared();
    let front = Front::new(Play::Pass(postgres.port));
    let late = Authority::bent(|params| params.not_after = date_time_ymd(2021, 5, 6));
    let bundle = fs::read_to_string(&postgres.ca).unwrap() + &late.pem;
    let output = check(&front, &bundle, "", &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for line in [
        "  ! authorities          1 of 2 in ssl.ca have ended or end soon",
        "      ▸ CN=scripted CA, issued by CN=scripted CA, ended ",
        "  ✓ TLS                  TLSv1.3 TLS13_",
        "      ▸ CN=localhost, for localhost, 127.0.0.1, issued by CN=stagedoor test CA, ends in ",
        "  ✓ authentication       SCRAM-SHA-256-PLUS, accepted in ",
    ] {
        assert!(text.contains(line), "no \"{line}\" in\n{text}");
    }
    let output = check(&front, &bundle, "", &["--output", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let leaf = &step(&report, "TLS")["certificates"][0];
    assert_eq!((&leaf["subject"], &leaf["issuer"]), (&"CN=localhost".into(), &"CN=stagedoor test CA".into()));
    assert_eq!(leaf["names"], serde_json::json!(["localhost", "127.0.0.1"]));
    assert!(
        leaf["daysLeft"].as_i64().unwrap() > 1000 && leaf["notAfter"].as_u64() > leaf["notBefore"].as_u64()
    );
}
