//! A server may be lost between any two leases. Who has said nothing to it yet gets another one and does not notice; what
//! may have reached PostgreSQL is not said twice.

use crate::support::deadline::PATIENCE;
use crate::support::deadline::until;
use crate::support::frames;
use crate::support::go_between::GoBetween;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

/// A client behind a network that a test can break. Of the two servers that a budget has at least one is held, so that the
/// other, which has just come to rest, is everybody's.
struct Stage {
    network: GoBetween,
    stagedoor: Stagedoor,
    client: Client,
    holder: Client,
}

impl Stage {
    fn new(settings: &str) -> Self {
        let cluster = Cluster::shared();
        let network = GoBetween::new(cluster);
        let stagedoor = network.stagedoor(cluster, settings);
        let database = cluster.database("lost");
        let mut client = stagedoor.connect(&database);
        client.rows("create table things (n int)");
        let mut holder = stagedoor.connect(&database);
        holder.rows("begin");
        client.rows("select 1");
        Self { network, stagedoor, client, holder }
    }

    fn closed(&self, reason: &str) -> f64 {
        let database = format!("database=\"{}\"", self.client.target().database);
        let labels = [database.as_str(), &format!("reason=\"{reason}\"")];
        self.stagedoor.metric("stagedoor_server_connections_closed_total", &labels)
    }

    fn another(&self) -> Client {
        Client::connect(self.client.target()).expect("a login")
    }

    fn end(self) {
        self.client.leave();
        drop(self.holder);
        self.stagedoor.finish();
    }
}

/// PostgreSQL fails the COPY, says that it is ready, and ends: it reads that nobody is there.
#[test]
fn a_server_that_was_told_that_its_client_has_ended_serves_nobody_else() {
    let mut stage = Stage::new("pool: { maxServers: 2 }");
    stage.network.withhold_ends();
    let endings: [fn(Client); 3] = [Client::reset, drop, |client| client.leave()];
    for (count, end) in (1..).zip(endings) {
        let mut copies = stage.another();
        copies.send(&frames::query("copy things from stdin"));
        copies.until(b'G');
        copies.send(&frames::copy_data(b"1\n"));
        end(copies);
        until("the server is closed", PATIENCE, || {
            (stage.closed("unclean") >= f64::from(count)).then_some(())
        });
        assert_eq!(stage.client.value("select count(*) from things"), "0");
    }
    stage.end();
}

/// As a client does that wants another TimeZone than the one before it.
#[test]
fn a_server_that_is_lost_while_it_is_made_to_speak_as_a_client_is_replaced() {
    let mut stage = Stage::new("pool: { maxServers: 2 }");
    stage.client.rows("set timezone to 'Asia/Tokyo'");
    let mut other = stage.another();
    assert_eq!(other.value("show timezone"), "Etc/UTC");
    for _ in 0..3 {
        stage.network.cut();
        assert_eq!(stage.client.value("show timezone"), "Asia/Tokyo");
        stage.network.cut();
        assert_eq!(other.value("show timezone"), "Etc/UTC");
    }
    // So it is where it is a login that needs one.
    stage.client.rows("select 1");
    stage.network.cut();
    let mut fresh =
        Client::connect(&stage.client.target().clone().with("application_name", "x")).expect("a login");
    assert_eq!(fresh.value("show timezone"), "Etc/UTC");
    fresh.leave();
    other.leave();
    stage.end();
}

#[test]
fn a_server_that_is_lost_before_it_was_ever_used_is_replaced() {
    let mut stage = Stage::new("pool: { maxServers: 2 }");
    stage.network.deafen();
    stage.network.abort(3);
    assert_eq!(stage.client.value("select 1"), "1");
    stage.end();
}

/// All of these leave something noted that was not so, had the server not been replaced.
#[test]
fn what_could_not_be_sent_at_all_is_said_to_another_server() {
    let mut stage = Stage::new("pool: { maxServers: 2 }");
    let client = &mut stage.client;
    let insert = "insert into things values (1)";
    let run = |name: &str| [frames::bind("", name, &[]), frames::execute("", 0)].concat();
    let parse = |name: &str, sql: &str| frames::parse(name, sql, &[]);
    let stories = [
        vec![frames::query(insert), frames::query("select count(*) from things")],
        vec![parse("", insert), run(""), frames::sync()],
        vec![run(""), frames::sync()],
        vec![parse("mine", insert), frames::sync(), run("mine"), frames::sync()],
        vec![run("mine"), frames::sync(), parse("other", "select 3"), run("other"), frames::sync()],
        vec![
            frames::close(b'S', "mine"),
            frames::sync(),
            parse("mine", "select 4"),
            run("mine"),
            frames::sync(),
        ],
        vec![
            run("mine"),
            run("other"),
            frames::sync(),
            frames::query("deallocate mine"),
            frames::query("select 5"),
        ],
        vec![frames::query("set timezone to 'Asia/Tokyo'; select current_setting('timezone')")],
        vec![run("other"), frames::close(b'S', ""), frames::sync(), run(""), frames::sync()],
    ];
    let read = |client: &mut Client, story: &[Vec<u8>]| {
        client.transcript.clear();
        client.send(&story.concat());
        let ends = story.iter().filter(|frame| matches!(frame[0], b'Q' | b'S')).count();
        (0..ends).for_each(|_| drop(client.ready()));
        client.transcript.clone()
    };
    let direct = Cluster::shared().database("found");
    let mut direct = Client::connect(&Cluster::shared().direct(&direct)).expect("a login");
    direct.rows("create table things (n int)");
    for story in &stories {
        stage.network.deafen();
        assert_eq!(read(client, story), read(&mut direct, story), "left is through stagedoor: {story:?}");
    }
    direct.leave();
    // And the last words too.
    stage.network.deafen();
    let mut last = Client::connect(client.target()).expect("a login");
    last.send(&[frames::query("insert into things values (7)"), frames::terminate()].concat());
    last.last_words();
    assert_eq!(client.value("select count(*) from things where n = 7"), "1");
    stage.end();
}

#[test]
fn what_may_have_been_heard_is_not_said_again() {
    let mut stage = Stage::new("pool: { maxServers: 2 }");
    stage.network.cut();
    stage.client.send(&frames::query("insert into things values (1)"));
    assert_eq!(stage.client.last_words().sqlstate(), "08006");
    let mut next = stage.another();
    assert_eq!(next.value("select count(*) from things"), "0");
    next.leave();
    stage.end();
}

#[test]
fn where_no_server_lasts_a_client_is_told_when_its_wait_is_over() {
    let stage = Stage::new("pool: { maxServers: 2, acquireTimeout: 1s }");
    let mut waits = stage.another();
    stage.network.deafen();
    stage.network.abort(usize::MAX);
    waits.send(&frames::query("select 1"));
    assert_eq!(waits.last_words().sqlstate(), "08006");
    stage.network.abort(0);
    let mut next = stage.another();
    assert_eq!(next.value("select 1"), "1");
    next.leave();
    stage.end();
}
