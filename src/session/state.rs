//! The two states: what a client believes its session to be, and what a server has been told.

use std::collections::BTreeSet;
use std::collections::HashSet;

use crate::session::handover::Fit;
use crate::session::names::Names;
use crate::session::parameters::APPLICATION_NAME;
use crate::session::parameters::Parameters;
use crate::session::pin::Pin;
use crate::session::pin::Pins;
use crate::session::pipeline::Pipeline;
use crate::session::prepared::Prepared;
use crate::session::probe;
use crate::session::probe::Answer;
use crate::session::probe::Identity;
use crate::session::reported::Reported;
use crate::session::transaction::Transaction;
use crate::session::unnamed::Lies;
use crate::session::unnamed::Unnamed;
use crate::session::verdict::Release;

/// The most statements that name `pg_cancel_backend`, lie on a server under the client's own name and are
/// remembered, for each client. Of those beyond, process ids are taken as they are.
pub(crate) const SIGNAL_STATEMENTS_MAX: usize = 64;

/// The most custom settings of a client that are asked for by name. One beyond keeps it on its server.
const CUSTOM_MAX: usize = 64;

/// The contexts of transactions that have changed settings have this bit, those of settings have not.
const DISTURBED: u64 = 1 << 63;

/// What this client believes its session to be. Lives as long as the client.
#[derive(Debug)]
pub struct ClientState {
    id: u32,
    /// What it asked for in its StartupMessage: what RESET goes back to.
    startup: Parameters,
    /// The session settings that it has a right to find, beyond those of `startup`.
    pub parameters: Parameters,
    /// The same, with the `application_name` that it began with: for servers that began with another one.
    lent: Parameters,
    /// Which servers go with it. Kept, because it is asked for with every lease.
    fit: Fit,
    /// Custom settings that it has named.
    custom: BTreeSet<String>,
    /// Functions of which it is known that they may touch the session, although no text shows it.
    pub(crate) watched: Box<[String]>,
    /// Of what it said about sequences the last may have used one, and not only forgotten them.
    pub(crate) sequences_last: bool,
    /// It is about to ask what a sequence said last, and not of another client's doing.
    pub(crate) asks_sequences: bool,
    /// What ParameterStatus told it last.
    pub told: Reported,
    /// What nobody can be asked for.
    pub(crate) taints: Pins,
    pub(crate) unnamed: Unnamed,
    pub(crate) names: Names,
    /// Names of statements that lie on the server as they are, and whose text names `pg_cancel_backend` or
    /// `pg_terminate_backend`.
    pub(crate) signal_statements: HashSet<Vec<u8>>,
    next_token: u64,
}

impl ClientState {
    /// A client that has just logged in. `id` is its own, so that tokens are.
    #[must_use]
    pub fn new(id: u32, startup: Parameters) -> Self {
        let custom = startup.custom_names().map(str::to_owned).collect();
        let mut client = Self {
            id,
            startup,
            parameters: Parameters::none(),
            lent: Parameters::none(),
            fit: Fit::default(),
            custom,
            watched: Box::default(),
            sequences_last: false,
            asks_sequences: false,
            told: Reported::default(),
            taints: Pins::NONE,
            unnamed: Unnamed::default(),
            names: Names::default(),
            signal_statements: HashSet::new(),
            next_token: u64::from(id) << 32,
        };
        client.fit.name = name_of(&client.startup);
        client.believe(Parameters::none());
        client
    }

    /// Takes it for known that `functions` may touch the session, and set the custom `settings`.
    #[must_use]
    pub fn watching(mut self, functions: &[String], settings: &[String]) -> Self {
        self.watched = functions.into();
        self.custom.extend(settings.iter().map(|name| name.to_ascii_lowercase()));
        self
    }

    #[must_use]
    pub const fn startup(&self) -> &Parameters {
        &self.startup
    }

