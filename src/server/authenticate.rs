//! Drives `auth::prover` over the wire, up to AuthenticationOk.

use tokio::task::spawn_blocking;

use crate::auth::prover::ProofError;
use crate::auth::prover::Standing;
use crate::server::connect::ConnectError;
use crate::server::connect::Greeter;
use crate::server::connect::Stage;
use crate::wire::backend::tag;
use crate::wire::frontend::cstring;
use crate::wire::message::frame;

/// What AuthenticationRequest says (protocol-message-formats).
enum Asked {
    Ok,
    Cleartext,
    Md5([u8; 4]),
    Sasl(Vec<String>),
    SaslContinue(Vec<u8>),
    SaslFinal(Vec<u8>),
    Other(i32),
}

impl Asked {
    fn parse(body: &[u8]) -> Option<Self> {
        let (code, rest) = body.split_first_chunk::<4>()?;
        Some(match i32::from_be_bytes(*code) {
            0 => Self::Ok,
            3 => Self::Cleartext,
            5 => Self::Md5(<[u8; 4]>::try_from(rest).ok()?),
            10 => Self::Sasl(mechanisms(rest)),
            11 => Self::SaslContinue(rest.to_vec()),
            12 => Self::SaslFinal(rest.to_vec()),
            other => Self::Other(other),
        })
    }
}

fn mechanisms(mut rest: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    while let Some((name, next)) = cstring(rest).filter(|(name, _)| !name.is_empty()) {
        names.push(String::from_utf8_lossy(name).into_owned());
        rest = next;
    }
    names
}

/// Answers what the server asks until it says AuthenticationOk.
pub(crate) async fn authenticate(
    greeter: &mut Greeter<'_>,
    standing: &Standing<'_>,
) -> Result<(), ConnectError> {
    let refuse = |error: ProofError| greeter_error(standing, &error);
    match next(greeter).await? {
        Asked::Ok => standing.unasked().map_err(refuse),
        Asked::Cleartext => {
            let answer = standing.cleartext().map_err(refuse)?;
            greeter.send(&frame(b'p', &answer)).await?;
            end(greeter, standing).await
        }
        Asked::Md5(salt) => {
            let answer = standing.md5(salt).map_err(refuse)?;
            greeter.send(&frame(b'p', &answer)).await?;
            end(greeter, standing).await
        }
        Asked::Sasl(offered) => scram(greeter, standing, &offered).await,
        Asked::SaslContinue(_) | Asked::SaslFinal(_) => {
            Err(refuse(ProofError::Scram("an answer before the question".to_owned())))
        }
        Asked::Other(code) => Err(refuse(ProofError::Unsupported(code))),
    }
}

async fn end(greeter: &mut Greeter<'_>, standing: &Standing<'_>) -> Result<(), ConnectError> {
    match next(greeter).await? {
        Asked::Ok => Ok(()),
        Asked::Cleartext
        | Asked::Md5(_)
        | Asked::Sasl(_)
        | Asked::SaslContinue(_)
        | Asked::SaslFinal(_)
        | Asked::Other(_) => {
            Err(greeter_error(standing, &ProofError::Scram("it asks twice for a proof".to_owned())))
        }
    }
}

async fn scram(
    greeter: &mut Greeter<'_>,
    standing: &Standing<'_>,
    offered: &[String],
) -> Result<(), ConnectError> {
    let refuse = |error: ProofError| greeter_error(standing, &error);
    let wrong = |error: std::io::Error| refuse(ProofError::Scram(error.to_string()));
    let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
    let (mechanism, mut exchange) = standing.scram(&offered).map_err(refuse)?;
    let first = exchange.message();
    let length = u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes();
    let body = [mechanism.as_bytes(), b"\0", &length, first].concat();
    greeter.send(&frame(b'p', &body)).await?;
    let Asked::SaslContinue(challenge) = next(greeter).await? else {
        return Err(refuse(ProofError::Unproven));
    };
    // As many rounds as the server likes, up to the library's cap: off the reactor.
    let derived = spawn_blocking(move || exchange.update(&challenge).map(|()| exchange)).await;
    let mut exchange = match derived {
        Ok(result) => result.map_err(wrong)?,
        Err(error) => return Err(refuse(ProofError::Scram(error.to_string()))),
    };
    greeter.send(&frame(b'p', exchange.message())).await?;
    let Asked::SaslFinal(proof) = next(greeter).await? else { return Err(refuse(ProofError::Unproven)) };
    exchange.finish(&proof).map_err(wrong)?;
    end(greeter, standing).await
}

async fn next(greeter: &mut Greeter<'_>) -> Result<Asked, ConnectError> {
    let (tag, body) = greeter.next(Stage::Auth).await?;
    let asked = if tag == tag::AUTHENTICATION { Asked::parse(&body) } else { None };
    asked.ok_or_else(|| greeter.broken(Stage::Auth, "no AuthenticationRequest where one is due"))
}

fn greeter_error(standing: &Standing<'_>, error: &ProofError) -> ConnectError {
    ConnectError::refused(Stage::Auth, "28000", &format!("user \"{}\": {error}", standing.user))
}
