//! A client cannot tell: the promise, executable. Random clients speak to toy servers, in one world each to its
//! own, in the other to fewer by the real core, and read the same. `SEED=7 cargo test --test model` tells one story,
//! `SEEDS=100000` looks further, and `STORY=file` tells the story in a file aloud.
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
#![allow(unreachable_pub, reason = "nothing leaves a test binary")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks at the one case that it is about")]

mod chance;
mod compare;
#[path = "../e2e/support/dice.rs"]
mod dice;
mod language;
mod pooled;
mod postgres;
mod script;
mod settings;
mod stories;

use crate::dice::number;

/// Stories that are told where nobody asks for more.
const SEEDS: u64 = 2000;

#[test]
fn whatever_clients_do_they_read_the_same_bytes_on_shared_servers() {
    if let Ok(path) = std::env::var("STORY") {
        let text = std::fs::read_to_string(path).expect("a story");
        let told = compare::tell(&script::Story { loud: true, ..script::read(&text) });
        return assert!(told.is_ok(), "{}", told.unwrap_err());
    }
    let seeds = number("SEED").map_or_else(|| 0..number("SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let mut failures = 0;
    for seed in seeds {
        let story = chance::story(seed);
        if let Err(wrong) = compare::tell(&story) {
            failures += 1;
            let short = compare::shrink(&story);
            let why = compare::tell(&short).expect_err("it fails");
            eprintln!("SEED={seed}: {wrong}\n\n{why}\n        {short}\n");
        }
        if failures >= number("FAILURES").unwrap_or(1_u64) {
            break;
        }
    }
    assert_eq!(failures, 0, "stories in which a client can tell");
}
