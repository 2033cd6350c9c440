//! What is counted for one upstream: its server connections, its TLS, its failures.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use prometheus::Histogram;
use prometheus::IntCounter;
use prometheus::IntGauge;

use crate::metrics::families::UpstreamFamilies;
use crate::metrics::families::known;
use crate::metrics::labels::Labels;

/// How far a connect can have come.
const STAGES: [&str; 5] = ["dns", "tcp", "tls", "auth", "startup"];

/// The servers of a pool just now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Servers {
    pub connecting: usize,
    /// Free to be taken.
    pub idle: usize,
    /// Leased to a client, or on their way out.
    pub active: usize,
    /// Statements that they keep prepared.
    pub statements: usize,
}

impl AddAssign for Servers {
    fn add_assign(&mut self, other: Self) {
        self.connecting += other.connecting;
        self.idle += other.idle;
        self.active += other.active;
        self.statements += other.statements;
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

/// Handles of one upstream. What happens once for a connection, or for a page of metrics, looks labels up each time.
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
    /// What the gauges of servers show, by bounded label.
    shown: Mutex<BTreeMap<String, Servers>>,
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
            shown: Mutex::default(),
        }
    }

    /// These are all pools of the upstream, each with its database. Several may have one database, or one label:
    /// they are shown together. Of a pool that is no more nothing stays.
    pub fn servers_are<'p>(&self, pools: impl IntoIterator<Item = (&'p str, Servers)>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.values_mut().for_each(|servers| *servers = Servers::default());
        for (database, servers) in pools {
            *shown.entry(self.labels.database(database)).or_default() += servers;
        }
        for (database, servers) in shown.iter() {
            let (upstream, database) = (self.upstream.as_str(), database.as_str());
            let states =
                [("connecting", servers.connecting), ("idle", servers.idle), ("active", servers.active)];
            for (state, count) in states {
                let labels = [upstream, database, state];
                set(&known(self.families.servers.get_metric_with_label_values(&labels)), count);
            }
            let statements = self.families.statements.get_metric_with_label_values(&[upstream, database]);
            set(&known(statements), servers.statements);
        }
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

fn set(gauge: &IntGauge, count: usize) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}
