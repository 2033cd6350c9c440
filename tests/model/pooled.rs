//! The pooled world: clients that share toy servers by the verdicts of the real core. Obeys them as
//! `client/serve.rs`, `client/relay.rs`, `pool/checkout.rs` and `server/reset.rs` do, a frame at a time, and whatever
//! can happen next happens when the caller says so.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use stagedoor::pool::book::Limits;
use stagedoor::pool::ledger::Grant;
use stagedoor::pool::ledger::Ledger;
use stagedoor::pool::ledger::PoolId;
use stagedoor::pool::ledger::Request;
use stagedoor::pool::ledger::Returned;
use stagedoor::pool::ledger::Ticket;
use stagedoor::session::from_client::AtRest;
use stagedoor::session::from_client::Received;
use stagedoor::session::from_client::at_rest;
use stagedoor::session::from_client::from_client;
use stagedoor::session::from_server;
use stagedoor::session::from_server::from_server;
use stagedoor::session::handover::hand_over;
use stagedoor::session::handover::kind;
use stagedoor::session::handover::suits;
use stagedoor::session::parameters::Parameters;
use stagedoor::session::pin::Pins;
use stagedoor::session::probe::Answer;
use stagedoor::session::probe::PROBE;
use stagedoor::session::reported::Reported;
use stagedoor::session::state::ClientState;
use stagedoor::session::state::ServerState;
use stagedoor::session::state::answered;
use stagedoor::session::state::question;
use stagedoor::session::state::release;
use stagedoor::session::transaction::Transaction;
use stagedoor::session::verdict::FromClient;
use stagedoor::session::verdict::FromServer;
use stagedoor::session::verdict::Release;
use stagedoor::sql::signal::Meant;
use stagedoor::wire::backend::tag;
use stagedoor::wire::frame::Frame;
use stagedoor::wire::frame::HEADER_BYTES;
use stagedoor::wire::message;
use stagedoor::wire::message::Message;
use stagedoor::wire::message::TERMINATE;

use crate::postgres::Database;
use crate::postgres::Session;
use crate::script::Home;
use crate::script::Story;

/// The first in the queue is served first after this long, whatever it costs: the ledger's promise.
const PATIENCE_MAX: Duration = Duration::from_secs(1);

/// A pool that has just got its only server keeps it for a turn; there are not many pools.
const TURNS: Duration = Duration::from_millis(400);

/// What is wrong with the core, told by whoever notices it.
pub type Wrong = String;

/// A toy server with what the core knows of it.
#[derive(Debug)]
struct Server {
    session: Session,
    state: ServerState,
    /// Frames on their way to it.
    input: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
enum Phase {
    Rest,
    Waiting,
    /// Its turn has come, and it does not know yet.
    Granted(Grant<Box<Server>>),
    /// A server is being opened for it.
    Opening,
    Leased {
        server: Box<Server>,
        pinned: Pins,
        /// The server was told that the client has left, since it waits for more.
        passed_on: bool,
    },
    Gone,
}

#[derive(Debug)]
struct Client {
    pool: PoolId,
    state: ClientState,
    phase: Phase,
    /// It has not logged in.
    greets: bool,
    /// Frames that it has sent and that nobody has decided on.
    inbox: VecDeque<Vec<u8>>,
    /// It has nothing more to say.
    left: bool,
    /// It has closed the connection, behind what is in `inbox`.
    vanished: bool,
    /// Its next frame hangs on what the server says.
    waits: bool,
    received: Vec<u8>,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The proxy reads a frame of the client's, or that it has gone.
    Read(usize),
    /// The client's server reads a frame.
    Work(usize),
    /// The proxy reads a frame of the client's server.
    Hear(usize),
    /// A waiter learns that its turn has come, or a server is open.
    Advance(usize),
    /// A server that was closed is gone.
    Bury,
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    client: usize,
    since: Instant,
    /// When another was served although this one was overdue.
    passed: Option<Instant>,
}

#[derive(Debug)]
pub struct World {
    clients: Vec<Client>,
    ledger: Ledger<Box<Server>>,
    pools: Vec<(usize, Parameters)>,
    databases: Vec<Rc<RefCell<Database>>>,
    /// Pools of servers that are being closed.
    dying: Vec<PoolId>,
    /// Who waits, as the model counts: in the order in which they came.
    queue: Vec<Waiter>,
    greetings: HashMap<(PoolId, u64), Reported>,
    budget: usize,
    gathered_max: usize,
    now: Instant,
    /// How often clients have changed definitions.
    schema: u64,
    counted: Counted,
    /// Prints every frame.
    loud: bool,
}

/// That something happened at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    pub leases: usize,
    pub handovers: usize,
    pub probes: usize,
    pub pinned: usize,
    pub waited: usize,
    pub waits: usize,
    pub elsewhere: usize,
    pub cleaned: usize,
    pub closed: usize,
}

