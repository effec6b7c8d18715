//! [`Group`]: keys with one origin and one set of rules, spread over all nodes.
//!
//! The read path starts at [`Group::get`]: the node's own store, else a flight. The flight of a key that this node owns goes
//! to the origin (`load.rs`), that of another node's key to its owner (`ask.rs`). What other nodes ask comes in through
//! [`Group::serve`] (`serve.rs`), which never asks a third node but for one exception told there. Writes begin in
//! `write.rs`, and the key's owner carries them out (`carry_out.rs`); those that the origin gets later, in `behind.rs`. What marks
//! make void, tags and whole groups, is in `marks.rs`.

mod answer;
mod ask;
mod behind;
mod carry_out;
mod config;
mod demand;
#[cfg(all(test, feature = "testing"))]
#[expect(clippy::expect_used, reason = "a test that can't go on fails")]
mod explore;
mod handoff;
mod inherited;
mod leases;
mod limit;
mod load;
mod load_lock;
mod marks;
mod origin;
mod proven;
mod remembered;
mod serve;
mod settings;
mod unsettled;
mod write;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::time::Instant;

pub use answer::{Answer, Outcome};
pub use config::{Consistency, GroupConfig, HOT_LEASE_MAX};
pub use load_lock::LoadLock;
pub(crate) use load_lock::note as load_lock_note;
pub use marks::MARKS_AT_ONCE_MAX;
pub(crate) use write::Writes;
pub use write::{INVALIDATE_MANY_MAX, WriteOptions};

use self::{
    answer::Fetched,
    demand::Demand,
    handoff::Tombstones,
    inherited::Inherited,
    leases::Leases,
    load::{Led, Role},
    load_lock::LoadLocks,
    origin::Origin,
    remembered::Memory,
    settings::Settings,
    unsettled::Unsettled,
};
use crate::{
    Error, ErrorKind, Key, Loader, Moment, Node,
    behind::Records,
    claim::Phase,
    flight::{Boarding, Flights, Leader, WaitError, Waiter},
    placement::Slot,
    stats::{GroupStats, LoadErrorKind},
    store::{Hit, Meta, Store, StoreConfig, StoreStats, Tier},
    version::Reading,
    view::{Place, View, no_taker},
};

/// How long a get may take if its caller doesn't say, and the most it may say.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// The longest time that a caller may allow for a request.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// The most keys of one [`Group::get_many`].
pub const GET_MANY_MAX: usize = 1000;

/// The most bytes of values that clients are told in one answer. The keys that come after are told to be asked for in
/// another request: a thousand large values would take gigabytes.
pub const GET_MANY_VALUES_LEN_MAX: usize = 64 << 20;

/// How often a get may find that the key went elsewhere before it gives up: it takes half a second, in which nodes that can hear of each other
/// agree, and who let go of what is its own has it back (rule C5).
const ROUTE_TRIES_MAX: u32 = 9;

/// Keys with one origin and one set of rules. Cheap to clone.
#[derive(Clone)]
pub struct Group(Arc<Inner>);

struct Inner {
    name: Arc<str>,
    is_strong: bool,
    settings: Settings,
    node: Node,
    store: Store,
    origin: Option<Origin>,
    /// Where writes are taken down that the origin gets later.
    records: Option<Arc<dyn Records>>,
    /// Flights to the origin. Whoever misses the key here joins.
    loads: Flights<Landing>,
    /// Flights to other nodes. Callers join until the question has left (rule G2).
    asks: Flights<Landing>,
    stats: GroupStats,
    tombstones: Tombstones,
    /// How often other nodes ask for keys of this one, and what copies they may keep for it.
    demand: Demand,
    leases: Leases,
    /// Keys that a former owner is still writing.
    inherited: Inherited,
    unsettled: Unsettled,
    memory: Memory,
    load_locks: LoadLocks,
    /// Whether the marks of the members that there were at its start are known.
    knows_marks: AtomicBool,
}

/// How a flight ends.
#[derive(Clone)]
enum Landing {
    Fetched(Fetched),
    Failed(Error),
    /// The view changed before anything was asked: whoever waits looks for the owner again.
    Elsewhere,
}

/// A place in a flight.
struct Boarded {
    waiter: Waiter<Landing>,
    collapsed: bool,
}

/// How far a key of many has come without waiting.
enum Begun {
    Ended(Result<Answer, Error>),
    Boarded(Boarded),
}

