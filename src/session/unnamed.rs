//! The unnamed prepared statement. PostgreSQL keeps it across Sync, so a client may bind it although a
//! different server answers: what the client parsed last is kept, and parsed again where it does not lie.

use crate::sql::effect::Effect;

/// What lies in a server's unnamed statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lies {
    #[default]
    Nothing,
    /// The statement with this token.
    Statement(u64),
    /// Something of somebody.
    Unknown,
}

/// A statement that a client parsed without a name.
#[derive(Clone, Debug)]
pub struct Statement {
    /// The whole Parse frame, or nothing where it was too long to keep.
    pub frame: Option<Vec<u8>>,
    pub effect: Effect,
    /// No two Parses share it.
    pub token: u64,
}

/// A client's unnamed statement.
#[derive(Debug, Default)]
pub struct Unnamed {
    current: Option<Statement>,
    /// The newest Parse that was not answered yet.
    next: Option<Statement>,
    in_flight: usize,
    /// Several Parses were under way and not the last one counts: only the server knows it.
    lost: bool,
    /// The buffer of the statement before, so that a Parse allocates nothing.
    spare: Vec<u8>,
}

impl Unnamed {
    /// A Parse is sent.
    pub fn parse(&mut self, body: Option<&[u8]>, effect: Effect, token: u64) {
        let mut frame = std::mem::take(&mut self.spare);
        let frame = body.map(|body| {
            frame.clear();
            frame.push(b'P');
            frame.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
            frame.extend_from_slice(body);
            frame
        });
        if let Some(old) = self.next.replace(Statement { frame, effect, token }) {
            self.spare = old.frame.unwrap_or_default();
        }
        self.in_flight += 1;
    }

    /// ParseComplete came for one of ours. Tells what the server holds now.
    pub fn complete(&mut self) -> Lies {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.lost = self.in_flight > 0;
        if self.lost {
            return Lies::Unknown;
        }
        if let Some(old) = std::mem::replace(&mut self.current, self.next.take()) {
            self.spare = old.frame.unwrap_or_default();
        }
        self.current.as_ref().map_or(Lies::Nothing, |statement| Lies::Statement(statement.token))
    }

    /// An error swept `parses` of ours away; `failed` says that the first of them is what failed.
    pub fn swept(&mut self, parses: usize, failed: bool) {
        self.in_flight = self.in_flight.saturating_sub(parses);
        if self.in_flight == 0 {
            self.next = None;
        }
        if failed {
            // A Parse drops the old statement before it can fail (exec_parse_message).
            self.current = None;
            self.lost = false;
        }
    }

    /// A simple Query or a Close drops the statement (exec_simple_query).
    pub fn drop_statement(&mut self) {
        self.next = None;
        self.lost = false;
        if let Some(old) = self.current.take() {
            self.spare = old.frame.unwrap_or_default();
        }
    }

    /// What a Bind or Describe would use.
    #[must_use]
    pub const fn bound(&self) -> Option<&Statement> {
        if self.in_flight > 0 { self.next.as_ref() } else { self.current.as_ref() }
    }

    /// Whether a Parse is under way, so that the server will hold the right one by itself.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether no other server could be given this statement.
    #[must_use]
    pub fn is_immovable(&self) -> bool {
        self.lost || self.current.as_ref().is_some_and(|statement| statement.frame.is_none())
    }
}