fn settings(home: &Home) -> Parameters {
    home.startup.iter().map(|(name, value)| (name.clone(), value.as_bytes().to_vec())).collect()
}

impl World {
    pub fn new(story: &Story, databases: Vec<Rc<RefCell<Database>>>) -> Self {
        let (mut pools, mut ledger) = (Vec::new(), Ledger::new(story.servers));
        let mut clients = Vec::new();
        for (id, home) in (1..).zip(&story.homes) {
            let startup = settings(home);
            let key = (home.database, kind(&startup));
            let pool = pools.iter().position(|known| *known == key).unwrap_or(pools.len());
            if pool == pools.len() {
                pools.push(key);
                let idle_timeout = Duration::from_secs(60);
                ledger.add(pool, Limits { servers_max: story.servers, idle_min: 0, idle_timeout });
            }
            let mut state = ClientState::new(id, startup);
            if home.session_mode {
                state.be_alone();
            }
            clients.push(Client {
                pool,
                state,
                phase: Phase::Rest,
                greets: true,
                inbox: VecDeque::new(),
                left: false,
                vanished: false,
                waits: false,
                received: Vec::new(),
            });
        }
        Self {
            clients,
            ledger,
            pools,
            databases,
            dying: Vec::new(),
            queue: Vec::new(),
            greetings: HashMap::new(),
            budget: story.servers,
            gathered_max: story.gathered_max,
            now: start(),
            schema: 0,
            loud: story.loud,
            counted: Counted::default(),
        }
    }

    // ── what the caller may do ──

    /// The client sends a frame.
    pub fn say(&mut self, at: usize, frame: Vec<u8>) {
        self.clients[at].inbox.push_back(frame);
    }

    /// The client closes its connection.
    pub fn vanish(&mut self, at: usize) {
        self.clients[at].vanished = true;
    }

    pub fn received(&self, at: usize) -> &[u8] {
        &self.clients[at].received
    }

    pub fn is_gone(&self, at: usize) -> bool {
        matches!(self.clients[at].phase, Phase::Gone)
    }

    pub const fn counted(&self) -> Counted {
        self.counted
    }

    pub fn can(&self, step: Move) -> bool {
        match step {
            Move::Read(at) => self.can_read(&self.clients[at]),
            Move::Work(at) => {
                matches!(&self.clients[at].phase, Phase::Leased { server, .. } if !server.input.is_empty())
            }
            Move::Hear(at) => {
                matches!(&self.clients[at].phase, Phase::Leased { server, .. } if server.session.has_said())
            }
            Move::Advance(at) => matches!(self.clients[at].phase, Phase::Granted(_) | Phase::Opening),
            Move::Bury => !self.dying.is_empty(),
        }
    }

    fn can_read(&self, client: &Client) -> bool {
        if client.left {
            return false;
        }
        match &client.phase {
            Phase::Rest => client.greets || !client.inbox.is_empty() || client.vanished,
            Phase::Waiting | Phase::Granted(_) | Phase::Opening => false,
            Phase::Leased { .. } if client.inbox.is_empty() => client.vanished,
            Phase::Leased { server, .. } => !client.waits && !server.state.pipeline.is_full(),
            Phase::Gone => false,
        }
    }

