//! Clients that ask one thing after another, on fewer servers than they have pools, in a time of our own: what it
//! costs, and who waits how long.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;
use crate::pool::book::MISSES_MAX;
use crate::pool::book::TURN;

/// A login, a statement, and what a client does between two statements.
const LOGIN: Duration = Duration::from_millis(10);
const STATEMENT: Duration = Duration::from_millis(1);

/// What becomes of a crowd.
#[derive(Debug, Default)]
struct Toll {
    /// Statements, by client.
    done: Vec<u32>,
    logins: u32,
    hand_overs: u32,
    longest: Duration,
}

impl Toll {
    fn statements(&self) -> u32 {
        self.done.iter().sum()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Asks(usize),
    AsksAgain(usize, Ticket),
    HasOpened(usize, Server),
    IsDone(usize, Server),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Server {
    state: u64,
}

/// Each client has a pool and settings of its own there, and thinks so long.
#[derive(Clone, Copy, Debug)]
struct Client {
    pool: PoolId,
    state: u64,
    thinks: Duration,
    asked: Duration,
    ticket: Option<Ticket>,
}

struct Crowd {
    ledger: Ledger<Server>,
    clients: Vec<Client>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    number: u64,
    began: Instant,
    now: Duration,
    toll: Toll,
}

impl Crowd {
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    fn new(budget: usize, clients: impl IntoIterator<Item = (PoolId, u64, Duration)>) -> Self {
        let mut ledger = Ledger::new(budget);
        let client =
            |(pool, state, thinks)| Client { pool, state, thinks, asked: Duration::ZERO, ticket: None };
        let clients: Vec<Client> = clients.into_iter().map(client).collect();
        let limits = Limits { servers_max: budget, idle_min: 0, idle_timeout: Duration::from_secs(60) };
        clients.iter().for_each(|client| ledger.add(client.pool, limits));
        let mut crowd = Self {
            ledger,
            toll: Toll { done: vec![0; clients.len()], ..Toll::default() },
            clients,
            events: BinaryHeap::new(),
            number: 0,
            began: Instant::now(),
            now: Duration::ZERO,
        };
        (0_u32..)
            .zip(0..crowd.clients.len())
            .for_each(|(number, client)| crowd.after(LOGIN * 2 * number, Event::Asks(client)));
        crowd
    }

    fn after(&mut self, time: Duration, event: Event) {
        self.number += 1;
        self.events.push(Reverse((self.now + time, self.number, event)));
    }

    fn run(mut self, time: Duration) -> Toll {
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            if now > time {
                break;
            }
            self.now = now;
            match event {
                Event::Asks(client) => self.ask(client),
                Event::AsksAgain(client, ticket) => self.ask_again(client, ticket),
                Event::HasOpened(client, server) => {
                    self.toll.logins += 1;
                    self.ledger.opened(self.clients[client].pool, self.instant());
                    self.serve(client, server);
                }
                Event::IsDone(client, server) => self.done(client, server),
            }
        }
        self.toll
    }

    fn instant(&self) -> Instant {
        self.began + self.now
    }

    fn ask(&mut self, at: usize) {
        let client = self.clients[at];
        self.clients[at].asked = self.now;
        let fit = Fit { state: client.state, custom: 0, name: 0, strict: false };
        match self.ledger.request(client.pool, &fit, self.instant()) {
            Request::Granted(grant) => self.grant(at, grant),
            Request::Queued(ticket) => {
                self.clients[at].ticket = Some(ticket);
                self.after(self.ledger.look_again_in(ticket, client.pool), Event::AsksAgain(at, ticket));
            }
        }
    }

    fn ask_again(&mut self, at: usize, ticket: Ticket) {
        if self.clients[at].ticket != Some(ticket) {
            return;
        }
        if let Some(granted) = self.ledger.look_again(self.instant()) {
            self.hand_out(granted);
        }
        if self.clients[at].ticket == Some(ticket) {
            let pool = self.clients[at].pool;
            self.after(self.ledger.look_again_in(ticket, pool), Event::AsksAgain(at, ticket));
        }
    }

    fn hand_out(&mut self, (ticket, grant): (Ticket, Grant<Server>)) {
        let next = self.clients.iter().position(|client| client.ticket == Some(ticket)).unwrap();
        self.grant(next, grant);
    }

    fn grant(&mut self, at: usize, grant: Grant<Server>) {
        self.clients[at].ticket = None;
        let state = self.clients[at].state;
        match grant {
            Grant::Server(server) => self.serve(at, server),
            Grant::Connect | Grant::Replace(_) => self.after(LOGIN, Event::HasOpened(at, Server { state })),
        }
    }

    fn serve(&mut self, at: usize, server: Server) {
        let client = self.clients[at];
        self.toll.longest = self.toll.longest.max(self.now - client.asked);
        self.toll.hand_overs += u32::from(server.state != client.state);
        let server = Server { state: client.state };
        self.after(STATEMENT, Event::IsDone(at, server));
    }

    fn done(&mut self, at: usize, server: Server) {
        let Client { pool, state, thinks, .. } = self.clients[at];
        self.toll.done[at] += 1;
        let fit = Fit { state, custom: 0, name: 0, strict: false };
        let expires = self.instant() + Duration::from_secs(3600);
        let granted = self.ledger.give_back(pool, Returned { server, fit, expires }, self.instant());
        if let Some(granted) = granted {
            self.hand_out(granted);
        }
        self.after(thinks, Event::Asks(at));
    }
}

fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

/// `pools` of `each` so many clients, which all want the same there.
fn kinds(pools: usize, each: usize, thinks: Duration) -> impl Iterator<Item = (PoolId, u64, Duration)> {
    (0..pools * each).map(move |number| (number / each, 0, thinks))
}

/// Clients of one pool, each with settings of its own, that never speak at the same time.
fn alternating(clients: u64) -> impl Iterator<Item = (PoolId, u64, Duration)> {
    (0..clients).map(|number| (0, number, micros(480_000)))
}

#[test]
fn kinds_that_outnumber_the_servers_pay_few_logins_and_are_served_alike() {
    for each in [1, 3] {
        let toll = Crowd::new(4, kinds(12, each, micros(100))).run(Duration::from_secs(10));
        let (least, most) = (toll.done.iter().min(), toll.done.iter().max());
        assert!(toll.statements() > 28_000, "of 40 000 that four servers can do: {toll:?}");
        assert!(toll.logins * 50 < toll.statements(), "{toll:?}");
        assert!(least.unwrap() * 4 > most.unwrap() * 3, "{toll:?}");
        assert!(toll.longest < (TURN + LOGIN) * 3, "twelve are three rounds of four: {toll:?}");
    }
}

#[test]
fn who_comes_seldom_waits_for_a_login_and_no_longer() {
    let toll = Crowd::new(4, kinds(12, 1, micros(200_000))).run(Duration::from_secs(5));
    assert!(toll.longest <= LOGIN + PAUSE * 2, "{toll:?}");
}

#[test]
fn clients_that_alternate_get_servers_of_their_own_where_there_is_room() {
    let toll = Crowd::new(20, alternating(6)).run(Duration::from_secs(20));
    assert!(toll.hand_overs <= 6 * u32::from(MISSES_MAX) && toll.statements() > 200, "{toll:?}");
    let toll = Crowd::new(8, alternating(20)).run(Duration::from_secs(20));
    assert_eq!(toll.logins, 7, "a quarter of the budget was free before the last");
    let toll = Crowd::new(1, alternating(6)).run(Duration::from_secs(20));
    assert_eq!((toll.logins, toll.hand_overs + 1), (1, toll.statements()));
}
