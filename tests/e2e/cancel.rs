//! A cancel request ends the query that is meant, and never another one.

use std::time::Duration;
use std::time::Instant;

use crate::support::compare::Worlds;
use crate::support::deadline::PATIENCE;
use crate::support::deadline::until;
use crate::support::dice::Dice;
use crate::support::frames;
use crate::support::message::Reply;
use crate::support::postgres::Cluster;
use crate::support::postgres::USER;
use crate::support::raw::Client;
use crate::support::raw::Target;
use crate::support::stagedoor::Stagedoor;
use crate::support::stagedoor::events;

const SLEEP: &str = "select pg_sleep(30)";

fn asleep(cluster: &Cluster, database: &str, count: usize) {
    let sql =
        format!("select 1 from pg_stat_activity where datname = '{database}' and wait_event = 'PgSleep'");
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

/// What comes back for `bytes`, which may be followed by the end of what the client says.
fn answer(target: &Target, bytes: &[u8]) -> Vec<u8> {
    let mut stranger = target.open().expect("a connection");
    // Where the length alone is refused, the rest may find nobody to read it.
    let _ = stranger.try_send(bytes);
    stranger.say_no_more();
    stranger.rest()
}

fn login(target: &Target, version: u32) -> Client {
    let mut client = target.open().expect("a connection");
    client.send(&target.startup(version));
    client.log_in().expect("a login");
    client
}

#[test]
fn whatever_is_not_the_very_key_cancels_nothing_and_hears_nothing() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("wrong_key");
    let target = stagedoor.target(&database);
    for version in [frames::VERSION_3_0, frames::VERSION_3_0 + 2] {
        let mut client = login(&target, version);
        let (pid, key) = (client.pid, client.key.clone());
        assert_eq!(key.len(), if version == frames::VERSION_3_0 { 4 } else { 32 });
        client.send(&frames::query(SLEEP));
        asleep(cluster, &database, 1);
        let mut wrong: Vec<Vec<u8>> = Vec::new();
        wrong.extend((0..key.len() * 8).map(|bit| {
            let mut near = key.clone();
            near[bit / 8] ^= 1 << (bit % 8);
            frames::cancel(pid, &near)
        }));
        wrong.extend(
            [pid ^ 1, pid + 1, pid - 1, -pid, 0, 1, i32::MIN, i32::MAX].map(|pid| frames::cancel(pid, &key)),
        );
        let lengths = (0..=300).chain([1000, 9_988, 9_989, 20_000]).filter(|length| *length != key.len());
        wrong.extend(lengths.map(|length| {
            frames::cancel(pid, &key.iter().copied().cycle().take(length).collect::<Vec<_>>())
        }));
        let right = frames::cancel(pid, &key);
        wrong.extend((0..right.len()).map(|end| right[..end].to_vec()));
        for length in [0, 1, 7, 8, 11, 12, 15, 17, 10_001, 1 << 24, u32::MAX] {
            wrong.push([&length.to_be_bytes(), &right[4..]].concat());
        }
        for bytes in &wrong {
            assert_eq!(answer(&target, bytes), b"", "{bytes:?}");
        }
        asleep(cluster, &database, 1);
        assert_eq!(answer(&target, &right), b"");
        assert_eq!(client.ready().sqlstate(), "57014");
        client.leave();
    }
    stagedoor.finish();
}

#[test]
fn a_key_dies_with_its_client() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("stale_key");
    let target = stagedoor.target(&database);
    let mut holder = stagedoor.connect(&database);
    holder.rows("begin");
    let mut gone = stagedoor.connect(&database);
    let server = gone.backend();
    let (pid, key) = (gone.pid, gone.key.clone());
    gone.leave();
    let mut next = stagedoor.connect(&database);
    assert_eq!(next.backend(), server, "the same server serves another");
    next.send(&frames::query(SLEEP));
    asleep(cluster, &database, 1);
    target.cancel(pid, &key);
    assert!(stagedoor.metric("stagedoor_cancels_total", &[]) < 1.0, "it is passed on to nobody");
    asleep(cluster, &database, 1);
    target.cancel(next.pid, &next.key);
    assert_eq!(next.ready().sqlstate(), "57014");
    drop((holder, next));
    stagedoor.finish();
}

