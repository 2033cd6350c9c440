//! What Prometheus is told: every family of the documentation, in text that a parser takes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

/// Name and type of each family that an operator may build an alert on.
const FAMILIES: &[(&str, &str)] = &[
    ("stagedoor_client_connections", "gauge"),
    ("stagedoor_client_connections_total", "counter"),
    ("stagedoor_server_connections", "gauge"),
    ("stagedoor_server_connections_opened_total", "counter"),
    ("stagedoor_server_connections_closed_total", "counter"),
    ("stagedoor_server_budget", "gauge"),
    ("stagedoor_statements_cached", "gauge"),
    ("stagedoor_transactions_total", "counter"),
    ("stagedoor_handovers_total", "counter"),
    ("stagedoor_probes_total", "counter"),
    ("stagedoor_acquire_seconds", "histogram"),
    ("stagedoor_acquire_failures_total", "counter"),
    ("stagedoor_query_seconds", "histogram"),
    ("stagedoor_transaction_seconds", "histogram"),
    ("stagedoor_pins_total", "counter"),
    ("stagedoor_pinned_seconds_total", "counter"),
    ("stagedoor_bytes_total", "counter"),
    ("stagedoor_errors_total", "counter"),
    ("stagedoor_connect_seconds", "histogram"),
    ("stagedoor_tls_handshake_seconds", "histogram"),
    ("stagedoor_connect_failures_total", "counter"),
    ("stagedoor_tls_verified", "gauge"),
    ("stagedoor_tls_info", "gauge"),
    ("stagedoor_tls_certificate_not_after_timestamp_seconds", "gauge"),
    ("stagedoor_upstream_up", "gauge"),
    ("stagedoor_config_reload_success", "gauge"),
    ("stagedoor_config_last_reload_timestamp_seconds", "gauge"),
    ("stagedoor_cancels_total", "counter"),
    ("stagedoor_build_info", "gauge"),
    ("process_resident_memory_bytes", "gauge"),
    ("process_open_fds", "gauge"),
];

/// A page in the text format, taken apart.
#[derive(Default)]
struct Parsed {
    kinds: BTreeMap<String, String>,
    helped: BTreeSet<String>,
    /// Each sample: its name, its labels as text, its value.
    samples: Vec<(String, String, f64)>,
}

/// Takes the page apart as promtool would, and fails where it would.
fn parse(page: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let mut seen = BTreeSet::new();
    for line in page.lines().filter(|line| !line.is_empty()) {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').expect("a text after the name");
            assert!(text.len() > 10, "{name} has a help that helps: {text}");
            assert!(parsed.helped.insert(name.to_owned()), "{name} has one HELP");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert!(parsed.kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} has one TYPE");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            assert!(seen.insert(series.to_owned()), "{series} stands once");
            parsed.samples.push((name.to_owned(), labels.to_owned(), value.parse().expect("a number")));
        }
    }
    parsed
}

#[test]
fn every_family_of_the_documentation_is_there_and_the_page_is_well_formed() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("backstage_plugin_metrics");
    let mut client = stagedoor.connect(&database);
    client.rows("create temp table mine (n int)");
    client.error("select 1/0");
    client.rows("begin; select 1; commit");
    client.rows("drop table mine");
    // Another database's servers take the place of this one's.
    for _ in 0..2 {
        let mut other = stagedoor.connect(&cluster.database("metrics_other"));
        other.rows("select 1");
        other.leave();
    }
    let parsed = parse(&stagedoor.metrics());
    let missing: Vec<_> = FAMILIES
        .iter()
        .filter(|(family, kind)| parsed.kinds.get(*family).map(String::as_str) != Some(*kind))
        .chain(FAMILIES.iter().filter(|(family, _)| !parsed.helped.contains(*family)))
        .collect();
    assert!(missing.is_empty(), "families without HELP or of another type: {missing:?}");
    for (name, labels, value) in &parsed.samples {
        let suffixes = ["_bucket", "_sum", "_count"].iter().filter_map(|suffix| name.strip_suffix(suffix));
        let family = suffixes.chain([name.as_str()]).any(|family| parsed.kinds.contains_key(family));
        assert!(family, "{name} has a TYPE");
        assert!(value.is_finite(), "{name} {labels} {value}");
    }
    drop(client);
    stagedoor.finish();
}

