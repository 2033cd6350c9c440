//! Views of what clients send: borrowed, read no further than pooling needs.

/// Tags of frontend messages (protocol-message-formats).
pub mod tag {
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// What no client says: PostgreSQL understands nothing behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nonsense {
    /// A message of a type that there is not.
    Type(u8),
    /// A length that a message of its type cannot have.
    Length,
}

/// What Describe and Close name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Statement(&'a [u8]),
    Portal(&'a [u8]),
}

/// Whether the message that begins here is none. The first byte can tell, as it can PostgreSQL (`SocketBackend`).
#[must_use]
pub fn nonsense(bytes: &[u8]) -> Option<Nonsense> {
    let (&tag, rest) = bytes.split_first()?;
    let Some(longest) = longest(tag) else { return Some(Nonsense::Type(tag)) };
    let (length, _) = rest.split_first_chunk::<4>()?;
    (!(4..=longest).contains(&u32::from_be_bytes(*length))).then_some(Nonsense::Length)
}

/// The greatest length that PostgreSQL takes for messages of this type; `None` where there is no such type
/// (`SocketBackend`; `PQ_SMALL_MESSAGE_LIMIT`, `PQ_LARGE_MESSAGE_LIMIT`).
const fn longest(tag: u8) -> Option<u32> {
    match tag {
        tag::QUERY | tag::FUNCTION_CALL | tag::BIND | tag::PARSE | tag::COPY_DATA => Some(0x3fff_fffe),
        tag::CLOSE
        | tag::DESCRIBE
        | tag::EXECUTE
        | tag::FLUSH
        | tag::SYNC
        | tag::TERMINATE
        | tag::COPY_DONE
        | tag::COPY_FAIL => Some(10_000),
        _ => None,
    }
}

/// The bytes before the first NUL and those behind it.
#[must_use]
pub fn cstring(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    let (text, rest) = bytes.split_at_checked(end)?;
    Some((text, rest.get(1..)?))
}

/// Parse: the statement's name, and its text as far as it is there.
#[must_use]
pub fn parse(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = cstring(body)?;
    Some((name, cstring(rest).map_or(rest, |(text, _)| text)))
}

/// Bind: the names of portal and statement, and what follows them.
#[must_use]
pub fn bind(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (portal, rest) = cstring(body)?;
    let (statement, rest) = cstring(rest)?;
    Some((portal, statement, rest))
}

/// Describe and Close.
#[must_use]
pub fn target(body: &[u8]) -> Option<Target<'_>> {
    let (&kind, rest) = body.split_first()?;
    let (name, behind) = cstring(rest)?;
    match kind {
        _ if !behind.is_empty() => None, // An error, which is PostgreSQL's to tell.
        b'S' => Some(Target::Statement(name)),
        b'P' => Some(Target::Portal(name)),
        _ => None,
    }
}

/// Query: its text, without the final NUL where it is there.
#[must_use]
pub fn query(body: &[u8]) -> &[u8] {
    cstring(body).map_or(body, |(text, _)| text)
}

/// Rewrites the parameter values of a Bind body of which `translate` gives another process id.
/// Text and binary int4 and int8 values and arrays of them are understood; `None` where nothing changes.
#[must_use]
pub fn rewrite_bind(body: &[u8], translate: &mut dyn FnMut(i64) -> Option<i64>) -> Option<Vec<u8>> {
    let (_, _, rest) = bind(body)?;
    rewrite_values(body, rest, translate)
}

/// The number of the function that a FunctionCall calls.
#[must_use]
pub fn function(body: &[u8]) -> Option<u32> {
    body.first_chunk::<4>().map(|oid| u32::from_be_bytes(*oid))
}

/// As [`rewrite_bind`], of the arguments of a FunctionCall.
#[must_use]
pub fn rewrite_function_call(body: &[u8], translate: &mut dyn FnMut(i64) -> Option<i64>) -> Option<Vec<u8>> {
    rewrite_values(body, body.get(4..)?, translate)
}

