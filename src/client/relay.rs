//! The loop of a lease: bytes both ways, verdicts obeyed. Decides nothing about the protocol by itself.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use tokio::time::Instant;
use tokio::time::Sleep;
use tokio::time::sleep;
use tokio_util::sync::WaitForCancellationFuture;

use crate::client::aim::CALL_PATIENCE;
use crate::client::aim::Call;
use crate::client::registry::Registry;
use crate::metrics::pool::Origin;
use crate::metrics::pool::PoolMetrics;
use crate::net::stream::Stream;
use crate::server::connection::Server;
use crate::server::holders::Holders;
use crate::server::reset::FAREWELL;
use crate::session::from_client::Received;
use crate::session::from_client::from_client;
use crate::session::from_server::from_server;
use crate::session::pin::Pins;
use crate::session::state::ClientState;
use crate::session::state::Unsaid;
use crate::session::state::release;
use crate::session::transaction::Transaction;
use crate::session::verdict::FromClient;
use crate::session::verdict::FromServer;
use crate::session::verdict::Release;
use crate::sql::signal::Meant;
use crate::sql::signal::is_virtual;
use crate::wire::backend::tag;
use crate::wire::flow::Flow;
use crate::wire::frame::Frame;
use crate::wire::frame::HEADER_BYTES;
use crate::wire::frontend;
use crate::wire::frontend::Nonsense;
use crate::wire::frontend::nonsense;
use crate::wire::message::TERMINATE;
use crate::wire::message::frame;
use crate::wire::message::parameter_status;
use crate::wire::refusal::field;
use crate::wire::scanner::Scanner;
use crate::wire::scanner::Step;

/// How a lease came to its end, or to a question.
#[derive(Debug)]
pub enum Outcome {
    /// The server may go back. So it may where another one is needed: what the client said is still there.
    Return,
    /// The server must be probed before anybody can say.
    Probe,
    /// The client has nothing more to say, and what it said is answered.
    ClientLeft(Left),
    /// It has nothing more to say, and what it said takes too long.
    Overdue,
    /// So it was while the server waited for more, and the server has ended as PostgreSQL does then.
    Ended(Left),
    /// The server is gone, and has heard nothing of what the client said, which is still there: another one may.
    Unheard(String),
    /// The server is gone, or cannot be relied on.
    ServerLost { why: String, told: bool },
    /// The sidecar ends, and nothing is open.
    Goodbye,
}

/// How a client came to the end of what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Terminate.
    Politely,
    /// End of file, or a broken connection.
    Silently,
    /// With something that no client says.
    Babbling(Nonsense),
}

/// What a lease begins with, to say it again to another server.
#[derive(Clone, Copy, Debug)]
struct Beginning {
    place: usize,
    scanner: Scanner,
    unsaid: Unsaid,
}

/// The two directions between one client and one server.
#[derive(Debug)]
pub struct Wires {
    pub to_server: Flow,
    pub to_client: Flow,
    pub client_scanner: Scanner,
    pub server_scanner: Scanner,
    /// What a verdict wants sent; empty between two verdicts.
    pub aside: Vec<u8>,
}

/// All that one lease needs.
pub struct Relay<'a> {
    pub client: &'a mut Stream,
    pub state: &'a mut ClientState,
    pub server: &'a mut Server,
    pub wires: &'a mut Wires,
    pub registry: &'a Registry,
    pub metrics: &'a PoolMetrics,
    /// Why the client is known to stay, as far as it has been counted.
    pub pinned: Pins,
    /// Where nothing has been heard yet.
    beginning: Option<Beginning>,
    left: Option<Left>,
    /// The client's stream has ended; what was read of it is still to be digested.
    client_ended: bool,
    /// The server was told that no more will come.
    passed_on: bool,
    /// When a client that has left is given up, unless something moves.
    deadline: Option<Pin<Box<Sleep>>>,
    /// The server said why it ends.
    farewell: bool,
    /// When this turn of the loop began: a clock is not asked for each frame.
    now: Instant,
    busy_since: Option<Instant>,
    began: Option<Instant>,
    /// What this client's `pg_cancel_backend` means: those clients stay where they are until it is done.
    calls: Calls,
    /// The next frame of the client hangs on what the server says.
    client_waits: bool,
    /// The client was told of a setting that was changed by somebody else.
    pub has_news: bool,
}