    pub fn make(&mut self, step: Move) -> Result<(), Wrong> {
        match step {
            Move::Read(at) => self.read(at)?,
            Move::Work(at) => {
                if let Phase::Leased { server, .. } = &mut self.clients[at].phase {
                    server.work();
                }
            }
            Move::Hear(at) => self.hear(at)?,
            Move::Advance(at) => self.advance(at)?,
            Move::Bury => {
                let pool = self.dying.remove(0);
                self.free(pool)?;
            }
        }
        if let Move::Read(at) | Move::Work(at) | Move::Hear(at) = step {
            self.look(at)?;
        }
        self.count_servers()
    }

    /// Time passes, and whoever waits asks again.
    pub fn tick(&mut self, time: Duration) -> Result<(), Wrong> {
        self.now += time;
        for _ in 0..self.queue.len() {
            let granted = self.ledger.look_again(self.now);
            self.grant_to(granted)?;
        }
        self.count_servers()
    }

    // ── serve.rs ──

    fn read(&mut self, at: usize) -> Result<(), Wrong> {
        let client = &mut self.clients[at];
        match &client.phase {
            Phase::Rest => self.at_rest(at),
            Phase::Leased { .. } if client.inbox.is_empty() => {
                client.left = true;
                Ok(())
            }
            Phase::Leased { .. } => self.decide(at),
            Phase::Waiting | Phase::Granted(_) | Phase::Opening | Phase::Gone => Ok(()),
        }
    }

    fn at_rest(&mut self, at: usize) -> Result<(), Wrong> {
        let client = &mut self.clients[at];
        if client.greets {
            let known = self.greetings.get(&(client.pool, client.state.startup().hash()));
            if let Some(greeting) = known {
                client.state.told = greeting.clone();
                client.greets = false;
                return Ok(());
            }
            return self.acquire(at);
        }
        let Some(frame) = client.inbox.front() else {
            client.phase = Phase::Gone;
            return Ok(());
        };
        match at_rest(frame[0], frame.len()) {
            AtRest::NeedServer => return self.acquire(at),
            AtRest::End => client.phase = Phase::Gone,
            AtRest::Ignore => {}
            AtRest::AnswerReady => client.received.extend(Message::ReadyForQueryIdle.encode()),
        }
        client.inbox.pop_front();
        Ok(())
    }

    // ── checkout.rs ──

    fn acquire(&mut self, at: usize) -> Result<(), Wrong> {
        let client = &mut self.clients[at];
        let pool = client.pool;
        match self.ledger.request(pool, client.state.fit(), self.now) {
            Request::Granted(grant) => {
                client.phase = Phase::Granted(grant);
                let first = self.queue.iter().find(|waiter| self.clients[waiter.client].pool == pool);
                if let Some(Waiter { client, .. }) = first {
                    return Err(format!("client {at} was served before {client}, which came first"));
                }
            }
            Request::Queued(ticket) => {
                client.phase = Phase::Waiting;
                self.queue.push(Waiter { ticket, client: at, since: self.now, passed: None });
                self.counted.waited += 1;
            }
        }
        Ok(())
    }

    /// A waiter is served, and the order in which that is done is the one that was promised.
    fn grant(&mut self, ticket: Ticket, at: usize, grant: Grant<Box<Server>>) -> Result<(), Wrong> {
        let place = self.queue.iter().position(|waiter| waiter.ticket == ticket);
        let place = place.ok_or("a waiter is served twice")?;
        let pool = self.clients[at].pool;
        for waiter in &mut self.queue[..place] {
            if self.clients[waiter.client].pool == pool {
                return Err(format!("client {at} was served before {}, which came first", waiter.client));
            }
            if self.now.duration_since(waiter.since) > PATIENCE_MAX && matches!(grant, Grant::Server(_)) {
                let passed = *waiter.passed.get_or_insert(self.now);
                if self.now.duration_since(passed) > TURNS {
                    return Err(format!("client {} is overdue, and {at} was served", waiter.client));
                }
            }
        }
        self.queue.remove(place);
        self.clients[at].phase = Phase::Granted(grant);
        Ok(())
    }

