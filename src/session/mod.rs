//! What a client may rely on, what a server has been told, and the five questions between the two. Pure.

pub mod from_client;
pub mod from_server;
pub mod handover;
pub mod names;
pub mod parameters;
pub mod pin;
pub mod pipeline;
pub mod prepared;
pub mod probe;
mod reading;
pub mod reported;
mod stand_in;
pub mod state;
mod statements;
#[cfg(test)]
mod story;
pub mod transaction;
pub mod unnamed;
pub mod verdict;
