//! From policy to a verified session.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::CommonState;
use rustls::HandshakeKind;
use rustls::ProtocolVersion;
use rustls::SupportedProtocolVersion;
use rustls::client::ClientSessionMemoryCache;
use rustls::client::ClientSessionStore;
use rustls::client::Resumption;
use rustls::client::WantsClientCert;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::config::model::ClientCertificate;
use crate::config::model::Negotiation;
use crate::config::model::Pem;
use crate::config::model::Roots;
use crate::config::model::TlsMode;
use crate::config::model::TlsPolicy;
use crate::config::model::TlsVersion;
use crate::tls::certificate::Facts;
use crate::tls::channel_binding::server_end_point;
use crate::tls::error::HandshakeError;
use crate::tls::error::TlsError;
use crate::tls::error::alert;
use crate::tls::stream::TlsStream;
use crate::tls::verifier::Authority;
use crate::tls::verifier::Expected;
use crate::tls::verifier::Fault;
use crate::tls::verifier::Verifier;
use crate::tls::verifier::read_crl;

/// Servers whose sessions are remembered: one upstream has one name, and the library counts two of its own.
const SESSIONS_MAX: usize = 8;

/// Makes sessions by one policy, for one upstream. Immutable: logins, reconnects and cancels share it.
#[derive(Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    /// What rustls sends as SNI and files its tickets under.
    name: ServerName<'static>,
    verifier: Arc<Verifier>,
    /// Sessions that a handshake may resume. This policy's own: another one begins without.
    sessions: Arc<ClientSessionMemoryCache>,
    /// The configured CAs and client certificate, for metrics and `check`.
    pub authorities: Vec<Facts>,
    pub client_certificate: Option<Facts>,
}

/// A session after its handshake, and what is known of it.
#[derive(Debug)]
pub struct Session {
    pub stream: TlsStream,
    pub facts: TlsFacts,
    /// `tls-server-end-point`, where the certificate has one.
    pub binding: Option<Vec<u8>>,
}

/// What is known of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.3`
    pub version: String,
    pub cipher: String,
    pub resumed: bool,
    /// Whether the certificate was verified, and not just taken.
    pub verified: bool,
    /// What the server showed, its own certificate first.
    pub chain: Vec<Facts>,
    pub handshake: Duration,
}

