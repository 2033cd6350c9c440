//! Where a client goes: from the port it came to and its start-up packet to a route, a plugin and a pool's policy.
//! Pure.

use std::sync::Arc;

use crate::config::model::DatabaseRule;
use crate::config::model::PluginLabel;
use crate::config::model::PoolPolicy;
use crate::config::model::Route;

/// What Backstage puts before a plugin's id in `application_name`.
const APPLICATION_NAME_PREFIX: &str = "backstage_plugin_";

/// The first route that takes `user` and `database` on `port`. A port that belongs to a plugin leads to this
/// plugin's route only; every other port is the common one.
pub fn route<'a>(routes: &'a [Arc<Route>], port: u16, user: &str, database: &str) -> Option<&'a Arc<Route>> {
    let owned = routes.iter().any(|route| route.port == Some(port));
    let reached = |route: &Route| {
        if owned { route.port == Some(port) } else { route.port.is_none() }
    };
    routes.iter().find(|route| reached(route) && route.user == user && takes(&route.database, database))
}

fn takes(rule: &DatabaseRule, database: &str) -> bool {
    match rule {
        DatabaseRule::Any => true,
        DatabaseRule::Only(name) => name == database,
    }
}

/// The Backstage plugin that a connection belongs to, where that can be told. `None` for connections of Backstage
/// itself (to the database `postgres`, at its start) and of people.
pub fn plugin(route: &Route, database: &str, application_name: Option<&str>) -> Option<String> {
    let id = match &route.label {
        PluginLabel::DatabasePrefix(prefix) => database.strip_prefix(prefix.as_str()),
        PluginLabel::ApplicationName => {
            application_name.and_then(|name| name.strip_prefix(APPLICATION_NAME_PREFIX))
        }
        PluginLabel::Fixed(id) => Some(id.as_str()),
    };
    id.filter(|id| !id.is_empty()).map(str::to_owned)
}

/// How the pool of this plugin on this route behaves: the plugin's own policy, or the route's.
pub fn pool<'a>(route: &'a Route, plugin: Option<&str>) -> &'a PoolPolicy {
    let own = plugin.and_then(|plugin| route.plugins.iter().find(|(id, _)| id == plugin));
    own.map_or(&route.pool, |(_, policy)| policy)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::config::model::Address;
    use crate::config::model::AuthPolicy;
    use crate::config::model::ChannelBinding;
    use crate::config::model::Negotiation;
    use crate::config::model::PoolMode;
    use crate::config::model::Roots;
    use crate::config::model::TlsMode;
    use crate::config::model::TlsPolicy;
    use crate::config::model::TlsVersion;
    use crate::config::model::Upstream;
    use crate::config::model::Watch;

    fn upstream(host: &str) -> Arc<Upstream> {
        Arc::new(Upstream {
            name: host.to_owned(),
            address: Address::Tcp { host: host.to_owned(), port: 5432 },
            tls: TlsPolicy {
                mode: TlsMode::VerifyFull,
                version_min: TlsVersion::V1_2,
                roots: Roots::Public { extra: vec![] },
                client_certificate: None,
                server_name: None,
                negotiation: Negotiation::Postgres,
                crls: vec![],
                channel_binding: ChannelBinding::Prefer,
            },
            auth: AuthPolicy { allow: BTreeSet::new() },
            servers_max: 20,
            connect_timeout: Duration::from_secs(5),
        })
    }

    fn policy(servers_max: usize) -> PoolPolicy {
        PoolPolicy {
            mode: PoolMode::Transaction,
            servers_max,
            idle_min: 0,
            idle_timeout: Duration::from_secs(300),
            lifetime_max: Duration::from_secs(3600),
            acquire_timeout: Duration::from_secs(30),
            watch: Watch::default(),
        }
    }

    fn a_route(host: &str, database: DatabaseRule, port: Option<u16>, label: PluginLabel) -> Arc<Route> {
        Arc::new(Route {
            plugin: None,
            upstream: upstream(host),
            user: "u".to_owned(),
            password: None,
            rotates: false,
            database,
            port,
            label,
            pool: policy(20),
            plugins: vec![("catalog".to_owned(), policy(8))],
        })
    }

    fn routes() -> Vec<Arc<Route>> {
        let prefix = PluginLabel::DatabasePrefix("backstage_plugin_".to_owned());
        vec![
            a_route("own-port", DatabaseRule::Any, Some(5433), PluginLabel::Fixed("search".to_owned())),
            a_route(
                "h2",
                DatabaseRule::Only("catdb".to_owned()),
                None,
                PluginLabel::Fixed("catalog".to_owned()),
            ),
            a_route("base", DatabaseRule::Any, None, prefix),
        ]
    }

    #[test]
    fn port_then_user_then_database_say_where_a_client_goes() {
        let routes = routes();
        for (port, user, database, expected) in [
            (5432, "u", "catdb", Some("h2")),
            (5432, "u", "backstage_plugin_auth", Some("base")),
            (5432, "u", "postgres", Some("base")),
            (5433, "u", "catdb", Some("own-port")),
            (6432, "u", "catdb", Some("h2")),
            (5432, "stranger", "catdb", None),
            (5433, "stranger", "catdb", None),
        ] {
            let found = route(&routes, port, user, database).map(|route| route.upstream.name.as_str());
            assert_eq!(found, expected, "{port} {user} {database}");
        }
    }

    #[test]
    fn the_plugin_is_known_by_database_name_or_for_certain() {
        let routes = routes();
        let schema = a_route("base", DatabaseRule::Any, None, PluginLabel::ApplicationName);
        for (route, database, application, expected) in [
            (&routes[2], "backstage_plugin_my-plugin", None, Some("my-plugin")),
            (&routes[2], "backstage_plugin_", None, None),
            (&routes[2], "postgres", Some("backstage_plugin_x"), None),
            (&routes[1], "catdb", Some("psql"), Some("catalog")),
            (&schema, "backstage", Some("backstage_plugin_catalog"), Some("catalog")),
            (&schema, "backstage", Some("psql"), None),
            (&schema, "backstage", None, None),
        ] {
            assert_eq!(plugin(route, database, application).as_deref(), expected, "{database}");
        }
    }

    #[test]
    fn a_plugin_has_its_own_pool_policy_or_that_of_its_route() {
        let route = &routes()[2];
        let servers = |plugin| pool(route, plugin).servers_max;
        assert_eq!((servers(Some("catalog")), servers(Some("auth")), servers(None)), (8, 20, 20));
    }
}
