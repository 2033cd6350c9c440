//! The question to a server that may have been touched, and how its answer is read.

use std::collections::HashSet;

use crate::session::parameters::Parameters;
use crate::session::parameters::ROLE;
use crate::session::parameters::SESSION_AUTHORIZATION;
use crate::session::parameters::push_literal;
use crate::session::pin::Pin;
use crate::session::pin::Pins;
use crate::session::prepared::PREFIX;
use crate::session::prepared::bare;
use crate::wire::backend::data_row;

/// What a session holds beyond a fresh login, in one round trip.
/// Every name is qualified, operators too: the client owns `search_path`. Whatever lies in the session's temporary
/// schema, be it a table, a function or a collation, depends on it, so `pg_depend` knows of all kinds.
pub const PROBE: &str = "\
SELECT 's'::pg_catalog.text, name, setting FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session' \
UNION ALL SELECT 'i', 'role', pg_catalog.current_setting('role') \
UNION ALL SELECT 'i', 'session_authorization', pg_catalog.current_setting('session_authorization') \
UNION ALL SELECT 'p', 'temp_table', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_depend \
WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass \
AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
UNION ALL SELECT 'p', 'advisory_lock', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()) \
UNION ALL SELECT 'f', name, '' FROM pg_catalog.pg_prepared_statements WHERE name OPERATOR(pg_catalog.!~~) 'stagedoor:%' \
UNION ALL SELECT 'p', 'hold_cursor', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
UNION ALL SELECT 'p', 'listen', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels())";

/// Which of our own statements are there; appended where a client spoke of prepared statements.
const OURS: &str = " UNION ALL SELECT 'o', name, '' FROM pg_catalog.pg_prepared_statements \
WHERE name OPERATOR(pg_catalog.~~) 'stagedoor:%'";

/// The question, with that for settings named `a.b`, which no view shows, and for our statements (`ours`).
#[must_use]
pub fn question<'n>(custom: impl IntoIterator<Item = &'n str>, ours: bool) -> Vec<u8> {
    let mut sql = PROBE.as_bytes().to_vec();
    if ours {
        sql.extend_from_slice(OURS.as_bytes());
    }
    for name in custom {
        for part in [" UNION ALL SELECT 'c', ", ", pg_catalog.current_setting(", ", true)"] {
            sql.extend_from_slice(part.as_bytes());
            if part != ", true)" {
                push_literal(&mut sql, name.as_bytes());
            }
        }
    }
    sql
}

/// Settings that belong to a transaction, though the view may show them.
const OF_THE_TRANSACTION: [&str; 3] =
    ["transaction_isolation", "transaction_read_only", "transaction_deferrable"];

/// Who a session is by login: what role and session_authorization say before anybody changed them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub role: Vec<u8>,
    pub session_authorization: Vec<u8>,
}

/// What a server answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub identity: Identity,
    settings: Vec<(String, Vec<u8>)>,
    /// Of the settings named `a.b` that were asked for: those that exist.
    custom: Vec<(String, Vec<u8>)>,
    pub pins: Pins,
    /// Prepared statements under names that are not ours.
    pub foreign: HashSet<Vec<u8>>,
    /// The numbers of ours, where they were asked for.
    pub ours: HashSet<u32>,
}

