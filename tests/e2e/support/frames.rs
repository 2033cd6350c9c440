//! The frames that a client may send, written out by hand so that they can also be wrong.

pub const VERSION_3_0: u32 = 3 << 16;
pub const SSL_REQUEST: u32 = 80_877_103;
pub const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// A tagged frame.
pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![tag];
    frame.extend(untagged(body));
    frame
}

/// A frame without a tag, as all are before the login.
pub fn untagged(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a small frame");
    [length.to_be_bytes().as_slice(), body].concat()
}

pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend(text(name));
        body.extend(text(value));
    }
    body.push(0);
    untagged(&body)
}

/// SSLRequest, GSSENCRequest.
pub fn request(code: u32) -> Vec<u8> {
    untagged(&code.to_be_bytes())
}

pub fn cancel(pid: i32, key: &[u8]) -> Vec<u8> {
    untagged(&[CANCEL_REQUEST.to_be_bytes().as_slice(), &pid.to_be_bytes(), key].concat())
}

pub fn password(password: &[u8]) -> Vec<u8> {
    frame(b'p', &[password, &[0]].concat())
}

pub fn sasl_initial(mechanism: &str, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message");
    frame(b'p', &[text(mechanism).as_slice(), &length.to_be_bytes(), message].concat())
}

pub fn sasl_response(message: &[u8]) -> Vec<u8> {
    frame(b'p', message)
}

pub fn query(sql: &str) -> Vec<u8> {
    frame(b'Q', &text(sql))
}

pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [text(name), text(sql)].concat();
    body.extend(count(types.len()));
    body.extend(types.iter().flat_map(|oid| oid.to_be_bytes()));
    frame(b'P', &body)
}

/// Bind with parameters and results in text form.
pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    let mut body = [text(portal), text(statement)].concat();
    body.extend(count(0));
    body.extend(count(values.len()));
    for value in values {
        match value {
            None => body.extend((-1_i32).to_be_bytes()),
            Some(value) => {
                body.extend(u32::try_from(value.len()).expect("a short value").to_be_bytes());
                body.extend(value.as_bytes());
            }
        }
    }
    body.extend(count(0));
    frame(b'B', &body)
}

/// `kind` is `S` for a statement, `P` for a portal.
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    frame(b'D', &[&[kind], text(name).as_slice()].concat())
}

/// `rows_max` 0 means all.
pub fn execute(portal: &str, rows_max: u32) -> Vec<u8> {
    frame(b'E', &[text(portal).as_slice(), &rows_max.to_be_bytes()].concat())
}

/// `kind` is `S` for a statement, `P` for a portal.
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    frame(b'C', &[&[kind], text(name).as_slice()].concat())
}

pub fn sync() -> Vec<u8> {
    frame(b'S', &[])
}

pub fn flush() -> Vec<u8> {
    frame(b'H', &[])
}

pub fn copy_data(data: &[u8]) -> Vec<u8> {
    frame(b'd', data)
}

pub fn copy_done() -> Vec<u8> {
    frame(b'c', &[])
}

pub fn copy_fail(reason: &str) -> Vec<u8> {
    frame(b'f', &text(reason))
}

/// FunctionCall of the function with this oid, arguments and result in text form.
pub fn function_call(oid: u32, values: &[&str]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend(count(0));
    body.extend(count(values.len()));
    for value in values {
        body.extend(u32::try_from(value.len()).expect("a short value").to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend(count(0));
    frame(b'F', &body)
}

pub fn terminate() -> Vec<u8> {
    frame(b'X', &[])
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn count(count: usize) -> [u8; 2] {
    u16::try_from(count).expect("few").to_be_bytes()
}
