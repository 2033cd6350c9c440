//! Every metric family: name, labels, HELP. One table, so that a name is decided in one place.

use prometheus::CounterVec;
use prometheus::Gauge;
use prometheus::GaugeVec;
use prometheus::HistogramOpts;
use prometheus::HistogramVec;
use prometheus::IntCounterVec;
use prometheus::IntGauge;
use prometheus::IntGaugeVec;
use prometheus::Opts;
use prometheus::Registry;
use prometheus::core::Collector;

/// Upper bounds in seconds: from 100 µs (a query on the same host) to 60 s (twice the longest usual wait).
pub const BUCKETS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
];

/// Takes the value out of a result that only a wrong constant in this room could spoil. Every name, every
/// label and every bucket is a constant, and the tests build and label each family.
#[expect(clippy::expect_used, reason = "fails only for a wrong constant of this room, which its tests build")]
pub(super) fn known<T>(result: prometheus::Result<T>) -> T {
    result.expect("metric names, labels and buckets are constants")
}

/// The families with a `database`, from the clients' side.
#[derive(Debug)]
pub(super) struct PoolFamilies {
    pub(super) clients: IntGaugeVec,
    pub(super) clients_opened: IntCounterVec,
    pub(super) acquire_seconds: HistogramVec,
    pub(super) acquire_failures: IntCounterVec,
    pub(super) query_seconds: HistogramVec,
    pub(super) transaction_seconds: HistogramVec,
    pub(super) transactions: IntCounterVec,
    pub(super) pins: IntCounterVec,
    pub(super) pinned_seconds: CounterVec,
    pub(super) bytes: IntCounterVec,
    pub(super) errors: IntCounterVec,
    pub(super) handovers: IntCounterVec,
    pub(super) probes: IntCounterVec,
}

impl PoolFamilies {
    pub(super) fn new(to: &Registry) -> Self {
        let pool = ["database", "plugin"];
        let seconds = |name, help| histograms(to, name, help, &pool);
        Self {
            clients: gauges(
                to,
                "stagedoor_client_connections",
                "Client connections now: idle (between transactions), waiting (for a server), \
                 active (has a server), pinned (keeps a server between transactions).",
                &["database", "plugin", "state"],
            ),
            clients_opened: counters(
                to,
                "stagedoor_client_connections_total",
                "Client connections that have logged in since start.",
                &pool,
            ),
            acquire_seconds: seconds(
                "stagedoor_acquire_seconds",
                "How long clients waited for a server connection. Grows when the budget is too small.",
            ),
            acquire_failures: counters(
                to,
                "stagedoor_acquire_failures_total",
                "Waits for a server connection that ended without one.",
                &["database", "plugin", "reason"],
            ),
            query_seconds: seconds(
                "stagedoor_query_seconds",
                "From a query's first byte to the end of its answer, as seen by stagedoor.",
            ),
            transaction_seconds: seconds(
                "stagedoor_transaction_seconds",
                "How long clients held a server for one transaction.",
            ),
            transactions: counters(
                to,
                "stagedoor_transactions_total",
                "Transactions that have ended, committed or not.",
                &pool,
            ),
            pins: counters(
                to,
                "stagedoor_pins_total",
                "Times that a client had to keep its server after a transaction, by reason.",
                &["database", "reason"],
            ),
            pinned_seconds: seconds_counters(
                to,
                "stagedoor_pinned_seconds_total",
                "Time that servers were kept by resting clients, by reason.",
                &["database", "reason"],
            ),
            bytes: counters(
                to,
                "stagedoor_bytes_total",
                "Bytes of the PostgreSQL protocol on the clients' side, by direction (from_client, to_client).",
                &["direction", "database"],
            ),
            errors: counters(
                to,
                "stagedoor_errors_total",
                "Errors that clients were told, by the class of the SQLSTATE (its first two characters) \
                 and by who made them: server (PostgreSQL), stagedoor, or client (it broke the protocol).",
                &["database", "sqlstate_class", "origin"],
            ),
            handovers: counters(
                to,
                "stagedoor_handovers_total",
                "Times that a server had to be told settings because it last served another session.",
                &["database"],
            ),
            probes: counters(
                to,
                "stagedoor_probes_total",
                "Times that a server was asked which settings a transaction had left behind.",
                &["database"],
            ),
        }
    }
}

/// The families with an `upstream`, from the servers' side.
#[derive(Debug)]
pub(super) struct UpstreamFamilies {
    pub(super) servers: IntGaugeVec,
    pub(super) statements: IntGaugeVec,
    pub(super) opened: IntCounterVec,
    pub(super) closed: IntCounterVec,
    pub(super) budget: IntGaugeVec,
    pub(super) connect_seconds: HistogramVec,
    pub(super) tls_handshake_seconds: HistogramVec,
    pub(super) connect_failures: IntCounterVec,
    pub(super) up: IntGaugeVec,
    pub(super) tls_verified: IntGaugeVec,
    pub(super) tls_info: IntGaugeVec,
    pub(super) not_after: GaugeVec,
    pub(super) cancels: IntCounterVec,
}

