//! A client's life: rest → checkout → relay → release, until it leaves.

use std::future::pending;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::timeout;
use tokio_util::sync::WaitForCancellationFuture;
use tracing::info;
use tracing::warn;

use crate::client::aim::CALL_PATIENCE;
use crate::client::aim::Rest;
use crate::client::fetch::Missed;
use crate::client::fetch::Wait;
use crate::client::fetch::fetch;
use crate::client::fetch::unheard;
use crate::client::registry::Registered;
use crate::client::registry::Registry;
use crate::client::relay::Left;
use crate::client::relay::Outcome;
use crate::client::relay::Relay;
use crate::client::relay::Wires;
use crate::client::relay::translated;
use crate::metrics::pool::AcquireFailure;
use crate::metrics::pool::ClientState as Activity;
use crate::metrics::pool::Origin;
use crate::metrics::pool::PoolMetrics;
use crate::net::stream::Stream;
use crate::pool::checkout::Pool;
use crate::pool::lease::Lease;
use crate::server::connection::ExchangeError;
use crate::server::reset::FAREWELL;
use crate::server::reset::Remains;
use crate::server::reset::Unclean;
use crate::server::reset::clean;
use crate::session::from_client;
use crate::session::from_client::AtRest;
use crate::session::from_client::at_rest;
use crate::session::from_server;
use crate::session::pin::Pins;
use crate::session::state::ClientState;
use crate::session::state::answered;
use crate::session::state::question;
use crate::session::state::release;
use crate::session::verdict::Release;
use crate::wire::flow::Flow;
use crate::wire::frontend::Nonsense;
use crate::wire::frontend::nonsense;
use crate::wire::frontend::tag;
use crate::wire::message::Message;
use crate::wire::refusal::Refusal;
use crate::wire::scanner::Scanner;
use crate::wire::scanner::Step;

/// How long a client that is told why it must go may take to read it.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How a client's session ended.
#[derive(Debug)]
pub enum End {
    /// Terminate.
    Goodbye,
    /// The connection ended without a goodbye.
    Gone,
    /// What it said was nothing that a client says. PostgreSQL is silent then, or has told it.
    Babbled,
    /// The client was told why.
    Refused(Refusal),
    /// The server was lost, and the client has been told by PostgreSQL itself.
    ServerLost(String),
    /// The sidecar ends.
    Shutdown,
}

/// A client that has logged in.
#[derive(Debug)]
pub struct Client {
    pub stream: Stream,
    pub state: ClientState,
    pub registered: Registered,
    pub registry: Arc<Registry>,
    pub pool: Arc<Pool>,
    /// How long it may wait for a server.
    pub acquire_timeout: Duration,
    pub metrics: Arc<PoolMetrics>,
    pub wires: Wires,
    /// A refused batch is skipped up to its Sync.
    pub skips_to_sync: bool,
}

impl Client {
    /// The wires of a client that said `early` right behind its login.
    #[must_use]
    pub fn wires(early: &[u8]) -> Wires {
        let mut to_server = Flow::default();
        let count = early.len().min(to_server.room().len());
        if let (Some(room), Some(early)) = (to_server.room().get_mut(..count), early.get(..count)) {
            room.copy_from_slice(early);
        }
        to_server.fill(count);
        Wires {
            to_server,
            to_client: Flow::default(),
            client_scanner: Scanner::new(&from_client::INTEREST),
            server_scanner: Scanner::new(&from_server::INTEREST),
            aside: Vec::new(),
        }
    }

    /// Serves the client until it leaves or must.
    pub async fn serve(&mut self, mut goodbye: Pin<&mut WaitForCancellationFuture<'_>>) -> End {
        let metrics = self.metrics.clone();
        let end = loop {
            let resting = Present::new(&metrics, Activity::Idle);
            let woken = match self.rest(goodbye.as_mut()).await {
                Ok(woken) => woken,
                Err(end) => break end,
            };
            drop(resting);
            if let Err(end) = self.lease(woken, goodbye.as_mut()).await {
                break end;
            }
        };
        self.take_leave(&end).await;
        end
    }

