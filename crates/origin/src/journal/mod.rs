//! [`Journal`]: writes that were acknowledged and are not at their origin yet, on this node's disk.
//!
//! It holds *records* (a key's new value, or that it is deleted), *marks* (up to which version a key is flushed), *dead letters*
//! (writes that were given up), and what a node must know after a restart: the clock reading it reserved, and the members of its last
//! view. Everything that is changed is changed in a commit of redb, one at a time, and whoever asked is answered when that is on the
//! disk. What is checked and what a failing disk does is told in `database` and `writer`.
//!
//! **It knows nothing of groups' rules, of nodes or of the network**: who replicates a record, when it is flushed and who may read it is
//! decided above. Rules B1 to B7 of the protocol are built on it.

mod database;
mod error;
mod index;
mod inspect;
mod opening;
mod reading;
mod record;
mod tables;
mod writer;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use larder_core::{
    Clock, Key, Version,
    placement::{Slot, SlotSet},
    version::Reading,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

use self::{
    opening::Opened,
    record::places,
    tables::{Op, Ready, Receipt},
    writer::{Job, Message, Shared, Writer},
};
use crate::{blocking::Threads, storage::Storage};

pub use error::JournalError;
pub use index::GroupStats;
pub use inspect::{BAD_NAMED_MAX, Bad, Met, Report, inspect};
pub use larder_core::behind::{Appended, Holder, Mark, Place, Record, RecordId};
pub use reading::PAGE_LEN_MAX;
pub use record::{DeadLetter, RECORD_OVERHEAD, TEXT_LEN_MAX};

/// Operations that wait for a commit: some commits' worth.
pub const QUEUE_LEN_MAX: usize = 16_384;

/// Bytes that wait for a commit, in memory beside what the journal holds.
pub const QUEUE_BYTES_MAX: u64 = 64 << 20;

/// Reads under way at once. They mostly find in memory what they need.
const READS_MAX: usize = 16;

/// The file in a node's data folder.
pub const FILE_NAME: &str = "journal.larder";

/// How large a journal may become.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// Bytes of records and dead letters, [`RECORD_OVERHEAD`] each included. The file may take about twice as much, and records
    /// that are to be flushed some 300 bytes each of memory. Beyond it writers are refused.
    pub bytes_max: u64,
    /// Marks that are kept: one for each key that was flushed within [`mark_age_max`](Self::mark_age_max), some 100 bytes each.
    pub marks_max: u64,
    /// How long a mark is kept: longer than a copy of a record may be on its way, or in a node that is away.
    pub mark_age_max: Duration,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self { bytes_max: 1 << 30, marks_max: 1_000_000, mark_age_max: Duration::from_secs(24 * 60 * 60) }
    }
}

/// Which part of the journal.
#[derive(Clone, Debug)]
pub enum Scope {
    /// All of it.
    All,
    /// A group.
    Group(Arc<str>),
    /// A slot of a group.
    Slot(Arc<str>, Slot),
    /// A key of a group.
    Key(Place),
}

impl Scope {
    /// A key of a group.
    pub fn key(group: impl Into<Arc<str>>, key: Key) -> Self {
        Self::Key(Place::new(group, key))
    }

    fn prefix(&self) -> Vec<u8> {
        match self {
            Self::All => Vec::new(),
            Self::Group(group) => places::group(group),
            Self::Slot(group, slot) => places::slot(group, *slot),
            Self::Key(place) => places::key(place),
        }
    }
}

/// What the journal has done since it was opened, and what is in it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct JournalStats {
    /// Commits, each with one sync.
    pub commits: u64,
    /// Operations that were in them.
    pub operations: u64,
    /// Records that were written.
    pub records_written: u64,
    /// Bytes of those.
    pub bytes_written: u64,
    /// Operations that wait for their commit.
    pub waiting: u64,
    /// What is in it, over all groups.
    pub held: GroupStats,
    /// Bytes of records and dead letters, of [`JournalConfig::bytes_max`].
    pub bytes: u64,
}

