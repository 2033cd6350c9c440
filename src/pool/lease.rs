//! One client's right to one server.

use std::sync::Arc;

use crate::pool::checkout::Pool;
use crate::server::connection::Server;

/// A place in the budget. Dropped without further ado it is free again, and its server is closed: forgetting
/// costs a connection, never a leak between clients.
#[derive(Debug)]
pub(crate) struct Place {
    pool: Option<Arc<Pool>>,
}

impl Place {
    pub(crate) const fn new(pool: Arc<Pool>) -> Self {
        Self { pool: Some(pool) }
    }

    /// The server goes on living: its place stays taken.
    pub(crate) fn keep(mut self) -> Option<Arc<Pool>> {
        self.pool.take()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.upstream.freed(&pool);
        }
    }
}

/// A server in the hands of one client.
#[derive(Debug)]
pub struct Lease {
    pub server: Box<Server>,
    place: Place,
}

impl Lease {
    pub(crate) fn new(server: Box<Server>, place: Place) -> Self {
        Self { server, place }
    }

    /// Gives a clean server back: to the next client that waits, or to rest.
    pub fn release(self) {
        if let Some(pool) = self.place.keep() {
            pool.upstream.give_back(&pool, self.server);
        }
    }

    /// Closes the server. `reason` is the label of `stagedoor_server_connections_closed_total`.
    pub fn discard(self, reason: &'static str) {
        if let Some(pool) = self.place.keep() {
            drop(pool.upstream.bury(&pool, self.server, reason));
        }
    }

    /// As [`Self::discard`], and waits until PostgreSQL has ended the session and all that it held is free, or has taken too
    /// long for that.
    pub async fn close(self, reason: &'static str) {
        if let Some(pool) = self.place.keep() {
            let _ = pool.upstream.bury(&pool, self.server, reason).await; // Nothing is sent: it is dropped.
        }
    }
}
