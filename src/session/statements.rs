//! What to do with a client's Parse, Bind, Describe and Close. Its names for statements are its own: a server has
//! what they stand for under names of ours, prepared when they are needed there.

use std::sync::Arc;

use crate::session::from_client::Received;
use crate::session::from_client::Translate;
use crate::session::from_client::apply;
use crate::session::from_client::classify;
use crate::session::from_client::forward;
use crate::session::from_client::name_custom;
use crate::session::from_client::note;
use crate::session::from_client::note_effect;
use crate::session::from_client::taint;
use crate::session::from_client::wait;
use crate::session::names::Text;
use crate::session::pipeline::Delivery;
use crate::session::pipeline::Of;
use crate::session::pipeline::Request;
use crate::session::prepared::Fits;
use crate::session::prepared::Found;
use crate::session::prepared::PREFIX;
use crate::session::prepared::ServerName;
use crate::session::prepared::disguised;
use crate::session::prepared::push_close;
use crate::session::prepared::push_parse;
use crate::session::reading::give_back;
use crate::session::reading::lend;
use crate::session::reported::READ_BY;
use crate::session::reported::SCANNED_BY;
use crate::session::stand_in::Choice;
use crate::session::stand_in::Wanted;
use crate::session::stand_in::choose;
use crate::session::state::ClientState;
use crate::session::state::SIGNAL_STATEMENTS_MAX;
use crate::session::state::ServerState;
use crate::session::transaction::Transaction;
use crate::session::unnamed::Lies;
use crate::session::verdict::FromClient;
use crate::sql::constants::has_constants;
use crate::sql::effect::Effect;
use crate::sql::names::Mention;
use crate::sql::names::rewrite_names;
use crate::sql::signal::Meant;
use crate::sql::signal::NotYet;
use crate::sql::signal::is_virtual;
use crate::sql::signal::rewrite_pids;
use crate::sql::signal::translated;
use crate::wire::frame::HEADER_BYTES;
use crate::wire::frontend;
use crate::wire::frontend::Target;
use crate::wire::frontend::tag;
use crate::wire::message::push_frame;
use crate::wire::message::push_head;

/// Where a statement comes from that a Bind or Describe names.
enum Statement {
    /// The server has it, or says that it has not, under the name that the client used.
    AsNamed(Effect),
    /// The server has it under the name of ours with this number.
    Ours(u32, Effect),
    /// A name that looks like one of ours.
    Disguised(Vec<u8>),
    Unsure,
}

/// What the server is to read instead of the client's name.
enum Renamed {
    Ours(ServerName),
    Disguised(Vec<u8>),
}

impl Renamed {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Ours(name) => name.as_bytes(),
            Self::Disguised(name) => name,
        }
    }
}

/// The server acts on nothing that is sent now, so nothing changes.
pub(super) fn is_deaf(server: &ServerState) -> bool {
    !server.pipeline.is_listening()
}

pub(super) fn parse(
    client: &mut ClientState,
    server: &mut ServerState,
    received: Received<'_>,
    out: &mut Vec<u8>,
) -> FromClient {
    let Some((name, text)) = frontend::parse(received.frame.body) else {
        return forward(server, Request::Parse(Of::Plain));
    };
    if is_deaf(server) {
        return forward(server, Request::Parse(Of::Plain));
    }
    if client.is_alone() {
        let effect = note(client, server, text, received.whole).unwrap_or_default();
        note_signals(client, name, effect);
        return forward(server, Request::Parse(Of::Plain));
    }
    if name.is_empty() {
        parse_unnamed(client, server, received, text, out)
    } else {
        parse_named(client, server, received, (name, text), out)
    }
}

fn parse_unnamed(
    client: &mut ClientState,
    server: &mut ServerState,
    received: Received<'_>,
    text: &[u8],
    out: &mut Vec<u8>,
) -> FromClient {
    let effect = match note(client, server, text, received.whole) {
        Ok(effect) => effect,
        Err(verdict) => return verdict,
    };
    if effect.has(Effect::STATEMENTS) && hangs_on_names(client, server) {
        return wait(server, out);
    }
    let token = client.token();
    let body = received.whole.then_some(received.frame.body);
    client.unnamed.parse(server.pipeline.segment(), body, effect, token);
    let spoken = if effect.has(Effect::STATEMENTS) { speak(client, server, text, out) } else { None };
    server.pipeline.push(Request::Parse(Of::Unnamed), Delivery::Forward);
    let Some(spoken) = spoken else { return behind(out) };
    let types = received.frame.body.get(1 + text.len()..).unwrap_or_default();
    push_frame(out, tag::PARSE, &[b"\0", &spoken, types]);
    FromClient::Replace
}