impl<'a> Relay<'a> {
    pub fn new(
        (client, state): (&'a mut Stream, &'a mut ClientState),
        server: &'a mut Server,
        wires: &'a mut Wires,
        registry: &'a Registry,
        metrics: &'a PoolMetrics,
        pinned: Pins,
    ) -> Self {
        Self {
            client,
            state,
            server,
            wires,
            registry,
            metrics,
            pinned,
            beginning: None,
            left: None,
            client_ended: false,
            passed_on: false,
            deadline: None,
            farewell: false,
            now: Instant::now(),
            busy_since: None,
            began: None,
            calls: Calls::default(),
            client_waits: false,
            has_news: false,
        }
    }

    /// The lease begins: a server that is lost before it hears anything may be replaced.
    pub fn begin(&mut self) {
        let Wires { to_server, client_scanner, .. } = &*self.wires;
        let (place, scanner) = (to_server.place(), *client_scanner);
        self.beginning = Some(Beginning { place, scanner, unsaid: self.state.unsaid() });
    }

    /// Moves bytes until the lease comes to an end or a question.
    ///
    /// Not cancel-safe: where the future is dropped, client and server must be closed.
    pub async fn run(&mut self, mut goodbye: Pin<&mut WaitForCancellationFuture<'_>>) -> Outcome {
        let mut is_first = true;
        poll_fn(|cx| {
            if !std::mem::take(&mut is_first) {
                self.now = Instant::now();
            }
            self.poll(cx, goodbye.as_mut())
        })
        .await
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        goodbye: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Poll<Outcome> {
        loop {
            match self.step(cx) {
                Err(outcome) => return Poll::Ready(outcome),
                Ok(goes_on) => {
                    if let Some(outcome) = self.outcome() {
                        return Poll::Ready(outcome);
                    }
                    if !goes_on {
                        break;
                    }
                }
            }
        }
        if self.calls.are_overdue(cx) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.is_overdue(cx) {
            return Poll::Ready(Outcome::Overdue);
        }
        // A pinned client that rests is told goodbye like one without a server.
        if self.server.state.is_idle() && self.wires.to_client.pending() == 0 && goodbye.poll(cx).is_ready() {
            return Poll::Ready(Outcome::Goodbye);
        }
        Poll::Pending
    }

    /// Moves what can be moved, once in each direction. Tells whether more may be moved, or must be looked for: what
    /// was sent to the server makes room for what is read in the same step, everything else for the next one.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<bool, Outcome> {
        let mut has_sent = self.digest_client(cx.waker())?;
        has_sent |= self.pass_on();
        has_sent |= self.write_server(cx)?;
        let mut goes_on = self.read_server(cx)?;
        self.beginning = None;
        goes_on |= self.digest_server()?;
        goes_on |= self.write_client(cx)?;
        goes_on |= self.read_client(cx);
        if has_sent || goes_on {
            self.postpone();
        }
        Ok(goes_on)
    }

    /// Whether there is anything to tell the caller.
    fn outcome(&self) -> Option<Outcome> {
        let wires = &self.wires;
        // A server that ends says so, whatever it says before.
        if wires.to_server.pending() > 0 || self.server.ends {
            return None;
        }
        if let Some(left) = self.left {
            // PostgreSQL does and answers all that it was told before it notices that its client has left.
            let answered = self.server.state.pipeline.is_settled();
            let done = answered && self.is_settled() && wires.to_client.pending() == 0;
            return done.then_some(Outcome::ClientLeft(left));
        }
        if !self.is_settled() || wires.to_client.pending() > 0 {
            return None;
        }
        if self.calls.patience.is_some() {
            return None;
        }
        match release(self.state, &self.server.state) {
            Release::Keep => None,
            Release::Probe => Some(Outcome::Probe),
            Release::Pinned(pins) if pins == self.pinned => None,
            Release::Pinned(_) => Some(Outcome::Probe),
            Release::Return => Some(Outcome::Return),
        }
    }

    /// No frame is half read from the server, and none half written to it.
    fn is_settled(&self) -> bool {
        self.wires.server_scanner.at_boundary()
            && self.wires.to_client.unscanned().is_empty()
            && self.wires.client_scanner.at_boundary()
    }

    /// The client has nothing more to say.
    fn leave(&mut self, left: Left) {
        self.left = Some(left);
        self.deadline = Some(Box::pin(sleep(FAREWELL)));
    }