    fn grant_to(&mut self, granted: Option<(Ticket, Grant<Box<Server>>)>) -> Result<(), Wrong> {
        let Some((ticket, grant)) = granted else { return Ok(()) };
        let found = self.queue.iter().find(|waiter| waiter.ticket == ticket).map(|waiter| waiter.client);
        self.grant(ticket, found.ok_or("somebody is served who does not wait")?, grant)
    }

    fn advance(&mut self, at: usize) -> Result<(), Wrong> {
        let client = &mut self.clients[at];
        match std::mem::replace(&mut client.phase, Phase::Opening) {
            Phase::Granted(Grant::Server(server)) if suits(&client.state, &server.state) => {
                self.begin_lease(at, server)
            }
            Phase::Granted(_) => Ok(()),
            Phase::Opening => {
                let (pool, startup) = (client.pool, client.state.startup().clone());
                let server = self.open(pool, startup)?;
                self.ledger.opened(pool, self.now);
                self.begin_lease(at, Box::new(server))
            }
            other => Err(format!("{other:?} does not advance")),
        }
    }

    fn open(&self, pool: PoolId, startup: Parameters) -> Result<Server, Wrong> {
        let pairs: Vec<_> = startup
            .iter()
            .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned()))
            .collect();
        let database = self.databases[self.pools[pool].0].clone();
        let mut reported = Reported::default();
        for (name, value) in Session::greeting(&pairs) {
            reported.set(name, value.as_bytes());
        }
        let state = ServerState::new(reported.clone(), Answer::default(), Parameters::none());
        let mut server = Server { session: Session::new(database, &pairs), state, input: VecDeque::new() };
        let answer = server.probe(PROBE.as_bytes())?.ok_or("the first probe failed")?;
        server.state = ServerState::new(reported, answer, startup);
        Ok(server)
    }

    fn begin_lease(&mut self, at: usize, mut server: Box<Server>) -> Result<(), Wrong> {
        let client = &mut self.clients[at];
        self.counted.leases += 1;
        server.state.handed_to(&client.state);
        if let Some((sql, settings)) = hand_over(&client.state, &server.state) {
            self.counted.handovers += 1;
            if self.loud {
                eprintln!("{at} = {}", sql.escape_ascii());
            }
            server.exchange(&sql)?.map_err(|error| format!("a hand-over failed: {error:?}"))?;
            server.state.speak_with(settings);
        }
        if server.state.must_forget_unnamed(&client.state) {
            server.exchange(b"")?.map_err(|error| format!("{error:?}"))?;
        }
        if server.state.must_forget_sequences(&client.state) {
            server.exchange(b"DISCARD SEQUENCES")?.map_err(|error| format!("{error:?}"))?;
            server.state.sequences_are_forgotten();
        }
        if client.greets {
            client.greets = false;
            client.state.told.clone_from(&server.state.reported);
            self.greetings.insert((client.pool, client.state.startup().hash()), client.state.told.clone());
            client.phase = Phase::Rest;
            let pool = client.pool;
            return self.give_back(pool, server);
        }
        client.phase = Phase::Leased { server, pinned: Pins::NONE, passed_on: false };
        Ok(())
    }

    fn give_back(&mut self, pool: PoolId, mut server: Box<Server>) -> Result<(), Wrong> {
        server.is_clean()?;
        let returned =
            Returned { fit: *server.state.fit(), expires: self.now + Duration::from_secs(3600), server };
        let granted = self.ledger.give_back(pool, returned, self.now);
        self.grant_to(granted)
    }

    fn free(&mut self, pool: PoolId) -> Result<(), Wrong> {
        let granted = self.ledger.closed(pool, self.now);
        self.grant_to(granted)
    }

    /// The budget holds, as the servers are counted.
    fn count_servers(&self) -> Result<(), Wrong> {
        let holds = |client: &Client| match &client.phase {
            Phase::Leased { .. } | Phase::Opening | Phase::Granted(_) => 1,
            Phase::Rest | Phase::Waiting | Phase::Gone => 0,
        };
        let idle: usize = (0..self.pools.len()).map(|pool| self.ledger.count(pool).idle).sum();
        let open = self.clients.iter().map(holds).sum::<usize>() + idle + self.dying.len();
        if open == self.ledger.open() && open <= self.budget {
            return Ok(());
        }
        Err(format!("{open} servers, the ledger says {}, the budget is {}", self.ledger.open(), self.budget))
    }

    // ── relay.rs ──

    fn decide(&mut self, at: usize) -> Result<(), Wrong> {
        let Client { state, phase, inbox, left, waits, .. } = &mut self.clients[at];
        let Phase::Leased { server, .. } = phase else { return Ok(()) };
        let Some(bytes) = inbox.pop_front() else { return Ok(()) };
        server.state.schema_is(self.schema);
        let mut aside = Vec::new();
        let received = received(&bytes, self.gathered_max);
        let length = HEADER_BYTES + received.frame.body.len();
        let verdict = from_client(state, &mut server.state, received, &mut |_| Meant::Itself, &mut aside);
        if self.loud {
            eprintln!("{at} > {} {verdict:?} {}", bytes.escape_ascii(), aside.escape_ascii());
        }
        let mut forward = |from: usize| server.take(&[&aside, &bytes[from..]].concat());
        match verdict {
            FromClient::Forward | FromClient::ForwardBehind => forward(0),
            FromClient::ReplaceHead(count) => forward(count),
            FromClient::Replace if length == bytes.len() => forward(length),
            FromClient::Replace => return Err("a frame is replaced that was not seen whole".to_owned()),
            FromClient::Swallow => forward(bytes.len()),
            FromClient::Wait => {
                self.counted.waits += 1;
                *waits = true;
                server.take(&aside);
                inbox.push_front(bytes);
            }
            FromClient::Elsewhere => {
                self.counted.elsewhere += 1;
                inbox.push_front(bytes);
                return self.release(at);
            }
            FromClient::End => *left = true,
        }
        Ok(())
    }

    fn hear(&mut self, at: usize) -> Result<(), Wrong> {
        let Client { state, phase, waits, received: read, .. } = &mut self.clients[at];
        let Phase::Leased { server, .. } = phase else { return Ok(()) };
        let Some(bytes) = server.session.say() else { return Ok(()) };
        *waits = false;
        if self.loud {
            eprintln!("{at} < {}", bytes.escape_ascii());
        }
        match server.listen(state, &bytes, self.gathered_max)? {
            Some(words) => read.extend(words),
            None => {
                if bytes[0] == tag::READY_FOR_QUERY {
                    tell_news(state, &server.state.reported, read);
                }
                read.extend(&bytes);
            }
        }
        if bytes[0] == tag::READY_FOR_QUERY && server.state.has_defined() {
            self.schema += 1;
        }
        Ok(())
    }

    /// What `Relay::outcome` tells, and what `serve.rs` does about it.
    fn look(&mut self, at: usize) -> Result<(), Wrong> {
        loop {
            let client = &self.clients[at];
            let Phase::Leased { server, pinned, .. } = &client.phase else { return Ok(()) };
            if client.left {
                return self.look_at_the_end(at);
            }
            match release(&client.state, &server.state) {
                Release::Keep => return Ok(()),
                Release::Pinned(pins) if pins == *pinned => return Ok(()),
                Release::Pinned(_) | Release::Probe => {
                    if self.probe(at)? {
                        return self.release(at);
                    }
                }
                Release::Return => return self.release(at),
            }
        }
    }

    /// The client has left: all that it said is answered first, and a server that waits for more is told.
    fn look_at_the_end(&mut self, at: usize) -> Result<(), Wrong> {
        let ends_politely = !self.clients[at].vanished;
        let Phase::Leased { server, passed_on, .. } = &mut self.clients[at].phase else { return Ok(()) };
        if *passed_on {
            if server.session.is_over() {
                self.counted.closed += 1;
                self.dying.push(self.clients[at].pool);
                self.clients[at].phase = Phase::Gone;
            }
            return Ok(());
        }
        if server.state.pipeline.is_settled() {
            return self.part(at);
        }
        if !server.state.pipeline.will_be_ready() {
            *passed_on = true;
            server.input.push_back(if ends_politely { TERMINATE.to_vec() } else { Vec::new() });
        }
        Ok(())
    }

    fn release(&mut self, at: usize) -> Result<(), Wrong> {
        let pool = self.clients[at].pool;
        match std::mem::replace(&mut self.clients[at].phase, Phase::Rest) {
            Phase::Leased { server, .. } => self.give_back(pool, server),
            other => Err(format!("{other:?} is released")),
        }
    }

    /// Tells whether the server may go.
    fn probe(&mut self, at: usize) -> Result<bool, Wrong> {
        let Client { state, phase, .. } = &mut self.clients[at];
        let Phase::Leased { server, pinned, .. } = phase else { return Ok(false) };
        if release(state, &server.state) == Release::Probe {
            self.counted.probes += 1;
            let question = question(state, &server.state);
            let answer = server.probe(&question)?;
            if self.loud {
                eprintln!("{at} ? {answer:?}");
            }
            answered(state, &mut server.state, answer);
        }
        match release(state, &server.state) {
            Release::Return => Ok(true),
            Release::Pinned(pins) => {
                self.counted.pinned += 1;
                *pinned = pins;
                Ok(false)
            }
            Release::Keep | Release::Probe => Err("a probe answered nothing".to_owned()),
        }
    }

    // ── reset.rs ──

    /// The client leaves while it holds a server.
    fn part(&mut self, at: usize) -> Result<(), Wrong> {
        let Client { state, phase, pool, .. } = &mut self.clients[at];
        let (pool, phase) = (*pool, std::mem::replace(phase, Phase::Gone));
        let Phase::Leased { mut server, .. } = phase else { return Ok(()) };
        if server.clean(state)? {
            self.counted.cleaned += 1;
            self.give_back(pool, server)
        } else {
            self.counted.closed += 1;
            self.dying.push(pool);
            Ok(())
        }
    }
}

