//! [`Backoff`]: how long to wait before the next try.

use std::time::Duration;

/// The first wait is up to this long.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// Waits that double, each with full jitter, so that nodes that lost a registry together don't come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    ceiling: Duration,
    max: Duration,
    chance: fastrand::Rng,
}

impl Backoff {
    pub(crate) fn new(max: Duration, seed: u64) -> Self {
        Self { ceiling: PAUSE_MIN, max, chance: fastrand::Rng::with_seed(seed) }
    }

    /// How long to wait after one more failure. Never nothing: a failure may come at once.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.ceiling.mul_f64(self.chance.f64()).max(PAUSE_MIN / 5);
        self.ceiling = (self.ceiling * 2).min(self.max);
        pause
    }

    /// Something succeeded.
    pub(crate) fn reset(&mut self) {
        self.ceiling = PAUSE_MIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_their_limit_differ_and_start_anew_after_a_success() {
        let max = Duration::from_secs(1);
        let (mut one, mut other) = (Backoff::new(max, 1), Backoff::new(max, 2));
        let waits: Vec<_> = (0..100).map(|_| (one.next(), other.next())).collect();
        assert!(waits.iter().all(|(wait, _)| (PAUSE_MIN / 5..=max).contains(wait)));
        assert!(waits[0].0 <= PAUSE_MIN && waits.iter().any(|(wait, _)| *wait > max / 2));
        assert!(waits.iter().filter(|(wait, other)| wait == other).count() < 10);
        one.reset();
        assert!(one.next() <= PAUSE_MIN);
    }
}
