//! What is counted for one pool: the clients of a database and plugin, and what they wait for.

use std::sync::Arc;

use prometheus::CounterVec;
use prometheus::Histogram;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;

use crate::metrics::families::PoolFamilies;
use crate::metrics::families::known;
use crate::metrics::labels::sqlstate_class;
use crate::metrics::upstream::UpstreamMetrics;

/// Why a wait for a server ended without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcquireFailure {
    /// `acquireTimeout` was over.
    Timeout,
    /// PostgreSQL could not be reached, or refused the login.
    Upstream,
    /// The client, or another on its behalf, sent a CancelRequest.
    Cancelled,
    /// stagedoor is ending.
    Shutdown,
}

/// What a client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// Between transactions, without a server.
    Idle,
    /// Waits for a server.
    Waiting,
    /// Has a server.
    Active,
    /// Keeps a server between transactions.
    Pinned,
}

/// Who made an error that a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// PostgreSQL.
    Server,
    /// We.
    Stagedoor,
    /// The client broke the protocol or could not log in.
    Client,
}

/// Handles of one database and plugin. Observing costs no look-up, but for pins and errors, which are rare.
#[derive(Debug)]
pub struct PoolMetrics {
    /// The handles of the pool's upstream.
    pub upstream: Arc<UpstreamMetrics>,
    /// How long a client waited for a server, those that failed included.
    pub acquire_seconds: Histogram,
    /// From a query's first byte to the end of its answer.
    pub query_seconds: Histogram,
    /// From the hand-over of a server to its release.
    pub transaction_seconds: Histogram,
    pub transactions_total: IntCounter,
    /// `stagedoor_client_connections_total`.
    pub clients_opened: IntCounter,
    pub bytes_from_client: IntCounter,
    pub bytes_to_client: IntCounter,
    pub handovers_total: IntCounter,
    pub probes_total: IntCounter,
    clients: PerState,
    acquire_failures: PerFailure,
    pins: IntCounterVec,
    pinned_seconds: CounterVec,
    errors: IntCounterVec,
    /// The bounded label, not the client's own text.
    database: String,
}

#[derive(Debug)]
struct PerState {
    idle: IntGauge,
    waiting: IntGauge,
    active: IntGauge,
    pinned: IntGauge,
}

#[derive(Debug)]
struct PerFailure {
    timeout: IntCounter,
    upstream: IntCounter,
    cancelled: IntCounter,
    shutdown: IntCounter,
}

impl PoolMetrics {
    /// `database` and `plugin` have been bounded.
    pub(super) fn new(
        families: &PoolFamilies,
        upstream: Arc<UpstreamMetrics>,
        database: &str,
        plugin: &str,
    ) -> Self {
        let pool = [database, plugin];
        let only = [database];
        let state = |state| known(families.clients.get_metric_with_label_values(&[database, plugin, state]));
        let failure = |reason| {
            known(families.acquire_failures.get_metric_with_label_values(&[database, plugin, reason]))
        };
        let bytes = |direction| known(families.bytes.get_metric_with_label_values(&[direction, database]));
        Self {
            upstream,
            acquire_seconds: known(families.acquire_seconds.get_metric_with_label_values(&pool)),
            query_seconds: known(families.query_seconds.get_metric_with_label_values(&pool)),
            transaction_seconds: known(families.transaction_seconds.get_metric_with_label_values(&pool)),
            transactions_total: known(families.transactions.get_metric_with_label_values(&pool)),
            clients_opened: known(families.clients_opened.get_metric_with_label_values(&pool)),
            bytes_from_client: bytes("from_client"),
            bytes_to_client: bytes("to_client"),
            handovers_total: known(families.handovers.get_metric_with_label_values(&only)),
            probes_total: known(families.probes.get_metric_with_label_values(&only)),
            clients: PerState {
                idle: state("idle"),
                waiting: state("waiting"),
                active: state("active"),
                pinned: state("pinned"),
            },
            acquire_failures: PerFailure {
                timeout: failure("timeout"),
                upstream: failure("upstream"),
                cancelled: failure("cancelled"),
                shutdown: failure("shutdown"),
            },
            pins: families.pins.clone(),
            pinned_seconds: families.pinned_seconds.clone(),
            errors: families.errors.clone(),
            database: database.to_owned(),
        }
    }

    /// The gauge of clients in `state`: `inc` on entering it, `dec` on leaving.
    #[must_use]
    pub fn client_state(&self, state: ClientState) -> &IntGauge {
        match state {
            ClientState::Idle => &self.clients.idle,
            ClientState::Waiting => &self.clients.waiting,
            ClientState::Active => &self.clients.active,
            ClientState::Pinned => &self.clients.pinned,
        }
    }

    /// Counts a wait that ended without a server.
    pub fn acquire_failed(&self, reason: AcquireFailure) {
        let counter = match reason {
            AcquireFailure::Timeout => &self.acquire_failures.timeout,
            AcquireFailure::Upstream => &self.acquire_failures.upstream,
            AcquireFailure::Cancelled => &self.acquire_failures.cancelled,
            AcquireFailure::Shutdown => &self.acquire_failures.shutdown,
        };
        counter.inc();
    }

    /// Counts a client that begins to keep its server for `reason`.
    pub fn pinned(&self, reason: &'static str) {
        known(self.pins.get_metric_with_label_values(&[self.database.as_str(), reason])).inc();
    }

    /// Adds the time for which a server was kept. Nothing is added for a negative or a non-finite number.
    pub fn pinned_seconds(&self, reason: &'static str, seconds: f64) {
        if seconds.is_finite() && seconds > 0.0 {
            known(self.pinned_seconds.get_metric_with_label_values(&[self.database.as_str(), reason]))
                .inc_by(seconds);
        }
    }

    /// Counts an error that a client was told. Of `sqlstate` only the class becomes a label.
    pub fn error(&self, origin: Origin, sqlstate: &str) {
        let origin = match origin {
            Origin::Server => "server",
            Origin::Stagedoor => "stagedoor",
            Origin::Client => "client",
        };
        let labels = [self.database.as_str(), sqlstate_class(sqlstate), origin];
        known(self.errors.get_metric_with_label_values(&labels)).inc();
    }
}
