//! Opening a journal: all of it is read, so that nobody goes on without what was acknowledged.

use std::sync::Arc;

use larder_core::version::Reading;
use redb::{ReadableTable, ReadableTableMetadata};

use super::{
    JournalError,
    database::Database,
    index::{Delta, Index},
    reading::{Named, Reads},
    record, tables,
};
use crate::storage::Storage;

/// A journal that was opened.
pub(super) struct Opened {
    pub(super) database: Database,
    /// Of the last commit.
    pub(super) number: u64,
    pub(super) counted: Counted,
}

pub(super) fn open(storage: &dyn Storage, name: &Arc<str>) -> Result<Opened, JournalError> {
    let file = storage.open(&mut Database::create).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => JournalError::Locked { file: Arc::clone(name) },
        std::io::ErrorKind::StorageFull => JournalError::NoRoom { file: Arc::clone(name) },
        _ => JournalError::Open { file: Arc::clone(name), cause: error.to_string().into() },
    })?;
    let (database, number) = Database::open(file, name)?;
    let counted = count(&database, name)?;
    Ok(Opened { database, number, counted })
}

/// What is found in a journal when it is opened.
pub(super) struct Counted {
    pub(super) index: Index,
    /// The greatest clock reading in it.
    pub(super) floor: Reading,
    pub(super) members: Option<Vec<Arc<str>>>,
}

/// Reads all of it. Whatever is not what was written is an error.
pub(super) fn count(database: &Database, name: &Arc<str>) -> Result<Counted, JournalError> {
    let reads = Reads::new(database, Arc::clone(name))?;
    let singles = tables::singles(&reads.txn).map_err(|error| reads.failed(error))?;
    let singles = singles.map_err(|(what, wrong)| JournalError::Damaged {
        file: Arc::clone(name),
        what: format!("{what}: {wrong}").into(),
    })?;
    let mut index = Index::default();
    index.apply(Delta::Horizon(singles.horizon));
    let mut floor = singles.clock.max(singles.horizon.reading());
    let records = reads.table(tables::RECORDS)?;
    let mut found = 0;
    for entry in reads.range(&records, &[], None)? {
        let (at, bytes) = entry.map_err(|error| reads.failed(error))?;
        let (at, bytes) = (at.value(), bytes.value());
        let record = reads.check(&Named { what: "a record", at }, record::decode(at, bytes))?;
        floor = floor.max(record.id.version.reading());
        index.apply(Delta::added(&record, tables::cost(at, bytes)));
        found += 1;
    }
    whole(&reads, name, "records", found, records.len())?;
    let marks = reads.table(tables::MARKS)?;
    found = 0;
    for entry in reads.range(&marks, &[], None)? {
        let (at, bytes) = entry.map_err(|error| reads.failed(error))?;
        let mark = Named { what: "a mark", at: at.value() };
        let mark = reads.check(&mark, record::decode_mark(at.value(), bytes.value()))?;
        floor = floor.max(mark.version.reading());
        found += 1;
    }
    whole(&reads, name, "marks", found, marks.len())?;
    let dead = reads.table(tables::DEAD)?;
    found = 0;
    for entry in dead.iter().map_err(|error| reads.failed(error))? {
        let (id, bytes) = entry.map_err(|error| reads.failed(error))?;
        let (id, bytes) = (id.value(), bytes.value());
        let letter = reads.check(&format_args!("dead letter {id}"), record::decode_dead(id, bytes))?;
        floor = floor.max(letter.record.id.version.reading());
        let group = letter.record.id.place.group;
        index.apply(Delta::DeadAdded { group, cost: tables::cost(&[], bytes) });
        found += 1;
    }
    whole(&reads, name, "dead letters", found, dead.len())?;
    Ok(Counted { index, floor, members: singles.members })
}

/// Whether a table has as many entries as it says, which every commit counts.
fn whole(
    reads: &Reads,
    name: &Arc<str>,
    what: &str,
    found: u64,
    said: Result<u64, redb::StorageError>,
) -> Result<(), JournalError> {
    let said = said.map_err(|error| reads.failed(error))?;
    if found == said {
        return Ok(());
    }
    let what = format!("it has {found} {what}, and {said} were written");
    Err(JournalError::Damaged { file: Arc::clone(name), what: what.into() })
}
