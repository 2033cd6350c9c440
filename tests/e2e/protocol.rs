//! The corners of the protocol, each compared with PostgreSQL itself: what is malformed, out of turn or cut short gets
//! the same answer, and the connection lives on or ends as it would there.

use crate::support::compare::Worlds;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

const SETUP: &str = "create table things (n int primary key, t text); create table guarded (n int, t text); \
     create function refuse() returns trigger language plpgsql as $$ begin raise 'refused'; end $$; \
     create trigger refuse before insert on guarded execute function refuse(); \
     create trigger refuse_rows before insert on things for each row when (new.n > 100) execute function refuse()";

/// Runs `script` in both worlds, with one server to share.
fn same(label: &str, script: impl Fn(&mut Client)) {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let worlds = Worlds::new(cluster, &stagedoor, label, SETUP);
    worlds.same(script);
    // The server that they shared serves the next one.
    let mut next = stagedoor.connect(&worlds.through.database);
    assert_eq!(next.value("select 1"), "1");
    next.leave();
    worlds.end();
    stagedoor.finish();
}

/// Runs `script` with each of `cases`, on a connection of its own in both worlds.
fn same_each<T: std::fmt::Debug>(label: &str, cases: &[T], script: impl Fn(&mut Client, &T)) {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let worlds = Worlds::new(cluster, &stagedoor, label, SETUP);
    for case in cases {
        worlds.same(|client| {
            client.transcript.push(format!("{case:?}"));
            script(client, case);
        });
    }
    let mut next = stagedoor.connect(&worlds.through.database);
    assert_eq!(next.value("select 1"), "1");
    next.leave();
    worlds.end();
    stagedoor.finish();
}

fn batch(sql: &str) -> Vec<u8> {
    [frames::parse("", sql, &[]), frames::bind("", "", &[]), frames::execute("", 0)].concat()
}

fn round(client: &mut Client, said: &[Vec<u8>]) {
    client.send(&[said.concat(), frames::sync()].concat());
    client.ready();
}

/// What a client may be in the midst of when it says something that it must not.
#[derive(Clone, Copy, Debug)]
enum Midst {
    Rest,
    Answer,
    Transaction,
    FailedTransaction,
    Batch,
    FailedBatch,
    CopyIn,
    CopyInByBatch,
}

const MIDSTS: [Midst; 8] = [
    Midst::Rest,
    Midst::Answer,
    Midst::Transaction,
    Midst::FailedTransaction,
    Midst::Batch,
    Midst::FailedBatch,
    Midst::CopyIn,
    Midst::CopyInByBatch,
];

/// Brings the client there; what is returned is to be sent together with what follows.
fn into(client: &mut Client, midst: Midst) -> Vec<u8> {
    match midst {
        Midst::Rest => {}
        Midst::Answer => return frames::query("select 'before'"),
        Midst::Transaction => drop(client.query("begin")),
        Midst::FailedTransaction => drop(client.query("begin; select 1 / 0")),
        Midst::Batch => return batch("select 'unsynced'"),
        Midst::FailedBatch => {
            client.send(&batch("select 1 / 0"));
            client.until(b'E');
        }
        Midst::CopyIn => {
            client.send(&frames::query("copy things from stdin"));
            client.until(b'G');
        }
        Midst::CopyInByBatch => {
            client.send(&[batch("copy things from stdin"), frames::flush()].concat());
            client.until(b'G');
        }
    }
    Vec::new()
}

#[test]
fn what_is_no_message_ends_the_connection_as_postgresql_ends_it() {
    let announced = |tag: u8, length: u32| [&[tag][..], &length.to_be_bytes()].concat();
    let nonsense = [
        // A type that there is not: its first byte is enough.
        b"z".to_vec(),
        frames::frame(b'z', b"whole"),
        frames::password(b"late"),
        // Lengths that are too small, or too great for their type.
        announced(b'Q', 3),
        announced(b'S', 0),
        announced(b'S', 10_001),
        announced(b'D', 20_000),
        announced(b'E', 0x7fff_ffff),
        announced(b'Q', 0x3fff_ffff),
        announced(b'd', u32::MAX),
        announced(b'X', 10_001),
    ];
    let cases: Vec<(Midst, &Vec<u8>)> =
        MIDSTS.into_iter().flat_map(|midst| nonsense.iter().map(move |said| (midst, said))).collect();
    same_each("nonsense", &cases, |client, (midst, said)| {
        let before = into(client, *midst);
        client.send(&[before, (*said).clone()].concat());
        client.last_words();
    });
}

