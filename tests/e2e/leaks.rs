//! Many clients over three servers, each with a session of its own: nobody ever meets what is another's, and what
//! keeps a server is let go with its cause. `SEED=7 cargo test --test e2e leaks` tells another story.

use crate::support::deadline::PATIENCE;
use crate::support::deadline::Stopwatch;
use crate::support::deadline::until;
use crate::support::dice::Dice;
use crate::support::frames;
use crate::support::message::Reply;
use crate::support::postgres::Cluster;
use crate::support::postgres::USER;
use crate::support::raw::Client;
use crate::support::raw::Target;
use crate::support::stagedoor::Stagedoor;
use crate::support::stand_in;

const MEMBERS: usize = 30;
const SERVERS: usize = 3;
/// One server is left for everybody else.
const HOLDERS_MAX: usize = SERVERS - 1;
const STATEMENTS: usize = 5000;

const ZONES: [&str; 5] = ["UTC", "Asia/Tokyo", "Europe/Berlin", "America/Lima", "Africa/Lagos"];
/// Everybody gives these names, to texts of their own.
const NAMES: [&str; 3] = ["", "one", "two"];

/// What keeps a server, under names that everybody uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    TempTable,
    Lock,
    Listen,
    Cursor,
    Prepared,
}

const CLAIMS: [Claim; 5] = [Claim::TempTable, Claim::Lock, Claim::Listen, Claim::Cursor, Claim::Prepared];

impl Claim {
    fn take(self, number: usize) -> String {
        match self {
            Self::TempTable => format!("create temp table mine as select {number} as n"),
            Self::Lock => format!("select pg_advisory_lock({number})"),
            Self::Listen => "listen mine".into(),
            Self::Cursor => format!(
                "begin; declare mine cursor with hold for select {number} from generate_series(1, 99); commit"
            ),
            Self::Prepared => format!("prepare mine as select {number}"),
        }
    }

    fn release(self, number: usize) -> String {
        match self {
            Self::TempTable => "drop table mine".into(),
            Self::Lock => format!("select pg_advisory_unlock({number})"),
            Self::Listen => "unlisten mine".into(),
            Self::Cursor => "close mine".into(),
            Self::Prepared => "deallocate mine".into(),
        }
    }

    /// A question, what its owner hears, and what everybody else does.
    fn show(self, number: usize) -> (String, Expected, Expected) {
        let own = |sql: &str, others| (sql.to_owned(), Expected::row(&number.to_string()), others);
        match self {
            Self::TempTable => own("select n from mine", Expected::Error("42P01")),
            Self::Lock => (
                "select objid from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()".into(),
                Expected::row(&number.to_string()),
                Expected::Rows(Vec::new()),
            ),
            Self::Listen => (
                "select * from pg_listening_channels()".into(),
                Expected::row("mine"),
                Expected::Rows(Vec::new()),
            ),
            Self::Cursor => own("fetch 1 from mine; move backward 1 from mine", Expected::Error("34000")),
            Self::Prepared => own("execute mine", Expected::Error("26000")),
        }
    }
}

/// What an answer must be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    Rows(Vec<String>),
    Error(&'static str),
}

impl Expected {
    fn row(row: &str) -> Self {
        Self::Rows(vec![row.to_owned()])
    }

    fn of(reply: &Reply) -> Result<Vec<String>, String> {
        reply.error().map_or_else(|| Ok(reply.rows_text()), |error| Err(error.sqlstate))
    }
}

/// What a client believes its session to be, in the order in which `SETTINGS` shows it.
#[derive(Clone, Debug)]
struct Beliefs {
    schema: String,
    zone: &'static str,
    role: String,
    timeout: String,
    own: String,
    name: String,
}

const SETTINGS: &str = "select current_schema, name, current_setting('TimeZone'), current_user, \
    current_setting('statement_timeout'), current_setting('leak.own', true), \
    current_setting('application_name') from whose";

impl Beliefs {
    /// What a client finds that has just logged in.
    fn fresh() -> Self {
        let (schema, own, name) = ("public".to_owned(), "NULL".to_owned(), String::new());
        Self { schema, zone: "UTC", role: USER.into(), timeout: "0".into(), own, name }
    }

    fn row(&self) -> String {
        let Self { schema, zone, role, timeout, own, name } = self;
        format!("{schema}|{schema}|{zone}|{role}|{timeout}|{own}|{name}")
    }
}

/// One client of the thirty.
struct Member {
    number: usize,
    client: Client,
    beliefs: Beliefs,
    /// What it has parsed under each of `NAMES`.
    statements: [Option<usize>; NAMES.len()],
    claim: Option<Claim>,
    /// What it has asked, for who reads a failure.
    asked: String,
}

