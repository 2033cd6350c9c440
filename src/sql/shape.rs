//! What a prepared statement looks like from outside, as far as its text tells: how many parameters it has, and that it
//! returns no rows. Of a statement that PostgreSQL has accepted; anything may be said of one that it would refuse.

use crate::sql::dialect::Encoding;
use crate::sql::lexer::Lexer;
use crate::sql::lexer::Token;

/// What a statement begins with whose `$1` are its own. In others (`PREPARE`, `COPY`, `CREATE VIEW`) PostgreSQL does not
/// look for them at its Parse, or that hangs on its version (`CALL`).
const COUNTED: [&[u8]; 8] =
    [b"select", b"insert", b"update", b"delete", b"merge", b"values", b"with", b"table"];

/// What a statement begins with that changes rows and may return them.
const CHANGING: [&[u8]; 3] = [b"insert", b"update", b"delete"];

/// A view that answers an UPDATE with rows, by a rule. Others are taken to have none of that kind.
const SETTINGS: &[u8] = b"pg_settings";

/// What a statement begins with that returns no rows (`UtilityReturnsTuples` in utility.c), and does not end a transaction.
const SILENT: [&[u8]; 35] = [
    b"alter",
    b"analyze",
    b"begin",
    b"checkpoint",
    b"close",
    b"cluster",
    b"comment",
    b"copy",
    b"create",
    b"deallocate",
    b"declare",
    b"discard",
    b"do",
    b"drop",
    b"grant",
    b"import",
    b"listen",
    b"load",
    b"lock",
    b"move",
    b"notify",
    b"prepare",
    b"reassign",
    b"refresh",
    b"reindex",
    b"release",
    b"reset",
    b"revoke",
    b"savepoint",
    b"security",
    b"set",
    b"start",
    b"truncate",
    b"unlisten",
    b"vacuum",
];

/// What a statement begins with that PostgreSQL allows in a transaction that has failed (`IsTransactionExitStmt`), or
/// that begins like one.
const EXITS: [&[u8]; 5] = [b"abort", b"commit", b"end", b"prepare", b"rollback"];

/// The shape of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many parameters it has; `None` where the text does not tell.
    pub parameters: Option<u16>,
    /// It certainly returns no rows.
    pub is_silent: bool,
    /// It may end a transaction.
    pub is_exit: bool,
}

/// The shape of `text` (to its first NUL or its end), of which Parse declares the types of `declared` parameters. Whether
/// a backslash escaped in it does not matter to what is told.
#[must_use]
pub fn shape(text: &[u8], encoding: Encoding, declared: u16) -> Shape {
    if encoding == Encoding::AsciiUnsafe && !text.is_ascii() {
        return Shape { parameters: None, is_silent: false, is_exit: true };
    }
    let (one, other) = (read(text, false, declared), read(text, true, declared));
    Shape {
        parameters: one.parameters.filter(|_| one.parameters == other.parameters),
        is_silent: one.is_silent && other.is_silent,
        is_exit: one.is_exit || other.is_exit,
    }
}

fn read(text: &[u8], backslashes_escape: bool, declared: u16) -> Shape {
    let mut lexer = Lexer::new(text, backslashes_escape);
    let first = std::iter::from_fn(|| lexer.read()).find(|token| *token != Token::Symbol(b'('));
    let begins = |words: &[&[u8]]| first.is_some_and(|first| words.iter().any(|word| first.is_keyword(word)));
    let mut parameters = Some(declared);
    let (mut returns, mut keeps) = (false, false);
    let mut before = Token::Symbol(b' ');
    while let Some(token) = lexer.read() {
        // Behind AS or a point it is but a name.
        let is_name = before.is_keyword(b"as") || before == Token::Symbol(b'.');
        before = token;
        if token == Token::Parameter {
            let number = lexer.text().get(lexer.start() + 1..lexer.end()).and_then(number);
            let number = number.filter(|_| begins(&COUNTED));
            parameters = parameters.zip(number).map(|(most, number)| most.max(number));
        }
        returns |= token.is_keyword(b"returning") || token.is_keyword(SETTINGS);
        keeps |= token.is_keyword(b"into") && !is_name;
    }
    Shape {
        parameters,
        is_silent: begins(&SILENT) || (begins(&CHANGING) && !returns) || (begins(&[b"select"]) && keeps),
        is_exit: begins(&EXITS),
    }
}

fn number(digits: &[u8]) -> Option<u16> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_counted_where_postgresql_counts_them() {
        let rows = [
            ("select $1, $2", 0, Some(2)),
            ("(select '$9', \"$8\", $$ $7 $$ -- $6\n, $1)", 0, Some(1)),
            ("insert into t values ($3)", 1, Some(3)),
            ("with x as (select $2) select * from x", 3, Some(3)),
            ("select 1", 2, Some(2)),
            ("select $65536", 0, None),
            ("set work_mem to '1MB'", 1, Some(1)),
            ("prepare x as select $1", 0, None),
            ("", 0, Some(0)),
            ("", 2, Some(2)),
        ];
        for (text, declared, parameters) in rows {
            assert_eq!(
                shape(text.as_bytes(), Encoding::AsciiSafe, declared).parameters,
                parameters,
                "{text}"
            );
        }
        assert_eq!(shape(br"select '\' || $1 || '\'", Encoding::AsciiSafe, 0).parameters, None);
    }

    #[test]
    fn what_returns_no_rows_is_known_by_how_it_begins() {
        for text in [
            "insert into t values (1)",
            "/* x */ SET a = 1",
            "create table t as select 1",
            "listen x",
            "select 1 into t",
        ] {
            assert!(shape(text.as_bytes(), Encoding::AsciiSafe, 0).is_silent, "{text}");
        }
        for text in [
            "delete from t returning *",
            "update pg_settings set a = 1",
            "select 1",
            "show x",
            "explain insert into t values (1)",
            "select 1 as into",
            "",
        ] {
            assert!(!shape(text.as_bytes(), Encoding::AsciiSafe, 0).is_silent, "{text}");
        }
    }

    #[test]
    fn what_may_end_a_transaction_is_told_from_the_rest() {
        for (text, is_exit) in [("COMMIT", true), ("rollback to a", true), ("end", true), ("begin", false)] {
            assert_eq!(shape(text.as_bytes(), Encoding::AsciiSafe, 0).is_exit, is_exit, "{text}");
        }
    }
}