fn parse_named(
    client: &mut ClientState,
    server: &mut ServerState,
    received: Received<'_>,
    (name, text): (&[u8], &[u8]),
    out: &mut Vec<u8>,
) -> FromClient {
    let segment = server.pipeline.segment();
    if is_unsure(client, server, name) {
        return wait(server, out);
    }
    let effect = match classify(client, server, text, received.whole) {
        Ok(effect) => effect,
        Err(verdict) => return verdict,
    };
    let has_constants = has_constants(text, server.reported.dialect());
    let is_late = has_constants && server.is_reported_late();
    if is_late && !server.pipeline.is_unsynced() {
        return wait(server, out);
    }
    taint(client, effect);
    if effect.has(Effect::CUSTOM) {
        name_custom(client, server, text);
    }
    let behind_name = received.frame.body.get(name.len() + 1..).unwrap_or_default();
    if client.names.get(name).is_some() {
        // 42P05 is PostgreSQL's to say, in its own words and with all that follows: it gets a reason to.
        let taken = prepare_as_named(server, name, NOTHING, out);
        server.pipeline.push(Request::Parse(Of::Plain), Delivery::Forward);
        push_head(out, tag::PARSE, received.total - HEADER_BYTES - name.len() + taken.len());
        out.extend_from_slice(&taken);
        return FromClient::ReplaceHead(HEADER_BYTES + name.len());
    }
    // What is no name in the client's encoding is PostgreSQL's to refuse.
    let is_known_by_name = server.prepared.is_foreign(name) || !name.is_ascii();
    if is_known_by_name || !received.whole || client.names.is_full(behind_name.len()) {
        note_effect(client, server, text, effect);
        return pass_named(client, server, name, effect, (received.total, out));
    }
    let context = server.contexts().0;
    // Behind what sets something in the same batch nobody knows by what they are read.
    let reading = (has_constants && !is_late).then(|| server.reported.clone());
    let text = Text::new(behind_name, effect).under(server.schema()).within(context);
    let text = Arc::new(text.read_by(reading, server.parameters().path()));
    let id = server.prepared.add(text.clone(), context, segment);
    client.names.change(segment, name, Some(text));
    close_doomed(server, out);
    server.pipeline.push(Request::Parse(Of::Named(id)), Delivery::Forward);
    let server_name = ServerName::of(id);
    push_head(out, tag::PARSE, received.total - HEADER_BYTES - name.len() + server_name.as_bytes().len());
    out.extend_from_slice(server_name.as_bytes());
    FromClient::ReplaceHead(HEADER_BYTES + name.len())
}

/// The statement lies on the server under the client's own name; the probe will find it, and it pins.
fn pass_named(
    client: &mut ClientState,
    server: &mut ServerState,
    name: &[u8],
    effect: Effect,
    (total, out): (usize, &mut Vec<u8>),
) -> FromClient {
    server.touched = true;
    drop_stray(server, name, out);
    server.prepared.is_made(name);
    note_signals(client, name, effect);
    server.pipeline.push(Request::Parse(Of::Plain), Delivery::Forward);
    let Some(new_name) = disguised(name) else { return behind(out) };
    push_head(out, tag::PARSE, total - HEADER_BYTES - name.len() + new_name.len());
    out.extend_from_slice(&new_name);
    FromClient::ReplaceHead(HEADER_BYTES + name.len())
}

/// A statement lies on the server under this name.
fn note_signals(client: &mut ClientState, name: &[u8], effect: Effect) {
    if name.is_empty() {
        client.signal_statements.remove(name); // It takes the place of the one before.
    }
    if effect.has(Effect::SIGNALS) && client.signal_statements.len() < SIGNAL_STATEMENTS_MAX {
        client.signal_statements.insert(name.to_vec());
    }
}

