//! One reading of a text: where statements begin, which verbs they begin with, which functions they call.

use crate::sql::effect::Effect;
use crate::sql::lexer::Form;
use crate::sql::lexer::Lexer;
use crate::sql::lexer::Literal;
use crate::sql::lexer::Token;
use crate::sql::vocabulary;
use crate::sql::vocabulary::Function;
use crate::sql::vocabulary::Word;

/// Told of each custom setting, if anybody wants to know.
type Named<'n> = Option<&'n mut dyn FnMut(&str)>;

/// What kind of text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Within {
    /// What a client sends: verbs count where statements begin.
    Script,
    /// The body of a DO, in PL/pgSQL: a statement can begin at any word, so verbs count everywhere.
    Block,
}

/// Where in a statement the reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    /// Behind EXPLAIN: options, then a statement.
    Explain,
    ExplainOptions {
        depth: usize,
    },
    /// Behind PREPARE: a name and types, then AS and a statement.
    Prepare,
    Inside,
}

/// The verbs that give later words of their statement a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Create,
    Alter,
    /// ALTER ROLE, USER, DATABASE: SET and RESET change what sessions begin with.
    AlterDefaults,
    Declare,
    Do,
    Other,
}

/// The state of one reading.
pub(super) struct Reading<'a> {
    lexer: Lexer<'a>,
    within: Within,
    place: Place,
    verb: Verb,
    effect: Effect,
    /// The word before this one, empty if it was no word.
    previous: &'a [u8],
    /// How many tokens have been read.
    count: usize,
    /// The count at the last DEFAULT that follows SET, or that stands in a CREATE: its expression is not run.
    default_at: Option<usize>,
    updates: bool,
    names_settings: bool,
    backslash_seen: bool,
}

impl<'a> Reading<'a> {
    pub(super) fn new(text: &'a [u8], backslashes_escape: bool, within: Within) -> Self {
        Self {
            lexer: Lexer::new(text, backslashes_escape),
            within,
            place: Place::Start,
            verb: Verb::Other,
            effect: Effect::NONE,
            previous: b"",
            count: 0,
            default_at: None,
            updates: false,
            names_settings: false,
            backslash_seen: false,
        }
    }

    /// Reads to the end.
    pub(super) fn run(&mut self, named: &mut Named<'_>) -> Effect {
        while let Some(token) = self.lexer.read() {
            self.count += 1;
            match token {
                Token::Word(word) => {
                    self.word(word, named);
                    self.previous = word;
                    continue;
                }
                Token::Quoted(name) => self.quoted(name, named),
                Token::UnicodeQuoted => self.effect |= Effect::UNKNOWN,
                Token::Text(literal) => self.literal(literal, named),
                Token::Symbol(symbol) => self.symbol(symbol),
                Token::Number(_) | Token::Parameter => {}
            }
            self.previous = b"";
        }
        if self.updates && self.names_settings {
            self.effect |= Effect::TOUCHES; // A rule on this view turns an UPDATE into set_config.
        }
        self.effect
    }

    /// Whether the text reads differently if backslashes mean something else.
    pub(super) fn backslash_seen(&self) -> bool {
        self.backslash_seen || self.lexer.backslash_seen()
    }

    #[inline]
    fn word(&mut self, word: &'a [u8], named: &mut Named<'_>) {
        let known = vocabulary::of_word(word);
        let begins = self.begins_statement(word);
        let Some(known) = known else { return };
        if begins {
            self.begin(known, named);
        }
        self.mention(known, named);
    }

    /// Whether a statement begins with this word; moves on to the place behind it.
    #[inline]
    fn begins_statement(&mut self, word: &[u8]) -> bool {
        match self.place {
            Place::Inside => self.within == Within::Block,
            Place::Start => {
                self.place = Place::Inside;
                true
            }
            Place::Explain if is_one_of(word, &[b"analyze", b"analyse", b"verbose"]) => false,
            Place::Explain => {
                self.place = Place::Inside;
                true
            }
            Place::Prepare => {
                if word.eq_ignore_ascii_case(b"as") {
                    self.place = Place::Start;
                }
                false
            }
            Place::ExplainOptions { .. } => false,
        }
    }

    fn symbol(&mut self, symbol: u8) {
        self.place = match (self.place, symbol) {
            (_, b';') => {
                self.verb = Verb::Other;
                Place::Start
            }
            (Place::Explain, b'(') => Place::ExplainOptions { depth: 0 },
            (Place::ExplainOptions { depth: 0 }, b')') => Place::Explain,
            (Place::ExplainOptions { depth }, b'(') => Place::ExplainOptions { depth: depth + 1 },
            (Place::ExplainOptions { depth }, b')') => Place::ExplainOptions { depth: depth - 1 },
            (place, _) => place,
        };
    }

