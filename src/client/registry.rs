//! Who is here: the process ids and keys that we gave to clients, and what each of them points at just now.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;
use thiserror::Error;
use tokio::sync::Notify;

use crate::server::connection::CancelAddress;
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
    aim: Mutex<Aim>,
    /// The last cancel that was under way is done.
    settled: Notify,
    /// Somebody cancelled while the client was waiting for a server.
    pub cancelled: Notify,
}

/// What a cancel of this client would hit.
#[derive(Debug, Default)]
struct Aim {
    target: Target,
    /// Cancels under way to the present server. It is not released before they are done, so that a late one
    /// never hits the next client.
    under_way: usize,
}

#[derive(Clone, Debug, Default)]
enum Target {
    #[default]
    Resting,
    Waiting,
    Leased(CancelAddress),
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
        let slot = Arc::new(Slot {
            process_id,
            secret_key,
            aim: Mutex::default(),
            settled: Notify::new(),
            cancelled: Notify::new(),
        });
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

impl Slot {
    fn aim(&self) -> MutexGuard<'_, Aim> {
        self.aim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client waits for a server.
    pub fn wait(&self) {
        self.aim().target = Target::Waiting;
    }

    /// The client holds this server.
    pub fn lease(&self, address: &CancelAddress) {
        self.aim().target = Target::Leased(address.clone());
    }

    /// The client holds nothing. Waits until no cancel is under way to the server it held.
    pub async fn rest(&self) {
        loop {
            let settled = self.settled.notified();
            {
                let mut aim = self.aim();
                aim.target = Target::Resting;
                if aim.under_way == 0 {
                    return;
                }
            }
            settled.await;
        }
    }

    /// Takes aim at what the client does now. While the value lives, its server stays with it.
    #[must_use]
    pub fn take_aim(self: &Arc<Self>) -> Aimed {
        let mut aim = self.aim();
        let address = match &aim.target {
            Target::Leased(address) => address.clone(),
            Target::Waiting => {
                self.cancelled.notify_waiters();
                return Aimed::Waiting;
            }
            Target::Resting => return Aimed::Resting,
        };
        aim.under_way += 1;
        Aimed::Server { address, hold: Hold(self.clone()) }
    }
}

/// What a cancel found.
#[derive(Debug)]
pub enum Aimed {
    /// Nothing to cancel, as on a backend that is idle.
    Resting,
    /// It waited for a server, and has been told to stop.
    Waiting,
    Server {
        address: CancelAddress,
        hold: Hold,
    },
}

/// Keeps a client on its server while a cancel is under way.
#[derive(Debug)]
pub struct Hold(Arc<Slot>);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut aim = self.0.aim();
        aim.under_way = aim.under_way.saturating_sub(1);
        if aim.under_way == 0 {
            self.0.settled.notify_waiters();
        }
    }
}

/// Why no key could be made.
#[derive(Debug, Error)]
#[error("the system has no randomness to give")]
pub struct NoRandomness;
