//! The store: entries in memory, bounded in bytes.
//!
//! A [`Store`] maps keys to values with their [`Meta`]: slot, tier, version, when the load began, and until when the
//! value is fresh and kept. It is divided into shards, each with a lock of its own. It has no thread and no clock:
//! whoever calls hands in `now`, and calls [`Store::sweep`] from time to time, so that expired bytes come back without a
//! look-up.
//!
//! Its bound counts what an entry truly costs: key, value, the value's [overhead](crate::Value::overhead) and the store's
//! own bookkeeping.
//!
//! A look-up allocates nothing, hashes once, and hands out the value where it lies. Under the default policy it takes no
//! lock: readers wait neither for each other nor for writers.
//!
//! It does not load, does not know who owns a slot, and gives out no versions: it keeps what it is told to.
//!
//! # Examples
//!
//! ```
//! use larder_core::{
//!     Moment, Value, Version,
//!     placement::Slot,
//!     store::{Inserted, Meta, Store, StoreConfig, Tier},
//!     version::Reading,
//! };
//!
//! let store = Store::new(StoreConfig { capacity_bytes: 1 << 20, ..StoreConfig::default() });
//! let meta = Meta {
//!     slot: Slot::new(7).unwrap(),
//!     tier: Tier::Main,
//!     version: Version::ZERO,
//!     load_start: Reading::default(),
//!     fresh_until: Moment::from_nanos(1_000),
//!     keep_until: Moment::from_nanos(1_000),
//! };
//! assert_eq!(store.insert(b"user:42", Some(Value::from("Ada")), meta), Inserted::Stored);
//!
//! let hit = store.get(b"user:42", Moment::from_nanos(999)).unwrap();
//! assert_eq!(hit.bytes(), Some(&b"Ada"[..]));
//! assert!(store.get(b"user:42", Moment::from_nanos(1_000)).is_none());
//! ```

mod batch;
mod budget;
mod entry;
mod hash;
mod hottest;
mod index;
mod item;
mod marks;
mod policy;
mod prefetch;
mod queue;
mod readers;
mod shard;
mod stats;
mod sync;
mod table;
mod tag;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};

use budget::Budget;
pub(crate) use entry::Entry;
use hash::{KeyHash, KeyHasher};
pub use hottest::Hottest;
use index::Cursor;
pub use item::{Hit, Inserted, Judged, Meta, Tier};
pub use marks::Mark;
use marks::Marks;
use parking_lot::Mutex;
use readers::Readers;
pub use shard::TOUCHED_BOUND;
use shard::{BULKY_COST, Locked, Removed, Shard, TOUCHED_MAX};
use stats::Reason;
pub use stats::{Evictions, StoreStats, TierStats};
pub use tag::{TAG_COUNT, TAGS_MAX, Tag, Tags};

use crate::{Moment, Value, Version, placement::Slot, version::Reading};

/// Shards a core: enough that two cores seldom want the same one.
const SHARDS_PER_CORE: usize = 16;

/// The fewest bytes of a shard, unless the number of shards was given: below some thousands of entries a policy sees too
/// little to choose well.
const SHARD_BYTES_MIN: u64 = 1 << 20;

/// Copies of what other nodes own get one part of so many of the capacity. Few keys are worth one, and those are asked for so often
/// that there is no doubt.
pub const HOT_SHARE: u64 = 8;

/// Which entries leave when room is needed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Policy {
    /// The least recently used of the shard.
    Lru,
    /// An adaptive S3-FIFO: those read once leave soon, those read often stay. Mostly better, and its readers wait for
    /// nobody.
    #[default]
    S3Fifo,
}

/// How a [`Store`] is set up.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// The bound on keys, values and bookkeeping together, in bytes.
    pub capacity_bytes: u64,
    /// Which entries leave when room is needed.
    pub policy: Policy,
    /// How many shards; rounded up to a power of two. `None`: from the cores and the capacity.
    pub shards: Option<usize>,
    /// Hashing depends on it. Where others choose the keys, take a random number, so that they can't fill one shard.
    pub hash_seed: u64,
}

impl Default for StoreConfig {
    /// 256 MiB under the default policy.
    fn default() -> Self {
        Self { capacity_bytes: 256 << 20, policy: Policy::default(), shards: None, hash_seed: 0 }
    }
}

/// A sharded map of keys to values, bounded in bytes; see the [module](self).
pub struct Store {
    shards: Box<[Shard]>,
    readers: Readers<Removed>,
    hasher: KeyHasher,
    budget: Budget,
    marks: Marks,
    /// The policy moves entries when they are read, so that readers need a shard's lock.
    reads_alone: bool,
    swept: Mutex<Swept>,
    /// The most entries that one step of a walk looked at.
    walked_max: AtomicUsize,
}