#[test]
fn a_message_of_the_greatest_length_may_be_announced_and_never_come() {
    let cases = [b'Q', b'P', b'B', b'F', b'd'];
    same_each("announced", &cases, |client, tag| {
        client.query("select 1");
        client.send(&[&[*tag][..], &0x3fff_fffe_u32.to_be_bytes(), &[b'x'; 1 << 20]].concat());
        client.finish();
        client.last_words();
    });
}

#[test]
fn a_malformed_message_is_an_error_and_its_sender_goes_on() {
    let frame = |tag, body: &[u8]| frames::frame(tag, body);
    let malformed = [
        frame(b'Q', b"select 1"),
        frame(b'Q', b""),
        frame(b'Q', b"select 1\0 and more"),
        frame(b'Q', b"select '\xff'\0"),
        frame(b'P', b""),
        frame(b'P', b"name"),
        frame(b'P', b"name\0select 1"),
        frame(b'P', b"name\0select 1\0"),
        frame(b'P', b"name\0select 1\0\0\x02\0\0\0\x17"),
        frame(b'P', b"\0select 1\0\0\0more"),
        frame(b'B', b""),
        frame(b'B', b"portal"),
        frame(b'B', b"portal\0known"),
        frame(b'B', b"portal\0known\0"),
        frame(b'B', b"\0known\0\0\0\0\x01\0\0\0\x7fx\0\0"),
        frame(b'B', b"\0known\0\0\x02\0\0\0\0\0\0\0\0"),
        frame(b'B', b"\0known\0\0\x01\0\x07\0\0\0\0"),
        frame(b'B', b"\0known\0\0\0\0\0\0\0more"),
        frame(b'D', b""),
        frame(b'D', b"Xknown\0"),
        frame(b'D', b"Sknown"),
        frame(b'D', b"Sknown\0more"),
        frame(b'C', b""),
        frame(b'C', b"Xknown\0"),
        frame(b'C', b"Sother"),
        frame(b'E', b""),
        frame(b'E', b"\0\0"),
        frame(b'E', b"\0\0\0\0\0more"),
        frame(b'F', b""),
        frame(b'F', b"\0\0\x03\x67\0\0\0\x01"),
        frame(b'S', b"more"),
        frame(b'H', b"more"),
        frame(b'c', b"more"),
        frame(b'f', b"more"),
    ];
    same_each("malformed", &malformed, |client, said| {
        round(client, &[frames::parse("known", "select 1", &[])]);
        // Some of these answer like a Query, the others need the Sync.
        client.send(&[said.clone(), frames::sync(), frames::query("select 'behind'")].concat());
        while !client.ready().rows_text().contains(&"behind".to_owned()) {}
        round(client, &[frames::bind("", "known", &[]), frames::execute("", 0)]);
        client.query("select 'again'");
    });
}

#[test]
fn queries_syncs_and_flushes_out_of_turn_are_answered_in_turn() {
    same("out_of_turn", |client| {
        // A Query amid a batch: it ends the batch's transaction and drops the unnamed portal.
        client.send(&[batch("insert into things values (1)"), frames::query("select 'amid'")].concat());
        client.ready();
        round(client, &[frames::execute("", 0)]);
        // A Query between an error and its Sync is skipped.
        client.send(&[batch("select 1 / 0"), frames::query("insert into things values (2)")].concat());
        client.send(&[batch("select 3"), frames::sync(), frames::query("table things")].concat());
        client.ready();
        client.ready();
        // Syncs and Flushes that end nothing.
        client.send(&[frames::sync(), frames::flush(), frames::sync(), frames::flush()].concat());
        client.ready();
        client.ready();
        client.send(&[frames::flush(), frames::query("select 'flushed'"), frames::flush()].concat());
        client.ready();
        // Many batches in flight, each with a transaction of its own, some of them failing.
        let each = |n: i32| [batch(&format!("insert into things values ({n})")), frames::sync()].concat();
        client.send(&[each(11), each(12), each(11), each(13), each(12), each(14)].concat());
        for _ in 0..6 {
            client.ready();
        }
        // An explicit transaction across batches, with an error in the second.
        client.send(&[batch("begin"), batch("insert into things values (21)"), frames::sync()].concat());
        client.send(&[batch("select 1 / 0"), batch("select 2"), frames::sync()].concat());
        client.send(&[batch("select 3"), frames::sync(), batch("rollback"), frames::sync()].concat());
        for _ in 0..4 {
            client.ready();
        }
        client.query("table things");
    });
}