pub(super) fn bind(
    client: &mut ClientState,
    server: &mut ServerState,
    received: Received<'_>,
    translate: Translate<'_>,
    out: &mut Vec<u8>,
) -> FromClient {
    let body = received.frame.body;
    let Some((portal, name, rest)) = frontend::bind(body) else {
        return forward(server, Request::Bind { id: 0, name: 0 });
    };
    if is_deaf(server) {
        return forward(server, Request::Bind { id: 0, name: 0 });
    }
    let signals = received.whole && signals(client, name);
    let rewrite = |pids: &mut dyn FnMut(i64) -> Option<i64>| frontend::rewrite_bind(body, pids);
    let Ok(rewritten) = (if signals { translated(translate, rewrite) } else { Ok(None) }) else {
        return FromClient::Wait;
    };
    let Ok(text) = (if signals { unnamed_in_pids(client, server, name, translate) } else { Ok(None) }) else {
        return FromClient::Wait;
    };
    let mut request = Request::Bind { id: 0, name: client.names.number(name) };
    let wanted = Wanted::bind(rest);
    let (new_name, effect) = match find(client, server, name, wanted, out) {
        Statement::Unsure => return wait(server, out),
        Statement::AsNamed(effect) => (None, effect),
        Statement::Ours(id, effect) => match fits(client, server, name, id) {
            Fits::Yes => {
                take(client, server, name, effect);
                request = Request::Bind { id, name: client.names.number(name) };
                (Some(Renamed::Ours(ServerName::of(id))), effect)
            }
            Fits::No => {
                request = Request::Misfit;
                // A name that no statement has.
                (Some(Renamed::Disguised(PREFIX.into())), Effect::NONE)
            }
            Fits::Wait => return wait(server, out),
            Fits::Ask => return ask_for_columns(server, id, out),
        },
        Statement::Disguised(name) => (Some(Renamed::Disguised(name)), Effect::NONE),
    };
    let new_name = new_name.as_ref().map(Renamed::as_bytes);
    if effect.has(Effect::STATEMENTS) {
        note_deallocate(client, server, name);
    }
    // Of one that lies there by the client's own name nothing is known any more.
    let is_own = new_name.is_none() && !name.is_empty() && !client.is_alone();
    if effect.has(Effect::FORGETS) || is_own {
        client.names.forgetting();
    }
    if let Some(text) = text {
        push_unnamed(client, server, &text, out);
    }
    server.pipeline.push(request, Delivery::Forward);
    let names = portal.len() + name.len() + 2;
    if let Some(body) = rewritten {
        let rest = body.get(names..).unwrap_or_default();
        push_frame(out, tag::BIND, &[portal, b"\0", new_name.unwrap_or(name), b"\0", rest]);
        return FromClient::Replace;
    }
    let Some(new_name) = new_name else { return behind(out) };
    push_head(out, tag::BIND, received.total - HEADER_BYTES - name.len() + new_name.len());
    for part in [portal, b"\0", new_name, b"\0"] {
        out.extend_from_slice(part);
    }
    FromClient::ReplaceHead(HEADER_BYTES + names)
}

/// Whether a statement that is bound may name process ids of ours. What hangs on an earlier batch is asked again.
fn signals(client: &ClientState, name: &[u8]) -> bool {
    let effect = if name.is_empty() {
        client.unnamed.bound().map(|statement| statement.effect)
    } else {
        client.names.get(name).map(|text| text.effect)
    };
    effect.is_some_and(|effect| effect.has(Effect::SIGNALS)) || client.signal_statements.contains(name)
}

/// The text of the client's unnamed statement as it must be read now, where it names process ids of ours: they mean
/// other servers than they did when it was parsed.
fn unnamed_in_pids(
    client: &ClientState,
    server: &ServerState,
    name: &[u8],
    translate: Translate<'_>,
) -> Result<Option<Vec<u8>>, NotYet> {
    let statement = client.unnamed.bound().filter(|_| name.is_empty());
    let body = statement.and_then(|statement| statement.body.as_deref()).unwrap_or_default();
    let (_, text) = frontend::parse(body).unwrap_or_default();
    // One whose client is gone by now is written out as well: the server may hold the text with its old meaning.
    let mut translate = |pid| match translate(pid) {
        Meant::Itself if is_virtual(pid) => Meant::Backend(pid),
        meant @ (Meant::Itself | Meant::Backend(_) | Meant::Soon) => meant,
    };
    translated(&mut translate, |pids| rewrite_pids(text, server.reported.dialect(), pids))
}

