//! From policy to a verified session.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::HandshakeKind;
use rustls::ProtocolVersion;
use rustls::SupportedProtocolVersion;
use rustls::client::WantsClientCert;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::config::model::ClientCertificate;
use crate::config::model::Negotiation;
use crate::config::model::Pem;
use crate::config::model::Roots;
use crate::config::model::TlsMode;
use crate::config::model::TlsPolicy;
use crate::config::model::TlsVersion;
use crate::tls::certificate::Facts;
use crate::tls::channel_binding::server_end_point;
use crate::tls::error::TlsError;
use crate::tls::verifier::Expected;
use crate::tls::verifier::Fault;
use crate::tls::verifier::Verifier;
use crate::tls::verifier::read_crl;

/// Makes sessions by one policy, for one upstream. Immutable: logins, reconnects and cancels share it.
#[derive(Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    /// What rustls sends as SNI and files its tickets under.
    name: ServerName<'static>,
    mode: TlsMode,
    /// The configured CAs and client certificate, for metrics and `check`.
    pub authorities: Vec<Facts>,
    pub client_certificate: Option<Facts>,
}

/// A session after its handshake, and what is known of it.
#[derive(Debug)]
pub struct Session {
    pub socket: TcpStream,
    pub connection: ClientConnection,
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
        let (anchors, pinned) = roots(&policy.roots)?;
        let authorities = pinned.iter().filter_map(|der| Facts::read(der)).collect();
        let fallback = ServerName::IpAddress(IpAddr::from([0, 0, 0, 0]).into());
        let name = expected.name.clone().or_else(|| server_name(host)).unwrap_or(fallback);
        let verifier = Verifier {
            mode: policy.mode,
            anchors,
            pinned,
            crls: crls(&policy.crls)?,
            expected,
            provider: provider.clone(),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions(policy.version_min))
            .map_err(|error| TlsError::Settings { reason: error.to_string() })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let (mut config, client_certificate) = with_client(builder, policy.client_certificate.as_ref())?;
        if policy.negotiation == Negotiation::Direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Self { config: Arc::new(config), name, mode: policy.mode, authorities, client_certificate })
    }

    /// Does the handshake on a connected socket.
    ///
    /// # Errors
    /// Why the server was not believed, in words; or what it or the socket did.
    pub async fn connect(&self, socket: TcpStream) -> Result<Session, String> {
        let began = Instant::now();
        let connecting = TlsConnector::from(self.config.clone()).connect(self.name.clone(), socket);
        let (socket, connection) = connecting.await.map_err(|error| words(&error))?.into_inner();
        let shown = connection.peer_certificates().unwrap_or_default();
        let facts = TlsFacts {
            version: version(&connection),
            cipher: connection
                .negotiated_cipher_suite()
                .map(|suite| format!("{:?}", suite.suite()))
                .unwrap_or_default(),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            verified: matches!(self.mode, TlsMode::VerifyFull | TlsMode::VerifyCa),
            chain: shown.iter().filter_map(|der| Facts::read(der)).collect(),
            handshake: began.elapsed(),
        };
        let binding = shown.first().and_then(|leaf| server_end_point(leaf));
        if self.config.alpn_protocols.first().is_some_and(|ours| connection.alpn_protocol() != Some(ours)) {
            return Err("the server did not agree to the protocol \"postgresql\" (ALPN): \
                        stagedoor.tls.negotiation: direct needs PostgreSQL 17 or later"
                .to_owned());
        }
        Ok(Session { socket, connection, facts, binding })
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

fn version(connection: &ClientConnection) -> String {
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

type Trusted = (Vec<rustls::pki_types::TrustAnchor<'static>>, Vec<CertificateDer<'static>>);

fn roots(roots: &Roots) -> Result<Trusted, TlsError> {
    let (mut anchors, pems) = match roots {
        Roots::Public { extra } => (webpki_roots::TLS_SERVER_ROOTS.to_vec(), extra),
        Roots::Only(pems) => (Vec::new(), pems),
    };
    let mut pinned = Vec::new();
    for pem in pems {
        for der in certificates(pem)? {
            // A certificate that cannot be an authority can still be pinned.
            if let Ok(anchor) = webpki::anchor_from_trusted_cert(&der) {
                anchors.push(anchor.to_owned());
            }
            pinned.push(der);
        }
    }
    Ok((anchors, pinned))
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.text.as_bytes()).collect();
    let ders = parsed
        .map_err(|error| TlsError::Certificate { origin: pem.origin.clone(), reason: error.to_string() })?;
    if ders.is_empty() {
        return Err(TlsError::NoCertificate { origin: pem.origin.clone() });
    }
    if let Some(at) = ders.iter().position(|der| Facts::read(der).is_none()) {
        let reason = format!("the certificate number {} in it cannot be read", at + 1);
        return Err(TlsError::Certificate { origin: pem.origin.clone(), reason });
    }
    Ok(ders)
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
    let chain = certificates(&certificate.chain)?;
    let facts = chain.first().and_then(|der| Facts::read(der));
    let origin = certificate.key_origin.clone();
    let text = certificate.key.expose();
    if text.contains("ENCRYPTED") {
        return Err(TlsError::EncryptedKey { origin });
    }
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|error| TlsError::Key { origin: origin.clone(), reason: error.to_string() })?;
    let config = builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| TlsError::Key { origin, reason: error.to_string() })?;
    Ok((config, facts))
}

/// Our own verdict where there is one, else what the server or the socket did.
fn words(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) => {
            other.0.downcast_ref::<Fault>().map_or_else(|| other.to_string(), ToString::to_string)
        }
        Some(rustls::Error::AlertReceived(alert)) => format!(
            "the server ended the handshake with the alert {alert:?}: \
             it may speak no TLS version from stagedoor.tls.minVersion on, or want another client certificate"
        ),
        Some(rustls::Error::PeerIncompatible(what)) => format!(
            "the server speaks no TLS version or cipher that is allowed ({what:?}); at least TLS 1.2 is needed"
        ),
        Some(error) => format!("the TLS handshake failed: {error}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server closed the connection during the TLS handshake".to_owned()
        }
        None => format!("the TLS handshake failed: {error}"),
    }
}
