//! The prepared statements of a client, by the names that it gave them.
//!
//! What a client sends is not yet so: it may fail, and everything up to the next Sync with it. So each change is
//! made at once, for what follows it in the same batch, and taken back where an error sweeps it away.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::OnceLock;

use crate::session::reported::Reported;
use crate::sql::effect::Effect;

/// The most statements of one client that are known by name, and the most bytes of their texts. Those beyond
/// are the server's under the client's own name, and keep the client there.
const NAMES_MAX: usize = 1000;
const TEXTS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// PostgreSQL keeps so much of a name (NAMEDATALEN, less its NUL).
const NAME_BYTES_MAX: usize = 63;

/// The number of no `search_path`.
const NO_PATH: u64 = u64::MAX;

/// A text with its parameter types, as Parse carries them.
#[derive(Debug)]
pub struct Text {
    hash: u64,
    /// The body of Parse behind the name.
    behind: Vec<u8>,
    pub effect: Effect,
    /// The number of the definitions (tables, types …) that its client has seen when it parsed it.
    schema: u64,
    /// The columns that its client was told of when it asked, as a number.
    columns: OnceLock<u64>,
    /// The settings under which its client has parsed it, as a number.
    context: u64,
    /// Where it has constants that hang on settings: those by which they were read, when it was parsed or looked up
    /// in another `search_path` last.
    reading: Option<Reported>,
    /// That `search_path`, as a number.
    path: u64,
}

impl Text {
    #[must_use]
    pub fn new(behind: &[u8], effect: Effect) -> Self {
        let mut hasher = DefaultHasher::new();
        behind.hash(&mut hasher);
        Self {
            hash: hasher.finish(),
            behind: behind.to_vec(),
            effect,
            schema: 0,
            columns: OnceLock::new(),
            context: 0,
            reading: None,
            path: 0,
        }
    }

    /// The text, parsed under the definitions with this number.
    #[must_use]
    pub fn under(self, schema: u64) -> Self {
        Self { schema, ..self }
    }

    /// The text, parsed under the settings with this number.
    #[must_use]
    pub fn within(self, context: u64) -> Self {
        Self { context, ..self }
    }

    /// The text, with constants that were read by the settings `reading` in a `search_path` with this number.
    #[must_use]
    pub fn read_by(self, reading: Option<Reported>, path: u64) -> Self {
        Self { reading, path, ..self }
    }

    /// The text as it is when PostgreSQL analyses it once more.
    #[must_use]
    pub fn read_anew(&self, context: u64, reading: Reported, path: u64) -> Self {
        let (columns, behind) = (self.columns.clone(), self.behind.clone());
        let Self { hash, effect, schema, .. } = *self;
        Self { hash, behind, effect, schema, columns, context, reading: Some(reading), path }
    }

    /// The settings by which its constants were read.
    #[must_use]
    pub const fn reading(&self) -> Option<&Reported> {
        self.reading.as_ref()
    }

    #[must_use]
    pub const fn path(&self) -> u64 {
        self.path
    }

    #[must_use]
    pub const fn context(&self) -> u64 {
        self.context
    }

    #[must_use]
    pub const fn schema(&self) -> u64 {
        self.schema
    }

    /// The columns that its client knows of.
    #[must_use]
    pub fn columns(&self) -> Option<u64> {
        self.columns.get().copied()
    }

    /// The body of a Parse behind its name.
    #[must_use]
    pub fn behind(&self) -> &[u8] {
        &self.behind
    }
}

/// Texts whose constants were read otherwise are different ones.
impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        let reading = |text: &Self| text.reading.as_ref().map(Reported::reading);
        self.hash == other.hash && reading(self) == reading(other) && self.behind == other.behind
    }
}

impl Eq for Text {}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

/// A client's names.
#[derive(Debug, Default)]
pub struct Names {
    /// By as much of a name as PostgreSQL looks at.
    texts: HashMap<Box<[u8]>, Named>,
    bytes: usize,
    /// What was changed by messages that the server has not answered, in their order.
    changes: VecDeque<Change>,
    /// What DEALLOCATE statements that are under way name, in their order.
    deallocated: VecDeque<Deallocated>,
    /// Counts changes.
    changed: u64,
    /// The number of the last change before a command under way that may end all names.
    forgets: Option<u64>,
}

#[derive(Debug)]
struct Named {
    /// Its own as long as it stands for the same.
    number: u32,
    /// The whole name.
    said: Box<[u8]>,
    text: Arc<Text>,
}

#[derive(Debug)]
struct Deallocated {
    segment: u64,
    /// `None` for what is not among `texts`.
    name: Option<Box<[u8]>>,
}

impl Deallocated {
    fn names(&self, name: &[u8]) -> bool {
        self.name.as_deref() == Some(name)
    }
}

