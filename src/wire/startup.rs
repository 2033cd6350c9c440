//! The untagged packets that open a connection (protocol-message-formats: StartupMessage, SSLRequest,
//! GSSENCRequest, CancelRequest), and the `options` parameter.

use thiserror::Error;

use crate::wire::frontend::cstring;

/// A stranger speaks first here, so the first packet is small or refused.
/// PostgreSQL draws the same line (`MAX_STARTUP_PACKET_LENGTH`).
pub const STARTUP_PACKET_BYTES_MAX: usize = 10_000;

/// The newest protocol that we speak: 3.2.
pub const PROTOCOL_NEWEST: i32 = 0x0003_0002;

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

/// What a client opens with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    SslRequest,
    GssEncRequest,
    Cancel { process_id: i32, secret_key: Vec<u8> },
    Startup(Startup),
}

/// A StartupMessage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// The minor version that the client asked for.
    pub minor: u16,
    pub user: String,
    pub database: String,
    /// All other parameters but `_pq_.` ones, in the client's order.
    pub parameters: Vec<(String, Vec<u8>)>,
    /// Protocol options (`_pq_.…`), none of which we know.
    pub unknown_options: Vec<String>,
    /// The value of `replication`, where it asks for more than an ordinary connection.
    pub replication: Option<String>,
}

/// Why an opening packet is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpeningError {
    #[error("invalid length of startup packet")]
    Length,
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2")]
    Version { major: u16, minor: u16 },
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    #[error("invalid startup packet: parameter \"{0}\" is given twice")]
    Twice(String),
    #[error(
        "the connection begins with a TLS ClientHello, but stagedoor's local side is plaintext: connect without sslnegotiation=direct"
    )]
    DirectTls,
}

/// The length that the first four bytes announce, themselves included.
///
/// # Errors
/// Lengths that PostgreSQL refuses, and what looks like TLS.
pub fn length(head: [u8; 4]) -> Result<usize, OpeningError> {
    if head.starts_with(&[0x16, 0x03]) {
        return Err(OpeningError::DirectTls);
    }
    match usize::try_from(u32::from_be_bytes(head)) {
        Ok(length) if (8..=STARTUP_PACKET_BYTES_MAX).contains(&length) => Ok(length),
        _ => Err(OpeningError::Length),
    }
}

/// Reads a whole packet without its length.
///
/// # Errors
/// Whatever PostgreSQL would refuse as well.
pub fn parse(packet: &[u8]) -> Result<Opening, OpeningError> {
    let (code, rest) = packet.split_first_chunk::<4>().ok_or(OpeningError::Length)?;
    match u32::from_be_bytes(*code) {
        SSL_REQUEST if rest.is_empty() => Ok(Opening::SslRequest),
        GSSENC_REQUEST if rest.is_empty() => Ok(Opening::GssEncRequest),
        SSL_REQUEST | GSSENC_REQUEST => Err(OpeningError::Length),
        CANCEL_REQUEST => cancel(rest),
        _ => {
            let [a, b, c, d] = *code;
            startup(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), rest).map(Opening::Startup)
        }
    }
}

/// The key has 4 bytes in protocol 3.0 and 4 to 256 in 3.2.
fn cancel(rest: &[u8]) -> Result<Opening, OpeningError> {
    let (process_id, key) = rest.split_first_chunk::<4>().ok_or(OpeningError::Length)?;
    if !(4..=256).contains(&key.len()) {
        return Err(OpeningError::Length);
    }
    Ok(Opening::Cancel { process_id: i32::from_be_bytes(*process_id), secret_key: key.to_vec() })
}

fn startup(major: u16, minor: u16, mut rest: &[u8]) -> Result<Startup, OpeningError> {
    if major != 3 {
        return Err(OpeningError::Version { major, minor });
    }
    let mut message = Startup {
        minor,
        user: String::new(),
        database: String::new(),
        parameters: Vec::new(),
        unknown_options: Vec::new(),
        replication: None,
    };
    loop {
        let (name, after) = cstring(rest).ok_or(OpeningError::Layout)?;
        if name.is_empty() {
            if !after.is_empty() {
                return Err(OpeningError::Layout);
            }
            break;
        }
        let (value, next) = cstring(after).ok_or(OpeningError::Layout)?;
        message.take(name, value)?;
        rest = next;
    }
    if message.user.is_empty() {
        return Err(OpeningError::NoUser);
    }
    if message.database.is_empty() {
        message.database.clone_from(&message.user);
    }
    Ok(message)
}

