//! All pools: by upstream, database, user and what their sessions begin with.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::config::model::PoolMode;
use crate::config::model::PoolPolicy;
use crate::config::model::Route;
use crate::pool::checkout::Pool;
use crate::pool::checkout::UpstreamPools;
use crate::pool::credential::Credential;
use crate::pool::ledger::PoolId;
use crate::session::handover::kind;
use crate::session::parameters::Parameters;

/// The most pools that are kept. Database names are the clients' to choose, once they have proven who they are.
const POOLS_MAX: usize = 1024;

/// Every pool of the sidecar.
#[derive(Debug)]
pub struct Pools {
    pub upstreams: Vec<Arc<UpstreamPools>>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_key: HashMap<Key, Arc<Pool>>,
    by_id: HashMap<PoolId, Arc<Pool>>,
    /// By upstream and user: as many as the routes of the configuration have.
    credentials: HashMap<(String, String), Arc<Credential>>,
    next: PoolId,
}

/// What the servers of one pool have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    upstream: String,
    database: String,
    user: String,
    /// What clients asked for, to begin with.
    kind: Parameters,
    /// Who has a server alone finds nothing of ours on it.
    mode: PoolMode,
    /// What PostgreSQL gives to begin with: whoever came before an ALTER ROLE or DATABASE … SET goes on with what it had.
    defaults: u64,
}

impl Pools {
    #[must_use]
    pub fn new(upstreams: Vec<Arc<UpstreamPools>>) -> Self {
        Self { upstreams, known: Mutex::default() }
    }

    /// The pool of `database` on a route for sessions that begin with `startup`, made where it is new; `None`
    /// where there are too many in use.
    #[must_use]
    pub fn get(
        &self,
        route: &Route,
        database: &str,
        startup: &Parameters,
        policy: &PoolPolicy,
    ) -> Option<Arc<Pool>> {
        let upstream = self.upstreams.iter().find(|pools| pools.upstream.name == route.upstream.name)?;
        let key = Key {
            upstream: upstream.upstream.name.clone(),
            database: database.to_owned(),
            user: route.user.clone(),
            kind: kind(startup),
            mode: policy.mode,
            defaults: upstream.defaults(),
        };
        let mut known = self.known();
        if let Some(pool) = known.by_key.get(&key) {
            return Some(pool.clone());
        }
        if known.by_key.len() >= POOLS_MAX {
            known.forget_unused();
        }
        if known.by_key.len() >= POOLS_MAX {
            return None;
        }
        known.next += 1;
        let credential = known.credential(route);
        let pool =
            Pool::new(known.next, upstream.clone(), (database, &route.user), credential, policy.clone());
        known.by_key.insert(key, pool.clone());
        known.by_id.insert(pool.id, pool.clone());
        Some(pool)
    }

    /// New servers of these pools log in with the password that `route` has by now.
    pub fn change_password(&self, route: &Route) {
        let credential = self.known().credential(route);
        credential.change(route.password.as_ref(), route.rotates);
        for pool in self.all().iter().filter(|pool| Arc::ptr_eq(&pool.credential, &credential)) {
            if credential.standing().is_none() {
                pool.unhold();
            }
        }
    }

    #[must_use]
    pub fn by_id(&self, id: PoolId) -> Option<Arc<Pool>> {
        self.known().by_id.get(&id).cloned()
    }

    /// All pools there are.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Pool>> {
        self.known().by_id.values().cloned().collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn credential(&mut self, route: &Route) -> Arc<Credential> {
        let key = (route.upstream.name.clone(), route.user.clone());
        let new = || Arc::new(Credential::new(route.password.clone(), route.rotates));
        self.credentials.entry(key).or_insert_with(new).clone()
    }

    /// Forgets pools without clients and servers: nobody but us holds them.
    fn forget_unused(&mut self) {
        self.by_key.retain(|_, pool| {
            let used = Arc::strong_count(pool) > 2 || pool.upstream.count(pool.id).open > 0;
            if !used {
                pool.upstream.forget(pool.id);
                self.by_id.remove(&pool.id);
            }
            used
        });
    }
}