impl Connector {
    /// Reads every certificate and key of `policy`. `host` is the name or address that will be dialled.
    ///
    /// # Errors
    /// The first thing that cannot be used, with where it came from.
    pub fn new(policy: &TlsPolicy, host: &str) -> Result<Self, TlsError> {
        let provider = Arc::new(provider());
        let expected = expected(policy, host)?;
        let (anchors, trusted) = roots(&policy.roots)?;
        let authorities = trusted.iter().map(|authority| authority.facts.clone()).collect();
        let fallback = ServerName::IpAddress(IpAddr::from([0, 0, 0, 0]).into());
        let name = expected.name.clone().or_else(|| server_name(host)).unwrap_or(fallback);
        let verifier = Arc::new(Verifier {
            mode: policy.mode,
            anchors,
            authorities: trusted,
            crls: crls(&policy.crls)?,
            expected,
            provider: provider.clone(),
        });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions(policy.version_min))
            .map_err(|error| TlsError::Settings { reason: error.to_string() })?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let (mut config, client_certificate) = with_client(builder, policy.client_certificate.as_ref())?;
        if policy.negotiation == Negotiation::Direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        let sessions = Arc::new(ClientSessionMemoryCache::new(SESSIONS_MAX));
        config.resumption = Resumption::store(sessions.clone());
        Ok(Self { config: Arc::new(config), name, verifier, sessions, authorities, client_certificate })
    }

    /// Does the handshake on a connected socket.
    ///
    /// # Errors
    /// Why the server was not believed, in words; or what it or the socket did.
    pub async fn connect(&self, socket: TcpStream) -> Result<Session, HandshakeError> {
        let began = Instant::now();
        let connecting = TlsStream::connect(self.config.clone(), self.name.clone(), socket);
        let stream = connecting.await.map_err(|error| self.explain(&error))?;
        let connection = stream.session();
        let shown = connection.peer_certificates().unwrap_or_default();
        let facts = TlsFacts {
            version: version(connection),
            cipher: connection
                .negotiated_cipher_suite()
                .map(|suite| format!("{:?}", suite.suite()))
                .unwrap_or_default(),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            verified: matches!(self.verifier.mode, TlsMode::VerifyFull | TlsMode::VerifyCa),
            chain: shown.iter().filter_map(|der| Facts::read(der)).collect(),
            handshake: began.elapsed(),
        };
        if facts.resumed {
            self.verify_again(shown)?;
        }
        if self.config.alpn_protocols.first().is_some_and(|ours| connection.alpn_protocol() != Some(ours)) {
            let reason = "the server did not agree to the protocol \"postgresql\" (ALPN): \
                          stagedoor.tls.negotiation: direct needs PostgreSQL 17 or later";
            return Err(HandshakeError::refused(reason, facts.chain));
        }
        let binding = shown.first().and_then(|leaf| server_end_point(leaf));
        Ok(Session { stream, facts, binding })
    }

    fn explain(&self, error: &io::Error) -> HandshakeError {
        let mut error = explain(error);
        if error.is_passing && !self.config.alpn_protocols.is_empty() {
            error.reason.push_str(". stagedoor.tls.negotiation: direct needs PostgreSQL 17 or later");
        }
        error
    }

    /// In a resumed session no certificate was shown, and the library verified none: that of the first handshake
    /// may have expired since. Where it has, the next handshake is a whole one.
    fn verify_again(&self, shown: &[CertificateDer<'_>]) -> Result<(), HandshakeError> {
        let Some((leaf, intermediates)) = shown.split_first() else {
            return Err(HandshakeError::refused(
                "the server resumed a session without a certificate",
                Vec::new(),
            ));
        };
        self.verifier.verify(leaf, intermediates, UnixTime::now()).map_err(|fault| {
            self.sessions.remove_tls12_session(&self.name);
            while self.sessions.take_tls13_ticket(&self.name).is_some() {}
            HandshakeError { reason: fault.to_string(), is_passing: true, chain: fault.chain }
        })
    }
}

/// PostgreSQL up to 17 offers only P-256; with it first, a handshake needs no second round trip.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.sort_by_key(|group| group.name() != rustls::NamedGroup::secp256r1);
    provider
}

static NEWEST: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

fn versions(least: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match least {
        TlsVersion::V1_2 => rustls::ALL_VERSIONS,
        TlsVersion::V1_3 => &NEWEST,
    }
}

fn version(connection: &CommonState) -> String {
    match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3".to_owned(),
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2".to_owned(),
        other => format!("{other:?}"),
    }
}

fn expected(policy: &TlsPolicy, host: &str) -> Result<Expected, TlsError> {
    let text = policy.server_name.clone().unwrap_or_else(|| host.to_owned());
    let explicit = policy.server_name.is_some();
    let name = server_name(&text);
    if name.is_none() && !explicit && policy.mode == TlsMode::VerifyFull {
        return Err(TlsError::Name { name: text });
    }
    Ok(Expected { text, name, explicit })
}

fn server_name(text: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(text.trim_end_matches('.').to_owned()).ok()
}