impl Startup {
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), OpeningError> {
        let name = String::from_utf8_lossy(name).into_owned();
        let text = || String::from_utf8_lossy(value).into_owned();
        match name.as_str() {
            "user" => self.user = text(),
            "database" => self.database = text(),
            "replication" => self.replication = is_replication(value).then(text),
            _ if name.starts_with("_pq_.") => self.unknown_options.push(name),
            _ if self.parameters.iter().any(|(known, _)| *known == name) => {
                return Err(OpeningError::Twice(name));
            }
            _ => self.parameters.push((name, value.to_vec())),
        }
        Ok(())
    }

    /// The value of a parameter.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }
}

fn is_replication(value: &[u8]) -> bool {
    !matches!(value.to_ascii_lowercase().as_slice(), b"" | b"false" | b"off" | b"no" | b"0" | b"f" | b"n")
}

/// Splits the `options` parameter into settings: `-c name=value` and `--name=value`, with a backslash
/// before a space that belongs to a value (libpq, "options"; `pg_split_opts`). `None` where it says
/// anything else.
#[must_use]
pub fn options(text: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut settings = Vec::new();
    let mut words = split_words(text).into_iter();
    while let Some(word) = words.next() {
        let assignment = match word.as_slice() {
            b"-c" => words.next()?,
            [b'-', b'c' | b'-', rest @ ..] => rest.to_vec(),
            _ => return None,
        };
        let at = assignment.iter().position(|&byte| byte == b'=')?;
        let (name, value) = assignment.split_at_checked(at)?;
        // PostgreSQL takes `--work-mem=…` for work_mem (ParseLongOption).
        let name = std::str::from_utf8(name).ok()?.replace('-', "_");
        settings.push((name, value.get(1..)?.to_vec()));
    }
    Some(settings)
}

fn split_words(text: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => words.extend(word.take()),
            b'\\' => word.get_or_insert_default().extend(bytes.next()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
        [&code.to_be_bytes(), rest].concat()
    }

    #[test]
    fn a_startup_message_is_read_as_postgresql_reads_it() {
        let opening =
            parse(&packet(0x0003_0000, b"user\0bob\0application_name\0x y\0_pq_.z\x001\0\0")).unwrap();
        let Opening::Startup(startup) = opening else { panic!("{opening:?}") };
        assert_eq!((startup.user.as_str(), startup.database.as_str()), ("bob", "bob"));
        assert_eq!(startup.parameter("application_name"), Some(b"x y".as_slice()));
        assert_eq!(startup.unknown_options, ["_pq_.z"]);
    }

    #[test]
    fn every_malformed_packet_has_its_error() {
        let rows: [(Vec<u8>, OpeningError); 8] = [
            (packet(SSL_REQUEST, b"x"), OpeningError::Length),
            (packet(CANCEL_REQUEST, b"\0\0\0\x01key"), OpeningError::Length),
            (packet(0x0002_0000, b""), OpeningError::Version { major: 2, minor: 0 }),
            (packet(0x0003_0000, b"user\0bob\0"), OpeningError::Layout),
            (packet(0x0003_0000, b"user\0bob\0\0x"), OpeningError::Layout),
            (packet(0x0003_0000, b"user\0bob"), OpeningError::Layout),
            (packet(0x0003_0000, b"database\0d\0\0"), OpeningError::NoUser),
            (packet(0x0003_0000, b"user\0u\0a\x001\0a\x002\0\0"), OpeningError::Twice("a".to_owned())),
        ];
        for (bytes, expected) in rows {
            assert_eq!(parse(&bytes), Err(expected));
        }
        assert_eq!(length([0, 0, 0x27, 0x11]), Err(OpeningError::Length));
        assert_eq!(length([0x16, 3, 1, 2]), Err(OpeningError::DirectTls));
    }

    #[test]
    fn options_are_split_as_postgresql_splits_them() {
        let rows: [(&str, Option<&[(&str, &str)]>); 6] = [
            ("-c work_mem=8MB", Some(&[("work_mem", "8MB")])),
            ("-cwork_mem=8MB --lock-timeout=5s", Some(&[("work_mem", "8MB"), ("lock_timeout", "5s")])),
            (r"-c search_path=a,\ b", Some(&[("search_path", "a, b")])),
            ("", Some(&[])),
            ("-d 5", None),
            ("-c novalue", None),
        ];
        for (text, expected) in rows {
            let expected = expected.map(|pairs| {
                pairs.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect::<Vec<_>>()
            });
            assert_eq!(options(text.as_bytes()), expected, "{text}");
        }
    }
}
