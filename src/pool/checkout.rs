//! Pools, and how a client comes by a server.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::timeout_at;
use tracing::info;
use tracing::warn;

use crate::config::model::PoolPolicy;
use crate::config::model::TlsMode;
use crate::config::model::Upstream;
use crate::config::secret::Secret;
use crate::metrics::pool::AcquireFailure;
use crate::metrics::upstream::CertificateRole;
use crate::metrics::upstream::Servers;
use crate::metrics::upstream::UpstreamMetrics;
use crate::pool::book::Limits;
use crate::pool::book::Reaped;
use crate::pool::credential::Credential;
use crate::pool::credential::Turn;
use crate::pool::lease::Lease;
use crate::pool::lease::Place;
use crate::pool::ledger::Count;
use crate::pool::ledger::Grant;
use crate::pool::ledger::Ledger;
use crate::pool::ledger::PoolId;
use crate::pool::ledger::Request;
use crate::pool::ledger::Returned;
use crate::pool::ledger::Ticket;
use crate::server::connect::ConnectError;
use crate::server::connect::Connected;
use crate::server::connect::Dialer;
use crate::server::connect::Stage;
use crate::server::connection::ExchangeError;
use crate::server::connection::Server;
use crate::server::holders::Holders;
use crate::session::handover::Fit;
use crate::session::handover::suits;
use crate::session::parameters::Parameters;
use crate::session::reported::Reported;
use crate::session::state::ClientState;
use crate::wire::refusal::Refusal;
use crate::wire::refusal::Severity;

/// Answers to a login that are remembered, by the settings it asked for: Backstage asks for one a plugin.
const GREETINGS_MAX: usize = 128;

/// Between two tries to connect: doubled each time up to the second, with jitter.
pub(crate) const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long servers that were opened by an older policy may still be used.
const RETIREMENT: Duration = Duration::from_secs(60);

/// All pools of one upstream, under its budget.
#[derive(Debug)]
pub struct UpstreamPools {
    pub upstream: Arc<Upstream>,
    /// Replaced whole when certificates are rotated.
    pub dialer: ArcSwap<Dialer>,
    desk: Mutex<Desk>,
    /// Servers on their way out. Bounded by the budget: each still has its place.
    dying: mpsc::UnboundedSender<Dying>,
    pub metrics: Arc<UpstreamMetrics>,
    /// Notified where the server refuses a password that may be another one by now.
    password_refused: Arc<Notify>,
    /// Which client holds which server.
    pub holders: Arc<Holders>,
    /// How often clients have changed definitions.
    schema: Arc<AtomicU64>,
    /// How often they have changed what sessions begin with.
    defaults: Arc<AtomicU64>,
    /// Whether the last try to connect worked.
    up: AtomicBool,
    /// Whether any login ever worked.
    verified: AtomicBool,
    /// Why the last try to connect failed; empty where it did not.
    last_error: Mutex<String>,
}

#[derive(Debug)]
struct Desk {
    ledger: Ledger<Box<Server>>,
    waiters: HashMap<Ticket, oneshot::Sender<Grant<Box<Server>>>>,
}

/// A server that is to be closed, and whose place is free after that.
#[derive(Debug)]
pub struct Dying {
    pub pool: Arc<Pool>,
    pub server: Box<Server>,
    pub reason: &'static str,
    /// Is dropped when the server is closed, for whoever waits for that.
    pub ended: Option<oneshot::Sender<()>>,
}

/// The servers of one database and user.
#[derive(Debug)]
pub struct Pool {
    pub id: PoolId,
    pub upstream: Arc<UpstreamPools>,
    pub database: String,
    pub user: String,
    pub credential: Arc<Credential>,
    pub policy: PoolPolicy,
    greetings: Mutex<HashMap<u64, Reported>>,
    /// How many clients wait for a login.
    connecting: AtomicUsize,
    /// What each server that is open keeps prepared.
    statements: Mutex<Vec<Weak<AtomicUsize>>>,
}

/// Why a client got no server.
#[derive(Debug, Error)]
pub enum CheckoutError {
    #[error(
        "no server for database \"{database}\" at {upstream} came free within {waited:.1?} (limit {limit}, {open} open)"
    )]
    TimedOut { database: String, upstream: String, waited: Duration, limit: usize, open: usize },
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// PostgreSQL refuses the password, and no other one has come.
    #[error("the server says {0}, and the configuration has had no other password since")]
    PasswordRefused(Refusal),
    #[error("a new server connection could not be used: {0}")]
    FirstProbe(#[from] ExchangeError),
    #[error("the sidecar is ending")]
    Ended,
}

