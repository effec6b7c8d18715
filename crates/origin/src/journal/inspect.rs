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
