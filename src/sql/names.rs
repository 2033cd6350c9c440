//! `EXECUTE name`, `DEALLOCATE name`, `PREPARE name`: texts that speak of prepared statements by name. What a
//! client prepared by the protocol has another name on a server, so such a text is told that one.

use std::borrow::Cow;

use crate::sql::dialect::Dialect;
use crate::sql::dialect::Strings;
use crate::sql::lexer::Lexer;
use crate::sql::lexer::Token;

/// What a text does with the statement that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mention {
    Prepare,
    Execute,
    Deallocate,
}

/// `text` (to its first NUL or its end) with each name of a prepared statement for which `named` gives another
/// replaced by that, quoted. `None` if nothing changes. `named` is asked in the order of the text, with names as
/// PostgreSQL folds them, and for `DEALLOCATE ALL` not at all.
pub fn rewrite_names(
    text: &[u8],
    dialect: Dialect,
    named: &mut dyn FnMut(Mention, &[u8]) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let mut lexer = Lexer::new(text, dialect.strings == Strings::Escaped);
    let text = lexer.text();
    let (mut rewritten, mut copied, mut before) = (Vec::new(), 0, Token::Symbol(b';'));
    while let Some(token) = lexer.next() {
        let mention = mention(before, token).and_then(|mention| Some((mention, name(mention, lexer)?)));
        let Some((mention, name)) = mention else {
            before = token;
            continue;
        };
        (lexer, before) = (name.behind, Token::Quoted(b"")); // A name is no keyword, whatever it looks like.
        if let Some(other) = named(mention, &name.folded) {
            rewritten.extend_from_slice(text.get(copied..name.start).unwrap_or_default());
            rewritten.push(b'"');
            for byte in other {
                rewritten.extend(std::iter::repeat_n(byte, if byte == b'"' { 2 } else { 1 }));
            }
            rewritten.push(b'"');
            if text.get(name.end) == Some(&b'"') {
                rewritten.push(b' '); // Two quotes would be one that belongs to the name.
            }
            copied = name.end;
        }
    }
    if copied == 0 {
        return None;
    }
    rewritten.extend_from_slice(text.get(copied..).unwrap_or_default());
    Some(rewritten)
}

/// Whether `token` begins a statement about a prepared one: where statements begin, and behind AS and EXPLAIN
/// for EXECUTE. GRANT EXECUTE and triggers mean something else.
fn mention(before: Token<'_>, token: Token<'_>) -> Option<Mention> {
    let word = token.word()?;
    let is = |keyword: &[u8]| word.eq_ignore_ascii_case(keyword);
    let begins = before == Token::Symbol(b';');
    if is(b"execute") {
        let explained: [&[u8]; 5] = [b"as", b"explain", b"analyze", b"analyse", b"verbose"];
        let follows = before == Token::Symbol(b')') || explained.iter().any(|word| before.is_keyword(word));
        return (begins || follows).then_some(Mention::Execute);
    }
    if !begins {
        return None;
    }
    if is(b"deallocate") {
        Some(Mention::Deallocate)
    } else if is(b"prepare") {
        Some(Mention::Prepare)
    } else {
        None
    }
}

/// A name as PostgreSQL folds it, and where it stands.
struct Name<'a> {
    folded: Cow<'a, [u8]>,
    start: usize,
    end: usize,
    behind: Lexer<'a>,
}

fn name(mention: Mention, mut lexer: Lexer<'_>) -> Option<Name<'_>> {
    let mut token = lexer.next()?;
    let another = matches!(lexer.peek(), Some(Token::Word(_) | Token::Quoted(_)));
    if mention == Mention::Deallocate && token.is_keyword(b"prepare") && another {
        token = lexer.next()?;
    }
    let folded = match token {
        Token::Word(word) if mention == Mention::Deallocate && word.eq_ignore_ascii_case(b"all") => {
            return None;
        }
        Token::Word(word) if is_no_name(word) => return None,
        Token::Word(word) => Cow::Owned(word.to_ascii_lowercase()),
        Token::Quoted(name) => unquoted(name),
        Token::UnicodeQuoted | Token::Text(_) | Token::Number(_) | Token::Parameter | Token::Symbol(_) => {
            return None;
        }
    };
    let of_transaction = mention == Mention::Prepare && token.is_keyword(b"transaction");
    let is_other = of_transaction && matches!(lexer.peek(), Some(Token::Text(_)));
    (!is_other).then_some(Name { folded, start: lexer.start(), end: lexer.end(), behind: lexer })
}

/// Of the reserved words those that mean something where a name could stand: GRANT EXECUTE ON, PREPARE … AS.
fn is_no_name(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"on") || word.eq_ignore_ascii_case(b"as")
}

/// `""` stands for one quote.
fn unquoted(name: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'"', name).is_none() {
        return Cow::Borrowed(name);
    }
    let mut out = Vec::with_capacity(name.len());
    let mut quote = false;
    for &byte in name {
        quote = byte == b'"' && !quote;
        if !quote {
            out.push(byte);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>, asked: &[&str]) {
        let mut names = Vec::new();
        let rewritten = rewrite_names(text.as_bytes(), Dialect::default(), &mut |_, name| {
            names.push(String::from_utf8_lossy(name).into_owned());
            (!name.starts_with(b"other")).then(|| b"x:1".to_vec())
        });
        let rewritten = rewritten.map(|text| String::from_utf8(text).unwrap());
        assert_eq!(rewritten.as_deref(), expected, "{text}");
        assert_eq!(names, asked, "{text}");
    }

    #[test]
    fn names_are_replaced_where_a_text_speaks_of_prepared_statements() {
        let rows = [
            ("deallocate A", Some(r#"deallocate "x:1""#), &["a"][..]),
            ("DEALLOCATE PREPARE \"A\"\"b\";", Some(r#"DEALLOCATE PREPARE "x:1";"#), &["A\"b"]),
            ("deallocate prepare", Some(r#"deallocate "x:1""#), &["prepare"]),
            (
                "select 1; execute p(1, 'x'); select 2",
                Some(r#"select 1; execute "x:1"(1, 'x'); select 2"#),
                &["p"],
            ),
            ("explain (analyze) execute p", Some(r#"explain (analyze) execute "x:1""#), &["p"]),
            ("create table t as execute p(1)", Some(r#"create table t as execute "x:1"(1)"#), &["p"]),
            ("prepare p as select 1", Some(r#"prepare "x:1" as select 1"#), &["p"]),
            ("execute other; execute p", Some(r#"execute other; execute "x:1""#), &["other", "p"]),
            ("deallocate all", None, &[]),
            ("deallocate prepare all", None, &[]),
            ("prepare transaction 'id'", None, &[]),
            ("grant execute on function f to bob", None, &[]),
            ("create trigger t after insert on x execute function f()", None, &[]),
            ("select 'execute p', \"execute\" -- execute p", None, &[]),
            ("execute other", None, &["other"]),
            ("deallocate verbose execute p", Some(r#"deallocate "x:1" execute p"#), &["verbose"]),
            ("prepare as as select 1", None, &[]),
            ("execute p\"q\"", Some(r#"execute "x:1" "q""#), &["p"]),
        ];
        for (text, expected, asked) in rows {
            check(text, expected, asked);
        }
    }
}
