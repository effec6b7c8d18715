//! Look-ups of many keys at once.
//!
//! A look-up waits for memory most of its time: for the bucket, then for the entry. For a batch, the buckets of all keys
//! are asked for first, then the entries that those name, and only then is each key looked up: the waits overlap.

use super::{Entry, Hit, Store, hash::KeyHash};
use crate::Moment;

/// Keys whose look-ups overlap: more than the memory requests that a core has under way at once, and few enough to keep
/// their entries on the stack.
const BATCH_LEN: usize = 16;

/// What one key of a batch came to.
enum Found {
    Nothing,
    Entry(Entry),
    /// Its entry has to go, or readers need the lock: it is looked up alone.
    LeftOut,
}

impl Store {
    /// What is kept for each of `keys` beyond `now`, shown with the key's index. Counts as a use of each, as
    /// [`get`](Self::get) does, but takes a third to two thirds of its time: the less of the store lies in the processor's
    /// caches, the less. `show` is called in the order of the keys and may call the store.
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
                    Found::Entry(entry) => show(index, Some(Hit::new(entry))),
                    Found::LeftOut => show(index, self.get(key, now)),
                }
            }
        }
    }

    fn look_up(&self, keys: &[&[u8]], now: Moment, found: &mut [Found; BATCH_LEN]) {
        let mut hashes = [KeyHash::default(); BATCH_LEN];
        for (key, hash) in keys.iter().zip(&mut hashes) {
            *hash = self.hasher.hash(key);
            self.shard(*hash).prefetch_bucket(hash.locator());
        }
        let reading = self.readers.enter_all();
        for hash in &hashes[..keys.len()] {
            self.shard(*hash).seen_by(&reading).prefetch_entries(hash.locator());
        }
        for ((key, hash), found) in keys.iter().zip(hashes).zip(found) {
            *found = match self.shard(hash).seen_by(&reading).find(hash.locator(), key) {
                None => Found::Nothing,
                Some(entry) if self.reason_to_go(&entry, now).is_some() => Found::LeftOut,
                Some(entry) => Found::Entry(entry.clone_used()),
            };
        }
    }
}