impl Answer {
    /// Reads the DataRows of the answer; `None` where it is not one.
    pub fn read<'a>(rows: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut answer = Self::default();
        for row in rows {
            answer.take(row)?;
        }
        (!answer.identity.role.is_empty()).then_some(answer)
    }

    fn take(&mut self, row: &[u8]) -> Option<()> {
        let mut columns = data_row(row);
        let (kind, name, value) = (columns.next()??, columns.next()??, columns.next()?);
        if kind == b"f" {
            self.pins.insert(Pin::PreparedStatement);
            self.foreign.insert(bare(name).into_owned());
            return Some(());
        }
        let name = std::str::from_utf8(name).ok()?;
        if kind == b"c" {
            self.custom.extend(value.map(|value| (name.to_owned(), value.to_vec())));
            return Some(());
        }
        let value = value.unwrap_or_default();
        match (kind, name) {
            (b"s", _) if OF_THE_TRANSACTION.contains(&name) => {}
            (b"s", _) => self.settings.push((name.to_owned(), value.to_vec())),
            (b"o", _) => {
                // One without a number is a stand-in.
                self.ours.extend(name.strip_prefix(PREFIX)?.parse::<u32>());
            }
            (b"i", ROLE) => self.identity.role = value.to_vec(),
            (b"i", _) => self.identity.session_authorization = value.to_vec(),
            _ => self.pins.insert(Pin::ALL.into_iter().find(|pin| pin.reason() == name)?),
        }
        Some(())
    }

    /// The settings that differ from those of a fresh login with this identity and these settings.
    #[must_use]
    pub fn parameters(self, login: &Identity, startup: &Parameters) -> Parameters {
        let now = self.identity;
        let role = (now.role != login.role).then(|| (ROLE.to_owned(), now.role));
        let authorization = (now.session_authorization != login.session_authorization)
            .then(|| (SESSION_AUTHORIZATION.to_owned(), now.session_authorization));
        let custom = self.custom.into_iter().filter(|(name, value)| startup.get(name) != Some(value));
        custom.chain(self.settings).chain(role).chain(authorization).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: [&str; 3]) -> Vec<u8> {
        let mut body = vec![0, 3];
        for column in columns {
            body.extend_from_slice(&i32::try_from(column.len()).unwrap().to_be_bytes());
            body.extend_from_slice(column.as_bytes());
        }
        body
    }

    #[test]
    fn an_answer_is_settings_identity_and_pins() {
        let rows = [
            row(["s", "search_path", "catalog"]),
            row(["s", "transaction_isolation", "serializable"]),
            row(["i", "role", "bob"]),
            row(["i", "session_authorization", "app"]),
            row(["p", "listen", ""]),
        ];
        let answer = Answer::read(rows.iter().map(Vec::as_slice)).unwrap();
        assert_eq!(answer.pins.iter().collect::<Vec<_>>(), [Pin::Listen]);
        let login = Identity { role: b"none".to_vec(), session_authorization: b"app".to_vec() };
        let expected = [("search_path", "catalog"), ("role", "bob")];
        let expected = expected.into_iter().map(|(n, v)| (n.to_owned(), v.as_bytes().to_vec())).collect();
        assert_eq!(answer.parameters(&login, &Parameters::none()), expected);
    }

    #[test]
    fn what_is_asked_by_name_is_answered_by_name() {
        let sql = String::from_utf8(question(["a.b", "it's.c"], true)).unwrap();
        let expected = "WHERE name OPERATOR(pg_catalog.~~) 'stagedoor:%' \
            UNION ALL SELECT 'c', E'a.b', pg_catalog.current_setting(E'a.b', true) \
            UNION ALL SELECT 'c', E'it''s.c', pg_catalog.current_setting(E'it''s.c', true)";
        assert!(sql.ends_with(expected), "{sql}");
        let mut unset = row(["c", "a.c", ""]);
        unset.splice(unset.len() - 4.., (-1_i32).to_be_bytes());
        let rows = [
            row(["i", "role", "none"]),
            row(["c", "a.b", ""]),
            unset,
            row(["c", "a.d", "x"]),
            row(["o", "stagedoor:12", ""]),
            row(["f", "sql", ""]),
        ];
        let answer = Answer::read(rows.iter().map(Vec::as_slice)).unwrap();
        assert_eq!(answer.ours, HashSet::from([12]));
        assert_eq!(answer.foreign, HashSet::from([b"sql".to_vec()]));
        assert!(answer.pins.contains(Pin::PreparedStatement));
        let startup = [("a.d".to_owned(), b"x".to_vec())].into_iter().collect();
        let login = Identity { role: b"none".to_vec(), ..Identity::default() };
        let expected = [("a.b".to_owned(), Vec::new())].into_iter().collect();
        assert_eq!(answer.parameters(&login, &startup), expected, "set, not there, as it began");
    }

    #[test]
    fn no_answer_is_not_an_empty_answer() {
        assert_eq!(Answer::read([]), None);
        assert_eq!(Answer::read([row(["p", "surprise", ""]).as_slice()]), None);
    }
}
