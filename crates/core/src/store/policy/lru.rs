//! [`Lru`]: the least recently used entry leaves. Exact within a shard.
//!
//! A used entry leaves its place in the one queue for the newest, so that reads need the shard's exclusive lock.

use super::{HEAT_MAX, Policy};
use crate::store::{
    entry::Entry,
    hash::Locator,
    index::Index,
    queue::{Chunks, Place, Queue},
};

pub(in crate::store) struct Lru {
    chunks: Chunks,
    queue: Queue,
}

impl Lru {
    pub(in crate::store) fn new() -> Self {
        Self { chunks: Chunks::default(), queue: Queue::EMPTY }
    }
}

impl Policy for Lru {
    fn admit(&mut self, locator: Locator, entry: &Entry, _: &Index, _: u64, _: bool) {
        self.chunks.push(&mut self.queue, locator, entry);
    }

    fn replace(&mut self, locator: Locator, old: &Entry, new: &Entry, index: &Index) {
        self.forget(old, index);
        self.chunks.push(&mut self.queue, locator, new);
    }

    fn used(&mut self, locator: Locator, entry: &Entry, index: &Index) {
        if !self.chunks.is_newest(&self.queue, Place::of(entry)) {
            self.chunks.leave(&mut self.queue, entry, index);
            self.chunks.push(&mut self.queue, locator, entry);
        }
    }

    fn forget(&mut self, entry: &Entry, index: &Index) {
        self.chunks.leave(&mut self.queue, entry, index);
    }

    fn evict(&mut self, index: &Index, _: u64, touched: &mut usize) -> Option<(Locator, Entry)> {
        let (locator, place) = self.chunks.oldest(&self.queue)?;
        let entry = index.find_by(locator, |entry| Place::of(entry) == place)?.clone();
        *touched += 1;
        self.forget(&entry, index);
        Some((locator, entry))
    }

    fn heat(&self, entry: &Entry) -> u8 {
        // By when it was used last, in quarters of what the queue holds; used entries leave holes, so that a queue's
        // chunks are more than its entries need.
        let (age, of) = self.chunks.age(entry);
        HEAT_MAX.saturating_sub((age * 4 / of.max(1)).min(usize::from(HEAT_MAX)) as u8)
    }
}
