//! [`Demand`]: how often other nodes ask for a key, to find those that are worth a copy.
//!
//! A count-min sketch (Cormode and Muthukrishnan, "An Improved Data Stream Summary: The Count-Min Sketch and its
//! Applications", 2005) whose counters are halved once a lease, so that a key's estimate follows what was asked in about the last
//! lease and a half. It counts too much where keys share counters, never too little.
//!
//! A copy costs the other node memory and a later write a message; it saves the other node as many questions as it would have
//! asked within the lease. So a key is *hot* once each other node, if all ask alike, asks for it [`WORTH`] times a lease. Where copies
//! take more than their share of the capacity, that number is doubled, and halved again as they take less.

use std::{
    hash::BuildHasher,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use foldhash::quality::RandomState;

use crate::Moment;

/// Counters of a row. With a thousand keys asked for at once, one in four shares a counter in a given row, and one in sixteen
/// in both.
const COUNTERS: usize = 4_096;

const ROWS: usize = 2;

/// How many questions a copy has to save.
const WORTH: u32 = 4;

/// By how much more a key has to be asked for at most where copies take too much.
const STRICTNESS_MAX: u32 = 10;

pub(super) struct Demand {
    counters: Box<[AtomicU32]>,
    hasher: RandomState,
    /// When the counters were last halved, in nanoseconds.
    halved: AtomicU64,
    /// A key must be asked for two to the power of this times as often.
    strictness: AtomicU32,
}

impl Default for Demand {
    fn default() -> Self {
        Self {
            counters: (0..COUNTERS * ROWS).map(|_| AtomicU32::new(0)).collect(),
            hasher: RandomState::default(),
            halved: AtomicU64::new(0),
            strictness: AtomicU32::new(0),
        }
    }
}

impl Demand {
    /// Another node asks for a key: how often that was so lately, about.
    pub(super) fn asked(&self, key: &[u8]) -> u32 {
        let hash = self.hasher.hash_one(key);
        let counts = (0..ROWS).map(|row| {
            let at = (hash >> (32 * row)) as usize % COUNTERS;
            // Two at the same time may count as one.
            let counter = &self.counters[row * COUNTERS + at];
            let count = counter.load(Ordering::Relaxed).saturating_add(1);
            counter.store(count, Ordering::Relaxed);
            count
        });
        counts.min().unwrap_or(0)
    }

    /// Whether a key that was asked for so often is worth a copy at each of `others`.
    pub(super) fn is_hot(&self, asked: u32, others: usize) -> bool {
        let others = u32::try_from(others.max(1)).unwrap_or(u32::MAX);
        // The counters hold half a lease too much, on the average.
        let worth = WORTH.saturating_mul(others).saturating_mul(3) / 2;
        asked >= worth.saturating_mul(1 << self.strictness.load(Ordering::Relaxed))
    }

    /// Halves the counters if a lease has passed; whether it did. `copies` tells what copies take and what they may, in bytes.
    pub(super) fn step(&self, now: Moment, lease: Duration, copies: impl FnOnce() -> (u64, u64)) -> bool {
        let halved = self.halved.load(Ordering::Relaxed);
        if now < Moment::from_nanos(halved) + lease {
            return false;
        }
        let is_mine =
            self.halved.compare_exchange(halved, now.as_nanos(), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_mine {
            for counter in &self.counters {
                counter.store(counter.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            }
            let (take, may) = copies();
            let strictness = self.strictness.load(Ordering::Relaxed);
            let fitting = if take > may {
                (strictness + 1).min(STRICTNESS_MAX)
            } else if take < may / 2 {
                strictness.saturating_sub(1)
            } else {
                strictness
            };
            self.strictness.store(fitting, Ordering::Relaxed);
        }
        is_mine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(1);

    fn ask(demand: &Demand, key: &str, times: u32) -> u32 {
        (0..times).map(|_| demand.asked(key.as_bytes())).last().unwrap_or(0)
    }

    #[test]
    fn a_key_that_everybody_asks_for_is_hot_and_one_among_many_is_not() {
        let demand = Demand::default();
        for number in 0..1_000 {
            ask(&demand, &format!("cold{number}"), 1);
        }
        let asked = ask(&demand, "hot", 24);
        assert!(demand.is_hot(asked, 4));
        assert!(!demand.is_hot(asked, 9), "the same among ten nodes is too little for each");
        assert!(!demand.is_hot(ask(&demand, "lukewarm", 5), 4));
    }

    #[test]
    fn demand_that_has_passed_is_forgotten() {
        let demand = Demand::default();
        let mut now = Moment::default() + LEASE;
        assert!(demand.step(now, LEASE, || (0, 1)));
        ask(&demand, "k", 64);
        for _ in 0..7 {
            assert!(!demand.step(now, LEASE, || (0, 1)), "once a lease");
            now = now + LEASE;
            assert!(demand.step(now, LEASE, || (0, 1)));
        }
        assert_eq!(demand.asked(b"k"), 1);
    }

    #[test]
    fn more_is_demanded_where_copies_take_more_than_they_may() {
        let demand = Demand::default();
        let asked = ask(&demand, "k", 12);
        assert!(demand.is_hot(asked, 2));
        let mut now = Moment::default();
        for (take, is_hot) in [(101, false), (80, false), (40, true)] {
            now = now + LEASE;
            demand.step(now, LEASE, || (take, 100));
            assert_eq!(demand.is_hot(asked, 2), is_hot, "{take}");
        }
    }
}
