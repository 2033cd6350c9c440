//! A real, unmodified Backstage backend starts, migrates, serves and restarts through stagedoor, and its answers
//! are those that it gives without.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::support::deadline::Stopwatch;
use crate::support::deadline::until;
use crate::support::node::Project;
use crate::support::postgres::Cluster;
use crate::support::postgres::Connections;
use crate::support::postgres::ROLE;
use crate::support::postgres::free_port;
use crate::support::process::Process;
use crate::support::stagedoor::Stagedoor;
use crate::support::stagedoor::sum;
use crate::support::stagedoor::upstream;
use crate::support::stand_in;

/// The default budget of server connections of one sidecar.
const BUDGET: usize = 20;

/// How long a backend may take from its start until everything has been exercised.
const LIMIT: Duration = Duration::from_mins(2);

/// How a backend divides its plugins: the files it is given.
#[derive(Clone, Copy)]
struct Division {
    name: &'static str,
    files: &'static [&'static str],
}

const DATABASE: Division = Division { name: "database", files: &["app-config.yaml"] };
const SCHEMA: Division = Division { name: "schema", files: &["app-config.yaml", "app-config.schema.yaml"] };
const SCHEMA_WITH_ROLE: Division = Division {
    name: "schema with role",
    files: &["app-config.yaml", "app-config.schema.yaml", "app-config.role.yaml"],
};

/// A backend that runs, with the port of its HTTP side.
struct Backstage<'a> {
    project: &'a Project,
    process: Process,
    port: u16,
}

impl<'a> Backstage<'a> {
    fn start(project: &'a Project, division: Division, environment: &BTreeMap<String, String>) -> Self {
        let port = free_port();
        let mut environment = environment.clone();
        environment.insert("BACKSTAGE_PORT".into(), port.to_string());
        let mut arguments = vec!["index.js"];
        for file in division.files {
            arguments.extend(["--config", file]);
        }
        let process = Process::start("backstage", &mut project.node(&arguments, &environment));
        Self { project, process, port }
    }

    /// Every answer of `exercise.mjs`.
    fn exercise(&mut self) -> Value {
        let environment = [
            ("BACKSTAGE_URL".to_owned(), format!("http://127.0.0.1:{}", self.port)),
            ("DEADLINE_MS".to_owned(), LIMIT.as_millis().to_string()),
        ];
        let mut command = self.project.node(&["exercise.mjs"], &environment.into());
        let mut script = Process::start("exercise.mjs", &mut command);
        let status = until("the end of exercise.mjs", LIMIT + Duration::from_secs(10), || {
            let ended = self.process.exited();
            assert!(ended.is_none(), "Backstage ended with {ended:?}\n{}", self.last_words());
            script.exited()
        });
        script.wait(Duration::from_secs(10));
        assert!(status.success(), "{}\n{}", script.stderr.text(), self.last_words());
        let printed = script.stdout.text();
        let printed: Value = serde_json::from_str(&printed).expect("JSON");
        eprintln!("          milliseconds: {}", printed["timings"]);
        printed["answers"].clone()
    }

    fn last_words(&self) -> String {
        format!("--- Backstage\n{}\n{}", self.process.stdout.tail(40), self.process.stderr.tail(20))
    }
}

/// The environment of the Backstage container, with a sidecar or straight to the server.
fn environment(cluster: &Cluster, sidecar: Option<&Stagedoor>) -> BTreeMap<String, String> {
    let mut environment = container(cluster);
    if let Some(sidecar) = sidecar {
        environment.insert("POSTGRES_HOST".into(), "localhost".into());
        environment.insert("POSTGRES_PORT".into(), sidecar.port.to_string());
        environment.insert("APP_CONFIG_backend_database_connection_ssl".into(), "false".into());
    }
    environment
}

/// What both containers of the pod are given.
fn container(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut environment = upstream(cluster);
    environment.insert("POSTGRES_DB".into(), "backstage".into());
    environment.insert("POSTGRES_ROLE".into(), ROLE.into());
    environment.insert("NODE_ENV".into(), "production".into());
    environment.insert("BACKSTAGE_PORT".into(), "7007".into());
    environment
}

fn sidecar(cluster: &Cluster, project: &Project, division: Division) -> Stagedoor {
    let files: Vec<PathBuf> = division.files.iter().map(|file| project.path().join(file)).collect();
    Stagedoor::beside(cluster, &files, project.path(), &container(cluster), "")
}

/// A run without stagedoor: its answers, and its connections.
fn without(project: &Project, division: Division) -> (Value, Connections) {
    let _watch = Stopwatch::start(format!("Backstage without stagedoor, {}", division.name));
    let cluster = Cluster::start(200);
    let mut backstage = Backstage::start(project, division, &environment(&cluster, None));
    let answers = backstage.exercise();
    (answers, cluster.connections())
}