impl Group {
    pub(crate) fn new(
        node: Node,
        name: Arc<str>,
        config: GroupConfig,
        loader: Option<Arc<dyn Loader>>,
        writes: Writes,
    ) -> Self {
        let (through, records) = match writes {
            Writes::None => (None, None),
            Writes::Through(store) => (Some(store), None),
            Writes::Behind(records) => (None, Some(records)),
        };
        let store = Store::new(StoreConfig {
            capacity_bytes: config.capacity_bytes,
            policy: config.policy,
            shards: None,
            hash_seed: node.chance(|chance| chance.u64(..)),
        });
        let origin = loader.map(|loader| Origin::new(loader, through, &config, node.view().members().len()));
        Self(Arc::new(Inner {
            name,
            is_strong: config.consistency == Consistency::Strong,
            settings: Settings::new(config),
            node,
            store,
            origin,
            records,
            loads: Flights::new(),
            asks: Flights::new(),
            stats: GroupStats::default(),
            tombstones: Tombstones::default(),
            demand: Demand::default(),
            leases: Leases::default(),
            inherited: Inherited::default(),
            unsettled: Unsettled::default(),
            memory: Memory::default(),
            load_locks: LoadLocks::default(),
            knows_marks: AtomicBool::new(false),
        }))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// Its present settings.
    #[must_use]
    pub fn config(&self) -> Arc<GroupConfig> {
        self.0.settings.to_arc()
    }

    /// Changes its settings. What is loaded or put from here on is kept by the new ones, and what is kept already as it was when
    /// it came.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if the settings can't be, or if they change one that stands as long as the group: `capacity_bytes`
    /// and `policy`, which its store was made by, and `hard_timeout` and `hot_lease`, which other nodes may be waiting out. All
    /// stay as they were then.
    pub fn set_config(&self, config: GroupConfig) -> Result<(), Error> {
        let Inner { settings, node, origin, .. } = &*self.0;
        settings.change(config)?;
        let Some(origin) = origin else { return Ok(()) };
        loop {
            let view = node.view();
            origin.fit(&settings.get(), view.members().len());
            // A view that came meanwhile may have been told of first.
            if node.peek_view().number() == view.number() {
                return Ok(());
            }
        }
    }

    /// The node it is on.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.0.node
    }

    /// Whether it has an origin.
    #[must_use]
    pub fn has_origin(&self) -> bool {
        self.0.origin.is_some()
    }

    /// Whether what is put or deleted is written to the origin.
    #[must_use]
    pub fn writes_through(&self) -> bool {
        self.0.origin.as_ref().is_some_and(Origin::takes_writes)
    }

    /// Whether what is put or deleted is taken down, and written to the origin later.
    #[must_use]
    pub fn writes_behind(&self) -> bool {
        self.0.records.is_some()
    }

    /// What it counts.
    #[must_use]
    pub fn stats(&self) -> &GroupStats {
        &self.0.stats
    }

    /// What its store holds and has given up.
    #[must_use]
    pub fn store_stats(&self) -> StoreStats {
        self.0.store.stats()
    }

    /// How many requests to the origin are under way.
    #[must_use]
    pub fn origin_in_flight(&self) -> usize {
        self.0.origin.as_ref().map_or(0, Origin::in_flight)
    }

    /// Gives back the bytes of expired entries, looking at `entries_max` of them at most; says how many went.
    pub fn sweep(&self, entries_max: usize) -> usize {
        self.0.store.sweep(self.now(), entries_max)
    }

    /// The answer, if this node's own store has it: nothing is awaited and nothing allocated.
    #[inline]
    #[must_use]
    pub fn get_now(&self, key: &[u8]) -> Option<Answer> {
        Some(self.counted(self.look(key)?))
    }

    /// The value of `key`, from wherever it is. Ends within `timeout`, [`TIMEOUT_MAX`] at most.
    ///
    /// # Errors
    ///
    /// [`Error`] says whether the key was malformed, the origin failed, the deadline passed, or nobody could be reached who
    /// may answer. That there is no value is not an error.
    pub async fn get(&self, key: impl AsRef<[u8]>, timeout: Duration) -> Result<Answer, Error> {
        let key = key.as_ref();
        match self.get_now(key) {
            Some(answer) => Ok(answer),
            None => self.fetch(key, timeout).await,
        }
    }

