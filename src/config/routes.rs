//! Which clients go where: one port for everybody, told apart by user and database, and where that is ambiguous, a
//! fault that names the plugins and asks for a port.

use std::sync::Arc;

use crate::config::database::Database;
use crate::config::database::Division;
use crate::config::login::Login;
use crate::config::model::DatabaseRule;
use crate::config::model::PluginLabel;
use crate::config::model::Route;
use crate::config::model::Upstream;
use crate::config::reader::Reader;
use crate::config::stagedoor::Own;

/// The database that Backstage looks into to see whether others exist.
const ADMIN_DATABASE: &str = "postgres";

/// Routes in the order in which they are tried; the base route is the last.
pub fn routes(
    reader: &Reader<'_>,
    own: &Own,
    database: &Database,
    base: Option<&Login>,
    plugins: &[Login],
    upstreams: &[Arc<Upstream>],
) -> Vec<Arc<Route>> {
    let plan = Plan { reader, own, database, base, plugins, upstreams };
    plan.check_ambiguity();
    plan.check_ports();
    let mut routes = plan.ports();
    routes.extend(plan.databases());
    routes.extend(plan.users());
    routes.extend(base.and_then(|base| plan.route(base, DatabaseRule::Any, None, plan.label())));
    routes.into_iter().map(Arc::new).collect()
}

struct Plan<'a> {
    reader: &'a Reader<'a>,
    own: &'a Own,
    database: &'a Database,
    base: Option<&'a Login>,
    plugins: &'a [Login],
    upstreams: &'a [Arc<Upstream>],
}

impl<'a> Plan<'a> {
    /// Plugins with a login of their own that share the common port.
    fn sharing(&self) -> impl Iterator<Item = (&'a str, &'a Login)> {
        let ports = &self.own.ports;
        let named = self.plugins.iter().filter_map(|login| Some((login.plugin.as_deref()?, login)));
        named.filter(|(id, _)| !ports.contains_key(*id))
    }

    fn is_base(&self, login: &Login) -> bool {
        self.base.is_some_and(|base| base.same(login))
    }

    fn label(&self) -> PluginLabel {
        match &self.database.division {
            Division::Database { prefix } => PluginLabel::DatabasePrefix(prefix.clone()),
            Division::Schema => PluginLabel::ApplicationName,
        }
    }

    fn route(
        &self,
        login: &Login,
        database: DatabaseRule,
        port: Option<u16>,
        label: PluginLabel,
    ) -> Option<Route> {
        let plugin = match &label {
            PluginLabel::Fixed(id) => Some(id.clone()),
            PluginLabel::DatabasePrefix(_) | PluginLabel::ApplicationName => None,
        };
        let pool = plugin.as_ref().and_then(|id| self.own.pools.get(id)).unwrap_or(&self.own.pool);
        Some(Route {
            upstream: self.upstreams.iter().find(|known| ***known == login.upstream)?.clone(),
            user: login.user.clone(),
            password: login.password.clone(),
            rotates: login.rotates,
            database,
            port,
            label,
            pool: pool.clone(),
            plugins: self.own.pools.iter().map(|(id, policy)| (id.clone(), policy.clone())).collect(),
            plugin,
        })
    }

    /// Plugins with a port of their own: whatever comes there is theirs.
    fn ports(&self) -> Vec<Route> {
        let each = self.own.ports.iter().filter_map(|(id, port)| {
            let own = self.plugins.iter().find(|login| login.plugin.as_ref() == Some(id));
            let label = PluginLabel::Fixed(id.clone());
            self.route(own.or(self.base)?, DatabaseRule::Any, Some(*port), label)
        });
        each.collect()
    }

    /// Plugins that are known by their database.
    fn databases(&self) -> Vec<Route> {
        let mut routes: Vec<Route> = Vec::new();
        for (id, login) in self.sharing().filter(|(id, login)| !self.base_takes(id, login)) {
            let rule = DatabaseRule::Only(login.database.clone());
            let known = routes.iter_mut().find(|known| known.user == login.user && known.database == rule);
            match known {
                // Several plugins with one login and one database: only their names are left to tell them apart.
                Some(known) => {
                    known.plugin = None;
                    known.label = PluginLabel::ApplicationName;
                    known.pool = self.own.pool.clone();
                }
                None => routes.extend(self.route(login, rule, None, PluginLabel::Fixed(id.to_owned()))),
            }
        }
        routes
    }

