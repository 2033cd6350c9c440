//! The SQL that the toy understands: real statements, of which it knows these forms and no others.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use stagedoor::session::probe::PROBE;

/// An error as far as a client can tell one from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub code: &'static str,
    pub message: String,
}

pub fn error(code: &'static str, message: impl Into<String>) -> Error {
    Error { code, message: message.into() }
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// One row of these columns.
    Row(Vec<Column>),
    /// The numbers from 1.
    Series(usize),
    Show(String),
    /// `None`: back to where it began.
    Set {
        name: String,
        value: Option<String>,
        local: bool,
        tag: &'static str,
    },
    /// A DO block that calls `set_config`.
    Do {
        name: String,
        value: String,
        local: bool,
    },
    ResetAll,
    Discard(&'static str),
    Begin,
    Commit,
    Rollback,
    Savepoint(String),
    RollbackTo(String),
    Release(String),
    CreateTemp {
        name: String,
        drops: bool,
    },
    Drop(String),
    Listen(String),
    /// `None`: all.
    Unlisten(Option<String>),
    Notify(String),
    Declare {
        name: String,
        hold: bool,
        rows: usize,
    },
    Fetch {
        count: usize,
        name: String,
    },
    /// `None`: all.
    CloseCursor(Option<String>),
    Prepare {
        name: String,
        what: Rc<Self>,
    },
    Execute(String),
    /// `None`: all.
    Deallocate(Option<String>),
    Load(String),
    Insert {
        table: String,
        value: String,
    },
    CopyIn(String),
    CopyOut(usize),
    /// Settings that are lent for a while, each with what it gets or whose value, or given back. Returns no rows.
    Lend(Vec<(String, Value)>),
    /// What the core asks a server after a client.
    Probe {
        ours: bool,
        custom: Vec<String>,
    },
}

/// What a setting gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    This(String),
    Of(String),
}

/// What a column reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    Text(String),
    /// A setting; where there may be none, NULL.
    Setting {
        name: String,
        missing_ok: bool,
    },
    SetConfig {
        name: String,
        value: String,
        local: bool,
    },
    User,
    /// The table that `search_path` finds.
    Whose,
    /// A constant that was made of text when the statement was parsed, in the time zone of that moment.
    Moment,
    /// Fails when the statement is planned.
    Zero,
    /// Fails when the statement runs.
    Boom,
    IsTemp(String),
    Lock(String),
    Unlock(String),
    UnlockAll,
    Locks,
    Channels,
    Prepared,
    Cursors,
    Count(String),
    Nextval(String),
    Currval(String),
    Setseed(String),
    Random,
}

impl Statement {
    /// Whether it is allowed in a transaction that has failed.
    pub fn is_exit(&self) -> bool {
        matches!(self, Self::Commit | Self::Rollback | Self::RollbackTo(_))
    }

    /// Whether it begins or ends transactions or savepoints.
    pub fn is_of_transaction(&self) -> bool {
        self.is_exit() || matches!(self, Self::Begin | Self::Savepoint(_) | Self::Release(_))
    }

    /// Whether it is analysed when it is parsed, and again when `search_path` has changed.
    pub fn is_planned(&self) -> bool {
        matches!(self, Self::Row(_) | Self::Series(_) | Self::Insert { .. } | Self::Probe { .. })
    }

    /// Whether it reads what only some values of `search_path` find.
    pub fn has(&self, wanted: &Column) -> bool {
        matches!(self, Self::Row(columns) if columns.contains(wanted))
    }
}

thread_local! {
    static READ: RefCell<HashMap<Vec<u8>, Result<Rc<Vec<Rc<Statement>>>, Error>>> = RefCell::default();
}

/// The statements of a text; an error where one is none.
pub fn read(text: &[u8]) -> Result<Rc<Vec<Rc<Statement>>>, Error> {
    if let Some(known) = READ.with_borrow(|read| read.get(text).cloned()) {
        return known;
    }
    let result = read_anew(&String::from_utf8_lossy(text)).map(Rc::new);
    READ.with_borrow_mut(|read| read.insert(text.to_vec(), result.clone()));
    result
}

fn read_anew(text: &str) -> Result<Vec<Rc<Statement>>, Error> {
    if let Some(rest) = text.strip_prefix(PROBE) {
        let custom = rest.split(" UNION ALL SELECT 'c', E'").skip(1);
        let custom = custom.map(|part| part.split('\'').next().unwrap_or_default().to_owned()).collect();
        return Ok(vec![Rc::new(Statement::Probe { ours: rest.contains("SELECT 'o'"), custom })]);
    }
    let words = words(text);
    let parts = words.split(|word| word == ";").filter(|part| !part.is_empty());
    parts.map(|part| statement(part).map(Rc::new)).collect()
}

