//! From a StartupMessage to ReadyForQuery: route, proof, settings, and the greeting of a real server.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::timeout;
use tokio_util::sync::WaitForCancellationFuture;
use tracing::info;

use crate::auth::verifier::Salts;
use crate::auth::verifier::Verifier;
use crate::client::arrival::Arrival;
use crate::client::arrival::ArrivalError;
use crate::client::arrival::Doorway;
use crate::client::authenticate::LoginError;
use crate::client::authenticate::authenticate;
use crate::client::cancel::cancel;
use crate::client::fetch::Missed;
use crate::client::fetch::Wait;
use crate::client::fetch::fetch;
use crate::client::lobby::Newcomer;
use crate::client::registry::Registered;
use crate::client::registry::Registry;
use crate::client::serve::Client;
use crate::client::serve::End;
use crate::config::model::ClientAuth;
use crate::config::model::PoolMode;
use crate::config::model::PoolPolicy;
use crate::config::model::Route;
use crate::metrics::pool::PoolMetrics;
use crate::metrics::registry::Metrics;
use crate::net::stream::Stream;
use crate::pool::checkout::Pool;
use crate::pool::pools::Pools;
use crate::route::plugin;
use crate::route::pool as policy_of;
use crate::route::route;
use crate::session::parameters::Parameters;
use crate::session::state::ClientState;
use crate::wire::message::Message;
use crate::wire::message::parameter_status;
use crate::wire::refusal::Refusal;
use crate::wire::startup::PROTOCOL_NEWEST;
use crate::wire::startup::Startup;
use crate::wire::startup::options;

/// What every client needs to know of the house.
#[derive(Debug)]
pub struct Reception {
    pub routes: Vec<Arc<Route>>,
    /// The proof that each route asks for.
    pub verifiers: Vec<(Arc<Route>, Verifier)>,
    /// For a user that nobody knows, so that it costs and says the same.
    pub stranger: Verifier,
    pub salts: Salts,
    pub auth: ClientAuth,
    pub login_timeout: Duration,
    pub clients_max: usize,
    pub pools: Arc<Pools>,
    pub registry: Arc<Registry>,
    pub metrics: Arc<Metrics>,
}

/// Why a session ended before it began.
enum Refused {
    Login(LoginError),
    Told(Refusal),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Told(refusal)
    }
}

impl From<LoginError> for Refused {
    fn from(error: LoginError) -> Self {
        Self::Login(error)
    }
}

impl From<std::io::Error> for Refused {
    fn from(error: std::io::Error) -> Self {
        Self::Login(error.into())
    }
}

impl Reception {
    /// A connection from its first byte to the end of its login. `None` where nobody came of it who is to be served.
    pub async fn receive(
        self: Arc<Self>,
        newcomer: Newcomer,
        stream: Stream,
        port: u16,
    ) -> Option<Box<Guest>> {
        let mut door = Doorway::new(stream);
        let deadline = Instant::now() + self.login_timeout;
        let arrival = match newcomer.hear(deadline, door.arrive()).await {
            Some(Ok(arrival)) => arrival,
            Some(Err(ArrivalError::Gone)) => return None, // A probe of the port, most likely.
            Some(Err(error)) => {
                turn_away(door, error.refusal(), "", "", &error.to_string()).await;
                return None;
            }
            None => {
                drop(newcomer);
                turn_away(door, None, "", "", "no startup packet in time").await;
                return None;
            }
        };
        let startup = match arrival {
            Arrival::Cancel { process_id, secret_key } => {
                cancel(&self.registry, &self.metrics, process_id, &secret_key).await;
                return None;
            }
            Arrival::Session(startup) => startup,
        };
        let refused = match newcomer.hear(deadline, self.prove(&mut door, &startup, port)).await {
            Some(Ok(route)) => {
                drop(newcomer);
                return self.session(door, &startup, route).await;
            }
            Some(Err(error)) => (error.refusal(&startup.user), error.to_string()),
            None => {
                drop(newcomer);
                let refusal = Refusal::fatal("08006", "stagedoor: the login took too long");
                (Some(refusal), "the login took longer than stagedoor.listen.loginTimeout".to_owned())
            }
        };
        turn_away(door, refused.0, &startup.user, &startup.database, &refused.1).await;
        None
    }

