//! A CancelRequest: whom it means, and how it reaches the right backend.

use tokio::time::Instant;
use tracing::info;
use tracing::warn;

use crate::client::aim::Aimed;
use crate::client::aim::Hold;
use crate::client::registry::Registry;
use crate::metrics::registry::Metrics;
use crate::server::cancel::Delivery;

/// Passes a CancelRequest on. Says nothing to whoever sent it, as PostgreSQL does
/// (protocol-flow, "Canceling Requests in Progress"); one line in the log says what came of it.
pub async fn cancel(registry: &Registry, metrics: &Metrics, process_id: i32, secret_key: &[u8]) {
    let client = process_id;
    let Some(slot) = registry.find(process_id, secret_key) else {
        info!(client, outcome = "nobody has this key", "cancel request");
        return;
    };
    match slot.aim.take().await {
        Aimed::Resting => info!(client, outcome = "nothing to cancel", "cancel request"),
        Aimed::Waiting => info!(client, outcome = "it waits for a server no more", "cancel request"),
        Aimed::Server(hold) => deliver(metrics, client, &hold).await,
    }
}

async fn deliver(metrics: &Metrics, client: i32, hold: &Hold) {
    let (began, server, upstream) = (Instant::now(), hold.process_id(), hold.upstream());
    let outcome = match hold.deliver().await {
        Ok(Delivery::Sent) => "passed on",
        Ok(Delivery::Joined) => "passed on with another",
        Err(error) => {
            let stage = error.stage.label();
            metrics.upstream(upstream).connect_failed(stage);
            warn!(client, server, upstream, outcome = "not delivered", stage, %error, "cancel request");
            return;
        }
    };
    metrics.upstream(upstream).cancels.inc();
    info!(client, server, upstream, outcome, took = ?began.elapsed(), "cancel request");
}
