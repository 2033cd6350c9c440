//! Session settings: what a client wants and what a server has, and the statement that makes one the other.

use std::collections::BTreeMap;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::sync::Arc;

/// Settings in force for the session, beyond what a fresh login has, by lower-case name.
/// Values are bytes: they are in the session's `client_encoding`.
#[derive(Clone, Debug, Default)]
pub struct Parameters(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    values: BTreeMap<String, Vec<u8>>,
    hash: u64,
    context: u64,
    custom: u64,
    path: u64,
    temp_path: bool,
}

pub const ROLE: &str = "role";
pub const APPLICATION_NAME: &str = "application_name";
pub const SESSION_AUTHORIZATION: &str = "session_authorization";
pub const CLIENT_ENCODING: &str = "client_encoding";
const SEARCH_PATH: &str = "search_path";

impl Parameters {
    /// The settings of a fresh login.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// A number that equal settings share; 0 for none.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.hash)
    }

    /// As [`Self::hash`], of all but `application_name`, which no statement is read by.
    #[must_use]
    pub fn context(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.context)
    }

    /// A number that those share which have the same names with a dot (custom settings); 0 for none.
    #[must_use]
    pub fn custom(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.custom)
    }

    /// A number that those share which have the same `search_path`; 0 for none.
    #[must_use]
    pub fn path(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.path)
    }

    /// Whether `pg_temp` is in `search_path`: where it is first, a table is temporary though no text says so.
    #[must_use]
    pub fn has_temp_path(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.temp_path)
    }

    /// The names with a dot.
    pub fn custom_names(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name).filter(|name| name.contains('.'))
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.as_ref()?.values.get(name).map(Vec::as_slice)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .iter()
            .flat_map(|inner| inner.values.iter().map(|(name, value)| (name.as_str(), value.as_slice())))
    }

    /// These settings, and of `others` those whose names are not among them.
    #[must_use]
    pub fn or(&self, others: &Self) -> Self {
        if others.iter().all(|(name, _)| self.get(name).is_some()) {
            return self.clone();
        }
        others.iter().chain(self.iter()).map(|(name, value)| (name.to_owned(), value.to_vec())).collect()
    }

    /// These settings without one.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        if self.get(name).is_none() {
            return self.clone();
        }
        let others = self.iter().filter(|(known, _)| *known != name);
        others.map(|(name, value)| (name.to_owned(), value.to_vec())).collect()
    }

    /// These settings with an `application_name`, where they have none.
    #[must_use]
    pub fn named(&self, application_name: &[u8]) -> Self {
        if self.get(APPLICATION_NAME).is_some() {
            return self.clone();
        }
        self.or(&[(APPLICATION_NAME.to_owned(), application_name.to_vec())].into_iter().collect())
    }
}

impl PartialEq for Parameters {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || (a.hash == b.hash && a.values == b.values),
            _ => false,
        }
    }
}

impl Eq for Parameters {}

impl FromIterator<(String, Vec<u8>)> for Parameters {
    /// The last value of a name counts.
    fn from_iter<I: IntoIterator<Item = (String, Vec<u8>)>>(pairs: I) -> Self {
        let values: BTreeMap<_, _> =
            pairs.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        if values.is_empty() {
            return Self(None);
        }
        let hash = fingerprint(&values);
        let context = fingerprint(values.iter().filter(|(name, _)| *name != APPLICATION_NAME));
        let custom = fingerprint(values.keys().filter(|name| name.contains('.')));
        let path = values.get(SEARCH_PATH);
        let temp_path = path.is_some_and(|path| memchr::memmem::find(path, b"pg_temp").is_some());
        let path = fingerprint(path);
        Self(Some(Arc::new(Inner { values, hash, context, custom, path, temp_path })))
    }
}

impl Hash for Parameters {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash().hash(state);
    }
}

/// 0 is kept for "none".
fn fingerprint<T: Hash>(items: impl IntoIterator<Item = T>) -> u64 {
    let (mut hasher, mut some) = (DefaultHasher::new(), false);
    for item in items {
        item.hash(&mut hasher);
        some = true;
    }
    if some { hasher.finish().max(1) } else { 0 }
}

/// The SQL that brings a session from `have` to `want`, or `None` where they are equal. One simple Query,
/// so one implicit transaction: it happens whole or not at all.
///
/// Roles are left first and taken last: a setting that needs more rights than the role has was set before it.
/// The SQL is ASCII, so it does not matter what `client_encoding` the session has; `encoding` is that of the values.
#[must_use]
pub fn difference(have: &Parameters, want: &Parameters, encoding: &[u8]) -> Option<Vec<u8>> {
    if have == want {
        return None;
    }
    let mut sql = Vec::new();
    let leaves_role = have.get(ROLE).is_some();
    let leaves_authorization = have.get(SESSION_AUTHORIZATION) != want.get(SESSION_AUTHORIZATION)
        && have.get(SESSION_AUTHORIZATION).is_some();
    if leaves_role {
        sql.extend_from_slice(b"RESET ROLE;");
    }
    if leaves_authorization {
        sql.extend_from_slice(b"RESET SESSION AUTHORIZATION;");
    }
    for (name, _) in have.iter().filter(|(name, _)| !is_identity(name) && want.get(name).is_none()) {
        sql.extend_from_slice(b"RESET ");
        push_identifier(&mut sql, name);
        sql.push(b';');
    }
    push_set_config(&mut sql, &changes(have, want, leaves_role), encoding);
    Some(sql)
}

