//! A toy PostgreSQL: one session, real frames, no sockets and no clock. What it does with a message is what
//! PostgreSQL 15 does, as far as a client of pooled servers could tell the difference.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::rc::Rc;

use stagedoor::wire::frontend;
use stagedoor::wire::frontend::Target;
use stagedoor::wire::message::push_frame;

use crate::language::Column;
use crate::language::Error;
use crate::language::Statement;
use crate::language::Value;
use crate::language::error;
use crate::language::read;
use crate::settings::Settings;
use crate::settings::Values;

/// What all sessions of a world share: rows that were committed, and sequences.
#[derive(Debug, Default)]
pub struct Database {
    pub tables: BTreeMap<String, Vec<String>>,
    sequences: BTreeMap<String, i64>,
}

/// A statement as it was analysed.
#[derive(Clone, Debug)]
struct Plan {
    /// `None` for an empty one.
    statement: Option<Rc<Statement>>,
    search_path: String,
    zone: String,
    from_sql: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Idle,
    /// One that a message began.
    Started,
    /// One that a text of several statements began.
    Implicit,
    Open,
    Failed,
}

/// What a transaction takes back where it fails.
#[derive(Clone, Debug, Default)]
struct Undo {
    values: Values,
    /// Temporary tables, and whether they end with the transaction.
    tables: BTreeMap<String, bool>,
    /// LISTEN and UNLISTEN that wait for the end.
    listens: Vec<(bool, Option<String>)>,
    notifies: Vec<String>,
    rows: Vec<(String, String)>,
}

#[derive(Debug)]
struct Portal {
    plan: Plan,
    /// Those that were not fetched; `None` before it has run.
    rows: Option<VecDeque<Row>>,
    done: bool,
    failed: bool,
    hold: bool,
    /// The depth of savepoints that it was made in; 0 for one that outlives transactions.
    depth: usize,
}

type Row = Vec<Option<String>>;

#[derive(Debug)]
struct Copy {
    table: String,
    rows: Vec<String>,
    /// What follows in the text; `None` in the extended protocol.
    rest: Option<(Rc<Vec<Rc<Statement>>>, usize)>,
}

/// What a statement gave.
struct Outcome {
    rows: Option<Vec<Row>>,
    tag: String,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    database: Rc<RefCell<Database>>,
    settings: Settings,
    block: Block,
    /// As it was when the transaction began, and at each savepoint.
    saved: Vec<(String, Undo)>,
    undo: Undo,
    statements: BTreeMap<Vec<u8>, Plan>,
    portals: BTreeMap<Vec<u8>, Portal>,
    channels: BTreeSet<String>,
    locks: BTreeMap<String, usize>,
    current: BTreeMap<String, i64>,
    seed: String,
    libraries: BTreeSet<String>,
    skipping: bool,
    copy: Option<Copy>,
    /// Executed since the last Sync, so that this is a pipeline.
    piped: bool,
    out: VecDeque<Vec<u8>>,
    /// How many of `out` were flushed.
    flushed: usize,
    /// Its client has said goodbye.
    ended: bool,
    /// It was told something that ends the connection.
    confused: bool,
}

impl Session {
    pub fn new(database: Rc<RefCell<Database>>, startup: &[(String, String)]) -> Self {
        let mut settings = Settings::new(startup.iter().cloned().collect());
        let _ = settings.news();
        Self {
            database,
            settings,
            block: Block::Idle,
            saved: Vec::new(),
            undo: Undo::default(),
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
            channels: BTreeSet::new(),
            locks: BTreeMap::new(),
            current: BTreeMap::new(),
            seed: String::new(),
            libraries: BTreeSet::new(),
            skipping: false,
            copy: None,
            piped: false,
            out: VecDeque::new(),
            flushed: 0,
            ended: false,
            confused: false,
        }
    }

    /// What it reports at login.
    pub fn greeting(startup: &[(String, String)]) -> Vec<(&'static str, String)> {
        Settings::new(startup.iter().cloned().collect()).news()
    }

    /// The next frame that was sent, if there is one.
    pub fn say(&mut self) -> Option<Vec<u8>> {
        self.flushed = self.flushed.checked_sub(1)?;
        self.out.pop_front()
    }

    /// What it keeps to itself until it is asked.
    pub fn unsent(&self) -> Vec<u8> {
        self.out.iter().skip(self.flushed).flatten().copied().collect()
    }

    pub fn has_said(&self) -> bool {
        self.flushed > 0
    }

    /// Whether it has ended, and said all that it will.
    pub fn is_over(&self) -> bool {
        self.ended && self.flushed == 0
    }

    /// Whether it was told what no client says, and PostgreSQL would have ended: during a copy.
    pub const fn is_confused(&self) -> bool {
        self.confused
    }

