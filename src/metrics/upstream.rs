//! What is counted for one upstream: its server connections, its TLS, its failures.

use std::sync::Arc;

use prometheus::Histogram;
use prometheus::IntCounter;
use prometheus::IntGauge;

use crate::metrics::families::UpstreamFamilies;
use crate::metrics::families::known;
use crate::metrics::labels::Labels;

/// How far a connect can have come.
const STAGES: [&str; 5] = ["dns", "tcp", "tls", "auth", "startup"];

/// What a server connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    Connecting,
    /// Free to be taken.
    Idle,
    /// Leased to a client.
    Active,
}

impl ServerState {
    fn label(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Idle => "idle",
            Self::Active => "active",
        }
    }
}

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateRole {
    /// The upstream's own.
    Leaf,
    /// Of the configured authorities the one that ends first.
    Ca,
    /// Ours.
    Client,
}

impl CertificateRole {
    fn label(self) -> &'static str {
        match self {
            Self::Leaf => "leaf",
            Self::Ca => "ca",
            Self::Client => "client",
        }
    }
}

/// Handles of one upstream. `servers` looks labels up, so callers keep the gauge; what happens once for a
/// connection may look them up each time.
#[derive(Debug)]
pub struct UpstreamMetrics {
    /// `stagedoor.pool.maxServers`.
    pub budget: IntGauge,
    /// From the look-up of the name to a finished login.
    pub connect_seconds: Histogram,
    pub tls_handshake_seconds: Histogram,
    /// 1 if the last attempt worked, else 0.
    pub up: IntGauge,
    /// Cancel requests passed on.
    pub cancels: IntCounter,
    tls_verified: IntGauge,
    families: Arc<UpstreamFamilies>,
    labels: Arc<Labels>,
    upstream: String,
}

impl UpstreamMetrics {
    pub(super) fn new(families: Arc<UpstreamFamilies>, labels: Arc<Labels>, upstream: &str) -> Self {
        let only = [upstream];
        for stage in STAGES {
            // From zero on, so that a rate sees the first failure.
            known(families.connect_failures.get_metric_with_label_values(&[upstream, stage]));
        }
        Self {
            budget: known(families.budget.get_metric_with_label_values(&only)),
            connect_seconds: known(families.connect_seconds.get_metric_with_label_values(&only)),
            tls_handshake_seconds: known(families.tls_handshake_seconds.get_metric_with_label_values(&only)),
            up: known(families.up.get_metric_with_label_values(&only)),
            cancels: known(families.cancels.get_metric_with_label_values(&only)),
            tls_verified: known(families.tls_verified.get_metric_with_label_values(&only)),
            families,
            labels,
            upstream: upstream.to_owned(),
        }
    }

    /// The gauge of servers of `database` in `state`: `inc` on entering it, `dec` on leaving.
    #[must_use]
    pub fn servers(&self, database: &str, state: ServerState) -> IntGauge {
        let database = self.labels.database(database);
        let labels = [self.upstream.as_str(), database.as_str(), state.label()];
        known(self.families.servers.get_metric_with_label_values(&labels))
    }

    /// Counts a server connection that has logged in.
    pub fn opened(&self, database: &str) {
        let database = self.labels.database(database);
        known(
            self.families.opened.get_metric_with_label_values(&[self.upstream.as_str(), database.as_str()]),
        )
        .inc();
    }

    /// Counts a server connection that has ended.
    pub fn closed(&self, database: &str, reason: &'static str) {
        let database = self.labels.database(database);
        let labels = [self.upstream.as_str(), database.as_str(), reason];
        known(self.families.closed.get_metric_with_label_values(&labels)).inc();
    }

    /// Counts a connection that could not be made. `stage` is dns, tcp, tls, auth or startup.
    pub fn connect_failed(&self, stage: &'static str) {
        let labels = [self.upstream.as_str(), stage];
        known(self.families.connect_failures.get_metric_with_label_values(&labels)).inc();
    }

    /// Whether the policy of this upstream is verified TLS.
    pub fn tls_verified(&self, verified: bool) {
        self.tls_verified.set(i64::from(verified));
    }

    /// Notes the TLS of a new connection. The names are those of our own TLS library, so they are few.
    pub fn tls_info(&self, version: &str, cipher: &str, resumed: bool) {
        let resumed = if resumed { "true" } else { "false" };
        let labels = [self.upstream.as_str(), version, cipher, resumed];
        known(self.families.tls_info.get_metric_with_label_values(&labels)).set(1);
    }

    /// Notes when a certificate ends, in seconds since the Unix epoch.
    #[expect(clippy::cast_precision_loss, reason = "Unix time is far below 2^53")]
    pub fn certificate_not_after(&self, role: CertificateRole, unix_seconds: u64) {
        let labels = [self.upstream.as_str(), role.label()];
        known(self.families.not_after.get_metric_with_label_values(&labels)).set(unix_seconds as f64);
    }
}
