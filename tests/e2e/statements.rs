//! Statements with names of the client's: whatever server runs them, they are what the client prepared.

use crate::support::compare::Worlds;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

fn parse(client: &mut Client, name: &str, sql: &str) {
    client.send(&[frames::parse(name, sql, &[]), frames::sync()].concat());
    client.ready();
}

fn run(client: &mut Client, name: &str) {
    let frames =
        [frames::bind("", name, &[]), frames::describe(b'P', ""), frames::execute("", 0), frames::sync()];
    client.send(&frames.concat());
    client.ready();
}

#[test]
fn what_was_prepared_after_a_table_changed_never_meets_an_older_plan() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 3 }");
    let worlds =
        Worlds::new(cluster, &stagedoor, "older_plan", "create table t (a int); insert into t values (1)");
    worlds.same_with(&|target| target, 3, |clients| {
        let [old, new, definer] = clients else { panic!("three clients") };
        // One server has a plan of the old table. Its client holds it while others work on the second one.
        parse(old, "s", "select * from t");
        run(old, "s");
        old.query("begin");
        definer.query("begin; alter table t add column b text default 'x'");
        parse(definer, "s", "select * from t");
        run(definer, "s");
        definer.query("commit");
        parse(new, "s", "select * from t");
        old.query("commit");
        // Now the first one is idle last, so it is taken next.
        run(new, "s");
        run(definer, "s");
        definer.query("begin; alter table t drop column b; rollback");
        run(new, "s");
        run(definer, "s");
    });
    worlds.end();
    stagedoor.finish();
}

#[test]
fn the_columns_that_a_client_was_told_of_hold() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 3 }");
    let worlds = Worlds::new(cluster, &stagedoor, "columns", "create table t as select 1 as a");
    worlds.same_with(&|target| target, 3, |clients| {
        let [told, holder, definer] = clients else { panic!("three clients") };
        let describe = [frames::describe(b'S', "s"), frames::sync()].concat();
        parse(told, "s", "select * from t");
        told.send(&describe);
        told.ready();
        run(told, "s");
        // The server that has its plan is busy: another one, which would plan for the table as it is now, takes it.
        holder.query("begin");
        definer.query("alter table t alter a type text using 'one'");
        run(told, "s");
        run(told, "s");
        told.query("begin");
        run(told, "s");
        run(told, "s");
        told.query("rollback");
        holder.query("commit");
        run(told, "s");
        definer.query("drop table t; create table t as select 2 as a");
        run(told, "s");
        told.send(&[frames::close(b'S', "s"), frames::sync()].concat());
        told.ready();
        definer.query("alter table t alter a type text");
        parse(told, "s", "select * from t");
        told.send(&describe);
        told.ready();
        run(told, "s");
    });
    worlds.end();
    stagedoor.finish();
}

#[test]
fn constants_stay_as_they_were_read_when_their_statement_was_parsed() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 5 }");
    let worlds =
        Worlds::new(cluster, &stagedoor, "constants", "create table t (a int); insert into t values (1)");
    let constant = "select timestamptz '2026-01-02 03:04:05', date '1/2/2026', interval '1-2' from t";
    worlds.same_with(&|target| target, 4, |clients| {
        let [reader, other, third, fourth] = clients else { panic!("four clients") };
        reader.query("set timezone to 'UTC'");
        parse(reader, "s", constant);
        reader.query(
            "set timezone to 'Asia/Tokyo'; set datestyle to 'German'; set intervalstyle to 'sql_standard'",
        );
        run(reader, "s");
        // Whoever takes the server that has it leaves the reader another one, which reads it by other settings.
        other.query("begin; set local timezone to 'Europe/Berlin'");
        run(reader, "s");
        third.query("begin");
        run(reader, "s");
        // Behind others of its batch, before any of it is done, and in a transaction.
        fourth.query("begin");
        for client in [&mut *other, third] {
            client.query("commit");
        }
        reader.send(
            &[
                frames::parse("", "set timezone to 'America/Lima'", &[]),
                frames::bind("", "", &[]),
                frames::execute("", 0),
                frames::bind("", "s", &[]),
                frames::execute("", 0),
                frames::parse(
                    "",
                    "select current_setting('timezone'), timestamptz '2026-01-02 03:04:05'",
                    &[],
                ),
                frames::bind("", "", &[]),
                frames::execute("", 0),
                frames::sync(),
            ]
            .concat(),
        );
        reader.ready();
        other.query("begin");
        reader.query("begin; set local timezone to 'Europe/Berlin'");
        run(reader, "s");
        reader.query("show timezone; savepoint a; set timezone to 'Asia/Kolkata'");
        run(reader, "s");
        reader.query("show timezone; rollback to a; show timezone");
        reader.query("execute s; show datestyle; commit; show timezone");
        reader.query("select name, setting, source from pg_settings where name in ('TimeZone', 'DateStyle')");
        // Planned anew, constants are read anew, and stay as they are then.
        reader.query("set search_path to public, pg_catalog");
        run(reader, "s");
        reader.query("set timezone to 'UTC'");
        run(reader, "s");
        third.query("begin");
        run(reader, "s");
        for client in [&mut *other, third, fourth] {
            client.query("commit");
        }
        reader.send(&[frames::close(b'S', "s"), frames::sync()].concat());
        reader.ready();
    });
    worlds.end();
    stagedoor.finish();
}

