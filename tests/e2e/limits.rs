//! The budget, the queue, and how long one may wait in it.

use std::time::Duration;
use std::time::Instant;

use crate::support::deadline::PATIENCE;
use crate::support::deadline::until;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

fn waiting(stagedoor: &Stagedoor, count: f64) {
    until(&format!("{count} clients wait"), PATIENCE, || {
        let now = stagedoor.metric("stagedoor_client_connections", &["state=\"waiting\""]);
        ((now - count).abs() < 0.5).then_some(())
    });
}

fn holders(stagedoor: &Stagedoor, database: &str) -> [Client; 2] {
    [(); 2].map(|()| {
        let mut holder = stagedoor.connect(database);
        holder.rows("begin");
        holder
    })
}

#[test]
fn a_wait_that_lasts_too_long_ends_in_53300_that_says_what_to_change() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2, acquireTimeout: 1s }");
    let database = cluster.database("too_long");
    let mut client = stagedoor.connect(&database);
    let holders = holders(&stagedoor, &database);
    let begun = Instant::now();
    let told = client.query("select 1").error().expect("an error");
    let waited = begun.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&waited), "{waited:?}");
    assert_eq!(told.sqlstate, "53300");
    for part in [database.as_str(), "limit 2", "stagedoor.pool.maxServers", "stagedoor.pool.acquireTimeout"] {
        assert!(told.text.contains(part), "{part} in {told:?}");
    }
    assert!(stagedoor.metric("stagedoor_acquire_failures_total", &[]) >= 1.0);
    drop(holders);
    // The client was told, not thrown out.
    until("a server is free", PATIENCE, || client.query("select 1").error().is_none().then_some(()));
    client.leave();
    stagedoor.finish();
}

#[test]
fn who_came_first_is_served_first() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("first");
    let mut clients: Vec<Client> = (0..6).map(|_| stagedoor.connect(&database)).collect();
    clients[0].rows("create table served (at serial, client int)");
    let [one, mut two] = holders(&stagedoor, &database);
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&frames::query(&format!("insert into served (client) values ({number})")));
        waiting(&stagedoor, f64::from(u32::try_from(number).unwrap() + 1));
    }
    // One server comes free, and serves them all in turn.
    one.leave();
    for client in &mut clients {
        assert_eq!(client.ready().error(), None);
    }
    assert_eq!(two.rows("select client from served order by at"), ["0", "1", "2", "3", "4", "5"]);
    drop((clients, two));
    stagedoor.finish();
}

#[test]
fn an_idle_server_of_another_database_makes_room() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let names: Vec<String> = (0..5).map(|_| cluster.database("room")).collect();
    let mut clients: Vec<Client> = names.iter().map(|name| stagedoor.connect(name)).collect();
    for _ in 0..4 {
        for (client, name) in clients.iter_mut().zip(&names) {
            assert_eq!(&client.value("select current_database()"), name);
            let open: usize = names.iter().map(|name| cluster.open(name).0).sum();
            assert!(open <= 2, "{open}");
        }
    }
    let budget = stagedoor.metric("stagedoor_server_budget", &[]);
    assert!((budget - 2.0).abs() < 0.1, "{budget}");
    clients.into_iter().for_each(Client::leave);
    stagedoor.finish();
}

#[test]
fn idle_servers_are_closed_after_their_time() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 4, idleTimeout: 1s }");
    let database = cluster.database("idle");
    let mut clients: Vec<Client> = (0..4).map(|_| stagedoor.connect(&database)).collect();
    for client in &mut clients {
        client.rows("begin");
    }
    assert_eq!(cluster.open(&database).0, 4);
    for client in &mut clients {
        client.rows("commit");
    }
    until("idle servers are gone", PATIENCE, || (cluster.open(&database).0 == 0).then_some(()));
    for client in &mut clients {
        assert_eq!(client.value("select 1"), "1");
    }
    drop(clients);
    stagedoor.finish();
}

#[test]
fn more_kinds_of_sessions_than_servers_are_all_served_as_what_they_are() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 4 }");
    let database = cluster.database("kinds");
    let longest = std::thread::scope(|scope| {
        let kinds = (1..=12).map(|kind| {
            let target = stagedoor.target(&database).with("options", &format!("-c work_mem={kind}MB"));
            scope.spawn(move || {
                let mut client = Client::connect(&target).expect("a login");
                let mut longest = Duration::ZERO;
                for _ in 0..200 {
                    let asked = Instant::now();
                    assert_eq!(client.value("show work_mem"), format!("{kind}MB"));
                    longest = longest.max(asked.elapsed());
                }
                client.leave();
                longest
            })
        });
        let kinds: Vec<_> = kinds.collect();
        kinds.into_iter().map(|kind| kind.join().expect("no panic")).max()
    });
    let logins = stagedoor.metric("stagedoor_server_connections_opened_total", &[]);
    eprintln!(
        "          12 kinds on 4 servers: {logins} logins for 2400 statements, longest wait {longest:?}"
    );
    assert!(cluster.open(&database).0 <= 4);
    stagedoor.finish();
}
