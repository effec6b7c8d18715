//! Who asks when: callers on the runtime at hand, at their own pace or on a timetable.

use std::{future::Future, panic, sync::Arc, time::Duration};

use tokio::{
    task::{self, JoinSet},
    time::{Instant, sleep_until, timeout_at},
};

use crate::{Distribution, Keys, Report, report::Recorder};

/// More callers than this are a mistake: each is a task with a connection, mostly.
pub const CALLERS_MAX: usize = 65_536;

/// How long gets that are under way at the end of a load may still take. A node answers within 10 s unless a request
/// asks for more.
const GRACE: Duration = Duration::from_secs(15);

/// Timers wake on whole milliseconds, rounded up. A caller that wakes up to this late was kept by its timer and not by
/// what is measured.
const TIMER_GRAIN: Duration = Duration::from_millis(2);

/// How a get ended.
///
/// ```
/// use larder_bench::Outcome;
///
/// let outcome = |status: u16| match status {
///     200 => Outcome::Found,
///     404 => Outcome::NotFound,
///     _ => Outcome::Failed,
/// };
/// assert_eq!(outcome(503), Outcome::Failed);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// With a value.
    Found,
    /// With the answer that there is no such key.
    NotFound,
    /// Without an answer.
    Failed,
}

/// When the next get starts.
///
/// ```
/// use larder_bench::Pace;
///
/// let users_of_a_page = Pace::Open { callers: 256, per_second: 2_000.0 };
/// let as_fast_as_it_goes = Pace::Closed { callers: 64 };
/// # let _ = (users_of_a_page, as_fast_as_it_goes);
/// ```
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// Each caller asks again once it has its answer: measures how much a system can do. A system that stalls is
    /// asked less while it does, so the latencies flatter it.
    Closed {
        /// 1 to [`CALLERS_MAX`].
        callers: usize,
    },
    /// Gets start on a timetable, whatever became of the ones before: measures how long users wait. A latency counts
    /// from when its get was due, so that a get which could not even start during a stall counts its wait (Gil
    /// Tene's "coordinated omission"). Each caller takes its share of the timetable, at most some 500 gets a
    /// second.
    Open {
        /// 1 to [`CALLERS_MAX`]. That many gets are under way at most.
        callers: usize,
        /// Gets a second, of all callers together; more than 0.
        per_second: f64,
    },
}

/// A load: which keys, by whom, for how long.
///
/// ```
/// use std::time::Duration;
/// use larder_bench::{Distribution, Pace, Plan};
///
/// let plan = Plan {
///     distribution: Distribution::Uniform,
///     keys: 1_000,
///     pace: Pace::Closed { callers: 64 },
///     duration: Duration::from_secs(10),
///     seed: 42,
/// };
/// # let _ = plan;
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// How gets are spread over the keys.
    pub distribution: Distribution,
    /// How many keys there are, at least 1. Their indices go from 0.
    pub keys: u64,
    /// When gets start.
    pub pace: Pace,
    /// For how long gets are started.
    pub duration: Duration,
    /// The same seed asks for the same keys, caller by caller.
    pub seed: u64,
}

/// A load under way. Dropping it ends it.
///
/// ```
/// use std::time::Duration;
/// use larder_bench::{Distribution, Load, Outcome, Pace, Plan};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let plan = Plan {
/// #     distribution: Distribution::Uniform,
/// #     keys: 10,
/// #     pace: Pace::Closed { callers: 2 },
/// #     duration: Duration::from_millis(20),
/// #     seed: 1,
/// # };
/// let mut load = Load::start(&plan, |_key| async { Outcome::Found });
/// let mut every_second = tokio::time::interval(Duration::from_secs(1));
/// let report = loop {
///     tokio::select! {
///         report = load.ended() => break report,
///         _ = every_second.tick() => println!("{} gets so far", load.so_far().gets),
///     }
/// };
/// # assert_eq!(report.gets, report.found);
/// # }
/// ```
pub struct Load {
    callers: JoinSet<()>,
    recorder: Arc<Recorder>,
    started: Instant,
    give_up_at: Instant,
    /// When the last caller ended.
    ended: Option<Instant>,
}

