//! URLs as JavaScript takes them apart (WHATWG, schemes that are not "special"), as far as connection strings go.

use std::net::Ipv6Addr;

/// Why a text is no URL. Repeats nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it does not begin with `postgresql://`")]
    Scheme,
    #[error("it is not a valid URL: {0}")]
    Invalid(&'static str),
    #[error("it has a %-sequence that is not UTF-8")]
    Percent,
}

/// Where there is a blank or a stray `%`, the library encodes the whole string, and takes back what it doubled.
pub fn encoded(text: &str) -> String {
    if !text.contains(' ') && !has_stray_percent(text) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b";,/?:@&=+$-_.!~*'()#".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    let mut parts = out.split("%25");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |out, part| {
        let digits = part.bytes().take(2).filter(u8::is_ascii_digit).count() == 2;
        out + if digits { "%" } else { "%25" } + part
    })
}

/// `/%[^a-f0-9]|%[a-f0-9][^a-f0-9]/i`: at the very end of the string a short sequence does not count.
fn has_stray_percent(text: &str) -> bool {
    percent_signs(text).any(|(first, second)| match (first, second) {
        (Some(first), _) if !first.is_ascii_hexdigit() => true,
        (Some(_), Some(second)) => !second.is_ascii_hexdigit(),
        (None | Some(_), _) => false,
    })
}

/// The two bytes after every `%`.
fn percent_signs(text: &str) -> impl Iterator<Item = (Option<u8>, Option<u8>)> {
    let bytes = text.as_bytes();
    let signs = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    signs.map(|(at, _)| (bytes.get(at + 1).copied(), bytes.get(at + 2).copied()))
}

/// The parts of a URL with an authority, still encoded.
pub struct Url {
    pub scheme: String,
    pub user: String,
    pub password: String,
    pub host: String,
    pub port: String,
    pub path: String,
    pub query: String,
}

impl Url {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// Where the WHATWG parser fails, and for what has no authority or a scheme of the web.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text: String = text
            .trim_matches(|c: char| c <= ' ')
            .chars()
            .filter(|c| !matches!(c, '\t' | '\n' | '\r'))
            .collect();
        let (scheme, rest) = text.split_once(':').ok_or(UrlError::Scheme)?;
        let scheme = scheme.to_ascii_lowercase();
        let rest = rest.split('#').next().unwrap_or_default();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.find('/').map_or((rest, ""), |at| rest.split_at(at)),
            None if scheme == "socket" => ("", rest),
            None => return Err(UrlError::Scheme),
        };
        if !is_scheme(&scheme) {
            return Err(UrlError::Scheme);
        }
        Self::of(scheme, authority, without_dots(path), query.to_owned())
    }

    fn of(scheme: String, authority: &str, path: String, query: String) -> Result<Self, UrlError> {
        let (userinfo, address) = authority.rsplit_once('@').map_or((None, authority), |(u, a)| (Some(u), a));
        let userinfo_text = userinfo.unwrap_or_default();
        let (user, password) = userinfo_text.split_once(':').unwrap_or((userinfo_text, ""));
        let (host, port) = split_port(address);
        if host.is_empty() && (userinfo.is_some() || port.is_some()) {
            return Err(UrlError::Invalid("the host is missing"));
        }
        Ok(Self {
            scheme,
            user: user.to_owned(),
            password: password.to_owned(),
            host: host_of(host)?,
            port: port_of(port.unwrap_or_default())?,
            path,
            query,
        })
    }
}

/// PostgreSQL has no registered scheme, and node-postgres takes any; those of the web are certainly meant otherwise.
fn is_scheme(scheme: &str) -> bool {
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        && !["http", "https", "ws", "wss", "ftp", "file"].contains(&scheme)
}

/// A colon inside of brackets belongs to the host.
fn split_port(address: &str) -> (&str, Option<&str>) {
    let from = address.find(']').unwrap_or(0);
    match address.get(from..).and_then(|rest| rest.find(':')) {
        Some(at) => (address.get(..from + at).unwrap_or_default(), address.get(from + at + 1..)),
        None => (address, None),
    }
}

fn host_of(host: &str) -> Result<String, UrlError> {
    if let Some(inside) = host.strip_prefix('[') {
        let inside = inside.strip_suffix(']').ok_or(UrlError::Invalid("a bracket is not closed"))?;
        let address: Ipv6Addr = inside.parse().map_err(|_| UrlError::Invalid("that is no IPv6 address"))?;
        return Ok(format!("[{address}]"));
    }
    if host.contains(['\0', ' ', '#', '<', '>', '?', '@', '[', '\\', ']', '^', '|']) {
        return Err(UrlError::Invalid("the host has a character that no host has"));
    }
    Ok(host.to_owned())
}

fn port_of(port: &str) -> Result<String, UrlError> {
    if port.is_empty() {
        return Ok(String::new());
    }
    let number = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse::<u16>().ok()).flatten();
    number.map(|number| number.to_string()).ok_or(UrlError::Invalid(
        "the port is not a number up to 65535 (a `/`, `?`, `#` or `@` in the password must be %-encoded)",
    ))
}

/// Removes `.` and `..` from a path. A relative one (`socket:name`) stays as it is.
fn without_dots(path: &str) -> String {
    if !path.starts_with('/') {
        return path.to_owned();
    }
    let mut out: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part.to_ascii_lowercase().replace("%2e", ".").as_str() {
            "." if last => out.push(""),
            "." => {}
            ".." => {
                out.pop();
                if last {
                    out.push("");
                }
            }
            _ => out.push(part),
        }
    }
    format!("/{}", out.join("/"))
}

/// `URLSearchParams`: `+` is a blank, and broken sequences are replaced, not refused.
pub fn query(query: &str) -> impl Iterator<Item = (String, String)> {
    let decode =
        |text: &str| String::from_utf8_lossy(&percent(&text.replace('+', " "), |_| true)).into_owned();
    query.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

/// `decodeURIComponent`
///
/// # Errors
/// For a sequence that is not UTF-8, or no sequence.
pub fn decode(text: &str) -> Result<String, UrlError> {
    decode_where(text, |_| true)
}

/// `decodeURI`: what has a meaning in a URL stays encoded.
///
/// # Errors
/// For a sequence that is not UTF-8, or no sequence.
pub fn decode_path(text: &str) -> Result<String, UrlError> {
    decode_where(text, |byte| !b";/?:@&=+$,#".contains(&byte))
}

fn decode_where(text: &str, wanted: impl Fn(u8) -> bool) -> Result<String, UrlError> {
    let hex = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_hexdigit());
    if percent_signs(text).any(|(first, second)| !hex(first) || !hex(second)) {
        return Err(UrlError::Percent);
    }
    String::from_utf8(percent(text, wanted)).map_err(|_| UrlError::Percent)
}

/// Decodes `%XX` where `wanted` says so.
fn percent(text: &str, wanted: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = (byte == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|code| std::str::from_utf8(code).ok()).filter(|code| !code.contains('+'));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()).filter(|code| wanted(*code)) {
            Some(code) => {
                out.push(code);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}
