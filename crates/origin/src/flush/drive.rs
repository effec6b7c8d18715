//! [`Flush`]: does what a [`Flusher`] decides, at an origin and a ledger.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use larder_core::{
    Error, Key, Store, Update, UpdateError, Version,
    placement::{Slot, SlotSet},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use super::{
    Settled, Settlement,
    state::{Batch, Flusher, Outcome, RETRY_MAX, RETRY_MIN, delay_part},
};
use crate::journal::{Journal, JournalError, Mark, Place, Record, RecordId};

/// Batches that are read, written or taken down at once, whatever the limit: they are in memory.
pub const BATCHES_UNDER_WAY_MAX: usize = 256;

/// How long it is gathered at least, for those that end at the same time.
const SETTLE_DELAY_MIN: Duration = Duration::from_millis(5);

/// Outcomes that are enough to be taken down: more at once make each hardly cheaper, and the origin has answered others before the disks have these.
const SETTLED_ENOUGH: usize = 2_000;

/// Where records come from, and where it is taken down what became of them.
///
/// [`Journal`] is one, on one disk. What has to be on two is another, around it.
pub trait Ledger: Send + Sync + 'static {
    /// The records of these writes, each in its place, as far as they are there.
    fn records(&self, ids: Vec<RecordId>) -> BoxFuture<'_, Result<Vec<Option<Record>>, Error>>;

    /// Takes down what became of a group's keys. The next flush of a key begins when this is done; if it fails, it is asked again.
    fn settle(&self, group: Arc<str>, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<(), Error>>;
}

impl Ledger for Journal {
    fn records(&self, ids: Vec<RecordId>) -> BoxFuture<'_, Result<Vec<Option<Record>>, Error>> {
        Box::pin(async move { Ok(self.records_of(ids).await?) })
    }

    fn settle(&self, group: Arc<str>, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(
            async move {
                let (mut marks, mut letters) = (Vec::new(), Vec::new());
                for Settlement { key, version, how } in settlements {
                    let place = Place::new(Arc::clone(&group), key);
                    match how {
                        Settled::Flushed | Settled::Conflict => marks.push(Mark::new(place, version)),
                        Settled::Refused(reason) => letters.push((place.at(version), reason)),
                    }
                }
                let marked = async { if marks.is_empty() { Ok(0) } else { Journal::settle(self, marks).await } };
                let buried = async { if letters.is_empty() { Ok(Vec::new()) } else { self.bury(letters).await } };
                // Together, so that they may share a commit. Both may be asked again.
                let (marked, buried) = tokio::join!(marked, buried);
                marked?;
                buried?;
                Ok::<(), JournalError>(())
            }
            .map(|done| done.map_err(Error::from)),
        )
    }
}

/// How many requests to the origin may be under way at once; shared with loads.
pub trait FlushLimit: Send + Sync + 'static {
    /// Waits for a turn, which ends when what is given back is dropped.
    fn turn(&self) -> BoxFuture<'_, Box<dyn Any + Send>>;
}

/// As many as the semaphore has permits.
impl FlushLimit for Arc<Semaphore> {
    fn turn(&self) -> BoxFuture<'_, Box<dyn Any + Send>> {
        // One that is closed limits nothing any more.
        Box::pin(async move { Box::new(Arc::clone(self).acquire_owned().await.ok()) as Box<dyn Any + Send> })
    }
}

/// How a group is flushed.
#[derive(Clone, Copy, Debug)]
pub struct FlushConfig {
    /// How long the changes of a key are gathered.
    pub write_delay: Duration,
    /// How long the origin may take for a batch.
    pub timeout: Duration,
    /// Decides the jitter of retries.
    pub seed: u64,
}

/// What a group's flusher has done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FlushStats {
    /// Requests to the origin.
    pub batches: u64,
    /// Changes that the origin took.
    pub flushed: u64,
    /// Changes for which it had something newer.
    pub conflicts: u64,
    /// Changes that it refused for good.
    pub refused: u64,
    /// Changes that are tried again.
    pub failed: u64,
}

