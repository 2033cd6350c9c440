//! How an upstream is verified: policy in, a verified session out. Verified, or nothing.

pub mod certificate;
pub mod channel_binding;
pub mod connector;
pub mod error;
pub mod shown;
pub mod stream;
pub mod verifier;
