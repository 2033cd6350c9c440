//! Bytes ↔ frames of PostgreSQL's protocol 3. Pure: no socket, no clock, no log.

pub mod frame;
pub mod refusal;
