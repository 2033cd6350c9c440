//! Somebody between stagedoor and PostgreSQL, on a Unix socket and so without TLS: a network whose connections end when
//! a test wants it, and as it wants it.

use std::collections::BTreeMap;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use tempfile::TempDir;

use crate::support::postgres::Cluster;
use crate::support::stagedoor::Stagedoor;
use crate::support::stagedoor::directory;

/// How it behaves, and what it has in hand.
#[derive(Debug, Default)]
struct Shared {
    links: Mutex<Vec<Arc<Link>>>,
    /// That PostgreSQL has closed a connection is kept from stagedoor.
    withholds: AtomicBool,
    /// So many new connections end before anything but their start has passed.
    aborts: AtomicUsize,
}

/// One connection of stagedoor's.
#[derive(Debug)]
struct Link {
    near: UnixStream,
    far: UnixStream,
    /// What stagedoor says next ends it, and does not arrive.
    cuts: AtomicBool,
    /// What stagedoor says next cannot even be sent.
    deaf: AtomicBool,
}

/// It listens until the test ends.
pub struct GoBetween {
    directory: TempDir,
    shared: Arc<Shared>,
}

impl GoBetween {
    /// Before `cluster`.
    pub fn new(cluster: &Cluster) -> Self {
        let (directory, shared) = (directory(), Arc::new(Shared::default()));
        let name = format!(".s.PGSQL.{}", cluster.port);
        let listener = UnixListener::bind(directory.path().join(&name)).expect("a socket");
        let (far, between) = (cluster.socket_directory().join(name), shared.clone());
        std::thread::spawn(move || listener.incoming().for_each(|near| between.link(near, &far)));
        Self { directory, shared }
    }

    /// A sidecar that reaches `cluster` by it.
    pub fn stagedoor(&self, cluster: &Cluster, settings: &str) -> Stagedoor {
        let file = self.directory.path().join("app-config.yaml");
        let host = self.directory.path().display();
        let text = format!(
            "backend:\n  database:\n    client: pg\n    connection:\n      host: {host}\n      \
             port: ${{POSTGRES_PORT}}\n      user: ${{POSTGRES_USER}}\n      password: ${{POSTGRES_PASSWORD}}\n"
        );
        std::fs::write(&file, text).expect("app-config.yaml");
        let settings = format!("{settings}\ntls: {{ mode: insecure-plaintext }}");
        Stagedoor::beside(cluster, &[file], self.directory.path(), &BTreeMap::new(), &settings)
    }

    /// From now on nobody is told that PostgreSQL has closed a connection.
    pub fn withhold_ends(&self) {
        self.shared.withholds.store(true, Ordering::Relaxed);
    }

    /// The connections that are open now end with the next thing that is said on them.
    pub fn cut(&self) {
        self.each(|link| link.cuts.store(true, Ordering::Relaxed));
    }

    /// The connections that are open now take nothing more, and do not say so before somebody tries.
    pub fn deafen(&self) {
        self.each(|link| {
            link.deaf.store(true, Ordering::Relaxed);
            link.near.shutdown(Shutdown::Read).expect("shutdown");
        });
    }

    /// The next `count` connections are cut as soon as their login is over.
    pub fn abort(&self, count: usize) {
        self.shared.aborts.store(count, Ordering::Relaxed);
    }

    fn each(&self, deed: impl Fn(&Link)) {
        self.shared.links().iter().for_each(|link| deed(link));
    }
}

impl Shared {
    fn links(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(self: &Arc<Self>, near: std::io::Result<UnixStream>, far: &PathBuf) {
        let (Ok(near), Ok(far)) = (near, UnixStream::connect(far)) else { return };
        let link = Arc::new(Link { near, far, cuts: AtomicBool::default(), deaf: AtomicBool::default() });
        self.links().push(link.clone());
        let (shared, other) = (self.clone(), link.clone());
        std::thread::spawn(move || other.to_postgres());
        std::thread::spawn(move || link.to_stagedoor(&shared));
    }
}

impl Link {
    fn to_postgres(&self) {
        let mut chunk = [0; 16 * 1024];
        while let Ok(count @ 1..) = (&self.near).read(&mut chunk) {
            if self.cuts.load(Ordering::Relaxed) {
                return self.end();
            }
            if (&self.far).write_all(&chunk[..count]).is_err() {
                return;
            }
        }
        if !self.deaf.load(Ordering::Relaxed) {
            let _ = self.far.shutdown(Shutdown::Write);
        }
    }

    fn to_stagedoor(&self, shared: &Shared) {
        let mut chunk = [0; 16 * 1024];
        while let Ok(count @ 1..) = (&self.far).read(&mut chunk) {
            let said = &chunk[..count];
            let is_over = said.ends_with(b"Z\0\0\0\x05I");
            let take = |left: usize| left.checked_sub(1);
            let aborts = &shared.aborts;
            if is_over && aborts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                self.cuts.store(true, Ordering::Relaxed);
            }
            if (&self.near).write_all(said).is_err() {
                return;
            }
        }
        if !shared.withholds.load(Ordering::Relaxed) {
            self.end();
        }
    }

    fn end(&self) {
        for stream in [&self.near, &self.far] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
