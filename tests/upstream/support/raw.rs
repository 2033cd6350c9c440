//! A client that speaks frames: says what it is told and hears everything.

use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use postgres_protocol::authentication::sasl::ChannelBinding;
use postgres_protocol::authentication::sasl::ScramSha256;

use crate::support::postgres::PASSWORD;
use crate::support::postgres::USER;

/// A frame: tag and body.
pub type Frame = (u8, Vec<u8>);

/// A connection of one client.
pub struct Raw {
    pub stream: TcpStream,
    /// From BackendKeyData.
    pub process_id: i32,
    pub secret_key: Vec<u8>,
    /// All ParameterStatus of the login.
    pub parameters: Vec<(String, String)>,
}

/// One frame's bytes.
pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// A startup packet: code and parameters.
pub fn startup(code: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = code.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&length, body.as_slice()].concat()
}

pub fn query(sql: &str) -> Vec<u8> {
    frame(b'Q', format!("{sql}\0").as_bytes())
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    frame(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

/// Bind of a statement to a portal with text parameters.
pub fn bind(portal: &str, statement: &str, values: &[&str]) -> Vec<u8> {
    let mut body = format!("{portal}\0{statement}\0").into_bytes();
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(&u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        body.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    body.extend_from_slice(&[0, 0]);
    frame(b'B', &body)
}

pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    frame(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat())
}

pub fn sync() -> Vec<u8> {
    frame(b'S', b"")
}

/// A field of an ErrorResponse.
pub fn field(body: &[u8], code: u8) -> String {
    body.split(|&byte| byte == 0)
        .find(|field| field.first() == Some(&code))
        .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
        .unwrap_or_default()
}

impl Raw {
    /// Opens a connection and says nothing.
    pub fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, process_id: 0, secret_key: Vec::new(), parameters: Vec::new() }
    }

    /// Logs in as the tests' role.
    pub fn login(port: u16, database: &str) -> Self {
        Self::login_with(port, database, &[]).unwrap_or_else(|error| panic!("{}", field(&error, b'M')))
    }

    /// Logs in with these parameters beside; the ErrorResponse where it is refused.
    pub fn login_with(port: u16, database: &str, more: &[(&str, &str)]) -> Result<Self, Vec<u8>> {
        Self::login_as(port, database, (USER, PASSWORD), more)
    }

    pub fn login_as(
        port: u16,
        database: &str,
        (user, password): (&str, &str),
        more: &[(&str, &str)],
    ) -> Result<Self, Vec<u8>> {
        let mut raw = Self::open(port);
        let parameters = [&[("user", user), ("database", database)], more].concat();
        raw.send(&startup(0x0003_0000, &parameters));
        raw.finish_login(password)?;
        Ok(raw)
    }

    /// From behind the StartupMessage to ReadyForQuery.
    pub fn finish_login(&mut self, password: &str) -> Result<(), Vec<u8>> {
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        loop {
            let (tag, body) = self.receive().ok_or_else(Vec::new)?;
            match (tag, body.first_chunk::<4>().map(|code| u32::from_be_bytes(*code))) {
                (b'R', Some(10)) => {
                    let first = scram.message().to_vec();
                    let length = u32::try_from(first.len()).unwrap().to_be_bytes();
                    self.send(&frame(b'p', &[b"SCRAM-SHA-256\0", length.as_slice(), &first].concat()));
                }
                (b'R', Some(11)) => {
                    scram.update(&body[4..]).unwrap();
                    let last = scram.message().to_vec();
                    self.send(&frame(b'p', &last));
                }
                (b'R', Some(12)) => scram.finish(&body[4..]).unwrap(),
                (b'R', Some(3)) => self.send(&frame(b'p', format!("{password}\0").as_bytes())),
                (b'K', Some(pid)) => {
                    self.process_id = pid as i32;
                    self.secret_key = body[4..].to_vec();
                }
                (b'S', _) => {
                    let text = String::from_utf8_lossy(&body).into_owned();
                    let (name, value) = text.split_once('\0').unwrap();
                    self.parameters.push((name.to_owned(), value.trim_end_matches('\0').to_owned()));
                }
                (b'Z', _) => return Ok(()),
                (b'E', _) => return Err(body),
                _ => {}
            }
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next frame; `None` at the end of the stream.
    pub fn receive(&mut self) -> Option<Frame> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body).ok()?;
        Some((head[0], body))
    }

    /// Everything up to and with the next ReadyForQuery, or the end.
    pub fn until_ready(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.receive() {
            let last = frame.0 == b'Z';
            frames.push(frame);
            if last {
                break;
            }
        }
        frames
    }

    /// Sends a simple Query; gives the frames of its answer.
    pub fn ask(&mut self, sql: &str) -> Vec<Frame> {
        self.send(&query(sql));
        self.until_ready()
    }

    /// The first column of all rows of a simple Query, joined by commas; `ERROR code` where it failed.
    pub fn value(&mut self, sql: &str) -> String {
        values(&self.ask(sql))
    }

    /// A CancelRequest on a connection of its own; waits until it is closed.
    pub fn cancel(port: u16, process_id: i32, secret_key: &[u8]) {
        let mut raw = Self::open(port);
        let body = [&80_877_102_u32.to_be_bytes(), &process_id.to_be_bytes(), secret_key].concat();
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        raw.send(&[length.as_slice(), &body].concat());
        assert_eq!(raw.receive(), None, "a cancel request has no answer");
    }
}

/// The first columns of all rows, joined by commas; `ERROR code` where there is an error.
pub fn values(frames: &[Frame]) -> String {
    let mut values = Vec::new();
    for (tag, body) in frames {
        match tag {
            b'E' => return format!("ERROR {}", field(body, b'C')),
            b'D' => {
                let length = u32::from_be_bytes([body[2], body[3], body[4], body[5]]) as usize;
                let value = if length == u32::MAX as usize { b"NULL" } else { &body[6..6 + length] };
                values.push(String::from_utf8_lossy(value).into_owned());
            }
            _ => {}
        }
    }
    values.join(",")
}
