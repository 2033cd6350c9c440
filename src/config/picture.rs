//! What files said when they were looked at: enough to see that one has changed, and nothing of what it says.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use aws_lc_rs::digest;

use crate::config::world::Unreadable;

/// Every file that was read or looked for, and what was found. Bounded as the files are that a load may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture(BTreeMap<PathBuf, Print>);

/// What was found in the place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Print {
    Absent,
    Unreadable(String),
    /// SHA-256 of what it said.
    Text([u8; digest::SHA256_OUTPUT_LEN]),
    /// It said two things during one load. No single look finds that, so the next one differs.
    Torn,
}

impl Picture {
    /// The paths, to look at again.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// How many files could be read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().filter(|print| matches!(print, Print::Text(_) | Print::Torn)).count()
    }

    /// Whether there was nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether all that both have seen was the same.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        self.0.iter().all(|(path, print)| other.0.get(path).is_none_or(|known| known == print))
    }

    /// Notes that there was no file.
    pub(crate) fn absent(&mut self, path: &Path) {
        self.note(path, Print::Absent);
    }

    /// Notes what came of reading a file.
    pub(crate) fn read(&mut self, path: &Path, outcome: &Result<impl AsRef<[u8]>, Unreadable>) {
        let print = match outcome {
            Ok(bytes) => Print::of(bytes.as_ref()),
            Err(Unreadable::Missing) => Print::Absent,
            Err(error @ (Unreadable::TooLarge { .. } | Unreadable::Other(_))) => {
                Print::Unreadable(error.to_string())
            }
        };
        self.note(path, print);
    }

    fn note(&mut self, path: &Path, print: Print) {
        let known = self.0.entry(path.to_owned()).or_insert_with(|| print.clone());
        if *known != print {
            *known = Print::Torn;
        }
    }
}

impl Print {
    fn of(bytes: &[u8]) -> Self {
        let mut hash = [0; digest::SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Self::Text(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(found: &[(&str, Result<&str, Unreadable>)]) -> Picture {
        let mut picture = Picture::default();
        for (path, outcome) in found {
            picture.read(Path::new(path), outcome);
        }
        picture
    }

    #[test]
    fn what_a_file_says_counts_and_that_it_was_touched_does_not() {
        let large = || Err(Unreadable::TooLarge { max: 1 });
        let rows = [
            (Ok("a"), Ok("a"), true),
            (Ok("a"), Ok("b"), false),
            (Ok(""), Err(Unreadable::Missing), false),
            (Err(Unreadable::Missing), Err(Unreadable::Missing), true),
            (large(), Err(Unreadable::Missing), false),
            (large(), large(), true),
        ];
        for (before, after, same) in rows {
            let (before, after) = (picture(&[("/f", before)]), picture(&[("/f", after)]));
            assert_eq!((before == after, before.agrees(&after)), (same, same), "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_file_that_changed_within_one_load_is_equal_to_no_later_look() {
        let torn = picture(&[("/f", Ok("a")), ("/f", Ok("b"))]);
        assert!(torn != picture(&[("/f", Ok("a"))]) && torn != picture(&[("/f", Ok("b"))]));
        assert_eq!((torn.len(), picture(&[("/f", Err(Unreadable::Missing))]).len()), (1, 0));
    }

    #[test]
    fn a_picture_shows_nothing_of_a_secret() {
        assert!(!format!("{:?}", picture(&[("/f", Ok("hunter2"))])).contains("hunter2"));
    }
}
