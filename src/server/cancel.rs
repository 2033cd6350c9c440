//! Sends a CancelRequest, over the same verified TLS as everything else.

use std::net::SocketAddr;

use tokio::time::timeout;

use crate::server::connect::ConnectError;
use crate::server::connect::Dialer;
use crate::server::connect::Stage;
use crate::server::connect::cancel_request;

/// Cancels what the backend `process_id` at `peer` does, and waits until PostgreSQL has signalled it: then it
/// closes the connection (ProcessStartupPacket, processCancelRequest).
///
/// # Errors
/// As [`ConnectError`], within the upstream's connect time-out.
pub async fn cancel(
    dialer: &Dialer,
    peer: Option<SocketAddr>,
    process_id: i32,
    secret_key: &[u8],
) -> Result<(), ConnectError> {
    let mut stage = Stage::Tcp;
    let deliver = async {
        let mut stream = dialer.secure(peer, &mut stage).await?.stream;
        stage = Stage::Startup;
        let failed = |error: std::io::Error| {
            ConnectError::refused(Stage::Startup, "08006", &format!("the cancel request failed: {error}"))
        };
        stream.write_all(&cancel_request(process_id, secret_key)).await.map_err(failed)?;
        // PostgreSQL ends such a connection without close_notify: how it ends does not matter.
        match stream.read(&mut [0]).await {
            Ok(0) | Err(_) => Ok(()),
            // Nor would it say a word, so whoever does is not listened to.
            Ok(_) => Err(ConnectError::refused(stage, "08P01", "the server answered a cancel request")),
        }
    };
    let limit = dialer.upstream.connect_timeout;
    let delivered = timeout(limit, deliver).await;
    delivered
        .unwrap_or_else(|_| Err(ConnectError::timed_out(stage, limit)))
        .map_err(|error| error.at(&dialer.upstream.name))
}