    /// These are its settings, beyond those it began with.
    fn believe(&mut self, parameters: Parameters) {
        let name = self.startup.get(APPLICATION_NAME).unwrap_or_default();
        let is_own = parameters.get(APPLICATION_NAME).is_none_or(|now| now == name);
        self.parameters = if is_own { parameters.without(APPLICATION_NAME) } else { parameters };
        self.lent = self.parameters.named(name);
        self.fit.state = self.lent.hash();
        self.fit.custom = self.parameters.custom();
    }

    /// What `server` must have been told to speak as this client.
    #[must_use]
    pub(crate) fn wanted_on(&self, server: &ServerState) -> &Parameters {
        if self.has_name_of(server) { &self.parameters } else { &self.lent }
    }

    #[must_use]
    pub(crate) fn has_name_of(&self, server: &ServerState) -> bool {
        self.startup.get(APPLICATION_NAME) == server.startup.get(APPLICATION_NAME)
    }

    #[must_use]
    pub(crate) const fn is_strict(&self) -> bool {
        self.fit.strict
    }

    /// It goes back to what it began with: from now on it gets servers that began alike.
    pub(crate) const fn be_strict(&mut self) {
        self.fit.strict = true;
    }

    /// Which servers go with it.
    #[must_use]
    pub const fn fit(&self) -> &Fit {
        &self.fit
    }

    /// It names a custom setting. Tells whether that may be new to it.
    pub(crate) fn name_custom(&mut self, name: &str) -> bool {
        let is_set = self.parameters.get(name).is_some() || self.startup.get(name).is_some();
        if !self.custom.contains(name) {
            if self.custom.len() < CUSTOM_MAX {
                self.custom.insert(name.to_owned());
            } else {
                self.taints.insert(Pin::CustomSetting);
            }
        }
        !is_set
    }

    /// Gives it one server for its life, which began as it did.
    pub const fn be_alone(&mut self) {
        self.taints.insert(Pin::Session);
        self.be_strict();
    }

    /// Whether its server is nobody else's before it leaves: then nothing is asked, and names stay as they are.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.taints.contains(Pin::Session)
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

    /// What it is before it says anything to a server.
    #[must_use]
    pub const fn unsaid(&self) -> Unsaid {
        Unsaid { taints: self.taints, sequences_last: self.sequences_last }
    }

