//! We prove ourselves to PostgreSQL: SCRAM-SHA-256, with and without channel binding, md5 and cleartext.
//! Decides what may be answered at all; the exchange itself is `exchange`'s.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::ChannelBinding as Binding;
use postgres_protocol::authentication::sasl::SCRAM_SHA_256;
use postgres_protocol::authentication::sasl::SCRAM_SHA_256_PLUS;
use thiserror::Error;

use crate::auth::exchange::Exchange;
use crate::config::model::AuthMethod;
use crate::config::model::AuthPolicy;
use crate::config::model::ChannelBinding;
use crate::config::secret::Secret;

/// What is known of the connection when a server asks for a proof.
#[derive(Debug)]
pub struct Standing<'a> {
    pub user: &'a str,
    pub password: Option<&'a Secret>,
    pub policy: &'a AuthPolicy,
    pub channel_binding: ChannelBinding,
    /// `tls-server-end-point`, where the certificate has one.
    pub binding: Option<Vec<u8>>,
    /// Whether the server was verified.
    pub verified: bool,
    pub is_tls: bool,
    pub has_client_certificate: bool,
}

/// Why we do not answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProofError {
    #[error(
        "the server asks for a password, and none is configured. Set backend.database.connection.password"
    )]
    NoPassword,
    #[error(
        "the server asks for {asked}, which is not allowed. Let it use scram-sha-256 (pg_hba.conf, password_encryption), or add \"{name}\" to stagedoor.auth.allow"
    )]
    NotAllowed { asked: &'static str, name: &'static str },
    #[error(
        "the server asks for a password, in cleartext or hashed by md5, on a connection whose server is not verified: it gets none"
    )]
    NotVerified,
    #[error(
        "the server let us in without asking for any proof, so it may be anybody. Let pg_hba.conf ask for scram-sha-256, or add \"trust\" to stagedoor.auth.allow"
    )]
    Unasked,
    #[error("channel binding is required, but {0}. Set stagedoor.tls.channelBinding to prefer to do without")]
    NoBinding(&'static str),
    #[error("the server offers none of the SASL mechanisms that we know ({0})")]
    Mechanism(String),
    #[error(
        "the server asks for a proof that is not supported (authentication code {0}). Let it use scram-sha-256"
    )]
    Unsupported(i32),
    #[error("the server's side of SCRAM is wrong: {0}")]
    Scram(String),
    #[error("the server broke off the SCRAM exchange and let us in without its own proof")]
    Unproven,
}

impl Standing<'_> {
    fn allows(&self, method: AuthMethod) -> bool {
        self.policy.allow.contains(&method)
    }

    fn password(&self) -> Result<&Secret, ProofError> {
        self.password.ok_or(ProofError::NoPassword)
    }

    /// The answer to AuthenticationCleartextPassword: the password with its NUL.
    ///
    /// # Errors
    /// Unless it is allowed, and the server verified.
    pub fn cleartext(&self) -> Result<Vec<u8>, ProofError> {
        if !self.allows(AuthMethod::Password) {
            return Err(ProofError::NotAllowed { asked: "a cleartext password", name: "password" });
        }
        if !self.verified {
            return Err(ProofError::NotVerified);
        }
        Ok([self.password()?.expose().as_bytes(), b"\0"].concat())
    }

    /// The answer to AuthenticationMD5Password.
    ///
    /// # Errors
    /// Unless it is allowed, and the server verified.
    pub fn md5(&self, salt: [u8; 4]) -> Result<Vec<u8>, ProofError> {
        if !self.allows(AuthMethod::Md5) {
            return Err(ProofError::NotAllowed { asked: "an md5 password", name: "md5" });
        }
        if !self.verified {
            return Err(ProofError::NotVerified);
        }
        let hash = md5_hash(self.user.as_bytes(), self.password()?.expose().as_bytes(), salt);
        Ok([hash.as_bytes(), b"\0"].concat())
    }

    /// AuthenticationOk came without any question.
    ///
    /// # Errors
    /// Unless a client certificate has proven us, or `trust` is allowed.
    pub fn unasked(&self) -> Result<(), ProofError> {
        if self.has_client_certificate || self.allows(AuthMethod::Trust) {
            Ok(())
        } else {
            Err(ProofError::Unasked)
        }
    }

    /// The answer to AuthenticationSASL: the mechanism that is chosen, and the exchange that follows.
    ///
    /// # Errors
    /// Where none fits, or channel binding is required and cannot be had.
    pub fn scram(&self, offered: &[&str]) -> Result<(&'static str, Exchange), ProofError> {
        let password = self.password()?.expose().as_bytes();
        let plus = offered.contains(&SCRAM_SHA_256_PLUS) && self.is_tls;
        let binding = match (self.channel_binding, &self.binding) {
            (ChannelBinding::Disable, _) => None,
            (ChannelBinding::Require, _) if !self.is_tls => {
                return Err(ProofError::NoBinding("the connection is not TLS"));
            }
            (ChannelBinding::Require, None) => {
                return Err(ProofError::NoBinding(
                    "the server's certificate has a signature without a hash (Ed25519)",
                ));
            }
            (ChannelBinding::Require, Some(_)) if !plus => {
                return Err(ProofError::NoBinding("the server does not offer SCRAM-SHA-256-PLUS"));
            }
            (_, binding) => binding.clone(),
        };
        match binding {
            Some(data) if plus => {
                let binding = Binding::tls_server_end_point(data);
                Ok((SCRAM_SHA_256_PLUS, Exchange::begin(password, binding)))
            }
            _ if !offered.contains(&SCRAM_SHA_256) => Err(ProofError::Mechanism(brief(&offered.join(", ")))),
            // "y": we could bind, but were not offered it. A server that did offer it knows then that somebody
            // stands between us (RFC 5802, section 6).
            Some(_) => Ok((SCRAM_SHA_256, Exchange::begin(password, Binding::unrequested()))),
            None => Ok((SCRAM_SHA_256, Exchange::begin(password, Binding::unsupported()))),
        }
    }
}

/// What a server says of itself, fit for a line of a log.
pub(crate) fn brief(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// No text of a server's that has not proven itself yet is longer where it is shown.
const TEXT_CHARS_MAX: usize = 200;