/// Parses the client's unnamed statement again, with this text.
fn push_unnamed(client: &ClientState, server: &mut ServerState, text: &[u8], out: &mut Vec<u8>) {
    let body = client.unnamed.bound().and_then(|statement| statement.body.as_deref()).unwrap_or_default();
    let (_, old) = frontend::parse(body).unwrap_or_default();
    push_frame(out, tag::PARSE, &[b"\0", text, body.get(1 + old.len()..).unwrap_or_default()]);
    server.pipeline.push(Request::Parse(Of::Ours(0)), Delivery::Swallow);
    server.unnamed = Lies::Unknown;
}

pub(super) fn describe(
    client: &mut ClientState,
    server: &mut ServerState,
    body: &[u8],
    out: &mut Vec<u8>,
) -> FromClient {
    let Some(Target::Statement(name)) = frontend::target(body).filter(|_| !is_deaf(server)) else {
        return forward(server, Request::Describe(0));
    };
    let (id, new_name) = match find(client, server, name, Some(Wanted::Describe), out) {
        Statement::Unsure => return wait(server, out),
        Statement::AsNamed(_) => (0, None),
        Statement::Ours(id, effect) => {
            take(client, server, name, effect);
            (id, Some(Renamed::Ours(ServerName::of(id))))
        }
        Statement::Disguised(name) => (0, Some(Renamed::Disguised(name))),
    };
    server.pipeline.push(Request::Describe(id), Delivery::Forward);
    let Some(new_name) = new_name else { return behind(out) };
    push_frame(out, tag::DESCRIBE, &[b"S", new_name.as_bytes(), b"\0"]);
    FromClient::Replace
}

pub(super) fn close(
    client: &mut ClientState,
    server: &mut ServerState,
    body: &[u8],
    out: &mut Vec<u8>,
) -> FromClient {
    let Some(Target::Statement(name)) = frontend::target(body).filter(|_| !is_deaf(server)) else {
        return forward(server, Request::Close(Of::Plain));
    };
    if client.is_alone() {
        client.signal_statements.remove(name);
        return forward(server, Request::Close(Of::Plain));
    }
    let segment = server.pipeline.segment();
    if name.is_empty() {
        let drops = client.unnamed.drop_statement(segment);
        if !drops && server.unnamed != Lies::Nothing {
            server.unnamed = Lies::Unknown; // That of another is gone, unless this is skipped.
        }
        return forward(server, Request::Close(if drops { Of::Unnamed } else { Of::Plain }));
    }
    if is_unsure(client, server, name) {
        return wait(server, out);
    }
    let unknown = client.names.get(name).is_none();
    if unknown && disguised(name).is_none() {
        client.signal_statements.remove(name);
        server.touched |= !server.pins.is_empty(); // The probe will see whether it was the last.
        return forward(server, Request::Close(Of::Plain));
    }
    if !unknown {
        client.names.change(segment, name, None);
    }
    server.pipeline.push(Request::Close(if unknown { Of::Plain } else { Of::Named(0) }), Delivery::Forward);
    let own = disguised(name).unwrap_or_else(|| name.to_vec());
    // What it stands for stays prepared, for the next who needs it. Closing what is not there is no error.
    let lies_there = unknown || server.prepared.is_stray(&own);
    push_close(out, if lies_there { &own } else { PREFIX.as_bytes() });
    FromClient::Replace
}

