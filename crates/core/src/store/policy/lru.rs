//! [`Lru`]: the least recently used entry leaves. Exact within a shard.
//!
//! A used entry leaves its place in the one queue for the newest, so that reads need the shard's exclusive lock.

use super::Policy;
use crate::store::{
    entry::{Entry, HEAT_MAX, Held},
    hash::Locator,
    index::Seen,
    queue::{Chunks, Place, Queue},
};

pub(in crate::store) struct Lru {
    chunks: Chunks,
    queue: Queue,
}

impl Lru {
    pub(super) fn new() -> Self {
        Self { chunks: Chunks::default(), queue: Queue::EMPTY }
    }
}

impl Policy for Lru {
    fn admit(&mut self, locator: Locator, entry: &Entry, _: Seen<'_>, _: u64, _: bool) {
        self.chunks.push(&mut self.queue, locator, entry);
    }

    fn replace(&mut self, locator: Locator, old: &Entry, new: &Entry, seen: Seen<'_>) -> usize {
        let told = self.forget(old, seen);
        self.chunks.push(&mut self.queue, locator, new);
        told
    }

    fn used(&mut self, locator: Locator, entry: &Entry, seen: Seen<'_>) -> usize {
        if self.chunks.is_newest(&self.queue, Place::of(entry)) {
            return 0;
        }
        let told = self.chunks.leave(&mut self.queue, entry, seen);
        self.chunks.push(&mut self.queue, locator, entry);
        told
    }

    fn forget(&mut self, entry: &Entry, seen: Seen<'_>) -> usize {
        self.chunks.leave(&mut self.queue, entry, seen)
    }

    fn evict<'a>(&mut self, seen: Seen<'a>, _: u64, touched: &mut usize) -> Option<(Locator, Held<'a>)> {
        let (locator, place) = self.chunks.oldest(&self.queue)?;
        let entry = seen.find_by(locator, |entry| Place::of(entry) == place)?;
        *touched += 1 + self.forget(&entry, seen);
        Some((locator, entry))
    }

    fn heat(&self, entry: &Entry) -> u32 {
        // By when it was used last, in quarters of what the queue holds; used entries leave holes, so that a queue's
        // chunks are more than its entries need.
        let (age, of) = self.chunks.age(entry);
        HEAT_MAX.saturating_sub((age * 4 / of.max(1)) as u32)
    }
}
