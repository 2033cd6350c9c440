//! Many clients share few servers, and none of them can tell.

use std::time::Duration;

use crate::support::compare::Worlds;
use crate::support::deadline::PATIENCE;
use crate::support::deadline::until;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

#[test]
fn twenty_clients_share_two_servers() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("share");
    stagedoor.connect(&database).rows("create table ledger (client int, round int)");
    std::thread::scope(|scope| {
        for number in 0..20 {
            let (stagedoor, database) = (&stagedoor, &database);
            scope.spawn(move || {
                let mut client = stagedoor.connect(database);
                for round in 0..25 {
                    client.rows("begin");
                    client.rows(&format!("insert into ledger values ({number}, {round})"));
                    let mine = client.value(&format!("select count(*) from ledger where client = {number}"));
                    assert_eq!(mine, ((round + 1) / 2 + 1).to_string());
                    client.rows(if round % 2 == 0 { "commit" } else { "rollback" });
                    assert!(cluster.open(database).0 <= 2);
                }
                client.leave();
            });
        }
    });
    let mut client = stagedoor.connect(&database);
    assert_eq!(client.value("select count(*) from ledger"), (20 * 13).to_string());
    client.leave();
    stagedoor.finish();
}

#[test]
fn two_databases_share_the_budget_and_neither_starves() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let databases = ["budget_a", "budget_b", "budget_c"].map(|label| cluster.database(label));
    std::thread::scope(|scope| {
        for database in databases.iter().flat_map(|database| [database; 4]) {
            let stagedoor = &stagedoor;
            scope.spawn(move || {
                let mut client = stagedoor.connect(database);
                for _ in 0..10 {
                    assert_eq!(&client.value("select current_database()"), database);
                }
                client.leave();
            });
        }
    });
    let open: usize = databases.iter().map(|database| cluster.open(database).0).sum();
    assert!(open <= 2, "{open}");
    stagedoor.finish();
}

#[test]
fn a_transaction_keeps_its_server_and_others_use_the_rest() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("keep");
    let [mut holder, mut other, mut third] = [(); 3].map(|()| stagedoor.connect(&database));
    holder.rows("begin");
    let held = holder.backend();
    for _ in 0..10 {
        assert_ne!(other.backend(), held);
        assert_ne!(third.backend(), held);
        assert_eq!(holder.backend(), held);
    }
    holder.rows("commit");
    drop((holder, other, third));
    stagedoor.finish();
}

#[test]
fn every_shape_of_query_answers_as_without_stagedoor() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let worlds =
        Worlds::new(cluster, &stagedoor, "shapes", "create table things (n int primary key, t text)");
    worlds.same(|client| {
        for sql in [
            "",
            ";",
            "select 1; select 2; select nonsense; select 3",
            "insert into things values (1, 'a'), (2, null) returning *",
            "insert into things values (1, 'again')",
            "begin; insert into things values (3, 'c'); select * from things order by n",
            "select * from nowhere",
            "select 1",
            "rollback",
            "begin",
            "savepoint s",
            "select 1/0",
            "rollback to s",
            "commit",
            "commit",
            "do $$ begin raise notice 'hello'; raise warning 'hm'; end $$",
            "begin; select 1; commit; begin; select 2",
            "prepare transaction 'nothing was done'",
            "rollback prepared 'nothing was done'",
            "select repeat('x', 100000)",
            "table things",
        ] {
            client.query(sql);
        }
    });
    worlds.end();
    stagedoor.finish();
}

#[test]
fn every_shape_of_pipeline_answers_as_without_stagedoor() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let setup = "create table things (n int primary key, t text); insert into things select n, 't' from generate_series(1, 9) n";
    let worlds = Worlds::new(cluster, &stagedoor, "pipelines", setup);
    worlds.same(|client| {
        client.extended("select $1::int + 1", &[Some("41")]);
        client.extended("select $1::int + 1", &[None]);
        client.extended("selekt", &[]);
        client.extended("select 1 / $1::int", &[Some("0")]);
        client.extended("", &[]);
        pipelined(client);
        named(client);
        portals(client);
    });
    worlds.end();
    stagedoor.finish();
}

/// Several statements before one Sync, an error in their midst, and a unnamed statement that outlives Sync.
fn pipelined(client: &mut Client) {
    let insert = |n: &str| {
        let sql = "insert into things values ($1, 'new')";
        [frames::parse("", sql, &[]), frames::bind("", "", &[Some(n)]), frames::execute("", 0)].concat()
    };
    client.send(&[insert("101"), insert("102"), insert("101"), insert("103"), frames::sync()].concat());
    client.ready();
    client.query("select n from things where n > 100");
    client.send(
        &[frames::parse("", "select $1::text", &[25]), frames::describe(b'S', ""), frames::sync()].concat(),
    );
    client.ready();
    client.send(&[frames::bind("", "", &[Some("later")]), frames::execute("", 0), frames::sync()].concat());
    client.ready();
    client.send(&[frames::sync(), frames::sync(), frames::query("select 'after two'")].concat());
    for _ in 0..3 {
        client.ready();
    }
    client.send(&[frames::parse("", "select 'flushed'", &[]), frames::flush()].concat());
    client.until(b'1');
    client.send(&[frames::bind("", "", &[]), frames::execute("", 0), frames::flush()].concat());
    client.until(b'C');
    client.send(&frames::sync());
    client.ready();
}