/// The journal of a node. Clones are the same journal; it is closed when the last one is gone, or by [`close`](Self::close).
///
/// Everything that changes it is done by its own thread, and is done even if who asked goes away. It needs a tokio runtime.
///
/// # Examples
///
/// ```
/// use larder_core::{Change, Key, Version, testing::clock::TokioClock, version::Reading};
/// use larder_origin::{
///     journal::{Journal, JournalConfig, Mark, Place, Record, Scope},
///     storage::DiskStorage,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let storage = DiskStorage::new(folder.path().join("journal.larder"));
/// let journal = Journal::open(storage, JournalConfig::default(), TokioClock::new()).await?;
///
/// let place = Place::new("users", Key::new("42")?);
/// let version = Version::new(Reading::from_bits(1 << 16), 7);
/// journal.append(Record::new(place.clone().at(version), Change::Put("Zaphod".into()))).await?;
/// // From here on it outlasts the process and the machine.
/// assert!(journal.newest(place.clone()).await?.is_some());
///
/// // It is at the origin.
/// journal.settle(vec![Mark::new(place.clone(), version)]).await?;
/// assert!(journal.records(Scope::All, None, 10).await?.is_empty());
/// journal.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Message>,
    readers: Arc<Threads>,
    bytes_max: u64,
    /// As it was when the journal was opened, and reserved since.
    floor: Arc<Mutex<Reading>>,
    members: Arc<Mutex<Option<Vec<Arc<str>>>>>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("file", &self.shared.name).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal, and looks at every byte of it. One that isn't there is made.
    ///
    /// # Errors
    ///
    /// [`JournalError::Locked`] if another process has it open; [`JournalError::Damaged`] if anything in it is not what was written: then
    /// nothing of it is used, so that nobody goes on without what was acknowledged.
    pub async fn open(storage: impl Storage, config: JournalConfig, clock: impl Clock) -> Result<Self, JournalError> {
        let name: Arc<str> = storage.name().into();
        let (sender, receiver) = oneshot::channel();
        let (queue, messages) = mpsc::channel(QUEUE_LEN_MAX);
        let (cause_of, started) = (Arc::clone(&name), thread::Builder::new().name("journal".to_owned()));
        let thread = move || match opening::open(&storage, &name) {
            Err(error) => drop(sender.send(Err(error))),
            Ok(Opened { database, number, counted }) => {
                let file = Arc::clone(database.file());
                let shared = Arc::new(Shared {
                    name,
                    clock: Arc::new(clock),
                    marks_max: config.marks_max,
                    mark_age_max: config.mark_age_max,
                    database: RwLock::new(Some(Arc::new(database))),
                    index: Mutex::new(counted.index),
                    failure: Mutex::default(),
                    full_until: Mutex::default(),
                    waiting: 0.into(),
                    waiting_bytes: 0.into(),
                    commits: 0.into(),
                    operations: 0.into(),
                    records: 0.into(),
                    bytes: 0.into(),
                });
                if sender.send(Ok((Arc::clone(&shared), counted.floor, counted.members))).is_ok() {
                    Writer { shared, file, queue: messages, number, closed_until: None, took: Duration::ZERO }.run();
                }
            }
        };
        let unstarted = |cause: String| JournalError::Open { file: cause_of, cause: cause.into() };
        if let Err(error) = started.spawn(thread) {
            return Err(unstarted(error.to_string()));
        }
        let (shared, floor, members) =
            receiver.await.map_err(|_| unstarted("its thread ended while it was opened".to_owned()))??;
        Ok(Self {
            shared,
            queue,
            readers: Arc::new(Threads::new(READS_MAX)),
            bytes_max: config.bytes_max,
            floor: Arc::new(Mutex::new(floor)),
            members: Arc::new(Mutex::new(members)),
        })
    }

    /// Ends it: what waits is written, what comes later is refused, and the file is closed when this returns.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Message::Close(done)).await.is_ok() {
            // The writer may have ended meanwhile, which is as well.
            let _ = closed.await;
        }
    }

    /// Takes a record down. When this returns it outlasts the machine.
    ///
    /// # Errors
    ///
    /// [`JournalError::Busy`], [`Full`](JournalError::Full) and [`NoRoom`](JournalError::NoRoom): it was not, try again.
    /// [`Unknown`](JournalError::Unknown): nobody knows. [`Failed`](JournalError::Failed): it was not, and nothing will be.
    pub async fn append(&self, record: Record) -> Result<Appended, JournalError> {
        let mut appended = self.append_all(vec![record]).await?;
        appended.pop().ok_or(JournalError::Closed)
    }

    /// Takes records down, all in one commit. One that is there already is replaced: so its holder can change.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append); all of them or none.
    pub async fn append_all(&self, mut records: Vec<Record>) -> Result<Vec<Appended>, JournalError> {
        let now_ms = self.shared.clock.wall_ms();
        for record in &mut records {
            if let Some(what) = record::too_long(record) {
                return Err(JournalError::invalid(format!("the {what} has more than {TEXT_LEN_MAX} bytes")));
            }
            if record.written_ms == 0 {
                record.written_ms = now_ms;
            }
        }
        let ready: Vec<Ready> = records.iter().map(Ready::new).collect();
        let cost = ready.iter().map(Ready::cost).sum();
        Ok(self.ask(Op::Append(ready), cost).await?.appended)
    }

    /// Everything of these keys up to these versions is at the origin, or need not go there: their records go, their marks
    /// stay. Gives back how many records went.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append). So for all that follow.
    pub async fn settle(&self, mut marks: Vec<Mark>) -> Result<usize, JournalError> {
        // In the order in which they stand in the file, and each key once, with the newest version.
        marks.sort_unstable_by(|one, other| one.place.cmp(&other.place).then(other.version.cmp(&one.version)));
        marks.dedup_by(|later, kept| later.place == kept.place);
        Ok(self.ask(Op::Settle(marks), 0).await?.affected)
    }

    /// These writes are given up for these reasons, with what was gathered under them: they become dead letters, and their keys are
    /// marked. Gives back the dead letters' numbers.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    pub async fn bury(&self, letters: Vec<(RecordId, Arc<str>)>) -> Result<Vec<u64>, JournalError> {
        let cut = |reason: Arc<str>| match reason.char_indices().find(|(at, c)| at + c.len_utf8() > TEXT_LEN_MAX) {
            Some((at, _)) => reason[..at].into(),
            None => reason,
        };
        let letters = letters.into_iter().map(|(id, reason)| (id, cut(reason))).collect();
        Ok(self.ask(Op::Bury(letters), 0).await?.buried)
    }

    /// Holds these records for another reason from now on. Gives back how many of them are here.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    pub async fn hold(&self, ids: Vec<RecordId>, holder: Holder) -> Result<usize, JournalError> {
        Ok(self.ask(Op::Hold(ids, holder), 0).await?.affected)
    }

    /// Drops records that others have, without marks. Gives back how many went.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    pub async fn drop_records(&self, ids: Vec<RecordId>) -> Result<usize, JournalError> {
        Ok(self.ask(Op::Drop(ids), 0).await?.affected)
    }

    /// Drops a dead letter for good.
    ///
    /// # Errors
    ///
    /// [`JournalError::Invalid`] if there is no such dead letter.
    pub async fn drop_dead_letter(&self, id: u64) -> Result<(), JournalError> {
        self.ask(Op::DropDead(id), 0).await.map(drop)
    }

    /// Reserves the clock up to `reading`: after a restart [`clock_floor`](Self::clock_floor) is not below.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    pub async fn reserve_clock(&self, reading: Reading) -> Result<(), JournalError> {
        let reserved = self.ask(Op::ReserveClock(reading), 0).await?.reserved.unwrap_or(reading);
        let mut floor = self.floor.lock();
        *floor = reserved.max(*floor);
        Ok(())
    }

    /// Where a clock has to go on above: the greatest reading that was reserved, or stood in the journal when it was opened.
    #[must_use]
    pub fn clock_floor(&self) -> Reading {
        *self.floor.lock()
    }

    /// Remembers the members of the view.
    ///
    /// # Errors
    ///
    /// [`JournalError::Invalid`] if there are more than a cluster has.
    pub async fn remember_members(&self, members: Vec<Arc<str>>) -> Result<(), JournalError> {
        let is_long = |name: &Arc<str>| name.len() > TEXT_LEN_MAX;
        if members.len() > tables::MEMBERS_MAX || members.iter().any(is_long) {
            return Err(JournalError::invalid("the view has more members, or longer names, than a cluster may have"));
        }
        self.ask(Op::Remember(members.clone()), 0).await?;
        *self.members.lock() = Some(members);
        Ok(())
    }

    /// The members that were remembered last; nothing in a new journal.
    #[must_use]
    pub fn members(&self) -> Option<Vec<Arc<str>>> {
        self.members.lock().clone()
    }

    /// Forgets the marks that are too old. Marks that come do the same for some others, so that this is needed only where nothing
    /// is flushed any more.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    pub async fn forget_old_marks(&self) -> Result<(), JournalError> {
        self.ask(Op::Forget, 0).await.map(drop)
    }

    /// The greatest version whose mark was forgotten. Of a record up to it that comes from elsewhere nobody knows whether it was
    /// flushed.
    #[must_use]
    pub fn horizon(&self) -> Version {
        self.shared.index.lock().horizon
    }

    /// The records of a group that this node is to flush, the oldest first.
    #[must_use]
    pub fn oldest(&self, group: &str, len_max: usize) -> Vec<RecordId> {
        self.shared.index.lock().oldest(group, len_max)
    }

    /// The records of a group in these slots that this node is to flush, the oldest first.
    #[must_use]
    pub fn owned(&self, group: &str, slots: &SlotSet) -> Vec<RecordId> {
        self.shared.index.lock().owned(group, slots)
    }

    /// The version of a key's newest record, whatever it is held for. It is told from memory, as of the last commit.
    #[must_use]
    pub fn newest_version(&self, place: &Place) -> Option<Version> {
        self.shared.index.lock().newest(place)
    }

    /// What it has done and what is in it.
    #[must_use]
    pub fn stats(&self) -> JournalStats {
        let shared = &*self.shared;
        let index = shared.index.lock();
        JournalStats {
            commits: shared.commits.load(Relaxed),
            operations: shared.operations.load(Relaxed),
            records_written: shared.records.load(Relaxed),
            bytes_written: shared.bytes.load(Relaxed),
            waiting: shared.waiting.load(Relaxed),
            held: index.all(),
            bytes: index.bytes,
        }
    }

    /// What a group has in it.
    #[must_use]
    pub fn group_stats(&self, group: &str) -> GroupStats {
        self.shared.index.lock().group(group)
    }

    /// Why nothing is written any more, if that is so: the node has to say so and to be started anew.
    #[must_use]
    pub fn failure(&self) -> Option<JournalError> {
        self.shared.failure.lock().clone()
    }

    async fn ask(&self, op: Op, cost: u64) -> Result<Receipt, JournalError> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let full_until = *self.shared.full_until.lock();
        if cost > 0 && full_until.is_some_and(|until| self.shared.clock.now() < until) {
            return Err(JournalError::NoRoom { file: Arc::clone(&self.shared.name) });
        }
        let (done, result) = oneshot::channel();
        self.reserve(cost)?;
        let Err(error) = self.queue.try_send(Message::Job(Job { op, cost, done })) else {
            return result.await.unwrap_or(Err(JournalError::Closed));
        };
        self.shared.waiting.fetch_sub(1, Relaxed);
        self.shared.waiting_bytes.fetch_sub(cost, Relaxed);
        let mut index = self.shared.index.lock();
        index.reserved = index.reserved.saturating_sub(cost);
        Err(match error {
            mpsc::error::TrySendError::Full(_) => JournalError::Busy,
            mpsc::error::TrySendError::Closed(_) => JournalError::Closed,
        })
    }

    fn reserve(&self, cost: u64) -> Result<(), JournalError> {
        let mut index = self.shared.index.lock();
        if cost > 0 && index.bytes.saturating_add(index.reserved).saturating_add(cost) > self.bytes_max {
            return Err(JournalError::Full { bytes_max: self.bytes_max });
        }
        // One that is longer than the whole queue goes through alone.
        let waiting = self.shared.waiting_bytes.load(Relaxed);
        if waiting > 0 && waiting.saturating_add(cost) > QUEUE_BYTES_MAX {
            return Err(JournalError::Busy);
        }
        index.reserved += cost;
        self.shared.waiting.fetch_add(1, Relaxed);
        self.shared.waiting_bytes.fetch_add(cost, Relaxed);
        Ok(())
    }
}

/// Where a node's journal is.
#[must_use]
pub fn path_in(data_dir: impl Into<PathBuf>) -> PathBuf {
    data_dir.into().join(FILE_NAME)
}
