//! Settings that change while the group serves.

use std::time::Duration;

use larder_core::{GroupConfig, Outcome, store::Policy, testing::origin::FakeOrigin};
use tokio::time::advance;

use crate::{Cluster, quiet};

fn config() -> GroupConfig {
    GroupConfig { ttl: Some(Duration::from_secs(10)), ttl_jitter: 0.0, ..GroupConfig::default() }
}

#[tokio::test(start_paused = true)]
async fn what_is_loaded_after_a_change_is_kept_by_it_and_what_is_kept_stays() {
    let cluster = Cluster::with(1, &config(), FakeOrigin::new(1));
    cluster.get(0, "before").await.unwrap();
    cluster.groups[0].set_config(GroupConfig { ttl: Some(Duration::from_secs(60)), ..config() }).unwrap();
    assert_eq!(cluster.groups[0].config().ttl, Some(Duration::from_secs(60)));
    assert_eq!(cluster.get(0, "after").await.unwrap().ttl_left, Some(Duration::from_secs(60)));
    assert_eq!(cluster.get(0, "before").await.unwrap().ttl_left, Some(Duration::from_secs(10)));
}

#[tokio::test(start_paused = true)]
async fn refreshing_ahead_begins_and_ends_with_the_setting() {
    let cluster = Cluster::with(1, &config(), FakeOrigin::new(1));
    cluster.get(0, "k").await.unwrap();
    advance(Duration::from_secs(9)).await;
    for (refresh_ahead, loads) in [(0.0, 1), (0.8, 2), (0.0, 2)] {
        cluster.groups[0].set_config(GroupConfig { refresh_ahead, ..config() }).unwrap();
        assert!(matches!(cluster.get(0, "k").await.unwrap().outcome, Outcome::Hit(_)));
        quiet().await;
        assert_eq!(cluster.origin.loads("k"), loads);
        advance(Duration::from_millis(if loads == 2 { 8_500 } else { 0 })).await;
    }
}

#[tokio::test(start_paused = true)]
async fn more_or_fewer_loads_are_under_way_from_the_change_on() {
    let cluster = Cluster::with(2, &GroupConfig { origin_concurrency: 2, ..config() }, FakeOrigin::new(1));
    let keys: Vec<String> = (0..40).map(|key| format!("k{key}")).filter(|key| cluster.owner(key) == 0).collect();
    cluster.origin.close_gate();
    let gets: Vec<_> = keys.iter().map(|key| cluster.spawn_get(0, key)).collect();
    quiet().await;
    assert_eq!(cluster.groups[0].origin_in_flight(), 2);
    // Five for each of the two nodes.
    let budget = GroupConfig { origin_concurrency: 9, origin_budget: 10, ..config() };
    cluster.groups[0].set_config(budget).unwrap();
    quiet().await;
    assert_eq!(cluster.groups[0].origin_in_flight(), 5);
    cluster.groups[0].set_config(GroupConfig { origin_concurrency: 1, ..config() }).unwrap();
    cluster.origin.let_through(5);
    quiet().await;
    assert_eq!(cluster.groups[0].origin_in_flight(), 1);
    cluster.origin.let_through(keys.len());
    for get in gets {
        get.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_not_change_is_refused_and_nothing_changes() {
    let cluster = Cluster::with(1, &config(), FakeOrigin::new(1));
    let longer = GroupConfig { ttl: None, ..config() };
    for (wrong, named) in [
        (GroupConfig { capacity_bytes: 1 << 20, ..longer.clone() }, "capacity"),
        (GroupConfig { policy: Policy::Lru, ..longer.clone() }, "policy"),
        (GroupConfig { hot_lease: Duration::ZERO, ..longer.clone() }, "hot_lease"),
        (GroupConfig { hard_timeout: Duration::from_secs(1), ..longer.clone() }, "hard_timeout"),
        (GroupConfig { value_len_max: 0, ..longer }, "max_value"),
    ] {
        let error = cluster.groups[0].set_config(wrong).unwrap_err();
        assert!(error.is_invalid() && error.message().starts_with(named), "{error}");
        assert_eq!(*cluster.groups[0].config(), config());
    }
}
