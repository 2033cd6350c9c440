//! Replies owed by a server, in the order in which they will come.
//! Knows nothing of sockets, transactions or SQL.

use std::collections::VecDeque;

/// The most replies that may be owed at a time. Each has five bytes at least and PostgreSQL sends its
/// buffer on at 8 KiB, so this many are on their way before the bound is met and it cannot deadlock.
pub const OWED_MAX: usize = 16 * 1024;

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Parse(Of),
    /// Of the statement under a name of ours with the number `id`, where the client's name has the number `name`;
    /// 0 for any other.
    Bind {
        id: u32,
        name: u32,
    },
    /// Of the statement under a name of ours with this number; 0 for any other, and for portals.
    Describe(u32),
    /// A Bind of a statement whose columns are not those that the client knows of: it is to fail.
    Misfit,
    Execute,
    Close(Of),
    /// All up to its ReadyForQuery.
    Query {
        /// There is an unnamed statement for it to drop.
        drops: bool,
        /// Its text is ASCII, so that PostgreSQL can read it in any encoding.
        is_plain: bool,
    },
    /// FunctionCall, likewise. It leaves the unnamed statement alone.
    Call,
    Sync,
    /// CopyDone or CopyFail, sent before anybody knew whether a COPY waits for it. Has no reply.
    CopyEnd,
}

impl Request {
    /// Whether it runs something.
    const fn runs(self) -> bool {
        matches!(self, Self::Query { .. } | Self::Call | Self::Execute)
    }

    /// Whether a ReadyForQuery ends the answer.
    const fn is_last(self) -> bool {
        matches!(self, Self::Query { .. } | Self::Call | Self::Sync)
    }
}

/// Which prepared statement a Parse makes or a Close ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The client's unnamed one.
    Unnamed,
    /// The client's, under a name of ours with this number. In a Close: the client's name alone.
    Named(u32),
    /// One under a name of ours, at our own wish.
    Ours(u32),
    /// Whatever the server makes of it.
    Plain,
}

/// Who a reply is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The client asked.
    Forward,
    /// We asked.
    Swallow,
}

/// One reply owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub request: Request,
    pub delivery: Delivery,
}

/// How far a COPY from the client has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum CopyIn {
    #[default]
    None,
    /// The server reads copy data: it ignores Sync and Flush (`CopyGetData`).
    Running,
}

/// The replies owed, and what decides which messages will have one.
#[derive(Debug, Default)]
pub struct Pipeline {
    owed: VecDeque<Expected>,
    /// Extended-protocol messages were sent after the last Sync.
    unsynced: bool,
    /// After an error the server reads on to the next Sync and answers nothing (protocol-flow).
    skipping: bool,
    copy_in: CopyIn,
    /// Syncs that were sent while the server read copy data. It answers those that it reads behind an error, and
    /// nobody knows which these are before it answers what was sent later.
    copied_syncs: usize,
    /// The number of the present batch: everything up to a Sync or a Query is one.
    segment: u64,
    /// The server will answer what is owed without anything more being said.
    flushed: bool,
    /// The client has read already why its Query will fail.
    pub is_told: bool,
    /// Some of the reply at the head has come.
    has_begun: bool,
    /// Something was sent that may end a transaction, and there was no ReadyForQuery since.
    runs: bool,
}

impl Pipeline {
    /// Notes a request that is sent. Of what a server skips or ignores nothing is owed.
    pub fn push(&mut self, request: Request, delivery: Delivery) {
        if matches!(self.copy_in, CopyIn::Running) {
            self.copied_syncs += usize::from(request == Request::Sync);
            return;
        }
        match request {
            Request::CopyEnd if self.owed.is_empty() => return,
            Request::CopyEnd => {}
            Request::Sync => {
                (self.skipping, self.unsynced) = (false, false);
                self.segment += 1;
            }
            Request::Query { .. } | Request::Call if self.skipping => return,
            Request::Query { .. } | Request::Call => {
                // It ends what was not synced (exec_simple_query).
                self.unsynced = false;
                self.segment += 1;
            }
            Request::Parse(_)
            | Request::Bind { .. }
            | Request::Describe(_)
            | Request::Misfit
            | Request::Execute
            | Request::Close(_) => {
                self.unsynced = true;
                if self.skipping {
                    return;
                }
            }
        }
        self.runs |= request.runs();
        if request != Request::CopyEnd {
            self.flushed = request.is_last();
        }
        self.owed.push_back(Expected { request, delivery });
    }

    /// A Flush is sent. Tells whether the server would have kept an answer to itself without it.
    pub const fn flush(&mut self) -> bool {
        !std::mem::replace(&mut self.flushed, true)
    }

    /// The number of the batch that is being sent.
    #[must_use]
    pub const fn segment(&self) -> u64 {
        self.segment
    }

    /// The number of the batch that is being answered.
    #[must_use]
    pub fn answering(&self) -> u64 {
        let ends = |expected: &&Expected| expected.request.is_last();
        self.segment - self.owed.iter().filter(ends).count() as u64
    }