#[derive(Debug)]
struct Change {
    number: u64,
    segment: u64,
    name: Box<[u8]>,
    before: Option<Named>,
}

impl Names {
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&Arc<Text>> {
        self.texts.get(cut(name)).map(|named| &named.text)
    }

    /// The number of a name; 0 where it stands for nothing.
    #[must_use]
    pub fn number(&self, name: &[u8]) -> u32 {
        self.texts.get(cut(name)).map_or(0, |named| named.number)
    }

    /// Whether what `name` means hangs on the answer to a batch before `segment`.
    #[must_use]
    pub fn is_unsure(&self, name: &[u8], segment: u64) -> bool {
        let name = cut(name);
        let gone = self.deallocated.iter();
        self.changes.iter().any(|change| change.segment < segment && *change.name == *name)
            || gone.into_iter().any(|gone| gone.segment < segment && gone.names(name))
    }

    /// Whether what any name means hangs on the answer to a batch before `segment`.
    #[must_use]
    pub fn are_unsure(&self, segment: u64) -> bool {
        self.changes.front().is_some_and(|change| change.segment < segment)
            || self.deallocated.iter().any(|gone| gone.segment < segment && gone.name.is_some())
    }

    /// Whether what `name` means hangs on a DEALLOCATE or DISCARD ALL that was sent, in whatever batch.
    #[must_use]
    pub fn may_be_gone(&self, name: &[u8]) -> bool {
        let name = cut(name);
        let is_newer =
            |since| self.changes.iter().any(|change| change.number > since && *change.name == *name);
        let forgotten = self.texts.contains_key(name) && self.forgets.is_some_and(|since| !is_newer(since));
        forgotten || self.deallocated.iter().any(|gone| gone.names(name))
    }

    #[must_use]
    pub const fn is_forgetting(&self) -> bool {
        self.forgets.is_some()
    }

    /// A command is sent that ends all names, if it works.
    pub const fn forgetting(&mut self) {
        self.forgets = Some(self.changed);
    }

    /// The client is told the columns of `text`, as it was prepared under the definitions with the number `schema`.
    pub fn described(&self, text: &Text, schema: u64, columns: u64) {
        let all = self.texts.values().map(|named| &named.text);
        for known in all.filter(|known| known.schema <= schema && ***known == *text) {
            known.columns.get_or_init(|| columns);
        }
    }

    /// The text that `name` stands for was analysed once more.
    pub fn read_anew(&mut self, name: &[u8], text: Arc<Text>) {
        if let Some(named) = self.texts.get_mut(cut(name)) {
            named.text = text;
        }
    }

    /// PostgreSQL analyses all texts once more when they are used next (`ResetPlanCache`).
    pub fn unanalysed(&mut self) {
        for named in self.texts.values_mut() {
            if let Some(reading) = named.text.reading().cloned() {
                named.text = Arc::new(named.text.read_anew(named.text.context, reading, NO_PATH));
            }
        }
    }

    /// Whether one more, of `bytes`, is too much.
    #[must_use]
    pub fn is_full(&self, bytes: usize) -> bool {
        self.texts.len() >= NAMES_MAX || self.bytes + bytes > TEXTS_BYTES_MAX
    }

    /// Parse (`text`) or Close (`None`) was sent.
    pub fn change(&mut self, segment: u64, name: &[u8], text: Option<Arc<Text>>) {
        let (said, name): (Box<[u8]>, Box<[u8]>) = (name.into(), cut(name).into());
        self.changed += 1;
        let number = u32::try_from(self.changed & 0xffff_ffff).unwrap_or_default();
        let before = self.put(&name, text.map(|text| Named { number, said, text }));
        self.changes.push_back(Change { number: self.changed, segment, name, before });
    }

    /// The oldest change was confirmed.
    pub fn confirmed(&mut self) {
        self.changes.pop_front();
    }

    /// The oldest `count` changes were swept away by an error.
    pub fn swept(&mut self, count: usize) {
        let swept: Vec<Change> = self.changes.drain(..count.min(self.changes.len())).collect();
        for change in swept.into_iter().rev() {
            self.put(&change.name, change.before);
        }
    }

    /// Nothing that is under way was heard.
    pub fn unheard(&mut self) {
        self.swept(self.changes.len());
        self.settled();
    }

    /// A DEALLOCATE is sent; `name` is what it names, where that is one of these.
    pub fn deallocating(&mut self, segment: u64, name: Option<&[u8]>) {
        self.deallocated.push_back(Deallocated { segment, name: name.map(|name| cut(name).into()) });
    }

    /// A DEALLOCATE worked.
    pub fn deallocated(&mut self) {
        if let Some(name) = self.deallocated.pop_front().and_then(|gone| gone.name) {
            self.put(&name, None);
        }
    }

