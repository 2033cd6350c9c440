//! Connection strings as node-postgres reads them: pg-connection-string 2.14.1, over the WHATWG URL parser.
//! Nothing here repeats the string in an error: it usually holds the password.
//!
//! Deliberately narrower than JavaScript: a string without `scheme://` (which JavaScript takes for a path below
//! `postgres://base`, so that `localhost/db` means the host `base`) and one of the web's own schemes are refused.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::config::url::Url;
use crate::config::url::UrlError;
use crate::config::url::decode;
use crate::config::url::decode_path;
use crate::config::url::encoded;
use crate::config::url::query;

/// Why a connection string means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionStringError {
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("`{parameter}` names a file that cannot be read: {reason}")]
    File { parameter: &'static str, reason: String },
    #[error("`sslmode=verify-ca` with `uselibpqcompat` needs `sslrootcert`")]
    VerifyCaWithoutRoot,
}

type Parsed = Result<Map<String, Value>, ConnectionStringError>;

/// The key under `ssl` that says that the host's name is not compared (a function in JavaScript).
pub const IDENTITY_UNCHECKED: &str = "checkServerIdentity";

/// Reads a connection string into the keys of `backend.database.connection`. What is absent is an empty text, a
/// missing database `null`: both override a base connection, as in Backstage. `read` opens `sslrootcert` and its like.
///
/// # Errors
/// Where node-postgres would throw, and for what is no PostgreSQL URL.
pub fn parse(text: &str, read: impl Fn(&str) -> Result<String, String>) -> Parsed {
    if text.starts_with('/') {
        return Ok(socket_and_database(text));
    }
    let text = encoded(text);
    let url = Url::parse(&text).or_else(|error| {
        // node-postgres retries an empty host with a dummy.
        let retried = text.replacen("@/", "@___DUMMY___/", 1);
        if retried == text {
            return Err(error);
        }
        Url::parse(&retried).map(|url| Url { host: String::new(), ..url })
    })?;
    let mut out: Map<String, Value> =
        query(&url.query).map(|(name, value)| (name, Value::String(value))).collect();
    fill(&mut out, "user", decode(&url.user)?);
    fill(&mut out, "password", decode(&url.password)?);
    if url.scheme == "socket" {
        let first =
            |name: &str| query(&url.query).find(|(n, _)| n == name).map_or(Value::Null, |(_, v)| v.into());
        out.insert("host".to_owned(), decode_path(&url.path)?.into());
        out.insert("database".to_owned(), first("db"));
        out.insert("client_encoding".to_owned(), first("encoding"));
        return Ok(out);
    }
    address(&mut out, &url)?;
    tls(&mut out, read)?;
    Ok(out)
}

/// `/socket/directory database`
fn socket_and_database(text: &str) -> Map<String, Value> {
    let mut words = text.split(' ');
    let mut out = Map::new();
    for key in ["host", "database"] {
        out.extend(words.next().map(|word| (key.to_owned(), word.into())));
    }
    out
}

/// A query parameter of the same name wins over the part of the URL.
fn fill(out: &mut Map<String, Value>, key: &str, value: String) {
    if text_of(out, key).is_empty() {
        out.insert(key.to_owned(), value.into());
    }
}

fn text_of<'a>(out: &'a Map<String, Value>, key: &str) -> &'a str {
    out.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn address(out: &mut Map<String, Value>, url: &Url) -> Result<(), ConnectionStringError> {
    let mut path = url.path.clone();
    if text_of(out, "host").is_empty() {
        let host = url.host.trim_start_matches('[').trim_end_matches(']');
        out.insert("host".to_owned(), decode(host)?.into());
    } else if url.host.to_ascii_lowercase().starts_with("%2f") {
        path = format!("/{}{path}", url.host);
    }
    fill(out, "port", url.port.clone());
    let database = path.strip_prefix('/').filter(|path| !path.is_empty());
    let database = database.map(decode_path).transpose()?;
    out.insert("database".to_owned(), database.map_or(Value::Null, Value::String));
    Ok(())
}

/// `ssl`, `sslmode` and the files, by the library's own order of rules.
fn tls(
    out: &mut Map<String, Value>,
    read: impl Fn(&str) -> Result<String, String>,
) -> Result<(), ConnectionStringError> {
    let mut ssl = match text_of(out, "ssl") {
        "true" | "1" => Some(json!(true)),
        "0" => Some(json!(false)),
        _ => out.get("ssl").cloned(),
    };
    let files = [("sslcert", "cert"), ("sslkey", "key"), ("sslrootcert", "ca")];
    let given = |name: &str| !text_of(out, name).is_empty();
    if given("sslmode") || files.iter().any(|(name, _)| given(name)) {
        let mut object = Map::new();
        for (parameter, key) in files.into_iter().filter(|(name, _)| given(name)) {
            let text = read(text_of(out, parameter))
                .map_err(|reason| ConnectionStringError::File { parameter, reason })?;
            object.insert(key.to_owned(), text.into());
        }
        ssl = Some(by_mode(out, object)?);
    } else if text_of(out, "sslnegotiation") == "direct" && ssl.is_none() {
        ssl = Some(json!(true));
    }
    out.extend(ssl.map(|ssl| ("ssl".to_owned(), ssl)));
    Ok(())
}

