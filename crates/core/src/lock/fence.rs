//! [`Fences`]: the numbers that grants of cluster locks bear.
//!
//! A fence is milliseconds since 2025, times 4,096, and a counter. The milliseconds are those of the node's hybrid clock, which follows the
//! wall clock and never goes back while the node runs; a new owner goes on above what the one before says it gave. So fences of
//! a name grow while the slots of locks are passed on, and where they are not (a crash), as long as the clocks of nodes are less apart
//! than the time for which nobody is granted anything then.
//!
//! The lowest bits of the counter are the node's *tag*. Two nodes that both believe to own a lock, as in a cluster that was cut in two, so
//! give different numbers, also in the same millisecond.

use crate::{lock::FENCE_MAX, placement::Slot};

/// The wall clock at the start of 2025, in milliseconds since 1970.
const START_MS: u64 = 1_735_689_600_000;

/// How many values a millisecond has.
const STEPS_PER_MS: u64 = 4_096;

/// How many tags there are: as many as nodes that gossip is made for, with room. Only by gossip can a cluster be cut into parts that go on
/// by themselves.
pub(crate) const TAGS_LEN: u64 = 128;

/// For how many slots together the last fence is kept. What slots share is how far ahead of the clock they are if they give more than 32
/// fences in a millisecond, which takes longer than that.
const STRIPES_LEN: usize = 256;

/// The last fences that a node has given.
pub(crate) struct Fences {
    last: Box<[u64; STRIPES_LEN]>,
    /// The greatest that another node was heard to have given.
    floor: u64,
    tag: u64,
}

impl Default for Fences {
    fn default() -> Self {
        Self { last: Box::new([0; STRIPES_LEN]), floor: 0, tag: 0 }
    }
}

impl Fences {
    /// The node's own tag from now on.
    pub(crate) fn set_tag(&mut self, tag: u64) {
        self.tag = tag % TAGS_LEN;
    }

    /// The next one, at this reading of the hybrid clock. `None`: there are no more, as the clock is some 69 years off.
    pub(crate) fn next(&mut self, slot: Slot, clock_ms: u64) -> Option<u64> {
        let last = &mut self.last[usize::from(slot.number()) % STRIPES_LEN];
        let above = (*last).max(self.floor);
        let by_clock = clock_ms.saturating_sub(START_MS).saturating_mul(STEPS_PER_MS).saturating_add(self.tag);
        let next = if by_clock > above { by_clock } else { (above / TAGS_LEN + 1) * TAGS_LEN + self.tag };
        if next > FENCE_MAX {
            return None;
        }
        *last = next;
        Some(next)
    }

    /// The greatest that was given or heard of.
    pub(crate) fn latest(&self) -> u64 {
        self.last.iter().copied().fold(self.floor, u64::max)
    }

    /// Goes on above what another node has given.
    pub(crate) fn observe(&mut self, fence: u64) {
        self.floor = self.floor.max(fence);
    }
}

/// What the milliseconds of a fence are on the wall clock, in milliseconds since 1970.
pub(crate) const fn wall_ms_of(fence: u64) -> u64 {
    START_MS + fence / STEPS_PER_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_750_000_000_000;

    fn slot(number: u16) -> Slot {
        Slot::new(number).unwrap()
    }

    #[test]
    fn a_fence_is_the_time_since_2025_and_grows_while_the_clock_stands_or_goes_back() {
        let mut fences = Fences::default();
        let first = fences.next(slot(1), NOW_MS).unwrap();
        assert_eq!((first / STEPS_PER_MS + START_MS, wall_ms_of(first)), (NOW_MS, NOW_MS));
        let mut last = first;
        for clock_ms in [NOW_MS, NOW_MS, NOW_MS - 5_000, 0, NOW_MS + 1, NOW_MS + 1] {
            let next = fences.next(slot(1), clock_ms).unwrap();
            assert!(next > last, "{next} after {last}");
            last = next;
        }
        assert_eq!(fences.latest(), last);
    }

    #[test]
    fn nodes_of_different_tags_never_give_the_same() {
        let (mut one, mut other) = (Fences::default(), Fences::default());
        one.set_tag(3);
        other.set_tag(4);
        let mut seen = std::collections::HashSet::new();
        for step in 0..1_000 {
            let clock_ms = NOW_MS + step / 100;
            assert!(seen.insert(one.next(slot(1), clock_ms).unwrap()));
            assert!(seen.insert(other.next(slot(1), clock_ms).unwrap()));
        }
    }

    #[test]
    fn a_new_owner_goes_on_above_the_one_before_though_its_clock_is_behind() {
        let (mut one, mut other) = (Fences::default(), Fences::default());
        let fence = one.next(slot(1), NOW_MS + 9_000).unwrap();
        other.observe(one.latest());
        assert!(other.next(slot(2), NOW_MS).unwrap() > fence);
    }

    #[test]
    fn where_there_are_no_more_none_is_given_twice() {
        let mut fences = Fences::default();
        assert!(fences.next(slot(1), u64::MAX).is_none());
        let year_2094 = START_MS + (FENCE_MAX + 1) / STEPS_PER_MS;
        assert!(fences.next(slot(1), year_2094 - 1).is_some());
        assert!(fences.next(slot(1), year_2094).is_none());
    }
}
