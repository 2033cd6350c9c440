//! What can be wrong with certificates and keys that were configured.

use thiserror::Error;

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
    #[error("{origin}: not a certificate revocation list that can be used: {reason}")]
    Crl { origin: String, reason: String },
    #[error(
        "the name \"{name}\" can be neither a host name nor an address. Set ssl.servername to the name in the server's certificate"
    )]
    Name { name: String },
    #[error("the TLS settings do not fit together: {reason}")]
    Settings { reason: String },
}