    /// Something has moved.
    fn postpone(&mut self) {
        if let Some(deadline) = &mut self.deadline {
            deadline.as_mut().reset(self.now + FAREWELL);
        }
    }

    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
    }

    /// Where the server waits for what its client will never say, it is told how that has ended: it knows best
    /// what comes of it.
    fn pass_on(&mut self) -> bool {
        let pipeline = &self.server.state.pipeline;
        let Some(left) = self.left.filter(|_| !self.passed_on) else { return false };
        let comes_to_rest = pipeline.is_settled() || pipeline.will_be_ready();
        if comes_to_rest && self.wires.client_scanner.at_boundary() {
            return false;
        }
        let flow = &mut self.wires.to_server;
        match left {
            Left::Politely => flow.insert(TERMINATE),
            Left::Silently => {}
            Left::Babbling(_) => flow.approve(HEADER_BYTES),
        }
        self.passed_on = true;
        self.server.ends = true;
        true
    }

    fn read_client(&mut self, cx: &mut Context<'_>) -> bool {
        let flow = &mut self.wires.to_server;
        if self.client_ended
            || self.left.is_some()
            || flow.is_congested()
            || flow.is_full()
            || self.server.state.pipeline.is_full()
        {
            return false;
        }
        match self.client.poll_read(cx, flow.room()) {
            Poll::Pending => false,
            Poll::Ready(Ok(count)) if count > 0 => {
                flow.fill(count);
                self.metrics.bytes_from_client.inc_by(count as u64);
                true
            }
            Poll::Ready(_) => {
                self.client_ended = true;
                true
            }
        }
    }

    fn read_server(&mut self, cx: &mut Context<'_>) -> Result<bool, Outcome> {
        let flow = &mut self.wires.to_client;
        if flow.is_congested() || flow.is_full() {
            return Ok(false);
        }
        match self.server.stream.poll_read(cx, flow.room()) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(count)) if count > 0 => {
                flow.fill(count);
                Ok(true)
            }
            Poll::Ready(Ok(_)) => Err(self.lost("the server closed the connection".to_owned())),
            Poll::Ready(Err(error)) => Err(self.lost(error.to_string())),
        }
    }

    fn lost(&mut self, why: String) -> Outcome {
        if let Some(Beginning { place, scanner, unsaid }) = self.beginning.take() {
            self.wires.to_server.rewind(place);
            self.wires.client_scanner = scanner;
            self.state.unheard(unsaid);
            return Outcome::Unheard(why);
        }
        if let Some(left) = self.left.filter(|_| self.passed_on) {
            return Outcome::Ended(left);
        }
        // Inside a frame nothing can be said any more.
        let told = self.farewell || !self.wires.server_scanner.at_boundary();
        Outcome::ServerLost { why, told }
    }

    fn write_server(&mut self, cx: &mut Context<'_>) -> Result<bool, Outcome> {
        let (moved, written) = pump(&mut self.server.stream, &mut self.wires.to_server, cx);
        if moved > 0 && !self.server.stream.holds_all() {
            self.beginning = None;
        }
        if self.passed_on && self.wires.to_server.pending() == 0 {
            // Where this fails, reading tells.
            let _ = self.server.stream.poll_shutdown(cx);
        }
        match written {
            Ok(()) => Ok(moved > 0),
            // What it said before it went is still to be read.
            Err(_) if self.beginning.is_some() || self.server.stream.is_quiet() => {
                Err(self.lost("the connection is broken".to_owned()))
            }
            Err(_) => {
                let rest = self.wires.to_server.pending();
                self.wires.to_server.advance(rest);
                self.server.ends = true;
                Ok(true)
            }
        }
    }

    fn write_client(&mut self, cx: &mut Context<'_>) -> Result<bool, Outcome> {
        let (moved, written) = pump(self.client, &mut self.wires.to_client, cx);
        self.metrics.bytes_to_client.inc_by(moved as u64);
        // PostgreSQL ends a statement whose answer it cannot send (internal_flush), and does not begin another.
        written.map_err(|_| Outcome::ClientLeft(Left::Silently))?;
        Ok(moved > 0)
    }

    fn digest_client(&mut self, waker: &Waker) -> Result<bool, Outcome> {
        let mut moved = false;
        self.server.look_at_definitions();
        while self.left.is_none() && !self.server.state.pipeline.is_full() {
            let Wires { to_server: flow, client_scanner: scanner, .. } = &mut *self.wires;
            if let Some(nonsense) = nonsense(flow.unscanned()).filter(|_| scanner.at_boundary()) {
                self.leave(Left::Babbling(nonsense));
                return Ok(true);
            }
            match scanner.step(flow.unscanned(), flow.is_stuck()) {
                Ok(Step::More) => {
                    if self.client_ended {
                        self.leave(Left::Silently);
                        moved = true;
                    }
                    break;
                }
                Ok(Step::Pass(count)) => flow.approve(count),
                Ok(Step::Inspect { tag, total, whole }) => {
                    self.decide_client((tag, total, whole), waker)?;
                    if self.client_waits {
                        break;
                    }
                }
                Err(_) => self.leave(Left::Babbling(Nonsense::Length)),
            }
            moved = true;
        }
        Ok(moved)
    }

    fn decide_client(
        &mut self,
        (tag, total, whole): (u8, usize, bool),
        waker: &Waker,
    ) -> Result<(), Outcome> {
        let Wires { to_server: flow, client_scanner, aside, .. } = &mut *self.wires;
        let length = total.min(flow.unscanned().len());
        let body = flow.unscanned().get(HEADER_BYTES..length).unwrap_or_default();
        let received = Received { frame: Frame { tag, body }, whole, total };
        let was_busy = self.server.state.pipeline.is_busy();
        let (registry, calls) = (self.registry, &mut self.calls);
        let mut translate = |pid| calls.meant(registry, pid, waker);
        let verdict = from_client(self.state, &mut self.server.state, received, &mut translate, aside);
        self.client_waits = verdict == FromClient::Wait;
        if self.client_waits {
            if !aside.is_empty() {
                flow.insert(aside);
                aside.clear();
            }
            return Ok(());
        }
        self.calls.decided(tag);
        if verdict == FromClient::Elsewhere {
            return Err(Outcome::Return);
        }
        if !whole {
            client_scanner.pass_rest(total - length);
        }
        if !aside.is_empty() {
            flow.insert(aside);
            aside.clear();
        }
        match verdict {
            FromClient::Forward | FromClient::ForwardBehind => flow.approve(length),
            FromClient::ReplaceHead(count) => {
                flow.skip(count);
                flow.approve(length - count);
            }
            FromClient::Wait | FromClient::Elsewhere => {}
            FromClient::Replace => flow.skip(length),
            FromClient::Swallow => flow.skip(length),
            FromClient::End => {
                flow.skip(flow.unscanned().len());
                self.leave(Left::Politely);
            }
        }
        if !was_busy && self.server.state.pipeline.is_busy() {
            self.busy_since = Some(self.now);
            self.began.get_or_insert(self.now);
        }
        Ok(())
    }

    fn digest_server(&mut self) -> Result<bool, Outcome> {
        let mut moved = false;
        loop {
            let Wires { to_client: flow, server_scanner, .. } = &mut *self.wires;
            let step = server_scanner.step(flow.unscanned(), flow.is_stuck());
            match step.map_err(|error| self.broken(&error.to_string()))? {
                Step::More => return Ok(moved),
                Step::Pass(count) => self.wires.to_client.approve(count),
                Step::Inspect { tag, total, whole } => self.decide_server(tag, total, whole)?,
            }
            moved = true;
        }
    }

    fn decide_server(&mut self, tag: u8, total: usize, whole: bool) -> Result<(), Outcome> {
        let Wires { to_client: flow, server_scanner, aside, .. } = &mut *self.wires;
        let length = total.min(flow.unscanned().len());
        let body = flow.unscanned().get(HEADER_BYTES..length).unwrap_or_default();
        let received = Received { frame: Frame { tag, body }, whole, total };
        let verdict = from_server(self.state, &mut self.server.state, received, aside);
        if !whole {
            server_scanner.pass_rest(total - length);
        }
        match verdict {
            FromServer::Forward => flow.approve(length),
            FromServer::ForwardError | FromServer::ReplaceError => {
                self.metrics.error(Origin::Server, field(body, b'C').unwrap_or("XX000"));
                self.farewell |= matches!(field(body, b'V'), Some("FATAL" | "PANIC"));
                if verdict == FromServer::ReplaceError {
                    flow.skip(length);
                    flow.insert(aside);
                    aside.clear();
                } else {
                    flow.approve(length);
                }
            }
            FromServer::Notification => {
                let translated = translated(body, &self.server.holders);
                flow.insert(&translated);
                flow.skip(length);
            }
            FromServer::ForwardReady => {
                self.tell_news();
                self.wires.to_client.approve(length);
                self.ready();
            }
            FromServer::Swallow => flow.skip(length),
            FromServer::Broken(what) => return Err(self.broken(what)),
        }
        Ok(())
    }

    /// What has changed since the client was last told, by a reload or a failover. PostgreSQL says it there too:
    /// with the next statement, before its ReadyForQuery (`ReportChangedGUCOptions`).
    fn tell_news(&mut self) {
        let now = &self.server.state.reported;
        if self.state.told == *now {
            return;
        }
        let Wires { to_client: flow, aside, .. } = &mut *self.wires;
        for (name, value) in self.state.told.news(now) {
            parameter_status(aside, name, value);
        }
        flow.insert(aside);
        aside.clear();
        self.state.told.clone_from(now);
        self.has_news = true;
    }

    /// A statement is done.
    fn ready(&mut self) {
        self.calls.done(self.server.state.transaction);
        self.server.share_definitions();
        let now = self.now;
        let since = if self.server.state.pipeline.is_busy() {
            self.busy_since.replace(now)
        } else {
            self.busy_since.take()
        };
        if let Some(since) = since {
            self.metrics.query_seconds.observe(now.duration_since(since).as_secs_f64());
        }
        if self.server.state.transaction == Transaction::Idle
            && let Some(began) = self.began.take()
        {
            self.metrics.transactions_total.inc();
            self.metrics.transaction_seconds.observe(now.duration_since(began).as_secs_f64());
        }
    }

    fn broken(&mut self, what: &str) -> Outcome {
        self.lost(format!("the server broke the protocol: {what}"))
    }
}

