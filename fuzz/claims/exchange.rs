//! The core between two clients and two servers that say anything in any order. Nothing panics; what goes on is
//! made of whole frames, and no more is owed than was asked; a server that may go is at rest; what a client waits for
//! will come.
//!
//! The input is a script, a line a step: `>` the client says a frame, `<` the server does (`)` and `(`: one that is
//! too long, of which this is the head), `?` a probe is answered, `/` the client gets the other server, `%` the server
//! gets the other client. `!` before all others: the client has its server alone. In bodies `|` stands for NUL.

use stagedoor::session::from_client::Received;
use stagedoor::session::from_client::from_client;
use stagedoor::session::from_server::INTEREST;
use stagedoor::session::from_server::from_server;
use stagedoor::session::handover::hand_over;
use stagedoor::session::handover::suits;
use stagedoor::session::parameters::Parameters;
use stagedoor::session::pipeline::Delivery;
use stagedoor::session::probe::Answer;
use stagedoor::session::reported::Reported;
use stagedoor::session::state::ClientState;
use stagedoor::session::state::ServerState;
use stagedoor::session::state::answered;
use stagedoor::session::state::question;
use stagedoor::session::state::release;
use stagedoor::session::verdict::FromClient;
use stagedoor::session::verdict::FromServer;
use stagedoor::session::verdict::Release;
use stagedoor::sql::signal::Meant;
use stagedoor::wire::frame::Frame;
use stagedoor::wire::frame::HEADER_BYTES;
use stagedoor::wire::message::frame;

/// What is missing of a frame that is too long.
const MISSING: usize = 300_000;

/// Plays a script to its end, or to where somebody breaks the protocol.
pub(super) fn exchange(script: &[u8]) {
    let mut pair = Pair::new();
    for line in script.split(|&byte| byte == b'\n') {
        let Some((step, rest)) = line.split_first() else { continue };
        if *step == b'!' && !std::mem::replace(&mut pair.has_begun, true) {
            pair.client.be_alone();
            continue;
        }
        pair.has_begun = true;
        let goes_on = match step {
            b'>' => pair.say(rest, 0),
            b')' => pair.say(rest, MISSING),
            b'<' => pair.hear(rest, 0),
            b'(' => pair.hear(rest, MISSING),
            b'?' => pair.probe(rest),
            b'/' => pair.change(|pair| std::mem::swap(&mut pair.server, &mut pair.other_server)),
            b'%' => pair.change(|pair| std::mem::swap(&mut pair.client, &mut pair.other_client)),
            _ => true,
        };
        if !goes_on {
            return;
        }
        pair.check_rest();
    }
}

struct Pair {
    client: ClientState,
    server: ServerState,
    other_client: ClientState,
    other_server: ServerState,
    has_begun: bool,
    /// A process id was translated.
    has_translated: bool,
}

impl Pair {
    fn new() -> Self {
        Self {
            client: ClientState::new(1, settings("application_name=one")),
            server: server("application_name=one"),
            other_client: ClientState::new(2, settings("application_name=two")),
            other_server: server("application_name=two"),
            has_begun: false,
            has_translated: false,
        }
    }

