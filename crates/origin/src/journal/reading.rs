//! What can be asked of a [`Journal`]: each answer from one look at all of it, as it was after some commit.

use std::{fmt, sync::Arc};

use larder_core::placement::{Slot, SlotSet};
use redb::{ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable};

use super::{
    DeadLetter, Journal, JournalError, Mark, Place, Record, RecordId, Scope,
    database::Database,
    record::{self, Wrong, places},
    tables,
};

/// Records, marks or dead letters of one answer, however many were asked for.
pub const PAGE_LEN_MAX: usize = 1024;

/// Bytes of one answer; at least one record comes whatever its size.
const PAGE_BYTES_MAX: usize = 8 << 20;

impl Journal {
    /// The record of this version.
    ///
    /// # Errors
    ///
    /// [`JournalError::Damaged`] if it is not what was written; [`JournalError::Busy`] while a full disk is seen to. So for all
    /// that read.
    pub async fn record(&self, id: RecordId) -> Result<Option<Record>, JournalError> {
        Ok(self.records_of(vec![id]).await?.pop().flatten())
    }

    /// The records of these versions, each in its place.
    ///
    /// # Errors
    ///
    /// As [`record`](Self::record).
    pub async fn records_of(&self, ids: Vec<RecordId>) -> Result<Vec<Option<Record>>, JournalError> {
        self.read(move |reading| {
            let table = reading.table(tables::RECORDS)?;
            let find = |id: &RecordId| {
                let at = places::record(id);
                let stored = table.get(&at[..]).map_err(|error| reading.failed(error))?;
                stored.map(|stored| reading.check(id, record::decode(&at, stored.value()))).transpose()
            };
            ids.iter().map(find).collect()
        })
        .await
    }

    /// The newest record of a key.
    ///
    /// # Errors
    ///
    /// As [`record`](Self::record).
    pub async fn newest(&self, place: Place) -> Result<Option<Record>, JournalError> {
        self.read(move |reading| {
            let table = reading.table(tables::RECORDS)?;
            let prefix = places::key(&place);
            let mut range = reading.range(&table, &prefix, None)?;
            let newest = range.next_back().transpose().map_err(|error| reading.failed(error))?;
            newest.map(|(at, bytes)| reading.check(&place, record::decode(at.value(), bytes.value()))).transpose()
        })
        .await
    }

    /// Records of this part, by group, slot and key, those of a key by version; from after the one given, up to `len_max` or
    /// [`PAGE_LEN_MAX`], and some megabytes. None are left when none come.
    ///
    /// # Errors
    ///
    /// As [`record`](Self::record).
    pub async fn records(
        &self,
        scope: Scope,
        after: Option<RecordId>,
        len_max: usize,
    ) -> Result<Vec<Record>, JournalError> {
        let after = after.map(|id| places::record(&id));
        self.page(tables::RECORDS, scope, after, len_max, "a record", record::decode).await
    }

    /// Records of a group in these slots, as [`records`](Self::records), and about so many bytes of them.
    ///
    /// # Errors
    ///
    /// As [`record`](Self::record).
    pub async fn records_in(
        &self,
        group: Arc<str>,
        slots: Arc<SlotSet>,
        after: Option<RecordId>,
        bytes_max: usize,
    ) -> Result<Vec<Record>, JournalError> {
        let (after, room) = (after.map(|id| places::record(&id)), Room { bytes_max, ..Room::new(PAGE_LEN_MAX) });
        self.page_in(tables::RECORDS, (group, slots), after, room, "a record", record::decode).await
    }

    /// Marks of a group in these slots, likewise.
    ///
    /// # Errors
    ///
    /// As [`record`](Self::record).
    pub async fn marks_in(
        &self,
        group: Arc<str>,
        slots: Arc<SlotSet>,
        after: Option<Place>,
    ) -> Result<Vec<Mark>, JournalError> {
        let (after, room) = (after.map(|place| places::key(&place)), Room::new(PAGE_LEN_MAX));
        self.page_in(tables::MARKS, (group, slots), after, room, "a mark", record::decode_mark).await
    }

    /// A key's mark.
    ///
    /// # Errors
    ///
    /// As [`record`](Self::record).
    pub async fn mark(&self, place: Place) -> Result<Option<Mark>, JournalError> {
        Ok(self.marks(Scope::Key(place), None, 1).await?.pop())
    }

