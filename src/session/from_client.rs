//! What to do with a frame from the client.

use crate::session::pin::Pin;
use crate::session::pin::Pins;
use crate::session::pipeline::Delivery;
use crate::session::pipeline::Request;
use crate::session::state::ClientState;
use crate::session::state::SIGNAL_STATEMENTS_MAX;
use crate::session::state::ServerState;
use crate::session::unnamed::Lies;
use crate::session::verdict::FromClient;
use crate::sql::effect::Effect;
use crate::sql::effect::effect;
use crate::sql::signal::rewrite_pids;
use crate::wire::frame::Frame;
use crate::wire::frontend;
use crate::wire::frontend::Target;
use crate::wire::frontend::tag;
use crate::wire::message::frame;
use crate::wire::refusal::Refusal;
use crate::wire::scanner::Interest;
use crate::wire::scanner::all_but;

/// Copy data passes unread.
pub static INTEREST: Interest = all_but(b"");

/// Finds the real process id behind a virtual one, for `pg_cancel_backend`.
pub type Translate<'a> = &'a mut dyn FnMut(i64) -> Option<i64>;

/// A frame as the client sent it; `whole` unless it is too long, then the body is its head.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    pub frame: Frame<'a>,
    pub whole: bool,
}

/// What a client can say without a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtRest {
    /// ReadyForQuery, and nothing else.
    AnswerReady,
    /// It means nothing here (protocol-message-formats: stray copy data, Flush).
    Ignore,
    NeedServer,
    End,
}

/// What to do with a frame of a client that holds no server.
#[must_use]
pub const fn at_rest(tag: u8) -> AtRest {
    match tag {
        tag::SYNC => AtRest::AnswerReady,
        tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => AtRest::Ignore,
        tag::TERMINATE => AtRest::End,
        _ => AtRest::NeedServer,
    }
}

/// Decides on one frame and notes what the server will owe for it.
pub fn from_client(
    client: &mut ClientState,
    server: &mut ServerState,
    received: Received<'_>,
    translate: Translate<'_>,
) -> FromClient {
    if server.pins.contains(Pin::Unknown) {
        server.touched = true;
    }
    let body = received.frame.body;
    match received.frame.tag {
        tag::QUERY => query(client, server, received, translate),
        tag::PARSE => parse(client, server, received),
        tag::BIND => bind(client, server, received, translate),
        tag::DESCRIBE => describe(client, server, body),
        tag::CLOSE => close(client, server, body),
        tag::EXECUTE => forward(server, Request::Execute),
        tag::SYNC => forward(server, Request::Sync),
        tag::FLUSH => {
            server.pipeline.flush();
            FromClient::Forward
        }
        tag::FUNCTION_CALL => {
            server.touched = true;
            forward(server, Request::Query)
        }
        tag::COPY_DATA => copy(server),
        tag::COPY_DONE | tag::COPY_FAIL => {
            let verdict = copy(server);
            server.pipeline.copy_ended();
            verdict
        }
        tag::TERMINATE => FromClient::End,
        // The words of PostgreSQL (SocketBackend).
        other => {
            FromClient::Refuse(Refusal::fatal("08P01", &format!("invalid frontend message type {other}")))
        }
    }
}

fn forward(server: &mut ServerState, request: Request) -> FromClient {
    server.pipeline.push(request, Delivery::Forward);
    FromClient::Forward
}

fn copy(server: &ServerState) -> FromClient {
    if server.pipeline.reads_copy_data() { FromClient::Forward } else { FromClient::Swallow }
}

fn query(
    client: &mut ClientState,
    server: &mut ServerState,
    received: Received<'_>,
    translate: Translate<'_>,
) -> FromClient {
    let text = frontend::query(received.frame.body);
    let dialect = server.reported.dialect();
    let effect = note(client, server, text, received.whole);
    if !server.pipeline.is_skipping() {
        client.unnamed.drop_statement();
        server.unnamed = Lies::Nothing;
    }
    server.pipeline.push(Request::Query, Delivery::Forward);
    if effect.has(Effect::SIGNALS)
        && received.whole
        && let Some(mut text) = rewrite_pids(text, dialect, translate)
    {
        text.push(0);
        return FromClient::Replace(frame(tag::QUERY, &text));
    }
    FromClient::Forward
}

/// Classifies a text and remembers what it may do.
fn note(client: &mut ClientState, server: &mut ServerState, text: &[u8], whole: bool) -> Effect {
    let effect = effect(text, server.reported.dialect());
    apply(client, server, effect);
    if !whole {
        // What stands behind the part that we hold may do anything.
        client.taints.insert(Pin::Unknown);
        server.touched = true;
    }
    effect
}

fn apply(client: &mut ClientState, server: &mut ServerState, effect: Effect) {
    if effect.is_none() {
        return;
    }
    server.touched |= effect.has(Effect::TOUCHES);
    // What pins may be gone after a DROP.
    server.touched |= effect.has(Effect::DROPS) && !server.pins.is_empty();
    client.taints = client.taints.union(taints(effect));
}

