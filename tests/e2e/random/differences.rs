//! The only place where the two worlds may differ. Everything that is not named here is compared to the byte:
//!
//! 1. *Keys and process ids.* BackendKeyData is not compared; of a notification's process id it is compared whether it is
//!    the reader's own, or another client's: which one hangs on who has the sender's server when it comes.
//!    (`pg_backend_pid()` shows the real one: nobody asks for it here.)
//! 2. *The proof of who one is.* Authentication messages: the proxy has its own password exchange.
//! 3. *The order of ParameterStatus* among those that stand together: PostgreSQL promises none.
//! 4. *When a notification comes*, within what a client reads at a time: it is sent between two statements or
//!    after one, as the signal finds the backend.
//! 5. *Where an aborted transaction refuses*: a server that has to prepare a statement first, as it has not got it, says
//!    25P02 from another line of its source.
//! 6. *How far Describe comes with a statement that can be prepared no more*, as its table is not found: PostgreSQL tells
//!    the types of its parameters and then the error, a server that has to prepare it first only the error. One whose
//!    columns are others now works, where PostgreSQL refuses it for ever (0A000): nobody has such a one here, nor one
//!    that speaks of a cursor or another statement, which may have come or gone since.
//! 7. *`SET TRANSACTION` behind a Describe*: a server that had to prepare a statement for it says that a query came
//!    first; nobody says that here.
//! 8. *Statements of ours*: `pg_prepared_statements` shows them, and names that look like them disguised; nobody looks at
//!    those here.
//! 9. *Names and numbers of two databases*: the database's name, and the ids of tables in a RowDescription.
//! 10. *Where RESET of a lent `application_name` goes for the first time* inside a transaction: nobody says it there.

use std::collections::HashSet;

use crate::support::message::Message;

/// The process ids that clients have or had.
pub type ProcessIds = HashSet<i32>;

/// `message` as text to be compared; `None` where nothing of it may be.
pub fn comparable(message: &Message, own: i32, database: &str, ids: &ProcessIds) -> Option<String> {
    let body = match message.tag {
        b'K' | b'R' => return None,
        b'A' => {
            let id = i32::from_be_bytes(message.body[..4].try_into().expect("a process id"));
            let from = match id {
                _ if id == own => "itself",
                _ if ids.contains(&id) => "another",
                _ => "a stranger",
            };
            return Some(format!("A from {from}: {}", printable(&message.body[4..])));
        }
        b'E' if message.field(b'C').as_deref() == Some("25P02") => {
            return Some("E: the transaction is aborted".to_owned());
        }
        b'T' => without_table_ids(&message.body),
        _ => message.body.clone(),
    };
    Some(format!("{} {}", char::from(message.tag), printable(&body).replace(database, "DATABASE")))
}

/// What a client read at a time, in an order that does not depend on chance.
pub fn settle(mut lines: Vec<String>) -> Vec<String> {
    let fails = |at: usize| {
        lines[at].starts_with("t ") && lines.get(at + 1).is_some_and(|next| next.starts_with('E'))
    };
    let kept: Vec<usize> = (0..lines.len()).filter(|at| !fails(*at)).collect();
    lines = kept.into_iter().map(|at| lines[at].clone()).collect();
    lines.sort_by_key(|line| !line.starts_with("A "));
    for run in lines.chunk_by_mut(|one, next| one.starts_with("S ") && next.starts_with("S ")) {
        run.sort();
    }
    lines
}

fn without_table_ids(body: &[u8]) -> Vec<u8> {
    let (count, mut rest) = body.split_at(2);
    let mut out = count.to_vec();
    while let Some(end) = rest.iter().position(|&byte| byte == 0) {
        out.extend_from_slice(&rest[..=end]);
        out.extend_from_slice(&rest[end + 5..end + 19]);
        rest = &rest[end + 19..];
    }
    out
}

fn printable(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
