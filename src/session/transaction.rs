//! The transaction status that ReadyForQuery carries.

/// Where a server stands between two statements (protocol-message-formats, ReadyForQuery).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transaction {
    #[default]
    Idle,
    Open,
    Failed,
}

impl Transaction {
    /// Reads the one byte that ReadyForQuery carries.
    #[must_use]
    pub const fn from_status(status: u8) -> Option<Self> {
        match status {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::Open),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }
}
