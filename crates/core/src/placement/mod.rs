//! Which node owns which key: a pure function of the members and the key, so that nodes that know the same members agree
//! without a word.
//!
//! There are two such functions. [`SlotTable`] is Larder's own: keys fall into [`Slot`]s, slots to members.
//! [`GroupcacheRing`] is golang/groupcache's, for clusters that Go nodes are part of. [`Placement`] is either of them.
//!
//! Nothing here knows who is alive, what a group is or how a node is reached: members go in as names and weights and come
//! out as places in that list. The module can be used alone.
//!
//! # Examples
//!
//! ```
//! use larder_core::placement::{Slot, SlotTable};
//!
//! let members = [("a", 1), ("b", 1), ("c", 1)];
//! let table = SlotTable::new(&members);
//! let slot = Slot::of("users", b"42");
//! let owner = table.owner(slot).expect("somebody has weight");
//! let stand_in = table.stand_in(slot).expect("somebody else has");
//! assert_ne!(owner, stand_in);
//! ```

mod ring;
mod score;
mod slot;
mod slot_set;
mod table;

pub use ring::{GroupcacheRing, RING_POINTS};
pub use slot::{SLOT_COUNT, Slot};
pub use slot_set::SlotSet;
pub use table::{SHARE_PERCENT_MAX, SlotTable};

/// One of the two ways to place keys.
///
/// # Examples
///
/// ```
/// use larder_core::placement::{Placement, Slot, SlotTable};
///
/// let placement = Placement::Slots(SlotTable::new(&[("a", 1)]));
/// let (group, key) = ("users", b"42");
/// assert_eq!(placement.owner(Slot::of(group, key), key), Some(0));
/// assert_eq!(placement.stand_in(Slot::of(group, key), key), None);
/// ```
#[derive(Debug)]
pub enum Placement {
    /// By slot.
    Slots(SlotTable),
    /// As golang/groupcache places them: by key, whatever the group.
    Groupcache(GroupcacheRing),
}

impl Placement {
    /// The owner of a key and its slot, as a place in the list of members; `None` if nobody may own anything.
    #[inline]
    #[must_use]
    pub fn owner(&self, slot: Slot, key: &[u8]) -> Option<usize> {
        match self {
            Self::Slots(table) => table.owner(slot),
            Self::Groupcache(ring) => ring.owner(key),
        }
    }

    /// Who answers while that owner can't be reached: the owner in the placement without it. `None` if there is nobody
    /// else.
    #[must_use]
    pub fn stand_in(&self, slot: Slot, key: &[u8]) -> Option<usize> {
        match self {
            Self::Slots(table) => table.stand_in(slot),
            Self::Groupcache(ring) => ring.stand_in(key),
        }
    }

    /// Whether [`stand_in`](Self::stand_in) answers at once for this slot, without working out a table.
    #[must_use]
    pub fn knows_stand_in(&self, slot: Slot) -> bool {
        match self {
            Self::Slots(table) => table.knows_stand_in(slot),
            Self::Groupcache(_) => true,
        }
    }
}