    /// Waits, without a server and without buffers, until one is needed.
    async fn rest(&mut self, mut goodbye: Pin<&mut WaitForCancellationFuture<'_>>) -> Result<Woken, End> {
        loop {
            let needs_server = self.needs_server()?;
            // What it is owed it gets before it waits for anything.
            if needs_server && self.wires.to_client.pending() == 0 {
                return Ok(Woken::Spoken);
            }
            self.wires.to_server.release();
            self.wires.to_client.release();
            let Self { stream, wires, registered, .. } = self;
            let aim = &registered.slot.aim;
            tokio::select! {
                biased;
                moved = exchange_at_rest(stream, wires, !needs_server) => moved?,
                () = aim.summoned.notified() => {
                    // A summons may be an old one.
                    if aim.is_called() {
                        return Ok(Woken::Called);
                    }
                }
                () = goodbye.as_mut() => return Err(End::Shutdown),
            }
        }
    }

    /// Answers what can be answered without a server.
    fn needs_server(&mut self) -> Result<bool, End> {
        loop {
            let Wires { to_server: flow, to_client, client_scanner: scanner, .. } = &mut self.wires;
            if let Some(nonsense) = nonsense(flow.unscanned()).filter(|_| scanner.at_boundary()) {
                return Err(babbled(nonsense));
            }
            match scanner.step(flow.unscanned(), flow.is_stuck()).map_err(|_| End::Babbled)? {
                Step::More => return Ok(false),
                Step::Pass(count) => flow.skip(count),
                Step::Inspect { tag, total, .. } => {
                    if self.skips_to_sync && !matches!(tag, tag::SYNC | tag::TERMINATE) {
                        skip(flow, scanner, total);
                        continue;
                    }
                    match at_rest(tag, total) {
                        AtRest::NeedServer => return Ok(true),
                        AtRest::End => return Err(End::Goodbye),
                        AtRest::Ignore => skip(flow, scanner, total),
                        AtRest::AnswerReady => {
                            skip(flow, scanner, total);
                            self.skips_to_sync = false;
                            to_client.insert(&Message::ReadyForQueryIdle.encode());
                        }
                    }
                }
            }
        }
    }

