//! [`Inherited`]: keys that their former owner was writing to their origin when their slot was claimed (rule C2).
//!
//! Until that one reports the end, or can't any more, this node guards them as if a write of its own were under way.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

use super::{Group, Inner};
use crate::{
    Key,
    claim::{Carried, GUARDS_MAX, REMEMBERED_MAX, Remembered},
    placement::{Slot, SlotSet},
};

/// The most keys of a group that are guarded for former owners: as many as four claims bring. Others end by their writers' word alone.
const INHERITED_MAX: usize = 4 * GUARDS_MAX;

/// How much longer than the write may take its end may take to be told.
const HEARSAY: Duration = Duration::from_secs(1);

/// Who is told that the write of a key has ended.
#[derive(Default)]
pub(super) struct Inherited(Mutex<HashMap<Key, oneshot::Sender<()>>>);

impl Group {
    /// Adds what goes with slots of this group that are released, as far as there are so many bytes of `room`.
    pub(crate) fn carry(&self, slots: &SlotSet, carried: &mut Carried, room: &mut usize) {
        let Inner { name, leases, loads, memory, .. } = &*self.0;
        let slot_of = |key: &Key| Slot::of(name, key.as_bytes());
        let goes = |key: &Key| slots.contains(slot_of(key));
        let now = self.now();
        leases.carry(slots, slot_of, now, carried);
        let mut fits = |len: usize| {
            let left = room.checked_sub(len);
            *room = left.unwrap_or(*room);
            left.is_some()
        };
        for key in loads.written_outside(goes) {
            if carried.guards.len() < GUARDS_MAX && fits(name.len() + key.as_bytes().len()) {
                carried.guards.push((name.clone(), key));
            }
        }
        memory.show(goes, now, |key, idempotency_key, came_to, age| {
            let has_room = carried.remembered.len() < REMEMBERED_MAX
                && fits(name.len() + key.as_bytes().len() + idempotency_key.len());
            if has_room {
                let (group, key, idempotency_key) = (name.clone(), key.clone(), idempotency_key.clone());
                carried.remembered.push(Remembered { group, key, idempotency_key, came_to, age });
            }
            has_room
        });
    }

    /// Takes what came with slots of this group.
    pub(crate) fn remember(&self, Remembered { key, idempotency_key, came_to, age, .. }: &Remembered) {
        self.0.memory.add(key, idempotency_key, *came_to, self.now().before(*age));
    }

    /// Guards a key that its former owner is writing, until that one says that it has ended, or `hard_timeout` has passed.
    pub(crate) fn guard_inherited(&self, key: &Key) {
        let Inner { inherited, loads, .. } = &*self.0;
        let mut keys = inherited.0.lock();
        keys.retain(|_, tell| !tell.is_closed());
        if keys.len() >= INHERITED_MAX || keys.contains_key(key) {
            return;
        }
        let Some(mut writer) = loads.write(key) else { return };
        let (tell, told) = oneshot::channel();
        keys.insert(key.clone(), tell);
        let (group, key, wait) = (self.clone(), key.clone(), self.config().hard_timeout + HEARSAY);
        tokio::spawn(async move {
            // Told or not: what was loaded meanwhile was not kept, and nothing of it can be under way at the origin any more.
            drop(timeout(wait, told).await);
            writer.turn().await;
            writer.end(|| group.0.store.remove(key.as_bytes()));
            group.0.inherited.0.lock().retain(|_, tell| !tell.is_closed());
        });
    }

    /// Whether a key is guarded for its former owner.
    #[cfg(test)]
    pub(super) fn inherits(&self, key: &Key) -> bool {
        self.0.inherited.0.lock().get(key).is_some_and(|tell| !tell.is_closed())
    }

    /// The former owner of a key has ended its write of it.
    pub(super) fn lower_inherited(&self, key: &Key) {
        if let Some(tell) = self.0.inherited.0.lock().remove(key) {
            // If it has waited long enough already, it is gone.
            let _gone = tell.send(());
        }
    }
}
