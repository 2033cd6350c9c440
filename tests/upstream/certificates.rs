//! Certificates as clouds and companies make them: which are believed, and what is said of those that are not.

use std::sync::Arc;

use rcgen::CertificateParams;
use rcgen::CustomExtension;
use rcgen::DnType;
use rcgen::KeyPair;
use rcgen::SanType;
use rcgen::SerialNumber;
use rcgen::date_time_ymd;
use rustls::ServerConfig;
use stagedoor::config::model::AuthMethod;
use stagedoor::config::model::ClientCertificate;
use stagedoor::config::model::Pem;
use stagedoor::config::model::Roots;
use stagedoor::config::model::TlsMode;
use stagedoor::config::model::Upstream;
use stagedoor::config::secret::Secret;
use stagedoor::server::connect::Dialer;

use crate::scripted::Authority;
use crate::scripted::Script;
use crate::scripted::Scripted;
use crate::scripted::allowing;
use crate::scripted::self_signed;
use crate::scripted::serve;
use crate::scripted::welcome;
use crate::support::pki::Key;
use crate::support::pki::Pki;
use crate::support::pki::SHA1;
use crate::support::pki::SHA256;

/// What comes of a login to a server with `config`, by an upstream that trusts `ca`: the words of the error.
async fn believed(
    config: Arc<ServerConfig>,
    ca: &str,
    bend: impl FnOnce(&mut Upstream),
) -> Result<Vec<String>, String> {
    let server = Scripted::play(Script::Tls(config, vec![welcome()])).await;
    let mut upstream = allowing(server.upstream("localhost", ca), &[AuthMethod::Trust]);
    bend(&mut upstream);
    match server.log_in(upstream).await {
        Ok(connected) => Ok(connected.tls.unwrap().chain.into_iter().map(|facts| facts.subject).collect()),
        Err(error) => Err(error.to_string()),
    }
}

fn assert_says(what: &str, outcome: &Result<Vec<String>, String>, words: &[&str]) {
    let text = outcome.as_ref().expect_err(what);
    for word in words {
        assert!(text.contains(word), "{what}: no \"{word}\" in {text}");
    }
}

/// Three floors: a root, an intermediate, and what a server shows of them.
struct Chain {
    root: Authority,
    middle: Authority,
    key: KeyPair,
    leaf: rcgen::Certificate,
}

impl Chain {
    fn new(bend: impl FnOnce(&mut CertificateParams)) -> Self {
        let root = Authority::new();
        let middle = root.below("scripted intermediate", bend);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "leaf of three");
        params.serial_number = Some(SerialNumber::from(78_u64));
        let leaf = params.signed_by(&key, &middle.issuer()).unwrap();
        Self { root, middle, key, leaf }
    }

    fn sent(&self, more: &[&Authority]) -> Arc<ServerConfig> {
        let more = more.iter().map(|authority| authority.der.clone());
        serve(std::iter::once(self.leaf.der().clone()).chain(more).collect(), &self.key)
    }
}

#[tokio::test]
async fn a_chain_is_believed_when_it_is_whole_and_what_is_missing_is_named_when_it_is_not() {
    let chain = Chain::new(|_| ());
    let whole = believed(chain.sent(&[&chain.middle]), &chain.root.pem, |_| ()).await.unwrap();
    assert_eq!(whole, ["CN=leaf of three", "CN=scripted intermediate"]);
    // The root itself may be sent, or the intermediate be what is trusted.
    believed(chain.sent(&[&chain.middle, &chain.root]), &chain.root.pem, |_| ()).await.unwrap();
    believed(chain.sent(&[]), &chain.middle.pem, |_| ()).await.unwrap();

    let cut = believed(chain.sent(&[]), &chain.root.pem, |_| ()).await;
    let words = [
        "not trusted",
        "CN=leaf of three",
        "issuer \"CN=scripted intermediate\"",
        "sent no other certificate",
        "ssl_cert_file",
    ];
    assert_says("cut", &cut, &words);
    let elsewhere = believed(chain.sent(&[&chain.middle]), &Authority::named("another CA").pem, |_| ()).await;
    let words = ["not trusted", "sent 1 more", "issued by \"CN=scripted CA\"", "ssl.ca"];
    assert_says("another root", &elsewhere, &words);
}

