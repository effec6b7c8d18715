//! [`inspect`]: looks at a journal that no node has open, and changes nothing.
//!
//! A journal that was not closed has to be recovered before it can be read. That is done in memory here, over the file as
//! it is: what a damaged one says is there to be looked at again.

use std::{collections::BTreeMap, fmt, io, path::Path, sync::Arc};

use larder_core::version::Reading;
use parking_lot::Mutex;
use redb::{ReadOnlyTable, ReadableTable};

use super::{
    DeadLetter, JournalError, Mark, Record,
    database::Database,
    reading::{Named, Reads},
    record::{self, Wrong},
    tables,
};
use crate::storage::{ReadOnlyFile, StorageFile};

/// Damaged things that a report names; the others it counts.
pub const BAD_NAMED_MAX: usize = 1000;

/// What is met while a journal is read.
#[derive(Clone, Debug)]
pub enum Met {
    /// A record.
    Record(Record),
    /// A mark.
    Mark(Mark),
    /// A dead letter.
    DeadLetter(DeadLetter),
}

/// Something that is not what was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bad {
    /// What and where, as far as that can be told.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// What a journal holds.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// The number of its last commit.
    pub commit: u64,
    /// Sound records.
    pub records: u64,
    /// Sound marks.
    pub marks: u64,
    /// Sound dead letters.
    pub dead_letters: u64,
    /// The clock reading that is reserved.
    pub clock: Reading,
    /// The members of the last view, if any were remembered.
    pub members: Option<Vec<Arc<str>>>,
    /// How many things are damaged.
    pub bad_count: u64,
    /// The first [`BAD_NAMED_MAX`] of them.
    pub bad: Vec<Bad>,
}

impl Report {
    fn damaged(&mut self, what: &impl fmt::Display, why: Wrong) {
        self.bad_count += 1;
        if self.bad.len() < BAD_NAMED_MAX {
            self.bad.push(Bad { what: what.to_string(), why: why.to_string() });
        }
    }
}

/// Reads the journal at `path` and calls `visit` with everything sound in it: records and marks by group, slot and key, dead
/// letters by number. The file is left as it is.
///
/// # Errors
///
/// [`JournalError::Locked`] if a node has it open, [`JournalError::Damaged`] if it can't be read at all, and what
/// [`Journal::open`](super::Journal::open) has beside these. Records that are damaged are in the report.
///
/// # Examples
///
/// ```
/// use larder_origin::journal;
///
/// let folder = tempfile::tempdir()?;
/// let missing = journal::inspect(&journal::path_in(folder.path()), |_| {});
/// assert!(missing.unwrap_err().to_string().contains("journal.larder can't be opened"));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn inspect(path: &Path, mut visit: impl FnMut(Met)) -> Result<Report, JournalError> {
    let name: Arc<str> = path.display().to_string().into();
    let file = ReadOnlyFile::open(path).and_then(Overlay::new).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => JournalError::Locked { file: Arc::clone(&name) },
        _ => JournalError::Open { file: Arc::clone(&name), cause: error.to_string().into() },
    })?;
    let (database, commit) = Database::open(Arc::new(file), &name)?;
    let reads = Reads::new(&database, name)?;
    let mut report = Report { commit, ..Report::default() };
    match tables::singles(&reads.txn).map_err(|error| reads.failed(error))? {
        Ok(singles) => {
            report.clock = singles.clock;
            report.members = singles.members;
        }
        Err((what, wrong)) => report.damaged(&what, wrong),
    }
    let records = reads.table(tables::RECORDS)?;
    each(&reads, &records, |at, bytes| match record::decode(at, bytes) {
        Ok(record) => {
            report.records += 1;
            visit(Met::Record(record));
        }
        Err(wrong) => report.damaged(&Named { what: "a record", at }, wrong),
    })?;
    let marks = reads.table(tables::MARKS)?;
    each(&reads, &marks, |at, bytes| match record::decode_mark(at, bytes) {
        Ok(mark) => {
            report.marks += 1;
            visit(Met::Mark(mark));
        }
        Err(wrong) => report.damaged(&Named { what: "a mark", at }, wrong),
    })?;
    for entry in reads.table(tables::DEAD)?.iter().map_err(|error| reads.failed(error))? {
        let (id, bytes) = entry.map_err(|error| reads.failed(error))?;
        match record::decode_dead(id.value(), bytes.value()) {
            Ok(letter) => {
                report.dead_letters += 1;
                visit(Met::DeadLetter(letter));
            }
            Err(wrong) => report.damaged(&format_args!("dead letter {}", id.value()), wrong),
        }
    }
    Ok(report)
}

fn each(
    reads: &Reads,
    table: &ReadOnlyTable<&'static [u8], &'static [u8]>,
    mut visit: impl FnMut(&[u8], &[u8]),
) -> Result<(), JournalError> {
    for entry in reads.range(table, &[], None)? {
        let (at, bytes) = entry.map_err(|error| reads.failed(error))?;
        visit(at.value(), bytes.value());
    }
    Ok(())
}

/// Bytes that are written together in an overlay.
const PAGE: u64 = 4096;

/// A file with changes over it that stay in memory: as many as a recovery makes, which are a few pages.
#[derive(Debug)]
struct Overlay {
    below: ReadOnlyFile,
    above: Mutex<Above>,
}

