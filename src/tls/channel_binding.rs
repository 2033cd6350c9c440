//! `tls-server-end-point` (RFC 5929, section 4.1): the hash of the server's certificate, by the hash of its
//! signature, with MD5 and SHA-1 raised to SHA-256.

use aws_lc_rs::digest;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::spki::AlgorithmIdentifierOwned;

/// The binding data, or `None` where the signature has no hash of its own (Ed25519): then no binding is defined.
#[must_use]
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let hash = hash_of(&parsed.signature_algorithm)?;
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

fn hash_of(signature: &AlgorithmIdentifierOwned) -> Option<&'static digest::Algorithm> {
    Some(match signature.oid.to_string().as_str() {
        // md5WithRSA, sha1WithRSA, sha256WithRSA, ecdsaWithSHA1, ecdsaWithSHA256
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => &digest::SHA256,
        // sha384WithRSA, ecdsaWithSHA384
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &digest::SHA384,
        // sha512WithRSA, ecdsaWithSHA512
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &digest::SHA512,
        // RSASSA-PSS says its hash in its parameters.
        "1.2.840.113549.1.1.10" => pss_hash(signature)?,
        _ => return None,
    })
}

/// The `[0] hashAlgorithm` of RSASSA-PSS-params (RFC 4055); SHA-1, the default, is raised to SHA-256.
fn pss_hash(signature: &AlgorithmIdentifierOwned) -> Option<&'static digest::Algorithm> {
    let Some(parameters) = &signature.parameters else { return Some(&digest::SHA256) };
    let body = parameters.value();
    let contains = |oid: ObjectIdentifier| {
        let needle = oid.as_bytes();
        // The first identifier is the hash's; the mask function names one too, further behind.
        memchr::memmem::find(body, needle).filter(|at| *at < 16).is_some()
    };
    let rows = [
        ("2.16.840.1.101.3.4.2.1", &digest::SHA256),
        ("2.16.840.1.101.3.4.2.2", &digest::SHA384),
        ("2.16.840.1.101.3.4.2.3", &digest::SHA512),
        ("1.3.14.3.2.26", &digest::SHA256),
    ];
    if body.is_empty() {
        return Some(&digest::SHA256);
    }
    rows.into_iter().find(|(oid, _)| ObjectIdentifier::new(oid).is_ok_and(contains)).map(|(_, hash)| hash)
}