#[tokio::test]
async fn of_a_chain_the_certificate_that_is_wrong_is_named() {
    let old = Chain::new(|params| params.not_after = date_time_ymd(2021, 2, 3));
    let outcome = believed(old.sent(&[&old.middle]), &old.root.pem, |_| ()).await;
    assert_says(
        "old",
        &outcome,
        &["an intermediate certificate", "has expired", "CN=scripted intermediate", "2021-02-03"],
    );
    let early = Chain::new(|params| params.not_before = date_time_ymd(2091, 2, 3));
    let outcome = believed(early.sent(&[&early.middle]), &early.root.pem, |_| ()).await;
    assert_says("early", &outcome, &["an intermediate certificate", "not valid yet", "2091-02-03", "clock"]);
}

#[tokio::test]
async fn a_signature_that_is_too_weak_is_named() {
    let pki = Pki::shared();
    let ca = pki.authority("weak-ca", Key::Rsa2048, SHA256);
    let weak = pki.server("weak", Key::P256, SHA1, &ca, "DNS:localhost");
    let outcome = believed(weak.serve(), &ca.pem(), |_| ()).await;
    assert_says("SHA-1", &outcome, &["SHA-1", "CN=weak", "issuer \"CN=weak-ca\"", "SHA-256"]);
    // Whoever gave it as the server's own has looked at it.
    believed(weak.serve(), &weak.pem(), |_| ()).await.unwrap();
}

#[tokio::test]
async fn an_authority_that_has_expired_is_trusted_no_longer() {
    let past = |params: &mut CertificateParams| params.not_after = date_time_ymd(2022, 3, 4);
    let old = Authority::bent(past);
    let config = || old.server(&["localhost"], |_| ());
    let outcome = believed(config(), &old.pem, |_| ()).await;
    assert_says(
        "old",
        &outcome,
        &["the authority that signed", "has expired", "CN=scripted CA", "2022-03-04"],
    );
    // The same key, its certificate renewed: either may stand first.
    let renewed = old.renewed(|_| ());
    for bundle in [format!("{}{renewed}", old.pem), format!("{renewed}{}", old.pem)] {
        believed(config(), &bundle, |_| ()).await.unwrap();
    }
}

#[tokio::test]
async fn one_of_a_hundred_authorities_is_enough_and_they_may_stand_in_several_files() {
    let ca = Authority::new();
    let bundle: String = (0..99).map(|number| Authority::named(&format!("region {number}")).pem).collect();
    let config = || ca.server(&["localhost"], |_| ());
    believed(config(), &format!("{bundle}{}", ca.pem), |_| ()).await.unwrap();
    assert_says("99", &believed(config(), &bundle, |_| ()).await, &["not trusted"]);
    let files = |upstream: &mut Upstream| {
        let pem = |text: &str, origin: &str| Pem { text: text.to_owned(), origin: origin.to_owned() };
        // Text between the certificates is nobody's business, as in the bundles of distributions.
        upstream.tls.roots =
            Roots::Only(vec![pem(&bundle, "a.pem"), pem(&format!("# ours\n{}", ca.pem), "b.pem")]);
    };
    believed(config(), "", files).await.unwrap();
}

#[tokio::test]
async fn addresses_and_names_with_a_dot_are_compared_as_what_they_are() {
    let ca = Authority::new();
    let rows = [
        ("2001:db8::7", "2001:db8::7", true),
        ("2001:db8::7", "2001:0db8:0:0:0:0:0:7", true),
        ("2001:db8::7", "2001:db8::8", false),
        ("192.0.2.7", "192.0.2.7", true),
        ("192.0.2.7", "192.0.2.70", false),
        // An address that is written as a name is none.
        ("192.0.2.7.", "192.0.2.7", false),
        ("db.example.", "db.example", true),
        ("db.example.", "db.example.", true),
        ("db.example", "db.example.", true),
        ("db.example.", "other.example", false),
        ("DB.Example", "db.eXample", true),
        ("*.db.example", "a.db.example", true),
        ("*.db.example", "a.b.db.example", false),
        ("*.db.example", "db.example", false),
        // As in Node, for it would be anybody's.
        ("*.example", "db.example", false),
    ];
    for (certified, wanted, is_same) in rows {
        let name = certified
            .parse()
            .map_or_else(|_| SanType::DnsName(certified.to_owned().try_into().unwrap()), SanType::IpAddress);
        let config = ca.server(&[], |params| params.subject_alt_names = vec![name]);
        let outcome =
            believed(config, &ca.pem, |upstream| upstream.tls.server_name = Some(wanted.to_owned())).await;
        assert_eq!(outcome.is_ok(), is_same, "{certified} for {wanted}: {outcome:?}");
        if !is_same {
            assert_says(
                wanted,
                &outcome,
                &["another ", &format!("wanted \"{wanted}\""), certified, "ssl.servername"],
            );
        }
    }
}