#[derive(Debug)]
struct Above {
    len: u64,
    /// From here on the file below does not show.
    below_len: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    fn new(below: ReadOnlyFile) -> io::Result<Self> {
        let len = below.len()?;
        Ok(Self { below, above: Mutex::new(Above { len, below_len: len, pages: BTreeMap::new() }) })
    }

    /// A page as it was below, with zeroes where nothing was.
    fn page_below(&self, above: &Above, page: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(PAGE).unwrap_or_default()];
        let shown = above.below_len.saturating_sub(page * PAGE).min(PAGE);
        self.below.read(page * PAGE, &mut bytes[..usize::try_from(shown).unwrap_or_default()])?;
        Ok(bytes)
    }
}

/// The pages that `len` bytes at `at` touch: of each its number, where in it they begin, and how many they are.
fn pages(at: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let (mut at, mut left) = (at, len);
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let within = at % PAGE;
        let here = left.min(usize::try_from(PAGE - within).unwrap_or(left));
        let page = at / PAGE;
        at += here as u64;
        left -= here;
        Some((page, usize::try_from(within).unwrap_or_default(), here))
    })
}

impl StorageFile for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.above.lock().len)
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let above = self.above.lock();
        if at.saturating_add(into.len() as u64) > above.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = into;
        for (page, within, here) in pages(at, rest.len()) {
            let (part, after) = rest.split_at_mut(here);
            match above.pages.get(&page) {
                Some(bytes) => part.copy_from_slice(&bytes[within..within + here]),
                None => part.copy_from_slice(&self.page_below(&above, page)?[within..within + here]),
            }
            rest = after;
        }
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut above = self.above.lock();
        above.len = above.len.max(at + bytes.len() as u64);
        let mut rest = bytes;
        for (page, within, here) in pages(at, rest.len()) {
            let (part, after) = rest.split_at(here);
            let mut changed = match above.pages.remove(&page) {
                Some(changed) => changed,
                None => self.page_below(&above, page)?,
            };
            changed[within..within + here].copy_from_slice(part);
            above.pages.insert(page, changed);
            rest = after;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut above = self.above.lock();
        above.len = len;
        above.below_len = above.below_len.min(len);
        let cut = above.pages.split_off(&len.div_ceil(PAGE));
        drop(cut);
        let within = usize::try_from(len % PAGE).unwrap_or_default();
        if within > 0
            && let Some(last) = above.pages.get_mut(&(len / PAGE))
        {
            last[within..].fill(0);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use larder_core::{Change, Key, Version};

    use super::*;
    use crate::{
        journal::{Place, opening, path_in, record::places},
        storage::{DiskStorage, Storage},
    };

    #[test]
    fn a_record_with_a_wrong_checksum_is_named_and_no_journal_opens_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(folder.path());
        let storage = DiskStorage::new(&path);
        let name: Arc<str> = storage.name().into();
        let (database, _) = Database::open(storage.open(&mut Database::create).unwrap(), &name).unwrap();
        let place = |key| Place::new("users", Key::new(key).unwrap());
        let good = Record::new(place("good").at(Version::ZERO), Change::Put("x".into()));
        let bad = Record::new(place("bad").at(Version::ZERO), Change::Put("x".into()));
        let txn = database.redb().begin_write().unwrap();
        let mut records = txn.open_table(tables::RECORDS).unwrap();
        for (record, flip) in [(&good, 0), (&bad, 1)] {
            let at = places::record(&record.id);
            let mut bytes = record::encode(&at, record);
            bytes[3] ^= flip;
            records.insert(&at[..], &bytes[..]).unwrap();
        }
        drop(records);
        txn.commit().unwrap();
        drop(database);

        let mut met = Vec::new();
        let report = inspect(&path, |record| met.push(record)).unwrap();
        assert_eq!((report.records, report.bad_count, met.len()), (1, 1, 1));
        let named = report.bad[0].to_string();
        assert!(named.starts_with("a record of users Key(bad, 3 bytes) of version 0"), "{named}");
        assert!(named.ends_with("its checksum is wrong"), "{named}");
        let Err(error) = opening::open(&storage, &name) else { panic!("it was opened") };
        assert!(error.to_string().contains(&format!("{} is damaged: {named}", path.display())), "{error}");
    }

    #[test]
    fn what_is_written_over_a_file_shows_and_the_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut seen: Vec<u8> = (0..20_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        std::fs::write(&path, &seen).unwrap();
        let before = seen.clone();
        let overlay = Overlay::new(ReadOnlyFile::open(&path).unwrap()).unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..500 {
            let at = random.usize(..seen.len() + 100);
            match random.u8(..8) {
                0 => {
                    overlay.set_len(at as u64).unwrap();
                    seen.resize(at, 0);
                }
                _ => {
                    let bytes: Vec<u8> = (0..random.usize(..9000)).map(|_| random.u8(..)).collect();
                    overlay.write(at as u64, &bytes).unwrap();
                    seen.resize(seen.len().max(at + bytes.len()), 0);
                    seen[at..at + bytes.len()].copy_from_slice(&bytes);
                }
            }
            let mut read = vec![0; seen.len()];
            assert_eq!(overlay.len().unwrap(), seen.len() as u64);
            overlay.read(0, &mut read).unwrap();
            assert!(read == seen);
            assert!(overlay.read(seen.len() as u64, &mut [0]).is_err());
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}
