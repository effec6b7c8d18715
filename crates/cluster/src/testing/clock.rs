//! [`BootClock`]: the machine's clock that goes on while it sleeps, for those who count with real servers.

use larder_core::{Clock, Moment};
use rustix::time::{ClockId, clock_gettime};

/// The clock of the machine that goes on while it sleeps: the same for all nodes of a test.
///
/// ```
/// use larder_cluster::testing::BootClock;
/// use larder_core::Clock;
///
/// let before = BootClock.now();
/// assert!(BootClock.now() >= before);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Moment {
        let time = clock_gettime(ClockId::Boottime);
        Moment::from_nanos(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
    }

    fn wall_ms(&self) -> u64 {
        0
    }
}
