//! Writes that the origin gets later (rules B1 to B3): how the owner of a key takes them down, what it answers until they are at the
//! origin, and what becomes of cached values then.
//!
//! Until it is flushed a record is the truth for its key: a get that finds nothing in the store is answered from it, and no load takes
//! its place. So nothing has to be kept from being evicted.

use std::{any::Any, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use super::{Fetched, Group, Inner, Landing, carry_out::not_here, load::Start, unreachable};
use crate::{
    Change, Error, ErrorKind, Key, Moment, Store, Update, UpdateError, Version,
    behind::{
        Covers, Mark, Place, Record, RecordId, RecordStats, Settled, Settlement, TakenDown, UNFLUSHED_PART,
        unknown_copy,
    },
    claim::Phase,
    flight::Writer,
    group::load::Role,
    peer::{Condition, PeerWrite, WriteOp},
    placement::Slot,
    rules::{Rule, keeps},
    stats::RequestResult,
    store::{Inserted, Meta, Tier},
};

/// How long who needs records that may be elsewhere waits for them: those who have them answer in milliseconds.
const RECORDS_WAIT: Duration = Duration::from_secs(2);

/// When a writer should try again that found too much unflushed: the origin has to take some first.
const UNFLUSHED_RETRY: Duration = Duration::from_secs(1);

impl Group {
    /// What it has on disk, if its writes go to the origin later.
    #[must_use]
    pub fn record_stats(&self) -> Option<RecordStats> {
        self.0.records.as_ref().map(|records| records.stats(self.name()))
    }

    /// Waits for a turn to ask the origin something, shared with loads; it ends when what is given back is dropped.
    pub fn origin_turn(&self) -> BoxFuture<'static, Box<dyn Any + Send>> {
        let turn = self.0.origin.as_ref().map(super::Origin::turn);
        Box::pin(async move {
            match turn {
                Some(turn) => Box::new(turn.await) as Box<dyn Any + Send>,
                None => Box::new(()),
            }
        })
    }

    /// Takes down what became of writes at the origin. When this is answered the next change of their keys may be made there; an error
    /// says that it has to be told again (rules B2 and B5).
    ///
    /// # Errors
    ///
    /// [`Error`] if it is not on as many disks as it has to be.
    pub async fn flushed(&self, settlements: Vec<Settlement>) -> Result<(), Error> {
        let Inner { records: Some(records), stats, node, .. } = &*self.0 else { return Ok(()) };
        let (mut marks, mut letters, mut overtaken) = (Vec::new(), Vec::new(), Vec::new());
        for Settlement { key, version, how } in settlements {
            if how != Settled::Flushed {
                overtaken.push(key.clone());
            }
            let place = Place::new(self.name().clone(), key);
            match how {
                Settled::Flushed | Settled::Conflict => marks.push(Mark::new(place, version)),
                Settled::Refused(reason) => letters.push((place.at(version), reason)),
            }
        }
        let letter_count = letters.len() as u64;
        if keeps(Rule::B5) {
            let settled = letters.iter().map(|(id, _)| Mark::new(id.place.clone(), id.version));
            let settled: Vec<Mark> = marks.iter().cloned().chain(settled).collect();
            node.copy_marks(self.name(), &settled).await?;
        }
        // Together, so that they may share a commit. Both may be asked again.
        let marked = async { if marks.is_empty() { Ok(()) } else { records.settle(marks).await } };
        let buried = async { if letters.is_empty() { Ok(()) } else { records.bury(letters).await } };
        let (marked, buried) = tokio::join!(marked, buried);
        marked.and(buried)?;
        stats.dead_letters.add(letter_count);
        // After that: before it, what is answered comes from the record.
        for key in overtaken {
            self.drop_overtaken(key).await;
        }
        Ok(())
    }

    /// The origin has something else than what is cached of a key.
    async fn drop_overtaken(&self, key: Key) {
        let invalidate = PeerWrite {
            group: self.name().clone(),
            key,
            op: WriteOp::Invalidate { ends_guard: false },
            condition: Condition::Always,
            idempotency_key: None,
            deadline: Instant::now() + self.config().hard_timeout,
        };
        if let Err(error) = self.write_anywhere(invalidate).await {
            tracing::warn!(group = %self.name(), %error, "a value that the origin does not have could not be dropped everywhere");
        }
    }

    /// `store`, with what is asked of it counted.
    pub(crate) fn counted_store(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(Counted { store, group: self.clone() })
    }

    /// Waits until this node has all records of a slot (rules B4 and B6).
    pub(super) async fn knows_records(&self, slot: Slot, key: &[u8], deadline: Instant) -> Result<(), Error> {
        let node = &self.0.node;
        let is_known = || node.has_records_of(slot) || self.is_elsewhere(slot, key);
        self.records_by(deadline, is_known, node.has_records_of(slot)).await
    }

    /// The same, and until those that come can be kept as they have to be (rule B1).
    pub(super) async fn takes_records(&self, slot: Slot, key: &[u8], deadline: Instant) -> Result<(), Error> {
        let node = &self.0.node;
        let is_taken = || node.takes_records_of(slot) || self.is_elsewhere(slot, key);
        self.records_by(deadline, is_taken, node.takes_records_of(slot)).await
    }

    async fn records_by(&self, deadline: Instant, is_so: impl Fn() -> bool, is_so_now: bool) -> Result<(), Error> {
        if !self.writes_behind() || is_so_now {
            return Ok(());
        }
        let until = deadline.min(Instant::now() + RECORDS_WAIT);
        timeout_at(until, self.0.node.until_records(is_so)).await.map_err(|_| {
            unreachable(
                "writes of the key may be on members that do not answer: start those again, or let this node take over without them",
            )
        })
    }

    fn is_elsewhere(&self, slot: Slot, key: &[u8]) -> bool {
        self.0.node.phase(slot, key) == Phase::Away
    }

    /// The version of the newest record of a key here.
    pub(super) fn newest_record(&self, key: &Key) -> Option<Version> {
        let records = self.0.records.as_ref()?;
        records.newest_version(&Place::new(self.name().clone(), key.clone()))
    }

    /// Whether a key of a slot can be loaded without regard to records.
    pub(super) fn has_no_record(&self, key: &Key, slot: Slot) -> bool {
        !self.writes_behind() || (self.0.node.has_records_of(slot) && self.newest_record(key).is_none())
    }

    /// The newest record of a key here.
    pub(super) async fn record_of(&self, key: &Key) -> Result<Option<Record>, Error> {
        match &self.0.records {
            Some(records) if keeps(Rule::B3) && self.newest_record(key).is_some() => {
                records.newest(Place::new(self.name().clone(), key.clone())).await
            }
            _ => Ok(None),
        }
    }

    /// For how long this node has all that was written of a slot whose owner can't be reached (rule S1).
    pub(super) fn covers(&self, slot: Slot, role: Role) -> Option<Covers> {
        (role == Role::StandIn).then(|| self.0.node.covers(slot, self.config().hot_lease)).flatten()
    }

    /// The end of a flight that found a record.
    pub(super) fn landing_record(
        &self,
        (key, slot, role): (&Key, Slot, Role),
        start: Start,
        record: Record,
        attached: bool,
    ) -> Landing {
        let Record { id, change, ttl, .. } = record;
        let value = match change {
            Change::Put(value) => Some(value),
            Change::Delete => None,
        };
        // From when it was looked up, as for what is loaded: what was invalidated before is the record still.
        let ttl = self.ttl(role, value.is_some(), ttl.filter(|_| value.is_some()));
        let fresh_until = ttl.map_or(Moment::NEVER, |ttl| start.moment + ttl);
        let (version, load_start) = (id.version, start.reading);
        // A stand-in looks it up again: the next one may have come by then.
        let stored = attached && role == Role::Owner && ttl != Some(Duration::ZERO) && {
            let meta = Meta { slot, tier: Tier::Main, version, load_start, fresh_until, keep_until: fresh_until };
            matches!(self.0.store.insert(key.as_bytes(), value.clone(), meta), Inserted::Stored)
        };
        if attached && role == Role::Owner && !stored {
            self.0.store.remove(key.as_bytes());
        }
        let source = super::load::source(role);
        Landing::Fetched(Fetched { value, version: Some(version), load_start, fresh_until, source, stored })
    }

    /// Judges the condition of a write by the newest record of its key. `None`: there is none.
    pub(super) async fn meets_record(&self, write: &PeerWrite) -> Result<Option<bool>, Error> {
        let Some(record) = self.record_of(&write.key).await? else { return Ok(None) };
        let is_there = matches!(record.change, Change::Put(_));
        Ok(Some(match write.condition {
            Condition::Always => true,
            Condition::IfVersion(version) => is_there && record.id.version == version,
            Condition::IfAbsent => !is_there,
        }))
    }

    /// Does a write whose turn it is and whose condition is met: it is taken down, copies elsewhere go, and its value takes the place of
    /// what is here; then it is acknowledged.
    pub(super) async fn write_behind(
        &self,
        write: &PeerWrite,
        slot: Slot,
        writer: Writer<Landing>,
    ) -> Result<Version, Error> {
        let Inner { records: Some(records), node, .. } = &*self.0 else { return Err(not_here()) };
        let key = &write.key;
        let (change, ttl) = match &write.op {
            WriteOp::Put { value, ttl } => (Change::Put(value.clone()), *ttl),
            WriteOp::Delete | WriteOp::Invalidate { .. } => (Change::Delete, None),
        };
        self.has_room_for(&change)?;
        let version = node.next_version();
        // Either this sees that the slot was claimed, or who claims it is told of the write.
        if !writer.goes_out(|| node.phase(slot, key.as_bytes()) == Phase::Acts && node.takes_records_of(slot)) {
            return Err(not_here());
        }
        let id = Place { group: self.name().clone(), slot, key: key.clone() }.at(version);
        let record = Record { idempotency_key: write.idempotency_key.clone(), ..Record::new(id.clone(), change) };
        let record = record.with_ttl(ttl);
        let taken_down = node.take_down(&record, write.deadline).await?;
        // The copies elsewhere go, however long that takes: the write is taken down.
        self.settle_leases(key, slot, None).await?;
        // While that took place this node may have stood still, and another have acted for it.
        node.awaken().await;
        let has_slot = writer.end(|| {
            let has_slot = node.acts_now(slot, key.as_bytes());
            if has_slot {
                // The condition was judged when the write had its turn, and nobody else had one since.
                let write = PeerWrite { condition: Condition::Always, ..write.clone() };
                if self.apply(&write, slot, version).is_err() {
                    // It does not fit in: it is answered from the record.
                    self.0.store.remove(key.as_bytes());
                }
            }
            has_slot
        });
        if !has_slot {
            return self.write_where_it_went(write, id).await;
        }
        records.recorded(&id);
        if taken_down == TakenDown::Unknown { Err(unknown_copy()) } else { Ok(version) }
    }

    /// The slot went to another node while a write was taken down: that one does it anew, as it may have asked for records before this one
    /// was there (rule W3).
    async fn write_where_it_went(&self, write: &PeerWrite, id: RecordId) -> Result<Version, Error> {
        let (version, unknown) = (id.version, |error: Error| {
            let message = format!("the key's owner changed while it was written: {}", error.message());
            Error::new(ErrorKind::Indeterminate, message)
        });
        if let Some(records) = &self.0.records {
            records.discard(vec![id]).await.map_err(unknown)?;
        }
        self.tell_present_owner(write).await?;
        Ok(self.write_anywhere(write.clone()).await.map_err(unknown)?.unwrap_or(version))
    }

    /// A record is this node's from now on: what is older goes and is not taken from who had the slot before, also once the record is at the
    /// origin; and its writer's repetition is known.
    pub(crate) fn takes_over_record(&self, record: &Record) {
        let Record { id: RecordId { place, version }, idempotency_key, .. } = record;
        self.0.loads.hold(&place.key, || {
            self.0.store.remove_if(place.key.as_bytes(), |hit| hit.meta().version < *version);
            self.bury(&place.key, place.slot);
        });
        if let Some(idempotency_key) = idempotency_key {
            self.0.memory.add(&place.key, idempotency_key, Some(*version), self.now());
        }
    }

    /// Whether a write may be taken down beside all that is not flushed yet (rule B3).
    fn has_room_for(&self, change: &Change) -> Result<(), Error> {
        let Inner { records: Some(records), settings, .. } = &*self.0 else { return Ok(()) };
        if let Some(failure) = records.failure() {
            return Err(failure);
        }
        let len = match change {
            Change::Put(value) => value.len() as u64,
            Change::Delete => 0,
        };
        let max = settings.get().capacity_bytes / UNFLUSHED_PART;
        if records.stats(self.name()).pending_bytes + len <= max {
            return Ok(());
        }
        let message = "as much is waiting to be written to the origin as the group's capacity allows: try again when it has taken some";
        Err(Error::new(ErrorKind::Overloaded, message).with_retry_after(UNFLUSHED_RETRY))
    }
}

