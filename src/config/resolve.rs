//! From the effective configuration to the values that the program relies on. Every fault at once, each with its
//! file, key and remedy. Pure but for the files that the configuration names, which the `World` reads.

use std::sync::Arc;

use crate::config::database;
use crate::config::fault::Faults;
use crate::config::login::Login;
use crate::config::login::login;
use crate::config::merge::Effective;
use crate::config::model::AuthMethod;
use crate::config::model::ChannelBinding;
use crate::config::model::ClientAuth;
use crate::config::model::Config;
use crate::config::model::TlsMode;
use crate::config::model::Upstream;
use crate::config::reader::Reader;
use crate::config::routes;
use crate::config::stagedoor;
use crate::config::stagedoor::Own;
use crate::config::world::World;

/// How many plugins the default Backstage app has; each has a pool of its own.
const PLUGINS_USUAL: u64 = 13;

/// Resolves everything.
///
/// # Errors
/// Every fault at once.
pub fn resolve(effective: &Effective, world: &dyn World) -> Result<Config, Faults> {
    let reader = Reader::new(effective);
    let own = stagedoor::read(&reader, world);
    check_ports(&reader, &own);
    remark(&reader, &own);
    let found = database::read(&reader, world).map(|database| {
        let base = database.base.as_ref().map(|base| login(&reader, world, &own, base));
        let plugins: Vec<_> = database.plugins.iter().map(|one| login(&reader, world, &own, one)).collect();
        (database, base, plugins)
    });
    let mut routes = Vec::new();
    let mut upstreams = Vec::new();
    if let Some((database, base, plugins)) = found {
        let mut base = base.flatten();
        let mut plugins: Vec<Login> = plugins.into_iter().flatten().collect();
        upstreams = distinct(base.iter_mut().chain(&mut plugins));
        routes = routes::routes(&reader, &own, &database, base.as_ref(), &plugins, &upstreams);
    }
    let (faults, warnings) = reader.finish();
    Faults(faults).none()?;
    Ok(Config {
        listen: own.listen,
        upstreams,
        routes,
        reload: own.reload,
        admin: own.admin,
        shutdown: own.shutdown,
        log: own.log,
        warnings,
    })
}

/// Each upstream once. Two policies towards one address are two upstreams, with names that tell them apart.
fn distinct<'a>(logins: impl Iterator<Item = &'a mut Login>) -> Vec<Arc<Upstream>> {
    // What each was before it was named.
    let mut known: Vec<(Upstream, Arc<Upstream>)> = Vec::new();
    for login in logins {
        if let Some((_, named)) = known.iter().find(|(unnamed, _)| *unnamed == login.upstream) {
            login.upstream = Upstream::clone(named);
            continue;
        }
        let unnamed = login.upstream.clone();
        if known.iter().any(|(_, named)| named.name == unnamed.name) {
            login.upstream.name = format!("{} ({})", unnamed.name, login.plugin.as_deref().unwrap_or("base"));
        }
        known.push((unnamed, Arc::new(login.upstream.clone())));
    }
    known.into_iter().map(|(_, named)| named).collect()
}

fn check_ports(reader: &Reader<'_>, own: &Own) {
    let mut taken = vec![(own.listen.port, "stagedoor.listen.port".to_owned())];
    let plugins = own.ports.iter().map(|(id, port)| (*port, format!("stagedoor.listen.plugins.{id}.port")));
    for (port, key) in plugins.chain([(own.admin.port, "stagedoor.admin.port".to_owned())]) {
        if let Some((_, other)) = taken.iter().find(|(known, _)| *known == port && port != 0) {
            reader.fault(
                &key,
                format!("port {port} is also that of `{other}`"),
                "give each a port of its own",
            );
        }
        taken.push((port, key));
    }
}

/// What an operator should know about the whole.
fn remark(reader: &Reader<'_>, own: &Own) {
    let mode = match own.tls.mode {
        None | Some(TlsMode::VerifyFull) => None,
        Some(TlsMode::VerifyCa) => Some("the server's name is not compared with its certificate"),
        Some(TlsMode::InsecureNoVerify) => Some("INSECURE: anybody may answer in the name of the server"),
        Some(TlsMode::InsecurePlaintext) => {
            Some("INSECURE: passwords and rows cross the network in the clear")
        }
    };
    if let Some(text) = mode {
        reader.warn("stagedoor.tls.mode", text);
    }
    let insecure = matches!(own.tls.mode, Some(TlsMode::InsecureNoVerify | TlsMode::InsecurePlaintext));
    if insecure && own.allow.contains(&AuthMethod::Password) {
        reader.warn(
            "stagedoor.auth.allow",
            "`password` is answered over verified TLS only, so not with this `stagedoor.tls.mode`",
        );
    }
    let plain = own.tls.mode == Some(TlsMode::InsecurePlaintext);
    if plain && own.tls.channel_binding == ChannelBinding::Require {
        let reason = "`require` cannot be kept without TLS (`stagedoor.tls.mode: insecure-plaintext`)";
        reader.fault("stagedoor.tls.channelBinding", reason, "change one of the two");
    }
    match own.listen.auth {
        ClientAuth::Trust => {
            reader.warn("stagedoor.listen.auth", "`trust`: whoever reaches the port comes in")
        }
        ClientAuth::Scram | ClientAuth::Password => {}
    }
    remark_pool(reader, own);
}

fn remark_pool(reader: &Reader<'_>, own: &Own) {
    for (id, policy) in own.pools.iter().filter(|(_, policy)| own.pool.servers_max < policy.servers_max) {
        let key = format!("stagedoor.pool.plugins.{id}.maxServers");
        let (more, all) = (policy.servers_max, own.pool.servers_max);
        reader.warn(
            &key,
            &format!(
                "{more} servers cannot be had: all plugins together have {all} (`stagedoor.pool.maxServers`)"
            ),
        );
    }
    let key = "backend.database.knexConfig.pool.max";
    let Some(max) = reader.get(key).and_then(serde_json::Value::as_u64) else {
        return;
    };
    let clients = u64::try_from(own.listen.clients_max).unwrap_or(u64::MAX);
    if clients < max.saturating_mul(PLUGINS_USUAL) {
        reader.warn(
            key,
            &format!("{PLUGINS_USUAL} plugins with {max} connections each are more than `stagedoor.listen.maxClients` ({clients})"),
        );
    }
}

#[cfg(test)]
mod tests;
