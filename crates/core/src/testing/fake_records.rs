//! [`FakeRecords`]: records of writes in memory, which tests hold up, fail and flush by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::{
    Change, Error, Group, Key, Store, Update, UpdateError, Version,
    behind::{Appended, Holder, Mark, Place, Record, RecordId, RecordStats, Records, Settled, Settlement},
    placement::SlotSet,
    version::Reading,
};

/// Records and marks of one answer: few, so that tests see several.
const PAGE_LEN: usize = 3;

/// What a record counts beside its value, in bytes.
const OVERHEAD: u64 = 100;

/// How long the origin may take for a change.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A disk in memory that keeps records, and who flushes them, which is the test. Clones are the same.
///
/// ```
/// use larder_core::{Change, Key, Version, behind::{Place, Record, Records}, testing::fake_records::FakeRecords};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder_core::Error> {
/// let records = FakeRecords::new();
/// let place = Place::new("users", Key::new("42")?);
/// records.append(vec![Record::new(place.clone().at(Version::ZERO), Change::Delete)]).await?;
/// assert_eq!(records.restarted().newest_version(&place), Some(Version::ZERO));
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct FakeRecords {
    disk: Arc<Mutex<Disk>>,
    run: Arc<Run>,
}

#[derive(Default)]
struct Disk {
    records: BTreeMap<RecordId, Record>,
    marks: BTreeMap<Place, Mark>,
    letters: Vec<(Record, Arc<str>)>,
    members: Option<Vec<Arc<str>>>,
}

/// A group, and where its records go.
type Opened = (Group, Arc<dyn Store>);

/// What ends with the process.
#[derive(Default)]
struct Run {
    groups: Mutex<BTreeMap<Arc<str>, Opened>>,
    to_flush: Mutex<BTreeSet<Place>>,
    failure: Mutex<Option<Error>>,
    refusal: Mutex<Option<Error>>,
    held: watch::Sender<bool>,
    appends: watch::Sender<usize>,
}

impl FakeRecords {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same disk, for the next run of its node.
    #[must_use]
    pub fn restarted(&self) -> Self {
        Self { disk: self.disk.clone(), run: Arc::default() }
    }

    /// What is appended from now on is refused like this, until it is `None` again.
    pub fn refuse(&self, with: Option<Error>) {
        *self.run.refusal.lock() = with;
    }

    /// The disk fails for good.
    pub fn fail(&self, with: Error) {
        *self.run.failure.lock() = Some(with);
    }

    /// What is appended from now on waits, until this is called with `false`.
    pub fn hold(&self, held: bool) {
        self.run.held.send_replace(held);
    }

    /// How many appends have begun.
    #[must_use]
    pub fn appends(&self) -> usize {
        *self.run.appends.borrow()
    }

    /// Waits until so many appends have begun.
    pub async fn appends_begun(&self, count: usize) {
        let mut begun = self.run.appends.subscribe();
        // The sender lives as long as this does.
        let _seen = begun.wait_for(|begun| *begun >= count).await;
    }

    /// All records, by place and version.
    #[must_use]
    pub fn all(&self) -> Vec<Record> {
        self.disk.lock().records.values().cloned().collect()
    }

    /// The mark of a key.
    #[must_use]
    pub fn mark(&self, group: &str, key: &str) -> Option<Version> {
        let place = Place::new(group, Key::new(key.to_owned()).ok()?);
        self.disk.lock().marks.get(&place).map(|mark| mark.version)
    }

    /// What was given up, and why.
    #[must_use]
    pub fn letters(&self) -> Vec<(Record, Arc<str>)> {
        self.disk.lock().letters.clone()
    }

    /// Nothing that was recorded so far is flushed by this run.
    pub fn forget_to_flush(&self) {
        self.run.to_flush.lock().clear();
    }

