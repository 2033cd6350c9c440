//! Waiting for a condition, never for a time.

use std::time::Duration;
use std::time::Instant;

/// How long anything may take on a busy machine before a test gives it up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `question` until it has an answer.
///
/// # Panics
/// With `what`, when there is none within `limit`.
pub fn until<T>(what: &str, limit: Duration, mut question: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Says how long a part of a test took, for who reads a slow run.
pub struct Stopwatch {
    what: String,
    begun: Instant,
}

impl Stopwatch {
    pub fn start(what: impl Into<String>) -> Self {
        Self { what: what.into(), begun: Instant::now() }
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        eprintln!("[{:>6.1}s] {}", self.begun.elapsed().as_secs_f64(), self.what);
    }
}
