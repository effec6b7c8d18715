//! [`TokioClock`]: clocks that follow tokio's time, which a test can pause and advance.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Clock, Moment};

/// Where a [`TokioClock`] begins: some time in 2025, so that versions look like versions.
const WALL_START_MS: u64 = 1_750_000_000_000;

/// Both clocks, from tokio's time.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    start: Instant,
}

impl TokioClock {
    /// A clock that starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    fn elapsed(&self) -> Duration {
        Instant::now() - self.start
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Moment {
        // An hour after the clock's start, so that tests can look back.
        Moment::from_nanos(0) + Duration::from_secs(3600) + self.elapsed()
    }

    fn wall_ms(&self) -> u64 {
        WALL_START_MS + u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
