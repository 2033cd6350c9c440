//! `APP_CONFIG_a_b=value`: the layer above every file. Pure: the variables are an argument.

use std::collections::BTreeMap;

use serde_json::Map;
use serde_json::Value;

use crate::config::javascript;

/// What precedes a key in the name of a variable.
pub const PREFIX: &str = "APP_CONFIG_";

/// The most parts of a key. No configuration is so deep; without a bound the longest variable would be.
const PARTS_MAX: usize = 128;

/// The layer that the environment adds.
#[derive(Clone, Default, PartialEq)]
#[cfg_attr(test, derive(Debug))]
pub struct Overrides {
    /// `None` where no variable has the prefix.
    pub value: Option<Value>,
    /// By dotted key: the variable that set it.
    pub via: BTreeMap<String, String>,
    /// By variable: why it cannot be taken.
    pub faults: Vec<(String, String)>,
}

/// Reads every variable with the prefix, in the order of the environment.
pub fn overrides(variables: &[(String, String)]) -> Overrides {
    let mut out = Overrides::default();
    let mut root = Map::new();
    for (name, value) in variables {
        let Some(key) = name.strip_prefix(PREFIX).filter(|_| !value.is_empty()) else {
            continue;
        };
        match set(&mut root, key, value) {
            Ok(()) => {
                out.via.insert(key.replace('_', "."), name.clone());
            }
            Err(reason) => out.faults.push((name.clone(), reason)),
        }
    }
    out.value = (!root.is_empty()).then_some(Value::Object(root));
    out
}

fn set(root: &mut Map<String, Value>, key: &str, value: &str) -> Result<(), String> {
    if let Some(part) = key.split('_').find(|part| !is_key_part(part)) {
        return Err(format!(
            "'{part}' cannot be a part of a key: letters, digits, and single '-' or ':' between them"
        ));
    }
    let mut parts: Vec<_> = key.split('_').collect();
    if PARTS_MAX < parts.len() {
        return Err(format!("its key has more than {PARTS_MAX} parts"));
    }
    let last = parts.pop().unwrap_or_default();
    let mut object = root;
    for part in parts {
        let entry = object.entry(part).or_insert(Value::Null);
        if entry.is_null() {
            *entry = Value::Object(Map::new());
        }
        let Value::Object(inner) = entry else {
            return Err(format!("another variable already gave '{part}' a value that has no keys"));
        };
        object = inner;
    }
    if object.contains_key(last) {
        return Err("another variable already set this key".to_owned());
    }
    object.insert(last.to_owned(), parse(value)?);
    Ok(())
}

/// JSON, or else the text itself.
fn parse(value: &str) -> Result<Value, String> {
    match javascript::json(value) {
        Ok(Value::Null) => Err("null cannot be set from the environment".to_owned()),
        Ok(value) => Ok(value),
        Err(_) => Ok(Value::String(value.to_owned())),
    }
}

/// `/^[a-z][a-z0-9]*(?:[-_:][a-z0-9]+)*$/i`
#[must_use]
pub fn is_key_part(part: &str) -> bool {
    part.starts_with(|c: char| c.is_ascii_alphabetic())
        && part
            .split(['-', '_', ':'])
            .all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Overrides {
        let own = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        overrides(&variables.iter().map(own).collect::<Vec<_>>())
    }

    #[test]
    fn values_are_json_or_text() {
        let read = read(&[
            ("APP_CONFIG_a_b-c", "1"),
            ("APP_CONFIG_a_d", "127.0.0.1"),
            ("APP_CONFIG_e", r#"{"f":false}"#),
            ("APP_CONFIG_e_g", "x"),
            ("APP_CONFIG_empty", ""),
            ("OTHER", "x"),
        ]);
        let expected = json!({ "a": { "b-c": 1, "d": "127.0.0.1" }, "e": { "f": false, "g": "x" } });
        assert_eq!(read.value, Some(expected));
        assert_eq!(read.faults, vec![]);
    }

    #[test]
    fn conflicts_and_bad_keys_are_refused_by_name() {
        let read = read(&[
            ("APP_CONFIG_a", "1"),
            ("APP_CONFIG_a_b", "1"),
            ("APP_CONFIG_c_d", "1"),
            ("APP_CONFIG_c", "1"),
            ("APP_CONFIG_9", "1"),
            ("APP_CONFIG_", "1"),
            ("APP_CONFIG_n", "null"),
        ]);
        let names: Vec<_> = read.faults.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["APP_CONFIG_a_b", "APP_CONFIG_c", "APP_CONFIG_9", "APP_CONFIG_", "APP_CONFIG_n"]);
    }
}