/// The flusher of a group. Clones are the same one.
///
/// It is told what is [`recorded`](Self::recorded), and does its work in [`run`](Self::run).
///
/// # Examples
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// use futures_util::future::BoxFuture;
/// use larder_core::{Change, Key, Store, Update, UpdateError, Version, testing::clock::TokioClock, version::Reading};
/// use larder_origin::{
///     flush::{Flush, FlushConfig},
///     journal::{Journal, JournalConfig, Place, Record},
///     storage::DiskStorage,
/// };
/// use tokio::{sync::Semaphore, time::Instant};
///
/// /// Takes everything.
/// struct Open;
///
/// impl Store for Open {
///     fn update(&self, _: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
///         Box::pin(async { Ok(()) })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let storage = DiskStorage::new(folder.path().join("journal.larder"));
/// let journal = Journal::open(storage, JournalConfig::default(), TokioClock::new()).await?;
/// let config = FlushConfig { write_delay: Duration::from_secs(1), timeout: Duration::from_secs(10), seed: 7 };
/// let limit = Arc::new(Semaphore::new(64));
/// let flush = Flush::new("users", config, Arc::new(Open), Arc::new(journal.clone()), Arc::new(limit));
/// let running = tokio::spawn(flush.clone().run(std::future::pending()));
///
/// let id = Place::new("users", Key::new("42")?).at(Version::new(Reading::from_bits(1), 1));
/// journal.append(Record::new(id.clone(), Change::Delete)).await?;
/// flush.recorded(&id);
/// let left = flush.drain(Instant::now() + Duration::from_secs(10)).await;
/// assert_eq!((left, flush.stats().flushed), (0, 1));
/// # running.abort();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Flush(Arc<Inner>);

struct Inner {
    group: Arc<str>,
    timeout: Duration,
    /// How long it is gathered what became of batches before it is taken down, while others are at the origin: of thousands at once each costs the disks
    /// half of what one of hundreds does.
    settle_delay: Duration,
    machine: Mutex<Flusher>,
    random: Mutex<fastrand::Rng>,
    /// Something came that may be due earlier.
    woken: Notify,
    /// How often a flush ended, for those who wait for ends.
    ends: watch::Sender<u64>,
    store: Arc<dyn Store>,
    ledger: Arc<dyn Ledger>,
    limit: Arc<dyn FlushLimit>,
    /// Batches that the origin has not answered.
    unanswered: watch::Sender<usize>,
    /// What became of batches and is not taken down. Who has the turn takes down all of it.
    to_settle: Mutex<Vec<Settlement>>,
    settling: tokio::sync::Mutex<()>,
    counted: Counted,
}

