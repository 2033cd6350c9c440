//! The room's tests: stories of one client and one server, told in data.

use crate::session::from_client::Received;
use crate::session::from_client::from_client;
use crate::session::from_server::from_server;
use crate::session::handover::hand_over;
use crate::session::handover::suits;
use crate::session::parameters::Parameters;
use crate::session::pin::Pin;
use crate::session::probe::Answer;
use crate::session::reported::Reported;
use crate::session::state::ClientState;
use crate::session::state::ServerState;
use crate::session::state::answered;
use crate::session::state::question;
use crate::session::state::release;
use crate::session::verdict::FromClient;
use crate::session::verdict::FromServer;
use crate::session::verdict::Release;
use crate::sql::signal::Meant;
use crate::wire::frame::Frame;

/// A client and a server, fresh.
#[derive(Debug)]
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
            Some(("ours", id)) => rows.push(row("o", &format!("stagedoor:{id}"), "")),
            Some((name, value)) if name.contains('.') => rows.push(row("c", name, value)),
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
            server: ServerState::new(reported(), answer(""), settings(startup)),
        }
    }

    /// The client with another server.
    fn elsewhere(self, startup: &str) -> Self {
        Self { server: ServerState::new(reported(), answer(""), settings(startup)), ..self }
    }

    /// One frame from the client; what the server gets for it, or a word for the verdict.
    fn say(&mut self, line: &str) -> String {
        let (tag, body) = frame(line);
        let total = body.len() + 5;
        let received = Received { frame: Frame { tag, body: &body }, whole: true, total };
        let mut out = Vec::new();
        let verdict =
            from_client(&mut self.client, &mut self.server, received, &mut |_| Meant::Backend(7), &mut out);
        let original = crate::wire::message::frame(tag, &body);
        match verdict {
            FromClient::Forward => assert!(out.is_empty()),
            FromClient::ForwardBehind => out.extend_from_slice(&original),
            FromClient::ReplaceHead(count) => out.extend_from_slice(&original[count..]),
            FromClient::Replace => {}
            FromClient::Swallow => return "swallow".to_owned(),
            FromClient::Wait if out.is_empty() => return "wait".to_owned(),
            FromClient::Wait => return format!("{} + wait", told(&out)),
            FromClient::Elsewhere => return "elsewhere".to_owned(),
            FromClient::End => return "end".to_owned(),
        }
        if out.is_empty() { "forward".to_owned() } else { told(&out) }
    }

    fn hear(&mut self, line: &str) -> FromServer {
        self.read(line).0
    }

    /// One frame from the server: the verdict, and what the client reads instead.
    fn read(&mut self, line: &str) -> (FromServer, String) {
        let (tag, body) = frame(line);
        let received = Received { frame: Frame { tag, body: &body }, whole: true, total: body.len() + 5 };
        let mut out = Vec::new();
        let verdict = from_server(&mut self.client, &mut self.server, received, &mut out);
        (verdict, told(&out))
    }
}

/// Frames in the way of [`frame`], with ` + ` between them.
fn told(mut bytes: &[u8]) -> String {
    let mut frames = Vec::new();
    while let Some((frame, total)) = Frame::parse(bytes).unwrap() {
        let body = String::from_utf8_lossy(frame.body).replace('\0', "|");
        frames.push(format!("{} {body}", char::from(frame.tag)).trim_end().to_owned());
        bytes = &bytes[total..];
    }
    assert!(bytes.is_empty(), "whole frames");
    frames.join(" + ")
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
    check("> P n|select 1||\n> S\n< 1\n< Z I", Release::Return);
}

