//! One load of a key while nodes disagree on who owns it, by a lock service that both of them reach.

use larder_core::{
    ErrorKind,
    group::LoadLock,
    stats::LoadLockResult,
    testing::fake_locks::{FakeLocks, Trouble},
};
use tokio::time::sleep;

use super::*;

const CALLERS: usize = 200;

/// Two nodes, each of which knows of nobody but itself, and the locks that both take.
fn strangers(load_lock: LoadLock) -> (Cluster, FakeLocks) {
    let config = GroupConfig { load_lock, ..GroupConfig::default() };
    let cluster = Cluster::with(2, &config, FakeOrigin::new(1));
    let locks = FakeLocks::new(TokioClock::new());
    for node in &cluster.nodes {
        node.lock_loads_with(locks.clone());
        node.change_view(members(&[node.name().to_string()])).unwrap();
    }
    (cluster, locks)
}

fn count(cluster: &Cluster, result: LoadLockResult) -> u64 {
    cluster.groups.iter().map(|group| group.stats().load_locks.of(result).sum()).sum()
}

async fn all_get(cluster: &Cluster, key: &str) {
    cluster.origin.close_gate();
    let gets: Vec<_> = (0..CALLERS).map(|caller| cluster.spawn_get(caller % 2, key)).collect();
    cluster.origin.requested(1).await;
    quiet().await;
    cluster.origin.let_through(1_000);
    for get in gets {
        assert_eq!(text(&get.await.unwrap().unwrap()), format!("{key}=0"));
    }
}

#[tokio::test(start_paused = true)]
async fn two_hundred_callers_at_nodes_that_know_nothing_of_each_other_cost_one_load() {
    let (cluster, locks) = strangers(LoadLock::On);
    all_get(&cluster, "cold").await;
    assert_eq!(cluster.origin.loads("cold"), 1);
    let counts = [LoadLockResult::Taken, LoadLockResult::Found, LoadLockResult::Bypassed];
    assert_eq!(counts.map(|result| count(&cluster, result)), [2, 1, 0]);
    quiet().await;
    assert_eq!(locks.in_use(), 0, "they are let go");
    // It is kept by both: each answers by itself from here on.
    for place in [0, 1] {
        cluster.get(place, "cold").await.unwrap();
    }
    assert_eq!(count(&cluster, LoadLockResult::Taken), 2);
}

#[tokio::test(start_paused = true)]
async fn without_a_lock_each_node_loads() {
    let (cluster, _) = strangers(LoadLock::Off);
    all_get(&cluster, "cold").await;
    assert_eq!(cluster.origin.loads("cold"), 2);
}

#[tokio::test(start_paused = true)]
async fn where_the_lock_service_is_away_each_node_loads_once_and_says_so() {
    for trouble in [Trouble::Away, Trouble::Silent] {
        let (cluster, locks) = strangers(LoadLock::On);
        locks.set_trouble(trouble);
        all_get(&cluster, "cold").await;
        assert_eq!((cluster.origin.loads("cold"), count(&cluster, LoadLockResult::Bypassed)), (2, 2), "{trouble:?}");
        locks.set_trouble(Trouble::None);
        sleep(Duration::from_secs(2)).await;
        all_get(&cluster, "later").await;
        assert_eq!(cluster.origin.loads("later"), 1, "{trouble:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_strict_group_loads_under_a_lock_or_not_at_all() {
    let (cluster, locks) = strangers(LoadLock::Strict);
    locks.set_trouble(Trouble::Away);
    let error = cluster.get(0, "cold").await.unwrap_err();
    assert!(error.kind() == ErrorKind::NoAuthority && error.retry_after().is_some(), "{error}");
    assert_eq!((cluster.origin.loads("cold"), count(&cluster, LoadLockResult::Refused)), (0, 1));
    locks.set_trouble(Trouble::None);
    assert!(cluster.get(0, "cold").await.is_ok());
    // What is there is answered with, whoever is away.
    locks.set_trouble(Trouble::Away);
    assert!(cluster.get(0, "cold").await.is_ok());
}

/// What another loaded under another view may be older than what was written here since.
#[tokio::test(start_paused = true)]
async fn what_another_loaded_longer_ago_than_a_lease_is_not_taken() {
    let (cluster, _) = strangers(LoadLock::On);
    cluster.get(0, "k").await.unwrap();
    sleep(GroupConfig::default().hot_lease + Duration::from_millis(1)).await;
    cluster.get(1, "k").await.unwrap();
    assert_eq!((cluster.origin.loads("k"), count(&cluster, LoadLockResult::Found)), (2, 0));
    cluster.get(0, "fresh").await.unwrap();
    sleep(GroupConfig::default().hot_lease / 2).await;
    cluster.get(1, "fresh").await.unwrap();
    assert_eq!((cluster.origin.loads("fresh"), count(&cluster, LoadLockResult::Found)), (1, 1));
}

/// Who loads may fail, vanish, or find nothing.
#[tokio::test(start_paused = true)]
async fn a_load_that_fails_or_is_abandoned_lets_its_lock_go() {
    let (cluster, locks) = strangers(LoadLock::On);
    cluster.origin.close_gate();
    let get = cluster.spawn_get(0, "k");
    cluster.origin.requested(1).await;
    get.abort();
    quiet().await;
    assert_eq!(locks.in_use(), 0);
    cluster.origin.let_through(1_000);
    assert!(cluster.get(1, "k").await.is_ok());
}
