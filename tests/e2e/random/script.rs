//! A script: what each of several clients does next, whatever comes of it. Pure: the seed tells it all.
//!
//! A client is *modest* (whatever it does, nothing is left on its server when its turn is over) or, for a while,
//! *bold*: it may open transactions, leave batches without a Sync, take locks, prepare by SQL. There are never
//! as many bold clients as servers, so that the modest ones always have one to share, and none waits for ever.

use crate::random::words;
use crate::support::dice::Dice;
use crate::support::frames::frame;

/// What one client does without a break.
#[derive(Clone, Debug)]
pub struct Turn {
    pub client: usize,
    pub deeds: Vec<Deed>,
}

#[derive(Clone, Debug)]
pub enum Deed {
    /// Sends these frames at once, and reads all that must come.
    Say(Vec<Vec<u8>>),
    /// Leaves and comes back, with the start-up packet of this number.
    Return(usize),
}

/// How many there are of everything.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    pub clients: usize,
    pub bold_max: usize,
    /// Start-up packets to choose from.
    pub packets: usize,
    pub turns: usize,
    /// Servers that began with another `application_name` are lent. What goes back to the beginning is then said only
    /// where the client can still change its server: not in a transaction, and in a Query of its own.
    pub lends: bool,
}

#[derive(Clone, Debug, Default)]
struct Player {
    /// How many turns it stays bold.
    bold: Option<usize>,
    /// It must leave before it is modest again.
    tainted: bool,
    /// It may be in the middle of a COPY that it feeds.
    copying: bool,
}

struct Author {
    dice: Dice,
    players: Vec<Player>,
    cast: Cast,
    /// Who has the turn.
    number: usize,
    /// A transaction may be open, and aborted.
    in_transaction: bool,
    /// Constants are read by settings, and then nobody makes temporary tables: the first of a session has PostgreSQL
    /// read the constants of its statements once more (`OverrideSearchPathMatchesCurrent`).
    has_moments: bool,
}

/// The script of `seed`. In the end everybody is modest.
pub fn write(seed: u64, cast: Cast) -> Vec<Turn> {
    let players = vec![Player::default(); cast.clients];
    let (dice, has_moments) = (Dice::new(seed), seed.is_multiple_of(2));
    let mut author = Author { dice, players, cast, number: 0, in_transaction: false, has_moments };
    (0..cast.turns).map(|_| author.turn()).collect()
}

impl Author {
    fn turn(&mut self) -> Turn {
        self.number = self.dice.below(self.cast.clients);
        let bold = self.players.iter().filter(|player| player.bold.is_some()).count();
        let left = self.player().bold;
        self.in_transaction = left.is_some();
        let deeds = match left {
            Some(0) => self.sober_up(),
            Some(left) => {
                self.player().bold = Some(left - 1);
                vec![self.bold()]
            }
            None if bold < self.cast.bold_max && self.one_in(5) => {
                self.player().bold = Some(2 + self.dice.below(14));
                vec![self.bold()]
            }
            None if self.one_in(60) => vec![self.come_back()],
            None => ended(self.modest()),
        };
        Turn { client: self.number, deeds }
    }

    fn player(&mut self) -> &mut Player {
        &mut self.players[self.number]
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.dice.below(chances) == 0
    }

    fn come_back(&mut self) -> Deed {
        *self.player() = Player::default();
        Deed::Return(self.dice.below(self.cast.packets))
    }

    /// Nothing that it may have left is there any more.
    fn sober_up(&mut self) -> Vec<Deed> {
        if self.player().tainted || self.cast.lends || self.one_in(6) {
            return vec![self.come_back()];
        }
        *self.player() = Player::default();
        let end = frame(b'f', b"enough\0");
        let clean = [vec![end, sync()], vec![query(b"rollback")], vec![query(b"discard all")]];
        clean.into_iter().map(Deed::Say).collect()
    }