#[test]
fn what_cannot_be_moved_pins_until_it_is_gone() {
    check("> Q listen x|\n< Z I\n? listen", pinned(Pin::Listen));
    check("> Q listen x|\n< Z I\n? listen\n> Q unlisten x|\n< Z I", Release::Probe);
    check("> Q listen x|\n< Z I\n? listen\n> Q unlisten x|\n< Z I\n?", Release::Return);
    check("> Q create temp table t ()|\n< Z I\n? temp_table\n> Q drop table t|\n< Z I", Release::Probe);
    check("> Q select nextval('s')|\n< Z I", pinned(Pin::Sequence));
    check("> Q select nextval('s')|\n< Z I\n> Q discard all|\n< C DISCARD ALL|\n< Z I\n?", Release::Return);
    check("> Q set a.b = 1|\n< Z I\n? a.b=1", Release::Return);
}

#[test]
fn nothing_is_released_while_anything_is_owed() {
    check("> P |select 1||\n> H\n< 1", Release::Keep);
    check("> Q select 1|\n> Q select 2|\n< Z I", Release::Keep);
    check("> P |bad||\n> B ||\n> E |\n< E C42601||", Release::Keep);
    check("> P |bad||\n> B ||\n> E |\n< E C42601||\n> S\n< Z I", Release::Return);
}

#[test]
fn a_flush_behind_a_sync_keeps_no_server() {
    // libpq's PQsendFlushRequest behind PQpipelineSync, as psycopg says it.
    check("> P |select 1||\n> S\n> H\n< 1\n< Z I", Release::Return);
    check("> P |select 1||\n> S\n< 1\n< Z I\n> H", Release::Return);
    check("> P |select 1||\n> H\n< 1", Release::Keep);
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
    let mut elsewhere = pair.elsewhere("");
    assert_eq!(elsewhere.say("B ||"), "P |select 1|| + B ||", "it is parsed again");
    assert_eq!(elsewhere.hear("1"), FromServer::Swallow);
    assert_eq!(elsewhere.hear("2"), FromServer::Forward);
}

#[test]
fn a_strangers_unnamed_statement_is_never_bound() {
    let mut pair = Pair::new("");
    pair.say("P |select secret||");
    pair.hear("1");
    let mut stranger = Pair { client: ClientState::new(2, Parameters::none()), ..pair };
    assert_eq!(stranger.say("B ||"), "C S| + B ||", "what lies there is closed first");
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
    assert_eq!(pair.say("Q select pg_cancel_backend(1073741825)|"), "Q select pg_cancel_backend(7)|");
    pair.hear("Z I");
    assert_eq!(pair.say("P |select pg_cancel_backend(1073741825)||"), "forward");
    assert_eq!(
        pair.say("B ||"),
        "P |select pg_cancel_backend(7)|| + B ||",
        "whom it means is asked at each Bind"
    );
}

#[test]
fn a_server_is_made_to_speak_as_its_client() {
    let mut pair = Pair::new("application_name=x").elsewhere("application_name=y");
    let (sql, wanted) = hand_over(&pair.client, &pair.server).unwrap();
    assert_eq!(sql, b"SELECT pg_catalog.set_config(E'application_name',E'x',false)");
    pair.server.speak_with(wanted);
    assert_eq!(hand_over(&pair.client, &pair.server), None);
    answered(&mut pair.client, &mut pair.server, Some(answer("search_path=a application_name=x")));
    assert_eq!(hand_over(&pair.client, &pair.server), None);
    let mut own = pair.elsewhere("application_name=x");
    let (sql, _) = hand_over(&own.client, &own.server).unwrap();
    assert_eq!(sql, b"SELECT pg_catalog.set_config(E'search_path',E'a',false)", "it has the name already");
    assert_eq!(own.say("Q reset all|"), "forward", "and goes back to it");
}

