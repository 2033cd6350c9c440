//! What can be wrong with certificates and keys that were configured.

use std::io;

use rustls::AlertDescription;
use thiserror::Error;

use crate::tls::certificate::Facts;

/// A fault in what was configured; found before anything is dialled.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TlsError {
    #[error("{origin}: no certificate in it. Give PEM text that begins with -----BEGIN CERTIFICATE-----")]
    NoCertificate { origin: String },
    #[error("{origin}: {reason}")]
    Certificate { origin: String, reason: String },
    #[error(
        "{origin}: the private key is encrypted, which is not supported. Decrypt it: openssl pkey -in key.pem -out plain.pem"
    )]
    EncryptedKey { origin: String },
    #[error(
        "{origin}: no private key that can be used: {reason}. PKCS#8, PKCS#1 and SEC1 in PEM are understood"
    )]
    Key { origin: String, reason: String },
    #[error(
        "{origin}: this key is not the one of the certificate in {certificate}. Give the two that belong together"
    )]
    OtherKey { origin: String, certificate: String },
    #[error("{origin}: not a certificate revocation list that can be used: {reason}")]
    Crl { origin: String, reason: String },
    #[error(
        "the name \"{name}\" can be neither a host name nor an address. Set ssl.servername to the name in the server's certificate"
    )]
    Name { name: String },
    #[error("the TLS settings do not fit together: {reason}")]
    Settings { reason: String },
}

/// Why a handshake gave no session.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct HandshakeError {
    pub reason: String,
    /// Whether it may pass by itself.
    pub is_passing: bool,
    /// What the server showed, its own certificate first; empty where it did not come to that.
    pub chain: Vec<Facts>,
}

impl HandshakeError {
    /// What will not pass by itself.
    #[must_use]
    pub fn refused(reason: impl Into<String>, chain: Vec<Facts>) -> Self {
        Self { reason: reason.into(), is_passing: false, chain }
    }

    /// What may pass by itself.
    #[must_use]
    pub fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_passing: true, chain: Vec::new() }
    }
}

/// What an alert means that ended a connection, and what to change; `None` where no alert did. With TLS 1.3 the
/// server looks at our certificate after the handshake has ended for us: so it may come with the first answer.
#[must_use]
pub fn alert(error: &io::Error) -> Option<String> {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::AlertReceived(alert)) = inner else { return None };
    #[expect(clippy::wildcard_enum_match_arm, reason = "most alerts have no word of their own")]
    let mend = match alert {
        AlertDescription::ProtocolVersion
        | AlertDescription::HandshakeFailure
        | AlertDescription::InsufficientSecurity => {
            "it speaks no TLS version from stagedoor.tls.minVersion on, or none of our ciphers"
        }
        AlertDescription::CertificateRequired => "it wants a client certificate: give ssl.cert and ssl.key",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => {
            "it does not accept our client certificate: look at ssl.cert (its dates, its authority and its whole \
             chain) and at the server's ssl_ca_file"
        }
        AlertDescription::UnrecognisedName => "it knows no host of that name: set ssl.servername",
        AlertDescription::NoApplicationProtocol => {
            "it does not speak PostgreSQL there (ALPN): stagedoor.tls.negotiation: direct needs PostgreSQL 17 or later"
        }
        _ => "look into the server's log",
    };
    Some(format!("the server ended TLS with the alert {alert:?}: {mend}"))
}
