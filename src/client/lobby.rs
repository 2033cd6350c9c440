//! Connections that have not proven themselves yet. Whoever reaches the port may open them, so they are few, and where
//! others wait they do not stay: a neighbour in the pod that opens many and says nothing keeps nobody out.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio::time::timeout;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

/// A Backstage with all its plugins opens some hundred at a time. Each may hold 16 KiB.
pub const NEWCOMERS_MAX: usize = 256;

/// How long a newcomer is left in peace although others wait: a login takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// All newcomers, of all doors.
#[derive(Debug)]
pub struct Lobby {
    places: Arc<Semaphore>,
    /// By number: the first came first.
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    by_number: BTreeMap<u64, (Instant, CancellationToken)>,
    next: u64,
}

/// A connection until it has proven itself, or is gone.
#[derive(Debug)]
pub struct Newcomer {
    lobby: Arc<Lobby>,
    number: u64,
    sent_away: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Default for Lobby {
    fn default() -> Self {
        Self::of(NEWCOMERS_MAX)
    }
}

impl Lobby {
    fn of(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), present: Mutex::default() }
    }

    /// Waits for a place. Where there is none, whoever came first is sent away when its time is over. Cancel-safe.
    pub async fn enter(self: &Arc<Self>) -> Newcomer {
        let place = || self.places.clone().acquire_owned();
        loop {
            let patience = self.first().unwrap_or_else(Instant::now) + PATIENCE;
            if let Ok(Ok(place)) = timeout_at(patience, place()).await {
                return self.take(place);
            }
            self.send_first_away();
            // It leaves when it is its turn to run.
            if let Ok(Ok(place)) = timeout(PATIENCE, place()).await {
                return self.take(place);
            }
        }
    }

    fn take(self: &Arc<Self>, place: OwnedSemaphorePermit) -> Newcomer {
        let sent_away = CancellationToken::new();
        let mut present = self.present();
        present.next += 1;
        let number = present.next;
        present.by_number.insert(number, (Instant::now(), sent_away.clone()));
        Newcomer { lobby: self.clone(), number, sent_away, _place: place }
    }

    fn first(&self) -> Option<Instant> {
        self.present().by_number.first_key_value().map(|(_, (since, _))| *since)
    }

    fn send_first_away(&self) {
        if let Some((_, (_, sent_away))) = self.present().by_number.pop_first() {
            sent_away.cancel();
        }
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Newcomer {
    /// Waits for what the newcomer does; `None` when its time is over.
    pub async fn hear<T>(&self, deadline: Instant, doing: impl Future<Output = T>) -> Option<T> {
        self.sent_away.run_until_cancelled(timeout_at(deadline, doing)).await?.ok()
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.lobby.present().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_makes_room_when_others_wait_and_not_before() {
        let lobby = Arc::new(Lobby::of(2));
        let begin = Instant::now();
        let hour = begin + Duration::from_secs(3600);
        let mut silent = Vec::new();
        for _ in 0..2 {
            let newcomer = lobby.enter().await;
            silent.push(tokio::spawn(async move { newcomer.hear(hour, pending::<()>()).await }));
        }
        tokio::time::sleep(2 * PATIENCE).await;
        assert!(silent.iter().all(|task| !task.is_finished()), "nobody waits");
        let third = lobby.enter().await;
        assert_eq!(begin.elapsed(), 2 * PATIENCE, "whose time is over leaves at once");
        assert_eq!(silent.remove(0).await.unwrap(), None, "the first one left");
        assert!(!silent[0].is_finished(), "one place was enough");
        let fourth = lobby.enter().await;
        assert_eq!(silent.remove(0).await.unwrap(), None);
        assert!(timeout(PATIENCE / 2, lobby.enter()).await.is_err(), "the others are young");
        drop(fourth);
        assert!(timeout(PATIENCE / 2, lobby.enter()).await.is_ok(), "a place came free");
        assert_eq!(third.hear(hour, async { 1 }).await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_the_hearing_too() {
        let newcomer = Arc::new(Lobby::default()).enter().await;
        assert_eq!(newcomer.hear(Instant::now() + PATIENCE, pending::<()>()).await, None);
    }
}
