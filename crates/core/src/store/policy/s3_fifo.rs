//! [`S3Fifo`]: an adaptive S3-FIFO, the default.
//!
//! S3-FIFO (Yang and others, "FIFO queues are all you need for cache eviction", SOSP 2023) keeps newcomers in a small
//! queue, so that those read only once leave soon and push nothing out of the main queue, which gives whoever was read
//! another round. A hit raises two bits of the entry and moves nothing, so that readers share the shard's lock.
//!
//! As published it loses to LRU where recency rules, and finds nothing at all in a loop that is longer than the small
//! queue. What is different here:
//!
//! - The small queue's share adapts, as ARC's does (Megiddo and Modha, "ARC: a self-tuning, low overhead replacement
//!   cache", FAST 2003): whoever comes back soon after it left the small queue should have stayed longer, so that queue
//!   grows; whoever comes back after it left the main queue should have, so the small one shrinks. For that, ghosts
//!   remember which queue an entry left.
//! - While the shard isn't full, the small queue's overflow goes to the main queue and not out.
//! - An entry has to be read twice in the small queue to be promoted, but the queue is smaller.
//! - Ghosts remember how often an entry came back; it then starts as if read so often.
//! - Shares are of bytes, so that a large value takes its turn with the newcomers of its weight.

use super::{
    LOOKED_AT_MAX, Policy,
    ghosts::{Ghost, Ghosts, Left},
};
use crate::store::{
    entry::{Entry, HEAT_MAX, Held},
    hash::Locator,
    index::Seen,
    queue::{Chunks, Place, Queue},
};

/// Shares are counted in so many parts of the shard.
const WHOLE: u64 = 1 << 16;

/// The small queue's share at first, at least and at most.
const SMALL_FIRST: u64 = WHOLE / 20;
const SMALL_MIN: u64 = WHOLE / 50;
const SMALL_MAX: u64 = WHOLE * 9 / 10;

/// By how many entries' shares a ghost of the small queue makes it grow, and one of the main queue shrink, in percent.
/// If both moved it as far, it would stay too large: ghosts of the small queue come back for the main queue's sake, too.
const GROWN_BY: u64 = 100;
const SHRUNK_BY: u64 = 150;

/// How many departures a ghost outlasts, in percent of the entries. Who comes back later than that to the small queue
/// would not have been met in any share of it; with longer windows loops and scans make it grow for nothing.
const SMALL_WINDOW: usize = 70;
const MAIN_WINDOW: usize = 100;

/// Hits in the small queue after which an entry is promoted.
const PROMOTED_HEAT: u32 = 2;

const RETURNS_SHIFT: u32 = Place::BITS;
const RETURNS_MAX: u32 = 3;
const MAIN: u32 = 1 << (RETURNS_SHIFT + 2);

pub(in crate::store) struct S3Fifo {
    chunks: Chunks,
    small: Queue,
    main: Queue,
    small_bytes: u64,
    main_bytes: u64,
    items: usize,
    /// The small queue's share.
    share: u64,
    ghosts: Ghosts,
}

fn returns(entry: &Entry) -> u32 {
    entry.place() >> RETURNS_SHIFT & RETURNS_MAX
}

fn in_main(entry: &Entry) -> bool {
    entry.place() & MAIN != 0
}

impl S3Fifo {
    pub(super) fn new() -> Self {
        Self {
            chunks: Chunks::default(),
            small: Queue::EMPTY,
            main: Queue::EMPTY,
            small_bytes: 0,
            main_bytes: 0,
            items: 0,
            share: SMALL_FIRST,
            ghosts: Ghosts::default(),
        }
    }

    const fn small_target(&self, limit: u64) -> u64 {
        // Shares of limits beyond 2^48 don't overflow.
        (limit >> 16) * self.share + (((limit & 0xffff) * self.share) >> 16)
    }

    fn adapt(&mut self, left: Left) {
        let step = |percent: u64| (percent * WHOLE / 100 / self.items.max(1) as u64).max(1);
        self.share = match left {
            Left::Small => (self.share + step(GROWN_BY)).min(SMALL_MAX),
            Left::Main => self.share.saturating_sub(step(SHRUNK_BY)).max(SMALL_MIN),
        };
    }

    fn push_small(&mut self, locator: Locator, entry: &Entry) {
        entry.set_place(0);
        self.chunks.push(&mut self.small, locator, entry);
        self.small_bytes += entry.cost();
    }

