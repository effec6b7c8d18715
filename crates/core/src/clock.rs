//! Time, as the core sees it: handed in, never read from the machine.

use std::{ops::Add, sync::Arc, time::Duration};

/// A point on a clock that goes on while the machine sleeps (`CLOCK_BOOTTIME` on Linux), in nanoseconds since some
/// start. Leases, ttl and authority are counted on it.
///
/// ```
/// use std::time::Duration;
/// use larder_core::Moment;
///
/// let start = Moment::from_nanos(0);
/// let end = start + Duration::from_secs(3);
/// assert_eq!(end.since(start), Duration::from_secs(3));
/// assert_eq!(start.since(end), Duration::ZERO);
/// assert!(end < Moment::NEVER);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Moment(u64);

impl Moment {
    /// Later than every moment a clock reaches.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment this many nanoseconds after the clock's start.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's start.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is before.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `by` before this one, or the clock's start.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(by)))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(nanos(after)))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The two clocks of a machine. Timers are tokio's; this is for what has to be stamped or compared.
///
/// ```
/// use larder_core::{Clock, Moment};
///
/// /// Stands still.
/// struct Stopped;
///
/// impl Clock for Stopped {
///     fn now(&self) -> Moment {
///         Moment::from_nanos(1)
///     }
///
///     fn wall_ms(&self) -> u64 {
///         1_750_000_000_000
///     }
/// }
/// assert_eq!(Stopped.now(), Stopped.now());
/// ```
pub trait Clock: Send + Sync + 'static {
    /// Now, on the clock that goes on while the machine sleeps.
    fn now(&self) -> Moment;

    /// The wall clock: milliseconds since 1970. It may jump.
    fn wall_ms(&self) -> u64;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Moment {
        (**self).now()
    }

    fn wall_ms(&self) -> u64 {
        (**self).wall_ms()
    }
}
