//! Typed looks at the effective configuration by dotted key. What does not fit becomes a fault, and reading goes on
//! with the default, so that all faults are told at once.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Map;
use serde_json::Value;

use crate::config::duration;
use crate::config::fault::Fault;
use crate::config::javascript::trim;
use crate::config::merge::Effective;

/// Reads, and collects what it did not like.
pub struct Reader<'a> {
    pub effective: &'a Effective,
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<String>>,
}

impl<'a> Reader<'a> {
    pub fn new(effective: &'a Effective) -> Self {
        Self { effective, faults: RefCell::default(), warnings: RefCell::default() }
    }

    /// What was collected: faults and warnings, each once.
    pub fn finish(self) -> (Vec<Fault>, Vec<String>) {
        (once(self.faults.into_inner()), once(self.warnings.into_inner()))
    }

    /// Notes what is wrong at `key` and what to do about it.
    pub fn fault(&self, key: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        let file = self.effective.place(key);
        let fault = Fault { file, key: key.to_owned(), reason: reason.into(), remedy: remedy.into() };
        self.faults.borrow_mut().push(fault);
    }

    /// Notes what an operator should know.
    pub fn warn(&self, key: &str, text: &str) {
        self.warnings.borrow_mut().push(format!("{key}: {text}"));
    }

    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.effective.get(key)
    }

    /// The map at `key`; something else there is a fault.
    pub fn map(&self, key: &str) -> Option<&'a Map<String, Value>> {
        match self.get(key)? {
            Value::Object(map) => Some(map),
            other
            @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                self.fault(key, format!("{} stands where keys are expected", kind(other)), "");
                None
            }
        }
    }

    /// A text that is not empty, as Backstage's `getString`.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        match self.get(key)? {
            Value::String(text) if !text.is_empty() => Some(text),
            other @ (Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_)) => {
                self.fault(key, format!("{} stands where a text is expected", kind(other)), "");
                None
            }
        }
    }

    /// A boolean, with the words that Backstage's `getBoolean` accepts.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        let word = match self.get(key)? {
            Value::Bool(value) => return Some(*value),
            Value::Number(number) => number.to_string(),
            Value::String(text) => trim(text).to_ascii_lowercase(),
            Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
        };
        match word.as_str() {
            "y" | "yes" | "true" | "1" | "on" => Some(true),
            "n" | "no" | "false" | "0" | "off" => Some(false),
            _ => {
                self.fault(key, "it is neither true nor false", "");
                None
            }
        }
    }

    /// A whole number, also where `${VAR}` made a text of it.
    pub fn number(&self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let number = match self.get(key)? {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => trim(text).parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let reason = format!("it must be a whole number from {} to {}", range.start(), range.end());
            self.fault(key, reason, "");
        }
        number
    }

    pub fn port(&self, key: &str, least: u16) -> Option<u16> {
        let port = self.number(key, u64::from(least)..=u64::from(u16::MAX))?;
        u16::try_from(port).ok()
    }

    pub fn duration(&self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let parsed = duration::parse(self.get(key)?);
        let (least, most) = (duration::show(*range.start()), duration::show(*range.end()));
        match parsed {
            Ok(parsed) if range.contains(&parsed) => return Some(parsed),
            Ok(_) => self.fault(key, format!("it must be between {least} and {most}"), ""),
            Err(reason) => {
                self.fault(key, format!("it {reason}"), format!("give one between {least} and {most}"))
            }
        }
        None
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let given = self.get(key)?;
        // `minVersion: 1.2` without quotes is a number.
        let word = given.as_str().map_or_else(|| given.to_string(), |text| trim(text).to_owned());
        let found = words.iter().find(|(name, _)| *name == word);
        if found.is_none() {
            let names: Vec<_> = words.iter().map(|(name, _)| *name).collect();
            self.fault(key, "it is not one of the known words", format!("choose from: {}", names.join(", ")));
        }
        found.map(|(_, value)| *value)
    }

    /// A list of texts; a single text counts as a list of one.
    pub fn texts(&self, key: &str) -> Vec<&'a str> {
        let Some(value) = self.get(key) else { return vec![] };
        let single = std::slice::from_ref(value);
        let list = value.as_array().map_or(single, Vec::as_slice);
        let texts: Option<Vec<_>> =
            list.iter().map(|value| value.as_str().filter(|text| !text.is_empty())).collect();
        texts.unwrap_or_else(|| {
            self.fault(key, "it must be a list of texts", "");
            vec![]
        })
    }

    /// A fault for every key of the map at `section` that is not in `known`, with the nearest that is.
    pub fn only(&self, section: &str, known: &[&str]) {
        let Some(map) = self.map(section) else { return };
        for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
            let remedy = nearest(key, known).map_or_else(
                || format!("known here: {}", known.join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            self.fault(&format!("{section}.{key}"), "there is no such key", remedy);
        }
    }
}

fn once<T: PartialEq>(list: Vec<T>) -> Vec<T> {
    let mut out: Vec<T> = Vec::with_capacity(list.len());
    for one in list {
        if !out.contains(&one) {
            out.push(one);
        }
    }
    out
}

/// What a value is, in words.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(text) if text.is_empty() => "an empty text",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// The known word that was probably meant, if one is near enough.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let lower = word.to_lowercase();
    let near = known.iter().map(|name| (distance(&lower, &name.to_lowercase()), *name)).min()?;
    (near.0 <= 1 + word.chars().count() / 3).then_some(near.1)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (n, letter) in a.chars().enumerate() {
        let mut left = n + 1;
        let mut diagonal = n;
        let mut next = vec![left];
        for (above, other) in row.iter().skip(1).zip(b.chars()) {
            left = (left + 1).min(above + 1).min(diagonal + usize::from(letter != other));
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_known_key_is_named() {
        let known = ["maxServers", "minIdle", "idleTimeout", "mode"];
        for (word, expected) in [
            ("maxserver", Some("maxServers")),
            ("max_servers", Some("maxServers")),
            ("idleTimout", Some("idleTimeout")),
            ("mod", Some("mode")),
            ("banana", None),
        ] {
            assert_eq!(nearest(word, &known), expected, "{word}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
