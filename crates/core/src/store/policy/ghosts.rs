//! [`Ghosts`]: who left lately, at five bytes an entry of the shard.
//!
//! A table of sets of four; each ghost is 12 bits of its locator, when it left, which queue it left, and how often it had
//! come back before. It may take one key for another (once in a thousand look-ups), which costs a better or worse place
//! in the queues and nothing else.

use crate::store::hash::Locator;

/// Ghosts a set.
const WAYS: usize = 4;

/// An empty place. No ghost is zero: see [`Ghosts::remember`].
const EMPTY: u32 = 0;

/// The queue that an entry left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Left {
    Small,
    Main,
}

/// What is remembered of an entry that left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ghost {
    pub(super) left: Left,
    /// How often it had come back; 3 at most.
    pub(super) returns: u32,
}

/// From the highest bit: 12 of the locator, 16 of time, 1 the queue, 2 the returns, and one that is always set.
const TIME_SHIFT: u32 = 4;
const TIME_BITS: u32 = 16;

#[derive(Default)]
pub(super) struct Ghosts {
    sets: Box<[[u32; WAYS]]>,
    /// For how many entries the sets were made.
    made_for: usize,
    /// How many left, by queue.
    left: [u64; 2],
    /// A unit of ghosts' time is 2 to this power of departures.
    unit_log: u32,
}

impl Ghosts {
    /// Makes the table anew if it has become far too small or too large for a shard of this many entries. What it
    /// remembered is lost: that happens when the mean size of the values changes, or the capacity does.
    pub(super) fn fit(&mut self, items: usize) {
        if items <= self.made_for * 3 / 2 && items + 64 >= self.made_for / 3 {
            return;
        }
        *self = Self {
            sets: vec![[EMPTY; WAYS]; items.div_ceil(WAYS) * 5 / 4 + 1].into_boxed_slice(),
            made_for: items,
            left: self.left,
            // A window is then some thousands of units, and 16 bits of time are several windows.
            unit_log: (items / 8_192 + 1).ilog2(),
        };
    }

    fn set(&mut self, locator: Locator) -> Option<&mut [u32; WAYS]> {
        let set = (u64::from(locator.0) * self.sets.len() as u64) >> 32;
        self.sets.get_mut(set as usize)
    }

    fn now(&self, left: Left) -> u32 {
        (self.left[left as usize] >> self.unit_log) as u32 & ((1 << TIME_BITS) - 1)
    }

    /// The ghost's age in units.
    fn age(&self, ghost: u32) -> u32 {
        let time = ghost >> TIME_SHIFT & ((1 << TIME_BITS) - 1);
        self.now(left(ghost)).wrapping_sub(time) & ((1 << TIME_BITS) - 1)
    }

    /// Remembers that the entry left.
    pub(super) fn remember(&mut self, locator: Locator, ghost: Ghost) {
        let new = locator.0 << (32 - 12)
            | self.now(ghost.left) << TIME_SHIFT
            | (ghost.left as u32) << 3
            | ghost.returns << 1
            | 1;
        self.left[ghost.left as usize] += 1;
        let Some(&mut set) = self.set(locator) else { return };
        // The oldest makes room; an empty place is older than all.
        let oldest = (0..WAYS).max_by_key(|&way| if set[way] == EMPTY { u32::MAX } else { self.age(set[way]) });
        if let (Some(way), Some(set)) = (oldest, self.set(locator)) {
            set[way] = new;
        }
    }

    /// Takes the entry's ghost, if at most `window` entries left its queue since.
    pub(super) fn take(&mut self, locator: Locator, window: impl Fn(Left) -> usize) -> Option<Ghost> {
        let &mut set = self.set(locator)?;
        let way = set.iter().position(|&ghost| ghost != EMPTY && ghost >> (32 - 12) == locator.0 & 0xfff)?;
        let ghost = set[way];
        let young = (self.age(ghost) as usize) << self.unit_log <= window(left(ghost));
        self.set(locator)?[way] = EMPTY;
        young.then_some(Ghost { left: left(ghost), returns: ghost >> 1 & 3 })
    }
}

const fn left(ghost: u32) -> Left {
    if ghost & 1 << 3 == 0 { Left::Small } else { Left::Main }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ghost_is_taken_once_and_within_its_window() {
        let mut ghosts = Ghosts::default();
        ghosts.fit(100);
        let one = Ghost { left: Left::Small, returns: 2 };
        ghosts.remember(Locator(0x8000_0123), one);
        assert_eq!(ghosts.take(Locator(0x8000_0124), |_| 10), None);
        assert_eq!(ghosts.take(Locator(0x8000_0123), |_| 10), Some(one));
        assert_eq!(ghosts.take(Locator(0x8000_0123), |_| 10), None);
        ghosts.remember(Locator(1), one);
        for other in 0..20 {
            ghosts.remember(Locator(0xf000_0000 + other), one);
        }
        assert_eq!(ghosts.take(Locator(1), |_| 10), None);
    }
}