    fn modest(&mut self) -> Vec<Deed> {
        match self.dice.below(12) {
            0 | 1 => self.transaction(),
            2 => {
                // Several batches on their way at once.
                let batches = 2 + self.dice.below(4);
                let frames = (0..batches).flat_map(|_| self.batch(&[words::PLAIN, words::ALONE])).collect();
                vec![Deed::Say(frames)]
            }
            3 => vec![Deed::Say(self.copy())],
            4 => vec![Deed::Say(self.oddity())],
            5 if self.cast.lends => {
                let texts: Vec<&str> = words::PLAIN.iter().copied().filter(|text| goes_back(text)).collect();
                let at = self.dice.below(texts.len());
                let text = self.fill(texts[at]);
                vec![Deed::Say(vec![query(&text)])]
            }
            _ => vec![Deed::Say(self.batch(&[words::PLAIN, words::PLAIN, words::ALONE]))],
        }
    }

    /// A whole transaction, of which nothing is left, in several round trips or in one.
    fn transaction(&mut self) -> Vec<Deed> {
        self.in_transaction = true;
        let undone = self.one_in(2);
        let lists: &[_] = if undone { &[words::PLAIN, words::UNDONE] } else { &[words::PLAIN] };
        let begin = [
            "begin",
            "begin",
            "begin; set transaction isolation level repeatable read",
            "start transaction isolation level serializable read only",
        ];
        let mut batches = vec![vec![query(begin[self.dice.below(begin.len())].as_bytes())]];
        for _ in 0..=self.dice.below(6) {
            batches.push(self.batch(lists));
        }
        batches.push(vec![query(if undone { b"rollback" } else { b"commit" })]);
        if self.one_in(3) {
            return vec![Deed::Say(batches.concat())];
        }
        batches.into_iter().map(Deed::Say).collect()
    }

    fn bold(&mut self) -> Deed {
        if self.player().copying {
            return Deed::Say(self.more_copy());
        }
        let everything =
            [words::PLAIN, words::ALONE, words::UNDONE, words::HOLDS, words::HOLDS, words::HOLDS];
        Deed::Say(match self.dice.below(16) {
            0 | 1 => self.unsynced(&everything),
            2 => self.portals(),
            3 => {
                self.player().copying = true;
                let table = self.fill("copy public.log_{c} from stdin");
                if self.one_in(2) {
                    vec![query(&table)]
                } else {
                    [whole(&table), vec![frame(b'H', b"")]].concat()
                }
            }
            4 => {
                self.player().tainted = true;
                self.batch(&[words::TAINTS])
            }
            5 => {
                let batches = 2 + self.dice.below(4);
                (0..batches).flat_map(|_| self.batch(&everything)).collect()
            }
            6 => self.copy(),
            7 => self.oddity(),
            _ => self.batch(&everything),
        })
    }

    /// One batch, of which the end is a Query or a Sync.
    fn batch(&mut self, lists: &[&[&str]]) -> Vec<Vec<u8>> {
        let text = self.text(lists);
        let mut frames = match self.dice.below(16) {
            0..=5 => return vec![query(&text)],
            6 | 7 => self.whole(&text),
            8 => vec![self.parse(&text)],
            9 => {
                let text = self.text(&[words::PARAMETERS]);
                vec![self.parse(&text)]
            }
            10 => vec![self.close()],
            11 => vec![self.describe()],
            12 => {
                let text = self.text(&[words::PARAMETERS]);
                let parse = self.parse(&text);
                [vec![parse], self.run()].concat()
            }
            13 => {
                // An error somewhere, and what follows it is skipped, a Query too.
                let (before, behind) = (self.part(lists), self.part(lists));
                let bad = [self.parse(b"selekt"), self.run_of(b"nowhere"), query(b"select 1 / 0")];
                let bad = bad[self.dice.below(bad.len())].clone();
                [before, vec![bad], behind, if self.one_in(2) { vec![query(&text)] } else { vec![] }].concat()
            }
            14 => [self.part(lists), self.part(lists), self.part(lists)].concat(),
            _ => self.run(),
        };
        if self.one_in(8) {
            frames.push(frame(b'H', b""));
        }
        frames.push(sync());
        if self.one_in(16) {
            frames.push(sync());
        }
        frames
    }

