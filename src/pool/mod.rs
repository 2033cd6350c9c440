//! Server connections, shared: one budget over all databases of an upstream.

pub mod book;
pub mod checkout;
pub mod credential;
pub mod lease;
pub mod ledger;
pub mod pools;
pub mod upkeep;
