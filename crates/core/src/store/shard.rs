//! [`Shard`]: an index, a policy, and what both may hold. Whoever calls holds the shard's lock.

use super::{
    Policy as Choice, StoreStats,
    entry::Entry,
    hash::{KeyHasher, Locator},
    index::{Cursor, Index},
    policy::{Lru, Policy, S3Fifo},
    stats::Reason,
};

/// The entries that one holding of a shard's lock looks at, before it lets others in: some tens of microseconds, so that
/// nobody waits noticeably longer for the lock.
pub(super) const TOUCHED_MAX: usize = 256;

/// How many bytes of capacity share a table of the index. A table is built anew when it has grown by a quarter: with
/// entries of 100 bytes it holds some 1,300, which takes a tenth of a millisecond.
const TABLE_BYTES: u64 = 128 << 10;

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
    swept_to: Cursor,
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
            swept_to: Cursor::default(),
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
            self.count_out(&entry, Some(Reason::Capacity));
        }
        true
    }

    /// Stores the entry in place of another of its key, evicting what it takes; false, and that other gone, if it
    /// doesn't fit. For one of [`BULKY_COST`] or more, room should have been made.
    pub(super) fn insert(&mut self, locator: Locator, entry: &Entry) -> bool {
        let cost = entry.cost();
        if cost > self.limit {
            self.remove(locator, entry.key(), None);
            return false;
        }
        let mut touched = 1;
        let old_cost = self.index.find(locator, entry.key()).map(Entry::cost);
        let more = cost.saturating_sub(old_cost.unwrap_or_default());
        let fits = self.stats.bytes() + more <= self.limit;
        self.evict(more, &mut touched, usize::MAX);
        if let Some(old) = self.index.replace(locator, entry) {
            self.chosen.policy().replace(locator, &old, entry, &self.index);
            self.count_out(&old, None);
        } else {
            // The old one, if there was one, is among the evicted.
            self.evict(cost, &mut touched, usize::MAX);
            touched += self.index.insert(locator, entry.clone());
            self.chosen.policy().admit(locator, entry, &self.index, self.limit, fits);
        }
        self.count_in(entry);
        self.count_touched(touched);
        true
    }

    /// Removes the key's entry, counting it as gone for this reason.
    pub(super) fn remove(&mut self, locator: Locator, key: &[u8], reason: Option<Reason>) -> Option<Entry> {
        let entry = self.index.find(locator, key)?.clone();
        self.remove_entry(locator, &entry, reason);
        Some(entry)
    }

    pub(super) fn remove_entry(&mut self, locator: Locator, entry: &Entry, reason: Option<Reason>) {
        self.chosen.policy().forget(entry, &self.index);
        self.index.remove_by(locator, |other| other.is(entry));
        self.count_out(entry, reason);
    }

    /// Looks at some entries from `from` on and removes those for which there is a reason. Returns how many it looked
    /// at, how many it removed, and where to go on, if it isn't through.
    pub(super) fn retain(
        &mut self,
        from: Cursor,
        touched_max: usize,
        reason: impl Fn(&Entry) -> Option<Reason>,
    ) -> (usize, usize, Option<Cursor>) {
        let mut gone = Vec::new();
        let (touched, next) = self.index.walk(from, touched_max.min(TOUCHED_MAX), |entry| {
            if let Some(reason) = reason(entry) {
                gone.push((entry.clone(), reason));
            }
        });
        self.count_touched(touched);
        for (entry, reason) in &gone {
            self.remove_entry(self.index.locate(entry), entry, Some(*reason));
        }
        (touched, gone.len(), next)
    }

    /// One step of the sweep: how many entries it looked at, how many it removed, and whether it reached the end, from
    /// where the next step begins anew.
    pub(super) fn sweep(
        &mut self,
        touched_max: usize,
        reason: impl Fn(&Entry) -> Option<Reason>,
    ) -> (usize, usize, bool) {
        let (touched, removed, next) = self.retain(self.swept_to, touched_max, reason);
        self.swept_to = next.unwrap_or_default();
        (touched, removed, next.is_none())
    }

    fn count_in(&mut self, entry: &Entry) {
        let tier = &mut self.stats[entry.tier()];
        tier.bytes += entry.cost();
        tier.items += 1;
    }

    fn count_out(&mut self, entry: &Entry, reason: Option<Reason>) {
        let tier = &mut self.stats[entry.tier()];
        tier.bytes -= entry.cost();
        tier.items -= 1;
        if let Some(reason) = reason {
            tier.evictions.count(reason);
        }
    }

    fn count_touched(&mut self, touched: usize) {
        self.stats.touched_max = self.stats.touched_max.max(touched as u64);
    }
}
