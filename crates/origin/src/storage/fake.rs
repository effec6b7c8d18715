//! [`FakeDisk`]: a disk in memory that forgets, tears and reorders what was not synced, and fails as disks do.
//!
//! All chance comes from a seed. Clones are the same disk. It holds one file, as [`Storage`] does.

use std::{io, sync::Arc};

use parking_lot::{Condvar, Mutex};

use super::{Fill, Storage, StorageFile};

/// What a disk writes in one piece: of a torn write whole sectors are old and whole sectors are new.
const SECTOR: usize = 512;

/// What a file system allots in one piece.
const BLOCK: usize = 4096;

/// A disk in memory.
///
/// # Examples
///
/// ```
/// use larder_origin::storage::{Storage, fake::FakeDisk};
///
/// let disk = FakeDisk::new(7);
/// let file = disk.open(&mut |new| new.sync())?;
/// file.write(0, b"synced")?;
/// file.sync()?;
/// file.write(0, b"forgot")?;
/// disk.crash();
/// assert!(file.len().is_err(), "what was open before the crash is gone");
/// assert!(disk.image().is_some());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FakeDisk(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    gate: Condvar,
}

#[derive(Debug)]
struct State {
    random: fastrand::Rng,
    /// What a program sees; `None` as long as there is no file.
    seen: Option<Vec<u8>>,
    /// What is on the disk for certain.
    kept: Vec<u8>,
    /// What was done since the last sync.
    unsynced: Vec<Change>,
    is_locked: bool,
    /// Files that were opened before the last crash are of an earlier one.
    boots: u64,
    syncs: u64,
    /// This sync fails, counted from the first one.
    failing_sync: Option<u64>,
    /// Writes and syncs until the power fails.
    doom: Option<u64>,
    /// Blocks that the file may have at most.
    blocks_max: Option<usize>,
    is_sparse: bool,
    is_gated: bool,
}

#[derive(Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl FakeDisk {
    /// An empty disk; `seed` decides what becomes of what was not synced.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with(seed, None)
    }

    /// A disk that has this file.
    #[must_use]
    pub fn holding(seed: u64, image: Vec<u8>) -> Self {
        Self::with(seed, Some(image))
    }

    fn with(seed: u64, image: Option<Vec<u8>>) -> Self {
        let state = State {
            random: fastrand::Rng::with_seed(seed),
            kept: image.clone().unwrap_or_default(),
            seen: image,
            unsynced: Vec::new(),
            is_locked: false,
            boots: 0,
            syncs: 0,
            failing_sync: None,
            doom: None,
            blocks_max: None,
            is_sparse: false,
            is_gated: false,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), gate: Condvar::new() }))
    }

    /// The power fails: of what was not synced any part is kept, in any order, writes torn between sectors; and every
    /// open file is gone.
    pub fn crash(&self) {
        self.0.state.lock().crash();
        self.0.gate.notify_all();
    }

    /// The power fails after `count` more writes, changes of the length and syncs.
    pub fn crash_after(&self, count: u64) {
        self.0.state.lock().doom = Some(count);
    }

    /// The process ends and the machine goes on: the file stays as it is seen, and every open one is gone.
    pub fn kill(&self) {
        let mut state = self.0.state.lock();
        state.boots += 1;
        state.is_locked = false;
        state.is_gated = false;
        self.0.gate.notify_all();
    }

    /// The file as it is seen now.
    #[must_use]
    pub fn image(&self) -> Option<Vec<u8>> {
        self.0.state.lock().seen.clone()
    }

    /// Syncs so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.0.state.lock().syncs
    }

    /// The sync after `count` more fails, once. As on Linux: what it was to write is lost in part and counts as written, so
    /// that the next sync succeeds and tells nothing of it ("fsyncgate": Rebello and others, "Can Applications Recover from
    /// fsync Failures?", USENIX ATC 2020).
    pub fn fail_sync_after(&self, count: u64) {
        let mut state = self.0.state.lock();
        state.failing_sync = Some(state.syncs + count);
    }

    /// Leaves room for so many more bytes, counted in whole blocks; `None` for any number. A file takes its room when it grows;
    /// on a [sparse](Self::sparse) disk when it is written to.
    pub fn set_room(&self, bytes: Option<usize>) {
        let mut state = self.0.state.lock();
        let blocks = state.seen.as_ref().map_or(0, |seen| state.allotted(seen));
        state.blocks_max = bytes.map(|bytes| blocks + bytes / BLOCK);
    }

    /// The same disk, with files that take room only when they are written to.
    #[must_use]
    pub fn sparse(self) -> Self {
        self.0.state.lock().is_sparse = true;
        self
    }

    /// Syncs wait until [`open_gate`](Self::open_gate), or until the file is gone.
    pub fn close_gate(&self) {
        self.0.state.lock().is_gated = true;
    }

    /// Lets the syncs go on.
    pub fn open_gate(&self) {
        self.0.state.lock().is_gated = false;
        self.0.gate.notify_all();
    }
}

impl State {
    fn crash(&mut self) {
        self.lose_unsynced();
        self.boots += 1;
        self.is_locked = false;
        self.is_gated = false;
        self.failing_sync = None;
        self.doom = None;
        if self.seen.is_some() {
            self.seen = Some(self.kept.clone());
        }
    }

    /// The power may fail before something more is changed.
    fn pass(&mut self) {
        match &mut self.doom {
            Some(0) => self.crash(),
            Some(left) => *left -= 1,
            None => {}
        }
    }