/// Makes sure that the server has the statement that the client calls `name`, or one that does for what is `wanted`; what
/// must be sent for that goes into `out`.
fn find(
    client: &mut ClientState,
    server: &mut ServerState,
    name: &[u8],
    wanted: Option<Wanted>,
    out: &mut Vec<u8>,
) -> Statement {
    if client.is_alone() {
        return Statement::AsNamed(Effect::NONE);
    }
    let segment = server.pipeline.segment();
    if name.is_empty() {
        let is_under_way = server.unnamed_sent_in.is_some_and(|sent_in| sent_in < segment);
        let speaks = client.unnamed.bound().is_some_and(|bound| bound.effect.has(Effect::STATEMENTS));
        let hangs = speaks && hangs_on_names(client, server);
        if client.unnamed.is_unsure(segment) || is_under_way || hangs {
            return Statement::Unsure;
        }
        let effect = find_unnamed(client, server, wanted, out);
        return effect.map_or(Statement::Unsure, Statement::AsNamed);
    }
    if is_unsure(client, server, name) {
        return Statement::Unsure;
    }
    let Some(text) = client.names.get(name).cloned() else {
        drop_stray(server, name, out);
        return disguised(name).map_or(Statement::AsNamed(Effect::NONE), Statement::Disguised);
    };
    if text.effect.has(Effect::STATEMENTS) && hangs_on_names(client, server) {
        return Statement::Unsure;
    }
    let id = if text.effect.has(Effect::STATEMENTS) {
        prepare_to_speak(client, server, &text, wanted, out)
    } else {
        let text = as_analysed(client, server, name, text.clone());
        ensure(server, &text, wanted, out)
    };
    id.map_or(Statement::Unsure, |id| Statement::Ours(id, text.effect))
}

/// Notes what the statement that the client calls `name` may do, once it is certain that the server is asked for it.
fn take(client: &mut ClientState, server: &mut ServerState, name: &[u8], effect: Effect) {
    apply(client, server, effect);
    if effect.has(Effect::CUSTOM)
        && let Some(text) = client.names.get(name).cloned()
    {
        name_custom(client, server, frontend::query(text.behind()));
    }
}

/// Whether the server's statement `id` has the columns that the client was told of when it described `name`.
fn fits(client: &ClientState, server: &mut ServerState, name: &[u8], id: u32) -> Fits {
    match client.names.get(name) {
        // In a failed transaction PostgreSQL says so before it looks at columns.
        Some(text) if server.transaction != Transaction::Failed => server.prepared.fits(id, text),
        _ => Fits::Yes,
    }
}

/// What the client says next hangs on the answer.
fn ask_for_columns(server: &mut ServerState, id: u32, out: &mut Vec<u8>) -> FromClient {
    push_frame(out, tag::DESCRIBE, &[b"S", ServerName::of(id).as_bytes(), b"\0"]);
    server.pipeline.push(Request::Describe(id), Delivery::Swallow);
    wait(server, out)
}

/// The number of `text` on this server, prepared there if it was not; `None` where only the answer to an earlier
/// batch can tell.
fn ensure(
    server: &mut ServerState,
    text: &Arc<Text>,
    wanted: Option<Wanted>,
    out: &mut Vec<u8>,
) -> Option<u32> {
    let (context, settled) = server.contexts();
    let segment = server.pipeline.segment();
    // First what its client itself has parsed, if it lies here: PostgreSQL plans it anew where it must.
    for context in [text.context(), context, settled] {
        match server.prepared.find(text, context, segment) {
            Found::Statement(id) => return Some(id),
            Found::Unsure => return None,
            Found::Nothing => {}
        }
    }
    if let Some(stood_in) = stand_in(server, text, wanted, out) {
        return stood_in;
    }
    let id = server.prepared.add(text.clone(), context, segment);
    close_doomed(server, out);
    read_as_parsed(server, text, out, |server, out| {
        push_parse(out, ServerName::of(id).as_bytes(), text.behind());
        server.pipeline.push(Request::Parse(Of::Ours(id)), Delivery::Swallow);
    });
    Some(id)
}

/// What does for what is `wanted` of `text`: in a failed transaction one of the same text, else the empty statement, which
/// is prepared. `Some` where nothing else is to be prepared, `None` in it where only the answer to an earlier batch can tell.
fn stand_in(
    server: &mut ServerState,
    text: &Arc<Text>,
    wanted: Option<Wanted>,
    out: &mut Vec<u8>,
) -> Option<Option<u32>> {
    if server.has_failed()
        && let Some(id) = server.prepared.find_failed(text)
    {
        return Some(Some(id));
    }
    match choose(server, text.behind(), wanted?) {
        Choice::Itself => None,
        Choice::Unsure => Some(None),
        Choice::StandIn(behind) => {
            close_doomed(server, out);
            let id = server.prepared.add_once();
            push_parse(out, ServerName::of(id).as_bytes(), &behind);
            server.pipeline.push(Request::Parse(Of::Ours(id)), Delivery::Swallow);
            Some(Some(id))
        }
    }
}