    /// A few extended messages without an end.
    fn part(&mut self, lists: &[&[&str]]) -> Vec<Vec<u8>> {
        let text = self.text(lists);
        match self.dice.below(6) {
            0 => vec![self.parse(&text)],
            1 => self.whole(&text),
            2 => vec![self.describe()],
            3 => vec![self.close()],
            _ => self.run(),
        }
    }

    /// Messages without a Sync behind them; with a Flush, or not even that, where nobody else can tell when they are read.
    fn unsynced(&mut self, lists: &[&[&str]]) -> Vec<Vec<u8>> {
        let mut frames = self.part(lists);
        if self.one_in(3) {
            frames.extend(self.part(lists));
        }
        let locks = frames.iter().any(|frame| b"PBE".contains(&frame[0]));
        if !self.one_in(4) || locks {
            frames.push(frame(b'H', b""));
        }
        frames
    }

    /// The unnamed statement from Parse to Execute.
    fn whole(&mut self, text: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = whole(text);
        if self.one_in(4) {
            frames.insert(1, frame(b'D', b"S\0"));
        }
        if self.one_in(4) {
            frames.remove(frames.len() - 2);
        }
        frames
    }

    /// A statement that was prepared, perhaps, from Bind to Execute.
    fn run(&mut self) -> Vec<Vec<u8>> {
        let name = self.name();
        let bind = self.run_of(&name);
        let mut frames = vec![bind];
        if self.one_in(2) {
            frames.push(frame(b'D', b"P\0"));
        }
        let rows = [0, 0, 1, 2][self.dice.below(4)];
        frames.push(execute(b"", rows));
        if rows > 0 {
            frames.push(execute(b"", 0));
        }
        frames
    }

    fn run_of(&mut self, name: &[u8]) -> Vec<u8> {
        let values: [&[&[u8]]; 5] = [&[], &[b"1"], &[b"2"], &[b"x"], &[b"1", b"2"]];
        let values = values[self.dice.below(values.len())];
        bind(b"", name, values, self.one_in(4))
    }

    /// But for tables that come and go, where a server that has to prepare its statement finds first that one is gone; and
    /// for what runs something else, of which PostgreSQL decides at its Parse whether it returns rows; and for savepoints,
    /// on which PostgreSQL dies where EXECUTE runs them outside a transaction.
    fn parse(&mut self, text: &[u8]) -> Vec<u8> {
        let is_settled = |word: &[u8]| !text.windows(word.len()).any(|part| part == word);
        let is_settled = [&b"made_"[..], b"fetch", b"execute", b"savepoint a", b"release a", b"rollback to"]
            .into_iter()
            .all(is_settled);
        let text = if is_settled { text } else { b"select 1" };
        let types: &[u32] = [&[][..], &[], &[], &[25], &[23, 25], &[0]][self.dice.below(6)];
        let name = self.name();
        // What is rolled back here, or ends a transaction, is not to be run where it does something else.
        let begins = |list: &&str| text.starts_with(list.split('{').next().unwrap_or_default().as_bytes());
        let is_modest = self.player().bold.is_none();
        let is_of_here = is_modest && words::UNDONE.iter().chain(words::ALONE).any(begins);
        parse(if is_of_here { b"" } else { &name }, text, types)
    }

    fn close(&mut self) -> Vec<u8> {
        let kind = if self.one_in(4) { b'P' } else { b'S' };
        frame(b'C', &[&[kind], self.name().as_slice(), b"\0"].concat())
    }

    fn describe(&mut self) -> Vec<u8> {
        let kind = if self.one_in(6) { b'P' } else { b'S' };
        frame(b'D', &[&[kind], self.name().as_slice(), b"\0"].concat())
    }

