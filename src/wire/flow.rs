//! One direction of a relay: what was read, how much of it may go on, and what we put between.
//! Bytes that go on unchanged are written from where they were read to; only changes are copied.

use std::cell::RefCell;

use crate::wire::scanner::INSPECT_BYTES_MAX;

/// What is read at a time. Most statements and answers fit.
const READ_BYTES: usize = 32 * 1024;

/// What is approved is copied behind what we put before it, up to so many bytes: that is cheaper than another
/// system call, or another TLS record.
const JOIN_BYTES_MAX: usize = 4 * 1024;

/// What is read at a time where that was filled to the brim: a big result costs few system calls then.
const READ_BYTES_MAX: usize = 128 * 1024;

/// Buffers that are kept for the next client rather than given back: as many as are in use at a time.
const SPARE_MAX: usize = 64;

thread_local! {
    /// Initialised already: to zero one anew costs more than a small statement's own work.
    static SPARE: RefCell<Vec<Spare>> = const { RefCell::new(Vec::new()) };
}

/// The buffers of a [`Flow`], which hold nothing.
struct Spare {
    bytes: Vec<u8>,
    out: Vec<u8>,
}

/// Bytes on their way from one peer to the other: `sent ≤ approved ≤ filled`.
/// What `out` holds goes before everything that is approved.
#[derive(Debug, Default)]
pub struct Flow {
    bytes: Vec<u8>,
    sent: usize,
    approved: usize,
    filled: usize,
    out: Vec<u8>,
    out_sent: usize,
    /// The last read filled all the room that there was.
    brimful: bool,
}

impl Flow {
    /// Room for the next read, never empty unless the flow is full (see [`Flow::is_full`]).
    pub fn room(&mut self) -> &mut [u8] {
        if self.sent > 0 && self.sent == self.filled {
            (self.sent, self.approved, self.filled) = (0, 0, 0);
            if self.brimful && self.bytes.len() < READ_BYTES_MAX {
                self.bytes = vec![0; READ_BYTES_MAX];
            }
        }
        if self.bytes.len() - self.filled < READ_BYTES / 4 {
            self.compact();
        }
        self.bytes.get_mut(self.filled..).unwrap_or_default()
    }

    fn compact(&mut self) {
        if self.sent > 0 {
            self.bytes.copy_within(self.sent..self.filled, 0);
            self.approved -= self.sent;
            self.filled -= self.sent;
            self.sent = 0;
        }
        if self.bytes.len() - self.filled < READ_BYTES / 4 && self.bytes.len() < INSPECT_BYTES_MAX {
            self.grow();
        }
    }

    fn grow(&mut self) {
        if self.bytes.len() < READ_BYTES
            && let Some(Spare { bytes, out }) = SPARE.with_borrow_mut(Vec::pop)
        {
            let held = std::mem::replace(&mut self.bytes, bytes);
            self.bytes.iter_mut().zip(&held).for_each(|(to, from)| *to = *from);
            if self.out.capacity() == 0 {
                self.out = out;
            }
            return;
        }
        let length = (self.bytes.len() * 2).clamp(READ_BYTES, INSPECT_BYTES_MAX);
        self.bytes.resize(length, 0);
    }

    /// `count` bytes were read into [`Flow::room`].
    pub fn fill(&mut self, count: usize) {
        self.filled = (self.filled + count).min(self.bytes.len());
        self.brimful = self.filled == self.bytes.len();
    }