#[test]
fn what_goes_back_to_the_beginning_needs_a_server_that_began_alike() {
    let mut pair = Pair::new("application_name=x").elsewhere("application_name=y");
    assert!(suits(&pair.client, &pair.server));
    assert_eq!(pair.say("Q select 1|"), "forward");
    assert_eq!(pair.say("Q reset all|"), "wait", "something is under way");
    pair.hear("Z I");
    assert_eq!(pair.say("Q reset all|"), "elsewhere");
    let mut pair = Pair::new("application_name=x").elsewhere("application_name=y");
    pair.say("Q begin|");
    pair.hear("Z T");
    assert_eq!(pair.say("Q reset all|"), "forward", "in a transaction it is too late");
    assert!(!suits(&pair.client, &pair.server), "but not the next time");
    let mut pair = Pair::new("application_name=x").elsewhere("application_name=y");
    assert_eq!(pair.say("Q discard all|"), "elsewhere");
    let mut own = pair.elsewhere("application_name=x");
    assert!(suits(&own.client, &own.server));
    assert_eq!(own.say("Q discard all|"), "forward");
}

#[test]
fn a_custom_setting_goes_with_its_client_and_never_to_another() {
    let mut pair = Pair::new("");
    pair.say("Q set my.setting = 1|");
    pair.hear("Z I");
    assert!(String::from_utf8(question(&pair.client, &pair.server)).unwrap().contains("E'my.setting'"));
    answered(&mut pair.client, &mut pair.server, Some(answer("my.setting=1")));
    assert_eq!(release(&pair.client, &pair.server), Release::Return);
    let stranger = ClientState::new(2, Parameters::none());
    assert!(!suits(&stranger, &pair.server), "it would find it empty");
    assert!(pair.client.fit().allows(pair.server.fit()) && !stranger.fit().allows(pair.server.fit()));
    let elsewhere = pair.elsewhere("");
    let (sql, _) = hand_over(&elsewhere.client, &elsewhere.server).unwrap();
    assert_eq!(sql, b"SELECT pg_catalog.set_config(E'my.setting',E'1',false)");
}

#[test]
fn set_local_of_a_custom_setting_is_asked_about_once() {
    let mut pair = Pair::new("");
    for line in ["begin", "set local my.setting = 1", "commit"] {
        pair.say(&format!("Q {line}|"));
        pair.hear(if line == "commit" { "Z I" } else { "Z T" });
    }
    assert_eq!(release(&pair.client, &pair.server), Release::Probe);
    answered(&mut pair.client, &mut pair.server, Some(answer("my.setting=")));
    pair.say("Q begin; set local my.setting = 2; commit|");
    pair.hear("Z I");
    assert_eq!(release(&pair.client, &pair.server), Release::Return);
}

/// What the frames of a script become: each line is what is said, ` => ` and what the server gets, or what it
/// says (`<`), which may have ` => ` and what the client reads.
fn tell(pair: &mut Pair, script: &str) {
    for line in script.lines().map(str::trim) {
        let (line, expected) = line.split_once(" => ").map_or((line, None), |(a, b)| (a, Some(b)));
        match line.strip_prefix("< ") {
            None => assert_eq!(pair.say(line), expected.unwrap_or("forward"), "{line}\n{script}"),
            Some("!") => panic!("{pair:?}"),
            Some(heard) => {
                let (verdict, read) = pair.read(heard);
                let read = if verdict == FromServer::Swallow { "nothing".to_owned() } else { read };
                assert!(!matches!(verdict, FromServer::Broken(_)), "{line}: {verdict:?}\n{script}");
                assert_eq!(read, expected.unwrap_or_default(), "{line}\n{script}");
            }
        }
    }
}

const PREPARES: &str = "P a|select 1|| => P stagedoor:1|select 1||
    B |a| => B |stagedoor:1|
    E |
    S
    < 1
    < 2
    < C SELECT 1|
    < Z I";

#[test]
fn a_named_statement_goes_with_its_client() {
    let mut pair = Pair::new("");
    tell(&mut pair, PREPARES);
    assert_eq!(release(&pair.client, &pair.server), Release::Return);
    tell(&mut pair, "B |a| => B |stagedoor:1|\nD Sa| => D Sstagedoor:1|\nS\n< 2\n< T x\n< Z I");
    let mut elsewhere = pair.elsewhere("");
    tell(
        &mut elsewhere,
        "D Sa| => P stagedoor:1|select 1|| + D Sstagedoor:1|
        B |a| => B |stagedoor:1|
        S
        < 1 => nothing
        < T x
        < 2
        < Z I",
    );
}

