//! What the tests stand on.

pub mod crowd;
pub mod front;
pub mod mount;
pub mod pki;
pub mod postgres;
pub mod raw;
pub mod signer;
pub mod stagedoor;
pub mod wait;