/// What nobody can be asked for afterwards.
fn taints(effect: Effect) -> Pins {
    let pairs = [
        (Effect::SEQUENCE, Pin::Sequence),
        (Effect::SEED, Pin::Seed),
        (Effect::LIBRARY, Pin::Library),
        (Effect::CUSTOM, Pin::CustomSetting),
        (Effect::OPAQUE, Pin::Unknown),
        (Effect::UNREAD, Pin::Unknown),
    ];
    pairs.into_iter().filter(|(bit, _)| effect.has(*bit)).map(|(_, pin)| pin).collect()
}

fn parse(client: &mut ClientState, server: &mut ServerState, received: Received<'_>) -> FromClient {
    let Some((name, text)) = frontend::parse(received.frame.body) else {
        return forward(server, Request::Parse { unnamed: false });
    };
    let effect = note(client, server, text, received.whole);
    let unnamed = name.is_empty();
    if unnamed {
        if !server.pipeline.is_skipping() {
            let token = client.token();
            client.unnamed.parse(received.whole.then_some(received.frame.body), effect, token);
            server.unnamed = Lies::Unknown;
        }
    } else {
        server.touched = true; // The probe will find it.
        if effect.has(Effect::SIGNALS) {
            remember_signal(client, name);
        }
    }
    forward(server, Request::Parse { unnamed })
}

fn remember_signal(client: &mut ClientState, name: &[u8]) {
    if client.signal_statements.len() < SIGNAL_STATEMENTS_MAX {
        client.signal_statements.insert(name.to_vec());
    }
}

fn bind(
    client: &mut ClientState,
    server: &mut ServerState,
    received: Received<'_>,
    translate: Translate<'_>,
) -> FromClient {
    let Some((_, name, _)) = frontend::bind(received.frame.body) else {
        return forward(server, Request::Bind);
    };
    let before = ensure_statement(client, server, name);
    let signals = if name.is_empty() {
        client.unnamed.bound().is_some_and(|statement| statement.effect.has(Effect::SIGNALS))
    } else {
        client.signal_statements.contains(name)
    };
    server.pipeline.push(Request::Bind, Delivery::Forward);
    let rewritten =
        (signals && received.whole).then(|| frontend::rewrite_bind(received.frame.body, translate));
    match (before, rewritten.flatten()) {
        (None, None) => FromClient::Forward,
        (Some(before), None) => FromClient::ForwardBehind(before),
        (before, Some(body)) => {
            FromClient::Replace([before.unwrap_or_default(), frame(tag::BIND, &body)].concat())
        }
    }
}

fn describe(client: &mut ClientState, server: &mut ServerState, body: &[u8]) -> FromClient {
    let before = match frontend::target(body) {
        Some(Target::Statement(name)) => ensure_statement(client, server, name),
        Some(Target::Portal(_)) | None => None,
    };
    server.pipeline.push(Request::Describe, Delivery::Forward);
    before.map_or(FromClient::Forward, FromClient::ForwardBehind)
}

/// Makes sure that the unnamed statement of this server is this client's: what must be sent before it is used.
fn ensure_statement(client: &mut ClientState, server: &mut ServerState, name: &[u8]) -> Option<Vec<u8>> {
    if !name.is_empty() || client.unnamed.is_under_way() || server.pipeline.is_skipping() {
        if let Some(statement) = client.unnamed.bound().filter(|_| name.is_empty()) {
            let effect = statement.effect;
            apply(client, server, effect);
        }
        return None;
    }
    let Some(statement) = client.unnamed.bound() else {
        return forget_foreign(server);
    };
    let (effect, token, again) = (statement.effect, statement.token, statement.frame.clone());
    apply(client, server, effect);
    if server.unnamed == Lies::Statement(token) {
        return None;
    }
    server.pipeline.push(Request::Parse { unnamed: false }, Delivery::Swallow);
    server.unnamed = Lies::Statement(token);
    again
}

/// The client has no unnamed statement: it must not find that of another.
fn forget_foreign(server: &mut ServerState) -> Option<Vec<u8>> {
    if server.unnamed == Lies::Nothing {
        return None;
    }
    server.unnamed = Lies::Nothing;
    server.pipeline.push(Request::Close, Delivery::Swallow);
    Some(frame(tag::CLOSE, b"S\0"))
}

fn close(client: &mut ClientState, server: &mut ServerState, body: &[u8]) -> FromClient {
    if let Some(Target::Statement(name)) = frontend::target(body)
        && !server.pipeline.is_skipping()
    {
        if name.is_empty() {
            client.unnamed.drop_statement();
            server.unnamed = Lies::Nothing;
        } else {
            client.signal_statements.remove(name);
            server.touched = true; // The probe will see whether it was the last.
        }
    }
    forward(server, Request::Close)
}
