//! From `connection.ssl`, in all its forms, to a `TlsPolicy`: verified in full, or refused with the way out.
//!
//! `stagedoor.tls.mode`, where it is set, decides alone. Where it is not, whatever node-postgres would not verify
//! (or would not verify in the next version) is a fault; so are texts on which node-postgres itself crashes
//! (`ssl: require`, `ssl: 'false'`: it starts TLS, and then looks for keys in a text).

use serde_json::Map;
use serde_json::Value;

use crate::config::connection_string::IDENTITY_UNCHECKED;
use crate::config::database::Settings;
use crate::config::model::ClientCertificate;
use crate::config::model::Negotiation;
use crate::config::model::Pem;
use crate::config::model::Roots;
use crate::config::model::TlsMode;
use crate::config::model::TlsPolicy;
use crate::config::model::TlsVersion;
use crate::config::reader::Reader;
use crate::config::reader::kind;
use crate::config::secret::Secret;
use crate::config::stagedoor::OwnTls;
use crate::config::world::World;

const WAY_OUT: &str = "leave `ssl` out (verified against public authorities) or give `ssl.ca`; Backstage's own \
    settings towards stagedoor belong into its container's environment (APP_CONFIG_backend_database_connection_ssl=false). \
    If the upstream really cannot be verified, say so with `stagedoor.tls.mode`: verify-ca, insecure-no-verify \
    or insecure-plaintext";

/// What `settings` and `stagedoor.tls` mean together. Faults are noted, and the safe end is gone on with.
pub fn policy(reader: &Reader<'_>, world: &dyn World, own: &OwnTls, settings: &Settings) -> TlsPolicy {
    let ssl = Ssl { reader, settings };
    if own.mode.is_none() {
        ssl.refuse_what_is_not_verified();
    }
    ssl.refuse_and_remark();
    if own.mode == Some(TlsMode::VerifyCa) && !ssl.has("ca") {
        let reason =
            "`verify-ca` without `ssl.ca`: whoever has a certificate of any public authority could answer";
        reader.fault(&settings.key(reader, "ssl"), reason, "give `ssl.ca`, or take `verify-full`");
    }
    if let Some(mode @ ("disable" | "no-verify" | "allow")) = world.variable("PGSSLMODE").as_deref() {
        reader.warn(
            "PGSSLMODE",
            &format!("`{mode}` is ignored: stagedoor verifies unless `stagedoor.tls.mode` says otherwise"),
        );
    }
    if world.variable("NODE_TLS_REJECT_UNAUTHORIZED").as_deref() == Some("0") {
        reader.warn(
            "NODE_TLS_REJECT_UNAUTHORIZED",
            "`0` is ignored: stagedoor verifies unless `stagedoor.tls.mode` says otherwise",
        );
    }
    let mut crls = own.crls.clone();
    crls.extend(ssl.pems("crl"));
    TlsPolicy {
        mode: own.mode.unwrap_or(TlsMode::VerifyFull),
        version_min: ssl.version_min().max_of(own.version_min),
        roots: ssl.roots(world),
        client_certificate: ssl.client_certificate(),
        server_name: ssl.text("servername").map(str::to_owned),
        negotiation: own.negotiation.unwrap_or_else(|| negotiation(settings, world)),
        crls,
        channel_binding: own.channel_binding,
    }
}

fn negotiation(settings: &Settings, world: &dyn World) -> Negotiation {
    let said = settings.values.get("sslnegotiation").and_then(Value::as_str).map(str::to_owned);
    let said = said.filter(|word| !word.is_empty()).or_else(|| world.variable("PGSSLNEGOTIATION"));
    if said.as_deref() == Some("direct") { Negotiation::Direct } else { Negotiation::Postgres }
}

impl TlsVersion {
    fn max_of(self, other: Self) -> Self {
        match (self, other) {
            (Self::V1_2, Self::V1_2) => Self::V1_2,
            (Self::V1_3, _) | (_, Self::V1_3) => Self::V1_3,
        }
    }
}

struct Ssl<'a> {
    reader: &'a Reader<'a>,
    settings: &'a Settings,
}

