//! What the tests stand on.

pub mod front;
pub mod pki;
pub mod postgres;
pub mod raw;
pub mod stagedoor;
pub mod wait;
