//! A client may vanish at any point of any exchange, and in any way: the next one finds a clean server at once,
//! and the tables hold what PostgreSQL would have left in them.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::support::compare::Worlds;
use crate::support::deadline::PATIENCE;
use crate::support::deadline::Stopwatch;
use crate::support::deadline::until;
use crate::support::dice::Dice;
use crate::support::dice::number;
use crate::support::flows::FLOWS;
use crate::support::flows::Flow;
use crate::support::flows::Move;
use crate::support::flows::SETUP;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::raw::Target;
use crate::support::stagedoor::Stagedoor;

/// How a client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Terminate, and what comes until the end.
    Terminate,
    /// The end of what it says, and what comes until the end.
    Finish,
    /// So many bytes of its next message, then as above.
    Cut(usize),
    /// It closes its socket.
    Close,
    /// Its connection is reset.
    Reset,
}

impl Ending {
    /// Whether the client hears all that PostgreSQL has to say.
    const fn listens(self) -> bool {
        matches!(self, Self::Terminate | Self::Finish | Self::Cut(_))
    }
}

/// Does the first `count` moves and ends. Returns what was heard, where it listens to the end.
fn play(target: &Target, moves: &[Move], count: usize, ending: Ending) -> Vec<String> {
    let mut client = Client::connect(target).expect("a login");
    client.transcript.clear();
    for step in &moves[..count] {
        match step {
            Move::Say(frame) => client.send(frame),
            Move::Hear(tag) => drop(client.until(*tag)),
        }
    }
    match ending {
        Ending::Terminate => client.send(&frames::terminate()),
        Ending::Finish => client.finish(),
        Ending::Cut(length) => {
            let next = moves[count..].iter().find_map(|step| match step {
                Move::Say(frame) => Some(frame.clone()),
                Move::Hear(_) => None,
            });
            let next = next.unwrap_or_else(|| frames::query("select 'never'"));
            client.send(&next[..length.min(next.len() - 1)]);
            client.finish();
        }
        Ending::Close => return Vec::new(),
        Ending::Reset => {
            client.reset();
            return Vec::new();
        }
    }
    client.last_words();
    client.transcript
}

/// What a client finds on its server: settings, names, locks, whatever an earlier one could have left.
fn inspect(client: &mut Client) -> Vec<String> {
    client.transcript.clear();
    client.query(
        "select current_user, session_user, \
         (select string_agg(name || '=' || setting, ',' order by name) from pg_settings where source = 'session'), \
         coalesce(current_setting('my.setting', true), ''), to_regclass('mine'), pg_current_xact_id_if_assigned(), \
         (select count(*) from pg_cursors), (select count(*) from pg_prepared_statements where from_sql), \
         (select count(*) from pg_listening_channels()), \
         (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())",
    );
    for name in ["mine", ""] {
        client.send(&[frames::bind("", name, &[]), frames::sync()].concat());
        client.ready();
    }
    client.send(&[frames::execute("slow", 0), frames::sync()].concat());
    client.ready();
    std::mem::take(&mut client.transcript)
}

/// Two worlds behind a sidecar whose clients share one server, and a client that looks at what is left.
struct Stage<'a> {
    worlds: Worlds<'a>,
    next: Client,
    expected: Vec<String>,
}

impl<'a> Stage<'a> {
    fn new(cluster: &'a Cluster, stagedoor: &Stagedoor, label: &str) -> Self {
        let worlds = Worlds::new(cluster, stagedoor, label, SETUP);
        let [mut fresh, next] =
            [&worlds.direct, &worlds.through].map(|target| Client::connect(target).expect("a login"));
        let expected = inspect(&mut fresh);
        fresh.leave();
        Self { worlds, next, expected }
    }

    /// The same client vanishes in both worlds, and the next one cannot tell.
    fn vanish(&mut self, label: &str, moves: &[Move], count: usize, ending: Ending) {
        let [direct, through] =
            [&self.worlds.direct, &self.worlds.through].map(|target| play(target, moves, count, ending));
        assert_eq!(through, direct, "{label}: left is through stagedoor; {:?}", &moves[..count]);
        let found = inspect(&mut self.next);
        assert_eq!(found, self.expected, "after {label}: left is through stagedoor; {:?}", &moves[..count]);
    }

    /// All rows that were left are the same.
    fn end(self) {
        let sql = format!(
            "select label || ': ' || string_agg(n::text, ' ' order by n) from things \
             where label not like '{UNTOLD}%' group by label order by label"
        );
        let [direct, through] = [&self.worlds.direct, &self.worlds.through].map(|target| {
            let mut client = Client::connect(target).expect("a login");
            let others = "select 1 from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
            until("all others are gone", PATIENCE, || {
                (target.database == self.worlds.through.database || client.rows(others).is_empty()).then_some(())
            });
            let (raced, rest): (Vec<_>, Vec<_>) =
                client.rows(&sql).into_iter().partition(|row| row.starts_with(RACES));
            for row in raced {
                let left = row.rsplit(": ").next().unwrap_or_default();
                let is_beginning = ["1 2 3", "1 2 9"].iter().any(|all| all.starts_with(left));
                assert!(is_beginning, "{row}: an end that was reached without its beginning");
            }
            client.leave();
            rest
        });
        assert_eq!(through, direct, "left is through stagedoor");
        self.next.leave();
        self.worlds.end();
    }
}

