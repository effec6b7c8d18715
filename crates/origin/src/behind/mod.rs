//! [`Behind`]: a node's journal with the flushers of its groups: what the core needs for writes that the origin gets later.
//!
//! **It decides nothing**: which records are this node's to flush, where their copies are and what is answered from them is the
//! core's affair ([`larder_core::behind`]). It gives a group's flusher the journal to read from and the group to say what came of it.

mod retry;

use std::{any::Any, collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, join_all};
use larder_core::{
    Clock, Error, Group, Store, Version,
    behind::{Appended, Holder, Mark, Place, Record, RecordId, RecordStats, Records, Settlement},
    placement::SlotSet,
    version::Reading,
};
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle, time::Instant};

pub use self::retry::{Retried, retry_dead_letter};
use crate::{
    flush::{Flush, FlushConfig, FlushLimit, Ledger},
    journal::{self, Journal, JournalConfig, JournalError},
    storage::DiskStorage,
};

/// A node's journal, and what brings the writes in it to their origins. Clones are the same.
///
/// # Examples
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// use larder_core::{
///     GroupConfig, Key, Member, Members, Node, NodeConfig, Ring, Value,
///     peer::Condition,
///     testing::{clock::TokioClock, fake_peer::FakeNetwork, fake_store::FakeStore},
/// };
/// use larder_origin::{behind::Behind, journal::JournalConfig};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let behind = Behind::open(folder.path(), JournalConfig::default(), TokioClock::new()).await?;
/// let (clock, transport) = (Arc::new(TokioClock::new()), Arc::new(FakeNetwork::default()));
/// let config =
///     NodeConfig { name: "a".into(), http: "".into(), ring: Ring::Slots, incarnation: 1, seed: 42, clock, transport };
/// let node = Node::new(config, Members::new([Member::new("a", "")])?)?;
/// node.set_records(Arc::new(behind.clone()), true)?;
/// let keeping = tokio::spawn(node.clone().keep_records());
///
/// let origin = Arc::new(FakeStore::new(100));
/// let delay = Duration::from_millis(1);
/// let users = node.open_group_behind("users", GroupConfig::default(), origin.clone(), origin.clone(), delay)?;
/// users.put("42", Value::from("Ada"), None, Condition::Always, Duration::from_secs(5)).await?;
/// // It outlasts the machine, and is on its way to the origin.
/// behind.flush_all(Duration::from_secs(5)).await;
/// assert_eq!(origin.held(&Key::new("42")?).as_deref(), Some(&b"Ada"[..]));
/// # keeping.abort();
/// behind.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Behind(Arc<Inner>);

struct Inner {
    journal: Journal,
    flushers: Mutex<BTreeMap<Arc<str>, Flusher>>,
    stop: watch::Sender<bool>,
}

/// What flushes a group.
struct Flusher {
    flush: Flush,
    running: JoinHandle<()>,
}

impl fmt::Debug for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Behind").field("journal", &self.0.journal).finish_non_exhaustive()
    }
}

impl Behind {
    /// Opens the journal in this folder, which is made if it isn't there.
    ///
    /// # Errors
    ///
    /// As for [`Journal::open`].
    pub async fn open(
        data_dir: impl Into<PathBuf>,
        config: JournalConfig,
        clock: impl Clock,
    ) -> Result<Self, JournalError> {
        Ok(Self::over(Journal::open(DiskStorage::new(journal::path_in(data_dir)), config, clock).await?))
    }

    /// Over a journal that is open.
    #[must_use]
    pub fn over(journal: Journal) -> Self {
        Self(Arc::new(Inner { journal, flushers: Mutex::default(), stop: watch::Sender::new(false) }))
    }

    /// The journal: for dead letters, and for what is in it.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// Flushes everything without waiting for more, for so long at most. Gives back how many keys are left.
    pub async fn flush_all(&self, within: Duration) -> usize {
        self.drain(Instant::now() + within).await
    }

    /// Ends it: what is under way at origins comes to its end, everything else stays in the journal, and the journal is closed.
    pub async fn close(&self) {
        self.0.stop.send_replace(true);
        let flushers = std::mem::take(&mut *self.0.flushers.lock());
        join_all(flushers.into_values().map(|flusher| flusher.running)).await;
        self.0.journal.close().await;
    }

    fn flush_of(&self, group: &str) -> Option<Flush> {
        self.0.flushers.lock().get(group).map(|flusher| flusher.flush.clone())
    }

    fn flushes(&self) -> Vec<Flush> {
        self.0.flushers.lock().values().map(|flusher| flusher.flush.clone()).collect()
    }

    fn done<T: Send>(
        asked: impl Future<Output = Result<T, JournalError>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Error>> {
        Box::pin(async move { asked.await.map_err(Error::from) })
    }
}

/// Records from the journal; what came of them goes to the group, which knows where else it has to be taken down.
struct OfGroup {
    journal: Journal,
    group: Group,
}

impl Ledger for OfGroup {
    fn records(&self, ids: Vec<RecordId>) -> BoxFuture<'_, Result<Vec<Option<Record>>, Error>> {
        Ledger::records(&self.journal, ids)
    }

    fn settle(&self, _: Arc<str>, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.group.flushed(settlements))
    }
}

/// The group's turns at its origin, which loads have as well.
struct Turns(Group);

