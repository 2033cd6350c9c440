//! What to do with a frame from the server.

use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;

use crate::session::from_client::Received;
use crate::session::pin::Pin;
use crate::session::pipeline::Delivery;
use crate::session::pipeline::Expected;
use crate::session::pipeline::Of;
use crate::session::pipeline::Request;
use crate::session::prepared::undisguised;
use crate::session::state::ClientState;
use crate::session::state::ServerState;
use crate::session::transaction::Transaction;
use crate::session::unnamed::Lies;
use crate::session::verdict::FromServer;
use crate::wire::backend::parameter_status;
use crate::wire::backend::row_description;
use crate::wire::backend::tag;
use crate::wire::frontend::cstring;
use crate::wire::message::push_frame;
use crate::wire::refusal::Refusal;
use crate::wire::refusal::Severity;
use crate::wire::refusal::field;
use crate::wire::scanner::Interest;
use crate::wire::scanner::all_but;

/// Rows and copy data pass unread.
pub static INTEREST: Interest = all_but(b"Ddc");

/// The errors that may name a prepared statement (prepare.c, and `exec_bind_message`).
const OF_STATEMENTS: [&str; 4] = ["26000", "42P05", "08P01", "42601"];

/// Decides on one frame. What the verdict wants sent is appended to `out`, which is empty before.
pub fn from_server(
    client: &mut ClientState,
    server: &mut ServerState,
    received: Received<'_>,
    out: &mut Vec<u8>,
) -> FromServer {
    let body = received.frame.body;
    if !matches!(
        received.frame.tag,
        tag::READY_FOR_QUERY | tag::ERROR | tag::NOTICE | tag::NOTIFICATION | tag::PARAMETER_STATUS
    ) {
        server.pipeline.answers();
    }
    match received.frame.tag {
        tag::READY_FOR_QUERY => ready(client, server, body),
        tag::ERROR => failed(client, server, received, out),
        tag::PARSE_COMPLETE => parse_complete(client, server),
        tag::COMMAND_COMPLETE => {
            note_command(client, server, body);
            finish(server, |request| request == Request::Execute)
        }
        tag::EMPTY_QUERY | tag::PORTAL_SUSPENDED => finish(server, |request| request == Request::Execute),
        tag::BIND_COMPLETE => finish(server, |request| matches!(request, Request::Bind { .. })),
        tag::CLOSE_COMPLETE => close_complete(client, server),
        tag::PARAMETER_DESCRIPTION => match server.pipeline.head() {
            Some(Expected { request: Request::Describe(_), delivery: Delivery::Swallow }) => {
                FromServer::Swallow
            }
            _ => FromServer::Forward,
        },
        tag::ROW_DESCRIPTION | tag::NO_DATA => {
            note_columns(client, server, body);
            finish(server, |request| matches!(request, Request::Describe(_)))
        }
        tag::COPY_IN | tag::COPY_BOTH => match server.pipeline.head().map(|head| head.request) {
            Some(Request::Query { .. } | Request::Execute) => {
                server.pipeline.copy_in();
                FromServer::Forward
            }
            _ => FromServer::Broken("a COPY that nobody asked for"),
        },
        // Before PostgreSQL 14 each change is reported as it is made.
        tag::PARAMETER_STATUS if is_lent(server) => FromServer::Swallow,
        tag::PARAMETER_STATUS => {
            note_parameter(client, server, body);
            FromServer::Forward
        }
        tag::NOTIFICATION => FromServer::Notification,
        tag::NOTICE if is_ours(server) => FromServer::Swallow,
        tag::COPY_OUT | tag::NOTICE | tag::FUNCTION_CALL => FromServer::Forward,
        _ => FromServer::Broken("a message of a type that has no place here"),
    }
}

fn ready(client: &mut ClientState, server: &mut ServerState, body: &[u8]) -> FromServer {
    let Some(status) = body.first().and_then(|&status| Transaction::from_status(status)) else {
        return FromServer::Broken("a ReadyForQuery without a status");
    };
    server.transaction = status;
    if server.pipeline.is_unsure() {
        // What was taken to be skipped may have been done.
        (server.touched, server.recount) = (true, true);
    }
    let Some(ended) = server.pipeline.ready() else {
        return FromServer::Broken("a ReadyForQuery that nobody is owed");
    };
    if let Request::Query { drops, .. } = ended.request {
        server.pipeline.is_told = false;
        server.unnamed = if drops { client.unnamed.confirmed() } else { Lies::Nothing };
    }
    if client.names.are_deallocated() {
        client.names.answered_before(server.pipeline.answering());
    }
    if !server.pipeline.is_busy() {
        client.names.settled();
        server.prepared.settled();
    }
    if server.is_idle() && !server.touched {
        server.settle();
    }
    match ended.delivery {
        Delivery::Forward => FromServer::ForwardReady,
        Delivery::Swallow => FromServer::Swallow,
    }
}