impl Server {
    /// Frames are on their way to it.
    fn take(&mut self, mut bytes: &[u8]) {
        while let Ok(Some((_, total))) = Frame::parse(bytes) {
            self.input.push_back(bytes[..total].to_vec());
            bytes = &bytes[total..];
        }
        assert!(bytes.is_empty(), "whole frames: {bytes:?}");
    }

    fn work(&mut self) {
        match self.input.pop_front() {
            Some(bytes) if bytes.is_empty() => self.session.hear_the_end(),
            Some(bytes) => self.session.hear(bytes[0], &bytes[HEADER_BYTES..]),
            None => {}
        }
    }

    /// What a frame of its becomes for the client; `None` where it is left as it is.
    fn listen(
        &mut self,
        client: &mut ClientState,
        bytes: &[u8],
        gathered_max: usize,
    ) -> Result<Option<Vec<u8>>, Wrong> {
        let received = received(bytes, gathered_max);
        if !from_server::INTEREST[usize::from(bytes[0])] {
            return Ok(None);
        }
        let mut out = Vec::new();
        match from_server(client, &mut self.state, received, &mut out) {
            FromServer::Forward
            | FromServer::ForwardError
            | FromServer::ForwardReady
            | FromServer::Notification => Ok(None),
            FromServer::ReplaceError => Ok(Some(out)),
            FromServer::Swallow => Ok(Some(Vec::new())),
            FromServer::Broken(why) => Err(format!("broken: {why}")),
        }
    }

