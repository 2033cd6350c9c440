//! Which client holds which backend: PostgreSQL tells the process id of whoever sent a notification, and clients
//! know each other by the ids that we gave them.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering;

/// The most servers that are gone and remembered: who listens may hear late what was sent from one, when its own
/// transaction is over. Few, because PostgreSQL gives process ids again.
const GONE_MAX: usize = 256;

/// The servers of one upstream by process id, each with the id of the client that took it last.
#[derive(Debug, Default)]
pub struct Holders {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Process ids of clients are positive: 0 is nobody.
    by_pid: HashMap<i32, Arc<AtomicI32>>,
    /// Those of `by_pid` that are gone, the oldest first.
    gone: VecDeque<(i32, Arc<AtomicI32>)>,
}

impl Holders {
    /// A new server, and where it is written who takes it: that is done with each lease.
    pub(crate) fn enter(&self, pid: i32) -> Arc<AtomicI32> {
        let holder = Arc::default();
        self.known().by_pid.insert(pid, Arc::clone(&holder));
        holder
    }

    /// The client that holds the server `pid`, or held it last; `None` where it is none of ours.
    #[must_use]
    pub fn of(&self, pid: i32) -> Option<i32> {
        let holder = self.known().by_pid.get(&pid)?.load(Ordering::Relaxed);
        (holder != 0).then_some(holder)
    }

    /// The server of this entry is gone. Another may have its process id by now.
    pub(crate) fn leave(&self, pid: i32, entry: &Arc<AtomicI32>) {
        let mut known = self.known();
        let Known { by_pid, gone } = &mut *known;
        gone.push_back((pid, Arc::clone(entry)));
        if gone.len() > GONE_MAX
            && let Some((pid, oldest)) = gone.pop_front()
            && by_pid.get(&pid).is_some_and(|known| Arc::ptr_eq(known, &oldest))
        {
            by_pid.remove(&pid);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_holder_is_known_for_a_while_after_the_server_is_gone() {
        let holders = Holders::default();
        let entry = holders.enter(7);
        assert_eq!(holders.of(7), None, "nobody has taken it yet");
        entry.store(1 << 30, Ordering::Relaxed);
        entry.store((1 << 30) + 1, Ordering::Relaxed);
        holders.leave(7, &entry);
        assert_eq!(holders.of(7), Some((1 << 30) + 1));
        let next = holders.enter(7);
        next.store(1 << 30, Ordering::Relaxed);
        for _ in 0..GONE_MAX {
            let other = holders.enter(8);
            holders.leave(8, &other);
        }
        assert_eq!(holders.of(7), Some(1 << 30), "another has its process id");
        holders.leave(7, &next);
        for _ in 0..GONE_MAX {
            holders.leave(8, &next);
        }
        assert_eq!(holders.of(7), None);
        assert_eq!(holders.known().gone.len(), GONE_MAX);
    }
}
