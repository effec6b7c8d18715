//! [`Database`]: the redb database in the journal's file, and what stands before it there.
//!
//! The file begins with a page of ours: what it is, its format, and two *seals*. A commit is done with one sync (redb's
//! default, one phase with checksums): after a crash redb takes the commit before if the last one did not reach the disk whole.
//! That is right for a commit that nobody was told of, and wrong for one that rotted since. The seals tell the two apart: after
//! each commit its number is written to one of them in turn, before anybody is told. An opened database of a lower number than a seal's
//! has lost what was acknowledged, and is refused. The next commit's sync takes the seal along, so that it costs no sync of its own.
//!
//! redb verifies all its pages' checksums when the file is opened, whether or not it was closed well.

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use redb::{Builder, ReadableDatabase, StorageBackend};

use super::{JournalError, tables};
use crate::storage::StorageFile;

/// The format of the file that this version writes and reads. It changes whenever an older version would misread the file.
pub(super) const FORMAT: u32 = 1;

/// Our page: as large as redb's, so that those stay aligned.
const HEAD_LEN: u64 = 4096;

const MAGIC: [u8; 8] = *b"LARDER\nJ";

/// Where the seals are: in sectors of their own, so that a torn write of one leaves the other.
const SEALS_AT: [u64; 2] = [1024, 2048];

/// What redb keeps of the file in memory. Records are read seldom, as what is unflushed is in the cache as well.
const CACHE_BYTES: usize = 16 << 20;

/// An open database.
pub(super) struct Database {
    redb: redb::Database,
    file: Arc<dyn StorageFile>,
    faults: Arc<Faults>,
}

/// What went wrong at the file, which redb's errors don't always tell.
#[derive(Default, Debug)]
pub(super) struct Faults {
    /// A write found no room, and nothing else has failed since the database was opened.
    no_room: AtomicBool,
    /// What failed beyond that, first.
    broken: Mutex<Option<Arc<str>>>,
    /// Another instance has taken over.
    is_retired: AtomicBool,
}

impl Faults {
    /// What can't be made good.
    pub(super) fn broken(&self) -> Option<Arc<str>> {
        self.broken.lock().clone()
    }

    pub(super) fn is_out_of_room(&self) -> bool {
        self.no_room.load(Ordering::Acquire)
    }

    /// Nothing is written to the file any more, not even while it is closed.
    pub(super) fn end(&self, cause: &Arc<str>) {
        self.broken.lock().get_or_insert_with(|| Arc::clone(cause));
    }

    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
    }

    fn note(&self, doing: &str, error: &io::Error) {
        self.broken.lock().get_or_insert_with(|| format!("{doing}: {error}").into());
    }
}

/// The part of the file that is redb's.
struct Pages {
    file: Arc<dyn StorageFile>,
    faults: Arc<Faults>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl Pages {
    fn check(&self) -> io::Result<()> {
        if self.faults.is_retired.load(Ordering::Acquire) {
            return Err(io::Error::other("the file was opened anew"));
        }
        match self.faults.broken() {
            Some(cause) => Err(io::Error::other(&*cause)),
            None => Ok(()),
        }
    }

    /// A full disk fails a write and no more: what was synced stands, as redb changes no page in place that a commit needs.
    fn written(&self, doing: &str, result: io::Result<()>) -> io::Result<()> {
        result.inspect_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                self.faults.no_room.store(true, Ordering::Release);
            }
            _ => self.faults.note(doing, error),
        })
    }
}

impl StorageBackend for Pages {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.len()?.saturating_sub(HEAD_LEN))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(HEAD_LEN + offset, out).inspect_err(|error| self.faults.note("reading", error))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.written("changing its length", self.file.set_len(HEAD_LEN + len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        // After this nobody knows what is on the disk; the system forgets what it could not write. Even if it was for want of room.
        self.file.sync().inspect_err(|error| self.faults.note("syncing", error))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.written("writing", self.file.write(HEAD_LEN + offset, data))
    }
}

impl Database {
    /// Fills a new file.
    pub(super) fn create(file: &Arc<dyn StorageFile>) -> io::Result<()> {
        let mut head = [MAGIC.as_slice(), &FORMAT.to_be_bytes()].concat();
        head.extend_from_slice(&crc32fast::hash(&head).to_be_bytes());
        file.set_len(HEAD_LEN)?;
        file.write(0, &head)?;
        for at in SEALS_AT {
            file.write(at, &seal(0))?;
        }
        let faults = Arc::new(Faults::default());
        let redb = builder().create_with_backend(Pages { file: Arc::clone(file), faults }).map_err(io::Error::other)?;
        let txn = redb.begin_write().map_err(io::Error::other)?;
        tables::create(&txn).map_err(io::Error::other)?;
        txn.commit().map_err(io::Error::other)?;
        redb.close().map_err(io::Error::other)?;
        file.sync()
    }

