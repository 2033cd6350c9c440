//! How a client comes by a server that speaks as it does. One that ends before it has heard anything of the client's is
//! replaced, as long as the client may wait.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::sleep;

use crate::metrics::pool::PoolMetrics;
use crate::pool::checkout::BACKOFF;
use crate::pool::checkout::CheckoutError;
use crate::pool::checkout::Pool;
use crate::pool::lease::Lease;
use crate::server::connection::ExchangeError;
use crate::server::connection::Server;
use crate::session::handover::hand_over;
use crate::session::state::ClientState;
use crate::wire::refusal::Refusal;
use crate::wire::refusal::Severity;

/// One client's wait for a server, however many it takes.
#[derive(Debug)]
pub struct Wait {
    pub began: Instant,
    patience: Duration,
    /// Before the next try but one: the others may be there still.
    pause: Duration,
}

impl Wait {
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self { began: Instant::now(), patience, pause: Duration::ZERO }
    }

    /// A server was lost before it heard anything. Tells, when it is time, whether there is time for another.
    pub async fn again(&mut self) -> bool {
        let next = Instant::now() + self.pause;
        if next >= self.began + self.patience {
            return false;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).clamp(BACKOFF.0, BACKOFF.1);
        true
    }
}

/// Why a client got no server.
#[derive(Debug)]
pub enum Missed {
    Checkout(CheckoutError),
    /// Somebody cancelled while it waited.
    Cancelled,
    /// There was one that does not speak as it does.
    Mute(ExchangeError),
}

impl Missed {
    /// What the client is told: PostgreSQL's own words where a setting is refused.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Checkout(error) => error.refusal(),
            Self::Cancelled => {
                Refusal::new(Severity::Error, "57014", "canceling statement due to user request")
            }
            Self::Mute(ExchangeError::Refused(refusal)) => refusal.fatal_too(),
            Self::Mute(lost) => unheard(&lost.to_string()),
        }
    }
}

/// A server of `pool` that speaks as the client, before a byte of the client's is sent.
///
/// # Errors
/// As [`Missed`]. A server that does not speak as the client is closed.
pub async fn fetch(
    pool: &Arc<Pool>,
    state: &ClientState,
    metrics: &PoolMetrics,
    wait: &mut Wait,
    cancelled: impl Future<Output = ()>,
) -> Result<Lease, Missed> {
    let mut cancelled = pin!(cancelled);
    loop {
        let mut lease = tokio::select! {
            biased;
            lease = pool.checkout(state, wait.began, wait.patience) => lease.map_err(Missed::Checkout)?,
            () = &mut cancelled => return Err(Missed::Cancelled),
        };
        let Err(error) = speak_as(state, &mut lease.server, metrics).await else { return Ok(lease) };
        lease.discard("handover_failed");
        if !(error.is_of_the_server() && wait.again().await) {
            return Err(Missed::Mute(error));
        }
    }
}

async fn speak_as(
    state: &ClientState,
    server: &mut Server,
    metrics: &PoolMetrics,
) -> Result<(), ExchangeError> {
    server.state.handed_to(state);
    if let Some((sql, settings)) = hand_over(state, &server.state) {
        metrics.handovers_total.inc();
        server.exchange(&sql, &mut Vec::new()).await?;
        server.state.speak_with(settings);
    }
    if server.state.must_forget_unnamed(state) {
        server.exchange(b"", &mut Vec::new()).await?;
    }
    if server.state.must_forget_sequences(state) {
        server.exchange(b"DISCARD SEQUENCES", &mut Vec::new()).await?;
        server.state.sequences_are_forgotten();
    }
    Ok(())
}

/// A server was lost that heard nothing of its client.
#[must_use]
pub fn unheard(why: &str) -> Refusal {
    Refusal::fatal("08006", &format!("stagedoor: the connection to PostgreSQL was lost: {why}"))
}