    /// From checkout to release.
    async fn lease(
        &mut self,
        woken: Woken,
        mut goodbye: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Result<(), End> {
        let mut wait = Wait::new(self.acquire_timeout);
        loop {
            let lease = match woken {
                Woken::Spoken => match self.acquire(&mut wait).await {
                    Ok(lease) => lease,
                    Err(refusal) => {
                        self.registered.slot.aim.give_up();
                        return self.refuse_statement(refusal);
                    }
                },
                Woken::Called => match self.come().await {
                    Some(lease) => lease,
                    None => return Ok(()),
                },
            };
            lease.server.held_by(self.registered.slot.process_id);
            let (lease, held) = self.hold(lease, woken, goodbye.as_mut()).await;
            // Whatever is under way to this server must not hit whoever gets it next.
            let rest = self.registered.slot.aim.rest().await;
            let Held::Unheard(why) = held else { return self.end_lease(lease, held, rest).await };
            lease.discard("server_gone");
            if !wait.again().await {
                return Err(End::Refused(unheard(&why)));
            }
        }
    }

    async fn end_lease(&mut self, mut lease: Lease, held: Held, rest: Rest) -> Result<(), End> {
        match held {
            Held::Unheard(why) => {
                lease.discard("server_lost");
                return Err(End::Refused(unheard(&why)));
            }
            Held::Lost(end) => {
                lease.discard("server_lost");
                return Err(end);
            }
            Held::Ended(end) => {
                self.close(lease, &Unclean::Waiting).await;
                return Err(end);
            }
            Held::Returned if rest == Rest::Overdue => lease.discard("unclean"),
            Held::Left(end) if rest == Rest::Overdue => {
                lease.discard("unclean");
                return Err(end);
            }
            Held::Returned => {
                // A server that was terminated does not live to answer this.
                if rest == Rest::Called && lease.server.exchange(b"", &mut Vec::new()).await.is_err() {
                    lease.discard("server_lost");
                    return Err(End::Refused(shutdown()));
                }
                lease.release();
            }
            Held::Left(end) => {
                self.part(lease).await;
                return Err(end);
            }
        }
        Ok(())
    }

    /// A server for a client that has said nothing, because somebody else means it: only PostgreSQL can say who
    /// may signal whom. `None` where none is to be had soon.
    async fn come(&self) -> Option<Lease> {
        let mut wait = Wait::new(CALL_PATIENCE.min(self.acquire_timeout));
        let lease = fetch(&self.pool, &self.state, &self.metrics, &mut wait, pending()).await.ok()?;
        if self.registered.slot.aim.lease(&lease.server.target).is_err() {
            lease.release();
            return None;
        }
        Some(lease)
    }

    /// A server that speaks as this client, and that cancels of what the client does find.
    ///
    /// A client that is gone meanwhile keeps its place: PostgreSQL does what it was told before it notices.
    async fn acquire(&mut self, wait: &mut Wait) -> Result<Lease, Refusal> {
        let _waiting = Present::new(&self.metrics, Activity::Waiting);
        let aim = self.registered.slot.aim.clone();
        let cancelled = aim.cancelled.notified();
        tokio::pin!(cancelled);
        cancelled.as_mut().enable();
        aim.wait();
        let lease = {
            let fetched = fetch(&self.pool, &self.state, &self.metrics, wait, cancelled);
            tokio::pin!(fetched);
            match poll_fn(|cx| Poll::Ready(fetched.as_mut().poll(cx))).await {
                Poll::Ready(lease) => lease,
                Poll::Pending => {
                    self.wires.to_server.pack();
                    fetched.await
                }
            }
        };
        let lease = lease.map_err(|missed| self.missed(&missed))?;
        if aim.lease(&lease.server.target).is_err() {
            lease.release();
            return Err(self.missed(&Missed::Cancelled));
        }
        self.metrics.acquire_seconds.observe(wait.began.elapsed().as_secs_f64());
        Ok(lease)
    }

    fn missed(&self, missed: &Missed) -> Refusal {
        match missed {
            Missed::Checkout(error) => {
                self.metrics.acquire_failed(error.failure());
                warn!(
                    client = self.registered.slot.process_id,
                    database = %self.pool.database,
                    upstream = %self.pool.upstream.upstream.name,
                    %error,
                    "no server for a client"
                );
            }
            Missed::Cancelled => self.metrics.acquire_failed(AcquireFailure::Cancelled),
            Missed::Mute(_) => {}
        }
        missed.refusal()
    }

    /// Relays, probes where need be, and stays while something pins.
    async fn hold(
        &mut self,
        mut lease: Lease,
        woken: Woken,
        mut goodbye: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> (Lease, Held) {
        let mut pinned = Pins::NONE;
        let mut since = None;
        // Who is called for must hear what becomes of its server.
        let mut begins = woken == Woken::Spoken;
        loop {
            let activity = if pinned.is_empty() { Activity::Active } else { Activity::Pinned };
            let present = Present::new(&self.metrics, activity);
            let mut relay = Relay::new(
                (&mut self.stream, &mut self.state),
                &mut lease.server,
                &mut self.wires,
                &self.registry,
                &self.metrics,
                pinned,
            );
            if std::mem::take(&mut begins) {
                relay.begin();
            }
            let outcome = relay.run(goodbye.as_mut()).await;
            if std::mem::take(&mut relay.has_news) {
                self.pool.forget_greetings();
            }
            drop(relay);
            drop(present);
            self.note_pins(pinned, since);
            let held = match outcome {
                Outcome::Return => Held::Returned,
                Outcome::Probe => match self.ask(&mut lease).await {
                    Ok(Release::Return) => Held::Returned,
                    Ok(Release::Pinned(pins)) => {
                        self.count_pins(pinned, pins);
                        pinned = pins;
                        since = Some(Instant::now());
                        continue;
                    }
                    Ok(Release::Keep | Release::Probe) => continue,
                    // Somebody's pg_terminate_backend, most likely.
                    Err(_) if self.registered.slot.aim.was_called() => Held::Lost(End::Refused(shutdown())),
                    Err(error) => Held::Lost(End::ServerLost(error.to_string())),
                },
                Outcome::ClientLeft(Left::Politely) => Held::Left(End::Goodbye),
                Outcome::ClientLeft(Left::Silently) => Held::Left(End::Gone),
                Outcome::ClientLeft(Left::Babbling(nonsense)) => Held::Left(babbled(nonsense)),
                Outcome::Overdue => Held::Left(End::Refused(overdue())),
                Outcome::Ended(Left::Politely) => Held::Ended(End::Goodbye),
                Outcome::Ended(Left::Silently) => Held::Ended(End::Gone),
                Outcome::Ended(Left::Babbling(_)) => Held::Ended(End::Babbled),
                Outcome::Goodbye => Held::Left(End::Shutdown),
                Outcome::Unheard(why) => Held::Unheard(why),
                Outcome::ServerLost { why, told: true } => Held::Lost(End::ServerLost(why)),
                Outcome::ServerLost { why, told: false } => Held::Lost(End::Refused(server_lost(&why))),
            };
            return (lease, held);
        }
    }

    /// Asks the server what the client left on it, where that is not known, and out of reach of cancels: they are
    /// not meant for us.
    async fn ask(&mut self, lease: &mut Lease) -> Result<Release, ExchangeError> {
        let known = release(&self.state, &lease.server.state);
        if known != Release::Probe {
            return Ok(known);
        }
        self.registered.slot.aim.pause().await;
        let release = self.probe(lease).await;
        self.registered.slot.aim.resume();
        release
    }

    /// Asks the server what the client left on it. What comes by itself meanwhile is the client's.
    async fn probe(&mut self, lease: &mut Lease) -> Result<Release, ExchangeError> {
        self.metrics.probes_total.inc();
        let mut aside = Vec::new();
        let question = question(&self.state, &lease.server.state);
        let mut answer = lease.server.probe(&question, &mut aside).await;
        if matches!(&answer, Err(ExchangeError::Refused(refusal)) if refusal.sqlstate() == "57014") {
            // Somebody's pg_cancel_backend came too late for what it meant.
            answer = lease.server.probe(&question, &mut aside).await;
        }
        let answer = match answer {
            Ok(answer) => Some(answer),
            Err(ExchangeError::Refused(_)) => None,
            Err(error) => return Err(error),
        };
        for notification in &aside {
            self.wires.to_client.insert(&translated(notification, &lease.server.holders));
        }
        answered(&mut self.state, &mut lease.server.state, answer);
        Ok(release(&self.state, &lease.server.state))
    }

    fn count_pins(&self, before: Pins, now: Pins) {
        for pin in now.iter().filter(|pin| !before.contains(*pin)) {
            self.metrics.pinned(pin.reason());
        }
    }

    fn note_pins(&self, pinned: Pins, since: Option<Instant>) {
        let Some(since) = since else { return };
        for pin in pinned.iter() {
            self.metrics.pinned_seconds(pin.reason(), since.elapsed().as_secs_f64());
        }
    }

    /// The client leaves while it holds a server: it is made clean, or closed.
    async fn part(&mut self, mut lease: Lease) {
        let Wires { to_server, to_client, client_scanner, server_scanner, .. } = &mut self.wires;
        let whole = client_scanner.at_boundary() && to_server.pending() == 0;
        let remains = Remains { flow: to_client, scanner: server_scanner, whole };
        match clean(&mut lease.server, &mut self.state, remains).await {
            Ok(()) => lease.release(),
            Err(why) => self.close(lease, &why).await,
        }
    }

    /// A client that reads the end of its connection finds its locks free, as PostgreSQL's own clients do.
    async fn close(&self, lease: Lease, why: &Unclean) {
        info!(
            client = self.registered.slot.process_id,
            database = %self.pool.database,
            %why,
            "a server is closed because its client left it unclean"
        );
        lease.close("unclean").await;
    }

    /// The statement at the head of what the client said gets an error, and the client stays.
    fn refuse_statement(&mut self, refusal: Refusal) -> Result<(), End> {
        self.metrics.error(Origin::Stagedoor, refusal.sqlstate());
        let Wires { to_server: flow, to_client, client_scanner: scanner, .. } = &mut self.wires;
        if refusal.is_fatal() {
            return Err(End::Refused(refusal));
        }
        let Ok(Step::Inspect { tag, total, .. }) = scanner.step(flow.unscanned(), flow.is_stuck()) else {
            return Err(End::Refused(refusal));
        };
        to_client.insert(&refusal.frame());
        if matches!(tag, tag::QUERY | tag::FUNCTION_CALL) {
            skip(flow, scanner, total);
            to_client.insert(&Message::ReadyForQueryIdle.encode());
        } else {
            self.skips_to_sync = true;
        }
        Ok(())
    }

    /// What is still to be told, and the last words, where there is somebody to hear them.
    async fn take_leave(&mut self, end: &End) {
        let refusal = match end {
            End::Refused(refusal) => Some(refusal.clone()),
            End::Shutdown => Some(shutdown()),
            End::Goodbye | End::Gone | End::Babbled | End::ServerLost(_) => None,
        };
        let Self { stream, wires, metrics, .. } = self;
        if let Some(refusal) = refusal {
            metrics.error(Origin::Stagedoor, refusal.sqlstate());
            wires.to_client.insert(&refusal.frame());
        }
        let flow = &mut wires.to_client;
        let words = async {
            while !flow.chunk().is_empty() {
                let count = flow.chunk().len();
                stream.write_all(flow.chunk()).await?;
                flow.advance(count);
            }
            match end {
                // Nothing is said any more to who has left: closing ends the stream as well.
                End::Goodbye | End::Gone => Ok(()),
                End::Refused(_) | End::Shutdown | End::Babbled | End::ServerLost(_) => {
                    stream.shutdown().await
                }
            }
        };
        // A client that does not read them in time goes without.
        let _ = timeout(LAST_WORDS, words).await;
    }
}

/// Why a client rests no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// It has said something that needs a server.
    Spoken,
    /// Somebody else means it with `pg_cancel_backend` or `pg_terminate_backend`.
    Called,
}

/// How a lease ended.
#[derive(Debug)]
enum Held {
    Returned,
    /// The client goes; the server may be made clean.
    Left(End),
    /// The server has ended as its client has.
    Ended(End),
    /// The server is gone, and has heard nothing of the client's.
    Unheard(String),
    /// The server is gone.
    Lost(End),
}

/// The words of PostgreSQL (SocketBackend), which says nothing of a wrong length.
fn babbled(nonsense: Nonsense) -> End {
    match nonsense {
        Nonsense::Type(tag) => {
            End::Refused(Refusal::fatal("08P01", &format!("invalid frontend message type {tag}")))
        }
        Nonsense::Length => End::Babbled,
    }
}

/// Drops a frame of which the head or all is there.
fn skip(flow: &mut Flow, scanner: &mut Scanner, total: usize) {
    let here = total.min(flow.unscanned().len());
    flow.skip(here);
    if here < total {
        scanner.pass_rest(total - here);
    }
}

/// Writes what is pending and, if it `reads`, reads what comes; returns when anything was read, else when all is
/// written.
async fn exchange_at_rest(stream: &mut Stream, wires: &mut Wires, reads: bool) -> Result<(), End> {
    poll_fn(|cx| {
        let Wires { to_client, to_server, .. } = &mut *wires;
        while !to_client.chunk().is_empty() {
            match stream.poll_write(cx, to_client.chunk()) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) => to_client.advance(count),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Gone)),
            }
        }
        if stream.poll_flush(cx).map(|flushed| flushed.is_err()) == Poll::Ready(true) {
            return Poll::Ready(Err(End::Gone));
        }
        if !reads {
            return if to_client.pending() == 0 { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        // A client that does not read what it is owed is not heard either.
        if to_client.is_congested() {
            return Poll::Pending;
        }
        match stream.poll_readable(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Gone)),
            Poll::Ready(Ok(())) => {}
        }
        match stream.poll_read(cx, to_server.room()) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(count)) if count > 0 => {
                to_server.fill(count);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(_) => Poll::Ready(Err(End::Gone)),
        }
    })
    .await
}

/// Counts a client in one of its states while it lives.
struct Present<'a> {
    metrics: &'a PoolMetrics,
    activity: Activity,
}

impl<'a> Present<'a> {
    fn new(metrics: &'a PoolMetrics, activity: Activity) -> Self {
        metrics.client_state(activity).inc();
        Self { metrics, activity }
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.metrics.client_state(self.activity).dec();
    }
}

/// The words of PostgreSQL (ProcessInterrupts).
#[must_use]
pub fn shutdown() -> Refusal {
    Refusal::fatal("57P01", "terminating connection due to administrator command")
}

fn overdue() -> Refusal {
    let why =
        format!("stagedoor: canceled, because the client has ended and nothing has moved for {FAREWELL:?}");
    Refusal::fatal("57014", &why)
}

fn server_lost(why: &str) -> Refusal {
    unheard(why).hint("The transaction may or may not have been committed. Connect again.")
}
