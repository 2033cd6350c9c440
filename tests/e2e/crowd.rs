//! A crowd of clients over few servers, all at once: each one finds its own things, always, and nobody else's.

use std::time::Duration;
use std::time::Instant;

use crate::support::deadline::Stopwatch;
use crate::support::dice::Dice;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::raw::Target;
use crate::support::stagedoor::Stagedoor;

/// How long the crowd is at it.
const TIME: Duration = Duration::from_secs(6);

const ZONES: [&str; 3] = ["UTC", "Asia/Tokyo", "Europe/Berlin"];

/// A client and what it must find.
struct Member {
    number: usize,
    client: Client,
    work_mem: String,
    zone: String,
    schema: String,
}

impl Member {
    fn new(target: &Target, number: usize) -> Self {
        let name = format!("member {number}");
        let work_mem = format!("{}MB", 1 + number);
        let options = format!("-c work_mem={work_mem}");
        let target =
            target.clone().with("application_name", &name).with("options", &options).with("TimeZone", "UTC");
        let client = Client::connect(&target).expect("a login");
        Self { number, client, work_mem, zone: "UTC".into(), schema: "public".into() }
    }

    /// Everything that is this member's, in one answer.
    fn look(&mut self) {
        let sql = "select current_setting('application_name'), current_setting('work_mem'), \
                   current_setting('TimeZone'), current_schema(), name from whose";
        let expected =
            format!("member {}|{}|{}|{}|{}", self.number, self.work_mem, self.zone, self.schema, self.schema);
        assert_eq!(self.client.value(sql), expected);
        assert_eq!(self.client.extended(sql, &[]).rows_text(), [expected]);
    }

    fn act(&mut self, dice: &mut Dice, target: &Target) {
        match dice.below(9) {
            0 => {
                self.work_mem = format!("{}MB", 1 + dice.below(60));
                self.client.rows(&format!("set work_mem to '{}'", self.work_mem));
            }
            1 => {
                self.zone = ZONES[dice.below(ZONES.len())].into();
                self.client.extended("select set_config('TimeZone', $1, false)", &[Some(&self.zone)]);
            }
            2 => {
                self.schema = format!("s{}", 1 + dice.below(3));
                self.client.rows(&format!("set search_path to {}", self.schema));
            }
            3 => self.undo(),
            4 => self.transact(),
            5 => self.named(dice),
            6 => self.cancelled(target),
            7 => {
                assert_eq!(self.client.error("select 1 / 0"), "22012");
            }
            _ => self.temporary(),
        }
    }

    /// What is rolled back was never set.
    fn undo(&mut self) {
        self.client
            .rows("begin; set search_path to nowhere; set work_mem to '99MB'; set timezone to 'Asia/Tokyo'");
        assert_eq!(self.client.value("show work_mem"), "99MB");
        self.client.rows("rollback");
    }

    fn transact(&mut self) {
        self.client.rows("begin");
        self.client.rows(&format!("insert into public.log values ({0}), ({0})", self.number));
        self.look();
        self.client.rows("commit");
    }

    /// A name that every member gives to a text of its own.
    fn named(&mut self, dice: &mut Dice) {
        let text = format!("select {}, $1::int", self.number);
        let value = dice.below(1000).to_string();
        let parse = [frames::close(b'S', "mine"), frames::parse("mine", &text, &[]), frames::sync()];
        self.client.send(&parse.concat());
        assert_eq!(self.client.ready().error(), None);
        self.look();
        let run = [frames::bind("", "mine", &[Some(&value)]), frames::execute("", 0), frames::sync()];
        self.client.send(&run.concat());
        assert_eq!(self.client.ready().rows_text(), [format!("{}|{value}", self.number)]);
        // A statement with a name keeps a server: give it back.
        self.client.send(&[frames::close(b'S', "mine"), frames::sync()].concat());
        self.client.ready();
    }

    /// Its own cancel request may come in time or not; nobody else is hit.
    fn cancelled(&mut self, target: &Target) {
        self.client.send(&frames::query("select pg_sleep(0.003)"));
        target.cancel(self.client.pid, &self.client.key);
        assert!(["", "57014"].contains(&self.client.ready().sqlstate().as_str()));
    }

    fn temporary(&mut self) {
        self.client.rows(&format!("create temp table mine as select {} as n", self.number));
        self.look();
        assert_eq!(self.client.value("select n from mine"), self.number.to_string());
        self.client.rows("drop table mine");
    }
}

fn be_there(target: &Target, number: usize) {
    let mut dice = Dice::new(u64::try_from(number).expect("small"));
    let end = Instant::now() + TIME;
    let mut member = Member::new(target, number);
    while Instant::now() < end {
        member.look();
        member.act(&mut dice, target);
        member.look();
        match dice.below(20) {
            0 => {
                member.client.leave();
                member = Member::new(target, number);
            }
            1 => {
                // Gone without a word, in the middle of something.
                member
                    .client
                    .send(&frames::query("begin; insert into public.log values (-1); select pg_sleep(0.01)"));
                member = Member::new(target, number);
            }
            _ => {}
        }
    }
    member.client.leave();
}

#[test]
fn in_a_crowd_everybody_finds_what_is_theirs() {
    let _watch = Stopwatch::start("a crowd");
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 4 }");
    let database = cluster.database("crowd");
    let mut client = stagedoor.connect(&database);
    client.rows("create table log (n int); create table whose as select 'public' as name");
    for number in 1..=3 {
        client.rows(&format!(
            "create schema s{number}; create table s{number}.whose as select 's{number}' as name"
        ));
    }
    let target = stagedoor.target(&database);
    std::thread::scope(|scope| {
        for number in 0..16 {
            let target = &target;
            scope.spawn(move || be_there(target, number));
        }
    });
    assert_eq!(client.value("select count(*) from log where n = -1"), "0");
    assert!(cluster.open(&database).0 <= 4);
    client.leave();
    stagedoor.finish();
}
