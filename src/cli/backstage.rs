//! What Backstage's own container must be told so that it speaks to the sidecar. Pure.

use std::fmt::Write;

use crate::config::model::Config;
use crate::config::model::Listen;

/// The environment of the Backstage container, as text for a person: the base connection, then each plugin
/// whose own connection settings would otherwise lead past the sidecar.
#[must_use]
pub fn settings(config: &Config) -> String {
    let mut text = "
# For the Backstage container only. The sidecar must not get these, or it would connect to itself.
# Where `connection` is a string, set APP_CONFIG_backend_database_connection to the whole object as JSON.
"
    .to_owned();
    let mut plugins: Vec<Option<&str>> = Vec::new();
    for route in &config.routes {
        let plugin = route.plugin.as_deref();
        if plugins.contains(&plugin) {
            continue;
        }
        plugins.push(plugin);
        let section = plugin.map_or_else(String::new, |id| format!("plugin_{id}_"));
        push(&mut text, &section, &config.listen, route.port);
    }
    text
}

fn push(text: &mut String, section: &str, listen: &Listen, own_port: Option<u16>) {
    let port = own_port.unwrap_or(listen.port);
    // 0.0.0.0 and :: are no addresses to connect to.
    let host = if listen.host.is_unspecified() { "127.0.0.1".to_owned() } else { listen.host.to_string() };
    for (key, value) in [("host", host), ("port", port.to_string()), ("ssl", "false".to_owned())] {
        let _ = writeln!(text, "APP_CONFIG_backend_database_{section}connection_{key}={value}");
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::model::*;
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    pub(crate) fn upstream(host: &str) -> Arc<Upstream> {
        Arc::new(Upstream {
            name: format!("{host}:5432"),
            address: Address::Tcp { host: host.to_owned(), port: 5432 },
            tls: TlsPolicy {
                mode: TlsMode::VerifyFull,
                version_min: TlsVersion::V1_2,
                roots: Roots::Public { extra: Vec::new() },
                client_certificate: None,
                server_name: None,
                negotiation: Negotiation::Postgres,
                crls: Vec::new(),
                channel_binding: ChannelBinding::Prefer,
            },
            auth: AuthPolicy { allow: BTreeSet::new() },
            servers_max: 20,
            connect_timeout: Duration::from_secs(5),
        })
    }

    fn route(plugin: Option<&str>, port: Option<u16>) -> Arc<Route> {
        Arc::new(Route {
            plugin: plugin.map(str::to_owned),
            upstream: upstream("db.example"),
            user: "backstage".to_owned(),
            password: None,
            rotates: false,
            database: DatabaseRule::Any,
            port,
            label: PluginLabel::DatabasePrefix("backstage_plugin_".to_owned()),
            pool: PoolPolicy {
                mode: PoolMode::Transaction,
                servers_max: 20,
                idle_min: 0,
                idle_timeout: Duration::from_secs(300),
                lifetime_max: Duration::from_secs(3600),
                acquire_timeout: Duration::from_secs(30),
                watch: Watch::default(),
            },
            plugins: Vec::new(),
        })
    }

    pub(crate) fn config() -> Config {
        Config {
            listen: Listen {
                host: [127, 0, 0, 1].into(),
                port: 5432,
                socket: None::<PathBuf>,
                auth: ClientAuth::Scram,
                clients_max: 1000,
                login_timeout: Duration::from_secs(30),
            },
            upstreams: vec![upstream("db.example")],
            routes: vec![route(Some("catalog"), Some(5433)), route(None, None)],
            reload: Reload { interval: Duration::from_secs(5) },
            admin: Admin { host: [0, 0, 0, 0].into(), port: 9432 },
            shutdown: Shutdown { grace_period: Duration::from_secs(30) },
            log: Log { format: None, level: LogLevel::Info },
            warnings: Vec::new(),
        }
    }

    #[test]
    fn each_route_leads_to_the_sidecar_without_tls() {
        let text = settings(&config());
        for line in [
            "APP_CONFIG_backend_database_connection_host=127.0.0.1",
            "APP_CONFIG_backend_database_connection_port=5432",
            "APP_CONFIG_backend_database_connection_ssl=false",
            "APP_CONFIG_backend_database_plugin_catalog_connection_port=5433",
            "APP_CONFIG_backend_database_plugin_catalog_connection_ssl=false",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn nobody_is_told_to_connect_to_all_addresses() {
        let mut config = config();
        config.listen.host = [0, 0, 0, 0].into();
        assert!(!settings(&config).contains("0.0.0.0"));
    }
}