/// What must be set, in the order in which it must be.
fn changes<'a>(have: &Parameters, want: &'a Parameters, leaves_role: bool) -> Vec<(&'a str, &'a [u8])> {
    let differs = |name: &str, value: &[u8]| have.get(name) != Some(value);
    let plain = want.iter().filter(|(name, value)| !is_identity(name) && differs(name, value));
    let authorization = want.get(SESSION_AUTHORIZATION).map(|value| (SESSION_AUTHORIZATION, value));
    let authorization = authorization.filter(|(name, value)| differs(name, value));
    let role = want.get(ROLE).map(|value| (ROLE, value));
    let role = role.filter(|(name, value)| leaves_role || differs(name, value));
    plain.chain(authorization).chain(role).collect()
}

fn is_identity(name: &str) -> bool {
    name == ROLE || name == SESSION_AUTHORIZATION
}

fn push_set_config(sql: &mut Vec<u8>, changes: &[(&str, &[u8])], encoding: &[u8]) {
    for (at, (name, value)) in changes.iter().enumerate() {
        sql.extend_from_slice(if at == 0 { b"SELECT " } else { b"," });
        sql.extend_from_slice(b"pg_catalog.set_config(");
        push_literal(sql, name.as_bytes());
        sql.push(b',');
        push_value(sql, value, encoding);
        sql.extend_from_slice(b",false)");
    }
}

/// A value, in hexadecimal digits where it is not ASCII: some encodings have quotes and backslashes inside of their
/// characters, and the session may have another encoding than the one that the value is in.
fn push_value(sql: &mut Vec<u8>, value: &[u8], encoding: &[u8]) {
    if value.is_ascii() {
        return push_literal(sql, value);
    }
    sql.extend_from_slice(b"pg_catalog.convert_from(pg_catalog.decode('");
    for byte in value {
        sql.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    sql.extend_from_slice(b"','hex'),");
    push_literal(sql, encoding);
    sql.push(b')');
}

/// `E'…'`, which means the same whatever `standard_conforming_strings` says. A quote is doubled: with a backslash it
/// would be refused under some encodings (`backslash_quote`).
pub(crate) fn push_literal(sql: &mut Vec<u8>, value: &[u8]) {
    sql.extend_from_slice(b"E'");
    for &byte in value {
        if matches!(byte, b'\'' | b'\\') {
            sql.push(byte);
        }
        sql.push(byte);
    }
    sql.push(b'\'');
}

fn push_identifier(sql: &mut Vec<u8>, name: &str) {
    sql.push(b'"');
    sql.extend_from_slice(name.replace('"', "\"\"").as_bytes());
    sql.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(text: &str) -> Parameters {
        text.split_terminator(' ')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn the_difference_is_the_least_that_must_be_said() {
        let rows = [
            ("", "", None),
            ("a=1 role=r", "role=r a=1", None),
            ("", "a=1", Some("SELECT pg_catalog.set_config(E'a',E'1',false)")),
            ("a=1", "", Some("RESET \"a\";")),
            ("a=1 b=2", "b=3", Some("RESET \"a\";SELECT pg_catalog.set_config(E'b',E'3',false)")),
            ("role=r", "", Some("RESET ROLE;")),
            (
                "role=r",
                "role=r a=1",
                Some(
                    "RESET ROLE;SELECT pg_catalog.set_config(E'a',E'1',false),pg_catalog.set_config(E'role',E'r',false)",
                ),
            ),
            ("a=x", "a=it's\\", Some("SELECT pg_catalog.set_config(E'a',E'it''s\\\\',false)")),
            (
                "",
                "a=é",
                Some(
                    "SELECT pg_catalog.set_config(E'a',pg_catalog.convert_from(pg_catalog.decode('c3a9','hex'),E'SJIS'),false)",
                ),
            ),
        ];
        for (have, want, expected) in rows {
            let sql = difference(&parameters(have), &parameters(want), b"SJIS");
            assert_eq!(
                sql.map(|sql| String::from_utf8(sql).unwrap()).as_deref(),
                expected,
                "{have} → {want}"
            );
        }
    }

    #[test]
    fn equal_settings_have_equal_hashes_whatever_the_case_and_order_of_names() {
        assert_eq!(parameters("TimeZone=UTC a=1").hash(), parameters("a=1 timezone=UTC").hash());
        assert_eq!(parameters("").hash(), 0);
        assert_ne!(parameters("a=1").hash(), parameters("a=2").hash());
    }

    #[test]
    fn what_a_client_started_with_comes_back_where_it_was_reset() {
        let startup = parameters("application_name=x timezone=UTC");
        assert_eq!(parameters("timezone=CET").or(&startup), parameters("application_name=x timezone=CET"));
        assert_eq!(parameters("").or(&startup), startup);
    }
}
