//! [`Shard`]: an index, which readers see without a lock, and under a lock what changes it: its tables, a policy, and how
//! much it may hold.

use parking_lot::{Mutex, MutexGuard};

use super::{
    Policy as Choice, StoreStats,
    entry::{self, Entry},
    hash::{KeyHasher, Locator},
    index::{self, Buckets, Index, Rebuilt, Seen, Tables},
    policy::{Chosen, LOOKED_AT_MAX},
    queue,
    readers::{Readers, Reading},
    stats::Reason,
    table::{self, At},
};

/// The entries that one holding of a shard's lock looks at, before it lets others in: some tens of microseconds, so that
/// nobody waits noticeably longer for the lock.
pub(super) const TOUCHED_MAX: usize = 256;

/// How many bytes of capacity share a slot of the index's directory: an eighth to a third of what the largest table holds
/// of entries of 100 bytes, so that few tables have to be divided, and few are all but empty.
const SLOT_BYTES: u64 = 48 << 10;

/// The most entries that are removed in one holding of the lock, when many are: to remove takes longer than to look.
const REMOVED_MAX: usize = 32;

/// The cost of an entry for which room is made beforehand, in steps: one below displaces so few that one step does.
pub(super) const BULKY_COST: u64 = 8 << 10;

/// The most entries that one holding of a shard's lock touches, or one step of a walk without it. No operation of a
/// [`Store`](super::Store) keeps others from a shard for longer; those that have to touch more let others in between.
///
/// It is what such a holding may touch before it looks whether that is enough; then one more entry, which may make two
/// chunks of a queue one and a table smaller; the victims of an entry for which no room was made beforehand, and those
/// looked at that were better than they; and a table that grows.
pub const TOUCHED_BOUND: usize = TOUCHED_MAX
    + (queue::MERGED_LEN_MAX + table::ITEMS_MAX)
    + (BULKY_COST as usize).div_ceil(entry::COST_MIN)
    + LOOKED_AT_MAX
    + table::ITEMS_MAX;

/// Lines of its own, in pairs, as processors fetch them.
#[repr(align(128))]
struct Padded<T>(T);

pub(super) struct Shard {
    /// Apart from the lock: it seldom changes, and the lock often.
    index: Padded<Index>,
    inner: Padded<Mutex<Inner>>,
}

/// What the lock is for.
struct Inner {
    stats: StoreStats,
    /// How many bytes it may hold.
    limit: u64,
    chosen: Chosen,
    tables: Tables,
}

/// What was taken out and waits to be freed.
pub(super) enum Removed {
    #[expect(dead_code, reason = "kept to be dropped")]
    Entry(Entry),
    #[expect(dead_code, reason = "kept to be dropped")]
    Buckets(Buckets),
}

/// A shard whose lock is held.
pub(super) struct Locked<'a> {
    number: usize,
    readers: &'a Readers<Removed>,
    index: &'a Index,
    inner: MutexGuard<'a, Inner>,
}

impl Shard {
    pub(super) fn new(choice: Choice, limit: u64, hasher: KeyHasher) -> Self {
        let (index, tables) = index::index(usize::try_from(limit / SLOT_BYTES).unwrap_or(usize::MAX), hasher);
        let inner = Inner { stats: StoreStats::default(), limit, chosen: Chosen::new(choice), tables };
        Self { index: Padded(index), inner: Padded(Mutex::new(inner)) }
    }

    /// Has the processor fetch what a look-up needs first.
    #[inline]
    pub(super) fn prefetch_bucket(&self, locator: Locator) {
        self.index.0.prefetch_bucket(locator);
    }

    /// The index, for who sits down to read this shard or all.
    #[inline]
    pub(super) const fn seen_by<'a>(&'a self, reading: &'a Reading<'_>) -> Seen<'a> {
        self.index.0.seen_by(reading)
    }

    /// Waits for the lock.
    #[inline]
    pub(super) fn lock<'a>(&'a self, number: usize, readers: &'a Readers<Removed>) -> Locked<'a> {
        Locked { number, readers, index: &self.index.0, inner: self.inner.0.lock() }
    }
}

