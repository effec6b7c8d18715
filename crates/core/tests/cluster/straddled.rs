//! Writes that a change of the view straddles (rules W3 and C2).

use larder_core::{
    ErrorKind, MemberState, Value, Version,
    behind::Holder,
    group::WriteOptions,
    peer::{Condition, WriteOp},
    testing::table::Writing,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::*;
use crate::{
    handoff::{joinable, settle, states},
    replicated::{disks, nodes},
};

const HARD_TIMEOUT: Duration = Duration::from_secs(3);

/// Two nodes that write to a table, and a third that may join; with a key that it will own.
async fn about_to_join(table: &FakeTable) -> (Cluster, String) {
    let config = GroupConfig { hard_timeout: HARD_TIMEOUT, ..GroupConfig::default() };
    let cluster = joinable(Cluster::through(&FakeNetwork::with_claims(), 3, &config, table)).await;
    sleep(config.hot_lease).await;
    let target = Cluster::through(&FakeNetwork::default(), 3, &config, table);
    let key = (0..1_000).map(|n| format!("k{n}")).find(|key| target.owner(key) == 2).unwrap();
    (cluster, key)
}

/// The third node joins: its own view changes first.
async fn join(cluster: &Cluster) {
    cluster.nodes[2].change_view(states(cluster, &[])).unwrap();
    settle(cluster).await;
}

fn spawn_put(group: &Group, key: &str, value: &'static str) -> JoinHandle<Result<Option<Version>, Error>> {
    let (group, key) = (group.clone(), key.to_owned());
    tokio::spawn(async move { group.put(key, Value::from(value), None, Condition::Always, TIMEOUT).await })
}

async fn everybody_reads(cluster: &Cluster, key: &str, value: &str) {
    for place in 0..3 {
        assert_eq!(text(&cluster.get(place, key).await.unwrap()), value, "at {place}");
    }
}

/// Rule W3: the present owner has loaded the old row, and must not keep it.
#[tokio::test(start_paused = true)]
async fn what_a_new_owner_has_loaded_while_the_old_one_wrote_goes_before_the_write_is_acknowledged() {
    let table = FakeTable::new();
    let (cluster, key) = about_to_join(&table).await;
    let old = cluster.owner(&key);
    table.set(&key, "old");
    table.close_writes();
    let write = spawn_put(&cluster.groups[old], &key, "new");
    table.writes_begun(1).await;
    join(&cluster).await;
    for node in &cluster.nodes {
        node.change_view(states(&cluster, &[])).unwrap();
    }
    // Rule C2: the new owner guards the key, so that it does not even load the row that is about to change.
    let get = cluster.spawn_get(2, &key);
    quiet().await;
    assert_eq!(table.loads(), 0);
    table.let_writes(1);
    write.await.unwrap().unwrap();
    // Rule W3: it was told, and does not wait for the longest write.
    let acknowledged = Instant::now();
    everybody_reads(&cluster, &key, "new").await;
    assert_eq!(text(&get.await.unwrap().unwrap()), "new");
    assert!(acknowledged.elapsed() < HARD_TIMEOUT / 2, "{:?}", acknowledged.elapsed());
}

/// The write ends when nobody can be told of it any more.
#[tokio::test(start_paused = true)]
async fn a_guard_that_nobody_lowers_ends_with_the_longest_write() {
    let table = FakeTable::new();
    let (cluster, key) = about_to_join(&table).await;
    let old = cluster.owner(&key);
    table.set(&key, "old");
    table.set_writing(Writing::Hangs);
    let _write = spawn_put(&cluster.groups[old], &key, "new");
    table.writes_begun(1).await;
    join(&cluster).await;
    cluster.kill(old);
    let start = Instant::now();
    let get = cluster.groups[2].get(&key, Duration::from_secs(20)).await.unwrap();
    assert_eq!(text(&get), "old");
    let waited = start.elapsed();
    assert!(waited > HARD_TIMEOUT / 2 && waited < 2 * HARD_TIMEOUT, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_for_its_turn_when_its_key_moves_is_done_by_the_new_owner() {
    let table = FakeTable::new();
    let (cluster, key) = about_to_join(&table).await;
    let old = cluster.owner(&key);
    table.close_writes();
    let first = spawn_put(&cluster.groups[old], &key, "first");
    table.writes_begun(1).await;
    let second = spawn_put(&cluster.groups[1 - old], &key, "second");
    quiet().await;
    join(&cluster).await;
    for node in &cluster.nodes {
        node.change_view(states(&cluster, &[])).unwrap();
    }
    table.let_writes(2);
    let first = first.await.unwrap().unwrap();
    let second = second.await.unwrap().unwrap();
    assert!(first < second);
    everybody_reads(&cluster, &key, "second").await;
    assert_eq!(table.row(&key).as_deref(), Some("second"));
}

/// Rule C2: idempotency answers travel with their slots.
#[tokio::test(start_paused = true)]
async fn a_repetition_that_comes_to_the_new_owner_is_answered_as_the_first_was() {
    let table = FakeTable::new();
    let (cluster, key) = about_to_join(&table).await;
    let write = |place: usize, value: &'static str, condition| {
        let options = WriteOptions { condition, idempotency_key: Some("once".into()), timeout: TIMEOUT };
        cluster.groups[place].write(&key, WriteOp::Put { value: Value::from(value), ttl: None }, options)
    };
    let first = write(0, "one", Condition::Always).await.unwrap();
    join(&cluster).await;
    for node in &cluster.nodes {
        node.change_view(states(&cluster, &[])).unwrap();
    }
    assert_eq!(cluster.owner(&key), 2);
    assert_eq!(write(2, "two", Condition::Always).await.unwrap(), first);
    assert_eq!(table.row(&key).as_deref(), Some("one"));
}

/// Rule V1: the new owner's versions are greater.
#[tokio::test(start_paused = true)]
async fn versions_go_on_at_a_new_owner() {
    let table = FakeTable::new();
    table.fence();
    let (cluster, key) = about_to_join(&table).await;
    let before = cluster.groups[0].put(&key, Value::from("a"), None, Condition::Always, TIMEOUT).await.unwrap();
    join(&cluster).await;
    for node in &cluster.nodes {
        node.change_view(states(&cluster, &[])).unwrap();
    }
    let after = cluster.groups[0].put(&key, Value::from("b"), None, Condition::Always, TIMEOUT).await.unwrap();
    assert!(after > before);
    let stale = cluster.groups[0].put(&key, Value::from("c"), None, Condition::IfVersion(before.unwrap()), TIMEOUT);
    assert_eq!(stale.await.unwrap_err().kind(), ErrorKind::VersionMismatch);
}

/// Rule W3, where the origin is written later: the record comes too late for who gathers those of the slot.
#[tokio::test(start_paused = true)]
async fn a_write_whose_slot_goes_while_it_is_taken_down_is_done_by_the_new_owner() {
    let behind = nodes(disks(4), &FakeTable::new(), 4).await;
    let key = (0..).map(|number| format!("k{number}")).find(|key| behind.cluster.owner(key) == 3).unwrap();
    let change = |to: &[(usize, MemberState)]| {
        for node in &behind.cluster.nodes {
            node.change_view(states(&behind.cluster, to)).unwrap();
        }
    };
    change(&[(3, MemberState::Joining)]);
    settle(&behind.cluster).await;
    let old_owner = behind.cluster.owner(&key);
    behind.put(old_owner, &key, "old").await.unwrap();
    let disk = &behind.disks[old_owner];
    disk.hold(true);
    let begun = disk.appends();
    let put = spawn_put(&behind.cluster.groups[old_owner], &key, "new");
    disk.appends_begun(begun + 1).await;
    change(&[]);
    settle(&behind.cluster).await;
    quiet().await;
    assert!(!put.is_finished());
    disk.hold(false);
    put.await.unwrap().unwrap();
    for place in 0..4 {
        behind.until(place, &key, Some("new")).await;
    }
    assert!(behind.records(old_owner, &key).iter().all(|record| record.holder != Holder::Owner));
}