impl<'a> Ssl<'a> {
    fn key(&self, name: &str) -> String {
        let ssl = self.settings.key(self.reader, "ssl");
        if ssl.ends_with(".ssl") { format!("{ssl}.{name}") } else { ssl }
    }

    fn fault(&self, reason: &str) {
        self.reader.fault(&self.settings.key(self.reader, "ssl"), reason, WAY_OUT);
    }

    fn object(&self) -> Option<&'a Map<String, Value>> {
        self.settings.values.get("ssl")?.as_object()
    }

    fn has(&self, name: &str) -> bool {
        self.object().is_some_and(|map| map.contains_key(name))
    }

    fn refuse_what_is_not_verified(&self) {
        self.refuse_ssl();
        self.refuse_sslmode();
    }

    fn refuse_ssl(&self) {
        match self.settings.values.get("ssl") {
            None | Some(Value::Bool(true)) => {}
            Some(Value::Object(map)) => self.refuse_object(map),
            Some(Value::String(text)) if text == "true" => {}
            Some(Value::Null | Value::Bool(false)) => {
                self.fault("`ssl: false` means no TLS at all: passwords and rows would cross the network in the clear");
            }
            Some(Value::String(text)) if text.is_empty() => {
                self.fault("an empty `ssl` means no TLS at all: passwords and rows would cross the network in the clear");
            }
            Some(Value::String(text)) if text == "no-verify" => {
                self.fault("`no-verify` means that anybody may answer in the name of the server");
            }
            Some(Value::String(_)) => self.fault(
                "it is a text, on which Backstage's own driver crashes; it must be true, or a map with `ca` and its like",
            ),
            Some(other @ (Value::Number(_) | Value::Array(_))) => {
                self.fault(&format!("{} stands where true, or a map with `ca` and its like, is expected", kind(other)));
            }
        }
    }

    fn refuse_object(&self, map: &Map<String, Value>) {
        if map.get("rejectUnauthorized") == Some(&Value::Bool(false)) {
            self.fault("`rejectUnauthorized: false` means that anybody may answer in the name of the server");
        }
        if map.contains_key(IDENTITY_UNCHECKED) {
            self.fault(
                "with `uselibpqcompat`, this sslmode does not compare the server's name with its certificate",
            );
        }
    }

    /// What `sslmode` says in the connection string, where it does not already show in `ssl`.
    fn refuse_sslmode(&self) {
        let word = self.settings.values.get("sslmode").and_then(Value::as_str).unwrap_or_default();
        match word {
            "" | "require" | "verify-ca" | "verify-full" | "disable" | "no-verify" => {}
            "allow" | "prefer" => self.fault(&format!(
                "`sslmode={word}` allows a connection without TLS, or one that is not verified (libpq; node-postgres will follow)"
            )),
            _ => self.fault("its `sslmode` is none that PostgreSQL knows"),
        }
    }

    /// What is refused or remarked whatever the mode.
    fn refuse_and_remark(&self) {
        let Some(map) = self.object() else { return };
        for (name, value) in map {
            let key = self.key(name);
            match name.as_str() {
                "ca" | "cert" | "key" | "crl" | "servername" | "minVersion" | "require" | IDENTITY_UNCHECKED => {}
                "rejectUnauthorized" if value.is_boolean() => {}
                "rejectUnauthorized" => self.reader.warn(
                    &key,
                    "it is not a boolean, and Node takes everything but `false` itself for true: the server is verified",
                ),
                "passphrase" => self.reader.fault(
                    &key,
                    "encrypted keys are not supported",
                    "decrypt the key (`openssl pkey -in key.pem -out plain.pem`) and mount it as a Secret",
                ),
                "pfx" => self.reader.fault(
                    &key,
                    "PKCS#12 files are not supported",
                    "unpack it into `ssl.cert`, `ssl.key` and `ssl.ca` (`openssl pkcs12 -nodes`)",
                ),
                _ => self.reader.warn(&key, "stagedoor does not know it and goes on without"),
            }
        }
    }

    /// A text below `ssl` that is not empty.
    fn text(&self, name: &str) -> Option<&'a str> {
        match self.object()?.get(name)? {
            Value::String(text) if !text.is_empty() => Some(text),
            Value::Null => None,
            other @ (Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_)) => {
                self.reader.fault(
                    &self.key(name),
                    format!("{} stands where a text is expected", kind(other)),
                    "leave it out, or give it",
                );
                None
            }
        }
    }

    fn version_min(&self) -> TlsVersion {
        match self.text("minVersion") {
            Some("TLSv1.3") => TlsVersion::V1_3,
            None | Some("TLSv1.2") => TlsVersion::V1_2,
            Some("TLSv1" | "TLSv1.1") => {
                self.reader.warn(&self.key("minVersion"), "stagedoor speaks TLS 1.2 and 1.3 only");
                TlsVersion::V1_2
            }
            Some(_) => {
                self.reader.fault(&self.key("minVersion"), "it is none of TLSv1.2 and TLSv1.3", "");
                TlsVersion::V1_2
            }
        }
    }

    fn roots(&self, world: &dyn World) -> Roots {
        if self.has("ca") {
            return Roots::Only(self.pems("ca"));
        }
        let path = world.variable("NODE_EXTRA_CA_CERTS").filter(|path| !path.is_empty());
        let extra = path.and_then(|path| match world.read(std::path::Path::new(&path)) {
            Ok(text) => Some(Pem { text, origin: path }),
            Err(error) => {
                self.reader
                    .warn("NODE_EXTRA_CA_CERTS", &format!("{path}: {error}; going on without, as Node does"));
                None
            }
        });
        Roots::Public { extra: extra.into_iter().collect() }
    }

    /// One PEM text or a list of them.
    fn pems(&self, name: &str) -> Vec<Pem> {
        let Some(value) = self.object().and_then(|map| map.get(name)) else {
            return vec![];
        };
        let single = std::slice::from_ref(value);
        let list = value.as_array().map_or(single, Vec::as_slice);
        list.iter().filter_map(|value| self.pem(name, value)).collect()
    }

    fn pem(&self, name: &str, value: &Value) -> Option<Pem> {
        let key = self.key(name);
        let text = value.as_str().unwrap_or_default();
        if !text.contains("-----BEGIN") {
            let reason = match value {
                Value::String(text) if text.is_empty() => "it is empty".to_owned(),
                Value::String(_) => "it is not a PEM text (`-----BEGIN …`)".to_owned(),
                other @ (Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Array(_)
                | Value::Object(_)) => format!("{} stands where a PEM text is expected", kind(other)),
            };
            self.reader.fault(&key, reason, "to give a file, write `$file: ./file.pem` below it");
            return None;
        }
        let origin =
            self.reader.effective.via(&key).map_or_else(|| key.clone(), |via| via.replace("$file ", ""));
        Some(Pem { text: text.to_owned(), origin })
    }

    fn client_certificate(&self) -> Option<ClientCertificate> {
        let map = self.object()?;
        let both = (map.contains_key("cert"), map.contains_key("key"));
        let (has, lacks) = match both {
            (true, true) => return self.both(map),
            (false, false) => return None,
            (true, false) => ("cert", "key"),
            (false, true) => ("key", "cert"),
        };
        self.reader.fault(
            &self.key(has),
            format!("there is `ssl.{has}` but no `ssl.{lacks}`"),
            "a client certificate needs both",
        );
        None
    }

    fn both(&self, map: &Map<String, Value>) -> Option<ClientCertificate> {
        let chain = self.pem("cert", map.get("cert")?);
        let key = self.pem("key", map.get("key")?)?;
        if key.text.contains("ENCRYPTED") {
            self.reader.fault(
                &self.key("key"),
                "the key is encrypted, which is not supported",
                "decrypt it (`openssl pkey -in key.pem -out plain.pem`) and mount it as a Secret",
            );
            return None;
        }
        Some(ClientCertificate { chain: chain?, key: Secret::new(key.text), key_origin: key.origin })
    }
}
