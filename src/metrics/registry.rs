//! The one registry, the handles it gives out, and its text.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use prometheus::Registry;
use prometheus::TextEncoder;

use crate::metrics::families::PoolFamilies;
use crate::metrics::families::ProcessWide;
use crate::metrics::families::UpstreamFamilies;
use crate::metrics::families::known;
use crate::metrics::labels::Labels;
use crate::metrics::pool::PoolMetrics;
use crate::metrics::process::ProcessCollector;
use crate::metrics::upstream::UpstreamMetrics;

/// All metrics of one process (or of one test: nothing here is global).
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pools: PoolFamilies,
    upstreams: Arc<UpstreamFamilies>,
    process: ProcessWide,
    labels: Arc<Labels>,
    handles: Mutex<Handles>,
}

/// What has been given out. Bounded: pools by `labels`, upstreams by the configuration.
#[derive(Debug, Default)]
struct Handles {
    pools: BTreeMap<(String, String, String), Arc<PoolMetrics>>,
    upstreams: BTreeMap<String, Arc<UpstreamMetrics>>,
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        known(registry.register(Box::new(ProcessCollector::new())));
        Self {
            pools: PoolFamilies::new(&registry),
            upstreams: Arc::new(UpstreamFamilies::new(&registry)),
            process: ProcessWide::new(&registry),
            labels: Arc::new(Labels::default()),
            handles: Mutex::default(),
            registry,
        }
    }

    /// The handles of a pool. `database` and `plugin` may be what a client sent: they are bounded here.
    /// `plugin` is empty where there is none. Databases of the same name on two upstreams share their numbers.
    #[must_use]
    pub fn pool(&self, upstream: &str, database: &str, plugin: &str) -> Arc<PoolMetrics> {
        let (database, plugin) = self.labels.pair(database, plugin);
        let of_upstream = self.upstream(upstream);
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (upstream.to_owned(), database, plugin);
        if let Some(known) = handles.pools.get(&key) {
            return Arc::clone(known);
        }
        let made = Arc::new(PoolMetrics::new(&self.pools, of_upstream, &key.1, &key.2));
        handles.pools.insert(key, Arc::clone(&made));
        made
    }

    /// The handles of an upstream, by its name in the configuration (`host:port`).
    #[must_use]
    pub fn upstream(&self, upstream: &str) -> Arc<UpstreamMetrics> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = handles.upstreams.get(upstream) {
            return Arc::clone(known);
        }
        let (families, labels) = (Arc::clone(&self.upstreams), Arc::clone(&self.labels));
        let made = Arc::new(UpstreamMetrics::new(families, labels, upstream));
        handles.upstreams.insert(upstream.to_owned(), Arc::clone(&made));
        made
    }

    /// Notes that the configuration was loaded at `unix_seconds`.
    #[expect(clippy::cast_precision_loss, reason = "Unix time is far below 2^53")]
    pub fn config_loaded(&self, unix_seconds: u64) {
        self.process.reload_success.set(1);
        self.process.reload_timestamp.set(unix_seconds as f64);
    }

    /// Notes that a new configuration was refused and the old one stays.
    pub fn config_refused(&self) {
        self.process.reload_success.set(0);
    }

    /// The text that Prometheus scrapes, format 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_else(|error| format!("# {error}\n"))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::labels::DATABASES_MAX;
    use crate::metrics::labels::OTHER;
    use crate::metrics::pool::AcquireFailure;
    use crate::metrics::pool::ClientState;
    use crate::metrics::pool::Origin;
    use crate::metrics::upstream::CertificateRole;
    use crate::metrics::upstream::Servers;

    /// Every family with at least one child, so that it is in the text.
    fn with_everything_counted() -> Metrics {
        let metrics = Metrics::new();
        metrics.config_loaded(1_700_000_000);
        let pool = metrics.pool("db:5432", "backstage_plugin_catalog", "catalog");
        pool.acquire_seconds.observe(0.0002);
        pool.client_state(ClientState::Idle).inc();
        pool.acquire_failed(AcquireFailure::Timeout);
        pool.pinned("listen");
        pool.pinned_seconds("listen", 1.5);
        pool.error(Origin::Server, "42P01");
        let upstream = metrics.upstream("db:5432");
        upstream.servers_are([(
            "backstage_plugin_catalog",
            Servers { idle: 1, statements: 2, ..Servers::default() },
        )]);
        upstream.opened("backstage_plugin_catalog");
        upstream.closed("backstage_plugin_catalog", "idle_timeout");
        upstream.connect_failed("tls");
        upstream.tls_verified(true);
        upstream.tls_info("TLSv1.3", "TLS13_AES_256_GCM_SHA384", false);
        upstream.certificate_not_after(CertificateRole::Leaf, 1_800_000_000);
        metrics
    }

    /// The value of the one sample that is `series` to the letter.
    fn value(text: &str, series: &str) -> Option<f64> {
        let sample = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        sample.parse().ok()
    }

    #[test]
    fn pools_of_one_database_are_shown_together_and_what_is_gone_is_nothing() {
        let metrics = Metrics::new();
        let upstream = metrics.upstream("db:5432");
        let pool = |idle, active| ("a", Servers { idle, active, ..Servers::default() });
        let shows = |idle: f64, active: f64| {
            for (state, count) in [("idle", idle), ("active", active)] {
                let labels = format!("database=\"a\",state=\"{state}\",upstream=\"db:5432\"");
                let shown = value(&metrics.render(), &format!("stagedoor_server_connections{{{labels}}}"));
                assert_eq!(shown, Some(count), "{state}");
            }
        };
        upstream.servers_are([pool(1, 2), pool(3, 0)]);
        shows(4.0, 2.0);
        upstream.servers_are([pool(0, 1)]);
        shows(0.0, 1.0);
        upstream.servers_are([]);
        shows(0.0, 0.0);
    }

    #[test]
    fn every_family_of_operations_is_there_with_its_labels() {
        let text = with_everything_counted().render();
        let pool = "database=\"backstage_plugin_catalog\",plugin=\"catalog\"";
        let database = "database=\"backstage_plugin_catalog\"";
        let expected = [
            (format!("stagedoor_client_connections{{{pool},state=\"idle\"}}"), 1.0),
            (format!("stagedoor_client_connections{{{pool},state=\"pinned\"}}"), 0.0),
            (format!("stagedoor_client_connections_total{{{pool}}}"), 0.0),
            (format!("stagedoor_acquire_seconds_bucket{{{pool},le=\"0.00025\"}}"), 1.0),
            (format!("stagedoor_acquire_seconds_bucket{{{pool},le=\"60\"}}"), 1.0),
            (format!("stagedoor_acquire_failures_total{{{pool},reason=\"timeout\"}}"), 1.0),
            (format!("stagedoor_query_seconds_count{{{pool}}}"), 0.0),
            (format!("stagedoor_transaction_seconds_count{{{pool}}}"), 0.0),
            (format!("stagedoor_transactions_total{{{pool}}}"), 0.0),
            (format!("stagedoor_pins_total{{{database},reason=\"listen\"}}"), 1.0),
            (format!("stagedoor_pinned_seconds_total{{{database},reason=\"listen\"}}"), 1.5),
            (format!("stagedoor_bytes_total{{{database},direction=\"to_client\"}}"), 0.0),
            (format!("stagedoor_errors_total{{{database},origin=\"server\",sqlstate_class=\"42\"}}"), 1.0),
            (format!("stagedoor_handovers_total{{{database}}}"), 0.0),
            (format!("stagedoor_probes_total{{{database}}}"), 0.0),
            (format!("stagedoor_server_connections{{{database},state=\"idle\",upstream=\"db:5432\"}}"), 1.0),
            (format!("stagedoor_statements_cached{{{database},upstream=\"db:5432\"}}"), 2.0),
            (format!("stagedoor_server_connections_opened_total{{{database},upstream=\"db:5432\"}}"), 1.0),
            (
                format!(
                    "stagedoor_server_connections_closed_total{{{database},reason=\"idle_timeout\",upstream=\"db:5432\"}}"
                ),
                1.0,
            ),
            ("stagedoor_server_budget{upstream=\"db:5432\"}".to_owned(), 0.0),
            ("stagedoor_connect_seconds_count{upstream=\"db:5432\"}".to_owned(), 0.0),
            ("stagedoor_tls_handshake_seconds_count{upstream=\"db:5432\"}".to_owned(), 0.0),
            ("stagedoor_connect_failures_total{stage=\"tls\",upstream=\"db:5432\"}".to_owned(), 1.0),
            ("stagedoor_upstream_up{upstream=\"db:5432\"}".to_owned(), 0.0),
            ("stagedoor_tls_verified{upstream=\"db:5432\"}".to_owned(), 1.0),
            (
                "stagedoor_tls_info{cipher=\"TLS13_AES_256_GCM_SHA384\",resumed=\"false\",upstream=\"db:5432\",version=\"TLSv1.3\"}"
                    .to_owned(),
                1.0,
            ),
            (
                "stagedoor_tls_certificate_not_after_timestamp_seconds{role=\"leaf\",upstream=\"db:5432\"}".to_owned(),
                1.8e9,
            ),
            ("stagedoor_cancels_total{upstream=\"db:5432\"}".to_owned(), 0.0),
            (format!("stagedoor_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0),
            ("stagedoor_config_reload_success".to_owned(), 1.0),
            ("stagedoor_config_last_reload_timestamp_seconds".to_owned(), 1.7e9),
        ];
        for (series, number) in expected {
            assert_eq!(value(&text, &series), Some(number), "{series}\n{text}");
        }
        assert!(value(&text, "process_resident_memory_bytes").is_some_and(|bytes| bytes > 0.0), "{text}");
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for family in with_everything_counted().registry.gather() {
            let (name, kind) = (family.name(), format!("{:?}", family.get_field_type()));
            assert!(name.starts_with("stagedoor_") || name.starts_with("process_"), "{name}");
            assert_eq!(kind == "COUNTER", name.ends_with("_total"), "{name} is a {kind}");
            assert!(kind != "HISTOGRAM" || name.ends_with("_seconds"), "{name}");
            for unit in ["millis", "_ms", "minutes", "kilobytes", "_mb"] {
                assert!(!name.contains(unit), "{name} is not in base units");
            }
            let help = family.help();
            assert!(help.len() > 20 && help.ends_with('.') && !help.contains('\n'), "{name}: {help:?}");
        }
    }

    #[test]
    fn every_line_of_the_text_parses() {
        let text = with_everything_counted().render();
        let mut described = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")) {
                described = rest.split(' ').next().unwrap();
                continue;
            }
            let (series, number) = line.rsplit_once(' ').unwrap();
            assert!(number.parse::<f64>().is_ok(), "{line}");
            assert!(series.starts_with(described), "{line} stands under {described}");
            assert!(series.ends_with('}') == series.contains('{'), "{line}");
        }
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn a_client_that_invents_databases_cannot_make_the_registry_grow() {
        let metrics = Metrics::new();
        for number in 0..DATABASES_MAX {
            let _ = metrics.pool("db:5432", &format!("db{number}"), "");
        }
        let full = metrics.render().lines().count();
        let first = metrics.pool("db:5432", "surplus", "");
        for number in 0..1000 {
            let pool = metrics.pool("db:5432", &format!("invented{number}"), "");
            assert!(Arc::ptr_eq(&pool, &first), "all of them share one set of handles");
            metrics.upstream("db:5432").opened(&format!("invented{number}"));
            pool.error(Origin::Client, &format!("{:02}000", number % 100));
        }
        let text = metrics.render();
        assert!(text.contains(&format!("database=\"{OTHER}\"")) && !text.contains("invented"));
        assert!(text.lines().count() < full + 150, "{} lines after {full}", text.lines().count());
    }

    #[test]
    fn a_label_with_quotes_and_newlines_does_not_break_the_text() {
        let metrics = Metrics::new();
        metrics.pool("db:5432", "a\"b\\c\nd", "").transactions_total.inc();
        let series = "stagedoor_transactions_total{database=\"a\\\"b\\\\c\\nd\",plugin=\"\"}";
        assert_eq!(value(&metrics.render(), series), Some(1.0));
    }

    #[test]
    fn a_refused_reload_is_seen_and_the_time_of_the_good_one_stays() {
        let metrics = Metrics::new();
        metrics.config_loaded(5);
        metrics.config_refused();
        let text = metrics.render();
        assert_eq!(value(&text, "stagedoor_config_reload_success"), Some(0.0));
        assert_eq!(value(&text, "stagedoor_config_last_reload_timestamp_seconds"), Some(5.0));
    }

    #[test]
    fn the_same_pool_is_given_out_once() {
        let metrics = Metrics::new();
        let one = metrics.pool("db:5432", "catalog", "catalog");
        assert!(Arc::ptr_eq(&one, &metrics.pool("db:5432", "catalog", "catalog")));
        assert!(!Arc::ptr_eq(&one, &metrics.pool("other:5432", "catalog", "catalog")));
        assert!(Arc::ptr_eq(&one.upstream, &metrics.upstream("db:5432")));
    }
}