    /// Whether nothing more can be read before something is sent.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.filled - self.sent >= INSPECT_BYTES_MAX
    }

    /// Whether the frame that begins at the unscanned part can grow no further: it is looked at by its head.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.filled - self.approved >= INSPECT_BYTES_MAX
    }

    /// Whether so much waits to be sent that reading should pause.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.pending() >= 2 * READ_BYTES
    }

    /// What was read and not yet decided on.
    #[must_use]
    pub fn unscanned(&self) -> &[u8] {
        self.bytes.get(self.approved..self.filled).unwrap_or_default()
    }

    /// The next `count` bytes go on as they are.
    pub fn approve(&mut self, count: usize) {
        self.approved = (self.approved + count).min(self.filled);
    }

    /// The next `count` bytes do not go on.
    pub fn skip(&mut self, count: usize) {
        self.settle();
        self.approved = (self.approved + count).min(self.filled);
        self.sent = self.approved;
    }

    /// Where the unscanned part begins, for [`Flow::rewind`]. Nothing may be pending.
    #[must_use]
    pub const fn place(&self) -> usize {
        self.approved
    }

    /// Goes back to a place: what was decided on since is not, and ours is gone. Only where nothing was read since, and nothing
    /// was sent.
    pub fn rewind(&mut self, place: usize) {
        self.approved = place.min(self.filled);
        self.sent = self.approved;
        self.out.clear();
        self.out_sent = 0;
    }

    /// Puts `bytes` of our own behind all that was approved so far.
    pub fn insert(&mut self, bytes: &[u8]) {
        self.settle();
        self.out.extend_from_slice(bytes);
    }

    /// Moves what is approved into `out`, so that something else may follow it.
    fn settle(&mut self) {
        let approved = self.bytes.get(self.sent..self.approved).unwrap_or_default();
        self.out.extend_from_slice(approved);
        self.sent = self.approved;
    }

    /// The bytes to write next; empty when there are none.
    pub fn chunk(&mut self) -> &[u8] {
        if !self.out.is_empty() && self.approved - self.sent <= JOIN_BYTES_MAX {
            self.settle();
        }
        let out = self.out.get(self.out_sent..).unwrap_or_default();
        if out.is_empty() { self.bytes.get(self.sent..self.approved).unwrap_or_default() } else { out }
    }

    /// `count` bytes of [`Flow::chunk`] were written.
    pub fn advance(&mut self, count: usize) {
        if self.out_sent < self.out.len() {
            self.out_sent += count;
            if self.out_sent >= self.out.len() {
                self.out.clear();
                self.out_sent = 0;
            }
        } else {
            self.sent = (self.sent + count).min(self.approved);
        }
    }

    /// Bytes that may go on and were not written yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.out.len() - self.out_sent + (self.approved - self.sent)
    }

    /// Whether neither decided nor undecided bytes are held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending() == 0 && self.unscanned().is_empty()
    }

    /// Gives the buffers back, where nothing is held.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Keeps the little that is held, and gives the room for more back: for who has to wait, as many may.
    pub fn pack(&mut self) {
        let length = self.filled - self.sent;
        if length > JOIN_BYTES_MAX || self.bytes.len() < READ_BYTES {
            return;
        }
        let held = self.bytes.get(self.sent..self.filled).unwrap_or_default().to_vec();
        self.approved -= self.sent;
        (self.sent, self.filled) = (0, length);
        spare(std::mem::replace(&mut self.bytes, held), Vec::new());
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        spare(std::mem::take(&mut self.bytes), out);
    }
}

/// Keeps buffers for the next flow, which hold nothing that matters.
fn spare(bytes: Vec<u8>, out: Vec<u8>) {
    if bytes.len() == READ_BYTES && out.capacity() <= 2 * JOIN_BYTES_MAX {
        // At the end of a thread there is no next one.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(Spare { bytes, out });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &[u8]) -> Flow {
        let mut flow = Flow::default();
        flow.room()[..text.len()].copy_from_slice(text);
        flow.fill(text.len());
        flow
    }

    fn drain(flow: &mut Flow, step: usize) -> Vec<u8> {
        let mut written = Vec::new();
        while !flow.chunk().is_empty() {
            let count = flow.chunk().len().min(step);
            written.extend_from_slice(&flow.chunk()[..count]);
            flow.advance(count);
        }
        written
    }

    #[test]
    fn what_is_approved_skipped_and_inserted_comes_out_in_order() {
        for step in 1..12 {
            let mut flow = filled(b"onetwothree");
            flow.approve(3);
            flow.insert(b"+");
            flow.skip(3);
            flow.approve(2);
            assert_eq!(flow.unscanned(), b"ree");
            assert_eq!(drain(&mut flow, step), b"one+th", "steps of {step}");
            flow.approve(3);
            assert_eq!(drain(&mut flow, step), b"ree");
            assert!(flow.is_empty());
        }
    }

    #[test]
    fn little_is_joined_and_much_is_not_copied() {
        for (length, chunks) in [(JOIN_BYTES_MAX, 1), (JOIN_BYTES_MAX + 1, 2)] {
            let mut flow = filled(&vec![b'x'; length]);
            flow.insert(b"+");
            flow.approve(length);
            let mut count = 0;
            while !flow.chunk().is_empty() {
                let length = flow.chunk().len();
                flow.advance(length);
                count += 1;
            }
            assert_eq!(count, chunks, "{length} bytes");
        }
    }

    #[test]
    fn what_is_packed_is_still_there_and_has_room_again() {
        let mut flow = filled(b"onetwothree");
        flow.skip(3);
        flow.approve(3);
        flow.pack();
        assert_eq!((flow.bytes.len(), flow.pending(), flow.unscanned()), (8, 3, &b"three"[..]));
        let room = flow.room();
        assert_eq!(room.len(), READ_BYTES - 8);
        room[..4].copy_from_slice(b"four");
        flow.fill(4);
        flow.approve(9);
        assert_eq!(drain(&mut flow, 100), b"twothreefour");
    }

    #[test]
    fn what_was_not_written_can_be_decided_on_again() {
        let mut flow = filled(b"onetwothree");
        flow.skip(3);
        let place = flow.place();
        flow.insert(b"+");
        flow.skip(1);
        flow.approve(4);
        flow.insert(b"+");
        flow.rewind(place);
        assert_eq!((flow.pending(), flow.unscanned()), (0, &b"twothree"[..]));
        flow.approve(3);
        assert_eq!(drain(&mut flow, 2), b"two");
    }

    #[test]
    fn room_grows_for_a_frame_that_must_be_whole_and_no_further() {
        let mut flow = Flow::default();
        while !flow.is_stuck() {
            let room = flow.room().len();
            assert!(room > 0);
            flow.fill(room);
        }
        assert_eq!(flow.unscanned().len(), INSPECT_BYTES_MAX);
    }
}