type Trusted = (Vec<rustls::pki_types::TrustAnchor<'static>>, Vec<Authority>);

fn roots(roots: &Roots) -> Result<Trusted, TlsError> {
    let (mut anchors, pems) = match roots {
        Roots::Public { extra } => (webpki_roots::TLS_SERVER_ROOTS.to_vec(), extra),
        Roots::Only(pems) => (Vec::new(), pems),
    };
    let mut authorities = Vec::new();
    for pem in pems {
        for (der, facts) in certificates(pem)? {
            // A certificate that cannot be an authority can still be a server's own.
            let anchor = webpki::anchor_from_trusted_cert(&der).ok().map(|anchor| anchor.to_owned());
            anchors.extend(anchor.clone());
            authorities.push(Authority { der, anchor, facts });
        }
    }
    Ok((anchors, authorities))
}

fn certificates(pem: &Pem) -> Result<Vec<(CertificateDer<'static>, Facts)>, TlsError> {
    let fault = |reason: String| TlsError::Certificate { origin: pem.origin.clone(), reason };
    let mut certificates = Vec::new();
    for der in CertificateDer::pem_slice_iter(pem.text.as_bytes()) {
        let der = der.map_err(|error| fault(error.to_string()))?;
        let number = certificates.len() + 1;
        let facts = Facts::read(&der)
            .ok_or_else(|| fault(format!("the certificate number {number} in it cannot be read")))?;
        certificates.push((der, facts));
    }
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { origin: pem.origin.clone() });
    }
    Ok(certificates)
}

fn crls(pems: &[Pem]) -> Result<Vec<webpki::CertRevocationList<'static>>, TlsError> {
    let mut crls = Vec::new();
    for pem in pems {
        let fault = |reason: String| TlsError::Crl { origin: pem.origin.clone(), reason };
        let before = crls.len();
        for der in CertificateRevocationListDer::pem_slice_iter(pem.text.as_bytes()) {
            let der = der.map_err(|error| fault(error.to_string()))?;
            crls.push(read_crl(&der).map_err(|error| fault(error.to_string()))?);
        }
        if crls.len() == before {
            return Err(fault("no list in it".to_owned()));
        }
    }
    Ok(crls)
}

fn with_client(
    builder: rustls::ConfigBuilder<ClientConfig, WantsClientCert>,
    certificate: Option<&ClientCertificate>,
) -> Result<(ClientConfig, Option<Facts>), TlsError> {
    let Some(certificate) = certificate else { return Ok((builder.with_no_client_auth(), None)) };
    let (chain, facts): (Vec<_>, Vec<_>) = certificates(&certificate.chain)?.into_iter().unzip();
    let origin = certificate.key_origin.clone();
    let text = certificate.key.expose();
    if text.contains("ENCRYPTED") {
        return Err(TlsError::EncryptedKey { origin });
    }
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|error| TlsError::Key { origin: origin.clone(), reason: error.to_string() })?;
    let config = builder.with_client_auth_cert(chain, key).map_err(|error| {
        if matches!(error, rustls::Error::InconsistentKeys(_)) {
            TlsError::OtherKey { origin, certificate: certificate.chain.origin.clone() }
        } else {
            TlsError::Key { origin, reason: error.to_string() }
        }
    })?;
    Ok((config, facts.into_iter().next()))
}

/// Our own verdict where there is one, else what the server or the socket did.
fn explain(error: &io::Error) -> HandshakeError {
    let refused = |reason: String| HandshakeError::refused(reason, Vec::new());
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) => {
            match other.0.downcast_ref::<Fault>() {
                Some(fault) => HandshakeError::refused(fault.to_string(), fault.chain.clone()),
                None => refused(other.to_string()),
            }
        }
        Some(rustls::Error::AlertReceived(_)) => refused(alert(error).unwrap_or_default()),
        Some(rustls::Error::PeerIncompatible(what)) => refused(format!(
            "the server speaks no TLS version or cipher that is allowed ({what:?}); at least TLS 1.2 is needed, \
             or what stagedoor.tls.minVersion says"
        )),
        Some(error) => refused(format!("the TLS handshake failed: {error}")),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            HandshakeError::passing("the server closed the connection during the TLS handshake")
        }
        None => HandshakeError::passing(format!("the connection failed during the TLS handshake: {error}")),
    }
}
