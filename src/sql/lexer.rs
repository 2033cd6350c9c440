//! SQL text into tokens, with PostgreSQL's own lexical rules (scan.l) and no copy.
//! Knows where strings, comments and identifiers end; knows no word.
//!
//! Where versions of PostgreSQL differ, the older, more generous rule is kept: `1abc` is a number and a word here,
//! though newer servers refuse it.

use memchr::memchr;
use memchr::memchr2;

/// One token. Slices are of the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// An unquoted identifier or keyword, as written.
    Word(&'a [u8]),
    /// A quoted identifier: what is between the quotes, `""` not undone.
    Quoted(&'a [u8]),
    /// `U&"…"`: an identifier that may spell any name with escapes.
    UnicodeQuoted,
    Text(Literal<'a>),
    /// A run of digits. Fractions and exponents are further tokens.
    Number(&'a [u8]),
    /// `$1`
    Parameter,
    /// Any other byte. Operators of several bytes come one by one.
    Symbol(u8),
}

/// A string constant: what is between its quotes, with escapes not undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Literal<'a> {
    pub form: Form,
    pub body: &'a [u8],
}

/// How a string constant is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `'…'` and `N'…'`
    Plain,
    /// `E'…'`
    Escape,
    /// `$tag$…$tag$`
    Dollar,
    /// `B'…'`, `X'…'`
    Bits,
    /// `U&'…'`
    Unicode,
}

impl<'a> Token<'a> {
    /// The word, if this is one.
    pub fn word(self) -> Option<&'a [u8]> {
        if let Self::Word(word) = self { Some(word) } else { None }
    }

    /// Whether this is `keyword`, unquoted and in any case.
    pub fn is_keyword(self, keyword: &[u8]) -> bool {
        self.word().is_some_and(|word| word.eq_ignore_ascii_case(keyword))
    }
}

impl<'a> Literal<'a> {
    /// The string's value, where that is what is written; `None` where escapes would have to be undone.
    pub fn verbatim(&self) -> Option<&'a [u8]> {
        match self.form {
            Form::Dollar => Some(self.body),
            Form::Plain | Form::Escape => memchr2(b'\'', b'\\', self.body).is_none().then_some(self.body),
            Form::Bits | Form::Unicode => None,
        }
    }
}

/// A reader of tokens. Cheap to copy, so looking ahead is done on a copy.
#[derive(Clone, Copy, Debug)]
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    start: usize,
    backslashes_escape: bool,
    backslash_seen: bool,
}

impl<'a> Lexer<'a> {
    /// Reads `text` up to its first NUL or its end. `backslashes_escape` is what
    /// `standard_conforming_strings = off` says of ordinary strings.
    pub fn new(text: &'a [u8], backslashes_escape: bool) -> Self {
        let end = memchr(0, text).unwrap_or(text.len());
        Self {
            text: text.get(..end).unwrap_or_default(),
            at: 0,
            start: 0,
            backslashes_escape,
            backslash_seen: false,
        }
    }

    /// The text that is read, without NUL.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// Where the last token begins, in bytes.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Where the last token ends, in bytes.
    pub fn end(&self) -> usize {
        self.at
    }

    /// Whether a backslash escapes in ordinary strings.
    pub fn backslashes_escape(&self) -> bool {
        self.backslashes_escape
    }

    /// Whether an ordinary string held a backslash: then the text reads differently under the other setting.
    pub fn backslash_seen(&self) -> bool {
        self.backslash_seen
    }