    /// Marks of this part, as [`records`](Self::records).
    ///
    /// # Errors
    ///
    /// As [`record`](Self::record).
    pub async fn marks(&self, scope: Scope, after: Option<Place>, len_max: usize) -> Result<Vec<Mark>, JournalError> {
        let after = after.map(|place| places::key(&place));
        self.page(tables::MARKS, scope, after, len_max, "a mark", record::decode_mark).await
    }

    /// Dead letters with numbers above `after`, up to `len_max` or [`PAGE_LEN_MAX`], and some megabytes.
    ///
    /// # Errors
    ///
    /// As [`record`](Self::record).
    pub async fn dead_letters(&self, after: u64, len_max: usize) -> Result<Vec<DeadLetter>, JournalError> {
        let Some(first) = after.checked_add(1) else { return Ok(Vec::new()) };
        self.read(move |reading| {
            let table = reading.table(tables::DEAD)?;
            let (mut found, mut bytes) = (Vec::new(), 0);
            for entry in table.range(first..).map_err(|error| reading.failed(error))? {
                let (id, stored) = entry.map_err(|error| reading.failed(error))?;
                let id = id.value();
                found.push(reading.check(&format_args!("dead letter {id}"), record::decode_dead(id, stored.value()))?);
                bytes += stored.value().len();
                if found.len() >= len_max.min(PAGE_LEN_MAX) || bytes >= PAGE_BYTES_MAX {
                    break;
                }
            }
            Ok(found)
        })
        .await
    }

    /// The dead letter of this number.
    ///
    /// # Errors
    ///
    /// As [`record`](Self::record).
    pub async fn dead_letter(&self, id: u64) -> Result<Option<DeadLetter>, JournalError> {
        self.read(move |reading| {
            let stored = reading.table(tables::DEAD)?.get(id).map_err(|error| reading.failed(error))?;
            let decode = |stored: &[u8]| record::decode_dead(id, stored);
            stored.map(|stored| reading.check(&format_args!("dead letter {id}"), decode(stored.value()))).transpose()
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Reads) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let database = self.shared.database.read().clone();
        let Some(database) = database else {
            return Err(if self.queue.is_closed() { JournalError::Closed } else { JournalError::Busy });
        };
        let file = Arc::clone(&self.shared.name);
        let done = self.readers.run(move || {
            let reads = Reads::new(&database, file)?;
            work(&reads)
        });
        done.await.map_err(|error| JournalError::invalid(error.to_string()))?
    }

    async fn page<T: Send + 'static>(
        &self,
        table: redb::TableDefinition<'static, &'static [u8], &'static [u8]>,
        scope: Scope,
        after: Option<Vec<u8>>,
        len_max: usize,
        what: &'static str,
        decode: fn(&[u8], &[u8]) -> Result<T, Wrong>,
    ) -> Result<Vec<T>, JournalError> {
        self.read(move |reading| {
            let table = reading.table(table)?;
            let (mut found, mut room) = (Vec::new(), Room::new(len_max));
            for entry in reading.range(&table, &scope.prefix(), after.as_deref())? {
                let (at, stored) = entry.map_err(|error| reading.failed(error))?;
                let place = Named { what, at: at.value() };
                found.push(reading.check(&place, decode(at.value(), stored.value()))?);
                if !room.is_left(found.len(), stored.value().len()) {
                    break;
                }
            }
            Ok(found)
        })
        .await
    }

