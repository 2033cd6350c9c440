//! The server's side of SCRAM-SHA-256 (RFC 5802), well done or bent, for scripts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;

use aws_lc_rs::digest;
use aws_lc_rs::hmac;
use aws_lc_rs::pbkdf2;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::scripted::authentication;
use crate::support::front::Act;

/// What is wrong with the server's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bent {
    Nothing,
    /// `server-first-message` is this, with `$` for the client's nonce.
    First(&'static str),
    /// The server's signature is somebody else's.
    Signature,
    /// `server-final-message` is this.
    Final(&'static str),
}

/// The acts from the StartupMessage to AuthenticationSASLFinal and AuthenticationOk, without channel binding.
pub(crate) fn exchange(password: &'static str, bent: Bent) -> Vec<Act> {
    // What was spoken so far, by the client's nonce: several clients may be here at a time.
    let spoken = Arc::new(Mutex::new(HashMap::new()));
    let (heard, also_bent) = (spoken.clone(), bent.clone());
    let first = move |words: &[u8]| {
        let bare = client_first_bare(words);
        let nonce = bare.split_once("r=").map_or("", |(_, nonce)| nonce);
        let template =
            if let Bent::First(template) = &bent { template } else { "r=$server,s=c2FsdA==,i=4096" };
        let words = template.replace('$', nonce);
        heard.lock().unwrap().insert(nonce.to_owned(), format!("{bare},{words}"));
        authentication(11, words.as_bytes())
    };
    let last = move |words: &[u8]| {
        let text = String::from_utf8_lossy(words.get(5..).unwrap_or_default()).into_owned();
        let without_proof = text.split_once(",p=").map_or("", |(before, _)| before);
        let spoken = spoken.lock().unwrap();
        let own = spoken.iter().find(|(nonce, _)| without_proof.contains(nonce.as_str()));
        let message = format!("{},{without_proof}", own.map_or("", |(_, words)| words));
        let signed = if also_bent == Bent::Signature { "another message" } else { &message };
        let words =
            if let Bent::Final(words) = also_bent { words.to_owned() } else { signature(password, signed) };
        [authentication(12, words.as_bytes()), authentication(0, b"")].concat()
    };
    let offer = authentication(10, b"SCRAM-SHA-256\0\0");
    vec![Act::Say(offer), Act::Answer(Arc::new(first)), Act::Answer(Arc::new(last))]
}

/// Of a SASLInitialResponse, what follows the GS2 header.
fn client_first_bare(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words).into_owned();
    text.split_once("n=,r=").map_or_else(String::new, |(_, nonce)| format!("n=,r={nonce}"))
}

fn signature(password: &str, message: &str) -> String {
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    let rounds = std::num::NonZeroU32::new(4096).unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, b"salt", password.as_bytes(), &mut salted);
    let sign = |key: &[u8], message: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    let server_key = sign(&salted, b"Server Key");
    format!("v={}", STANDARD.encode(sign(server_key.as_ref(), message.as_bytes())))
}