impl CheckoutError {
    /// What the client is told.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::TimedOut { .. } => Refusal::new(Severity::Error, "53300", &format!("stagedoor: {self}"))
                .hint("Raise stagedoor.pool.maxServers (within the server's max_connections) or stagedoor.pool.acquireTimeout, or look for long transactions: stagedoor_server_connections, stagedoor_pins_total."),
            Self::Connect(error) => error.refusal(),
            Self::PasswordRefused(refusal) | Self::FirstProbe(ExchangeError::Refused(refusal)) => refusal.clone(),
            Self::FirstProbe(error) => Refusal::fatal("08006", &format!("stagedoor: {error}")),
            Self::Ended => Refusal::fatal("57P01", "terminating connection due to administrator command"),
        }
    }

    /// Whether another try may do better.
    fn is_retryable(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_retryable(),
            Self::FirstProbe(error) => error.is_of_the_server(),
            Self::TimedOut { .. } | Self::PasswordRefused(_) | Self::Ended => false,
        }
    }

    /// The `reason` label of `stagedoor_acquire_failures_total`.
    #[must_use]
    pub const fn failure(&self) -> AcquireFailure {
        match self {
            Self::TimedOut { .. } => AcquireFailure::Timeout,
            Self::Connect(_) | Self::PasswordRefused(_) | Self::FirstProbe(_) | Self::Ended => {
                AcquireFailure::Upstream
            }
        }
    }
}

impl UpstreamPools {
    /// The pools of `upstream`, none yet, and the queue of servers that [`crate::pool::upkeep`] closes.
    #[must_use]
    pub fn new(
        upstream: Arc<Upstream>,
        dialer: Dialer,
        metrics: Arc<UpstreamMetrics>,
        password_refused: Arc<Notify>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Dying>) {
        let (dying, graveyard) = mpsc::unbounded_channel();
        metrics.budget.set(i64::try_from(upstream.servers_max).unwrap_or(i64::MAX));
        let desk = Desk { ledger: Ledger::new(upstream.servers_max), waiters: HashMap::new() };
        let pools = Self {
            upstream,
            dialer: ArcSwap::from_pointee(dialer),
            desk: Mutex::new(desk),
            dying,
            metrics,
            password_refused,
            holders: Arc::default(),
            schema: Arc::default(),
            defaults: Arc::default(),
            up: AtomicBool::new(false),
            verified: AtomicBool::new(false),
            last_error: Mutex::default(),
        };
        pools.note_policy();
        (Arc::new(pools), graveyard)
    }

    /// New servers are opened by `dialer`; those that are open retire one after the other.
    pub fn change_dialer(&self, dialer: Dialer) {
        self.dialer.store(Arc::new(dialer));
        self.note_policy();
        let step = RETIREMENT / u32::try_from(self.upstream.servers_max.max(1)).unwrap_or(u32::MAX);
        self.desk().ledger.retire((Instant::now() + RETIREMENT).into_std(), step);
    }

    /// A number that changes with what sessions begin with, as far as clients of ours have changed it.
    #[must_use]
    pub fn defaults(&self) -> u64 {
        self.defaults.load(Ordering::Relaxed)
    }

    /// Whether the last try to connect worked.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether a verified login worked since the start.
    #[must_use]
    pub fn was_verified(&self) -> bool {
        self.verified.load(Ordering::Relaxed)
    }

    /// Why the last try to connect failed; empty where it did not.
    #[must_use]
    pub fn last_error(&self) -> String {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes the outcome of a connect. One log line for each change.
    pub fn note(&self, error: Option<&ConnectError>) {
        if let Some(error) = error {
            self.metrics.connect_failed(error.stage.label());
            if self.was_verified() && !error.is_upstreams() {
                return;
            }
        }
        let up = error.is_none();
        self.metrics.up.set(i64::from(up));
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) =
            error.map(ToString::to_string).unwrap_or_default();
        let changed = self.up.swap(up, Ordering::Relaxed) != up;
        let first = up && !self.verified.swap(true, Ordering::Relaxed);
        match error {
            None if first || changed => info!(upstream = %self.upstream.name, "upstream is up"),
            Some(error) if changed || !self.was_verified() => {
                warn!(upstream = %self.upstream.name, stage = error.stage.label(), %error, "connecting failed");
            }
            Some(_) | None => {}
        }
    }

    /// Notes what a new connection shows of the upstream.
    pub fn note_connected(&self, connected: &Connected) {
        self.metrics.connect_seconds.observe(connected.took.as_secs_f64());
        let Some(tls) = &connected.tls else { return };
        self.metrics.tls_handshake_seconds.observe(tls.handshake.as_secs_f64());
        self.metrics.tls_info(&tls.version, &tls.cipher, tls.resumed);
        if let Some(leaf) = tls.chain.first() {
            self.metrics.certificate_not_after(CertificateRole::Leaf, leaf.not_after);
        }
    }

