//! What a server says, as text that a person can read and two runs can be compared by.

use std::fmt::Write;

use crate::support::raw::Refused;

/// One message of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// Name and value of a ParameterStatus.
    pub fn parameter(&self) -> (String, String) {
        let mut parts =
            self.body.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    }

    /// A field of an ErrorResponse or NoticeResponse.
    pub fn field(&self, code: u8) -> Option<String> {
        self.fields()
            .find(|part| part[0] == code)
            .map(|part| String::from_utf8_lossy(&part[1..]).into_owned())
    }

    fn fields(&self) -> impl Iterator<Item = &[u8]> {
        self.body.split(|&byte| byte == 0).filter(|part| !part.is_empty())
    }

    /// The fields without the place in PostgreSQL's own source, which nobody may rely on: an aborted transaction
    /// is noticed by Parse or by Bind, whichever comes first.
    fn said(&self) -> String {
        let fields = self.fields().filter(|part| !b"FLR".contains(&part[0]));
        fields.map(String::from_utf8_lossy).collect::<Vec<_>>().join("; ")
    }

    pub fn refused(&self) -> Refused {
        Refused {
            sqlstate: self.field(b'C').unwrap_or_default(),
            message: self.field(b'M').unwrap_or_default(),
            text: self
                .fields()
                .map(|part| String::from_utf8_lossy(part).into_owned())
                .collect::<Vec<_>>()
                .join("; "),
        }
    }

    /// The columns of a DataRow.
    pub fn columns(&self) -> Vec<Option<String>> {
        let mut rest = &self.body[2..];
        let mut columns = Vec::new();
        while let Some((head, after)) = rest.split_first_chunk::<4>() {
            let Ok(length) = usize::try_from(i32::from_be_bytes(*head)) else {
                columns.push(None);
                rest = after;
                continue;
            };
            columns.push(Some(String::from_utf8_lossy(&after[..length]).into_owned()));
            rest = &after[length..];
        }
        columns
    }

    /// The message as text, or `None` where it must differ between two connections. The name of the test's
    /// database is taken out.
    pub fn comparable(&self, database: &str) -> Option<String> {
        let text = match self.tag {
            b'K' | b'R' => return None,
            b'A' => format!("A {}", String::from_utf8_lossy(&self.body[4..]).replace('\0', " ")),
            b'D' => format!("D {:?}", self.columns()),
            b'E' | b'N' => format!("{} {}", char::from(self.tag), self.said()),
            b'S' => format!("S {}={}", self.parameter().0, self.parameter().1),
            b'T' => self.described(),
            _ => format!("{} {}", char::from(self.tag), printable(&self.body)),
        };
        Some(if database.len() > 8 { text.replace(database, "DATABASE") } else { text })
    }

    /// A RowDescription without the ids of tables, which every database numbers for itself.
    fn described(&self) -> String {
        let mut rest = &self.body[2..];
        let mut text = String::from("T");
        while let Some(end) = rest.iter().position(|&byte| byte == 0) {
            let (name, after) = (&rest[..end], &rest[end + 1..]);
            write!(text, " {}:{}", String::from_utf8_lossy(name), printable(&after[4..18]))
                .expect("a string");
            rest = &after[18..];
        }
        text
    }
}

fn printable(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Several messages that answer one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply(pub Vec<Message>);

impl Reply {
    /// The first error, if there is one.
    pub fn error(&self) -> Option<Refused> {
        self.0.iter().find(|message| message.tag == b'E').map(Message::refused)
    }

    /// The SQLSTATE of the first error, or nothing.
    pub fn sqlstate(&self) -> String {
        self.error().map(|error| error.sqlstate).unwrap_or_default()
    }

    /// The rows, columns joined by `|`.
    pub fn rows_text(&self) -> Vec<String> {
        let text = |column: Option<String>| column.unwrap_or_else(|| "NULL".into());
        let row = |message: &Message| message.columns().into_iter().map(text).collect::<Vec<_>>().join("|");
        self.0.iter().filter(|message| message.tag == b'D').map(row).collect()
    }

    /// The tags in order, as `TDCZ`.
    pub fn tags(&self) -> String {
        self.0.iter().map(|message| char::from(message.tag)).collect()
    }
}