    /// Portals with names and row limits, which live until their transaction ends.
    fn portals(&mut self) -> Vec<Vec<u8>> {
        let portal = [&b"p"[..], b"q", b"slow"][self.dice.below(3)];
        let rows = 1 + u32::from(self.one_in(2));
        let mut frames = match self.dice.below(4) {
            0 => {
                let name = self.name();
                let text = self.fill("select n, current_setting('work_mem') from generate_series(1, 9) n");
                vec![parse(&name, &text, &[]), bind(portal, &name, &[], false), execute(portal, rows)]
            }
            1 => vec![execute(portal, rows)],
            2 => vec![frame(b'D', &[b"P", portal, b"\0"].concat()), execute(portal, 0)],
            _ => vec![frame(b'C', &[b"P", portal, b"\0"].concat())],
        };
        frames.push(sync());
        frames
    }

    /// A COPY from the client that comes to its end.
    fn copy(&mut self) -> Vec<Vec<u8>> {
        let tables =
            ["public.log_{c}", "public.log_{c} (n)", "nowhere", "public.log_{o} (n)", "public.log_{c} (m)"]
                [self.dice.below(5)];
        let text = self.fill(&format!("copy {tables} from stdin"));
        let is_simple = self.one_in(2);
        let data = [&b"1\n2\n"[..], b"7\n", b"12\n3", b"", b"\\.\n", b"x\n", b"1\t2\n"];
        let which = self.dice.below(data.len());
        let (data, fails) = (data[which], which > 4 || self.one_in(4));
        // Where a COPY fails, nobody knows whether a Sync in it was read as part of it, so its client keeps its server
        // until it has said something more.
        let may_hold = self.in_transaction || !fails;
        let mut frames = if is_simple { vec![query(&text)] } else { whole(&text) };
        if !is_simple && may_hold && self.one_in(2) {
            frames.push(sync()); // Read as part of the copy, and ignored.
        }
        frames.push(frame(b'd', data));
        if self.one_in(3) {
            frames.push(frame(b'd', b"4\n"));
        }
        frames.push(if fails && which < 5 { frame(b'f', b"no more\0") } else { frame(b'c', b"") });
        if !is_simple {
            frames.extend([sync(), parse(b"", b"select 1", &[]), sync()]); // So that nobody binds the COPY again.
        }
        frames
    }

    fn more_copy(&mut self) -> Vec<Vec<u8>> {
        let end = match self.dice.below(4) {
            0 => return vec![frame(b'd', b"5\n")],
            1 => frame(b'f', b"no more\0"),
            _ => frame(b'c', b""),
        };
        self.player().copying = false;
        let data = frame(b'd', [&b"6\n"[..], b"x\n"][self.dice.below(2)]);
        vec![data, end, sync(), parse(b"", b"select 1", &[]), sync()]
    }

    /// What is legal and seldom said.
    fn oddity(&mut self) -> Vec<Vec<u8>> {
        match self.dice.below(8) {
            0 => vec![sync(), sync()],
            1 => vec![frame(b'd', b"stray\n"), frame(b'c', b""), sync()],
            2 => vec![frame(b'f', b"stray\0"), query(b"select 1")],
            3 => vec![call(1397, &[b"-5"])],
            4 => vec![call(2078, &[b"work_mem", b"3MB", b"f"])],
            5 => vec![call(4_000_000, &[]), query(b"show work_mem")],
            6 => vec![
                execute(b"nothing", 0),
                frame(b'C', b"Pnothing\0"),
                sync(),
                frame(b'C', b"Snothing\0"),
                sync(),
            ],
            _ => {
                let text = self.text(&[words::PLAIN]);
                vec![parse(b"", &text, &[]), query(b"select 1"), bind(b"", b"", &[], false), sync()]
            }
        }
    }

    fn name(&mut self) -> Vec<u8> {
        let at = if self.one_in(3) { self.dice.below(words::NAMES.len()) } else { self.dice.below(3) };
        words::NAMES[at].as_bytes().to_vec()
    }

    fn text(&mut self, lists: &[&[&str]]) -> Vec<u8> {
        loop {
            let list = lists[self.dice.below(lists.len())];
            let text = list[self.dice.below(list.len())];
            let has = |words: &[&str]| words.iter().any(|words| text.contains(words));
            // What is committed here would leave statements that can be prepared no more, or not as they were.
            let is_kept = self.player().bold.is_some();
            let changes = has(&["drop table public.log", "alter table public.log"]);
            let is_absent = has(if self.has_moments { &TEMPORARY } else { &["timestamptz"] });
            if (is_kept && changes) || (self.cast.lends && goes_back(text)) || is_absent {
                continue;
            }
            return self.fill(text);
        }
    }