#[test]
fn portals_live_and_die_as_in_postgresql() {
    let open = |name: &str| {
        let sql = "select n from generate_series(1, 9) n";
        [frames::parse("", sql, &[]), frames::bind(name, "", &[]), frames::execute(name, 2)].concat()
    };
    same("portals", |client| {
        // Outside of a transaction a portal ends with its Sync.
        client.send(&[open("slow"), frames::execute("slow", 2), frames::flush()].concat());
        client.until(b's');
        client.until(b's');
        round(client, &[]);
        round(client, &[frames::execute("slow", 0)]);
        // The unnamed one ends with the next Bind or Query; a named one may not be bound twice.
        client.query("begin");
        round(client, &[open("")]);
        client.query("select 'amid'");
        round(client, &[frames::execute("", 0)]);
        client.query("rollback; begin");
        round(client, &[open("slow"), frames::describe(b'P', "slow"), frames::close(b'P', "slow")]);
        round(client, &[open("slow"), frames::execute("slow", 0), frames::execute("slow", 1)]);
        round(client, &[frames::bind("slow", "", &[])]);
        client.query("rollback");
        // Closing what is not there is no error.
        round(client, &[frames::close(b'P', "nowhere"), frames::execute("nowhere", 0)]);
        // A savepoint that is rolled back takes its portals along.
        client.query("begin; savepoint s");
        round(client, &[open("slow")]);
        client.query("rollback to s");
        round(client, &[frames::execute("slow", 0)]);
        client.query("rollback");
        // A write with RETURNING is done whole however few of its rows are fetched.
        let insert = "insert into things select n from generate_series(1, 5) n returning n";
        let limited = [frames::parse("", insert, &[]), frames::bind("", "", &[]), frames::execute("", 2)];
        round(client, &limited);
        client.query("select count(*) from things");
    });
}

#[test]
fn function_calls_answer_as_without_stagedoor() {
    // upper(text), int4pl(int4, int4), sqrt(float8), none.
    let (upper, plus, root, none) = (871, 177, 1344, 1);
    let binary = |oid: u32, values: &[i32]| {
        let mut body = [&oid.to_be_bytes()[..], &[0, 1, 0, 1]].concat();
        body.extend(u16::try_from(values.len()).expect("few").to_be_bytes());
        values.iter().for_each(|value| body.extend([4_i32.to_be_bytes(), value.to_be_bytes()].concat()));
        body.extend([0, 1]);
        frames::frame(b'F', &body)
    };
    same("function_call", |client| {
        let calls = [
            frames::function_call(upper, &["stage"]),
            binary(plus, &[40, 2]),
            frames::function_call(plus, &["40", "nonsense"]),
            frames::function_call(plus, &["1"]),
            frames::function_call(root, &["-1"]),
            frames::function_call(none, &[]),
        ];
        for begin in ["select 1", "begin", "begin; select 1 / 0"] {
            client.query(begin);
            for call in &calls {
                client.send(call);
                client.ready();
            }
            client.query("rollback");
        }
        // In a pipeline, and behind an error up to the Sync.
        client.send(&[calls.concat(), batch("select 1"), calls.concat(), frames::sync()].concat());
        for _ in 0..13 {
            client.ready();
        }
        client.send(&[batch("select 1 / 0"), calls.concat(), frames::sync()].concat());
        client.ready();
    });
}

#[test]
fn bytes_of_any_encoding_pass_as_they_are() {
    same("encodings", |client| {
        for encoding in ["LATIN1", "SJIS", "SQL_ASCII", "UTF8"] {
            client.query(&format!("set client_encoding to '{encoding}'"));
            for text in [
                &b"select '\xe9'\0"[..],
                b"select '\x83\x5c', 'x'\0",
                b"select \xe9\0",
                b"select U&'\\00e9'\0",
            ] {
                client.send(&frames::frame(b'Q', text));
                client.ready();
            }
            let parse = [b"\xe9\0", &b"select '\xe9' || $1::text\0\0\0"[..]].concat();
            let bind = [&b"\0\xe9\0\0\0\0\x01\0\0\0\x01\xe9\0\0"[..]].concat();
            round(client, &[frames::frame(b'P', &parse), frames::frame(b'B', &bind), frames::execute("", 0)]);
            round(client, &[frames::frame(b'C', b"S\xe9\0")]);
        }
    });
}

/// A COPY to the server by a simple Query, up to its CopyInResponse.
fn begin_copy(client: &mut Client, table: &str) {
    client.send(&frames::query(&format!("copy {table} from stdin")));
    client.until(b'G');
}