    /// Notes what the configuration alone says: whether it verifies, and when its own certificates end.
    fn note_policy(&self) {
        let dialer = self.dialer.load();
        let mode = dialer.upstream.tls.mode;
        self.metrics.tls_verified(matches!(mode, TlsMode::VerifyFull | TlsMode::VerifyCa));
        let Some(connector) = &dialer.connector else { return };
        if let Some(first) = connector.authorities.iter().map(|ca| ca.not_after).min() {
            self.metrics.certificate_not_after(CertificateRole::Ca, first);
        }
        if let Some(own) = &connector.client_certificate {
            self.metrics.certificate_not_after(CertificateRole::Client, own.not_after);
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn give_back(&self, pool: &Pool, server: Box<Server>) {
        let now = Instant::now();
        server.statements.store(server.state.statements(), Ordering::Relaxed);
        let mut expires = server.expires;
        if !Arc::ptr_eq(&server.target.dialer, &self.dialer.load()) {
            expires = expires.min(now + RETIREMENT.mul_f64(jitter() / 2.0));
        }
        let returned = Returned { fit: *server.state.fit(), expires: expires.into_std(), server };
        let mut desk = self.desk();
        let granted = desk.ledger.give_back(pool.id, returned, now.into_std());
        desk.hand_out(granted);
    }

    /// A server of `pool` is gone.
    pub(crate) fn closed(&self, pool: &Pool, reason: &'static str) {
        self.metrics.closed(&pool.database, reason);
        self.freed(pool);
    }

    /// A place of `pool` is free.
    pub(crate) fn freed(&self, pool: &Pool) {
        pool.forget_greetings_of_the_last();
        let mut desk = self.desk();
        let granted = desk.ledger.closed(pool.id, Instant::now().into_std());
        desk.hand_out(granted);
    }

    /// Has a server closed; its place is free when it is gone.
    pub(crate) fn bury(
        &self,
        pool: &Arc<Pool>,
        server: Box<Server>,
        reason: &'static str,
    ) -> oneshot::Receiver<()> {
        let (ended, closed) = oneshot::channel();
        let dying = Dying { pool: pool.clone(), server, reason, ended: Some(ended) };
        if self.dying.send(dying).is_err() {
            self.closed(pool, reason); // Nobody closes gently any more: the sidecar is ending.
        }
        closed
    }

    /// Takes out the idle servers that are dead, too old or too long idle.
    pub(crate) fn reap(&self) -> Vec<(PoolId, Box<Server>, Reaped)> {
        self.desk().ledger.reap(Instant::now().into_std(), |server| !server.is_alive())
    }

    /// Takes out all idle servers.
    pub(crate) fn reap_all(&self) -> Vec<(PoolId, Box<Server>, Reaped)> {
        self.desk().ledger.reap(Instant::now().into_std(), |_| true)
    }

    #[must_use]
    pub fn count(&self, pool: PoolId) -> Count {
        self.desk().ledger.count(pool)
    }

    pub(crate) fn forget(&self, pool: PoolId) {
        self.desk().ledger.remove(pool);
    }

    /// Servers open, in all pools.
    #[must_use]
    pub fn open(&self) -> usize {
        self.desk().ledger.open()
    }
}

impl Desk {
    /// Sends a grant to its waiter. One that has left in the meantime hands it on when it is dropped.
    fn hand_out(&mut self, granted: Option<(Ticket, Grant<Box<Server>>)>) {
        if let Some((ticket, grant)) = granted
            && let Some(waiter) = self.waiters.remove(&ticket)
        {
            let _ = waiter.send(grant);
        }
    }
}

impl Pool {
    #[must_use]
    pub fn new(
        id: PoolId,
        upstream: Arc<UpstreamPools>,
        (database, user): (&str, &str),
        credential: Arc<Credential>,
        policy: PoolPolicy,
    ) -> Arc<Self> {
        let limits = Limits {
            servers_max: policy.servers_max,
            idle_min: policy.idle_min,
            idle_timeout: policy.idle_timeout,
        };
        upstream.desk().ledger.add(id, limits);
        Arc::new(Self {
            id,
            upstream,
            database: database.to_owned(),
            user: user.to_owned(),
            credential,
            policy,
            greetings: Mutex::default(),
            connecting: AtomicUsize::new(0),
            statements: Mutex::default(),
        })
    }

    /// A server of this pool that can be made to speak as `client`, best one that does already. The client has waited
    /// since `began`, and does so for `patience`.
    ///
    /// Cancel-safe: a client that gives up leaves the queue, and what it was granted goes to the next.
    ///
    /// # Errors
    /// PostgreSQL's own where a login fails for good, a time-out when the client's patience ends.
    pub async fn checkout(
        self: &Arc<Self>,
        client: &ClientState,
        began: Instant,
        patience: Duration,
    ) -> Result<Lease, CheckoutError> {
        let deadline = began + patience;
        loop {
            let grant = self.grant(client.fit(), began, deadline).await?;
            let place = Place::new(self.clone());
            let opened = match grant {
                Grant::Server(mut server) => {
                    if !server.is_alive() {
                        drop(self.upstream.bury(self, server, "server_gone"));
                        drop(place.keep());
                        continue;
                    }
                    if suits(client, &server.state) {
                        Ok(server)
                    } else {
                        self.upstream.metrics.closed(&self.database, "unsuited");
                        server.close().await;
                        self.open(client.startup(), began, deadline).await
                    }
                }
                Grant::Connect => self.open(client.startup(), began, deadline).await,
                Grant::Replace(other) => {
                    self.upstream.metrics.closed(&other.database, "made_room");
                    other.close().await;
                    self.open(client.startup(), began, deadline).await
                }
            };
            match opened {
                Ok(server) => return Ok(Lease::new(server, place)),
                // Servers that are open already are used by turns meanwhile.
                Err(CheckoutError::PasswordRefused(_)) if Instant::now() < deadline => drop(place),
                Err(error) => return Err(error),
            }
        }
    }

    async fn grant(
        self: &Arc<Self>,
        fit: &Fit,
        began: Instant,
        deadline: Instant,
    ) -> Result<Grant<Box<Server>>, CheckoutError> {
        let mut waiting = {
            let held = self.credential.standing().map(|(until, _)| until.into_std());
            let mut desk = self.upstream.desk();
            desk.ledger.hold(self.id, held);
            match desk.ledger.request(self.id, fit, began.into_std()) {
                Request::Granted(grant) => return Ok(grant),
                Request::Queued(ticket) => {
                    let (sender, receiver) = oneshot::channel();
                    desk.waiters.insert(ticket, sender);
                    Waiting { pool: self, ticket, receiver }
                }
            }
        };
        loop {
            let again = self.upstream.desk().ledger.look_again_in(waiting.ticket, self.id);
            let again = deadline.min(Instant::now() + again);
            match timeout_at(again, &mut waiting.receiver).await {
                Ok(Ok(grant)) => return Ok(grant),
                Ok(Err(_)) => return Err(CheckoutError::Ended),
                Err(_) if again == deadline => return Err(self.timed_out(began)),
                Err(_) => {}
            }
            let mut desk = self.upstream.desk();
            let granted = desk.ledger.look_again(Instant::now().into_std());
            desk.hand_out(granted);
        }
    }

    fn timed_out(&self, began: Instant) -> CheckoutError {
        if let Some((_, refusal)) = self.credential.standing() {
            return CheckoutError::PasswordRefused(refusal);
        }
        CheckoutError::TimedOut {
            database: self.database.clone(),
            upstream: self.upstream.upstream.name.clone(),
            waited: began.elapsed(),
            limit: self.upstream.upstream.servers_max.min(self.policy.servers_max),
            open: self.upstream.open(),
        }
    }

    /// Opens a server. What may pass by itself (a failover, a restart, a password that is being changed) is tried
    /// again until `deadline`.
    async fn open(
        &self,
        startup: &Parameters,
        began: Instant,
        deadline: Instant,
    ) -> Result<Box<Server>, CheckoutError> {
        let _connecting = Counted::new(&self.connecting);
        let mut backoff = BACKOFF.0;
        loop {
            let mut news = self.credential.news();
            match self.credential.turn() {
                Turn::LogIn(password) => match Box::pin(self.connect(startup, password.as_ref())).await {
                    Ok(server) => return Ok(server),
                    Err(error) if error.is_retryable() => {
                        let pause = backoff.mul_f64(jitter());
                        if Instant::now() + pause >= deadline {
                            return Err(error);
                        }
                        sleep(pause).await;
                        backoff = (backoff * 2).min(BACKOFF.1);
                    }
                    Err(CheckoutError::Connect(error)) if self.awaits_another(password.as_ref(), &error) => {}
                    Err(error) => return Err(error),
                },
                Turn::Wait { until, refusal } => {
                    self.upstream.desk().ledger.hold(self.id, Some(until.into_std()));
                    if self.upstream.count(self.id).open > 1 || Instant::now() >= deadline {
                        return Err(CheckoutError::PasswordRefused(refusal));
                    }
                    let _ = timeout_at(until.min(deadline), news.changed()).await;
                }
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out(began));
            }
        }
    }

    /// Whether the server refused the password, and another one may come. Then the files are looked at.
    fn awaits_another(&self, password: Option<&Secret>, error: &ConnectError) -> bool {
        let waits = error.is_wrong_password() && self.credential.refused(password, error.refusal());
        if waits {
            self.upstream.password_refused.notify_one();
        }
        waits
    }

    async fn connect(
        &self,
        startup: &Parameters,
        password: Option<&Secret>,
    ) -> Result<Box<Server>, CheckoutError> {
        let metrics = &self.upstream.metrics;
        let dialer = self.upstream.dialer.load_full();
        let connected = dialer.connect_with(startup, &self.database, &self.user, password).await;
        self.upstream.note(connected.as_ref().err());
        let connected = connected?;
        self.credential.accepted(password);
        self.unhold();
        metrics.opened(&self.database);
        self.upstream.note_connected(&connected);
        let lifetime = self.policy.lifetime_max.mul_f64(jitter());
        let server = Server::new(connected, dialer, &self.database, lifetime).await;
        let mut server = server.inspect_err(|_| metrics.connect_failed(Stage::Startup.label()))?;
        server.enter(&self.upstream.holders);
        self.note_statements(&server.statements);
        server.schema = self.upstream.schema.clone();
        server.defaults = self.upstream.defaults.clone();
        self.upstream.desk().ledger.opened(self.id, Instant::now().into_std());
        Ok(Box::new(server))
    }

    /// What its servers are doing.
    #[must_use]
    pub fn servers(&self) -> Servers {
        let Count { open, idle, .. } = self.upstream.count(self.id);
        let busy = open.saturating_sub(idle);
        let connecting = self.connecting.load(Ordering::Relaxed).min(busy);
        let statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        let statements = statements.iter().filter_map(Weak::upgrade);
        let statements = statements.map(|count| count.load(Ordering::Relaxed)).sum();
        Servers { connecting, idle, active: busy - connecting, statements }
    }

    fn note_statements(&self, count: &Arc<AtomicUsize>) {
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        statements.retain(|count| count.strong_count() > 0);
        statements.push(Arc::downgrade(count));
    }

    /// Logins may be tried again, whatever the server said before.
    pub(crate) fn unhold(&self) {
        self.upstream.desk().ledger.hold(self.id, None);
    }

    /// What a login with these settings is told, where another one was told it while this pool had servers:
    /// as long as one is open the database is there.
    #[must_use]
    pub fn greeting(&self, startup: &Parameters) -> Option<Reported> {
        let greetings = self.greetings.lock().unwrap_or_else(PoisonError::into_inner);
        greetings.get(&startup.hash()).cloned()
    }

    /// Remembers what a login was told.
    pub fn remember_greeting(&self, startup: &Parameters, greeting: Reported) {
        let mut greetings = self.greetings.lock().unwrap_or_else(PoisonError::into_inner);
        if greetings.len() >= GREETINGS_MAX {
            greetings.clear();
        }
        greetings.insert(startup.hash(), greeting);
    }

    /// A server says something else now than when it began.
    pub fn forget_greetings(&self) {
        self.greetings.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn forget_greetings_of_the_last(&self) {
        if self.upstream.count(self.id).open <= 1 {
            self.forget_greetings();
        }
    }
}

/// A place in the queue. Dropped, it is left, and what was granted meanwhile is handed on.
struct Waiting<'a> {
    pool: &'a Arc<Pool>,
    ticket: Ticket,
    receiver: oneshot::Receiver<Grant<Box<Server>>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let upstream = &self.pool.upstream;
        {
            let mut desk = upstream.desk();
            if desk.waiters.remove(&self.ticket).is_some() {
                desk.ledger.abandon(self.ticket);
            }
        }
        match self.receiver.try_recv() {
            Ok(Grant::Server(server)) => upstream.give_back(self.pool, server),
            Ok(Grant::Connect) => upstream.freed(self.pool),
            Ok(Grant::Replace(server)) => drop(upstream.bury(self.pool, server, "made_room")),
            Err(_) => {}
        }
    }
}

/// Counts one while it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Between 0.8 and 1.2, so that what began together does not end together.
fn jitter() -> f64 {
    let mut byte = [0; 1];
    // Without randomness there is only less spread.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    0.8 + f64::from(byte[0]) / 640.0
}
