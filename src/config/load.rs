//! The only reader of files and of the environment in the program.
#![allow(
    clippy::disallowed_methods,
    reason = "this is the one file that may; everybody else is given values"
)]

use std::cell::RefCell;
use std::env;
use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;
use zeroize::Zeroizing;

use crate::config::environment;
use crate::config::fault::Fault;
use crate::config::fault::Faults;
use crate::config::include;
use crate::config::javascript::resolve_path;
use crate::config::merge::Effective;
use crate::config::merge::Layer;
use crate::config::merge::Origin;
use crate::config::model::Config;
use crate::config::picture::Picture;
use crate::config::resolve;
use crate::config::world::Unreadable;
use crate::config::world::World;
use crate::config::yaml;

/// What to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// `--config`, in order, the strongest last. Empty: Backstage's default files in `cwd`.
    pub configs: Vec<PathBuf>,
    /// Where relative paths begin.
    pub cwd: PathBuf,
}

/// What was loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    /// Every value that was read, with where it came from. Holds secrets: show it through `render` only.
    pub effective: Effective,
    /// What the files said.
    pub files: Picture,
}

/// Reads everything, and resolves it.
///
/// # Errors
/// Every fault at once.
pub fn load(sources: &Sources) -> Result<Loaded, Faults> {
    let (outcome, files) = load_and_picture(sources);
    outcome.map(|(config, effective)| Loaded { config, effective, files })
}

/// The same, and whatever comes of it, what every file said that was read or looked for: mending one of them may mend
/// the whole.
pub fn load_and_picture(sources: &Sources) -> (Result<(Config, Effective), Faults>, Picture) {
    let machine = Machine::new(variables());
    let outcome = layers(&machine, sources)
        .and_then(|effective| Ok((resolve::resolve(&effective, &machine)?, effective)));
    (outcome, machine.seen.into_inner())
}

/// What the files of an earlier picture say now.
#[must_use]
pub fn look(earlier: &Picture) -> Picture {
    let mut now = Picture::default();
    for path in earlier.paths() {
        now.read(path, &read_bounded(path, yaml::FILE_BYTES_MAX));
    }
    now
}

/// What Backstage itself would see: the merged value of all files and of the environment.
///
/// # Errors
/// Where Backstage would refuse to start.
#[doc(hidden)]
pub fn effective(sources: &Sources) -> Result<Value, Faults> {
    effective_with(sources, variables())
}

/// The same with an environment of one's own, for tests.
///
/// # Errors
/// Where Backstage would refuse to start.
#[doc(hidden)]
pub fn effective_with(sources: &Sources, variables: Vec<(String, String)>) -> Result<Value, Faults> {
    layers(&Machine::new(variables), sources).map(|effective| effective.value)
}

/// Every file and the environment, transformed and merged.
pub(crate) fn layers(world: &dyn World, sources: &Sources) -> Result<Effective, Faults> {
    let mut faults = Vec::new();
    let mut layers = Vec::new();
    for path in targets(world, sources, &mut faults) {
        layers.extend(file_layer(world, path, &mut faults));
    }
    layers.extend(environment_layer(world, &mut faults));
    if faults.is_empty() && layers.is_empty() {
        faults.push(Fault {
            reason: "there is nothing in any of the files".to_owned(),
            remedy: "Backstage would not start either; give stagedoor the files that Backstage is given"
                .to_owned(),
            ..Fault::default()
        });
    }
    Faults(faults).none()?;
    Ok(Effective::of(layers))
}

/// The files to read, weakest first. Backstage loads no default file once there is a `--config`.
fn targets(world: &dyn World, sources: &Sources, faults: &mut Vec<Fault>) -> Vec<PathBuf> {
    let (urls, paths): (Vec<_>, Vec<_>) = sources.configs.iter().partition(|path| is_url(path));
    faults.extend(urls.iter().map(|url| {
        fault_of(
            url,
            "configuration from a URL is not supported, neither by stagedoor nor by a default Backstage",
            "give the path of a file",
        )
    }));
    if !sources.configs.is_empty() {
        return paths.into_iter().map(|path| resolve_path(&sources.cwd, &path.to_string_lossy())).collect();
    }
    let chosen = world.variable("BACKSTAGE_ENV").unwrap_or_default();
    let chosen: Vec<_> = chosen.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let mut names = chosen.iter().map(|name| format!("app-config.{name}.yaml")).collect::<Vec<_>>();
    names.push("app-config.local.yaml".to_owned());
    names.extend(chosen.iter().map(|name| format!("app-config.{name}.local.yaml")));
    let optional =
        names.iter().map(|name| resolve_path(&sources.cwd, name)).filter(|path| world.exists(path));
    std::iter::once(sources.cwd.join("app-config.yaml")).chain(optional).collect()
}

