//! PostgreSQL is reloaded, ends a session, or crashes: clients are told what they would be told without stagedoor, and
//! those whose servers nobody needs just then are not.

use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;

use crate::support::compare::Worlds;
use crate::support::deadline::PATIENCE;
use crate::support::deadline::until;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

/// A cluster that may be reloaded and broken, by one test at a time.
fn on_a_cluster_of_its_own(story: impl FnOnce(&Cluster)) {
    static OWN: OnceLock<Mutex<Cluster>> = OnceLock::new();
    let own = OWN.get_or_init(|| Mutex::new(Cluster::start(60)));
    story(&own.lock().unwrap_or_else(PoisonError::into_inner));
}

#[test]
fn a_setting_that_a_reload_changes_is_told_with_the_next_statement() {
    on_a_cluster_of_its_own(|cluster| {
        // Of all sessions the oldest is signalled last (SignalSomeChildren).
        let mut oldest = Client::connect(&cluster.direct("postgres")).expect("a login");
        let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
        let worlds = Worlds::new(cluster, &stagedoor, "reload", "create table things (n int)");
        let mut reload = |zone: &str| {
            cluster.admin(&format!("alter system set timezone to '{zone}'"));
            cluster.admin("select pg_reload_conf()");
            until("the reload", PATIENCE, || (oldest.value("show timezone") == zone).then_some(()));
        };
        let [direct, through] = [&worlds.direct, &worlds.through].map(|target| {
            let mut clients = [(); 6].map(|()| Client::connect(target).expect("a login"));
            reload("Asia/Tokyo");
            let [resting, failing, batch, open, own, last] = &mut clients;
            resting.query("select 1");
            failing.query("select 1 / 0");
            batch.extended("select 2", &[]);
            // Within a transaction too, and not where the session has a value of its own.
            open.query("begin");
            open.query("commit");
            own.query("set timezone to 'UTC'");
            reload("Europe/Berlin");
            own.query("select 1");
            own.query("reset timezone");
            last.extended("show timezone", &[]);
            let mut fresh = Client::connect(target).expect("a login");
            fresh.query("show timezone");
            let clients = clients.into_iter().chain([fresh]);
            let transcripts: Vec<_> = clients.map(|client| client.transcript).collect();
            reload("Etc/UTC");
            transcripts
        });
        for (number, (direct, through)) in direct.iter().zip(&through).enumerate() {
            assert_eq!(through, direct, "client {number}: left is through stagedoor");
        }
        worlds.end();
        stagedoor.finish();
    });
}

#[test]
fn a_session_that_postgresql_ends_is_told_as_without_stagedoor() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let worlds = Worlds::new(cluster, &stagedoor, "ended", "create table things (n int)");
    let terminate = |backend: &str| drop(cluster.admin(&format!("select pg_terminate_backend({backend})")));
    let begin = |client: &mut Client| {
        client.query("begin");
        let backend = client.backend();
        client.transcript.clear();
        backend
    };
    // At rest in a transaction.
    worlds.same(|client| {
        terminate(&begin(client));
        client.last_words();
    });
    // At work, with more behind it.
    worlds.same(|client| {
        let backend = begin(client);
        client.send(&[frames::query("select pg_sleep(60)"), frames::query("select 'never'")].concat());
        let asleep =
            format!("select 1 from pg_stat_activity where pid = {backend} and wait_event = 'PgSleep'");
        until("it sleeps", PATIENCE, || (!cluster.admin(&asleep).is_empty()).then_some(()));
        terminate(&backend);
        client.last_words();
    });
    // In a COPY, and in a batch that was flushed.
    worlds.same(|client| {
        let backend = begin(client);
        client.send(&frames::query("copy things from stdin"));
        client.until(b'G');
        // It waits for the first line, and says so.
        let reads =
            format!("select 1 from pg_stat_activity where pid = {backend} and wait_event = 'ClientRead' and query like 'copy%'");
        until("it reads", PATIENCE, || (!cluster.admin(&reads).is_empty()).then_some(()));
        terminate(&backend);
        client.last_words();
    });
    worlds.same(|client| {
        let backend = begin(client);
        client.send(&[frames::parse("", "select 1", &[]), frames::flush()].concat());
        client.until(b'1');
        terminate(&backend);
        client.last_words();
    });
    // By its own time-out.
    worlds.same(|client| {
        client.query("set idle_in_transaction_session_timeout to '100ms'");
        client.query("begin; insert into things values (1)");
        client.last_words();
    });
    // By its own hand.
    worlds.same(|client| {
        client.send(&frames::query("select pg_terminate_backend(pg_backend_pid())"));
        client.last_words();
    });
    let mut next = stagedoor.connect(&worlds.through.database);
    assert_eq!(next.value("select count(*) from things"), "0");
    next.leave();
    worlds.end();
    stagedoor.finish();
}

#[test]
fn a_crash_is_told_to_whom_it_interrupts_and_nobody_else() {
    on_a_cluster_of_its_own(|cluster| {
        let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 3 }");
        let database = cluster.database("crash");
        let [mut idle, mut open, mut busy] = [(); 3].map(|()| stagedoor.connect(&database));
        idle.rows("select 1");
        open.rows("begin");
        busy.rows("begin");
        let backend = busy.backend();
        busy.send(&frames::query("select pg_sleep(60)"));
        let status = std::process::Command::new("kill").args(["-KILL", &backend]).status();
        assert!(status.expect("kill").success());
        // PostgreSQL itself is silent for the one that was killed; a client is better told.
        assert_eq!(busy.last_words().sqlstate(), "08006");
        // The others have its warning (57P02), and the end.
        let told = open.last_words();
        assert!(told.0.iter().any(|message| message.field(b'C').as_deref() == Some("57P02")), "{told:?}");
        // Who had nothing under way waits until PostgreSQL is back, and goes on.
        assert_eq!(idle.value("select 2"), "2");
        idle.leave();
        stagedoor.finish();
    });
}