/// Two runs behind one sidecar after another, on the same cluster: with nothing there, then with everything.
fn behind(project: &Project, division: Division, expected: &Value) -> Connections {
    let cluster = Cluster::start(60);
    for state in ["fresh", "restarted"] {
        let _watch = Stopwatch::start(format!("Backstage behind stagedoor, {}, {state}", division.name));
        let stagedoor = sidecar(&cluster, project, division);
        let mut backstage = Backstage::start(project, division, &environment(&cluster, Some(&stagedoor)));
        let mut before = String::new();
        for part in ["start and first use", "after that"] {
            assert_same(&backstage.exercise(), expected);
            let after = stagedoor.metrics();
            eprintln!("          {part}: {}", figures(&before, &after));
            let grown = pins(&before, &after);
            assert!(
                grown.keys().all(|reason| reason == "listen"),
                "only the event bus needs a server: {grown:?}"
            );
            before = after;
        }
        drop(backstage);
        stagedoor.finish();
    }
    cluster.connections()
}

fn assert_same(found: &Value, expected: &Value) {
    let all = |answers: &Value| answers.as_object().expect("answers").keys().cloned().collect::<Vec<_>>();
    assert_eq!(all(found), all(expected));
    for name in all(expected) {
        assert_eq!(found[&name], expected[&name], "the answer of {name}");
    }
}

fn assert_pooled_and_verified(with: &Connections, without: &Connections, sidecars: usize) {
    eprintln!("          server connections without stagedoor: {without:?}");
    eprintln!("          server connections with stagedoor:    {with:?}");
    assert_eq!(with.plaintext, 0, "every server connection is TLS");
    assert_eq!(without.plaintext, 0, "the control run's connections are TLS as well");
    assert!(with.peak <= BUDGET * sidecars || stand_in::wanted(), "{} connections at a time", with.peak);
}

/// What sharing cost between two pages of metrics.
fn figures(before: &str, after: &str) -> String {
    let grown = |family| sum(after, family, &[]) - sum(before, family, &[]);
    let transactions = grown("stagedoor_transactions_total");
    let rate = |family| 1000.0 * grown(family) / transactions;
    format!(
        "{transactions} transactions; of a thousand {:.1} with a hand-over, {:.1} with a question; {} logins; pins {:?}",
        rate("stagedoor_handovers_total"),
        rate("stagedoor_probes_total"),
        grown("stagedoor_server_connections_opened_total"),
        pins(before, after)
    )
}

/// The pins between two pages of metrics, by reason.
fn pins(before: &str, after: &str) -> BTreeMap<String, f64> {
    let series = after.lines().filter(|line| line.starts_with("stagedoor_pins_total{"));
    let reasons = series.filter_map(|line| line.split("reason=\"").nth(1)?.split('"').next());
    let grown = reasons.map(|reason| {
        let count = |page| sum(page, "stagedoor_pins_total", &[&format!("reason=\"{reason}\"")]);
        (reason.to_owned(), count(after) - count(before))
    });
    grown.filter(|(_, count)| *count > 0.0).collect()
}

#[test]
fn with_a_database_for_each_plugin_answers_are_the_same_fresh_and_restarted() {
    let project = Project::ready("backstage");
    let (expected, alone) = without(&project, DATABASE);
    let with = behind(&project, DATABASE, &expected);
    assert_pooled_and_verified(&with, &alone, 1);
}

#[test]
fn with_a_schema_for_each_plugin_answers_are_the_same_fresh_and_restarted() {
    let project = Project::ready("backstage");
    let (expected, alone) = without(&project, SCHEMA);
    let with = behind(&project, SCHEMA, &expected);
    assert_pooled_and_verified(&with, &alone, 1);
}

#[test]
fn with_a_role_everything_is_done_as_that_role_and_two_replicas_share_the_server() {
    let project = Project::ready("backstage");
    let (expected, alone) = without(&project, SCHEMA_WITH_ROLE);
    let cluster = Cluster::start(100);
    let watch = Stopwatch::start("two replicas of Backstage, each with a sidecar, schema with role");
    let sidecars = [(); 2].map(|()| sidecar(&cluster, &project, SCHEMA_WITH_ROLE));
    // The first one migrates alone: two at once on nothing are a known weakness of Backstage's own (MigrationLocked).
    let mut first = Backstage::start(&project, SCHEMA_WITH_ROLE, &environment(&cluster, Some(&sidecars[0])));
    assert_same(&first.exercise(), &expected);
    let mut second = Backstage::start(&project, SCHEMA_WITH_ROLE, &environment(&cluster, Some(&sidecars[1])));
    std::thread::scope(|scope| {
        for replica in [&mut first, &mut second] {
            scope.spawn(|| assert_same(&replica.exercise(), &expected));
        }
    });
    drop((first, second, watch));
    assert_all_owned_by_the_role(&cluster);
    assert_pooled_and_verified(&cluster.connections(), &alone, sidecars.len());
    sidecars.into_iter().for_each(Stagedoor::finish);
}

fn assert_all_owned_by_the_role(cluster: &Cluster) {
    let owners = cluster.admin_in(
        "backstage",
        "select distinct tableowner from pg_tables where schemaname not in ('pg_catalog', 'information_schema')",
    );
    assert_eq!(owners, [ROLE]);
}
