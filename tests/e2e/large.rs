//! Large things pass through in pieces, in both directions at once.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::support::deadline::PATIENCE;
use crate::support::deadline::until;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::stagedoor::Stagedoor;

/// How much a sidecar may grow by, whatever passes through it.
const GROWTH_MAX: f64 = 48.0 * 1024.0 * 1024.0;

fn resident(stagedoor: &Stagedoor) -> f64 {
    let bytes = stagedoor.metric("process_resident_memory_bytes", &[]);
    assert!(bytes > 1e6, "a process has memory");
    bytes
}

#[test]
fn a_row_of_300_megabytes_is_never_held_whole() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "");
    let database = cluster.database("row");
    let mut client = stagedoor.connect(&database);
    client.rows("select 1");
    let before = resident(&stagedoor);
    // The client reads nothing for as long as the server has something to write.
    client.send(&frames::query("select repeat('0123456789', 30 * 1024 * 1024)"));
    let reply = client.ready();
    let row = reply.0.iter().find(|message| message.tag == b'D').expect("a row");
    assert_eq!(row.body.len(), 300 * 1024 * 1024 + 6);
    let growth = resident(&stagedoor) - before;
    assert!(growth < GROWTH_MAX, "it grew by {growth} bytes");
    client.leave();
    stagedoor.finish();
}

#[test]
fn a_query_of_100_megabytes_is_never_held_whole() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "");
    let database = cluster.database("query");
    let mut client = stagedoor.connect(&database);
    client.rows("select 1");
    let before = resident(&stagedoor);
    let value = "x".repeat(100 * 1024 * 1024);
    assert_eq!(client.extended("select length($1)", &[Some(&value)]).rows_text(), [value.len().to_string()]);
    let growth = resident(&stagedoor) - before;
    assert!(growth < GROWTH_MAX, "it grew by {growth} bytes");
    client.leave();
    stagedoor.finish();
}

#[test]
fn a_client_that_writes_and_reads_at_once_is_not_held_up() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("both");
    let mut client = stagedoor.connect(&database);
    let value = "x".repeat(1000);
    let one = [
        frames::parse("", "select $1::text, $1::text", &[]),
        frames::bind("", "", &[Some(&value)]),
        frames::execute("", 0),
        frames::sync(),
    ]
    .concat();
    let (rounds, each) = (100, 200);
    let mut writer = client.writer();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..rounds {
                writer.write_all(&one.repeat(each)).expect("writing");
            }
        });
        for _ in 0..rounds * each {
            assert_eq!(client.ready().tags(), "12DCZ");
            client.transcript.clear();
        }
    });
    client.leave();
    stagedoor.finish();
}

#[test]
fn a_client_that_reads_only_when_it_is_stuck_gets_all_its_answers() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let mut client = stagedoor.connect(&cluster.database("stuck"));
    let value = "x".repeat(100_000);
    let one = [
        frames::parse("", "select $1::text", &[]),
        frames::bind("", "", &[Some(&value)]),
        frames::execute("", 0),
        frames::sync(),
    ]
    .concat();
    let (rounds, said) = (1000, AtomicUsize::new(0));
    let mut writer = client.writer();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..rounds {
                writer.write_all(&one).expect("writing");
                said.fetch_add(1, Ordering::Relaxed);
            }
        });
        let (mut before, mut unmoved) = (0, 0);
        until("the client is stuck", PATIENCE, || {
            let now = said.load(Ordering::Relaxed);
            unmoved = if now == before { unmoved + 1 } else { 0 };
            before = now;
            (now > 0 && unmoved > 30).then_some(())
        });
        // Nobody has taken in what nobody has read.
        assert!(before < rounds, "{before}");
        for _ in 0..rounds {
            assert_eq!(client.ready().tags(), "12DCZ");
            client.transcript.clear();
        }
    });
    client.leave();
    stagedoor.finish();
}
