//! Sends CancelRequests, over the same verified TLS as everything else.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::server::connect::ConnectError;
use crate::server::connect::Dialer;
use crate::server::connect::Stage;
use crate::server::connect::cancel_request;

/// A server as those see it who want what it does cancelled.
pub struct CancelTarget {
    pub dialer: Arc<Dialer>,
    pub process_id: i32,
    peer: Option<SocketAddr>,
    secret_key: Vec<u8>,
    /// How many cancels have asked for it to be signalled.
    asked: AtomicU64,
    /// How many of them had asked when the last CancelRequest was sent. Held while one is sent, so that a
    /// flood of cancels opens one connection for each server at a time.
    served: Mutex<u64>,
}

/// How a cancel reached its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Sent,
    /// A CancelRequest that was sent after this one had come served both.
    Joined,
}

impl fmt::Debug for CancelTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} at {:?}", self.process_id, self.peer)
    }
}

impl CancelTarget {
    /// The backend of BackendKeyData, at the address that was dialled.
    #[must_use]
    pub fn new(dialer: Arc<Dialer>, peer: Option<SocketAddr>, process_id: i32, secret_key: Vec<u8>) -> Self {
        let (asked, served) = (AtomicU64::default(), Mutex::default());
        Self { dialer, process_id, peer, secret_key, asked, served }
    }

    /// Cancels what the server does, and waits until PostgreSQL has signalled it: then it closes the connection
    /// (ProcessStartupPacket, processCancelRequest).
    ///
    /// # Errors
    /// As [`ConnectError`], within the upstream's connect time-out.
    pub async fn signal(&self) -> Result<(), ConnectError> {
        let mut stage = Stage::Tcp;
        let deliver = async {
            let mut stream = self.dialer.secure(self.peer, &mut stage).await?.stream;
            stage = Stage::Startup;
            let failed = |error: std::io::Error| {
                ConnectError::refused(Stage::Startup, "08006", &format!("the cancel request failed: {error}"))
            };
            stream.write_all(&cancel_request(self.process_id, &self.secret_key)).await.map_err(failed)?;
            // PostgreSQL ends such a connection without close_notify: how it ends does not matter.
            match stream.read(&mut [0]).await {
                Ok(0) | Err(_) => Ok(()),
                // Nor would it say a word, so whoever does is not listened to.
                Ok(_) => Err(ConnectError::refused(stage, "08P01", "the server answered a cancel request")),
            }
        };
        let limit = self.dialer.upstream.connect_timeout;
        let delivered = timeout(limit, Box::pin(deliver)).await;
        delivered
            .unwrap_or_else(|_| Err(ConnectError::timed_out(stage, limit)))
            .map_err(|error| error.at(&self.dialer.upstream.name))
    }

    /// Has the server signalled, once for all who ask at the same time.
    ///
    /// # Errors
    /// As [`Self::signal`]. Who joined a request that failed is not told.
    pub async fn deliver(&self) -> Result<Delivery, ConnectError> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let mut served = self.served.lock().await;
        if *served >= number {
            return Ok(Delivery::Joined);
        }
        *served = self.asked.load(Ordering::Relaxed);
        self.signal().await?;
        Ok(Delivery::Sent)
    }
}