    /// Whether an earlier batch is not answered.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.answering() < self.segment
    }

    /// Whether the server reads what is sent now as ordinary messages, and will act on it.
    #[must_use]
    pub const fn is_listening(&self) -> bool {
        !self.skipping && matches!(self.copy_in, CopyIn::None)
    }

    /// CopyDone or CopyFail is sent: the server reads ordinary messages again.
    pub fn copy_ended(&mut self) {
        self.push(Request::CopyEnd, Delivery::Forward);
        self.copy_in = CopyIn::None;
    }

    /// The reply that comes next.
    #[must_use]
    pub fn head(&self) -> Option<Expected> {
        self.owed.front().copied()
    }

    /// The reply at the head is complete.
    pub fn pop(&mut self) -> Option<Expected> {
        self.has_begun = false;
        let answered = self.owed.pop_front();
        self.pass_copy_ends();
        answered
    }

    /// What ended no COPY was ignored.
    fn pass_copy_ends(&mut self) {
        while self.owed.pop_front_if(|expected| expected.request == Request::CopyEnd).is_some() {}
    }

    /// Whether a Sync that was sent in a COPY may be answered, because the COPY failed before it was read.
    #[must_use]
    pub const fn is_unsure(&self) -> bool {
        self.copied_syncs > 0
    }

    /// The server says something that answers a request. Of what was sent before that it owes nothing more.
    pub const fn answers(&mut self) {
        self.copied_syncs = 0;
        self.has_begun = true;
    }

    /// The Query at the head is refused before PostgreSQL has read it: it is as if it had not been sent. Tells whether it
    /// would have dropped the unnamed statement.
    pub fn unread(&mut self) -> Option<bool> {
        let head = self.owed.front_mut().filter(|_| !self.has_begun)?;
        let Request::Query { drops, .. } = head.request else { return None };
        head.request = Request::Call;
        Some(drops)
    }

    /// ReadyForQuery came: the request that it ends, or `None` where something else is owed first.
    pub fn ready(&mut self) -> Option<Expected> {
        self.has_begun = false;
        self.copy_in = CopyIn::None;
        let ends = |expected: &mut Expected| expected.request.is_last();
        if let Some(ended) = self.owed.pop_front_if(ends) {
            self.pass_copy_ends();
            self.runs = self.owed.iter().any(|expected| expected.request.runs());
            return Some(ended);
        }
        self.copied_syncs = self.copied_syncs.checked_sub(1)?;
        if self.owed.is_empty() {
            (self.skipping, self.unsynced) = (false, false);
        }
        Some(Expected { request: Request::Sync, delivery: Delivery::Forward })
    }

    /// An ErrorResponse came. In an extended batch the server skips to the next Sync, a simple Query
    /// included (protocol-flow, "Extended Query"), so nothing before it is owed any more. Returns what failed, and
    /// what was swept away with it.
    pub fn failed(&mut self) -> Vec<Expected> {
        self.copy_in = CopyIn::None;
        let mut swept = Vec::new();
        match self.head().map(|head| head.request) {
            Some(request) if request.is_last() => return swept,
            // Of a Flush that was malformed. Any other ends the connection.
            None => self.unsynced = true,
            Some(_) => {}
        }
        while let Some(expected) = self.owed.pop_front_if(|expected| expected.request != Request::Sync) {
            if expected.request != Request::CopyEnd {
                swept.push(expected);
            }
        }
        self.skipping = self.owed.is_empty();
        swept
    }

    /// CopyInResponse came. What was sent behind the request is read as part of the copy, up to its end: Syncs are
    /// ignored there.
    pub fn copy_in(&mut self) {
        self.copy_in = CopyIn::Running;
        while let Some(next) = self.owed.get(1).map(|next| next.request)
            && matches!(next, Request::Sync | Request::CopyEnd)
        {
            self.owed.remove(1);
            if next == Request::CopyEnd {
                self.copy_in = CopyIn::None;
                break;
            }
            self.copied_syncs += 1;
        }
        let is_batch = self.head().is_some_and(|head| head.request == Request::Execute);
        self.unsynced |= is_batch && !self.owed.iter().any(|owed| owed.request == Request::Sync);
    }

    /// Whether the last ReadyForQuery tells the status of the transaction still.
    #[must_use]
    pub const fn keeps_transaction(&self) -> bool {
        !self.runs && matches!(self.copy_in, CopyIn::None)
    }

    /// Whether the server owes nothing and waits for nothing.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.owed.is_empty()
            && !self.unsynced
            && !self.skipping
            && self.copied_syncs == 0
            && matches!(self.copy_in, CopyIn::None)
    }

    /// Whether copy data would be read by anybody. Outside a copy the server ignores it.
    #[must_use]
    pub fn reads_copy_data(&self) -> bool {
        matches!(self.copy_in, CopyIn::Running) || !self.owed.is_empty()
    }

    /// Whether the server reads on to the next Sync and does nothing.
    #[must_use]
    pub const fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Whether all that is owed will come without anything more being said, be it an error.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        let behind = self.owed.iter().rev().take_while(|expected| expected.request != Request::Sync);
        let is_whole = behind.into_iter().all(|expected| expected.request.is_last());
        is_whole && !self.unsynced && !self.skipping && matches!(self.copy_in, CopyIn::None)
    }

    /// Whether nothing is run behind the request that is being answered.
    #[must_use]
    pub fn is_at_the_last(&self) -> bool {
        let ends = |expected: &Expected| matches!(expected.request, Request::Sync | Request::CopyEnd);
        self.owed.iter().skip(1).all(ends)
    }

    /// How many replies are owed.
    #[must_use]
    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    #[must_use]
    pub fn is_full(&self) -> bool {
        self.owed.len() >= OWED_MAX
    }

    /// Whether a ReadyForQuery will come although the client says nothing more. Of what was not synced there
    /// may be no answer, and a COPY waits for its data.
    #[must_use]
    pub fn will_be_ready(&self) -> bool {
        matches!(self.copy_in, CopyIn::None) && self.owed.iter().any(|expected| expected.request.is_last())
    }

    /// Whether anything of this batch was sent.
    #[must_use]
    pub const fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// Whether the server works on something: a cancel would find it.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.owed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Upper case: sent by the client (P B D E C Q S H, d data ended = c); lower case: read from the server
    /// (1 2 3 t x=complete of Execute, a any other answer, e error, g CopyInResponse, z ready).
    fn run(script: &str) -> Pipeline {
        let mut pipeline = Pipeline::default();
        for step in script.chars() {
            match step {
                'P' => pipeline.push(Request::Parse(Of::Unnamed), Delivery::Forward),
                'B' => pipeline.push(Request::Bind { id: 0, name: 0 }, Delivery::Forward),
                'D' => pipeline.push(Request::Describe(0), Delivery::Forward),
                'E' => pipeline.push(Request::Execute, Delivery::Forward),
                'C' => pipeline.push(Request::Close(Of::Plain), Delivery::Forward),
                'Q' => pipeline.push(Request::Query { drops: false, is_plain: true }, Delivery::Forward),
                'S' => pipeline.push(Request::Sync, Delivery::Forward),
                'c' => pipeline.copy_ended(),
                'g' => pipeline.copy_in(),
                'e' => drop(pipeline.failed()),
                'z' => assert!(pipeline.ready().is_some(), "{script}"),
                '1' | '2' | '3' | 't' | 'x' => {
                    pipeline.answers();
                    pipeline.pop();
                }
                'a' => pipeline.answers(),
                ' ' | 'H' => {}
                other => panic!("{other}"),
            }
        }
        pipeline
    }

    #[test]
    fn a_server_is_settled_exactly_when_it_owes_nothing() {
        let rows = [
            ("", true),
            ("Q", false),
            ("Qz", true),
            ("PBDES 12tx", false),
            ("PBDES 12txz", true),
            ("PBDE 12tx", false), // no Sync yet
            ("PH 1", false),      // Flush alone keeps the server
            ("PH 1 S z", true),
            ("PBES PBES 12xz", false), // two Syncs, one answered
            ("PBES PBES 12xz 12xz", true),
            ("PBES e", false),
            ("PBES ez", true),
            ("PBE e", false), // skipping
            ("PBE e PB Q", false),
            ("PBE e PB Q S z", true), // a Query is skipped too
            ("PBE Q S e z", true),    // in flight when the error came
            ("Qg", false),
            ("Qgcz", true),
            ("Qge z", true),
            ("PBES 12 g", false), // the Sync is ignored inside the copy
            ("PBES 12 g c S x z", true),
            ("PBES 12 g e S z", false), // the first Sync may have been read behind the error
            ("PBES 12 g e z", true),    // it was
            ("PBES 12 g e S z Q a z", true), // it was not
            ("PBES 12 g S c x S z", true),
            ("PBES c S 12 g x z", true), // all in one write
            ("PBES c S 12 e z", false),  // no copy, so two Syncs
            ("PBES c S 12 e zz", true),
            ("Qc Q g z", false),
            ("Qc Q g zz", true),
            ("Qc Qc g a g z z", true), // two copies in one Query
            ("Q H z", true),           // there was nothing to flush
            ("H e", false),            // which was malformed
            ("H e P B Q S z", true),
            ("QQ z", false),
            ("PBE Q 12x z", true), // a Query ends what was not synced
            ("PBE Q e", false),    // but not where it is skipped
        ];
        for (script, settled) in rows {
            assert_eq!(run(script).is_settled(), settled, "{script}");
        }
    }

    #[test]
    fn a_client_that_leaves_is_waited_for_only_where_an_end_will_come() {
        let rows =
            [("", false), ("Q", true), ("PBES", true), ("PBE", false), ("PH 1 BEH 2", false), ("Qg", false)];
        for (script, comes) in rows {
            assert_eq!(run(script).will_be_ready(), comes, "{script}");
        }
    }

    #[test]
    fn a_ready_that_nobody_is_owed_is_noticed() {
        assert_eq!(Pipeline::default().ready(), None);
    }
}
