//! What to do with a frame from the client.

use crate::session::pin::Pin;
use crate::session::pin::Pins;
use crate::session::pipeline::Delivery;
use crate::session::pipeline::Request;
use crate::session::state::ClientState;
use crate::session::state::ServerState;
use crate::session::state::release;
use crate::session::statements;
use crate::session::verdict::FromClient;
use crate::session::verdict::Release;
use crate::sql::effect::Effect;
use crate::sql::effect::custom_settings;
use crate::sql::effect::effect;
use crate::sql::mention::mentions;
use crate::sql::signal::Meant;
use crate::sql::signal::is_signal_function;
use crate::sql::signal::rewrite_pids;
use crate::sql::signal::translated;
use crate::wire::frame::Frame;
use crate::wire::frame::HEADER_BYTES;
use crate::wire::frontend;
use crate::wire::frontend::tag;
use crate::wire::message::push_frame;
use crate::wire::scanner::Interest;
use crate::wire::scanner::all_but;

/// Copy data passes unread.
pub static INTEREST: Interest = all_but(b"");

/// Says whom a process id means, for `pg_cancel_backend`.
pub type Translate<'a> = &'a mut dyn FnMut(i64) -> Meant;

/// A frame as a peer sent it; `whole` unless it is too long, then the body is its head.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    pub frame: Frame<'a>,
    pub whole: bool,
    /// The bytes of the whole frame, its header among them.
    pub total: usize,
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

/// What to do with a frame of so many bytes of a client that holds no server.
#[must_use]
pub const fn at_rest(tag: u8, total: usize) -> AtRest {
    match tag {
        // With a body they are errors, which are PostgreSQL's to tell.
        tag::SYNC | tag::FLUSH if total > HEADER_BYTES => AtRest::NeedServer,
        tag::SYNC => AtRest::AnswerReady,
        tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => AtRest::Ignore,
        tag::TERMINATE => AtRest::End,
        _ => AtRest::NeedServer,
    }
}

/// Decides on one frame and notes what the server will owe for it. What the verdict wants sent is appended to
/// `out`, which is empty before.
pub fn from_client(
    client: &mut ClientState,
    server: &mut ServerState,
    received: Received<'_>,
    translate: Translate<'_>,
    out: &mut Vec<u8>,
) -> FromClient {
    server.touched |= server.pins.contains(Pin::Unknown) || server.has_temp_path();
    let body = received.frame.body;
    match received.frame.tag {
        tag::QUERY => query(client, server, received, translate, out),
        tag::PARSE => statements::parse(client, server, received, out),
        tag::BIND => statements::bind(client, server, received, translate, out),
        tag::DESCRIBE => statements::describe(client, server, body, out),
        tag::CLOSE => statements::close(client, server, body, out),
        tag::EXECUTE => forward(server, Request::Execute),
        tag::SYNC => forward(server, Request::Sync),
        tag::FLUSH => {
            server.pipeline.flush();
            FromClient::Forward
        }
        tag::FUNCTION_CALL => call(server, received, translate, out),
        tag::COPY_DATA => copy(server),
        tag::COPY_DONE | tag::COPY_FAIL => {
            let verdict = copy(server);
            server.pipeline.copy_ended();
            verdict
        }
        // Of other types there is none (`frontend::nonsense`).
        _ => FromClient::End,
    }
}

pub(super) fn forward(server: &mut ServerState, request: Request) -> FromClient {
    server.pipeline.push(request, Delivery::Forward);
    FromClient::Forward
}

fn copy(server: &ServerState) -> FromClient {
    if server.pipeline.reads_copy_data() { FromClient::Forward } else { FromClient::Swallow }
}

fn call(
    server: &mut ServerState,
    received: Received<'_>,
    translate: Translate<'_>,
    out: &mut Vec<u8>,
) -> FromClient {
    let body = received.frame.body;
    let signals = received.whole && frontend::function(body).is_some_and(is_signal_function);
    let rewrite = |pids: &mut dyn FnMut(i64) -> Option<i64>| frontend::rewrite_function_call(body, pids);
    let Ok(rewritten) = (if signals { translated(translate, rewrite) } else { Ok(None) }) else {
        return FromClient::Wait;
    };
    server.touched = true;
    server.disturb();
    let verdict = forward(server, Request::Call);
    let Some(body) = rewritten else { return verdict };
    push_frame(out, tag::FUNCTION_CALL, &[&body]);
    FromClient::Replace
}

fn query(
    client: &mut ClientState,
    server: &mut ServerState,
    received: Received<'_>,
    translate: Translate<'_>,
    out: &mut Vec<u8>,
) -> FromClient {
    let text = frontend::query(received.frame.body);
    let effect = match note(client, server, text, received.whole) {
        Ok(effect) => effect,
        Err(verdict) => return verdict,
    };
    let listens = server.pipeline.is_listening();
    let speaks = effect.has(Effect::STATEMENTS) && listens && received.whole && !client.is_alone();
    if speaks && statements::hangs_on_names(client, server) {
        return wait(server, out);
    }
    let dialect = server.reported.dialect();
    let signals = effect.has(Effect::SIGNALS) && received.whole;
    let rewrite = |pids: &mut dyn FnMut(i64) -> Option<i64>| rewrite_pids(text, dialect, pids);
    let Ok(rewritten) = (if signals { translated(translate, rewrite) } else { Ok(None) }) else {
        return FromClient::Wait;
    };
    let text = rewritten.as_deref().unwrap_or(text);
    let is_synced = server.pipeline.is_synced();
    let spoken = if speaks { statements::speak(client, server, text, out) } else { None };
    if is_synced && !out.is_empty() {
        // Where something of ours fails the Query would be skipped.
        push_frame(out, tag::SYNC, &[]);
        server.pipeline.push(Request::Sync, Delivery::Swallow);
    }
    if speaks {
        statements::note_deallocations(client, server, text);
    }
    if listens && effect.has(Effect::FORGETS) {
        client.names.forgetting();
    }
    let drops = listens && client.unnamed.drop_statement(server.pipeline.segment());
    let is_plain = received.whole && text.is_ascii();
    server.pipeline.push(Request::Query { drops, is_plain }, Delivery::Forward);
    match spoken.or(rewritten) {
        Some(said) => {
            push_frame(out, tag::QUERY, &[&said, b"\0"]);
            FromClient::Replace
        }
        None if out.is_empty() => FromClient::Forward,
        None => FromClient::ForwardBehind,
    }
}