#[test]
fn clients_with_the_same_text_share_a_statement_but_not_its_name() {
    let mut pair = Pair::new("");
    tell(&mut pair, PREPARES);
    let mut other = Pair { client: ClientState::new(2, Parameters::none()), ..pair };
    tell(&mut other, "B |a| => forward\nS\n< E C26000||\n< Z I");
    tell(&mut other, "P b|select 1|| => P stagedoor:2|select 1||\nS\n< 1\n< Z I");
    tell(&mut other, "B |b| => B |stagedoor:2|\nS\n< 2\n< Z I");
    tell(
        &mut other,
        "P c|select 2|| => C Sstagedoor:1| + P stagedoor:3|select 2||\nS\n< 3 => nothing\n< 1\n< Z I",
    );
}

#[test]
fn the_same_text_under_other_settings_is_another_statement() {
    let mut pair = Pair::new("");
    tell(&mut pair, PREPARES);
    tell(&mut pair, "Q set search_path to b|\n< C SET|\n< Z I");
    answered(&mut pair.client, &mut pair.server, Some(answer("search_path=b")));
    // What it has parsed itself is planned anew by PostgreSQL, where it must be.
    tell(&mut pair, "B |a| => B |stagedoor:1|\nS\n< 2\n< Z I");
    tell(&mut pair, "P e|select 1|| => P stagedoor:2|select 1||\nS\n< 1\n< Z I");
    tell(&mut pair, "Q begin; set local search_path to c|\n< Z T");
    tell(
        &mut pair,
        "B |e| => B |stagedoor:2|\nP d|select 3|| => P stagedoor:3|select 3||\nS\n< 2\n< 1\n< Z T",
    );
    tell(&mut pair, "B |d| => B |stagedoor:3|\nS\n< 2\n< Z T\nQ commit|\n< Z I");
    tell(
        &mut pair,
        "B |d| => C Sstagedoor:3| + P stagedoor:4|select 3|| + B |stagedoor:4|\nS\n< 3 => nothing\n< 1 => nothing\n< 2\n< Z I",
    );
}

#[test]
fn a_name_that_is_taken_is_refused_by_postgresql_itself() {
    let mut pair = Pair::new("");
    tell(&mut pair, PREPARES);
    tell(
        &mut pair,
        "P a|select 2|| => C Sa| + P a|||| + P a|select 2||
        S
        < 3 => nothing
        < 1 => nothing
        < E SERROR|C42P05|Mprepared statement \"a\" already exists||
        < Z I",
    );
    assert_eq!(release(&pair.client, &pair.server), Release::Probe, "and the name is free for others");
    assert_eq!(told(&pair.server.asked()), "C Sa|");
    answered(&mut pair.client, &mut pair.server, Some(answer("")));
    tell(&mut pair, "B |a| => B |stagedoor:1|\nS\n< 2\n< Z I");
}

#[test]
fn what_an_error_sweeps_away_was_never_prepared() {
    let mut pair = Pair::new("");
    tell(
        &mut pair,
        "P a|selec|| => P stagedoor:1|selec||
        P b|select 1|| => P stagedoor:2|select 1||
        S
        B |b| => wait
        < E SERROR|C42601||
        B |b|
        S
        < Z I
        < E SERROR|C26000|Mprepared statement \"b\" does not exist||
        < Z I
        P a|select 1|| => P stagedoor:3|select 1||
        S
        < 1
        < Z I",
    );
    assert_eq!(release(&pair.client, &pair.server), Release::Return);
}

#[test]
fn close_frees_the_name_and_keeps_the_statement_for_the_next() {
    let mut pair = Pair::new("");
    tell(&mut pair, PREPARES);
    tell(&mut pair, "C Sa| => C Sstagedoor:|\nB |a|\nS\n< 3\n< E C26000||\n< Z I");
    tell(&mut pair, "B |a|\nS\n< E C26000||\n< Z I");
    tell(&mut pair, "P a|select 2|| => P stagedoor:2|select 2||\nS\n< 1\n< Z I");
}

