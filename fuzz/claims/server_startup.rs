//! Our side of a start-up and of SCRAM against any bytes of a server's: nobody hears the password who may not, nobody
//! lets us in whom we should not believe, and it costs no more than it may.

use stagedoor::auth::prover::Standing;
use stagedoor::config::model::AuthMethod;
use stagedoor::config::model::AuthPolicy;
use stagedoor::config::model::ChannelBinding;
use stagedoor::config::secret::Secret;
use stagedoor::server::connect::ConnectError;
use stagedoor::server::startup::Greeting;
use stagedoor::server::startup::STARTUP_BYTES_MAX;
use stagedoor::server::startup::Startup;
use stagedoor::server::startup::Step;

const PASSWORD: &str = "password-77c2";

/// In the input this stands for our nonce, once it is out: so that a challenge can be a good one.
const NONCE: &[u8] = b"$nonce";

/// More rounds than these are not worth a fuzzer's time.
const ROUNDS_WORTH_IT: u32 = 200;

/// No text for an operator is longer, however much the server said.
const TEXT_BYTES_MAX: usize = 6_000;

/// The first byte is the policy, the second how much comes at a time, the rest what the server says.
pub(crate) fn server_startup(input: &[u8]) {
    let [policy, pace, said @ ..] = input else { return };
    let policy = Policy(*policy);
    let at_a_time = usize::from(*pace).max(1);
    let outcome = Play { policy, at_a_time, answers: Vec::new(), nonce: Vec::new() }.run(said);
    if let Some(Ok(greeting)) = &outcome {
        policy.may_end_with(greeting);
    }
    if let Some(Err(error)) = &outcome {
        let text = error.to_string();
        assert!(text.len() < TEXT_BYTES_MAX && !text.contains(PASSWORD), "{text}");
        assert!(!text.is_empty() && error.refusal().sqlstate().len() == 5, "{text}");
    }
}

/// What is allowed and known, a bit each.
#[derive(Clone, Copy)]
struct Policy(u8);

impl Policy {
    fn has(self, bit: u8) -> bool {
        self.0 >> bit & 1 == 1
    }

    fn allow(self) -> AuthPolicy {
        let methods = [AuthMethod::Md5, AuthMethod::Password, AuthMethod::Trust];
        AuthPolicy {
            allow: (0..3).filter(|&bit| self.has(bit)).map(|bit| methods[usize::from(bit)]).collect(),
        }
    }

    fn is_verified(self) -> bool {
        self.has(3)
    }

    fn has_card(self) -> bool {
        self.has(4)
    }

    fn standing<'a>(self, allow: &'a AuthPolicy, password: &'a Secret) -> Standing<'a> {
        Standing {
            user: "user-8d1f",
            password: (!self.has(7)).then_some(password),
            policy: allow,
            channel_binding: match self.0 >> 5 & 3 {
                0 => ChannelBinding::Disable,
                1 => ChannelBinding::Require,
                _ => ChannelBinding::Prefer,
            },
            binding: self.is_verified().then(|| vec![7; 32]),
            verified: self.is_verified(),
            is_tls: self.is_verified() || self.has_card(),
            has_client_certificate: self.has_card(),
        }
    }

    /// Whom the password may reach as it is, and whom as a hash.
    fn may_end_with(self, greeting: &Greeting) {
        let allowed = self.allow().allow;
        let is_allowed = match greeting.method {
            "nothing asked" => self.has_card() || allowed.contains(&AuthMethod::Trust),
            "password" => self.is_verified() && allowed.contains(&AuthMethod::Password),
            "md5" => self.is_verified() && allowed.contains(&AuthMethod::Md5),
            // Nobody here knows the password, so nobody can prove that.
            _ => false,
        };
        assert!(is_allowed, "{greeting:?}");
        assert!(greeting.secret_key.len() <= 256);
    }
}

/// One start-up with one server.
struct Play {
    policy: Policy,
    at_a_time: usize,
    answers: Vec<Vec<u8>>,
    nonce: Vec<u8>,
}

impl Play {
    /// `None` where the server has no more to say, or asks for more rounds than are worth it.
    fn run(mut self, said: &[u8]) -> Option<Result<Greeting, ConnectError>> {
        let (allow, password) = (self.policy.allow(), Secret::new(PASSWORD.to_owned()));
        let mut startup = Startup::new(self.policy.standing(&allow, &password));
        let (mut rest, mut heard) = (said, 0);
        let mut next = startup.step();
        loop {
            let step = match next {
                Ok(step) => step,
                Err(error) => return Some(Err(error)),
            };
            next = match step {
                Step::Ready(greeting) => return Some(Ok(greeting)),
                Step::Read => {
                    let words = self.take(&mut rest)?;
                    heard += words.len();
                    match startup.receive(&words) {
                        Ok(()) => {
                            assert!(heard <= STARTUP_BYTES_MAX, "{heard} bytes were taken");
                            startup.step()
                        }
                        Err(error) => Err(error),
                    }
                }
                Step::Send(answer) => {
                    self.hear(answer);
                    startup.step()
                }
                Step::Derive(derivation) if derivation.rounds > ROUNDS_WORTH_IT => {
                    assert!(derivation.rounds <= 100_000, "{}", derivation.rounds);
                    return None;
                }
                Step::Derive(derivation) => startup.answer(derivation.run()),
            };
        }
    }

    /// The next words of the server, with our nonce where it is meant.
    fn take(&self, rest: &mut &[u8]) -> Option<Vec<u8>> {
        if let Some(after) = rest.strip_prefix(NONCE).filter(|_| !self.nonce.is_empty()) {
            *rest = after;
            return Some(self.nonce.clone());
        }
        // A nonce is replaced whole, wherever it begins.
        let until = rest
            .windows(NONCE.len())
            .skip(1)
            .position(|words| words == NONCE)
            .map_or(rest.len(), |at| at + 1);
        let (words, after) = rest.split_at(self.at_a_time.min(until).min(rest.len()));
        *rest = after;
        (!words.is_empty()).then(|| words.to_vec())
    }

    /// What goes out is a frame of ours, and holds the password only where it may.
    fn hear(&mut self, answer: Vec<u8>) {
        assert_eq!(answer[0], b'p');
        assert_eq!(
            u32::from_be_bytes(answer[1..5].try_into().unwrap_or_default()) as usize,
            answer.len() - 1
        );
        let holds_it = answer.windows(PASSWORD.len()).any(|words| words == PASSWORD.as_bytes());
        let may = self.policy.is_verified() && self.policy.allow().allow.contains(&AuthMethod::Password);
        assert!(!holds_it || may, "the password went out: {answer:?}");
        if self.nonce.is_empty()
            && let Some(at) = answer.windows(3).position(|words| words == b",r=")
        {
            self.nonce = answer[at + 3..].to_vec();
        }
        self.answers.push(answer);
        assert!(self.answers.len() <= 2, "one start-up needs two answers at the most");
    }
}