    /// Has the client prove itself. Unknown user or wrong password: it hears the same, and waits as long.
    async fn prove(
        &self,
        door: &mut Doorway,
        startup: &Startup,
        port: u16,
    ) -> Result<&Arc<Route>, LoginError> {
        if startup.minor > 2 || !startup.unknown_options.is_empty() {
            let version = PROTOCOL_NEWEST.min(0x0003_0000 | i32::from(startup.minor));
            let message = Message::NegotiateProtocolVersion { version, options: &startup.unknown_options };
            door.owe(&message.encode());
        }
        let route = route(&self.routes, port, &startup.user, &startup.database);
        let stranger = self.stranger.with_salt(self.salts.of(&startup.user));
        let verifier = route.and_then(|route| self.verifier(route)).unwrap_or(&stranger);
        authenticate(door, self.auth, verifier).await?;
        route.ok_or(LoginError::Password)
    }

    async fn session(&self, mut door: Doorway, startup: &Startup, route: &Arc<Route>) -> Option<Box<Guest>> {
        let refused = match self.admit(&mut door, startup, route).await {
            Ok(admitted) => return Some(self.guest(door, admitted)),
            Err(Refused::Login(error)) => (error.refusal(&startup.user), error.to_string()),
            Err(Refused::Told(refusal)) => (Some(refusal.clone()), refusal.to_string()),
        };
        turn_away(door, refused.0, &startup.user, &startup.database, &refused.1).await;
        None
    }

    /// Finds the pool of a client that has proven itself, and greets it.
    async fn admit(
        &self,
        door: &mut Doorway,
        startup: &Startup,
        route: &Arc<Route>,
    ) -> Result<Admitted, Refused> {
        if self.registry.count() >= self.clients_max {
            return Err(too_many().into());
        }
        if startup.replication.is_some() {
            return Err(Refusal::fatal("0A000", "stagedoor does not pass on replication connections").into());
        }
        let wanted = wanted(startup)?;
        let application =
            startup.parameter("application_name").and_then(|name| std::str::from_utf8(name).ok());
        let plugin = plugin(route, &startup.database, application);
        let policy = policy_of(route, plugin.as_deref());
        let pool = self.pools.get(route, &startup.database, &wanted, policy).ok_or_else(too_many)?;
        let label = plugin.as_deref().unwrap_or_default();
        let metrics = self.metrics.pool(&route.upstream.name, &startup.database, label);
        let registered =
            self.registry.register(startup).map_err(|error| Refusal::fatal("XX000", &error.to_string()))?;
        let mut state = ClientState::new(registered.slot.process_id.unsigned_abs(), wanted)
            .watching(&policy.watch.functions, &policy.watch.settings);
        if policy.mode == PoolMode::Session {
            state.be_alone();
        }
        let state = greet(&pool, state, policy, &metrics).await?;
        let mut words = Message::AuthenticationOk.encode();
        for (name, value) in state.told.iter() {
            parameter_status(&mut words, name, value);
        }
        let key = Message::BackendKeyData {
            process_id: registered.slot.process_id,
            secret_key: registered.secret_key(),
        };
        words.extend_from_slice(&key.encode());
        words.extend_from_slice(&Message::ReadyForQueryIdle.encode());
        door.tell(&words).await?;
        let acquire_timeout = policy.acquire_timeout;
        Ok(Admitted { pool, acquire_timeout, metrics, registered, state, plugin })
    }

    /// Who is believed on the route of an earlier configuration that has the place of `route`.
    #[must_use]
    pub fn verifier_of(&self, route: &Route) -> Option<&Verifier> {
        let same = |known: &Route| {
            known.port == route.port && known.user == route.user && known.database == route.database
        };
        self.verifiers.iter().find(|(known, _)| same(known)).map(|(_, verifier)| verifier)
    }

    fn verifier(&self, route: &Arc<Route>) -> Option<&Verifier> {
        self.verifiers.iter().find(|(known, _)| Arc::ptr_eq(known, route)).map(|(_, verifier)| verifier)
    }