    /// The token after the last one, without moving.
    pub fn peek(mut self) -> Option<Token<'a>> {
        self.next()
    }

    /// The next token. As `next`, but inlined: passing a token through memory costs more than reading it.
    #[inline(always)]
    pub fn read(&mut self) -> Option<Token<'a>> {
        let byte = self.skip_blank()?;
        self.start = self.at;
        Some(match class(byte) {
            Class::Word => self.word(),
            Class::DoubleQuote => Token::Quoted(self.quoted(self.start)),
            Class::Quote => Token::Text(self.quoted_text(self.start, Form::Plain)),
            Class::Dollar => self.dollar(),
            Class::Digit => Token::Number(self.number()),
            Class::Space | Class::Other => Token::Symbol(self.symbol(byte)),
        })
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.get(at).copied()
    }

    fn slice(&self, from: usize, to: usize) -> &'a [u8] {
        self.text.get(from..to).unwrap_or_default()
    }

    /// Passes white space and comments. The byte after them, or `None` at the end.
    #[inline(always)]
    fn skip_blank(&mut self) -> Option<u8> {
        loop {
            let byte = self.byte(self.at)?;
            match (class(byte), byte) {
                (Class::Space, _) => self.at += 1,
                (Class::Other, b'-') if self.byte(self.at + 1) == Some(b'-') => self.skip_line(),
                (Class::Other, b'/') if self.byte(self.at + 1) == Some(b'*') => self.skip_comment(),
                _ => return Some(byte),
            }
        }
    }

    fn skip_line(&mut self) {
        let rest = self.slice(self.at, self.text.len());
        self.at += memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
    }

    /// Comments nest. One that does not end takes the rest of the text.
    fn skip_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            let rest = self.slice(self.at, self.text.len());
            let Some(found) = memchr2(b'*', b'/', rest) else {
                self.at = self.text.len();
                return;
            };
            self.at += found;
            match (self.byte(self.at), self.byte(self.at + 1)) {
                (Some(b'/'), Some(b'*')) => (self.at, depth) = (self.at + 2, depth + 1),
                (Some(b'*'), Some(b'/')) => (self.at, depth) = (self.at + 2, depth.saturating_sub(1)),
                _ => self.at += 1,
            }
            if depth == 0 {
                return;
            }
        }
    }

    #[inline(always)]
    fn word(&mut self) -> Token<'a> {
        let rest = self.slice(self.start, self.text.len());
        let length = rest.iter().position(|byte| !continues_word(*byte)).unwrap_or(rest.len());
        self.at = self.start + length;
        let word = self.slice(self.start, self.at);
        if let [letter] = word
            && let Some(b'\'' | b'&') = self.byte(self.at)
            && let Some(token) = self.prefixed(*letter)
        {
            return token;
        }
        Token::Word(word)
    }

    /// What a letter and a quote begin together: `E'`, `B'`, `X'`, `N'`, `U&'`, `U&"`.
    #[cold]
    fn prefixed(&mut self, letter: u8) -> Option<Token<'a>> {
        let unicode = letter.eq_ignore_ascii_case(&b'u') && self.byte(self.at) == Some(b'&');
        let quote = self.at + usize::from(unicode);
        match (letter.to_ascii_lowercase(), self.byte(quote)) {
            (b'u', Some(b'\'')) if unicode => Some(Token::Text(self.quoted_text(quote, Form::Unicode))),
            (b'u', Some(b'"')) if unicode => {
                self.quoted(quote);
                Some(Token::UnicodeQuoted)
            }
            (b'e', Some(b'\'')) => Some(Token::Text(self.quoted_text(quote, Form::Escape))),
            (b'b' | b'x', Some(b'\'')) => Some(Token::Text(self.quoted_text(quote, Form::Bits))),
            (b'n', Some(b'\'')) => Some(Token::Text(self.quoted_text(quote, Form::Plain))),
            _ => None,
        }
    }

    /// A string whose opening quote is at `quote`.
    fn quoted_text(&mut self, quote: usize, form: Form) -> Literal<'a> {
        let escapes = match form {
            Form::Escape => true,
            Form::Plain => self.backslashes_escape,
            Form::Dollar | Form::Bits | Form::Unicode => false,
        };
        self.at = quote + 1;
        let mut end = self.close_text(escapes);
        // A string goes on after white space with a line break in it, and keeps its escapes (scan.l, xqs).
        while self.continue_text() {
            end = self.close_text(escapes);
        }
        let body = self.slice(quote + 1, end);
        if form == Form::Plain && !self.backslash_seen {
            self.backslash_seen = memchr(b'\\', body).is_some();
        }
        Literal { form, body }
    }

    /// Moves behind the closing quote. Where that quote is, or the end of the text.
    fn close_text(&mut self, escapes: bool) -> usize {
        loop {
            let rest = self.slice(self.at, self.text.len());
            let found = if escapes { memchr2(b'\'', b'\\', rest) } else { memchr(b'\'', rest) };
            let Some(found) = found else {
                self.at = self.text.len();
                return self.at;
            };
            let stop = self.at + found;
            if self.byte(stop) == Some(b'\\') || self.byte(stop + 1) == Some(b'\'') {
                self.at = self.text.len().min(stop + 2);
            } else {
                self.at = stop + 1;
                return stop;
            }
        }
    }

    /// Moves behind the next opening quote, if this string goes on there.
    fn continue_text(&mut self) -> bool {
        let mut ahead = *self;
        let mut line_broken = false;
        while let Some(byte) = ahead.byte(ahead.at) {
            match byte {
                b'\'' if line_broken => {
                    self.at = ahead.at + 1;
                    return true;
                }
                b'-' if ahead.byte(ahead.at + 1) == Some(b'-') => ahead.skip_line(),
                _ if class(byte) == Class::Space => {
                    line_broken |= matches!(byte, b'\n' | b'\r');
                    ahead.at += 1;
                }
                _ => return false,
            }
        }
        false
    }

    /// An identifier whose opening quote is at `quote`.
    fn quoted(&mut self, quote: usize) -> &'a [u8] {
        let mut from = quote + 1;
        loop {
            let rest = self.slice(from, self.text.len());
            // Names are short: a plain loop is faster than memchr.
            let Some(found) = rest.iter().position(|byte| *byte == b'"') else {
                self.at = self.text.len();
                return self.slice(quote + 1, self.at);
            };
            let stop = from + found;
            if self.byte(stop + 1) == Some(b'"') {
                from = stop + 2;
            } else {
                self.at = stop + 1;
                return self.slice(quote + 1, stop);
            }
        }
    }

    fn dollar(&mut self) -> Token<'a> {
        let rest = self.slice(self.start + 1, self.text.len());
        match rest.first().copied().map(class) {
            Some(Class::Digit) => {
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                self.at = self.start + 1 + digits;
                Token::Parameter
            }
            _ => self.dollar_quoted(rest).unwrap_or_else(|| Token::Symbol(self.symbol(b'$'))),
        }
    }

    /// `$tag$…$tag$`, where `rest` follows the first dollar; `None` if no tag follows it.
    fn dollar_quoted(&mut self, rest: &'a [u8]) -> Option<Token<'a>> {
        let is_tag = |byte: &u8| matches!(class(*byte), Class::Word | Class::Digit);
        let length = rest.iter().position(|byte| !is_tag(byte))?;
        if rest.get(length) != Some(&b'$') {
            return None;
        }
        let tag = self.slice(self.start, self.start + length + 2);
        let opened = self.start + tag.len();
        let inside = self.slice(opened, self.text.len());
        let found = memchr::memmem::find(inside, tag);
        let length = found.unwrap_or(inside.len());
        self.at = opened + length + found.map_or(0, |_| tag.len());
        Some(Token::Text(Literal { form: Form::Dollar, body: self.slice(opened, opened + length) }))
    }

    fn number(&mut self) -> &'a [u8] {
        let rest = self.slice(self.start, self.text.len());
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at = self.start + digits;
        self.slice(self.start, self.at)
    }

    #[inline(always)]
    fn symbol(&mut self, byte: u8) -> u8 {
        self.at = self.start + 1;
        byte
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.read()
    }
}

/// What a byte can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Space,
    Word,
    Digit,
    Quote,
    DoubleQuote,
    Dollar,
    Other,
}

impl Class {
    const fn of(byte: u8) -> Self {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Self::Space,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Self::Word,
            b'0'..=b'9' => Self::Digit,
            b'\'' => Self::Quote,
            b'"' => Self::DoubleQuote,
            b'$' => Self::Dollar,
            _ => Self::Other,
        }
    }
}

#[inline]
fn class(byte: u8) -> Class {
    CLASSES.get(usize::from(byte)).copied().unwrap_or(Class::Other)
}

#[inline]
fn continues_word(byte: u8) -> bool {
    matches!(class(byte), Class::Word | Class::Digit | Class::Dollar)
}

static CLASSES: [Class; 256] = classes();

#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "0..256, at compile time")]
const fn classes() -> [Class; 256] {
    let mut table = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = Class::of(byte as u8);
        byte += 1;
    }
    table
}
