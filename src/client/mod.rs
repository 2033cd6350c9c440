//! One client, from arrival to goodbye.

pub mod aim;
pub mod arrival;
pub mod authenticate;
pub mod cancel;
pub mod fetch;
pub mod lobby;
pub mod login;
pub mod registry;
pub mod relay;
pub mod serve;