    fn guest(&self, door: Doorway, admitted: Admitted) -> Box<Guest> {
        let Admitted { pool, acquire_timeout, metrics, registered, state, plugin } = admitted;
        metrics.clients_opened.inc();
        let (stream, early) = door.into_parts();
        let registry = self.registry.clone();
        let wires = Client::wires(&early);
        let skips_to_sync = false;
        Box::new(Guest {
            client: Client {
                stream,
                state,
                registered,
                registry,
                pool,
                acquire_timeout,
                metrics,
                wires,
                skips_to_sync,
            },
            plugin,
        })
    }
}

/// A client that is in.
#[derive(Debug)]
pub struct Guest {
    client: Client,
    plugin: Option<String>,
}

impl Guest {
    /// Serves it until it leaves or must.
    pub async fn stay(mut self: Box<Self>, goodbye: Pin<&mut WaitForCancellationFuture<'_>>) {
        let end = self.client.serve(goodbye).await;
        self.farewell(&end);
    }

    /// One line per client, here and nowhere else.
    fn farewell(&self, end: &End) {
        let (client, pool) = (self.client.registered.slot.process_id, &self.client.pool);
        let (database, user) = (pool.database.as_str(), pool.user.as_str());
        let plugin = self.plugin.as_deref().unwrap_or_default();
        let upstream = pool.upstream.upstream.name.as_str();
        match end {
            End::Goodbye | End::Gone | End::Shutdown => {
                tracing::debug!(client, database, user, plugin, upstream, ?end, "client left");
            }
            End::Babbled => {
                info!(client, database, user, plugin, upstream, "client sent no message of the protocol")
            }
            End::Refused(why) => {
                info!(client, database, user, plugin, upstream, sqlstate = why.sqlstate(), %why, "client was refused");
            }
            End::ServerLost(why) => {
                info!(client, database, user, plugin, upstream, %why, "server was lost");
            }
        }
    }
}

/// A client that may go on.
struct Admitted {
    pool: Arc<Pool>,
    acquire_timeout: Duration,
    metrics: Arc<PoolMetrics>,
    registered: Registered,
    state: ClientState,
    plugin: Option<String>,
}

async fn turn_away(mut door: Doorway, refusal: Option<Refusal>, user: &str, database: &str, why: &str) {
    info!(user, database, why, "login failed");
    if let Some(refusal) = refusal {
        let words = async {
            door.tell(&refusal.frame()).await?;
            door.stream.shutdown().await
        };
        let _ = timeout(Duration::from_secs(2), words).await;
    }
}

/// The session settings that a StartupMessage asks for. `options` comes first, so that what is named beside it
/// counts more (`process_startup_options`).
fn wanted(startup: &Startup) -> Result<Parameters, Refusal> {
    let from_options = startup.parameter("options").map_or(Some(Vec::new()), options).ok_or_else(|| {
        Refusal::fatal("0A000", "stagedoor understands only -c name=value and --name=value in \"options\"")
    })?;
    let named = startup.parameters.iter().filter(|(name, _)| name != "options").cloned();
    Ok(from_options.into_iter().chain(named).collect())
}

/// A client that knows what a real server of the pool says to a login with its settings. PostgreSQL's own error
/// where it would refuse it.
async fn greet(
    pool: &Arc<Pool>,
    mut client: ClientState,
    policy: &PoolPolicy,
    metrics: &PoolMetrics,
) -> Result<ClientState, Refusal> {
    if let Some(greeting) = pool.greeting(client.startup()) {
        client.told = greeting;
        return Ok(client);
    }
    let mut wait = Wait::new(policy.acquire_timeout);
    let lease = fetch(pool, &client, metrics, &mut wait, pending()).await.map_err(|missed| {
        if let Missed::Checkout(error) = &missed {
            metrics.acquire_failed(error.failure());
        }
        missed.refusal().fatal_too()
    })?;
    client.told.clone_from(&lease.server.state.reported);
    pool.remember_greeting(client.startup(), client.told.clone());
    lease.release();
    Ok(client)
}

/// The words of PostgreSQL (InitProcess).
fn too_many() -> Refusal {
    Refusal::fatal("53300", "sorry, too many clients already")
        .hint("Raise stagedoor.listen.maxClients, or lower knexConfig.pool.max of Backstage's plugins.")
}
