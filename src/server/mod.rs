//! One connection to PostgreSQL: login, the connection itself, making it clean again, cancelling.

pub mod cancel;
pub mod connect;
pub mod connection;
pub mod holders;
pub mod reset;
pub mod startup;
