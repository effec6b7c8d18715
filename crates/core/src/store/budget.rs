//! How the shards share the store's capacity.
//!
//! Each holds the same share, until a value comes that would fill much of one: then the others give up a little each, so
//! that it displaces as many bytes everywhere instead of all of its own shard. When such a value has left, what its shard
//! holds beyond its share goes back.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Store, shard::Locked};

/// A value that takes more than this part of a shard's share is made room for in all shards.
const LARGE_PART: u64 = 8;

pub(super) struct Budget {
    capacity: AtomicU64,
    /// Given back, and not yet taken.
    pool: AtomicU64,
    /// Held while shares move between shards: the sum of all limits and the pool must not exceed the capacity.
    moving: Mutex<()>,
}

impl Budget {
    pub(super) fn new(capacity: u64) -> Self {
        Self { capacity: AtomicU64::new(capacity), pool: AtomicU64::new(0), moving: Mutex::new(()) }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    fn share(&self, shards: usize) -> u64 {
        self.capacity() / shards as u64
    }

    /// Takes or gives back what one of so many shards has too little or too much.
    #[inline]
    pub(super) fn settle(&self, shard: &mut Locked<'_>, shards: usize) {
        let share = self.share(shards);
        if shard.limit() != share {
            self.settle_unequal(shard, share);
        }
    }

    #[cold]
    fn settle_unequal(&self, shard: &mut Locked<'_>, share: u64) {
        let limit = shard.limit();
        if limit > share {
            let spare = (limit - share).min(limit.saturating_sub(shard.stats().bytes()));
            shard.set_limit(limit - spare);
            self.pool.fetch_add(spare, Ordering::Relaxed);
        } else {
            let missing = share - limit;
            let taking = |pool: u64| Some(pool - pool.min(missing));
            let pool = self.pool.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taking);
            shard.set_limit(limit + pool.unwrap_or_else(|pool| pool).min(missing));
        }
    }
}

impl Store {
    /// Sees to it that an entry of this cost finds room in the shard of this number without evicting much of it.
    #[inline]
    pub(super) fn prepare(&self, cost: u64, number: usize) {
        if cost > self.budget.share(self.shards.len()) / LARGE_PART {
            self.collect(cost, number);
        }
    }

    #[cold]
    fn collect(&self, cost: u64, number: usize) {
        let _moving = self.budget.moving.lock();
        let others = || (0..self.shards.len()).filter(|&other| other != number);
        let all: u64 = others().map(|other| self.lock(other).limit()).sum();
        let needed = cost - cost / self.shards.len() as u64;
        let mut collected = 0;
        for other in others() {
            let mut shard = self.lock(other);
            let part = u128::from(shard.limit()) * u128::from(needed) / u128::from(all.max(1));
            let limit = shard.limit();
            let part = (part as u64).min(limit);
            shard.set_limit(limit - part);
            collected += part;
            make_room(&mut shard, 0);
        }
        let mut shard = self.lock(number);
        let limit = shard.limit();
        shard.set_limit(limit + collected);
        make_room(&mut shard, cost);
    }

    /// Changes the bound on bytes. Evicts in bounded steps what no longer fits, and lets others in between.
    pub fn set_capacity(&self, capacity_bytes: u64) {
        let _moving = self.budget.moving.lock();
        self.budget.capacity.store(capacity_bytes, Ordering::Relaxed);
        for number in 0..self.shards.len() {
            let mut shard = self.lock(number);
            shard.set_limit(self.budget.share(self.shards.len()));
            make_room(&mut shard, 0);
        }
        self.budget.pool.store(0, Ordering::Relaxed);
    }
}

/// Evicts until so many bytes more fit, letting others in between.
pub(super) fn make_room(shard: &mut Locked<'_>, bytes: u64) {
    while !shard.make_room(bytes) {
        shard.bump();
    }
}
