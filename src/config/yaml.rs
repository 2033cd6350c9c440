//! YAML as JavaScript reads it: the answers of npm's `yaml` 2.9 (YAML 1.2 core), which is Backstage's parser.
//! The only file that names `serde_yaml`; everybody else sees `serde_json::Value`.
//!
//! `serde_yaml` knows whether a scalar was quoted but does not say so, and types a few plain scalars otherwise
//! than JavaScript does. So a text is read twice: once for its *shape* (which scalars are typed at all), and once
//! for the *text* of every scalar, which is then typed by JavaScript's rules.

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeSeed;
use serde::de::Deserializer;
use serde::de::EnumAccess;
use serde::de::Error as _;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::VariantAccess;
use serde::de::Visitor;
use serde_json::Map;
use serde_json::Number;
use serde_json::Value;

use crate::config::javascript::number_of;

/// The largest file that is read as configuration. A Kubernetes ConfigMap or Secret ends at 1 MiB, so this leaves
/// room for the largest honest file, and keeps a mistaken `--config` (a core dump, a device) from filling memory.
pub const FILE_BYTES_MAX: usize = 4 << 20;

/// Why a text is not YAML, with line and column where the parser knows them. Quotes nothing of the text, which
/// may hold secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct YamlError(String);

/// Reads one YAML document. An empty one is `null`.
///
/// # Errors
/// Where npm's `yaml` would throw, and for maps or lists as keys.
pub fn parse(text: &str) -> Result<Value, YamlError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // JavaScript ends a block text with a line break, also where the file does not.
    let ended;
    let text = if text.ends_with('\n') {
        text
    } else {
        ended = format!("{text}\n");
        &ended
    };
    let shape = Shape::deserialize(serde_yaml::Deserializer::from_str(&without_leading_zeros(text)))
        .map_err(|error| describe(&error))?;
    Typed(&shape).deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| describe(&error))
}

/// The parser's words carry the place; values that it quotes are cut out.
fn describe(error: &serde_yaml::Error) -> YamlError {
    let text = error.to_string();
    let place = error.location().map(|at| format!(" at line {} column {}", at.line(), at.column()));
    if text.contains("invalid type") || text.contains("invalid value") {
        return YamlError(format!("a value that does not fit its tag{}", place.unwrap_or_default()));
    }
    YamlError(text)
}

/// The same text with `1` for the leading `0` of every run of digits. `0777` is a number for JavaScript and a text
/// for `serde_yaml`; `1777` is a number for both, and a quoted one stays a text. The structure cannot change.
fn without_leading_zeros(text: &str) -> String {
    let mut last = '\n';
    let mut rest = text.chars().peekable();
    let mut out = String::with_capacity(text.len());
    while let Some(letter) = rest.next() {
        let opens = !(last.is_alphanumeric() || matches!(last, '.' | '_' | '\\'));
        let leads = letter == '0' && opens && rest.peek().is_some_and(char::is_ascii_digit);
        out.push(if leads { '1' } else { letter });
        last = letter;
    }
    out
}

