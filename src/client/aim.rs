//! What a cancel of a client would hit just now, and what keeps it from hitting anybody else: while one is under
//! way to a server, that server stays with its client. So it does while somebody calls `pg_cancel_backend` or
//! `pg_terminate_backend` with the client's process id; one that rests is given a server for that, so that
//! PostgreSQL itself decides who may signal whom, and when.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio::time::timeout_at;

use crate::server::cancel::CancelTarget;
use crate::server::cancel::Delivery;
use crate::server::connect::ConnectError;

/// How long a call and the client that it means wait for each other. Then the one finds no such backend, or the
/// other goes on without its server.
pub const CALL_PATIENCE: Duration = Duration::from_secs(1);

/// Where a client is, as those see it who want to cancel what it does.
#[derive(Debug, Default)]
pub struct Aim {
    state: Mutex<State>,
    /// Something has changed for who waits on it.
    changed: Notify,
    /// Somebody cancelled while the client was waiting for a server.
    pub cancelled: Notify,
    /// Somebody calls for the client while it rests.
    pub summoned: Notify,
}

#[derive(Debug, Default)]
struct State {
    target: Target,
    /// A cancel came while the client waited for a server.
    cancelled: bool,
    /// Cancels under way to the present server.
    under_way: usize,
    /// Shared with every [`Call`] that means the client.
    calls: Arc<()>,
    /// There has been a call since the present server was taken.
    called: bool,
    /// Who waits for the client to have a server.
    callers: Vec<Waker>,
}

impl State {
    fn is_called(&self) -> bool {
        Arc::strong_count(&self.calls) > 1
    }

    fn turn(&mut self, to: impl FnOnce(Target) -> Target) {
        self.target = to(std::mem::take(&mut self.target));
        self.cancelled = false;
        self.callers.drain(..).for_each(Waker::wake);
    }

    /// Has the client rest, unless somebody calls for it who is not `overdue`.
    fn rest(&mut self, overdue: bool) -> Option<Rest> {
        let rest = match (self.is_called(), overdue) {
            (true, false) => return None,
            (true, true) => {
                self.calls = Arc::default();
                Rest::Overdue
            }
            (false, _) if std::mem::take(&mut self.called) => Rest::Called,
            (false, _) => Rest::Quiet,
        };
        self.turn(|_| Target::Resting);
        Some(rest)
    }
}

#[derive(Debug, Default)]
enum Target {
    #[default]
    Resting,
    Waiting,
    Leased(Arc<CancelTarget>),
    /// We ask its server something between two statements of its own.
    Asking(Arc<CancelTarget>),
}

/// What a cancel found.
#[derive(Debug)]
pub enum Aimed {
    /// Nothing to cancel, as on a backend that is idle.
    Resting,
    /// It waited for a server, and has been told to stop.
    Waiting,
    Server(Hold),
}

/// Somebody cancelled while the client waited.
#[derive(Debug)]
pub struct Cancelled;

impl Aim {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client waits for a server.
    pub fn wait(&self) {
        self.turn(|_| Target::Waiting);
    }

    /// The client holds this server, unless its wait has been cancelled.
    ///
    /// # Errors
    /// Where it has.
    pub fn lease(&self, server: &Arc<CancelTarget>) -> Result<(), Cancelled> {
        let mut state = self.state();
        let cancelled = state.cancelled;
        state.called = state.is_called();
        state.turn(|_| if cancelled { Target::Resting } else { Target::Leased(server.clone()) });
        if cancelled { Err(Cancelled) } else { Ok(()) }
    }

    /// Between two statements we ask the client's server something ourselves. Cancels wait until that is over: on
    /// a connection of the client's own they would find nothing to cancel, or its next statement. Waits until none
    /// is under way.
    pub async fn pause(&self) {
        self.turn(|target| if let Target::Leased(server) = target { Target::Asking(server) } else { target });
        self.settle().await;
    }

    /// The client goes on with the server that it holds.
    pub fn resume(&self) {
        self.turn(|target| if let Target::Asking(server) = target { Target::Leased(server) } else { target });
    }

    /// The client has got no server.
    pub fn give_up(&self) {
        self.turn(|_| Target::Resting);
    }

