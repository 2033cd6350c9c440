//! What holds for any bytes. One function a fuzz target; `fuzz_targets/` and `tests/corpus.rs` call them.

#![allow(dead_code, reason = "a fuzz target uses one of them")]

mod exchange;
mod frontend;
mod scanner;
mod sql;
mod startup;

/// The name of a target and of its corpus, and what must hold for every input.
pub(crate) type Claim = (&'static str, fn(&[u8]));

pub(crate) const EXCHANGE: Claim = ("exchange", exchange::exchange);
pub(crate) const FRONTEND: Claim = ("frontend", frontend::frontend);
pub(crate) const SCANNER: Claim = ("scanner", scanner::scanner);
pub(crate) const SQL_EFFECT: Claim = ("sql_effect", sql::effect);
pub(crate) const SQL_REWRITE: Claim = ("sql_rewrite", sql::rewrite);
pub(crate) const STARTUP: Claim = ("startup", startup::startup);

pub(crate) const ALL: [Claim; 6] = [EXCHANGE, FRONTEND, SCANNER, SQL_EFFECT, SQL_REWRITE, STARTUP];
