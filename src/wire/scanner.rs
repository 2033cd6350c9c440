//! Where frames begin, and which of them may pass unread.
//! Works on any chunking of the stream: a frame that passes is never held back until it is whole.

use crate::wire::frame::LengthError;
use crate::wire::frame::header;

/// The most bytes of a frame that are gathered before the core looks at it. A longer one is looked at by
/// its head and then streamed, so that no client makes us hold more than this.
pub const INSPECT_BYTES_MAX: usize = 256 * 1024;

/// What lies at the start of the bytes that were not scanned yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes may pass unread.
    Pass(usize),
    /// A frame of interest of `total` bytes; `whole` unless only its head is there.
    Inspect { tag: u8, total: usize, whole: bool },
    /// Nothing can be said before more bytes come.
    More,
}

/// Which tags the core wants to see.
pub type Interest = [bool; 256];

/// All tags but those in `pass`.
#[must_use]
pub const fn all_but(pass: &[u8]) -> Interest {
    let mut interest = [true; 256];
    let mut rest = pass;
    while let Some((&tag, next)) = rest.split_first() {
        set(&mut interest, tag);
        rest = next;
    }
    interest
}

#[expect(clippy::indexing_slicing, reason = "256 entries, indexed by a byte")]
const fn set(interest: &mut Interest, tag: u8) {
    interest[tag as usize] = false;
}

/// The position in one direction of a connection's stream.
#[derive(Clone, Copy, Debug)]
pub struct Scanner {
    interest: &'static Interest,
    /// Bytes of the present frame that are still to come and may pass unread.
    passing: usize,
}

impl Scanner {
    #[must_use]
    pub const fn new(interest: &'static Interest) -> Self {
        Self { interest, passing: 0 }
    }

    /// Whether the stream stands between two frames.
    #[must_use]
    pub const fn at_boundary(&self) -> bool {
        self.passing == 0
    }

    /// Looks at `bytes`, the unscanned part of the stream. `full` says that no more can be gathered
    /// behind them before some are consumed.
    ///
    /// # Errors
    /// A length that no frame can have.
    pub fn step(&mut self, bytes: &[u8], full: bool) -> Result<Step, LengthError> {
        let mut passed = self.passing.min(bytes.len());
        self.passing -= passed;
        while self.passing == 0 {
            let rest = bytes.get(passed..).unwrap_or_default();
            let (tag, total) = match header(rest) {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(_) if passed > 0 => break, // What stands before it passes first, as it does in any chunking.
                Err(error) => return Err(error),
            };
            if self.interest.get(usize::from(tag)).copied().unwrap_or(true) {
                if passed > 0 {
                    break;
                }
                let whole = rest.len() >= total;
                if !whole && !full {
                    return Ok(Step::More);
                }
                return Ok(Step::Inspect { tag, total, whole });
            }
            let here = total.min(rest.len());
            passed += here;
            self.passing = total - here;
        }
        Ok(if passed > 0 { Step::Pass(passed) } else { Step::More })
    }

    /// After `Inspect { whole: false }`: the rest of that frame passes unread.
    pub const fn pass_rest(&mut self, bytes: usize) {
        self.passing = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static INTEREST: Interest = all_but(b"D");

    fn frame(tag: u8, body: usize) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&u32::try_from(body + 4).unwrap().to_be_bytes());
        bytes.resize(body + 5, b'x');
        bytes
    }

    /// Feeds `stream` in chunks of `size` and tells which tags were inspected and how much passed.
    fn scan(stream: &[u8], size: usize) -> (Vec<u8>, usize) {
        let mut scanner = Scanner::new(&INTEREST);
        let (mut seen, mut passed, mut at, mut filled) = (Vec::new(), 0, 0, 0);
        loop {
            match scanner.step(&stream[at..filled], false).unwrap() {
                Step::Pass(n) => {
                    passed += n;
                    at += n;
                }
                Step::Inspect { tag, total, whole } => {
                    assert!(whole);
                    seen.push(tag);
                    at += total;
                }
                Step::More if filled == stream.len() => break,
                Step::More => filled = stream.len().min(filled + size),
            }
        }
        assert_eq!(at, stream.len());
        (seen, passed)
    }

    #[test]
    fn any_chunking_gives_the_same_frames() {
        let stream =
            [frame(b'T', 30), frame(b'D', 500), frame(b'D', 0), frame(b'C', 9), frame(b'Z', 1)].concat();
        let expected = scan(&stream, stream.len());
        assert_eq!(expected, (b"TCZ".to_vec(), 510));
        for size in 1..stream.len() {
            assert_eq!(scan(&stream, size), expected, "chunks of {size}");
        }
    }

    #[test]
    fn a_frame_that_cannot_be_gathered_is_seen_by_its_head() {
        let mut scanner = Scanner::new(&INTEREST);
        let stream = frame(b'Q', 1000);
        assert_eq!(scanner.step(&stream[..100], false), Ok(Step::More));
        assert_eq!(
            scanner.step(&stream[..100], true),
            Ok(Step::Inspect { tag: b'Q', total: 1005, whole: false })
        );
        scanner.pass_rest(905);
        assert_eq!(scanner.step(&stream[100..], false), Ok(Step::Pass(905)));
        assert!(scanner.at_boundary());
    }

    #[test]
    fn impossible_lengths_are_errors() {
        for length in [0_u32, 3, 0x4000_0000, u32::MAX] {
            let mut bytes = vec![b'Q'];
            bytes.extend_from_slice(&length.to_be_bytes());
            assert!(Scanner::new(&INTEREST).step(&bytes, false).is_err(), "{length}");
        }
    }
}
