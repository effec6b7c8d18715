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

/// The keys whose owner is another `after` than `before`. Both name the owner of each key.
pub(crate) fn moved(keys: &[String], before: &[String], after: &[String]) -> HashSet<String> {
    let owners = before.iter().zip(after);
    keys.iter().zip(owners).filter(|(_, (before, after))| before != after).map(|(key, _)| key.clone()).collect()
}

/// The owner of each key among daemons of these names.
pub(crate) fn owners(keys: &[String], names: &[&str]) -> Vec<String> {
    let table = SlotTable::new(&names.iter().map(|name| (*name, 1)).collect::<Vec<_>>());
    let owner = |key: &String| table.owner(Slot::of(GROUP, key.as_bytes())).map_or("", |place| names[place]);
    keys.iter().map(|key| owner(key).to_owned()).collect()
}
