//! One SCRAM-SHA-256 exchange (RFC 5802, RFC 7677), our side of it: three messages, each looked at before anything is
//! derived from it. The mathematics are postgres-protocol's.

use std::fmt;

use postgres_protocol::authentication::sasl::ChannelBinding;
use postgres_protocol::authentication::sasl::ScramSha256;

use crate::auth::prover::ProofError;
use crate::auth::prover::brief;

/// More rounds are not done: PostgreSQL's own number is 4096, and a server may ask for 2^31. The library's bound too.
const ROUNDS_MAX: u32 = 100_000;

/// An exchange that was begun.
pub struct Exchange {
    scram: ScramSha256,
    nonce: String,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exchange(…)") // It holds the password.
    }
}

/// A challenge that was looked at, and what it costs to answer it.
#[derive(Debug)]
pub struct Derivation {
    exchange: Exchange,
    challenge: Vec<u8>,
    /// How many rounds of HMAC.
    pub rounds: u32,
}

impl Exchange {
    #[must_use]
    pub fn begin(password: &[u8], binding: ChannelBinding) -> Self {
        let scram = ScramSha256::new(password, binding);
        let first = String::from_utf8_lossy(scram.message());
        let nonce = first.rsplit_once(",r=").map_or_else(String::new, |(_, nonce)| nonce.to_owned());
        Self { scram, nonce }
    }

    /// What is to be sent next: `client-first-message`, or `client-final-message` after a derivation.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        self.scram.message()
    }

    /// Takes `server-first-message`.
    ///
    /// # Errors
    /// Where it is none, or not one that may be answered.
    pub fn challenged(self, challenge: &[u8]) -> Result<Derivation, ProofError> {
        let rounds = read_challenge(challenge, &self.nonce).map_err(wrong)?;
        Ok(Derivation { exchange: self, challenge: challenge.to_vec(), rounds })
    }

    /// Takes `server-final-message`: the server's own proof that it knows the password.
    ///
    /// # Errors
    /// Where it is none.
    pub fn finish(mut self, proof: &[u8]) -> Result<(), ProofError> {
        if let Some(error) = proof.strip_prefix(b"e=") {
            let error = String::from_utf8_lossy(error);
            return Err(wrong(format!("it says \"{}\"", brief(&error))));
        }
        self.scram.finish(proof).map_err(|error| wrong(format!("its own proof does not hold ({error})")))
    }
}

impl Derivation {
    /// Derives the keys. Takes milliseconds, a thousand rounds each or so: not for a thread that serves others.
    ///
    /// # Errors
    /// Where the library finds what was overlooked.
    pub fn run(mut self) -> Result<Exchange, ProofError> {
        self.exchange.scram.update(&self.challenge).map_err(|error| wrong(error.to_string()))?;
        Ok(self.exchange)
    }
}

fn wrong(what: impl Into<String>) -> ProofError {
    ProofError::Scram(brief(&what.into()))
}

/// Looks at `r=…,s=…,i=…` and gives the number of rounds.
fn read_challenge(challenge: &[u8], own_nonce: &str) -> Result<u32, String> {
    let text = std::str::from_utf8(challenge).map_err(|_| "its challenge is no text".to_owned())?;
    if text.starts_with("m=") {
        return Err("it insists on an extension (m=), of which there is none".to_owned());
    }
    let no_challenge = || "its challenge is none (r=…,s=…,i=…)".to_owned();
    let mut parts = text.split(',');
    let mut part =
        |name: &str| parts.next().and_then(|part| part.strip_prefix(name)).ok_or_else(no_challenge);
    let (nonce, salt, rounds) = (part("r=")?, part("s=")?, part("i=")?);
    if parts.next().is_some() {
        return Err("its challenge goes on behind the rounds".to_owned());
    }
    let extended = nonce.strip_prefix(own_nonce).is_some_and(|more| !more.is_empty());
    if !extended || own_nonce.is_empty() {
        return Err("its nonce is not an extension of ours".to_owned());
    }
    if salt.is_empty() {
        return Err("its salt is empty".to_owned());
    }
    let count = rounds.parse().ok().filter(|count| (1..=ROUNDS_MAX).contains(count));
    count.ok_or_else(|| format!("it asks for {rounds} rounds, and between 1 and {ROUNDS_MAX} are done"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";

    /// RFC 7677, section 3.
    #[test]
    fn the_challenge_of_the_rfc_is_one() {
        let challenge =
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(read_challenge(challenge.as_bytes(), NONCE), Ok(4096));
    }

    #[test]
    fn what_is_wrong_with_a_challenge_is_named() {
        let rows = [
            ("r=rOprNGfwEbeRWgbNEkqO,s=c2FsdA==,i=4096", "not an extension"),
            ("r=rOprNGfwEbeRWgbNEkq,s=c2FsdA==,i=4096", "not an extension"),
            ("r=anotherrOprNGfwEbeRWgbNEkqO,s=c2FsdA==,i=4096", "not an extension"),
            ("r=,s=c2FsdA==,i=4096", "not an extension"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096", "salt is empty"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=c2FsdA==,i=0", "asks for 0 rounds"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=c2FsdA==,i=100001", "asks for 100001 rounds"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=c2FsdA==,i=2147483647", "asks for 2147483647 rounds"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=c2FsdA==,i=-1", "asks for -1 rounds"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=c2FsdA==,i=", "asks for  rounds"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=c2FsdA==", "is none"),
            ("s=c2FsdA==,r=rOprNGfwEbeRWgbNEkqOx,i=4096", "is none"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=c2FsdA==,i=4096,x=y", "goes on"),
            ("m=must,r=rOprNGfwEbeRWgbNEkqOx,s=c2FsdA==,i=4096", "extension (m=)"),
            ("e=unknown-user", "is none"),
            ("", "is none"),
        ];
        for (challenge, word) in rows {
            let why = read_challenge(challenge.as_bytes(), NONCE).unwrap_err();
            assert!(why.contains(word), "{challenge}: {why}");
        }
        assert!(read_challenge(b"r=\xff,s=c2FsdA==,i=4096", NONCE).unwrap_err().contains("no text"));
    }

    #[test]
    fn one_round_is_enough_for_who_is_verified() {
        let exchange = Exchange::begin(b"secret", ChannelBinding::unsupported());
        let challenge = format!("r={}server,s=c2FsdA==,i=1", exchange.nonce);
        let exchange = exchange.challenged(challenge.as_bytes()).unwrap().run().unwrap();
        assert!(exchange.message().starts_with(b"c=biws,r="));
        let error = exchange.finish(b"e=other-error").unwrap_err();
        assert!(error.to_string().contains("\"other-error\""), "{error}");
    }

    #[test]
    fn a_salt_that_is_none_ends_the_derivation() {
        let exchange = Exchange::begin(b"secret", ChannelBinding::unsupported());
        let challenge = format!("r={}server,s=***,i=1", exchange.nonce);
        exchange.challenged(challenge.as_bytes()).unwrap().run().unwrap_err();
    }

    #[test]
    fn what_a_server_says_is_shown_briefly() {
        let exchange = Exchange::begin(b"secret", ChannelBinding::unsupported());
        let error = exchange.finish(&[b"e=\x1b[31m".as_slice(), &[b'x'; 100_000]].concat()).unwrap_err();
        let text = error.to_string();
        assert!(text.len() < 400 && !text.contains('\x1b'), "{text}");
    }
}