impl UpstreamFamilies {
    pub(super) fn new(to: &Registry) -> Self {
        let upstream = ["upstream"];
        let seconds = |name, help| histograms(to, name, help, &upstream);
        Self {
            servers: gauges(
                to,
                "stagedoor_server_connections",
                "Server connections now: connecting, idle (free to be taken), active (serve a client).",
                &["upstream", "database", "state"],
            ),
            statements: gauges(
                to,
                "stagedoor_statements_cached",
                "Prepared statements that are kept on server connections, as each was last given back.",
                &["upstream", "database"],
            ),
            opened: counters(
                to,
                "stagedoor_server_connections_opened_total",
                "Server connections that have logged in since start.",
                &["upstream", "database"],
            ),
            closed: counters(
                to,
                "stagedoor_server_connections_closed_total",
                "Server connections that have ended, by reason.",
                &["upstream", "database", "reason"],
            ),
            budget: gauges(
                to,
                "stagedoor_server_budget",
                "The most server connections to this upstream, all databases together (stagedoor.pool.maxServers).",
                &upstream,
            ),
            connect_seconds: seconds(
                "stagedoor_connect_seconds",
                "From the look-up of the name to a finished login.",
            ),
            tls_handshake_seconds: seconds(
                "stagedoor_tls_handshake_seconds",
                "How long TLS handshakes with the upstream took.",
            ),
            connect_failures: counters(
                to,
                "stagedoor_connect_failures_total",
                "Connections that could not be made, by the stage that failed: dns, tcp, tls, auth, startup.",
                &["upstream", "stage"],
            ),
            up: gauges(
                to,
                "stagedoor_upstream_up",
                "1 if the last attempt to reach the upstream worked, else 0. What a client asked for in vain does not count.",
                &upstream,
            ),
            tls_verified: gauges(
                to,
                "stagedoor_tls_verified",
                "1 if connections to the upstream are TLS with a verified certificate, 0 if configured not to be.",
                &upstream,
            ),
            tls_info: gauges(
                to,
                "stagedoor_tls_info",
                "TLS of the connections made since start: version, cipher suite, session resumed or not. Always 1.",
                &["upstream", "version", "cipher", "resumed"],
            ),
            not_after: real_gauges(
                to,
                "stagedoor_tls_certificate_not_after_timestamp_seconds",
                "When a certificate ends (Unix time): the upstream's (leaf), the authority's that ends first (ca), \
                 or our own (client).",
                &["upstream", "role"],
            ),
            cancels: counters(
                to,
                "stagedoor_cancels_total",
                "Cancel requests that were passed on to the upstream.",
                &upstream,
            ),
        }
    }
}

/// The families without a database or an upstream.
#[derive(Debug)]
pub(super) struct ProcessWide {
    pub(super) reload_success: IntGauge,
    pub(super) reload_timestamp: Gauge,
}

impl ProcessWide {
    pub(super) fn new(to: &Registry) -> Self {
        let build = gauges(to, "stagedoor_build_info", "The version that runs. Always 1.", &["version"]);
        known(build.get_metric_with_label_values(&[env!("CARGO_PKG_VERSION")])).set(1);
        Self {
            reload_success: registered(
                to,
                IntGauge::new(
                    "stagedoor_config_reload_success",
                    "1 if the last load of the configuration worked, 0 if it was refused and the old one stays.",
                ),
            ),
            reload_timestamp: registered(
                to,
                Gauge::new(
                    "stagedoor_config_last_reload_timestamp_seconds",
                    "When the configuration was last loaded with success (Unix time).",
                ),
            ),
        }
    }
}

fn registered<C: Collector + Clone + 'static>(to: &Registry, made: prometheus::Result<C>) -> C {
    let collector = known(made);
    known(to.register(Box::new(collector.clone())));
    collector
}

fn counters(to: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(to, IntCounterVec::new(Opts::new(name, help), labels))
}

fn seconds_counters(to: &Registry, name: &str, help: &str, labels: &[&str]) -> CounterVec {
    registered(to, CounterVec::new(Opts::new(name, help), labels))
}

fn gauges(to: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(to, IntGaugeVec::new(Opts::new(name, help), labels))
}

fn real_gauges(to: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    registered(to, GaugeVec::new(Opts::new(name, help), labels))
}

fn histograms(to: &Registry, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
    registered(to, HistogramVec::new(options, labels))
}
