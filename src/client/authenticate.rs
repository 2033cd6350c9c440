//! A client proves that it knows the configured password: drives `auth::verifier` over the wire.

use aws_lc_rs::rand;
use thiserror::Error;

use crate::auth::verifier::AuthError;
use crate::auth::verifier::Verifier;
use crate::client::arrival::ArrivalError;
use crate::client::arrival::Doorway;
use crate::config::model::ClientAuth;
use crate::wire::frontend::cstring;
use crate::wire::message::Message;
use crate::wire::refusal::Refusal;

const MECHANISM: &str = "SCRAM-SHA-256";

/// Why a client did not get in.
#[derive(Debug, Error)]
pub enum LoginError {
    #[error("{0}")]
    Arrival(#[from] ArrivalError),
    /// Wrong password or unknown user: nobody is told which.
    #[error("password authentication failed")]
    Password,
    #[error("a malformed SASL message: {0}")]
    Sasl(String),
}

impl LoginError {
    /// What the client is told: the same words and code for a wrong password and an unknown user, and those of
    /// PostgreSQL (`auth_failed`).
    #[must_use]
    pub fn refusal(&self, user: &str) -> Option<Refusal> {
        match self {
            Self::Arrival(error) => error.refusal(),
            Self::Password => {
                Some(Refusal::fatal("28P01", &format!("password authentication failed for user \"{user}\"")))
            }
            Self::Sasl(_) => Some(Refusal::fatal("08P01", &self.to_string())),
        }
    }
}

impl From<std::io::Error> for LoginError {
    fn from(error: std::io::Error) -> Self {
        Self::Arrival(error.into())
    }
}

/// Asks the client for its proof, up to and with AuthenticationOk's turn: that is the caller's to send.
///
/// # Errors
/// As [`LoginError`].
pub async fn authenticate(
    door: &mut Doorway,
    how: ClientAuth,
    verifier: &Verifier,
) -> Result<(), LoginError> {
    match how {
        ClientAuth::Trust => Ok(()),
        ClientAuth::Password => password(door, verifier).await,
        ClientAuth::Scram => scram(door, verifier).await,
    }
}

async fn password(door: &mut Doorway, verifier: &Verifier) -> Result<(), LoginError> {
    door.tell(&Message::AuthenticationCleartextPassword.encode()).await?;
    let body = door.password_message().await?;
    let given = cstring(&body).map(|(password, _)| password).unwrap_or_default();
    if verifier.password(given) { Ok(()) } else { Err(LoginError::Password) }
}

async fn scram(door: &mut Doorway, verifier: &Verifier) -> Result<(), LoginError> {
    door.tell(&Message::AuthenticationSasl(&[MECHANISM]).encode()).await?;
    let body = door.password_message().await?;
    let first = initial_response(&body)?;
    let mut exchange = verifier.exchange();
    let mut nonce = [0; 18];
    rand::fill(&mut nonce)
        .map_err(|_| LoginError::Sasl("the system has no randomness to give".to_owned()))?;
    let challenge = exchange.first(first, nonce).map_err(refused)?;
    door.tell(&Message::AuthenticationSaslContinue(&challenge).encode()).await?;
    let response = door.password_message().await?;
    let outcome = exchange.finish(&response).map_err(refused)?;
    // It goes with what comes next, as PostgreSQL sends it (sendAuthRequest).
    door.owe(&Message::AuthenticationSaslFinal(&outcome).encode());
    Ok(())
}

fn refused(error: AuthError) -> LoginError {
    match error {
        AuthError::WrongPassword => LoginError::Password,
        AuthError::Malformed(_) | AuthError::ChannelBinding => LoginError::Sasl(error.to_string()),
    }
}

/// SASLInitialResponse: the mechanism, and the client's first message (protocol-message-formats).
fn initial_response(body: &[u8]) -> Result<&[u8], LoginError> {
    let (mechanism, rest) = cstring(body).ok_or_else(|| LoginError::Sasl("no mechanism".to_owned()))?;
    if mechanism != MECHANISM.as_bytes() {
        return Err(LoginError::Sasl("client selected an invalid SASL authentication mechanism".to_owned()));
    }
    let (length, data) =
        rest.split_first_chunk::<4>().ok_or_else(|| LoginError::Sasl("no response".to_owned()))?;
    match usize::try_from(i32::from_be_bytes(*length)) {
        Ok(length) if length == data.len() => Ok(data),
        _ => Err(LoginError::Sasl("a response of the wrong length".to_owned())),
    }
}
