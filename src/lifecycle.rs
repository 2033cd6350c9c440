//! Starting → Ready → Draining → Stopped, never backwards; and the owner of every task.
//!
//! Two kinds of tasks: a *client* (one connection from Backstage) is waited for while we drain; a *service*
//! (janitor, reload, admin) lives until the stop token, so that metrics and probes answer while we drain.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where a process stands in its life. The order of the variants is the order in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Not yet able to serve.
    Starting,
    Ready,
    /// Asked to end. Clients are still accepted and served, but readiness says no.
    Draining,
    /// Tasks have been told to end.
    Stopped,
}

/// Whether every task ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Clean,
    /// The deadline passed with tasks still running: this many clients, this many services.
    Forced {
        clients: usize,
        services: usize,
    },
}

/// The state of one process and its tasks. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Lifecycle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: watch::Sender<State>,
    stop: CancellationToken,
    clients: TaskTracker,
    services: TaskTracker,
}

impl Lifecycle {
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            state: watch::Sender::new(State::Starting),
            stop: CancellationToken::new(),
            clients: TaskTracker::new(),
            services: TaskTracker::new(),
        }))
    }

    #[must_use]
    pub fn state(&self) -> State {
        *self.0.state.borrow()
    }

    /// To be told of every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.0.state.subscribe()
    }

    /// From `Starting` to `Ready`; nothing where we are already further.
    pub fn set_ready(&self) {
        self.advance(State::Ready);
    }

    /// Begins to end: not ready any more. Returns whether it was this call that began it.
    pub fn begin_drain(&self) -> bool {
        self.0.clients.close();
        self.advance(State::Draining)
    }

    /// Waits until somebody has begun to drain. Cancel-safe.
    pub async fn draining(&self) {
        let mut states = self.watch();
        // The sender lives as long as `self`, so this cannot fail before the state is reached.
        let _ = states.wait_for(|state| *state >= State::Draining).await;
    }

    /// Waits until we drain and no client is left. Cancel-safe. A client that comes in while we drain is
    /// waited for too, if another is still here.
    pub async fn drained(&self) {
        self.draining().await;
        self.0.clients.wait().await;
    }

    /// Cancelled when tasks must end: idle clients say goodbye, services return.
    #[must_use]
    pub fn stop_token(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// Tells every task to end, at once. No waiting: see [`Self::wait_stopped`].
    pub fn stop(&self) {
        self.0.clients.close();
        self.0.services.close();
        self.advance(State::Stopped);
        self.0.stop.cancel();
    }

    /// Runs a service until it returns, which it must when the stop token is cancelled.
    pub fn spawn<F>(&self, service: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.0.services.spawn(service);
    }

    /// Runs one client's connection, which draining waits for.
    pub fn spawn_client<F>(&self, client: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.0.clients.spawn(client);
    }

    /// Clients that are here now, those that have not logged in yet included.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.0.clients.len()
    }

    /// Stops, then waits at most `deadline` for every task to end. What is left after that is cut off when
    /// the runtime ends.
    pub async fn wait_stopped(&self, deadline: Duration) -> Ending {
        self.stop();
        let all = async {
            self.0.clients.wait().await;
            self.0.services.wait().await;
        };
        match timeout(deadline, all).await {
            Ok(()) => Ending::Clean,
            Err(_) => Ending::Forced { clients: self.0.clients.len(), services: self.0.services.len() },
        }
    }

    fn advance(&self, to: State) -> bool {
        self.0.state.send_if_modified(|state| {
            let forward = *state < to;
            if forward {
                *state = to;
            }
            forward
        })
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::sync::oneshot;

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn the_state_never_goes_back() {
        let life = Lifecycle::new();
        assert_eq!(life.state(), State::Starting);
        life.set_ready();
        assert_eq!(life.state(), State::Ready);
        assert!(life.begin_drain());
        assert!(!life.begin_drain(), "a second signal did not begin it");
        life.set_ready();
        assert_eq!(life.state(), State::Draining);
        life.stop();
        assert!(!life.begin_drain());
        assert_eq!(life.state(), State::Stopped);
    }

    #[tokio::test]
    async fn draining_waits_for_clients_and_not_for_services() {
        let life = Lifecycle::new();
        let (leave, left) = oneshot::channel::<()>();
        life.spawn_client(async move {
            let _ = left.await;
        });
        let stop = life.stop_token();
        life.spawn(async move { stop.cancelled().await });
        assert_eq!(life.clients(), 1);
        life.begin_drain();
        assert!(timeout(Duration::from_millis(20), life.drained()).await.is_err(), "a client is here");
        leave.send(()).unwrap();
        timeout(SOON, life.drained()).await.unwrap();
        assert_eq!(life.wait_stopped(SOON).await, Ending::Clean);
    }

    #[tokio::test]
    async fn without_a_drain_nobody_is_drained() {
        let life = Lifecycle::new();
        assert!(timeout(Duration::from_millis(20), life.drained()).await.is_err());
    }

    #[tokio::test]
    async fn clients_are_still_taken_in_while_we_drain() {
        let life = Lifecycle::new();
        life.spawn_client(pending());
        life.begin_drain();
        life.spawn_client(pending());
        assert_eq!(life.clients(), 2);
    }

    #[tokio::test]
    async fn a_task_that_will_not_end_is_counted_and_not_waited_for() {
        let life = Lifecycle::new();
        life.spawn_client(pending());
        let ending = life.wait_stopped(Duration::from_millis(20)).await;
        assert_eq!(ending, Ending::Forced { clients: 1, services: 0 });
    }

    #[tokio::test]
    async fn a_watcher_sees_the_drain() {
        let life = Lifecycle::new();
        let watcher = life.clone();
        let seen = tokio::spawn(async move { watcher.draining().await });
        life.begin_drain();
        timeout(SOON, seen).await.unwrap().unwrap();
    }
}
