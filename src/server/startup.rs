//! Our side of a start-up, from behind the StartupMessage to ReadyForQuery: a server's bytes in, steps out.
//! Moves no byte itself and waits for nothing, so that any bytes can be tried on it.

use crate::auth::exchange::Derivation;
use crate::auth::exchange::Exchange;
use crate::auth::prover::ProofError;
use crate::auth::prover::Standing;
use crate::server::connect::ConnectError;
use crate::server::connect::Stage;
use crate::wire::backend::parameter_status;
use crate::wire::backend::tag;
use crate::wire::frame::Frame;
use crate::wire::frontend::cstring;
use crate::wire::message::frame;

/// What a server may send before it is ready, in all: PostgreSQL needs some 600 bytes. Endless notices end here.
pub const STARTUP_BYTES_MAX: usize = 256 * 1024;

/// How long a cancel key may be: four bytes in protocol 3.0, up to 256 in 3.2.
const CANCEL_KEY_BYTES: std::ops::RangeInclusive<usize> = 4..=256;

/// A start-up under way.
#[derive(Debug)]
pub struct Startup<'a> {
    standing: Standing<'a>,
    /// Received and not yet read. Bounded as `total` is.
    unread: Vec<u8>,
    total: usize,
    phase: Phase,
    /// By what we prove ourselves, as far as is known.
    method: &'static str,
}

/// What is due next.
#[derive(Debug)]
enum Phase {
    /// The first AuthenticationRequest.
    Asked,
    /// The challenge, or the server's proof where it was answered.
    Scram(Exchange, Awaited),
    /// AuthenticationOk: everything was proven that had to be.
    Proven,
    /// ReadyForQuery.
    Accepted(Greeting),
    /// Nothing: it is over, or a derivation has not come back.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Challenge,
    Proof,
}

/// What the shell does next.
#[derive(Debug)]
pub enum Step {
    /// Read something, and give it to [`Startup::receive`].
    Read,
    Send(Vec<u8>),
    /// Run it where it keeps nobody waiting, and give the outcome to [`Startup::answer`].
    Derive(Derivation),
    Ready(Greeting),
}

/// What a server says when it lets somebody in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// By what we proved ourselves: `SCRAM-SHA-256-PLUS` and the like.
    pub method: &'static str,
    pub process_id: i32,
    pub secret_key: Vec<u8>,
    /// ParameterStatus up to the first ReadyForQuery.
    pub parameters: Vec<(String, String)>,
}

/// What AuthenticationRequest says (protocol-message-formats).
#[derive(Debug)]
enum Asked {
    Ok,
    Cleartext,
    Md5([u8; 4]),
    Sasl(Vec<String>),
    SaslContinue(Vec<u8>),
    SaslFinal(Vec<u8>),
    Other(i32),
}

impl<'a> Startup<'a> {
    /// Of a connection whose StartupMessage is out.
    #[must_use]
    pub const fn new(standing: Standing<'a>) -> Self {
        Self { standing, unread: Vec::new(), total: 0, phase: Phase::Asked, method: "nothing asked" }
    }

