//! One connection's settings, ready to be used: address, policies, user, password. Reads the fallbacks that
//! node-postgres reads where a setting is missing, empty or false.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use crate::config::database::Settings;
use crate::config::database::unset;
use crate::config::javascript::trim;
use crate::config::merge::Origin;
use crate::config::model::Address;
use crate::config::model::AuthMethod;
use crate::config::model::AuthPolicy;
use crate::config::model::ClientAuth;
use crate::config::model::TlsMode;
use crate::config::model::Upstream;
use crate::config::reader::Reader;
use crate::config::reader::kind;
use crate::config::secret::Secret;
use crate::config::stagedoor::Own;
use crate::config::tls_policy;
use crate::config::world::World;

/// What node-postgres falls back to.
const PORT_DEFAULT: u16 = 5432;

/// Who logs in where, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// `None` for the base.
    pub plugin: Option<String>,
    pub upstream: Upstream,
    pub user: String,
    pub password: Option<Secret>,
    /// Whether the password stands in a file.
    pub rotates: bool,
    /// The one database that is meant; for the base, the one that it is known to use.
    pub database: String,
    /// The key to point at in messages about the whole.
    pub key: String,
}

impl Login {
    /// Whether PostgreSQL cannot tell the two apart, except by database.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.upstream == other.upstream && self.user == other.user && self.password == other.password
    }

    /// Who is spoken of, in messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.plugin.as_ref().map_or_else(|| "the base connection".to_owned(), |id| format!("plugin `{id}`"))
    }
}

/// `None` after a fault that leaves no address or user.
pub fn login(reader: &Reader<'_>, world: &dyn World, own: &Own, settings: &Settings) -> Option<Login> {
    let from = From { reader, world, settings };
    let tls = tls_policy::policy(reader, world, &own.tls, settings);
    let address = from.address();
    let user = from.user();
    let password = from.password();
    from.check_proof(own, password.as_ref(), tls.client_certificate.is_some());
    let (address, user) = (address?, user?);
    from.check_address(own, &address);
    let variable = || world.variable("PGDATABASE").filter(|name| !name.is_empty());
    let database = settings.database.clone().or_else(variable).unwrap_or_else(|| user.clone());
    let upstream = Upstream {
        name: name_of(&address),
        address,
        tls,
        auth: AuthPolicy { allow: own.allow.clone() },
        servers_max: own.pool.servers_max,
        connect_timeout: own.connect_timeout,
    };
    let plugin = settings.plugin.clone();
    let key = settings.key(reader, "host");
    let rotates = from.rotates();
    Some(Login { plugin, upstream, user, password, rotates, database, key })
}

fn name_of(address: &Address) -> String {
    match address {
        Address::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        Address::Tcp { host, port } => format!("{host}:{port}"),
        Address::Unix { path } => path.display().to_string(),
    }
}

struct From<'a> {
    reader: &'a Reader<'a>,
    world: &'a dyn World,
    settings: &'a Settings,
}