    /// What another client would find here, beside settings.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        let mut note = |is: bool, what: String| left.extend(is.then_some(what));
        note(self.block != Block::Idle, format!("a transaction: {:?}", self.block));
        note(self.skipping || self.copy.is_some(), "it waits for a message".to_owned());
        note(!self.out.is_empty(), "it has not said all".to_owned());
        note(!self.undo.tables.is_empty(), format!("tables {:?}", self.undo.tables));
        note(!self.portals.is_empty(), format!("portals {:?}", self.portals.keys()));
        note(!self.channels.is_empty(), format!("channels {:?}", self.channels));
        note(!self.locks.is_empty(), format!("locks {:?}", self.locks));
        note(!self.seed.is_empty(), "a seed".to_owned());
        note(!self.libraries.is_empty(), "libraries".to_owned());
        left
    }

    /// Names of prepared statements.
    pub fn statements(&self) -> impl Iterator<Item = &[u8]> {
        self.statements.keys().map(Vec::as_slice)
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// One message from the client.
    pub fn hear(&mut self, tag: u8, body: &[u8]) {
        if tag == b'X' {
            if self.copy.is_some() {
                self.lose("08P01", "unexpected message type 0x58 during COPY from stdin");
            }
            return self.end();
        }
        if self.copy.is_some() {
            return self.hear_copy(tag, body);
        }
        if self.skipping && tag != b'S' {
            return;
        }
        match tag {
            b'Q' => self.query(frontend::query(body)),
            b'F' => self.call(),
            b'S' => {
                self.skipping = false;
                self.finish();
                self.ready();
            }
            b'H' => self.flush(),
            b'P' | b'B' | b'D' | b'E' | b'C' => {
                let result = match tag {
                    b'P' => self.parse(body),
                    b'B' => self.bind(body),
                    b'D' => self.describe(body),
                    b'E' => self.execute(body),
                    _ => self.close(body),
                };
                if let Err(error) = result {
                    self.skipping = true;
                    self.fail(&error);
                }
            }
            _ => {}
        }
    }

    /// The client's connection has ended.
    pub fn hear_the_end(&mut self) {
        if self.copy.is_some() {
            self.lose("08006", "unexpected EOF on client connection with an open transaction");
        }
        self.end();
    }

    fn lose(&mut self, code: &'static str, message: &str) {
        self.complain(b'E', "ERROR", &error(code, message));
        let fatal = "terminating connection because protocol synchronization was lost";
        self.complain(b'E', "FATAL", &error("08P01", fatal));
        self.flush();
    }

    fn end(&mut self) {
        self.ended = true;
        self.out.truncate(self.flushed);
    }

    fn push(&mut self, tag: u8, parts: &[&[u8]]) {
        let mut frame = Vec::new();
        push_frame(&mut frame, tag, parts);
        self.out.push_back(frame);
    }

    fn flush(&mut self) {
        self.flushed = self.out.len();
    }

    fn ready(&mut self) {
        if self.block == Block::Idle {
            for channel in std::mem::take(&mut self.undo.notifies) {
                if self.channels.contains(&channel) {
                    self.push(b'A', &[&[0; 4], channel.as_bytes(), b"\0\0"]);
                }
            }
        }
        for (name, value) in self.settings.news() {
            self.push(b'S', &[name.as_bytes(), b"\0", value.as_bytes(), b"\0"]);
        }
        let status = match self.block {
            Block::Open => b"T",
            Block::Failed => b"E",
            Block::Idle | Block::Started | Block::Implicit => b"I",
        };
        self.piped = false;
        self.push(b'Z', &[status]);
        self.flush();
    }

    /// An error of this transaction.
    fn fail(&mut self, error: &Error) {
        self.complain(b'E', "ERROR", error);
        self.flush();
        self.copy = None;
        self.piped = false;
        match self.block {
            Block::Idle | Block::Failed => {}
            Block::Started | Block::Implicit => self.roll_back(),
            Block::Open => {
                let depth = self.saved.len();
                if let Some((_, undo)) = self.saved.last() {
                    let undo = undo.clone();
                    self.restore(undo);
                }
                // They are there until the end, and nobody can run them.
                self.portals.values_mut().for_each(|portal| portal.failed |= portal.depth >= depth);
                self.block = Block::Failed;
            }
        }
    }

    fn complain(&mut self, tag: u8, severity: &str, error: &Error) {
        let [code, message] = [error.code.as_bytes(), error.message.as_bytes()];
        self.push(tag, &[b"S", severity.as_bytes(), b"\0C", code, b"\0M", message, b"\0\0"]);
    }

    fn warn(&mut self, code: &'static str, message: &str) {
        self.complain(b'N', "WARNING", &error(code, message));
        self.flush();
    }

    // ── transactions ──

    fn start(&mut self) {
        if self.block == Block::Idle {
            self.block = Block::Started;
            self.undo.values = self.settings.values.clone();
            self.saved = vec![(String::new(), self.undo.clone())];
        }
    }

    fn restore(&mut self, undo: Undo) {
        self.settings.values = undo.values.clone();
        self.undo = undo;
    }

    fn finish(&mut self) {
        if matches!(self.block, Block::Started | Block::Implicit) {
            self.commit();
        }
    }

    fn commit(&mut self) {
        self.block = Block::Idle;
        self.saved.clear();
        self.settings.commit();
        self.undo.tables.retain(|_, drops| !*drops);
        for (listens, channel) in std::mem::take(&mut self.undo.listens) {
            match (listens, channel) {
                (true, Some(channel)) => drop(self.channels.insert(channel)),
                (_, Some(channel)) => drop(self.channels.remove(&channel)),
                (_, None) => self.channels.clear(),
            }
        }
        for (table, value) in std::mem::take(&mut self.undo.rows) {
            self.database.borrow_mut().tables.entry(table).or_default().push(value);
        }
        self.portals.retain(|_, portal| portal.hold);
        self.portals.values_mut().for_each(|portal| portal.depth = 0);
    }

    fn roll_back(&mut self) {
        self.block = Block::Idle;
        if !self.saved.is_empty() {
            let (_, undo) = self.saved.swap_remove(0);
            self.restore(undo);
        }
        self.saved.clear();
        self.portals.retain(|_, portal| portal.depth == 0);
    }

    fn savepoint(&self, name: &str) -> Result<usize, Error> {
        let at = self.saved.iter().rposition(|(known, _)| known == name);
        at.ok_or_else(|| error("3B001", format!("savepoint \"{name}\" does not exist")))
    }

    fn control(&mut self, statement: &Statement) -> Result<&'static str, Error> {
        let in_block = matches!(self.block, Block::Open | Block::Failed);
        let needs_block = |what: &str| {
            let words = format!("{what} can only be used in transaction blocks");
            if in_block { Ok(()) } else { Err(error("25P01", words)) }
        };
        Ok(match statement {
            Statement::Begin => {
                if in_block {
                    self.warn("25001", "there is already a transaction in progress");
                }
                self.block = Block::Open;
                "BEGIN"
            }
            Statement::Commit | Statement::Rollback => {
                if !in_block {
                    self.warn("25P01", "there is no transaction in progress");
                }
                if *statement == Statement::Commit && self.block != Block::Failed {
                    self.commit();
                    return Ok("COMMIT");
                }
                self.roll_back();
                "ROLLBACK"
            }
            Statement::Savepoint(name) => {
                needs_block("SAVEPOINT")?;
                self.undo.values = self.settings.values.clone();
                self.saved.push((name.clone(), self.undo.clone()));
                "SAVEPOINT"
            }
            Statement::RollbackTo(name) => {
                needs_block("ROLLBACK TO SAVEPOINT")?;
                let at = self.savepoint(name)?;
                self.saved.truncate(at + 1);
                self.portals.retain(|_, portal| portal.depth <= at);
                let undo = self.saved[at].1.clone();
                self.restore(undo);
                self.block = Block::Open;
                "ROLLBACK"
            }
            Statement::Release(name) => {
                needs_block("RELEASE SAVEPOINT")?;
                let at = self.savepoint(name)?;
                self.saved.truncate(at);
                self.portals.values_mut().for_each(|portal| portal.depth = portal.depth.min(at));
                "RELEASE"
            }
            _ => "",
        })
    }

    /// In a transaction that has failed only its end is allowed.
    fn allow(&self, statement: &Statement) -> Result<(), Error> {
        let failed = "current transaction is aborted, commands ignored until end of transaction block";
        let allowed = self.block != Block::Failed || statement.is_exit();
        if allowed { Ok(()) } else { Err(error("25P02", failed)) }
    }

    // ── simple queries ──

    fn query(&mut self, text: &[u8]) {
        self.start();
        self.statements.remove(&b""[..]);
        match read(text) {
            Err(error) => {
                self.fail(&error);
                self.ready();
            }
            Ok(list) if list.is_empty() => {
                self.finish();
                self.push(b'I', &[]);
                self.ready();
            }
            Ok(list) => self.run_list(&list, 0),
        }
    }

    fn run_list(&mut self, list: &Rc<Vec<Rc<Statement>>>, from: usize) {
        for (at, statement) in list.iter().enumerate().skip(from) {
            match self.run_simply(statement, list.len() > 1) {
                Ok(()) if self.copy.is_some() => {
                    if let Some(copy) = &mut self.copy {
                        copy.rest = Some((list.clone(), at + 1));
                    }
                    return;
                }
                Ok(()) => {}
                Err(error) => {
                    self.fail(&error);
                    return self.ready();
                }
            }
        }
        self.finish();
        self.ready();
    }

    fn run_simply(&mut self, statement: &Rc<Statement>, of_many: bool) -> Result<(), Error> {
        self.allow(statement)?;
        self.start();
        if of_many && self.block == Block::Started {
            self.block = Block::Implicit;
        }
        let plan = self.analyse(Some(statement.clone()))?;
        self.portals.remove(&b""[..]);
        let plan = self.planned(plan)?;
        let rows = self.returns(&plan);
        let described = self.out.len();
        let depth = self.saved.len();
        let portal =
            Portal { plan: plan.clone(), rows: None, done: false, failed: false, hold: false, depth };
        self.portals.insert(Vec::new(), portal);
        let outcome = self.run(&plan);
        if outcome.is_ok() {
            self.portals.remove(&b""[..]);
        }
        if let Some(count) = rows.filter(|_| outcome.is_ok() || statement.is_planned()) {
            self.describe_rows(count);
            // Before whatever was said meanwhile.
            self.out.make_contiguous()[described..].rotate_right(1);
        }
        let outcome = outcome?;
        for row in outcome.rows.iter().flatten() {
            self.push_row(row);
        }
        if self.copy.is_none() {
            self.push(b'C', &[outcome.tag.as_bytes(), b"\0"]);
        }
        Ok(())
    }

    /// A function call: the old way, which no driver uses.
    fn call(&mut self) {
        if let Err(error) = self.allow(&Statement::ResetAll) {
            self.fail(&error);
            return self.ready();
        }
        self.start();
        self.push(b'V', &[&17_i32.to_be_bytes(), b"3.141592653589793"]);
        self.finish();
        self.ready();
    }

    // ── extended queries ──

    fn parse(&mut self, body: &[u8]) -> Result<(), Error> {
        let (name, text) = frontend::parse(body).unwrap_or_default();
        self.start();
        if name.is_empty() {
            self.statements.remove(name);
        }
        let list = read(text)?;
        if list.len() > 1 {
            return Err(error("42601", "cannot insert multiple commands into a prepared statement"));
        }
        if let Some(statement) = list.first() {
            self.allow(statement)?;
        }
        let plan = self.analyse(list.first().cloned())?;
        self.store(name, plan)?;
        self.push(b'1', &[]);
        Ok(())
    }

    fn store(&mut self, name: &[u8], plan: Plan) -> Result<(), Error> {
        if !name.is_empty() && self.statements.contains_key(name) {
            let name = String::from_utf8_lossy(name);
            return Err(error("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        self.statements.insert(name.to_vec(), plan);
        Ok(())
    }

    fn find(&self, name: &[u8]) -> Result<&Plan, Error> {
        self.statements.get(name).ok_or_else(|| {
            if name.is_empty() {
                return error("26000", "unnamed prepared statement does not exist");
            }
            error("26000", format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name)))
        })
    }

    fn bind(&mut self, body: &[u8]) -> Result<(), Error> {
        let (portal, name, rest) = frontend::bind(body).unwrap_or_default();
        self.start();
        let plan = self.find(name)?.clone();
        let given = rest.get(2..4).map_or(0, |count| u16::from_be_bytes([count[0], count[1]]));
        if given > 0 {
            let words = format!(
                "bind message supplies {given} parameters, but prepared statement \"{}\" requires 0",
                String::from_utf8_lossy(name)
            );
            return Err(error("08P01", words));
        }
        if let Some(statement) = &plan.statement {
            self.allow(statement)?;
        } else {
            self.allow(&Statement::ResetAll)?;
        }
        if portal.is_empty() {
            self.portals.remove(portal);
        } else if self.portals.contains_key(portal) {
            return Err(error(
                "42P03",
                format!("cursor \"{}\" already exists", String::from_utf8_lossy(portal)),
            ));
        }
        let plan = self.refreshed(name, plan)?;
        let plan = self.planned(plan)?;
        let depth = self.saved.len();
        self.portals.insert(
            portal.to_vec(),
            Portal { plan, rows: None, done: false, failed: false, hold: false, depth },
        );
        self.push(b'2', &[]);
        Ok(())
    }

    /// The statement of this name, analysed again where `search_path` has changed.
    fn refreshed(&mut self, name: &[u8], plan: Plan) -> Result<Plan, Error> {
        let plan = self.revalidated(plan)?;
        if let Some(known) = self.statements.get_mut(name) {
            known.clone_from(&plan);
        }
        Ok(plan)
    }

    fn describe(&mut self, body: &[u8]) -> Result<(), Error> {
        self.start();
        let plan = match frontend::target(body) {
            Some(Target::Statement(name)) => {
                let plan = self.find(name)?.clone();
                if self.returns(&plan).is_some() {
                    self.allow(&Statement::ResetAll)?;
                }
                let plan = self.refreshed(name, plan)?;
                self.push(b't', &[b"\0\0"]);
                plan
            }
            Some(Target::Portal(name)) => {
                let plan = self.portals.get(name).ok_or_else(|| no_portal(name))?.plan.clone();
                if self.returns(&plan).is_some() {
                    self.allow(&Statement::ResetAll)?;
                }
                plan
            }
            None => return Err(error("08P01", "invalid DESCRIBE message")),
        };
        match self.returns(&plan) {
            Some(columns) => self.describe_rows(columns),
            None => self.push(b'n', &[]),
        }
        Ok(())
    }

    fn execute(&mut self, body: &[u8]) -> Result<(), Error> {
        let (name, rest) = frontend::cstring(body).unwrap_or_default();
        let limit =
            rest.get(..4).map_or(0, |count| u32::from_be_bytes([count[0], count[1], count[2], count[3]]));
        let limit = if limit == 0 { usize::MAX } else { limit as usize };
        self.start();
        let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
        let Some(statement) = portal.plan.statement.clone() else {
            self.push(b'I', &[]);
            return Ok(());
        };
        // PostgreSQL does not know any more what one that has failed was to do.
        self.allow(if portal.failed { &Statement::ResetAll } else { &statement })?;
        if portal.failed || portal.done && self.returns(&self.portals[name].plan).is_none() {
            let name = String::from_utf8_lossy(name);
            return Err(error("55000", format!("portal \"{name}\" cannot be run")));
        }
        let mut tag = None;
        if self.portals[name].rows.is_none() {
            let plan = self.portals[name].plan.clone();
            let outcome = self.run(&plan)?;
            tag = Some(outcome.tag);
            if let Some(portal) = self.portals.get_mut(name) {
                portal.rows = Some(outcome.rows.unwrap_or_default().into());
                portal.done = self.copy.is_some();
            }
        }
        if self.copy.is_none() {
            self.finish_portal(name, &statement, tag, limit);
        }
        Ok(())
    }

    /// Sends what rows there are, and how it ended.
    fn finish_portal(&mut self, name: &[u8], statement: &Statement, tag: Option<String>, limit: usize) {
        let (mut count, mut suspended) = (0, false);
        if let Some(portal) = self.portals.get_mut(name) {
            let rows = portal.rows.get_or_insert_default();
            let sent: Vec<Row> = rows.drain(..limit.min(rows.len())).collect();
            count = sent.len();
            portal.done = true;
            suspended = count == limit;
            sent.iter().for_each(|row| self.push_row(row));
        }
        if suspended {
            self.push(b's', &[]);
        } else {
            let tag = match tag {
                Some(tag) if !tag.starts_with("SELECT") => tag,
                None if matches!(statement, Statement::Show(_)) => "SHOW".to_owned(),
                Some(_) | None => format!("SELECT {count}"),
            };
            self.push(b'C', &[tag.as_bytes(), b"\0"]);
        }
        if statement.is_of_transaction() || *statement == Statement::Discard("ALL") {
            self.finish();
            self.piped = false;
        } else {
            self.piped = true;
        }
    }

    fn close(&mut self, body: &[u8]) -> Result<(), Error> {
        match frontend::target(body) {
            Some(Target::Statement(name)) => drop(self.statements.remove(name)),
            Some(Target::Portal(name)) => drop(self.portals.remove(name)),
            None => return Err(error("08P01", "invalid CLOSE message")),
        }
        self.push(b'3', &[]);
        Ok(())
    }

    // ── copying in ──

    fn hear_copy(&mut self, tag: u8, body: &[u8]) {
        let Some(copy) = &mut self.copy else { return };
        let is_simple = copy.rest.is_some();
        let failed = match tag {
            b'd' => {
                let text = String::from_utf8_lossy(body).trim_end().to_owned();
                let wrong = text.parse::<i32>().is_err();
                copy.rows.push(text.clone());
                wrong.then(|| error("22P02", format!("invalid input syntax for type integer: \"{text}\"")))
            }
            b'f' => {
                let words = String::from_utf8_lossy(frontend::query(body)).into_owned();
                Some(error("57014", format!("COPY from stdin failed: {words}")))
            }
            b'c' => return self.end_copy(),
            b'H' | b'S' => None,
            _ => {
                self.confused = true;
                None
            }
        };
        if let Some(error) = failed {
            self.skipping = !is_simple;
            self.fail(&error);
            if is_simple {
                self.ready();
            }
        }
    }

    fn end_copy(&mut self) {
        let Some(Copy { table, rows, rest }) = self.copy.take() else { return };
        let tag = format!("COPY {}", rows.len());
        self.undo.rows.extend(rows.into_iter().map(|value| (table.clone(), value)));
        self.push(b'C', &[tag.as_bytes(), b"\0"]);
        match rest {
            Some((list, from)) => self.run_list(&list, from),
            None => self.piped = true,
        }
    }

    // ── rows ──

    fn describe_rows(&mut self, columns: usize) {
        let count = u16::try_from(columns).unwrap_or_default().to_be_bytes();
        self.push(b'T', &[&count]);
    }

    fn push_row(&mut self, row: &Row) {
        let mut body = u16::try_from(row.len()).unwrap_or_default().to_be_bytes().to_vec();
        for value in row {
            let length = value.as_ref().map_or(-1, |value| i32::try_from(value.len()).unwrap_or_default());
            body.extend_from_slice(&length.to_be_bytes());
            body.extend_from_slice(value.as_deref().unwrap_or_default().as_bytes());
        }
        self.push(b'D', &[&body]);
    }

    /// How many columns a statement returns; `None` where it returns no rows.
    fn returns(&self, plan: &Plan) -> Option<usize> {
        match plan.statement.as_deref()? {
            Statement::Row(columns) => Some(columns.len()),
            Statement::Series(_) | Statement::Show(_) => Some(1),
            Statement::Lend(_) => Some(0),
            Statement::Probe { .. } => Some(3),
            Statement::Fetch { name, .. } => self.portals.contains_key(name.as_bytes()).then_some(1),
            Statement::Execute(name) => self.returns(self.statements.get(name.as_bytes())?),
            _ => None,
        }
    }

    // ── statements ──

    fn analyse(&self, statement: Option<Rc<Statement>>) -> Result<Plan, Error> {
        let search_path = self.settings.get("search_path").unwrap_or_default().to_owned();
        if statement.as_ref().is_some_and(|statement| statement.has(&Column::Whose))
            && search_path == "nowhere"
        {
            return Err(error("42P01", "relation \"whose\" does not exist"));
        }
        if let Some(Statement::Show(name)) = statement.as_deref() {
            self.settings.get(name).ok_or_else(|| crate::settings::unknown(name))?;
        }
        let zone = self.settings.get("timezone").unwrap_or_default().to_owned();
        Ok(Plan { statement, search_path, zone, from_sql: false })
    }

    fn revalidated(&self, plan: Plan) -> Result<Plan, Error> {
        let is_planned = plan.statement.as_ref().is_some_and(|statement| statement.is_planned());
        if !is_planned || Some(plan.search_path.as_str()) == self.settings.get("search_path") {
            return Ok(plan);
        }
        let from_sql = plan.from_sql;
        self.analyse(plan.statement).map(|plan| Plan { from_sql, ..plan })
    }

    fn planned(&self, plan: Plan) -> Result<Plan, Error> {
        let fails = plan.statement.as_ref().is_some_and(|statement| statement.has(&Column::Zero));
        if fails { Err(error("22012", "division by zero")) } else { Ok(plan) }
    }

    fn run(&mut self, plan: &Plan) -> Result<Outcome, Error> {
        let Some(statement) = plan.statement.clone() else {
            return Ok(Outcome { rows: None, tag: String::new() });
        };
        let tag = match &*statement {
            Statement::Row(columns) => {
                let row: Result<Row, Error> = columns.iter().map(|column| self.read(column, plan)).collect();
                return Ok(Outcome { rows: Some(vec![row?]), tag: "SELECT 1".to_owned() });
            }
            Statement::Series(count) => {
                let rows = numbers(*count);
                return Ok(Outcome { rows: Some(rows), tag: format!("SELECT {count}") });
            }
            Statement::Lend(settings) => {
                for (name, value) in settings {
                    let value = match value {
                        Value::This(value) => Some(value.as_str()),
                        Value::Of(name) => self.settings.get(name),
                    };
                    let value = value.unwrap_or_default().to_owned();
                    self.settings.set(name, Some(&value), true)?;
                }
                return Ok(Outcome { rows: Some(Vec::new()), tag: "SELECT 0".to_owned() });
            }
            Statement::Probe { ours, custom } => {
                return Ok(Outcome { rows: Some(self.probed(*ours, custom)), tag: "SELECT".to_owned() });
            }
            Statement::Show(name) => {
                let value = self.settings.get(name).ok_or_else(|| crate::settings::unknown(name))?;
                let rows = vec![vec![Some(value.to_owned())]];
                return Ok(Outcome { rows: Some(rows), tag: "SHOW".to_owned() });
            }
            Statement::Execute(name) => return self.run_prepared(name),
            Statement::Fetch { count, name } => return self.fetch(*count, name),
            Statement::CopyIn(table) => {
                self.copy = Some(Copy { table: table.clone(), rows: Vec::new(), rest: None });
                self.push(b'G', &[b"\0\0\x01\0\0"]);
                self.flush();
                "COPY".to_owned()
            }
            Statement::CopyOut(count) => {
                self.push(b'H', &[b"\0\0\x01\0\0"]);
                (1..=*count).for_each(|number| self.push(b'd', &[format!("{number}\n").as_bytes()]));
                self.push(b'c', &[]);
                format!("COPY {count}")
            }
            of_transaction if of_transaction.is_of_transaction() => self.control(of_transaction)?.to_owned(),
            other => self.change(other)?.to_owned(),
        };
        Ok(Outcome { rows: None, tag })
    }

    fn run_prepared(&mut self, name: &str) -> Result<Outcome, Error> {
        let plan = self.find(name.as_bytes())?.clone();
        let plan = self.refreshed(name.as_bytes(), plan)?;
        let plan = self.planned(plan)?;
        if plan.statement.as_deref() == Some(&Statement::Discard("ALL")) {
            return Err(error("25001", "DISCARD ALL cannot be executed from a function"));
        }
        self.run(&plan)
    }

    fn fetch(&mut self, count: usize, name: &str) -> Result<Outcome, Error> {
        let portal = self.portals.get_mut(name.as_bytes()).ok_or_else(|| no_cursor(name))?;
        let rows = portal.rows.get_or_insert_default();
        let rows: Vec<Row> = rows.drain(..count.min(rows.len())).collect();
        let tag = format!("FETCH {}", rows.len());
        Ok(Outcome { rows: Some(rows), tag })
    }

    fn is_in_block(&self) -> bool {
        !matches!(self.block, Block::Idle | Block::Started)
    }

    /// Statements that change the session, or a table.
    fn change(&mut self, statement: &Statement) -> Result<&'static str, Error> {
        Ok(match statement {
            Statement::Set { name, value, local, tag } => {
                if *local && !self.is_in_block() {
                    self.warn("25P01", "SET LOCAL can only be used in transaction blocks");
                }
                self.settings.set(name, value.as_deref(), *local)?;
                tag
            }
            Statement::Do { name, value, local } => {
                self.settings.set(name, Some(value), *local)?;
                "DO"
            }
            Statement::ResetAll => {
                self.settings.reset_all();
                "RESET"
            }
            Statement::Discard(what) => return self.discard(what),
            Statement::CreateTemp { name, drops } => {
                if self.undo.tables.contains_key(name) {
                    return Err(error("42P07", format!("relation \"{name}\" already exists")));
                }
                self.undo.tables.insert(name.clone(), *drops);
                "CREATE TABLE"
            }
            Statement::Drop(name) => {
                let gone = self.undo.tables.remove(name);
                gone.ok_or_else(|| error("42P01", format!("table \"{name}\" does not exist")))?;
                "DROP TABLE"
            }
            Statement::Listen(channel) => {
                self.undo.listens.push((true, Some(channel.clone())));
                "LISTEN"
            }
            Statement::Unlisten(channel) => {
                self.undo.listens.push((false, channel.clone()));
                "UNLISTEN"
            }
            Statement::Notify(channel) => {
                if !self.undo.notifies.contains(channel) {
                    self.undo.notifies.push(channel.clone());
                }
                "NOTIFY"
            }
            Statement::Declare { name, hold, rows } => self.declare(name, *hold, *rows)?,
            Statement::CloseCursor(None) => {
                self.portals.clear();
                "CLOSE CURSOR ALL"
            }
            Statement::CloseCursor(Some(name)) => {
                self.portals.remove(name.as_bytes()).ok_or_else(|| no_cursor(name))?;
                "CLOSE CURSOR"
            }
            Statement::Prepare { name, what } => {
                let plan = Plan { from_sql: true, ..self.analyse(Some(what.clone()))? };
                self.store(name.as_bytes(), plan)?;
                "PREPARE"
            }
            Statement::Deallocate(None) => {
                self.statements.retain(|name, _| name.is_empty());
                "DEALLOCATE ALL"
            }
            Statement::Deallocate(Some(name)) => {
                self.find(name.as_bytes())?;
                self.statements.remove(name.as_bytes());
                "DEALLOCATE"
            }
            Statement::Load(library) => {
                self.libraries.insert(library.clone());
                "LOAD"
            }
            Statement::Insert { table, value } => {
                self.undo.rows.push((table.clone(), value.clone()));
                "INSERT 0 1"
            }
            _ => "",
        })
    }

    fn declare(&mut self, name: &str, hold: bool, rows: usize) -> Result<&'static str, Error> {
        if !hold && !self.is_in_block() {
            return Err(error("25P01", "DECLARE CURSOR can only be used in transaction blocks"));
        }
        if self.portals.contains_key(name.as_bytes()) {
            return Err(error("42P03", format!("cursor \"{name}\" already exists")));
        }
        let plan = self.analyse(Some(Rc::new(Statement::Series(rows))))?;
        let rows = Some(numbers(rows).into());
        let portal = Portal { plan, rows, done: false, failed: false, hold, depth: self.saved.len() };
        self.portals.insert(name.as_bytes().to_vec(), portal);
        Ok("DECLARE CURSOR")
    }

    fn discard(&mut self, what: &str) -> Result<&'static str, Error> {
        match what {
            "ALL" => {
                if matches!(self.block, Block::Open | Block::Implicit) {
                    return Err(error("25001", "DISCARD ALL cannot run inside a transaction block"));
                }
                if self.piped {
                    return Err(error("25001", "DISCARD ALL cannot be executed within a pipeline"));
                }
                self.portals.clear();
                self.settings.set("role", None, false)?;
                self.settings.reset_all();
                self.statements.retain(|name, _| name.is_empty());
                self.undo.listens.push((false, None));
                self.locks.clear();
                self.undo.tables.clear();
                self.current.clear();
                Ok("DISCARD ALL")
            }
            "TEMP" => {
                self.undo.tables.clear();
                Ok("DISCARD TEMP")
            }
            "SEQUENCES" => {
                self.current.clear();
                Ok("DISCARD SEQUENCES")
            }
            _ => Ok("DISCARD PLANS"),
        }
    }

    fn read(&mut self, column: &Column, plan: &Plan) -> Result<Option<String>, Error> {
        Ok(Some(match column {
            Column::Text(text) => text.clone(),
            Column::Setting { name, missing_ok } => match self.settings.get(name) {
                None if *missing_ok => return Ok(None),
                value => value.ok_or_else(|| crate::settings::unknown(name))?.to_owned(),
            },
            Column::SetConfig { name, value, local } => {
                self.settings.set(name, Some(value), *local)?;
                value.clone()
            }
            Column::User => match self.settings.get("role") {
                Some(role) if role != "none" => role.to_owned(),
                _ => "app".to_owned(),
            },
            Column::Whose => match plan.search_path.as_str() {
                path @ ("s1" | "s2") => path.to_owned(),
                _ => "public".to_owned(),
            },
            Column::Moment => {
                let offset = plan.zone.strip_prefix("Etc/GMT+").and_then(|hours| hours.parse().ok());
                (1_767_225_600 + 3600 * offset.unwrap_or(0)).to_string()
            }
            Column::Zero => return Err(error("22012", "division by zero")),
            Column::Boom => return Err(error("P0001", "boom")),
            Column::IsTemp(name) => truth(self.undo.tables.contains_key(name)),
            Column::Lock(key) => {
                *self.locks.entry(key.clone()).or_default() += 1;
                String::new()
            }
            Column::Unlock(key) => self.unlock(key),
            Column::UnlockAll => {
                self.locks.clear();
                String::new()
            }
            Column::Locks => self.locks.len().to_string(),
            Column::Channels => self.channels.len().to_string(),
            Column::Prepared => self.statements.values().filter(|plan| plan.from_sql).count().to_string(),
            Column::Cursors => self.portals.values().filter(|portal| portal.hold).count().to_string(),
            Column::Count(table) => {
                let here = self.undo.rows.iter().filter(|(known, _)| known == table).count();
                let there = self.database.borrow().tables.get(table).map_or(0, Vec::len);
                (here + there).to_string()
            }
            Column::Nextval(name) => {
                let mut database = self.database.borrow_mut();
                let value = database.sequences.entry(name.clone()).or_default();
                *value += 1;
                self.current.insert(name.clone(), *value);
                value.to_string()
            }
            Column::Currval(name) => match self.current.get(name) {
                Some(value) => value.to_string(),
                None => {
                    let name = name.trim_start_matches("public.");
                    let words = format!("currval of sequence \"{name}\" is not yet defined in this session");
                    return Err(error("55000", words));
                }
            },
            Column::Setseed(seed) => {
                self.seed.clone_from(seed);
                String::new()
            }
            Column::Random => format!("random of {:?}", self.seed),
        }))
    }

    fn unlock(&mut self, key: &str) -> String {
        match self.locks.get_mut(key) {
            Some(count) => {
                *count -= 1;
                if *count == 0 {
                    self.locks.remove(key);
                }
                truth(true)
            }
            None => {
                self.warn("01000", "you don't own a lock of type ExclusiveLock");
                truth(false)
            }
        }
    }

    /// The answer to the core's question.
    fn probed(&self, ours: bool, custom: &[String]) -> Vec<Row> {
        let row = |kind: &str, name: &str, value: &str| {
            [kind, name, value].iter().map(|&text| Some(text.to_owned())).collect::<Row>()
        };
        let mut rows: Vec<Row> = Vec::new();
        rows.extend(self.settings.of_session().map(|(name, value)| row("s", name, value)));
        rows.push(row("i", "role", self.settings.get("role").unwrap_or_default()));
        rows.push(row("i", "session_authorization", "app"));
        let mut pin = |is: bool, name: &str| rows.extend(is.then(|| row("p", name, "")));
        pin(!self.undo.tables.is_empty(), "temp_table");
        pin(!self.locks.is_empty(), "advisory_lock");
        pin(self.portals.values().any(|portal| portal.hold), "hold_cursor");
        pin(!self.channels.is_empty(), "listen");
        for name in self.statements.keys().map(|name| String::from_utf8_lossy(name)) {
            if !name.starts_with("stagedoor:") && !name.is_empty() {
                rows.push(row("f", &name, ""));
            } else if ours && !name.is_empty() {
                rows.push(row("o", &name, ""));
            }
        }
        for name in custom {
            let value = self.settings.get(name).map(str::to_owned);
            rows.push(vec![Some("c".to_owned()), Some(name.clone()), value]);
        }
        rows
    }
}

fn numbers(count: usize) -> Vec<Row> {
    (1..=count).map(|number| vec![Some(number.to_string())]).collect()
}

fn truth(is: bool) -> String {
    if is { "t" } else { "f" }.to_owned()
}

fn no_portal(name: &[u8]) -> Error {
    error("34000", format!("portal \"{}\" does not exist", String::from_utf8_lossy(name)))
}

fn no_cursor(name: &str) -> Error {
    error("34000", format!("cursor \"{name}\" does not exist"))
}
