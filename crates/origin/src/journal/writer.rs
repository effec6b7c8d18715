//! The writer: one thread that makes one commit of all that waits.
//!
//! While a commit is on its way to the disk the next one's writes gather in the queue. A lone writer waits for its own sync
//! alone. Where several write at the same time, but too few are there to make much of a sync, it is waited for more of them, for as long as commits
//! take and no longer (what PostgreSQL calls `commit_delay` and `commit_siblings`). It is a thread and no task, because all that
//! it does blocks.
//!
//! # When the disk fails
//!
//! *A sync that failed* ends it. The system forgets what it could not write, so that the next sync would succeed over a hole
//! ("fsyncgate"; Rebello and others, "Can Applications Recover from fsync Failures?", USENIX ATC 2020). The same goes for every
//! other failure but one.
//!
//! *A full disk* fails a write before the sync. redb then refuses everything until it is opened anew, so it is, over the same open
//! file. That is safe, as the file is one that a power failure at this point might have left, from which redb recovers: a commit
//! writes pages that nothing refers to yet and then the head, whose two halves are checked. Nothing that was synced before
//! was touched, and no sync has failed, so that nothing was forgotten. After that the number of the last commit tells whether
//! this one is in all the same. If the system runs out of room only while it syncs (some file systems over a network do), that is
//! a failed sync.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use larder_core::{Clock, Moment};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

use super::{
    JournalError,
    database::Database,
    index::{Delta, Index},
    opening,
    tables::{Context, Op, Receipt, Stop, Tables},
};
use crate::storage::StorageFile;

/// Operations of one commit: more gain nothing, as the sync is divided by thousands then, and all of them wait for it.
const COMMIT_LEN_MAX: usize = 4096;

/// Bytes of one commit. What redb holds in memory for one is some times as much.
const COMMIT_BYTES_MAX: u64 = 16 << 20;

/// Operations that are enough for a commit. It is waited for more only if there are fewer.
const GATHERED_ENOUGH: usize = 32;

/// And only if there are as many: others write at the same time, and some of them are on their way.
const GATHERED_MIN: usize = 4;

/// The longest that is waited for more, however long commits take.
const GATHER_TIME_MAX: Duration = Duration::from_millis(2);

/// How often it is looked meanwhile.
const GATHER_LOOKS: u32 = 8;

/// The weight of the last commit in what commits are taken to take.
const TOOK_WEIGHT: u32 = 4;

/// How long nothing is appended after a disk was full, and how often a file that can't be opened for that is tried again: opening it
/// reads the whole of it.
const FULL_FOR: Duration = Duration::from_secs(1);

/// An operation, and who waits for it.
pub(super) struct Job {
    pub(super) op: Op,
    /// What it may add to the journal.
    pub(super) cost: u64,
    pub(super) done: oneshot::Sender<Result<Receipt, JournalError>>,
}

pub(super) enum Message {
    Job(Job),
    Close(oneshot::Sender<()>),
}

/// What the writer shares with those who ask.
pub(super) struct Shared {
    pub(super) name: Arc<str>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) marks_max: u64,
    pub(super) mark_age_max: Duration,
    /// None while it is opened anew, and after the end.
    pub(super) database: RwLock<Option<Arc<Database>>>,
    pub(super) index: Mutex<Index>,
    /// Why nothing is written any more.
    pub(super) failure: Mutex<Option<JournalError>>,
    /// The disk was full a little ago: what needs room is not tried.
    pub(super) full_until: Mutex<Option<Moment>>,
    pub(super) waiting: AtomicU64,
    pub(super) waiting_bytes: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) operations: AtomicU64,
    pub(super) records: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// The writer's thread.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) queue: mpsc::Receiver<Message>,
    /// The last commit.
    pub(super) number: u64,
    /// On a full disk: when to open the file again.
    pub(super) closed_until: Option<Moment>,
    /// How long commits take, the last ones more than those before.
    pub(super) took: Duration,
}

/// What goes into one commit.
#[derive(Default)]
struct Gathered {
    jobs: Vec<Job>,
    bytes: u64,
    /// Who wants the journal closed after it.
    close: Option<oneshot::Sender<()>>,
}

impl Gathered {
    fn add(&mut self, message: Message) {
        match message {
            Message::Job(job) => {
                self.bytes += job.cost;
                self.jobs.push(job);
            }
            Message::Close(done) => self.close = Some(done),
        }
    }

    fn is_full(&self) -> bool {
        self.close.is_some() || self.jobs.len() >= COMMIT_LEN_MAX || self.bytes >= COMMIT_BYTES_MAX
    }
}