impl From<'_> {
    fn key(&self, name: &str) -> String {
        self.settings.key(self.reader, name)
    }

    /// A text, or the variable that node-postgres takes where the text is missing or empty.
    fn text_or(&self, name: &str, variable: &str) -> Option<String> {
        match self.settings.values.get(name) {
            Some(Value::String(text)) if !trim(text).is_empty() => Some(text.clone()),
            None | Some(Value::String(_) | Value::Null | Value::Bool(false)) => {
                self.world.variable(variable).filter(|text| !trim(text).is_empty())
            }
            Some(other) => {
                let remedy = "put it in quotes: YAML without quotes makes other things of digits, and loses leading zeros";
                self.reader.fault(
                    &self.key(name),
                    format!("{} stands where a text is expected", kind(other)),
                    remedy,
                );
                None
            }
        }
    }

    /// Whether `text_or` has already said why there is none.
    fn is_of_another_kind(&self, name: &str) -> bool {
        let value = self.settings.values.get(name);
        value.is_some_and(|value| !value.is_string() && !value.is_null() && *value != Value::Bool(false))
    }

    fn lacking(&self, name: &str, remedy: &str) {
        if !self.is_of_another_kind(name) {
            let key = self.key(name);
            let what = format!("{} has no {name}", self.settings.speaker(self.reader, name));
            self.reader.fault(&key, unset(self.reader, &key, &what), remedy);
        }
    }

    fn address(&self) -> Option<Address> {
        let port = self.port();
        let Some(host) = self.text_or("host", "PGHOST") else {
            // node-postgres would take localhost, which here is stagedoor itself.
            self.lacking(
                "host",
                "say the address of PostgreSQL, and give stagedoor the variables that Backstage had for it",
            );
            return None;
        };
        let port = port?;
        if host.starts_with('/') {
            let path = PathBuf::from(host).join(format!(".s.PGSQL.{port}"));
            return Some(Address::Unix { path });
        }
        Some(Address::Tcp { host, port })
    }

    fn port(&self) -> Option<u16> {
        let key = self.key("port");
        let port = match self.settings.values.get("port") {
            Some(Value::Number(number)) if number.as_u64() != Some(0) => {
                number.as_u64().and_then(|n| n.try_into().ok())
            }
            Some(Value::String(text)) if !trim(text).is_empty() => trim(text).parse().ok(),
            _ => match self.world.variable("PGPORT").filter(|text| !text.is_empty()) {
                Some(text) => trim(&text).parse().ok(),
                None => Some(PORT_DEFAULT),
            },
        };
        let port = port.filter(|port| *port != 0);
        if port.is_none() {
            self.reader.fault(
                &key,
                "it is not a port: a whole number from 1 to 65535",
                "PostgreSQL's own is 5432",
            );
        }
        port
    }

    fn user(&self) -> Option<String> {
        let user = self.text_or("user", "PGUSER");
        if user.is_none() {
            self.lacking("user", "say the user of PostgreSQL that Backstage logs in as");
        }
        user
    }

    fn password(&self) -> Option<Secret> {
        self.text_or("password", "PGPASSWORD").map(Secret::new)
    }

    fn rotates(&self) -> bool {
        let (key, effective) = (self.key("password"), self.reader.effective);
        let in_a_file = effective.layer(&key).is_some_and(|layer| matches!(layer.origin, Origin::File(_)));
        let by_variable =
            effective.via(&key).is_some_and(|via| via.contains("${") || via.starts_with("$env"));
        let said = self.settings.values.get("password").is_some_and(|value| value.is_string());
        said && in_a_file && !by_variable
    }

    /// A password proves both sides: clients to us, and us to PostgreSQL.
    fn check_proof(&self, own: &Own, password: Option<&Secret>, certificate: bool) {
        if password.is_some() || self.is_of_another_kind("password") {
            return;
        }
        let key = self.key("password");
        let what = format!("{} has no password", self.settings.speaker(self.reader, "password"));
        let what = unset(self.reader, &key, &what);
        match own.listen.auth {
            ClientAuth::Scram | ClientAuth::Password => self.reader.fault(
                &key,
                format!("{what}, so no client could prove to stagedoor that it may come in"),
                "set the password; or, where everything in the pod may come in, `stagedoor.listen.auth: trust`",
            ),
            ClientAuth::Trust => {}
        }
        if !certificate && !own.allow.contains(&AuthMethod::Trust) {
            self.reader.fault(
                &key,
                format!("{what} and no client certificate, so stagedoor could not prove itself to PostgreSQL"),
                "set the password, or `ssl.cert` and `ssl.key`; or, where PostgreSQL asks for nothing, `stagedoor.auth.allow: [trust]`",
            );
        }
    }

    fn check_address(&self, own: &Own, address: &Address) {
        let key = self.key("host");
        match address {
            Address::Unix { .. } if own.tls.mode != Some(TlsMode::InsecurePlaintext) => self.reader.fault(
                &key,
                "it is a Unix socket, on which PostgreSQL speaks no TLS",
                "give the server's name, or set `stagedoor.tls.mode: insecure-plaintext`",
            ),
            Address::Unix { .. } => {}
            Address::Tcp { host, port } => {
                let ours: BTreeSet<u16> = own.ports.values().copied().chain([own.listen.port]).collect();
                if ours.contains(port) && is_here(host, own) {
                    self.reader.fault(
                        &key,
                        format!("{host}:{port} is stagedoor's own address, so it would connect to itself"),
                        "the environment of the Backstage container was probably given to the sidecar: give stagedoor \
                         the host of PostgreSQL, and only Backstage the local one",
                    );
                }
            }
        }
    }
}

fn is_here(host: &str, own: &Own) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    match name.parse::<std::net::IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip.is_unspecified() || ip == own.listen.host,
        Err(_) => name == "localhost" || name.ends_with(".localhost"),
    }
}
