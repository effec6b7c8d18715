//! Fresh, stale and renewed: what the owner's store answers with as time goes by.

use std::time::Duration;

use larder_core::{
    ErrorKind, GroupConfig, Outcome,
    peer::Condition,
    testing::origin::{FakeOrigin, Mood},
};
use tokio::time::advance;

use crate::{Cluster, TIMEOUT, quiet, text};

fn config() -> GroupConfig {
    GroupConfig { ttl: Some(Duration::from_secs(10)), ttl_jitter: 0.0, ..GroupConfig::default() }
}

fn single(config: &GroupConfig) -> Cluster {
    Cluster::with(1, config, FakeOrigin::new(1))
}

#[tokio::test(start_paused = true)]
async fn a_value_is_served_until_its_ttl_and_not_beyond() {
    let cluster = single(&config());
    let first = cluster.get(0, "k").await.unwrap();
    assert_eq!(first.ttl_left, Some(Duration::from_secs(10)));
    advance(Duration::from_millis(9_999)).await;
    let hit = cluster.get(0, "k").await.unwrap();
    assert_eq!(hit.ttl_left, Some(Duration::from_millis(1)));
    assert_eq!((hit.version, hit.load_start), (first.version, first.load_start));
    advance(Duration::from_millis(1)).await;
    assert!(matches!(cluster.get(0, "k").await.unwrap().outcome, Outcome::Miss { .. }));
    assert_eq!(cluster.origin.loads("k"), 2);
}

/// Rule V3.
#[tokio::test(start_paused = true)]
async fn a_load_that_brings_the_same_bytes_keeps_the_version_while_the_old_value_is_held() {
    let cluster = single(&GroupConfig { stale_if_error: Duration::from_secs(60), ..config() });
    let first = cluster.get(0, "k").await.unwrap();
    advance(Duration::from_secs(11)).await;
    let second = cluster.get(0, "k").await.unwrap();
    assert_eq!(second.version, first.version);
    assert!(second.load_start > first.load_start);
    cluster.origin.change("k");
    advance(Duration::from_secs(11)).await;
    assert!(cluster.get(0, "k").await.unwrap().version > first.version);
}

#[tokio::test(start_paused = true)]
async fn within_stale_while_revalidate_the_old_value_is_served_and_loaded_behind_once() {
    let cluster = single(&GroupConfig { stale_while_revalidate: Duration::from_secs(5), ..config() });
    cluster.get(0, "k").await.unwrap();
    cluster.origin.change("k");
    cluster.origin.close_gate();
    advance(Duration::from_secs(12)).await;
    for _ in 0..10 {
        let stale = cluster.get(0, "k").await.unwrap();
        assert_eq!((text(&stale), stale.outcome), ("k=0", Outcome::Stale { by: Duration::from_secs(2) }));
    }
    cluster.origin.requested(2).await;
    cluster.origin.let_through(1);
    quiet().await;
    assert_eq!(text(&cluster.get(0, "k").await.unwrap()), "k=1");
    assert_eq!(cluster.origin.loads("k"), 2);
    advance(Duration::from_secs(16)).await;
    cluster.origin.let_through(1);
    assert!(matches!(cluster.get(0, "k").await.unwrap().outcome, Outcome::Miss { .. }), "the window is over");
}

#[tokio::test(start_paused = true)]
async fn within_stale_if_error_the_old_value_stands_in_for_an_error() {
    let cluster = single(&GroupConfig { stale_if_error: Duration::from_secs(60), ..config() });
    cluster.get(0, "k").await.unwrap();
    cluster.origin.set_mood(Mood::Failing);
    advance(Duration::from_secs(30)).await;
    let stale = cluster.get(0, "k").await.unwrap();
    assert_eq!((text(&stale), stale.outcome), ("k=0", Outcome::Stale { by: Duration::from_secs(20) }));
    assert_eq!(stale.ttl_left, Some(Duration::ZERO));
    advance(Duration::from_secs(41)).await;
    assert_eq!(cluster.get(0, "k").await.unwrap_err().kind(), ErrorKind::Origin);
}

