//! The Node projects under `tests/`: installed once from their lock files, run with a limit.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use crate::support::deadline::Stopwatch;
use crate::support::process::run;

/// The npm registry may be far away.
const INSTALL_LIMIT: Duration = Duration::from_mins(10);

/// A directory with a package.json and its lock file.
#[derive(Clone, Debug)]
pub struct Project(PathBuf);

impl Project {
    /// `tests/<name>`, with its packages installed.
    pub fn ready(name: &str) -> Self {
        static INSTALLING: Mutex<()> = Mutex::new(());
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
        let one_at_a_time = INSTALLING.lock();
        if !is_installed(&directory) {
            let _watch = Stopwatch::start(format!("npm ci in tests/{name}"));
            let mut npm = Command::new("npm");
            npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&directory);
            run("npm ci", &mut npm, INSTALL_LIMIT);
        }
        drop(one_at_a_time);
        Self(directory)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `node <script> …` in this directory with this environment and nothing else of PostgreSQL's.
    pub fn node(&self, arguments: &[&str], environment: &BTreeMap<String, String>) -> Command {
        let mut command = Command::new("node");
        command.args(arguments).current_dir(&self.0);
        clean(&mut command);
        command.envs(environment);
        command
    }
}

/// Takes out of a command's environment what would change how it connects.
pub fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["PG", "POSTGRES_", "APP_CONFIG_", "BACKSTAGE_", "STAGEDOOR_"]
            .iter()
            .any(|start| text.starts_with(start))
        {
            command.env_remove(&name);
        }
    }
}

/// npm writes `node_modules/.package-lock.json` last.
fn is_installed(directory: &Path) -> bool {
    let changed = |path: &str| directory.join(path).metadata().and_then(|data| data.modified()).ok();
    let installed = changed("node_modules/.package-lock.json");
    installed.is_some() && installed >= changed("package-lock.json")
}
