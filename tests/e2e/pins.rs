//! What cannot be moved to another server keeps its client on this one, until it is gone.

use std::time::Duration;

use crate::support::compare::Worlds;
use crate::support::deadline::PATIENCE;
use crate::support::deadline::until;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

/// What makes a pin, what shows that it is there, and what takes it away.
struct Claim {
    reason: &'static str,
    make: &'static str,
    show: &'static str,
    release: &'static str,
}

const CLAIMS: &[Claim] = &[
    Claim {
        reason: "temp_table",
        make: "create temp table mine as select 42 as n",
        show: "select n from mine",
        release: "drop table mine",
    },
    Claim {
        reason: "temp_table",
        make: "select 42 as n into temporary mine",
        show: "select n from mine",
        release: "discard temp",
    },
    Claim {
        reason: "temp_table",
        make: "create collation pg_temp.mine from \"C\"",
        show: "select to_regcollation('pg_temp.mine') is null",
        release: "drop collation pg_temp.mine",
    },
    Claim {
        reason: "advisory_lock",
        make: "select pg_advisory_lock(42)",
        show: "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() \
               and database = (select oid from pg_database where datname = current_database())",
        release: "select pg_advisory_unlock(42)",
    },
    Claim {
        reason: "advisory_lock",
        make: "select pg_try_advisory_lock_shared(1, 2)",
        show: "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        release: "select pg_advisory_unlock_all()",
    },
    Claim {
        reason: "listen",
        make: "listen stage",
        show: "select * from pg_listening_channels()",
        release: "unlisten *",
    },
    Claim {
        reason: "hold_cursor",
        make: "begin; declare slow cursor with hold for select n from generate_series(1, 5) n; fetch 2 from slow; commit",
        show: "fetch 1 from slow; move backward 1 from slow",
        release: "close slow",
    },
    Claim {
        reason: "prepared_statement",
        make: "prepare sum(int, int) as select $1 + $2",
        show: "execute sum(40, 2)",
        release: "deallocate sum",
    },
    Claim {
        reason: "sequence",
        make: "select nextval('numbers')",
        show: "select currval('numbers')",
        release: "discard all",
    },
    Claim {
        reason: "sequence",
        make: "select setval('numbers', 1000)",
        show: "select currval('numbers')",
        release: "discard sequences",
    },
];

fn pinned(stagedoor: &Stagedoor) -> f64 {
    stagedoor.metric("stagedoor_client_connections", &["state=\"pinned\""])
}

#[test]
fn each_pin_has_its_reason_holds_while_it_must_and_ends_when_it_may() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("pins");
    let [mut client, mut other] = [(); 2].map(|()| stagedoor.connect(&database));
    client.rows("create sequence numbers");
    for claim in CLAIMS {
        let label = format!("reason=\"{}\"", claim.reason);
        let before = stagedoor.metric("stagedoor_pins_total", &[&label]);
        client.rows(claim.make);
        let shown = client.rows(claim.show);
        for _ in 0..5 {
            other.rows("select 1");
            assert_eq!(client.rows(claim.show), shown, "{}", claim.make);
        }
        assert!(
            stagedoor.metric("stagedoor_pins_total", &[&label]) > before,
            "{} counts as {label}",
            claim.make
        );
        until(&format!("{} is seen as pinned", claim.make), PATIENCE, || {
            (pinned(&stagedoor) >= 1.0).then_some(())
        });
        client.rows(claim.release);
        until(&format!("{} releases", claim.release), PATIENCE, || (pinned(&stagedoor) < 1.0).then_some(()));
        client.rows("select 1");
    }
    drop((client, other));
    stagedoor.finish();
}

#[test]
fn a_pin_ends_with_its_client_and_leaves_nothing() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("pin_ends");
    let mut other = stagedoor.connect(&database);
    other.rows("create sequence numbers");
    for claim in CLAIMS {
        for politely in [true, false] {
            let mut client = stagedoor.connect(&database);
            client.rows(claim.make);
            if politely {
                client.leave()
            } else {
                drop(client)
            }
            until("no pin is left", PATIENCE, || (pinned(&stagedoor) < 1.0).then_some(()));
            // Both servers, whatever of them is left, are as new.
            let mut both = [(); 2].map(|()| stagedoor.connect(&database));
            for client in &mut both {
                client.rows("begin");
                let nothing = "select (select count(*) from pg_listening_channels()) + (select count(*) from pg_cursors) \
                               + (select count(*) from pg_prepared_statements where from_sql) \
                               + (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())";
                assert_eq!(client.value(nothing), "0", "{}", claim.make);
                assert_eq!(client.value("select to_regclass('mine') is null"), "t", "{}", claim.make);
            }
        }
    }
    drop(other);
    stagedoor.finish();
}

#[test]
fn whatever_leaves_something_in_the_session_answers_as_without_stagedoor() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 5 }");
    let worlds = Worlds::new(cluster, &stagedoor, "leaves", "create sequence numbers");
    for claim in CLAIMS {
        worlds.same_with(&|target| target, 2, |clients| {
            let sequence =
                [claim.show, claim.make, claim.show, "select 1", claim.show, claim.release, claim.show];
            for sql in sequence {
                for client in &mut *clients {
                    // Two of the claims would wait for each other's lock.
                    if claim.make.contains("pg_advisory_lock(") && client.target().parameters.is_empty() {
                        client.query("set lock_timeout to '200ms'");
                    }
                    client.query(sql);
                }
            }
        });
        for target in [&worlds.direct, &worlds.through] {
            let mut client = Client::connect(target).expect("a login");
            client.rows("alter sequence numbers restart");
            client.leave();
        }
    }
    worlds.end();
    stagedoor.finish();
}