    /// A question of our own, and its rows.
    fn exchange(&mut self, sql: &[u8]) -> Result<Result<Vec<Vec<u8>>, Vec<u8>>, Wrong> {
        let mut question = self.state.asked();
        message::push_frame(&mut question, b'Q', &[sql, b"\0"]);
        self.take(&question);
        while !self.input.is_empty() {
            self.work();
        }
        let (mut rows, mut refusal, mut status) = (Vec::new(), None, None);
        while let Some(bytes) = self.session.say() {
            let body = &bytes[HEADER_BYTES..];
            match bytes[0] {
                tag::DATA_ROW => rows.push(body.to_vec()),
                tag::ERROR => refusal = Some(body.to_vec()),
                tag::PARAMETER_STATUS => {
                    let (name, value) =
                        stagedoor::wire::backend::parameter_status(body).ok_or("a bad setting")?;
                    self.state.reported.set(name, value);
                }
                tag::NOTIFICATION => return Err("a notification for nobody".to_owned()),
                tag::READY_FOR_QUERY => status = body.first().copied(),
                _ => {}
            }
        }
        match (refusal, status) {
            (Some(refusal), Some(_)) => Ok(Err(refusal)),
            (None, Some(b'I')) => Ok(Ok(rows)),
            (_, status) => Err(format!("{} is answered by {status:?}", sql.escape_ascii())),
        }
    }