/// How the label of a client begins of which nobody can say how many of its transactions come to their end.
const RACES: &str = "races";

/// And of one whose rows are not looked at.
const UNTOLD: &str = "untold";

fn label(flow: &Flow, count: usize, ending: Ending) -> String {
    let races = if flow.races && !ending.listens() { RACES } else { "" };
    format!("{races} {} after {count} by {ending:?}", flow.name)
}

/// Every boundary of every flow, and every way to vanish there.
#[test]
fn whoever_vanishes_anywhere_leaves_a_clean_server_and_the_rows_that_postgresql_would_keep() {
    let _watch = Stopwatch::start("endings of every kind");
    let cluster = Cluster::shared();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
                let mut stage = Stage::new(cluster, &stagedoor, "endings");
                while let Some(flow) = FLOWS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    every_ending(&mut stage, flow);
                }
                stage.end();
                stagedoor.finish();
            });
        }
    });
}

fn every_ending(stage: &mut Stage<'_>, flow: &Flow) {
    let _watch = Stopwatch::start(flow.name);
    let count = (flow.moves)("").len();
    for at in 0..=count {
        // Within the header, and within the body.
        let cut = Ending::Cut(if at % 2 == 0 { 3 } else { 8 });
        for ending in [Ending::Terminate, Ending::Finish, cut, Ending::Close, Ending::Reset] {
            let label = label(flow, at, ending);
            stage.vanish(&label, &(flow.moves)(&label), at, ending);
        }
    }
}

/// `SEED=7 cargo test --test e2e endings` repeats one.
#[test]
fn whoever_vanishes_at_random_leaves_nothing_either() {
    let seeds = number("SEED").map_or_else(|| 0..number("SEEDS").unwrap_or(4_u64), |seed| seed..seed + 1);
    let _watch = Stopwatch::start(format!("random endings, seeds {seeds:?}"));
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    for seed in seeds {
        eprintln!("seed {seed}");
        let mut dice = Dice::new(seed);
        let mut stage = Stage::new(cluster, &stagedoor, &format!("endings_{seed}"));
        for number in 0..40 {
            vanish_at_random(&mut stage, &mut dice, number);
        }
        stage.end();
    }
    stagedoor.finish();
}

/// One to three flows, one after the other, and an end at any byte.
fn vanish_at_random(stage: &mut Stage<'_>, dice: &mut Dice, number: usize) {
    let flows: Vec<&Flow> = (0..=dice.below(3)).map(|_| &FLOWS[dice.below(FLOWS.len())]).collect();
    let ending = match dice.below(6) {
        0 => Ending::Terminate,
        1 => Ending::Finish,
        2 => Ending::Close,
        3 => Ending::Reset,
        _ => Ending::Cut(1 + dice.below(30)),
    };
    let races = flows.iter().any(|flow| flow.races) && !ending.listens();
    let label = format!("{} {number} by {ending:?}", if races { UNTOLD } else { "" });
    let moves: Vec<Move> = flows.iter().flat_map(|flow| (flow.moves)(&label)).collect();
    let at = dice.below(moves.len() + 1);
    eprintln!("{label} after {at} of {:?}", flows.iter().map(|flow| flow.name).collect::<Vec<_>>());
    stage.vanish(&label, &moves, at, ending);
}

fn waiting(stagedoor: &Stagedoor) {
    until("a client waits", PATIENCE, || {
        (stagedoor.metric("stagedoor_client_connections", &["state=\"waiting\""]) >= 1.0).then_some(())
    });
}

/// PostgreSQL does what it was told before it notices that nobody is there, and so it is for one who waits.
#[test]
fn who_ends_in_the_queue_is_served_in_turn() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let stage = Stage::new(cluster, &stagedoor, "queue");
    for ending in [Ending::Finish, Ending::Terminate, Ending::Cut(3), Ending::Close, Ending::Reset] {
        let insert = format!("insert into things values ('{ending:?}', 1) returning n");
        let moves = [insert.as_str(), "select 'and more'"].map(|sql| Move::Say(frames::query(sql)));
        let direct = play(&stage.worlds.direct, &moves, 2, ending);
        let mut holder = stagedoor.connect(&stage.worlds.through.database);
        holder.rows("begin");
        let through = std::thread::scope(|scope| {
            let through = scope.spawn(|| play(&stage.worlds.through, &moves, 2, ending));
            waiting(&stagedoor);
            holder.leave();
            through.join().expect("a client")
        });
        assert_eq!(through, direct, "{ending:?}: left is through stagedoor");
    }
    stage.end();
    stagedoor.finish();
}

