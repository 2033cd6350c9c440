//! Views of what PostgreSQL sends.

use crate::wire::frontend::cstring;

/// Tags of backend messages (protocol-message-formats).
pub mod tag {
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN: u8 = b'G';
    pub const COPY_OUT: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY: u8 = b'I';
    pub const ERROR: u8 = b'E';
    pub const FUNCTION_CALL: u8 = b'V';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE: u8 = b'N';
    pub const NOTIFICATION: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// ParameterStatus: name and value.
#[must_use]
pub fn parameter_status(body: &[u8]) -> Option<(&str, &[u8])> {
    let (name, rest) = cstring(body)?;
    let (value, _) = cstring(rest)?;
    Some((std::str::from_utf8(name).ok()?, value))
}

/// The columns of a RowDescription: name, type and type modifier, as PostgreSQL compares them when it plans anew.
pub fn row_description(body: &[u8]) -> impl Iterator<Item = (&[u8], &[u8], &[u8])> {
    let mut rest = body.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (name, column) = cstring(rest)?;
        let (column, next) = column.split_at_checked(18)?;
        rest = next;
        // Between the two: the type's size. Before: table and column that it comes from. Behind: the format.
        Some((name, column.get(6..10)?, column.get(12..16)?))
    })
}

/// The columns of a DataRow; `None` where one is NULL.
pub fn data_row(body: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = body.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let Ok(size) = usize::try_from(i32::from_be_bytes(*length)) else {
            rest = after;
            return Some(None);
        };
        let (value, next) = after.split_at_checked(size)?;
        rest = next;
        Some(Some(value))
    })
}
