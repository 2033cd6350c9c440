//! Replays what the fuzzer of our side of a start-up knows, and every cut of it at every pace.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic: that is how it speaks"
)]

use std::path::Path;

#[path = "../fuzz/claims/server_startup.rs"]
mod claims;

#[test]
fn whatever_a_server_says_it_hears_and_does_no_more_than_it_may() -> std::io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/server_startup");
    let mut files = 0;
    for entry in std::fs::read_dir(directory)? {
        let input = std::fs::read(entry?.path())?;
        claims::server_startup(&input);
        for policy in 0..=u8::MAX {
            for pace in [1, 7, 255] {
                claims::server_startup(&[&[policy, pace], input.get(2..).unwrap_or_default()].concat());
            }
        }
        for cut in 2..input.len() {
            claims::server_startup(&input[..cut]);
            // A byte that is another one, at each place.
            let mut bent = input.clone();
            bent[cut] ^= 0x55;
            claims::server_startup(&bent);
        }
        files += 1;
    }
    assert!(files >= 10, "no corpus");
    Ok(())
}
