//! The words that matter to pooling, and a fast no to all others.

/// A word of the vocabulary. Words that mean the same here share an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Set,
    Reset,
    Discard,
    /// LISTEN, UNLISTEN
    Listen,
    Prepare,
    Deallocate,
    Execute,
    Declare,
    Close,
    Load,
    Do,
    Call,
    Create,
    Alter,
    Drop,
    Explain,
    Update,
    /// TEMP, TEMPORARY
    Temp,
    Hold,
    Default,
    Language,
    PgSettings,
    /// `pg_temp`, `pg_temp_3`
    PgTemp,
    Function(Function),
}

/// A built-in function that may leave something behind in the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    SetConfig,
    Nextval,
    /// `currval`, `lastval`, `setval`
    Sequence,
    Setseed,
    /// The advisory locks that outlive a transaction, and settings that have a function of their own.
    Touching,
    /// Those that run SQL given as text, and those whose traces cannot be asked for.
    Opaque,
    /// `pg_cancel_backend`, `pg_terminate_backend`
    Signal,
}

/// The entry of an unquoted word, in any case.
#[inline]
pub(super) fn of_word(word: &[u8]) -> Option<Word> {
    if may_be_known(word) { spelled(word) } else { None }
}

/// The entry of a quoted identifier: a function or a relation, never a keyword.
#[inline]
pub(super) fn of_quoted(name: &[u8]) -> Option<Word> {
    if !may_be_known(name) || name.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let is_name = |word: &Word| matches!(word, Word::PgSettings | Word::PgTemp | Word::Function(_));
    spelled(name).filter(is_name)
}

/// `false` for nearly all words that are not in the vocabulary, from their ends and length alone.
#[inline]
fn may_be_known(word: &[u8]) -> bool {
    let (Some(first), Some(last)) = (word.first(), word.last()) else {
        return false;
    };
    let mask = LENGTHS.get(slot(*first, *last)).copied().unwrap_or_default();
    let known = word.len() < 64 && (mask >> (word.len() & 63)) & 1 == 1;
    known || (first | 0x20 == b'p' && is_temp_schema(word))
}

const fn slot(first: u8, last: u8) -> usize {
    (first as usize & 31) << 5 | (last as usize & 31)
}

fn is_temp_schema(word: &[u8]) -> bool {
    word.get(..PG_TEMP.len()).is_some_and(|head| head.eq_ignore_ascii_case(PG_TEMP))
}

fn spelled(word: &[u8]) -> Option<Word> {
    let found = VOCABULARY.iter().find(|(known, _)| known.eq_ignore_ascii_case(word));
    found.map(|(_, word)| *word).or_else(|| is_temp_schema(word).then_some(Word::PgTemp))
}

const PG_TEMP: &[u8] = b"pg_temp";

/// For each pair of first and last letter: the lengths that words with these ends have.
static LENGTHS: [u64; 1024] = lengths();

#[allow(clippy::indexing_slicing, reason = "at compile time")]
const fn lengths() -> [u64; 1024] {
    let mut table = [0; 1024];
    let mut at = 0;
    while at < VOCABULARY.len() {
        let word = VOCABULARY[at].0;
        table[slot(word[0], word[word.len() - 1])] |= 1 << word.len();
        at += 1;
    }
    table
}

const fn function(function: Function) -> Word {
    Word::Function(function)
}