#[test]
fn constants_that_a_transaction_reads_for_itself_alone_stay_when_it_is_over() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 4 }");
    let worlds =
        Worlds::new(cluster, &stagedoor, "own_constants", "create table t (a int); insert into t values (1)");
    let constant = "select timestamptz '2026-01-02 03:04:05', '\u{e9}' from t";
    worlds.same_with(&|target| target, 3, |clients| {
        let [reader, other, third] = clients else { panic!("three clients") };
        reader.query("begin; set local timezone to 'America/Lima'");
        parse(reader, "s", constant);
        run(reader, "s");
        reader.query("commit");
        run(reader, "s");
        other.query("begin");
        run(reader, "s");
        // The same bytes mean something else in another encoding.
        reader.query("set client_encoding to 'LATIN1'");
        run(reader, "s");
        third.query("begin");
        run(reader, "s");
        reader.query("show client_encoding; reset client_encoding");
        run(reader, "s");
        for client in [&mut *other, third] {
            client.query("commit");
        }
        run(reader, "s");
        reader.send(&[frames::close(b'S', "s"), frames::sync()].concat());
        reader.ready();
    });
    worlds.end();
    stagedoor.finish();
}

#[test]
fn more_statements_than_a_server_keeps_are_all_there_in_the_middle_of_a_pipeline() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let worlds =
        Worlds::new(cluster, &stagedoor, "evicted", "create table t (a int); insert into t values (1)");
    let all = 0..450;
    worlds.same_with(&|target| target, 2, |clients| {
        let name = |number: usize| format!("s{number}");
        for client in &mut *clients {
            let parses = all
                .clone()
                .map(|number| frames::parse(&name(number), &format!("select {number}, a from t"), &[]));
            client.send(&[parses.collect::<Vec<_>>().concat(), frames::sync()].concat());
            client.ready();
        }
        for client in &mut *clients {
            // One batch, in an order in which the oldest are asked for first, and one that fails in the middle.
            let run = |number: usize| [frames::bind("", &name(number), &[]), frames::execute("", 0)].concat();
            let whole = all.clone().map(run).collect::<Vec<_>>().concat();
            client.send(&[whole, frames::sync()].concat());
            client.ready();
            // What is wrong with one that has had to go is said in the client's words.
            let wrong = frames::bind("", &name(0), &[Some("one too many")]);
            let whole = all.clone().map(run).collect::<Vec<_>>().concat();
            client.send(&[run(0), whole, wrong, frames::sync()].concat());
            client.ready();
            let part = (0..300).map(run).collect::<Vec<_>>().concat();
            let failing = frames::parse("bad", "selekt", &[]);
            client.send(&[part.clone(), failing, part, frames::sync()].concat());
            client.ready();
            for number in [0, 299, 449] {
                client.send(&[run(number), frames::sync()].concat());
                client.ready();
            }
        }
    });
    let kept = stagedoor.metric("stagedoor_statements_cached", &[]);
    assert!((1.0..=400.0).contains(&kept), "{kept} statements are kept on two servers");
    worlds.end();
    stagedoor.finish();
}

