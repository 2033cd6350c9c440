//! Layers of configuration, and the effective value of them all: what Backstage's `ConfigReader.get()` answers.
//! Each value remembers which layer it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;

/// One file, or the environment, after its transformation. Has no `Debug` but its origin, for it holds secrets.
#[derive(Clone, PartialEq)]
pub struct Layer {
    pub origin: Origin,
    pub value: Value,
    /// By dotted key: where a value really came from.
    pub via: BTreeMap<String, String>,
    /// By dotted key: the missing variables for which the key disappeared.
    pub missing: BTreeMap<String, Vec<String>>,
}

/// Where a layer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File(PathBuf),
    /// `APP_CONFIG_…`; `via` has the names.
    Environment,
}

/// All layers and what comes of them. `Debug` shows the origins only.
#[derive(Clone, PartialEq)]
pub struct Effective {
    pub value: Value,
    /// From the weakest to the strongest.
    pub layers: Vec<Layer>,
}

impl Effective {
    /// Merges `layers`, given from the weakest to the strongest.
    #[must_use]
    pub fn of(layers: Vec<Layer>) -> Self {
        let merged = layers.iter().fold(None, |below, layer| merge(Some(&layer.value), below.as_ref()));
        Self { value: merged.unwrap_or_else(|| Value::Object(Map::new())), layers }
    }

    /// The value at a dotted key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        follow(&self.value, key)
    }

    /// The strongest layer that says something at `key`, or at what it stands under.
    #[must_use]
    pub fn layer(&self, key: &str) -> Option<&Layer> {
        let mut key = key;
        loop {
            let said = |layer: &&Layer| follow(&layer.value, key).is_some();
            if let Some(layer) = self.layers.iter().rev().find(said) {
                return Some(layer);
            }
            key = key.rsplit_once('.')?.0;
        }
    }

    /// The file or variable that says what stands at `key`; empty where nothing does.
    #[must_use]
    pub fn place(&self, key: &str) -> String {
        self.layer(key).map_or_else(String::new, |layer| layer.place(key))
    }

    /// `${VAR}` or `$file …`, where the value at `key` is not literal.
    #[must_use]
    pub fn via(&self, key: &str) -> Option<&str> {
        let layer = self.layer(key)?;
        match layer.origin {
            Origin::File(_) => nearest(&layer.via, key).map(String::as_str),
            Origin::Environment => None,
        }
    }

    /// The missing variables for which there is nothing at `key`, where that is the reason.
    #[must_use]
    pub fn missing(&self, key: &str) -> Option<&[String]> {
        self.layers.iter().rev().find_map(|layer| nearest(&layer.missing, key)).map(Vec::as_slice)
    }
}

impl Layer {
    fn place(&self, key: &str) -> String {
        match &self.origin {
            Origin::File(path) => path.display().to_string(),
            Origin::Environment => {
                nearest(&self.via, key).cloned().unwrap_or_else(|| "APP_CONFIG_…".to_owned())
            }
        }
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Layer({:?})", self.origin)
    }
}

impl fmt::Debug for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.layers).finish()
    }
}

/// The entry of `key` or of the closest thing it stands under.
fn nearest<'a, T>(entries: &'a BTreeMap<String, T>, key: &str) -> Option<&'a T> {
    let mut key = key;
    loop {
        if let Some(found) = entries.get(key) {
            return Some(found);
        }
        key = key.rsplit_once('.')?.0;
    }
}

/// The value at a dotted key below `value`.
#[must_use]
pub fn follow<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(value, |value, part| value.as_object()?.get(part))
}

/// Backstage's merge: objects by key, everything else whole, `null` removes what is below it and itself.
#[must_use]
pub fn merge(above: Option<&Value>, below: Option<&Value>) -> Option<Value> {
    match above {
        Some(Value::Null) => None,
        None => below.and_then(|below| merge(Some(below), None)),
        Some(Value::Object(map)) => Some(Value::Object(merge_objects(map, below.and_then(Value::as_object)))),
        Some(value @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_))) => {
            Some(value.clone())
        }
    }
}

fn merge_objects(above: &Map<String, Value>, below: Option<&Map<String, Value>>) -> Map<String, Value> {
    let mut out = Map::with_capacity(above.len());
    let only_below = below.into_iter().flat_map(Map::keys).filter(|key| !above.contains_key(*key));
    for key in above.keys().chain(only_below) {
        let value = merge(above.get(key), below.and_then(|below| below.get(key)));
        out.extend(value.map(|value| (key.clone(), value)));
    }
    out
}

/// lodash's `merge(below, above)`, with which Backstage lays a plugin's settings over the base: objects by key,
/// arrays by index, `null` counts as a value.
#[must_use]
pub fn lodash_merge(below: &Value, above: &Value) -> Value {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            let mut out = below.clone();
            for (key, value) in above {
                let merged = below.get(key).map_or_else(|| value.clone(), |below| lodash_merge(below, value));
                out.insert(key.clone(), merged);
            }
            Value::Object(out)
        }
        (Value::Array(below), Value::Array(above)) => {
            let rest = below.iter().skip(above.len()).cloned();
            let each = above.iter().enumerate();
            let merged =
                each.map(|(n, value)| below.get(n).map_or_else(|| value.clone(), |b| lodash_merge(b, value)));
            Value::Array(merged.chain(rest).collect())
        }
        (_, above) => above.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn layer(value: Value) -> Layer {
        let origin = Origin::File(format!("{}.yaml", value.as_object().map_or(0, Map::len)).into());
        Layer { origin, value, via: BTreeMap::new(), missing: BTreeMap::new() }
    }

    #[test]
    fn layers_merge_as_in_backstage() {
        for (below, above, expected) in [
            (
                json!({ "a": { "b": 1, "c": 2 } }),
                json!({ "a": { "b": 3 } }),
                json!({ "a": { "b": 3, "c": 2 } }),
            ),
            (json!({ "a": { "b": 1 } }), json!({ "a": null }), json!({})),
            (json!({ "a": [1, 2] }), json!({ "a": [3] }), json!({ "a": [3] })),
            (json!({ "a": { "b": 1 } }), json!({ "a": "x" }), json!({ "a": "x" })),
            (json!({ "a": "x" }), json!({ "a": { "b": null } }), json!({ "a": {} })),
            (json!({ "a": null }), json!({}), json!({})),
            (json!({ "a": [null] }), json!({}), json!({ "a": [null] })),
        ] {
            assert_eq!(Effective::of(vec![layer(below), layer(above)]).value, expected);
        }
    }

    #[test]
    fn a_value_knows_its_layer() {
        let effective =
            Effective::of(vec![layer(json!({ "a": { "b": 1 }, "x": 1 })), layer(json!({ "a": { "c": 1 } }))]);
        assert_eq!(effective.place("a.b"), "2.yaml");
        assert_eq!(effective.place("a.c"), "1.yaml");
        assert_eq!(effective.place("a.d"), "1.yaml");
        assert_eq!(effective.place("z"), "");
    }

    #[test]
    fn a_plugin_lies_over_the_base_as_lodash_merges() {
        let base = json!({ "ssl": { "ca": "X" }, "list": [1, 2], "n": 1 });
        let plugin = json!({ "ssl": { "servername": "s" }, "list": [3], "n": null });
        let expected = json!({ "ssl": { "ca": "X", "servername": "s" }, "list": [3, 2], "n": null });
        assert_eq!(lodash_merge(&base, &plugin), expected);
    }
}
