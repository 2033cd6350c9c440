//! The commands: what a person, a pod or a script can ask of the binary.

pub mod arguments;
pub mod backstage;
pub mod check;
pub mod child;
pub mod config;
pub mod demo;
pub mod exit;
pub mod health;
pub mod log;
pub mod login;
pub mod observe;
pub mod report;
pub mod run;

pub mod throwaway;

pub use crate::cli::arguments::dispatch;
