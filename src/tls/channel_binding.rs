//! `tls-server-end-point` (RFC 5929, section 4.1): the hash of the server's certificate, by the hash of its
//! signature, with MD5 and SHA-1 raised to SHA-256.

use aws_lc_rs::digest;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::SliceReader;
use x509_cert::der::TagNumber;
use x509_cert::der::asn1::ContextSpecific;
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
    let mut reader = SliceReader::new(parameters.value()).ok()?;
    let hash =
        ContextSpecific::<AlgorithmIdentifierOwned>::decode_explicit(&mut reader, TagNumber::N0).ok()?;
    Some(match hash.map(|hash| hash.value.oid.to_string()).as_deref() {
        None | Some("1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1") => &digest::SHA256,
        Some("2.16.840.1.101.3.4.2.2") => &digest::SHA384,
        Some("2.16.840.1.101.3.4.2.3") => &digest::SHA512,
        Some(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_cert::der::Any;
    use x509_cert::der::Tag;
    use x509_cert::der::asn1::ObjectIdentifier;

    fn hash(oid: &str, parameters: Option<&[u8]>) -> Option<&'static digest::Algorithm> {
        let parameters = parameters.map(|body| Any::new(Tag::Sequence, body).unwrap());
        hash_of(&AlgorithmIdentifierOwned { oid: ObjectIdentifier::new_unwrap(oid), parameters })
    }

    #[test]
    fn each_signature_has_the_hash_of_the_rfc() {
        let rows = [
            ("1.2.840.113549.1.1.4", Some(&digest::SHA256)),
            ("1.2.840.113549.1.1.5", Some(&digest::SHA256)),
            ("1.2.840.113549.1.1.11", Some(&digest::SHA256)),
            ("1.2.840.113549.1.1.12", Some(&digest::SHA384)),
            ("1.2.840.113549.1.1.13", Some(&digest::SHA512)),
            ("1.2.840.10045.4.1", Some(&digest::SHA256)),
            ("1.2.840.10045.4.3.2", Some(&digest::SHA256)),
            ("1.2.840.10045.4.3.3", Some(&digest::SHA384)),
            ("1.2.840.10045.4.3.4", Some(&digest::SHA512)),
            ("1.3.101.112", None),
        ];
        for (oid, expected) in rows {
            assert_eq!(hash(oid, None), expected, "{oid}");
        }
    }

    #[test]
    fn rsa_pss_says_its_hash_in_its_parameters() {
        const PSS: &str = "1.2.840.113549.1.1.10";
        // [0] { SEQUENCE { OID 2.16.840.1.101.3.4.2.x, NULL } }
        let named = |last: u8| [0xa0, 15, 48, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, last, 5, 0];
        // [1] { SEQUENCE { OID mgf1, SEQUENCE { OID sha512, NULL } } }: the mask's hash is not the signature's.
        let mask = [
            &[0xa1, 28, 48, 26, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8, 48, 13][..],
            &named(3)[4..],
        ]
        .concat();
        let sha_1 = [0xa0, 11, 48, 9, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0];
        let both = |hash: &[u8]| [hash, &mask].concat();
        assert_eq!(hash(PSS, None), Some(&digest::SHA256));
        assert_eq!(hash(PSS, Some(b"")), Some(&digest::SHA256));
        assert_eq!(hash(PSS, Some(&mask)), Some(&digest::SHA256));
        assert_eq!(hash(PSS, Some(&both(&sha_1))), Some(&digest::SHA256));
        assert_eq!(hash(PSS, Some(&both(&named(1)))), Some(&digest::SHA256));
        assert_eq!(hash(PSS, Some(&both(&named(2)))), Some(&digest::SHA384));
        assert_eq!(hash(PSS, Some(&both(&named(3)))), Some(&digest::SHA512));
        assert_eq!(hash(PSS, Some(&both(&named(8)))), None, "SHA3-256: nobody has agreed on it");
        assert_eq!(hash(PSS, Some(b"\xa0\x7f")), None, "not DER");
    }
}