impl FlushLimit for Turns {
    fn turn(&self) -> BoxFuture<'_, Box<dyn Any + Send>> {
        self.0.origin_turn()
    }
}

impl Records for Behind {
    fn floor(&self) -> Reading {
        self.0.journal.clock_floor()
    }

    fn members(&self) -> Option<Vec<Arc<str>>> {
        self.0.journal.members()
    }

    fn remember_members(&self, members: Vec<Arc<str>>) -> BoxFuture<'_, Result<(), Error>> {
        let journal = self.0.journal.clone();
        Self::done(async move { journal.remember_members(members).await })
    }

    fn append(&self, records: Vec<Record>) -> BoxFuture<'_, Result<Vec<Appended>, Error>> {
        let journal = self.0.journal.clone();
        Self::done(async move { journal.append_all(records).await })
    }

    fn settle(&self, marks: Vec<Mark>) -> BoxFuture<'_, Result<(), Error>> {
        let journal = self.0.journal.clone();
        Self::done(async move { journal.settle(marks).await.map(drop) })
    }

    fn bury(&self, letters: Vec<(RecordId, Arc<str>)>) -> BoxFuture<'_, Result<(), Error>> {
        let journal = self.0.journal.clone();
        Self::done(async move { journal.bury(letters).await.map(drop) })
    }

    fn hold(&self, ids: Vec<RecordId>, holder: Holder) -> BoxFuture<'_, Result<(), Error>> {
        let journal = self.0.journal.clone();
        Self::done(async move { journal.hold(ids, holder).await.map(drop) })
    }

    fn discard(&self, ids: Vec<RecordId>) -> BoxFuture<'_, Result<(), Error>> {
        let journal = self.0.journal.clone();
        Self::done(async move { journal.drop_records(ids).await.map(drop) })
    }

    fn newest_version(&self, place: &Place) -> Option<Version> {
        self.0.journal.newest_version(place)
    }

    fn record(&self, id: RecordId) -> BoxFuture<'_, Result<Option<Record>, Error>> {
        let journal = self.0.journal.clone();
        Self::done(async move { journal.record(id).await })
    }

    fn newest(&self, place: Place) -> BoxFuture<'_, Result<Option<Record>, Error>> {
        let journal = self.0.journal.clone();
        Self::done(async move { journal.newest(place).await })
    }

    fn records(
        &self,
        group: Arc<str>,
        slots: Arc<SlotSet>,
        after: Option<RecordId>,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>> {
        let journal = self.0.journal.clone();
        Self::done(async move { journal.records_in(group, slots, after, bytes_max).await })
    }

    fn marks(
        &self,
        group: Arc<str>,
        slots: Arc<SlotSet>,
        after: Option<Place>,
    ) -> BoxFuture<'_, Result<Vec<Mark>, Error>> {
        let journal = self.0.journal.clone();
        Self::done(async move { journal.marks_in(group, slots, after).await })
    }

    fn stats(&self, group: &str) -> RecordStats {
        let held = self.0.journal.group_stats(group);
        let flushed = self.flush_of(group).map(|flush| flush.stats()).unwrap_or_default();
        RecordStats {
            pending: held.records,
            pending_bytes: held.records_bytes,
            oldest_ms: held.oldest_ms,
            copies: held.copies,
            dead_letters: held.dead_letters,
            flushed: flushed.flushed,
            conflicts: flushed.conflicts,
            failed: flushed.failed,
        }
    }

    fn failure(&self) -> Option<Error> {
        self.0.journal.failure().map(Error::from)
    }

    fn open(&self, group: &Group, store: Arc<dyn Store>, write_delay: Duration) {
        let config = FlushConfig {
            write_delay,
            timeout: group.config().hard_timeout,
            // What tells nodes apart, so that they don't all try again at the same time.
            seed: u64::from(group.node().standing().incarnation()),
        };
        let ledger = Arc::new(OfGroup { journal: self.0.journal.clone(), group: group.clone() });
        let flush = Flush::new(group.name().clone(), config, store, ledger, Arc::new(Turns(group.clone())));
        let mut stop = self.0.stop.subscribe();
        let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        let running = tokio::spawn(flush.clone().run(stopped));
        self.0.flushers.lock().insert(group.name().clone(), Flusher { flush, running });
    }

    fn take_up(&self, slots: Arc<SlotSet>) -> BoxFuture<'_, Result<(), Error>> {
        let flushers: Vec<(Arc<str>, Flush)> =
            self.0.flushers.lock().iter().map(|(group, flusher)| (group.clone(), flusher.flush.clone())).collect();
        Box::pin(async move {
            for (group, flush) in flushers {
                self.0.journal.owned(&group, &slots).iter().for_each(|id| flush.recorded(id));
            }
            Ok(())
        })
    }

    fn recorded(&self, id: &RecordId) {
        if let Some(flush) = self.flush_of(&id.place.group) {
            flush.recorded(id);
        }
    }

    fn release(&self, slots: Arc<SlotSet>, until: Instant) -> BoxFuture<'_, ()> {
        let flushes = self.flushes();
        Box::pin(async move { drop(join_all(flushes.iter().map(|flush| flush.release_all(&slots, until))).await) })
    }

    fn drain(&self, until: Instant) -> BoxFuture<'_, usize> {
        let flushes = self.flushes();
        Box::pin(async move { join_all(flushes.iter().map(|flush| flush.drain(until))).await.into_iter().sum() })
    }
}
