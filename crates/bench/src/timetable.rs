//! [`Timetable`]: when gets are due.
//!
//! All callers of a load take their gets from one table, so that a caller which is held up holds up no get that another
//! could start.

use std::time::Duration;

use tokio::{
    sync::Mutex,
    task,
    time::{Instant, sleep_until},
};

use crate::Pace;

/// Timers wake on whole milliseconds, rounded up twice: up to this late.
const TIMER_GRAIN: Duration = Duration::from_millis(2);

pub(crate) enum Timetable {
    /// A get is due as soon as a caller is free.
    Closed { end: Instant },
    /// Get number n is due n / `per_second` after the start.
    Open {
        start: Instant,
        per_second: f64,
        /// How many gets are due before the end.
        total: u64,
        /// How many of them callers have taken. Whoever holds this waits for the clock, and the other callers wait for
        /// the holder: one task watches the time, and not one each.
        taken: Mutex<u64>,
    },
}

impl Timetable {
    /// # Panics
    ///
    /// If an open pace is not a finite number above 0.
    pub(crate) fn new(pace: Pace, start: Instant, duration: Duration) -> Self {
        let Pace::Open { per_second, .. } = pace else { return Self::Closed { end: start + duration } };
        assert!(per_second > 0.0 && per_second.is_finite(), "an open load starts more than 0 gets a second");
        let total = (duration.as_secs_f64() * per_second).ceil() as u64;
        Self::Open { start, per_second, total, taken: Mutex::new(0) }
    }

    /// Waits until the next get is due, and tells since when it is. `None` once there are no more.
    pub(crate) async fn next(&self) -> Option<Instant> {
        match self {
            Self::Closed { end } => {
                let now = Instant::now();
                (now < *end).then_some(now)
            }
            Self::Open { start, per_second, total, taken } => {
                let mut taken = taken.lock().await;
                if *taken >= *total {
                    return None;
                }
                let due = *start + Duration::from_secs_f64(*taken as f64 / per_second);
                *taken += 1;
                wait_until(due).await;
                Some(due)
            }
        }
    }

    /// How many gets are due in all; `None` if that depends on the callers.
    pub(crate) fn total(&self) -> Option<u64> {
        match self {
            Self::Closed { .. } => None,
            Self::Open { total, .. } => Some(*total),
        }
    }
}

/// Waits until `due` and no longer. Timers are too coarse for that: of 100,000 gets a second, one timer's wake would start a
/// hundred at once. So the last of the time is watched going by, which keeps a core busy, but no task from running.
async fn wait_until(due: Instant) {
    let mut seen = None;
    loop {
        let now = Instant::now();
        if now >= due {
            return;
        }
        if due - now > TIMER_GRAIN {
            sleep_until(due - TIMER_GRAIN).await;
        } else if seen == Some(now) {
            // The clock stands: it is tokio's paused one, and goes on when all tasks sleep.
            sleep_until(due).await;
        } else {
            task::yield_now().await;
        }
        seen = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(per_second: f64, duration: Duration) -> Timetable {
        Timetable::new(Pace::Open { callers: 1, per_second }, Instant::now(), duration)
    }

    #[tokio::test(start_paused = true)]
    async fn a_timetable_has_as_many_gets_as_fit_before_its_end() {
        for (per_second, millis, gets) in [(100.0, 1000, 100), (3.0, 1000, 3), (0.1, 1000, 1), (1e6, 20, 20_000)] {
            let start = Instant::now();
            let timetable = open(per_second, Duration::from_millis(millis));
            assert_eq!(timetable.total(), Some(gets));
            let mut taken = 0;
            while let Some(due) = timetable.next().await {
                assert_eq!(due - start, Duration::from_secs_f64(taken as f64 / per_second));
                assert!(Instant::now() >= due);
                taken += 1;
            }
            assert_eq!(taken, gets);
        }
    }

    /// The only test here on the real clock. A machine that does much else makes single gets late, and whole loads; timers
    /// would make half of all gets half a millisecond late in each.
    #[tokio::test]
    async fn gets_start_when_they_are_due_and_not_at_a_timers_next_tick() {
        const LOADS_MAX: usize = 100;
        let mut medians = Vec::new();
        for _ in 0..LOADS_MAX {
            let timetable = open(20_000.0, Duration::from_millis(10));
            let mut late = Vec::new();
            while let Some(due) = timetable.next().await {
                late.push(due.elapsed());
            }
            late.sort();
            let median = late[late.len() / 2];
            if median < Duration::from_micros(100) {
                return;
            }
            medians.push(median);
        }
        panic!("of each load, half of the gets were this late at least: {medians:?}");
    }
}
