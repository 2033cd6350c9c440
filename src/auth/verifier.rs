//! Clients prove themselves to us: SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's role, and plain passwords.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use aws_lc_rs::hmac;
use aws_lc_rs::pbkdf2;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::config::secret::Secret;

/// PostgreSQL's own count (SCRAM_SHA_256_DEFAULT_ITERATIONS): paid once per password, not per login.
const ITERATIONS: NonZeroU32 = match NonZeroU32::new(4096) {
    Some(count) => count,
    None => NonZeroU32::MIN,
};

/// A client's message has some 100 bytes; a nonce beyond this is not one.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Why a client was not believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthError {
    /// Wrong password or unknown user.
    #[error("password authentication failed")]
    WrongPassword,
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    #[error("client requires SCRAM channel binding, but it is not supported")]
    ChannelBinding,
}

/// Passwords of one user that are believed at a time. Of more, the one that nobody has used for longest is forgotten.
const PASSWORDS_MAX: usize = 8;

/// A salt for each name, whether it is somebody's or nobody's, and always the same one: two tries would otherwise tell
/// a stranger by its changing salt (PostgreSQL does the same for strangers, `scram_mock_salt`).
#[derive(Clone)]
pub struct Salts(hmac::Key);

impl fmt::Debug for Salts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salts(…)")
    }
}

impl Salts {
    /// `key` is random, and new with each process.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    #[must_use]
    pub fn of(&self, user: &str) -> [u8; 16] {
        let mut salt = [0; 16];
        for (to, from) in salt.iter_mut().zip(hmac::sign(&self.0, user.as_bytes()).as_ref()) {
            *to = *from;
        }
        salt
    }
}

/// What a client must know: the password, or one that was the password since the start. Backstage reads its
/// configuration once and goes on to prove the password of that time, while we have taken over the next one; refused,
/// it would be cut off by the very rotation that it should not notice. Whoever is in the pod and knows an old password
/// gets in until the pod is restarted, which is also what makes Backstage learn the new one.
#[derive(Clone)]
pub struct Verifier {
    salt: [u8; 16],
    /// Never none, the newest last.
    passwords: Vec<Arc<Known>>,
    /// Logins that were believed, to tell which password was used last.
    believed: Arc<AtomicU64>,
}

/// A password, in the form in which SCRAM asks for it.
struct Known {
    stored_key: Vec<u8>,
    server_key: hmac::Key,
    /// Nobody's: every proof is wrong.
    stranger: bool,
    password: Secret,
    /// The count of logins when it was believed last.
    used: AtomicU64,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(…)")
    }
}

impl Known {
    /// Derives the keys of `password`: half a millisecond, once.
    fn new(password: &Secret, salt: [u8; 16], stranger: bool, used: u64) -> Self {
        // What SASLprep forbids is taken as it is, as PostgreSQL does (pg_saslprep).
        let prepared = stringprep::saslprep(password.expose());
        let prepared = prepared.as_deref().unwrap_or_else(|_| password.expose());
        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &salt, prepared.as_bytes(), &mut salted);
        let salted = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let server_key = hmac::sign(&salted, b"Server Key");
        Self {
            stored_key: digest::digest(&digest::SHA256, client_key.as_ref()).as_ref().to_vec(),
            server_key: hmac::Key::new(hmac::HMAC_SHA256, server_key.as_ref()),
            stranger,
            password: password.clone(),
            used: AtomicU64::new(used),
        }
    }

    /// ClientKey = ClientProof XOR HMAC(StoredKey, AuthMessage), and H(ClientKey) must be StoredKey.
    fn believes(&self, transcript: &[u8], proof: &[u8]) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.stored_key);
        let signature = hmac::sign(&key, transcript);
        let client_key: Vec<u8> = signature.as_ref().iter().zip(proof).map(|(a, b)| a ^ b).collect();
        let hashed = digest::digest(&digest::SHA256, &client_key);
        let equal = verify_slices_are_equal(hashed.as_ref(), &self.stored_key).is_ok();
        equal && proof.len() == digest::SHA256_OUTPUT_LEN && !self.stranger
    }

    /// Both are hashed first, so time tells nothing of either.
    fn is(&self, given: &[u8]) -> bool {
        let given = digest::digest(&digest::SHA256, given);
        let ours = digest::digest(&digest::SHA256, self.password.expose().as_bytes());
        verify_slices_are_equal(given.as_ref(), ours.as_ref()).is_ok() && !self.stranger
    }
}

impl Verifier {
    /// Asks for `password`. `salt` is that of the user.
    #[must_use]
    pub fn new(password: &Secret, salt: [u8; 16]) -> Self {
        let known = Known::new(password, salt, false, 0);
        Self { salt, passwords: vec![Arc::new(known)], believed: Arc::default() }
    }

