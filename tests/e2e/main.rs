//! One binary: a real PostgreSQL that accepts TLS only, the real stagedoor process, real clients.
//! Each file is one behaviour, named after what an operator would call it.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    reason = "a test ends where its world is not as it must be, and says so"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests stand outside of the program: they read the clock and the environment"
)]
#![allow(
    unreachable_pub,
    dead_code,
    reason = "nothing leaves a test binary; the tests share what they stand on, and use what they need"
)]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks at the one case that it is about")]

mod support;

mod backstage;
mod cancel;
mod cli;
mod copy;
mod crowd;
mod drivers;
mod endings;
mod large;
mod leaks;
mod limits;
mod lost;
mod metrics;
mod parameters;
mod pins;
mod protocol;
mod random;
mod session_mode;
mod shutdown;
mod signals;
mod startup;
mod statements;
mod tokio_postgres_driver;
mod transactions;
mod upheaval;