/// Where the next sweep goes on.
#[derive(Clone, Copy, Default)]
struct Swept {
    shard: usize,
    cursor: Cursor,
}

/// What a step through a shard came to.
struct Step {
    touched: usize,
    removed: usize,
    /// Where to go on, if it isn't through.
    next: Option<Cursor>,
}

impl Store {
    /// An empty store.
    #[must_use]
    pub fn new(config: StoreConfig) -> Self {
        let StoreConfig { capacity_bytes, policy, shards, hash_seed } = config;
        let count = shards.unwrap_or_else(|| shard_count(capacity_bytes)).max(1).next_power_of_two();
        let hasher = KeyHasher::new(hash_seed);
        let shard = || Shard::new(policy, capacity_bytes / count as u64, hasher.clone());
        Self {
            shards: std::iter::repeat_with(shard).take(count).collect(),
            readers: Readers::default(),
            hasher,
            budget: Budget::new(capacity_bytes),
            marks: Marks::default(),
            reads_alone: policy == Policy::Lru,
            swept: Mutex::default(),
            walked_max: AtomicUsize::new(0),
        }
    }

    #[inline]
    fn number(&self, hash: KeyHash) -> usize {
        hash.shard(self.shards.len())
    }

    #[inline]
    fn shard(&self, hash: KeyHash) -> &Shard {
        &self.shards[self.number(hash)]
    }