    /// Brings the newest record of each key that is to be flushed to its origin, one after the other, and takes down what became of it.
    /// Gives back how many the origin took.
    ///
    /// # Errors
    ///
    /// If what became of one could not be taken down.
    pub async fn flush(&self) -> Result<usize, Error> {
        let places: Vec<Place> = self.run.to_flush.lock().iter().cloned().collect();
        let mut flushed = 0;
        for place in places {
            let newest = self.disk.lock().records.values().rfind(|record| record.id.place == place).cloned();
            let opened = self.run.groups.lock().get(&place.group).cloned();
            let (Some(Record { change, id, idempotency_key, .. }), Some((group, store))) = (newest, opened) else {
                continue;
            };
            let (key, version, deadline) = (place.key.clone(), id.version, Instant::now() + TIMEOUT);
            let update = Update { key: key.clone(), change, version, idempotency_key, deadline };
            let how = match store.update(update).await {
                Ok(()) => Settled::Flushed,
                Err(UpdateError::Conflict) => Settled::Conflict,
                Err(UpdateError::Refused(reason)) => Settled::Refused(reason.to_string().into()),
                Err(UpdateError::Unreached(_) | UpdateError::Unknown(_)) => continue,
            };
            flushed += usize::from(how == Settled::Flushed);
            group.flushed(vec![Settlement { key, version, how }]).await?;
            let has_more = self.newest_version(&place).is_some();
            if !has_more {
                self.run.to_flush.lock().remove(&place);
            }
        }
        Ok(flushed)
    }

    fn change<T: Send + 'static>(&self, change: impl FnOnce(&mut Disk) -> T) -> BoxFuture<'_, Result<T, Error>> {
        let failure = self.run.failure.lock().clone();
        Box::pin(ready(match failure {
            Some(failure) => Err(failure),
            None => Ok(change(&mut self.disk.lock())),
        }))
    }
}

impl Disk {
    fn append(&mut self, record: Record) -> Appended {
        let mark = self.marks.get(&record.id.place);
        if mark.is_some_and(|mark| mark.version >= record.id.version) {
            return Appended::Settled;
        }
        self.records.insert(record.id.clone(), record);
        Appended::Stored
    }

    fn settle(&mut self, mark: Mark) -> Vec<Record> {
        let Mark { place, version, .. } = &mark;
        let settled: Vec<RecordId> =
            self.records.keys().filter(|id| id.place == *place && id.version <= *version).cloned().collect();
        let is_newer = self.marks.get(place).is_none_or(|known| known.version < *version);
        if is_newer {
            self.marks.insert(place.clone(), mark);
        }
        settled.iter().filter_map(|id| self.records.remove(id)).collect()
    }
}

impl Records for FakeRecords {
    fn floor(&self) -> Reading {
        let disk = self.disk.lock();
        let (records, marks) = (disk.records.keys().map(|id| id.version), disk.marks.values().map(|mark| mark.version));
        records.chain(marks).max().unwrap_or_default().reading()
    }

    fn members(&self) -> Option<Vec<Arc<str>>> {
        self.disk.lock().members.clone()
    }

