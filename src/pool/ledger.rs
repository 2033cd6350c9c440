//! The bookkeeping of one upstream: which servers are idle, how many there are, who waits and who is next.
//! Pure: `now` is an argument, and what is to be done comes back as a value.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use crate::pool::book::Book;
use crate::pool::book::Idle;
use crate::pool::book::Limits;
use crate::pool::book::Reaped;
use crate::session::handover::Fit;

/// How long a waiter of another database is passed over in favour of one of the same database, because a
/// server handed on costs nothing and one closed and opened anew costs a login.
const PATIENCE: Duration = Duration::from_millis(100);

/// After this long the first in the queue is served first, whatever it costs.
const PATIENCE_MAX: Duration = Duration::from_secs(1);

/// How soon a client comes back that has more to say: a server that has rested so long ends its pool's turn.
const PAUSE: Duration = Duration::from_millis(5);

/// A pool: one database and user of an upstream, and what its sessions begin with.
pub type PoolId = usize;

/// The place of one waiter in the queue.
pub type Ticket = u64;

/// What a client that wants a server gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Grant<S> {
    /// This server, which was idle or has just been given back.
    Server(S),
    /// The right to open one.
    Connect,
    /// The right to open one when this one, of another pool, has been closed.
    Replace(S),
}

/// Whether there was something to grant.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<S> {
    Granted(Grant<S>),
    Queued(Ticket),
}

/// How full the house is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub open: usize,
    pub idle: usize,
    pub waiting: usize,
}

/// All pools of one upstream under one budget.
#[derive(Debug)]
pub struct Ledger<S> {
    budget: usize,
    /// Servers that are open, being opened or being closed.
    open: usize,
    /// Few, and looked up with every lease.
    pools: BTreeMap<PoolId, Book<S>>,
    queue: VecDeque<Waiter>,
    next_ticket: Ticket,
    /// Who looks again earlier finds what was found last: nothing.
    looks_again: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    pool: PoolId,
    since: Instant,
}

/// A server that is given back.
#[derive(Debug)]
pub struct Returned<S> {
    pub server: S,
    pub fit: Fit,
    /// When its lifetime ends.
    pub expires: Instant,
}

