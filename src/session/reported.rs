//! The settings that report themselves (protocol-flow, "Asynchronous Operations").

use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::sync::Arc;

use crate::session::parameters::CLIENT_ENCODING;
use crate::sql::dialect::Dialect;
use crate::sql::dialect::Encoding;
use crate::sql::dialect::Strings;

/// PostgreSQL reports fewer than 20 settings; a server that invents more is not believed.
const REPORTED_MAX: usize = 64;

/// Those by which constants of a text are read when it is parsed, and its bytes are (what the input functions of types,
/// scan.l and `pg_client_to_server` look at).
pub const READ_BY: [&str; 5] =
    [CLIENT_ENCODING, "DateStyle", "IntervalStyle", "standard_conforming_strings", "TimeZone"];

/// Of these: those by which its bytes are read, once and for all.
pub const SCANNED_BY: [&str; 2] = [CLIENT_ENCODING, "standard_conforming_strings"];

/// What ParameterStatus said last, in the server's order. Copies share it until one of them changes.
#[derive(Clone, Debug)]
pub struct Reported {
    values: Arc<Vec<(String, Vec<u8>)>>,
    /// Equal for equal values, in whatever order.
    hash: u64,
    /// Of those in [`READ_BY`] alone.
    reading: u64,
    dialect: Dialect,
}

impl Default for Reported {
    fn default() -> Self {
        Self {
            values: Arc::default(),
            hash: 0,
            reading: 0,
            dialect: Dialect { strings: Strings::Either, encoding: Encoding::AsciiUnsafe },
        }
    }
}

impl PartialEq for Reported {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Reported {}

impl Reported {
    pub fn set(&mut self, name: &str, value: &[u8]) {
        if self.get(name) == Some(value) {
            return;
        }
        let values = Arc::make_mut(&mut self.values);
        let mut change = fingerprint(name, value);
        if let Some((_, known)) = values.iter_mut().find(|(known, _)| known == name) {
            change ^= fingerprint(name, known);
            value.clone_into(known);
        } else if values.len() < REPORTED_MAX {
            values.push((name.to_owned(), value.to_vec()));
        } else {
            return;
        }
        self.hash ^= change;
        self.reading ^= if READ_BY.contains(&name) { change } else { 0 };
        match name {
            CLIENT_ENCODING => {
                let name = std::str::from_utf8(value);
                self.dialect.encoding = name.map_or(Encoding::AsciiUnsafe, Encoding::of);
            }
            "standard_conforming_strings" => {
                self.dialect.strings = if value == b"on" { Strings::Standard } else { Strings::Escaped };
            }
            _ => {}
        }
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// A number that those share by which constants are read alike.
    #[must_use]
    pub const fn reading(&self) -> u64 {
        self.reading
    }

    /// The same, with the values of `names` as `other` has them.
    #[must_use]
    pub fn with(&self, names: &[&str], other: &Self) -> Self {
        let mut with = self.clone();
        for name in names {
            if let Some(value) = other.get(name) {
                with.set(name, value);
            }
        }
        with
    }

    /// What of `now` is news to whoever knows this.
    pub fn news<'n>(&self, now: &'n Self) -> impl Iterator<Item = (&'n str, &'n [u8])> {
        let now = if self == now { None } else { Some(now) };
        now.into_iter().flat_map(Self::iter).filter(|(name, value)| self.get(name) != Some(value))
    }

    /// How this server reads SQL text.
    #[must_use]
    pub const fn dialect(&self) -> Dialect {
        self.dialect
    }
}

fn fingerprint(name: &str, value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (name, value).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_is_what_has_changed() {
        let mut told = Reported::default();
        told.set("TimeZone", b"UTC");
        told.set("DateStyle", b"ISO");
        let mut now = told.clone();
        assert_eq!(told.news(&now).count(), 0);
        now.set("TimeZone", b"CET");
        now.set("is_superuser", b"on");
        let news: Vec<_> = told.news(&now).collect();
        assert_eq!(news, [("TimeZone", &b"CET"[..]), ("is_superuser", b"on")]);
        now.set("TimeZone", b"UTC");
        assert_ne!(told, now);
    }

    #[test]
    fn the_order_does_not_count() {
        let [mut one, mut other] = [Reported::default(), Reported::default()];
        for (reported, names) in [(&mut one, ["a", "b"]), (&mut other, ["b", "a"])] {
            names.iter().for_each(|name| reported.set(name, b"x"));
        }
        assert_eq!(one, other);
    }
}