/// `body` with the values in it rewritten; `rest` is its end from their formats on.
fn rewrite_values(
    body: &[u8],
    rest: &[u8],
    translate: &mut dyn FnMut(i64) -> Option<i64>,
) -> Option<Vec<u8>> {
    let mut out = body.get(..body.len() - rest.len())?.to_vec();
    let (formats, rest) = formats(rest)?;
    out.extend_from_slice(formats);
    let (count, mut rest) = split_u16(rest)?;
    out.extend_from_slice(&count.to_be_bytes());
    let mut changed = false;
    for index in 0..count {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let Ok(size) = usize::try_from(i32::from_be_bytes(*length)) else {
            out.extend_from_slice(length); // NULL
            rest = after;
            continue;
        };
        let (value, next) = after.split_at_checked(size)?;
        let replaced = translate_value(value, is_binary(formats, index), translate);
        changed |= replaced.is_some();
        let value = replaced.as_deref().unwrap_or(value);
        out.extend_from_slice(&i32::try_from(value.len()).ok()?.to_be_bytes());
        out.extend_from_slice(value);
        rest = next;
    }
    out.extend_from_slice(rest);
    changed.then_some(out)
}

fn translate_value(
    value: &[u8],
    binary: bool,
    translate: &mut dyn FnMut(i64) -> Option<i64>,
) -> Option<Vec<u8>> {
    if binary {
        return translate_number(value, translate).or_else(|| translate_array(value, translate));
    }
    let text = std::str::from_utf8(value).ok()?.trim();
    let Some(list) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) else {
        return translate(text.parse().ok()?).map(|real| real.to_string().into_bytes());
    };
    let mut changed = false;
    let mut real = |part: &str| {
        let real = part.trim_matches(['"', ' ']).parse().ok().and_then(&mut *translate);
        changed |= real.is_some();
        real.map_or_else(|| part.to_owned(), |real| real.to_string())
    };
    let list = list.split(',').map(&mut real).collect::<Vec<_>>().join(",");
    changed.then(|| format!("{{{list}}}").into_bytes())
}

/// A binary int4 or int8.
fn translate_number(value: &[u8], translate: &mut dyn FnMut(i64) -> Option<i64>) -> Option<Vec<u8>> {
    if let Ok(four) = <[u8; 4]>::try_from(value) {
        let real = translate(i64::from(i32::from_be_bytes(four)))?;
        return i32::try_from(real).ok().map(|real| real.to_be_bytes().to_vec());
    }
    let eight = <[u8; 8]>::try_from(value).ok()?;
    translate(i64::from_be_bytes(eight)).map(|real| real.to_be_bytes().to_vec())
}

/// A binary int4[] or int8[] (array_send): dimensions, whether there are NULLs, the type, then for each dimension its
/// length and lower bound, then the elements.
fn translate_array(value: &[u8], translate: &mut dyn FnMut(i64) -> Option<i64>) -> Option<Vec<u8>> {
    const INTEGERS: [[u8; 4]; 2] = [23_u32.to_be_bytes(), 20_u32.to_be_bytes()];
    let (dimensions, _) = value.split_first_chunk::<4>()?;
    let dimensions = usize::try_from(u32::from_be_bytes(*dimensions)).ok().filter(|count| *count <= 6)?;
    INTEGERS.iter().find(|oid| value.get(8..12) == Some(oid.as_slice()))?;
    let (head, mut rest) = value.split_at_checked(12 + 8 * dimensions)?;
    let (mut out, mut changed) = (head.to_vec(), false);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        out.extend_from_slice(length);
        let size = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0); // NULL
        let (element, next) = after.split_at_checked(size)?;
        let replaced = translate_number(element, translate);
        changed |= replaced.is_some();
        out.extend_from_slice(replaced.as_deref().unwrap_or(element));
        rest = next;
    }
    changed.then_some(out)
}

