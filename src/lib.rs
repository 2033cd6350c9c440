//! stagedoor: a sidecar between Backstage and managed PostgreSQL.
//! The rooms in reading order; ARCHITECTURE.md is the map with the reasons.

pub mod config;
pub mod wire;