fn by_mode(out: &Map<String, Value>, mut ssl: Map<String, Value>) -> Result<Value, ConnectionStringError> {
    let compatible = text_of(out, "uselibpqcompat") == "true";
    let unverified = ("rejectUnauthorized".to_owned(), json!(false));
    let unnamed = (IDENTITY_UNCHECKED.to_owned(), json!("skipped"));
    match (text_of(out, "sslmode"), compatible) {
        ("disable", _) => return Ok(json!(false)),
        ("no-verify", false) | ("prefer", true) => ssl.extend([unverified]),
        ("require", true) => ssl.extend([if ssl.contains_key("ca") { unnamed } else { unverified }]),
        ("verify-ca", true) if text_of(&ssl, "ca").is_empty() => {
            return Err(ConnectionStringError::VerifyCaWithoutRoot);
        }
        ("verify-ca", true) => ssl.extend([unnamed]),
        _ => {}
    }
    Ok(Value::Object(ssl))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Value, String> {
        let read = |path: &str| match path {
            "/ca.pem" => Ok("CA".to_owned()),
            _ => Err("there is no such file".to_owned()),
        };
        parse(text, read).map(Value::Object).map_err(|error| error.to_string())
    }

    #[test]
    fn the_parts_are_those_of_node_postgres() {
        assert_eq!(
            parsed("postgresql://u:p%40ss@h:5433/base?sslmode=require&application_name=a+b"),
            Ok(json!({
                "user": "u", "password": "p@ss", "host": "h", "port": "5433", "database": "base",
                "sslmode": "require", "ssl": {}, "application_name": "a b",
            }))
        );
        let socket = json!({ "user": "", "password": "", "host": "/run/pg", "port": "", "database": "db" });
        assert_eq!(parsed("postgres://%2Frun%2Fpg/db"), Ok(socket));
        assert_eq!(parsed("/run/pg db"), Ok(json!({ "host": "/run/pg", "database": "db" })));
        assert_eq!(parsed("postgres://[::1]:5432").unwrap()["host"], "::1");
        assert_eq!(parsed("postgres://u@/db?host=/run").unwrap()["host"], "/run");
    }

    #[test]
    fn ssl_has_the_librarys_meaning() {
        for (query, expected) in [
            ("", None),
            ("ssl=true", Some(json!(true))),
            ("ssl=0", Some(json!(false))),
            ("ssl=false", Some(json!("false"))),
            ("sslmode=disable", Some(json!(false))),
            ("sslmode=prefer", Some(json!({}))),
            ("ssl=true&sslmode=no-verify", Some(json!({ "rejectUnauthorized": false }))),
            ("sslrootcert=/ca.pem", Some(json!({ "ca": "CA" }))),
            ("uselibpqcompat=true&sslmode=require", Some(json!({ "rejectUnauthorized": false }))),
            (
                "uselibpqcompat=true&sslmode=require&sslrootcert=/ca.pem",
                Some(json!({ "ca": "CA", "checkServerIdentity": "skipped" })),
            ),
            ("sslnegotiation=direct", Some(json!(true))),
        ] {
            assert_eq!(
                parsed(&format!("postgres://h/db?{query}")).unwrap().get("ssl").cloned(),
                expected,
                "{query}"
            );
        }
    }

    #[test]
    fn what_means_nothing_is_refused_without_repeating_it() {
        for text in [
            "hunter2",
            "user:hunter2@h/db",
            "http://u:hunter2@h/db",
            "postgres://u:hunter2@h1:1,h2:2/db",
            "postgres://u:hunter2#@h/db",
            "postgres://u:hunter2@:5432/db",
            "postgres://u:hunter2@h:99999/db",
            "postgres://u:hunter2%ff@h/db",
            "postgres://u:hunter2@h/db?sslrootcert=system",
            "postgres://u:hunter2@h/db?sslmode=verify-ca&uselibpqcompat=true",
        ] {
            let error = parsed(text).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(postgres://|socket:|/)?[a-c:@/?#%\\[\\]&=+. ü0-9]{0,40}|.{0,40}") {
            let _ = parsed(&text);
        }
    }
}
