//! [`Policy`]: which entry leaves when room is needed. A file each.

mod ghosts;
mod lru;
mod s3_fifo;

pub(super) use lru::Lru;
pub(super) use s3_fifo::S3Fifo;

use super::{entry::Entry, hash::Locator, index::Index};

/// What a shard asks of its policy. All calls come under the shard's exclusive lock, so that a policy needs none of its
/// own; [`S3Fifo::raise`], the exception, touches nothing but one atomic field of the entry.
///
/// A policy is shown the index to find entries in, but adds and removes none.
pub(super) trait Policy {
    /// A new entry came; `fits` says that nothing has to leave for it, `limit` how many bytes the shard may hold.
    fn admit(&mut self, locator: Locator, entry: &Entry, index: &Index, limit: u64, fits: bool);

    /// A new entry took the place of an older one of its key.
    fn replace(&mut self, locator: Locator, old: &Entry, new: &Entry, index: &Index);

    /// The entry was read.
    fn used(&mut self, locator: Locator, entry: &Entry, index: &Index);

    /// The entry goes, and not for want of room.
    fn forget(&mut self, entry: &Entry, index: &Index);

    /// Chooses who leaves, and forgets it; adds how many entries it looked at to `touched`, and is not to look far any
    /// more once that is [`LOOKED_AT_MAX`]. `None` if there is no entry.
    fn evict(&mut self, index: &Index, limit: u64, touched: &mut usize) -> Option<(Locator, Entry)>;

    /// How hot an entry is: from 0, the coldest, to [`HEAT_MAX`].
    fn heat(&self, entry: &Entry) -> u8;
}

/// How many entries are looked at for better ones to leave, in one holding of the lock.
const LOOKED_AT_MAX: usize = super::shard::TOUCHED_MAX / 2;

/// The hottest that [`Policy::heat`] says.
pub(super) const HEAT_MAX: u8 = 3;
