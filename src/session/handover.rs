//! Makes a server speak as a client, before a byte of the client's is sent to it.

use crate::session::parameters::CLIENT_ENCODING;
use crate::session::parameters::Parameters;
use crate::session::parameters::difference;
use crate::session::state::ClientState;
use crate::session::state::ServerState;

/// The next statement that brings `server` nearer to what `client` has a right to find, and the settings
/// that it will have then; `None` when it is there. Ask again after each.
#[must_use]
pub fn hand_over(client: &ClientState, server: &ServerState) -> Option<(Vec<u8>, Parameters)> {
    let (have, want) = (&server.parameters, &client.parameters);
    let sql = difference(have, want)?;
    if sql.is_ascii() || have.get(CLIENT_ENCODING) == want.get(CLIENT_ENCODING) {
        return Some((sql, want.clone()));
    }
    // The values are in the client's encoding, so the server must be as well before it reads them.
    let encoding = want.get(CLIENT_ENCODING).map(|value| (CLIENT_ENCODING.to_owned(), value.to_vec()));
    let step = encoding.into_iter().collect();
    Some((difference(have, &step).unwrap_or_default(), step))
}
