//! A child process whose every line is kept, and that never outlives the tests.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::deadline::until;

/// What a process has said so far on stdout and stderr.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<String>>);

impl Log {
    pub fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    /// The last lines, for a failure's message.
    pub fn tail(&self, count: usize) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    fn follow(&self, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = self.clone();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(lines.read_until(b'\n', &mut line), Ok(count) if count > 0) {
                log.0.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        })
    }
}

/// A running process.
pub struct Process {
    name: String,
    child: Child,
    pub stdout: Log,
    pub stderr: Log,
    followers: Vec<JoinHandle<()>>,
    ended: Option<ExitStatus>,
    _guard: Guard,
}

impl Process {
    /// # Panics
    /// When the program cannot be started at all.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {command:?}: {error}"));
        let (stdout, stderr) = (Log::default(), Log::default());
        let followers = vec![
            stdout.follow(child.stdout.take().expect("stdout is piped")),
            stderr.follow(child.stderr.take().expect("stderr is piped")),
        ];
        let guard = Guard::new(&format!("kill -9 {}", child.id()));
        Self { name: name.into(), child, stdout, stderr, followers, ended: None, _guard: guard }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `signal` as `kill` knows it: `TERM`, `INT`, `QUIT`, `HUP`, `KILL`.
    pub fn signal(&mut self, signal: &str) {
        if self.exited().is_none() {
            kill(self.pid(), signal);
        }
    }

    /// How it ended, or `None` while it runs.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("waiting for a child of ours");
        }
        self.ended
    }

    /// Waits until it has ended by itself, and its last line has been read.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let name = self.name.clone();
        let status = until(&format!("the end of {name}"), limit, || self.exited());
        for follower in self.followers.drain(..) {
            follower.join().expect("reading a child's output");
        }
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal("KILL");
        if self.ended.is_none() {
            drop(self.child.wait());
        }
    }
}

/// Sends `signal` to one process, by its id.
pub fn kill(pid: u32, signal: &str) {
    let sent = Command::new("kill").args(["-s", signal, &pid.to_string()]).stderr(Stdio::null()).status();
    assert!(sent.is_ok(), "kill is missing on this machine");
}

/// Runs `command` to its end, with a limit.
///
/// # Panics
/// With all that it said, when it fails or takes too long.
pub fn run(name: &str, command: &mut Command, limit: Duration) -> String {
    let mut process = Process::start(name, command);
    let status = process.wait(limit);
    let (stdout, stderr) = (process.stdout.text(), process.stderr.text());
    assert!(status.success(), "{name}: {status}\n{command:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
    stdout
}

/// Runs a shell command when this process dies without having dropped the guard: statics are never dropped,
/// and a test run may be killed. It waits for the end of a pipe, which the kernel closes whatever happens.
pub struct Guard {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    pub fn new(last_words: &str) -> Self {
        let script = format!("read -r word; [ \"$word\" = done ] || {{ {last_words}; }} 2>/dev/null");
        let mut shell = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        let pipe = shell.stdin.take();
        Self { shell, pipe }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            drop(pipe.write_all(b"done\n"));
        }
        drop(self.shell.wait());
    }
}
