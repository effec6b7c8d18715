//! [`Seal`]: datagrams that only who has the cluster's key can write and read, and that are taken once.
//!
//! Each run of a node draws a sender's number, and makes of it and of the cluster's key a key of its own (HKDF, RFC 5869),
//! so that its counter of datagrams is never used twice with a key: the counter is the nonce of ChaCha20-Poly1305 (RFC
//! 8439). A receiver takes each of a sender's counters once ([`Windows`]), and nothing whose time stamp is far from its own
//! clock: so a datagram can't be played again to a node that has forgotten its sender, or that has just been started.
//!
//! ```text
//! version, 1 byte | sender, 16 | counter, 8 | milliseconds since 1970, 8 | sealed text | tag, 16
//! ```
//!
//! All before the text is authenticated with it. A cluster without a key seals with one that everybody knows: that keeps
//! nothing secret and nobody out, but foreign and damaged datagrams.

use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Prk, Salt},
    rand::{SecureRandom, SystemRandom},
};
use tokio::time::Instant;

use super::window::{Sender, Windows};

/// Length of a key, in bytes.
pub const KEY_LEN: usize = 32;

/// The first byte of each datagram; another format has another one.
const VERSION: u8 = 1;

/// What keys are made for, so that no other use of the same secret has the same ones.
const PURPOSE: &[u8] = b"larder gossip 1";

/// What stands in for a key where there is none.
const NO_KEY: &[u8] = b"no key: everybody may gossip";

const SENDER_AT: usize = 1;
const COUNTER_AT: usize = SENDER_AT + 16;
const STAMP_AT: usize = COUNTER_AT + 8;
const TEXT_AT: usize = STAMP_AT + 8;

/// How many bytes sealing adds.
pub(super) const OVERHEAD: usize = TEXT_AT + MAX_TAG_LEN;

/// How far a datagram's stamp may be from the receiver's wall clock, in milliseconds: as much as clocks may differ (rule
/// V2: [`WALL_APART_MS_MAX`](larder_core::standing::WALL_APART_MS_MAX)), and some seconds for the way.
pub(super) const STAMP_APART_MS_MAX: u64 = larder_core::standing::WALL_APART_MS_MAX + 5_000;

/// Why a datagram was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// It is not sealed with this key, or not sealed at all.
    Foreign,
    /// It is genuine, and its stamp is far from this node's clock.
    Stamp,
    /// It has been taken before, or is older than what is remembered; or it is this node's own; or there is no room for its
    /// sender.
    Replay,
}

/// What seals and opens the datagrams of one run of a node.
pub(super) struct Seal {
    cluster: Prk,
    sender: Sender,
    own: LessSafeKey,
    sent: u64,
    windows: Windows<LessSafeKey>,
}

impl Seal {
    /// Seals with the cluster's key; `None` is a cluster without one. Fails where the system has no random bytes.
    pub(super) fn new(key: Option<&[u8; KEY_LEN]>) -> Option<Self> {
        let cluster = Salt::new(HKDF_SHA256, PURPOSE).extract(key.map_or(NO_KEY, |key| key));
        let mut sender = Sender::default();
        // Security's chance is the system's, and none that a test could repeat.
        SystemRandom::new().fill(&mut sender).ok()?;
        let own = key_of(&cluster, &sender)?;
        Some(Self { cluster, sender, own, sent: 0, windows: Windows::default() })
    }

    /// Puts the sealed text into `datagram`, in place of what was there.
    pub(super) fn seal(&mut self, text: &[u8], wall_ms: u64, datagram: &mut Vec<u8>) {
        let counter = self.sent;
        self.sent += 1;
        datagram.clear();
        datagram.reserve(text.len() + OVERHEAD);
        datagram.push(VERSION);
        datagram.extend(self.sender);
        datagram.extend(counter.to_le_bytes());
        datagram.extend(wall_ms.to_le_bytes());
        let head: [u8; TEXT_AT] = datagram[..].try_into().unwrap_or_else(|_| unreachable!("the head has this length"));
        datagram.extend(text);
        let (_, sealed) = datagram.split_at_mut(TEXT_AT);
        let tag = self.own.seal_in_place_separate_tag(nonce(counter), Aad::from(head), sealed);
        // Texts are no longer than a datagram; only gigabytes can't be sealed.
        let tag = tag.unwrap_or_else(|_| unreachable!("the text is short"));
        datagram.extend(tag.as_ref());
    }

    /// The text of a datagram.
    pub(super) fn open<'d>(&mut self, datagram: &'d mut [u8], wall_ms: u64, now: Instant) -> Result<&'d [u8], Refusal> {
        if datagram.len() < OVERHEAD || datagram[0] != VERSION {
            return Err(Refusal::Foreign);
        }
        let (head, sealed) = datagram.split_at_mut(TEXT_AT);
        let sender: Sender = field(head, SENDER_AT);
        let counter = u64::from_le_bytes(field(head, COUNTER_AT));
        let stamp_ms = u64::from_le_bytes(field(head, STAMP_AT));
        // First, because it is cheap: a flood of copies costs no decryption.
        if sender == self.sender || !self.windows.is_new(&sender, counter) {
            return Err(Refusal::Replay);
        }
        let unknown = match self.windows.get(&sender) {
            Some(_) => None,
            None => Some(key_of(&self.cluster, &sender).ok_or(Refusal::Foreign)?),
        };
        let known = unknown.as_ref().or_else(|| self.windows.get(&sender)).ok_or(Refusal::Foreign)?;
        let text = known.open_in_place(nonce(counter), Aad::from(head), sealed).map_err(|_| Refusal::Foreign)?;
        if stamp_ms.abs_diff(wall_ms) > STAMP_APART_MS_MAX {
            return Err(Refusal::Stamp);
        }
        let taken = match unknown {
            Some(key) => self.windows.take(sender, counter, now, || key),
            None => self.windows.take(sender, counter, now, || unreachable!("the sender is known")),
        };
        if taken { Ok(text) } else { Err(Refusal::Replay) }
    }
}

