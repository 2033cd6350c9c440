//! Files in, validated configurations out. Every file that the last load read or tried to read is looked at again and
//! again; what counts is what it says, so that a `touch` is nothing and a symlink that Kubernetes swaps is a change.
//!
//! Polling, because what must be noticed is not one event: a rename, a swap of `..data` two links up, a truncation
//! and the write behind it. A look costs a read of a few files that the system has in memory.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::config::fault::Fault;
use crate::config::fault::Faults;
use crate::config::load::Sources;
use crate::config::load::load_and_picture;
use crate::config::load::look;
use crate::config::model::Config;
use crate::config::picture::Picture;

/// How long files must stand still before they are read: a file that is truncated and then written, and a key that
/// follows its certificate, need far less.
const STILL: Duration = Duration::from_millis(500);

/// Looks at files that never stand still; after so many they are taken as they are.
const LOOKS_MAX: usize = 20;

/// Between two tries of a configuration that the upstream would not take: doubled each time. Each try may be a wrong
/// password, and whoever counts those must not lock the user out.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The files of the configuration, and what came of the last load.
#[derive(Debug)]
pub struct Files {
    sources: Sources,
    /// What they said at the last load, whatever came of it.
    loaded: Picture,
    /// Whether the last load read something else than the one before it, or was asked for.
    anew: bool,
    refused: Option<Refused>,
}

/// A configuration that was not taken over.
#[derive(Debug)]
struct Refused {
    why: String,
    /// When it is worth another try although no file has changed.
    again: Option<Again>,
}

#[derive(Debug)]
struct Again {
    at: Instant,
    pause: Duration,
}

/// Whether a refused configuration may be taken later, as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// Only another configuration helps.
    Hopeless,
    /// The upstream did not take it: it may be down, or be told of the change after us.
    MayPass,
}

impl Files {
    /// `loaded` is what they said when the configuration in force was read.
    #[must_use]
    pub const fn new(sources: Sources, loaded: Picture) -> Self {
        Self { sources, loaded, anew: true, refused: None }
    }

    /// Reads everything, now.
    ///
    /// # Errors
    /// Every fault at once.
    pub async fn load(&mut self) -> Result<Config, Faults> {
        let (outcome, picture) = self.read().await;
        self.loaded = picture;
        self.anew = true;
        outcome
    }

    /// Reads everything where a file says something else than at the last load, as soon as all stand still; and
    /// where it is time to try once more what was refused.
    pub async fn load_changed(&mut self, interval: Duration) -> Option<Result<Config, Faults>> {
        let mut seen = self.look().await;
        if seen == self.loaded {
            if !self.is_due() {
                return None;
            }
            let again = self.load().await;
            self.anew = self.loaded != seen;
            return Some(again);
        }
        for _ in 0..LOOKS_MAX {
            sleep(STILL.min(interval)).await;
            let now = self.look().await;
            if now == seen {
                if seen == self.loaded {
                    return None; // It was changed back.
                }
                let (outcome, picture) = self.read().await;
                if picture.agrees(&seen) {
                    self.loaded = picture;
                    self.anew = true;
                    return Some(outcome);
                }
            }
            seen = now;
        }
        Some(self.load().await)
    }

    /// Notes that the last load was taken over. Whether the one before it had not been.
    pub fn accepted(&mut self) -> bool {
        self.refused.take().is_some()
    }

    /// Notes that the last load was refused. Whether that is news.
    pub fn refused(&mut self, why: &str, outlook: Outlook) -> bool {
        let before = self.refused.take().filter(|_| !self.anew);
        let is_news = before.as_ref().is_none_or(|before| before.why != why);
        let again = match outlook {
            Outlook::Hopeless => None,
            Outlook::MayPass => {
                let last = before.and_then(|before| before.again).map(|again| again.pause);
                let pause = last.map_or(PAUSE.0, |last| (last * 2).min(PAUSE.1));
                Some(Again { at: Instant::now() + pause, pause })
            }
        };
        self.refused = Some(Refused { why: why.to_owned(), again });
        is_news
    }

    /// Lets what was refused be tried at the next look, however long it has been tried in vain.
    pub fn hurry(&mut self) {
        if let Some(again) = self.refused.as_mut().and_then(|refused| refused.again.as_mut()) {
            again.at = Instant::now();
        }
    }

    fn is_due(&self) -> bool {
        let again = self.refused.as_ref().and_then(|refused| refused.again.as_ref());
        again.is_some_and(|again| again.at <= Instant::now())
    }

    /// Off the reactor: a file system may be slow, and so may be a configuration of some size.
    async fn read(&self) -> (Result<Config, Faults>, Picture) {
        let sources = self.sources.clone();
        let read = spawn_blocking(move || load_and_picture(&sources)).await;
        match read {
            Ok((outcome, picture)) => (outcome.map(|(config, _)| config), picture),
            Err(error) => {
                let fault = Fault { reason: error.to_string(), ..Fault::default() };
                (Err(Faults(vec![fault])), self.loaded.clone())
            }
        }
    }