    /// What [`get`](Self::get) does for a key that [`get_now`](Self::get_now) has no answer for.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub async fn fetch(&self, key: &[u8], timeout: Duration) -> Result<Answer, Error> {
        Key::check(key)?;
        let deadline = Instant::now() + timeout.min(TIMEOUT_MAX);
        let answer = self.miss(key, deadline).await;
        self.counted_result(answer)
    }

    /// The values of several keys, each in its place. Keys that this node owns and has to load go to the origin in batches
    /// where its loader takes them, all others out at the same time.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if there are more than [`GET_MANY_MAX`]; else each key has its own result.
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        timeout: Duration,
    ) -> Result<Vec<Result<Answer, Error>>, Error> {
        if keys.len() > GET_MANY_MAX {
            let message = format!("{} keys in one request: {GET_MANY_MAX} is the most", keys.len());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let deadline = Instant::now() + timeout.min(TIMEOUT_MAX);
        // Every key's flight is under way before the first is waited for.
        let mut batch = Vec::new();
        let begun: Vec<Begun> = keys.iter().map(|key| self.begin(key.as_ref(), deadline, &mut batch)).collect();
        self.load_batch(batch);
        let mut answers = Vec::with_capacity(begun.len());
        for (begun, key) in begun.into_iter().zip(keys) {
            let key = key.as_ref();
            let answer = match begun {
                Begun::Ended(answer) => answer,
                Begun::Boarded(boarded) => match self.settle(key, boarded, deadline).await {
                    Ok(Some(answer)) => Ok(answer),
                    Ok(None) => self.miss(key, deadline).await,
                    Err(error) => Err(error),
                },
            };
            answers.push(self.counted_result(answer));
        }
        Ok(answers)
    }

    /// One key of many: answers it from the store, or boards its flight. Loads that are to be led go into `batch`.
    fn begin(&self, key: &[u8], deadline: Instant, batch: &mut Vec<Led>) -> Begun {
        if let Err(error) = Key::check(key) {
            return Begun::Ended(Err(error));
        }
        if let Some(answer) = self.look(key) {
            return Begun::Ended(Ok(answer));
        }
        let boarded = Key::copy_from(key).and_then(|key| {
            let slot = Slot::of(self.name(), key.as_bytes());
            let boarded = match self.owner_place(slot, key.as_bytes()) {
                Place::Mine if self.has_all(slot) => return Ok(Begun::Ended(Ok(self.nothing()))),
                Place::Mine => {
                    let (leader, boarded) = boarded(self.0.loads.board(&key, deadline))?;
                    batch.extend(leader.map(|leader| Led { leader, key: key.clone(), slot }));
                    boarded
                }
                Place::At(_) => self.board_ask(&key, slot, deadline)?,
                Place::Nobody => return Err(no_taker()),
            };
            Ok(Begun::Boarded(boarded))
        });
        boarded.unwrap_or_else(|error| Begun::Ended(Err(error)))
    }

    /// What the node's own store has to say, if that is enough. Nothing is awaited and nothing allocated.
    #[inline]
    fn look(&self, key: &[u8]) -> Option<Answer> {
        let store = &self.0.store;
        // Stays at the clock's start for an entry without an end, which is fresh at any time.
        let mut now = Moment::default();
        let hit = store.get_when(key, || {
            now = self.now();
            now
        })?;
        self.judge(key, hit, now)
    }

    /// What the store's `hit` of a key comes to. `now` may be left at the clock's start for an entry without an end.
    #[inline]
    fn judge(&self, key: &[u8], hit: Hit, now: Moment) -> Option<Answer> {
        let settings = &self.0.settings;
        match hit.meta().tier {
            Tier::Main if self.counts(key, &hit.meta()) && self.is_proven(hit.meta().slot) => {}
            // The owner has it dropped before it acknowledges a write.
            Tier::Hot if now < hit.meta().fresh_until => return Some(Answer::from_store(hit, now)),
            // A copy that was kept as the stand-in answers only for the owner that can't be reached.
            Tier::Main | Tier::Hot | Tier::StandIn => return None,
        }
        if now < hit.meta().fresh_until {
            if settings.refreshes_ahead() && self.is_due(&hit, now) {
                self.refresh_behind(key, &hit);
            }
            return Some(Answer::from_store(hit, now));
        }
        if now < hit.meta().fresh_until + settings.get().stale_while_revalidate {
            self.refresh_behind(key, &hit);
            return Some(Answer::from_store(hit, now));
        }
        None
    }

    /// Gets what the node's own store didn't have. What is held while it waits is memory that each caller takes.
    async fn miss(&self, key: &[u8], deadline: Instant) -> Result<Answer, Error> {
        for attempt in 0..ROUTE_TRIES_MAX {
            let Some(boarded) = self.board(key, deadline)? else { return Ok(self.nothing()) };
            if let Some(answer) = self.settle(key, boarded, deadline).await? {
                return Ok(answer);
            }
            self.pause_before_rerouting(attempt, deadline).await?;
        }
        Err(unsettled())
    }

    /// Boards the key's flight to wherever it belongs. `None`: there is nothing to be fetched.
    fn board(&self, key: &[u8], deadline: Instant) -> Result<Option<Boarded>, Error> {
        let key = Key::copy_from(key)?;
        let slot = Slot::of(self.name(), key.as_bytes());
        match self.owner_place(slot, key.as_bytes()) {
            Place::Mine if self.has_all(slot) => Ok(None),
            Place::Mine => self.board_load(&key, slot, Role::Owner, deadline).map(Some),
            Place::At(_) => self.board_ask(&key, slot, deadline).map(Some),
            Place::Nobody => Err(no_taker()),
        }
    }

    /// Waits for a flight, or is content with a stale value where the group allows it. `None`: the key went elsewhere.
    async fn settle(&self, key: &[u8], boarded: Boarded, deadline: Instant) -> Result<Option<Answer>, Error> {
        let Inner { stats, settings, .. } = &*self.0;
        let Boarded { mut waiter, collapsed } = boarded;
        let landing = if settings.get().soft_timeout.is_zero() {
            waiter.wait_until(deadline).await
        } else {
            // In a box, as every get would have to make room for it.
            match Box::pin(self.settle_softly(key, waiter, deadline)).await {
                Ok(landing) => landing,
                Err(stale) => return Ok(Some(stale)),
            }
        };
        if collapsed {
            stats.loads_deduped.add(1);
        }
        let error = match landing {
            Ok(Landing::Fetched(fetched)) => {
                return Ok(Some(Answer::from_flight(fetched, collapsed, || self.now())));
            }
            Ok(Landing::Elsewhere) => return Ok(None),
            Ok(Landing::Failed(error)) => error,
            Err(error) => wait_error(error),
        };
        // What overtook the key also took the stale value away, so that this can't be older than an acknowledged write.
        self.stale_instead(key).map(Some).ok_or(error)
    }

    /// Waits for a flight; answers with a stale value if there is one when `soft_timeout` has passed.
    async fn settle_softly(
        &self,
        key: &[u8],
        mut waiter: Waiter<Landing>,
        deadline: Instant,
    ) -> Result<Result<Landing, WaitError>, Answer> {
        let config = self.config();
        let soft = waiter.wait_until(deadline.min(Instant::now() + config.soft_timeout)).await;
        if !matches!(soft, Err(WaitError::TimedOut)) {
            return Ok(soft);
        }
        let Some(answer) = self.stale_instead(key) else { return Ok(waiter.wait_until(deadline).await) };
        // The load goes on for those who come later.
        let hard = Instant::now() + config.hard_timeout;
        tokio::spawn(async move { waiter.wait_until(hard).await.map(drop) });
        Err(answer)
    }

    /// What a group without an origin says of a key that nobody put.
    fn nothing(&self) -> Answer {
        Answer::nothing(self.0.node.next_version().reading())
    }

    #[inline]
    fn counted(&self, answer: Answer) -> Answer {
        let stats = &self.0.stats;
        match answer.outcome {
            Outcome::Hit(tier) => stats.hits(tier).add(1),
            Outcome::Stale { .. } => stats.stale_hits.add(1),
            Outcome::Miss { .. } => stats.misses.add(1),
        }
        answer
    }

    fn counted_result(&self, answer: Result<Answer, Error>) -> Result<Answer, Error> {
        match answer {
            Ok(answer) => Ok(self.counted(answer)),
            Err(error) => {
                self.0.stats.misses.add(1);
                Err(error)
            }
        }
    }

    /// A value past its ttl that may be served in the place of an error or a long wait.
    fn stale_instead(&self, key: &[u8]) -> Option<Answer> {
        let Inner { store, settings, .. } = &*self.0;
        let stale_if_error = settings.get().stale_if_error;
        if stale_if_error.is_zero() {
            return None;
        }
        let now = self.now();
        let hit = store.peek(key, now)?;
        let allowed = hit.meta().tier == Tier::Main
            && self.counts(key, &hit.meta())
            && self.is_proven(hit.meta().slot)
            && now < hit.meta().fresh_until + stale_if_error;
        allowed.then(|| Answer::from_store(hit, now))
    }

    /// Whether what the main tier holds of a key is this node's to answer with (rules C2 and C4).
    #[inline]
    fn counts(&self, key: &[u8], meta: &Meta) -> bool {
        // One that was sent away without knowing asks first (rule A1).
        if !self.0.node.contact().is_sure(|| self.now()) {
            return false;
        }
        match self.0.node.phase(meta.slot, key) {
            Phase::Acts | Phase::Lingers => true,
            // Nobody has said yet that it stopped, and may have written since.
            Phase::Reads => self.age_of(meta.load_start) < self.0.settings.get().hot_lease,
            Phase::Waits | Phase::Away => false,
        }
    }

    /// Whether there is nothing of a slot but what the store holds.
    fn has_all(&self, slot: Slot) -> bool {
        let node = &self.0.node;
        self.0.origin.is_none()
            && node.is_settled_at(slot)
            && node.contact().is_sure(|| self.now())
            && self.is_proven(slot)
    }

    fn age_of(&self, load_start: Reading) -> Duration {
        Duration::from_millis(self.0.node.clock().wall_ms().saturating_sub(load_start.wall_ms()))
    }

    /// Whether so much of the ttl has passed that the value should be loaded anew while it is fresh.
    fn is_due(&self, hit: &Hit, now: Moment) -> bool {
        if hit.meta().fresh_until == Moment::NEVER {
            return false;
        }
        let left = hit.meta().fresh_until.since(now);
        let age = self.age_of(hit.meta().load_start);
        age.as_secs_f64() >= self.0.settings.get().refresh_ahead * (age + left).as_secs_f64()
    }

    fn now(&self) -> Moment {
        self.0.node.clock().now()
    }

    /// Ends what the change of owners overtakes: flights of keys that went elsewhere or came here (rules W3 and W4).
    pub(crate) fn change_view(&self, old: &View, new: &View) {
        let Inner { name, loads, asks, origin, .. } = &*self.0;
        let moved = |key: &Key| {
            let slot = Slot::of(name, key.as_bytes());
            old.is_mine(slot, key.as_bytes()) != new.is_mine(slot, key.as_bytes())
        };
        loads.detach_all(moved);
        asks.detach_all(moved);
        if let Some(origin) = origin {
            origin.fit(&self.config(), new.members().len());
        }
    }

    fn count_failure(&self, error: &Error) {
        self.0.stats.load_errors.of(LoadErrorKind::of(error.kind())).add(1);
    }
}