    /// Its server was lost and has heard nothing of what it said since it was `unsaid`: it may say it to another one.
    pub fn unheard(&mut self, unsaid: Unsaid) {
        Unsaid { taints: self.taints, sequences_last: self.sequences_last } = unsaid;
        self.names.unheard();
        self.unnamed.unheard();
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

/// What a client that says something changes of itself, and no answer takes back.
#[derive(Clone, Copy, Debug)]
pub struct Unsaid {
    taints: Pins,
    sequences_last: bool,
}

/// What one server connection has been told. Lives as long as the connection.
#[derive(Debug)]
pub struct ServerState {
    pub transaction: Transaction,
    pub pipeline: Pipeline,
    /// What it was logged in with: what RESET goes back to.
    startup: Parameters,
    /// The session settings in force beyond those of `startup`, as far as we caused or were told them.
    parameters: Parameters,
    /// Which clients it goes with.
    fit: Fit,
    /// What ParameterStatus said last.
    pub reported: Reported,
    /// Who it is by login.
    login: Identity,
    pub(crate) unnamed: Lies,
    /// The batch in which we changed that, until it is confirmed.
    pub(crate) unnamed_sent_in: Option<u64>,
    pub(crate) prepared: Prepared,
    /// The client that holds it, or held it last.
    holder: Option<u32>,
    /// What `currval` and `lastval` say may be of another client's doing.
    strange_sequences: bool,
    /// The client may have changed what only a probe can tell.
    pub(crate) touched: bool,
    /// The client may have changed which statements are prepared.
    pub(crate) recount: bool,
    /// The client has sent what sessions begin with from now on (ALTER ROLE or DATABASE … SET).
    pub(crate) alters_defaults: bool,
    /// The client has sent definitions (DDL) that others may not see yet.
    pub(crate) defines: bool,
    /// Counts what may have changed settings inside transactions.
    disturbances: u64,
    /// The number of the last one in this transaction.
    disturbed: Option<u64>,
    /// What the last probe found.
    pub(crate) pins: Pins,
}

impl ServerState {
    /// A server fresh from login with the settings `startup`, and its answer to the first probe.
    #[must_use]
    pub fn new(reported: Reported, answer: Answer, startup: Parameters) -> Self {
        let mut server = Self {
            transaction: Transaction::Idle,
            pipeline: Pipeline::default(),
            fit: Fit { name: name_of(&startup), ..Fit::default() },
            startup,
            parameters: Parameters::none(),
            reported,
            login: answer.identity,
            unnamed: Lies::Nothing,
            unnamed_sent_in: None,
            prepared: Prepared::default(),
            holder: None,
            strange_sequences: false,
            touched: false,
            recount: false,
            alters_defaults: false,
            defines: false,
            disturbances: 0,
            disturbed: None,
            pins: Pins::NONE,
        };
        server.speak_with(Parameters::none());
        server
    }

    /// The session settings in force, beyond those of its login.
    #[must_use]
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// These are the settings in force now, beyond those of its login.
    pub fn speak_with(&mut self, parameters: Parameters) {
        let name = self.startup.get(APPLICATION_NAME).unwrap_or_default();
        self.fit.state = parameters.named(name).hash();
        self.fit.custom = parameters.custom();
        self.parameters = parameters;
    }

    /// Nothing is owed and no transaction is open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.transaction == Transaction::Idle && self.pipeline.is_settled()
    }

    /// The transaction has failed, and nothing is under way that could end it.
    pub(crate) fn has_failed(&self) -> bool {
        self.transaction == Transaction::Failed && self.pipeline.keeps_transaction()
    }

    /// We send a simple Query of our own: it drops the unnamed statement (exec_simple_query). Returns what goes
    /// before it: Closes of statements that nobody needs.
    pub fn asked(&mut self) -> Vec<u8> {
        self.unnamed = Lies::Nothing;
        let mut before = Vec::new();
        self.prepared.close_all(&mut before);
        before
    }

    /// Which clients it goes with.
    #[must_use]
    pub const fn fit(&self) -> &Fit {
        &self.fit
    }

    /// Whether tables may be temporary without any text saying so.
    pub(crate) fn has_temp_path(&self) -> bool {
        self.parameters.has_temp_path() || self.startup.has_temp_path()
    }

    /// Whether a simple Query must be said before `client` has it, so that it finds no unnamed statement of another's
    /// (exec_simple_query): one that has its server to itself is not watched afterwards.
    #[must_use]
    pub fn must_forget_unnamed(&self, client: &ClientState) -> bool {
        client.is_alone() && self.unnamed != Lies::Nothing
    }

    /// Statements that are kept prepared.
    #[must_use]
    pub fn statements(&self) -> usize {
        self.prepared.len()
    }

    /// `client` takes it.
    pub fn handed_to(&mut self, client: &ClientState) {
        let is_strange = |holder| holder != client.id || client.asks_sequences;
        self.strange_sequences = self.holder.is_some_and(is_strange);
        self.holder = Some(client.id);
    }

    /// Whether `DISCARD SEQUENCES` must be said before `client` can ask for `currval` or `lastval`: a column's
    /// default may have called `nextval` for another client, and no text showed it.
    #[must_use]
    pub const fn must_forget_sequences(&self, client: &ClientState) -> bool {
        client.asks_sequences && self.strange_sequences
    }

    /// `DISCARD SEQUENCES` was answered.
    pub const fn sequences_are_forgotten(&mut self) {
        self.strange_sequences = false;
    }

    pub(crate) const fn has_strange_sequences(&self) -> bool {
        self.strange_sequences
    }

    /// The number of the definitions that everybody sees now; it grows with each [`Self::has_defined`].
    pub const fn schema_is(&mut self, number: u64) {
        self.prepared.schema = number;
    }

    /// The number of the definitions that a Parse sees now: those of this transaction have the next one.
    pub(crate) const fn schema(&self) -> u64 {
        self.prepared.schema + self.defines as u64
    }

    /// Whether sessions may begin otherwise since this was asked last.
    pub fn has_altered_defaults(&mut self) -> bool {
        let altered = self.alters_defaults && self.transaction == Transaction::Idle;
        self.alters_defaults &= !self.is_idle();
        altered
    }

    /// Whether definitions may have been committed since this was asked last.
    pub fn has_defined(&mut self) -> bool {
        let defined = self.defines && self.transaction == Transaction::Idle;
        self.defines &= !self.is_idle();
        defined
    }

    /// Something may have changed settings, if only until the transaction ends.
    pub(crate) const fn disturb(&mut self) {
        self.disturbances += 1;
        self.disturbed = Some(self.disturbances);
    }

    /// Whether the settings that report themselves may be others by now than was reported: nothing is, before the
    /// batch is over.
    pub(crate) fn is_reported_late(&self) -> bool {
        self.disturbed.is_some() && (self.pipeline.is_unsynced() || self.pipeline.is_busy())
    }

    /// The settings are known again.
    pub(crate) fn settle(&mut self) {
        if self.disturbed.take().is_some() {
            self.prepared.forget_context(|context| context & DISTURBED != 0);
        }
    }

    /// The settings under which a text is parsed now, as a number, and under which it was before this
    /// transaction changed any.
    pub(crate) fn contexts(&self) -> (u64, u64) {
        let settled = self.parameters.context() & !DISTURBED;
        (self.disturbed.map_or(settled, |number| number | DISTURBED), settled)
    }

    /// `DISCARD ALL` was answered, and then a probe: what it leaves are custom settings, as they began or empty.
    pub fn cleaned(&mut self, answer: Answer) {
        self.pins = answer.pins;
        self.speak_with(answer.parameters(&self.login, &self.startup));
        self.touched = false;
        self.recount = false;
        self.holder = None;
        self.strange_sequences = false;
        self.prepared.clear();
        self.prepared.foreign.clear();
        self.settle();
    }

    /// Whether `DISCARD ALL` brings it back to its login: it leaves roles that were given by ALTER ROLE.
    #[must_use]
    pub fn can_be_discarded(&self) -> bool {
        self.login.role == b"none"
    }
}

/// A number for the `application_name` that a session began with.
fn name_of(startup: &Parameters) -> u64 {
    let name = startup.get(APPLICATION_NAME).map(|name| (APPLICATION_NAME.to_owned(), name.to_vec()));
    name.into_iter().collect::<Parameters>().hash()
}

/// May the server leave its client?
#[must_use]
pub fn release(client: &ClientState, server: &ServerState) -> Release {
    if !server.is_idle() {
        return Release::Keep;
    }
    // A probe is a simple Query, and that drops the unnamed statement.
    let may_ask = !client.is_alone() && !client.unnamed.is_immovable();
    if (server.touched || server.prepared.has_strays()) && may_ask {
        return Release::Probe;
    }
    let pins = client.left_behind(server);
    if pins.is_empty() { Release::Return } else { Release::Pinned(pins) }
}

/// What `server` must be asked after `client` has touched it.
#[must_use]
pub fn question(client: &ClientState, server: &ServerState) -> Vec<u8> {
    let custom: BTreeSet<&str> =
        client.custom.iter().map(String::as_str).chain(server.parameters.custom_names()).collect();
    probe::question(custom, server.recount)
}

/// The probe was answered, or could not be.
pub fn answered(client: &mut ClientState, server: &mut ServerState, answer: Option<Answer>) {
    server.touched = false;
    let recount = std::mem::take(&mut server.recount);
    server.settle();
    let Some(mut answer) = answer else {
        server.pins.insert(Pin::Unknown);
        return;
    };
    server.pins = answer.pins;
    server.prepared.foreign = std::mem::take(&mut answer.foreign);
    if recount {
        server.prepared.are(&answer.ours);
    }
    server.speak_with(answer.parameters(&server.login, &server.startup));
    // What is not set any more was reset, and RESET goes back to what the client started with.
    client.believe(server.parameters.clone());
}
