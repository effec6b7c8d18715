//! Look-ups of many keys at once.
//!
//! A look-up waits for memory most of its time: for the bucket, then for the entry. For a batch, the buckets of all keys
//! are asked for first, then the entries that those name, and only then is each key looked up: the waits overlap.

use parking_lot::{RwLock, RwLockReadGuard};

use super::{Hit, Padded, Store, hash::KeyHash, shard::Shard};
use crate::Moment;

/// Keys whose look-ups overlap: more than the memory requests that a core has under way at once, and few enough to keep
/// their hits on the stack.
const BATCH_LEN: usize = 16;

impl Store {
    /// What is kept for each of `keys` beyond `now`, shown with the key's index. Counts as a use of each, as
    /// [`get`](Self::get) does, but takes a half of its time or less. `show` is called in the order of the keys and may
    /// call the store.
    pub fn get_many(&self, keys: &[&[u8]], now: Moment, mut show: impl FnMut(usize, Option<Hit>)) {
        for (batch, keys) in keys.chunks(BATCH_LEN).enumerate() {
            if self.reads_alone || keys.len() == 1 {
                for (at, key) in keys.iter().enumerate() {
                    show(batch * BATCH_LEN + at, self.get(key, now));
                }
                continue;
            }
            let mut hits = [const { None }; BATCH_LEN];
            self.look_up(keys, now, &mut hits);
            for (at, hit) in hits.iter_mut().take(keys.len()).enumerate() {
                show(batch * BATCH_LEN + at, hit.take());
            }
        }
    }

    fn look_up(&self, keys: &[&[u8]], now: Moment, hits: &mut [Option<Hit>; BATCH_LEN]) {
        let mut hashes = [KeyHash::default(); BATCH_LEN];
        let mut order = [0u8; BATCH_LEN];
        let (hashes, order) = (&mut hashes[..keys.len()], &mut order[..keys.len()]);
        for (at, key) in keys.iter().enumerate() {
            hashes[at] = self.hasher.hash(key);
            order[at] = at as u8;
        }
        // All locks are taken in the order of the shards: readers hold several, and whoever waits behind a waiting
        // writer could else wait for itself.
        order.sort_unstable_by_key(|&at| hashes[usize::from(at)].shard(self.shards.len()));
        let mut guards: [Option<RwLockReadGuard<'_, Shard>>; BATCH_LEN] = [const { None }; BATCH_LEN];
        // Of each key, in `order`, the guard of its shard.
        let mut guard_of = [0usize; BATCH_LEN];
        let mut last = None;
        let mut guard = 0;
        for (turn, &at) in order.iter().enumerate() {
            let number = hashes[usize::from(at)].shard(self.shards.len());
            if last != Some(number) {
                last = Some(number);
                guard = turn;
                guards[guard] = Some(read(&self.shards[number]));
            }
            guard_of[turn] = guard;
            if let Some(shard) = &guards[guard] {
                shard.index().prefetch_bucket(hashes[usize::from(at)].locator());
            }
        }
        for (turn, &at) in order.iter().enumerate() {
            if let Some(shard) = &guards[guard_of[turn]] {
                shard.index().prefetch_entries(hashes[usize::from(at)].locator());
            }
        }
        let mut gone = 0u16;
        for (turn, &at) in order.iter().enumerate() {
            let Some(shard) = &guards[guard_of[turn]] else { continue };
            let at = usize::from(at);
            let Some(entry) = shard.index().find(hashes[at].locator(), keys[at]) else { continue };
            match self.reason_to_go(entry, now) {
                None => hits[at] = Some(self.read(entry)),
                Some(_) => gone |= 1 << at,
            }
        }
        drop(guards);
        for at in (0..keys.len()).filter(|at| gone & 1 << at != 0) {
            self.reclaim(hashes[at], keys[at], now);
        }
    }
}

fn read(shard: &Padded<RwLock<Shard>>) -> RwLockReadGuard<'_, Shard> {
    shard.0.read()
}
