//! The empty statement in the place of one that a server has not got, where PostgreSQL says the same of both: preparing
//! it cannot fail, and what comes of it has PostgreSQL's own words, in the order in which PostgreSQL finds it.

use crate::session::state::ServerState;
use crate::sql::shape::shape;
use crate::wire::frontend;

/// The type of parameters whose type nobody looks at (text).
const ANY_TYPE: [u8; 4] = [0, 0, 0, 25];

/// What a statement is wanted for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// With so many parameters, and formats of them.
    Bind {
        parameters: u16,
        formats: u16,
    },
    Describe,
}

/// What to prepare.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Itself,
    /// The body of a Parse behind the name.
    StandIn(Vec<u8>),
    /// It hangs on the answer to an earlier batch.
    Unsure,
}

impl Wanted {
    /// As the body of a Bind says behind its names, and as far as it is there.
    pub(super) fn bind(rest: &[u8]) -> Option<Self> {
        let (formats, rest) = count(rest)?;
        let (parameters, _) = count(rest.get(2 * usize::from(formats)..)?)?;
        Some(Self::Bind { parameters, formats })
    }
}

/// What a server may prepare instead of `behind`, the body of a Parse behind its name.
///
/// A Bind with a wrong number of parameters is refused whatever the statement and the transaction
/// (`exec_bind_message`). In a failed transaction each other is refused as well, unless it ends the transaction, and
/// there Describe tells the parameters of what returns no rows (`exec_describe_statement_message`), while nothing can be
/// prepared but the empty statement.
pub(super) fn choose(server: &ServerState, behind: &[u8], wanted: Wanted) -> Choice {
    let text = frontend::query(behind);
    let declared = behind.get(text.len() + 1..).and_then(count);
    let Some((declared, types)) = declared else { return Choice::Itself };
    let shape = shape(text, server.reported.dialect().encoding, declared);
    let Some(parameters) = shape.parameters else { return Choice::Itself };
    let stand_in = || Choice::StandIn(empty(types, parameters));
    match wanted {
        Wanted::Bind { parameters: given, formats } => {
            let is_wrong = given != parameters || (formats > 1 && formats != given);
            if is_wrong || (server.has_failed() && !shape.is_exit) { stand_in() } else { Choice::Itself }
        }
        Wanted::Describe => {
            let (oids, _) = types.as_chunks();
            let is_known = declared == parameters && !oids.contains(&[0; 4]);
            match (is_known && shape.is_silent, server.has_failed()) {
                (true, true) => stand_in(),
                (true, false) if server.pipeline.is_behind() => Choice::Unsure,
                _ => Choice::Itself,
            }
        }
    }
}

/// The empty statement with so many parameters, of the types that are declared as far as they are.
fn empty(types: &[u8], parameters: u16) -> Vec<u8> {
    let mut behind = vec![0];
    behind.extend_from_slice(&parameters.to_be_bytes());
    let (declared, _) = types.as_chunks::<4>();
    let declared = declared.iter().map(|oid| if *oid == [0; 4] { ANY_TYPE } else { *oid });
    behind.extend(declared.chain(std::iter::repeat(ANY_TYPE)).take(usize::from(parameters)).flatten());
    behind
}

fn count(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (count, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*count), rest))
}
