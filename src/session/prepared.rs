//! What is prepared on a server, by text and context, under names of ours.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt;
use std::io::Write;
use std::sync::Arc;

use crate::session::names::Text;
use crate::session::names::cut;
use crate::sql::effect::Effect;
use crate::wire::message::push_frame;

/// What the names of our statements begin with; a number follows. A client's own name reaches a server only
/// where we do not know it, and then never with this beginning (see [`disguised`]).
pub const PREFIX: &str = "stagedoor:";

/// What stands for it in a client's own name, and what both begin with.
const DISGUISE: &str = "stagedoor\u{1}";
const STEM: &str = "stagedoor";

/// The most statements that a server keeps prepared: each is some ten kilobytes of its memory, more with a plan.
const PREPARED_MAX: usize = 200;

/// The statements of one server.
#[derive(Debug, Default)]
pub struct Prepared {
    shelf: HashMap<Key, Entry>,
    last: u32,
    /// Counts uses, so that the least recently used is known.
    clock: u64,
    /// The number of the definitions that a Parse sees now.
    pub schema: u64,
    /// Statements that nobody will use any more, to be closed when something is said to the server anyway.
    doomed: Vec<u32>,
    /// Statements under a client's own name that must be gone before the server is anybody else's.
    strays: Vec<Vec<u8>>,
    /// Of these: those whose Close is under way.
    going: Vec<Vec<u8>>,
    /// Names that are not ours, as the last probe found them: of SQL's PREPARE, mostly.
    pub foreign: HashSet<Vec<u8>>,
}

/// The same text means other tables under another search_path or role, and other constants under another time
/// zone: so the settings under which it was parsed belong to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    text: Arc<Text>,
    context: u64,
}

#[derive(Debug)]
struct Entry {
    id: u32,
    used: u64,
    /// The batch that prepares it, until that is confirmed.
    sent_in: Option<u64>,
    /// What it takes the place of, until it is confirmed.
    instead_of: Option<u32>,
    /// The number of the definitions under which it was prepared.
    schema: u64,
    columns: Columns,
}

/// The columns of a statement on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    Unknown,
    /// We have asked for them.
    Asked,
    /// As a number.
    Known(u64),
}

/// Whether a statement has the columns that a client knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fits {
    Yes,
    No,
    /// The server must be asked.
    Ask,
    /// It has been.
    Wait,
}

/// What a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Statement(u32),
    /// It hangs on the answer to an earlier batch.
    Unsure,
    Nothing,
}

impl Prepared {
    /// The statement for `text` in `context`, as a batch with this number finds it.
    pub fn find(&mut self, text: &Arc<Text>, context: u64, segment: u64) -> Found {
        self.clock += 1;
        match self.shelf.get_mut(&Key { text: text.clone(), context }) {
            Some(entry) if entry.sent_in.is_some_and(|sent_in| sent_in < segment) => Found::Unsure,
            // PostgreSQL would say 0A000 of its plan, and nothing of a statement that was parsed since.
            Some(entry) if entry.schema < text.schema() => Found::Nothing,
            Some(entry) => {
                entry.used = self.clock;
                Found::Statement(entry.id)
            }
            None => Found::Nothing,
        }
    }

    /// A statement for `text` that will do in a transaction that has failed: there it is looked at and not run, and
    /// another could not be prepared.
    #[must_use]
    pub fn find_failed(&self, text: &Arc<Text>) -> Option<u32> {
        let mut same = self
            .shelf
            .iter()
            .filter(|(key, entry)| key.text.behind() == text.behind() && entry.sent_in.is_none());
        same.next().map(|(_, entry)| entry.id)
    }

    /// Whether what it has hangs on the answer to a batch before `segment`.
    #[must_use]
    pub fn is_unsure(&self, segment: u64) -> bool {
        self.shelf.values().any(|entry| entry.sent_in.is_some_and(|sent_in| sent_in < segment))
    }

