//! Programs that the demo runs: to their end, or beside us until they are told to end.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use thiserror::Error;
use tokio::process::Child;
use tokio::process::Command;
use tokio::time::timeout;

/// How long a program that runs to its end may take. `initdb` on a slow disk is the longest.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a program may take to end after it was asked to.
const FAREWELL: Duration = Duration::from_secs(15);

/// Why the demo could not go on.
#[derive(Debug, Error)]
pub enum DemoError {
    #[error("{program} cannot be run: {source}. `make deps` installs what the demo needs")]
    Missing { program: String, source: io::Error },
    #[error("{what} failed:\n{output}")]
    Failed { what: String, output: String },
    #[error("{what}: {source}")]
    Files { what: String, source: io::Error },
    #[error("{what} took too long")]
    TimedOut { what: String },
}

/// A command with nothing of our environment but PATH: variables such as PGHOST or APP_CONFIG_… would change
/// what the demo shows. It has a process group of its own, so that Ctrl-C reaches us alone and the end is
/// orderly.
pub(super) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).kill_on_drop(true).process_group(0);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Runs `command` to its end and returns its stdout.
///
/// # Errors
/// Where it cannot be run, fails (with what it said), or does not end.
pub(super) async fn output(what: &str, command: &mut Command) -> Result<String, DemoError> {
    let run = timeout(PATIENCE, command.output()).await;
    let done = run
        .map_err(|_| DemoError::TimedOut { what: what.to_owned() })?
        .map_err(|source| DemoError::Missing { program: program(command), source })?;
    let text = |bytes| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if done.status.success() {
        return Ok(text(&done.stdout));
    }
    let output = format!("{}{}", text(&done.stdout), text(&done.stderr));
    Err(DemoError::Failed { what: what.to_owned(), output })
}

/// Runs `command` beside us; what it says goes to the file `log`.
///
/// # Errors
/// Where it cannot be run or the file cannot be made.
pub(super) fn spawn(command: &mut Command, log: &Path) -> Result<Child, DemoError> {
    let to_file = |source| DemoError::Files { what: log.display().to_string(), source };
    let file = File::create(log).map_err(to_file)?;
    command.stdout(file.try_clone().map_err(to_file)?).stderr(file);
    command.spawn().map_err(|source| DemoError::Missing { program: program(command), source })
}

/// Asks `child` to end by `signal`, waits, and ends it for good where that does not help. Returns its exit
/// code where it has one.
pub(super) async fn end(child: &mut Child, signal: &str) -> Option<i32> {
    if let (Ok(None), Some(id)) = (child.try_wait(), child.id()) {
        // The shell's own `kill`: small images have no other.
        let mut kill = command(Path::new("sh"));
        let _ = kill.args(["-c", "kill -s \"$0\" \"$1\"", signal]).arg(id.to_string()).status().await;
    }
    if let Ok(Ok(status)) = timeout(FAREWELL, child.wait()).await {
        return status.code();
    }
    let _ = child.kill().await;
    None
}

fn program(command: &Command) -> String {
    OsStr::to_string_lossy(command.as_std().get_program()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_program_says_is_kept_when_it_fails() {
        let mut shell = command(Path::new("sh"));
        let error = output("the test", shell.args(["-c", "echo why >&2; exit 3"])).await.unwrap_err();
        assert_eq!(error.to_string(), "the test failed:\nwhy");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_says_how_to_get_it() {
        let error = output("x", &mut command(Path::new("/nowhere/initdb"))).await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/initdb") && error.to_string().contains("make deps"));
    }

    #[tokio::test]
    async fn the_environment_does_not_leak() {
        let names = output("env", &mut command(Path::new("env"))).await.unwrap();
        assert!(names.lines().all(|line| line.starts_with("PATH=")), "{names}");
    }

    #[tokio::test]
    async fn a_child_ends_by_the_signal_that_it_is_sent() {
        let log = std::env::temp_dir().join(format!("stagedoor-child-{}", std::process::id()));
        let mut shell = command(Path::new("sh"));
        shell.args(["-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"]);
        let mut child = spawn(&mut shell, &log).unwrap();
        while std::fs::read_to_string(&log).unwrap() != "up\n" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(end(&mut child, "TERM").await, Some(7));
        std::fs::remove_file(&log).unwrap();
    }
}