/// Rule P6.
#[tokio::test(start_paused = true)]
async fn what_was_deleted_is_never_served_as_stale() {
    let cluster = single(&GroupConfig { stale_if_error: Duration::from_secs(60), ..config() });
    cluster.get(0, "k").await.unwrap();
    advance(Duration::from_secs(11)).await;
    cluster.origin.set_mood(Mood::Failing);
    cluster.origin.close_gate();
    let get = cluster.spawn_get(0, "k");
    cluster.origin.requested(2).await;
    cluster.groups[0].delete("k", Condition::Always, TIMEOUT).await.unwrap();
    cluster.origin.let_through(1);
    assert_eq!(get.await.unwrap().unwrap_err().kind(), ErrorKind::Origin);
}

#[tokio::test(start_paused = true)]
async fn after_soft_timeout_the_old_value_is_served_and_the_load_goes_on() {
    let config =
        GroupConfig { stale_if_error: Duration::from_secs(60), soft_timeout: Duration::from_millis(100), ..config() };
    let cluster = single(&config);
    cluster.get(0, "k").await.unwrap();
    cluster.origin.change("k");
    cluster.origin.close_gate();
    advance(Duration::from_secs(11)).await;
    let start = tokio::time::Instant::now();
    assert_eq!(text(&cluster.get(0, "k").await.unwrap()), "k=0");
    assert_eq!(start.elapsed(), Duration::from_millis(100));
    cluster.origin.let_through(1);
    quiet().await;
    assert_eq!(text(&cluster.get(0, "k").await.unwrap()), "k=1");
    assert_eq!(cluster.origin.loads("k"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_value_in_use_is_renewed_ahead_of_its_end() {
    let cluster = single(&GroupConfig { refresh_ahead: 0.8, ..config() });
    cluster.get(0, "k").await.unwrap();
    advance(Duration::from_millis(7_900)).await;
    cluster.get(0, "k").await.unwrap();
    quiet().await;
    assert_eq!(cluster.origin.loads("k"), 1);
    advance(Duration::from_millis(200)).await;
    assert!(matches!(cluster.get(0, "k").await.unwrap().outcome, Outcome::Hit(_)));
    quiet().await;
    assert_eq!(cluster.origin.loads("k"), 2);
    advance(Duration::from_secs(5)).await;
    assert!(matches!(cluster.get(0, "k").await.unwrap().outcome, Outcome::Hit(_)), "it was renewed");
}

#[tokio::test(start_paused = true)]
async fn jitter_only_shortens_the_ttl() {
    let cluster = single(&GroupConfig { ttl_jitter: 0.5, ..config() });
    let mut shortest = Duration::MAX;
    for n in 0..100 {
        let left = cluster.get(0, &format!("k{n}")).await.unwrap().ttl_left.unwrap();
        assert!((Duration::from_secs(5)..=Duration::from_secs(10)).contains(&left), "{left:?}");
        shortest = shortest.min(left);
    }
    assert!(shortest < Duration::from_secs(7));
}

/// A load may be told that nothing changed while the value is being evicted.
#[tokio::test(start_paused = true)]
async fn a_value_that_the_origin_finds_unchanged_is_kept_though_it_was_dropped_meanwhile() {
    let cluster = single(&GroupConfig { stale_if_error: Duration::from_secs(60), ..config() });
    cluster.origin.set_mood(Mood::Validating);
    let first = cluster.get(0, "k").await.unwrap();
    advance(Duration::from_secs(11)).await;
    assert_eq!(cluster.get(0, "k").await.unwrap().version, first.version);
    advance(Duration::from_secs(11)).await;
    cluster.origin.close_gate();
    let get = cluster.spawn_get(0, "k");
    cluster.origin.requested(3).await;
    cluster.groups[0].delete("k", Condition::Always, TIMEOUT).await.unwrap();
    cluster.origin.let_through(1);
    assert_eq!(text(&get.await.unwrap().unwrap()), "k=0");
}

#[tokio::test(start_paused = true)]
async fn a_value_that_the_origin_has_no_more_is_not_served_as_stale() {
    let config = GroupConfig { stale_if_error: Duration::from_secs(60), negative_ttl: Duration::ZERO, ..config() };
    let cluster = single(&config);
    cluster.get(0, "k").await.unwrap();
    advance(Duration::from_secs(11)).await;
    cluster.origin.set_mood(Mood::Empty);
    assert_eq!(cluster.get(0, "k").await.unwrap().value, None);
    cluster.origin.set_mood(Mood::Failing);
    assert_eq!(cluster.get(0, "k").await.unwrap_err().kind(), ErrorKind::Origin);
}
