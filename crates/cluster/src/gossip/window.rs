//! [`Windows`]: which datagrams of each sender have been taken already, so that none is taken twice.
//!
//! After RFC 4303, section 3.4.3 (IPsec's window against replays).

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// How far behind the latest of its sender a datagram may come. Gossip sends some dozens a second.
const WINDOW_LEN: u64 = u128::BITS as u64;

/// The most senders that are remembered: the largest cluster that gossips, several times over, since each run of a node is
/// a sender of its own.
pub(super) const SENDERS_MAX: usize = 1024;

/// For how long a sender is remembered that sends no more. By then its datagrams are refused for their age
/// ([`STAMP_APART_MS_MAX`](super::seal::STAMP_APART_MS_MAX)), twice over.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// Who sends: drawn by chance for each run of a node.
pub(super) type Sender = [u8; 16];

/// The datagrams taken from each sender, as far as they matter, and what `T` is to each.
pub(super) struct Windows<T> {
    senders: HashMap<Sender, Window<T>>,
}

struct Window<T> {
    latest: u64,
    /// Bit `n`: the datagram numbered `latest - n` has been taken.
    taken: u128,
    taken_at: Instant,
    with: T,
}

impl<T> Default for Windows<T> {
    fn default() -> Self {
        Self { senders: HashMap::new() }
    }
}

impl<T> Windows<T> {
    /// What there is for a sender that is known.
    pub(super) fn get(&self, sender: &Sender) -> Option<&T> {
        self.senders.get(sender).map(|window| &window.with)
    }

    /// Whether the datagram is a new one. Takes nothing yet: whether it is genuine is to be found out.
    pub(super) fn is_new(&self, sender: &Sender, number: u64) -> bool {
        let Some(window) = self.senders.get(sender) else { return true };
        match window.latest.checked_sub(number) {
            Some(behind) => behind < WINDOW_LEN && window.taken & (1 << behind) == 0,
            None => true,
        }
    }

    /// Takes a datagram that is new and genuine. Not so if the sender is unknown and there is no room for more.
    pub(super) fn take(&mut self, sender: Sender, number: u64, now: Instant, with: impl FnOnce() -> T) -> bool {
        if let Some(window) = self.senders.get_mut(&sender) {
            window.take(number);
            window.taken_at = now;
            return true;
        }
        if self.senders.len() >= SENDERS_MAX {
            self.senders.retain(|_, window| now - window.taken_at < REMEMBERED_FOR);
        }
        let has_room = self.senders.len() < SENDERS_MAX;
        if has_room {
            self.senders.insert(sender, Window { latest: number, taken: 1, taken_at: now, with: with() });
        }
        has_room
    }
}

impl<T> Window<T> {
    fn take(&mut self, number: u64) {
        match number.checked_sub(self.latest) {
            Some(ahead) => {
                self.taken = if ahead < WINDOW_LEN { self.taken << ahead | 1 } else { 1 };
                self.latest = number;
            }
            None => self.taken |= 1 << (self.latest - number),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_number_is_taken_twice_and_none_near_the_latest_is_missed(
            numbers in prop::collection::vec(prop_oneof![0..600_u64, (0..8_u64).prop_map(|near| u64::MAX - near)], 1..400),
        ) {
            let now = now();
            let (mut windows, mut taken, mut latest) = (Windows::default(), HashSet::new(), 0);
            for number in numbers {
                let is_new = windows.is_new(&[7; 16], number);
                prop_assert!(!is_new || !taken.contains(&number), "{} twice", number);
                if is_new {
                    prop_assert!(windows.take([7; 16], number, now, || ()));
                    taken.insert(number);
                    latest = latest.max(number);
                } else {
                    prop_assert!(taken.contains(&number) || latest - number >= WINDOW_LEN, "{} missed", number);
                }
            }
        }
    }

    fn now() -> Instant {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async { Instant::now() })
    }

    fn sender(number: usize) -> Sender {
        (number as u128).to_le_bytes()
    }

    #[test]
    fn senders_are_bounded_and_who_has_long_been_silent_makes_room() {
        let start = now();
        let mut windows = Windows::default();
        for number in 0..SENDERS_MAX {
            assert!(windows.take(sender(number), 1, start, || number));
        }
        let later = start + REMEMBERED_FOR;
        assert!(windows.take(sender(0), 2, later, || 0), "the known are served");
        assert!(!windows.take(sender(SENDERS_MAX), 1, later - Duration::from_millis(1), || 0));
        assert!(windows.take(sender(SENDERS_MAX), 1, later, || 0));
        assert_eq!((windows.senders.len(), windows.get(&sender(0)), windows.get(&sender(1))), (2, Some(&0), None));
        assert!(!windows.is_new(&sender(0), 1) && windows.is_new(&sender(0), 3));
    }
}
