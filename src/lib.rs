//! stagedoor: a sidecar between Backstage and managed PostgreSQL.
//! The rooms in reading order; ARCHITECTURE.md is the map with the reasons.

pub mod admin;
pub mod app;
pub mod auth;
pub mod cli;
pub mod client;
pub mod config;
pub mod lifecycle;
pub mod listener;
pub mod metrics;
pub mod net;
pub mod pool;
pub mod reload;
pub mod route;
pub mod server;
pub mod session;
pub mod sql;
pub mod tls;
pub mod wire;
