//! Whether a text mentions one of some names: those of functions whose bodies we never see.

use crate::sql::dialect::Dialect;
use crate::sql::dialect::Strings;
use crate::sql::lexer::Lexer;
use crate::sql::lexer::Token;

/// Whether an identifier of `text` (to its first NUL or its end) is one of `names`, which are as PostgreSQL keeps
/// them: in lower case unless they were made in quotes. A name that is spelled with Unicode escapes may be any.
#[must_use]
pub fn mentions(text: &[u8], dialect: Dialect, names: &[String]) -> bool {
    let read = |escapes| {
        let mut lexer = Lexer::new(text, escapes);
        std::iter::from_fn(|| lexer.read()).any(|token| is_one_of(token, names))
    };
    match dialect.strings {
        Strings::Standard => read(false),
        Strings::Escaped => read(true),
        Strings::Either => read(false) || read(true),
    }
}

fn is_one_of(token: Token<'_>, names: &[String]) -> bool {
    match token {
        Token::Word(word) => names.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(word)),
        Token::Quoted(quoted) => names.iter().any(|name| name.as_bytes() == quoted),
        Token::UnicodeQuoted => true,
        Token::Text(_) | Token::Number(_) | Token::Parameter | Token::Symbol(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_where_it_is_an_identifier() {
        let names = ["set_tenant".to_owned(), "Odd".to_owned()];
        let rows = [
            ("select set_tenant(1)", true),
            ("SELECT App.SET_TENANT ($1)", true),
            (r#"select app."set_tenant"(1)"#, true),
            (r#"select "Odd"()"#, true),
            (r#"select U&"set\005ftenant"(1)"#, true),
            ("select set_tenants(1), 'set_tenant', $$set_tenant$$ /* set_tenant */ -- set_tenant", false),
            (r#"select "SET_TENANT"(1)"#, false),
            (r"select 'it\' , set_tenant(1) , '", true),
            ("", false),
        ];
        for (text, mentioned) in rows {
            assert_eq!(mentions(text.as_bytes(), Dialect::default(), &names), mentioned, "{text}");
        }
        assert!(!mentions(b"select set_tenant(1)", Dialect::default(), &[]));
    }
}
