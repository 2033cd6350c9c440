//! A new configuration is proven, then taken over whole; or the old one stays in force, and everybody is told so.

use std::sync::Arc;
use std::sync::PoisonError;

use tokio::time::sleep;
use tracing::error;
use tracing::info;

use crate::app::App;
use crate::app::now;
use crate::app::reception;
use crate::config::change::changed_upstreams;
use crate::config::change::needs_restart;
use crate::config::fault::Faults;
use crate::config::model::Config;
use crate::config::model::Route;
use crate::pool::checkout::UpstreamPools;
use crate::reload::Files;
use crate::reload::Outlook;
use crate::server::connect::ConnectError;
use crate::server::connect::Dialer;
use crate::wire::message::TERMINATE;

/// Why a configuration was not taken over.
struct NotTaken {
    why: String,
    outlook: Outlook,
}

impl NotTaken {
    fn hopeless(why: impl ToString) -> Self {
        Self { why: why.to_string(), outlook: Outlook::Hopeless }
    }
}

impl App {
    /// Looks at the files until the stop token, and takes over what has changed.
    pub(super) async fn watch(self: Arc<Self>) {
        let looking = async {
            loop {
                let interval = self.config.load().reload.interval;
                tokio::select! {
                    () = sleep(interval) => self.look(false).await,
                    () = self.hint.notified() => self.look(true).await,
                    () = self.hangup.notified() => drop(self.reload().await),
                }
            }
        };
        self.lifecycle.stop_token().run_until_cancelled(looking).await;
    }

    async fn look(&self, hurry: bool) {
        let mut files = self.files.lock().await;
        if hurry {
            files.hurry();
        }
        let interval = self.config.load().reload.interval;
        if let Some(read) = files.load_changed(interval).await {
            drop(self.take_over(&mut files, read).await);
        }
    }

    /// Reads the configuration again, whether a file has changed or not.
    pub(super) async fn reload(&self) -> Result<String, String> {
        let mut files = self.files.lock().await;
        let read = files.load().await;
        self.take_over(&mut files, read).await
    }

    /// Why the newest configuration is not in force, in one line.
    pub(super) fn stale(&self) -> Option<String> {
        let why = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        let line = why.split_whitespace().collect::<Vec<_>>().join(" ");
        (!line.is_empty()).then(|| {
            format!("configuration: the newest was not taken over, the one before it is in force: {line}")
        })
    }

    /// Lets live what can. Where anything is wrong, nothing changes.
    async fn take_over(&self, files: &mut Files, read: Result<Config, Faults>) -> Result<String, String> {
        let outcome = match read {
            Ok(new) => self.apply(new).await,
            Err(faults) => Err(NotTaken::hopeless(faults)),
        };
        match outcome {
            Ok(what) => {
                self.note_stale("");
                self.metrics.config_loaded(now());
                let mended = files.accepted();
                info!(mended, "{what}");
                Ok(what)
            }
            Err(NotTaken { why, outlook }) => {
                self.note_stale(&why);
                self.metrics.config_refused();
                if files.refused(&why, outlook) {
                    error!(%why, "the configuration was not taken over: the old one stays in force");
                }
                Err(why)
            }
        }
    }

    fn note_stale(&self, why: &str) {
        why.clone_into(&mut self.stale.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn apply(&self, new: Config) -> Result<String, NotTaken> {
        let old = self.config.load_full();
        let fixed = needs_restart(&old, &new);
        if !fixed.is_empty() {
            return Err(NotTaken::hopeless(format!("these settings need a restart: {}", fixed.join(", "))));
        }
        let changed = changed_upstreams(&old, &new);
        let mut dialers = Vec::new();
        for upstream in &changed {
            let pools = self.pools.upstreams.iter().find(|pools| pools.upstream.name == upstream.name);
            let Some(pools) = pools else { continue };
            let dialer = Dialer::new(upstream.clone()).map_err(NotTaken::hopeless)?;
            for login in logins(&new, &upstream.name) {
                prove(login, &dialer, pools)
                    .await
                    .map_err(|error| NotTaken { why: error.to_string(), outlook: Outlook::MayPass })?;
            }
            dialers.push((pools, dialer));
        }
        let house = (self.pools.clone(), self.registry.clone(), self.metrics.clone());
        let reception = reception(&new, Some(&self.reception.load()), house);
        self.reception.store(Arc::new(reception.map_err(NotTaken::hopeless)?));
        for (pools, dialer) in dialers {
            pools.change_dialer(dialer);
        }
        for route in &new.routes {
            self.pools.change_password(route);
        }
        self.config.store(Arc::new(new));
        Ok(format!(
            "the configuration was read again: {} of {} upstreams changed",
            changed.len(),
            old.upstreams.len()
        ))
    }
}

/// A route for each user that logs in to an upstream.
pub(super) fn logins<'a>(config: &'a Config, upstream: &str) -> Vec<&'a Route> {
    let mut logins: Vec<&Route> = Vec::new();
    for route in config.routes.iter().filter(|route| route.upstream.name == upstream) {
        if !logins.iter().any(|known| known.user == route.user) {
            logins.push(route);
        }
    }
    logins
}

/// One login as the user of `route`, to see that it works. A database that is not there, or not ours to open, is
/// refused after the server has proven itself and taken our proof: that is enough.
pub(super) async fn prove(route: &Route, dialer: &Dialer, pools: &UpstreamPools) -> Result<(), ConnectError> {
    match dialer.connect(route.database.to_try(), &route.user, route.password.as_ref()).await {
        Ok(connected) => {
            pools.note(None);
            pools.note_connected(&connected);
            let mut stream = connected.stream;
            let _ = stream.write_all(TERMINATE).await;
            let _ = stream.shutdown().await;
            Ok(())
        }
        Err(error) if is_only_the_database(&error) => {
            pools.note(None);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// The server has proven itself and taken our proof: that this one database cannot be opened says nothing of others.
fn is_only_the_database(error: &ConnectError) -> bool {
    matches!(error.refusal().sqlstate(), "3D000" | "42501")
}