/// The frame hangs on answers that are owed; they are asked for, where the server might keep them to itself.
pub(super) fn wait(server: &mut ServerState, out: &mut Vec<u8>) -> FromClient {
    if !server.pipeline.will_be_ready() && server.pipeline.flush() {
        push_frame(out, tag::FLUSH, &[]);
    }
    FromClient::Wait
}

/// Classifies a text and remembers what it may do.
pub(super) fn note(
    client: &mut ClientState,
    server: &mut ServerState,
    text: &[u8],
    whole: bool,
) -> Result<Effect, FromClient> {
    let effect = classify(client, server, text, whole)?;
    note_effect(client, server, text, effect);
    Ok(effect)
}

/// Remembers what a text may do that is run, or whose running nobody will see.
pub(super) fn note_effect(client: &mut ClientState, server: &mut ServerState, text: &[u8], effect: Effect) {
    if effect.has(Effect::CUSTOM) {
        name_custom(client, server, text);
    }
    apply(client, server, effect);
}

/// Classifies a text; or tells that this server cannot run it, or not now.
pub(super) fn classify(
    client: &mut ClientState,
    server: &ServerState,
    text: &[u8],
    whole: bool,
) -> Result<Effect, FromClient> {
    let dialect = server.reported.dialect();
    let mut effect = effect(text, dialect);
    if !whole {
        // What stands behind the part that we hold may do anything.
        effect |= Effect::UNKNOWN;
    }
    if !client.watched.is_empty() && mentions(text, dialect, &client.watched) {
        effect |= Effect::TOUCHES;
    }
    if effect.has(Effect::LOCAL) && may_choose_temp(text) {
        effect |= Effect::TOUCHES; // A table that this transaction makes there outlives it.
    }
    if effect.is_none() {
        return Ok(effect);
    }
    if effect.has(Effect::RESETS) && !client.has_name_of(server) {
        client.be_strict();
        if can_leave(client, server) {
            return Err(FromClient::Elsewhere);
        }
        if server.pipeline.is_busy() && server.pipeline.is_synced() {
            return Err(FromClient::Wait);
        }
    }
    if effect.has(Effect::SEQUENCE) {
        client.asks_sequences = server.has_strange_sequences() && can_leave(client, server);
        if client.asks_sequences {
            return Err(FromClient::Elsewhere);
        }
    }
    Ok(effect)
}

/// Whether another server would do as well: this one holds nothing of the client's and owes nothing.
fn can_leave(client: &ClientState, server: &ServerState) -> bool {
    release(client, server) == Release::Return
}

/// Whether a text that changes settings of the transaction may bring `pg_temp` into `search_path`: written out, or
/// as a parameter of `set_config`.
fn may_choose_temp(text: &[u8]) -> bool {
    let has = |word: &[u8]| text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    has(b"search_path") && (has(b"pg_temp") || has(b"set_config"))
}

/// Remembers which custom settings a text names. One that is new to the client is there afterwards, if only empty.
pub(super) fn name_custom(client: &mut ClientState, server: &mut ServerState, text: &[u8]) {
    let dialect = server.reported.dialect();
    custom_settings(text, dialect, &mut |name| server.touched |= client.name_custom(name));
}

/// Remembers what a text may do that is run now.
pub(super) fn apply(client: &mut ClientState, server: &mut ServerState, effect: Effect) {
    if effect.is_none() {
        return;
    }
    server.touched |= effect.has(Effect::TOUCHES);
    // What pins may be gone after a DROP.
    server.touched |= effect.has(Effect::DROPS) && !server.pins.is_empty();
    server.recount |= effect.has(Effect::STATEMENTS | Effect::DISCARD_ALL | Effect::OPAQUE | Effect::UNREAD);
    if effect.has(Effect::TOUCHES | Effect::LOCAL) {
        server.disturb();
    }
    server.defines |= effect.has(Effect::DDL);
    server.alters_defaults |= effect.has(Effect::ALTER_DEFAULTS);
    taint(client, effect);
    if effect.has(Effect::SEQUENCE | Effect::DISCARDS_SEQUENCES) {
        client.sequences_last = effect.has(Effect::SEQUENCE);
    }
}

/// Remembers what nobody can be asked for afterwards. A statement with a name may be run by EXECUTE, which says nothing
/// of it.
pub(super) fn taint(client: &mut ClientState, effect: Effect) {
    client.taints = client.taints.union(taints(effect));
}

/// What nobody can be asked for afterwards.
fn taints(effect: Effect) -> Pins {
    let pairs = [
        (Effect::SEQUENCE, Pin::Sequence),
        (Effect::SEED, Pin::Seed),
        (Effect::LIBRARY, Pin::Library),
        (Effect::OPAQUE, Pin::Unknown),
        (Effect::UNREAD, Pin::Unknown),
    ];
    pairs.into_iter().filter(|(bit, _)| effect.has(*bit)).map(|(_, pin)| pin).collect()
}
