//! The unnamed prepared statement. PostgreSQL keeps it across Sync, so a client may bind it although a
//! different server answers: what the client parsed last is kept, and parsed again where it does not lie.

use std::collections::VecDeque;

use crate::sql::effect::Effect;

/// How much of unnamed statements that are under way is kept; one beyond keeps its client on its server.
const UNDER_WAY_BYTES_MAX: usize = 1024 * 1024;

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
    /// The body of its Parse, or nothing where it was too long to keep.
    pub body: Option<Vec<u8>>,
    pub effect: Effect,
    /// No two Parses share it.
    pub token: u64,
}

/// A client's unnamed statement: as the server has confirmed it, and what was sent since.
#[derive(Debug, Default)]
pub struct Unnamed {
    current: Option<Statement>,
    /// Parses, and what drops the statement (`None`), with the batch of each.
    under_way: VecDeque<(u64, Option<Statement>)>,
    under_way_bytes: usize,
    /// The buffer of the statement before, so that a Parse allocates nothing.
    spare: Vec<u8>,
}

impl Unnamed {
    /// A Parse is sent.
    pub fn parse(&mut self, segment: u64, body: Option<&[u8]>, effect: Effect, token: u64) {
        let fits = |body: &&[u8]| self.under_way_bytes + body.len() <= UNDER_WAY_BYTES_MAX;
        let body = body.filter(fits).map(|body| {
            let mut kept = std::mem::take(&mut self.spare);
            kept.clear();
            kept.extend_from_slice(body);
            kept
        });
        self.under_way_bytes += body.as_ref().map_or(0, Vec::len);
        self.under_way.push_back((segment, Some(Statement { body, effect, token })));
    }

    /// A simple Query or a Close is sent, which drops the statement (exec_simple_query). Tells whether there is
    /// anything to drop, so that its answer counts.
    pub fn drop_statement(&mut self, segment: u64) -> bool {
        if self.current.is_none() && self.under_way.is_empty() {
            return false;
        }
        self.under_way.push_back((segment, None));
        true
    }

    /// The oldest message under way was answered. Tells what the server holds now.
    pub fn confirmed(&mut self) -> Lies {
        let Some((_, now)) = self.under_way.pop_front() else { return Lies::Unknown };
        self.under_way_bytes -= now.as_ref().map_or(0, Statement::bytes);
        self.replace(now);
        self.current.as_ref().map_or(Lies::Nothing, |statement| Lies::Statement(statement.token))
    }

    /// An error swept away the oldest `count` messages; `failed` says that the first of them is a Parse that
    /// failed, and it drops the old statement before it can fail (exec_parse_message).
    pub fn swept(&mut self, count: usize, failed: bool) {
        for _ in 0..count {
            let swept = self.under_way.pop_front().and_then(|(_, statement)| statement);
            self.under_way_bytes -= swept.as_ref().map_or(0, Statement::bytes);
        }
        if failed {
            self.replace(None);
        }
    }

    /// Whether the text of the Parse that is answered next is ASCII.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let next = self.under_way.front().and_then(|(_, statement)| statement.as_ref()?.body.as_ref());
        next.is_some_and(|body| body.is_ascii())
    }

    /// Nothing that is under way was heard.
    pub fn unheard(&mut self) {
        self.swept(self.under_way.len(), false);
    }

    fn replace(&mut self, now: Option<Statement>) {
        if let Some(old) = std::mem::replace(&mut self.current, now).and_then(|old| old.body) {
            self.spare = old;
        }
    }

    /// What a Bind or Describe that is sent now would use, in this batch.
    #[must_use]
    pub fn bound(&self) -> Option<&Statement> {
        self.under_way.back().map_or(self.current.as_ref(), |(_, statement)| statement.as_ref())
    }

    /// Whether it hangs on the answer to a batch before `segment`.
    #[must_use]
    pub fn is_unsure(&self, segment: u64) -> bool {
        self.under_way.back().is_some_and(|(sent_in, _)| *sent_in < segment)
    }

    /// Whether a message of this batch has changed it, so that the server will hold the right one by itself.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Whether no other server could be given this statement.
    #[must_use]
    pub fn is_immovable(&self) -> bool {
        self.current.as_ref().is_some_and(|statement| statement.body.is_none())
    }
}

impl Statement {
    fn bytes(&self) -> usize {
        self.body.as_ref().map_or(0, Vec::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(unnamed: &Unnamed) -> Option<u64> {
        unnamed.bound().map(|statement| statement.token)
    }

    fn parse(unnamed: &mut Unnamed, segment: u64, token: u64) {
        unnamed.parse(segment, Some(b"\0select 1\0\0\0"), Effect::NONE, token);
    }

    #[test]
    fn the_last_parse_that_worked_counts() {
        let mut unnamed = Unnamed::default();
        parse(&mut unnamed, 0, 1);
        parse(&mut unnamed, 0, 2);
        parse(&mut unnamed, 0, 3);
        assert_eq!(token(&unnamed), Some(3));
        assert_eq!(unnamed.confirmed(), Lies::Statement(1));
        assert_eq!(unnamed.confirmed(), Lies::Statement(2));
        unnamed.swept(1, false);
        assert_eq!(token(&unnamed), Some(2), "something between failed, so the third was never parsed");
        parse(&mut unnamed, 1, 4);
        unnamed.swept(1, true);
        assert_eq!(token(&unnamed), None, "a Parse that fails drops the old one");
        assert_eq!(unnamed.under_way_bytes, 0);
    }

    #[test]
    fn what_a_later_batch_finds_hangs_on_the_earlier_one() {
        let mut unnamed = Unnamed::default();
        parse(&mut unnamed, 0, 1);
        assert!(unnamed.is_unsure(1) && !unnamed.is_unsure(0));
        unnamed.confirmed();
        assert!(!unnamed.is_unsure(1));
        assert!(unnamed.drop_statement(1));
        assert_eq!(token(&unnamed), None);
        assert_eq!(unnamed.confirmed(), Lies::Nothing);
        assert!(!unnamed.drop_statement(2), "there is nothing to drop");
    }

    #[test]
    fn what_is_too_long_to_keep_cannot_move() {
        let mut unnamed = Unnamed::default();
        unnamed.parse(0, Some(&vec![0; UNDER_WAY_BYTES_MAX + 1]), Effect::NONE, 1);
        unnamed.confirmed();
        assert!(unnamed.is_immovable());
    }
}
