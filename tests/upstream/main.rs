//! What a server may do to us, and what happens then: verified, or nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test ends where it cannot go on"
)]
#![allow(unreachable_pub, dead_code, reason = "the tests share what they stand on, and use what they need")]

mod binding;
mod certificates;
mod check;
mod direct;
mod hostile;
mod local;
mod network;
mod passwords;
mod postgres;
mod recorded;
mod reload;
mod rotation;
mod scram;
mod scripted;
mod support;