    fn remember_members(&self, members: Vec<Arc<str>>) -> BoxFuture<'_, Result<(), Error>> {
        self.change(|disk| disk.members = Some(members))
    }

    fn append(&self, records: Vec<Record>) -> BoxFuture<'_, Result<Vec<Appended>, Error>> {
        Box::pin(async move {
            self.run.appends.send_modify(|begun| *begun += 1);
            // The sender is this one's.
            drop(self.run.held.subscribe().wait_for(|held| !held).await);
            let refusal = self.run.refusal.lock().clone();
            if let Some(refusal) = refusal {
                return Err(refusal);
            }
            self.change(|disk| records.into_iter().map(|record| disk.append(record)).collect()).await
        })
    }

    fn settle(&self, marks: Vec<Mark>) -> BoxFuture<'_, Result<(), Error>> {
        self.change(|disk| marks.into_iter().for_each(|mark| drop(disk.settle(mark))))
    }

    fn bury(&self, letters: Vec<(RecordId, Arc<str>)>) -> BoxFuture<'_, Result<(), Error>> {
        self.change(|disk| {
            for (RecordId { place, version }, reason) in letters {
                let buried = disk.settle(Mark::new(place, version));
                disk.letters.extend(buried.into_iter().map(|record| (record, reason.clone())));
            }
        })
    }

    fn hold(&self, ids: Vec<RecordId>, holder: Holder) -> BoxFuture<'_, Result<(), Error>> {
        self.change(|disk| {
            for id in ids {
                if let Some(record) = disk.records.get_mut(&id) {
                    record.holder = holder.clone();
                }
            }
        })
    }

    fn discard(&self, ids: Vec<RecordId>) -> BoxFuture<'_, Result<(), Error>> {
        self.change(|disk| disk.records.retain(|id, _| !ids.contains(id)))
    }

    fn newest_version(&self, place: &Place) -> Option<Version> {
        self.disk.lock().records.keys().rfind(|id| id.place == *place).map(|id| id.version)
    }

    fn record(&self, id: RecordId) -> BoxFuture<'_, Result<Option<Record>, Error>> {
        self.change(move |disk| disk.records.get(&id).cloned())
    }

    fn newest(&self, place: Place) -> BoxFuture<'_, Result<Option<Record>, Error>> {
        self.change(|disk| disk.records.values().rfind(|record| record.id.place == place).cloned())
    }

    fn records(
        &self,
        group: Arc<str>,
        slots: Arc<SlotSet>,
        after: Option<RecordId>,
        _: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>> {
        self.change(move |disk| {
            let is_asked = |id: &RecordId| {
                let is_after = after.as_ref().is_none_or(|after| id > after);
                is_after && id.place.group == group && slots.contains(id.place.slot)
            };
            disk.records.values().filter(|record| is_asked(&record.id)).take(PAGE_LEN).cloned().collect()
        })
    }

    fn marks(
        &self,
        group: Arc<str>,
        slots: Arc<SlotSet>,
        after: Option<Place>,
    ) -> BoxFuture<'_, Result<Vec<Mark>, Error>> {
        self.change(move |disk| {
            let is_asked = |place: &Place| {
                let is_after = after.as_ref().is_none_or(|after| place > after);
                is_after && place.group == group && slots.contains(place.slot)
            };
            disk.marks.values().filter(|mark| is_asked(&mark.place)).take(PAGE_LEN).cloned().collect()
        })
    }

    fn stats(&self, group: &str) -> RecordStats {
        let disk = self.disk.lock();
        let mut stats = RecordStats::default();
        for record in disk.records.values().filter(|record| *record.id.place.group == *group) {
            let len = match &record.change {
                Change::Put(value) => value.len() as u64,
                Change::Delete => 0,
            };
            if record.holder == Holder::Owner {
                stats.pending += 1;
                stats.pending_bytes += len + OVERHEAD;
            } else {
                stats.copies += 1;
            }
        }
        stats.dead_letters = disk.letters.iter().filter(|(letter, _)| *letter.id.place.group == *group).count() as u64;
        stats
    }

    fn failure(&self) -> Option<Error> {
        self.run.failure.lock().clone()
    }

    fn open(&self, group: &Group, store: Arc<dyn Store>, _: Duration) {
        self.run.groups.lock().insert(group.name().clone(), (group.clone(), store));
    }

    fn take_up(&self, slots: Arc<SlotSet>) -> BoxFuture<'_, Result<(), Error>> {
        let taken = self.change(move |disk| {
            let is_taken = |record: &&Record| record.holder == Holder::Owner && slots.contains(record.id.place.slot);
            disk.records.values().filter(is_taken).map(|record| record.id.place.clone()).collect::<Vec<_>>()
        });
        Box::pin(async move {
            let taken = taken.await?;
            self.run.to_flush.lock().extend(taken);
            Ok(())
        })
    }

    fn recorded(&self, id: &RecordId) {
        self.run.to_flush.lock().insert(id.place.clone());
    }

    fn release(&self, slots: Arc<SlotSet>, _: Instant) -> BoxFuture<'_, ()> {
        self.run.to_flush.lock().retain(|place| !slots.contains(place.slot));
        Box::pin(ready(()))
    }

    fn drain(&self, _: Instant) -> BoxFuture<'_, usize> {
        Box::pin(async move {
            drop(self.flush().await);
            self.run.to_flush.lock().len()
        })
    }
}
