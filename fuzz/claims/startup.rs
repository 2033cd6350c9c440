//! The packets that open a connection: reading them is total, and what is accepted can be said again.

use stagedoor::wire::startup::Opening;
use stagedoor::wire::startup::Startup;
use stagedoor::wire::startup::length;
use stagedoor::wire::startup::options;
use stagedoor::wire::startup::parse;

/// The input is a packet without its length; and the same bytes as an `options` value.
pub(super) fn startup(input: &[u8]) {
    if let Some((head, _)) = input.split_first_chunk::<4>()
        && let Ok(length) = length(*head)
    {
        assert!((8..=10_000).contains(&length));
    }
    if let Ok(opening) = parse(input) {
        let said = said(&opening);
        assert_eq!(parse(&said).as_ref(), Ok(&opening), "{said:?}");
    }
    if let Some(settings) = options(input) {
        let text = written(&settings);
        assert_eq!(options(&text).as_ref(), Some(&settings), "{:?}", String::from_utf8_lossy(&text));
    }
}

fn said(opening: &Opening) -> Vec<u8> {
    match opening {
        Opening::SslRequest => 80_877_103_u32.to_be_bytes().to_vec(),
        Opening::GssEncRequest => 80_877_104_u32.to_be_bytes().to_vec(),
        Opening::Cancel { process_id, secret_key } => {
            [&80_877_102_u32.to_be_bytes(), &process_id.to_be_bytes(), secret_key.as_slice()].concat()
        }
        Opening::Startup(startup) => startup_message(startup),
    }
}

fn startup_message(startup: &Startup) -> Vec<u8> {
    let mut said = (0x0003_0000 | u32::from(startup.minor)).to_be_bytes().to_vec();
    let mut pair = |name: &str, value: &[u8]| {
        assert!(!name.is_empty() && !name.contains('\0') && !value.contains(&0), "{name}");
        said.extend_from_slice(&[name.as_bytes(), b"\0", value, b"\0"].concat());
    };
    pair("user", startup.user.as_bytes());
    pair("database", startup.database.as_bytes());
    startup.replication.iter().for_each(|value| pair("replication", value.as_bytes()));
    startup.parameters.iter().for_each(|(name, value)| pair(name, value));
    startup.unknown_options.iter().for_each(|name| pair(name, b""));
    said.push(0);
    said
}

/// Settings as one `options` value.
fn written(settings: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in settings {
        text.extend_from_slice(b" -c ");
        for &byte in [name.as_bytes(), b"=", value].concat().iter() {
            if byte == b'\\' || byte == 0x0b || byte.is_ascii_whitespace() {
                text.push(b'\\');
            }
            text.push(byte);
        }
    }
    text
}
