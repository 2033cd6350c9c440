//! The frame scanner and the flow behind it: however a stream is cut, the same frames are seen, and what goes on
//! is what was decided.

use stagedoor::wire::flow::Flow;
use stagedoor::wire::frame::LengthError;
use stagedoor::wire::frame::header;
use stagedoor::wire::scanner::Interest;
use stagedoor::wire::scanner::Scanner;
use stagedoor::wire::scanner::Step;
use stagedoor::wire::scanner::all_but;

static INTEREST: Interest = all_but(b"Dd");

/// What a stream holds: the frames of interest with their total length, and what goes on if each of these gets a
/// mark before it and every second one is left out.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    frames: Vec<(u8, usize)>,
    sent: Vec<u8>,
    error: Option<LengthError>,
}

const MARK: &[u8] = b"<mark>";

/// The first three bytes say how the rest, which is the stream, comes in and goes out.
pub(super) fn scanner(input: &[u8]) {
    let Some((&[chunk, window, drain], stream)) = input.split_first_chunk::<3>() else { return };
    let expected = expected(stream);
    let chunk = usize::from(chunk) + 1;
    let window = usize::from(window) + 8;
    assert_eq!(seen(stream, stream.len().max(1), usize::MAX, usize::MAX), expected, "in one piece");
    assert_eq!(
        seen(stream, chunk, window, usize::from(drain) + 1),
        expected,
        "in pieces of {chunk}, {window} held"
    );
}

/// Frame by frame, by the header alone.
fn expected(stream: &[u8]) -> Seen {
    let (mut seen, mut rest) = (Seen::default(), stream);
    loop {
        let (tag, total) = match header(rest) {
            Ok(Some(found)) => found,
            Ok(None) => return seen,
            Err(error) => return Seen { error: Some(error), ..seen },
        };
        let here = total.min(rest.len());
        let (frame, behind) = rest.split_at(here);
        let passes = matches!(tag, b'D' | b'd');
        if !passes && here < total {
            return seen; // It depends on the window whether its head is looked at.
        }
        seen.take(tag, total, passes, frame);
        rest = behind;
    }
}

impl Seen {
    fn take(&mut self, tag: u8, total: usize, passes: bool, frame: &[u8]) {
        if !passes {
            self.frames.push((tag, total));
            self.sent.extend_from_slice(MARK);
        }
        if passes || self.goes_on() {
            self.sent.extend_from_slice(frame);
        }
    }

    /// Of the frames of interest the second, fourth and so on are left out.
    fn goes_on(&self) -> bool {
        self.frames.len() % 2 == 1
    }
}

/// The same by a scanner that gets pieces of `chunk` bytes, can hold `window`, and a flow that takes `drain` at a
/// time. Of the last frame, cut short, nothing is told.
fn seen(stream: &[u8], chunk: usize, window: usize, drain: usize) -> Seen {
    let (mut scanner, mut flow) = (Scanner::new(&INTEREST), Flow::default());
    let (mut seen, mut read) = (Seen::default(), 0);
    let mut cut = None;
    let (mut missing, mut left_out) = (0, 0);
    loop {
        let full = flow.unscanned().len() >= window || flow.is_stuck();
        let before = flow.unscanned().len();
        match scanner.step(flow.unscanned(), full) {
            Err(error) => {
                seen.error = Some(error);
                break;
            }
            Ok(Step::Pass(count)) => {
                assert!((1..=before).contains(&count), "{count} of {before} pass");
                missing -= count.min(missing);
                let leaves_out = count.min(left_out);
                flow.skip(leaves_out);
                flow.approve(count - leaves_out);
                left_out -= leaves_out;
            }
            Ok(Step::Inspect { tag, total, whole }) => {
                assert!(whole == (total <= before) && (whole || full), "{total} of {before}");
                let here = total.min(before);
                cut = (!whole).then(|| (seen.frames.len(), seen.sent.len() + flow.pending()));
                seen.frames.push((tag, total));
                flow.insert(MARK);
                if seen.goes_on() {
                    flow.approve(here);
                } else {
                    flow.skip(here);
                }
                if !whole {
                    missing = total - here;
                    scanner.pass_rest(missing);
                    left_out = if seen.goes_on() { 0 } else { missing };
                }
            }
            Ok(Step::More) if read == stream.len() => break,
            Ok(Step::More) => {
                let piece = &stream[read..stream.len().min(read + chunk)];
                let room = flow.room();
                assert!(!room.is_empty(), "more is wanted, and there is no room for it");
                let count = piece.len().min(room.len());
                room[..count].copy_from_slice(&piece[..count]);
                flow.fill(count);
                read += count;
            }
        }
        let count = flow.chunk().len().min(drain);
        seen.sent.extend_from_slice(&flow.chunk()[..count]);
        flow.advance(count);
    }
    while !flow.chunk().is_empty() {
        let count = flow.chunk().len().min(drain);
        seen.sent.extend_from_slice(&flow.chunk()[..count]);
        flow.advance(count);
    }
    if let Some((frames, sent)) = cut.filter(|_| missing > 0) {
        seen.frames.truncate(frames);
        seen.sent.truncate(sent);
    }
    seen
}