    fn push_main(&mut self, locator: Locator, entry: &Entry, heat: u32) {
        entry.set_place(MAIN | returns(entry) << RETURNS_SHIFT);
        entry.set_heat(heat);
        self.chunks.push(&mut self.main, locator, entry);
        self.main_bytes += entry.cost();
    }

    /// The small queue's oldest goes to the main queue. To leave a queue's oldest end tells nobody a new place.
    fn promote(&mut self, locator: Locator, entry: &Entry, seen: Seen<'_>, heat: u32) {
        self.chunks.leave(&mut self.small, entry, seen);
        self.small_bytes -= entry.cost();
        self.push_main(locator, entry, heat);
    }

    fn oldest<'a>(&mut self, main: bool, seen: Seen<'a>) -> Option<(Locator, Held<'a>)> {
        let queue = if main { &self.main } else { &self.small };
        let (locator, place) = self.chunks.oldest(queue)?;
        Some((locator, seen.find_by(locator, |entry| Place::of(entry) == place)?))
    }

    fn remember(&mut self, locator: Locator, entry: &Entry) {
        let left = if in_main(entry) { Left::Main } else { Left::Small };
        self.ghosts.fit(self.items);
        self.ghosts.remember(locator, Ghost { left, returns: returns(entry) });
    }
}

impl Policy for S3Fifo {
    fn admit(&mut self, locator: Locator, entry: &Entry, seen: Seen<'_>, limit: u64, fits: bool) {
        self.items += 1;
        let items = self.items;
        let window = |left| match left {
            Left::Small => items * SMALL_WINDOW / 100,
            Left::Main => items * MAIN_WINDOW / 100,
        };
        match self.ghosts.take(locator, window) {
            Some(ghost) => {
                self.adapt(ghost.left);
                entry.set_place((ghost.returns + 1).min(RETURNS_MAX) << RETURNS_SHIFT);
                self.push_main(locator, entry, ghost.returns.min(HEAT_MAX));
            }
            None => self.push_small(locator, entry),
        }
        if fits
            && self.small_bytes > self.small_target(limit)
            && let Some((locator, entry)) = self.oldest(false, seen)
        {
            self.promote(locator, &entry, seen, entry.heat().saturating_sub(PROMOTED_HEAT));
        }
    }

    fn replace(&mut self, _: Locator, old: &Entry, new: &Entry, _: Seen<'_>) -> usize {
        new.set_place(old.place());
        new.begin_with_heat((old.heat() + 1).min(HEAT_MAX));
        let bytes = if in_main(old) { &mut self.main_bytes } else { &mut self.small_bytes };
        *bytes = *bytes + new.cost() - old.cost();
        0
    }

    fn used(&mut self, _: Locator, entry: &Entry, _: Seen<'_>) -> usize {
        entry.set_heat((entry.heat() + 1).min(HEAT_MAX));
        0
    }

    fn forget(&mut self, entry: &Entry, seen: Seen<'_>) -> usize {
        let (queue, bytes) = match in_main(entry) {
            true => (&mut self.main, &mut self.main_bytes),
            false => (&mut self.small, &mut self.small_bytes),
        };
        *bytes -= entry.cost();
        self.items -= 1;
        self.chunks.leave(queue, entry, seen)
    }

    fn evict<'a>(&mut self, seen: Seen<'a>, limit: u64, touched: &mut usize) -> Option<(Locator, Held<'a>)> {
        loop {
            let main = self.small_bytes <= self.small_target(limit);
            let (locator, entry) = self.oldest(main, seen).or_else(|| self.oldest(!main, seen))?;
            *touched += 1;
            let heat = entry.heat();
            let may_stay = *touched < LOOKED_AT_MAX;
            if may_stay && !in_main(&entry) && heat >= PROMOTED_HEAT {
                self.promote(locator, &entry, seen, 0);
            } else if may_stay && in_main(&entry) && heat > 0 {
                self.chunks.leave(&mut self.main, &entry, seen);
                self.main_bytes -= entry.cost();
                self.push_main(locator, &entry, heat - 1);
            } else {
                self.remember(locator, &entry);
                self.forget(&entry, seen);
                return Some((locator, entry));
            }
        }
    }

    fn heat(&self, entry: &Entry) -> u32 {
        entry.heat()
    }
}