/// What a node is, before its text is looked at.
enum Shape {
    Null,
    Bool(bool),
    /// A plain scalar that looks like a number to somebody.
    Number,
    Text,
    List(Vec<Self>),
    Map(Vec<(Self, Self)>),
    /// `!something value`: JavaScript warns and takes the value, a scalar as text.
    Tagged(Box<Self>),
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Bool(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Number)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Shape, E> {
        Ok(Shape::Number)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Shape, E> {
        Ok(Shape::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Number)
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
        let mut shapes = Vec::new();
        while let Some(shape) = list.next_element()? {
            shapes.push(shape);
        }
        Ok(Shape::List(shapes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut shapes = Vec::new();
        while let Some(entry) = map.next_entry()? {
            shapes.push(entry);
        }
        Ok(Shape::Map(shapes))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Shape, A::Error> {
        let (_, variant) = tagged.variant::<String>()?;
        Ok(Shape::Tagged(Box::new(variant.newtype_variant()?)))
    }
}

/// Reads the node that has this shape, every scalar by its text.
struct Typed<'a>(&'a Shape);

impl<'de> DeserializeSeed<'de> for Typed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.0 {
            Shape::Null => IgnoredAny::deserialize(deserializer).map(|_| Value::Null),
            Shape::Bool(value) => IgnoredAny::deserialize(deserializer).map(|_| Value::Bool(*value)),
            Shape::Number => String::deserialize(deserializer).map(number_or_text),
            Shape::Text => String::deserialize(deserializer).map(Value::String),
            Shape::List(_) | Shape::Map(_) | Shape::Tagged(_) => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Typed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value that was there a moment ago")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let Shape::List(shapes) = self.0 else {
            return Err(A::Error::custom("a list where there was none"));
        };
        let mut values = Vec::with_capacity(shapes.len());
        for shape in shapes {
            values.extend(list.next_element_seed(Typed(shape))?);
        }
        // The end must be asked for, or the parser takes it for a list that was not read.
        list.next_element::<IgnoredAny>()?;
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let Shape::Map(shapes) = self.0 else {
            return Err(A::Error::custom("a map where there was none"));
        };
        let mut keys = std::collections::HashSet::with_capacity(shapes.len());
        let mut values = Map::with_capacity(shapes.len());
        for (key, value) in shapes {
            let Some(key) = map.next_key_seed(Typed(key))? else {
                break;
            };
            let name = key_name(&key).ok_or_else(|| A::Error::custom("a map or a list as a key"))?;
            // JavaScript compares keys before it makes names of them: `1` and `'1'` may stand side by side.
            if !keys.insert(key) {
                return Err(A::Error::custom(format!("the key `{name}` stands here twice")));
            }
            values.insert(name, map.next_value_seed(Typed(value))?);
        }
        map.next_key::<IgnoredAny>()?;
        Ok(Value::Object(values))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let Shape::Tagged(inner) = self.0 else {
            return Err(A::Error::custom("a tag where there was none"));
        };
        let (_, variant) = tagged.variant::<String>()?;
        match inner.as_ref() {
            Shape::List(_) | Shape::Map(_) | Shape::Tagged(_) => variant.newtype_variant_seed(Typed(inner)),
            Shape::Null | Shape::Bool(_) | Shape::Number | Shape::Text => {
                variant.newtype_variant::<String>().map(Value::String)
            }
        }
    }
}

/// The name that JavaScript gives to a key that is not a text.
fn key_name(key: &Value) -> Option<String> {
    match key {
        Value::Null => Some(String::new()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// A plain scalar by the core schema of npm's `yaml`: octal is `0o17`, not `017`; there is no binary; hexadecimal
/// and octal have no sign. What is not finite stays a text, since JSON has no word for it.
fn number_or_text(text: String) -> Value {
    number(&text).map_or(Value::String(text), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(digits, 8);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let decimal = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    decimal.then(|| text.parse().ok()).flatten().and_then(number_of)
}

/// The digits as a number, as far as a double goes.
fn radix(digits: &str, radix: u32) -> Option<Number> {
    if digits.is_empty() {
        return None;
    }
    let mut value = 0.0;
    for digit in digits.chars() {
        value = value * f64::from(radix) + f64::from(digit.to_digit(radix)?);
    }
    number_of(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_are_typed_as_javascript_types_them() {
        for (text, expected) in [
            ("0777", json!(777)),
            ("'0777'", json!("0777")),
            ("-014", json!(-14)),
            ("0o17", json!(15)),
            ("0b11", json!("0b11")),
            ("0x1f", json!(31)),
            ("-0x1f", json!("-0x1f")),
            ("1e3", json!(1000)),
            ("1.0", json!(1)),
            ("1_000", json!("1_000")),
            ("yes", json!("yes")),
            ("12:30:05", json!("12:30:05")),
            ("2026-01-02", json!("2026-01-02")),
            ("~", json!(null)),
            ("", json!(null)),
            ("'null'", json!("null")),
            ("123456789012345678901234567890", json!(1.2345678901234568e29)),
            ("!tag 5", json!("5")),
            ("!tag { a: 5 }", json!({ "a": 5 })),
            ("[1, '1', true]", json!([1, "1", true])),
            ("'07 08'", json!("07 08")),
            ("\u{feff}a: 1", json!({ "a": 1 })),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn keys_are_named_as_javascript_names_them() {
        let value = parse("1: a\ntrue: b\nnull: c\n01: d\n'1': e\n<<: f").map_err(|e| e.to_string());
        assert!(value.unwrap_err().contains("twice"), "01 is 1 again");
        let value = parse("1: a\ntrue: b\nnull: c\n'1': e\n<<: f").unwrap();
        assert_eq!(value, json!({ "1": "e", "true": "b", "": "c", "<<": "f" }));
    }

    #[test]
    fn what_javascript_refuses_is_refused() {
        for text in ["a: 1\na: 2", "a:\n\t- b", "--- 1\n--- 2", "a: *nowhere", "a: [1", "a: b: c"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn aliases_are_followed_and_bombs_are_not() {
        assert_eq!(parse("a: &x { b: 07 }\nc: *x").unwrap(), json!({ "a": { "b": 7 }, "c": { "b": 7 } }));
        let bomb: String = (1..40).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}]\n", n - 1)).collect();
        assert!(parse(&format!("a0: &a0 x\n{bomb}")).is_err());
        assert!(parse(&"[".repeat(100_000)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[ \\n:\\[\\]{},#&*!|>'\"%@`?ab01~-]{0,40}|.{0,40}") {
            let _ = parse(&text);
        }
    }
}