    /// Opens what `create` made, and gives back the number of the last commit.
    pub(super) fn open(file: Arc<dyn StorageFile>, name: &Arc<str>) -> Result<(Self, u64), JournalError> {
        let damaged = |what: String| JournalError::Damaged { file: Arc::clone(name), what: what.into() };
        let sealed = read_head(&*file, name)?;
        let faults = Arc::new(Faults::default());
        let pages = Pages { file: Arc::clone(&file), faults: Arc::clone(&faults) };
        // redb promises errors for a damaged file, but asserts much in debug builds.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let redb = builder().create_with_backend(pages)?;
            let number = tables::last_commit(&redb.begin_read()?)?;
            Ok((redb, number))
        }));
        let (redb, number) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Err(refused(&error, &faults, name)),
            Err(_) => return Err(damaged("its pages contradict each other".to_owned())),
        };
        match number {
            Some(number) if number >= sealed => Ok((Self { redb, file, faults }, number)),
            Some(number) => Err(damaged(format!("it ends with commit {number}, and commit {sealed} was acknowledged"))),
            None => Err(damaged("the number of its last commit is gone".to_owned())),
        }
    }

    pub(super) fn redb(&self) -> &redb::Database {
        &self.redb
    }

    pub(super) fn faults(&self) -> &Arc<Faults> {
        &self.faults
    }

    pub(super) fn file(&self) -> &Arc<dyn StorageFile> {
        &self.file
    }

    /// Takes down that the commit of this number is about to be acknowledged.
    pub(super) fn seal(&self, number: u64) -> io::Result<()> {
        let [even, odd] = SEALS_AT;
        let at = if number.is_multiple_of(2) { even } else { odd };
        self.file.write(at, &seal(number)).inspect_err(|error| self.faults.note("writing", error))
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn seal(number: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    let checksum = crc32fast::hash(&bytes[..8]);
    bytes[8..].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// Reads our page, and gives back the greatest number that was sealed.
fn read_head(file: &dyn StorageFile, name: &Arc<str>) -> Result<u64, JournalError> {
    let damaged = |what: &str| JournalError::Damaged { file: Arc::clone(name), what: what.into() };
    let unreadable = |error: io::Error| JournalError::Open { file: Arc::clone(name), cause: error.to_string().into() };
    if file.len().map_err(unreadable)? <= HEAD_LEN {
        return Err(damaged("it is cut short"));
    }
    let mut head = [0; 16];
    file.read(0, &mut head).map_err(unreadable)?;
    let [magic @ .., a, b, c, d] = head;
    if magic[..8] != MAGIC {
        return Err(damaged("it does not begin as a journal does"));
    }
    if crc32fast::hash(&magic) != u32::from_be_bytes([a, b, c, d]) {
        return Err(damaged("the checksum of its head is wrong"));
    }
    let [.., a, b, c, d] = magic;
    let found = u32::from_be_bytes([a, b, c, d]);
    if found != FORMAT {
        return Err(JournalError::Format { file: Arc::clone(name), found, known: FORMAT });
    }
    let mut sealed = None;
    for at in SEALS_AT {
        let mut bytes = [0; 12];
        file.read(at, &mut bytes).map_err(unreadable)?;
        let [number @ .., _, _, _, _] = bytes;
        let number = u64::from_be_bytes(number);
        if seal(number) == bytes {
            sealed = sealed.max(Some(number));
        }
    }
    sealed.ok_or_else(|| damaged("both its seals are broken"))
}

/// What it means that redb did not open.
fn refused(error: &redb::Error, faults: &Faults, name: &Arc<str>) -> JournalError {
    let file = Arc::clone(name);
    let is_cut = |error: &io::Error| matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData);
    match error {
        _ if faults.is_out_of_room() => JournalError::NoRoom { file },
        redb::Error::Io(error) if !is_cut(error) => JournalError::Open { file, cause: error.to_string().into() },
        error => JournalError::Damaged { file, what: error.to_string().into() },
    }
}