/// The format codes with their count, and what follows.
fn formats(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (count, _) = split_u16(bytes)?;
    bytes.split_at_checked(2 + 2 * usize::from(count))
}

/// None: all text. One: for all. Else one for each (protocol-message-formats, Bind).
fn is_binary(formats: &[u8], index: u16) -> bool {
    let codes = formats.get(2..).unwrap_or_default();
    let at = if codes.len() == 2 { 0 } else { usize::from(index) };
    codes.chunks_exact(2).nth(at) == Some(&[0, 1])
}

fn split_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*head), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind_body(formats: &[u16], values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut body = b"portal\0statement\0".to_vec();
        body.extend_from_slice(&u16::try_from(formats.len()).unwrap().to_be_bytes());
        formats.iter().for_each(|format| body.extend_from_slice(&format.to_be_bytes()));
        body.extend_from_slice(&u16::try_from(values.len()).unwrap().to_be_bytes());
        for value in values {
            match value {
                None => body.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(value) => {
                    body.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
                    body.extend_from_slice(value);
                }
            }
        }
        body.extend_from_slice(&[0, 0]);
        body
    }

    #[test]
    fn a_virtual_pid_is_translated_in_every_form_and_nothing_else() {
        let mut translate = |pid: i64| (pid == 1_073_741_825).then_some(77);
        let pid = 1_073_741_825_i64;
        let int4 = 1_073_741_825_i32.to_be_bytes();
        let array = |pid: &[u8]| {
            [&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 4], pid].concat()
        };
        let rows: [(&[u16], &[Option<&[u8]>], &[Option<&[u8]>]); 7] = [
            (&[1], &[Some(&array(&int4))], &[Some(&array(&77_i32.to_be_bytes()))]),
            (&[], &[Some(b"{5, 1073741825,NULL}")], &[Some(b"{5,77,NULL}")]),
            (&[], &[Some(b"1073741825")], &[Some(b"77")]),
            (&[1], &[Some(&int4), None], &[Some(&77_i32.to_be_bytes()), None]),
            (&[0, 1], &[Some(b"x"), Some(&pid.to_be_bytes())], &[Some(b"x"), Some(&77_i64.to_be_bytes())]),
            (&[0], &[Some(b"5"), Some(b"1073741825")], &[Some(b"5"), Some(b"77")]),
            (&[0, 0], &[None, Some(b"1073741825")], &[None, Some(b"77")]),
        ];
        for (formats, given, expected) in rows {
            let rewritten = rewrite_bind(&bind_body(formats, given), &mut translate);
            assert_eq!(rewritten, Some(bind_body(formats, expected)));
        }
        assert_eq!(rewrite_bind(&bind_body(&[], &[Some(b"12")]), &mut translate), None);
    }

    #[test]
    fn what_no_client_says_is_known_by_as_little_as_postgresql_needs() {
        let rows: [(&[u8], Option<Nonsense>); 10] = [
            (b"", None),
            (b"Q", None),
            (b"z", Some(Nonsense::Type(b'z'))),
            (b"p\0\0\0\x05\0", Some(Nonsense::Type(b'p'))),
            (b"S\0\0\0", None),
            (b"S\0\0\0\x04", None),
            (b"S\0\0\0\x03", Some(Nonsense::Length)),
            (b"D\0\0\x27\x11", Some(Nonsense::Length)),
            (b"Q\x3f\xff\xff\xfe", None),
            (b"Q\x3f\xff\xff\xff", Some(Nonsense::Length)),
        ];
        for (bytes, expected) in rows {
            assert_eq!(nonsense(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_body_that_is_cut_anywhere_is_no_panic() {
        let body = bind_body(&[0, 1], &[Some(b"1073741825"), Some(&[0, 0, 0, 1])]);
        for end in 0..body.len() {
            let _ = rewrite_bind(&body[..end], &mut |_| Some(1));
            let _ = (bind(&body[..end]), parse(&body[..end]), target(&body[..end]));
        }
    }
}