#[derive(Default)]
struct Counted {
    batches: AtomicU64,
    flushed: AtomicU64,
    conflicts: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Flush {
    /// The flusher of `group`, from `ledger` to `store`.
    pub fn new(
        group: impl Into<Arc<str>>,
        config: FlushConfig,
        store: Arc<dyn Store>,
        ledger: Arc<dyn Ledger>,
        limit: Arc<dyn FlushLimit>,
    ) -> Self {
        let FlushConfig { write_delay, timeout, seed } = config;
        Self(Arc::new(Inner {
            group: group.into(),
            timeout,
            settle_delay: delay_part(write_delay),
            machine: Mutex::new(Flusher::new(write_delay, store.update_batch_len_max(), seed)),
            random: Mutex::new(fastrand::Rng::with_seed(seed ^ 1)),
            woken: Notify::new(),
            ends: watch::Sender::new(0),
            store,
            ledger,
            limit,
            unanswered: watch::Sender::default(),
            to_settle: Mutex::default(),
            settling: tokio::sync::Mutex::default(),
            counted: Counted::default(),
        }))
    }

    /// A record that this node is to flush is in the ledger: just written, or found there, or taken over.
    pub fn recorded(&self, id: &RecordId) {
        let mut machine = self.0.machine.lock();
        machine.recorded(Instant::now(), &id.place.key, id.place.slot, id.version);
        drop(machine);
        self.0.woken.notify_one();
    }

    /// Another node is to flush this slot from now on. Returns when nothing of it is under way any more; nothing of it begins.
    pub async fn release(&self, slot: Slot) {
        let mut ends = self.0.ends.subscribe();
        self.0.machine.lock().release(slot);
        // The sender lives as long as this does.
        let _ = ends.wait_for(|_| self.0.machine.lock().under_way(slot) == 0).await;
    }

    /// Another node is to flush these slots from now on. Returns when nothing of them is under way any more, or at `until`; nothing of
    /// them begins.
    pub async fn release_all(&self, slots: &SlotSet, until: Instant) {
        let mut ends = self.0.ends.subscribe();
        self.0.machine.lock().release_all(|slot| slots.contains(slot));
        let is_over = |_: &u64| self.0.machine.lock().under_way_of(|slot| slots.contains(slot)) == 0;
        // The sender lives as long as this does.
        let _ = timeout_at(until, ends.wait_for(is_over)).await;
    }

    /// Flushes everything without delay. Returns when all is flushed, or at `until`, after which nothing begins; gives back how many
    /// keys are left.
    pub async fn drain(&self, until: Instant) -> usize {
        let mut ends = self.0.ends.subscribe();
        self.0.machine.lock().drain(Instant::now(), until);
        self.0.woken.notify_one();
        let _ = timeout_at(until, ends.wait_for(|_| self.0.machine.lock().is_empty())).await;
        self.pending()
    }

    /// Keys that have anything to be flushed.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.0.machine.lock().len()
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> FlushStats {
        let Counted { batches, flushed, conflicts, refused, failed } = &self.0.counted;
        FlushStats {
            batches: batches.load(Relaxed),
            flushed: flushed.load(Relaxed),
            conflicts: conflicts.load(Relaxed),
            refused: refused.load(Relaxed),
            failed: failed.load(Relaxed),
        }
    }

    /// Flushes until `stop`; returns when what was under way then has ended, which takes the origin's time-out at most. What is
    /// pending stays in the ledger.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let stopping = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        // Kept while other things happen, so that its place among those who wait is.
        let mut turn = None;
        loop {
            let due = self.0.machine.lock().wake_at();
            let is_due = due.is_some_and(|due| due <= Instant::now()) && tasks.len() < BATCHES_UNDER_WAY_MAX;
            if is_due {
                turn.get_or_insert_with(|| self.0.limit.turn());
            }
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(_) = tasks.join_next() => {}
                // What comes while this waits for its turn goes along.
                permit = granted(&mut turn) => {
                    turn = None;
                    let batch = self.0.machine.lock().take(Instant::now());
                    if let Some(batch) = batch {
                        let inner = Arc::clone(&self.0);
                        tasks.spawn(inner.flush(batch, permit, stopping.subscribe()));
                    }
                }
                () = self.0.woken.notified() => {}
                () = wait(due), if !is_due && tasks.len() < BATCHES_UNDER_WAY_MAX => {}
            }
        }
        stopping.send_replace(true);
        while tasks.join_next().await.is_some() {}
    }
}

async fn granted<T>(turn: &mut Option<BoxFuture<'_, T>>) -> T {
    match turn {
        Some(turn) => turn.await,
        None => std::future::pending().await,
    }
}