impl Load {
    /// Starts the callers as tasks of the current tokio runtime. `get` is called with the index of a key.
    ///
    /// # Panics
    ///
    /// If a number of the plan is out of its bounds, or outside a runtime.
    pub fn start<G, F>(plan: &Plan, get: G) -> Self
    where
        G: Fn(u64) -> F + Send + Sync + 'static,
        F: Future<Output = Outcome> + Send,
    {
        let (Pace::Closed { callers } | Pace::Open { callers, .. }) = plan.pace;
        assert!((1..=CALLERS_MAX).contains(&callers), "a load has 1 to {CALLERS_MAX} callers");
        let recorder = Arc::new(Recorder::new());
        let get = Arc::new(get);
        let started = Instant::now();
        let end = started + plan.duration;
        let tasks = (0..callers).map(|number| {
            let seed = plan.seed.wrapping_add(number as u64);
            let caller = Caller {
                number,
                keys: Keys::new(plan.distribution, plan.keys, seed),
                end,
                recorder: Arc::clone(&recorder),
            };
            let timetable = Timetable::of(number, plan.pace, started);
            let get = Arc::clone(&get);
            async move { caller.run(timetable, &*get).await }
        });
        Self { callers: tasks.collect(), recorder, started, give_up_at: end + GRACE, ended: None }
    }

    /// What has been measured up to now.
    #[must_use]
    pub fn so_far(&self) -> Report {
        self.recorder.report(self.ended.unwrap_or_else(Instant::now) - self.started)
    }

    /// Waits for the end: the plan's duration, and up to 15 s more for the gets that are under way then; those that
    /// don't end by then count as failed. Can be dropped and called again.
    ///
    /// # Panics
    ///
    /// If a get did.
    pub async fn ended(&mut self) -> Report {
        while let Ok(Some(ended)) = timeout_at(self.give_up_at, self.callers.join_next()).await {
            if let Err(error) = ended
                && let Ok(panic) = error.try_into_panic()
            {
                panic::resume_unwind(panic);
            }
        }
        for hanging in 0..self.callers.len() {
            self.recorder.record(hanging, Outcome::Failed, GRACE);
        }
        self.callers.abort_all();
        self.callers.detach_all();
        self.ended.get_or_insert_with(Instant::now);
        self.so_far()
    }

    /// Waits for the end as [`ended`](Self::ended) does.
    ///
    /// # Panics
    ///
    /// If a get did.
    pub async fn finish(mut self) -> Report {
        self.ended().await
    }
}

/// When one caller's gets are due; None if one is due as soon as the one before has ended.
struct Timetable(Option<Due>);

struct Due {
    next: Instant,
    interval: Duration,
}

impl Timetable {
    fn of(number: usize, pace: Pace, started: Instant) -> Self {
        let Pace::Open { callers, per_second } = pace else { return Self(None) };
        assert!(per_second > 0.0 && per_second.is_finite(), "an open load starts more than 0 gets a second");
        let interval = Duration::from_secs_f64(callers as f64 / per_second);
        Self(Some(Due { next: started + interval.mul_f64(number as f64 / callers as f64), interval }))
    }

    /// Waits until the next get is due, and tells from when its latency counts. None once that is at `end` or later.
    async fn next(&mut self, end: Instant) -> Option<Instant> {
        let now = Instant::now();
        let Some(Due { next, interval }) = &mut self.0 else { return (now < end).then_some(now) };
        let due = *next;
        if due >= end {
            return None;
        }
        *next += *interval;
        if now >= due {
            return Some(due);
        }
        sleep_until(due).await;
        let woke = Instant::now();
        Some(if woke - due <= TIMER_GRAIN { woke } else { due })
    }
}

struct Caller {
    number: usize,
    keys: Keys,
    end: Instant,
    recorder: Arc<Recorder>,
}

