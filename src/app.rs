//! The composition root: builds the house from a configuration, runs it, and ends it.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::Mutex;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio::time::sleep;
use tracing::error;
use tracing::info;
use tracing::warn;

use crate::admin::control::Answer;
use crate::admin::control::Command;
use crate::admin::control::Control;
use crate::admin::control::Readiness;
use crate::admin::control::UpstreamStatus;
use crate::admin::http;
use crate::auth::verifier::Salts;
use crate::auth::verifier::Verifier;
use crate::client::lobby::Lobby;
use crate::client::login::Reception;
use crate::client::registry::Registry;
use crate::config::load::Loaded;
use crate::config::load::Sources;
use crate::config::model::Config;
use crate::lifecycle::Ending;
use crate::lifecycle::Lifecycle;
use crate::listener;
use crate::listener::BindError;
use crate::listener::Door;
use crate::metrics::registry::Metrics;
use crate::pool::checkout::Dying;
use crate::pool::checkout::UpstreamPools;
use crate::pool::pools::Pools;
use crate::pool::upkeep;
use crate::reload::Files;
use crate::server::connect::Dialer;
use crate::tls::error::TlsError;

mod rotation;

/// How long the house must be empty before an ending sidecar believes that its clients are gone: a pool that
/// closes one connection may open another.
const EMPTY: Duration = Duration::from_millis(500);

/// The pause between the first two tries to reach an upstream at the start; doubled each time.
const PROBE_PAUSE: Duration = Duration::from_millis(200);

/// The longest of these pauses.
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The longest where the password was refused: whoever counts wrong ones must not lock the user out. A file that is
/// mended is tried at once.
const WRONG_PASSWORD_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long transactions may take to end at the very least, however short the grace period is.
const LAST_TRANSACTIONS: Duration = Duration::from_secs(5);

/// Why the sidecar could not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("{0}")]
    Bind(#[from] BindError),
    #[error(
        "cannot listen on {address} for metrics and health: {source}. Change stagedoor.admin.host or stagedoor.admin.port, or see who listens there."
    )]
    Admin { address: SocketAddr, source: io::Error },
    #[error("upstream {upstream}: {source}")]
    Tls { upstream: String, source: TlsError },
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    #[error("the system has no randomness to give")]
    NoRandomness,
}

/// The running house.
struct App {
    config: ArcSwap<Config>,
    registry: Arc<Registry>,
    /// What new clients find.
    reception: Arc<ArcSwap<Reception>>,
    /// The files of the configuration. One reload at a time.
    files: Mutex<Files>,
    /// Why the newest configuration is not in force; empty where it is.
    stale: std::sync::Mutex<String>,
    /// Somebody has a reason to believe that a file has changed, or will soon.
    hint: Arc<Notify>,
    /// Somebody wants the files to be read, changed or not.
    hangup: Notify,
    pools: Arc<Pools>,
    metrics: Arc<Metrics>,
    lifecycle: Lifecycle,
}

/// Runs the sidecar until it is told to end.
///
/// # Errors
/// As [`StartError`]; after the start nothing ends it but a signal.
pub async fn run(loaded: Loaded, sources: Sources) -> Result<(), StartError> {
    let mut signals = Signals::new().map_err(StartError::Signals)?;
    let (app, graveyards) = App::build(loaded.config, Files::new(sources, loaded.files))?;
    let config = app.config.load_full();
    let ports: Vec<u16> =
        config.routes.iter().filter_map(|route| route.port).collect::<HashSet<_>>().into_iter().collect();
    let doors = listener::open(&config.listen, &ports)?;
    let admin = app.bind_admin().await?;
    app.start(doors, admin, graveyards);
    app.until_told_to_end(&mut signals).await;
    app.drain(&mut signals).await;
    Ok(())
}

type Graveyards = Vec<(Weak<UpstreamPools>, UnboundedReceiver<Dying>)>;

