//! What Backstage does to a file after parsing it: `${…}` in every text, and objects of one key `$file`, `$env` or
//! `$include`. Goes on after a fault, so that all of a file's are told at once.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Map;
use serde_json::Value;

use crate::config::javascript;
use crate::config::javascript::is_space;
use crate::config::javascript::resolve_path;
use crate::config::javascript::trim;
use crate::config::substitute::substitute;
use crate::config::world::World;
use crate::config::yaml;

/// The most values within each other, included files counted. A parser alone ends at 128. Backstage has no bound, and
/// never ends on a file that includes itself.
const LEVELS_MAX: usize = 256;

/// The most files that one file may pull in, so that a few files that include each other twice do not become 2^32.
const INCLUDES_MAX: usize = 1_000;

/// A file after its transformation.
#[derive(Clone, Default, PartialEq)]
#[cfg_attr(test, derive(Debug))]
pub struct Transformed {
    /// `None` where everything disappeared.
    pub value: Option<Value>,
    /// By dotted key: where a value really came from (`${VAR}`, `$file /run/secrets/x`).
    pub via: BTreeMap<String, String>,
    /// By dotted key: the missing variables for which the key disappeared.
    pub missing: BTreeMap<String, Vec<String>>,
    /// By dotted key: why it could not be transformed.
    pub faults: Vec<(String, String)>,
}

/// Transforms what was parsed from a file in directory `dir`.
pub fn transform(world: &dyn World, dir: &Path, parsed: &Value) -> Transformed {
    let mut run = Run { world, includes: 0, out: Transformed::default() };
    run.out.value = run.node(parsed, "", Place { dir, level: 0 });
    run.out
}

#[derive(Clone, Copy)]
struct Place<'a> {
    dir: &'a Path,
    level: usize,
}

struct Run<'a> {
    world: &'a dyn World,
    includes: usize,
    out: Transformed,
}

impl Run<'_> {
    /// `None`: the value disappears, with its key.
    fn node(&mut self, value: &Value, key: &str, place: Place<'_>) -> Option<Value> {
        match value {
            Value::String(text) => self.text(text, key),
            Value::Object(map) => match include_key(map) {
                Some(kind) => self.include(kind, map, key, place),
                None => Some(self.children(value, key, place)),
            },
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                Some(self.children(value, key, place))
            }
        }
    }

    fn children(&mut self, value: &Value, key: &str, place: Place<'_>) -> Value {
        if place.level == LEVELS_MAX {
            let reason =
                format!("more than {LEVELS_MAX} values within each other; does a file include itself?");
            self.out.faults.push((key.to_owned(), reason));
            return Value::Null;
        }
        let place = Place { level: place.level + 1, ..place };
        match value {
            Value::Array(list) => {
                let each = list.iter().enumerate();
                Value::Array(each.filter_map(|(n, v)| self.node(v, &format!("{key}[{n}]"), place)).collect())
            }
            Value::Object(map) => {
                let mut out = Map::with_capacity(map.len());
                for (name, value) in map {
                    let value = self.node(value, &join(key, name), place);
                    out.extend(value.map(|value| (name.clone(), value)));
                }
                Value::Object(out)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        }
    }

    fn text(&mut self, text: &str, key: &str) -> Option<Value> {
        let done = substitute(text, |name| trimmed(self.world, name));
        let missing = done.variables.iter().filter(|name| self.world.variable(name).is_none());
        match done.text {
            Some(text) => {
                if !done.variables.is_empty() {
                    let names: Vec<_> = done.variables.iter().map(|name| format!("${{{name}}}")).collect();
                    self.out.via.insert(key.to_owned(), names.join(" "));
                }
                Some(Value::String(text))
            }
            None => {
                self.out.missing.insert(key.to_owned(), missing.cloned().collect());
                None
            }
        }
    }

    fn include(
        &mut self,
        kind: Kind,
        map: &Map<String, Value>,
        key: &str,
        place: Place<'_>,
    ) -> Option<Value> {
        let done = match self.argument(kind, map) {
            Ok(argument) => match kind {
                Kind::File => self.file(&argument, key, place),
                Kind::Env => Ok(self.env(&argument, key)),
                Kind::Include => self.included(&argument, key, place),
            },
            Err(reason) => Err(reason),
        };
        done.unwrap_or_else(|reason| {
            self.out.faults.push((key.to_owned(), reason));
            None
        })
    }

    fn argument(&self, kind: Kind, map: &Map<String, Value>) -> Result<String, String> {
        let name = kind.name();
        if map.len() != 1 {
            return Err(format!("`{name}` must be the only key of its object"));
        }
        let Some(Value::String(text)) = map.get(name) else {
            return Err(format!("`{name}` must be followed by a text"));
        };
        let done = substitute(text, |name| trimmed(self.world, name));
        done.text.ok_or_else(|| format!("`{name}: {text}`: {} is not set", done.variables.join(", ")))
    }

    fn env(&mut self, name: &str, key: &str) -> Option<Value> {
        let value = trimmed(self.world, name);
        match &value {
            Some(_) => self.out.via.insert(key.to_owned(), format!("$env {name}")),
            None => {
                self.out.missing.insert(key.to_owned(), vec![name.to_owned()]);
                None
            }
        };
        value.map(Value::String)
    }

    fn file(&mut self, name: &str, key: &str, place: Place<'_>) -> Result<Option<Value>, String> {
        let path = resolve_path(place.dir, name);
        let text = self.read(&path, "$file")?;
        self.out.via.insert(key.to_owned(), format!("$file {}", path.display()));
        Ok(Some(Value::String(text.trim_end_matches(is_space).to_owned())))
    }

    fn included(&mut self, argument: &str, key: &str, place: Place<'_>) -> Result<Option<Value>, String> {
        let (name, parts) = argument.split_once('#').unwrap_or((argument, ""));
        // JavaScript splits on `#` and a line of anything: no part means the whole file.
        let parse = parser_of(name)
            .ok_or_else(|| format!("`$include: {name}` is not a .json, .yaml or .yml file"))?;
        let path = resolve_path(place.dir, name);
        let content = self.read(&path, "$include")?;
        let whole =
            parse(&content).map_err(|reason| format!("`$include: {name}` cannot be parsed: {reason}"))?;
        let Some(value) =
            part_of(&whole, parts).map_err(|at| format!("`$include: {name}`: {at} is not an object"))?
        else {
            return Ok(None);
        };
        self.out.via.insert(key.to_owned(), format!("$include {}", path.display()));
        if let Value::String(text) = value {
            return Ok(self.text(text, key));
        }
        let dir = path.parent().unwrap_or(place.dir);
        // The included object itself is not looked at for `$file` and its like, only what is inside.
        Ok(Some(self.children(value, key, Place { dir, level: place.level })))
    }

    fn read(&mut self, path: &Path, what: &str) -> Result<String, String> {
        self.includes += 1;
        if INCLUDES_MAX < self.includes {
            return Err(format!("more than {INCLUDES_MAX} included files"));
        }
        self.world.read(path).map_err(|error| format!("`{what}` {}: {error}", path.display()))
    }
}

