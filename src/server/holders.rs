//! Which client holds which backend: PostgreSQL tells the process id of whoever sent a notification, and clients
//! know each other by the ids that we gave them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

/// The servers of one upstream by process id, each with the id of the client that took it last.
#[derive(Debug, Default)]
pub struct Holders {
    by_pid: Mutex<HashMap<i32, i32>>,
}

impl Holders {
    /// The client `holder` takes the server `pid`.
    pub fn hold(&self, pid: i32, holder: i32) {
        self.by_pid().insert(pid, holder);
    }

    /// The client that holds the server `pid`, or held it last; `None` where it is none of ours.
    #[must_use]
    pub fn of(&self, pid: i32) -> Option<i32> {
        self.by_pid().get(&pid).copied()
    }

    /// The server is gone.
    pub fn forget(&self, pid: i32) {
        self.by_pid().remove(&pid);
    }

    fn by_pid(&self) -> MutexGuard<'_, HashMap<i32, i32>> {
        self.by_pid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_holder_is_known_until_the_server_is_gone() {
        let holders = Holders::default();
        holders.hold(7, 1 << 30);
        holders.hold(7, (1 << 30) + 1);
        assert_eq!(holders.of(7), Some((1 << 30) + 1));
        holders.forget(7);
        assert_eq!(holders.of(7), None);
    }
}