#[test]
fn the_client_reads_its_own_names() {
    let mut pair = Pair::new("");
    tell(&mut pair, PREPARES);
    tell(
        &mut pair,
        "B |a|x => B |stagedoor:1|x
        S
        < E SERROR|C08P01|Mbind message supplies 1 parameters, but prepared statement \"stagedoor:1\" requires 0|| => E SERROR|C08P01|Mbind message supplies 1 parameters, but prepared statement \"a\" requires 0||
        < Z I
        B |stagedoor:1| => B |stagedoor\u{1}1|
        S
        < E SERROR|C26000|Mprepared statement \"stagedoor\u{1}1\" does not exist|| => E SERROR|C26000|Mprepared statement \"stagedoor:1\" does not exist||
        < Z I",
    );
}

#[test]
fn a_plan_that_does_not_fit_any_more_is_prepared_anew() {
    let mut pair = Pair::new("");
    tell(&mut pair, PREPARES);
    tell(&mut pair, "B |a| => B |stagedoor:1|\nS\n< E SERROR|C0A000||\n< Z I");
    tell(
        &mut pair,
        "B |a| => C Sstagedoor:1| + P stagedoor:2|select 1|| + B |stagedoor:2|\nS\n< 3 => nothing\n< 1 => nothing\n< 2\n< Z I",
    );
}

#[test]
fn a_client_that_knows_its_columns_is_never_told_of_others() {
    let mut pair = Pair::new("");
    let integer = "T ..n|tablnoINT4szmodifo";
    tell(&mut pair, PREPARES);
    tell(&mut pair, &format!("D Sa| => D Sstagedoor:1|\nS\n< t\n< {integer}\n< Z I"));
    for (columns, moved) in
        [("T ..n|TABLNOINT4SZmodiFO", true), ("T ..n|tablnoTEXTszmodifo", false), ("n", false)]
    {
        let mut elsewhere = pair.elsewhere("");
        elsewhere.server.schema_is(1);
        let ask = "B |a| => P stagedoor:1|select 1|| + D Sstagedoor:1| + H + wait\nB |a| => wait";
        tell(&mut elsewhere, &format!("{ask}\n< 1 => nothing\n< t => nothing\n< {columns} => nothing"));
        let (told, refused) = (
            "< E SERROR|C26000||",
            "E SERROR|VERROR|C0A000|Mcached plan must not change result type|Fplancache.c|RRevalidateCachedQuery||",
        );
        for _ in 0..2 {
            if moved {
                tell(&mut elsewhere, "B |a| => B |stagedoor:1|\nS\n< 2\n< Z I");
            } else {
                tell(&mut elsewhere, &format!("B |a| => B |stagedoor:|\nS\n{told} => {refused}\n< Z I"));
            }
        }
        pair = elsewhere;
    }
}

#[test]
fn what_a_statement_does_is_not_noted_before_it_is_bound() {
    let mut pair = Pair::new("");
    let text = "select set_config('work_mem', '1MB', false)";
    tell(
        &mut pair,
        &format!("P a|{text}|| => P stagedoor:1|{text}||\nD Sa| => D Sstagedoor:1|\nS\n< 1\n< t\n< n\n< Z I"),
    );
    answered(&mut pair.client, &mut pair.server, Some(answer("ours=1")));
    let mut elsewhere = pair.elsewhere("");
    elsewhere.server.schema_is(1);
    tell(&mut elsewhere, "Q begin; set local work_mem to '2MB'|\n< C BEGIN|\n< C SET|\n< Z T");
    // Under settings that may have changed it would be another statement, to be asked about again, and so on.
    tell(
        &mut elsewhere,
        &format!(
            "B |a| => P stagedoor:1|{text}|| + D Sstagedoor:1| + H + wait\nB |a| => wait\nB |a| => wait"
        ),
    );
}

