//! What a client may be in the midst of: every kind of exchange that the protocol has, message by message.

use crate::support::frames;

/// One thing that a client does.
#[derive(Clone, Debug)]
pub enum Move {
    /// Sends one message.
    Say(Vec<u8>),
    /// Reads until a message of this type.
    Hear(u8),
}

/// A kind of exchange, for a client that marks its rows with `label`.
pub struct Flow {
    pub name: &'static str,
    pub moves: fn(label: &str) -> Vec<Move>,
    /// Something is done behind an answer that nobody waits for. Of a client that is gone PostgreSQL does no more
    /// once it has noticed, and when it does is chance.
    pub races: bool,
}

/// What the flows need of a database.
pub const SETUP: &str = "create table things (label text, n int); create sequence numbers; \
     create table guarded (label text, n int); \
     create function refuse() returns trigger language plpgsql as $$ begin raise 'refused'; end $$; \
     create trigger refuse before insert on guarded execute function refuse()";

pub const FLOWS: &[Flow] = &[
    flow("simple query", |label| query(&insert(label, 1))),
    flow("several statements", |label| {
        let both = format!("{}; {}; select 'done'", insert(label, 1), insert(label, 2));
        [query(&both), query(&format!("{}; select 1 / 0", insert(label, 3)))].concat()
    }),
    flow("transaction", |label| queries(&["begin", &insert(label, 1), &insert(label, 2), "commit"])),
    flow("failed transaction", |label| {
        queries(&["begin", &insert(label, 1), "select 1 / 0", "select 2", "rollback"])
    }),
    flow("savepoint", |label| {
        let (one, two) = (insert(label, 1), insert(label, 2));
        queries(&["begin", &one, "savepoint s", &two, "rollback to s", "release s", "commit"])
    }),
    flow("batch", |label| synced(batch(&insert(label, 1)))),
    flow("failing batch", |label| {
        let said = [batch(&insert(label, 1)), batch("select 1 / 0"), batch(&insert(label, 2))].concat();
        synced(said)
    }),
    racing("pipeline", |label| {
        let synced = |n| [batch(&insert(label, n)), vec![say(frames::sync())]].concat();
        let heard = std::iter::repeat_n(Move::Hear(b'Z'), 3).collect();
        [synced(1), synced(2), synced(3), heard].concat()
    }),
    flow("flush", |label| {
        let said = [batch(&insert(label, 1)), vec![say(frames::flush()), Move::Hear(b'C')]].concat();
        [said, synced(batch(&insert(label, 2)))].concat()
    }),
    flow("suspended portal", |label| {
        let open = [
            frames::parse("", "select n from generate_series(1, 9) n", &[]),
            frames::bind("slow", "", &[]),
            frames::execute("slow", 3),
        ];
        let go_on = vec![say(frames::execute("slow", 3)), say(frames::flush()), Move::Hear(b's')];
        let begin = queries(&["begin", &insert(label, 1)]);
        [begin, synced(open.map(say).to_vec()), go_on, synced(Vec::new()), query("commit")].concat()
    }),
    flow("copy in", |label| {
        let copy = [say(frames::query("copy things from stdin")), Move::Hear(b'G')];
        [copy.to_vec(), lines(label), vec![say(frames::copy_done()), Move::Hear(b'Z')]].concat()
    }),
    flow("copy in, failed", |label| {
        let copy = [say(frames::query("copy things from stdin")), Move::Hear(b'G')];
        let fail = [say(frames::copy_fail("a change of mind")), Move::Hear(b'Z')];
        [copy.to_vec(), lines(label), fail.to_vec(), query(&insert(label, 9))].concat()
    }),
    racing("copy in, unheard", |label| {
        let copy = vec![say(frames::query("copy things from stdin"))];
        [copy, lines(label), vec![say(frames::copy_done()), Move::Hear(b'Z')]].concat()
    }),
    flow("copy in by batch", |label| {
        let copy = [batch("copy things from stdin"), vec![say(frames::flush()), Move::Hear(b'G')]].concat();
        [copy, lines(label), synced(vec![say(frames::copy_done())])].concat()
    }),
    racing("copy in by batch, unheard", |label| {
        let copy = [batch("copy things from stdin"), vec![say(frames::sync())]].concat();
        [copy, lines(label), synced(vec![say(frames::copy_done())]), query(&insert(label, 9))].concat()
    }),
    flow("copy in to a trigger that fails", |label| {
        let copy = vec![say(frames::query("copy guarded from stdin")), Move::Hear(b'Z')];
        [copy, lines(label), vec![say(frames::copy_done())], query(&insert(label, 9))].concat()
    }),
    flow("copy out", |label| {
        let out = query("copy (select n from generate_series(1, 2000) n) to stdout");
        [query(&insert(label, 1)), out, synced(batch("copy (select 1) to stdout"))].concat()
    }),
    flow("function call", |label| {
        // `upper`, and `sqrt` of a negative number.
        let call = |oid, value| vec![say(frames::function_call(oid, &[value])), Move::Hear(b'Z')];
        [query("begin"), call(871, "stage"), call(1344, "-1"), query("rollback"), query(&insert(label, 1))]
            .concat()
    }),
    flow("named statement", |label| {
        let parse = synced(vec![say(frames::parse("mine", &insert(label, 1), &[]))]);
        let run = synced(vec![say(frames::bind("", "mine", &[])), say(frames::execute("", 0))]);
        [parse, run, synced(vec![say(frames::close(b'S', "mine"))])].concat()
    }),
    flow("unnamed statement", |label| {
        let parse = synced(vec![say(frames::parse("", &insert(label, 1), &[]))]);
        let run = || synced(vec![say(frames::bind("", "", &[])), say(frames::execute("", 0))]);
        [parse, run(), run()].concat()
    }),
    flow("statement by SQL", |label| {
        let prepare = format!("prepare mine as {}", insert(label, 1));
        queries(&[&prepare, "execute mine", "deallocate mine"])
    }),
    flow("cursor with hold", |label| {
        let declare = "declare slow cursor with hold for select n from generate_series(1, 9) n";
        queries(&["begin", &insert(label, 1), declare, "commit", "fetch 2 from slow", "close slow"])
    }),
    flow("temp table", |label| {
        let insert = format!("insert into things select '{label}', n from mine");
        queries(&["create temp table mine as select 7 as n", &insert, "drop table mine"])
    }),
    flow("advisory lock", |label| {
        queries(&["select pg_advisory_lock(42)", &insert(label, 1), "select pg_advisory_unlock(42)"])
    }),
    flow("listen", |label| {
        let notify = format!("{}; notify stage", insert(label, 1));
        [query("listen stage"), query(&notify), query("unlisten *")].concat()
    }),
    flow("settings", |label| {
        let (one, two) = (insert(label, 1), "set local search_path to pg_catalog");
        let set = ["set timezone to 'Asia/Tokyo'", "set my.setting to 'mine'", "begin", two, "commit"];
        [queries(&set), query("select set_config('work_mem', '7MB', false)"), query(&one), query("reset all")]
            .concat()
    }),
    flow("role", |label| {
        queries(&["set role bs_owner", "select current_user", "reset role", &insert(label, 1)])
    }),
    flow("sequence", |label| {
        queries(&["select nextval('numbers') > 0", &insert(label, 1), "select currval('numbers') > 0"])
    }),
    flow("long answer", |label| {
        let much = "select repeat('x', 1000) from generate_series(1, 1000)";
        [query(&insert(label, 1)), query(much), query(&insert(label, 2))].concat()
    }),
];

const fn racing(name: &'static str, moves: fn(&str) -> Vec<Move>) -> Flow {
    Flow { name, moves, races: true }
}

const fn flow(name: &'static str, moves: fn(&str) -> Vec<Move>) -> Flow {
    Flow { name, moves, races: false }
}

fn insert(label: &str, n: u8) -> String {
    format!("insert into things values ('{label}', {n})")
}

fn lines(label: &str) -> Vec<Move> {
    (1..=2).map(|n| say(frames::copy_data(format!("{label}\t{n}\n").as_bytes()))).collect()
}

const fn say(frame: Vec<u8>) -> Move {
    Move::Say(frame)
}

fn query(sql: &str) -> Vec<Move> {
    vec![say(frames::query(sql)), Move::Hear(b'Z')]
}

fn queries(sql: &[&str]) -> Vec<Move> {
    sql.iter().flat_map(|sql| query(sql)).collect()
}

fn batch(sql: &str) -> Vec<Move> {
    [frames::parse("", sql, &[]), frames::bind("", "", &[]), frames::execute("", 0)].map(say).to_vec()
}

fn synced(mut moves: Vec<Move>) -> Vec<Move> {
    moves.extend([say(frames::sync()), Move::Hear(b'Z')]);
    moves
}
