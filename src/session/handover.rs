//! Which server suits a client, and how it is made to speak as that client before a byte of its is sent.

use crate::session::parameters::APPLICATION_NAME;
use crate::session::parameters::CLIENT_ENCODING;
use crate::session::parameters::Parameters;
use crate::session::parameters::difference;
use crate::session::state::ClientState;
use crate::session::state::ServerState;

/// What of a session's settings decides which server goes with which client, as numbers that are quick to
/// compare. Equal numbers of different settings would only cost a hand-over or a new server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fit {
    /// All settings in force.
    pub state: u64,
    /// The names of custom settings: one that was set once is there for good, if only empty.
    pub custom: u64,
    /// What `RESET application_name` goes back to.
    pub name: u64,
    /// For a client: whether it uses RESET, so that `name` must be its own.
    pub strict: bool,
}

impl Fit {
    /// Whether a server `of` these numbers can be made to serve a client with ours.
    #[must_use]
    pub const fn allows(&self, of: &Self) -> bool {
        (of.custom == 0 || of.custom == self.custom) && (!self.strict || of.name == self.name)
    }
}

/// Whether `server` can be made to speak as `client`.
#[must_use]
pub fn suits(client: &ClientState, server: &ServerState) -> bool {
    let known = |name| client.parameters.get(name).is_some() || client.startup().get(name).is_some();
    server.parameters().custom_names().all(known) && (!client.is_strict() || client.has_name_of(server))
}

/// The statement that makes `server` what `client` has a right to find, and the settings that it will have then;
/// `None` where it is so already.
#[must_use]
pub fn hand_over(client: &ClientState, server: &ServerState) -> Option<(Vec<u8>, Parameters)> {
    let want = client.wanted_on(server);
    // Values are in the encoding of the client to whom they were told.
    let encoding = client.told.get(CLIENT_ENCODING).unwrap_or_default();
    Some((difference(server.parameters(), want, encoding)?, want.clone()))
}

/// The settings of a StartupMessage but for `application_name`: only servers that began with the same ones are
/// shared, because RESET goes back to them. The name is lent instead, as every plugin has its own.
#[must_use]
pub fn kind(startup: &Parameters) -> Parameters {
    startup.without(APPLICATION_NAME)
}
