//! The few habits of JavaScript that decide what a configuration means: white space, truth, and paths.

use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Number;
use serde_json::Value;

/// What `String.prototype.trim` removes. Unlike Rust's white space it has U+FEFF and lacks U+0085.
#[must_use]
pub fn is_space(letter: char) -> bool {
    letter == '\u{feff}' || (letter.is_whitespace() && letter != '\u{85}')
}

/// `text.trim()`.
#[must_use]
pub fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Whether JavaScript takes a value for true. A missing value is false.
#[must_use]
pub fn truthy(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(value)) => *value,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(_) | Value::Object(_)) => true,
    }
}

/// `path.resolve(dir, name)`: joined, and `..` taken literally, without asking the file system about symlinks.
#[must_use]
pub fn resolve_path(dir: &Path, name: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in dir.join(name).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => path.push(part),
        }
    }
    path
}

/// A double as JSON shows it: whole numbers without a fraction as far as they are exact.
#[must_use]
pub fn number_of(value: f64) -> Option<Number> {
    /// 2^53, up to which doubles hold every whole number.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT_MAX {
        #[allow(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
        return Some(Number::from(value as i64));
    }
    Number::from_f64(value)
}

/// `JSON.parse`, where every number is a double: `5432.0` is 5432.
///
/// # Errors
/// Where the text is not JSON; also for numbers beyond a double and for half a surrogate, which JavaScript takes.
pub fn json(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text).map(with_doubles)
}

fn with_doubles(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::Number(number.as_f64().and_then(number_of).unwrap_or(number)),
        Value::Array(list) => Value::Array(list.into_iter().map(with_doubles).collect()),
        Value::Object(map) => {
            Value::Object(map.into_iter().map(|(key, value)| (key, with_doubles(value))).collect())
        }
        Value::Null | Value::Bool(_) | Value::String(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_resolved_without_looking() {
        for (dir, name, expected) in [
            ("/app", "./ca.pem", "/app/ca.pem"),
            ("/app/etc", "../ca.pem", "/app/ca.pem"),
            ("/app", "/etc/ca.pem", "/etc/ca.pem"),
            ("/", "../../x", "/x"),
        ] {
            assert_eq!(resolve_path(Path::new(dir), name), Path::new(expected));
        }
    }

    #[test]
    fn white_space_is_that_of_javascript() {
        assert_eq!(trim("\u{feff}\u{a0} a\u{85}\n"), "a\u{85}");
    }

    #[test]
    fn numbers_are_doubles() {
        assert_eq!(json("[5432.0, 1e3, 0.5]").unwrap(), serde_json::json!([5432, 1000, 0.5]));
        assert_eq!(json("9007199254740993").unwrap().as_f64(), Some(9_007_199_254_740_992.0));
    }
}