/// A statement that goes on for nobody is cancelled, however its client has ended.
#[test]
fn who_has_ended_keeps_no_server_from_others() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let mut stage = Stage::new(cluster, &stagedoor, "overdue");
    let sleep = "insert into things values ('never', 1); select pg_sleep(600)";
    let query = [Move::Say(frames::query(sleep))];
    let batch = ["insert into things values ('never', 2)", "select pg_sleep(600)"].map(|sql| {
        Move::Say([frames::parse("", sql, &[]), frames::bind("", "", &[]), frames::execute("", 0)].concat())
    });
    for (moves, ending) in [
        (&query[..], Ending::Finish),
        (&query, Ending::Terminate),
        (&query, Ending::Reset),
        (&batch, Ending::Finish),
        (&batch, Ending::Close),
    ] {
        let target = &stage.worlds.through;
        let asleep = format!(
            "select 1 from pg_stat_activity where datname = '{}' and wait_event = 'PgSleep'",
            target.database
        );
        let heard = std::thread::scope(|scope| {
            let heard = scope.spawn(|| play(target, moves, moves.len(), ending));
            until("it sleeps", PATIENCE, || (!cluster.admin(&asleep).is_empty()).then_some(()));
            assert_eq!(inspect(&mut stage.next), stage.expected, "{ending:?}");
            assert!(cluster.admin(&asleep).is_empty(), "it was cancelled, and not left behind: {ending:?}");
            heard.join().expect("a client")
        });
        let is_told = heard.last().is_some_and(|last| last.contains("C57014"));
        assert_eq!(is_told, ending.listens(), "whoever listens is told: {ending:?}: {heard:?}");
    }
    // One that has ended, has much to read, and reads nothing.
    let mut reader = Client::connect(&stage.worlds.through).expect("a login");
    reader.send(&frames::query("select repeat('x', 1000) from generate_series(1, 300000)"));
    reader.finish();
    assert_eq!(inspect(&mut stage.next), stage.expected);
    drop(reader);
    stage.end();
    stagedoor.finish();
}

/// PostgreSQL waits for a client that lives and reads nothing, and so do we; others are told when their wait is over.
#[test]
fn who_reads_nothing_keeps_its_server_and_its_answer() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2, acquireTimeout: 1s }");
    let database = cluster.database("reads_nothing");
    let [mut holder, mut reader, mut other] = [(); 3].map(|()| stagedoor.connect(&database));
    holder.rows("begin");
    reader.send(&frames::query("select repeat('x', 1000) from generate_series(1, 50000)"));
    until("the server is taken", PATIENCE, || (other.query("select 1").sqlstate() == "53300").then_some(()));
    let reply = reader.ready();
    assert_eq!((reply.error(), reply.0.len()), (None, 50_003));
    assert_eq!(other.value("select 1"), "1");
    drop((holder, reader, other));
    stagedoor.finish();
}

#[test]
fn each_server_that_a_client_has_spoiled_is_counted_and_has_one_line_in_the_log() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let mut stage = Stage::new(cluster, &stagedoor, "spoiled");
    let moves = |name: &str| {
        let flow = FLOWS.iter().find(|flow| flow.name == name).expect("a flow");
        (flow.moves)("x")
    };
    let ways = [Ending::Terminate, Ending::Finish, Ending::Close, Ending::Reset];
    for ending in ways {
        stage.vanish("in a copy", &moves("copy in"), 3, ending);
        // What can be undone costs no server.
        for (name, count) in [("transaction", 4), ("failed transaction", 6), ("temp table", 2), ("listen", 2)]
        {
            stage.vanish(name, &moves(name), count, ending);
        }
    }
    let database = format!("database=\"{}\"", stage.worlds.through.database);
    let closed = |labels: &[&str]| stagedoor.metric("stagedoor_server_connections_closed_total", labels);
    let expected = f64::from(u32::try_from(ways.len()).expect("few"));
    for labels in [&[database.as_str()][..], &[&database, "reason=\"unclean\""]] {
        assert!((closed(labels) - expected).abs() < 0.1, "{labels:?}: {}", closed(labels));
    }
    let log = stagedoor.log();
    let lines = log.lines().filter(|line| line.contains("its client left it unclean"));
    assert_eq!(lines.count(), ways.len(), "{log}");
    stage.end();
    stagedoor.finish();
}

/// PostgreSQL ends a connection when nothing is held for it any more, also where its server cannot be used on.
#[test]
fn whoever_reads_the_end_of_its_connection_has_left_nothing_locked() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("unlocked");
    let mut witness = Client::connect(&cluster.direct(&database)).expect("a login");
    for round in 0..60 {
        let mut client = stagedoor.connect(&database);
        // The second is refused, and its client keeps its server nevertheless.
        client.query(["select 1", "load 'plpgsql'", "begin"][round % 3]);
        client.rows("select pg_advisory_lock(7)");
        client.leave();
        assert_eq!(witness.value("select pg_try_advisory_lock(7)"), "t", "round {round}");
        witness.rows("select pg_advisory_unlock(7)");
    }
    stagedoor.finish();
}