    /// A Parse is sent for `text`, under the name of the number that this returns.
    pub fn add(&mut self, text: Arc<Text>, context: u64, segment: u64) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.clock += 1;
        let schema = self.schema.max(text.schema());
        let mut entry = Entry {
            id: self.last,
            used: self.clock,
            sent_in: Some(segment),
            instead_of: None,
            schema,
            columns: Columns::Unknown,
        };
        let key = Key { text, context };
        if let Some(old) = self.shelf.remove(&key) {
            // One that was sent in the same batch and not confirmed is swept with this one, if at all.
            entry.instead_of = if old.sent_in.is_none() { Some(old.id) } else { old.instead_of };
            if old.sent_in.is_some() {
                self.doomed.push(old.id);
            }
        }
        self.shelf.insert(key, entry);
        self.evict();
        self.last
    }

    /// Something is prepared that is used once, under the name of the number that this returns.
    pub fn add_once(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.doomed.push(self.last);
        self.last
    }

    /// What is under way stays, so a long batch may bring more for a while.
    fn evict(&mut self) {
        while self.shelf.len() > PREPARED_MAX {
            let settled = self.shelf.iter().filter(|(_, entry)| entry.sent_in.is_none());
            let oldest = settled.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            let Some(entry) = oldest.and_then(|key| self.shelf.remove(&key)) else { return };
            self.doomed.push(entry.id);
        }
    }

    /// ParseComplete came for `id`.
    pub fn confirmed(&mut self, id: u32) {
        if let Some(entry) = self.shelf.values_mut().find(|entry| entry.id == id) {
            entry.sent_in = None;
            self.doomed.extend(entry.instead_of.take());
        }
        self.evict();
    }

    /// The Parse of `id` failed or was skipped.
    pub fn swept(&mut self, id: u32) {
        let Some((key, entry)) = self.shelf.iter_mut().find(|(_, entry)| entry.id == id) else { return };
        match entry.instead_of.take() {
            Some(old) => (entry.id, entry.sent_in, entry.columns) = (old, None, Columns::Unknown),
            None => {
                let key = key.clone();
                self.shelf.remove(&key);
            }
        }
    }

    /// The statement is no more, by the client's doing.
    pub fn remove(&mut self, id: u32) {
        self.shelf.retain(|_, entry| entry.id != id);
    }

    /// No statement is there any more, but what was sent behind the command that removed them. Of those under a
    /// client's own name the probe that follows will tell.
    pub fn clear(&mut self) {
        self.shelf.retain(|_, entry| {
            entry.instead_of = None;
            entry.sent_in.is_some()
        });
        self.doomed.clear();
    }

    /// The server has exactly these of ours.
    pub fn are(&mut self, ids: &HashSet<u32>) {
        self.shelf.retain(|_, entry| ids.contains(&entry.id));
        let known: HashSet<u32> = self.shelf.values().map(|entry| entry.id).collect();
        self.doomed = ids.difference(&known).copied().collect();
    }

    /// What was prepared in a context that is over.
    pub fn forget_context(&mut self, is_over: impl Fn(u64) -> bool) {
        self.forget(|key, _| is_over(key.context));
    }

    /// `DISCARD PLANS`: what has constants is read once more by the settings of whoever uses it next, and other clients
    /// than the one who said it must not find that.
    pub fn forget_constants(&mut self) {
        self.forget(|key, entry| key.text.reading().is_some() && entry.sent_in.is_none());
    }

    fn forget(&mut self, is_over: impl Fn(&Key, &Entry) -> bool) {
        let Self { shelf, doomed, .. } = self;
        shelf.retain(|key, entry| {
            let over = is_over(key, entry);
            doomed.extend(over.then_some(entry.id));
            !over
        });
    }

    /// Whether the statement `id` has the columns that the client of `text` knows of: definitions may have changed
    /// since it was told.
    pub fn fits(&mut self, id: u32, text: &Text) -> Fits {
        // What speaks of statements is prepared anew each time.
        let may_differ = text.schema() < self.schema && !text.effect.has(Effect::STATEMENTS);
        let Some(known) = text.columns().filter(|_| may_differ) else { return Fits::Yes };
        let Some(entry) = self.entry(id).filter(|entry| text.schema() < entry.schema) else {
            return Fits::Yes;
        };
        match entry.columns {
            Columns::Known(columns) if columns == known => Fits::Yes,
            Columns::Known(_) => Fits::No,
            Columns::Asked => Fits::Wait,
            Columns::Unknown => {
                entry.columns = Columns::Asked;
                Fits::Ask
            }
        }
    }

    /// The server tells the columns of `id`. Returns the number of the definitions under which it was prepared.
    pub fn described(&mut self, id: u32, columns: u64) -> Option<u64> {
        let entry = self.entry(id)?;
        entry.columns = Columns::Known(columns);
        Some(entry.schema)
    }

    /// What was asked of `id` was skipped.
    pub fn not_described(&mut self, id: u32) {
        if let Some(entry) = self.entry(id).filter(|entry| entry.columns == Columns::Asked) {
            entry.columns = Columns::Unknown;
        }
    }

    fn entry(&mut self, id: u32) -> Option<&mut Entry> {
        self.shelf.values_mut().find(|entry| entry.id == id)
    }

    /// The plan of `id` does not fit any more: it is not used again.
    pub fn outdated(&mut self, id: u32) {
        self.remove(id);
        self.doomed.push(id);
    }

    /// The text of a statement.
    #[must_use]
    pub fn text(&self, id: u32) -> Option<&Arc<Text>> {
        self.shelf.iter().find(|(_, entry)| entry.id == id).map(|(key, _)| &key.text)
    }

    /// A statement of this name is made, and must be closed.
    pub fn stray(&mut self, name: &[u8]) {
        if !self.is_stray(name) {
            self.strays.push(cut(name).to_vec());
        }
    }

    /// Whether such a statement may lie under this name.
    #[must_use]
    pub fn is_stray(&self, name: &[u8]) -> bool {
        self.strays.iter().any(|stray| stray == cut(name))
    }

    /// It is closed, or not ours any more.
    pub fn stray_is_gone(&mut self, name: &[u8]) {
        self.going.extend(self.strays.extract_if(.., |stray| stray == cut(name)));
    }

    /// Whether such a statement is being closed under this name.
    #[must_use]
    pub fn is_going(&self, name: &[u8]) -> bool {
        self.going.iter().any(|going| going == cut(name))
    }

    /// A Close was skipped: what was to go is there still.
    pub fn strays_stay(&mut self) {
        self.strays.append(&mut self.going);
    }

    /// Nothing is under way any more.
    pub fn settled(&mut self) {
        self.going.clear();
    }

    /// Whether a statement of this name lies there that is not ours.
    #[must_use]
    pub fn is_foreign(&self, name: &[u8]) -> bool {
        self.foreign.contains(cut(name))
    }

    /// A statement of this name is prepared that is not ours.
    pub fn is_made(&mut self, name: &[u8]) {
        self.foreign.insert(cut(name).to_vec());
    }

    #[must_use]
    pub const fn has_strays(&self) -> bool {
        !self.strays.is_empty()
    }

    /// Takes the statements that are to be closed.
    pub fn take_doomed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.doomed)
    }

    /// A Close was skipped by the server.
    pub fn doom(&mut self, id: u32) {
        self.doomed.push(id);
    }

    /// Appends a Close for all that is to be closed. Their answers are nobody's.
    pub fn close_all(&mut self, out: &mut Vec<u8>) {
        for name in self.strays.drain(..) {
            push_close(out, &name);
        }
        for id in self.doomed.drain(..) {
            push_close(out, ServerName::of(id).as_bytes());
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.shelf.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shelf.is_empty()
    }
}