impl Inner {
    fn fits(&self, bytes: u64) -> bool {
        self.stats.bytes() + bytes <= self.limit
    }
}

impl Locked<'_> {
    /// What is in the shard.
    #[inline]
    pub(super) fn seen(&self) -> Seen<'_> {
        self.index.seen_with(&self.inner.tables)
    }

    pub(super) fn stats(&self) -> StoreStats {
        self.inner.stats
    }

    /// How many bytes it may hold.
    pub(super) fn limit(&self) -> u64 {
        self.inner.limit
    }

    pub(super) fn set_limit(&mut self, limit: u64) {
        self.inner.limit = limit;
    }

    /// Lets those in who wait for the lock.
    pub(super) fn bump(&mut self) {
        MutexGuard::bump(&mut self.inner);
    }

    /// Hands the lock to whoever waits for it, however fast the caller comes back.
    pub(super) fn unlock_fair(self) {
        MutexGuard::unlock_fair(self.inner);
    }

    /// Notes a use of an entry that the lock's holder found.
    pub(super) fn used(&mut self, locator: Locator, entry: &Entry) {
        let Inner { chosen, tables, .. } = &mut *self.inner;
        let told = chosen.policy().used(locator, entry, self.index.seen_with(tables));
        self.count_touched(1 + told);
    }

    /// How hot an entry is, up to [`HEAT_MAX`](super::entry::HEAT_MAX).
    pub(super) fn heat(&self, entry: &Entry) -> u32 {
        self.inner.chosen.heat(entry)
    }

    /// Evicts until so many bytes more fit, or enough was done for one holding of the lock; says whether they fit, or
    /// nothing is left to evict.
    pub(super) fn make_room(&mut self, bytes: u64) -> bool {
        let mut touched = 0;
        let done = self.evict(bytes, &mut touched, TOUCHED_MAX);
        self.count_touched(touched);
        done
    }

    fn evict(&mut self, bytes: u64, touched: &mut usize, touched_max: usize) -> bool {
        while !self.inner.fits(bytes) {
            if *touched >= touched_max {
                return false;
            }
            let Inner { chosen, tables, limit, .. } = &mut *self.inner;
            let victim = chosen.policy().evict(self.index.seen_with(tables), *limit, touched);
            let Some((locator, victim)) = victim.map(|(locator, entry)| (locator, entry.id())) else { break };
            let may_rebuild = *touched < TOUCHED_MAX;
            let taken = tables.remove_by(self.index, locator, may_rebuild, |other| other.id() == victim);
            *touched += self.taken(taken, Some(Reason::Capacity));
        }
        true
    }

    /// Stores the entry in place of another of its key, evicting what it takes; false, and that other gone, if it
    /// doesn't fit. For one of [`BULKY_COST`] or more, room should have been made.
    pub(super) fn insert(&mut self, locator: Locator, entry: Entry, cost: u64) -> bool {
        let tier = entry.tier();
        if cost > self.inner.limit {
            self.remove(locator, entry.key(), None);
            return false;
        }
        let mut touched = 1;
        let mut at = None;
        if let Some((old_at, old_cost)) = self.place_of(locator, entry.key()) {
            // Most replace one of the same size.
            let more = cost.saturating_sub(old_cost);
            at = Some(old_at);
            if !self.inner.fits(more) {
                self.evict(more, &mut touched, usize::MAX);
                // It may be among the evicted.
                at = self.place_of(locator, entry.key()).map(|(at, _)| at);
            }
        }
        match at {
            Some(at) => touched += self.replace(locator, at, entry),
            None => {
                let fits = self.inner.fits(cost);
                self.evict(cost, &mut touched, usize::MAX);
                let Some(moved) = self.add(locator, &entry, fits) else { return false };
                touched += moved;
            }
        }
        let tier = &mut self.inner.stats[tier];
        tier.bytes += cost;
        tier.items += 1;
        self.count_touched(touched);
        true
    }

    /// Where the key's entry is, and what it costs.
    fn place_of(&self, locator: Locator, key: &[u8]) -> Option<(At, u64)> {
        self.seen().find_at(locator, |entry| entry.has_key(key)).map(|(at, entry)| (at, entry.cost()))
    }

    /// Puts the entry where another of its key is; says how many entries had to be told a new place.
    fn replace(&mut self, locator: Locator, at: At, entry: Entry) -> usize {
        let Inner { chosen, tables, .. } = &mut *self.inner;
        let seen = self.index.seen_with(tables);
        let told = seen.at(locator, at).map_or(0, |old| chosen.policy().replace(locator, &old, &entry, seen));
        if let Some(old) = tables.swap(self.index, locator, at, entry) {
            self.count_out(old, None);
        }
        told
    }

    /// Adds an entry of a new key; says how many others had to move, or `None` if it can't be added.
    fn add(&mut self, locator: Locator, entry: &Entry, fits: bool) -> Option<usize> {
        let Inner { chosen, tables, limit, .. } = &mut *self.inner;
        let rebuilt = tables.insert(self.index, locator, entry.clone()).ok()?;
        chosen.policy().admit(locator, entry, self.index.seen_with(tables), *limit, fits);
        Some(self.rebuilt(rebuilt))
    }

    /// Removes the key's entry, counting it as gone for this reason.
    pub(super) fn remove(&mut self, locator: Locator, key: &[u8], reason: Option<Reason>) -> Option<Entry> {
        let entry = self.seen().find(locator, key)?.clone();
        self.remove_entry(locator, &entry, reason);
        Some(entry)
    }

    /// Removes the entry, if it is still there.
    pub(super) fn remove_entry(&mut self, locator: Locator, entry: &Entry, reason: Option<Reason>) {
        let touched = self.take_out(locator, entry, reason);
        self.count_touched(touched.unwrap_or(1));
    }

    /// Removes the entry; says how many entries that touched, or `None` if it isn't there.
    fn take_out(&mut self, locator: Locator, entry: &Entry, reason: Option<Reason>) -> Option<usize> {
        let Inner { chosen, tables, .. } = &mut *self.inner;
        let taken = tables.remove_by(self.index, locator, true, |other| other.id() == entry.id())?;
        let told = chosen.policy().forget(entry, self.index.seen_with(tables));
        Some(1 + told + self.taken(Some(taken), reason))
    }

    /// Removes those of the entries that are still there, as many as one holding of the lock is for; how many of them it
    /// came to, and how many were there.
    pub(super) fn remove_some(&mut self, gone: &[(Entry, Reason)]) -> (usize, usize) {
        let (mut come_to, mut removed, mut touched) = (0, 0, 0);
        for (entry, reason) in gone.iter().take(REMOVED_MAX) {
            if touched >= TOUCHED_MAX {
                break;
            }
            let locator = self.inner.tables.locate(entry);
            let done = self.take_out(locator, entry, Some(*reason));
            come_to += 1;
            removed += usize::from(done.is_some());
            touched += done.unwrap_or(1);
        }
        self.count_touched(touched);
        (come_to, removed)
    }

    /// Sees to what the tables gave up; says how many entries moved.
    fn taken(&mut self, taken: Option<(Entry, Rebuilt)>, reason: Option<Reason>) -> usize {
        let Some((entry, rebuilt)) = taken else { return 0 };
        self.count_out(entry, reason);
        self.rebuilt(rebuilt)
    }

    fn rebuilt(&mut self, Rebuilt { moved, out_of }: Rebuilt) -> usize {
        if let Some(buckets) = out_of {
            let bytes = buckets.bytes();
            self.readers.free(Removed::Buckets(buckets), bytes, self.number);
        }
        moved
    }

    fn count_out(&mut self, entry: Entry, reason: Option<Reason>) {
        let cost = entry.cost();
        let tier = &mut self.inner.stats[entry.tier()];
        tier.bytes -= cost;
        tier.items -= 1;
        if let Some(reason) = reason {
            tier.evictions.count(reason);
        }
        self.readers.free(Removed::Entry(entry), cost as usize, self.number);
    }

    fn count_touched(&mut self, touched: usize) {
        let max = &mut self.inner.stats.touched_max;
        *max = (*max).max(touched as u64);
    }
}
