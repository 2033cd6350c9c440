//! What the top-level key `stagedoor:` may say, and the defaults, which are right for a sidecar.
//! `config/stagedoor.yaml` shows every key with its default; a test keeps the two equal.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::merge::Origin;
use crate::config::model::Admin;
use crate::config::model::AuthMethod;
use crate::config::model::ChannelBinding;
use crate::config::model::ClientAuth;
use crate::config::model::Listen;
use crate::config::model::Log;
use crate::config::model::LogFormat;
use crate::config::model::LogLevel;
use crate::config::model::Negotiation;
use crate::config::model::Pem;
use crate::config::model::PoolMode;
use crate::config::model::PoolPolicy;
use crate::config::model::Reload;
use crate::config::model::Shutdown;
use crate::config::model::TlsMode;
use crate::config::model::TlsVersion;
use crate::config::model::Watch;
use crate::config::reader::Reader;
use crate::config::world::World;

/// Every section and its keys. Below the two `plugins`, the keys of each plugin.
pub const SECTIONS: &[(&str, &[&str])] = &[
    ("stagedoor", &["listen", "auth", "pool", "tls", "reload", "admin", "shutdown", "log"]),
    (
        "stagedoor.listen",
        &["host", "port", "socket", "auth", "maxClients", "loginTimeout", "allowRemote", "plugins"],
    ),
    ("stagedoor.auth", &["allow"]),
    (
        "stagedoor.pool",
        &[
            "mode",
            "maxServers",
            "minIdle",
            "idleTimeout",
            "maxLifetime",
            "acquireTimeout",
            "watch",
            "connectTimeout",
            "plugins",
        ],
    ),
    ("stagedoor.pool.watch", WATCH),
    ("stagedoor.tls", &["mode", "minVersion", "channelBinding", "negotiation", "crl"]),
    ("stagedoor.reload", &["interval"]),
    ("stagedoor.admin", &["host", "port"]),
    ("stagedoor.shutdown", &["gracePeriod"]),
    ("stagedoor.log", &["format", "level"]),
];

const PLUGIN_LISTEN: &[&str] = &["port"];
const PLUGIN_POOL: &[&str] =
    &["mode", "maxServers", "minIdle", "idleTimeout", "maxLifetime", "acquireTimeout", "watch"];
const WATCH: &[&str] = &["functions", "settings"];

/// What stands under `stagedoor:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    pub listen: Listen,
    /// `listen.plugins.<id>.port`
    pub ports: BTreeMap<String, u16>,
    pub allow: BTreeSet<AuthMethod>,
    pub pool: PoolPolicy,
    pub connect_timeout: Duration,
    /// `pool.plugins.<id>`
    pub pools: BTreeMap<String, PoolPolicy>,
    pub tls: OwnTls,
    pub reload: Reload,
    pub admin: Admin,
    pub shutdown: Shutdown,
    pub log: Log,
}

/// What stands under `stagedoor.tls:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnTls {
    /// `None`: verify-full, and an app-config that wants less is refused.
    pub mode: Option<TlsMode>,
    pub version_min: TlsVersion,
    pub channel_binding: ChannelBinding,
    /// `None`: `postgres`, or what `sslnegotiation` of the connection says.
    pub negotiation: Option<Negotiation>,
    pub crls: Vec<Pem>,
}

/// Least and most of every number. Each most is what a sidecar could not need, and cannot be harmed by.
const SERVERS: std::ops::RangeInclusive<u64> = 2..=10_000;
const CLIENTS: std::ops::RangeInclusive<u64> = 1..=100_000;
/// Each text is searched for each function, and each probe asks for each setting.
const WATCHED_MAX: usize = 32;
const HOUR: Duration = Duration::from_secs(3600);
const BRIEF: Duration = Duration::from_millis(100);

/// Reads `stagedoor:`; what is absent or wrong has its default.
pub fn read(reader: &Reader<'_>, world: &dyn World) -> Own {
    for (section, known) in SECTIONS {
        reader.only(section, known);
    }
    let pool = pool_policy(reader, "stagedoor.pool", &pool_default());
    Own {
        listen: listen(reader),
        ports: ports(reader),
        allow: allow(reader),
        pools: pools(reader, &pool),
        pool,
        connect_timeout: reader
            .duration("stagedoor.pool.connectTimeout", BRIEF..=HOUR)
            .unwrap_or(Duration::from_secs(5)),
        tls: tls(reader, world),
        reload: Reload {
            interval: reader
                .duration("stagedoor.reload.interval", BRIEF..=HOUR)
                .unwrap_or(Duration::from_secs(5)),
        },
        admin: admin(reader),
        shutdown: Shutdown {
            grace_period: reader
                .duration("stagedoor.shutdown.gracePeriod", Duration::ZERO..=24 * HOUR)
                .unwrap_or(Duration::from_secs(30)),
        },
        log: log(reader),
    }
}

