//! Who is here: the process ids and keys that we gave to clients.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;
use thiserror::Error;

use crate::client::aim::Aim;
use crate::wire::startup::Startup;

/// No backend of PostgreSQL has a process id so high (PID_MAX_LIMIT is 2^22), so ours can be told apart.
const VIRTUAL_PID_MIN: i32 = 1 << 30;

/// All clients that have logged in.
#[derive(Debug, Default)]
pub struct Registry {
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    by_pid: HashMap<i32, Arc<Slot>>,
    /// Counts up and wraps, so that a process id is not used again soon.
    last: i32,
}

/// One client, as others may find it.
#[derive(Debug)]
pub struct Slot {
    pub process_id: i32,
    secret_key: Vec<u8>,
    pub aim: Arc<Aim>,
}

impl Registry {
    /// Registers a client and gives it a process id and a key as long as its protocol allows.
    ///
    /// # Errors
    /// Where the system has no randomness.
    pub fn register(self: &Arc<Self>, startup: &Startup) -> Result<Registered, NoRandomness> {
        let mut secret_key = vec![0; if startup.minor >= 2 { 32 } else { 4 }];
        rand::fill(&mut secret_key).map_err(|_| NoRandomness)?;
        let mut slots = self.slots();
        let process_id = slots.free_pid();
        let slot = Arc::new(Slot { process_id, secret_key, aim: Arc::default() });
        slots.by_pid.insert(process_id, slot.clone());
        Ok(Registered { slot, registry: self.clone() })
    }

    /// The client with this process id and key. The comparison takes as long for a wrong key as for the right one.
    #[must_use]
    pub fn find(&self, process_id: i32, secret_key: &[u8]) -> Option<Arc<Slot>> {
        let slot = self.get(process_id)?;
        verify_slices_are_equal(&slot.secret_key, secret_key).ok()?;
        Some(slot)
    }

    /// The client with this process id.
    #[must_use]
    pub fn get(&self, process_id: i32) -> Option<Arc<Slot>> {
        self.slots().by_pid.get(&process_id).cloned()
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.slots().by_pid.len()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    /// Ends, because there are far more process ids than clients may be.
    fn free_pid(&mut self) -> i32 {
        loop {
            self.last = if self.last < VIRTUAL_PID_MIN || self.last == i32::MAX {
                VIRTUAL_PID_MIN
            } else {
                self.last + 1
            };
            if !self.by_pid.contains_key(&self.last) {
                return self.last;
            }
        }
    }
}

/// A registration; dropped, the client is forgotten.
#[derive(Debug)]
pub struct Registered {
    pub slot: Arc<Slot>,
    registry: Arc<Registry>,
}

impl Registered {
    #[must_use]
    pub fn secret_key(&self) -> &[u8] {
        &self.slot.secret_key
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.slots().by_pid.remove(&self.slot.process_id);
    }
}

/// Why no key could be made.
#[derive(Debug, Error)]
#[error("the system has no randomness to give")]
pub struct NoRandomness;
