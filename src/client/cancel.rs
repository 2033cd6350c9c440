//! A CancelRequest: whom it means, and how it reaches the right backend.

use tracing::info;
use tracing::warn;

use crate::client::registry::Aimed;
use crate::client::registry::Registry;
use crate::metrics::registry::Metrics;
use crate::server::cancel::cancel as send;

/// Passes a CancelRequest on. Says nothing to whoever sent it, as PostgreSQL does
/// (protocol-flow, "Canceling Requests in Progress").
///
/// Returns whether somebody was found.
pub async fn cancel(registry: &Registry, metrics: &Metrics, process_id: i32, secret_key: &[u8]) -> bool {
    let Some(slot) = registry.find(process_id, secret_key) else {
        info!(client = process_id, "a cancel request with a key that nobody has");
        return false;
    };
    match slot.take_aim() {
        Aimed::Resting | Aimed::Waiting => {}
        Aimed::Server { address, hold } => {
            metrics.upstream(&address.dialer.upstream.name).cancels.inc();
            let sent = send(&address.dialer, address.peer, address.process_id, &address.secret_key).await;
            if let Err(error) = sent {
                warn!(client = process_id, %error, "a cancel request could not be delivered");
            }
            drop(hold);
        }
    }
    true
}
