//! [`Leases`]: to whom the owner of a key has lent copies, and until when (rules L1 and L2).
//!
//! They stand apart from the entries, whose eviction they survive. A write is acknowledged once every copy is gone: revoked, or
//! run out.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::{
    Key, Moment,
    claim::Carried,
    placement::{Slot, SlotSet},
};

/// The most keys of a group that leases are granted of. A key of 40 bytes takes some 250 bytes here: 4 MB.
const LEASES_MAX: usize = 16_384;

/// The most holders of a key that are told apart. With more, all members count as holders: asking each of a large cluster costs a
/// write no more than keeping their names does.
const HOLDERS_MAX: usize = 8;

/// Of a key that was lent.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    /// Who holds copies; `None`: more than are told apart.
    pub(super) holders: Option<SmallVec<[Arc<str>; 2]>>,
    /// When the last one ends.
    pub(super) ends: Moment,
    /// How many members had left when the first was granted: if any has left since, it can't be asked any more.
    pub(super) departures: u64,
    /// What the copies take, in bytes.
    len: u64,
}

#[derive(Default)]
pub(super) struct Leases {
    keys: Mutex<Keys>,
    /// So that a write to a group without leases needs no lock.
    count: AtomicUsize,
}

#[derive(Default)]
struct Keys {
    leases: HashMap<Key, Lease>,
    /// What all copies take, in bytes.
    len: u64,
    /// When those that have ended were last looked for.
    swept: Moment,
}

impl Leases {
    /// Lends a copy of `len` bytes until `ends`, if `may` agrees; it is asked under the lock under which leases are
    /// [collected](Self::of) for who claims the slot. Whether it is lent.
    pub(super) fn grant(
        &self,
        key: &Key,
        holder: &Arc<str>,
        (now, ends): (Moment, Moment),
        departures: u64,
        len: u64,
        may: impl FnOnce() -> bool,
    ) -> bool {
        let mut keys = self.keys.lock();
        if !may() {
            return false;
        }
        if keys.leases.len() >= LEASES_MAX && !keys.leases.contains_key(key) && !keys.sweep(now) {
            return false;
        }
        let lease = keys.leases.entry(key.clone()).or_insert_with(|| Lease {
            holders: Some(SmallVec::new()),
            ends: Moment::default(),
            departures,
            len: 0,
        });
        let mut is_new = false;
        if let Some(holders) = &mut lease.holders
            && !holders.contains(holder)
        {
            is_new = true;
            if holders.len() < HOLDERS_MAX {
                holders.push(holder.clone());
            } else {
                lease.holders = None;
            }
        }
        if is_new {
            lease.len += len;
        }
        lease.ends = lease.ends.max(ends);
        keys.len += if is_new { len } else { 0 };
        self.count.store(keys.leases.len(), Ordering::Release);
        true
    }

    /// What a key is lent to, as of now.
    pub(super) fn of(&self, key: &Key, now: Moment) -> Option<Lease> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut keys = self.keys.lock();
        let lease = keys.leases.get(key)?.clone();
        if now < lease.ends {
            return Some(lease);
        }
        keys.remove(key);
        self.count.store(keys.leases.len(), Ordering::Release);
        None
    }

    /// All copies of a key are gone.
    pub(super) fn settled(&self, key: &Key) {
        let mut keys = self.keys.lock();
        keys.remove(key);
        self.count.store(keys.leases.len(), Ordering::Release);
    }

    /// What all copies take, in bytes, about: those that have ended are counted until they are looked for.
    pub(super) fn len(&self, now: Moment, every: Duration) -> u64 {
        if self.count.load(Ordering::Acquire) == 0 {
            return 0;
        }
        let mut keys = self.keys.lock();
        if now >= keys.swept + every {
            keys.sweep(now);
            self.count.store(keys.leases.len(), Ordering::Release);
        }
        keys.len
    }

    /// Adds those of some slots to what goes with these.
    pub(super) fn carry(&self, slots: &SlotSet, slot_of: impl Fn(&Key) -> Slot, now: Moment, carried: &mut Carried) {
        let keys = self.keys.lock();
        for (key, lease) in keys.leases.iter().filter(|(_, lease)| now < lease.ends) {
            let slot = slot_of(key);
            if slots.contains(slot) {
                carried.leased.insert(slot);
                carried.leases_left = carried.leases_left.max(lease.ends.since(now));
            }
        }
    }
}

impl Keys {
    /// Forgets those that have ended; whether there is room then.
    fn sweep(&mut self, now: Moment) -> bool {
        let len = &mut self.len;
        self.leases.retain(|_, lease| {
            let stays = now < lease.ends;
            *len -= if stays { 0 } else { lease.len };
            stays
        });
        self.swept = now;
        self.leases.len() < LEASES_MAX
    }

    fn remove(&mut self, key: &Key) {
        if let Some(lease) = self.leases.remove(key) {
            self.len -= lease.len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name.to_owned()).unwrap()
    }

    fn at(ms: u64) -> Moment {
        Moment::default() + Duration::from_millis(ms)
    }

    fn grant(leases: &Leases, name: &str, holder: &str, now: u64, ends: u64) -> bool {
        leases.grant(&key(name), &holder.into(), (at(now), at(ends)), 3, 100, || true)
    }

    #[test]
    fn the_last_end_counts_and_each_holder_once() {
        let leases = Leases::default();
        assert!(
            grant(&leases, "k", "a", 0, 1_000)
                && grant(&leases, "k", "b", 100, 900)
                && grant(&leases, "k", "a", 200, 500)
        );
        let lease = leases.of(&key("k"), at(999)).unwrap();
        assert_eq!((lease.holders.unwrap().len(), lease.ends, lease.departures), (2, at(1_000), 3));
        assert_eq!(leases.len(at(999), Duration::from_secs(1)), 200);
        assert!(leases.of(&key("k"), at(1_000)).is_none());
        assert_eq!(leases.len(at(1_000), Duration::from_secs(1)), 0);
    }

    #[test]
    fn beyond_eight_holders_everybody_is_one() {
        let leases = Leases::default();
        for number in 0..HOLDERS_MAX {
            assert!(grant(&leases, "k", &number.to_string(), 0, 1_000));
        }
        assert!(leases.of(&key("k"), at(1)).unwrap().holders.is_some());
        assert!(grant(&leases, "k", "one more", 0, 1_000));
        assert!(leases.of(&key("k"), at(1)).unwrap().holders.is_none());
    }

    #[test]
    fn a_full_table_grants_nothing_until_some_have_ended() {
        let leases = Leases::default();
        for number in 0..LEASES_MAX {
            assert!(grant(&leases, &number.to_string(), "a", 0, 1_000));
        }
        assert!(!grant(&leases, "more", "a", 500, 1_500));
        assert!(grant(&leases, "7", "b", 500, 1_500), "one that is there already");
        assert!(grant(&leases, "more", "a", 1_000, 2_000));
    }

    #[test]
    fn what_is_lent_of_slots_goes_with_them() {
        let leases = Leases::default();
        assert!(grant(&leases, "k", "a", 0, 1_000));
        let slot_of = |key: &Key| Slot::of("g", key.as_bytes());
        let (mine, other) = (slot_of(&key("k")), slot_of(&key("another")));
        let mut carried = Carried::default();
        leases.carry(&[other].into_iter().collect(), slot_of, at(1), &mut carried);
        assert_eq!(carried, Carried::default());
        leases.carry(&[mine].into_iter().collect(), slot_of, at(400), &mut carried);
        assert_eq!((carried.leased.contains(mine), carried.leases_left), (true, Duration::from_millis(600)));
    }
}
