//! The room's tests: stories of one client and one server, told in data.

use crate::session::from_client::Received;
use crate::session::from_client::from_client;
use crate::session::from_server::from_server;
use crate::session::handover::hand_over;
use crate::session::parameters::Parameters;
use crate::session::pin::Pin;
use crate::session::probe::Answer;
use crate::session::state::ClientState;
use crate::session::state::Reported;
use crate::session::state::ServerState;
use crate::session::state::answered;
use crate::session::state::release;
use crate::session::verdict::FromClient;
use crate::session::verdict::FromServer;
use crate::session::verdict::Release;
use crate::wire::frame::Frame;

/// A client and a server, fresh.
struct Pair {
    client: ClientState,
    server: ServerState,
}

fn row(kind: &str, name: &str, value: &str) -> Vec<u8> {
    let mut body = vec![0, 3];
    for column in [kind, name, value] {
        body.extend_from_slice(&i32::try_from(column.len()).unwrap().to_be_bytes());
        body.extend_from_slice(column.as_bytes());
    }
    body
}

/// The answer to a probe: words like `search_path=x`, `role=bob` or the reason of a pin.
fn answer(words: &str) -> Answer {
    let mut rows = vec![row("i", "session_authorization", "app")];
    let mut role = "none";
    for word in words.split_terminator(' ') {
        match word.split_once('=') {
            Some(("role", name)) => role = name,
            Some((name, value)) => rows.push(row("s", name, value)),
            None => rows.push(row("p", word, "")),
        }
    }
    rows.push(row("i", "role", role));
    Answer::read(rows.iter().map(Vec::as_slice)).unwrap()
}

fn settings(words: &str) -> Parameters {
    let pairs = words.split_terminator(' ').filter_map(|word| word.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).collect()
}

fn reported() -> Reported {
    let mut reported = Reported::default();
    reported.set("client_encoding", b"UTF8");
    reported.set("standard_conforming_strings", b"on");
    reported
}

impl Pair {
    fn new(startup: &str) -> Self {
        Self {
            client: ClientState::new(1, settings(startup)),
            server: ServerState::new(reported(), answer("")),
        }
    }

    /// One frame from the client; a word for the verdict.
    fn say(&mut self, line: &str) -> String {
        let (tag, body) = frame(line);
        let frame = Frame { tag, body: &body };
        let received = Received { frame, whole: true };
        match from_client(&mut self.client, &mut self.server, received, &mut |_| Some(7)) {
            FromClient::Forward => "forward".to_owned(),
            FromClient::ForwardBehind(before) => format!("behind {}", char::from(before[0])),
            FromClient::Replace(bytes) => String::from_utf8_lossy(&bytes[5..]).replace('\0', "|"),
            FromClient::Swallow => "swallow".to_owned(),
            FromClient::End => "end".to_owned(),
            FromClient::Refuse(refusal) => refusal.sqlstate().to_owned(),
        }
    }

    fn hear(&mut self, line: &str) -> FromServer {
        let (tag, body) = frame(line);
        from_server(&mut self.client, &mut self.server, Frame { tag, body: &body })
    }
}

/// A tag and its body, in which `|` stands for NUL.
fn frame(line: &str) -> (u8, Vec<u8>) {
    let (tag, body) = line.split_at(1);
    (tag.as_bytes()[0], body.trim_start().replace('|', "\0").into_bytes())
}

/// Plays a script: `>` the client says, `<` the server says, `?` a probe is answered; then asks for release.
fn check(script: &str, expected: Release) {
    let mut pair = Pair::new("");
    for line in script.lines().map(str::trim) {
        match line.split_at(1) {
            (">", said) => drop(pair.say(said.trim())),
            ("<", said) => {
                let verdict = pair.hear(said.trim());
                assert!(!matches!(verdict, FromServer::Broken(_)), "{script}: {line}: {verdict:?}");
            }
            ("?", words) => answered(&mut pair.client, &mut pair.server, Some(answer(words.trim()))),
            _ => panic!("{line}"),
        }
    }
    assert_eq!(release(&pair.client, &pair.server), expected, "{script}");
}

fn pinned(pin: Pin) -> Release {
    Release::Pinned([pin].into_iter().collect())
}

#[test]
fn a_plain_statement_leaves_nothing() {
    check("> Q select 1|\n< C SELECT 1|\n< Z I", Release::Return);
    check(
        "> P |select 1||\n> B ||\n> D P|\n> E |\n> S\n< 1\n< 2\n< T\n< C SELECT 1|\n< Z I",
        Release::Return,
    );
}

#[test]
fn an_open_or_failed_transaction_keeps_its_server() {
    check("> Q begin|\n< C BEGIN|\n< Z T", Release::Keep);
    check("> Q begin|\n< Z T\n> Q bad|\n< E C42601||\n< Z E", Release::Keep);
    check("> Q begin|\n< Z T\n> Q bad|\n< E C42601||\n< Z E\n> Q rollback|\n< Z I", Release::Return);
}

