//! What to do with a frame from the server.

use crate::session::pin::Pin;
use crate::session::pipeline::Delivery;
use crate::session::pipeline::Request;
use crate::session::state::ClientState;
use crate::session::state::ServerState;
use crate::session::transaction::Transaction;
use crate::session::unnamed::Lies;
use crate::session::verdict::FromServer;
use crate::wire::backend::parameter_status;
use crate::wire::backend::tag;
use crate::wire::frame::Frame;
use crate::wire::frontend::cstring;
use crate::wire::scanner::Interest;
use crate::wire::scanner::all_but;

/// Rows, copy data and what precedes the answer to a Describe pass unread.
pub static INTEREST: Interest = all_but(b"Ddct");

/// Decides on one frame.
pub fn from_server(client: &mut ClientState, server: &mut ServerState, frame: Frame<'_>) -> FromServer {
    match frame.tag {
        tag::READY_FOR_QUERY => ready(server, frame.body),
        tag::ERROR => {
            failed(client, server);
            FromServer::ForwardError
        }
        tag::PARSE_COMPLETE => parse_complete(client, server),
        tag::COMMAND_COMPLETE => {
            note_command(client, frame.body);
            finish(server, |request| request == Request::Execute)
        }
        tag::EMPTY_QUERY | tag::PORTAL_SUSPENDED => finish(server, |request| request == Request::Execute),
        tag::BIND_COMPLETE => finish(server, |request| request == Request::Bind),
        tag::CLOSE_COMPLETE => finish(server, |request| request == Request::Close),
        tag::ROW_DESCRIPTION | tag::NO_DATA => finish(server, |request| request == Request::Describe),
        tag::COPY_IN | tag::COPY_BOTH => {
            server.pipeline.copy_in();
            FromServer::Forward
        }
        tag::PARAMETER_STATUS => {
            note_parameter(server, frame.body);
            FromServer::Forward
        }
        tag::COPY_OUT | tag::NOTICE | tag::NOTIFICATION | tag::FUNCTION_CALL => FromServer::Forward,
        _ => FromServer::Broken("a message of a type that has no place here"),
    }
}

fn ready(server: &mut ServerState, body: &[u8]) -> FromServer {
    let Some(status) = body.first().and_then(|&status| Transaction::from_status(status)) else {
        return FromServer::Broken("a ReadyForQuery without a status");
    };
    server.transaction = status;
    if server.pipeline.ready() {
        FromServer::ForwardReady
    } else {
        FromServer::Broken("a ReadyForQuery that nobody is owed")
    }
}

fn failed(client: &mut ClientState, server: &mut ServerState) {
    let swept = server.pipeline.failed();
    client.unnamed.swept(swept.unnamed_parses, swept.failed_unnamed);
    if swept.failed_unnamed {
        server.unnamed = Lies::Nothing;
    } else if swept.parses {
        server.unnamed = Lies::Unknown;
    }
}

fn parse_complete(client: &mut ClientState, server: &mut ServerState) -> FromServer {
    if let Some(head) = server.pipeline.head()
        && head.request == (Request::Parse { unnamed: true })
    {
        server.unnamed = client.unnamed.complete();
    }
    finish(server, |request| matches!(request, Request::Parse { .. }))
}

/// Pops the head where it is what this reply answers; inside a simple Query nothing is popped.
fn finish(server: &mut ServerState, answers: impl Fn(Request) -> bool) -> FromServer {
    match server.pipeline.head() {
        Some(head) if answers(head.request) => {
            server.pipeline.pop();
            match head.delivery {
                Delivery::Forward => FromServer::Forward,
                Delivery::Swallow => FromServer::Swallow,
            }
        }
        _ => FromServer::Forward,
    }
}

/// What CommandComplete confirms (a text alone could have failed).
fn note_command(client: &mut ClientState, body: &[u8]) {
    match cstring(body).map(|(tag, _)| tag) {
        Some(b"DISCARD ALL") => {
            client.taints.remove(Pin::Sequence);
            client.signal_statements.clear();
        }
        Some(b"DISCARD SEQUENCES") => client.taints.remove(Pin::Sequence),
        Some(b"DEALLOCATE ALL") => client.signal_statements.clear(),
        _ => {}
    }
}

/// A setting that reports itself was changed: by the client's doing, for all we know.
fn note_parameter(server: &mut ServerState, body: &[u8]) {
    if let Some((name, value)) = parameter_status(body) {
        server.reported.set(name, value);
        server.touched = true;
    }
}