async fn wait(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

impl Inner {
    /// Brings one batch to its end.
    async fn flush(self: Arc<Self>, batch: Batch, turn: Box<dyn Any + Send>, stopping: watch::Receiver<bool>) {
        self.unanswered.send_modify(|count| *count += 1);
        let outcomes = self.ask(&batch.items).await;
        drop(turn);
        self.count(&batch.items, &outcomes);
        let settlements = self.machine.lock().answered(Instant::now(), batch.id, outcomes);
        let is_any = !settlements.is_empty();
        self.to_settle.lock().extend(settlements);
        // After that, as who settles looks when this changes.
        self.unanswered.send_modify(|count| *count -= 1);
        if is_any {
            self.settle_with_others(stopping).await;
        }
        self.ends.send_modify(|ends| *ends += 1);
        self.woken.notify_one();
    }

    /// What the origin says to these changes.
    async fn ask(&self, items: &[(Key, Version)]) -> Vec<Outcome> {
        let id = |(key, version): &(Key, Version)| Place::new(Arc::clone(&self.group), key.clone()).at(*version);
        let records = match self.ledger.records(items.iter().map(id).collect()).await {
            Ok(records) => records,
            Err(error) => {
                tracing::error!(group = %self.group, %error, "records can't be read to be flushed");
                return vec![Outcome::Unknown; items.len()];
            }
        };
        let deadline = Instant::now() + self.timeout;
        let is_there: Vec<bool> = records.iter().map(Option::is_some).collect();
        let updates: Vec<Update> = records.into_iter().flatten().map(|record| update(record, deadline)).collect();
        let mut answers = self.update(updates, deadline).await.into_iter();
        let outcome = |is_there| {
            if is_there { answers.next().map_or(Outcome::Unknown, outcome_of) } else { Outcome::Gone }
        };
        is_there.into_iter().map(outcome).collect()
    }

    async fn update(&self, mut updates: Vec<Update>, deadline: Instant) -> Vec<Result<(), UpdateError>> {
        let asked = async {
            match updates.len() {
                0 => Vec::new(),
                1 => match updates.pop() {
                    Some(update) => vec![self.store.update(update).await],
                    None => Vec::new(),
                },
                _ => self.store.update_many(updates).await,
            }
        };
        self.counted.batches.fetch_add(1, Relaxed);
        // A panic is the origin's, and so is silence: both tell nothing of what changed.
        match timeout_at(deadline, AssertUnwindSafe(asked).catch_unwind()).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }

    fn count(&self, items: &[(Key, Version)], outcomes: &[Outcome]) {
        let Counted { flushed, conflicts, refused, failed, .. } = &self.counted;
        for ((key, version), outcome) in items.iter().zip(outcomes) {
            match outcome {
                Outcome::Flushed => flushed.fetch_add(1, Relaxed),
                Outcome::Conflict => {
                    tracing::info!(group = %self.group, ?key, %version, "the origin has something newer than a journalled write");
                    conflicts.fetch_add(1, Relaxed)
                }
                // Whether it is refused for good shows when it is asked for by itself.
                Outcome::Refused(_) => refused.fetch_add(1, Relaxed),
                Outcome::Unreached | Outcome::Unknown => failed.fetch_add(1, Relaxed),
                Outcome::Gone => continue,
            };
        }
    }

    /// Has what became of batches taken down, together with that of those that end at about the same time.
    async fn settle_with_others(&self, stopping: watch::Receiver<bool>) {
        let _turn = self.settling.lock().await;
        if self.to_settle.lock().is_empty() {
            return;
        }
        sleep(SETTLE_DELAY_MIN).await;
        let is_enough = |unanswered: &usize| *unanswered == 0 || self.to_settle.lock().len() >= SETTLED_ENOUGH;
        // Who is answered later has the next turn. The sender lives as long as this does.
        let _ = timeout(self.settle_delay, self.unanswered.subscribe().wait_for(is_enough)).await;
        let settlements = std::mem::take(&mut *self.to_settle.lock());
        let keys: Vec<Key> = settlements.iter().map(|settlement| settlement.key.clone()).collect();
        if self.settle(settlements, stopping).await {
            self.machine.lock().settled(Instant::now(), &keys);
        }
    }

    /// Takes settlements down, as often as it needs; false if it is stopped before.
    async fn settle(&self, settlements: Vec<Settlement>, mut stopping: watch::Receiver<bool>) -> bool {
        for Settlement { key, version, how } in &settlements {
            if let Settled::Refused(reason) = how {
                tracing::warn!(group = %self.group, ?key, %version, %reason, "a write is given up: it is a dead letter");
            }
        }
        let mut bound = RETRY_MIN;
        loop {
            let Err(error) = self.ledger.settle(Arc::clone(&self.group), settlements.clone()).await else {
                return true;
            };
            tracing::warn!(group = %self.group, %error, "what was flushed can't be taken down: trying again");
            let wait = bound.mul_f64(self.random.lock().f64());
            bound = (bound * 2).min(RETRY_MAX);
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return false,
                () = sleep(wait) => {}
            }
        }
    }
}

fn update(record: Record, deadline: Instant) -> Update {
    let Record { id, change, idempotency_key, .. } = record;
    Update { key: id.place.key, change, version: id.version, idempotency_key, deadline }
}

fn outcome_of(answer: Result<(), UpdateError>) -> Outcome {
    match answer {
        Ok(()) => Outcome::Flushed,
        Err(UpdateError::Conflict) => Outcome::Conflict,
        Err(UpdateError::Refused(reason)) => Outcome::Refused(reason.to_string().into()),
        Err(UpdateError::Unreached(_)) => Outcome::Unreached,
        Err(UpdateError::Unknown(_)) => Outcome::Unknown,
    }
}
