//! The page of one pool in the ledger: its servers that rest, and how many there are. Pure, as the ledger is.

use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;

use crate::session::handover::Fit;

/// How long a pool keeps the place that it took from another when it had nothing, while its clients come back:
/// each change of hands costs a login, and one for each statement would be all that is done.
pub(crate) const TURN: Duration = Duration::from_millis(100);

/// Settings that needed a hand-over so often in a row get one more server, where there is room to spare.
pub(crate) const MISSES_MAX: u8 = 2;

/// For so many settings of a pool misses are counted: more than there can be servers for.
const MISSED_MAX: usize = 256;

/// Limits of one pool.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub servers_max: usize,
    pub idle_min: usize,
    pub idle_timeout: Duration,
}

/// The servers of one pool.
#[derive(Debug)]
pub(crate) struct Book<S> {
    pub(crate) limits: Limits,
    pub(crate) open: usize,
    turn: Turn,
    /// Until then the server takes no login for this pool.
    pub(crate) held: Option<Instant>,
    /// How often in a row no idle server had these settings, by their number.
    misses: HashMap<u64, u8>,
    /// The one that was used last is at the end, and is used first.
    pub(crate) idle: Vec<Idle<S>>,
}

/// The time for which a pool that had nothing keeps the place that it took from another.
#[derive(Clone, Copy, Debug, Default)]
enum Turn {
    #[default]
    None,
    /// It begins when the login is done.
    Begins,
    Ends(Instant),
}

/// A server that rests.
#[derive(Debug)]
pub(crate) struct Idle<S> {
    pub(crate) server: S,
    pub(crate) fit: Fit,
    pub(crate) since: Instant,
    pub(crate) expires: Instant,
}

/// Why an idle server was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    Dead,
    Lifetime,
    Idle,
}

impl<S> Book<S> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, open: 0, turn: Turn::None, held: None, misses: HashMap::new(), idle: Vec::new() }
    }

    /// It gets one more place, which it has taken from another pool or not.
    pub(crate) const fn grow(&mut self, taken: bool) {
        if self.open == 0 {
            self.turn = if taken { Turn::Begins } else { Turn::None };
        }
        self.open += 1;
    }

    pub(crate) const fn shrink(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// A server has been opened.
    pub(crate) fn opened(&mut self, now: Instant) {
        if matches!(self.turn, Turn::Begins) {
            self.turn = Turn::Ends(now + TURN);
        }
    }

    pub(crate) fn is_in_turn(&self, now: Instant) -> bool {
        match self.turn {
            Turn::None => false,
            Turn::Begins => true,
            Turn::Ends(end) => now < end,
        }
    }

    /// The newest idle server that has all settings already.
    pub(crate) fn take_ready(&mut self, fit: &Fit) -> Option<S> {
        let speaks = |idle: &Idle<S>| fit.allows(&idle.fit) && idle.fit.state == fit.state;
        let named = |idle: &Idle<S>| speaks(idle) && idle.fit.name == fit.name;
        let at = self.idle.iter().rposition(named).or_else(|| self.idle.iter().rposition(speaks))?;
        if !self.misses.is_empty() {
            self.misses.remove(&fit.state);
        }
        Some(self.idle.remove(at).server)
    }

    /// No idle server has these settings. Tells whether that has been so too often.
    pub(crate) fn misses_often(&mut self, fit: &Fit) -> bool {
        if self.misses.len() >= MISSED_MAX {
            self.misses.clear();
        }
        let misses = self.misses.entry(fit.state).or_default();
        *misses = misses.saturating_add(1);
        *misses > MISSES_MAX && self.misses.remove(&fit.state).is_some()
    }

    /// The one among those that suit which has rested longest: the others are more likely to be what somebody will
    /// want.
    pub(crate) fn take_suited(&mut self, fit: &Fit) -> Option<S> {
        let suits = |idle: &Idle<S>| fit.allows(&idle.fit);
        let named = |idle: &Idle<S>| suits(idle) && idle.fit.name == fit.name;
        let at = self.idle.iter().position(named).or_else(|| self.idle.iter().position(suits))?;
        Some(self.idle.remove(at).server)
    }

    pub(crate) fn take_oldest(&mut self) -> Option<S> {
        (!self.idle.is_empty()).then(|| self.idle.remove(0).server)
    }

    /// Takes out every idle server that `is_over` names or that has rested or lived longer than it may.
    pub(crate) fn reap(
        &mut self,
        now: Instant,
        is_over: &mut impl FnMut(&mut S) -> bool,
    ) -> Vec<(S, Reaped)> {
        let mut rest = self.idle.len();
        let (limit, idle_min) = (self.limits.idle_timeout, self.limits.idle_min);
        let mut why = |idle: &mut Idle<S>| {
            let why = if is_over(&mut idle.server) {
                Reaped::Dead
            } else if idle.expires <= now {
                Reaped::Lifetime
            } else if rest > idle_min && limit < now.duration_since(idle.since) {
                Reaped::Idle
            } else {
                return None;
            };
            rest -= 1;
            Some(why)
        };
        let (mut reaped, mut kept) = (Vec::new(), Vec::with_capacity(self.idle.len()));
        for mut idle in self.idle.drain(..) {
            match why(&mut idle) {
                Some(why) => reaped.push((idle.server, why)),
                None => kept.push(idle),
            }
        }
        self.idle = kept;
        reaped
    }
}