#[tokio::test]
async fn a_common_name_counts_only_where_it_is_asked_for_and_nothing_better_is_there() {
    let ca = Authority::new();
    let cloud = |params: &mut CertificateParams| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "project:instance");
    };
    let asked = |upstream: &mut Upstream| upstream.tls.server_name = Some("project:instance".to_owned());
    let by_chain = |upstream: &mut Upstream| upstream.tls.mode = TlsMode::VerifyCa;
    let no_name = || ca.server(&[], cloud);
    believed(no_name(), &ca.pem, asked).await.unwrap();
    believed(no_name(), &ca.pem, by_chain).await.unwrap();
    let outcome = believed(no_name(), &ca.pem, |_| ()).await;
    assert_says(
        "unasked",
        &outcome,
        &["another host", "CN=project:instance", "no alternative names", "verify-ca", "Cloud SQL"],
    );
    let address = |params: &mut CertificateParams| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "192.0.2.7");
    };
    let by_address = |upstream: &mut Upstream| upstream.tls.server_name = Some("192.0.2.7".to_owned());
    let outcome = believed(ca.server(&[], address), &ca.pem, by_address).await;
    assert_says("an address", &outcome, &["another address", "no alternative names"]);
    let outcome = believed(ca.server(&["localhost"], cloud), &ca.pem, asked).await;
    assert_says("with a name", &outcome, &["another host", "names localhost"]);
    // Names that nobody can read are names all the same.
    let unreadable = |params: &mut CertificateParams| {
        cloud(params);
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 3, 0x82, 5, b'a'])];
    };
    let outcome = believed(ca.server(&[], unreadable), &ca.pem, asked).await;
    assert_says("unreadable names", &outcome, &["another host", "no host among them"]);
    // By the chain alone means: by this chain, in its time, for servers.
    let other = Authority::named("another CA");
    assert_says("another CA", &believed(other.server(&[], cloud), &ca.pem, by_chain).await, &["not trusted"]);
    let late = ca.server(&[], |params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_says("late", &believed(late, &ca.pem, by_chain).await, &["has expired"]);
}

#[tokio::test]
async fn a_certificate_that_signed_itself_is_believed_when_it_is_the_one_that_was_given() {
    let (config, pem) = self_signed(&["localhost"]);
    believed(config.clone(), &pem, |_| ()).await.unwrap();
    let (_, another) = self_signed(&["localhost"]);
    assert_says("another", &believed(config.clone(), &another, |_| ()).await, &["self-signed", "ssl.ca"]);
    let named = |upstream: &mut Upstream| upstream.tls.server_name = Some("db.example".to_owned());
    assert_says("for another host", &believed(config, &pem, named).await, &["another host"]);
}

