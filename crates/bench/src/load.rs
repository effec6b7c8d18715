//! Who asks when: callers on the runtime at hand, at their own pace or on a timetable.

use std::{future::Future, panic, sync::Arc, time::Duration};

use tokio::{
    task::{self, JoinSet},
    time::{Instant, sleep, timeout_at},
};

use crate::{Distribution, Keys, Report, report::Recorder, timetable::Timetable};

/// More callers than this are a mistake: each is a task with a connection, mostly.
pub const CALLERS_MAX: usize = 65_536;

/// How long gets that are under way at the end of a load may still take. A node answers within 10 s unless a request
/// asks for more.
const GRACE: Duration = Duration::from_secs(15);

/// How long a caller at its own pace waits after a failure. What refuses at once would otherwise be asked far more often
/// than what answers, and the refusals would be most of what was measured.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// Why gets failed that were due and had no answer when the load was given up.
const NO_ANSWER: &str = "no-answer";

/// How a get ended.
///
/// ```
/// use larder_bench::Outcome;
///
/// let outcome = |status: u16| match status {
///     200 => Outcome::Found,
///     404 => Outcome::NotFound,
///     503 => Outcome::Failed("overloaded"),
///     _ => Outcome::Failed("other"),
/// };
/// assert_eq!(outcome(503), Outcome::Failed("overloaded"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// With a value.
    Found,
    /// With the answer that there is no such key.
    NotFound,
    /// Without an answer, for this reason: a word or two, by which failures are counted.
    Failed(&'static str),
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
    /// Gets are due on a timetable, evenly spaced, whatever became of the ones before: measures how long users wait. Any
    /// caller that is free starts the next. A latency counts from when its get was due, so that a get which could not even
    /// start during a stall counts its wait (Gil Tene's "coordinated omission"). Above some 500 gets a second,
    /// watching the time keeps one core busy.
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
    /// For how long gets are started; in an open load, for how long they are due.
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
    timetable: Arc<Timetable>,
    recorder: Arc<Recorder>,
    started: Instant,
    give_up_at: Instant,
    /// How many callers were still waiting then.
    cut_off: u64,
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
        let timetable = Arc::new(Timetable::new(plan.pace, started, plan.duration));
        let tasks = (0..callers).map(|number| {
            let seed = plan.seed.wrapping_add(number as u64);
            let caller = Caller {
                keys: Keys::new(plan.distribution, plan.keys, seed),
                timetable: Arc::clone(&timetable),
                recorder: Arc::clone(&recorder),
            };
            let get = Arc::clone(&get);
            async move { caller.run(&*get).await }
        });
        let callers = tasks.collect();
        let give_up_at = started + plan.duration + GRACE;
        Self { callers, timetable, recorder, started, give_up_at, cut_off: 0, ended: None }
    }

    /// What has been measured up to now.
    #[must_use]
    pub fn so_far(&self) -> Report {
        self.recorder.report(self.ended.unwrap_or_else(Instant::now) - self.started)
    }

    /// Waits for the end: the plan's duration, and up to 15 s more for the gets that are under way then and, in an open load,
    /// those that are due by then. What has no answer after that, or was not even asked, counts as failed in 15 s. Can be
    /// dropped and called again.
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
        if self.ended.is_none() {
            self.callers.abort_all();
            while let Some(ended) = self.callers.join_next().await {
                self.cut_off += u64::from(ended.is_err());
            }
            let unanswered = self.timetable.total().map_or(self.cut_off, |total| total - self.so_far().gets);
            self.recorder.record(Outcome::Failed(NO_ANSWER), GRACE, unanswered);
            self.ended = Some(Instant::now());
        }
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

struct Caller {
    keys: Keys,
    timetable: Arc<Timetable>,
    recorder: Arc<Recorder>,
}

impl Caller {
    async fn run<F: Future<Output = Outcome>>(mut self, get: &impl Fn(u64) -> F) {
        while let Some(due) = self.timetable.next().await {
            let outcome = get(self.keys.draw()).await;
            self.recorder.record(outcome, due.elapsed(), 1);
            match outcome {
                Outcome::Failed(_) if self.timetable.total().is_none() => sleep(FAILURE_PAUSE).await,
                // A hit in process is ready at once, and a caller that never waits would keep its thread to itself.
                _ => task::consume_budget().await,
            }
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
    async fn a_stall_of_a_whole_system_shows_in_an_open_load_and_hides_in_a_closed_one() {
        // Nobody is answered from the fifth second to the sixth; before and after, all within a millisecond.
        let stalling = || {
            let start = Instant::now();
            move |_| async move {
                let stall = Duration::from_secs(5)..Duration::from_secs(6);
                let wait = if stall.contains(&start.elapsed()) { stall.end - start.elapsed() } else { Duration::ZERO };
                sleep(wait + Duration::from_millis(1)).await;
                Outcome::Found
            }
        };
        let open = Pace::Open { callers: 8, per_second: 1000.0 };
        let report = Load::start(&plan(open, 10), stalling()).finish().await;
        assert_eq!((report.gets, report.found), (10_000, 10_000));
        // A tenth of the gets were due while it stalled, and waited half a second on average.
        assert!(report.latency.p50_us < 5_000.0, "{report:?}");
        assert!((report.latency.p99_us - 900_000.0).abs() < 30_000.0, "{report:?}");
        assert!((report.latency.p999_us - 990_000.0).abs() < 30_000.0, "{report:?}");

        // At its own pace each of the callers waits once, and is not there to ask what others would have.
        let report = Load::start(&plan(Pace::Closed { callers: 8 }, 10), stalling()).finish().await;
        assert!(report.gets > 50_000 && report.latency.p999_us < 3_000.0, "{report:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_get_that_takes_long_holds_up_none_that_another_caller_can_start() {
        let open = Pace::Open { callers: 2, per_second: 100.0 };
        let report = Load::start(&plan(open, 10), with_one_stall()).finish().await;
        assert_eq!(report.gets, 1000);
        assert!(report.latency.p999_us < 3_000.0 && report.latency.max_us > 999_000.0, "{report:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn gets_that_nobody_was_free_to_start_count_as_failed() {
        let get = |_| async {
            sleep(Duration::from_millis(990)).await;
            Outcome::Found
        };
        // In ten seconds and fifteen more, one caller has 25 answers, and is at the 26th get.
        let report = Load::start(&plan(Pace::Open { callers: 1, per_second: 100.0 }, 10), get).finish().await;
        assert_eq!((report.gets, report.found, report.failed), (1000, 25, 975));
        assert_eq!(report.failures, [("no-answer", 975)].into());
        assert!(report.latency.p50_us > 14_900_000.0, "{report:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_refuses_at_once_is_not_asked_all_the_time() {
        let refused = |_| async {
            sleep(Duration::from_millis(1)).await;
            Outcome::Failed("refused")
        };
        let report = Load::start(&plan(Pace::Closed { callers: 2 }, 11), refused).finish().await;
        assert_eq!((report.gets, report.failed), (2000, 2000));
        let report = Load::start(&plan(Pace::Open { callers: 2, per_second: 500.0 }, 11), refused).finish().await;
        assert_eq!((report.gets, report.failed), (5500, 5500), "a timetable is kept all the same");
        assert!(report.latency.max_us < 3_000.0, "{report:?}");
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
        assert_eq!((report.failed, &report.failures), (3, &[("no-answer", 3)].into()));
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