    #[inline]
    fn lock(&self, number: usize) -> Locked<'_> {
        self.shards[number].lock(number, &self.readers)
    }

    #[inline]
    fn lock_for(&self, hash: KeyHash) -> Locked<'_> {
        self.lock(self.number(hash))
    }

    /// What is kept for `key` beyond `now`. Counts as a use; an entry that is past its `keep_until`, or void by a mark,
    /// is reclaimed.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &[u8], now: Moment) -> Option<Hit> {
        self.get_when(key, || now)
    }

    /// As [`get`](Self::get), for a caller that has to read a clock first: it is read only for an entry that has an end.
    /// `now` must not call the store.
    #[inline]
    #[must_use]
    pub fn get_when(&self, key: &[u8], now: impl FnOnce() -> Moment) -> Option<Hit> {
        let hash = self.hasher.hash(key);
        if self.reads_alone {
            return self.get_alone(hash, key, now());
        }
        let shard = self.shard(hash);
        shard.prefetch_bucket(hash.locator());
        let now = {
            let reading = self.readers.enter(self.number(hash));
            let entry = shard.seen_by(&reading).find(hash.locator(), key)?;
            let now = if entry.keep_until() == Moment::NEVER { Moment::default() } else { now() };
            if self.reason_to_go(&entry, now).is_none() {
                return Some(Hit::new(entry.clone_used()));
            }
            now
        };
        self.reclaim(hash, key, now);
        None
    }

    fn get_alone(&self, hash: KeyHash, key: &[u8], now: Moment) -> Option<Hit> {
        let mut shard = self.lock_for(hash);
        let entry = shard.seen().find(hash.locator(), key)?.clone();
        if let Some(reason) = self.reason_to_go(&entry, now) {
            shard.remove_entry(hash.locator(), &entry, Some(reason));
            return None;
        }
        shard.used(hash.locator(), &entry);
        Some(Hit::new(entry))
    }

    /// As [`get`](Self::get), but does not count as a use.
    #[must_use]
    pub fn peek(&self, key: &[u8], now: Moment) -> Option<Hit> {
        let hash = self.hasher.hash(key);
        {
            let reading = self.readers.enter(self.number(hash));
            let entry = self.shard(hash).seen_by(&reading).find(hash.locator(), key)?;
            if self.reason_to_go(&entry, now).is_none() {
                return Some(Hit::new(entry.clone()));
            }
        }
        self.reclaim(hash, key, now);
        None
    }

    /// Why the entry may not be handed out any more, if so.
    #[inline]
    fn reason_to_go(&self, entry: &Entry, now: Moment) -> Option<Reason> {
        if entry.keep_until() <= now {
            Some(Reason::Expired)
        } else if self.marks.void(entry) {
            Some(Reason::Invalidated)
        } else {
            None
        }
    }

    /// Removes the key's entry, unless another took its place since.
    #[cold]
    fn reclaim(&self, hash: KeyHash, key: &[u8], now: Moment) {
        let mut shard = self.lock_for(hash);
        let Some(entry) = shard.seen().find(hash.locator(), key).map(|entry| entry.clone()) else { return };
        if let Some(reason) = self.reason_to_go(&entry, now) {
            shard.remove_entry(hash.locator(), &entry, Some(reason));
        }
    }

    /// Stores a value, or that there is none (`None`), in place of whatever is there for the key. Once the
    /// [mark](Self::raise_mark) of one of the value's tags is raised, the entry is void if its load began at or before it. A copy of what another node owns
    /// ([`Tier::Hot`]) only where copies leave room: they take an eighth of the capacity at most.
    #[expect(clippy::needless_pass_by_value, reason = "a caller hands its value over, whatever the store makes of it")]
    pub fn insert(&self, key: &[u8], value: Option<Value>, meta: Meta) -> Inserted {
        match self.insert_judged(key, value.as_ref(), &meta, None, |_| true) {
            Judged::TooLarge => Inserted::TooLarge,
            Judged::Stored | Judged::Refused(_) => Inserted::Stored,
        }
    }

    /// Stores as [`insert`](Self::insert) does if `judge` agrees, who is shown what is kept for the key beyond `now`.
    /// Nothing can come in between: the judge is called under the lock of the key's shard, and must not call the store.
    #[expect(clippy::needless_pass_by_value, reason = "a caller hands its value over, whatever the store makes of it")]
    pub fn insert_if(
        &self,
        key: &[u8],
        value: Option<Value>,
        meta: Meta,
        now: Moment,
        judge: impl FnOnce(Option<&Hit>) -> bool,
    ) -> Judged {
        self.insert_judged(key, value.as_ref(), &meta, Some(now), judge)
    }

    /// Stores unless a version as late or later is kept for the key beyond `now`.
    pub fn insert_newer(&self, key: &[u8], value: Option<Value>, meta: Meta, now: Moment) -> Judged {
        self.insert_if(key, value, meta, now, |present| present.is_none_or(|hit| hit.meta().version < meta.version))
    }

    fn insert_judged(
        &self,
        key: &[u8],
        value: Option<&Value>,
        meta: &Meta,
        now: Option<Moment>,
        judge: impl FnOnce(Option<&Hit>) -> bool,
    ) -> Judged {
        let hash = self.hasher.hash(key);
        let locator = hash.locator();
        self.shard(hash).prefetch_bucket(locator);
        // The key's old entry, if there is one, is fetched while the new one is made.
        self.shard(hash).seen_by(&self.readers.enter(self.number(hash))).prefetch_entries(locator);
        // Allocated and copied before the lock is taken.
        let entry = Entry::new(key, value, meta).map(|entry| (entry.cost(), entry));
        let entry = entry.filter(|&(cost, _)| cost <= self.budget.capacity());
        let cost = entry.as_ref().map_or(0, |&(cost, _)| cost);
        self.prepare(cost, self.number(hash));
        let mut shard = self.lock_for(hash);
        if cost >= BULKY_COST {
            budget::make_room(&mut shard, cost);
        }
        if meta.tier == Tier::Hot && shard.stats().hot.bytes + cost > shard.limit() / HOT_SHARE {
            shard.remove(locator, key, None);
            return Judged::TooLarge;
        }
        if let Some(now) = now {
            let present = shard.seen().find(locator, key).filter(|entry| self.reason_to_go(entry, now).is_none());
            let present = present.map(|entry| Hit::new(entry.clone()));
            if !judge(present.as_ref()) {
                return Judged::Refused(present);
            }
        }
        let stored = match entry {
            Some((cost, entry)) => shard.insert(locator, entry, cost),
            None => {
                shard.remove(locator, key, None);
                false
            }
        };
        self.budget.settle(&mut shard, self.shards.len());
        drop(shard);
        if stored { Judged::Stored } else { Judged::TooLarge }
    }

    /// Removes what is there for the key, and returns it.
    pub fn remove(&self, key: &[u8]) -> Option<Hit> {
        let hash = self.hasher.hash(key);
        let entry = self.lock_for(hash).remove(hash.locator(), key, Some(Reason::Invalidated))?;
        Some(Hit::new(entry))
    }

    /// Removes what is there for the key if `judge` agrees, and says whether it did. The judge is called under the lock
    /// of the key's shard, and must not call the store.
    pub fn remove_if(&self, key: &[u8], judge: impl FnOnce(&Hit) -> bool) -> bool {
        let hash = self.hasher.hash(key);
        let mut shard = self.lock_for(hash);
        let agreed = shard.seen().find(hash.locator(), key).is_some_and(|entry| judge(&Hit::new(entry.clone())));
        agreed && shard.remove(hash.locator(), key, Some(Reason::Invalidated)).is_some()
    }

    /// Removes what is there for the key if its version is at most this one, and says whether it did.
    pub fn remove_up_to(&self, key: &[u8], version: Version) -> bool {
        self.remove_if(key, |hit| hit.meta().version <= version)
    }

    /// Makes all entries void that the mark is for and whose load began at or before `to`, those still to be inserted
    /// too. Takes one step; the bytes come back when a look-up or a [sweep](Self::sweep) meets them.
    ///
    /// # Errors
    ///
    /// The present reading of the mark, if it is as high already.
    pub fn raise_mark(&self, mark: Mark, to: Reading) -> Result<(), Reading> {
        self.marks.raise(mark, to)
    }

    /// To what the mark was raised; zero if it never was.
    #[must_use]
    pub fn mark(&self, mark: Mark) -> Reading {
        self.marks.get(mark)
    }

    /// Removes all entries of the slots that `gone` names, and returns how many. Works in bounded steps and lets others
    /// in between; what is inserted meanwhile may stay.
    pub fn drop_slots(&self, gone: impl Fn(Slot) -> bool) -> usize {
        self.retain(|entry| gone(entry.slot()).then_some(Reason::Moved))
    }

    /// Removes all entries, in steps as [`drop_slots`](Self::drop_slots) does.
    pub fn clear(&self) {
        self.retain(|_| Some(Reason::Invalidated));
    }

    fn retain(&self, reason: impl Fn(&Entry) -> Option<Reason>) -> usize {
        let mut all = 0;
        for number in 0..self.shards.len() {
            let mut next = Some(Cursor::default());
            while let Some(from) = next {
                let step = self.retain_step(number, from, TOUCHED_MAX, &reason);
                all += step.removed;
                next = step.next;
            }
        }
        all
    }

    /// Looks at some entries of a shard and removes those for which there is a reason. It looks without the lock, and takes
    /// it for a few entries at a time.
    fn retain_step(
        &self,
        number: usize,
        from: Cursor,
        touched_max: usize,
        reason: impl Fn(&Entry) -> Option<Reason>,
    ) -> Step {
        let mut gone = Vec::new();
        let (touched, next) = {
            let reading = self.readers.enter(number);
            self.shards[number].seen_by(&reading).walk(from, touched_max.min(TOUCHED_MAX), |entry| {
                if let Some(reason) = reason(&entry) {
                    gone.push((entry.clone(), reason));
                }
            })
        };
        self.count_walked(touched);
        let mut gone = &gone[..];
        let mut all_removed = 0;
        while !gone.is_empty() {
            let mut shard = self.lock(number);
            let (come_to, removed) = shard.remove_some(gone);
            gone = &gone[come_to..];
            all_removed += removed;
            self.budget.settle(&mut shard, self.shards.len());
            // Whoever waits comes first, however fast the next few follow.
            shard.unlock_fair();
        }
        self.readers.free_all();
        Step { touched, removed: all_removed, next }
    }

    fn count_walked(&self, touched: usize) {
        self.walked_max.fetch_max(touched, Ordering::Relaxed);
    }

    /// Looks at up to about `entries_max` entries, at least some hundreds, going on where the last call stopped, and
    /// removes those that are past their `keep_until` or void by a mark. Returns how many it removed. Others get in
    /// between; of two sweeps at once the second waits.
    pub fn sweep(&self, now: Moment, entries_max: usize) -> usize {
        let mut swept = self.swept.lock();
        let mut all = 0;
        let mut left = entries_max;
        // Back to where it began, if that isn't a shard's beginning.
        let ends_max = self.shards.len() + usize::from(swept.cursor != Cursor::default());
        let mut ends = 0;
        while left > 0 && ends < ends_max {
            let Swept { shard, cursor } = *swept;
            let step = self.retain_step(shard, cursor, left, |entry| self.reason_to_go(entry, now));
            all += step.removed;
            left = left.saturating_sub(step.touched.max(1));
            *swept = match step.next {
                Some(cursor) => Swept { shard, cursor },
                None => {
                    ends += 1;
                    Swept { shard: (shard + 1) % self.shards.len(), cursor: Cursor::default() }
                }
            };
        }
        all
    }

    /// What the store holds and what left it.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let touched_max = self.walked_max.load(Ordering::Relaxed) as u64;
        let mut sum = StoreStats { capacity_bytes: self.budget.capacity(), touched_max, ..StoreStats::default() };
        for number in 0..self.shards.len() {
            sum += self.lock(number).stats();
        }
        sum
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("shards", &self.shards.len()).field("stats", &self.stats()).finish()
    }
}

fn shard_count(capacity_bytes: u64) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let room = usize::try_from(capacity_bytes / SHARD_BYTES_MIN).unwrap_or(usize::MAX);
    // Rounded down, so that no shard is smaller than the least.
    let fit = if room == 0 { 1 } else { 1 << room.ilog2() };
    fit.min((cores * SHARDS_PER_CORE).next_power_of_two())
}
