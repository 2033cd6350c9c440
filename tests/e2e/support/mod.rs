//! The world that the tests stand in: PostgreSQL, stagedoor, and clients of every kind.

pub mod certs;
pub mod compare;
pub mod compiled;
pub mod deadline;
pub mod dice;
pub mod flows;
pub mod frames;
pub mod go_between;
pub mod message;
pub mod node;
pub mod postgres;
pub mod process;
pub mod python;
pub mod raw;
pub mod stagedoor;
pub mod stand_in;
