//! [`StoreStats`]: what a store holds and what left it.

use std::ops::{Add, AddAssign, Index, IndexMut};

use super::Tier;

/// What a store holds and what left it, summed over its shards.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StoreStats {
    /// The bound on [`bytes`](Self::bytes).
    pub capacity_bytes: u64,
    /// Of the main tier.
    pub main: TierStats,
    /// Of the hot tier.
    pub hot: TierStats,
    /// The most entries that one holding of a shard's lock touched since the store was made, or one step of a walk
    /// without it.
    pub touched_max: u64,
}

impl StoreStats {
    /// Bytes of both tiers.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.main.bytes + self.hot.bytes
    }

    /// Entries of both tiers.
    #[must_use]
    pub const fn items(&self) -> u64 {
        self.main.items + self.hot.items
    }
}

/// The share of one tier.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TierStats {
    /// Bytes of keys, values and bookkeeping.
    pub bytes: u64,
    /// Entries.
    pub items: u64,
    /// Entries that left, by reason.
    pub evictions: Evictions,
}

/// Why an entry left the store. An entry replaced by a newer one of its key did not leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reason {
    Capacity,
    Expired,
    Invalidated,
    Moved,
}

/// How many entries left the store, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Evictions {
    /// To make room.
    pub capacity: u64,
    /// Past their `keep_until`.
    pub expired: u64,
    /// Removed by name, by a newer write, or with all others.
    pub invalidated: u64,
    /// Their slot has another owner.
    pub moved: u64,
}

impl Evictions {
    pub(super) fn count(&mut self, reason: Reason) {
        match reason {
            Reason::Capacity => self.capacity += 1,
            Reason::Expired => self.expired += 1,
            Reason::Invalidated => self.invalidated += 1,
            Reason::Moved => self.moved += 1,
        }
    }
}

impl Add for Evictions {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            capacity: self.capacity + other.capacity,
            expired: self.expired + other.expired,
            invalidated: self.invalidated + other.invalidated,
            moved: self.moved + other.moved,
        }
    }
}

impl AddAssign for TierStats {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.items += other.items;
        self.evictions = self.evictions + other.evictions;
    }
}

impl AddAssign for StoreStats {
    fn add_assign(&mut self, other: Self) {
        self.capacity_bytes += other.capacity_bytes;
        self.main += other.main;
        self.hot += other.hot;
        self.touched_max = self.touched_max.max(other.touched_max);
    }
}

impl Index<Tier> for StoreStats {
    type Output = TierStats;

    fn index(&self, tier: Tier) -> &TierStats {
        match tier {
            Tier::Main => &self.main,
            Tier::Hot | Tier::StandIn => &self.hot,
        }
    }
}

impl IndexMut<Tier> for StoreStats {
    fn index_mut(&mut self, tier: Tier) -> &mut TierStats {
        match tier {
            Tier::Main => &mut self.main,
            Tier::Hot | Tier::StandIn => &mut self.hot,
        }
    }
}