/// A NotificationResponse whose process id is that of the client that holds the backend, or held it last.
pub fn translated(body: &[u8], holders: &Holders) -> Vec<u8> {
    let mut body = body.to_vec();
    if let Some(pid) = body.first_chunk_mut::<4>()
        && let Some(holder) = holders.of(i32::from_be_bytes(*pid))
    {
        *pid = holder.to_be_bytes();
    }
    frame(tag::NOTIFICATION, &body)
}

/// The clients that a client means with its `pg_cancel_backend` and `pg_terminate_backend`.
#[derive(Default)]
struct Calls {
    present: Vec<Call>,
    /// A Bind named some: its portal may run as long as the transaction is open.
    bound: bool,
    /// How long one of them may still take to have a server.
    patience: Option<Pin<Box<Sleep>>>,
    impatient: bool,
}

impl Calls {
    /// Whom a process id means just now. That client stays where it is meanwhile.
    fn meant(&mut self, registry: &Registry, pid: i64, waker: &Waker) -> Meant {
        let slot = is_virtual(pid).then(|| registry.get(i32::try_from(pid).ok()?)).flatten();
        let Some(aim) = slot.map(|slot| slot.aim.clone()) else { return Meant::Itself };
        if !self.present.iter().any(|call| call.means(&aim)) {
            self.present.push(aim.call());
        }
        let call = self.present.iter().find(|call| call.means(&aim));
        match call.and_then(|call| call.server(waker)) {
            Some(server) => Meant::Backend(i64::from(server)),
            None if self.impatient => Meant::Itself,
            None => {
                self.patience.get_or_insert_with(|| Box::pin(sleep(CALL_PATIENCE)));
                Meant::Soon
            }
        }
    }