impl Caller {
    async fn run<F: Future<Output = Outcome>>(mut self, mut timetable: Timetable, get: &impl Fn(u64) -> F) {
        while let Some(from) = timetable.next(self.end).await {
            let outcome = get(self.keys.draw()).await;
            self.recorder.record(self.number, outcome, from.elapsed());
            // A hit in process is ready at once, and a caller that never waits would keep its thread to itself.
            task::consume_budget().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future,
        pin::Pin,
        sync::atomic::{AtomicU64, Ordering},
    };

    use tokio::time::{advance, sleep};

    use super::*;

    fn plan(pace: Pace, seconds: u64) -> Plan {
        Plan { distribution: Distribution::Uniform, keys: 10, pace, duration: Duration::from_secs(seconds), seed: 1 }
    }

    /// A get that takes a millisecond; only the hundredth takes a second.
    fn with_one_stall() -> impl Fn(u64) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        let gets = AtomicU64::new(0);
        move |_| {
            let stalls = gets.fetch_add(1, Ordering::Relaxed) == 99;
            Box::pin(async move {
                sleep(Duration::from_millis(if stalls { 1000 } else { 1 })).await;
                Outcome::Found
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_load_asks_again_with_each_answer() {
        let get = |key| async move {
            sleep(Duration::from_millis(10)).await;
            if key == 0 { Outcome::NotFound } else { Outcome::Found }
        };
        let report = Load::start(&plan(Pace::Closed { callers: 4 }, 10), get).finish().await;
        assert_eq!(report.gets, 4000);
        assert_eq!(report.found + report.not_found, 4000);
        assert!((300..500).contains(&report.not_found), "{report:?}");
        assert!((report.gets_per_second - 400.0).abs() < 1.0, "{report:?}");
        assert!((report.latency.p50_us - 10_000.0).abs() < 20.0, "{report:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_load_counts_the_wait_of_gets_that_a_stall_kept_from_starting() {
        let open = Pace::Open { callers: 1, per_second: 100.0 };
        let report = Load::start(&plan(open, 10), with_one_stall()).finish().await;
        assert_eq!(report.gets, 1000);
        // Of the hundred gets that were due during the stall, the first waited a second and the last not at all.
        assert!(report.latency.p50_us < 3_000.0, "{report:?}");
        assert!((report.latency.p99_us - 900_000.0).abs() < 30_000.0, "{report:?}");

        let report = Load::start(&plan(Pace::Closed { callers: 1 }, 10), with_one_stall()).finish().await;
        assert!(report.latency.p99_us < 3_000.0 && report.latency.max_us > 999_000.0, "{report:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_load_counts_a_stall_that_kept_its_callers_asleep() {
        let ready = |_| future::ready(Outcome::Found);
        let load = Load::start(&plan(Pace::Open { callers: 1, per_second: 1.0 }, 2), ready);
        task::yield_now().await;
        // The second get is due after a second, and nothing runs for half a second more.
        advance(Duration::from_millis(1500)).await;
        let report = load.finish().await;
        assert_eq!(report.gets, 2);
        assert!((report.latency.max_us - 500_000.0).abs() < 3_000.0, "{report:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_load_does_not_count_what_its_timers_are_late() {
        let ready = |_| future::ready(Outcome::Found);
        // Every second get is due half a millisecond before its timer's tick.
        let report = Load::start(&plan(Pace::Open { callers: 1, per_second: 400.0 }, 1), ready).finish().await;
        assert_eq!(report.gets, 400);
        assert!(report.latency.max_us < 1.0, "{report:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_load_keeps_its_timetable_with_many_callers() {
        let get = |_| async {
            sleep(Duration::from_millis(5)).await;
            Outcome::Found
        };
        let report = Load::start(&plan(Pace::Open { callers: 7, per_second: 250.0 }, 4), get).finish().await;
        assert_eq!(report.gets, 1000);
        assert!(report.latency.max_us < 8_000.0, "{report:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_get_that_never_ends_counts_as_failed() {
        let get = |key| async move {
            if key == 0 {
                future::pending::<()>().await;
            }
            sleep(Duration::from_millis(1)).await;
            Outcome::Found
        };
        let mut load = Load::start(&plan(Pace::Closed { callers: 3 }, 10), get);
        let report = load.ended().await;
        assert_eq!(report.failed, 3);
        assert!((report.seconds - 25.0).abs() < 0.1, "{report:?}");
        sleep(Duration::from_secs(1)).await;
        assert_eq!(load.ended().await, report, "what has ended does not change");
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_can_be_watched_while_it_runs() {
        let get = |_| async {
            sleep(Duration::from_millis(10)).await;
            Outcome::Found
        };
        let mut load = Load::start(&plan(Pace::Closed { callers: 1 }, 10), get);
        let early = tokio::time::timeout(Duration::from_millis(5005), load.ended()).await;
        assert!(early.is_err());
        assert_eq!(load.so_far().gets, 500);
        assert_eq!(load.ended().await.gets, 1000);
    }

    #[tokio::test]
    async fn gets_that_are_ready_at_once_leave_room_for_others() {
        let load = Load::start(&plan(Pace::Closed { callers: 2 }, 5), |_| future::ready(Outcome::Found));
        while load.so_far().gets < 1000 {
            task::yield_now().await;
        }
        assert!(load.so_far().seconds < 5.0, "the load had the thread to itself until its end");
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "a get fell over")]
    async fn a_get_that_panics_ends_the_load_with_its_panic() {
        let fell = |_| async { panic!("a get fell over") };
        Load::start(&plan(Pace::Closed { callers: 1 }, 1), fell).finish().await;
    }

    #[tokio::test]
    #[should_panic(expected = "1 to 65536 callers")]
    async fn a_load_without_callers_is_a_mistake() {
        drop(Load::start(&plan(Pace::Closed { callers: 0 }, 1), |_| future::ready(Outcome::Found)));
    }
}
