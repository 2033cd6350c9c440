//! What a client may rely on, what a server has been told, and the five questions between the two. Pure.

pub mod from_client;
pub mod from_server;
pub mod handover;
pub mod parameters;
pub mod pin;
pub mod pipeline;
pub mod probe;
pub mod state;
#[cfg(test)]
mod story;
pub mod transaction;
pub mod unnamed;
pub mod verdict;
