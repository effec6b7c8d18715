//! Guards over the fake, time paused.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::{Instant, advance};

use super::*;
use crate::testing::{
    clock::TokioClock,
    fake_locks::{FakeLocks, Trouble},
};

const TTL: Duration = Duration::from_secs(3);

/// tokio's time, and what the machine slept on top.
#[derive(Clone)]
struct SleepyClock {
    awake: TokioClock,
    slept_ns: Arc<AtomicU64>,
}

impl SleepyClock {
    fn sleep(&self, time: Duration) {
        self.slept_ns.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for SleepyClock {
    fn now(&self) -> Moment {
        self.awake.now() + Duration::from_nanos(self.slept_ns.load(Ordering::SeqCst))
    }

    fn wall_ms(&self) -> u64 {
        self.awake.wall_ms()
    }
}

struct Bench {
    clock: SleepyClock,
    service: FakeLocks,
    locks: Locks,
}

impl Bench {
    fn new() -> Self {
        let clock = SleepyClock { awake: TokioClock::new(), slept_ns: Arc::default() };
        let service = FakeLocks::new(clock.clone());
        let locks = Locks::new(service.clone(), clock.clone());
        Self { clock, service, locks }
    }

    async fn held(&self) -> LockGuard {
        self.locks.lock("a").ttl(TTL).acquire().await.unwrap()
    }

    async fn is_free(&self) -> bool {
        self.locks.lock("a").wait(Duration::ZERO).try_acquire().await.unwrap().is_some()
    }

    async fn gets_free(&self) {
        drop(self.locks.lock("a").wait(TTL).acquire().await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_guard_is_held_for_as_long_as_its_service_is_there() {
    let bench = Bench::new();
    let guard = bench.held().await;
    let fence = guard.fence();
    let lost = tokio::spawn(guard.lost());
    for _ in 0..100 {
        sleep(TTL).await;
        assert!(guard.is_held() && !lost.is_finished() && !bench.is_free().await);
    }
    assert_eq!(guard.fence(), fence);
    let renewals = bench.service.renewals();
    assert!((290..=300).contains(&renewals), "{renewals} renewals in 100 ttls");
    assert!(guard.release().await.unwrap());
    lost.abort();
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_is_dropped_or_released_frees_its_lock_at_once() {
    let bench = Bench::new();
    drop(bench.held().await);
    let began = Instant::now();
    bench.gets_free().await;
    assert!(bench.held().await.release().await.unwrap());
    assert!(bench.is_free().await);
    assert!(began.elapsed() < TTL / 10);
}

#[tokio::test(start_paused = true)]
async fn a_guard_is_lost_before_its_ttl_can_have_run_out_whatever_ails_the_service() {
    for trouble in [Trouble::Away, Trouble::Silent] {
        for after in [Duration::ZERO, TTL / 2, TTL * 10] {
            let bench = Bench::new();
            let guard = bench.held().await;
            sleep(after).await;
            bench.service.set_trouble(trouble);
            let began = Instant::now();
            guard.lost().await;
            assert!(!guard.is_held());
            assert_eq!(bench.service.in_use(), 1, "it has not run out");
            assert!(began.elapsed() >= TTL / 2, "it gave up after {:?}", began.elapsed());
            // What has been lost stays lost.
            bench.service.set_trouble(Trouble::None);
            sleep(TTL).await;
            assert!(!guard.is_held());
            assert!(bench.is_free().await);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_is_shorter_than_the_ttl_costs_nothing() {
    let bench = Bench::new();
    let guard = bench.held().await;
    for trouble in [Trouble::Away, Trouble::Silent] {
        bench.service.set_trouble(trouble);
        sleep(TTL / 2).await;
        bench.service.set_trouble(Trouble::None);
        sleep(TTL * 2).await;
        assert!(guard.is_held() && !bench.is_free().await);
    }
}

#[tokio::test(start_paused = true)]
async fn who_slept_through_its_ttl_knows_it_at_once_and_is_told() {
    let bench = Bench::new();
    let guard = bench.held().await;
    let lost = tokio::spawn(guard.lost());
    tokio::task::yield_now().await;
    bench.clock.sleep(TTL);
    assert!(!guard.is_held());
    let woken = Instant::now();
    lost.await.unwrap();
    assert!(woken.elapsed() <= LOOK_EVERY);
    let next = bench.held().await;
    assert!(next.fence() > guard.fence() && next.is_held() && !guard.is_held());
}

/// Timers of a process that was stopped are late, and what comes first then must not be a renewal that makes it held again.
#[tokio::test(start_paused = true)]
async fn who_stood_still_through_its_ttl_does_not_come_back_by_a_renewal() {
    let bench = Bench::new();
    let guard = bench.held().await;
    tokio::task::yield_now().await;
    advance(TTL - TTL / 20).await;
    assert!(!guard.is_held());
    assert_eq!(bench.service.in_use(), 1, "a renewal would still be granted");
    sleep(TTL / 2).await;
    assert!(!guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_taken_away_is_lost_at_once() {
    let bench = Bench::new();
    let guard = bench.held().await;
    tokio::task::yield_now().await;
    let began = Instant::now();
    bench.service.take_away(guard.name());
    guard.lost().await;
    assert!(began.elapsed() < TTL / 10);
    assert!(!guard.release().await.unwrap(), "there was nothing to free");
}

#[tokio::test(start_paused = true)]
async fn what_another_holds_is_an_answer_or_an_error_as_one_asks() {
    let bench = Bench::new();
    let _guard = bench.held().await;
    let waits = || bench.locks.lock("a").wait(Duration::from_secs(1));
    assert!(waits().try_acquire().await.unwrap().is_none());
    assert!(waits().acquire().await.unwrap_err().is_timeout());
    assert!(bench.locks.lock("a").ttl(Duration::ZERO).acquire().await.unwrap_err().is_invalid());
    assert!(bench.locks.lock("a").wait(Duration::from_secs(3600)).acquire().await.unwrap_err().is_invalid());
    assert!(bench.locks.lock("").acquire().await.unwrap_err().is_invalid());
}

#[tokio::test(start_paused = true)]
async fn a_release_ends_though_the_service_is_silent() {
    let bench = Bench::new();
    let guard = bench.held().await;
    bench.service.set_trouble(Trouble::Silent);
    assert!(guard.release().await.unwrap_err().is_timeout());
    let guard = {
        bench.service.set_trouble(Trouble::None);
        bench.gets_free().await;
        bench.held().await
    };
    bench.service.set_trouble(Trouble::Away);
    assert!(guard.release().await.unwrap_err().is_retryable());
}

#[tokio::test(start_paused = true)]
async fn an_acquisition_that_is_dropped_leaves_nothing_behind() {
    let bench = Bench::new();
    let guard = bench.held().await;
    let waits = bench.locks.lock("a").wait(TTL).acquire();
    assert!(timeout(TTL / 2, waits).await.is_err());
    assert!(guard.release().await.unwrap());
    assert_eq!(bench.service.in_use(), 0);
}