#[tokio::test]
async fn a_list_of_revoked_certificates_is_obeyed_on_every_floor_and_must_be_fresh() {
    let chain = Chain::new(|params| params.serial_number = Some(SerialNumber::from(79_u64)));
    let list = |issuer: &Authority, revoked: &[u64], until| issuer.list(revoked, until);
    let (root, middle) = (&chain.root, &chain.middle);
    let clean = [list(root, &[], 2090), list(middle, &[], 2090)].concat();
    let rows: [(&str, String, &[&str]); 6] = [
        ("clean", clean, &[]),
        (
            "the leaf",
            [list(root, &[], 2090), list(middle, &[1, 78], 2090)].concat(),
            &["the server's certificate is revoked", "CN=leaf of three"],
        ),
        (
            "the intermediate",
            [list(root, &[79], 2090), list(middle, &[], 2090)].concat(),
            &["an intermediate certificate", "is revoked", "CN=scripted intermediate"],
        ),
        (
            "stale",
            [list(root, &[], 2090), list(middle, &[], 2025)].concat(),
            &["stagedoor.tls.crl", "has expired", "Renew it"],
        ),
        ("half", list(root, &[], 2090), &["no list in stagedoor.tls.crl", "each authority"]),
        (
            "a stranger's",
            list(&Authority::named("a stranger"), &[78], 2090),
            &["no list in stagedoor.tls.crl"],
        ),
    ];
    for (what, text, words) in rows {
        let with_list = |upstream: &mut Upstream| {
            upstream.tls.crls = vec![Pem { text, origin: "crl.pem".to_owned() }];
        };
        let outcome = believed(chain.sent(&[middle]), &root.pem, with_list).await;
        assert_eq!(outcome.is_ok(), words.is_empty(), "{what}: {outcome:?}");
        if !words.is_empty() {
            assert_says(what, &outcome, words);
        }
    }
}

/// What a dialer says of a client certificate that it is given.
fn given(chain: String, key: String) -> Result<(), String> {
    let server = crate::scripted::upstream(1, "localhost", &Authority::new().pem);
    let mut upstream = server;
    upstream.tls.client_certificate = Some(ClientCertificate {
        chain: Pem { text: chain, origin: "cert.pem".to_owned() },
        key: Secret::new(key),
        key_origin: "key.pem".to_owned(),
    });
    Dialer::new(Arc::new(upstream)).map(drop).map_err(|error| error.to_string())
}

#[test]
fn a_client_key_is_read_in_each_of_its_forms_and_what_is_wrong_with_it_is_said() {
    let pki = Pki::shared();
    let ca = pki.authority("keys CA", Key::P256, SHA256);
    let (rsa, ec) = (pki.client("rsa client", Key::Rsa2048, &ca), pki.client("ec client", Key::P256, &ca));
    let edwards = pki.client("ed client", Key::Ed25519, &ca);
    let convert = |issued: &crate::support::pki::Issued, name: &str, how: &[&str]| {
        std::fs::read_to_string(pki.convert(&issued.key, name, how)).unwrap()
    };
    let pkcs1 = convert(&rsa, "pkcs1.key", &["rsa", "-traditional"]);
    let sec1 = convert(&ec, "sec1.key", &["ec"]);
    assert!(pkcs1.contains("BEGIN RSA PRIVATE KEY") && sec1.contains("BEGIN EC PRIVATE KEY"));
    let good = [
        (&rsa, rsa.key_pem()),
        (&rsa, pkcs1.clone()),
        (&ec, ec.key_pem()),
        (&ec, sec1),
        (&edwards, edwards.key_pem()),
    ];
    for (issued, key) in good {
        assert_eq!(given(issued.pem(), key), Ok(()), "{}", issued.certificate.display());
    }
    let locked = convert(&rsa, "locked.key", &["pkcs8", "-topk8", "-passout", "pass:open sesame"]);
    let old_lock =
        convert(&rsa, "old-lock.key", &["rsa", "-traditional", "-aes256", "-passout", "pass:open sesame"]);
    let bad = [
        (rsa.pem(), locked, "key.pem: the private key is encrypted", "openssl pkey"),
        (rsa.pem(), old_lock, "key.pem: the private key is encrypted", "openssl pkey"),
        (ec.pem(), pkcs1, "not the one of the certificate in cert.pem", "belong together"),
        (ec.pem(), ec.pem(), "key.pem: no private key that can be used", "PKCS#8, PKCS#1 and SEC1"),
        (ec.key_pem(), ec.key_pem(), "cert.pem: no certificate in it", "BEGIN CERTIFICATE"),
    ];
    for (chain, key, what, mend) in bad {
        let error = given(chain, key).unwrap_err();
        assert!(error.contains(what) && error.contains(mend), "{error}");
        assert!(!error.contains("PRIVATE KEY-"), "{error}");
    }
}
