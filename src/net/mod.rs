//! Sockets: dialling, and streams that are plain or TLS.

pub mod dial;
pub mod stream;