#[test]
fn a_hundred_cancels_at_once_are_one() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("hundred");
    let target = stagedoor.target(&database);
    let [mut sleeper, mut bystander] = [(); 2].map(|()| stagedoor.connect(&database));
    for client in [&mut sleeper, &mut bystander] {
        client.send(&frames::query(SLEEP));
    }
    asleep(cluster, &database, 2);
    let cancel = frames::cancel(sleeper.pid, &sleeper.key);
    let mut cancellers: Vec<Client> = (0..100).map(|_| target.open().expect("a connection")).collect();
    cancellers.iter_mut().for_each(|canceller| canceller.send(&cancel));
    assert_eq!(sleeper.ready().sqlstate(), "57014");
    assert!(cancellers.iter_mut().all(|canceller| canceller.rest().is_empty()));
    assert_eq!(sleeper.value("select 1"), "1");
    let sent = until("a line for each of a hundred cancels", PATIENCE, || {
        let log = stagedoor.log();
        let outcomes = |outcome| events(&log).iter().filter(|event| event["outcome"] == outcome).count();
        let (sent, joined) = (outcomes("passed on"), outcomes("passed on with another"));
        (sent + joined + outcomes("nothing to cancel") == 100).then_some(sent)
    });
    assert!((1..50).contains(&sent), "{sent} were sent, each on a connection of its own");
    asleep(cluster, &database, 1);
    target.cancel(bystander.pid, &bystander.key);
    assert_eq!(bystander.ready().sqlstate(), "57014");
    drop((sleeper, bystander));
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
    let mut clients: Vec<Client> = (0..100).map(|_| stagedoor.connect(&database)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let simple = frames::query("select 'never'");
        let extended = [
            frames::parse("", "select 'never'", &[]),
            frames::bind("", "", &[]),
            frames::execute("", 0),
            frames::sync(),
            frames::query("select 'later'"),
        ];
        client.send(&if number % 2 == 0 { extended.concat() } else { simple });
    }
    waiting(&stagedoor, 100);
    for client in &clients {
        stagedoor.target(&database).cancel(client.pid, &client.key);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.ready().sqlstate(), "57014", "client {number}");
    }
    // Of each pipeline the first batch was cancelled, and the next one waits now.
    waiting(&stagedoor, 50);
    holders.iter_mut().for_each(|holder| {
        holder.rows("commit");
    });
    for (number, client) in clients.iter_mut().enumerate() {
        if number % 2 == 0 {
            assert_eq!(client.ready().rows_text(), ["later"]);
        }
        assert_eq!(client.value("select 1"), "1");
    }
    drop((clients, holders));
    stagedoor.finish();
}

fn waiting(stagedoor: &Stagedoor, count: usize) {
    until(&format!("{count} clients wait"), PATIENCE, || {
        let now = stagedoor.metric("stagedoor_client_connections", &["state=\"waiting\""]);
        (now.to_string() == count.to_string()).then_some(())
    });
}

#[test]
fn a_thousand_cancels_that_come_as_the_query_ends_hit_no_other_client() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 5 }");
    let database = cluster.database("late");
    let target = stagedoor.target(&database);
    let mut holder = stagedoor.connect(&database);
    holder.rows("begin");
    let hits: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn({
                    let target = &target;
                    move || cancel_late(target, 250, number)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).sum()
    });
    eprintln!("{hits} of 1000 cancels came in time");
    // What they left behind is as good as new.
    drop(holder);
    let mut all = [(); 5].map(|()| stagedoor.connect(&database));
    for client in &mut all {
        assert_eq!(client.query("begin; select pg_sleep(0.2)").error(), None);
    }
    drop(all);
    stagedoor.finish();
}

