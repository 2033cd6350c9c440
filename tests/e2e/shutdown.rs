//! SIGTERM: nothing that was begun is lost, and the end is a good one.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

#[test]
fn sigterm_under_load_loses_no_transaction_that_was_begun() {
    let cluster = Cluster::shared();
    let mut stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 4 }\nshutdown: { gracePeriod: 30s }");
    let database = cluster.database("sigterm");
    stagedoor.connect(&database).rows("create table done (client int, round int, part int)");
    let (stop, committed) = (AtomicBool::new(false), AtomicU32::new(0));
    let target = stagedoor.target(&database);
    std::thread::scope(|scope| {
        for number in 0..12 {
            let (stop, committed, target) = (&stop, &committed, &target);
            scope.spawn(move || {
                let mut client = Client::connect(target).expect("a login");
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    client.rows("begin");
                    client.rows(&format!("insert into done values ({number}, {round}, 1)"));
                    client.rows(&format!("insert into done values ({number}, {round}, 2)"));
                    client.rows("commit");
                    committed.fetch_add(1, Ordering::Relaxed);
                    round += 1;
                }
                client.leave();
            });
        }
        let enough = |count: u32| {
            while committed.load(Ordering::Relaxed) < count {
                std::thread::yield_now()
            }
        };
        enough(100);
        stagedoor.signal("TERM");
        let at_signal = committed.load(Ordering::Relaxed);
        // Clients are served on, and new ones let in: the application shuts down at its own pace.
        enough(at_signal + 200);
        let mut late = Client::connect(&target).expect("a login after SIGTERM");
        assert_eq!(late.value("select 1"), "1");
        late.leave();
        stop.store(true, Ordering::Relaxed);
    });
    let status = stagedoor.wait(Duration::from_secs(20));
    assert_eq!(status.code(), Some(0), "{}", stagedoor.log());
    let rows = cluster.admin_in(&database, "select count(*), count(distinct (client, round)) from done");
    let committed = committed.into_inner();
    assert_eq!(rows, [format!("{}|{committed}", committed * 2)]);
}

#[test]
fn idle_clients_are_told_57p01_and_a_transaction_may_end() {
    let cluster = Cluster::shared();
    let mut stagedoor = Stagedoor::start(cluster, "shutdown: { gracePeriod: 2s }");
    let database = cluster.database("grace");
    let [mut idle, mut busy] = [(); 2].map(|()| stagedoor.connect(&database));
    busy.rows("create table kept (n int)");
    busy.rows("begin; insert into kept values (1)");
    let begun = Instant::now();
    stagedoor.signal("TERM");
    let told = idle.last_words();
    assert_eq!(told.sqlstate(), "57P01");
    let waited = begun.elapsed();
    assert!((Duration::from_millis(1500)..Duration::from_secs(6)).contains(&waited), "{waited:?}");
    // The grace period is over, but what was begun may be finished.
    busy.rows("insert into kept values (2)");
    busy.query("commit");
    let status = stagedoor.wait(Duration::from_secs(20));
    assert_eq!(status.code(), Some(0), "{}", stagedoor.log());
    assert_eq!(cluster.admin_in(&database, "select count(*) from kept"), ["2"]);
}

#[test]
fn without_clients_it_ends_at_once() {
    let mut stagedoor = Stagedoor::start(Cluster::shared(), "shutdown: { gracePeriod: 60s }");
    let begun = Instant::now();
    stagedoor.signal("TERM");
    assert_eq!(stagedoor.wait(Duration::from_secs(20)).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_second_signal_ends_it_now() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let mut stagedoor = Stagedoor::start(Cluster::shared(), "shutdown: { gracePeriod: 60s }");
        let mut client = stagedoor.connect("postgres");
        client.rows("begin");
        stagedoor.signal(first);
        assert_eq!(client.value("select 1"), "1");
        let begun = Instant::now();
        stagedoor.signal(second);
        stagedoor.wait(Duration::from_secs(20));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}
