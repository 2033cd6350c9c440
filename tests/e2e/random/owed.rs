//! What a server still has to say to a client, by the protocol's rules alone (protocol-flow): so a client knows
//! when to stop reading, in both worlds, whatever it has said.

use std::collections::VecDeque;

#[derive(Debug, Default)]
pub struct Owed {
    /// Tags of what was sent and is not answered.
    sent: VecDeque<u8>,
    /// After an error in an extended batch everything up to a Sync is skipped.
    skipping: bool,
    /// A COPY from the client runs: Sync and Flush mean nothing before its end.
    copying: bool,
}

impl Owed {
    pub fn say(&mut self, tag: u8) {
        match tag {
            b'S' | b'H' if self.copying && !self.expects() => return,
            b'S' => self.skipping = false,
            _ if self.skipping => return,
            _ => {}
        }
        self.sent.push_back(tag);
        self.tidy();
    }

    /// Whether something will come without another word.
    pub fn expects(&self) -> bool {
        let ends = |tag: &u8| b"cf".contains(tag);
        if self.copying {
            self.sent.iter().any(ends)
        } else {
            self.sent.iter().any(|tag| b"QFSH".contains(tag))
        }
    }

    /// A message came; `None` where nobody is owed one.
    pub fn hear(&mut self, tag: u8) -> Option<()> {
        match tag {
            b'Z' => {
                self.copying = false;
                let end = self.sent.iter().position(|tag| b"QFS".contains(tag))?;
                self.sent.drain(..=end);
            }
            b'E' => {
                self.copying = false;
                if !matches!(self.sent.front(), None | Some(b'Q' | b'F' | b'S')) {
                    let end = self.sent.iter().position(|tag| *tag == b'S');
                    self.skipping = end.is_none();
                    self.sent.drain(..end.unwrap_or(self.sent.len()));
                }
            }
            b'1' => self.answer(b'P'),
            b'2' => self.answer(b'B'),
            b'3' => self.answer(b'C'),
            b'T' | b'n' => self.answer(b'D'),
            b'C' | b'I' | b's' => {
                if std::mem::take(&mut self.copying) {
                    let end = self.sent.iter().position(|tag| b"cf".contains(tag))?;
                    self.sent.drain(1..=end);
                }
                self.answer(b'E');
            }
            b'G' => {
                self.copying = true;
                let data = self.sent.iter().position(|tag| b"dcf".contains(tag)).unwrap_or(self.sent.len());
                let before: Vec<u8> = self.sent.drain(1..data).filter(|tag| !b"SH".contains(tag)).collect();
                assert!(before.is_empty(), "only Sync and Flush may stand before copy data");
            }
            _ => {}
        }
        self.tidy();
        Some(())
    }

    /// Inside a simple Query only ReadyForQuery counts.
    fn answer(&mut self, tag: u8) {
        if self.sent.front() == Some(&tag) {
            self.sent.pop_front();
        }
    }

    /// What is never answered and stands at the head means nothing any more.
    fn tidy(&mut self) {
        while !self.copying && self.sent.front().is_some_and(|tag| b"Hdcf".contains(tag)) {
            self.sent.pop_front();
        }
    }
}