    /// For a user that nobody knows: it asks for the same as one who has `passwords`, takes as long, and never
    /// believes. `password` is random.
    #[must_use]
    pub fn stranger(password: &[u8], passwords: usize) -> Self {
        let salt = [0; 16];
        let known = Arc::new(Known::new(&Secret::new(STANDARD.encode(password)), salt, true, 0));
        Self { salt, passwords: vec![known; passwords.max(1)], believed: Arc::default() }
    }

    /// A stranger of another name.
    #[must_use]
    pub fn with_salt(&self, salt: [u8; 16]) -> Self {
        Self { salt, ..self.clone() }
    }

    /// Believes `password` too.
    #[must_use]
    pub fn with(&self, password: &Secret) -> Self {
        let mut verifier = self.clone();
        if self.passwords.iter().any(|known| known.password == *password) {
            return verifier;
        }
        if PASSWORDS_MAX <= verifier.passwords.len() {
            let unused =
                verifier.passwords.iter().map(|known| known.used.load(Ordering::Relaxed)).enumerate();
            let unused = unused.min_by_key(|(_, used)| *used).map_or(0, |(at, _)| at);
            verifier.passwords.remove(unused);
        }
        let now = self.believed.load(Ordering::Relaxed);
        verifier.passwords.push(Arc::new(Known::new(password, self.salt, false, now)));
        verifier
    }

    /// How many passwords it believes.
    #[must_use]
    pub fn passwords(&self) -> usize {
        self.passwords.len()
    }

    /// Whether `given` is a password that it believes.
    #[must_use]
    pub fn password(&self, given: &[u8]) -> bool {
        self.find(|known| known.is(given)).is_some()
    }

    /// Begins an exchange with one client.
    #[must_use]
    pub fn exchange(&self) -> Exchange<'_> {
        Exchange { verifier: self, transcript: String::new(), nonce: String::new(), header: String::new() }
    }

    /// The password that fits. All are tried, so time does not tell which one it was.
    fn find(&self, fits: impl Fn(&Known) -> bool) -> Option<&Known> {
        let fitting: Vec<&Arc<Known>> = self.passwords.iter().filter(|known| fits(known)).collect();
        let known = fitting.first()?;
        let count = self.believed.fetch_add(1, Ordering::Relaxed);
        known.used.store(count + 1, Ordering::Relaxed);
        Some(known)
    }
}

/// One SCRAM exchange.
#[derive(Debug)]
pub struct Exchange<'a> {
    verifier: &'a Verifier,
    /// AuthMessage so far (RFC 5802, section 3).
    transcript: String,
    nonce: String,
    /// The client's gs2-header, which it must repeat.
    header: String,
}

impl Exchange<'_> {
    /// Takes the client's first message, gives the challenge. `random` is our part of the nonce.
    ///
    /// # Errors
    /// As [`AuthError`].
    pub fn first(&mut self, message: &[u8], random: [u8; 18]) -> Result<Vec<u8>, AuthError> {
        let message = text(message)?;
        let bare = bare(message)?;
        let nonce = bare
            .split(',')
            .find_map(|part| part.strip_prefix("r="))
            .filter(|nonce| !nonce.is_empty() && nonce.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or(AuthError::Malformed("no nonce"))?;
        self.nonce = format!("{nonce}{}", STANDARD.encode(random));
        message.strip_suffix(bare).unwrap_or_default().clone_into(&mut self.header);
        let salt = STANDARD.encode(self.verifier.salt);
        let challenge = format!("r={},s={salt},i={ITERATIONS}", self.nonce);
        self.transcript = format!("{bare},{challenge}");
        Ok(challenge.into_bytes())
    }

    /// Takes the client's proof, gives ours.
    ///
    /// # Errors
    /// As [`AuthError`].
    pub fn finish(&self, message: &[u8]) -> Result<Vec<u8>, AuthError> {
        let message = text(message)?;
        let (without, proof) = message.rsplit_once(",p=").ok_or(AuthError::Malformed("no proof"))?;
        let mut parts = without.split(',');
        let binding = parts.next().and_then(|part| part.strip_prefix("c="));
        if binding != Some(STANDARD.encode(&self.header).as_str()) {
            return Err(AuthError::Malformed("the channel binding is not that of the first message"));
        }
        if parts.next().and_then(|part| part.strip_prefix("r=")) != Some(self.nonce.as_str()) {
            return Err(AuthError::Malformed("the nonce does not match"));
        }
        let proof = STANDARD.decode(proof).map_err(|_| AuthError::Malformed("the proof is not base64"))?;
        let transcript = format!("{},{without}", self.transcript);
        let known = self.verifier.find(|known| known.believes(transcript.as_bytes(), &proof));
        let known = known.ok_or(AuthError::WrongPassword)?;
        let signature = hmac::sign(&known.server_key, transcript.as_bytes());
        Ok(format!("v={}", STANDARD.encode(signature)).into_bytes())
    }
}