/// A sender's own key.
fn key_of(cluster: &Prk, sender: &Sender) -> Option<LessSafeKey> {
    let info = [&sender[..]];
    let key = cluster.expand(&info, &CHACHA20_POLY1305).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(key)))
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The field of a head that begins at `at`. The head is whole.
fn field<const LEN: usize>(head: &[u8], at: usize) -> [u8; LEN] {
    std::array::from_fn(|place| head[at + place])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOW_MS: u64 = 1_750_000_000_000;

    fn seal(key: u8) -> Seal {
        Seal::new(Some(&[key; KEY_LEN])).unwrap()
    }

    fn sealed(by: &mut Seal, text: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::new();
        by.seal(text, NOW_MS, &mut datagram);
        datagram
    }

    fn opened(by: &mut Seal, datagram: &[u8]) -> Result<Vec<u8>, Refusal> {
        opened_at(by, datagram, NOW_MS)
    }

    fn opened_at(by: &mut Seal, datagram: &[u8], wall_ms: u64) -> Result<Vec<u8>, Refusal> {
        let now = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let now = now.block_on(async { Instant::now() });
        by.open(&mut datagram.to_vec(), wall_ms, now).map(<[u8]>::to_vec)
    }

    #[test]
    fn a_text_comes_back_once_to_each_who_has_the_key() {
        let (mut one, mut other, mut third) = (seal(1), seal(1), seal(1));
        for text in [&b"hello"[..], b"", &[7; 60_000]] {
            let datagram = sealed(&mut one, text);
            assert_eq!(datagram.len(), text.len() + OVERHEAD);
            for receiver in [&mut other, &mut third] {
                assert_eq!(opened(receiver, &datagram).as_deref(), Ok(text));
                assert_eq!(opened(receiver, &datagram), Err(Refusal::Replay));
            }
            assert_eq!(opened(&mut one, &datagram), Err(Refusal::Replay), "its own comes back to it");
        }
    }

    #[test]
    fn nothing_of_a_text_can_be_read_and_equal_texts_look_different() {
        let mut one = seal(1);
        let text = [42; 64];
        let (first, second) = (sealed(&mut one, &text), sealed(&mut one, &text));
        assert!(!first.windows(8).any(|bytes| bytes == [42; 8]));
        assert_ne!(first[TEXT_AT..], second[TEXT_AT..]);
        let mut again = seal(1);
        assert_ne!(sealed(&mut again, &text)[TEXT_AT..], first[TEXT_AT..], "another run has another key");
    }

    #[test]
    fn who_has_another_key_or_none_is_foreign() {
        let (mut one, mut other, mut none) = (seal(1), seal(2), Seal::new(None).unwrap());
        let datagram = sealed(&mut one, b"hello");
        assert_eq!(opened(&mut other, &datagram), Err(Refusal::Foreign));
        assert_eq!(opened(&mut none, &datagram), Err(Refusal::Foreign));
        let datagram = sealed(&mut none, b"hello");
        assert_eq!(opened(&mut one, &datagram), Err(Refusal::Foreign));
        assert_eq!(opened(&mut Seal::new(None).unwrap(), &datagram).as_deref(), Ok(&b"hello"[..]));
    }

    #[test]
    fn what_was_sealed_long_ago_is_refused_also_by_who_never_saw_it() {
        let (mut one, mut other) = (seal(1), seal(1));
        let datagram = sealed(&mut one, b"hello");
        for apart_ms in [STAMP_APART_MS_MAX + 1, 3_600_000] {
            assert_eq!(opened_at(&mut other, &datagram, NOW_MS + apart_ms), Err(Refusal::Stamp));
            assert_eq!(opened_at(&mut other, &datagram, NOW_MS - apart_ms), Err(Refusal::Stamp));
        }
        assert!(
            opened_at(&mut other, &datagram, NOW_MS + STAMP_APART_MS_MAX).is_ok(),
            "what was refused counts as new"
        );
    }

    #[test]
    fn the_senders_forgotten_are_those_whose_datagrams_are_too_old_anyway() {
        assert!(Duration::from_millis(STAMP_APART_MS_MAX) * 4 <= Duration::from_secs(60));
    }

    proptest! {
        #[test]
        fn a_changed_byte_or_another_length_is_refused_and_harms_nothing(
            text in prop::collection::vec(any::<u8>(), 0..200),
            at: prop::sample::Index,
            change in 1..=u8::MAX,
            len: prop::sample::Index,
        ) {
            let (mut one, mut other) = (seal(1), seal(1));
            let datagram = sealed(&mut one, &text);
            let mut changed = datagram.clone();
            let place = at.index(changed.len());
            changed[place] ^= change;
            prop_assert_eq!(opened(&mut other, &changed), Err(Refusal::Foreign));
            prop_assert_eq!(opened(&mut other, &datagram[..len.index(datagram.len())]), Err(Refusal::Foreign));
            let longer = [&datagram[..], &[change]].concat();
            prop_assert_eq!(opened(&mut other, &longer), Err(Refusal::Foreign));
            prop_assert_eq!(opened(&mut other, &datagram), Ok(text));
        }

        #[test]
        fn garbage_is_refused(mut datagram in prop::collection::vec(any::<u8>(), 0..200), has_version: bool) {
            if has_version && let Some(first) = datagram.first_mut() {
                *first = VERSION;
            }
            prop_assert_eq!(opened(&mut seal(1), &datagram), Err(Refusal::Foreign));
        }
    }
}
