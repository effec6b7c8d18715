//! Which keys a change of the members moves, and what that cost the origin.

use std::collections::HashSet;

use larder_core::placement::{Slot, SlotTable};

use crate::{client::GROUP, origin::Origin};

/// Loads beyond one a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Excess {
    /// Of keys that moved.
    pub(crate) moved: usize,
    /// Of all others.
    pub(crate) stayed: usize,
    /// The most of one key.
    pub(crate) most: usize,
}

impl Excess {
    /// What the origin was asked for beyond once a key.
    pub(crate) fn of(origin: &Origin, moved: &HashSet<String>) -> Self {
        let mut excess = Self { moved: 0, stayed: 0, most: 0 };
        for (key, loads) in origin.loads_by_key() {
            *if moved.contains(&key) { &mut excess.moved } else { &mut excess.stayed } += loads - 1;
            excess.most = excess.most.max(loads - 1);
        }
        excess
    }

    pub(crate) fn total(self) -> usize {
        self.moved + self.stayed
    }
}

/// The keys whose owner is another among the members `after` than among those `before`.
pub(crate) fn moved(keys: &[String], before: &[&str], after: &[&str]) -> HashSet<String> {
    let (table_before, table_after) = (table(before), table(after));
    let moves = |key: &&String| {
        let slot = Slot::of(GROUP, key.as_bytes());
        table_before.owner(slot).map(|place| before[place]) != table_after.owner(slot).map(|place| after[place])
    };
    keys.iter().filter(moves).cloned().collect()
}

fn table(names: &[&str]) -> SlotTable {
    SlotTable::new(&names.iter().map(|name| (*name, 1)).collect::<Vec<_>>())
}
