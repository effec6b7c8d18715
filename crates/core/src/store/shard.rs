//! [`Shard`]: an index, a policy, and what both may hold. Whoever calls holds the shard's lock.

use super::{
    Policy as Choice, StoreStats,
    entry::Entry,
    hash::{KeyHasher, Locator},
    index::Index,
    policy::{Lru, Policy, S3Fifo},
    stats::Reason,
};

/// The entries that one holding of a shard's lock looks at, before it lets others in: some tens of microseconds, so that
/// nobody waits noticeably longer for the lock.
pub(super) const TOUCHED_MAX: usize = 256;

/// How many bytes of capacity share a table of the index. A table is built anew when it has grown by a quarter: with
/// entries of 100 bytes it holds some 1,300, which takes a tenth of a millisecond.
const TABLE_BYTES: u64 = 128 << 10;

/// The most entries that are removed in one holding of the lock, when many are: to remove takes longer than to look.
pub(super) const REMOVED_MAX: usize = 32;

/// The cost of an entry for which room is made beforehand, in steps: one below displaces so few that one step does.
pub(super) const BULKY_COST: u64 = 8 << 10;

enum Chosen {
    Lru(Lru),
    S3Fifo(S3Fifo),
}

impl Chosen {
    fn policy(&mut self) -> &mut dyn Policy {
        match self {
            Self::Lru(lru) => lru,
            Self::S3Fifo(s3_fifo) => s3_fifo,
        }
    }
}

pub(super) struct Shard {
    index: Index,
    chosen: Chosen,
    /// How many bytes it may hold.
    pub(super) limit: u64,
    pub(super) stats: StoreStats,
}

impl Shard {
    pub(super) fn new(choice: Choice, limit: u64, hasher: KeyHasher) -> Self {
        Self {
            index: Index::new(usize::try_from(limit / TABLE_BYTES).unwrap_or(usize::MAX), hasher),
            chosen: match choice {
                Choice::Lru => Chosen::Lru(Lru::new()),
                Choice::S3Fifo => Chosen::S3Fifo(S3Fifo::new()),
            },
            limit,
            stats: StoreStats::default(),
        }
    }

    pub(super) const fn index(&self) -> &Index {
        &self.index
    }

    /// Notes a read under the exclusive lock.
    pub(super) fn used(&mut self, locator: Locator, entry: &Entry) {
        self.chosen.policy().used(locator, entry, &self.index);
    }

    /// How hot an entry is, up to [`HEAT_MAX`](super::policy::HEAT_MAX).
    pub(super) fn heat(&self, entry: &Entry) -> u8 {
        match &self.chosen {
            Chosen::Lru(lru) => lru.heat(entry),
            Chosen::S3Fifo(s3_fifo) => s3_fifo.heat(entry),
        }
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
        while self.stats.bytes() + bytes > self.limit {
            if *touched >= touched_max {
                return false;
            }
            let Some((locator, entry)) = self.chosen.policy().evict(&self.index, self.limit, touched) else { break };
            self.index.remove_by(locator, |other| other.is(&entry));
            self.count_out(&entry, entry.cost(), Some(Reason::Capacity));
        }
        true
    }

    /// Stores the entry in place of another of its key, evicting what it takes; false, and that other gone, if it
    /// doesn't fit. For one of [`BULKY_COST`] or more, room should have been made. Also returns that other, for the caller
    /// to free once it let go of the lock.
    pub(super) fn insert(&mut self, locator: Locator, entry: &Entry) -> (bool, Option<Entry>) {
        let cost = entry.cost();
        if cost > self.limit {
            return (false, self.remove(locator, entry.key(), None));
        }
        let mut touched = 1;
        let fits = |bytes: u64| self.stats.bytes() + bytes <= self.limit;
        let mut old_cost = 0;
        // Most replace one of the same size.
        let mut old = self.index.replace(locator, entry, |old| {
            old_cost = old.cost();
            fits(cost.saturating_sub(old_cost))
        });
        if old.is_none() && old_cost > 0 {
            self.evict(cost.saturating_sub(old_cost), &mut touched, usize::MAX);
            old = self.index.replace(locator, entry, |_| true);
        }
        match &old {
            Some(old) => {
                self.chosen.policy().replace(locator, old, entry, &self.index);
                self.count_out(old, old_cost, None);
            }
            // There was none, or it is among the evicted.
            None => {
                let fits = self.stats.bytes() + cost <= self.limit;
                self.evict(cost, &mut touched, usize::MAX);
                touched += self.index.insert(locator, entry.clone());
                self.chosen.policy().admit(locator, entry, &self.index, self.limit, fits);
            }
        }
        let tier = &mut self.stats[entry.tier()];
        tier.bytes += cost;
        tier.items += 1;
        self.count_touched(touched);
        (true, old)
    }

    /// Removes the key's entry, counting it as gone for this reason.
    pub(super) fn remove(&mut self, locator: Locator, key: &[u8], reason: Option<Reason>) -> Option<Entry> {
        let entry = self.index.find(locator, key)?.clone();
        self.remove_entry(locator, &entry, reason);
        Some(entry)
    }

    /// Removes the entry, if it is still there, and says whether it was.
    pub(super) fn remove_entry(&mut self, locator: Locator, entry: &Entry, reason: Option<Reason>) -> bool {
        if self.index.remove_by(locator, |other| other.is(entry)).is_none() {
            return false;
        }
        self.chosen.policy().forget(entry, &self.index);
        self.count_out(entry, entry.cost(), reason);
        true
    }

    /// Removes those of the entries that are still there, and returns how many.
    pub(super) fn remove_all(&mut self, gone: &[(Entry, Reason)]) -> usize {
        self.count_touched(gone.len());
        gone.iter().filter(|(entry, reason)| self.remove_entry(self.index.locate(entry), entry, Some(*reason))).count()
    }

    fn count_out(&mut self, entry: &Entry, cost: u64, reason: Option<Reason>) {
        let tier = &mut self.stats[entry.tier()];
        tier.bytes -= cost;
        tier.items -= 1;
        if let Some(reason) = reason {
            tier.evictions.count(reason);
        }
    }

    fn count_touched(&mut self, touched: usize) {
        self.stats.touched_max = self.stats.touched_max.max(touched as u64);
    }
}