fn failed(
    client: &mut ClientState,
    server: &mut ServerState,
    received: Received<'_>,
    out: &mut Vec<u8>,
) -> FromServer {
    let body = received.frame.body;
    if server.pipeline.is_told {
        return FromServer::Swallow;
    }
    let is_unread = is_unread(client, server, field(body, b'C'));
    if is_unread && server.pipeline.unread() == Some(true) {
        client.unnamed.swept(1, false);
        server.unnamed = Lies::Unknown; // It may have been read, after all.
    }
    let swept = server.pipeline.failed();
    sweep(client, server, &swept, is_unread);
    // It is the client's Query that fails, though it was the Parse before it.
    server.pipeline.is_told = !swept.is_empty() && is_ours(server);
    let fails = swept.first().map(|expected| expected.request);
    if fails == Some(Request::Misfit) && field(body, b'C') == Some("26000") {
        out.extend_from_slice(&misfit().frame());
        return FromServer::ReplaceError;
    }
    let bound = match fails {
        Some(Request::Bind { id, name }) => Some((id, name)),
        _ => None,
    };
    let name = |id| {
        let number = bound.filter(|(own, _)| *own == id).map_or(0, |(_, name)| name);
        client.names.name_of(number, server.prepared.text(id).map(|text| &**text))
    };
    let names = field(body, b'C').is_some_and(|sqlstate| OF_STATEMENTS.contains(&sqlstate));
    let reads = names && received.whole && !client.is_alone();
    let read = if reads { undisguised(body, name) } else { None };
    // The plan's columns have changed (RevalidateCachedQuery): the client's next try is prepared anew.
    if let Some((id, _)) = bound
        && field(body, b'C') == Some("0A000")
        && id > 0
    {
        server.prepared.outdated(id);
    }
    read.map_or(FromServer::ForwardError, |read| {
        push_frame(out, tag::ERROR, &[&read]);
        FromServer::ReplaceError
    })
}

/// The words of PostgreSQL, but for the number of a line, which its next version changes.
fn misfit() -> Refusal {
    let refusal = Refusal::new(Severity::Error, "0A000", "cached plan must not change result type");
    refusal.said_by("plancache.c", "RevalidateCachedQuery")
}

/// Whether what fails may be a message that PostgreSQL could not read, and has not begun to act on (`pq_getmsgstring`,
/// `pq_getmsgend`): in its encoding, or at all.
fn is_unread(client: &ClientState, server: &ServerState, sqlstate: Option<&str>) -> bool {
    let is_plain = match server.pipeline.head().map(|head| head.request) {
        Some(Request::Query { is_plain, .. }) => is_plain,
        Some(Request::Parse(Of::Unnamed)) => client.unnamed.is_plain(),
        _ => return false,
    };
    sqlstate == Some("08P01") || (!is_plain && matches!(sqlstate, Some("22021" | "22P05")))
}

/// Takes back what was noted for messages that the server has skipped. The first of them is what failed, perhaps because it
/// `is_unread`.
fn sweep(client: &mut ClientState, server: &mut ServerState, swept: &[Expected], is_unread: bool) {
    let Some(first) = swept.first() else { return };
    let fails = |of| first.request == Request::Parse(of);
    let (mut names, mut unnamed) = (0, 0);
    for expected in swept {
        match expected.request {
            Request::Parse(Of::Named(id)) => {
                names += 1;
                server.prepared.swept(id);
            }
            Request::Parse(Of::Ours(id)) => server.prepared.swept(id),
            Request::Close(Of::Ours(id)) if id > 0 => server.prepared.doom(id),
            Request::Close(Of::Named(_)) => names += 1,
            Request::Close(Of::Plain) => server.prepared.strays_stay(),
            Request::Parse(Of::Unnamed)
            | Request::Close(Of::Unnamed)
            | Request::Query { drops: true, .. } => unnamed += 1,
            Request::Describe(id) => server.prepared.not_described(id),
            Request::Parse(Of::Plain)
            | Request::Close(Of::Ours(_))
            | Request::Bind { .. }
            | Request::Misfit
            | Request::Execute
            | Request::Query { drops: false, .. }
            | Request::Call
            | Request::CopyEnd
            | Request::Sync => {}
        }
    }
    client.names.swept(names);
    client.unnamed.swept(unnamed, fails(Of::Unnamed) && !is_unread);
    let is_ours = |of| matches!(of, Request::Parse(Of::Ours(0)) | Request::Close(Of::Ours(0)));
    if swept.iter().any(|expected| is_ours(expected.request)) {
        server.unnamed_sent_in = None;
    }
    if (fails(Of::Unnamed) && !is_unread) || fails(Of::Ours(0)) {
        server.unnamed = Lies::Nothing;
    } else if fails(Of::Unnamed) || swept.iter().any(|expected| is_ours(expected.request)) {
        server.unnamed = Lies::Unknown;
    }
}