/// Words in lower case, symbols, and strings with a quote before them. `/* … */` is nothing.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let body = &rest[first.len_utf8()..];
        if rest.starts_with("/*") {
            rest = rest.split_once("*/").map_or("", |(_, after)| after);
        } else if first.is_whitespace() {
            rest = body;
        } else if first == '\'' || rest.starts_with("E'") {
            let (word, after) = string(rest.trim_start_matches('E'));
            words.push(format!("'{word}"));
            rest = after;
        } else if first == '"' {
            let (word, after) = body.split_once('"').unwrap_or((body, ""));
            words.push(word.to_owned());
            rest = after;
        } else if rest.starts_with("$$") {
            let (word, after) = rest[2..].split_once("$$").unwrap_or_else(|| (&rest[2..], ""));
            words.push(format!("'{word}"));
            rest = after;
        } else if is_of_word(first) {
            let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
            let word = rest[..end].to_ascii_lowercase();
            words.push(word.strip_prefix("pg_catalog.").map_or_else(|| word.clone(), str::to_owned));
            rest = &rest[end..];
        } else {
            words.push(first.to_string());
            rest = body;
        }
    }
    words
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.')
}

/// A string from its quote on, and what follows it.
fn string(text: &str) -> (String, &str) {
    let (mut word, mut chars) = (String::new(), text.char_indices().skip(1));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => word.extend(chars.next().map(|(_, c)| c)),
            '\'' => return (word, &text[at + 1..]),
            c => word.push(c),
        }
    }
    (word, "")
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn statement(words: &[String]) -> Result<Statement, Error> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let own = |word: &str| word.strip_prefix('\'').unwrap_or(word).to_owned();
    let set = |name: &str, value: &str, local| Statement::Set {
        name: name.to_owned(),
        value: (value != "default").then(|| own(value)),
        local,
        tag: if words.first() == Some(&"reset") { "RESET" } else { "SET" },
    };
    Ok(match words.as_slice() {
        ["select", "n", "from", "generate_series", "(", "1", ",", rows, ")", "n"] => {
            Statement::Series(number(rows))
        }
        ["select", "where", "concat", "(", settings @ .., ")", "is", "null"] => {
            Statement::Lend(lent(settings)?)
        }
        ["select", columns @ ..] => Statement::Row(self::columns(columns)?),
        ["show", name] => Statement::Show(own(name)),
        ["do", block] => return block_of(block),
        ["set", "role", "none"] => set("role", "default", false),
        ["set", "local", "role", "none"] => set("role", "default", true),
        ["set", "role", name] => set("role", name, false),
        ["set", "local", "role", name] => set("role", name, true),
        ["set", "local", name, "to" | "=", value] => set(name, value, true),
        ["set", "session" | "", name, "to" | "=", value] | ["set", name, "to" | "=", value] => {
            set(name, value, false)
        }
        ["reset", "all"] => Statement::ResetAll,
        ["reset", name] => set(name, "default", false),
        ["discard", "all"] => Statement::Discard("ALL"),
        ["discard", "temp"] => Statement::Discard("TEMP"),
        ["discard", "plans"] => Statement::Discard("PLANS"),
        ["discard", "sequences"] => Statement::Discard("SEQUENCES"),
        ["begin"] => Statement::Begin,
        ["commit"] => Statement::Commit,
        ["rollback"] => Statement::Rollback,
        ["savepoint", name] => Statement::Savepoint(own(name)),
        ["rollback", "to", name] => Statement::RollbackTo(own(name)),
        ["release", name] => Statement::Release(own(name)),
        ["create", "temp", "table", name, "(", "n", "int", ")", end @ ..] => {
            Statement::CreateTemp { name: own(name), drops: !end.is_empty() }
        }
        ["drop", "table", name] => Statement::Drop(own(name)),
        ["listen", name] => Statement::Listen(own(name)),
        ["unlisten", "*"] => Statement::Unlisten(None),
        ["unlisten", name] => Statement::Unlisten(Some(own(name))),
        ["notify", name] => Statement::Notify(own(name)),
        [
            "declare",
            name,
            "cursor",
            hold @ ..,
            "for",
            "select",
            "n",
            "from",
            "generate_series",
            "(",
            "1",
            ",",
            rows,
            ")",
            "n",
        ] => Statement::Declare { name: own(name), hold: !hold.is_empty(), rows: number(rows) },
        ["fetch", count, "from", name] => Statement::Fetch { count: number(count), name: own(name) },
        ["close", "all"] => Statement::CloseCursor(None),
        ["close", name] => Statement::CloseCursor(Some(own(name))),
        ["prepare", name, "as", ..] => {
            let what = words.iter().skip(3).map(|&word| word.to_owned()).collect::<Vec<_>>();
            Statement::Prepare { name: own(name), what: Rc::new(statement(&what)?) }
        }
        ["execute", name] => Statement::Execute(own(name)),
        ["deallocate", "all"] => Statement::Deallocate(None),
        ["deallocate", name] => Statement::Deallocate(Some(own(name))),
        ["load", name] => Statement::Load(own(name)),
        ["insert", "into", table, "values", "(", value, ")"] => {
            Statement::Insert { table: own(table), value: own(value) }
        }
        ["copy", table, "from", "stdin"] => Statement::CopyIn(own(table)),
        [
            "copy",
            "(",
            "select",
            "n",
            "from",
            "generate_series",
            "(",
            "1",
            ",",
            rows,
            ")",
            "n",
            ")",
            "to",
            "stdout",
        ] => Statement::CopyOut(number(rows)),
        [first, ..] => return Err(syntax(first)),
        [] => return Err(syntax("")),
    })
}

