//! The journal's tables, and what each operation changes in them.
//!
//! An operation reads all that it needs before it changes anything: so one that finds something damaged fails alone, and the
//! others of its commit go on.

use std::sync::Arc;

use larder_core::{
    Version,
    behind::{Appended, Holder, Mark, Place, Record, RecordId},
    version::Reading,
};
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};

use super::{
    JournalError,
    index::Delta,
    record::{self, DeadLetter, Fields, RECORD_OVERHEAD, Stamp, Wrong, places},
};

type Bytes = &'static [u8];

/// Records by place.
pub(super) const RECORDS: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("records");
/// Marks by their key's place.
pub(super) const MARKS: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("marks");
/// The places of marks, each behind the time of its mark: which to forget first.
const MARK_AGES: TableDefinition<'static, Bytes, ()> = TableDefinition::new("mark_ages");
/// Dead letters by number.
pub(super) const DEAD: TableDefinition<'static, u64, Bytes> = TableDefinition::new("dead_letters");
/// What there is one of.
const META: TableDefinition<'static, &str, Bytes> = TableDefinition::new("meta");

/// The number of the last commit.
const COMMIT: &str = "commit";
/// The clock reading that is reserved.
const CLOCK: &str = "clock";
/// The greatest version whose mark was forgotten.
const HORIZON: &str = "horizon";
/// The next dead letter's number.
const NEXT_DEAD: &str = "next_dead_letter";
/// The last view's members.
const MEMBERS: &str = "members";

/// Members that are kept at most: as many as a cluster may have.
pub(super) const MEMBERS_MAX: usize = 4096;

/// Marks that are forgotten for each that comes: more than one, so that those too many become fewer.
const FORGOTTEN_PER_MARK: usize = 2;

/// Makes the tables, so that reading never finds one missing.
pub(super) fn create(txn: &WriteTransaction) -> Result<(), redb::Error> {
    let mut tables = Tables::open(txn)?;
    tables.put(COMMIT, 0_u64.to_be_bytes().to_vec())
}

/// The number of the last commit; nothing if it can't be read.
pub(super) fn last_commit(txn: &ReadTransaction) -> Result<Option<u64>, redb::Error> {
    Ok(meta(txn, COMMIT)?.ok().flatten().and_then(|bytes| Fields(&bytes).u64()))
}

/// What there is one of.
pub(super) struct Singles {
    /// The clock reading that is reserved.
    pub(super) clock: Reading,
    /// The greatest version whose mark was forgotten.
    pub(super) horizon: Version,
    /// The last view's members, if any were remembered.
    pub(super) members: Option<Vec<Arc<str>>>,
}

/// Reads what there is one of, or says of what the checksum is wrong.
pub(super) fn singles(txn: &ReadTransaction) -> Result<Result<Singles, (&'static str, Wrong)>, redb::Error> {
    let mut read = Vec::with_capacity(3);
    for name in [CLOCK, HORIZON, MEMBERS] {
        match meta(txn, name)? {
            Ok(bytes) => read.push(bytes),
            Err(wrong) => return Ok(Err((name, wrong))),
        }
    }
    let [clock, horizon, members] = &read[..] else { return Ok(Err((COMMIT, Wrong::Content))) };
    Ok(Ok(Singles {
        clock: clock.as_ref().and_then(|bytes| Fields(bytes).u64()).map(Reading::from_bits).unwrap_or_default(),
        horizon: horizon.as_ref().and_then(|bytes| Fields(bytes).version()).unwrap_or_default(),
        members: members.as_ref().map(|bytes| {
            let mut fields = Fields(bytes);
            std::iter::from_fn(|| fields.text().map(Arc::from)).collect()
        }),
    }))
}

fn meta(txn: &ReadTransaction, name: &'static str) -> Result<Result<Option<Vec<u8>>, Wrong>, redb::Error> {
    let table = txn.open_table(META)?;
    let stored = table.get(name)?;
    let Some(stored) = stored else { return Ok(Ok(None)) };
    Ok(record::unseal(name.as_bytes(), stored.value()).map(|bytes| Some(bytes.to_vec())))
}