/// Named statements: twice the same name, unknown names, closing, and all of DEALLOCATE.
fn named(client: &mut Client) {
    let round = |frames: &[Vec<u8>]| [frames.concat(), frames::sync()].concat();
    for frames in [
        vec![frames::parse("one", "select n from things where n = $1", &[])],
        vec![frames::parse("one", "select 2", &[])],
        vec![frames::bind("", "one", &[Some("7")]), frames::describe(b'P', ""), frames::execute("", 0)],
        vec![frames::bind("", "unknown", &[]), frames::execute("", 0)],
        vec![frames::describe(b'S', "one")],
        vec![frames::close(b'S', "unknown")],
        vec![frames::close(b'S', "one"), frames::parse("one", "select 3", &[])],
        vec![frames::bind("", "one", &[]), frames::execute("", 0)],
        vec![frames::parse("broken", "selekt", &[])],
        vec![frames::bind("", "broken", &[])],
    ] {
        client.send(&round(&frames));
        client.ready();
    }
    client.query("deallocate all");
    client.send(&round(&[frames::bind("", "one", &[]), frames::execute("", 0)]));
    client.ready();
}

/// Portals with a row limit, suspended and resumed within a transaction, and lost at its end.
fn portals(client: &mut Client) {
    client.query("begin");
    let open = [
        frames::parse("", "select n from things where n < 10 order by n", &[]),
        frames::bind("slow", "", &[]),
        frames::execute("slow", 4),
        frames::sync(),
    ];
    client.send(&open.concat());
    client.ready();
    client.query("select 'between'");
    client.send(&[frames::execute("slow", 4), frames::execute("slow", 0), frames::sync()].concat());
    client.ready();
    client.query("commit");
    client.send(&[frames::execute("slow", 0), frames::sync()].concat());
    client.ready();
}

#[test]
fn what_a_client_leaves_open_is_undone_before_the_next_one() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("leave");
    let [mut client, mut holder] = [(); 2].map(|()| stagedoor.connect(&database));
    client.rows("create table things (n int)");
    // Only one server is left to whoever comes and goes.
    holder.rows("begin");
    // Gone in a transaction, in a failed one, in a running query, in COPY, while an answer comes.
    for last_words in [
        frames::query("begin; insert into things values (1)"),
        frames::query("begin; select 1/0"),
        frames::query("begin; insert into things values (1); select pg_sleep(60)"),
        frames::query("copy things from stdin"),
        frames::query("select repeat('x', 1000) from generate_series(1, 200000)"),
    ] {
        let mut leaver = stagedoor.connect(&database);
        leaver.send(&last_words);
        // Something has come back, or the server is at work on it.
        leaver.silent(Duration::from_millis(100));
        drop(leaver);
        assert_eq!(client.value("select count(*) from things"), "0", "{}", last_words.escape_ascii());
    }
    assert!(cluster.open(&database).0 <= 2);
    client.leave();
    holder.leave();
    stagedoor.finish();
}

#[test]
fn what_had_no_sync_is_undone_when_its_client_is_gone() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let worlds = Worlds::new(cluster, &stagedoor, "no_sync", "create table things (n int)");
    for target in [&worlds.direct, &worlds.through] {
        let mut leaver = Client::connect(target).expect("a login");
        let insert = frames::parse("", "insert into things values (1)", &[]);
        leaver.send(&[insert, frames::bind("", "", &[]), frames::execute("", 0), frames::flush()].concat());
        leaver.until(b'C');
        drop(leaver);
        let mut client = Client::connect(target).expect("a login");
        // Waits for the leaver's transaction to end, however it ends.
        client.rows("begin; lock table things in access exclusive mode; commit");
        assert_eq!(client.value("select count(*) from things"), "0", "{target:?}");
        client.leave();
    }
    worlds.end();
    stagedoor.finish();
}

#[test]
fn a_server_that_dies_is_an_error_in_a_transaction_and_nothing_to_who_is_idle() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("dies");
    let [mut idle, mut busy] = [(); 2].map(|()| stagedoor.connect(&database));
    idle.value("select 1");
    busy.rows("begin");
    let backend = busy.backend();
    cluster.admin(&format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}' and client_addr is not null"
    ));
    until("the backend is gone", PATIENCE, || {
        cluster
            .admin(&format!("select 1 from pg_stat_activity where pid = {backend}"))
            .is_empty()
            .then_some(())
    });
    busy.try_send(&frames::query("select 1"));
    let told = busy.last_words().error().expect("PostgreSQL's last words");
    assert!(["57P01", "08006"].contains(&told.sqlstate.as_str()), "{told:?}");
    assert_eq!(idle.value("select 1"), "1");
    idle.leave();
    stagedoor.finish();
}
