//! Going through a store from its hottest entries to its coldest, as a handover of slots does.

use super::{Hit, Store, entry::HEAT_MAX, index::Cursor, shard::TOUCHED_MAX};
use crate::{Moment, placement::Slot};

/// Where [`Store::hottest`] goes on.
#[derive(Clone, Debug)]
pub struct Hottest {
    colder_by: u32,
    shard: usize,
    cursor: Cursor,
}

impl Hottest {
    /// From the hottest on.
    #[must_use]
    pub fn start() -> Self {
        Self { colder_by: 0, shard: 0, cursor: Cursor::default() }
    }
}

impl Store {
    /// Shows the next entries of the slots that `of` names, hottest first by their policy's four degrees, and what is
    /// kept beyond `now` only. Looks at up to `entries_max` entries, or some hundreds if those are fewer, without a lock
    /// between calls nor while it shows them; false when it is through. `of` must not call the store.
    ///
    /// It goes through the store once for each degree. An entry whose degree changes meanwhile may be shown twice or not
    /// at all; one that has to move as others come may be shown twice; all others are shown once.
    pub fn hottest(
        &self,
        from: &mut Hottest,
        entries_max: usize,
        now: Moment,
        of: impl Fn(Slot) -> bool,
        mut show: impl FnMut(&[u8], Hit),
    ) -> bool {
        let Some(heat) = HEAT_MAX.checked_sub(from.colder_by) else { return false };
        let mut found = Vec::new();
        {
            let shard = self.lock(from.shard);
            let (touched, next) = shard.seen().walk(from.cursor, entries_max.min(TOUCHED_MAX), |entry| {
                if shard.heat(&entry) == heat && of(entry.slot()) && self.reason_to_go(&entry, now).is_none() {
                    found.push(entry.clone());
                }
            });
            self.count_walked(touched);
            from.cursor = next.unwrap_or_default();
            if next.is_none() {
                from.shard += 1;
            }
        }
        if from.shard == self.shards.len() {
            from.shard = 0;
            from.colder_by += 1;
        }
        for entry in found {
            let key = entry.clone();
            show(key.key(), Hit::new(entry));
        }
        from.colder_by <= HEAT_MAX
    }
}
