//! Whether a text has constants that mean something else under other settings.
//!
//! PostgreSQL makes values of them when it analyses the text, by the time zone, the styles of dates and intervals and the
//! encoding of that moment. What reads settings that do not report themselves (`money`, `xml`, abbreviations of zones)
//! is taken for the same under all.

use memchr::memchr2;

use crate::sql::dialect::Dialect;
use crate::sql::dialect::Strings;
use crate::sql::lexer::Lexer;
use crate::sql::lexer::Token;

/// What a statement begins with that is analysed before it is run.
const ANALYSED: [&[u8]; 9] =
    [b"select", b"insert", b"update", b"delete", b"merge", b"values", b"with", b"explain", b"declare"];

/// Words that dates are read from.
const DAYS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];

/// Whether `text` (to its first NUL or its end) may have such constants.
#[must_use]
pub fn has_constants(text: &[u8], dialect: Dialect) -> bool {
    match dialect.strings {
        Strings::Standard => read(text, false),
        Strings::Escaped => read(text, true),
        Strings::Either => read(text, false) || read(text, true),
    }
}

fn read(text: &[u8], backslashes_escape: bool) -> bool {
    let mut lexer = Lexer::new(text, backslashes_escape);
    let is_ascii = lexer.text().is_ascii();
    if !is_ascii || memchr2(b'\'', b'$', lexer.text()).is_none() {
        return !is_ascii;
    }
    let mut tokens = std::iter::from_fn(|| lexer.read());
    let first = tokens.find(|token| *token != Token::Symbol(b'('));
    let is_analysed = first.is_some_and(|first| ANALYSED.iter().any(|word| first.is_keyword(word)));
    // All are read, for what was seen on the way.
    let hangs = tokens.filter(|token| hangs_on_settings(*token)).count() > 0;
    (is_analysed && hangs) || lexer.backslash_seen()
}

fn hangs_on_settings(token: Token<'_>) -> bool {
    let Token::Text(literal) = token else { return false };
    let names = |day: &[u8]| literal.body.windows(day.len()).any(|part| part.eq_ignore_ascii_case(day));
    literal.body.iter().any(|byte| byte.is_ascii_digit() || *byte == b'\\') || DAYS.into_iter().any(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_date_hangs_on_settings() {
        let rows = [
            ("select timestamptz '2026-01-02 03:04'", true),
            ("(select date $$1/2/2026$$)", true),
            ("insert into t values (E'1 day')", true),
            ("with x as (select 'Today'::date) select * from x", true),
            ("explain select interval '1-2'", true),
            (r"select 'a\b'", true),
            ("select 'é'", true),
            ("select \"é\"", true),
            ("notify a, 'é'", true),
            (r"notify a, 'a\b'", true),
            ("select * from t1 where a = $1 and b = 'x' and c = 12", false),
            ("select \"1\", $1 -- '1'", false),
            ("set timezone to 'Etc/GMT+1'", false),
            ("select 1", false),
            ("", false),
        ];
        for (text, has) in rows {
            assert_eq!(has_constants(text.as_bytes(), Dialect::default()), has, "{text}");
        }
    }
}
