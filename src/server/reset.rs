//! Makes a server clean that its client has left, or says that it cannot be.

use std::time::Duration;

use thiserror::Error;
use tokio::time::timeout;

use crate::server::connection::ExchangeError;
use crate::server::connection::Server;
use crate::session::from_client::Received;
use crate::session::from_server::from_server;
use crate::session::state::ClientState;
use crate::session::state::answered;
use crate::session::state::question;
use crate::session::state::release;
use crate::session::transaction::Transaction;
use crate::session::verdict::FromServer;
use crate::session::verdict::Release;
use crate::wire::flow::Flow;
use crate::wire::frame::Frame;
use crate::wire::frame::HEADER_BYTES;
use crate::wire::scanner::Scanner;
use crate::wire::scanner::Step;

/// How long nothing may move between a server and a client that has left. PostgreSQL would let a statement run to its end,
/// but somebody else may be waiting for the server.
pub const FAREWELL: Duration = Duration::from_secs(2);

/// How long a cancelled server may take to come to rest.
const CANCELLED: Duration = Duration::from_secs(3);

/// Why a server is closed rather than used on.
#[derive(Debug, Error)]
pub enum Unclean {
    #[error("a frame to the server was cut in the middle")]
    HalfFrame,
    #[error("the server waited for more of a batch or a COPY")]
    Waiting,
    #[error("the server ends as its client has")]
    Ends,
    #[error("what the client left cannot be removed: {0}")]
    Pinned(&'static str),
    #[error("the server did not come to rest")]
    Busy,
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
}

/// What was on its way from the server when the client left.
#[derive(Debug)]
pub struct Remains<'a> {
    pub flow: &'a mut Flow,
    pub scanner: &'a mut Scanner,
    /// Whether the last frame to the server was sent whole.
    pub whole: bool,
}

/// Brings `server` back to what it was after login.
///
/// # Errors
/// As [`Unclean`]: then the server must be closed.
pub async fn clean(
    server: &mut Server,
    client: &mut ClientState,
    remains: Remains<'_>,
) -> Result<(), Unclean> {
    if !server.state.pipeline.is_settled() {
        // A cancel that fails leaves the server busy, and the time-out closes it.
        let _ = server.target.signal().await;
    }
    if !remains.whole {
        return Err(Unclean::HalfFrame);
    }
    if server.ends {
        return Err(Unclean::Ends);
    }
    let Remains { flow, scanner, .. } = remains;
    let rested = timeout(CANCELLED, drain(server, client, flow, scanner)).await;
    server.share_definitions();
    rested.unwrap_or(Err(Unclean::Busy))?;
    if release(client, &server.state) == Release::Return {
        return Ok(());
    }
    if server.state.transaction != Transaction::Idle {
        server.exchange(b"ROLLBACK", &mut Vec::new()).await?;
        server.state.transaction = Transaction::Idle;
    }
    let question = question(client, &server.state);
    let answer = server.probe(&question, &mut Vec::new()).await?;
    answered(client, &mut server.state, Some(answer));
    let left = client.left_behind(&server.state);
    if left.is_empty() {
        return Ok(());
    }
    if let Some(pin) = left.iter().find(|pin| !pin.is_discardable()) {
        return Err(Unclean::Pinned(pin.reason()));
    }
    if !server.state.can_be_discarded() {
        return Err(Unclean::Pinned("role"));
    }
    server.exchange(b"DISCARD ALL", &mut Vec::new()).await?;
    let answer = server.probe(&question, &mut Vec::new()).await?;
    server.state.cleaned(answer);
    server.state.pins.iter().next().map_or(Ok(()), |pin| Err(Unclean::Pinned(pin.reason())))
}

/// Reads and drops what the server says until it owes nothing. Cancel-safe: `flow` and `scanner` keep the place.
async fn drain(
    server: &mut Server,
    client: &mut ClientState,
    flow: &mut Flow,
    scanner: &mut Scanner,
) -> Result<(), Unclean> {
    loop {
        digest(server, client, flow, scanner)?;
        let count = flow.chunk().len();
        flow.advance(count);
        let pipeline = &server.state.pipeline;
        if pipeline.is_settled() && scanner.at_boundary() && flow.unscanned().is_empty() {
            return Ok(());
        }
        if !pipeline.is_settled() && !pipeline.will_be_ready() {
            return Err(Unclean::Waiting);
        }
        let count = server.stream.read(flow.room()).await.map_err(ExchangeError::from)?;
        if count == 0 {
            return Err(ExchangeError::Closed.into());
        }
        flow.fill(count);
    }
}

fn digest(
    server: &mut Server,
    client: &mut ClientState,
    flow: &mut Flow,
    scanner: &mut Scanner,
) -> Result<(), Unclean> {
    loop {
        let unscanned = flow.unscanned();
        match scanner.step(unscanned, flow.is_stuck()).map_err(ExchangeError::from)? {
            Step::More => return Ok(()),
            Step::Pass(count) => flow.skip(count),
            Step::Inspect { tag, total, whole } => {
                let length = total.min(unscanned.len());
                let body = unscanned.get(HEADER_BYTES..length).unwrap_or_default();
                let received = Received { frame: Frame { tag, body }, whole, total };
                if let FromServer::Broken(_) =
                    from_server(client, &mut server.state, received, &mut Vec::new())
                {
                    return Err(ExchangeError::Nonsense.into());
                }
                if !whole {
                    scanner.pass_rest(total - length);
                }
                flow.skip(length);
            }
        }
    }
}
