//! The words in which the core answers. Bytes of our own that belong to an answer are in `out`, which the
//! caller gives and empties.

use crate::session::pin::Pins;

/// What to do with a frame from the client.
#[derive(Debug, PartialEq, Eq)]
pub enum FromClient {
    Forward,
    /// Send `out` first, then the frame.
    ForwardBehind,
    /// Send `out` in place of the first so many bytes of the frame.
    ReplaceHead(usize),
    /// Send `out` in the frame's place.
    Replace,
    Swallow,
    /// Send `out`. Leave the frame where it is, and ask again when the server has said more: what it means hangs on
    /// that.
    Wait,
    /// Leave it where it is: another server must run it. Nothing is under way on this one.
    Elsewhere,
    /// The client says goodbye.
    End,
}

/// What to do with a frame from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromServer {
    Forward,
    /// Forward; an ErrorResponse, which is counted.
    ForwardError,
    /// Send `out` in its place; an ErrorResponse, which is counted.
    ReplaceError,
    /// Forward; a ReadyForQuery: a statement is done.
    ForwardReady,
    /// Forward, with the process id in it translated.
    Notification,
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