impl App {
    fn build(config: Config, files: Files) -> Result<(Arc<Self>, Graveyards), StartError> {
        let metrics = Arc::new(Metrics::new());
        let hint = Arc::new(Notify::new());
        let mut graveyards = Vec::new();
        let mut upstreams = Vec::new();
        for upstream in &config.upstreams {
            let dialer = Dialer::new(upstream.clone())
                .map_err(|source| StartError::Tls { upstream: upstream.name.clone(), source })?;
            let (pools, graveyard) =
                UpstreamPools::new(upstream.clone(), dialer, metrics.upstream(&upstream.name), hint.clone());
            graveyards.push((Arc::downgrade(&pools), graveyard));
            upstreams.push(pools);
        }
        let pools = Arc::new(Pools::new(upstreams));
        let registry = Arc::new(Registry::default());
        let reception = reception(&config, None, (pools.clone(), registry.clone(), metrics.clone()))?;
        metrics.config_loaded(now());
        let app = Self {
            config: ArcSwap::from_pointee(config),
            registry,
            reception: Arc::new(ArcSwap::from_pointee(reception)),
            files: Mutex::new(files),
            stale: std::sync::Mutex::default(),
            hint,
            hangup: Notify::new(),
            pools,
            metrics,
            lifecycle: Lifecycle::new(),
        };
        Ok((Arc::new(app), graveyards))
    }

    async fn bind_admin(&self) -> Result<TcpListener, StartError> {
        let admin = self.config.load().admin.clone();
        let address = SocketAddr::new(admin.host, admin.port);
        TcpListener::bind(address).await.map_err(|source| StartError::Admin { address, source })
    }

    fn start(self: &Arc<Self>, doors: Vec<Door>, admin: TcpListener, graveyards: Graveyards) {
        let find: Arc<upkeep::FindPool> = {
            let pools = self.pools.clone();
            Arc::new(move |id| pools.by_id(id))
        };
        for (upstream, graveyard) in graveyards {
            // Not lifecycle's: it closes servers to the very end.
            tokio::spawn(upkeep::run(upstream, graveyard, find.clone()));
        }
        let lobby = Arc::new(Lobby::default());
        for door in doors {
            info!(address = door.address(), "listening");
            self.lifecycle.spawn(door.accept(self.reception.clone(), lobby.clone(), self.lifecycle.clone()));
        }
        if let Ok(address) = admin.local_addr() {
            info!(%address, "admin listening");
        }
        let control: Arc<dyn Control> = self.clone();
        self.lifecycle.spawn(http::serve(admin, control, self.metrics.clone(), self.lifecycle.clone()));
        self.lifecycle.spawn(self.clone().reach_upstreams());
        self.lifecycle.spawn(self.clone().watch());
    }

    /// Logs in to every upstream once, until it worked: then the sidecar is ready.
    async fn reach_upstreams(self: Arc<Self>) {
        let mut reaching = JoinSet::new();
        for pools in &self.pools.upstreams {
            let (app, pools) = (self.clone(), pools.clone());
            reaching.spawn(async move { app.reach(&pools).await });
        }
        let stop = self.lifecycle.stop_token();
        let all = async { while reaching.join_next().await.is_some() {} };
        if stop.run_until_cancelled(all).await.is_some() {
            self.lifecycle.set_ready();
            info!("ready");
        }
    }

    async fn reach(&self, pools: &Arc<UpstreamPools>) {
        let mut pause = PROBE_PAUSE;
        while !pools.was_verified() {
            // Each time as the configuration is by now: it may have been mended.
            let config = self.config.load_full();
            let logins = rotation::logins(&config, &pools.upstream.name);
            let Some(route) = logins.first() else { return };
            let Err(error) = rotation::prove(route, &pools.dialer.load_full(), pools).await else { return };
            pools.note(Some(&error));
            let longest = if error.is_wrong_password() { WRONG_PASSWORD_PAUSE_MAX } else { PROBE_PAUSE_MAX };
            let again = Instant::now() + pause;
            while Instant::now() < again && !pools.was_verified() {
                sleep(PROBE_PAUSE).await;
            }
            pause = (pause * 2).min(longest);
        }
    }

    async fn until_told_to_end(&self, signals: &mut Signals) {
        loop {
            tokio::select! {
                Some(()) = signals.terminate.recv() => return,
                Some(()) = signals.interrupt.recv() => return,
                Some(()) = signals.hangup.recv() => self.hangup.notify_one(),
                () = self.lifecycle.draining() => return,
            }
        }
    }

    /// Serves on while clients are there, up to the grace period; then lets transactions end.
    async fn drain(&self, signals: &mut Signals) {
        self.lifecycle.begin_drain();
        let grace = self.config.load().shutdown.grace_period;
        info!(clients = self.lifecycle.clients(), ?grace, "draining: clients are served until they leave");
        let stop = self.lifecycle.stop_token();
        let now = async {
            tokio::select! {
                Some(()) = signals.terminate.recv() => {}
                Some(()) = signals.interrupt.recv() => {}
            }
        };
        tokio::select! {
            () = self.drain_gently(grace) => {}
            () = now => warn!("told to end a second time: ending now"),
        }
        stop.cancel();
        let find = |id| self.pools.by_id(id);
        for upstream in &self.pools.upstreams {
            upkeep::close_idle(upstream, &find).await;
        }
        info!("stopped");
    }

