//! [`Unsettled`]: keys of which a write may still arrive at the origin (rule P3).
//!
//! A write whose outcome is unknown may be done now or a little later. Until it can't be any more, what is loaded of the key is
//! answered and not kept.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use crate::{Key, Moment};

/// The most such keys of a group. Beyond it nothing of the group is kept for as long: an origin that leaves so many writes without an
/// answer is in trouble.
const UNSETTLED_MAX: usize = 16_384;

#[derive(Default)]
pub(super) struct Unsettled {
    keys: Mutex<Keys>,
    /// So that a load of a group without any needs no lock.
    count: AtomicUsize,
}

#[derive(Default)]
struct Keys {
    until: HashMap<Key, Moment>,
    /// Until when nothing is kept.
    all_until: Moment,
}

impl Unsettled {
    /// Nothing of a key is kept for so long.
    pub(super) fn add(&self, key: &Key, now: Moment, wait: Duration) {
        let mut keys = self.keys.lock();
        if keys.until.len() >= UNSETTLED_MAX {
            keys.until.retain(|_, until| now < *until);
        }
        if keys.until.len() < UNSETTLED_MAX {
            keys.until.insert(key.clone(), now + wait);
        } else {
            keys.all_until = keys.all_until.max(now + wait);
        }
        self.count.store(keys.until.len(), Ordering::Release);
    }

    /// Whether a key may be kept.
    pub(super) fn is_settled(&self, key: &Key, now: impl FnOnce() -> Moment) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return true;
        }
        let now = now();
        let mut keys = self.keys.lock();
        if now < keys.all_until {
            return false;
        }
        let is_settled = keys.until.get(key).is_none_or(|until| now >= *until);
        if is_settled {
            keys.until.remove(key);
            self.count.store(keys.until.len(), Ordering::Release);
        }
        is_settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::default() + Duration::from_millis(ms)
    }

    fn key(number: usize) -> Key {
        Key::new(number.to_string()).unwrap()
    }

    #[test]
    fn a_key_is_unsettled_for_so_long_and_others_are_not() {
        let unsettled = Unsettled::default();
        unsettled.add(&key(1), at(0), Duration::from_millis(100));
        assert!(!unsettled.is_settled(&key(1), || at(99)) && unsettled.is_settled(&key(2), || at(99)));
        assert!(unsettled.is_settled(&key(1), || at(100)));
        assert_eq!(unsettled.count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn where_there_are_too_many_all_are() {
        let unsettled = Unsettled::default();
        for number in 0..=UNSETTLED_MAX {
            unsettled.add(&key(number), at(0), Duration::from_millis(100));
        }
        assert!(!unsettled.is_settled(&Key::new("another").unwrap(), || at(99)));
        assert!(unsettled.is_settled(&Key::new("another").unwrap(), || at(100)));
    }
}