/// A record, ready to be written.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) id: RecordId,
    pub(super) holder: Holder,
    pub(super) written_ms: u64,
    place: Vec<u8>,
    bytes: Vec<u8>,
}

impl Ready {
    pub(super) fn new(record: &Record) -> Self {
        let place = places::record(&record.id);
        let bytes = record::encode(&place, record);
        Self { id: record.id.clone(), holder: record.holder.clone(), written_ms: record.written_ms, place, bytes }
    }

    /// What it counts against the journal's size.
    pub(super) fn cost(&self) -> u64 {
        cost(&self.place, &self.bytes)
    }
}

/// What a record at `place` counts against the journal's size.
pub(super) fn cost(place: &[u8], bytes: &[u8]) -> u64 {
    (place.len() + bytes.len()) as u64 + RECORD_OVERHEAD
}

/// What the journal can be told to do, each in one commit.
#[derive(Debug)]
pub(super) enum Op {
    Append(Vec<Ready>),
    Settle(Vec<Mark>),
    Bury(Vec<(RecordId, Arc<str>)>),
    Hold(Vec<RecordId>, Holder),
    Drop(Vec<RecordId>),
    DropDead(u64),
    ReserveClock(Reading),
    Remember(Vec<Arc<str>>),
    Forget,
}

/// What an operation came to.
#[derive(Debug, Default)]
pub(super) struct Receipt {
    pub(super) appended: Vec<Appended>,
    /// Records or dead letters that it changed or removed.
    pub(super) affected: usize,
    pub(super) reserved: Option<Reading>,
    pub(super) buried: Vec<u64>,
}

/// Why an operation did nothing.
pub(super) enum Stop {
    /// It alone.
    Operation(JournalError),
    /// The whole commit.
    Commit(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Commit(error.into())
    }
}

/// The tables, open for one commit.
pub(super) struct Tables<'a> {
    records: Table<'a, Bytes, Bytes>,
    marks: Table<'a, Bytes, Bytes>,
    mark_ages: Table<'a, Bytes, ()>,
    dead: Table<'a, u64, Bytes>,
    meta: Table<'a, &'static str, Bytes>,
}

/// What operations need to know beside the tables.
pub(super) struct Context<'a> {
    pub(super) file: &'a Arc<str>,
    pub(super) now_ms: u64,
    /// Marks of before are forgotten.
    pub(super) marks_from_ms: u64,
    pub(super) marks_max: u64,
    pub(super) deltas: &'a mut Vec<Delta>,
}

impl Context<'_> {
    fn damaged(&self, what: &impl std::fmt::Display, wrong: Wrong) -> Stop {
        Stop::Operation(JournalError::Damaged { file: Arc::clone(self.file), what: format!("{what}: {wrong}").into() })
    }
}

