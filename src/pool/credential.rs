//! The password of one pool's user, as it is now, and what the server thinks of it.
//!
//! **When the server refuses a password that the configuration gives** (28P01), and that password stands in a file,
//! it is most likely being changed, and the server was told first. So the files are looked at, and whoever needs a new
//! server waits for another password, as it would for a failover: `acquireTimeout` at the most, then it is told what
//! PostgreSQL said. Clients that can be served by a server that is open already are served by it.
//! The refused password itself is tried again, for it may have been the server that was wrong; but by one client at
//! a time, after 1 s, 2 s, 4 s up to 30 s: nobody who counts wrong passwords must lock the user out for our sake.
//! A password from the environment stays what it is until the process ends: there PostgreSQL's words are passed on
//! at once.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::secret::Secret;
use crate::wire::refusal::Refusal;

/// Between two logins with a password that was refused: doubled each time.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The password of a user at an upstream.
#[derive(Debug)]
pub struct Credential {
    state: Mutex<State>,
    /// Counts what is worth to be told to those who wait.
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    password: Option<Secret>,
    /// Whether it stands in a file, which may say another one soon.
    rotates: bool,
    refused: Option<Refused>,
}

#[derive(Debug)]
struct Refused {
    /// What the server said.
    refusal: Refusal,
    /// When one login may be tried again.
    again: Instant,
    pause: Duration,
}

/// Whether a login is worth it just now.
#[derive(Debug)]
pub enum Turn {
    LogIn(Option<Secret>),
    /// Not before `until`, unless the password changes.
    Wait {
        until: Instant,
        refusal: Refusal,
    },
}

impl Credential {
    #[must_use]
    pub fn new(password: Option<Secret>, rotates: bool) -> Self {
        let state = State { password, rotates, refused: None };
        Self { state: Mutex::new(state), news: watch::Sender::default() }
    }

    /// A login begins, or it is not yet time for one.
    #[must_use]
    pub fn turn(&self) -> Turn {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(refused) = &mut state.refused {
            if now < refused.again {
                return Turn::Wait { until: refused.again, refusal: refused.refusal.clone() };
            }
            refused.put_off(now);
        }
        Turn::LogIn(state.password.clone())
    }

    /// The server took `password`.
    pub fn accepted(&self, password: Option<&Secret>) {
        let mut state = self.state();
        if state.password.as_ref() == password && state.refused.take().is_some() {
            self.news.send_modify(|count| *count += 1);
        }
    }

    /// The server refused `password`. Whether it is worth to wait for another one.
    pub fn refused(&self, password: Option<&Secret>, refusal: Refusal) -> bool {
        let mut state = self.state();
        if !state.rotates {
            return false;
        }
        if state.password.as_ref() != password {
            return true; // There is another one already.
        }
        match &mut state.refused {
            Some(refused) => refused.refusal = refusal,
            None => {
                let again = Instant::now() + PAUSE.0;
                state.refused = Some(Refused { refusal, again, pause: PAUSE.0 });
            }
        }
        true
    }

    /// What the server said to the password, and until when no login is tried.
    #[must_use]
    pub fn standing(&self) -> Option<(Instant, Refusal)> {
        self.state().refused.as_ref().map(|refused| (refused.again, refused.refusal.clone()))
    }

    /// The configuration says `password`, as before or anew.
    pub fn change(&self, password: Option<&Secret>, rotates: bool) {
        let mut state = self.state();
        state.rotates = rotates;
        if state.password.as_ref() != password {
            state.password = password.cloned();
            state.refused = None;
            self.news.send_modify(|count| *count += 1);
        }
    }

    /// Tells of another password, and of a server that takes this one after all. Ask for it before [`Self::turn`].
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refused {
    fn put_off(&mut self, now: Instant) {
        self.pause = (self.pause * 2).min(PAUSE.1);
        self.again = now + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn secret(text: &str) -> Option<Secret> {
        Some(Secret::new(text.to_owned()))
    }

    fn refusal() -> Refusal {
        Refusal::fatal("28P01", "password authentication failed")
    }

    fn may_log_in(credential: &Credential) -> bool {
        matches!(credential.turn(), Turn::LogIn(_))
    }

    #[test]
    fn what_the_environment_says_is_not_waited_for() {
        let credential = Credential::new(secret("one"), false);
        assert!(!credential.refused(secret("one").as_ref(), refusal()));
        assert!(may_log_in(&credential));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_password_is_tried_by_one_at_a_time_and_ever_more_rarely() {
        let credential = Credential::new(secret("one"), true);
        assert!(may_log_in(&credential) && may_log_in(&credential));
        let begin = Instant::now();
        let mut tries = Vec::new();
        for _ in 0..2 {
            assert!(credential.refused(secret("one").as_ref(), refusal()), "two were under way");
        }
        while tries.len() < 8 {
            advance(Duration::from_millis(100)).await;
            if may_log_in(&credential) {
                assert!(!may_log_in(&credential), "another one at the same time");
                assert!(credential.refused(secret("one").as_ref(), refusal()));
                tries.push(begin.elapsed().as_millis());
            }
        }
        assert_eq!(tries, [1_000, 3_000, 7_000, 15_000, 31_000, 61_000, 91_000, 121_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_password_is_tried_at_once_and_everybody_told() {
        let credential = Credential::new(secret("one"), true);
        assert!(credential.refused(secret("one").as_ref(), refusal()));
        let news = credential.news();
        credential.change(secret("one").as_ref(), true);
        assert!(!may_log_in(&credential) && !news.has_changed().unwrap(), "it is the same one");
        credential.change(secret("two").as_ref(), true);
        assert!(may_log_in(&credential) && news.has_changed().unwrap());
        assert!(credential.refused(secret("one").as_ref(), refusal()), "a login of before");
        assert!(may_log_in(&credential), "says nothing of the new one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_takes_it_after_all_ends_the_waiting() {
        let credential = Credential::new(secret("one"), true);
        assert!(credential.refused(secret("one").as_ref(), refusal()));
        let news = credential.news();
        credential.accepted(secret("one").as_ref());
        assert!(may_log_in(&credential) && news.has_changed().unwrap());
        assert!(credential.standing().is_none());
    }
}
