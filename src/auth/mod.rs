//! Who may come in, and how we get in. Pure: messages in, messages out.

pub mod exchange;
pub mod prover;
pub mod verifier;
