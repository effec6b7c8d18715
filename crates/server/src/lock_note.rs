//! [`Noted`]: cluster locks at a node that is alone, and the note by which it knows after a restart whether anybody may hold one.
//!
//! A node that starts can't know which locks an earlier run of it granted, and so grants none for as long as a lock can last. In a cluster other nodes
//! know, mostly. One that is alone writes down until when a lock may be held, before it grants any; at a start without such a note,
//! or with one that is over, it grants them at once.
//!
//! The note is a time and nothing else: no lock outlives the node that keeps it.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use larder::SystemClock;
use larder_core::{
    Clock, Error, ErrorKind, LockService,
    lock::{Acquired, Hold, LOCK_TTL_MAX, LOCK_WAIT_MAX, LockName, LockRequest, LockToken},
};
use tokio::{sync::Mutex, task::spawn_blocking};

/// For how long a note holds at least when it is relied on: whoever waits for as long as may be, and is granted the longest lock then.
const COVERED: Duration = Duration::from_secs(LOCK_WAIT_MAX.as_secs() + LOCK_TTL_MAX.as_secs());

/// For how much longer a note is written: so often a note costs a sync to disk, while locks are in use.
const BEYOND: Duration = Duration::from_secs(60);

/// Where a node notes until when its locks may be held.
pub struct Note {
    path: PathBuf,
    /// Until when, in milliseconds of the wall clock; 0: there is none.
    until_ms: Mutex<u64>,
}

impl Note {
    /// The note of the node of this name in a folder. Nothing is written yet.
    ///
    /// # Errors
    ///
    /// If there is one and it can't be read.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder_server::lock_note::Note;
    ///
    /// let folder = tempfile::tempdir()?;
    /// assert!(Note::open(folder.path(), "a")?.is_over(), "no lock was ever granted");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn open(folder: &Path, node: &str) -> io::Result<Self> {
        let path = folder.join(format!("locks-{node}"));
        let until_ms = match fs::read_to_string(&path) {
            // What can't be read as a time may have been any.
            Ok(text) => text.trim().parse().unwrap_or(u64::MAX),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(Self { path, until_ms: Mutex::new(until_ms) })
    }

    /// Whether nobody can hold a lock that an earlier run granted. To be asked at the start.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.until_ms.try_lock().is_ok_and(|until_ms| *until_ms <= SystemClock.wall_ms())
    }

    /// Nobody holds a lock, and none will be granted any more: the next start need not wait.
    pub fn remove(&self) {
        // Where this fails, the next start waits all the same.
        let _waits = fs::remove_file(&self.path);
    }

    /// Sees to it that what is granted from now on is noted.
    async fn covers(&self) -> Result<(), Error> {
        // Held while it is written: who comes meanwhile needs it too.
        let mut until_ms = self.until_ms.lock().await;
        let now = SystemClock.wall_ms();
        let ahead = until_ms.saturating_sub(now);
        if (millis(COVERED)..=millis(COVERED + BEYOND)).contains(&ahead) {
            return Ok(());
        }
        let (path, new) = (self.path.clone(), now + millis(COVERED + BEYOND));
        let written =
            spawn_blocking(move || write(&path, new)).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|error| {
            let path = self.path.display();
            let message =
                format!("no lock can be noted in {path}: {error}; set node.data_dir to a folder that can be written");
            Error::new(ErrorKind::NoAuthority, message)
        })?;
        *until_ms = new;
        Ok(())
    }
}

/// Puts a new note in the place of the old one, in one step and for good.
fn write(path: &Path, until_ms: u64) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(format!("{until_ms}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Locks by a service, none of which is granted before it is noted.
pub struct Noted<S> {
    service: S,
    note: Arc<Note>,
}

impl<S: LockService> Noted<S> {
    /// Notes what this service grants.
    pub fn new(service: S, note: Arc<Note>) -> Self {
        Self { service, note }
    }
}

impl<S: LockService> LockService for Noted<S> {
    fn acquire(&self, request: LockRequest) -> BoxFuture<'_, Result<Acquired, Error>> {
        Box::pin(async {
            self.note.covers().await?;
            self.service.acquire(request).await
        })
    }

    fn renew<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<Option<Hold>, Error>> {
        Box::pin(async {
            self.note.covers().await?;
            self.service.renew(name, token).await
        })
    }

    fn release<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<bool, Error>> {
        self.service.release(name, token)
    }

    fn gone<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, ()> {
        self.service.gone(name, token)
    }
}

#[cfg(test)]
mod tests {
    use larder_core::{
        Locks,
        testing::{clock::TokioClock, fake_locks::FakeLocks},
    };

    use super::*;

    #[tokio::test]
    async fn a_lock_is_noted_before_it_is_granted() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("data");
        let clock = TokioClock::new();
        let note = Arc::new(Note::open(&folder, "a").unwrap());
        assert!(note.is_over() && !folder.exists(), "nothing is written before there is a lock");
        let locks = Locks::new(Noted::new(FakeLocks::new(clock), note), clock);
        let guard = locks.lock("job").acquire().await.unwrap();
        assert!(!Note::open(&folder, "a").unwrap().is_over());
        assert!(Note::open(&folder, "b").unwrap().is_over(), "another node has its own");
        guard.release().await.unwrap();
        fs::write(folder.join("locks-a"), (SystemClock.wall_ms() - 1).to_string()).unwrap();
        assert!(Note::open(&folder, "a").unwrap().is_over());
        fs::write(folder.join("locks-a"), "").unwrap();
        assert!(!Note::open(&folder, "a").unwrap().is_over(), "it may have been any time");
    }

    #[tokio::test]
    async fn what_can_not_be_noted_is_not_granted() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let clock = TokioClock::new();
        let note = Note { path: folder.path().join("file/locks-a"), until_ms: Mutex::default() };
        let service = FakeLocks::new(clock);
        let locks = Locks::new(Noted::new(service.clone(), Arc::new(note)), clock);
        let error = locks.lock("job").acquire().await.unwrap_err();
        assert!(error.kind() == ErrorKind::NoAuthority && error.message().contains("node.data_dir"), "{error}");
        assert_eq!(service.in_use(), 0);
    }
}
