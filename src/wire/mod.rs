//! Bytes ↔ frames of PostgreSQL's protocol 3. Pure: no socket, no clock, no log.

pub mod backend;
pub mod flow;
pub mod frame;
pub mod frontend;
pub mod message;
pub mod refusal;
pub mod scanner;
pub mod startup;