fn listen(reader: &Reader<'_>) -> Listen {
    let host = host(reader, "stagedoor.listen.host").unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let remote = reader.boolean("stagedoor.listen.allowRemote").unwrap_or(false);
    if !host.is_loopback() && !remote {
        reader.fault(
            "stagedoor.listen.host",
            format!("{host} is not a loopback address: passwords and rows would cross the network in the clear"),
            "listen on 127.0.0.1 or ::1; or, if the network is yours, set `stagedoor.listen.allowRemote: true`",
        );
    }
    let auth =
        [("scram", ClientAuth::Scram), ("password", ClientAuth::Password), ("trust", ClientAuth::Trust)];
    let auth = reader.choice("stagedoor.listen.auth", &auth).unwrap_or(ClientAuth::Scram);
    if auth == ClientAuth::Trust && !host.is_loopback() {
        reader.warn("stagedoor.listen.auth", "`trust` on an address that others reach lets everybody in");
    }
    Listen {
        host,
        port: reader.port("stagedoor.listen.port", 0).unwrap_or(5432),
        socket: reader.text("stagedoor.listen.socket").map(PathBuf::from),
        auth,
        clients_max: size(reader.number("stagedoor.listen.maxClients", CLIENTS), 1000),
        login_timeout: reader
            .duration("stagedoor.listen.loginTimeout", BRIEF..=HOUR)
            .unwrap_or(Duration::from_secs(30)),
    }
}

fn host(reader: &Reader<'_>, key: &str) -> Option<IpAddr> {
    let text = reader.text(key)?;
    if text == "localhost" {
        return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let parsed = text.trim_matches(['[', ']']).parse().ok();
    if parsed.is_none() {
        reader.fault(key, "it is not an IP address", "give an address of this pod, usually 127.0.0.1");
    }
    parsed
}

fn size(number: Option<u64>, default: usize) -> usize {
    number.and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
}

fn ports(reader: &Reader<'_>) -> BTreeMap<String, u16> {
    let mut ports = BTreeMap::new();
    for id in plugins(reader, "stagedoor.listen.plugins") {
        let section = format!("stagedoor.listen.plugins.{id}");
        reader.only(&section, PLUGIN_LISTEN);
        ports.extend(reader.port(&format!("{section}.port"), 1).map(|port| (id.to_owned(), port)));
    }
    ports
}

fn plugins<'a>(reader: &Reader<'a>, key: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    reader.map(key).into_iter().flat_map(|map| map.keys()).map(String::as_str)
}

fn allow(reader: &Reader<'_>) -> BTreeSet<AuthMethod> {
    let key = "stagedoor.auth.allow";
    let methods = reader.texts(key).into_iter().map(|word| match word {
        "md5" => Some(AuthMethod::Md5),
        "password" => Some(AuthMethod::Password),
        "trust" => Some(AuthMethod::Trust),
        _ => {
            reader.fault(key, "it names a method that does not exist", "choose from: md5, password, trust");
            None
        }
    });
    methods.flatten().collect()
}

fn pool_default() -> PoolPolicy {
    PoolPolicy {
        mode: PoolMode::Transaction,
        servers_max: 20,
        idle_min: 0,
        idle_timeout: Duration::from_secs(5 * 60),
        lifetime_max: HOUR,
        acquire_timeout: Duration::from_secs(30),
        watch: Watch::default(),
    }
}

fn pools(reader: &Reader<'_>, base: &PoolPolicy) -> BTreeMap<String, PoolPolicy> {
    let section = |id: &str| format!("stagedoor.pool.plugins.{id}");
    plugins(reader, "stagedoor.pool.plugins")
        .map(|id| {
            reader.only(&section(id), PLUGIN_POOL);
            reader.only(&format!("{}.watch", section(id)), WATCH);
            (id.to_owned(), pool_policy(reader, &section(id), base))
        })
        .collect()
}

fn pool_policy(reader: &Reader<'_>, section: &str, default: &PoolPolicy) -> PoolPolicy {
    let key = |name: &str| format!("{section}.{name}");
    let duration = |name: &str, least: Duration| reader.duration(&key(name), least..=24 * HOUR);
    let mode = [("transaction", PoolMode::Transaction), ("session", PoolMode::Session)];
    // Two at the least: Backstage's search indexer keeps a transaction open while it waits for another of its own.
    let servers_max = size(reader.number(&key("maxServers"), SERVERS), default.servers_max);
    let idle_min = size(reader.number(&key("minIdle"), 0..=*SERVERS.end()), default.idle_min);
    if servers_max < idle_min {
        let reason = format!("{idle_min} servers cannot be kept where at most {servers_max} may be");
        reader.fault(&key("minIdle"), reason, "lower `minIdle` or raise `maxServers`");
    }
    PoolPolicy {
        mode: reader.choice(&key("mode"), &mode).unwrap_or(default.mode),
        servers_max,
        idle_min,
        idle_timeout: duration("idleTimeout", BRIEF).unwrap_or(default.idle_timeout),
        lifetime_max: duration("maxLifetime", Duration::from_secs(1)).unwrap_or(default.lifetime_max),
        acquire_timeout: duration("acquireTimeout", BRIEF).unwrap_or(default.acquire_timeout),
        watch: watch(reader, &key("watch"), &default.watch),
    }
}