/// Cancels queries of a millisecond as they end, while another client takes the same server. How many were hit.
fn cancel_late(target: &Target, rounds: usize, seed: u64) -> usize {
    let mut dice = Dice::new(seed);
    let [mut quick, mut next] = [(); 2].map(|()| Client::connect(target).expect("a login"));
    let mut hits = 0;
    for round in 0..rounds {
        let mut canceller = target.open().expect("a connection");
        // Some queries leave a question to ask behind them.
        let touch = if dice.below(4) == 0 { "; set work_mem to '5MB'" } else { "" };
        quick.send(&frames::query(&format!("select pg_sleep(0.00{}){touch}", dice.below(8))));
        canceller.send(&frames::cancel(quick.pid, &quick.key));
        let sqlstate = quick.ready().sqlstate();
        assert!(["", "57014"].contains(&sqlstate.as_str()), "{sqlstate}");
        hits += usize::from(sqlstate == "57014");
        // The same server, at once: nothing may interrupt this.
        assert_eq!(next.query("select pg_sleep(0.002)").error(), None, "round {round} of {seed}");
        assert_eq!(canceller.rest(), b"");
    }
    quick.leave();
    next.leave();
    hits
}

/// Has `client` say `sql` while nobody can read the relation `locked`, cancels when somebody waits for that, and
/// does `meanwhile` with who cancelled before the relation is free again.
fn cancel_behind_lock(
    (cluster, client): (&Cluster, &mut Client),
    (sql, locked): (&str, &str),
    meanwhile: impl Fn(&mut Client),
) -> Reply {
    let database = client.target().database.clone();
    let mut admin = cluster.superuser(&database);
    admin.rows(&format!("begin; lock table {locked}"));
    client.send(&frames::query(sql));
    let blocked = format!(
        "select 1 from pg_stat_activity where datname = '{database}' and usename = '{USER}' and wait_event_type = 'Lock'"
    );
    until("a server waits for the lock", PATIENCE, || (cluster.admin(&blocked).len() == 1).then_some(()));
    let mut canceller = client.target().open().expect("a connection");
    canceller.send(&frames::cancel(client.pid, &client.key));
    meanwhile(&mut canceller);
    admin.rows("commit");
    assert_eq!(canceller.rest(), b"");
    client.ready()
}

#[test]
fn a_cancel_while_a_server_learns_to_speak_as_the_client_is_not_lost() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("hand_over");
    let [mut holder, mut client, mut other] = [(); 3].map(|()| stagedoor.connect(&database));
    holder.rows("begin");
    cluster.admin_in(&database, "create text search configuration mine (copy = simple)");
    client.rows("set default_text_search_config to 'public.mine'");
    other.rows("select 1");
    // So that the server looks it up anew.
    cluster.admin_in(&database, &format!("alter text search configuration mine owner to {USER}"));
    let reply = cancel_behind_lock((cluster, &mut client), ("select 1", "pg_ts_config"), |canceller| {
        assert_eq!(canceller.rest(), b"");
    });
    assert_eq!(reply.sqlstate(), "57014");
    assert_eq!(client.value("show default_text_search_config"), "public.mine");
    assert_eq!(other.value("select 1"), "1");
    drop((holder, client, other));
    stagedoor.finish();
}

#[test]
fn a_cancel_that_comes_late_does_not_hit_a_question_of_ours() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("our_question");
    let [mut holder, mut client, mut other] = [(); 3].map(|()| stagedoor.connect(&database));
    holder.rows("begin");
    client.rows("select 1");
    // What the probe reads.
    let statement = ("set work_mem to '5MB'", "pg_settings");
    let reply = cancel_behind_lock((cluster, &mut client), statement, |canceller| {
        assert!(canceller.silent(Duration::from_millis(300)), "it waits until our question is answered");
    });
    assert_eq!(reply.error(), None);
    assert_eq!(other.value("show work_mem"), "4MB");
    assert_eq!(client.value("show work_mem"), "5MB");
    assert!(stagedoor.metric("stagedoor_pins_total", &[]) < 0.5, "nothing keeps the server");
    drop((holder, client, other));
    stagedoor.finish();
}

