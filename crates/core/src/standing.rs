//! [`Standing`]: who a node is and how far it has come: what it tells in every exchange with another.
//!
//! The node moves it on, the transports read it and tell it what they hear. It knows neither of them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    Clock, Error, ErrorKind, Version,
    version::{HybridClock, Reading},
};

/// How far another node's wall clock may be off this one's, in milliseconds (rule V2).
pub const WALL_APART_MS_MAX: u64 = 10_000;

/// How far a reading may be ahead of this node's wall clock, in milliseconds (rule V2).
pub const READING_AHEAD_MS_MAX: u64 = 60_000;

/// A node's name, incarnation, clock reading and view digest.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "testing")] {
/// use std::sync::Arc;
/// use larder_core::{standing::Standing, testing::clock::TokioClock};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let standing = Standing::new("a", 1, Arc::new(TokioClock::new()));
/// let earlier = standing.next_version();
/// assert!(standing.next_version() > earlier);
/// assert!(standing.check_wall(standing.wall_ms() + 11_000).is_err());
/// # });
/// # }
/// ```
pub struct Standing {
    name: Arc<str>,
    incarnation: u32,
    clock: Arc<dyn Clock>,
    versions: HybridClock,
    view_digest: AtomicU64,
}

impl Standing {
    /// A node that has no view yet.
    pub fn new(name: impl Into<Arc<str>>, incarnation: u32, clock: Arc<dyn Clock>) -> Self {
        let versions = HybridClock::new(incarnation);
        Self { name: name.into(), incarnation, clock, versions, view_digest: AtomicU64::new(0) }
    }

    /// The node's name among the members.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Tells this run of the node from its earlier ones.
    #[must_use]
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// Its wall clock: milliseconds since 1970.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    /// Its clock reading.
    #[must_use]
    pub fn reading(&self) -> Reading {
        self.versions.latest()
    }

    /// The next version.
    pub fn next_version(&self) -> Version {
        self.versions.next(self.wall_ms())
    }

    /// The digest of its view; 0 before the first.
    #[must_use]
    pub fn view_digest(&self) -> u64 {
        self.view_digest.load(Ordering::Relaxed)
    }

    pub(crate) fn set_view_digest(&self, digest: u64) {
        self.view_digest.store(digest, Ordering::Relaxed);
    }

    /// Moves the clock past what another node's reading is (rule V1).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if it is more than [`READING_AHEAD_MS_MAX`] ahead of this node's wall clock (rule V2); the clock
    /// then stays.
    pub fn observe(&self, reading: Reading) -> Result<(), Error> {
        // Readings that are behind are most of them, and the wall clock need not be asked for those.
        if reading <= self.reading() {
            return Ok(());
        }
        let ahead_ms = reading.wall_ms().saturating_sub(self.wall_ms());
        if ahead_ms > READING_AHEAD_MS_MAX {
            let message = format!("a clock reading is {ahead_ms} ms ahead of this node's wall clock");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        self.versions.observe(reading);
        Ok(())
    }

    /// Whether another node's wall clock is near enough to this one's (rule V2).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if it is more than [`WALL_APART_MS_MAX`] off.
    pub fn check_wall(&self, other_ms: u64) -> Result<(), Error> {
        let apart_ms = self.wall_ms().abs_diff(other_ms);
        if apart_ms > WALL_APART_MS_MAX {
            let message = format!(
                "the nodes' wall clocks are {apart_ms} ms apart, and {WALL_APART_MS_MAX} is the most: set the clocks"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standing").field("name", &self.name).field("incarnation", &self.incarnation).finish()
    }
}
