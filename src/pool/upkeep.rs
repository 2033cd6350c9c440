//! Upkeep: closes servers gently, and sweeps out those that are dead, old or long idle.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio::time::interval;

use crate::pool::book::Reaped;
use crate::pool::checkout::Dying;
use crate::pool::checkout::Pool;
use crate::pool::checkout::UpstreamPools;
use crate::pool::ledger::PoolId;

/// How often idle servers are looked at. A look costs no system call.
const SWEEP: Duration = Duration::from_secs(1);

/// Finds a pool by its id.
pub type FindPool = dyn Fn(PoolId) -> Option<Arc<Pool>> + Send + Sync;

/// Runs until the upstream's pools are dropped.
pub async fn run(
    upstream: Weak<UpstreamPools>,
    mut graveyard: mpsc::UnboundedReceiver<Dying>,
    find: Arc<FindPool>,
) {
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut closing = JoinSet::new();
    loop {
        tokio::select! {
            dying = graveyard.recv() => match dying {
                Some(dying) => drop(closing.spawn(bury(dying))),
                None => return,
            },
            _ = sweep.tick() => {
                let Some(upstream) = upstream.upgrade() else { return };
                for (pool, server, why) in upstream.reap() {
                    if let Some(pool) = find(pool) {
                        closing.spawn(bury(Dying { pool, server, reason: reason(why), ended: None }));
                    }
                }
            }
            Some(_) = closing.join_next() => {}
        }
    }
}

async fn bury(dying: Dying) {
    let Dying { pool, server, reason, ended } = dying;
    server.close().await;
    pool.upstream.closed(&pool, reason);
    drop(ended);
}

/// Closes every idle server of an upstream, all at a time.
pub async fn close_idle(upstream: &UpstreamPools, find: &dyn Fn(PoolId) -> Option<Arc<Pool>>) {
    let reaped = upstream.reap_all();
    let mut pools: HashMap<PoolId, Arc<Pool>> = HashMap::new();
    let mut closing = JoinSet::new();
    for (id, server, _) in reaped {
        if let Some(pool) = find(id) {
            pools.insert(id, pool.clone());
            closing.spawn(bury(Dying { pool, server, reason: "shutdown", ended: None }));
        }
    }
    while closing.join_next().await.is_some() {}
}

const fn reason(why: Reaped) -> &'static str {
    match why {
        Reaped::Dead => "server_gone",
        Reaped::Lifetime => "lifetime",
        Reaped::Idle => "idle",
    }
}
