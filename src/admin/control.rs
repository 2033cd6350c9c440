//! What the admin side may ask of the house, and how it is answered. Implemented by `app`.

use std::future::Future;
use std::pin::Pin;

/// Answers the admin side. Questions are cheap and never wait; commands may.
pub trait Control: Send + Sync + 'static {
    /// Whether Backstage can be served: configuration loaded, port bound, and a verified login to each
    /// upstream since start.
    fn readiness(&self) -> Readiness;

    /// How each upstream is just now, in the order of the configuration.
    fn upstreams(&self) -> Vec<UpstreamStatus>;

    /// Brings up to date what is counted only when somebody looks.
    fn refresh(&self) {}

    /// Carries out `command`. Returns what to tell the person who asked, or why it was refused.
    fn execute(&self, command: Command) -> Answer<'_>;
}

/// The answer to a command: a sentence, good or bad.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<String, String>> + Send + 'a>>;

/// Whether Backstage can be served, and what is missing if not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    pub ready: bool,
    /// One line for each thing that was looked at. Without secrets.
    pub details: Vec<String>,
}

/// Whether an upstream can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// `host:port`.
    pub name: String,
    pub up: bool,
    /// The last error, or empty. Without secrets.
    pub detail: String,
}

/// What may be asked on loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Look at the configuration files again.
    Reload,
    /// End when the last client has left, as SIGTERM.
    Drain,
    /// End now, as a second SIGTERM.
    Quit,
}
