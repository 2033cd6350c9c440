//! The facts of a certificate, for errors, metrics and `stagedoor check`. Decides nothing.

use std::fmt;
use std::net::IpAddr;

use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;

/// Names beyond these are not shown.
const NAMES_MAX: usize = 20;

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
}

impl Facts {
    /// Reads a certificate in DER form; `None` where it is none.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let body = &certificate.tbs_certificate;
        let validity = &body.validity;
        Some(Self {
            subject: body.subject.to_string(),
            common_name: common_name(&body.subject),
            issuer: body.issuer.to_string(),
            names: body
                .get::<SubjectAltName>()
                .ok()
                .flatten()
                .map(|(_, names)| names.0.iter().filter_map(shown).collect()),
            not_before: validity.not_before.to_unix_duration().as_secs(),
            not_after: validity.not_after.to_unix_duration().as_secs(),
            not_before_text: validity.not_before.to_string(),
            not_after_text: validity.not_after.to_string(),
        })
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
            Some(names) => {
                let shown: Vec<_> = names.iter().take(NAMES_MAX).map(String::as_str).collect();
                let more = if names.len() > NAMES_MAX { ", …" } else { "" };
                write!(f, "names {}{more}", shown.join(", "))?;
            }
        }
        write!(f, ", issuer \"{}\", valid {} to {}", self.issuer, self.not_before_text, self.not_after_text)
    }
}

fn common_name(subject: &Name) -> Option<String> {
    let text = subject.0.iter().flat_map(|part| part.0.iter());
    text.filter(|attribute| attribute.oid.to_string() == "2.5.4.3")
        .filter_map(|attribute| std::str::from_utf8(attribute.value.value()).ok().map(str::to_owned))
        .next()
}

fn shown(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
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