/// Waits until `query` runs in `database`, as `doing` says beyond that.
fn busy_with(cluster: &Cluster, database: &str, query: &str, doing: &str) {
    let sql = format!(
        "select 1 from pg_stat_activity where datname = '{database}' and state = 'active' and {doing} \
         and query like '{query}%'"
    );
    until(&format!("{query} runs"), PATIENCE, || (!cluster.admin(&sql).is_empty()).then_some(()));
}

fn busy(cluster: &Cluster, database: &str, query: &str) {
    busy_with(cluster, database, query, "wait_event = 'PgSleep'");
}

#[test]
fn a_cancel_at_any_moment_says_what_it_says_without_stagedoor() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let worlds = Worlds::new(cluster, &stagedoor, "cancel_moments", "create table copied (line text)");
    let cancel = |client: &Client| client.target().cancel(client.pid, &client.key);
    let run = |client: &mut Client, frames: &[u8], query: &str| {
        client.send(frames);
        busy(cluster, &client.target().database, query);
        client.target().cancel(client.pid, &client.key);
    };
    worlds.same(|client| {
        // At rest, and in a transaction that rests.
        cancel(client);
        client.query("begin; insert into copied values ('one')");
        cancel(client);
        client.query("select * from copied; rollback");
        // On a server that it keeps.
        client.query("listen stage");
        run(client, &frames::query(SLEEP), "select pg_sleep");
        client.ready();
        client.query("unlisten stage");
        // In a transaction, and in a text of many statements.
        run(client, &frames::query("begin; select 1; select pg_sleep(30); select 2"), "begin");
        client.ready();
        client.query("rollback");
    });
    worlds.same(|client| {
        // COPY out and in.
        let copy = "copy (select n, pg_sleep(0.01) from generate_series(1, 3000) n) to stdout";
        client.send(&frames::query(copy));
        busy(cluster, &client.target().database, "copy");
        cancel(client);
        let reply = client.ready();
        // How many lines came before is chance.
        client.transcript.retain(|line| !line.starts_with('d'));
        assert_eq!(reply.sqlstate(), "57014");
        client.send(&frames::query("copy copied from stdin"));
        client.until(b'G');
        busy_with(cluster, &client.target().database, "copy copied", "wait_event = 'ClientRead'");
        cancel(client);
        client
            .send(&[frames::copy_data(b"one\n"), frames::copy_data(b"two\n"), frames::copy_done()].concat());
        client.ready();
        client.query("select * from copied");
    });
    worlds.same(|client| {
        // One of three batches of a pipeline, each with its Sync; and an error that skips the rest of a batch.
        let batch = |sql: &str| {
            [frames::parse("", sql, &[]), frames::bind("", "", &[]), frames::execute("", 0)].concat()
        };
        let pipeline = [
            batch("insert into copied values ('kept')"),
            frames::sync(),
            batch("insert into copied values ('gone')"),
            batch(SLEEP),
            batch("select 'skipped'"),
            frames::sync(),
            batch("select * from copied"),
            frames::sync(),
        ];
        run(client, &pipeline.concat(), "select pg_sleep");
        for _ in 0..3 {
            client.ready();
        }
        let portal = [
            frames::parse("slow", "select n, pg_sleep(0.1) from generate_series(1, 100) n", &[]),
            frames::bind("", "slow", &[]),
            frames::execute("", 0),
            frames::sync(),
        ];
        run(client, &portal.concat(), "select n");
        client.ready();
        client.transcript.retain(|line| !line.starts_with('D'));
        client.query("select 1");
    });
    worlds.end();
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
