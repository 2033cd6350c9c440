//! Which client holds which backend: PostgreSQL tells the process id of whoever sent a notification, and clients
//! know each other by the ids that we gave them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering;

/// The servers of one upstream by process id, each with the id of the client that took it last.
#[derive(Debug, Default)]
pub struct Holders {
    /// Process ids of clients are positive: 0 is nobody.
    by_pid: Mutex<HashMap<i32, Arc<AtomicI32>>>,
}

impl Holders {
    /// A new server, and where it is written who takes it: that is done with each lease.
    pub(crate) fn enter(&self, pid: i32) -> Arc<AtomicI32> {
        let holder = Arc::default();
        self.by_pid().insert(pid, Arc::clone(&holder));
        holder
    }

    /// The client that holds the server `pid`, or held it last; `None` where it is none of ours.
    #[must_use]
    pub fn of(&self, pid: i32) -> Option<i32> {
        let holder = self.by_pid().get(&pid)?.load(Ordering::Relaxed);
        (holder != 0).then_some(holder)
    }

    /// The server of this entry is gone. Another may have its process id by now.
    pub(crate) fn forget(&self, pid: i32, entry: &Arc<AtomicI32>) {
        let mut by_pid = self.by_pid();
        if by_pid.get(&pid).is_some_and(|known| Arc::ptr_eq(known, entry)) {
            by_pid.remove(&pid);
        }
    }

    fn by_pid(&self) -> MutexGuard<'_, HashMap<i32, Arc<AtomicI32>>> {
        self.by_pid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_holder_is_known_until_the_server_is_gone() {
        let holders = Holders::default();
        let entry = holders.enter(7);
        assert_eq!(holders.of(7), None, "nobody has taken it yet");
        entry.store(1 << 30, Ordering::Relaxed);
        entry.store((1 << 30) + 1, Ordering::Relaxed);
        assert_eq!(holders.of(7), Some((1 << 30) + 1));
        let next = holders.enter(7);
        holders.forget(7, &entry);
        next.store(1 << 30, Ordering::Relaxed);
        assert_eq!(holders.of(7), Some(1 << 30), "another has its process id");
        holders.forget(7, &next);
        assert_eq!(holders.of(7), None);
    }
}