impl<'a> Tables<'a> {
    pub(super) fn open(txn: &'a WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            records: txn.open_table(RECORDS)?,
            marks: txn.open_table(MARKS)?,
            mark_ages: txn.open_table(MARK_AGES)?,
            dead: txn.open_table(DEAD)?,
            meta: txn.open_table(META)?,
        })
    }

    /// Takes down which commit this is.
    pub(super) fn number(&mut self, number: u64) -> Result<(), redb::Error> {
        self.put(COMMIT, number.to_be_bytes().to_vec())
    }

    pub(super) fn apply(&mut self, op: &Op, context: &mut Context<'_>) -> Result<Receipt, Stop> {
        match op {
            Op::Append(records) => self.append(records, context),
            Op::Settle(marks) => self.settle(marks, context),
            Op::Bury(letters) => self.bury(letters, context),
            Op::Hold(ids, holder) => self.hold(ids, holder, context),
            Op::Drop(ids) => self.drop_records(ids, context),
            Op::DropDead(id) => self.drop_dead(*id, context),
            Op::ReserveClock(reading) => self.reserve_clock(*reading, context),
            Op::Remember(members) => self.remember(members),
            Op::Forget => {
                self.forget_marks(usize::MAX, context)?;
                Ok(Receipt::default())
            }
        }
    }

    fn append(&mut self, records: &[Ready], context: &mut Context<'_>) -> Result<Receipt, Stop> {
        let horizon = self.horizon(context)?;
        let mut appended = Vec::with_capacity(records.len());
        for record in records {
            let at = places::of_key(&record.place);
            let settled = self.stamp(at, &record.id.place, context)?.map(|stamp| stamp.version);
            appended.push(match settled {
                Some(settled) if settled >= record.id.version => Appended::Settled,
                // A record that is here already was never flushed, whatever is forgotten.
                None if record.id.version <= horizon && self.records.get(&record.place[..])?.is_none() => {
                    Appended::Buried
                }
                _ => Appended::Stored,
            });
        }
        let mut receipt = Receipt { appended, ..Receipt::default() };
        for (record, appended) in records.iter().zip(&receipt.appended) {
            match appended {
                Appended::Stored => self.store(record, context)?,
                Appended::Settled => {}
                Appended::Buried => {
                    let reason = "it is older than the marks that are kept: nobody knows whether it was flushed";
                    let record = record::decode(&record.place, &record.bytes);
                    let record = record.map_err(|wrong| context.damaged(&"a record on its way", wrong))?;
                    receipt.buried.push(self.add_dead(record, reason.into(), context)?);
                }
            }
        }
        Ok(receipt)
    }

    fn store(&mut self, ready: &Ready, context: &mut Context<'_>) -> Result<(), Stop> {
        let replaced = self.records.insert(&ready.place[..], &ready.bytes[..])?;
        if let Some(old) = replaced.map(|old| old.value().to_vec()) {
            let old = record::decode(&ready.place, &old).map(|record| (record, cost(&ready.place, &old)));
            // The new one takes the place of one that could not be read.
            if let Ok((record, cost)) = old {
                context.deltas.push(Delta::removed(&record, cost));
            }
        }
        context.deltas.push(Delta::Added {
            id: ready.id.clone(),
            is_owned: ready.holder == Holder::Owner,
            written_ms: ready.written_ms,
            cost: ready.cost(),
        });
        Ok(())
    }

    /// Each key comes once.
    fn settle(&mut self, marks: &[Mark], context: &mut Context<'_>) -> Result<Receipt, Stop> {
        let mut removed = Vec::with_capacity(marks.len());
        let mut old = Vec::with_capacity(marks.len());
        for mark in marks {
            let at = places::key(&mark.place);
            self.up_to(&mark.place, mark.version, context, record::outline, |id, place, cost, outline| {
                removed.push((Delta::gone(id, &outline, cost), place));
            })?;
            old.push((self.stamp(&at, &mark.place, context)?, at));
        }
        let affected = removed.len();
        for (delta, place) in removed {
            self.remove(delta, &place, context)?;
        }
        for (mark, (old, at)) in marks.iter().zip(old) {
            self.put_mark(mark, &at, old, context)?;
        }
        self.forget_marks(marks.len().saturating_mul(FORGOTTEN_PER_MARK), context)?;
        Ok(Receipt { affected, ..Receipt::default() })
    }

    /// Finds the records of a key up to a version: which, where, what each counts, and what is read of it.
    fn up_to<T>(
        &self,
        place: &Place,
        version: Version,
        context: &Context<'_>,
        read: impl Fn(&[u8], &[u8]) -> Result<T, Wrong>,
        mut found: impl FnMut(RecordId, Vec<u8>, u64, T),
    ) -> Result<(), Stop> {
        let (first, last) = (places::key(place), places::record(&place.clone().at(version)));
        for entry in self.records.range::<&[u8]>(&first[..]..=&last[..])? {
            let (at, bytes) = entry?;
            let (at, bytes) = (at.value(), bytes.value());
            let its =
                Fields(&at[first.len()..]).version().ok_or(Wrong::Place).and_then(|its| Ok((its, read(at, bytes)?)));
            let (its, read) = its.map_err(|wrong| context.damaged(&format_args!("a record of {place}"), wrong))?;
            found(place.clone().at(its), at.to_vec(), cost(at, bytes), read);
        }
        Ok(())
    }

    fn remove(&mut self, gone: Delta, place: &[u8], context: &mut Context<'_>) -> Result<(), Stop> {
        // One commit may settle a key twice.
        if self.records.remove(place)?.is_some() {
            context.deltas.push(gone);
        }
        Ok(())
    }

    /// What a key's mark says, which stands at `at`.
    fn stamp(&self, at: &[u8], place: &Place, context: &Context<'_>) -> Result<Option<Stamp>, Stop> {
        let Some(stored) = self.marks.get(at)? else { return Ok(None) };
        let stamp = record::stamp(at, stored.value());
        Ok(Some(stamp.map_err(|wrong| context.damaged(&format_args!("the mark of {place}"), wrong))?))
    }

    /// Takes a mark down, in the place of the one that says `old`.
    fn put_mark(&mut self, mark: &Mark, at: &[u8], old: Option<Stamp>, context: &Context<'_>) -> Result<(), Stop> {
        if let Some(old) = old {
            if old.version >= mark.version {
                return Ok(());
            }
            self.mark_ages.remove(&age_at(old.written_ms, at)[..])?;
        }
        let written_ms = if mark.written_ms == 0 { context.now_ms } else { mark.written_ms };
        self.marks.insert(at, &record::encode_mark(at, mark.version, written_ms)[..])?;
        self.mark_ages.insert(&age_at(written_ms, at)[..], ())?;
        Ok(())
    }

    /// Forgets marks that are too old or too many, up to `count` of them, the oldest first.
    fn forget_marks(&mut self, count: usize, context: &mut Context<'_>) -> Result<(), Stop> {
        let mut horizon = self.horizon(context)?;
        let before = horizon;
        for _ in 0..count {
            let is_over = self.marks.len()? > context.marks_max;
            let Some(age) = self.mark_ages.first()?.map(|(age, _)| age.value().to_vec()) else { break };
            let Some((written, at)) = age.split_first_chunk() else { break };
            if !is_over && u64::from_be_bytes(*written) >= context.marks_from_ms {
                break;
            }
            if let Some(mark) = self.marks.get(at)? {
                let stamp = record::stamp(at, mark.value());
                horizon = horizon.max(stamp.map_err(|wrong| context.damaged(&"a mark", wrong))?.version);
            }
            self.marks.remove(at)?;
            self.mark_ages.remove(&age[..])?;
        }
        if horizon > before {
            let mut bytes = Vec::with_capacity(12);
            places::version(horizon, &mut bytes);
            self.put(HORIZON, bytes)?;
            context.deltas.push(Delta::Horizon(horizon));
        }
        Ok(())
    }

    fn bury(&mut self, letters: &[(RecordId, Arc<str>)], context: &mut Context<'_>) -> Result<Receipt, Stop> {
        let mut found = Vec::with_capacity(letters.len());
        for (id, reason) in letters {
            let mut records = Vec::new();
            self.up_to(&id.place, id.version, context, record::decode, |_, place, cost, record| {
                records.push((record, place, cost));
            })?;
            let at = places::key(&id.place);
            self.stamp(&at, &id.place, context)?;
            found.push((id, reason, records, at));
        }
        let mut receipt = Receipt::default();
        for (id, reason, records, at) in found {
            for (record, place, cost) in records {
                self.remove(Delta::removed(&record, cost), &place, context)?;
                let reason = if record.id == *id {
                    Arc::clone(reason)
                } else {
                    format!("it was gathered with version {}, which was given up: {reason}", id.version).into()
                };
                receipt.buried.push(self.add_dead(record, reason, context)?);
            }
            // So that copies elsewhere go as well. The same key may come twice.
            let old = self.stamp(&at, &id.place, context)?;
            self.put_mark(&Mark::new(id.place.clone(), id.version), &at, old, context)?;
        }
        receipt.affected = receipt.buried.len();
        Ok(receipt)
    }

    fn add_dead(&mut self, record: Record, reason: Arc<str>, context: &mut Context<'_>) -> Result<u64, Stop> {
        let id = self.get(NEXT_DEAD, context)?.and_then(|bytes| Fields(&bytes).u64()).unwrap_or(1);
        let letter = DeadLetter { id, record, reason, buried_ms: context.now_ms };
        let bytes = record::encode_dead(&letter);
        self.dead.insert(id, &bytes[..])?;
        self.put(NEXT_DEAD, (id + 1).to_be_bytes().to_vec())?;
        context.deltas.push(Delta::DeadAdded { group: letter.record.id.place.group, cost: cost(&[], &bytes) });
        Ok(id)
    }

    fn hold(&mut self, ids: &[RecordId], holder: &Holder, context: &mut Context<'_>) -> Result<Receipt, Stop> {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            found.extend(self.record(id, context)?);
        }
        let affected = found.len();
        for (record, place, cost) in found {
            self.remove(Delta::removed(&record, cost), &place, context)?;
            self.store(&Ready::new(&record.held_as(holder.clone())), context)?;
        }
        Ok(Receipt { affected, ..Receipt::default() })
    }

    fn drop_records(&mut self, ids: &[RecordId], context: &mut Context<'_>) -> Result<Receipt, Stop> {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            found.extend(self.record(id, context)?);
        }
        let affected = found.len();
        for (record, place, cost) in found {
            self.remove(Delta::removed(&record, cost), &place, context)?;
        }
        Ok(Receipt { affected, ..Receipt::default() })
    }

    fn record(&self, id: &RecordId, context: &Context<'_>) -> Result<Option<(Record, Vec<u8>, u64)>, Stop> {
        let at = places::record(id);
        let Some(stored) = self.records.get(&at[..])? else { return Ok(None) };
        let record = record::decode(&at, stored.value()).map_err(|wrong| context.damaged(id, wrong))?;
        let cost = cost(&at, stored.value());
        Ok(Some((record, at, cost)))
    }

    fn dead_letter(&self, id: u64, context: &Context<'_>) -> Result<(DeadLetter, u64), Stop> {
        let none = || Stop::Operation(JournalError::invalid(format!("there is no dead letter {id}")));
        let stored = self.dead.get(id)?.ok_or_else(none)?;
        let letter = record::decode_dead(id, stored.value());
        let letter = letter.map_err(|wrong| context.damaged(&format_args!("dead letter {id}"), wrong))?;
        Ok((letter, cost(&[], stored.value())))
    }

    fn drop_dead(&mut self, id: u64, context: &mut Context<'_>) -> Result<Receipt, Stop> {
        let (letter, cost) = self.dead_letter(id, context)?;
        self.dead.remove(id)?;
        context.deltas.push(Delta::DeadRemoved { group: letter.record.id.place.group, cost });
        Ok(Receipt { affected: 1, ..Receipt::default() })
    }

    fn reserve_clock(&mut self, reading: Reading, context: &Context<'_>) -> Result<Receipt, Stop> {
        let before = self.get(CLOCK, context)?.and_then(|bytes| Fields(&bytes).u64()).unwrap_or_default();
        let bits = reading.to_bits().max(before);
        if bits > before {
            self.put(CLOCK, bits.to_be_bytes().to_vec())?;
        }
        Ok(Receipt { reserved: Some(Reading::from_bits(bits)), ..Receipt::default() })
    }

    fn remember(&mut self, members: &[Arc<str>]) -> Result<Receipt, Stop> {
        let mut bytes = Vec::new();
        for member in members {
            record::push_text(member, &mut bytes);
        }
        self.put(MEMBERS, bytes)?;
        Ok(Receipt::default())
    }

    fn horizon(&self, context: &Context<'_>) -> Result<Version, Stop> {
        Ok(self.get(HORIZON, context)?.and_then(|bytes| Fields(&bytes).version()).unwrap_or_default())
    }

    fn get(&self, name: &'static str, context: &Context<'_>) -> Result<Option<Vec<u8>>, Stop> {
        let Some(stored) = self.meta.get(name)? else { return Ok(None) };
        let bytes = record::unseal(name.as_bytes(), stored.value());
        Ok(Some(bytes.map_err(|wrong| context.damaged(&name, wrong))?.to_vec()))
    }

    fn put(&mut self, name: &'static str, bytes: Vec<u8>) -> Result<(), redb::Error> {
        self.meta.insert(name, &record::seal(name.as_bytes(), bytes)[..])?;
        Ok(())
    }
}

/// Where the age of a mark at `at` stands, which was written then.
fn age_at(written_ms: u64, at: &[u8]) -> Vec<u8> {
    [&written_ms.to_be_bytes(), at].concat()
}
