//! The store: entries in memory, bounded in bytes.
//!
//! A [`Store`] maps keys to values with their [`Meta`]: slot, tier, version, when the load began, and until when the
//! value is fresh and kept. It is divided into shards, each behind a lock of its own. It has no thread and no clock:
//! whoever calls hands in `now`, and calls [`Store::sweep`] from time to time, so that expired bytes come back without a
//! look-up.
//!
//! Its bound counts what an entry truly costs: key, value, the value's [overhead](crate::Value::overhead) and the store's
//! own bookkeeping.
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
//! assert_eq!(hit.value.as_deref(), Some(&b"Ada"[..]));
//! assert!(store.get(b"user:42", Moment::from_nanos(1_000)).is_none());
//! ```

mod item;
mod shard;
mod stats;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;
pub use item::{Hit, Inserted, Judged, Meta, Tier};
use parking_lot::Mutex;
use shard::Shard;
use stats::Reason;
pub use stats::{Evictions, StoreStats, TierStats};

use crate::{Moment, Value, placement::Slot};

/// The most entries that one holding of a shard's lock looks at when entries are dropped or swept: some tens of
/// microseconds, so that nobody waits noticeably longer for the lock.
const TOUCHED_MAX: usize = 256;

/// Shards a core: enough that two cores seldom want the same one.
const SHARDS_PER_CORE: usize = 8;

/// The fewest bytes of a shard, unless the number of shards was given: many times the largest value of most groups, as
/// a value must fit into its shard.
const SHARD_BYTES_MIN: u64 = 16 << 20;

/// Which entries leave when room is needed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Policy {
    /// The least recently used of the shard.
    Lru,
    /// For now the same as [`Lru`](Self::Lru).
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
    shards: Box<[Mutex<Shard>]>,
    hasher: FixedState,
    swept: Mutex<usize>,
}

impl Store {
    /// An empty store.
    #[must_use]
    pub fn new(config: StoreConfig) -> Self {
        let StoreConfig { capacity_bytes, policy: _, shards, hash_seed } = config;
        let count = shards.unwrap_or_else(|| shard_count(capacity_bytes)).max(1).next_power_of_two();
        let each = capacity_bytes / count as u64;
        let shards = (0..count).map(|_| Mutex::new(Shard::new(each))).collect();
        Self { shards, hasher: FixedState::with_seed(hash_seed), swept: Mutex::new(0) }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        hasher.finish()
    }

    /// The shard of a hash. A shard's table uses the highest and the lowest bits, so that this takes those between.
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 32) as usize & (self.shards.len() - 1)]
    }

    /// What is kept for `key` beyond `now`. Counts as a use; an entry that is past its `keep_until` is reclaimed.
    #[must_use]
    pub fn get(&self, key: &[u8], now: Moment) -> Option<Hit> {
        let hash = self.hash(key);
        self.shard(hash).lock().get(hash, key, now)
    }

    /// As [`get`](Self::get), but does not count as a use.
    #[must_use]
    pub fn peek(&self, key: &[u8], now: Moment) -> Option<Hit> {
        let hash = self.hash(key);
        self.shard(hash).lock().peek(hash, key, now)
    }

    /// Stores a value, or that there is none (`None`), in place of whatever is there for the key.
    pub fn insert(&self, key: &[u8], value: Option<Value>, meta: Meta) -> Inserted {
        let hash = self.hash(key);
        if self.shard(hash).lock().insert(hash, key, value, meta) { Inserted::Stored } else { Inserted::TooLarge }
    }

    /// Stores as [`insert`](Self::insert) does if `judge` agrees, who is shown what is kept for the key beyond `now`.
    /// Nothing can come in between: the judge is called under the lock of the key's shard, and must not call the store.
    pub fn insert_if(
        &self,
        key: &[u8],
        value: Option<Value>,
        meta: Meta,
        now: Moment,
        judge: impl FnOnce(Option<&Hit>) -> bool,
    ) -> Judged {
        let hash = self.hash(key);
        let mut shard = self.shard(hash).lock();
        let present = shard.peek(hash, key, now);
        if !judge(present.as_ref()) {
            return Judged::Refused(present);
        }
        if shard.insert(hash, key, value, meta) { Judged::Stored } else { Judged::TooLarge }
    }

    /// Removes what is there for the key, and returns it.
    pub fn remove(&self, key: &[u8]) -> Option<Hit> {
        let hash = self.hash(key);
        self.shard(hash).lock().remove_if(hash, key, |_| true)
    }

    /// Removes what is there for the key if `judge` agrees, and says whether it did. The judge is called under the lock
    /// of the key's shard, and must not call the store.
    pub fn remove_if(&self, key: &[u8], judge: impl FnOnce(&Hit) -> bool) -> bool {
        let hash = self.hash(key);
        self.shard(hash).lock().remove_if(hash, key, judge).is_some()
    }

    /// Removes all entries of the slots that `gone` names, and returns how many. Works in bounded steps and lets others
    /// in between; what is inserted meanwhile may stay.
    pub fn drop_slots(&self, gone: impl Fn(Slot) -> bool) -> usize {
        self.retain(Reason::Moved, |meta| gone(meta.slot))
    }

    /// Removes all entries, in steps as [`drop_slots`](Self::drop_slots) does.
    pub fn clear(&self) {
        self.retain(Reason::Invalidated, |_| true);
    }

    fn retain(&self, reason: Reason, gone: impl Fn(&Meta) -> bool) -> usize {
        let mut removed = 0;
        for shard in &self.shards {
            let mut next = Some(0);
            while let Some(from) = next {
                let step = shard.lock().retain(from, TOUCHED_MAX, reason, &gone);
                removed += step.0;
                next = step.1;
            }
        }
        removed
    }

    /// Looks at up to `entries_max` entries, going on where the last call stopped, and removes those past their
    /// `keep_until`. Returns how many it removed.
    pub fn sweep(&self, now: Moment, entries_max: usize) -> usize {
        let mut swept = self.swept.lock();
        let mut removed = 0;
        let mut left = entries_max;
        let mut ends = 0;
        while left > 0 && ends < self.shards.len() {
            let step = left.min(TOUCHED_MAX);
            let (gone, end) = self.shards[*swept].lock().sweep(now, step);
            removed += gone;
            left -= step;
            if end {
                ends += 1;
                *swept = (*swept + 1) % self.shards.len();
            }
        }
        removed
    }

    /// What the store holds and what left it.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let mut sum = StoreStats::default();
        for shard in &self.shards {
            sum += *shard.lock().stats();
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