    fn lose_unsynced(&mut self) {
        let lengths = self.unsynced.iter().filter(|change| matches!(change, Change::SetLen(_))).count();
        // Lengths are of the file system's own journal, which keeps their order.
        let mut lengths_kept = self.random.usize(..=lengths);
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::SetLen(len) => {
                    if lengths_kept > 0 {
                        lengths_kept -= 1;
                        self.kept.resize(len, 0);
                    }
                }
                Change::Write { at, bytes } => {
                    let fate = self.random.u8(..3);
                    for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                        let is_kept = match fate {
                            0 => false,
                            1 => true,
                            _ => self.random.bool(),
                        };
                        let at = at + index * SECTOR;
                        let end = self.kept.len().min(at + sector.len());
                        if is_kept && at < end {
                            self.kept[at..end].copy_from_slice(&sector[..end - at]);
                        }
                    }
                }
            }
        }
    }

    fn keep_unsynced(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::SetLen(len) => self.kept.resize(len, 0),
                Change::Write { at, bytes } => {
                    let end = at + bytes.len();
                    self.kept.resize(self.kept.len().max(end), 0);
                    self.kept[at..end].copy_from_slice(&bytes);
                }
            }
        }
    }

    /// Blocks that it takes.
    fn allotted(&self, bytes: &[u8]) -> usize {
        let takes_room = |block: &&[u8]| !self.is_sparse || block.iter().any(|byte| *byte != 0);
        bytes.chunks(BLOCK).filter(takes_room).count()
    }

    /// How many of `len` bytes at `at` there is room for.
    fn room(&self, at: usize, len: usize) -> usize {
        let (Some(blocks_max), Some(seen)) = (self.blocks_max, &self.seen) else { return len };
        let mut blocks = self.allotted(seen);
        for block in at / BLOCK..(at + len).div_ceil(BLOCK) {
            let old = seen.get(block * BLOCK..seen.len().min((block + 1) * BLOCK)).unwrap_or_default();
            blocks += 1 - self.allotted(old);
            if blocks > blocks_max {
                return (block * BLOCK).saturating_sub(at);
            }
        }
        len
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> io::Result<()> {
        let taken = self.room(at, bytes.len());
        let seen = self.seen.get_or_insert_default();
        if seen.len() < at + taken {
            seen.resize(at + taken, 0);
            self.unsynced.push(Change::SetLen(at + taken));
        }
        seen[at..at + taken].copy_from_slice(&bytes[..taken]);
        self.unsynced.push(Change::Write { at, bytes: bytes[..taken].to_vec() });
        if taken < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_len(&mut self, len: usize) -> io::Result<()> {
        let old = self.seen.as_ref().map_or(0, Vec::len);
        if len > old && !self.is_sparse && self.room(old, len - old) < len - old {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.seen.get_or_insert_default().resize(len, 0);
        self.unsynced.push(Change::SetLen(len));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let number = self.syncs;
        self.syncs += 1;
        if self.failing_sync == Some(number) {
            self.failing_sync = None;
            self.lose_unsynced();
            return Err(io::Error::other("input/output error"));
        }
        self.keep_unsynced();
        Ok(())
    }
}

impl Storage for FakeDisk {
    fn name(&self) -> String {
        "the fake disk's file".to_owned()
    }

    fn open(&self, fill: Fill<'_>) -> io::Result<Arc<dyn StorageFile>> {
        let (boot, is_new) = {
            let mut state = self.0.state.lock();
            if std::mem::replace(&mut state.is_locked, true) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            (state.boots, state.seen.is_none())
        };
        let file = Arc::new(FakeFile { disk: self.clone(), boot, has_lock: true });
        if is_new {
            // A crash before it has its name leaves no file.
            let unnamed = Self::new(0);
            let new: Arc<dyn StorageFile> = Arc::new(FakeFile { disk: unnamed.clone(), boot: 0, has_lock: false });
            fill(&new)?;
            let mut state = self.0.state.lock();
            state.kept = unnamed.image().unwrap_or_default();
            state.seen = Some(state.kept.clone());
        }
        Ok(file)
    }
}

#[derive(Debug)]
struct FakeFile {
    disk: FakeDisk,
    boot: u64,
    has_lock: bool,
}

impl FakeFile {
    fn change(&self, work: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
        self.disk.0.state.lock().pass();
        self.with(work)
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.0.state.lock();
        if state.boots != self.boot {
            return Err(io::Error::other("the machine was started anew since this file was opened"));
        }
        work(&mut state)
    }
}

impl Drop for FakeFile {
    fn drop(&mut self) {
        let mut state = self.disk.0.state.lock();
        if self.has_lock && state.boots == self.boot {
            state.is_locked = false;
        }
    }
}

impl StorageFile for FakeFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.seen.as_ref().map_or(0, Vec::len) as u64))
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.with(|state| {
            let at = usize::try_from(at).map_err(io::Error::other)?;
            let bytes = state.seen.as_ref().and_then(|seen| seen.get(at..at.checked_add(into.len())?));
            into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(|state| state.write(usize::try_from(at).map_err(io::Error::other)?, bytes))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|state| state.set_len(usize::try_from(len).map_err(io::Error::other)?))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.state.lock();
        while state.is_gated && state.boots == self.boot {
            self.disk.0.gate.wait(&mut state);
        }
        drop(state);
        self.change(State::sync)
    }
}