/// The text that the client calls `name` as PostgreSQL knows it when it is used now: in another `search_path` it analyses
/// it once more, and reads its constants by the settings of that moment (`RevalidateCachedQuery`).
fn as_analysed(client: &mut ClientState, server: &ServerState, name: &[u8], text: Arc<Text>) -> Arc<Text> {
    let path = server.parameters().path();
    let is_known = server.transaction != Transaction::Failed && !server.is_reported_late();
    let Some(reading) = text.reading().filter(|_| text.path() != path && is_known) else { return text };
    // Its bytes are not read once more, only what they were taken for.
    let now = server.reported.with(&SCANNED_BY, reading);
    let text = Arc::new(text.read_anew(server.contexts().0, now, path));
    client.names.read_anew(name, text.clone());
    text
}

/// Lets `parse` prepare `text` so that its constants are read by the settings under which its client parsed it: these
/// are lent to the transaction for as long as that takes. Where it fails, they go with the transaction.
fn read_as_parsed(
    server: &mut ServerState,
    text: &Text,
    out: &mut Vec<u8>,
    parse: impl FnOnce(&mut ServerState, &mut Vec<u8>),
) {
    let is_analysed_anew = text.path() != server.parameters().path();
    let Some(reading) = text.reading() else { return parse(server, out) };
    let is_late = server.is_reported_late();
    if !is_late && reading.reading() == server.reported.reading() {
        return parse(server, out);
    }
    let read_by: &[&str] = if is_analysed_anew { &SCANNED_BY } else { &READ_BY };
    let others = read_by.iter().filter_map(|name| Some((*name, reading.get(name)?)));
    let others = others.filter(|(name, value)| is_late || server.reported.get(name) != Some(value));
    let others: Vec<(&str, &[u8])> = others.collect();
    if others.is_empty() {
        return parse(server, out);
    }
    run_quietly(server, &lend(&others), out);
    parse(server, out);
    run_quietly(server, &give_back(&others), out);
}

/// Runs a statement of ours that returns no rows, in whatever transaction there is, under a name that nobody has.
fn run_quietly(server: &mut ServerState, sql: &[u8], out: &mut Vec<u8>) {
    let name = ServerName::of(0);
    let name = name.as_bytes();
    // It may lie there still, where what followed it was skipped.
    push_close(out, name);
    push_parse(out, name, &[sql, NOTHING].concat());
    push_frame(out, tag::BIND, &[name, b"\0", name, b"\0\0\0\0\0\0\0"]);
    push_frame(out, tag::EXECUTE, &[name, b"\0\0\0\0\0"]);
    push_frame(out, tag::CLOSE, &[b"P", name, b"\0"]);
    push_close(out, name);
    let (bind, close) = (Request::Bind { id: 0, name: 0 }, Request::Close(Of::Plain));
    for request in [close, Request::Parse(Of::Plain), bind, Request::Execute, close, close] {
        server.pipeline.push(request, Delivery::Swallow);
    }
}

/// Prepares a text that speaks of prepared statements, in the names that they have now.
fn prepare_to_speak(
    client: &ClientState,
    server: &mut ServerState,
    text: &Arc<Text>,
    wanted: Option<Wanted>,
    out: &mut Vec<u8>,
) -> Option<u32> {
    if let Some(stood_in) = stand_in(server, text, wanted, out) {
        return stood_in;
    }
    let words = frontend::query(text.behind());
    let spoken = speak(client, server, words, out);
    let types = text.behind().get(words.len()..).unwrap_or_default();
    let id = server.prepared.add(text.clone(), server.contexts().0, server.pipeline.segment());
    let behind = [spoken.as_deref().unwrap_or(words), types].concat();
    push_parse(out, ServerName::of(id).as_bytes(), &behind);
    server.pipeline.push(Request::Parse(Of::Ours(id)), Delivery::Swallow);
    Some(id)
}

