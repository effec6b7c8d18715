//! Look-ups of many keys at once.
//!
//! A look-up waits for memory most of its time: for the bucket, then for the entry. For a batch, the buckets of all keys
//! are asked for first, then the entries that those name, and only then is each key looked up: the waits overlap.

use super::{Entry, Hit, Store, hash::KeyHash};
use crate::Moment;

/// Keys whose look-ups overlap: more than the memory requests that a core has under way at once, and few enough to keep
/// their locks and entries on the stack.
const BATCH_LEN: usize = 16;

/// What one key of a batch came to.
enum Found {
    Nothing,
    Entry(Entry),
    /// Its shard was being written to, or its entry has to go: it is looked up alone.
    LeftOut,
}

impl Store {
    /// What is kept for each of `keys` beyond `now`, shown with the key's index. Counts as a use of each, as
    /// [`get`](Self::get) does, but takes about half of its time. `show` is called in the order of the keys and may call
    /// the store.
    pub fn get_many(&self, keys: &[&[u8]], now: Moment, mut show: impl FnMut(usize, Option<Hit>)) {
        for (batch, keys) in keys.chunks(BATCH_LEN).enumerate() {
            let mut found = [const { Found::LeftOut }; BATCH_LEN];
            if !self.reads_alone && keys.len() > 1 {
                self.look_up(keys, now, &mut found);
            }
            for (at, (key, found)) in keys.iter().zip(found).enumerate() {
                let index = batch * BATCH_LEN + at;
                match found {
                    Found::Nothing => show(index, None),
                    Found::Entry(entry) => show(index, Some(entry.into_hit())),
                    Found::LeftOut => show(index, self.get(key, now)),
                }
            }
        }
    }

    fn look_up(&self, keys: &[&[u8]], now: Moment, found: &mut [Found; BATCH_LEN]) {
        let mut hashes = [KeyHash::default(); BATCH_LEN];
        let mut shards = [const { None }; BATCH_LEN];
        for (at, key) in keys.iter().enumerate() {
            hashes[at] = self.hasher.hash(key);
            // Who holds one lock must not wait for another, as others do it in another order.
            shards[at] = self.shard(hashes[at]).try_read_recursive();
            if let Some(shard) = &shards[at] {
                shard.index().prefetch_bucket(hashes[at].locator());
            }
        }
        for (hash, shard) in hashes.iter().zip(&shards) {
            if let Some(shard) = shard {
                shard.index().prefetch_entries(hash.locator());
            }
        }
        for (at, key) in keys.iter().enumerate() {
            let Some(shard) = &shards[at] else { continue };
            found[at] = match shard.index().find(hashes[at].locator(), key) {
                None => Found::Nothing,
                Some(entry) if self.reason_to_go(entry, now).is_some() => Found::LeftOut,
                Some(entry) => {
                    self.note_read(entry);
                    Found::Entry(entry.clone())
                }
            };
        }
    }
}