impl<S> Ledger<S> {
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self {
            budget,
            open: 0,
            pools: BTreeMap::new(),
            queue: VecDeque::new(),
            next_ticket: 0,
            looks_again: None,
        }
    }

    /// Makes a pool known. Its id is the caller's.
    pub fn add(&mut self, pool: PoolId, limits: Limits) {
        self.pools.entry(pool).or_insert_with(|| Book::new(limits));
    }

    /// Forgets a pool that has neither servers nor waiters.
    pub fn remove(&mut self, pool: PoolId) {
        if self.count(pool) == Count::default() {
            self.pools.remove(&pool);
        }
    }

    /// Until `until` a login for `pool` is in vain. A pool that has servers does with those, and none is closed to
    /// open another; a pool that has none has one client try.
    pub fn hold(&mut self, pool: PoolId, until: Option<Instant>) {
        if let Some(book) = self.pools.get_mut(&pool) {
            book.held = until;
        }
    }

    /// A client wants a server of `pool`. Where none suits it, it may be given one that does not, to close it and
    /// open another in its place.
    pub fn request(&mut self, pool: PoolId, fit: &Fit, now: Instant) -> Request<S> {
        if let Some(server) = self.idle(pool, |book| book.take_ready(fit)) {
            return Request::Granted(Grant::Server(server));
        }
        let has_room = self.open < self.budget && self.may_grow(pool, now);
        if has_room
            && self.has_room_to_spare()
            && self.pools.get_mut(&pool).is_some_and(|book| book.misses_often(fit))
        {
            return Request::Granted(self.connect(pool));
        }
        if let Some(server) = self.idle(pool, |book| book.take_suited(fit)) {
            return Request::Granted(Grant::Server(server));
        }
        if has_room {
            return Request::Granted(self.connect(pool));
        }
        if !self.is_held(pool, now)
            && let Some(unsuited) = self.idle(pool, Book::take_oldest)
        {
            return Request::Granted(Grant::Server(unsuited));
        }
        if self.may_grow(pool, now)
            && self.is_next(pool, now)
            && let Some(grant) = self.room(pool, now)
        {
            return Request::Granted(grant);
        }
        self.next_ticket += 1;
        self.queue.push_back(Waiter { ticket: self.next_ticket, pool, since: now });
        Request::Queued(self.next_ticket)
    }

    /// A waiter gave up. Harmless where it has been served already.
    pub fn abandon(&mut self, ticket: Ticket) {
        self.queue.retain(|waiter| waiter.ticket != ticket);
    }

    /// A server comes back, clean. It goes to a waiter or rests.
    pub fn give_back(
        &mut self,
        pool: PoolId,
        returned: Returned<S>,
        now: Instant,
    ) -> Option<(Ticket, Grant<S>)> {
        let same = self.queue.iter().position(|waiter| waiter.pool == pool);
        let may_take = |waiter: &Waiter| {
            waiter.pool != pool && self.may_grow(waiter.pool, now) && !self.is_held(waiter.pool, now)
        };
        let other = self.queue.iter().position(may_take).filter(|_| !self.is_in_turn(pool, now));
        let (at, is_same) = match (same, other) {
            (None, None) => {
                if let Some(book) = self.pools.get_mut(&pool) {
                    let Returned { server, fit, expires } = returned;
                    book.idle.push(Idle { server, fit, since: now, expires });
                }
                return None;
            }
            (Some(same), None) => (same, true),
            (None, Some(other)) => (other, false),
            (Some(same), Some(other)) if other < same && self.is_urgent(other, pool, now) => (other, false),
            (Some(same), Some(_)) => (same, true),
        };
        let waiter = self.queue.remove(at)?;
        if is_same {
            return Some((waiter.ticket, Grant::Server(returned.server)));
        }
        self.move_slot(pool, waiter.pool);
        Some((waiter.ticket, Grant::Replace(returned.server)))
    }

    /// Looks again whether the first waiters can be served: what rested only for a moment when they came may have
    /// rested long enough by now. Waiters cause it, each for all.
    pub fn look_again(&mut self, now: Instant) -> Option<(Ticket, Grant<S>)> {
        if self.looks_again.is_some_and(|at| now < at) {
            return None;
        }
        for has_nothing in [true, false] {
            let may = |waiter: &Waiter| {
                (self.open_of(waiter.pool) == 0) == has_nothing && self.may_grow(waiter.pool, now)
            };
            let Some(at) = self.queue.iter().position(may) else { continue };
            let pool = self.queue.get(at)?.pool;
            if let Some(grant) = self.room(pool, now) {
                return self.queue.remove(at).map(|waiter| (waiter.ticket, grant));
            }
        }
        self.looks_again = Some(now + PAUSE);
        None
    }

    /// When a waiter should look again: as soon as a turn may end where its pool has nothing, and not many wait so
    /// before it.
    #[must_use]
    pub fn look_again_in(&self, ticket: Ticket, pool: PoolId) -> Duration {
        if self.open_of(pool) > 0 {
            return PATIENCE;
        }
        let have_nothing = self.queue.iter().filter(|waiter| self.open_of(waiter.pool) == 0);
        let is_near = have_nothing.take(self.budget).any(|waiter| waiter.ticket == ticket);
        if is_near { PAUSE } else { PATIENCE }
    }

    /// A server of `pool` has been opened: the login was no part of its turn.
    pub fn opened(&mut self, pool: PoolId, now: Instant) {
        if let Some(book) = self.pools.get_mut(&pool) {
            book.opened(now);
        }
    }

    /// A server is gone, or could not be opened: its place is free.
    pub fn closed(&mut self, pool: PoolId, now: Instant) -> Option<(Ticket, Grant<S>)> {
        self.open = self.open.saturating_sub(1);
        if let Some(book) = self.pools.get_mut(&pool) {
            book.shrink();
        }
        let at = self.queue.iter().position(|waiter| self.may_grow(waiter.pool, now))?;
        let next = self.queue.get(at)?.pool;
        let grant = self.room(next, now)?;
        self.queue.remove(at).map(|waiter| (waiter.ticket, grant))
    }

    /// Takes out every idle server that `is_over` names or that has rested or lived longer than it may.
    /// Their places stay taken until [`Ledger::closed`].
    pub fn reap(
        &mut self,
        now: Instant,
        mut is_over: impl FnMut(&mut S) -> bool,
    ) -> Vec<(PoolId, S, Reaped)> {
        let mut reaped = Vec::new();
        for (&pool, book) in &mut self.pools {
            reaped.extend(book.reap(now, &mut is_over).into_iter().map(|(server, why)| (pool, server, why)));
        }
        reaped
    }

    /// Lets no idle server live beyond `latest`, each a little less than the one before it.
    pub fn retire(&mut self, latest: Instant, step: Duration) {
        let idle = self.pools.values_mut().flat_map(|book| book.idle.iter_mut());
        for (at, idle) in (0_u32..).zip(idle) {
            let earlier = latest.checked_sub(step * at).unwrap_or(latest);
            idle.expires = idle.expires.min(earlier);
        }
    }

    #[must_use]
    pub fn count(&self, pool: PoolId) -> Count {
        let waiting = self.queue.iter().filter(|waiter| waiter.pool == pool).count();
        self.pools.get(&pool).map_or_else(Count::default, |book| Count {
            open: book.open,
            idle: book.idle.len(),
            waiting,
        })
    }

    /// Servers of all pools.
    #[must_use]
    pub const fn open(&self) -> usize {
        self.open
    }

    /// How long the head of the queue has waited.
    #[must_use]
    pub fn longest_wait(&self, now: Instant) -> Option<Duration> {
        self.queue.front().map(|waiter| now.duration_since(waiter.since))
    }

    fn idle(&mut self, pool: PoolId, take: impl FnOnce(&mut Book<S>) -> Option<S>) -> Option<S> {
        self.pools.get_mut(&pool).and_then(take)
    }

    fn open_of(&self, pool: PoolId) -> usize {
        self.pools.get(&pool).map_or(0, |book| book.open)
    }

    /// Whether a quarter of the budget is free.
    const fn has_room_to_spare(&self) -> bool {
        (self.budget - self.open) * 4 >= self.budget
    }

    fn is_in_turn(&self, pool: PoolId, now: Instant) -> bool {
        self.pools.get(&pool).is_some_and(|book| book.is_in_turn(now))
    }

    /// Whether nobody who waits would have to be passed over for a new place of `pool`.
    fn is_next(&self, pool: PoolId, now: Instant) -> bool {
        let has_nothing = self.open_of(pool) == 0;
        let comes_before = |waiter: &Waiter| {
            self.may_grow(waiter.pool, now) && (!has_nothing || self.open_of(waiter.pool) == 0)
        };
        !self.queue.iter().any(comes_before)
    }

    fn may_grow(&self, pool: PoolId, now: Instant) -> bool {
        let held = self.is_held(pool, now);
        self.pools
            .get(&pool)
            .is_some_and(|book| book.open < book.limits.servers_max && !(held && book.open > 0))
    }

    fn is_held(&self, pool: PoolId, now: Instant) -> bool {
        self.pools.get(&pool).and_then(|book| book.held).is_some_and(|until| now < until)
    }

    /// Whether the waiter at `at` is served by taking a server from the pool `from`, although one of its own
    /// waits: where its pool has nothing at all, where `from` has clearly more than its share, or where it was
    /// passed over for long.
    fn is_urgent(&self, at: usize, from: PoolId, now: Instant) -> bool {
        self.queue.get(at).is_some_and(|waiter| {
            let (own, other) = (self.open_of(waiter.pool), self.open_of(from));
            let waited = now.duration_since(waiter.since);
            own == 0 || (waited >= PATIENCE && other > own + 1) || waited >= PATIENCE_MAX
        })
    }

    /// A place for one more server of `pool`: inside the budget, or that of another pool's idle server. One
    /// that was used a moment ago is left alone, unless this pool has nothing at all and the other's turn is over: busy
    /// pools would only take it from each other, and pay a login each time.
    fn room(&mut self, pool: PoolId, now: Instant) -> Option<Grant<S>> {
        if self.open < self.budget {
            return Some(self.connect(pool));
        }
        if self.is_held(pool, now) {
            return None;
        }
        let has_nothing = self.open_of(pool) == 0;
        let must_rest = |from| match (has_nothing, self.is_in_turn(from, now)) {
            (true, false) => Duration::ZERO,
            (true, true) => PAUSE,
            (false, _) => PATIENCE,
        };
        let (&from, _) = self
            .pools
            .iter()
            .filter(|(id, _)| **id != pool)
            .filter_map(|(id, book)| Some((id, book.idle.first()?.since)))
            .filter(|(from, since)| now.duration_since(*since) >= must_rest(**from))
            .min_by_key(|(_, since)| *since)?;
        let server = self.pools.get_mut(&from)?.idle.remove(0).server;
        self.move_slot(from, pool);
        Some(Grant::Replace(server))
    }

    fn connect(&mut self, pool: PoolId) -> Grant<S> {
        self.open += 1;
        if let Some(book) = self.pools.get_mut(&pool) {
            book.grow(false);
        }
        Grant::Connect
    }

    fn move_slot(&mut self, from: PoolId, to: PoolId) {
        if let Some(book) = self.pools.get_mut(&from) {
            book.shrink();
        }
        if let Some(book) = self.pools.get_mut(&to) {
            book.grow(true);
        }
    }
}

#[cfg(test)]
mod crowd;
#[cfg(test)]
mod tests;
