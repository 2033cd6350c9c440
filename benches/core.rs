//! The pure core without a socket: how fast rows pass, what a frame costs that the core looks at, how long a text is
//! read. Divan counts what is allocated, too. `make bench-core`.
#![allow(clippy::expect_used, clippy::panic, reason = "a bench may panic: then it measures nothing")]

use std::fmt;

use divan::AllocProfiler;
use divan::Bencher;
use divan::black_box;
use divan::counter::BytesCount;
use divan::counter::ItemsCount;
use stagedoor::session::from_client;
use stagedoor::session::from_client::Received;
use stagedoor::session::from_server;
use stagedoor::session::parameters::Parameters;
use stagedoor::session::probe::Answer;
use stagedoor::session::reported::Reported;
use stagedoor::session::state::ClientState;
use stagedoor::session::state::ServerState;
use stagedoor::session::state::release;
use stagedoor::session::verdict::FromClient;
use stagedoor::session::verdict::FromServer;
use stagedoor::session::verdict::Release;
use stagedoor::sql::Dialect;
use stagedoor::sql::dialect::Encoding;
use stagedoor::sql::dialect::Strings;
use stagedoor::sql::effect;
use stagedoor::sql::lexer::Lexer;
use stagedoor::sql::signal::Meant;
use stagedoor::wire::frame::Frame;
use stagedoor::wire::message::frame;
use stagedoor::wire::scanner::Scanner;
use stagedoor::wire::scanner::Step;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const USUAL: Dialect = Dialect { strings: Strings::Standard, encoding: Encoding::AsciiSafe };

fn main() {
    divan::main();
}

// ── rows that pass ───────────────────────────────────────────────────────────────────────────────────────

/// 1 MiB of rows, in reads of 32 KiB as the relay does them. Arguments: bytes of a row.
#[divan::bench(args = [16, 100, 1000, 8000])]
fn scanner_over_rows(bencher: Bencher<'_, '_>, bytes: usize) {
    const STREAM_BYTES: usize = 1 << 20;
    const READ_BYTES: usize = 32 * 1024;
    let row = frame(b'D', &vec![b'x'; bytes]);
    let stream = row.repeat(STREAM_BYTES / row.len());
    bencher.counter(BytesCount::new(stream.len())).bench(|| {
        let mut scanner = Scanner::new(&from_server::INTEREST);
        let mut rest = black_box(stream.as_slice());
        while let Some(read) = rest.get(..READ_BYTES.min(rest.len())).filter(|read| !read.is_empty()) {
            match scanner.step(read, false).expect("frames") {
                Step::Pass(count) => rest = rest.get(count..).unwrap_or_default(),
                Step::More | Step::Inspect { .. } => panic!("a row that does not pass"),
            }
        }
    });
}

// ── frames that the core looks at ────────────────────────────────────────────────────────────────────────

/// What a client says and what its server answers, frame by frame.
struct Cycle {
    name: &'static str,
    /// Said and answered once before anything is measured.
    first: (Vec<u8>, Vec<u8>),
    again: (Vec<u8>, Vec<u8>),
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

const SELECT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = $1;";
const COLUMN: &[u8] = b"\0\x01abalance\0\0\0\x40\x0a\0\x03\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
const ROW: &[u8] = b"\0\x01\0\0\0\x010";

fn frames(all: &[(u8, &[u8])]) -> Vec<u8> {
    all.iter().flat_map(|(tag, body)| frame(*tag, body)).collect()
}

fn parse(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0", SELECT.as_bytes(), b"\0\0\0"].concat()
}

fn bind(name: &str) -> Vec<u8> {
    [b"\0", name.as_bytes(), b"\0\0\0\0\x01\0\0\0\x0512345\0\0"].concat()
}

fn cycles() -> impl Iterator<Item = Cycle> {
    let rows: [(u8, &[u8]); 3] = [(b'D', ROW), (b'C', b"SELECT 1\0"), (b'Z', b"I")];
    let simple = (
        frames(&[(b'Q', b"SELECT abalance FROM pgbench_accounts WHERE aid = 12345;\0")]),
        [frames(&[(b'T', COLUMN)]), frames(&rows)].concat(),
    );
    let extended = (
        frames(&[(b'P', &parse("")), (b'B', &bind("")), (b'D', b"P\0"), (b'E', b"\0\0\0\0\0"), (b'S', b"")]),
        [frames(&[(b'1', b""), (b'2', b""), (b'T', COLUMN)]), frames(&rows)].concat(),
    );
    let prepare = (frames(&[(b'P', &parse("P_0")), (b'S', b"")]), frames(&[(b'1', b""), (b'Z', b"I")]));
    let execute = (
        frames(&[(b'B', &bind("P_0")), (b'D', b"P\0"), (b'E', b"\0\0\0\0\0"), (b'S', b"")]),
        [frames(&[(b'2', b""), (b'T', COLUMN)]), frames(&rows)].concat(),
    );
    let cycle = |name, first, again| Cycle { name, first, again };
    [
        cycle("simple Q", simple.clone(), simple),
        cycle("extended PBDES", extended.clone(), extended),
        cycle("prepared BDES", prepare, execute),
    ]
    .into_iter()
}

/// A client and the server that it holds, and what a relay has beside them.
struct Lease {
    client: ClientState,
    server: ServerState,
    client_scanner: Scanner,
    server_scanner: Scanner,
    out: Vec<u8>,
}

impl Lease {
    fn new() -> Self {
        let mut reported = Reported::default();
        reported.set("client_encoding", b"UTF8");
        reported.set("standard_conforming_strings", b"on");
        let identity = [
            b"\0\x03\0\0\0\x01i\0\0\0\x15session_authorization\0\0\0\x03app".as_slice(),
            b"\0\x03\0\0\0\x01i\0\0\0\x04role\0\0\0\x04none".as_slice(),
        ];
        let answer = Answer::read(identity).expect("an answer");
        Self {
            client: ClientState::new(1, Parameters::none()),
            server: ServerState::new(reported, answer, Parameters::none()),
            client_scanner: Scanner::new(&from_client::INTEREST),
            server_scanner: Scanner::new(&from_server::INTEREST),
            out: Vec::new(),
        }
    }