impl Member {
    fn new(target: &Target, number: usize) -> Self {
        let target = target.clone().with("TimeZone", "UTC");
        let client = Client::connect(&target).expect("a login");
        let (beliefs, statements) = (Beliefs::fresh(), [None; NAMES.len()]);
        let mut member = Self { number, client, beliefs, statements, claim: None, asked: String::new() };
        // It finds nothing of those who were on its server before.
        let expected = member.look();
        member.hear(&expected);
        let settle = [Self::zone, Self::schema, Self::role, Self::timeout, Self::own];
        for change in settle {
            let expected = change(&mut member, &mut Dice::new(0));
            member.hear(&expected);
        }
        for at in 1..NAMES.len() {
            let expected = member.parse(at, number);
            member.hear(&expected);
        }
        member
    }

    fn query(&mut self, sql: &str) {
        self.asked = sql.to_owned();
        self.client.send(&frames::query(sql));
        self.statements[0] = None;
    }

    fn quietly(&mut self, sql: &str) -> Expected {
        self.query(sql);
        Expected::Rows(Vec::new())
    }

    fn hear(&mut self, expected: &Expected) {
        let reply = self.client.ready();
        let told = match expected {
            Expected::Rows(rows) => Ok(rows.clone()),
            Expected::Error(sqlstate) => Err((*sqlstate).to_owned()),
        };
        let (number, asked) = (self.number, &self.asked);
        assert_eq!(Expected::of(&reply), told, "left is what client {number} heard when it asked {asked}");
        assert!(!reply.tags().contains('A'), "client {number} hears what was not said to it");
    }

    /// Says something, and returns what must come of it.
    fn speak(&mut self, dice: &mut Dice) -> Expected {
        match dice.below(16) {
            0 => self.zone(dice),
            1 => self.schema(dice),
            // A temporary table is its owner's.
            2 if self.claim.is_none() => self.role(dice),
            3 => self.timeout(dice),
            4 => self.own(dice),
            5 => self.name(dice),
            6 => self.undone(),
            7 => self.parse(dice.below(NAMES.len()), self.number + MEMBERS * dice.below(3)),
            8 => self.run(dice.below(NAMES.len())),
            9 => self.run(0),
            10..=12 => self.show(CLAIMS[dice.below(CLAIMS.len())]),
            13 => self.look_extended(),
            _ => self.look(),
        }
    }

    fn look(&mut self) -> Expected {
        self.query(SETTINGS);
        Expected::row(&self.beliefs.row())
    }

    fn look_extended(&mut self) -> Expected {
        self.asked = SETTINGS.into();
        let look = [
            frames::parse("", SETTINGS, &[]),
            frames::bind("", "", &[]),
            frames::execute("", 0),
            frames::close(b'S', ""),
            frames::sync(),
        ];
        self.client.send(&look.concat());
        self.statements[0] = None;
        Expected::row(&self.beliefs.row())
    }

    fn zone(&mut self, dice: &mut Dice) -> Expected {
        self.beliefs.zone = ZONES[(self.number + dice.below(2)) % ZONES.len()];
        self.quietly(&format!("set time zone '{}'", self.beliefs.zone))
    }

    fn schema(&mut self, dice: &mut Dice) -> Expected {
        let public = dice.below(4) == 3;
        self.beliefs.schema = if public { "public".into() } else { format!("leak_{}", self.number) };
        self.quietly(&format!("set search_path to {}", self.beliefs.schema))
    }

    fn role(&mut self, dice: &mut Dice) -> Expected {
        let none = dice.below(4) == 3;
        self.beliefs.role = if none { USER.into() } else { format!("leak_{}", self.number) };
        self.quietly(&if none { "reset role".into() } else { format!("set role {}", self.beliefs.role) })
    }

    fn timeout(&mut self, dice: &mut Dice) -> Expected {
        self.beliefs.timeout = format!("{}s", 61 + self.number + MEMBERS * dice.below(2) * 2);
        // PostgreSQL shows whole minutes as such.
        if let Some(minutes) =
            self.beliefs.timeout.trim_end_matches('s').parse::<usize>().ok().filter(|s| s % 60 == 0)
        {
            self.beliefs.timeout = format!("{}min", minutes / 60);
        }
        self.quietly(&format!("set statement_timeout to '{}'", self.beliefs.timeout))
    }

