//! What the loader asks of the machine. `load.rs` answers from files and the environment, tests from a table.

use std::path::Path;

/// Files and variables, as far as configuration may see them.
pub trait World {
    /// The text of a file, with what is not UTF-8 replaced.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read(&self, path: &Path) -> Result<String, Unreadable>;

    /// Whether there is such a file.
    fn exists(&self, path: &Path) -> bool;

    /// An environment variable, as it stands.
    fn variable(&self, name: &str) -> Option<String>;

    /// All environment variables, in the order of the environment.
    fn variables(&self) -> Vec<(String, String)>;
}

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("there is no such file")]
    Missing,
    #[error("it is larger than {} MiB", max >> 20)]
    TooLarge { max: usize },
    #[error("{0}")]
    Other(String),
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;

    /// A machine in a table.
    #[derive(Default)]
    pub(crate) struct Table {
        pub(crate) files: BTreeMap<PathBuf, String>,
        pub(crate) variables: Vec<(String, String)>,
    }

    impl Table {
        pub(crate) fn new(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Self {
            let own = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
            Self {
                files: files.iter().map(own).map(|(path, text)| (path.into(), text)).collect(),
                variables: variables.iter().map(own).collect(),
            }
        }
    }

    impl World for Table {
        fn read(&self, path: &Path) -> Result<String, Unreadable> {
            self.files.get(path).cloned().ok_or(Unreadable::Missing)
        }

        fn exists(&self, path: &Path) -> bool {
            self.files.contains_key(path)
        }

        fn variable(&self, name: &str) -> Option<String> {
            let found = self.variables.iter().find(|(n, _)| n == name);
            found.map(|(_, value)| value.clone())
        }

        fn variables(&self) -> Vec<(String, String)> {
            self.variables.clone()
        }
    }
}