    fn fill(&mut self, text: &str) -> Vec<u8> {
        let other = self.dice.below(self.cast.clients).to_string();
        let small = (1 + self.dice.below(3)).to_string();
        let name = words::NAMES[1 + self.dice.below(words::NAMES.len() - 1)].replace('"', "\"\"");
        let text = text
            .replace("{c}", &self.number.to_string())
            .replace("{o}", &other)
            .replace("{n}", &small)
            .replace("{s}", &format!("\"{name}\""))
            .replace("{enc}", words::ENCODINGS[self.dice.below(words::ENCODINGS.len())])
            .replace("{odd}", words::ODD_ENCODINGS[self.dice.below(words::ODD_ENCODINGS.len())]);
        let beyond = words::BEYOND_ASCII[self.dice.below(words::BEYOND_ASCII.len())];
        text.split("{hi}").map(str::as_bytes).collect::<Vec<_>>().join(beyond)
    }
}

/// What is begun and fails before its own end, in a text of several statements, is ended.
fn ended(mut deeds: Vec<Deed>) -> Vec<Deed> {
    let begins = |frame: &Vec<u8>| frame.starts_with(b"Q") && frame[5..].starts_with(b"begin;");
    let may_stay = |deed: &Deed| matches!(deed, Deed::Say(frames) if frames.iter().any(begins));
    if deeds.iter().any(may_stay) {
        deeds.push(Deed::Say(vec![query(b"rollback")]));
    }
    deeds
}

/// What makes a session's temporary schema.
const TEMPORARY: [&str; 4] = ["temp table", "temp view", "temp mine", "pg_temp.mine() returns"];

/// Whether a text may set something back to what its session began with.
fn goes_back(text: &str) -> bool {
    ["reset", "default", "none", "time zone local", "discard all"].iter().any(|words| text.contains(words))
}

fn query(text: &[u8]) -> Vec<u8> {
    frame(b'Q', &[text, b"\0"].concat())
}

fn sync() -> Vec<u8> {
    frame(b'S', b"")
}

fn whole(text: &[u8]) -> Vec<Vec<u8>> {
    vec![parse(b"", text, &[]), bind(b"", b"", &[], false), frame(b'D', b"P\0"), execute(b"", 0)]
}

fn parse(name: &[u8], text: &[u8], types: &[u32]) -> Vec<u8> {
    let mut body = [name, b"\0", text, b"\0"].concat();
    body.extend(count(types.len()));
    body.extend(types.iter().flat_map(|oid| oid.to_be_bytes()));
    frame(b'P', &body)
}

fn bind(portal: &[u8], statement: &[u8], values: &[&[u8]], binary: bool) -> Vec<u8> {
    let mut body = [portal, b"\0", statement, b"\0", &count(0), &count(values.len())].concat();
    body.extend(values.iter().flat_map(|value| sized(value)));
    body.extend(count(usize::from(binary)));
    body.extend(binary.then_some([0, 1]).into_iter().flatten());
    frame(b'B', &body)
}

fn execute(portal: &[u8], rows_max: u32) -> Vec<u8> {
    frame(b'E', &[portal, b"\0", &rows_max.to_be_bytes()].concat())
}

/// FunctionCall with arguments in text form.
fn call(function: u32, arguments: &[&[u8]]) -> Vec<u8> {
    let mut body = [&function.to_be_bytes()[..], &count(0), &count(arguments.len())].concat();
    body.extend(arguments.iter().flat_map(|argument| sized(argument)));
    body.extend(count(0));
    frame(b'F', &body)
}

fn sized(value: &[u8]) -> Vec<u8> {
    [&u32::try_from(value.len()).expect("a short value").to_be_bytes(), value].concat()
}

fn count(count: usize) -> [u8; 2] {
    u16::try_from(count).expect("few").to_be_bytes()
}