#[test]
fn what_is_asked_in_vain_is_asked_again() {
    let mut pair = Pair::new("");
    tell(&mut pair, PREPARES);
    tell(&mut pair, "D Sa| => D Sstagedoor:1|\nS\n< t\n< n\n< Z I");
    let mut elsewhere = pair.elsewhere("");
    elsewhere.server.schema_is(1);
    tell(
        &mut elsewhere,
        "P |selec||
        B |a| => P stagedoor:1|select 1|| + D Sstagedoor:1| + H + wait
        < E SERROR|C42601||
        B |a|
        S
        < Z I
        B |a| => P stagedoor:2|select 1|| + D Sstagedoor:2| + H + wait
        < 1 => nothing
        < t => nothing
        < n => nothing
        B |a| => B |stagedoor:2|
        S
        < 2
        < Z I",
    );
}

#[test]
fn sql_speaks_of_protocol_statements_by_their_names() {
    let mut pair = Pair::new("");
    tell(&mut pair, PREPARES);
    tell(
        &mut pair,
        "Q execute a(x)| => C Sa| + P a|select 1|| + S + Q execute a(x)|
        < 3 => nothing
        < 1 => nothing
        < Z I => nothing
        < C SELECT 1|
        < Z I",
    );
    assert_eq!(release(&pair.client, &pair.server), Release::Probe, "and the name is free for others");
    assert_eq!(told(&pair.server.asked()), "C Sa|");
    answered(&mut pair.client, &mut pair.server, Some(answer("ours=1")));
    tell(
        &mut pair,
        "Q deallocate A| => C Sa| + P a|||| + S + Q deallocate A|
        < 3 => nothing
        < 1 => nothing
        < Z I => nothing
        < C DEALLOCATE|
        < Z I
        B |a| => C Sa| + B |a|
        S
        < 3 => nothing
        < E C26000||
        < Z I",
    );
    let mut pair = Pair::new("");
    tell(&mut pair, PREPARES);
    tell(&mut pair, "Q discard all|\n< C DISCARD ALL|\n< Z I");
    answered(&mut pair.client, &mut pair.server, Some(answer("")));
    tell(
        &mut pair,
        "B |a|\nS\n< E C26000||\n< Z I\nP a|select 1|| => P stagedoor:2|select 1||\nS\n< 1\n< Z I",
    );
}

#[test]
fn sql_may_use_names_that_look_like_ours() {
    let mut pair = Pair::new("");
    tell(
        &mut pair,
        "Q prepare \"stagedoor:1\" as select 1| => Q prepare \"stagedoor\u{1}1\" as select 1|
        < C PREPARE|
        < Z I
        P |execute \"stagedoor:1\"|| => P |execute \"stagedoor\u{1}1\"||
        S
        < E C26000|Mprepared statement \"stagedoor\u{1}1\"|| => E C26000|Mprepared statement \"stagedoor:1\"||
        < Z I
        Q select 'stagedoor:1'::int|
        < E C22P02|Minvalid input: \"stagedoor:1\"||
        < Z I",
    );
}

#[test]
fn a_name_that_is_closed_behind_an_error_stands_in_it_all_the_same() {
    let mut pair = Pair::new("");
    tell(&mut pair, PREPARES);
    tell(
        &mut pair,
        "B |a| => B |stagedoor:1|
        S
        C Sa| => C Sstagedoor:|
        S
        < E C08P01|Mstatement \"stagedoor:1\"|| => E C08P01|Mstatement \"a\"||
        < Z I
        < 3
        < Z I",
    );
}

#[test]
fn a_long_name_is_read_as_it_was_said() {
    let name = "n".repeat(70);
    let mut pair = Pair::new("");
    tell(&mut pair, &format!("P {name}|select 1|| => P stagedoor:1|select 1||\nS\n< 1\n< Z I"));
    pair.say(&format!("B |{name}|"));
    let (_, read) = pair.read("E C08P01|Mstatement \"stagedoor:1\"||");
    assert_eq!(read, format!("E C08P01|Mstatement \"{name}\"||"));
}

