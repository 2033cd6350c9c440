//! One frame: a tag, a length, a body. Checked once, borrowed ever after.

use thiserror::Error;

/// Bytes before a body: the tag and the four of the length.
pub const HEADER_BYTES: usize = 5;

/// PostgreSQL refuses larger messages itself (`PQ_LARGE_MESSAGE_LIMIT`, 1 GiB − 1).
pub const FRAME_BYTES_MAX: usize = 0x3fff_ffff;

/// A whole frame, borrowed from the buffer that it was read into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub tag: u8,
    pub body: &'a [u8],
}

/// A length that no frame can have. The connection cannot be resynchronised after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("message type {tag:#04x} announces a length of {length}")]
pub struct LengthError {
    pub tag: u8,
    pub length: u32,
}

/// The tag and the total length in bytes (header included) of the frame at the start of `bytes`, or
/// `None` while its header is incomplete.
///
/// # Errors
/// Lengths below 4 or above [`FRAME_BYTES_MAX`].
pub fn header(bytes: &[u8]) -> Result<Option<(u8, usize)>, LengthError> {
    let Some((head, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let [tag, a, b, c, d] = *head;
    let length = u32::from_be_bytes([a, b, c, d]);
    match usize::try_from(length) {
        Ok(size) if (4..=FRAME_BYTES_MAX).contains(&size) => Ok(Some((tag, size + 1))),
        _ => Err(LengthError { tag, length }),
    }
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes` and its total length, or `None` while it is incomplete.
    ///
    /// # Errors
    /// As [`header`].
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, LengthError> {
        let Some((tag, total)) = header(bytes)? else {
            return Ok(None);
        };
        Ok(bytes.get(HEADER_BYTES..total).map(|body| (Self { tag, body }, total)))
    }
}
