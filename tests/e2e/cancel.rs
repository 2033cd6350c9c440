//! A cancel request ends the query that is meant, and never another one.

use std::time::Duration;
use std::time::Instant;

use crate::support::deadline::PATIENCE;
use crate::support::deadline::until;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

const SLEEP: &str = "select pg_sleep(30)";

fn asleep(cluster: &Cluster, database: &str, count: usize) {
    let sql = format!(
        "select 1 from pg_stat_activity where datname = '{database}' and state = 'active' and query like '%pg_sleep%'"
    );
    until(&format!("{count} asleep"), PATIENCE, || (cluster.admin(&sql).len() == count).then_some(()));
}

#[test]
fn a_cancel_request_ends_its_own_query_only() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("cancel");
    let [mut one, mut two] = [(); 2].map(|()| stagedoor.connect(&database));
    one.send(&frames::query(SLEEP));
    two.send(&frames::query(SLEEP));
    asleep(cluster, &database, 2);
    stagedoor.target(&database).cancel(one.pid, &one.key);
    assert_eq!(one.ready().sqlstate(), "57014");
    asleep(cluster, &database, 1);
    assert_eq!(one.value("select 1"), "1");
    stagedoor.target(&database).cancel(two.pid, &two.key);
    assert_eq!(two.ready().sqlstate(), "57014");
    assert!(stagedoor.metric("stagedoor_cancels_total", &[]) >= 2.0);
    drop((one, two));
    stagedoor.finish();
}

#[test]
fn a_wrong_key_or_process_id_cancels_nothing() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("wrong_key");
    let mut client = stagedoor.connect(&database);
    client.send(&frames::query("select pg_sleep(1.5)"));
    asleep(cluster, &database, 1);
    let mut wrong = client.key.clone();
    wrong[0] ^= 1;
    let target = stagedoor.target(&database);
    target.cancel(client.pid, &wrong);
    target.cancel(client.pid ^ 1, &client.key);
    for key in [&[][..], &[7; 200], &[7; 1000]] {
        let mut canceller = target.open().expect("a connection");
        canceller.send(&frames::cancel(client.pid, key));
        canceller.rest();
    }
    assert_eq!(client.ready().error(), None);
    drop(client);
    stagedoor.finish();
}

#[test]
fn a_cancel_while_waiting_for_a_server_ends_the_wait() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("cancel_wait");
    let mut holders = [(); 2].map(|()| stagedoor.connect(&database));
    holders.iter_mut().for_each(|holder| {
        holder.rows("begin");
    });
    let mut client = stagedoor.connect(&database);
    client.send(&frames::query("select 'never'"));
    until("a client waits", PATIENCE, || {
        (stagedoor.metric("stagedoor_client_connections", &["state=\"waiting\""]) >= 1.0).then_some(())
    });
    stagedoor.target(&database).cancel(client.pid, &client.key);
    assert_eq!(client.ready().sqlstate(), "57014");
    holders.iter_mut().for_each(|holder| {
        holder.rows("commit");
    });
    assert_eq!(client.value("select 1"), "1");
    drop((client, holders));
    stagedoor.finish();
}

#[test]
fn a_cancel_that_comes_late_never_hits_the_next_client() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("late");
    let target = stagedoor.target(&database);
    let (mut quick, mut holder) = (stagedoor.connect(&database), stagedoor.connect(&database));
    holder.rows("begin");
    let mut next = stagedoor.connect(&database);
    for _ in 0..60 {
        quick.send(&frames::query("select pg_sleep(0.002)"));
        target.cancel(quick.pid, &quick.key);
        let reply = quick.ready();
        assert!(["", "57014"].contains(&reply.sqlstate().as_str()));
        // The same server, at once: nothing may interrupt this.
        assert_eq!(next.query("select pg_sleep(0.005)").error(), None);
    }
    drop((quick, holder, next));
    stagedoor.finish();
}

#[test]
fn the_process_id_of_backend_key_data_can_be_cancelled_by_sql() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 3 }");
    let database = cluster.database("by_sql");
    let [mut sleeper, mut bystander, mut killer] = [(); 3].map(|()| stagedoor.connect(&database));
    let by_parameter: fn(&mut Client, i32) = |killer, pid| {
        let reply = killer.extended("select pg_cancel_backend($1)", &[Some(&pid.to_string())]);
        assert_eq!(reply.rows_text(), ["t"]);
    };
    let by_literal: fn(&mut Client, i32) = |killer, pid| {
        assert_eq!(killer.value(&format!("select pg_cancel_backend({pid})")), "t");
    };
    for cancel in [by_parameter, by_literal] {
        sleeper.send(&frames::query(SLEEP));
        bystander.send(&frames::query(SLEEP));
        asleep(cluster, &database, 2);
        let begun = Instant::now();
        cancel(&mut killer, sleeper.pid);
        assert_eq!(sleeper.ready().sqlstate(), "57014");
        assert!(begun.elapsed() < Duration::from_secs(10));
        asleep(cluster, &database, 1);
        cancel(&mut killer, bystander.pid);
        assert_eq!(bystander.ready().sqlstate(), "57014");
    }
    drop((sleeper, bystander, killer));
    stagedoor.finish();
}
