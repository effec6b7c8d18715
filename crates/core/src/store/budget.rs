//! How the shards share the store's capacity.
//!
//! Each holds the same share, until a value comes that would fill much of one: then the others give up a little each, so
//! that it displaces as many bytes everywhere instead of all of its own shard. When such a value has left, what its shard
//! holds beyond its share goes back.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use super::{Padded, shard::Shard};

/// A value that takes more than this part of a shard's share is made room for in all shards.
const LARGE_PART: u64 = 8;

pub(super) struct Budget {
    capacity: AtomicU64,
    /// Given back, and not yet taken.
    pool: AtomicU64,
    /// Held while shares move between shards: the sum of all limits and the pool must not exceed the capacity.
    moving: Mutex<()>,
}

type Shards = [Padded<RwLock<Shard>>];

impl Budget {
    pub(super) fn new(capacity: u64) -> Self {
        Self { capacity: AtomicU64::new(capacity), pool: AtomicU64::new(0), moving: Mutex::new(()) }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    fn share(&self, shards: &Shards) -> u64 {
        self.capacity() / shards.len() as u64
    }

    /// Takes or gives back what the shard has too little or too much.
    #[inline]
    pub(super) fn settle(&self, shard: &mut Shard, shards: &Shards) {
        let share = self.share(shards);
        if shard.limit != share {
            self.settle_unequal(shard, share);
        }
    }

    #[cold]
    fn settle_unequal(&self, shard: &mut Shard, share: u64) {
        if shard.limit > share {
            let spare = (shard.limit - share).min(shard.limit.saturating_sub(shard.stats.bytes()));
            shard.limit -= spare;
            self.pool.fetch_add(spare, Ordering::Relaxed);
        } else {
            let missing = share - shard.limit;
            let taking = |pool: u64| Some(pool - pool.min(missing));
            let pool = self.pool.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taking);
            shard.limit += pool.unwrap_or_else(|pool| pool).min(missing);
        }
    }

    /// Sees to it that an entry of this cost finds room in the shard of this number without evicting much of it.
    #[inline]
    pub(super) fn prepare(&self, cost: u64, number: usize, shards: &Shards) {
        if cost > self.share(shards) / LARGE_PART {
            self.collect(cost, number, shards);
        }
    }

    #[cold]
    fn collect(&self, cost: u64, number: usize, shards: &Shards) {
        let _moving = self.moving.lock();
        let others = || shards.iter().enumerate().filter(|&(other, _)| other != number).map(|(_, shard)| &shard.0);
        let all: u64 = others().map(|shard| shard.read().limit).sum();
        let needed = cost - cost / shards.len() as u64;
        let mut collected = 0;
        for shard in others() {
            let mut shard = shard.write();
            let part = u128::from(shard.limit) * u128::from(needed) / u128::from(all.max(1));
            let part = (part as u64).min(shard.limit);
            shard.limit -= part;
            collected += part;
            shrink(&mut shard);
        }
        let mut shard = shards[number].0.write();
        shard.limit += collected;
        while !shard.make_room(cost) {
            RwLockWriteGuard::bump(&mut shard);
        }
    }

    /// Changes the capacity.
    pub(super) fn resize(&self, capacity: u64, shards: &Shards) {
        let _moving = self.moving.lock();
        self.capacity.store(capacity, Ordering::Relaxed);
        for shard in shards {
            let mut shard = shard.0.write();
            shard.limit = self.share(shards);
            shrink(&mut shard);
        }
        self.pool.store(0, Ordering::Relaxed);
    }
}

/// Evicts down to the limit, letting others in between.
fn shrink(shard: &mut RwLockWriteGuard<'_, Shard>) {
    while !shard.make_room(0) {
        RwLockWriteGuard::bump(shard);
    }
}