    async fn drain_gently(&self, grace: Duration) {
        let stop = self.lifecycle.stop_token();
        tokio::select! {
            () = self.until_empty() => {}
            () = stop.cancelled() => {}
            () = sleep(grace) => {
                let clients = self.lifecycle.clients();
                info!(clients, "the grace period is over: idle clients are told 57P01, open transactions may end");
            }
        }
        // Transactions that are open end in their own time, as long again at the most.
        let ending = self.lifecycle.wait_stopped(grace.max(LAST_TRANSACTIONS)).await;
        if let Ending::Forced { clients, services } = ending {
            error!(clients, services, "transactions were still open at the very end");
        }
    }

    async fn until_empty(&self) {
        let mut empty_since = Instant::now();
        loop {
            if self.lifecycle.clients() > 0 {
                empty_since = Instant::now();
            } else if empty_since.elapsed() >= EMPTY {
                return;
            }
            sleep(EMPTY / 10).await;
        }
    }
}

impl Control for App {
    fn readiness(&self) -> Readiness {
        let mut details = Vec::new();
        for pools in &self.pools.upstreams {
            if !pools.was_verified() {
                details.push(format!("upstream {}: no verified login yet", pools.upstream.name));
            }
        }
        let ready = details.is_empty();
        // Backstage is served all the same, by the settings of before.
        details.extend(self.stale());
        Readiness { ready, details }
    }

    fn upstreams(&self) -> Vec<UpstreamStatus> {
        let status = |pools: &Arc<UpstreamPools>| UpstreamStatus {
            name: pools.upstream.name.clone(),
            up: pools.is_up(),
            detail: pools.last_error(),
        };
        self.pools.upstreams.iter().map(status).collect()
    }

    /// Counts what changes too often to be counted as it does.
    fn refresh(&self) {
        let pools = self.pools.all();
        for upstream in &self.pools.upstreams {
            let own = pools.iter().filter(|pool| Arc::ptr_eq(&pool.upstream, upstream));
            upstream.metrics.servers_are(own.map(|pool| (pool.database.as_str(), pool.servers())));
        }
    }

    fn execute(&self, command: Command) -> Answer<'_> {
        let answer = match command {
            Command::Drain => {
                self.lifecycle.begin_drain();
                Ok("draining".to_owned())
            }
            Command::Quit => {
                self.lifecycle.begin_drain();
                self.lifecycle.stop();
                Ok("ending".to_owned())
            }
            Command::Reload => return Box::pin(self.reload()),
        };
        Box::pin(std::future::ready(answer))
    }
}

#[expect(clippy::disallowed_methods, reason = "a metric shows when, in everybody's time")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What clients find by `config`. Whoever was believed `before` is believed still.
fn reception(
    config: &Config,
    before: Option<&Reception>,
    (pools, registry, metrics): (Arc<Pools>, Arc<Registry>, Arc<Metrics>),
) -> Result<Reception, StartError> {
    let salts = match before {
        Some(before) => before.salts.clone(),
        None => Salts::new(&random()?),
    };
    let mut verifiers = Vec::new();
    for route in &config.routes {
        if let Some(password) = &route.password {
            let verifier = match before.and_then(|before| before.verifier_of(route)) {
                Some(verifier) => verifier.with(password),
                None => Verifier::new(password, salts.of(&route.user)),
            };
            verifiers.push((route.clone(), verifier));
        }
    }
    let passwords = verifiers.iter().map(|(_, verifier)| verifier.passwords()).max().unwrap_or(1);
    Ok(Reception {
        routes: config.routes.clone(),
        verifiers,
        stranger: Verifier::stranger(&random::<24>()?, passwords),
        salts,
        auth: config.listen.auth,
        login_timeout: config.listen.login_timeout,
        clients_max: config.listen.clients_max,
        pools,
        registry,
        metrics,
    })
}

fn random<const LENGTH: usize>() -> Result<[u8; LENGTH], StartError> {
    let mut bytes = [0; LENGTH];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| StartError::NoRandomness)?;
    Ok(bytes)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}