/// How a commit failed as a whole.
enum Failure {
    NoRoom,
    Broken(Arc<str>),
}

impl Writer {
    /// Works until everybody who could ask is gone, or says so.
    pub(super) fn run(mut self) {
        let mut close = None;
        while close.is_none() {
            let Some(first) = self.queue.blocking_recv() else { break };
            let mut gathered = Gathered::default();
            gathered.add(first);
            self.gather(&mut gathered);
            let began = self.shared.clock.now();
            self.work(gathered.jobs);
            self.took = (self.took * (TOOK_WEIGHT - 1) + self.shared.clock.now().since(began)) / TOOK_WEIGHT;
            close = gathered.close;
        }
        self.queue.close();
        while let Ok(message) = self.queue.try_recv() {
            match message {
                Message::Job(job) => self.answer(vec![job], &JournalError::Closed),
                Message::Close(done) => drop(done.send(())),
            }
        }
        // The last one to hold it closes the file.
        drop(self.shared.database.write().take());
        drop(self.file);
        close.map(|done| done.send(()));
    }

    /// Adds what waits, and what comes within the time of a commit if that is worth it.
    #[expect(
        clippy::disallowed_methods,
        reason = "this thread has nothing else to do, and is not woken for each that comes"
    )]
    fn gather(&mut self, gathered: &mut Gathered) {
        self.add_waiting(gathered);
        if gathered.jobs.len() < GATHERED_MIN {
            return;
        }
        let pause = self.took.min(GATHER_TIME_MAX) / GATHER_LOOKS;
        for _ in 0..GATHER_LOOKS {
            if gathered.jobs.len() >= GATHERED_ENOUGH || gathered.is_full() {
                return;
            }
            thread::sleep(pause);
            self.add_waiting(gathered);
        }
    }

    fn add_waiting(&mut self, gathered: &mut Gathered) {
        while !gathered.is_full() {
            let Ok(message) = self.queue.try_recv() else { return };
            gathered.add(message);
        }
    }

    fn work(&mut self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let failure = self.shared.failure.lock().clone();
        if let Some(failure) = failure {
            return self.answer(jobs, &failure);
        }
        let Some(database) = self.database() else {
            let failure = self.shared.failure.lock().clone();
            let file = Arc::clone(&self.shared.name);
            return self.answer(jobs, &failure.unwrap_or(JournalError::NoRoom { file }));
        };
        let (mut results, mut deltas) = (Vec::with_capacity(jobs.len()), Vec::new());
        let attempt = catch_unwind(AssertUnwindSafe(|| self.commit(&database, &jobs, &mut results, &mut deltas)));
        match attempt.unwrap_or_else(|_| Err(Failure::Broken("redb panicked".into()))) {
            Ok(()) => {}
            Err(Failure::NoRoom) => return self.out_of_room(database, jobs, results),
            Err(Failure::Broken(cause)) => return self.broken(&cause, jobs),
        }
        self.number += 1;
        let sealed = database.seal(self.number);
        self.acknowledge(jobs, results, deltas);
        if let Err(error) = sealed {
            self.broken(&error.to_string().into(), Vec::new());
        }
    }

    /// The database, opened anew if the disk was full and it is time to.
    fn database(&mut self) -> Option<Arc<Database>> {
        let database = self.shared.database.read().clone();
        if database.is_some() {
            return database;
        }
        if self.closed_until.is_some_and(|until| self.shared.clock.now() < until) {
            return None;
        }
        self.reopen()
    }

    /// One commit of everything. An operation that fails alone has changed nothing.
    fn commit(
        &self,
        database: &Database,
        jobs: &[Job],
        results: &mut Vec<Result<Receipt, JournalError>>,
        deltas: &mut Vec<Delta>,
    ) -> Result<(), Failure> {
        let shared = &*self.shared;
        let now_ms = shared.clock.wall_ms();
        let mark_age_ms = u64::try_from(shared.mark_age_max.as_millis()).unwrap_or(u64::MAX);
        let mut attempt = || -> Result<(), redb::Error> {
            let txn = database.redb().begin_write()?;
            let mut tables = Tables::open(&txn)?;
            tables.number(self.number + 1)?;
            for job in jobs {
                let mut context = Context {
                    file: &shared.name,
                    now_ms,
                    marks_from_ms: now_ms.saturating_sub(mark_age_ms),
                    marks_max: shared.marks_max,
                    deltas,
                };
                match tables.apply(&job.op, &mut context) {
                    Ok(receipt) => results.push(Ok(receipt)),
                    Err(Stop::Operation(error)) => results.push(Err(error)),
                    Err(Stop::Commit(error)) => return Err(error),
                }
            }
            drop(tables);
            Ok(txn.commit()?)
        };
        let done = attempt();
        match (done, database.faults().broken()) {
            (Ok(()), None) => Ok(()),
            (_, Some(cause)) => Err(Failure::Broken(cause)),
            (Err(_), None) if database.faults().is_out_of_room() => Err(Failure::NoRoom),
            (Err(error), None) => Err(Failure::Broken(error.to_string().into())),
        }
    }

    /// Opens the file anew, which tells what became of `jobs`.
    fn out_of_room(&mut self, database: Arc<Database>, jobs: Vec<Job>, results: Vec<Result<Receipt, JournalError>>) {
        let name = Arc::clone(&self.shared.name);
        tracing::warn!(file = %name, "the journal's disk is full: writes are refused until there is room");
        *self.shared.full_until.lock() = Some(self.shared.clock.now() + FULL_FOR);
        database.faults().retire();
        *self.shared.database.write() = None;
        drop(database);
        let before = self.number;
        if self.reopen().is_some() && self.number > before && results.len() == jobs.len() {
            // It was whole, as redb only tidied up after it; and opening it has synced it. What it changed is counted already.
            return self.acknowledge(jobs, results, Vec::new());
        }
        let failure = self.shared.failure.lock().clone();
        self.answer(jobs, &failure.unwrap_or(JournalError::NoRoom { file: name }));
    }

    fn reopen(&mut self) -> Option<Arc<Database>> {
        match Database::open(Arc::clone(&self.file), &self.shared.name) {
            Ok((database, number)) => {
                let database = Arc::new(database);
                match opening::count(&database, &self.shared.name) {
                    Ok(counted) => self.shared.index.lock().replace(counted.index),
                    Err(error) => {
                        *self.shared.failure.lock() = Some(error);
                        return None;
                    }
                }
                self.number = number;
                self.closed_until = None;
                *self.shared.database.write() = Some(Arc::clone(&database));
                Some(database)
            }
            Err(JournalError::NoRoom { .. }) => {
                self.closed_until = Some(self.shared.clock.now() + FULL_FOR);
                None
            }
            Err(error) => {
                tracing::error!(%error, "the journal can't be opened again: this node takes no writes");
                *self.shared.failure.lock() = Some(error);
                None
            }
        }
    }

    fn broken(&self, cause: &Arc<str>, jobs: Vec<Job>) {
        let file = Arc::clone(&self.shared.name);
        let failed = JournalError::Failed { file: Arc::clone(&file), cause: Arc::clone(cause) };
        tracing::error!(error = %failed, "the journal failed");
        *self.shared.failure.lock() = Some(failed);
        if let Some(database) = &*self.shared.database.read() {
            database.faults().end(cause);
        }
        self.answer(jobs, &JournalError::Unknown { file, cause: Arc::clone(cause) });
    }

    fn acknowledge(&self, jobs: Vec<Job>, results: Vec<Result<Receipt, JournalError>>, deltas: Vec<Delta>) {
        let shared = &*self.shared;
        let mut index = shared.index.lock();
        for delta in deltas {
            if let Delta::Added { cost, .. } = delta {
                shared.records.fetch_add(1, Relaxed);
                shared.bytes.fetch_add(cost, Relaxed);
            }
            index.apply(delta);
        }
        index.reserved = index.reserved.saturating_sub(jobs.iter().map(|job| job.cost).sum());
        drop(index);
        shared.commits.fetch_add(1, Relaxed);
        shared.operations.fetch_add(jobs.len() as u64, Relaxed);
        for (job, result) in jobs.into_iter().zip(results) {
            self.finish(job, result);
        }
    }

    /// Nothing became of these.
    fn answer(&self, jobs: Vec<Job>, error: &JournalError) {
        let reserved = jobs.iter().map(|job| job.cost).sum();
        let mut index = self.shared.index.lock();
        index.reserved = index.reserved.saturating_sub(reserved);
        drop(index);
        for job in jobs {
            self.finish(job, Err(error.clone()));
        }
    }

    fn finish(&self, job: Job, result: Result<Receipt, JournalError>) {
        self.shared.waiting.fetch_sub(1, Relaxed);
        self.shared.waiting_bytes.fetch_sub(job.cost, Relaxed);
        // Who asked may have gone.
        let _ = job.done.send(result);
    }
}
