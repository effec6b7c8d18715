//! [`Slot`]: one of the 16,384 shares that the keys are divided into.
//!
//! The function is Redis Cluster's ("Redis cluster specification", sections "Key distribution model" and "Hash tags"),
//! applied to `group:key`, so that whoever can place a Redis key can place one of Larder's.

use std::{fmt, ops::Range};

use crc::{CRC_16_XMODEM, Crc, Table};

/// How many slots there are: as many as in Redis Cluster, whose slot function this is.
pub const SLOT_COUNT: u16 = 16_384;

static CRC: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&CRC_16_XMODEM);

/// One of [`SLOT_COUNT`] shares of the keys. Every slot has one owner.
///
/// # Examples
///
/// ```
/// use larder_core::placement::Slot;
///
/// // What stands in the first braces decides alone, so that keys can be kept together.
/// assert_eq!(Slot::of("users", b"{42}.name"), Slot::of("carts", b"{42}.items"));
/// assert_ne!(Slot::of("users", b"42"), Slot::of("carts", b"42"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(u16);

impl Slot {
    /// The slot of a group's key: CRC-16/XMODEM of `group:key`, or of its hash tag if it has one, modulo [`SLOT_COUNT`].
    ///
    /// The hash tag is what stands between the first `{` and the first `}` after it, unless that is nothing.
    #[must_use]
    pub fn of(group: &str, key: &[u8]) -> Self {
        let text = [group.as_bytes(), b":", key];
        let mut digest = CRC.digest();
        match hash_tag(text) {
            None => text.into_iter().for_each(|part| digest.update(part)),
            Some(tag) => {
                let mut part_start = 0;
                for part in text {
                    let within = |at: usize| at.saturating_sub(part_start).min(part.len());
                    digest.update(&part[within(tag.start)..within(tag.end)]);
                    part_start += part.len();
                }
            }
        }
        Self(digest.finalize() % SLOT_COUNT)
    }

    /// The slot of this number, if there is one.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < SLOT_COUNT { Some(Self(number)) } else { None }
    }

    /// Every slot, in order.
    pub fn all() -> impl ExactSizeIterator<Item = Self> + DoubleEndedIterator {
        (0..SLOT_COUNT).map(Self)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the hash tag stands in these parts written one after another.
fn hash_tag(text: [&[u8]; 3]) -> Option<Range<usize>> {
    // Nearly no key has one: one pass over each part for the first brace, which the compiler makes wide steps of.
    if !text.iter().any(|part| part.contains(&b'{')) {
        return None;
    }
    let mut bytes = text.into_iter().flatten();
    let start = bytes.position(|&byte| byte == b'{')? + 1;
    let len = bytes.position(|&byte| byte == b'}')?;
    (len > 0).then_some(start..start + len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Redis's own `CLUSTER KEYSLOT` computes for a whole key.
    fn keyslot(text: &str) -> u16 {
        let (group, key) = text.split_once(':').expect("a colon");
        Slot::of(group, key.as_bytes()).number()
    }

    #[test]
    fn the_checksum_is_the_one_of_redis_cluster() {
        assert_eq!(CRC.checksum(b"123456789"), 0x31c3);
        for (key, slot) in [("foo", 12_182), ("bar", 5_061), ("hello", 866), ("somekey", 11_058), ("a", 15_495)] {
            assert_eq!(CRC.checksum(key.as_bytes()) % SLOT_COUNT, slot, "{key}");
            assert_eq!(Slot::of("any", format!("{{{key}}}").as_bytes()).number(), slot, "{{{key}}}");
        }
    }

    #[test]
    fn a_group_and_its_key_hash_as_one_text() {
        for (group, key) in [("users", ""), ("users", "42"), ("u", "a:b:c"), ("g", "a key of more than sixteen bytes")]
        {
            let whole = CRC.checksum(format!("{group}:{key}").as_bytes()) % SLOT_COUNT;
            assert_eq!(Slot::of(group, key.as_bytes()).number(), whole, "{group}:{key}");
        }
    }

    #[test]
    fn the_hash_tag_is_the_one_redis_takes() {
        let of = |text: &str| CRC.checksum(text.as_bytes()) % SLOT_COUNT;
        // The examples of the specification, each with a group before it.
        assert_eq!(keyslot("g:{user1000}.following"), of("user1000"));
        assert_eq!(keyslot("g:{user1000}.followers"), of("user1000"));
        assert_eq!(keyslot("g:foo{}{bar}"), of("g:foo{}{bar}"));
        assert_eq!(keyslot("g:foo{{bar}}zap"), of("{bar"));
        assert_eq!(keyslot("g:foo{bar}{zap}"), of("bar"));
        assert_eq!(keyslot("g:foo{hash_tag}"), 2_515);
        // And the odd ones.
        assert_eq!(keyslot("g:foo}{bar"), of("g:foo}{bar"));
        assert_eq!(keyslot("g:}foo{bar}"), of("bar"));
        assert_eq!(keyslot("g:{"), of("g:{"));
        assert_eq!(keyslot("{tag}g:key"), of("tag"));
        assert_eq!(keyslot("x{y:z}"), of("y:z"));
    }

    #[test]
    fn there_are_slots_below_the_count_only() {
        assert_eq!(Slot::new(SLOT_COUNT), None);
        assert_eq!(Slot::all().len(), usize::from(SLOT_COUNT));
        assert_eq!(Slot::all().next_back(), Slot::new(SLOT_COUNT - 1));
    }
}