/// Whether JavaScript's `new URL(target)` would find a host.
fn is_url(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        && !rest.is_empty()
        && !rest.starts_with('/')
}

fn fault_of(path: &Path, reason: &str, remedy: &str) -> Fault {
    Fault {
        file: path.display().to_string(),
        key: String::new(),
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
    }
}

/// `None` for an empty file, and after a fault.
fn file_layer(world: &dyn World, path: PathBuf, faults: &mut Vec<Fault>) -> Option<Layer> {
    let parsed = match world.read(&path).map_err(|error| error.to_string()) {
        Ok(text) => yaml::parse(&text).map_err(|error| format!("it is not YAML: {error}")),
        Err(reason) => Err(format!("it cannot be read: {reason}")),
    };
    let parsed = parsed
        .map_err(|reason| {
            faults.push(fault_of(&path, &reason, "give stagedoor the files that Backstage is given"))
        })
        .ok()?;
    if parsed.is_null() {
        return None;
    }
    let root = Path::new("/");
    let dir = path.parent().unwrap_or(root);
    let done = include::transform(world, dir, &parsed);
    faults.extend(done.faults.into_iter().map(|(key, reason)| Fault {
        file: path.display().to_string(),
        key,
        reason,
        remedy:
            "Backstage would not start either; is everything mounted here that is mounted there?".to_owned(),
    }));
    let value = done.value.filter(Value::is_object);
    if value.is_none() {
        faults.push(fault_of(&path, "there must be keys at its top, not a list or a single value", ""));
    }
    Some(Layer { origin: Origin::File(path), value: value?, via: done.via, missing: done.missing })
}

fn environment_layer(world: &dyn World, faults: &mut Vec<Fault>) -> Option<Layer> {
    let done = environment::overrides(&world.variables());
    faults.extend(done.faults.into_iter().map(|(file, reason)| Fault {
        file,
        key: String::new(),
        reason,
        remedy: String::new(),
    }));
    let missing = std::collections::BTreeMap::new();
    done.value.map(|value| Layer { origin: Origin::Environment, value, via: done.via, missing })
}

/// The real world. Remembers what it saw.
struct Machine {
    variables: Vec<(String, String)>,
    seen: RefCell<Picture>,
}

impl Machine {
    fn new(variables: Vec<(String, String)>) -> Self {
        Self { variables, seen: RefCell::default() }
    }
}

impl World for Machine {
    fn read(&self, path: &Path) -> Result<String, Unreadable> {
        let outcome = read_bounded(path, yaml::FILE_BYTES_MAX);
        self.seen.borrow_mut().read(path, &outcome);
        outcome.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn exists(&self, path: &Path) -> bool {
        let exists = path.exists();
        if !exists {
            self.seen.borrow_mut().absent(path);
        }
        exists
    }

    fn variable(&self, name: &str) -> Option<String> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    }

    fn variables(&self) -> Vec<(String, String)> {
        self.variables.clone()
    }
}

/// The environment, once: what is decided from it is decided from one picture.
fn variables() -> Vec<(String, String)> {
    env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect()
}

/// What a file says. It may be a secret, and is read every few seconds, so it leaves no copy.
fn read_bounded(path: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let other = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            Unreadable::Missing
        } else {
            Unreadable::Other(error.to_string())
        }
    };
    let file = File::open(path).map_err(other)?;
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    // One byte more, so that it need not grow to find the end.
    let capacity = usize::try_from(length).unwrap_or(max).min(max) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(other)?;
    if max < bytes.len() {
        return Err(Unreadable::TooLarge { max });
    }
    Ok(bytes)
}