    /// Whether the base route and its label do for this plugin.
    fn base_takes(&self, id: &str, login: &Login) -> bool {
        let usual = match &self.database.division {
            Division::Database { prefix } => login.database == format!("{prefix}{id}"),
            Division::Schema => self.base.is_some_and(|base| base.database == login.database),
        };
        usual && self.is_base(login)
    }

    /// Users that lead to one upstream only may use its other databases too.
    fn users(&self) -> Vec<Route> {
        let mut routes: Vec<Route> = Vec::new();
        for (id, login) in self.sharing() {
            let of_user = || self.sharing().filter(|(_, other)| other.user == login.user);
            let alone = self.base.is_none_or(|base| base.user != login.user)
                && of_user().all(|(_, other)| other.same(login));
            if alone && !routes.iter().any(|known| known.user == login.user) {
                let label =
                    if of_user().count() == 1 { PluginLabel::Fixed(id.to_owned()) } else { self.label() };
                routes.extend(self.route(login, DatabaseRule::Any, None, label));
            }
        }
        routes
    }

    /// Two logins with one user for one database, and different servers or passwords behind it.
    fn check_ambiguity(&self) {
        let sharing: Vec<_> = self.sharing().collect();
        for (n, (id, login)) in sharing.iter().enumerate() {
            let before = sharing.iter().take(n).map(|(_, other)| *other);
            let clash = before.filter(|other| other.database == login.database).chain(self.base_clash(login));
            let clash = clash.filter(|other| other.user == login.user && !other.same(login));
            for other in clash {
                self.ambiguous(id, login, other);
            }
            self.remark_prefix(id, login);
        }
    }

    /// The base, where it is known to use the database of `login`.
    fn base_clash(&self, login: &Login) -> Option<&'a Login> {
        let base = self.base?;
        let admin = self.database.ensure_exists && login.database == ADMIN_DATABASE;
        let schema = self.database.division == Division::Schema && login.database == base.database;
        (admin || schema).then_some(base)
    }

    fn ambiguous(&self, id: &str, login: &Login, other: &Login) {
        let (user, database, names) = (&login.user, &login.database, (login.name(), other.name()));
        self.reader.fault(
            &login.key,
            format!(
                "{} and {} both log in as `{user}` to the database `{database}`, but not to the same server with the \
                 same settings ({} and {}), so stagedoor could not tell them apart",
                names.0, names.1, login.upstream.name, other.upstream.name
            ),
            format!(
                "give the plugin a port of its own: `stagedoor.listen.plugins.{id}.port`, and in Backstage \
                 APP_CONFIG_backend_database_plugin_{id}_connection_port; or a user or database of its own"
            ),
        );
    }

    /// A plugin whose own database has the usual name of another plugin's.
    fn remark_prefix(&self, id: &str, login: &Login) {
        let Division::Database { prefix } = &self.database.division else {
            return;
        };
        let other = login.database.strip_prefix(prefix.as_str()).filter(|other| *other != id);
        if let Some(other) = other.filter(|_| !self.is_base(login)) {
            let text = format!(
                "its database has the name of plugin `{other}`'s, whose clients will also be sent to {}",
                login.upstream.name
            );
            self.reader.warn(&login.key, &text);
        }
    }

    /// A port for a plugin leads somewhere.
    fn check_ports(&self) {
        for id in self.own.ports.keys().filter(|_| self.base.is_none()) {
            if !self.plugins.iter().any(|login| login.plugin.as_ref() == Some(id)) {
                let key = format!("stagedoor.listen.plugins.{id}.port");
                self.reader.fault(
                    &key,
                    "there is no PostgreSQL connection for this plugin",
                    "take the port away",
                );
            }
        }
    }
}