#[test]
fn what_the_server_notices_of_a_statement_of_ours_is_not_told() {
    let mut pair = Pair::new("");
    tell(&mut pair, PREPARES);
    tell(
        &mut pair.elsewhere(""),
        "B |a| => P stagedoor:1|select 1|| + B |stagedoor:1|
        < N SNOTICE|| => nothing
        < 1 => nothing
        < N SNOTICE||
        < 2",
    );
}

#[test]
fn an_unnamed_statement_that_is_on_its_way_to_another_server_may_be_swept_away() {
    let mut pair = Pair::new("");
    tell(&mut pair, "P |select 1||\nS\n< 1\n< Z I");
    tell(
        &mut pair.elsewhere(""),
        "B |nowhere|
        B || => P |select 1|| + B ||
        S
        B || => wait
        < E C26000||
        B || => P |select 1|| + B ||
        < Z I
        S
        < 1 => nothing
        < 2
        < Z I",
    );
}

#[test]
fn of_several_unnamed_statements_under_way_the_last_that_worked_counts() {
    let mut pair = Pair::new("");
    tell(
        &mut pair,
        "P |select 1||
        P |select 2||
        B ||bad
        P |select 3||
        S
        < 1
        < 1
        B || => wait
        < E C08P01||
        B ||
        < Z I
        S
        < 2
        < Z I",
    );
    assert_eq!(release(&pair.client, &pair.server), Release::Return);
    let mut elsewhere = pair.elsewhere("");
    tell(&mut elsewhere, "B || => P |select 2|| + B ||\nS\n< 1 => nothing\n< 2\n< Z I");
}

#[test]
fn stray_copy_data_is_ignored() {
    assert_eq!(Pair::new("").say("d x"), "swallow");
    assert_eq!(Pair::new("").say("X"), "end");
}

#[test]
fn a_deallocate_that_failed_is_waited_for_no_longer() {
    let mut pair = Pair::new("");
    tell(
        &mut pair,
        "P a|select 1|| => P stagedoor:1|select 1||
        Q select 1/0; deallocate a| => C Sa| + P a|||| + Q select 1/0; deallocate a|
        < 1
        < 3 => nothing
        < 1 => nothing
        < E SERROR|C22012|Mdivision by zero||
        < Z I
        Q execute a| => C Sa| + P a|select 1|| + S + Q execute a|",
    );
}

#[test]
fn a_client_that_is_alone_keeps_its_words_and_is_asked_nothing() {
    let mut pair = Pair::new("application_name=x");
    pair.client.be_alone();
    tell(
        &mut pair,
        "P a|select 1||
        P stagedoor:1|select 2||
        B |a|
        D Sstagedoor:1|
        E |
        C Sa|
        S
        < 1
        < 1
        < 2
        < T x
        < C SELECT 1|
        < 3
        < Z I
        Q set my.setting = 1; prepare p as select 1; execute p; listen c|
        < S TimeZone|UTC|
        < Z I
        B ||
        S
        < E SERROR|C26000|Mstagedoor\u{1}||
        < Z I",
    );
    assert_eq!(release(&pair.client, &pair.server), pinned(Pin::Session));
    tell(&mut pair, "Q select pg_cancel_backend(1073741825)| => Q select pg_cancel_backend(7)|\n< Z I");
    tell(&mut pair, "P |select pg_cancel_backend($1)||");
    let value = "B ||\0\0\0\u{1}\0\0\0\n1073741825\0\0";
    assert_eq!(pair.say(value), "B |||||\u{1}|||\u{1}7||", "a process id is ours in any mode");
    tell(&mut pair, "P |select $1||");
    assert_eq!(pair.say(value), "forward");
    assert!(
        String::from_utf8(question(&pair.client, &pair.server)).unwrap().contains("E'my.setting'"),
        "at its end"
    );
}