/// A DO block with one `perform set_config(…)`.
fn block_of(block: &str) -> Result<Statement, Error> {
    let words = words(block.strip_prefix('\'').unwrap_or(block));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["begin", "perform", "set_config", "(", name, ",", value, ",", local, ")", ";", "end"] => {
            let (name, value) = (name[1..].to_owned(), value[1..].to_owned());
            Ok(Statement::Do { name, value, local: *local == "true" })
        }
        _ => Err(syntax("do")),
    }
}

/// Calls of `set_config` with commas between them.
fn lent(mut words: &[&str]) -> Result<Vec<(String, Value)>, Error> {
    let own = |word: &str| word.strip_prefix('\'').unwrap_or(word).to_owned();
    let mut settings = Vec::new();
    while !words.is_empty() {
        let (name, value, rest) = match words {
            ["set_config", "(", name, ",", "current_setting", "(", of, ")", ",", "true", ")", rest @ ..] => {
                (name, Value::Of(own(of).to_ascii_lowercase()), rest)
            }
            ["set_config", "(", name, ",", value, ",", "true", ")", rest @ ..] => {
                (name, Value::This(own(value)), rest)
            }
            _ => return Err(syntax(words[0])),
        };
        settings.push((own(name).to_ascii_lowercase(), value));
        words = rest.strip_prefix(&[","]).unwrap_or(rest);
    }
    Ok(settings)
}

fn syntax(word: &str) -> Error {
    error("42601", format!("syntax error at or near \"{word}\""))
}

fn number(word: &str) -> usize {
    word.parse().unwrap_or(0)
}

/// Columns, with commas between them.
fn columns(mut words: &[&str]) -> Result<Vec<Column>, Error> {
    let mut columns = Vec::new();
    while !words.is_empty() {
        let (column, rest) = column(words).ok_or_else(|| syntax(words[0]))?;
        columns.push(column);
        words = rest.strip_prefix(&[","]).unwrap_or(rest);
    }
    Ok(columns)
}

fn column<'a, 'b>(words: &'a [&'b str]) -> Option<(Column, &'a [&'b str])> {
    let own = |word: &str| word.strip_prefix('\'').unwrap_or(word).to_owned();
    let setting =
        |name: &str, missing_ok| Column::Setting { name: own(name).to_ascii_lowercase(), missing_ok };
    Some(match words {
        ["current_setting", "(", name, ",", "true", ")", rest @ ..] => (setting(name, true), rest),
        ["current_setting", "(", name, ")", rest @ ..] => (setting(name, false), rest),
        ["set_config", "(", name, ",", value, ",", local, ")", rest @ ..] => {
            let name = own(name).to_ascii_lowercase();
            (Column::SetConfig { name, value: own(value), local: *local == "true" }, rest)
        }
        ["current_user", rest @ ..] => (Column::User, rest),
        ["name", "from", "whose", rest @ ..] => (Column::Whose, rest),
        ["extract", "(", "epoch", "from", "timestamptz", _, ")", ":", ":", "int", rest @ ..] => {
            (Column::Moment, rest)
        }
        ["1", "/", "0", rest @ ..] => (Column::Zero, rest),
        ["public.boom", "(", ")", rest @ ..] => (Column::Boom, rest),
        ["to_regclass", "(", name, ")", "is", "not", "null", rest @ ..] => {
            (Column::IsTemp(own(name).replace("pg_temp.", "")), rest)
        }
        ["pg_advisory_lock", "(", key, ")", rest @ ..] => (Column::Lock(own(key)), rest),
        ["pg_advisory_unlock", "(", key, ")", rest @ ..] => (Column::Unlock(own(key)), rest),
        ["pg_advisory_unlock_all", "(", ")", rest @ ..] => (Column::UnlockAll, rest),
        ["count", "(", "*", ")", "from", "pg_locks", "where", ..] => (Column::Locks, &[]),
        ["count", "(", "*", ")", "from", "pg_listening_channels", "(", ")", rest @ ..] => {
            (Column::Channels, rest)
        }
        ["count", "(", "*", ")", "from", "pg_prepared_statements", "where", "from_sql", rest @ ..] => {
            (Column::Prepared, rest)
        }
        ["count", "(", "*", ")", "from", "pg_cursors", "where", "is_holdable", rest @ ..] => {
            (Column::Cursors, rest)
        }
        ["count", "(", "*", ")", "from", table, rest @ ..] => (Column::Count(own(table)), rest),
        ["nextval", "(", name, ")", rest @ ..] => (Column::Nextval(own(name)), rest),
        ["currval", "(", name, ")", rest @ ..] => (Column::Currval(own(name)), rest),
        ["setseed", "(", seed, ")", rest @ ..] => (Column::Setseed(own(seed)), rest),
        ["random", "(", ")", rest @ ..] => (Column::Random, rest),
        [text, rest @ ..] if text.starts_with('\'') || text.parse::<i64>().is_ok() => {
            (Column::Text(own(text)), rest)
        }
        _ => return None,
    })
}