fn wait_error(error: WaitError) -> Error {
    match error {
        WaitError::TimedOut => Error::timed_out("the value was fetched"),
        WaitError::LeaderLost => Error::origin("the load ended without a result: try again"),
        WaitError::Full => too_many_flights(),
    }
}

fn unsettled() -> Error {
    unreachable("the members kept changing while the owner was looked for: try again")
}

/// An error of kind [`ErrorKind::OwnerUnreachable`], worth a try a little later.
fn unreachable(message: &str) -> Error {
    Error::new(ErrorKind::OwnerUnreachable, message).with_retry_after(Duration::from_secs(1))
}

fn too_many_flights() -> Error {
    let message = "too many keys are being fetched at once: try again";
    Error::new(ErrorKind::Overloaded, message).with_retry_after(Duration::from_secs(1))
}

/// The two ways of boarding, for the flights of any table.
fn boarded(boarding: Boarding<Landing>) -> Result<(Option<Leader<Landing>>, Boarded), Error> {
    match boarding {
        Boarding::Full => Err(too_many_flights()),
        Boarding::Joined(waiter) => Ok((None, Boarded { waiter, collapsed: true })),
        Boarding::Leads(leader, waiter) => Ok((Some(leader), Boarded { waiter, collapsed: false })),
    }
}
