//! The Python that the drivers' scripts run in: an environment of its own, made once from exact versions.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use crate::support::process::run;

/// The registry may be far away.
const INSTALL_LIMIT: Duration = Duration::from_mins(10);

/// The interpreter of a virtual environment below `target/` with what `requirements` names, and nothing else.
pub fn interpreter(requirements: &Path) -> PathBuf {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let interpreter = environment.join("bin/python");
    let wanted = std::fs::read(requirements).expect("the requirements");
    let installed = environment.join("installed.txt");
    let one_at_a_time = INSTALLING.lock();
    if std::fs::read(&installed).ok().as_ref() != Some(&wanted) {
        let mut create = Command::new("python3");
        run("python3 -m venv", create.args(["-m", "venv", "--clear"]).arg(&environment), INSTALL_LIMIT);
        let mut install = Command::new(&interpreter);
        install.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
        install.args(["--only-binary", ":all:", "--requirement"]).arg(requirements);
        run("pip install", &mut install, INSTALL_LIMIT);
        std::fs::write(&installed, &wanted).expect("a note of what is installed");
    }
    drop(one_at_a_time);
    interpreter
}
