//! `SELECT pg_cancel_backend(1073741901)`: knex cancels so, with the process id that we told it at login.
//! Such a virtual id, written as a constant, is replaced by that of the server which the client holds now.

use crate::sql::dialect::Dialect;
use crate::sql::dialect::Strings;
use crate::sql::lexer::Form;
use crate::sql::lexer::Lexer;
use crate::sql::lexer::Literal;
use crate::sql::lexer::Token;
use crate::sql::vocabulary;
use crate::sql::vocabulary::Function;
use crate::sql::vocabulary::Word;

/// No real backend has a process id from here on (Linux: at most 2^22).
pub const VIRTUAL_PID_MIN: i64 = 1 << 30;

/// Whether `pid` is one that we made up.
pub fn is_virtual(pid: i64) -> bool {
    pid >= VIRTUAL_PID_MIN
}

/// Whether the function with this number is `pg_cancel_backend` or `pg_terminate_backend` (pg_proc.dat).
pub const fn is_signal_function(oid: u32) -> bool {
    matches!(oid, 2171 | 2096)
}

/// Whom a process id means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meant {
    /// It is none of ours, or that of a client that is gone: PostgreSQL knows best.
    Itself,
    Backend(i64),
    /// A client that will have a server in a moment.
    Soon,
}

/// Somebody who is meant has no server yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotYet;

/// Has `rewrite` replace process ids by what `translate` says that they mean.
///
/// # Errors
/// Where not all can be replaced yet.
pub fn translated<R>(
    translate: &mut dyn FnMut(i64) -> Meant,
    rewrite: impl FnOnce(&mut dyn FnMut(i64) -> Option<i64>) -> Option<R>,
) -> Result<Option<R>, NotYet> {
    let mut waits = false;
    let rewritten = rewrite(&mut |pid| match translate(pid) {
        Meant::Itself => None,
        Meant::Backend(real) => Some(real),
        Meant::Soon => {
            waits = true;
            None
        }
    });
    if waits { Err(NotYet) } else { Ok(rewritten) }
}

/// `text` (to its first NUL or its end) with the first argument of `pg_cancel_backend` and
/// `pg_terminate_backend` replaced, where it is an integer constant for which `translate` gives another.
/// `None` if nothing changes. Constants that are part of a larger expression stay as they are, and so does what
/// is to run later, when the id may be another's: all from the first CREATE, ALTER, PREPARE or DECLARE on.
pub fn rewrite_pids(
    text: &[u8],
    dialect: Dialect,
    translate: &mut dyn FnMut(i64) -> Option<i64>,
) -> Option<Vec<u8>> {
    let mut lexer = Lexer::new(text, dialect.strings == Strings::Escaped);
    let text = lexer.text();
    let mut rewritten = Vec::new();
    let mut copied = 0;
    let mut before = Token::Symbol(b';');
    while let Some(token) = lexer.next() {
        if before == Token::Symbol(b';') && is_kept(token) {
            break;
        }
        before = token;
        let Some(constant) = is_signal(token).then(|| argument(lexer)).flatten() else {
            continue;
        };
        if let Some(pid) = translate(constant.pid) {
            rewritten.extend_from_slice(text.get(copied..constant.start).unwrap_or_default());
            rewritten.extend_from_slice(pid.to_string().as_bytes());
            copied = constant.end;
        }
    }
    if copied == 0 {
        return None;
    }
    rewritten.extend_from_slice(text.get(copied..).unwrap_or_default());
    Some(rewritten)
}

/// An integer constant and where its digits stand, without the quotes.
struct Constant {
    pid: i64,
    start: usize,
    end: usize,
}

/// Whether a statement that begins so keeps its text for later.
fn is_kept(token: Token<'_>) -> bool {
    let keeping: [&[u8]; 4] = [b"create", b"alter", b"prepare", b"declare"];
    keeping.iter().any(|keyword| token.is_keyword(keyword))
}

fn is_signal(token: Token<'_>) -> bool {
    let word = match token {
        Token::Word(word) => vocabulary::of_word(word),
        Token::Quoted(name) => vocabulary::of_quoted(name),
        Token::UnicodeQuoted | Token::Text(_) | Token::Number(_) | Token::Parameter | Token::Symbol(_) => {
            None
        }
    };
    word == Some(Word::Function(Function::Signal))
}

/// The constant that `(` and perhaps `CAST(`, `pid =>` and a plus lead to, if it is the whole argument.
fn argument(mut lexer: Lexer<'_>) -> Option<Constant> {
    if lexer.next() != Some(Token::Symbol(b'(')) {
        return None;
    }
    for token in lexer.by_ref().take(LEAD_TOKENS_MAX) {
        let leads = matches!(token, Token::Symbol(b'(' | b'=' | b'>' | b':' | b'+'));
        if !leads && !token.is_keyword(b"cast") && !token.is_keyword(b"pid") {
            return constant(token, lexer);
        }
    }
    None
}

