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
    server.parameters.custom_names().all(known) && (!client.is_strict() || client.has_name_of(server))
}

/// The next statement that brings `server` nearer to what `client` has a right to find, and the settings
/// that it will have then; `None` when it is there. Ask again after each.
#[must_use]
pub fn hand_over(client: &ClientState, server: &ServerState) -> Option<(Vec<u8>, Parameters)> {
    let (have, want) = (&server.parameters, client.wanted_on(server));
    let sql = difference(have, want)?;
    if sql.is_ascii() || have.get(CLIENT_ENCODING) == want.get(CLIENT_ENCODING) {
        return Some((sql, want.clone()));
    }
    // The values are in the client's encoding, so the server must be as well before it reads them.
    let encoding = want.get(CLIENT_ENCODING).map(|value| (CLIENT_ENCODING.to_owned(), value.to_vec()));
    let step = encoding.into_iter().collect();
    Some((difference(have, &step).unwrap_or_default(), step))
}

/// The settings of a StartupMessage but for `application_name`: only servers that began with the same ones are
/// shared, because RESET goes back to them. The name is lent instead, as every plugin has its own.
#[must_use]
pub fn kind(startup: &Parameters) -> Parameters {
    startup.without(APPLICATION_NAME)
}