fn parse_complete(client: &mut ClientState, server: &mut ServerState) -> FromServer {
    match server.pipeline.head().map(|head| head.request) {
        Some(Request::Parse(Of::Unnamed)) => server.unnamed = client.unnamed.confirmed(),
        Some(Request::Parse(Of::Named(id))) => {
            client.names.confirmed();
            server.prepared.confirmed(id);
        }
        Some(Request::Parse(Of::Ours(0))) => server.unnamed_sent_in = None,
        Some(Request::Parse(Of::Ours(id))) => server.prepared.confirmed(id),
        _ => {}
    }
    finish(server, |request| matches!(request, Request::Parse(_)))
}

fn close_complete(client: &mut ClientState, server: &mut ServerState) -> FromServer {
    match server.pipeline.head().map(|head| head.request) {
        Some(Request::Close(Of::Unnamed)) => server.unnamed = client.unnamed.confirmed(),
        Some(Request::Close(Of::Ours(0))) => server.unnamed_sent_in = None,
        Some(Request::Close(Of::Named(_))) => client.names.confirmed(),
        _ => {}
    }
    finish(server, |request| matches!(request, Request::Close(_)))
}

/// Whether what the server does now is our wish: the client had its notices when it prepared the statement.
fn is_ours(server: &ServerState) -> bool {
    server.pipeline.head().is_some_and(|head| head.delivery == Delivery::Swallow)
}

/// Whether what the server does now lends settings, or gives them back.
fn is_lent(server: &ServerState) -> bool {
    let lends = Expected { request: Request::Execute, delivery: Delivery::Swallow };
    server.pipeline.head() == Some(lends)
}

/// The columns of a statement of ours, where that is what is told: a client that asked will rely on them.
fn note_columns(client: &ClientState, server: &mut ServerState, body: &[u8]) {
    let Some(Expected { request: Request::Describe(id @ 1..), delivery }) = server.pipeline.head() else {
        return;
    };
    let mut hasher = DefaultHasher::new();
    row_description(body).for_each(|column| column.hash(&mut hasher));
    let columns = hasher.finish();
    if let Some(schema) = server.prepared.described(id, columns)
        && delivery == Delivery::Forward
        && let Some(text) = server.prepared.text(id)
    {
        client.names.described(text, schema, columns);
    }
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
fn note_command(client: &mut ClientState, server: &mut ServerState, body: &[u8]) {
    match cstring(body).map(|(tag, _)| tag) {
        Some(b"DISCARD ALL") => {
            forget_sequences(client, server);
            forget_statements(client, server);
        }
        Some(b"DISCARD PLANS") => {
            client.names.unanalysed();
            server.prepared.forget_constants();
        }
        Some(b"DISCARD SEQUENCES") => forget_sequences(client, server),
        Some(b"DEALLOCATE ALL") => forget_statements(client, server),
        Some(b"DEALLOCATE") => client.names.deallocated(),
        _ => {}
    }
}

/// Where something was sent behind this that may use a sequence, the client stays pinned.
fn forget_sequences(client: &mut ClientState, server: &ServerState) {
    if server.pipeline.is_at_the_last() && !client.sequences_last {
        client.taints.remove(Pin::Sequence);
    }
}

fn forget_statements(client: &mut ClientState, server: &mut ServerState) {
    client.signal_statements.clear();
    client.names.clear();
    server.prepared.clear();
}

/// A setting that reports itself was changed: by the client's doing, for all we know.
fn note_parameter(client: &mut ClientState, server: &mut ServerState, body: &[u8]) {
    if let Some((name, value)) = parameter_status(body) {
        server.reported.set(name, value);
        client.told.set(name, value);
        server.touched = true;
        server.disturb();
    }
}