    async fn page_in<T: Send + 'static>(
        &self,
        table: redb::TableDefinition<'static, &'static [u8], &'static [u8]>,
        (group, slots): (Arc<str>, Arc<SlotSet>),
        after: Option<Vec<u8>>,
        mut room: Room,
        what: &'static str,
        decode: fn(&[u8], &[u8]) -> Result<T, Wrong>,
    ) -> Result<Vec<T>, JournalError> {
        self.read(move |reading| {
            let table = reading.table(table)?;
            let prefix = places::group(&group);
            let slot_of = |at: &[u8]| {
                let number = at.get(prefix.len()..)?.first_chunk()?;
                Slot::new(u16::from_be_bytes(*number))
            };
            let (mut found, mut after) = (Vec::new(), after);
            'from: loop {
                for entry in reading.range(&table, &prefix, after.as_deref())? {
                    let (at, stored) = entry.map_err(|error| reading.failed(error))?;
                    let place = Named { what, at: at.value() };
                    let slot = slot_of(at.value()).ok_or(Wrong::Place);
                    let slot = reading.check(&place, slot)?;
                    if !slots.contains(slot) {
                        // Nothing in between is looked at. No place is as short as a slot's.
                        let Some(next) = slots.iter().find(|next| *next > slot) else { break 'from };
                        after = Some(places::slot(&group, next));
                        continue 'from;
                    }
                    found.push(reading.check(&place, decode(at.value(), stored.value()))?);
                    if !room.is_left(found.len(), stored.value().len()) {
                        break 'from;
                    }
                }
                break;
            }
            Ok(found)
        })
        .await
    }
}

/// What there is room for in an answer.
struct Room {
    len_max: usize,
    bytes_max: usize,
    bytes: usize,
}

impl Room {
    fn new(len_max: usize) -> Self {
        Self { len_max: len_max.min(PAGE_LEN_MAX), bytes_max: PAGE_BYTES_MAX, bytes: 0 }
    }

    /// Whether anything goes beside so many, of which the last takes so many bytes.
    fn is_left(&mut self, len: usize, bytes: usize) -> bool {
        self.bytes += bytes;
        len < self.len_max && self.bytes < self.bytes_max
    }
}

/// What stands at a place, for a message.
pub(super) struct Named<'a> {
    pub(super) what: &'static str,
    pub(super) at: &'a [u8],
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (places::read_record(self.at), places::read_key(self.at)) {
            (Some(id), _) => write!(f, "{} of {id}", self.what),
            (_, Some(place)) => write!(f, "{} of {place}", self.what),
            _ => write!(f, "{} at no place", self.what),
        }
    }
}

type Slices<'a> = redb::Range<'a, &'static [u8], &'static [u8]>;

/// One look at all of the journal, as it was after some commit.
pub(super) struct Reads {
    pub(super) txn: ReadTransaction,
    file: Arc<str>,
}

impl Reads {
    pub(super) fn new(database: &Database, file: Arc<str>) -> Result<Self, JournalError> {
        let txn = database.redb().begin_read().map_err(|error| failed(&file, error))?;
        Ok(Self { txn, file })
    }

    pub(super) fn table<K: redb::Key + 'static, V: redb::Value + 'static>(
        &self,
        table: redb::TableDefinition<'static, K, V>,
    ) -> Result<ReadOnlyTable<K, V>, JournalError> {
        self.txn.open_table(table).map_err(|error| self.failed(error))
    }

    /// What begins with `prefix` and stands after `after`.
    pub(super) fn range<'a>(
        &self,
        table: &'a ReadOnlyTable<&'static [u8], &'static [u8]>,
        prefix: &[u8],
        after: Option<&[u8]>,
    ) -> Result<Slices<'a>, JournalError> {
        use std::ops::Bound::{Excluded, Included, Unbounded};

        let end = places::after(prefix);
        let start = after.filter(|after| *after >= prefix).map_or(Included(prefix), Excluded);
        let range = (start, end.as_deref().map_or(Unbounded, Excluded));
        ReadableTable::range::<&[u8]>(table, range).map_err(|error| self.failed(error))
    }

    pub(super) fn failed(&self, error: impl Into<redb::Error>) -> JournalError {
        failed(&self.file, error)
    }

    pub(super) fn check<T>(&self, what: &impl fmt::Display, read: Result<T, Wrong>) -> Result<T, JournalError> {
        let damaged =
            |wrong| JournalError::Damaged { file: Arc::clone(&self.file), what: format!("{what}: {wrong}").into() };
        read.map_err(damaged)
    }
}

fn failed(file: &Arc<str>, error: impl Into<redb::Error>) -> JournalError {
    match error.into() {
        // A full disk was met, and is being seen to.
        redb::Error::PreviousIo => JournalError::Busy,
        error @ redb::Error::Corrupted(_) => {
            JournalError::Damaged { file: Arc::clone(file), what: error.to_string().into() }
        }
        error => JournalError::Open { file: Arc::clone(file), cause: error.to_string().into() },
    }
}