/// Closes what nobody needs any more, since something is sent anyway.
fn close_doomed(server: &mut ServerState, out: &mut Vec<u8>) {
    for id in server.prepared.take_doomed() {
        push_close(out, ServerName::of(id).as_bytes());
        server.pipeline.push(Request::Close(Of::Ours(id)), Delivery::Swallow);
    }
}

/// Makes sure that the unnamed statement of this server is this client's, or one that does for what is `wanted`. Returns
/// what it may do; `None` where only the answer to an earlier batch can tell.
fn find_unnamed(
    client: &mut ClientState,
    server: &mut ServerState,
    wanted: Option<Wanted>,
    out: &mut Vec<u8>,
) -> Option<Effect> {
    let under_way = client.unnamed.is_under_way();
    let Some(statement) = client.unnamed.bound() else {
        if !under_way {
            forget_foreign(server, out);
        }
        return Some(Effect::NONE);
    };
    let (effect, token) = (statement.effect, statement.token);
    // What speaks of statements does so by the names that they have now, unless it comes to nothing.
    let speaks = effect.has(Effect::STATEMENTS) && !server.has_failed();
    if speaks || (!under_way && server.unnamed != Lies::Statement(token)) {
        server.unnamed = if let Some(body) = statement.body.clone() {
            let behind = body.get(1..).unwrap_or_default();
            match wanted.map_or(Choice::Itself, |wanted| choose(server, behind, wanted)) {
                Choice::Itself => {
                    parse_again(client, server, &body, effect, out);
                    Lies::Statement(token)
                }
                Choice::StandIn(behind) => {
                    push_parse(out, b"", &behind);
                    parsed_again(server);
                    Lies::Unknown
                }
                Choice::Unsure => return None,
            }
        } else {
            Lies::Statement(token)
        };
    }
    apply(client, server, effect);
    if effect.has(Effect::CUSTOM) {
        let text = unnamed_text(client);
        name_custom(client, server, &text);
    }
    Some(effect)
}

/// The text of the unnamed statement, where it was kept.
fn unnamed_text(client: &ClientState) -> Vec<u8> {
    let body = client.unnamed.bound().and_then(|statement| statement.body.as_deref());
    body.and_then(frontend::parse).map_or_else(Vec::new, |(_, text)| text.to_vec())
}

/// Parses the client's unnamed statement where it does not lie.
fn parse_again(
    client: &ClientState,
    server: &mut ServerState,
    body: &[u8],
    effect: Effect,
    out: &mut Vec<u8>,
) {
    let (_, text) = frontend::parse(body).unwrap_or_default();
    let spoken = if effect.has(Effect::STATEMENTS) { speak(client, server, text, out) } else { None };
    let types = body.get(1 + text.len()..).unwrap_or_default();
    push_frame(out, tag::PARSE, &[b"\0", spoken.as_deref().unwrap_or(text), types]);
    parsed_again(server);
}

/// A Parse of ours is sent without a name.
fn parsed_again(server: &mut ServerState) {
    server.unnamed_sent_in = Some(server.pipeline.segment());
    server.pipeline.push(Request::Parse(Of::Ours(0)), Delivery::Swallow);
}

/// The client has no unnamed statement, or one that nobody keeps: it must not find that of another.
fn forget_foreign(server: &mut ServerState, out: &mut Vec<u8>) {
    if server.unnamed != Lies::Nothing {
        server.unnamed = Lies::Nothing;
        server.unnamed_sent_in = Some(server.pipeline.segment());
        server.pipeline.push(Request::Close(Of::Ours(0)), Delivery::Swallow);
        push_close(out, b"");
    }
}

/// Whether what a text says of prepared statements hangs on an answer that is owed.
pub(super) fn hangs_on_names(client: &ClientState, server: &ServerState) -> bool {
    let segment = server.pipeline.segment();
    let may_forget = client.names.is_forgetting() || client.names.are_deallocated();
    let may_forget = may_forget && server.pipeline.is_busy();
    let hangs = may_forget || client.names.are_unsure(segment) || server.prepared.is_unsure(segment);
    // In a transaction that has failed meanwhile nothing could be prepared.
    hangs || server.pipeline.is_behind()
}

