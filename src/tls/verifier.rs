//! Whether a server's certificate is the one that was meant. The rules that rustls does not have stand here:
//! verify-ca, a common name where there is no alternative name, a pinned certificate, a trailing dot.

use std::fmt;
use std::sync::Arc;

use rustls::CertificateError;
use rustls::DigitallySignedStruct;
use rustls::OtherError;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::verify_tls12_signature;
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::TrustAnchor;
use rustls::pki_types::UnixTime;
use webpki::EndEntityCert;
use webpki::ExpirationPolicy;
use webpki::KeyUsage;
use webpki::OwnedCertRevocationList;
use webpki::RevocationCheckDepth;
use webpki::RevocationOptionsBuilder;
use webpki::UnknownStatusPolicy;

use crate::config::model::TlsMode;
use crate::tls::certificate::Facts;

/// Verifies by one policy, for one upstream.
pub struct Verifier {
    pub mode: TlsMode,
    pub anchors: Vec<TrustAnchor<'static>>,
    /// The configured CA certificates themselves: a server may show one of them as its own.
    pub pinned: Vec<CertificateDer<'static>>,
    pub crls: Vec<webpki::CertRevocationList<'static>>,
    pub expected: Expected,
    pub provider: Arc<CryptoProvider>,
}

/// The name that a certificate must have.
#[derive(Clone, Debug)]
pub struct Expected {
    pub text: String,
    /// As rustls understands it; a Cloud SQL instance (`project:instance`) is no such name.
    pub name: Option<ServerName<'static>>,
    /// It was written down as `ssl.servername`: then, as in Node, a certificate without alternative names may
    /// have it as its common name.
    pub explicit: bool,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({:?}, {})", self.mode, self.expected.text)
    }
}

/// Why a certificate is refused, in words for whoever must mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = match self.mode {
            TlsMode::InsecureNoVerify | TlsMode::InsecurePlaintext => Ok(()),
            TlsMode::VerifyCa => self.verify_chain(leaf, intermediates, now),
            TlsMode::VerifyFull => {
                self.verify_chain(leaf, intermediates, now).and_then(|()| self.verify_name(leaf))
            }
        };
        match verified {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(fault) => {
                let other = OtherError(Arc::new(fault));
                Err(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Verifier {
    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Fault> {
        if self.pinned.contains(leaf) {
            return verify_dates(leaf, now);
        }
        let parsed = EndEntityCert::try_from(leaf).map_err(|error| explain(&error, leaf))?;
        let crls: Vec<_> = self.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|builder| {
            builder
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        parsed
            .verify_for_usage(
                self.provider.signature_verification_algorithms.all,
                &self.anchors,
                intermediates,
                now,
                KeyUsage::server_auth(),
                revocation,
                None,
            )
            .map(|_| ())
            .map_err(|error| explain(&error, leaf))
    }

    fn verify_name(&self, leaf: &CertificateDer<'_>) -> Result<(), Fault> {
        let parsed = EndEntityCert::try_from(leaf).ok();
        if let (Some(parsed), Some(name)) = (&parsed, &self.expected.name)
            && parsed.verify_is_valid_for_subject_name(name).is_ok()
        {
            return Ok(());
        }
        let facts = Facts::read(leaf).ok_or_else(|| unreadable(leaf))?;
        let by_common_name = facts.names.is_none()
            && self.expected.explicit
            && facts
                .common_name
                .as_deref()
                .is_some_and(|name| name.eq_ignore_ascii_case(&self.expected.text));
        if by_common_name || facts.has_dotted_name(&self.expected.text) {
            return Ok(());
        }
        let what = match &self.expected.name {
            Some(ServerName::IpAddress(_)) => "address",
            _ => "host",
        };
        Err(Fault(format!(
            "the server's certificate is for another {what}: wanted \"{}\", but it has {facts}. \
             Set ssl.servername to a name that it has, or connect by that name; \
             where it can have none (Cloud SQL), set stagedoor.tls.mode to verify-ca with the instance's own CA",
            self.expected.text
        )))
    }
}

fn verify_dates(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Fault> {
    let facts = Facts::read(leaf).ok_or_else(|| unreadable(leaf))?;
    if now.as_secs() > facts.not_after {
        return Err(expired(&facts));
    }
    if now.as_secs() < facts.not_before {
        return Err(not_yet_valid(&facts));
    }
    Ok(())
}

fn expired(facts: &Facts) -> Fault {
    Fault(format!("the server's certificate has expired: {facts}. Renew it, or look at this machine's clock"))
}

fn not_yet_valid(facts: &Facts) -> Fault {
    Fault(format!("the server's certificate is not valid yet: {facts}. Look at this machine's clock"))
}

fn unreadable(leaf: &CertificateDer<'_>) -> Fault {
    Fault(format!("the server's certificate ({} bytes) cannot be read", leaf.len()))
}

/// What webpki says, in words that name what to change.
fn explain(error: &webpki::Error, leaf: &CertificateDer<'_>) -> Fault {
    use webpki::Error;
    let Some(facts) = Facts::read(leaf) else { return unreadable(leaf) };
    #[expect(clippy::wildcard_enum_match_arm, reason = "webpki's errors are many, and may become more")]
    match error {
        Error::CertExpired { .. } => expired(&facts),
        Error::CertNotValidYet { .. } => not_yet_valid(&facts),
        Error::UnknownIssuer | Error::CaUsedAsEndEntity if facts.is_self_signed() => Fault(format!(
            "the server's certificate is self-signed and not among the trusted ones: {facts}. \
             Give it, or the CA that it should be signed by, as ssl.ca"
        )),
        // The second: an authority of that name is trusted, but with another key.
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => Fault(format!(
            "the server's certificate is signed by an authority that is not trusted: {facts}. \
             Give that authority's certificate, of the same name and key, as ssl.ca"
        )),
        Error::RequiredEkuNotFoundContext(_) => Fault(format!(
            "the server's certificate is not meant for servers (its extended key usage lacks serverAuth): {facts}. \
             Give the server a server certificate"
        )),
        Error::CertRevoked => Fault(format!(
            "the server's certificate, or one above it, is revoked by stagedoor.tls.crl: {facts}"
        )),
        Error::UnknownRevocationStatus | Error::InvalidCrlSignatureForPublicKey => Fault(format!(
            "no list in stagedoor.tls.crl says whether the server's certificate is revoked: {facts}. \
             Give the list of each authority in its chain"
        )),
        Error::CrlExpired { .. } => Fault(format!(
            "the list in stagedoor.tls.crl for the server's certificate has expired: {facts}. Renew it"
        )),
        other => Fault(format!("the server's certificate cannot be verified ({other}): {facts}")),
    }
}

/// Reads a revocation list in DER form.
///
/// # Errors
/// What webpki says of it.
pub fn read_crl(der: &[u8]) -> Result<webpki::CertRevocationList<'static>, webpki::Error> {
    OwnedCertRevocationList::from_der(der).map(Into::into)
}