    fn own(&mut self, dice: &mut Dice) -> Expected {
        self.beliefs.own = format!("{}.{}", self.number, dice.below(100));
        self.query(&format!("select set_config('leak.own', '{}', false)", self.beliefs.own));
        Expected::row(&self.beliefs.own)
    }

    fn name(&mut self, dice: &mut Dice) -> Expected {
        self.beliefs.name = format!("client {} {}", self.number, dice.below(100));
        self.quietly(&format!("set application_name to '{}'", self.beliefs.name))
    }

    /// What is rolled back was never set, and what is local ends with its transaction.
    fn undone(&mut self) -> Expected {
        self.quietly(
            "begin; set search_path to nowhere; set leak.own to 'nobody'; set time zone 'Asia/Tokyo'; rollback; \
             begin; set local search_path to nowhere; set local role none; set local leak.own to 'nobody'; commit",
        )
    }

    fn parse(&mut self, at: usize, value: usize) -> Expected {
        self.asked = format!("Parse {:?}", NAMES[at]);
        let sql = format!("select {value}, current_schema, name, $1::text from whose");
        let parse = [frames::close(b'S', NAMES[at]), frames::parse(NAMES[at], &sql, &[]), frames::sync()];
        self.client.send(&parse.concat());
        self.statements[at] = Some(value);
        Expected::Rows(Vec::new())
    }

    fn run(&mut self, at: usize) -> Expected {
        self.asked = format!("Bind {:?}", NAMES[at]);
        let run =
            [frames::bind("", NAMES[at], &[Some(&self.beliefs.own)]), frames::execute("", 0), frames::sync()];
        self.client.send(&run.concat());
        let Beliefs { schema, own, .. } = &self.beliefs;
        self.statements[at].map_or(Expected::Error("26000"), |value| {
            Expected::row(&format!("{value}|{schema}|{schema}|{own}"))
        })
    }

    fn show(&mut self, claim: Claim) -> Expected {
        let (sql, mine, not_mine) = claim.show(self.number);
        self.query(&sql);
        if self.claim == Some(claim) { mine } else { not_mine }
    }

    fn take(&mut self, claim: Claim) {
        let reply = self.client.query(&claim.take(self.number));
        assert_eq!(reply.error(), None, "client {} takes {claim:?}", self.number);
        self.statements[0] = None;
        self.claim = Some(claim);
    }

    fn release(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        let reply = self.client.query(&claim.release(self.number));
        assert_eq!(reply.error(), None, "client {} lets {claim:?} go", self.number);
        self.statements[0] = None;
    }
}

/// All of them, and who keeps a server.
struct Crowd<'a> {
    stagedoor: &'a Stagedoor,
    target: Target,
    members: Vec<Member>,
    dice: Dice,
    statements: usize,
}

