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
use rustls::crypto::verify_tls13_signature_with_raw_key;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::SubjectPublicKeyInfoDer;
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
use crate::tls::certificate::key_of_version_1;
use crate::tls::shown::Shown;
use crate::tls::shown::facts_of;
use crate::tls::shown::unreadable;
use crate::tls::shown::verify_dates;

/// Verifies by one policy, for one upstream.
pub struct Verifier {
    pub mode: TlsMode,
    pub anchors: Vec<TrustAnchor<'static>>,
    /// The configured CA certificates themselves: a server may show one of them as its own.
    pub authorities: Vec<Authority>,
    pub crls: Vec<webpki::CertRevocationList<'static>>,
    pub expected: Expected,
    pub provider: Arc<CryptoProvider>,
}

/// A certificate that was configured to be trusted.
#[derive(Clone, Debug)]
pub struct Authority {
    pub der: CertificateDer<'static>,
    /// `None` where it cannot sign others, and is good for itself only.
    pub anchor: Option<TrustAnchor<'static>>,
    pub facts: Facts,
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
pub struct Fault {
    reason: String,
    /// What the server showed, its own certificate first.
    pub chain: Vec<Facts>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
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
        match self.verify(leaf, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(fault) => Err(refused(fault)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if key_of_version_1(certificate).is_some() {
            let reason = "the server's certificate is of X.509 version 1, which works with TLS 1.3 only. \
                          Give the server one of version 3, or let it speak TLS 1.3"
                .to_owned();
            return Err(refused(Fault { reason, chain: Facts::read(certificate).into_iter().collect() }));
        }
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
        let algorithms = &self.provider.signature_verification_algorithms;
        match key_of_version_1(certificate) {
            Some(key) => {
                let key = SubjectPublicKeyInfoDer::from(key);
                verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
            }
            None => verify_tls13_signature(message, certificate, signature, algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn refused(fault: Fault) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(fault))))
}

impl Verifier {
    /// Whether this chain is the one that was meant, as the policy says.
    ///
    /// # Errors
    /// Why it is not.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Fault> {
        let verified = match self.mode {
            TlsMode::InsecureNoVerify | TlsMode::InsecurePlaintext => Ok(()),
            TlsMode::VerifyCa => self.verify_chain(leaf, intermediates, now),
            TlsMode::VerifyFull => {
                self.verify_chain(leaf, intermediates, now).and_then(|()| self.verify_name(leaf))
            }
        };
        verified.map_err(|reason| {
            let chain = std::iter::once(leaf).chain(intermediates).collect();
            Fault { reason, chain: facts_of(chain) }
        })
    }

    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), String> {
        let explain = |error: &webpki::Error| {
            Shown::read(leaf, intermediates)
                .map_or_else(|| unreadable(leaf), |shown| shown.explain(error, &self.crls))
        };
        if let Some(pinned) = self.authorities.iter().find(|authority| authority.der == *leaf) {
            return verify_dates("the server's certificate", &pinned.facts, now);
        }
        let parsed = EndEntityCert::try_from(leaf).map_err(|error| explain(&error))?;
        let crls: Vec<_> = self.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|builder| {
            builder
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let algorithms = self.provider.signature_verification_algorithms.all;
        let usage = KeyUsage::server_auth();
        let path = parsed
            .verify_for_usage(algorithms, &self.anchors, intermediates, now, usage, revocation, None)
            .map_err(|error| explain(&error))?;
        self.verify_authority(path.anchor(), now)
    }

    /// webpki trusts an anchor for ever; OpenSSL, and so libpq and Node, only between its dates. An authority may
    /// be there twice with one key: one that is valid is enough.
    fn verify_authority(&self, anchor: &TrustAnchor<'_>, now: UnixTime) -> Result<(), String> {
        let what = "the authority that signed the server's certificate";
        let mut verdict = Ok(());
        for authority in self.authorities.iter().filter(|one| one.anchor.as_ref() == Some(anchor)) {
            verdict = verify_dates(what, &authority.facts, now);
            if verdict.is_ok() {
                break;
            }
        }
        verdict
    }

    fn verify_name(&self, leaf: &CertificateDer<'_>) -> Result<(), String> {
        let parsed = EndEntityCert::try_from(leaf).ok();
        if let (Some(parsed), Some(name)) = (&parsed, &self.expected.name)
            && parsed.verify_is_valid_for_subject_name(name).is_ok()
        {
            return Ok(());
        }
        let facts = Facts::read(leaf).ok_or_else(|| unreadable(leaf))?;
        // An address is to be found among the addresses, and nowhere else.
        let is_address = matches!(self.expected.name, Some(ServerName::IpAddress(_)));
        let is_common_name =
            facts.common_name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(&self.expected.text));
        let by_common_name = facts.names.is_none() && self.expected.explicit && is_common_name;
        if !is_address && (by_common_name || facts.has_dotted_name(&self.expected.text)) {
            return Ok(());
        }
        let what = if is_address { "address" } else { "host" };
        Err(format!(
            "the server's certificate is for another {what}: wanted \"{}\", but it has {facts}. \
             Set ssl.servername to a name that it has, or connect by that name; \
             where it can have none (Cloud SQL), set stagedoor.tls.mode to verify-ca with the instance's own CA",
            self.expected.text
        ))
    }
}

/// Reads a revocation list in DER form.
///
/// # Errors
/// What webpki says of it.
pub fn read_crl(der: &[u8]) -> Result<webpki::CertRevocationList<'static>, webpki::Error> {
    OwnedCertRevocationList::from_der(der).map(Into::into)
}
