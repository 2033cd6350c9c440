//! A session's settings: what they began with, what the session has set, what the transaction has.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::language::Error;
use crate::language::error;

/// Settings that a server has without being told, by lower-case name.
const DEFAULTS: [(&str, &str); 9] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("intervalstyle", "postgres"),
    ("role", "none"),
    ("search_path", "\"$user\", public"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("timezone", "UTC"),
    ("work_mem", "4MB"),
];

/// Those that report themselves, by lower-case name and as PostgreSQL writes them; in the order of the reports.
const REPORTED: [(&str, &str); 5] = [
    ("application_name", "application_name"),
    ("client_encoding", "client_encoding"),
    ("intervalstyle", "IntervalStyle"),
    ("standard_conforming_strings", "standard_conforming_strings"),
    ("timezone", "TimeZone"),
];

/// What a transaction takes back where it fails.
#[derive(Clone, Debug, Default)]
pub struct Values {
    session: BTreeMap<String, String>,
    local: BTreeMap<String, String>,
}

#[derive(Debug)]
pub struct Settings {
    startup: BTreeMap<String, String>,
    pub values: Values,
    /// Custom settings that were ever named: they are there for good, if only empty.
    custom: BTreeSet<String>,
    told: BTreeMap<&'static str, String>,
}

impl Settings {
    pub fn new(startup: BTreeMap<String, String>) -> Self {
        Self { startup, values: Values::default(), custom: BTreeSet::new(), told: BTreeMap::new() }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let Values { session, local } = &self.values;
        let value = local.get(name).or_else(|| session.get(name)).or_else(|| self.startup.get(name));
        value.map(String::as_str).or_else(|| {
            let default = DEFAULTS.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            default.or_else(|| self.custom.contains(name).then_some(""))
        })
    }

    pub fn set(&mut self, name: &str, value: Option<&str>, local: bool) -> Result<(), Error> {
        if !name.contains('.') && self.get(name).is_none() {
            return Err(unknown(name));
        }
        // What is lent is kept in settings of stagedoor's own, of which nobody knows.
        if name.contains('.') && !name.starts_with("stagedoor.") {
            self.custom.insert(name.to_owned());
        }
        if let Some(value) = value {
            check(name, value)?;
        }
        if local {
            let value = value.map(str::to_owned).unwrap_or_else(|| self.beginning(name).to_owned());
            self.values.local.insert(name.to_owned(), value);
            return Ok(());
        }
        self.values.local.remove(name);
        match value {
            Some(value) if name == "role" && value == "none" => self.values.session.remove(name),
            Some(value) => self.values.session.insert(name.to_owned(), value.to_owned()),
            None => self.values.session.remove(name),
        };
        Ok(())
    }

    /// What RESET goes back to.
    fn beginning(&self, name: &str) -> &str {
        let startup = self.startup.get(name).map(String::as_str);
        startup.unwrap_or_else(|| {
            DEFAULTS.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
        })
    }

    /// RESET ALL leaves the role.
    pub fn reset_all(&mut self) {
        for values in [&mut self.values.session, &mut self.values.local] {
            values.retain(|name, _| name == "role");
        }
    }

    /// The transaction is over, and did not fail.
    pub fn commit(&mut self) {
        self.values.local.clear();
    }

    /// Those that the session has set, as `pg_settings` shows them.
    pub fn of_session(&self) -> impl Iterator<Item = (&str, &str)> {
        let shown = self.values.session.iter().filter(|(name, _)| !name.contains('.') && *name != "role");
        shown.map(|(name, value)| (display(name), value.as_str()))
    }

    /// Custom settings that differ from what the session began with.
    pub fn custom(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = self.custom.iter().map(String::as_str);
        names
            .filter_map(|name| Some((name, self.get(name)?)))
            .filter(|(name, value)| self.startup.get(*name).map(String::as_str) != Some(*value))
    }

    /// What has changed of what reports itself.
    pub fn news(&mut self) -> Vec<(&'static str, String)> {
        let mut news = Vec::new();
        for (name, display) in REPORTED {
            let now = self.get(name).unwrap_or("on").to_owned();
            if self.told.get(name) != Some(&now) {
                self.told.insert(name, now.clone());
                news.push((display, now));
            }
        }
        news
    }
}

fn display(name: &str) -> &str {
    REPORTED.iter().find(|(known, _)| *known == name).map_or(name, |(_, display)| display)
}

pub fn unknown(name: &str) -> Error {
    error("42704", format!("unrecognized configuration parameter \"{name}\""))
}

fn check(name: &str, value: &str) -> Result<(), Error> {
    let wrong = || Err(error("22023", format!("invalid value for parameter \"{name}\": \"{value}\"")));
    match name {
        "work_mem" if !value.ends_with("MB") => wrong(),
        "role" if !["none", "bob", "amy"].contains(&value) => {
            Err(error("22023", format!("role \"{value}\" does not exist")))
        }
        _ => Ok(()),
    }
}