/// What a plugin watches is what all do, and its own.
fn watch(reader: &Reader<'_>, section: &str, default: &Watch) -> Watch {
    let names = |name: &str, known: &[String], is_name: &dyn Fn(&str) -> bool, form: &str| {
        let key = format!("{section}.{name}");
        let own: Vec<&str> = reader.texts(&key);
        if WATCHED_MAX < known.len() + own.len() {
            reader.fault(
                &key,
                format!("there are more than {WATCHED_MAX} names"),
                "give the plugin `mode: session`",
            );
        }
        for wrong in own.iter().filter(|name| !is_name(name)) {
            reader.fault(&key, format!("`{wrong}` is not {form}"), "");
        }
        known.iter().cloned().chain(own.into_iter().map(str::to_owned)).collect()
    };
    let parts = |name: &str| name.split('.').all(|part| !part.is_empty());
    Watch {
        functions: names(
            "functions",
            &default.functions,
            &|name| !name.contains(['.', '(']),
            "the name of a function alone, without schema and arguments",
        ),
        settings: names(
            "settings",
            &default.settings,
            &|name| name.contains('.') && parts(name),
            "a setting of the form a.b",
        ),
    }
}

fn tls(reader: &Reader<'_>, world: &dyn World) -> OwnTls {
    let mode = [
        ("verify-full", TlsMode::VerifyFull),
        ("verify-ca", TlsMode::VerifyCa),
        ("insecure-no-verify", TlsMode::InsecureNoVerify),
        ("insecure-plaintext", TlsMode::InsecurePlaintext),
    ];
    let binding = [
        ("disable", ChannelBinding::Disable),
        ("prefer", ChannelBinding::Prefer),
        ("require", ChannelBinding::Require),
    ];
    let negotiation = [("postgres", Negotiation::Postgres), ("direct", Negotiation::Direct)];
    let version = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    OwnTls {
        mode: reader.choice("stagedoor.tls.mode", &mode),
        version_min: reader.choice("stagedoor.tls.minVersion", &version).unwrap_or(TlsVersion::V1_2),
        channel_binding: reader
            .choice("stagedoor.tls.channelBinding", &binding)
            .unwrap_or(ChannelBinding::Prefer),
        negotiation: reader.choice("stagedoor.tls.negotiation", &negotiation),
        crls: crls(reader, world),
    }
}

/// Each entry is a PEM text (by `$file`), or the path of one, relative to the file that names it.
fn crls(reader: &Reader<'_>, world: &dyn World) -> Vec<Pem> {
    let key = "stagedoor.tls.crl";
    let dir = reader.effective.layer(key).and_then(|layer| match &layer.origin {
        Origin::File(path) => path.parent().map(PathBuf::from),
        Origin::Environment => None,
    });
    let pem = |entry: &str| {
        if entry.contains("-----BEGIN") {
            return Ok(Pem { text: entry.to_owned(), origin: key.to_owned() });
        }
        let path = crate::config::javascript::resolve_path(&dir.clone().unwrap_or_default(), entry);
        let text = world.read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if !text.contains("-----BEGIN X509 CRL-----") {
            return Err(format!("{} has no PEM block `X509 CRL`", path.display()));
        }
        Ok(Pem { text, origin: path.display().to_string() })
    };
    let entries = reader.texts(key).into_iter();
    entries
        .filter_map(|entry| {
            let noted = pem(entry)
                .map_err(|reason: String| reader.fault(key, reason, "give PEM files of revocation lists"));
            noted.ok()
        })
        .collect()
}

fn admin(reader: &Reader<'_>) -> Admin {
    Admin {
        host: host(reader, "stagedoor.admin.host").unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        port: reader.port("stagedoor.admin.port", 0).unwrap_or(9432),
    }
}

fn log(reader: &Reader<'_>) -> Log {
    let format = [("auto", None), ("json", Some(LogFormat::Json)), ("text", Some(LogFormat::Text))];
    let level = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    Log {
        format: reader.choice("stagedoor.log.format", &format).flatten(),
        level: reader.choice("stagedoor.log.level", &level).unwrap_or(LogLevel::Info),
    }
}