    fn say(&mut self, line: &[u8], missing: usize) -> bool {
        let Some((tag, body)) = parts(line) else { return true };
        let bytes = frame(tag, &body);
        let owed = self.server.pipeline.owed();
        if self.server.pipeline.is_full() {
            return true;
        }
        let (verdict, out) = self.ask(tag, &body, missing);
        let grown = self.server.pipeline.owed().saturating_sub(owed);
        let (mut sent, keeps) = match verdict {
            FromClient::Forward => (Vec::new(), Some(0)),
            FromClient::ForwardBehind => {
                assert!(!out.is_empty());
                (out, Some(0))
            }
            FromClient::ReplaceHead(count) => {
                assert!(count <= bytes.len());
                (out, Some(count))
            }
            FromClient::Replace => {
                assert!(!out.is_empty());
                (out, None)
            }
            FromClient::Swallow | FromClient::End | FromClient::Wait | FromClient::Elsewhere => {
                let asks = verdict == FromClient::Wait && out.ends_with(&frame(b'H', b""));
                assert!(out.is_empty() || asks, "nothing is sent: {verdict:?}");
                assert!(grown <= whole_frames(&out, 0), "{grown} replies to {out:?}");
                return self.note_stay(&verdict, tag, &body, missing);
            }
        };
        let is_own_head = matches!(verdict, FromClient::Forward | FromClient::ForwardBehind);
        if let Some(count) = keeps {
            let mut rest = bytes.get(count..).unwrap_or_default().to_vec();
            if is_own_head && missing > 0 {
                rest.splice(1..5, u32::try_from(body.len() + 4 + missing).expect("small").to_be_bytes());
            }
            sent.extend_from_slice(&rest);
        }
        assert!(
            !self.client.is_alone() || self.has_translated || missing > 0 || sent == bytes,
            "words of a client that is alone are its own"
        );
        let frames = whole_frames(&sent, if keeps.is_some() { missing } else { 0 });
        assert!(grown <= frames, "{grown} replies to {frames} messages");
        true
    }

    /// What is not sent now: is it a dead end?
    fn note_stay(&mut self, verdict: &FromClient, tag: u8, body: &[u8], missing: usize) -> bool {
        match verdict {
            FromClient::Wait => {
                assert!(self.server.pipeline.is_busy(), "it waits for nothing");
                assert_eq!(self.ask(tag, body, missing).0, FromClient::Wait, "nothing was said meanwhile");
                true
            }
            FromClient::Elsewhere => {
                assert_eq!(release(&self.client, &self.server), Release::Return, "it cannot go elsewhere");
                true
            }
            FromClient::End => false,
            FromClient::Swallow
            | FromClient::Forward
            | FromClient::ForwardBehind
            | FromClient::ReplaceHead(_)
            | FromClient::Replace => true,
        }
    }

    fn ask(&mut self, tag: u8, body: &[u8], missing: usize) -> (FromClient, Vec<u8>) {
        let mut out = Vec::new();
        let received = received(tag, body, missing);
        self.has_translated = false;
        let has_translated = &mut self.has_translated;
        let mut translate = |pid: i64| {
            let is_ours = pid >= 1 << 30;
            *has_translated |= is_ours;
            if is_ours { Meant::Backend(77) } else { Meant::Itself }
        };
        let verdict = from_client(&mut self.client, &mut self.server, received, &mut translate, &mut out);
        (verdict, out)
    }

    fn hear(&mut self, line: &[u8], missing: usize) -> bool {
        let Some((tag, body)) = parts(line) else { return true };
        if !INTEREST[usize::from(tag)] {
            return true; // It passes unread.
        }
        let owed = self.server.pipeline.owed();
        let is_ours = self.server.pipeline.head().is_some_and(|head| head.delivery == Delivery::Swallow);
        let mut out = Vec::new();
        let received = received(tag, &body, missing);
        let verdict = from_server(&mut self.client, &mut self.server, received, &mut out);
        assert!(self.server.pipeline.owed() <= owed, "a reply makes nothing due");
        match verdict {
            FromServer::Broken(_) => return false,
            FromServer::ReplaceError => assert_eq!((whole_frames(&out, 0), out.first()), (1, Some(&b'E'))),
            FromServer::Forward
            | FromServer::ForwardError
            | FromServer::ForwardReady
            | FromServer::Notification
            | FromServer::Swallow => assert!(out.is_empty()),
        }
        let readies = if is_ours { FromServer::Swallow } else { FromServer::ForwardReady };
        assert!(tag != b'Z' || verdict == readies, "a ReadyForQuery is for whoever asked for it");
        true
    }

