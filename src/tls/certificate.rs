//! The facts of a certificate, for errors, metrics and `stagedoor check`. Decides nothing.

use std::fmt;
use std::net::IpAddr;

use x509_cert::Certificate;
use x509_cert::Version;
use x509_cert::der::Decode as _;
use x509_cert::der::Encode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;

/// Names beyond these are not shown.
const NAMES_MAX: usize = 20;

/// No text of a certificate is longer than this where it is shown: a stranger may have written it.
const TEXT_CHARS_MAX: usize = 200;

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub subject: String,
    pub common_name: Option<String>,
    pub issuer: String,
    /// Subject alternative names: host names and addresses. `None` where there is no such extension.
    pub names: Option<Vec<String>>,
    /// Seconds since 1970.
    pub not_before: u64,
    pub not_after: u64,
    not_before_text: String,
    not_after_text: String,
    /// The issuer in DER form and the serial number, by which a revocation list names a certificate.
    issuer_der: Vec<u8>,
    serial: Vec<u8>,
}

impl Facts {
    /// Reads a certificate in DER form; `None` where it is none.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let body = &certificate.tbs_certificate;
        let validity = &body.validity;
        Some(Self {
            subject: tame(&body.subject.to_string()),
            common_name: common_name(&body.subject),
            issuer: tame(&body.issuer.to_string()),
            names: match body.get::<SubjectAltName>() {
                Ok(found) => found.map(|(_, names)| names.0.iter().filter_map(shown).collect()),
                // They are there, though nobody can read them: the common name does not step in.
                Err(_) => Some(Vec::new()),
            },
            not_before: validity.not_before.to_unix_duration().as_secs(),
            not_after: validity.not_after.to_unix_duration().as_secs(),
            not_before_text: validity.not_before.to_string(),
            not_after_text: validity.not_after.to_string(),
            issuer_der: body.issuer.to_der().ok()?,
            serial: body.serial_number.as_bytes().to_vec(),
        })
    }

    /// Whether `crl` is its issuer's and names it.
    #[must_use]
    pub fn is_revoked_by(&self, crl: &webpki::CertRevocationList<'_>) -> bool {
        // webpki keeps an issuer without the header of its SEQUENCE, and a serial number as it is encoded.
        let plain = self.serial.strip_prefix(&[0]).unwrap_or(&self.serial);
        self.issuer_der.ends_with(crl.issuer())
            && [plain, &self.serial]
                .into_iter()
                .any(|serial| crl.find_serial(serial).is_ok_and(|found| found.is_some()))
    }

    #[must_use]
    pub fn is_self_signed(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether `name` is one of its host names, a trailing dot aside: Cloud SQL writes one.
    #[must_use]
    pub fn has_dotted_name(&self, name: &str) -> bool {
        let plain = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
        let wanted = plain(name);
        self.names.iter().flatten().any(|own| own.ends_with('.') && plain(own) == wanted)
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "subject \"{}\", ", self.subject)?;
        match &self.names {
            None => write!(f, "no alternative names")?,
            Some(names) if names.is_empty() => write!(f, "alternative names, but no host among them")?,
            Some(names) => {
                let shown: Vec<_> = names.iter().take(NAMES_MAX).map(String::as_str).collect();
                let more = if names.len() > NAMES_MAX { ", …" } else { "" };
                write!(f, "names {}{more}", shown.join(", "))?;
            }
        }
        write!(f, ", issuer \"{}\", valid {} to {}", self.issuer, self.not_before_text, self.not_after_text)
    }
}

/// The public key (SubjectPublicKeyInfo) of a certificate of version 1, which webpki does not read.
#[must_use]
pub fn key_of_version_1(der: &[u8]) -> Option<Vec<u8>> {
    let body = Certificate::from_der(der).ok()?.tbs_certificate;
    if body.version == Version::V1 { body.subject_public_key_info.to_der().ok() } else { None }
}

/// A stranger's text, fit for a line of a log or a terminal.
fn tame(text: &str) -> String {
    let mut tamed: String =
        text.chars().take(TEXT_CHARS_MAX).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().nth(TEXT_CHARS_MAX).is_some() {
        tamed.push('…');
    }
    tamed
}

fn common_name(subject: &Name) -> Option<String> {
    let text = subject.0.iter().flat_map(|part| part.0.iter());
    text.filter(|attribute| attribute.oid.to_string() == "2.5.4.3")
        .filter_map(|attribute| std::str::from_utf8(attribute.value.value()).ok().map(str::to_owned))
        .next()
}

fn shown(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(tame(name.as_str())),
        GeneralName::IpAddress(octets) => {
            let bytes = octets.as_bytes();
            let address = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
            address.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        GeneralName::OtherName(_)
        | GeneralName::Rfc822Name(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EdiPartyName(_)
        | GeneralName::UniformResourceIdentifier(_)
        | GeneralName::RegisteredId(_) => None,
    }
}
