//! [`SystemClock`]: the machine's clocks.

use larder_core::{Clock, Moment};
use rustix::time::{ClockId, clock_gettime};

/// The clocks of the machine that this runs on.
///
/// ```
/// use larder::{Clock, SystemClock};
///
/// let before = SystemClock.now();
/// assert!(SystemClock.now() >= before);
/// assert!(SystemClock.wall_ms() > 1_700_000_000_000);
/// ```
#[derive(Clone, Copy, Default, Debug)]
pub struct SystemClock;

/// A lease must not outlive a machine's sleep: where there is a clock that counts sleep in, it is that one.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Moment {
        let time = clock_gettime(CLOCK);
        // Neither part is ever negative: the clock begins at the machine's start.
        Moment::from_nanos(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
    }

    fn wall_ms(&self) -> u64 {
        let time = clock_gettime(ClockId::Realtime);
        // A wall clock before 1970 counts as 1970: versions are compared with each other and still grow.
        u64::try_from(time.tv_sec).map_or(0, |secs| secs * 1_000 + time.tv_nsec.cast_unsigned() / 1_000_000)
    }
}