    /// The client needs its server no more. Waits until nobody aims at it.
    pub async fn rest(&self) -> Rest {
        let rest = self.state().rest(false);
        let rest = match rest {
            Some(rest) => rest,
            None => self.rest_in_time().await,
        };
        self.changed.notify_waiters();
        self.settle().await;
        rest
    }

    async fn rest_in_time(&self) -> Rest {
        let deadline = Instant::now() + CALL_PATIENCE;
        loop {
            let changed = self.changed.notified();
            let rest = self.state().rest(Instant::now() >= deadline);
            if let Some(rest) = rest {
                return rest;
            }
            // What ends it is asked at the top.
            let _ = timeout_at(deadline, changed).await;
        }
    }

    fn turn(&self, to: impl FnOnce(Target) -> Target) {
        self.state().turn(to);
        self.changed.notify_waiters();
    }

    /// Waits until no cancel is under way.
    async fn settle(&self) {
        loop {
            let changed = self.changed.notified();
            if self.state().under_way == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Takes aim at what the client does now. While what comes back lives, its server stays with it.
    pub async fn take(self: &Arc<Self>) -> Aimed {
        loop {
            let changed = self.changed.notified();
            if let Some(aimed) = self.try_take() {
                return aimed;
            }
            changed.await;
        }
    }

    /// As [`Self::take`]; `None` while we ask its server something.
    fn try_take(self: &Arc<Self>) -> Option<Aimed> {
        let mut state = self.state();
        let server = match &state.target {
            Target::Leased(server) => server.clone(),
            Target::Waiting => {
                state.cancelled = true;
                self.cancelled.notify_waiters();
                return Some(Aimed::Waiting);
            }
            Target::Resting => return Some(Aimed::Resting),
            Target::Asking(_) => return None,
        };
        state.under_way += 1;
        Some(Aimed::Server(Hold { aim: self.clone(), server }))
    }
}

/// How a client came to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    Quiet,
    /// Somebody called for it. A signal may be on its way, and is before whatever the server is sent next.
    Called,
    /// Somebody still does: the server must serve nobody else.
    Overdue,
}

/// Somebody's call of `pg_cancel_backend` or `pg_terminate_backend` that means a client. While it lives, the
/// client stays on its server.
#[derive(Debug)]
pub struct Call {
    aim: Arc<Aim>,
    shared: Option<Arc<()>>,
}

impl Aim {
    #[must_use]
    pub fn call(self: &Arc<Self>) -> Call {
        let mut state = self.state();
        state.called = true;
        Call { aim: self.clone(), shared: Some(state.calls.clone()) }
    }

    #[must_use]
    pub fn is_called(&self) -> bool {
        self.state().is_called()
    }

    /// Whether anybody has called for the client since it took its server.
    #[must_use]
    pub fn was_called(&self) -> bool {
        self.state().called
    }
}

impl Call {
    #[must_use]
    pub fn means(&self, aim: &Arc<Aim>) -> bool {
        Arc::ptr_eq(&self.aim, aim)
    }

    /// The process id of the client's server; `None` where it has none yet. Then `waker` is told of changes, and a
    /// client that rests is asked to take one.
    #[must_use]
    pub fn server(&self, waker: &Waker) -> Option<i32> {
        let mut state = self.aim.state();
        match &state.target {
            Target::Leased(server) => return Some(server.process_id),
            Target::Resting => self.aim.summoned.notify_one(),
            Target::Waiting | Target::Asking(_) => {}
        }
        state.callers.retain(|known| !known.will_wake(waker));
        state.callers.push(waker.clone());
        None
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.shared = None;
        self.aim.changed.notify_waiters();
    }
}

/// Keeps a client on its server while a cancel is under way.
#[derive(Debug)]
pub struct Hold {
    aim: Arc<Aim>,
    server: Arc<CancelTarget>,
}

impl Hold {
    /// The process id of the server.
    #[must_use]
    pub fn process_id(&self) -> i32 {
        self.server.process_id
    }

    #[must_use]
    pub fn upstream(&self) -> &str {
        &self.server.dialer.upstream.name
    }

    /// Has the server signalled.
    ///
    /// # Errors
    /// As [`CancelTarget::deliver`].
    pub async fn deliver(&self) -> Result<Delivery, ConnectError> {
        self.server.deliver().await
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.aim.state();
        state.under_way = state.under_way.saturating_sub(1);
        if state.under_way == 0 {
            self.aim.changed.notify_waiters();
        }
    }
}
