//! Aside: looks and asks, never touches. It says what it wants to know ([`control::Control`]); `app` answers.

pub mod control;
pub mod http;
