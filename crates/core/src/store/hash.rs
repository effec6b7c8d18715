//! [`KeyHasher`]: a key's hash, of which every part has one use.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

/// Hashes keys, depending on a seed.
#[derive(Clone)]
pub(super) struct KeyHasher(FixedState);

impl KeyHasher {
    pub(super) fn new(seed: u64) -> Self {
        Self(FixedState::with_seed(seed))
    }

    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> KeyHash {
        let mut hasher = self.0.build_hasher();
        hasher.write(key);
        KeyHash(hasher.finish())
    }
}

/// 64 bits: the lower half chooses the shard, the upper is the [`Locator`].
#[derive(Clone, Copy, Default)]
pub(super) struct KeyHash(u64);

impl KeyHash {
    /// Which of `count` shards, a power of two.
    #[inline]
    pub(super) const fn shard(self, count: usize) -> usize {
        self.0 as u32 as usize & (count - 1)
    }

    #[inline]
    pub(super) const fn locator(self) -> Locator {
        let upper = (self.0 >> 32) as u32;
        Locator(if upper == 0 { 1 } else { upper })
    }
}

/// 32 bits of a key's hash, never zero: all that a shard's tables know of a key. The upper bits choose table and bucket,
/// the lowest eight are kept in the bucket, the lowest twelve in a ghost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Locator(pub(super) u32);

impl Locator {
    /// What a bucket keeps; zero marks an empty place there.
    #[inline]
    pub(super) const fn tag(self) -> u8 {
        let tag = self.0 as u8;
        if tag == 0 { 1 } else { tag }
    }
}