    fn probe(&mut self, question: &[u8]) -> Result<Option<Answer>, Wrong> {
        let Ok(rows) = self.exchange(question)? else { return Ok(None) };
        Answer::read(rows.iter().map(Vec::as_slice))
            .map(Some)
            .ok_or_else(|| "a probe is answered by nonsense".to_owned())
    }

    /// `server::reset::clean`: whether it may be used on.
    fn clean(&mut self, client: &mut ClientState) -> Result<bool, Wrong> {
        if release(client, &self.state) == Release::Return {
            return Ok(true);
        }
        if self.state.transaction != Transaction::Idle {
            self.exchange(b"ROLLBACK")?.map_err(|error| format!("ROLLBACK failed: {error:?}"))?;
            self.state.transaction = Transaction::Idle;
        }
        let question = question(client, &self.state);
        let answer = self.probe(&question)?.ok_or("the last probe failed")?;
        answered(client, &mut self.state, Some(answer));
        let left = client.left_behind(&self.state);
        if left.is_empty() {
            return Ok(true);
        }
        if !left.are_discardable() || !self.state.can_be_discarded() {
            return Ok(false);
        }
        self.exchange(b"DISCARD ALL")?.map_err(|error| format!("DISCARD ALL failed: {error:?}"))?;
        let question = stagedoor::session::state::question(client, &self.state);
        let answer = self.probe(&question)?.ok_or("the very last probe failed")?;
        self.state.cleaned(answer);
        Ok(ClientState::new(0, Parameters::none()).left_behind(&self.state).is_empty())
    }

    /// What is given back owes nothing, is idle, and holds nothing but what the core knows.
    fn is_clean(&mut self) -> Result<(), Wrong> {
        let is_idle = self.state.is_idle();
        while !self.input.is_empty() {
            self.work(); // What has no answer: Flush, and what would have ended a copy.
        }
        let mut wrong = self.session.leftovers();
        if !is_idle {
            wrong.push("it owes something".to_owned());
        }
        let settings = self.session.settings();
        let role = settings.get("role").filter(|role| *role != "none").map(|role| ("role", role));
        let real: Parameters = settings
            .of_session()
            .chain(settings.custom())
            .chain(role)
            .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
            .collect();
        if real != *self.state.parameters() {
            wrong.push(format!("its settings are {real:?}, and {:?} are known", self.state.parameters()));
        }
        let ours = self.session.statements().filter(|name| name.starts_with(b"stagedoor:")).count();
        let strange =
            self.session.statements().find(|name| !name.is_empty() && !name.starts_with(b"stagedoor:"));
        if let Some(name) = strange {
            wrong.push(format!("a statement {}", String::from_utf8_lossy(name)));
        }
        if ours > STATEMENTS_MAX || self.state.statements() > ours {
            wrong.push(format!("it has {ours} statements, and {} are known", self.state.statements()));
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("a server is given back: {}", wrong.join(", "))) }
    }
}

/// What the client has not been told of its settings.
fn tell_news(client: &mut ClientState, now: &Reported, read: &mut Vec<u8>) {
    for (name, value) in client.told.news(now) {
        message::parameter_status(read, name, value);
    }
    client.told.clone_from(now);
}

/// PREPARED_MAX of the core, and as many that are to be closed.
const STATEMENTS_MAX: usize = 400;

fn received(bytes: &[u8], gathered_max: usize) -> Received<'_> {
    let length = bytes.len().min(gathered_max);
    let frame = Frame { tag: bytes[0], body: &bytes[HEADER_BYTES.min(length)..length] };
    Received { frame, whole: length == bytes.len(), total: bytes.len() }
}

/// Where the virtual clock begins.
fn start() -> Instant {
    Instant::now()
}
