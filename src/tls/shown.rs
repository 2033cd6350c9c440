//! The chain that a server showed, and words for what is wrong with it: which certificate of it, and what to change.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::UnixTime;

use crate::tls::certificate::Facts;

/// Certificates of a chain that are looked at in errors. Real ones have three or four.
const CHAIN_MAX: usize = 10;

/// The certificates, the server's own apart.
#[derive(Debug)]
pub struct Shown {
    leaf: Facts,
    intermediates: Vec<Facts>,
}

impl Shown {
    /// `None` where not even the server's own certificate can be read.
    #[must_use]
    pub fn read(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Option<Self> {
        Some(Self { leaf: Facts::read(leaf)?, intermediates: facts_of(intermediates.iter().collect()) })
    }

    /// The first certificate of which `is_meant` is true, and what to call it; the server's own if none is.
    fn which(&self, is_meant: impl Fn(&Facts) -> bool) -> (&'static str, &Facts) {
        match self.intermediates.iter().find(|&facts| is_meant(facts)) {
            Some(facts) if !is_meant(&self.leaf) => ("an intermediate certificate of the server's", facts),
            Some(_) | None => ("the server's certificate", &self.leaf),
        }
    }

    /// What webpki says, in words that name what to change.
    #[must_use]
    pub fn explain(&self, error: &webpki::Error, crls: &[webpki::CertRevocationList<'_>]) -> String {
        use webpki::Error;
        let leaf = &self.leaf;
        #[expect(clippy::wildcard_enum_match_arm, reason = "webpki's errors are many, and may become more")]
        match error {
            Error::CertExpired { not_after, .. } => {
                let (what, facts) = self.which(|facts| facts.not_after == not_after.as_secs());
                expired(what, facts)
            }
            Error::CertNotValidYet { not_before, .. } => {
                let (what, facts) = self.which(|facts| facts.not_before == not_before.as_secs());
                not_yet_valid(what, facts)
            }
            Error::UnknownIssuer
            | Error::CaUsedAsEndEntity
            | Error::UnsupportedCertVersion
            | Error::InvalidSignatureForPublicKey
                if leaf.is_self_signed() =>
            {
                format!(
                    "the server's certificate is self-signed and not among the trusted ones: {leaf}. \
                     Give it, or the CA that it should be signed by, as ssl.ca"
                )
            }
            // The second: an authority of that name is trusted, but with another key.
            Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => self.untrusted(),
            Error::RequiredEkuNotFoundContext(_) => format!(
                "the server's certificate is not meant for servers (its extended key usage lacks serverAuth): \
                 {leaf}. Give the server a server certificate"
            ),
            Error::CertRevoked => {
                let is_named = |facts: &Facts| crls.iter().any(|crl| facts.is_revoked_by(crl));
                let (what, facts) = self.which(is_named);
                format!("{what} is revoked by stagedoor.tls.crl: {facts}. Give the server another one")
            }
            Error::UnknownRevocationStatus | Error::InvalidCrlSignatureForPublicKey => format!(
                "no list in stagedoor.tls.crl says whether the server's certificate is revoked: {leaf}. \
                 Give the list of each authority in its chain"
            ),
            Error::CrlExpired { .. } => format!(
                "the list in stagedoor.tls.crl for the server's certificate has expired: {leaf}. Renew it"
            ),
            Error::UnsupportedSignatureAlgorithmContext(_)
            | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => format!(
                "the server's certificate, or one above it, is signed in a way that is too weak or unknown \
                 (SHA-1, a short key): {leaf}. Have it signed anew with SHA-256 or better"
            ),
            other => format!(
                "the server's certificate cannot be verified ({other}): {leaf}. Give the server one that can"
            ),
        }
    }

    /// The chain ends at nobody that is trusted: where, and who could mend it.
    fn untrusted(&self) -> String {
        let leaf = &self.leaf;
        let told = match self.intermediates.last() {
            None => "The server sent no other certificate: where others stand between it and the authority, let it \
                     send them too (ssl_cert_file holds the whole chain)"
                .to_owned(),
            Some(last) => format!(
                "The server sent {} more, the last of them issued by \"{}\"",
                self.intermediates.len(),
                last.issuer
            ),
        };
        format!(
            "the server's certificate is signed by an authority that is not trusted: {leaf}. \
             Give that authority's certificate, of the same name and key, as ssl.ca. {told}"
        )
    }
}

/// What the certificates of a chain say of themselves, the first few.
#[must_use]
pub fn facts_of(chain: Vec<&CertificateDer<'_>>) -> Vec<Facts> {
    chain.into_iter().take(CHAIN_MAX).filter_map(|der| Facts::read(der)).collect()
}

/// Whether it is `now` within the dates of `what`.
///
/// # Errors
/// Why not, with the dates and what to change.
pub fn verify_dates(what: &str, facts: &Facts, now: UnixTime) -> Result<(), String> {
    if now.as_secs() > facts.not_after {
        return Err(expired(what, facts));
    }
    if now.as_secs() < facts.not_before {
        return Err(not_yet_valid(what, facts));
    }
    Ok(())
}

fn expired(what: &str, facts: &Facts) -> String {
    format!("{what} has expired: {facts}. Renew it, or look at this machine's clock")
}

fn not_yet_valid(what: &str, facts: &Facts) -> String {
    format!("{what} is not valid yet: {facts}. Look at this machine's clock")
}

/// Of a certificate that is none.
#[must_use]
pub fn unreadable(leaf: &CertificateDer<'_>) -> String {
    format!("the server's certificate ({} bytes) cannot be read", leaf.len())
}
