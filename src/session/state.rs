//! The two states: what a client believes its session to be, and what a server has been told.

use std::collections::HashSet;

use crate::session::parameters::CLIENT_ENCODING;
use crate::session::parameters::Parameters;
use crate::session::pin::Pin;
use crate::session::pin::Pins;
use crate::session::pipeline::Pipeline;
use crate::session::probe::Answer;
use crate::session::probe::Identity;
use crate::session::transaction::Transaction;
use crate::session::unnamed::Lies;
use crate::session::unnamed::Unnamed;
use crate::session::verdict::Release;
use crate::sql::dialect::Dialect;
use crate::sql::dialect::Encoding;
use crate::sql::dialect::Strings;

/// The most statements that name `pg_cancel_backend` and are remembered by name, for each client.
/// A client beyond that is kept on its server, and its process ids are taken as they are.
pub(crate) const SIGNAL_STATEMENTS_MAX: usize = 64;

/// What this client believes its session to be. Lives as long as the client.
#[derive(Debug)]
pub struct ClientState {
    /// What it asked for in its StartupMessage: what RESET goes back to.
    startup: Parameters,
    /// The session settings that it has a right to find.
    pub parameters: Parameters,
    /// What nobody can be asked for.
    pub(crate) taints: Pins,
    pub(crate) unnamed: Unnamed,
    /// Names of statements whose text names `pg_cancel_backend` or `pg_terminate_backend`.
    pub(crate) signal_statements: HashSet<Vec<u8>>,
    next_token: u64,
}

impl ClientState {
    /// A client that has just logged in. `id` is its own, so that tokens are.
    #[must_use]
    pub fn new(id: u32, startup: Parameters) -> Self {
        let mut taints = Pins::NONE;
        if startup.has_custom() {
            taints.insert(Pin::CustomSetting);
        }
        Self {
            parameters: startup.clone(),
            startup,
            taints,
            unnamed: Unnamed::default(),
            signal_statements: HashSet::new(),
            next_token: u64::from(id) << 32,
        }
    }

    /// Keeps the client on its server for a reason that does not come from what it says.
    pub const fn pin(&mut self, pin: Pin) {
        self.taints.insert(pin);
    }

    /// What this client would leave on `server` beyond settings that we know.
    #[must_use]
    pub fn left_behind(&self, server: &ServerState) -> Pins {
        let mut pins = server.pins.union(self.taints);
        if self.unnamed.is_immovable() {
            pins.insert(Pin::PreparedStatement);
        }
        pins
    }

    /// Whether its unnamed statement lies on its server and nowhere else.
    #[must_use]
    pub fn is_immovable(&self) -> bool {
        self.unnamed.is_immovable()
    }

    pub(crate) const fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }
}

/// What one server connection has been told. Lives as long as the connection.
#[derive(Debug)]
pub struct ServerState {
    pub transaction: Transaction,
    pub pipeline: Pipeline,
    /// The session settings in force, as far as we caused or were told them.
    pub parameters: Parameters,
    /// What ParameterStatus said last.
    pub reported: Reported,
    /// Who it is by login.
    login: Identity,
    pub(crate) unnamed: Lies,
    /// The client may have changed what only a probe can tell.
    pub(crate) touched: bool,
    /// What the last probe found.
    pub(crate) pins: Pins,
}

impl ServerState {
    /// A server fresh from login, with its answer to the first probe.
    #[must_use]
    pub fn new(reported: Reported, answer: Answer) -> Self {
        Self {
            transaction: Transaction::Idle,
            pipeline: Pipeline::default(),
            parameters: Parameters::none(),
            reported,
            login: answer.identity,
            unnamed: Lies::Nothing,
            touched: false,
            pins: Pins::NONE,
        }
    }

    /// Nothing is owed and no transaction is open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.transaction == Transaction::Idle && self.pipeline.is_settled()
    }

    /// We sent a simple Query of our own: it dropped the unnamed statement (exec_simple_query).
    pub const fn asked(&mut self) {
        self.unnamed = Lies::Nothing;
    }

    /// `DISCARD ALL` was answered.
    pub fn cleaned(&mut self) {
        self.parameters = Parameters::none();
        self.pins = Pins::NONE;
        self.touched = false;
        self.unnamed = Lies::Unknown;
    }

    /// Whether `DISCARD ALL` brings it back to its login: it leaves roles that were given by ALTER ROLE.
    #[must_use]
    pub fn can_be_discarded(&self) -> bool {
        self.login.role == b"none"
    }
}

/// May the server leave its client?
#[must_use]
pub fn release(client: &ClientState, server: &ServerState) -> Release {
    if !server.is_idle() {
        return Release::Keep;
    }
    // A probe is a simple Query, and that drops the unnamed statement.
    if server.touched && !client.unnamed.is_immovable() {
        return Release::Probe;
    }
    let pins = client.left_behind(server);
    if pins.is_empty() { Release::Return } else { Release::Pinned(pins) }
}

/// The probe was answered, or could not be.
pub fn answered(client: &mut ClientState, server: &mut ServerState, answer: Option<Answer>) {
    server.touched = false;
    match answer {
        Some(answer) => {
            server.pins = answer.pins;
            server.parameters = answer.parameters(&server.login);
            // What is not set any more was reset, and RESET goes back to what the client started with.
            client.parameters = server.parameters.or(&client.startup);
        }
        None => server.pins.insert(Pin::Unknown),
    }
}

/// The settings that report themselves (protocol-flow, "Asynchronous Operations"), in the server's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    values: Vec<(String, Vec<u8>)>,
    dialect: Dialect,
}

impl Default for Reported {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            dialect: Dialect { strings: Strings::Either, encoding: Encoding::AsciiUnsafe },
        }
    }
}

/// PostgreSQL reports fewer than 20 settings; a server that invents more is not believed.
const REPORTED_MAX: usize = 64;

impl Reported {
    pub fn set(&mut self, name: &str, value: &[u8]) {
        if let Some((_, known)) = self.values.iter_mut().find(|(known, _)| known == name) {
            value.clone_into(known);
        } else if self.values.len() < REPORTED_MAX {
            self.values.push((name.to_owned(), value.to_vec()));
        }
        match name {
            CLIENT_ENCODING => {
                let name = std::str::from_utf8(value);
                self.dialect.encoding = name.map_or(Encoding::AsciiUnsafe, Encoding::of);
            }
            "standard_conforming_strings" => {
                self.dialect.strings = if value == b"on" { Strings::Standard } else { Strings::Escaped };
            }
            _ => {}
        }
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// How this server reads SQL text.
    #[must_use]
    pub const fn dialect(&self) -> Dialect {
        self.dialect
    }
}
