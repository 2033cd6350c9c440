//! Clients that are busy all the time, and notice whatever is not as it should be.

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::raw::Raw;
use crate::support::raw::field;

/// Transactions of one client before it leaves and comes back.
const TRANSACTIONS: usize = 8;

/// Between two transactions of one client.
const PAUSE: Duration = Duration::from_millis(40);

/// Fifty clients, or as many as you like.
pub struct Crowd {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    transactions: AtomicUsize,
    complaints: Mutex<Vec<String>>,
}

impl Crowd {
    /// `size` clients that log in to `databases` with what they were told at their start.
    pub fn enter(size: usize, port: u16, databases: &[String], login: (&str, &str)) -> Self {
        let shared = Arc::new(Shared::default());
        let clients = databases.iter().cycle().take(size).map(|database| {
            let shared = shared.clone();
            let database = database.clone();
            let (user, password) = (login.0.to_owned(), login.1.to_owned());
            std::thread::spawn(move || {
                while !shared.over.load(Ordering::Relaxed) {
                    let life = || live(&shared, port, &database, (&user, &password));
                    let end = catch_unwind(AssertUnwindSafe(life));
                    if let Err(why) = end.unwrap_or_else(|_| Err("the connection broke".to_owned())) {
                        shared.complaints.lock().unwrap().push(why);
                        return;
                    }
                }
            })
        });
        Self { clients: clients.collect(), shared }
    }

    /// How many transactions were committed so far.
    pub fn transactions(&self) -> usize {
        self.shared.transactions.load(Ordering::Relaxed)
    }

    /// What went wrong so far.
    pub fn complaints(&self) -> Vec<String> {
        self.shared.complaints.lock().unwrap().clone()
    }

    /// Has everybody leave; what went wrong.
    pub fn leave(mut self) -> Vec<String> {
        self.shared.over.store(true, Ordering::Relaxed);
        for client in std::mem::take(&mut self.clients) {
            client.join().unwrap();
        }
        self.shared.complaints.lock().unwrap().clone()
    }
}

fn live(shared: &Shared, port: u16, database: &str, login: (&str, &str)) -> Result<(), String> {
    let told = |body: Vec<u8>| format!("login: {} {}", field(&body, b'C'), field(&body, b'M'));
    let mut client = Raw::login_as(port, database, login, &[]).map_err(told)?;
    for number in 0..TRANSACTIONS {
        let number = number.to_string();
        for (sql, expected) in [("BEGIN", ""), (&format!("SELECT {number}"), &number), ("COMMIT", "")] {
            let frames = client.ask(sql);
            let whole = frames.last().is_some_and(|(tag, _)| *tag == b'Z');
            let value = crate::support::raw::values(&frames);
            if !whole || value != expected {
                return Err(format!(
                    "{sql}: {value:?}, and the session {}",
                    if whole { "lives" } else { "ended" }
                ));
            }
        }
        shared.transactions.fetch_add(1, Ordering::Relaxed);
        if shared.over.load(Ordering::Relaxed) {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    client.send(&crate::support::raw::frame(b'X', b""));
    Ok(())
}
