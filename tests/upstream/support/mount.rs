//! Files as they are mounted into a container, and the ways in which they come to say something else.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tempfile::TempDir;

/// How a file is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// A new file is moved over the old one.
    Rename,
    /// Kubernetes: each file is a link into `..data`, which is a link to a directory and is swapped.
    Swap,
    /// The file is emptied and written again.
    Truncate,
}

/// A directory of files that are changed in one manner.
pub struct Mount {
    directory: TempDir,
    pub manner: Manner,
    files: RefCell<BTreeMap<String, String>>,
    generation: Cell<u32>,
}

impl Mount {
    pub fn new(manner: Manner, files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mount = Self { directory, manner, files: RefCell::default(), generation: Cell::new(0) };
        if manner == Manner::Swap {
            for (name, _) in files {
                symlink(format!("..data/{name}"), mount.path(name)).unwrap();
            }
        }
        mount.write(files);
        mount
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        self.files.borrow()[name].clone()
    }

    /// Whether somebody who looks may see a change half done.
    pub fn is_torn(&self) -> bool {
        self.manner != Manner::Swap
    }

    /// Has these files say this, all at once where the manner allows it.
    pub fn write(&self, changes: &[(&str, &str)]) {
        self.generation.set(self.generation.get() + 1);
        for (name, text) in changes {
            self.files.borrow_mut().insert((*name).to_owned(), (*text).to_owned());
        }
        match self.manner {
            Manner::Rename => {
                for (name, text) in changes {
                    let new = self.path(&format!("{name}.new"));
                    fs::write(&new, text).unwrap();
                    fs::rename(&new, self.path(name)).unwrap();
                }
            }
            Manner::Swap => self.swap(),
            Manner::Truncate => {
                for (name, text) in changes {
                    let (half, rest) = text.split_at(text.len() / 2);
                    let mut file = fs::File::create(self.path(name)).unwrap();
                    file.write_all(half.as_bytes()).unwrap();
                    file.write_all(rest.as_bytes()).unwrap();
                }
            }
        }
    }

    /// What kubelet does (AtomicWriter): a new directory, a new link, a rename; then the old directory goes.
    fn swap(&self) {
        let generation = format!("..{}", self.generation.get());
        fs::create_dir(self.path(&generation)).unwrap();
        for (name, text) in &*self.files.borrow() {
            fs::write(self.path(&generation).join(name), text).unwrap();
        }
        symlink(&generation, self.path("..data_tmp")).unwrap();
        fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
        let _ = fs::remove_dir_all(self.path(&format!("..{}", self.generation.get() - 1)));
    }
}