    fn quoted(&mut self, name: &'a [u8], named: &mut Named<'_>) {
        if let Some(known) = vocabulary::of_quoted(name) {
            self.mention(known, named);
        }
    }

    /// The body of a DO is the only string that runs because of where it stands.
    fn literal(&mut self, literal: Literal<'a>, named: &mut Named<'_>) {
        if self.verb != Verb::Do || self.within == Within::Block {
            return;
        }
        if literal.form != Form::Dollar {
            self.effect |= Effect::OPAQUE;
            return;
        }
        let mut block = Reading::new(literal.body, self.lexer.backslashes_escape(), Within::Block);
        self.effect |= block.run(named).without(Effect::DISCARD_ALL | Effect::DISCARD_SEQUENCES);
        self.backslash_seen |= block.backslash_seen();
    }

    /// A statement begins with this word.
    fn begin(&mut self, verb: Word, named: &mut Named<'_>) {
        match verb {
            Word::Set => self.set(named),
            Word::Reset => self.reset(named),
            Word::Discard => self.discard(),
            Word::Listen | Word::Close => self.effect |= Effect::TOUCHES,
            Word::Prepare => self.prepare(),
            Word::Deallocate => self.deallocate(),
            Word::Execute => self.execute(),
            Word::Declare => self.verb = Verb::Declare,
            Word::Load => self.load(),
            Word::Do => self.begin_do(),
            Word::Call => self.effect |= Effect::TOUCHES | Effect::OPAQUE,
            Word::Create => self.define(Verb::Create, Effect::DDL),
            Word::Alter => self.alter(),
            Word::Drop => self.define(Verb::Other, Effect::DDL | Effect::DROPS),
            Word::Explain => self.place = Place::Explain,
            Word::Update
            | Word::Temp
            | Word::Hold
            | Word::Default
            | Word::Language
            | Word::PgSettings
            | Word::PgTemp
            | Word::Function(_) => {}
        }
    }

    /// This word stands anywhere in a statement.
    fn mention(&mut self, word: Word, named: &mut Named<'_>) {
        match word {
            Word::Update => self.updates = true,
            Word::PgSettings => self.names_settings = true,
            Word::PgTemp => self.effect |= Effect::TOUCHES,
            Word::Temp if is_one_of(self.previous, BEFORE_TEMP) => self.effect |= Effect::TOUCHES,
            Word::Hold if self.verb == Verb::Declare && is_one_of(self.previous, &[b"with"]) => {
                self.effect |= Effect::TOUCHES;
            }
            // CREATE TABLE … AS EXECUTE.
            Word::Execute if is_one_of(self.previous, &[b"as"]) => self.execute(),
            Word::Set | Word::Reset if self.verb == Verb::AlterDefaults => {
                self.effect |= Effect::ALTER_DEFAULTS
            }
            Word::Default if self.verb == Verb::Create || is_one_of(self.previous, &[b"set"]) => {
                self.default_at = Some(self.count);
            }
            Word::Language if self.verb == Verb::Do => self.language(),
            Word::Function(function) if self.lexer.peek() == Some(Token::Symbol(b'(')) => {
                self.call(function, named);
            }
            Word::Set
            | Word::Reset
            | Word::Discard
            | Word::Listen
            | Word::Prepare
            | Word::Deallocate
            | Word::Execute
            | Word::Declare
            | Word::Close
            | Word::Load
            | Word::Do
            | Word::Call
            | Word::Create
            | Word::Alter
            | Word::Drop
            | Word::Explain
            | Word::Temp
            | Word::Hold
            | Word::Default
            | Word::Language
            | Word::Function(_) => {}
        }
    }

    fn call(&mut self, function: Function, named: &mut Named<'_>) {
        self.effect |= match function {
            Function::SetConfig => return self.set_config(named),
            Function::Nextval if self.is_default() => Effect::NONE,
            Function::Nextval | Function::Sequence => Effect::SEQUENCE,
            Function::Setseed => Effect::SEED,
            Function::Touching => Effect::TOUCHES,
            Function::Opaque => Effect::TOUCHES | Effect::OPAQUE,
            Function::Signal => Effect::SIGNALS,
        };
    }

    /// Whether the function just named is the DEFAULT of a definition: `DEFAULT nextval(`, `DEFAULT
    /// pg_catalog.nextval(`. That one runs later, in sessions that need not name it.
    fn is_default(&self) -> bool {
        let defines = matches!(self.verb, Verb::Create | Verb::Alter) && self.within == Within::Script;
        let before = self.default_at.map(|at| self.count - at);
        defines && (before == Some(1) || (before == Some(3) && self.previous.is_empty()))
    }

