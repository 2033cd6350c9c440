//! An error that we tell a client: severity, SQLSTATE, message, detail, hint.

use std::fmt;

/// What a client is told in an ErrorResponse, whether PostgreSQL said it or we do.
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The body of the ErrorResponse frame (protocol-error-fields), without its header.
    body: Vec<u8>,
}

/// A log line shows no more of a message than this: a server may send a quarter of a megabyte.
const SHOWN_CHARS_MAX: usize = 1000;

/// How grave an error is (protocol-error-fields, `S` and `V`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Fatal,
}

impl Refusal {
    /// An error of our own. `sqlstate` is five characters (PostgreSQL, appendix A).
    #[must_use]
    pub fn new(severity: Severity, sqlstate: &str, message: &str) -> Self {
        let severity = match severity {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        };
        let mut body = Vec::with_capacity(64 + message.len());
        for (field, value) in [(b'S', severity), (b'V', severity), (b'C', sqlstate), (b'M', message)] {
            push_field(&mut body, field, value);
        }
        body.push(0);
        Self { body }
    }

    #[must_use]
    pub fn fatal(sqlstate: &str, message: &str) -> Self {
        Self::new(Severity::Fatal, sqlstate, message)
    }

    /// Adds a hint: what the reader can do.
    #[must_use]
    pub fn hint(self, hint: &str) -> Self {
        self.with(b'H', hint)
    }

    /// Adds a detail: what the message leaves out.
    #[must_use]
    pub fn detail(self, detail: &str) -> Self {
        self.with(b'D', detail)
    }

    fn with(mut self, field: u8, value: &str) -> Self {
        self.body.pop();
        push_field(&mut self.body, field, value);
        self.body.push(0);
        self
    }

    /// Names the place in PostgreSQL's source that would say so: drivers tell errors apart by it.
    #[must_use]
    pub fn said_by(mut self, file: &str, routine: &str) -> Self {
        self.body.pop();
        push_field(&mut self.body, b'F', file);
        push_field(&mut self.body, b'R', routine);
        self.body.push(0);
        self
    }

    /// PostgreSQL's own ErrorResponse, passed on to the letter.
    #[must_use]
    pub fn verbatim(body: &[u8]) -> Self {
        Self { body: body.to_vec() }
    }

    /// The same of a server that has not shown yet that it is PostgreSQL: `None` where a client could not read it
    /// (no SQLSTATE, no message, no end).
    #[must_use]
    pub fn well_formed(body: &[u8]) -> Option<Self> {
        let fields = body.strip_suffix(b"\0\0")?;
        let ends = fields.split(|&byte| byte == 0).all(|field| !field.is_empty());
        let has_code = field(body, b'C').is_some_and(|code| {
            code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        });
        let has_severity = field(body, b'S').is_some();
        (ends && has_code && has_severity && field(body, b'M').is_some()).then(|| Self::verbatim(body))
    }

    /// Whether the connection ends with it.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(field(&self.body, b'V').or_else(|| field(&self.body, b'S')), Some("FATAL" | "PANIC"))
    }

    /// The same with severity FATAL: an error that ends the connection after all.
    #[must_use]
    pub fn fatal_too(&self) -> Self {
        let mut body = Vec::with_capacity(self.body.len());
        let mut rest = self.body.as_slice();
        while let Some((&code, after)) = rest.split_first()
            && let Some(end) = after.iter().position(|&byte| byte == 0)
        {
            let (value, next) = after.split_at(end);
            body.push(code);
            body.extend_from_slice(if matches!(code, b'S' | b'V') { b"FATAL" } else { value });
            body.push(0);
            rest = next.get(1..).unwrap_or_default();
        }
        body.push(0);
        Self { body }
    }

    /// The five characters of the SQLSTATE, or `XX000` where the server gave none.
    #[must_use]
    pub fn sqlstate(&self) -> &str {
        field(&self.body, b'C').unwrap_or("XX000")
    }

    #[must_use]
    pub fn message(&self) -> &str {
        field(&self.body, b'M').unwrap_or("")
    }

    /// The whole ErrorResponse frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let length = u32::try_from(self.body.len() + 4).unwrap_or(u32::MAX);
        let mut frame = Vec::with_capacity(self.body.len() + 5);
        frame.push(b'E');
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&self.body);
        frame
    }
}

/// One field of an ErrorResponse or NoticeResponse body, where it is there and UTF-8.
#[must_use]
pub fn field(body: &[u8], code: u8) -> Option<&str> {
    let mut rest = body;
    loop {
        let (&found, after) = rest.split_first()?;
        let end = after.iter().position(|&byte| byte == 0)?;
        let (value, next) = after.split_at_checked(end)?;
        if found == code {
            return std::str::from_utf8(value).ok();
        }
        rest = next.get(1..)?;
    }
}

fn push_field(body: &mut Vec<u8>, code: u8, value: &str) {
    body.push(code);
    // A NUL would end the field early and let the rest pass for another one.
    body.extend(value.bytes().filter(|&byte| byte != 0));
    body.push(0);
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:.*}", self.sqlstate(), SHOWN_CHARS_MAX, self.message())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_no_client_could_read_is_not_well_formed() {
        let rows: [(&[u8], bool); 9] = [
            (b"SFATAL\0VFATAL\0C28P01\0Mno\0\0", true),
            (b"SFATAL\0C28P01\0M\0\0", true),
            (b"", false),
            (b"\0", false),
            (b"SFATAL\0Mno code\0\0", false),
            (b"SFATAL\0Cshort\0Mlower case\0\0", false),
            (b"SFATAL\0C28P01\0\0", false),
            (b"SFATAL\0C28P01\0Mno end", false),
            (b"SFATAL\0C28P01\0Man end\0\0and more\0\0", false),
        ];
        for (body, expected) in rows {
            assert_eq!(Refusal::well_formed(body).is_some(), expected, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_log_shows_no_novel() {
        let refusal = Refusal::fatal("XX000", &"ä".repeat(5000));
        assert_eq!(refusal.to_string().chars().count(), SHOWN_CHARS_MAX + 7);
    }
}