fn constant(token: Token<'_>, lexer: Lexer<'_>) -> Option<Constant> {
    let (digits, quote) = match token {
        Token::Number(digits) => (digits, 0),
        Token::Text(Literal { form: Form::Dollar, body }) => {
            (body, (lexer.end() - lexer.start()).checked_sub(body.len())? / 2)
        }
        Token::Text(literal) => (literal.verbatim()?, 1),
        Token::Word(_) | Token::Quoted(_) | Token::UnicodeQuoted | Token::Parameter | Token::Symbol(_) => {
            return None;
        }
    };
    let next = lexer.peek();
    let ends = matches!(next, Some(Token::Symbol(b')' | b',' | b':')))
        || next.is_some_and(|token| token.is_keyword(b"as"));
    let pid = std::str::from_utf8(digits).ok()?.trim().parse().ok()?;
    let end = lexer.end() - quote;
    ends.then_some(Constant { pid, start: end - digits.len(), end })
}

/// More parentheses than this around a process id are left alone.
const LEAD_TOKENS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// Virtual ids become 77; all others are left alone.
    fn check(text: &str, expected: Option<&str>) {
        let mut translate = |pid| is_virtual(pid).then_some(77);
        let rewritten = rewrite_pids(text.as_bytes(), Dialect::default(), &mut translate);
        let rewritten = rewritten.map(|text| String::from_utf8(text).unwrap());
        assert_eq!(rewritten.as_deref(), expected, "{text}");
    }

    #[test]
    fn virtual_ids_begin_where_real_ones_cannot_be() {
        assert!(is_virtual(1 << 30) && is_virtual(i64::from(i32::MAX)));
        assert!(!is_virtual((1 << 30) - 1) && !is_virtual(0) && !is_virtual(-1));
    }

    #[test]
    fn constants_are_translated_where_they_are_the_argument() {
        let rows = [
            ("select pg_cancel_backend(1073741901)", "select pg_cancel_backend(77)"),
            ("SELECT PG_CANCEL_BACKEND ( 1073741901 );", "SELECT PG_CANCEL_BACKEND ( 77 );"),
            (
                "select pg_catalog.pg_cancel_backend(1073741901::int)",
                "select pg_catalog.pg_cancel_backend(77::int)",
            ),
            ("select \"pg_cancel_backend\"('1073741901')", "select \"pg_cancel_backend\"('77')"),
            ("select pg_cancel_backend('1073741901'::int4)", "select pg_cancel_backend('77'::int4)"),
            ("select pg_cancel_backend(E'1073741901')", "select pg_cancel_backend(E'77')"),
            ("select pg_cancel_backend($x$1073741901$x$)", "select pg_cancel_backend($x$77$x$)"),
            (
                "select pg_cancel_backend(/* x */ 1073741901 -- y\n)",
                "select pg_cancel_backend(/* x */ 77 -- y\n)",
            ),
            ("select pg_cancel_backend(+1073741901)", "select pg_cancel_backend(+77)"),
            ("select pg_cancel_backend((1073741901))", "select pg_cancel_backend((77))"),
            (
                "select pg_cancel_backend(CAST(1073741901 AS int))",
                "select pg_cancel_backend(CAST(77 AS int))",
            ),
            ("select pg_cancel_backend(pid => 1073741901)", "select pg_cancel_backend(pid => 77)"),
            ("select pg_terminate_backend(1073741901, 500)", "select pg_terminate_backend(77, 500)"),
            (
                "select pg_cancel_backend(1073741824), pg_cancel_backend(1073741825), 1073741824",
                "select pg_cancel_backend(77), pg_cancel_backend(77), 1073741824",
            ),
            (
                "select pg_cancel_backend(5), pg_cancel_backend(1073741825)",
                "select pg_cancel_backend(5), pg_cancel_backend(77)",
            ),
            (
                "select pg_cancel_backend(1073741825); prepare p as select pg_cancel_backend(1073741825)",
                "select pg_cancel_backend(77); prepare p as select pg_cancel_backend(1073741825)",
            ),
        ];
        for (text, expected) in rows {
            check(text, Some(expected));
        }
    }

    #[test]
    fn all_else_stays_as_it_is() {
        for text in [
            "",
            "select pg_cancel_backend(12345)",
            "select pg_cancel_backend($1)",
            "select pg_cancel_backend(-1073741901)",
            "select pg_cancel_backend(1073741901 + 1)",
            "select pg_cancel_backend(1073741901.5)",
            "select pg_cancel_backend(1073741901",
            "select pg_cancel_backend(99999999999999999999999)",
            "select pg_cancel_backend(pid) from pg_stat_activity where pid = 1073741901",
            "select 'pg_cancel_backend(1073741901)'",
            "-- pg_cancel_backend(1073741901)",
            "select pg_cancel_backend",
            "select pg_cancel_backends(1073741901)",
            "prepare p as select pg_cancel_backend(1073741901)",
            "create view v as select pg_cancel_backend(1073741901)",
            "create function f() returns bool begin atomic; select pg_cancel_backend(1073741901); end",
            "begin; declare c cursor for select pg_cancel_backend(1073741901)",
        ] {
            check(text, None);
        }
    }
}