    /// The answer to a probe, asked where the shell would ask: words of a kind, a name and a value.
    fn probe(&mut self, line: &[u8]) -> bool {
        if release(&self.client, &self.server) != Release::Probe {
            return true;
        }
        let question = question(&self.client, &self.server);
        assert!(!question.contains(&0));
        whole_frames(&self.server.asked(), 0);
        let mut rows = vec![row(b"i", b"role", b"none"), row(b"i", b"session_authorization", b"app")];
        for word in line.split(|&byte| matches!(byte, b' ' | 0)).filter(|word| !word.is_empty()) {
            let mut columns = word.splitn(3, |&byte| byte == b',');
            let mut column = || columns.next().unwrap_or_default();
            rows.push(row(column(), column(), column()));
        }
        let answer = Answer::read(rows.iter().map(Vec::as_slice));
        answered(&mut self.client, &mut self.server, answer);
        assert_ne!(release(&self.client, &self.server), Release::Probe, "one question is enough");
        true
    }

    /// Somebody else takes a place, where that may be.
    fn change(&mut self, swap: impl FnOnce(&mut Self)) -> bool {
        if release(&self.client, &self.server) != Release::Return {
            return true;
        }
        swap(self);
        if release(&self.client, &self.server) != Release::Return {
            return false; // The other is not at rest.
        }
        if !suits(&self.client, &self.server) {
            self.server = server("application_name=one");
        }
        self.server.handed_to(&self.client);
        if let Some((sql, settings)) = hand_over(&self.client, &self.server) {
            assert!(!sql.is_empty() && !sql.contains(&0));
            whole_frames(&self.server.asked(), 0);
            self.server.speak_with(settings);
        }
        assert_eq!(hand_over(&self.client, &self.server), None, "a hand-over is one statement");
        true
    }

    fn check_rest(&self) {
        if release(&self.client, &self.server) == Release::Return {
            assert!(self.server.is_idle() && self.server.pipeline.owed() == 0);
            assert!(self.client.left_behind(&self.server).is_empty());
            assert!(!self.client.is_immovable());
        }
    }
}

fn received(tag: u8, body: &[u8], missing: usize) -> Received<'_> {
    Received { frame: Frame { tag, body }, whole: missing == 0, total: body.len() + HEADER_BYTES + missing }
}

/// How many frames these bytes are, of which the last lacks `missing` bytes and no other lacks any.
fn whole_frames(mut bytes: &[u8], missing: usize) -> usize {
    let mut frames = 0;
    while !bytes.is_empty() {
        frames += 1;
        let header = stagedoor::wire::frame::header(bytes).expect("a possible length");
        let (_, total) = header.expect("a whole header");
        if total > bytes.len() {
            assert_eq!(total - bytes.len(), missing, "bytes that the head of the last frame announces");
            return frames;
        }
        bytes = &bytes[total..];
    }
    assert_eq!(missing, 0, "the last frame is still to be sent");
    frames
}

fn parts(line: &[u8]) -> Option<(u8, Vec<u8>)> {
    let line = line.strip_prefix(b" ").unwrap_or(line);
    let (&tag, rest) = line.split_first()?;
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    Some((tag, rest.iter().map(|&byte| if byte == b'|' { 0 } else { byte }).collect()))
}

fn row(kind: &[u8], name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 3];
    for column in [kind, name, value] {
        body.extend_from_slice(&i32::try_from(column.len()).expect("short").to_be_bytes());
        body.extend_from_slice(column);
    }
    body
}

fn settings(words: &str) -> Parameters {
    let pairs = words.split_terminator(' ').filter_map(|word| word.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).collect()
}

fn server(startup: &str) -> ServerState {
    let mut reported = Reported::default();
    reported.set("client_encoding", b"UTF8");
    reported.set("standard_conforming_strings", b"on");
    let rows = [row(b"i", b"role", b"none"), row(b"i", b"session_authorization", b"app")];
    let answer = Answer::read(rows.iter().map(Vec::as_slice)).expect("an answer");
    ServerState::new(reported, answer, settings(startup))
}