impl Crowd<'_> {
    fn holders(&self) -> usize {
        self.members.iter().filter(|member| member.claim.is_some()).count()
    }

    /// Different members, as many as there are or `count`.
    fn some(&mut self, count: usize, fits: impl Fn(&Member) -> bool) -> Vec<usize> {
        let mut fit: Vec<usize> = (0..MEMBERS).filter(|&at| fits(&self.members[at])).collect();
        let mut chosen = Vec::new();
        while chosen.len() < count && !fit.is_empty() {
            chosen.push(fit.swap_remove(self.dice.below(fit.len())));
        }
        chosen
    }

    fn turn(&mut self) {
        match self.dice.below(24) {
            0 if self.holders() < HOLDERS_MAX => self.take(),
            1 | 2 => self.release(),
            3 => self.notify(),
            4 => self.lock_of_another(),
            5 if self.dice.below(8) == 0 => self.replace(),
            _ => self.speak(),
        }
    }

    /// Several speak before any of them is heard.
    fn speak(&mut self) {
        let count = 1 + self.dice.below(5);
        let chosen = self.some(count, |_| true);
        let spoken: Vec<_> =
            chosen.into_iter().map(|at| (at, self.members[at].speak(&mut self.dice))).collect();
        self.statements += spoken.len();
        for (at, expected) in spoken {
            self.members[at].hear(&expected);
        }
    }

    fn take(&mut self) {
        let claim = CLAIMS[self.dice.below(CLAIMS.len())];
        for at in self.some(1, |member| member.claim.is_none()) {
            self.members[at].take(claim);
            self.statements += 1;
        }
    }

    fn release(&mut self) {
        for at in self.some(1, |member| member.claim.is_some()) {
            self.members[at].release();
            self.statements += 1;
            self.share();
        }
    }

    /// All servers but those that are claimed serve everybody: as many transactions are open at a time.
    fn share(&mut self) {
        let holders = self.holders();
        let chosen = self.some(SERVERS - holders, |member| member.claim.is_none());
        for sql in ["begin", "commit"] {
            for &at in &chosen {
                let expected = self.members[at].quietly(sql);
                self.members[at].hear(&expected);
                let expected = self.members[at].look();
                self.members[at].hear(&expected);
            }
        }
        self.statements += 4 * chosen.len();
        if !stand_in::wanted() {
            until(&format!("{holders} clients are pinned"), PATIENCE, || {
                let pinned = self.stagedoor.metric("stagedoor_client_connections", &["state=\"pinned\""]);
                (pinned.to_string() == holders.to_string()).then_some(())
            });
        }
    }

    /// Who listens hears it, from whom it comes; nobody else does.
    fn notify(&mut self) {
        let speaker = self.dice.below(MEMBERS);
        let payload = format!("{}", self.statements);
        self.members[speaker].query(&format!("notify mine, '{payload}'"));
        self.statements += 1;
        let reply = self.members[speaker].client.ready();
        assert_eq!(reply.error(), None);
        let from = self.members[speaker].client.pid;
        for at in self.some(MEMBERS, |member| member.claim == Some(Claim::Listen)) {
            let is_heard = at == speaker && reply.tags().contains('A');
            let heard = if is_heard { reply.clone() } else { self.members[at].client.until(b'A') };
            let body = &heard.0.iter().find(|message| message.tag == b'A').expect("a notification").body;
            assert_eq!(body[..4], from.to_be_bytes(), "the process id that the speaker was told");
            assert_eq!(&body[4..], format!("mine\0{payload}\0").as_bytes());
        }
    }

    /// A lock that another session has is not to be had.
    fn lock_of_another(&mut self) {
        let owners = self.some(1, |member| member.claim == Some(Claim::Lock));
        let others = self.some(1, |member| member.claim.is_none());
        if let (&[owner], &[other]) = (owners.as_slice(), others.as_slice()) {
            self.members[other].query(&format!("select pg_try_advisory_lock({owner})"));
            self.members[other].hear(&Expected::row("f"));
            self.statements += 1;
        }
    }

    /// One leaves, in one way or another, and somebody else comes.
    fn replace(&mut self) {
        for at in self.some(1, |_| true) {
            let mut old = std::mem::replace(&mut self.members[at], Member::new(&self.target, at));
            match self.dice.below(3) {
                0 => old.client.leave(),
                1 => drop(old),
                _ => old.client.send(&frames::query("begin; insert into public.log values (1)")),
            }
        }
    }
}

/// Schemas and roles for `MEMBERS`; roles belong to the whole cluster, and another test may have made them.
fn furnish(cluster: &Cluster, database: &str) {
    cluster.admin_in(
        database,
        &format!(
            "create table public.whose as select 'public' as name; grant select on public.whose to public; \
             create table public.log (n int); grant insert, select on public.log to {USER}; \
             do $$ begin for n in 0..{} loop \
             if to_regrole('leak_' || n) is null then execute format('create role leak_%s role {USER}', n); end if; \
             execute format('create schema leak_%s; create table leak_%1$s.whose as select ''leak_%1$s'' as name; \
             grant usage on schema leak_%1$s to public; grant select on leak_%1$s.whose to public; \
             grant temp on database \"{database}\" to leak_%1$s', n); end loop; end $$",
            MEMBERS - 1
        ),
    );
}

fn everybody_finds_their_own_only(seed: u64) {
    let _watch = Stopwatch::start(format!("{STATEMENTS} statements of {MEMBERS} clients, seed {seed}"));
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, &format!("pool: {{ maxServers: {SERVERS} }}"));
    let database = cluster.database("leaks");
    furnish(cluster, &database);
    let target = stagedoor.target(&database);
    let members = (0..MEMBERS).map(|number| Member::new(&target, number)).collect();
    let mut crowd = Crowd { stagedoor: &stagedoor, target, members, dice: Dice::new(seed), statements: 0 };
    while crowd.statements < STATEMENTS {
        crowd.turn();
    }
    while crowd.holders() > 0 {
        crowd.release();
    }
    assert!(cluster.open(&database).0 <= SERVERS);
    assert_eq!(cluster.admin_in(&database, "select count(*) from log"), ["0"]);
    for mut member in crowd.members {
        let expected = member.look();
        member.hear(&expected);
        member.client.leave();
    }
    stagedoor.finish();
}

#[test]
fn of_thirty_clients_on_three_servers_each_finds_its_own_session() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    everybody_finds_their_own_only(seed.unwrap_or(1));
}