#[test]
fn a_pin_made_in_a_transaction_that_rolls_back_is_none() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("no_pin");
    let mut client = stagedoor.connect(&database);
    for sql in [
        "begin; create temp table mine (n int); rollback",
        "begin; create temp table mine (n int) on commit drop; commit",
        "begin; listen stage; rollback",
        "begin; declare slow cursor with hold for select 1; rollback",
        "begin; select pg_advisory_xact_lock(42); commit",
        "begin; declare slow cursor for select 1; fetch all from slow; commit",
    ] {
        client.rows(sql);
        until(&format!("{sql} pins nothing"), PATIENCE, || (pinned(&stagedoor) < 1.0).then_some(()));
    }
    drop(client);
    stagedoor.finish();
}

#[test]
fn a_listener_hears_what_is_said_while_it_is_silent() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("listen");
    let [mut listener, mut speaker] = [(); 2].map(|()| stagedoor.connect(&database));
    listener.rows("listen stage");
    for turn in ["one", "two", "three"] {
        speaker.rows(&format!("notify stage, '{turn}'"));
        let heard = listener.until(b'A');
        assert!(String::from_utf8_lossy(&heard.0[0].body[4..]).contains(turn));
    }
    // Within a transaction of the listener's, notifications wait for its end.
    listener.rows("begin");
    speaker.rows("notify stage, 'four'");
    assert!(listener.silent(Duration::from_millis(300)));
    listener.send(&frames::query("commit"));
    let heard = listener.ready();
    let late = if heard.tags().contains('A') { heard } else { listener.until(b'A') };
    assert!(late.tags().contains('A'));
    drop((listener, speaker));
    stagedoor.finish();
}

#[test]
fn notifications_may_come_at_any_moment() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 3 }");
    let database = cluster.database("any_moment");
    let rounds = 150;
    std::thread::scope(|scope| {
        let [mut listener, mut speaker] = [(); 2].map(|()| stagedoor.connect(&database));
        listener.rows("listen stage");
        scope.spawn(move || {
            for round in 0..rounds {
                speaker.rows(&format!("notify stage, '{round}'"));
            }
            speaker.leave();
        });
        // Each of these makes stagedoor itself ask the server something, while notifications come.
        let mut heard = 0;
        let mut questions =
            ["set work_mem to '5MB'", "select 1", "unlisten other", "listen stage"].iter().cycle();
        while heard < rounds {
            let reply = listener.query(questions.next().expect("an endless cycle"));
            assert_eq!(reply.error(), None);
            heard += reply.tags().matches('A').count();
        }
        listener.rows("unlisten *");
        listener.leave();
    });
    stagedoor.finish();
}

#[test]
fn a_table_that_search_path_makes_temporary_is_seen_by_its_client_alone() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 3 }");
    let worlds = Worlds::new(cluster, &stagedoor, "temp_path", "");
    // Named, and parsed before, so that nothing is read where it runs.
    let parse = [frames::parse("make", "create table mine (n int)", &[]), frames::sync()].concat();
    let run = [frames::bind("", "make", &[]), frames::execute("", 0), frames::sync()].concat();
    let rows: [&[Vec<u8>]; 4] = [
        &[frames::query("set search_path to pg_temp"), frames::query("create table mine (n int)")],
        &[frames::query("set search_path to pg_temp, public"), frames::query("select 1 as n into mine")],
        &[
            frames::query("begin; select set_config('search_path', 'pg_temp', true)"),
            frames::query("create table mine (n int)"),
            frames::query("commit"),
        ],
        &[parse, frames::query("set search_path to pg_temp"), run],
    ];
    for makes in rows {
        worlds.same_with(&|target| target, 2, |clients| {
            for frames in makes {
                clients[0].send(frames);
                clients[0].ready();
            }
            clients[1].query("select * from mine");
            clients[0].query("select * from pg_temp.mine");
            clients[0].query("drop table pg_temp.mine");
        });
    }
    worlds.end();
    stagedoor.finish();
}

#[test]
fn what_a_columns_default_took_from_a_sequence_for_one_client_is_not_told_another() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let worlds = Worlds::new(cluster, &stagedoor, "hidden_nextval", "create table t (id serial, n int)");
    let insert = "insert into t (n) values (1)";
    for ask in ["select lastval()", "select currval('t_id_seq')"] {
        worlds.same_with(&|target| target, 2, |clients| {
            clients[0].query(insert);
            clients[1].query(ask);
            clients[1].query(insert);
            clients[1].query(ask);
            clients[1].query("discard sequences");
            clients[1].query(ask);
            clients[1].query("discard all");
            clients[0].query("begin");
            clients[0].query(insert);
            clients[0].query(ask);
            clients[0].query("commit");
            clients[0].query(ask);
            clients[0].query("discard all");
            clients[1].extended(ask, &[]);
        });
    }
    assert_eq!(worlds.servers(), 1);
    worlds.end();
    stagedoor.finish();
}