fn text(message: &[u8]) -> Result<&str, AuthError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(AuthError::Malformed("too long"));
    }
    std::str::from_utf8(message).map_err(|_| AuthError::Malformed("not UTF-8"))
}

/// The message behind its gs2-header: `n,,` or `y,,` (we offer no channel binding), with or without an identity.
fn bare(message: &str) -> Result<&str, AuthError> {
    let mut parts = message.splitn(3, ',');
    let (flag, identity, bare) = (parts.next(), parts.next(), parts.next());
    match (flag, identity) {
        (Some("n" | "y"), Some("")) => bare.ok_or(AuthError::Malformed("no message behind its header")),
        (Some("n" | "y"), _) => Err(AuthError::Malformed("an authorization identity is not supported")),
        (Some(flag), _) if flag.starts_with("p=") => Err(AuthError::ChannelBinding),
        _ => Err(AuthError::Malformed("no header")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::authentication::sasl::ChannelBinding;
    use postgres_protocol::authentication::sasl::ScramSha256;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    /// A whole exchange of postgres-protocol's client with our server.
    fn log_in(verifier: &Verifier, password: &str) -> Result<(), AuthError> {
        let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let mut exchange = verifier.exchange();
        let challenge = exchange.first(client.message(), [7; 18])?;
        client.update(&challenge).unwrap();
        let outcome = exchange.finish(client.message())?;
        client.finish(&outcome).unwrap();
        Ok(())
    }

    #[test]
    fn who_knows_the_password_gets_in_and_nobody_else() {
        let verifier = Verifier::new(&secret("päss wörd"), [1; 16]);
        assert_eq!(log_in(&verifier, "päss wörd"), Ok(()));
        assert_eq!(log_in(&verifier, "pass word"), Err(AuthError::WrongPassword));
        let stranger = Verifier::stranger(b"random", 1).with_salt([1; 16]);
        assert_eq!(log_in(&stranger, "päss wörd"), Err(AuthError::WrongPassword));
        assert!(verifier.password("päss wörd".as_bytes()) && !verifier.password(b"x"));
        assert!(!stranger.password(STANDARD.encode(b"random").as_bytes()));
    }

    #[test]
    fn a_password_of_before_is_believed_until_it_is_the_least_used_of_too_many() {
        let numbered = |number: usize| secret(&format!("password {number}"));
        let mut verifier = Verifier::new(&numbered(0), [1; 16]);
        for number in 1..40 {
            // Backstage was started with the first one, and logs in now and then.
            assert_eq!(log_in(&verifier, "password 0"), Ok(()), "after {number}");
            verifier = verifier.with(&numbered(number)).with(&numbered(number));
            assert!(verifier.passwords() <= PASSWORDS_MAX);
        }
        assert!(verifier.password(b"password 39") && verifier.password(b"password 33"));
        assert!(!verifier.password(b"password 32"));
        assert_eq!(log_in(&verifier, "password 32"), Err(AuthError::WrongPassword));
        assert_eq!(
            log_in(&verifier, "password 36"),
            Ok(()),
            "the proof of ours is that of the same password"
        );
    }

    #[test]
    fn every_name_has_a_salt_that_stays() {
        let (salts, others) = (Salts::new(&[1; 32]), Salts::new(&[2; 32]));
        assert_eq!(salts.of("backstage"), salts.of("backstage"));
        assert!(salts.of("backstage") != salts.of("stranger"));
        assert!(salts.of("backstage") != others.of("backstage"));
    }

    #[test]
    fn a_message_that_breaks_the_rules_is_refused() {
        let verifier = Verifier::new(&secret("x"), [1; 16]);
        for first in
            ["", "n", "n,,", "n,a=bob,n=,r=x", "x,,n=,r=x", "n,,n=,r=", "n,,n=,r=a b", "p=tls-unique,,n=,r=x"]
        {
            assert!(verifier.exchange().first(first.as_bytes(), [7; 18]).is_err(), "{first}");
        }
        let mut exchange = verifier.exchange();
        let challenge = exchange.first(b"n,,n=,r=abc", [7; 18]).unwrap();
        let nonce = String::from_utf8(challenge).unwrap();
        let nonce = nonce.split(',').next().unwrap().trim_start_matches("r=");
        for last in [
            "".to_owned(),
            format!("c=biws,r={nonce}"),
            format!("c=eSws,r={nonce},p=AAAA"),
            "c=biws,r=abc,p=AAAA".to_owned(),
            format!("c=biws,r={nonce},p=%%%"),
            format!("c=biws,r={nonce},p=AAAA"),
        ] {
            assert!(exchange.finish(last.as_bytes()).is_err(), "{last}");
        }
    }

    #[test]
    fn a_verifier_shows_nothing_of_its_password() {
        let shown = format!("{:?}", Verifier::new(&secret("hunter2"), [1; 16]));
        assert_eq!(shown, "Verifier(…)");
    }
}