    /// All of `said` goes to the server and all of `answered` to the client; how many frames were looked at.
    fn run(&mut self, (said, answered): &(Vec<u8>, Vec<u8>)) -> usize {
        let (client, server, out) = (&mut self.client, &mut self.server, &mut self.out);
        let mut count = inspect(&mut self.client_scanner, said, |received| {
            out.clear();
            let verdict = from_client::from_client(client, server, received, &mut |_| Meant::Itself, out);
            assert!(
                !matches!(verdict, FromClient::Wait | FromClient::Elsewhere | FromClient::End),
                "{verdict:?}"
            );
        });
        count += inspect(&mut self.server_scanner, answered, |received| {
            out.clear();
            let verdict = from_server::from_server(client, server, received, out);
            assert!(!matches!(verdict, FromServer::Broken(_)), "{verdict:?}");
        });
        assert_eq!(release(client, server), Release::Return);
        count
    }
}

/// Shows `look` each frame of `stream` that does not pass.
fn inspect(scanner: &mut Scanner, mut stream: &[u8], mut look: impl FnMut(Received<'_>)) -> usize {
    let mut count = 0;
    loop {
        match scanner.step(stream, false).expect("frames") {
            Step::Pass(passed) => stream = stream.get(passed..).unwrap_or_default(),
            Step::Inspect { total, whole, .. } => {
                let (frame, _) = Frame::parse(stream).expect("a frame").expect("a whole frame");
                look(Received { frame, whole, total });
                stream = stream.get(total..).unwrap_or_default();
                count += 1;
            }
            Step::More => return count,
        }
    }
}

/// One transaction of `pgbench -S` through both questions and the release; items are the frames that were looked at.
#[divan::bench(args = cycles(), sample_size = 1000)]
fn transaction(bencher: Bencher<'_, '_>, cycle: &Cycle) {
    let mut lease = Lease::new();
    lease.run(&cycle.first);
    let count = lease.run(&cycle.again);
    bencher.counter(ItemsCount::new(count)).bench_local(|| lease.run(black_box(&cycle.again)));
}

// ── texts ────────────────────────────────────────────────────────────────────────────────────────────────

/// As Backstage's plugins say them through knex.
const TEXTS: [(&str, &str); 6] = [
    ("begin", "BEGIN;"),
    ("search_path", "set search_path to \"catalog\""),
    (
        "task",
        "update \"backstage_backend_tasks__tasks\" set \"current_run_ticket\" = $1, \"current_run_started_at\" = CURRENT_TIMESTAMP, \"current_run_expires_at\" = CURRENT_TIMESTAMP + interval '300 seconds' where \"id\" = $2 and \"current_run_ticket\" is null",
    ),
    (
        "entities",
        "select \"final_entities\".*, \"search_0\".\"value\" as \"order_0\" from \"final_entities\" left outer join \"search\" as \"search_0\" on \"search_0\".\"entity_id\" = \"final_entities\".\"entity_id\" and \"search_0\".\"key\" = $1 where \"final_entities\".\"final_entity\" is not null and (\"final_entities\".\"entity_id\" in (select \"search\".\"entity_id\" from \"search\" where \"search\".\"key\" = $2 and \"search\".\"value\" in ($3, $4))) order by \"search_0\".\"value\" asc, \"final_entities\".\"entity_id\" asc limit $5",
    ),
    (
        "refresh",
        "select \"entity_id\", \"entity_ref\", \"unprocessed_entity\", \"result_hash\", \"cache\", \"errors\", \"location_key\" from \"refresh_state\" where \"next_update_at\" <= CURRENT_TIMESTAMP order by \"next_update_at\" asc limit $1 for update skip locked",
    ),
    (
        "document",
        "insert into \"documents\" (\"type\", \"document\", \"hash\") select 'software-catalog', '{\"title\": \"a service''s name\", \"text\": \"it does what it does\"}'::jsonb, $1 on conflict (\"hash\") do nothing",
    ),
];

/// A text by its name.
#[derive(Clone, Copy)]
struct Text(&'static str, &'static str);

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.0, self.1.len())
    }
}

fn texts() -> impl Iterator<Item = Text> {
    TEXTS.into_iter().map(|(name, text)| Text(name, text))
}

/// Every token, and nothing made of it.
#[divan::bench(args = texts(), sample_size = 1000)]
fn lexer(bencher: Bencher<'_, '_>, text: Text) {
    bencher.counter(BytesCount::of_str(text.1)).bench(|| {
        let mut lexer = Lexer::new(black_box(text.1).as_bytes(), false);
        let mut tokens = 0;
        while lexer.read().is_some() {
            tokens += 1;
        }
        tokens
    });
}

/// What the text may do to the session.
#[divan::bench(args = texts(), sample_size = 1000)]
fn classified(bencher: Bencher<'_, '_>, text: Text) {
    bencher.counter(BytesCount::of_str(text.1)).bench(|| effect(black_box(text.1).as_bytes(), USUAL));
}