#[derive(Clone, Copy)]
enum Kind {
    File,
    Env,
    Include,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::File => "$file",
            Self::Env => "$env",
            Self::Include => "$include",
        }
    }
}

fn include_key(map: &Map<String, Value>) -> Option<Kind> {
    map.keys().find_map(|key| match key.as_str() {
        "$file" => Some(Kind::File),
        "$env" => Some(Kind::Env),
        "$include" => Some(Kind::Include),
        _ => None,
    })
}

fn trimmed(world: &dyn World, name: &str) -> Option<String> {
    world.variable(name).map(|value| trim(&value).to_owned())
}

/// `a.b` below `a`; the root has no name.
pub(crate) fn join(key: &str, name: &str) -> String {
    if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") }
}

type Parser = fn(&str) -> Result<Value, String>;

fn parser_of(name: &str) -> Option<Parser> {
    match Path::new(name).extension()?.to_str()? {
        "json" => Some(|text| javascript::json(text).map_err(|error| error.to_string())),
        "yaml" | "yml" => Some(|text| yaml::parse(text).map_err(|error| error.to_string())),
        _ => None,
    }
}

/// Follows a dotted path. `Ok(None)`: the last part is not there. `Err`: what on the way is not an object.
fn part_of<'a>(value: &'a Value, parts: &str) -> Result<Option<&'a Value>, String> {
    let mut here = Some(value);
    let mut way = String::new();
    for part in parts.split('.').filter(|_| !parts.is_empty()) {
        let Some(Value::Object(map)) = here else {
            return Err(format!("'{way}'"));
        };
        here = map.get(part);
        way = join(&way, part);
    }
    Ok(here)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::world::tests::Table;

    fn world() -> Table {
        Table::new(
            &[
                ("/etc/pw", " secret\n\n"),
                ("/etc/sub/b.yaml", "x: { $file: ./c }\ny: [1, '${A}', '${NONE}']\nz: '${A}'"),
                ("/etc/sub/c", "deep"),
                ("/etc/loop.yaml", "x: { $include: loop.yaml }"),
                ("/etc/d.json", r#"{ "$env": "A" }"#),
            ],
            &[("A", " a ")],
        )
    }

    #[test]
    fn includes_are_those_of_backstage() {
        for (text, expected) in [
            ("k: { $file: pw }", json!({ "k": " secret" })),
            ("k: { $env: A }", json!({ "k": "a" })),
            ("k: { $env: NONE }", json!({})),
            ("k: { $include: sub/b.yaml }", json!({ "k": { "x": "deep", "y": [1, "a"], "z": "a" } })),
            ("k: { $include: 'sub/b.yaml#z' }", json!({ "k": "a" })),
            ("k: { $include: 'sub/b.yaml#nope' }", json!({})),
            ("k: { $include: d.json }", json!({ "k": { "$env": "A" } })),
            ("k: { $other: A }", json!({ "k": { "$other": "A" } })),
            ("k: ['${NONE}', ~, 1]", json!({ "k": [null, 1] })),
        ] {
            let done = transform(&world(), Path::new("/etc"), &yaml::parse(text).unwrap());
            assert_eq!((done.value, done.faults), (Some(expected), vec![]), "{text}");
        }
    }

    #[test]
    fn every_fault_is_told_with_its_key() {
        let text = "a: { $file: none }\nb: [{ $env: 1 }]\nc: { $env: A, d: 1 }\ne: { $include: pw }
f: { $include: 'sub/b.yaml#z.q' }\ng: { $file: '${NONE}' }\nh: { $include: loop.yaml }\nfine: 1";
        let done = transform(&world(), Path::new("/etc"), &yaml::parse(text).unwrap());
        let keys: Vec<_> = done.faults.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys.get(..6), Some(["a", "b[0]", "c", "e", "f", "g"].as_slice()));
        assert!(keys.last().unwrap().starts_with("h.x.x"));
    }
}
