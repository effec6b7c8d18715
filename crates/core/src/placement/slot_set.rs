//! [`SlotSet`]: some of the slots.

use std::fmt;

use super::{SLOT_COUNT, Slot};

const WORDS: usize = SLOT_COUNT as usize / 64;

/// Some of the slots, as a bit for each: 2 KiB, whichever they are.
///
/// ```
/// use larder_core::placement::{Slot, SlotSet};
///
/// let slots: SlotSet = [Slot::of("users", b"42"), Slot::of("users", b"43")].into_iter().collect();
/// assert!(slots.contains(Slot::of("users", b"42")));
/// assert_eq!(SlotSet::from_bytes(&slots.to_bytes()), Some(slots));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet(Box<[u64; WORDS]>);

impl Default for SlotSet {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl SlotSet {
    /// Puts a slot in.
    pub fn insert(&mut self, slot: Slot) {
        let number = usize::from(slot.number());
        self.0[number / 64] |= 1 << (number % 64);
    }

    /// Whether a slot is in it.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        let number = usize::from(slot.number());
        self.0[number / 64] >> (number % 64) & 1 == 1
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Takes a slot out.
    pub fn remove(&mut self, slot: Slot) {
        let number = usize::from(slot.number());
        self.0[number / 64] &= !(1 << (number % 64));
    }

    /// Each slot that is in it, in order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        Slot::all().filter(|slot| self.contains(*slot))
    }

    /// As it travels: a bit a slot, the first slot in the lowest bit of the first byte.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// What [`to_bytes`](Self::to_bytes) made; `None` for another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != WORDS * 8 {
            return None;
        }
        let mut set = Self::default();
        let (words, _) = bytes.as_chunks();
        for (word, bytes) in set.0.iter_mut().zip(words) {
            *word = u64::from_le_bytes(*bytes);
        }
        Some(set)
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::default();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotSet({} slots)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_there_and_nothing_else() {
        let (first, last) = (Slot::new(0).unwrap(), Slot::new(SLOT_COUNT - 1).unwrap());
        let some: SlotSet = [first, last, Slot::new(64).unwrap()].into_iter().collect();
        assert_eq!(some.iter().map(Slot::number).collect::<Vec<_>>(), [0, 64, SLOT_COUNT - 1]);
        assert!(some.len() == 3 && !some.is_empty() && SlotSet::default().is_empty());
        let all: SlotSet = Slot::all().collect();
        assert_eq!(all.len(), usize::from(SLOT_COUNT));
        for set in [some, all, SlotSet::default()] {
            assert_eq!(SlotSet::from_bytes(&set.to_bytes()), Some(set));
        }
        assert!(SlotSet::from_bytes(&[0; 2047]).is_none());
    }
}
