//! What differs between two configurations, and whether it can go live.

use std::sync::Arc;

use crate::config::model::Config;
use crate::config::model::Route;
use crate::config::model::Upstream;
use crate::config::secret::Secret;

/// What of `new` cannot go live, by the names of the settings. Empty: all of it can.
#[must_use]
pub fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let mut settings = Vec::new();
    let mut note = |differs: bool, name| {
        if differs {
            settings.push(name);
        }
    };
    note(old.listen.host != new.listen.host, "stagedoor.listen.host");
    note(old.listen.port != new.listen.port, "stagedoor.listen.port");
    note(old.listen.socket != new.listen.socket, "stagedoor.listen.socket");
    note(ports(old) != ports(new), "stagedoor.listen.plugins");
    note(old.admin != new.admin, "stagedoor.admin");
    note(old.log != new.log, "stagedoor.log");
    note(old.shutdown != new.shutdown, "stagedoor.shutdown");
    note(names(old) != names(new), "backend.database (the set of hosts)");
    note(budgets(old) != budgets(new), "stagedoor.pool.maxServers");
    note(policies(old) != policies(new), "stagedoor.pool");
    settings
}

/// Upstreams of `new` that are reached in another way than before, or with another password.
#[must_use]
pub fn changed_upstreams(old: &Config, new: &Config) -> Vec<Arc<Upstream>> {
    let differs = |upstream: &&Arc<Upstream>| {
        !old.upstreams.contains(upstream)
            || credentials(old, &upstream.name) != credentials(new, &upstream.name)
    };
    new.upstreams.iter().filter(differs).cloned().collect()
}

fn ports(config: &Config) -> Vec<Option<u16>> {
    config.routes.iter().map(|route| route.port).collect()
}

fn names(config: &Config) -> Vec<&str> {
    config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect()
}

fn budgets(config: &Config) -> Vec<usize> {
    config.upstreams.iter().map(|upstream| upstream.servers_max).collect()
}

fn policies(config: &Config) -> Vec<impl PartialEq> {
    config.routes.iter().map(|route| (route.pool.clone(), route.plugins.clone())).collect()
}

fn credentials<'a>(config: &'a Config, upstream: &str) -> Vec<(&'a str, Option<&'a str>)> {
    let of = |route: &&Arc<Route>| route.upstream.name == upstream;
    let secret = |route: &'a Arc<Route>| route.password.as_ref().map(Secret::expose);
    config.routes.iter().filter(of).map(|route| (route.user.as_str(), secret(route))).collect()
}