/// PostgreSQL looks at a Bind before it looks at the transaction, and describes what returns no rows even in one that has
/// failed, where nothing can be prepared.
#[test]
fn a_server_that_never_had_a_statement_refuses_it_like_the_one_that_had() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 4 }");
    let worlds = Worlds::new(cluster, &stagedoor, "refused", "create table t (a int)");
    worlds.same_with(&|target| target, 3, |clients| {
        let [reader, other, third] = clients else { panic!("three clients") };
        let parses = [
            frames::parse("row", "select $1::int, $2::text", &[]),
            frames::parse("silent", "insert into t values ($1)", &[23]),
            frames::parse("end", "rollback", &[]),
            frames::parse("", "select $1::text", &[]),
        ];
        reader.send(&[parses.concat(), frames::sync()].concat());
        reader.ready();
        let wrong = |name: &str| [frames::bind("", name, &[Some("1"); 3]), frames::sync()].concat();
        let right = |name: &str, count: usize| {
            [frames::bind("", name, &vec![Some("1"); count]), frames::execute("", 0), frames::sync()].concat()
        };
        // Whoever takes the server that has them leaves the reader another one.
        other.query("begin");
        reader.send(&[wrong("row"), wrong("silent"), wrong("end"), wrong("")].concat());
        (0..4).for_each(|_| drop(reader.ready()));
        third.query("begin");
        reader.query("begin; select 1 / 0");
        reader.send(
            &[wrong("row"), right("row", 2), wrong("silent"), right("silent", 1), wrong("end")].concat(),
        );
        (0..5).for_each(|_| drop(reader.ready()));
        reader.send(
            &[frames::describe(b'S', "silent"), frames::describe(b'S', "end"), frames::sync()].concat(),
        );
        reader.ready();
        // It is not known yet whether the transaction has failed.
        reader.send(
            &[right("end", 0), frames::query("begin; selekt"), frames::query("begin; select 1 / 0")].concat(),
        );
        reader.send(
            &[wrong("row"), frames::describe(b'S', "silent"), frames::sync(), right("end", 0)].concat(),
        );
        (0..6).for_each(|_| drop(reader.ready()));
        reader.send(&right("silent", 1));
        reader.ready();
        for client in [other, third] {
            client.query("commit");
        }
    });
    worlds.end();
    stagedoor.finish();
}

#[test]
fn constants_are_read_once_more_behind_discard_plans_and_bytes_are_not() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 4 }");
    let worlds = Worlds::new(cluster, &stagedoor, "replanned", "");
    worlds.same_with(&|target| target, 3, |clients| {
        let [reader, other, third] = clients else { panic!("three clients") };
        for client in [&mut *reader, other] {
            client.query("set timezone to 'UTC'");
            parse(client, "s", "select timestamptz '2026-01-02 03:04:05' as \"\u{e9}\"");
            client.query("set timezone to 'Asia/Tokyo'; set client_encoding to 'LATIN1'");
            run(client, "s");
        }
        reader.query("discard plans");
        run(reader, "s");
        // Another client's are as they were, on the same server.
        run(other, "s");
        other.query("begin");
        run(reader, "s");
        third.query("begin; set local timezone to 'America/Lima'");
        run(reader, "s");
        run(other, "s");
        for client in [other, third] {
            client.query("commit");
        }
    });
    worlds.end();
    stagedoor.finish();
}

/// `exec_simple_query` and `exec_parse_message` drop the unnamed statement once they have their text.
#[test]
fn the_unnamed_statement_outlives_what_cannot_be_read() {
    unnamed_outlives("pool: { maxServers: 2 }");
    unnamed_outlives("pool: { maxServers: 3, mode: session }");
}

fn unnamed_outlives(settings: &str) {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, settings);
    let worlds = Worlds::new(cluster, &stagedoor, "unread", "");
    let unreadable = [
        frames::frame(b'Q', b"select '\xe9'\0"),
        frames::frame(b'Q', b"select 1\0behind"),
        [frames::frame(b'P', b"\0select '\xe9'\0\0\0"), frames::sync()].concat(),
        [frames::frame(b'P', b"\0select 1\0\0\0behind"), frames::sync()].concat(),
    ];
    worlds.same_with(&|target| target, 2, |clients| {
        let [client, stranger] = clients else { panic!("two clients") };
        for words in &unreadable {
            parse(client, "", "select 'mine'");
            client.send(words);
            client.ready();
            run(client, "");
            client.query("select '\u{e9}' / 0");
            run(client, "");
            // A stranger's is not found in its place.
            parse(stranger, "", "select 'a secret'");
            client.send(words);
            client.ready();
            run(client, "");
            client.send(&[frames::close(b'S', ""), words.clone()].concat());
            client.ready();
            run(client, "");
        }
    });
    worlds.end();
    stagedoor.finish();
}