    /// Whether the patience with those that have no server has just ended.
    fn are_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let over = !self.impatient
            && self.patience.as_mut().is_some_and(|patience| patience.as_mut().poll(cx).is_ready());
        self.impatient |= over;
        over
    }

    /// A frame that may have named some goes on.
    fn decided(&mut self, tag: u8) {
        self.bound |= tag == frontend::tag::BIND && !self.present.is_empty();
        self.patience = None;
        self.impatient = false;
    }

    /// A statement is done.
    fn done(&mut self, transaction: Transaction) {
        if transaction == Transaction::Idle || !self.bound {
            self.present.clear();
            self.bound = false;
        }
    }
}

/// Writes what may be written. Tells how much, and whether the stream still takes anything.
fn pump(stream: &mut Stream, flow: &mut Flow, cx: &mut Context<'_>) -> (usize, io::Result<()>) {
    let mut moved = 0;
    while !flow.chunk().is_empty() {
        match stream.poll_write(cx, flow.chunk()) {
            Poll::Pending => break,
            Poll::Ready(Ok(count)) => {
                flow.advance(count);
                moved += count;
            }
            Poll::Ready(Err(error)) => return (moved, Err(error)),
        }
    }
    match stream.poll_flush(cx) {
        Poll::Ready(Err(error)) => (moved, Err(error)),
        Poll::Ready(Ok(())) | Poll::Pending => (moved, Ok(())),
    }
}