/// Whether what `name` means hangs on an answer that is owed.
fn is_unsure(client: &ClientState, server: &ServerState, name: &[u8]) -> bool {
    let hangs = || {
        // A Close of ours that is skipped leaves what it was to end.
        let is_going = match disguised(name) {
            Some(name) => server.prepared.is_going(&name),
            None => server.prepared.is_going(name),
        };
        is_going || client.names.may_be_gone(name)
    };
    client.names.is_unsure(name, server.pipeline.segment()) || (server.pipeline.is_busy() && hangs())
}

/// A text that speaks of prepared statements is about to be read: those of the client's that it names lie under its
/// own names then, for as long as it has this server. `None` where it needs no other words: only names that look like
/// ours are disguised.
pub(super) fn speak(
    client: &ClientState,
    server: &mut ServerState,
    text: &[u8],
    out: &mut Vec<u8>,
) -> Option<Vec<u8>> {
    server.recount = true;
    let dialect = server.reported.dialect();
    let has_failed = server.has_failed();
    rewrite_names(text, dialect, &mut |mention, name| {
        match (mention, client.names.get(name).cloned()) {
            // It will not come to that: the empty statement does as well, and can be prepared.
            (Mention::Execute, Some(text)) if !has_failed => {
                read_as_parsed(server, &text, out, |server, out| {
                    drop(prepare_as_named(server, name, text.behind(), out));
                });
            }
            // There is something to deallocate, and a name that is taken.
            (Mention::Execute | Mention::Deallocate | Mention::Prepare, Some(_)) => {
                drop(prepare_as_named(server, name, NOTHING, out));
            }
            (Mention::Prepare, None) => {
                drop_stray(server, name, out);
                server.prepared.is_made(name);
            }
            (Mention::Execute | Mention::Deallocate, None) => drop_stray(server, name, out),
        }
        disguised(name)
    })
}

/// A DEALLOCATE is about to run: which statements of the client's it names, in the order in which the answers
/// will come.
pub(super) fn note_deallocations(client: &mut ClientState, server: &ServerState, text: &[u8]) {
    let (dialect, segment) = (server.reported.dialect(), server.pipeline.segment());
    rewrite_names(text, dialect, &mut |mention, name| {
        if mention == Mention::Deallocate {
            let known = client.names.get(name).is_some();
            client.names.deallocating(segment, known.then_some(name));
        }
        None
    });
}

/// The statement that is bound may be a DEALLOCATE.
fn note_deallocate(client: &mut ClientState, server: &ServerState, name: &[u8]) {
    let text = match client.names.get(name) {
        Some(text) => frontend::query(text.behind()).to_vec(),
        None => unnamed_text(client),
    };
    note_deallocations(client, server, &text);
}

/// The empty statement behind its name: preparing it cannot fail.
const NOTHING: &[u8] = b"\0\0\0";

/// Prepares `behind` under a client's own name. Returns the name under which it lies.
fn prepare_as_named(server: &mut ServerState, name: &[u8], behind: &[u8], out: &mut Vec<u8>) -> Vec<u8> {
    let name = disguised(name).unwrap_or_else(|| name.to_vec());
    // It may lie there already, for the same reason.
    push_close(out, &name);
    server.pipeline.push(Request::Close(Of::Plain), Delivery::Swallow);
    push_parse(out, &name, behind);
    server.pipeline.push(Request::Parse(Of::Plain), Delivery::Swallow);
    server.prepared.stray(&name);
    name
}

/// What we prepared under a client's own name is closed, as the name stands for nothing any more.
fn drop_stray(server: &mut ServerState, name: &[u8], out: &mut Vec<u8>) {
    let name = disguised(name).unwrap_or_else(|| name.to_vec());
    if server.prepared.is_stray(&name) {
        push_close(out, &name);
        server.pipeline.push(Request::Close(Of::Plain), Delivery::Swallow);
        server.prepared.stray_is_gone(&name);
    }
}

fn behind(out: &[u8]) -> FromClient {
    if out.is_empty() { FromClient::Forward } else { FromClient::ForwardBehind }
}
