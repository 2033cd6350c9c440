//! Bounds on label values: what a client sends may become a label only so often.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Distinct values of `database`. Backstage has a database for each plugin: some 20 plugins are usual, so 64
/// leaves room, and a client that invents names cannot make the registry grow.
pub const DATABASES_MAX: usize = 64;

/// Distinct values of `plugin`. In `pluginDivisionMode: schema` it comes from a client's `application_name`.
pub const PLUGINS_MAX: usize = 64;

/// Distinct pairs of `database` and `plugin`. Usually a plugin has one database or a database has all plugins,
/// so pairs are as many as plugins; without this bound they could be 64 × 64.
pub const PAIRS_MAX: usize = 128;

/// What stands for every value over the bound.
pub const OTHER: &str = "other";

/// The classes of SQLSTATE that PostgreSQL defines (appendix A). A function may raise any five characters;
/// what is not one of these counts as [`OTHER`].
const SQLSTATE_CLASSES: [&str; 43] = [
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22", "23",
    "24", "25", "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44",
    "53", "54", "55", "57", "58", "72", "F0", "HV", "P0",
];

/// The class of `sqlstate`, its first two characters, or [`OTHER`].
#[must_use]
pub fn sqlstate_class(sqlstate: &str) -> &'static str {
    let class = sqlstate.get(..2).unwrap_or_default();
    if class == "XX" {
        return "XX"; // Internal errors: the last of the list, and the one to look at first.
    }
    SQLSTATE_CLASSES.into_iter().find(|known| *known == class).unwrap_or(OTHER)
}

/// The values that have been admitted as labels so far.
#[derive(Debug, Default)]
pub struct Labels(Mutex<Admitted>);

#[derive(Debug, Default)]
struct Admitted {
    databases: BTreeSet<String>,
    plugins: BTreeSet<String>,
    pairs: BTreeSet<(String, String)>,
}

impl Labels {
    /// `database` where it is one of the first [`DATABASES_MAX`], else [`OTHER`].
    #[must_use]
    pub fn database(&self, database: &str) -> String {
        self.with(|admitted| admitted.database(database))
    }

    /// The two labels of a pool. Over a bound the value, or the pair, becomes [`OTHER`].
    #[must_use]
    pub fn pair(&self, database: &str, plugin: &str) -> (String, String) {
        self.with(|admitted| admitted.pair(database, plugin))
    }

    fn with<T>(&self, ask: impl FnOnce(&mut Admitted) -> T) -> T {
        // A panic elsewhere cannot leave these sets half-made, so a poisoned lock is as good as any.
        ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Admitted {
    fn database(&mut self, database: &str) -> String {
        admit(&mut self.databases, database.to_owned(), DATABASES_MAX).unwrap_or_else(|| OTHER.to_owned())
    }

    fn pair(&mut self, database: &str, plugin: &str) -> (String, String) {
        let database = self.database(database);
        let plugin = match plugin {
            "" => String::new(),
            named => {
                admit(&mut self.plugins, named.to_owned(), PLUGINS_MAX).unwrap_or_else(|| OTHER.to_owned())
            }
        };
        admit(&mut self.pairs, (database, plugin), PAIRS_MAX)
            .unwrap_or_else(|| (OTHER.to_owned(), OTHER.to_owned()))
    }
}

/// `value`, if it is in `set` or there is room for it.
fn admit<T: Ord + Clone>(set: &mut BTreeSet<T>, value: T, max: usize) -> Option<T> {
    if set.contains(&value) {
        return Some(value);
    }
    if set.len() == max {
        return None;
    }
    set.insert(value.clone());
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_after_the_last_admitted_one_is_other() {
        let labels = Labels::default();
        for number in 0..DATABASES_MAX {
            assert_eq!(labels.database(&format!("db{number}")), format!("db{number}"));
        }
        assert_eq!(labels.database("one too many"), OTHER);
        assert_eq!(labels.database("db0"), "db0", "an admitted one stays");
    }

    #[test]
    fn plugins_and_pairs_are_bounded_too() {
        let labels = Labels::default();
        for number in 0..PLUGINS_MAX {
            assert_eq!(labels.pair("shared", &format!("p{number}")).1, format!("p{number}"));
        }
        assert_eq!(labels.pair("shared", "late"), ("shared".to_owned(), OTHER.to_owned()));
        for number in 0..PAIRS_MAX {
            let _ = labels.pair("second", &format!("p{}", number % PLUGINS_MAX));
        }
        assert_eq!(labels.pair("third", "p0"), (OTHER.to_owned(), OTHER.to_owned()));
        assert_eq!(labels.pair("shared", "p7"), ("shared".to_owned(), "p7".to_owned()));
    }

    #[test]
    fn only_postgresqls_own_classes_are_labels() {
        let cases = [
            ("42P01", "42"),
            ("57014", "57"),
            ("XX000", "XX"),
            ("0A000", "0A"),
            ("ZZ123", OTHER),
            ("4", OTHER),
            ("", OTHER),
            ("é2P01", OTHER),
            ("€2P01", OTHER),
        ];
        for (sqlstate, class) in cases {
            assert_eq!(sqlstate_class(sqlstate), class, "{sqlstate:?}");
        }
    }
}