    /// `set_config(name, value, is_local)`: local ones are gone with the transaction.
    fn set_config(&mut self, named: &mut Named<'_>) {
        let local = self.is_local();
        self.effect |= if local { Effect::LOCAL } else { Effect::TOUCHES };
        let mut ahead = self.lexer;
        ahead.next();
        let name = match (ahead.next(), ahead.next()) {
            (Some(Token::Text(literal)), Some(Token::Symbol(b','))) => literal.verbatim(),
            _ => None,
        };
        match name {
            Some(name) if name.contains(&b'.') => self.custom(&[name], named),
            None if !local => self.effect |= Effect::OPAQUE,
            Some(_) | None => {}
        }
    }

    /// Whether the arguments that follow end in `, true)`.
    fn is_local(&self) -> bool {
        let mut ahead = self.lexer;
        let mut depth = 0_usize;
        let mut last = [Token::Parameter; 2];
        for token in ahead.by_ref().take(ARGUMENT_TOKENS_MAX) {
            if matches!(token, Token::Symbol(b'(')) {
                depth += 1;
            } else if matches!(token, Token::Symbol(b')')) {
                depth = depth.saturating_sub(1);
            }
            let [comma, argument] = last;
            if depth == 0 {
                return comma == Token::Symbol(b',') && argument.is_keyword(b"true");
            }
            last = [argument, token];
        }
        false
    }

    /// SET [SESSION | LOCAL] name …, SET TRANSACTION …, SET CONSTRAINTS …
    fn set(&mut self, named: &mut Named<'_>) {
        let mut ahead = self.lexer;
        let first = ahead.next();
        let passing = first.and_then(Token::word).is_some_and(|word| is_one_of(word, PASSING));
        if passing && !self.is_assigned(ahead) {
            // Gone with the transaction.
            if is_keyword(first, b"local") {
                self.effect |= Effect::LOCAL;
                self.setting(ahead, named);
            }
            return;
        }
        self.effect |= Effect::TOUCHES;
        if self.back_to_default(ahead) {
            self.effect |= Effect::RESETS;
        }
        if is_keyword(first, b"session") && !self.is_assigned(ahead) {
            self.setting(ahead, named);
        } else {
            self.setting(self.lexer, named);
        }
    }

    /// Whether the word before `ahead` is the name of a setting after all: `SET local.x = 1`.
    fn is_assigned(&self, ahead: Lexer<'a>) -> bool {
        match ahead.peek() {
            Some(Token::Symbol(b'.' | b'=')) => true,
            Some(Token::Word(word)) => word.eq_ignore_ascii_case(b"to"),
            _ => false,
        }
    }

    /// Whether the next few words of this statement send a setting back to where it began.
    fn back_to_default(&self, ahead: Lexer<'a>) -> bool {
        let statement = ahead.take(SET_TOKENS_MAX).take_while(|token| *token != Token::Symbol(b';'));
        let mut words = statement.filter_map(Token::word);
        words.any(|word| is_one_of(word, &[b"default", b"none", b"local"]))
    }

    fn reset(&mut self, named: &mut Named<'_>) {
        self.effect |= Effect::TOUCHES | Effect::RESETS;
        self.setting(self.lexer, named);
    }

    /// The name at `ahead`, if it is one of the form `a.b`.
    fn setting(&mut self, mut ahead: Lexer<'a>, named: &mut Named<'_>) {
        let mut parts: [&[u8]; NAME_PARTS_MAX] = [b""; NAME_PARTS_MAX];
        for (read, part) in parts.iter_mut().enumerate() {
            match ahead.next() {
                Some(Token::Word(name) | Token::Quoted(name)) => *part = name,
                _ => return,
            }
            if ahead.peek() != Some(Token::Symbol(b'.')) {
                let parts = parts.get(..=read).unwrap_or_default();
                if read > 0 || parts.iter().any(|part| part.contains(&b'.')) {
                    self.custom(parts, named);
                }
                return;
            }
            ahead.next();
        }
        self.effect |= Effect::OPAQUE;
    }