    /// Whether a DEALLOCATE is under way.
    #[must_use]
    pub fn are_deallocated(&self) -> bool {
        !self.deallocated.is_empty()
    }

    /// All before the batch `segment` is answered. A DEALLOCATE that did not work is forgotten.
    pub fn answered_before(&mut self, segment: u64) {
        self.deallocated.retain(|gone| gone.segment >= segment);
    }

    /// Nothing is under way any more.
    pub fn settled(&mut self) {
        self.deallocated.clear();
        self.forgets = None;
    }

    /// `DISCARD ALL` or `DEALLOCATE ALL` worked. What is still under way was sent behind it.
    pub fn clear(&mut self) {
        let names: Vec<Box<[u8]>> = self.texts.keys().cloned().collect();
        for name in names {
            match self.changes.iter_mut().find(|change| change.name == name) {
                Some(change) => change.before = None,
                None => drop(self.put(&name, None)),
            }
        }
    }

    /// The name with this number, or else one of `text`, for a message that speaks of it. The text is not known any
    /// more where its statement has had to go meanwhile.
    #[must_use]
    pub fn name_of(&self, number: u32, text: Option<&Text>) -> Option<&[u8]> {
        // It may have been closed behind what failed.
        let closed = self.changes.iter().filter_map(|change| change.before.as_ref());
        let mut all = self.texts.values().chain(closed);
        let named = all.clone().find(|named| named.number == number);
        let named = named.or_else(|| all.find(|named| text.is_some_and(|text| *named.text == *text)));
        named.map(|named| &*named.said)
    }

    fn put(&mut self, name: &[u8], named: Option<Named>) -> Option<Named> {
        let bytes = |named: &Option<Named>| named.as_ref().map_or(0, |named| named.text.behind.len());
        self.bytes += bytes(&named);
        let before = match named {
            Some(named) => self.texts.insert(name.into(), named),
            None => self.texts.remove(name),
        };
        self.bytes -= bytes(&before);
        before
    }
}

/// As much of a name as PostgreSQL looks at.
#[must_use]
pub(super) fn cut(name: &[u8]) -> &[u8] {
    name.get(..NAME_BYTES_MAX).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(words: &str) -> Arc<Text> {
        Arc::new(Text::new(words.as_bytes(), Effect::NONE))
    }

    #[test]
    fn what_an_error_sweeps_away_is_as_it_was() {
        let mut names = Names::default();
        names.change(0, b"a", Some(text("one")));
        names.confirmed();
        names.change(1, b"a", None);
        names.change(1, b"a", Some(text("two")));
        names.change(1, b"b", Some(text("three")));
        assert_eq!(names.get(b"a"), Some(&text("two")));
        assert!(names.is_unsure(b"a", 2) && !names.is_unsure(b"a", 1) && !names.is_unsure(b"c", 2));
        names.swept(3);
        assert_eq!((names.get(b"a"), names.get(b"b")), (Some(&text("one")), None));
        assert_eq!(names.bytes, 3);
        assert!(!names.are_unsure(9));
    }

    #[test]
    fn a_name_counts_as_far_as_postgresql_reads_it() {
        let mut names = Names::default();
        names.change(0, &[b'n'; 70], Some(text("one")));
        assert!(names.get(&[b'n'; 63]).is_some() && names.get(&[b'n'; 62]).is_none());
    }

    #[test]
    fn deallocate_is_believed_when_it_has_worked() {
        let mut names = Names::default();
        names.change(0, b"a", Some(text("one")));
        names.confirmed();
        names.deallocating(1, None);
        names.deallocating(1, Some(b"a"));
        assert!(names.is_unsure(b"a", 2) && !names.is_unsure(b"a", 1));
        names.deallocated();
        assert!(names.get(b"a").is_some());
        names.deallocated();
        assert!(names.get(b"a").is_none());
    }

    #[test]
    fn what_was_sent_behind_a_deallocate_all_stays() {
        let mut names = Names::default();
        names.change(0, b"a", Some(text("one")));
        names.change(0, b"b", Some(text("two")));
        names.confirmed();
        names.clear();
        assert!(names.get(b"a").is_none() && names.get(b"b").is_some());
        names.swept(1);
        assert!(names.get(b"b").is_none());
        assert_eq!(names.bytes, 0);
    }

    #[test]
    fn one_client_has_so_many_names_and_no_more() {
        let mut names = Names::default();
        assert!(names.is_full(TEXTS_BYTES_MAX + 1));
        for number in 0..NAMES_MAX {
            names.change(0, number.to_string().as_bytes(), Some(text("x")));
        }
        assert!(names.is_full(0));
    }
}
