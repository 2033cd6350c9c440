//! Authorities, and servers of theirs that play a script instead of being PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CertificateRevocationListParams;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::RevokedCertParams;
use rcgen::SerialNumber;
use rcgen::date_time_ymd;
use rustls::ServerConfig;
use rustls::SupportedProtocolVersion;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use stagedoor::config::model::Address;
use stagedoor::config::model::AuthMethod;
use stagedoor::config::model::AuthPolicy;
use stagedoor::config::model::ChannelBinding;
use stagedoor::config::model::Negotiation;
use stagedoor::config::model::Pem;
use stagedoor::config::model::Roots;
use stagedoor::config::model::TlsMode;
use stagedoor::config::model::TlsPolicy;
use stagedoor::config::model::TlsVersion;
use stagedoor::config::model::Upstream;
use stagedoor::config::secret::Secret;
use stagedoor::server::connect::ConnectError;
use stagedoor::server::connect::Connected;
use stagedoor::server::connect::Dialer;

use crate::support::front::Act;
use crate::support::front::Front;
use crate::support::front::Play;

pub(crate) const USER: &str = "user-8d1f";
pub(crate) const PASSWORD: &str = "password-77c2";

/// A certificate authority.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::bent(|_| ())
    }

    pub(crate) fn named(name: &str) -> Self {
        Self::bent(|params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
        })
    }

    /// One that signs itself, bent by `bend`.
    pub(crate) fn bent(bend: impl FnOnce(&mut CertificateParams)) -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), Self::params("scripted CA"));
        bend(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), params, key }
    }

    /// One that is signed by this one.
    pub(crate) fn below(&self, name: &str, bend: impl FnOnce(&mut CertificateParams)) -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), Self::params(name));
        bend(&mut params);
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), params, key }
    }

    /// Another certificate, in PEM, of the same name and key.
    pub(crate) fn renewed(&self, bend: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = Self::params("scripted CA");
        bend(&mut params);
        params.self_signed(&self.key).unwrap().pem()
    }

    /// Its list of revoked certificates, by serial number, in PEM; good from 2024 to the year `until`.
    pub(crate) fn list(&self, revoked: &[u64], until: i32) -> String {
        let revoked = revoked.iter().map(|&serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer()).unwrap().pem().unwrap()
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        params
    }

    pub(crate) fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// A server for `names` that speaks these versions of TLS only.
    pub(crate) fn server_with(
        &self,
        names: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer()).unwrap();
        serve_with(vec![certificate.der().clone()], &key, versions)
    }

    /// A server certificate for `names`, bent by `bend`.
    pub(crate) fn server(
        &self,
        names: &[&str],
        bend: impl FnOnce(&mut CertificateParams),
    ) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "scripted server");
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        bend(&mut params);
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        serve(vec![certificate.der().clone()], &key)
    }
}

/// A certificate that signed itself.
pub(crate) fn self_signed(names: &[&str]) -> (Arc<ServerConfig>, String) {
    let key = KeyPair::generate().unwrap();
    let params =
        CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (serve(vec![certificate.der().clone()], &key), certificate.pem())
}

/// Shows this chain, of which the first certificate is `key`'s.
pub(crate) fn serve(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Arc<ServerConfig> {
    serve_with(chain, key, rustls::ALL_VERSIONS)
}

fn serve_with(
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

/// What the server does.
#[derive(Clone)]
pub(crate) enum Script {
    /// Answers SSLRequest with these bytes, and nothing more.
    Answer(&'static [u8]),
    /// Accepts the SSLRequest, then sends these bytes where its ServerHello is due.
    InsteadOfHello(&'static [u8]),
    /// Speaks TLS; then, for each message of the client, sends the next of these frames.
    Tls(Arc<ServerConfig>, Vec<Vec<u8>>),
    /// As `Tls`, then notices without end.
    Endless(Arc<ServerConfig>),
}

impl Script {
    fn play(self) -> Play {
        match self {
            Self::Answer(bytes) => Play::Answer(bytes.to_vec()),
            Self::InsteadOfHello(bytes) => Play::InsteadOfHello(bytes.to_vec()),
            Self::Tls(config, frames) => Play::Tls(config, frames.into_iter().map(Act::Say).collect()),
            Self::Endless(config) => Play::Tls(config, vec![Act::Flood(frame(b'N', &[b'S'; 1000]))]),
        }
    }
}

/// A running script.
pub(crate) struct Scripted {
    front: Front,
}

impl Scripted {
    pub(crate) async fn play(script: Script) -> Self {
        Self { front: Front::new(script.play()) }
    }

    /// An upstream at this address under `name`, trusting `ca`.
    pub(crate) fn upstream(&self, name: &str, ca: &str) -> Upstream {
        upstream(self.front.port, name, ca)
    }

    /// Tries to log in, and makes sure that nobody heard a secret.
    pub(crate) async fn log_in(&self, upstream: Upstream) -> Result<Connected, ConnectError> {
        let dialer = Dialer::new(Arc::new(upstream)).unwrap();
        let password = Secret::new(PASSWORD.to_owned());
        let outcome = dialer.connect("database", USER, Some(&password)).await;
        for tape in self.front.take() {
            let is_heard = |secret: &str| memchr::memmem::find(&tape.wire, secret.as_bytes()).is_some();
            assert!(!is_heard(USER) && !is_heard(PASSWORD), "a secret went out in the clear");
        }
        outcome
    }
}

/// An upstream at this port of localhost, called `name`, trusting `ca`.
pub(crate) fn upstream(port: u16, name: &str, ca: &str) -> Upstream {
    Upstream {
        name: format!("{name}:{port}"),
        address: Address::Tcp { host: name.to_owned(), port },
        tls: TlsPolicy {
            mode: TlsMode::VerifyFull,
            version_min: TlsVersion::V1_2,
            roots: Roots::Only(vec![Pem { text: ca.to_owned(), origin: "ssl.ca".to_owned() }]),
            client_certificate: None,
            server_name: None,
            negotiation: Negotiation::Postgres,
            crls: Vec::new(),
            channel_binding: ChannelBinding::Prefer,
        },
        auth: AuthPolicy { allow: [].into() },
        servers_max: 2,
        connect_timeout: Duration::from_secs(2),
    }
}

/// One frame's bytes.
pub(crate) fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// AuthenticationRequest with a code and what follows it.
pub(crate) fn authentication(code: u32, rest: &[u8]) -> Vec<u8> {
    frame(b'R', &[&code.to_be_bytes(), rest].concat())
}

/// A login's end: AuthenticationOk, a key, ReadyForQuery.
pub(crate) fn welcome() -> Vec<u8> {
    [authentication(0, b""), frame(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]), frame(b'Z', b"I")].concat()
}

/// An upstream that allows these methods beside SCRAM.
pub(crate) fn allowing(mut upstream: Upstream, methods: &[AuthMethod]) -> Upstream {
    upstream.auth.allow = methods.iter().copied().collect();
    upstream
}
