use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::*;

fn key() -> Key {
    Key::new("k").unwrap()
}

fn in_secs(secs: u64) -> Instant {
    Instant::now() + Duration::from_secs(secs)
}

fn lead(flights: &Flights<u32>) -> (Leader<u32>, Waiter<u32>) {
    match flights.board(&key(), in_secs(10)) {
        Boarding::Leads(leader, waiter) => (leader, waiter),
        _ => panic!("should lead"),
    }
}

fn join(flights: &Flights<u32>) -> Waiter<u32> {
    match flights.board(&key(), in_secs(10)) {
        Boarding::Joined(waiter) => waiter,
        _ => panic!("should join"),
    }
}

#[tokio::test(start_paused = true)]
async fn three_hundred_callers_cost_one_piece_of_work() {
    let flights: Flights<u32> = Flights::new();
    let done = Arc::new(AtomicUsize::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let (flights, done) = (flights.clone(), done.clone());
        callers.spawn(async move {
            flights
                .run(&key(), in_secs(10), || async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    done.fetch_add(1, Ordering::Relaxed);
                    7
                })
                .await
        });
    }
    assert!(callers.join_all().await.into_iter().all(|result| result == Ok(7)));
    assert_eq!(done.load(Ordering::Relaxed), 1);
    assert!(flights.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_first_caller_may_leave_and_the_others_get_the_result() {
    let flights: Flights<u32> = Flights::new();
    let key = key();
    let (go, gate) = oneshot::channel();
    let mut first = Box::pin(flights.run(&key, in_secs(10), || async { gate.await.unwrap() }));
    assert!((&mut first).now_or_never().is_none());
    let second = join(&flights);
    drop(first);
    go.send(6).unwrap();
    assert_eq!(second.wait().await, Ok(6));
}

#[tokio::test(start_paused = true)]
async fn work_that_nobody_waits_for_any_more_is_dropped() {
    let flights: Flights<u32> = Flights::new();
    let (mut go, gate) = oneshot::channel::<u32>();
    let result = flights.run(&key(), in_secs(1), || async { gate.await.unwrap() }).await;
    assert_eq!(result, Err(WaitError::TimedOut));
    go.closed().await;
}

#[tokio::test]
async fn work_that_panics_leaves_its_waiters_with_an_error_and_the_key_usable() {
    let flights: Flights<u32> = Flights::new();
    let key = key();
    let broken = flights.run(&key, in_secs(10), || async { panic!("a loader's mistake") });
    assert_eq!(broken.await, Err(WaitError::LeaderLost));
    assert_eq!(flights.run(&key, in_secs(10), || async { 1 }).await, Ok(1));
    assert!(flights.is_empty());
}

#[tokio::test]
async fn a_flight_whose_last_waiter_left_is_abandoned() {
    let flights: Flights<u32> = Flights::new();
    let (leader, waiter) = lead(&flights);
    let other = join(&flights);
    drop(waiter);
    assert!((Box::pin(leader.abandoned())).now_or_never().is_none());
    drop(other);
    leader.abandoned().await;
    let (_second, _waiter) = lead(&flights);
    drop(leader);
    assert_eq!(flights.len(), 1);
}

#[tokio::test]
async fn what_was_overtaken_reaches_its_waiters_and_may_not_be_kept() {
    let flights: Flights<u32> = Flights::new();
    let (leader, waiter) = lead(&flights);
    flights.overtake(&key(), || ());
    let (second, second_waiter) = lead(&flights);
    leader.land(|attached| {
        assert!(!attached);
        1
    });
    second.land(|attached| {
        assert!(attached);
        2
    });
    assert_eq!((waiter.wait().await, second_waiter.wait().await), (Ok(1), Ok(2)));
}

#[tokio::test]
async fn nobody_joins_a_sealed_flight_and_a_third_one_waits_for_clearance() {
    let flights: Flights<u32> = Flights::new();
    let (first, _w1) = lead(&flights);
    first.cleared().await;
    first.seal();
    let (second, _w2) = lead(&flights);
    second.seal();
    let (third, w3) = lead(&flights);
    let mut cleared = Box::pin(third.cleared());
    assert!((&mut cleared).now_or_never().is_none());
    second.land(|attached| {
        assert!(attached, "sealing does not detach");
        2
    });
    cleared.await;
    third.land(|_| 3);
    assert_eq!(w3.wait().await, Ok(3));
}

#[tokio::test]
async fn detach_all_picks_by_key() {
    let flights: Flights<u32> = Flights::new();
    let (leader, _waiter) = lead(&flights);
    flights.detach_all(|key| key.as_bytes() == b"other");
    let _joined = join(&flights);
    flights.detach_all(|key| key.as_bytes() == b"k");
    leader.land(|attached| {
        assert!(!attached);
        0
    });
}

#[tokio::test]
async fn the_table_is_bounded() {
    let flights: Flights<u32> = Flights::new();
    flights.0.len.store(FLIGHTS_MAX, Ordering::Relaxed);
    assert!(matches!(flights.board(&key(), in_secs(1)), Boarding::Full));
}

#[tokio::test(start_paused = true)]
async fn each_caller_is_woken_at_its_own_deadline() {
    let flights: Flights<u32> = Flights::new();
    let start = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    // Late ones and early ones come by turns: an alarm that was set is moved.
    for secs in [30_u64, 5, 20, 1, 10, 1] {
        let flights = flights.clone();
        let deadline = start + Duration::from_secs(secs);
        callers.spawn(async move {
            let result = flights.run(&key(), deadline, std::future::pending).await;
            assert_eq!(result, Err(WaitError::TimedOut));
            deadline.elapsed()
        });
    }
    while let Some(late) = callers.join_next().await {
        assert!(late.unwrap() <= Duration::from_millis(5));
    }
    assert!(flights.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_is_not_waited_for() {
    let flights: Flights<u32> = Flights::new();
    let start = Instant::now();
    assert_eq!(flights.run(&key(), start, std::future::pending).await, Err(WaitError::TimedOut));
    let (_leader, mut waiter) = lead(&flights);
    for _ in 0..3 {
        assert_eq!(waiter.wait_until(start).await, Err(WaitError::TimedOut));
    }
    assert!(start.elapsed() <= Duration::from_millis(20));
}

#[tokio::test]
async fn deadlines_are_kept_when_the_runtime_of_another_caller_has_ended() {
    let flights: Flights<u32> = Flights::new();
    let (_leader, mut waiter) = lead(&flights);
    let soon = Instant::now() + Duration::from_millis(100);
    let (watched, has_watch) = std::sync::mpsc::channel();
    let other = flights.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut other = join(&other);
            assert!(Box::pin(other.wait_until(soon)).now_or_never().is_none());
            tokio::task::yield_now().await;
            watched.send(()).unwrap();
        });
    });
    has_watch.recv().unwrap();
    let waits = tokio::spawn(async move { waiter.wait_until(soon).await });
    thread.join().unwrap();
    assert_eq!(waits.await.unwrap(), Err(WaitError::TimedOut));
}
