//! As much SQL as pooling needs, and no more: what a text may do to the session that runs it.
//! Pure, total over any bytes, and never a parser: it says "may have" or "cannot have", and then PostgreSQL is asked.

#[cfg(test)]
mod claims;
pub mod constants;
pub mod dialect;
pub mod effect;
pub mod lexer;
pub mod mention;
pub mod names;
pub mod shape;
pub mod signal;
mod statement;
mod vocabulary;

pub use dialect::Dialect;
pub use effect::Effect;
pub use effect::custom_settings;
pub use effect::effect;