    fn custom(&mut self, parts: &[&[u8]], named: &mut Named<'_>) {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.');
        if !parts.iter().all(|part| part.iter().all(is_plain)) {
            self.effect |= Effect::OPAQUE;
            return;
        }
        self.effect |= Effect::CUSTOM;
        if let Some(named) = named {
            named(&String::from_utf8_lossy(&parts.join(&b'.')).to_ascii_lowercase());
        }
    }

    fn discard(&mut self) {
        self.effect |= Effect::TOUCHES;
        let target = self.lexer.peek();
        if is_keyword(target, b"all") {
            self.effect |= Effect::DISCARD_ALL | Effect::RESETS;
        } else if is_keyword(target, b"sequences") {
            self.effect |= Effect::DISCARD_SEQUENCES;
        }
    }

    /// PREPARE TRANSACTION 'id' is about something else.
    fn prepare(&mut self) {
        let mut ahead = self.lexer;
        let name = ahead.next();
        if is_keyword(name, b"transaction") && matches!(ahead.next(), Some(Token::Text(_))) {
            return;
        }
        self.effect |= Effect::TOUCHES | Effect::STATEMENTS;
        self.place = Place::Prepare;
    }

    /// `DEALLOCATE [PREPARE] ALL | name`
    fn deallocate(&mut self) {
        self.effect |= Effect::TOUCHES | Effect::STATEMENTS;
        let mut ahead = self.lexer;
        let mut target = ahead.next();
        if is_keyword(target, b"prepare") {
            target = ahead.next();
        }
        if is_keyword(target, b"all") {
            self.effect |= Effect::DEALLOCATE_ALL;
        }
    }

    /// In PL/pgSQL EXECUTE runs a text; elsewhere a prepared statement. It is also a privilege (GRANT EXECUTE ON),
    /// and part of CREATE TRIGGER.
    fn execute(&mut self) {
        let next = self.lexer.peek();
        let of_trigger = is_keyword(next, b"function") || is_keyword(next, b"procedure");
        let in_definition = self.within == Within::Block && self.verb == Verb::Create;
        if is_keyword(next, b"on") || (in_definition && of_trigger) {
            return;
        }
        self.effect |= match self.within {
            Within::Script => Effect::TOUCHES | Effect::STATEMENTS,
            Within::Block => Effect::TOUCHES | Effect::OPAQUE,
        };
    }

    fn load(&mut self) {
        if matches!(self.lexer.peek(), Some(Token::Text(_))) {
            self.effect |= Effect::LIBRARY;
        }
    }

    fn begin_do(&mut self) {
        match self.within {
            Within::Script => {
                self.effect |= Effect::TOUCHES;
                self.verb = Verb::Do;
            }
            // Usually ON CONFLICT DO …; a DO in a DO runs a text that is not read.
            Within::Block if matches!(self.lexer.peek(), Some(Token::Text(_))) => {
                self.effect |= Effect::OPAQUE
            }
            Within::Block => {}
        }
    }

    /// DO … LANGUAGE: only PL/pgSQL is read.
    fn language(&mut self) {
        let is_read = match self.lexer.peek() {
            Some(Token::Word(name)) => name.eq_ignore_ascii_case(b"plpgsql"),
            Some(Token::Quoted(name)) => name == b"plpgsql",
            _ => false,
        };
        if !is_read {
            self.effect |= Effect::OPAQUE;
        }
    }

    /// CREATE, ALTER, DROP.
    fn define(&mut self, verb: Verb, effect: Effect) {
        self.verb = verb;
        self.effect |= effect;
        if is_keyword(self.lexer.peek(), b"database") {
            self.effect |= Effect::DATABASE_DDL;
        }
    }

    fn alter(&mut self) {
        let Some(Token::Word(object)) = self.lexer.peek() else {
            return self.define(Verb::Alter, Effect::DDL);
        };
        if is_one_of(object, &[b"system"]) {
            self.effect |= Effect::ALTER_DEFAULTS;
        }
        let has_defaults = is_one_of(object, &[b"role", b"user", b"database"]);
        let verb = if has_defaults { Verb::AlterDefaults } else { Verb::Alter };
        self.define(verb, Effect::DDL);
    }
}

fn is_keyword(token: Option<Token<'_>>, word: &[u8]) -> bool {
    token.is_some_and(|token| token.is_keyword(word))
}

fn is_one_of(word: &[u8], words: &[&[u8]]) -> bool {
    words.iter().any(|one| one.eq_ignore_ascii_case(word))
}

/// After SET: what ends with the transaction.
const PASSING: &[&[u8]] = &[b"local", b"transaction", b"constraints"];

/// What stands before TEMP where it is a keyword (gram.y, `OptTemp` and `OptTempTableName`).
const BEFORE_TEMP: &[&[u8]] = &[b"create", b"replace", b"global", b"local", b"into"];

/// A call of `set_config` with more tokens than this is taken as not local, so that nested calls are not
/// read again and again.
const ARGUMENT_TOKENS_MAX: usize = 32;

/// `SESSION AUTHORIZATION DEFAULT` and `a.b.c TO DEFAULT` are within this.
const SET_TOKENS_MAX: usize = 8;

/// PostgreSQL has no limit; people write two parts.
const NAME_PARTS_MAX: usize = 4;
