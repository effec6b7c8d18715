//! [`Policy`]: which entry leaves when room is needed. A file each.

mod ghosts;
mod lru;
mod s3_fifo;

use super::{
    Policy as Choice,
    entry::{Entry, Held},
    hash::Locator,
    index::Seen,
};

/// What a shard asks of its policy. All calls come under the shard's lock, so that a policy needs none of its own; what
/// readers do without it is to make an entry hotter.
///
/// A policy is shown the index to find entries in, but adds and removes none. Where a method returns a number, that is how
/// many other entries it had to tell their place.
pub(super) trait Policy {
    /// A new entry came; `fits` says that nothing has to leave for it, `limit` how many bytes the shard may hold.
    fn admit(&mut self, locator: Locator, entry: &Entry, seen: Seen<'_>, limit: u64, fits: bool);

    /// A new entry is about to take the place of an older one of its key.
    fn replace(&mut self, locator: Locator, old: &Entry, new: &Entry, seen: Seen<'_>) -> usize;

    /// The entry was read by the lock's holder.
    fn used(&mut self, locator: Locator, entry: &Entry, seen: Seen<'_>) -> usize;

    /// The entry goes, and not for want of room.
    fn forget(&mut self, entry: &Entry, seen: Seen<'_>) -> usize;

    /// Chooses who leaves, and forgets it; adds how many entries it looked at to `touched`, and is not to look far any
    /// more once that is [`LOOKED_AT_MAX`]. `None` if there is no entry.
    fn evict<'a>(&mut self, seen: Seen<'a>, limit: u64, touched: &mut usize) -> Option<(Locator, Held<'a>)>;

    /// How hot an entry is: from 0, the coldest, to [`HEAT_MAX`](super::entry::HEAT_MAX).
    fn heat(&self, entry: &Entry) -> u32;
}

/// A shard's policy.
pub(super) enum Chosen {
    Lru(lru::Lru),
    S3Fifo(s3_fifo::S3Fifo),
}

impl Chosen {
    pub(super) fn new(choice: Choice) -> Self {
        match choice {
            Choice::Lru => Self::Lru(lru::Lru::new()),
            Choice::S3Fifo => Self::S3Fifo(s3_fifo::S3Fifo::new()),
        }
    }

    pub(super) fn policy(&mut self) -> &mut dyn Policy {
        match self {
            Self::Lru(lru) => lru,
            Self::S3Fifo(s3_fifo) => s3_fifo,
        }
    }

    pub(super) fn heat(&self, entry: &Entry) -> u32 {
        match self {
            Self::Lru(lru) => lru.heat(entry),
            Self::S3Fifo(s3_fifo) => s3_fifo.heat(entry),
        }
    }
}

/// How many entries are looked at for better ones to leave, in one holding of the lock.
pub(super) const LOOKED_AT_MAX: usize = super::shard::TOUCHED_MAX / 2;
