//! Authorities that sign for a real PostgreSQL and for us.

use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CertificateRevocationListParams;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyIdMethod;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::RevocationReason;
use rcgen::RevokedCertParams;
use rcgen::SerialNumber;
use rcgen::date_time_ymd;

/// Signs until the end of `year`, so that a metric tells which one is in use.
pub struct Signer {
    params: CertificateParams,
    key: KeyPair,
    pub pem: String,
}

/// A certificate and its key, in PEM.
pub struct Card {
    pub certificate: String,
    pub key: String,
    serial: u64,
}

impl Signer {
    pub fn new(name: &str, year: i32) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_after = date_time_ymd(year, 1, 1);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    /// A certificate for localhost.
    pub fn server(&self, serial: u64, year: i32) -> Card {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        self.sign(CertificateParams::new(names).unwrap(), ExtendedKeyUsagePurpose::ServerAuth, serial, year)
    }

    /// A certificate for a role of PostgreSQL.
    pub fn client(&self, role: &str, serial: u64, year: i32) -> Card {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, role);
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth, serial, year)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
        serial: u64,
        year: i32,
    ) -> Card {
        let key = KeyPair::generate().unwrap();
        params.extended_key_usages.push(usage);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer()).unwrap().pem();
        Card { certificate, key: key.serialize_pem(), serial }
    }

    /// A list that revokes these.
    pub fn revokes(&self, cards: &[&Card]) -> String {
        let revoked = |card: &&Card| RevokedCertParams {
            serial_number: SerialNumber::from(card.serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2044, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: cards.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer()).unwrap().pem().unwrap()
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }
}

/// 1 January of `year`, in seconds since the epoch.
pub fn seconds(year: i32) -> i64 {
    date_time_ymd(year, 1, 1).unix_timestamp()
}