#[test]
fn what_may_have_touched_the_session_is_asked_about_once_its_transaction_is_over() {
    check("> Q begin|\n< Z T\n> Q set a = 1|\n< Z T", Release::Keep);
    check("> Q begin|\n< Z T\n> Q set a = 1|\n< Z T\n> Q rollback|\n< Z I", Release::Probe);
    check("> Q set a = 1|\n< Z I\n? a=1", Release::Return);
    check("> Q select f()|\n< S TimeZone|UTC|\n< Z I", Release::Probe);
    check("> P n|select 1||\n> S\n< 1\n< Z I", Release::Probe);
}

#[test]
fn what_cannot_be_moved_pins_until_it_is_gone() {
    check("> Q listen x|\n< Z I\n? listen", pinned(Pin::Listen));
    check("> Q listen x|\n< Z I\n? listen\n> Q unlisten x|\n< Z I", Release::Probe);
    check("> Q listen x|\n< Z I\n? listen\n> Q unlisten x|\n< Z I\n?", Release::Return);
    check("> Q create temp table t ()|\n< Z I\n? temp_table\n> Q drop table t|\n< Z I", Release::Probe);
    check("> Q select nextval('s')|\n< Z I", pinned(Pin::Sequence));
    check("> Q select nextval('s')|\n< Z I\n> Q discard all|\n< C DISCARD ALL|\n< Z I\n?", Release::Return);
    check("> Q set a.b = 1|\n< Z I\n?", pinned(Pin::CustomSetting));
}

#[test]
fn nothing_is_released_while_anything_is_owed() {
    check("> P |select 1||\n> H\n< 1", Release::Keep);
    check("> Q select 1|\n> Q select 2|\n< Z I", Release::Keep);
    check("> P |bad||\n> B ||\n> E |\n< E C42601||", Release::Keep);
    check("> P |bad||\n> B ||\n> E |\n< E C42601||\n> S\n< Z I", Release::Return);
}

#[test]
fn an_unnamed_statement_follows_its_client_to_another_server() {
    let mut pair = Pair::new("");
    for line in ["P |select 1||", "S"] {
        assert_eq!(pair.say(line), "forward");
    }
    pair.hear("1");
    pair.hear("Z I");
    assert_eq!(pair.say("B ||"), "forward", "it lies on this server");
    let mut elsewhere = Pair { server: ServerState::new(reported(), answer("")), ..pair };
    assert_eq!(elsewhere.say("B ||"), "behind P", "it is parsed again");
    assert_eq!(elsewhere.hear("1"), FromServer::Swallow);
    assert_eq!(elsewhere.hear("2"), FromServer::Forward);
}

#[test]
fn a_strangers_unnamed_statement_is_never_bound() {
    let mut pair = Pair::new("");
    pair.say("P |select secret||");
    pair.hear("1");
    let mut stranger = Pair { client: ClientState::new(2, Parameters::none()), ..pair };
    assert_eq!(stranger.say("B ||"), "behind C", "what lies there is closed first");
    assert_eq!(stranger.hear("3"), FromServer::Swallow);
}

#[test]
fn a_simple_query_drops_the_unnamed_statement() {
    let mut pair = Pair::new("");
    for (said, heard) in [("P |select 1||", "1"), ("S", "Z I"), ("Q select 2|", "Z I")] {
        pair.say(said);
        pair.hear(heard);
    }
    assert_eq!(pair.say("B ||"), "forward", "PostgreSQL itself says 26000");
}

#[test]
fn a_virtual_pid_in_a_signal_is_translated() {
    let mut pair = Pair::new("");
    assert_eq!(pair.say("Q select pg_cancel_backend(1073741825)|"), "select pg_cancel_backend(7)|");
}

#[test]
fn a_server_is_made_to_speak_as_its_client_and_reset_goes_back_to_the_startup_value() {
    let mut pair = Pair::new("application_name=x");
    let (sql, wanted) = hand_over(&pair.client, &pair.server).unwrap();
    assert_eq!(sql, b"SELECT pg_catalog.set_config(E'application_name',E'x',false)");
    pair.server.parameters = wanted;
    assert_eq!(hand_over(&pair.client, &pair.server), None);
    answered(&mut pair.client, &mut pair.server, Some(answer("search_path=a")));
    let (sql, _) = hand_over(&pair.client, &pair.server).unwrap();
    assert_eq!(sql, b"SELECT pg_catalog.set_config(E'application_name',E'x',false)");
}

#[test]
fn an_unknown_message_is_refused_as_postgresql_refuses_it() {
    assert_eq!(Pair::new("").say("w "), "08P01");
    assert_eq!(Pair::new("").say("d x"), "swallow", "stray copy data is ignored");
    assert_eq!(Pair::new("").say("X"), "end");
}