    /// How far it has come.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self.phase {
            Phase::Asked | Phase::Scram(..) | Phase::Proven | Phase::Nothing => Stage::Auth,
            Phase::Accepted(_) => Stage::Startup,
        }
    }

    /// Takes what the server sent.
    ///
    /// # Errors
    /// Where it sends more than any start-up needs.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), ConnectError> {
        self.total = self.total.saturating_add(bytes.len());
        if self.total > STARTUP_BYTES_MAX {
            return Err(broken(self.stage(), "its start-up does not end"));
        }
        self.unread.extend_from_slice(bytes);
        Ok(())
    }

    /// Reads what has come, up to the next thing that is to be done.
    ///
    /// # Errors
    /// What the server said, or did wrong, or asked for that is not given.
    pub fn step(&mut self) -> Result<Step, ConnectError> {
        let mut read = 0;
        let step = loop {
            let stage = self.stage();
            let rest = self.unread.get(read..).unwrap_or_default();
            let parsed = Frame::parse(rest).map_err(|error| broken(stage, &error.to_string()))?;
            let Some((frame, total)) = parsed else { break Step::Read };
            let (tag, body, is_last) = (frame.tag, frame.body.to_vec(), rest.len() == total);
            read += total;
            match tag {
                tag::NOTICE => {}
                // Offered 3.0, no server has anything to negotiate but options, of which we send none.
                b'v' => return Err(broken(stage, "it negotiates a protocol version")),
                tag::ERROR => return Err(ConnectError::told(stage, &body)),
                _ => {
                    if let Some(step) = self.obey(tag, &body, is_last)? {
                        break step;
                    }
                }
            }
        };
        self.unread.drain(..read);
        Ok(step)
    }

    /// Goes on with what a derivation has found.
    ///
    /// # Errors
    /// What it ended with.
    pub fn answer(&mut self, derived: Result<Exchange, ProofError>) -> Result<Step, ConnectError> {
        let exchange = derived.map_err(|error| self.refuse(&error))?;
        let answer = frame(b'p', exchange.message());
        self.phase = Phase::Scram(exchange, Awaited::Proof);
        Ok(Step::Send(answer))
    }

    fn obey(&mut self, tag: u8, body: &[u8], is_last: bool) -> Result<Option<Step>, ConnectError> {
        match std::mem::replace(&mut self.phase, Phase::Nothing) {
            Phase::Asked => self.asked(authentication(tag, body)?),
            Phase::Scram(exchange, awaited) => self.scram(exchange, awaited, authentication(tag, body)?),
            Phase::Proven => match authentication(tag, body)? {
                Asked::Ok => Ok(self.accepted()),
                Asked::Cleartext
                | Asked::Md5(_)
                | Asked::Sasl(_)
                | Asked::SaslContinue(_)
                | Asked::SaslFinal(_)
                | Asked::Other(_) => {
                    Err(self.refuse(&ProofError::Scram("it asks twice for a proof".to_owned())))
                }
            },
            Phase::Accepted(greeting) => self.greeted(greeting, tag, body, is_last),
            Phase::Nothing => Err(broken(Stage::Auth, "a message while none is due")),
        }
    }

    fn accepted(&mut self) -> Option<Step> {
        self.phase = Phase::Accepted(Greeting { method: self.method, ..Greeting::default() });
        None
    }

    /// The first question.
    fn asked(&mut self, asked: Asked) -> Result<Option<Step>, ConnectError> {
        let (method, answer) = match asked {
            Asked::Ok => {
                self.standing.unasked().map_err(|error| self.refuse(&error))?;
                return Ok(self.accepted());
            }
            Asked::Cleartext => ("password", self.standing.cleartext()),
            Asked::Md5(salt) => ("md5", self.standing.md5(salt)),
            Asked::Sasl(offered) => return self.begin_scram(&offered).map(Some),
            Asked::SaslContinue(_) | Asked::SaslFinal(_) => {
                return Err(self.refuse(&ProofError::Scram("an answer before the question".to_owned())));
            }
            Asked::Other(code) => return Err(self.refuse(&ProofError::Unsupported(code))),
        };
        let answer = answer.map_err(|error| self.refuse(&error))?;
        self.method = method;
        self.phase = Phase::Proven;
        Ok(Some(Step::Send(frame(b'p', &answer))))
    }

    fn begin_scram(&mut self, offered: &[String]) -> Result<Step, ConnectError> {
        let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
        let (mechanism, exchange) = self.standing.scram(&offered).map_err(|error| self.refuse(&error))?;
        let first = exchange.message();
        let length = u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes();
        let answer = frame(b'p', &[mechanism.as_bytes(), b"\0", &length, first].concat());
        self.method = mechanism;
        self.phase = Phase::Scram(exchange, Awaited::Challenge);
        Ok(Step::Send(answer))
    }

    fn scram(
        &mut self,
        exchange: Exchange,
        awaited: Awaited,
        asked: Asked,
    ) -> Result<Option<Step>, ConnectError> {
        match (awaited, asked) {
            (Awaited::Challenge, Asked::SaslContinue(challenge)) => {
                let derivation = exchange.challenged(&challenge).map_err(|error| self.refuse(&error))?;
                Ok(Some(Step::Derive(derivation)))
            }
            (Awaited::Proof, Asked::SaslFinal(proof)) => {
                exchange.finish(&proof).map_err(|error| self.refuse(&error))?;
                self.phase = Phase::Proven;
                Ok(None)
            }
            (_, _) => Err(self.refuse(&ProofError::Unproven)),
        }
    }

    /// Between AuthenticationOk and ReadyForQuery.
    fn greeted(
        &mut self,
        mut greeting: Greeting,
        tag: u8,
        body: &[u8],
        is_last: bool,
    ) -> Result<Option<Step>, ConnectError> {
        match (tag, body) {
            (tag::PARAMETER_STATUS, body) => {
                if let Some((name, value)) = parameter_status(body) {
                    let value = String::from_utf8_lossy(value).into_owned();
                    greeting.parameters.push((name.to_owned(), value));
                }
            }
            (tag::BACKEND_KEY_DATA, [a, b, c, d, key @ ..]) if CANCEL_KEY_BYTES.contains(&key.len()) => {
                greeting.process_id = i32::from_be_bytes([*a, *b, *c, *d]);
                greeting.secret_key = key.to_vec();
            }
            (tag::READY_FOR_QUERY, b"I") if is_last => return Ok(Some(Step::Ready(greeting))),
            _ => return Err(broken(Stage::Startup, "a message that has no place in a start-up")),
        }
        self.phase = Phase::Accepted(greeting);
        Ok(None)
    }

    fn refuse(&self, error: &ProofError) -> ConnectError {
        ConnectError::refused(Stage::Auth, "28000", &format!("user \"{}\": {error}", self.standing.user))
    }
}

fn broken(stage: Stage, what: &str) -> ConnectError {
    ConnectError::refused(stage, "08P01", &format!("the server broke the protocol: {what}"))
}

fn authentication(tag: u8, body: &[u8]) -> Result<Asked, ConnectError> {
    let asked = if tag == tag::AUTHENTICATION { Asked::parse(body) } else { None };
    asked.ok_or_else(|| broken(Stage::Auth, "no AuthenticationRequest where one is due"))
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