#[test]
fn copy_fails_in_every_way_as_in_postgresql() {
    let data = |text: &str| frames::copy_data(text.as_bytes());
    let (done, sync) = (frames::copy_done(), frames::sync());
    let good = || data("1\tone\n");
    let refused = || data("101\tmany\n");
    let bad = || data("nonsense\n");
    let rest = || [good(), good(), frames::copy_done(), frames::copy_fail("late")].concat();
    same("copy_fails", |client| {
        for begin in ["select 1", "begin"] {
            // What comes behind an error is ignored, whatever it is of a copy's.
            for said in
                [bad(), refused(), [good(), refused()].concat(), [good(), good(), done.clone()].concat()]
            {
                client.query(begin);
                begin_copy(client, "things");
                client.send(&[said, rest(), frames::query("select 'behind'")].concat());
                client.ready();
                client.ready();
                client.query("rollback");
            }
            // A trigger that fails before a row is read, all in one write or not.
            client.send(
                &[frames::query("copy guarded from stdin"), rest(), frames::query("select 1")].concat(),
            );
            client.ready();
            client.ready();
            // No COPY at all: done, failed and data are ignored.
            client.send(&[rest(), frames::query("select 'nothing was copied'")].concat());
            client.ready();
        }
        client.query("rollback");
        // In the midst of a failed transaction, and of a table that is not there.
        client.query("begin; select 1 / 0");
        client.send(&[frames::query("copy things from stdin"), rest(), frames::query("rollback")].concat());
        client.ready();
        client.ready();
        client.send(&[frames::query("copy nowhere from stdin"), rest(), sync.clone()].concat());
        client.ready();
        client.ready();
        // Two copies in one Query, the second of which fails.
        client.send(&frames::query("copy things from stdin; copy things from stdin; select 'never'"));
        client.send(&[good(), done.clone(), bad(), done.clone(), frames::query("table things")].concat());
        client.ready();
        client.ready();
        // Anything but copy data within a copy ends the connection.
        begin_copy(client, "things");
        client.send(&[frames::query("select 1"), done.clone(), frames::query("select 2")].concat());
        client.last_words();
    });
}

#[test]
fn copy_in_a_batch_fails_in_every_way_as_in_postgresql() {
    let good = || frames::copy_data(b"1\tone\n");
    let (done, sync, flush) = (frames::copy_done, frames::sync, frames::flush);
    same("copy_batch_fails", |client| {
        for table in ["things", "guarded", "nowhere"] {
            let copy = || batch(&format!("copy {table} from stdin"));
            for data in [good(), frames::copy_data(b"nonsense\n"), frames::copy_fail("a change of mind")] {
                // The last Sync counts, those within the copy do not. What is behind an error is skipped up to it.
                client.send(&[copy(), data.clone(), done(), batch("select 'behind'"), sync()].concat());
                client.ready();
                client.send(&[copy(), sync()].concat());
                client.until(if table == "nowhere" { b'Z' } else { b'G' });
                client.send(&[data.clone(), flush(), done(), sync()].concat());
                client.ready();
                if table == "guarded" {
                    // The first Sync was read behind the error.
                    client.ready();
                }
                client.query("select count(*) from things; truncate things");
            }
        }
    });
}

#[test]
fn copy_out_is_one_answer_like_others() {
    same("copy_out", |client| {
        client.query("insert into things select n, repeat('x', 100) from generate_series(1, 100) n");
        let out = || batch("copy things to stdout");
        client.send(&[out(), frames::flush()].concat());
        client.until(b'C');
        client.send(&[frames::copy_done(), frames::copy_fail("?"), out(), frames::sync()].concat());
        client.ready();
        let failing = batch("copy (select 1 / (n - 50) from things order by n) to stdout");
        client.send(&[failing, out(), frames::sync(), out(), frames::sync()].concat());
        client.ready();
        client.ready();
        client.query("begin; copy things to stdout; select 1 / 0; copy things to stdout");
        client.query("rollback");
        client.query("copy things to stdout (format binary)");
    });
}

#[test]
fn notices_and_notifications_stand_where_postgresql_puts_them() {
    let raise = "do $$ begin raise notice 'one'; raise warning 'two'; end $$";
    same("notices", |client| {
        client.query("listen stage");
        client.send(&[batch(raise), batch("notify stage, 'batch'"), batch(raise), frames::sync()].concat());
        client.ready();
        client.query("notify stage, 'told'; select 1");
        client.query("begin; notify stage, 'in a transaction'");
        client.query("select 1");
        client.query("commit");
        client.query("select 'behind'");
        client.query("begin; notify stage, 'never'; rollback");
        client.query("unlisten stage");
        client.query("notify stage, 'nobody'");
        client.query("set client_min_messages to error");
        client.query(raise);
        client.query("reset client_min_messages");
        client.query("rollback");
    });
}