#[test]
fn what_happened_is_counted_with_its_database_and_plugin() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("backstage_plugin_catalog");
    let mut client = stagedoor.connect(&database);
    for _ in 0..10 {
        client.rows("select repeat('x', 1000)");
    }
    client.error("select 1/0");
    let label = format!("database=\"{database}\"");
    let plugin = format!("plugin=\"{}\"", database.trim_start_matches("backstage_plugin_"));
    let labels = [label.as_str(), plugin.as_str()];
    assert!(stagedoor.metric("stagedoor_query_seconds_count", &labels) >= 11.0);
    assert!(stagedoor.metric("stagedoor_bytes_total", &[&label]) > 10_000.0);
    assert!(
        stagedoor.metric("stagedoor_errors_total", &[&label, "sqlstate_class=\"22\"", "origin=\"server\""])
            >= 1.0
    );
    assert!(stagedoor.metric("stagedoor_client_connections", &labels) >= 1.0);
    assert!(stagedoor.metric("stagedoor_tls_verified", &[]) >= 1.0);
    assert!(stagedoor.metric("stagedoor_upstream_up", &[]) >= 1.0);
    client.leave();
    stagedoor.finish();
}

#[test]
fn hand_overs_questions_and_servers_are_counted_as_they_are() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("counted");
    let counts = |family: &str| stagedoor.metric(family, &[&format!("database=\"{database}\"")]).round();
    let target = stagedoor.target(&database);
    // Two kinds of sessions, so two pools, and each has one server: one sits in a transaction.
    let mut holder = Client::connect(&target.clone().with("options", "-c work_mem=1MB")).expect("a login");
    holder.rows("begin");
    let names = ["one", "two"].map(|name| target.clone().with("application_name", name));
    let mut clients = names.map(|target| Client::connect(&target).expect("a login"));
    let before = (counts("stagedoor_handovers_total"), counts("stagedoor_probes_total"));
    let servers = ["idle", "active"].map(|state| {
        let labels = [&format!("database=\"{database}\""), &format!("state=\"{state}\"")];
        stagedoor.metric("stagedoor_server_connections", &labels.map(String::as_str)).round()
    });
    assert_eq!(servers, [1.0, 1.0], "idle and active");
    // Each change of hands is one hand-over: the last one who had it was "two".
    for _ in 0..3 {
        clients.iter_mut().for_each(|client| drop(client.rows("select 1")));
    }
    clients.iter_mut().for_each(|client| drop(client.rows("begin; select 2; commit")));
    assert_eq!(counts("stagedoor_handovers_total") - before.0, 8.0);
    assert_eq!(counts("stagedoor_probes_total"), before.1, "nothing was touched");
    clients[0].rows("set work_mem = '2MB'");
    clients[0].rows("select 1");
    assert_eq!(counts("stagedoor_probes_total") - before.1, 1.0);
    clients[0].send(&[frames::parse("kept", "select 3", &[]), frames::sync()].concat());
    assert_eq!(clients[0].ready().error(), None);
    clients[0].rows("select 1");
    assert_eq!(counts("stagedoor_statements_cached"), 1.0);
    drop((clients, holder));
    stagedoor.finish();
}

#[test]
fn what_a_client_asks_for_in_vain_says_nothing_of_the_upstream() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "");
    let database = cluster.database("in_vain");
    let target = stagedoor.target(&database);
    let mut missing = target.clone();
    missing.database = "nobody_made_this".to_owned();
    let rows = [
        (missing, "3D000"),
        (target.clone().with("no_such_parameter", "1"), "42704"),
        (target.clone().with("options", "-c work_mem=x"), "22023"),
        (target.with("options", "-c role=nobody"), "22023"),
    ];
    for (target, sqlstate) in rows {
        let refused = Client::connect(&target).err().expect("a refusal");
        assert_eq!(refused.sqlstate, sqlstate, "{refused:?}");
        assert!(stagedoor.metric("stagedoor_upstream_up", &[]) > 0.5, "{sqlstate}");
        assert_eq!(stagedoor.page("/readyz?upstream=1").status, 200, "{sqlstate}");
    }
    assert!(!stagedoor.log().contains("connecting failed"), "{}", stagedoor.log());
    stagedoor.finish();
}

#[test]
fn the_pages_of_health_say_what_they_mean() {
    let stagedoor = Stagedoor::start(Cluster::shared(), "");
    for path in ["/livez", "/readyz", "/startupz", "/metrics", "/readyz?upstream=1"] {
        assert_eq!(stagedoor.page(path).status, 200, "{path}");
    }
    assert_eq!(stagedoor.page("/nothing-here").status, 404);
    assert_eq!(stagedoor.post("/metrics").status, 405);
    stagedoor.finish();
}