/// In lower case, each shorter than 64 bytes.
const VOCABULARY: &[(&[u8], Word)] = &[
    (b"set", Word::Set),
    (b"update", Word::Update),
    (b"do", Word::Do),
    (b"default", Word::Default),
    (b"create", Word::Create),
    (b"alter", Word::Alter),
    (b"drop", Word::Drop),
    (b"reset", Word::Reset),
    (b"discard", Word::Discard),
    (b"listen", Word::Listen),
    (b"unlisten", Word::Listen),
    (b"prepare", Word::Prepare),
    (b"deallocate", Word::Deallocate),
    (b"execute", Word::Execute),
    (b"declare", Word::Declare),
    (b"close", Word::Close),
    (b"load", Word::Load),
    (b"call", Word::Call),
    (b"explain", Word::Explain),
    (b"temp", Word::Temp),
    (b"temporary", Word::Temp),
    (b"hold", Word::Hold),
    (b"language", Word::Language),
    (b"pg_settings", Word::PgSettings),
    (PG_TEMP, Word::PgTemp),
    (b"set_config", function(Function::SetConfig)),
    (b"nextval", function(Function::Nextval)),
    (b"currval", function(Function::Sequence)),
    (b"lastval", function(Function::Sequence)),
    (b"setval", function(Function::Sequence)),
    (b"setseed", function(Function::Setseed)),
    (b"pg_advisory_lock", function(Function::Touching)),
    (b"pg_advisory_lock_shared", function(Function::Touching)),
    (b"pg_try_advisory_lock", function(Function::Touching)),
    (b"pg_try_advisory_lock_shared", function(Function::Touching)),
    (b"pg_advisory_unlock", function(Function::Touching)),
    (b"pg_advisory_unlock_shared", function(Function::Touching)),
    (b"pg_advisory_unlock_all", function(Function::Touching)),
    // pg_trgm: a setting of its own, which pg_settings shows.
    (b"set_limit", function(Function::Touching)),
    // These run SQL that is given to them as text.
    (b"query_to_xml", function(Function::Opaque)),
    (b"query_to_xmlschema", function(Function::Opaque)),
    (b"query_to_xml_and_xmlschema", function(Function::Opaque)),
    (b"ts_stat", function(Function::Opaque)),
    (b"ts_rewrite", function(Function::Opaque)),
    (b"crosstab", function(Function::Opaque)),
    (b"crosstab2", function(Function::Opaque)),
    (b"crosstab3", function(Function::Opaque)),
    (b"crosstab4", function(Function::Opaque)),
    (b"connectby", function(Function::Opaque)),
    // These leave connections, a replication origin, a temporary slot or a running backup in the session.
    (b"dblink_connect", function(Function::Opaque)),
    (b"dblink_connect_u", function(Function::Opaque)),
    (b"pg_replication_origin_session_setup", function(Function::Opaque)),
    (b"pg_create_physical_replication_slot", function(Function::Opaque)),
    (b"pg_create_logical_replication_slot", function(Function::Opaque)),
    (b"pg_copy_physical_replication_slot", function(Function::Opaque)),
    (b"pg_copy_logical_replication_slot", function(Function::Opaque)),
    (b"pg_backup_start", function(Function::Opaque)),
    (b"pg_start_backup", function(Function::Opaque)),
    (b"pg_cancel_backend", function(Function::Signal)),
    (b"pg_terminate_backend", function(Function::Signal)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_found_in_any_case_and_under_64_bytes() {
        for (word, meaning) in VOCABULARY {
            assert!(word.len() < 64 && word.iter().all(|byte| !byte.is_ascii_uppercase()));
            assert_eq!(of_word(word), Some(*meaning));
            assert_eq!(of_word(&word.to_ascii_uppercase()), Some(*meaning));
        }
    }

    #[test]
    fn the_words_of_everyday_queries_are_refused_before_any_comparison() {
        let everyday = "select from where and or as in is null not order by limit offset insert into values \
            delete returning join left inner on using group having case when then else end id count like";
        for word in everyday.split_whitespace() {
            assert!(!may_be_known(word.as_bytes()), "{word}");
        }
    }

    #[test]
    fn quotes_make_a_keyword_a_name() {
        for name in ["set", "temp", "hold", "SET_CONFIG", "Pg_temp", ""] {
            assert_eq!(of_quoted(name.as_bytes()), None, "{name}");
        }
        assert_eq!(of_quoted(b"set_config"), Some(Word::Function(Function::SetConfig)));
        assert_eq!(of_quoted(b"pg_temp_12"), Some(Word::PgTemp));
    }
}
