//! Replays what the fuzzers know: every file of `fuzz/corpus/<target>`, and some hundred mutations of each, through
//! the claims of its target.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic: that is how it speaks"
)]

use std::path::Path;

#[path = "../fuzz/claims/mod.rs"]
mod claims;

/// Mutations of the whole corpus of one target.
const MUTATIONS: u64 = 5_000;

#[test]
fn what_the_fuzzers_found_holds() -> std::io::Result<()> {
    for (target, claim) in claims::ALL {
        let inputs = corpus(target)?;
        for (name, input) in &inputs {
            announced(target, name, || claim(input));
        }
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        for number in 0..MUTATIONS {
            let input = dice.mutation(&inputs);
            announced(target, &format!("mutation {number}: {:?}", String::from_utf8_lossy(&input)), || {
                claim(&input)
            });
        }
    }
    Ok(())
}

/// Says which input it was, should `claim` panic.
fn announced(target: &str, name: &str, claim: impl FnOnce()) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(claim));
    assert!(outcome.is_ok(), "{target}: {name}");
}

/// The files of a target in the order of their names; at least one, or the directory is not where it should be.
fn corpus(target: &str) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        files.push((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?));
    }
    files.sort();
    assert_ne!(files.len(), 0, "no corpus for {target}");
    Ok(files)
}

/// Chance that falls the same way each time (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(drawn).expect("31 bits") % limit.max(1)
    }

    /// One input with some bytes changed, cut, doubled, or with a piece of another.
    fn mutation(&mut self, inputs: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut input = inputs[self.below(inputs.len())].1.clone();
        for _ in 0..=self.below(4) {
            let at = self.below(input.len());
            match self.below(4) {
                0 if !input.is_empty() => input[at] = u8::try_from(self.below(256)).expect("a byte"),
                1 => input.truncate(at),
                2 => {
                    let other = &inputs[self.below(inputs.len())].1;
                    let piece = self.piece(other);
                    input.splice(at..at, piece);
                }
                _ => {
                    let piece = self.piece(&input);
                    input.splice(at..at, piece);
                }
            }
        }
        input
    }

    /// Some bytes or, as often, some lines.
    fn piece(&mut self, of: &[u8]) -> Vec<u8> {
        let from = self.below(of.len());
        let rest = of.get(from..).unwrap_or_default();
        if self.below(2) == 0 {
            return rest[..self.below(rest.len().min(64))].to_vec();
        }
        let lines: Vec<&[u8]> =
            rest.split_inclusive(|&byte| byte == b'\n').skip(1).take(self.below(4) + 1).collect();
        lines.concat()
    }
}