/// A stand-in may be without something that was written.
pub(super) fn not_covered() -> Error {
    unreachable("the owner of the key can't be reached, and nobody else may have all that was written: try again")
}

/// A store, with what is asked of it counted as the group's requests to its origin.
struct Counted {
    store: Arc<dyn Store>,
    group: Group,
}

/// A request that is under way. One that is given up has taken too long.
struct Counting<'a> {
    group: &'a Group,
    start: Moment,
    result: RequestResult,
}

impl Counted {
    fn counting(&self) -> Counting<'_> {
        Counting { group: &self.group, start: self.group.now(), result: RequestResult::Timeout }
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        let stats = &self.group.0.stats.origin_write;
        stats.duration.observe(self.group.now().since(self.start));
        stats.results.of(self.result).add(1);
    }
}

fn result_of<'a>(mut answers: impl Iterator<Item = &'a Result<(), UpdateError>>) -> RequestResult {
    if answers.all(Result::is_ok) { RequestResult::Ok } else { RequestResult::Error }
}

impl Store for Counted {
    fn update(&self, update: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
        Box::pin(async move {
            let mut counting = self.counting();
            let answer = self.store.update(update).await;
            counting.result = result_of(std::iter::once(&answer));
            answer
        })
    }

    fn update_batch_len_max(&self) -> usize {
        self.store.update_batch_len_max()
    }

    fn update_many(&self, updates: Vec<Update>) -> BoxFuture<'_, Vec<Result<(), UpdateError>>> {
        Box::pin(async move {
            let mut counting = self.counting();
            let answers = self.store.update_many(updates).await;
            counting.result = result_of(answers.iter());
            answers
        })
    }

    fn fences(&self) -> bool {
        self.store.fences()
    }
}
