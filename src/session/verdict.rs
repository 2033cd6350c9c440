//! The words in which the core answers.

use crate::session::pin::Pins;
use crate::wire::refusal::Refusal;

/// What to do with a frame from the client.
#[derive(Debug, PartialEq, Eq)]
pub enum FromClient {
    Forward,
    /// Send these bytes first, then the frame.
    ForwardBehind(Vec<u8>),
    /// Send these bytes in the frame's place.
    Replace(Vec<u8>),
    Swallow,
    /// The client says goodbye.
    End,
    /// Tell the client, then close it.
    Refuse(Refusal),
}

/// What to do with a frame from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromServer {
    Forward,
    /// Forward; an ErrorResponse, which is counted.
    ForwardError,
    /// Forward; a ReadyForQuery: a statement is done.
    ForwardReady,
    Swallow,
    /// The server says what nobody asked for: it cannot be relied on any more.
    Broken(&'static str),
}

/// Whether a server may leave its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Something is under way, or a transaction is open.
    Keep,
    /// Nothing is under way, but the server must be asked what the client left on it.
    Probe,
    /// Something lies on the server that cannot be moved.
    Pinned(Pins),
    /// Nothing of the client is left but settings that we know.
    Return,
}