    async fn look(&self) -> Picture {
        let loaded = self.loaded.clone();
        spawn_blocking(move || look(&loaded)).await.unwrap_or_else(|_| self.loaded.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    use tempfile::TempDir;
    use tokio::time::timeout;

    const INTERVAL: Duration = Duration::from_secs(5);

    /// A directory with an app-config that takes its password from a file, and the files as they were loaded.
    async fn files() -> (TempDir, Files) {
        let directory = tempfile::tempdir().unwrap();
        let connection = "{ host: db.example, user: backstage, password: { $file: password } }";
        write(directory.path(), "password", "one");
        write(
            directory.path(),
            "app-config.yaml",
            &format!("backend: {{ database: {{ client: pg, connection: {connection} }} }}"),
        );
        let sources = Sources { configs: Vec::new(), cwd: directory.path().to_owned() };
        let mut files = Files::new(sources, Picture::default());
        files.load().await.unwrap();
        (directory, files)
    }

    fn write(directory: &Path, name: &str, text: &str) {
        fs::write(directory.join(name), text).unwrap();
    }

    fn password(read: Option<Result<Config, Faults>>) -> Option<String> {
        let config = read?.unwrap();
        config.routes.last().unwrap().password.as_ref().map(|secret| secret.expose().to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn what_files_say_is_what_counts() {
        let (directory, mut files) = files().await;
        assert!(files.load_changed(INTERVAL).await.is_none(), "nothing happened");
        write(directory.path(), "password", "one");
        assert!(files.load_changed(INTERVAL).await.is_none(), "it was written, and says the same");
        write(directory.path(), "password", "two");
        assert_eq!(password(files.load_changed(INTERVAL).await).as_deref(), Some("two"));
        assert!(files.load_changed(INTERVAL).await.is_none(), "it was read already");
        // Backstage's optional file counts although it was not there.
        let local = "backend: { database: { connection: { password: three } } }";
        write(directory.path(), "app-config.local.yaml", local);
        assert_eq!(password(files.load_changed(INTERVAL).await).as_deref(), Some("three"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_being_written_is_read_when_it_stands_still() {
        let (directory, mut files) = files().await;
        let path = directory.path().to_owned();
        write(&path, "password", "");
        let writing = tokio::spawn(async move {
            for text in ["t", "tw", "two"] {
                sleep(STILL / 2).await;
                write(&path, "password", text);
            }
        });
        assert_eq!(password(files.load_changed(INTERVAL).await).as_deref(), Some("two"));
        writing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_is_taken_back_is_none() {
        let (directory, mut files) = files().await;
        let path = directory.path().to_owned();
        write(&path, "password", "two");
        let back = tokio::spawn(async move {
            sleep(STILL / 2).await;
            write(&path, "password", "one");
        });
        assert!(files.load_changed(INTERVAL).await.is_none());
        back.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_never_stand_still_are_read_all_the_same() {
        let (directory, mut files) = files().await;
        let path = directory.path().to_owned();
        write(&path, "password", "0");
        let restless = tokio::spawn(async move {
            for number in 1_u32.. {
                sleep(STILL / 2).await;
                // Never empty: it is read at the same moment, on another thread.
                write(&path, "next", &number.to_string());
                fs::rename(path.join("next"), path.join("password")).unwrap();
            }
        });
        let read = timeout(STILL * 60, files.load_changed(INTERVAL)).await.unwrap();
        assert!(password(read).is_some());
        restless.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_server_would_not_take_is_tried_again_ever_more_rarely_and_told_once() {
        let (directory, mut files) = files().await;
        write(directory.path(), "password", "two");
        assert!(files.load_changed(INTERVAL).await.is_some());
        assert!(files.refused("28P01", Outlook::MayPass), "that is news");
        let begin = Instant::now();
        let mut tries = Vec::new();
        while tries.len() < 9 {
            sleep(Duration::from_secs(1)).await;
            if files.load_changed(INTERVAL).await.is_some() {
                assert!(!files.refused("28P01", Outlook::MayPass), "that was told");
                tries.push(begin.elapsed().as_secs());
            }
        }
        assert_eq!(tries, [1, 3, 7, 15, 31, 63, 123, 183, 243]);
        files.hurry();
        assert!(files.load_changed(INTERVAL).await.is_some(), "somebody knows better");
        assert!(files.refused("another reason", Outlook::MayPass), "that is news");
        assert!(files.accepted() && !files.accepted());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_wrong_in_itself_waits_for_another_file() {
        let (directory, mut files) = files().await;
        write(directory.path(), "app-config.yaml", "backend: [");
        assert!(files.load_changed(INTERVAL).await.unwrap().is_err());
        assert!(files.refused("not YAML", Outlook::Hopeless));
        sleep(Duration::from_secs(600)).await;
        assert!(files.load_changed(INTERVAL).await.is_none());
        write(directory.path(), "app-config.yaml", "backend: [[");
        assert!(files.load_changed(INTERVAL).await.unwrap().is_err());
        assert!(files.refused("not YAML", Outlook::Hopeless), "it was changed, and is still wrong");
    }
}
