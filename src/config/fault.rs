//! What is wrong with a configuration: all of it at once, each with the place and the remedy.

use std::fmt;

/// One thing that must be changed before stagedoor can start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// A file's path, or the name of an environment variable; empty where it cannot be said.
    pub file: String,
    /// The dotted key, or empty where the whole file is meant.
    pub key: String,
    /// What is wrong, and why.
    pub reason: String,
    /// What to do about it; may be empty where the reason says it all.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in [&self.file, &self.key] {
            if !place.is_empty() {
                write!(f, "{place}: ")?;
            }
        }
        f.write_str(&self.reason)?;
        if !self.remedy.is_empty() {
            write!(f, "\n    → {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Every fault of a configuration, never none. The command line ends with exit code 78 for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// `Ok` where there is none.
    ///
    /// # Errors
    /// Itself, where there is one.
    pub fn none(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "the configuration has {} fault{plural}:", self.0.len())?;
        for fault in &self.0 {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
