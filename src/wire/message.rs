//! Messages that we make ourselves, encoded by `pgwire`. What passes through is never re-encoded.

use bytes::BytesMut;
use pgwire::messages::Message as _;
use pgwire::messages::response::ReadyForQuery;
use pgwire::messages::response::TransactionStatus;
use pgwire::messages::simplequery::Query;
use pgwire::messages::startup::Authentication;
use pgwire::messages::startup::BackendKeyData;
use pgwire::messages::startup::NegotiateProtocolVersion;
use pgwire::messages::startup::SecretKey;

/// What we say; an enum of our own so that nobody else needs pgwire's types.
#[derive(Clone, Debug)]
pub enum Message<'a> {
    AuthenticationOk,
    AuthenticationCleartextPassword,
    /// The SASL mechanisms on offer.
    AuthenticationSasl(&'a [&'a str]),
    AuthenticationSaslContinue(&'a [u8]),
    AuthenticationSaslFinal(&'a [u8]),
    BackendKeyData {
        process_id: i32,
        secret_key: &'a [u8],
    },
    /// The version that we speak, and the `_pq_.` options that we do not know.
    NegotiateProtocolVersion {
        version: i32,
        options: &'a [String],
    },
    ReadyForQueryIdle,
    Query(&'a str),
}

impl Message<'_> {
    /// The frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = BytesMut::new();
        let encoded = match self {
            Self::AuthenticationOk => Authentication::Ok.encode(&mut frame),
            Self::AuthenticationCleartextPassword => Authentication::CleartextPassword.encode(&mut frame),
            Self::AuthenticationSasl(mechanisms) => {
                let mechanisms = mechanisms.iter().map(|&name| name.to_owned()).collect();
                Authentication::SASL(mechanisms).encode(&mut frame)
            }
            Self::AuthenticationSaslContinue(data) => {
                Authentication::SASLContinue(data.to_vec().into()).encode(&mut frame)
            }
            Self::AuthenticationSaslFinal(data) => {
                Authentication::SASLFinal(data.to_vec().into()).encode(&mut frame)
            }
            Self::BackendKeyData { process_id, secret_key } => {
                let key = SecretKey::Bytes(secret_key.to_vec().into());
                BackendKeyData::new(*process_id, key).encode(&mut frame)
            }
            Self::NegotiateProtocolVersion { version, options } => {
                NegotiateProtocolVersion::new(*version, options.to_vec()).encode(&mut frame)
            }
            Self::ReadyForQueryIdle => ReadyForQuery::new(TransactionStatus::Idle).encode(&mut frame),
            Self::Query(text) => Query::new((*text).to_owned()).encode(&mut frame),
        };
        // Encoding fails only where a key has a length that we never make.
        encoded.map(|()| frame.to_vec()).unwrap_or_default()
    }
}

/// ParameterStatus; values are bytes because `client_encoding` may be anything.
pub fn parameter_status(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let length = u32::try_from(4 + name.len() + value.len() + 2).unwrap_or(u32::MAX);
    out.push(b'S');
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.extend_from_slice(value);
    out.push(0);
}

/// Any frame around a `body`.
#[must_use]
pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(body.len() + 5);
    push_frame(&mut frame, tag, &[body]);
    frame
}

/// Appends a frame whose body is these parts, one behind the other.
pub fn push_frame(out: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) {
    push_head(out, tag, parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Appends the tag and length of a frame with a body of so many bytes.
pub fn push_head(out: &mut Vec<u8>, tag: u8, body_bytes: usize) {
    out.push(tag);
    out.extend_from_slice(&u32::try_from(body_bytes + 4).unwrap_or(u32::MAX).to_be_bytes());
}

/// Terminate.
pub const TERMINATE: &[u8] = b"X\0\0\0\x04";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_the_protocol_pages_say() {
        let rows: [(Message<'_>, &[u8]); 7] = [
            (Message::AuthenticationOk, b"R\0\0\0\x08\0\0\0\0"),
            (Message::AuthenticationCleartextPassword, b"R\0\0\0\x08\0\0\0\x03"),
            (Message::AuthenticationSasl(&["SCRAM-SHA-256"]), b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"),
            (Message::ReadyForQueryIdle, b"Z\0\0\0\x05I"),
            (Message::Query("x"), b"Q\0\0\0\x06x\0"),
            (
                Message::BackendKeyData { process_id: 1, secret_key: &[1, 2, 3, 4] },
                b"K\0\0\0\x0c\0\0\0\x01\x01\x02\x03\x04",
            ),
            (
                Message::NegotiateProtocolVersion { version: 0x0003_0002, options: &["_pq_.x".to_owned()] },
                b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0",
            ),
        ];
        for (message, expected) in rows {
            assert_eq!(message.encode(), expected, "{message:?}");
        }
    }
}