/// The name of a statement of ours on a server.
#[derive(Clone, Copy, Debug)]
pub struct ServerName {
    bytes: [u8; PREFIX.len() + 10],
    length: usize,
}

impl ServerName {
    #[must_use]
    pub fn of(id: u32) -> Self {
        let mut bytes = [0; PREFIX.len() + 10];
        let mut left = &mut bytes[..];
        // A u32 has ten digits at most.
        let _ = write!(left, "{PREFIX}{id}");
        let unused = left.len();
        Self { bytes, length: bytes.len() - unused }
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

/// Appends a Close of the statement `name`.
pub fn push_close(out: &mut Vec<u8>, name: &[u8]) {
    push_frame(out, b'C', &[b"S", name, b"\0"]);
}

/// Appends a Parse of `behind` under `name`.
pub fn push_parse(out: &mut Vec<u8>, name: &[u8], behind: &[u8]) {
    push_frame(out, b'P', &[name, b"\0", behind]);
}

/// A client's own name that looks like one of ours, as the server may hear it: no statement of ours has it, and
/// [`undisguised`] brings it back. It is as long as it was, so that errors point at the same place of a text. Nobody
/// has names with this control character.
#[must_use]
pub fn disguised(name: &[u8]) -> Option<Vec<u8>> {
    let rest = name.strip_prefix(PREFIX.as_bytes())?;
    Some([DISGUISE.as_bytes(), rest].concat())
}

/// A name as its client wrote it, from what [`disguised`] may have made of it.
#[must_use]
pub fn bare(name: &[u8]) -> Cow<'_, [u8]> {
    let rest = name.strip_prefix(DISGUISE.as_bytes());
    rest.map_or(Cow::Borrowed(name), |rest| Cow::Owned([PREFIX.as_bytes(), rest].concat()))
}

/// A message of the server's in which our names are those of the client again; `None` where none is in it.
#[must_use]
pub fn undisguised<'n>(message: &[u8], name: impl Fn(u32) -> Option<&'n [u8]>) -> Option<Vec<u8>> {
    let finder = memchr::memmem::Finder::new(STEM);
    let (mut out, mut rest) = (Vec::new(), message);
    while let Some(at) = finder.find(rest) {
        let (before, found) = rest.split_at_checked(at)?;
        out.extend_from_slice(before);
        let behind = found.get(PREFIX.len()..).unwrap_or_default();
        let digits = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let id = std::str::from_utf8(behind.get(..digits)?).ok().and_then(|digits| digits.parse().ok());
        if found.starts_with(DISGUISE.as_bytes()) {
            out.extend_from_slice(PREFIX.as_bytes());
            rest = behind;
        } else if let Some(name) = id.and_then(&name).filter(|_| found.starts_with(PREFIX.as_bytes())) {
            out.extend_from_slice(name);
            rest = behind.get(digits..)?;
        } else {
            out.extend_from_slice(STEM.as_bytes());
            rest = found.get(STEM.len()..)?;
        }
    }
    if rest.len() == message.len() {
        return None;
    }
    out.extend_from_slice(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(words: &str) -> Arc<Text> {
        Arc::new(Text::new(words.as_bytes(), Effect::NONE))
    }

    #[test]
    fn a_statement_is_found_by_text_and_context() {
        let mut prepared = Prepared::default();
        let id = prepared.add(text("select 1"), 5, 0);
        assert_eq!(prepared.find(&text("select 1"), 5, 0), Found::Statement(id), "in the same batch");
        assert_eq!(prepared.find(&text("select 1"), 5, 1), Found::Unsure, "in a later one");
        prepared.confirmed(id);
        assert_eq!(prepared.find(&text("select 1"), 5, 1), Found::Statement(id));
        assert_eq!(prepared.find(&text("select 1"), 6, 1), Found::Nothing);
        assert_eq!(prepared.find(&text("select 2"), 5, 1), Found::Nothing);
    }

    #[test]
    fn a_newer_one_takes_the_place_of_the_old_one_when_it_is_confirmed() {
        let mut prepared = Prepared::default();
        let old = prepared.add(text("select 1"), 0, 0);
        prepared.confirmed(old);
        let new = prepared.add(text("select 1"), 0, 1);
        prepared.swept(new);
        assert_eq!(prepared.find(&text("select 1"), 0, 2), Found::Statement(old));
        let new = prepared.add(text("select 1"), 0, 3);
        prepared.confirmed(new);
        assert_eq!(prepared.find(&text("select 1"), 0, 4), Found::Statement(new));
        assert_eq!(prepared.take_doomed(), [old]);
    }

    #[test]
    fn what_was_prepared_before_its_client_saw_new_definitions_is_prepared_anew() {
        let parsed = |schema| Arc::new(Text::new(b"select 1", Effect::NONE).under(schema));
        let mut prepared = Prepared::default();
        let old = prepared.add(parsed(0), 0, 0);
        prepared.confirmed(old);
        assert_eq!(prepared.find(&parsed(1), 0, 1), Found::Nothing);
        prepared.schema = 1;
        assert_eq!(prepared.find(&parsed(0), 0, 1), Found::Statement(old));
        // Parsed by whoever makes the definitions, before they are there for all.
        let new = prepared.add(parsed(2), 0, 1);
        prepared.confirmed(new);
        assert_eq!(prepared.find(&parsed(2), 0, 2), Found::Statement(new));
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut prepared = Prepared::default();
        let ids: Vec<u32> = (0..PREPARED_MAX)
            .map(|number| {
                let id = prepared.add(text(&number.to_string()), 0, 0);
                prepared.confirmed(id);
                id
            })
            .collect();
        prepared.find(&text("0"), 0, 1);
        prepared.add(text("one more"), 0, 1);
        assert_eq!(prepared.len(), PREPARED_MAX);
        assert_eq!(prepared.take_doomed(), [ids[1]]);
    }

    #[test]
    fn the_clients_name_stands_in_what_it_reads() {
        let name = |id| (id == 12).then_some(&b"mine"[..]);
        let rows = [
            ("\"stagedoor:12\" requires 1", Some("\"mine\" requires 1")),
            ("stagedoor:12 and stagedoor:13", Some("mine and stagedoor:13")),
            ("stagedoor\u{1}12", Some("stagedoor:12")),
            ("stagedoor:", Some("stagedoor:")),
            ("stagedoor", Some("stagedoor")),
            ("stage door 12", None),
        ];
        for (message, expected) in rows {
            let read = undisguised(message.as_bytes(), name);
            assert_eq!(read.map(|read| String::from_utf8(read).unwrap()).as_deref(), expected, "{message}");
        }
        assert_eq!(disguised(b"stagedoor:12").as_deref(), Some(&b"stagedoor\x0112"[..]));
        assert_eq!(disguised(b"mine"), None);
    }
}
