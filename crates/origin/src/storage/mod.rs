//! [`Storage`]: the seam to a disk, as narrow as the journal needs it: one file.
//!
//! [`DiskStorage`] is the real one. The fake (feature `testing`) forgets, tears and reorders what was not synced, and fails
//! in the ways that disks do, from a seed. No buffer is in between: what a call says is done is what the system was told.

mod disk;
#[cfg(feature = "testing")]
pub mod fake;

use std::{fmt, io, sync::Arc};

pub use disk::DiskStorage;
pub(crate) use disk::ReadOnlyFile;

/// Fills a file that is being created.
pub type Fill<'a> = &'a mut dyn FnMut(&Arc<dyn StorageFile>) -> io::Result<()>;

/// A place for one file.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// What messages call the file.
    fn name(&self) -> String;

    /// Opens the file for its only user, for as long as what is given back is held. One that isn't there is created: `fill`
    /// writes and syncs it, and it takes its name in one step when that is done. So a file that is there was filled.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if somebody else has it open; what the system says, otherwise.
    fn open(&self, fill: Fill<'_>) -> io::Result<Arc<dyn StorageFile>>;
}

/// An open file. Positions and lengths are in bytes.
///
/// What was written is sure to outlast the machine only once a [`sync`](Self::sync) that began later has succeeded. One that
/// failed says that nobody knows what is on the disk, and that no later one will tell.
pub trait StorageFile: fmt::Debug + Send + Sync + 'static {
    /// How long it is.
    ///
    /// # Errors
    ///
    /// What the system says; so do all the others.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    ///
    /// As [`len`](Self::len).
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `into` with the bytes from `at` on. That there are fewer is an error.
    ///
    /// # Errors
    ///
    /// As [`len`](Self::len).
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` at `at`. [`io::ErrorKind::StorageFull`] leaves any part of them written.
    ///
    /// # Errors
    ///
    /// As [`len`](Self::len).
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts it, or lengthens it with zeroes. Where the file system can, there is room for all of it from then on.
    ///
    /// # Errors
    ///
    /// As [`len`](Self::len).
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Returns when everything written before, and the length, will outlast the machine.
    ///
    /// # Errors
    ///
    /// As [`len`](Self::len).
    fn sync(&self) -> io::Result<()>;
}
