//! Hot copies: what is lent, and that no write is acknowledged before every copy is gone (rules L1, L2, P2, P4, P5, G6).

use larder_core::{Outcome, Value, peer::Condition, store::Tier};
use tokio::time::{Instant, sleep};

use super::*;
use crate::handoff::{cluster, settle, states};

/// More often than any key has to be asked for to be hot.
const ASKED: usize = 40;

const LEASE: Duration = Duration::from_secs(1);

async fn put(cluster: &Cluster, place: usize, key: &str, value: &str) {
    let put = cluster.groups[place].put(key, Value::from(value.to_owned()), None, Condition::Always, TIMEOUT);
    put.await.unwrap();
}

/// A key of this node.
fn key_of(cluster: &Cluster, owner: usize) -> String {
    (0..1_000).map(|n| format!("k{n}")).find(|key| cluster.owner(key) == owner).unwrap()
}

fn is_hot(answer: &Answer) -> bool {
    answer.outcome == Outcome::Hit(Tier::Hot)
}

fn leases(cluster: &Cluster, place: usize) -> u64 {
    cluster.groups[place].stats().leases.sum()
}

/// Has the nodes at these places ask for a key until each has a copy.
pub(super) async fn heat(cluster: &Cluster, key: &str, places: &[usize]) {
    for place in places {
        for _ in 0..ASKED {
            cluster.get(*place, key).await.unwrap();
        }
        assert!(is_hot(&cluster.get(*place, key).await.unwrap()), "{key} is in demand at {place}");
    }
}

/// Three serving nodes without an origin; what was lent before they started has run out.
async fn plain() -> Cluster {
    let cluster = cluster(3, false, &GroupConfig::default()).await;
    sleep(LEASE).await;
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_key_in_demand_is_answered_without_its_owner_for_a_lease() {
    let cluster = plain().await;
    let key = key_of(&cluster, 0);
    put(&cluster, 0, &key, "v").await;
    assert!(!is_hot(&cluster.get(1, &key).await.unwrap()), "one question is no demand");
    heat(&cluster, &key, &[1]).await;
    let requests = || cluster.groups[0].stats().server_requests.of(Protocol::Grpc).sum();
    let asked = requests();
    for _ in 0..ASKED {
        assert_eq!(text(&cluster.get(1, &key).await.unwrap()), "v");
    }
    assert_eq!(requests(), asked);
    sleep(LEASE).await;
    assert!(!is_hot(&cluster.get(1, &key).await.unwrap()));
    assert_eq!(requests(), asked + 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_lease_nothing_is_lent_and_a_stand_in_is_lent_nothing() {
    let cluster = cluster(3, false, &GroupConfig { hot_lease: Duration::ZERO, ..GroupConfig::default() }).await;
    let key = key_of(&cluster, 0);
    put(&cluster, 0, &key, "v").await;
    for _ in 0..10 * ASKED {
        assert!(!is_hot(&cluster.get(1, &key).await.unwrap()));
    }
    assert_eq!(leases(&cluster, 0), 0);
}

#[tokio::test(start_paused = true)]
async fn a_copy_ends_with_its_ttl_if_that_is_sooner() {
    let cluster = plain().await;
    let key = key_of(&cluster, 0);
    let ttl = Some(LEASE / 4);
    cluster.groups[0].put(&key, Value::from("v"), ttl, Condition::Always, TIMEOUT).await.unwrap();
    heat(&cluster, &key, &[1]).await;
    sleep(LEASE / 4).await;
    assert_eq!(cluster.get(1, &key).await.unwrap().value, None);
}

/// Rule P4: no time passes between the acknowledgement and the reads.
#[tokio::test(start_paused = true)]
async fn once_a_write_is_acknowledged_every_node_answers_with_it() {
    let cluster = plain().await;
    let key = key_of(&cluster, 0);
    put(&cluster, 0, &key, "old").await;
    for (writer, value) in [(0, "one"), (1, "two"), (2, "three")] {
        heat(&cluster, &key, &[1, 2]).await;
        let start = Instant::now();
        put(&cluster, writer, &key, value).await;
        assert!(start.elapsed() < LEASE / 2, "copies are revoked, not waited for");
        for place in 0..3 {
            assert_eq!(text(&cluster.get(place, &key).await.unwrap()), value);
        }
    }
    heat(&cluster, &key, &[1, 2]).await;
    cluster.groups[1].delete(&key, Condition::Always, TIMEOUT).await.unwrap();
    for place in 0..3 {
        assert_eq!(cluster.get(place, &key).await.unwrap().value, None);
    }
}

/// Rule L2: who can't be asked has its time.
#[tokio::test(start_paused = true)]
async fn who_holds_a_copy_and_can_not_be_reached_is_waited_out() {
    let cluster = plain().await;
    let key = key_of(&cluster, 0);
    put(&cluster, 0, &key, "old").await;
    heat(&cluster, &key, &[1]).await;
    cluster.network.hold("n1");
    let start = Instant::now();
    put(&cluster, 2, &key, "new").await;
    let waited = start.elapsed();
    assert!(waited > LEASE / 2 && waited <= LEASE + Duration::from_millis(5), "{waited:?}");
    // What it still has has ended.
    cluster.network.release("n1");
    assert_eq!(text(&cluster.get(1, &key).await.unwrap()), "new");
}

#[tokio::test(start_paused = true)]
async fn who_held_a_copy_and_has_left_is_waited_out() {
    let cluster = plain().await;
    let key = key_of(&cluster, 0);
    put(&cluster, 0, &key, "old").await;
    heat(&cluster, &key, &[1]).await;
    let rest: Vec<String> = [0, 2, 3].map(|place| cluster.nodes[place].name().to_string()).into();
    for place in [0, 2, 3] {
        cluster.nodes[place].change_view(members(&rest)).unwrap();
    }
    let owner = cluster.owner(&key);
    assert_eq!(owner, 0);
    let start = Instant::now();
    put(&cluster, 0, &key, "new").await;
    let waited = start.elapsed();
    assert!(waited > LEASE / 2 && waited <= LEASE, "{waited:?}");
}

/// Rules P5 and G6: what was lent before the write must not be kept after it.
#[tokio::test(start_paused = true)]
async fn a_copy_that_is_on_its_way_when_it_is_revoked_is_not_kept() {
    let cluster = plain().await;
    let key = key_of(&cluster, 0);
    put(&cluster, 0, &key, "old").await;
    // Hot by the demand of another node, so that this one's first answer brings a lease.
    heat(&cluster, &key, &[2]).await;
    let lent = leases(&cluster, 0);
    cluster.network.hold_answers("n0");
    let early = cluster.spawn_get(1, &key);
    quiet().await;
    assert_eq!(leases(&cluster, 0), lent + 1, "the answer brings a lease");
    let writer = cluster.groups[0].clone();
    let written = key.clone();
    let write =
        tokio::spawn(async move { writer.put(written, Value::from("new"), None, Condition::Always, TIMEOUT).await });
    write.await.unwrap().unwrap();
    cluster.network.release_answers("n0");
    assert_eq!(text(&early.await.unwrap().unwrap()), "old", "it was asked before the write");
    assert_eq!(cluster.groups[1].store_stats().hot.items, 0);
    assert_eq!(text(&cluster.get(1, &key).await.unwrap()), "new");
}

/// Rule L1: the owner counts from when it answered, so that the holder counts from when it asked.
#[tokio::test(start_paused = true)]
async fn a_copy_is_kept_from_when_it_was_asked_for_however_long_it_was_on_its_way() {
    let cluster = plain().await;
    let key = key_of(&cluster, 0);
    put(&cluster, 0, &key, "v").await;
    heat(&cluster, &key, &[2]).await;
    cluster.network.hold_answers("n0");
    let early = cluster.spawn_get(1, &key);
    quiet().await;
    sleep(LEASE.mul_f64(0.9)).await;
    cluster.network.release_answers("n0");
    early.await.unwrap().unwrap();
    assert!(is_hot(&cluster.get(1, &key).await.unwrap()), "it is lent");
    sleep(LEASE.mul_f64(0.2)).await;
    assert!(!is_hot(&cluster.get(1, &key).await.unwrap()), "the owner may have written the key since");
}

/// Rule C2: the new owner knows of copies that the old one lent, and waits for them.
#[tokio::test(start_paused = true)]
async fn a_new_owner_waits_for_the_leases_of_the_old_one() {
    let cluster = plain().await;
    let target = Cluster::over(&FakeNetwork::default(), 4, &GroupConfig::default(), FakeOrigin::new(1), None);
    let key = (0..1_000).map(|n| format!("k{n}")).find(|key| target.owner(key) == 3).unwrap();
    let (old, asker) = (cluster.owner(&key), (cluster.owner(&key) + 1) % 3);
    put(&cluster, old, &key, "old").await;
    heat(&cluster, &key, &[asker]).await;
    for node in &cluster.nodes {
        node.change_view(states(&cluster, &[])).unwrap();
    }
    settle(&cluster).await;
    assert_eq!(cluster.owner(&key), 3);
    assert!(is_hot(&cluster.get(asker, &key).await.unwrap()), "it is still lent");
    put(&cluster, 3, &key, "new").await;
    for place in 0..4 {
        assert_eq!(text(&cluster.get(place, &key).await.unwrap()), "new", "at {place}");
    }
}

/// Rule C4: what an earlier run of the owner lent may be out.
#[tokio::test(start_paused = true)]
async fn who_has_just_started_waits_for_what_it_may_have_lent_before() {
    let cluster = cluster(3, false, &GroupConfig::default()).await;
    let start = Instant::now();
    let key = key_of(&cluster, 0);
    put(&cluster, 0, &key, "v").await;
    assert!(start.elapsed() > LEASE / 2 && start.elapsed() <= LEASE, "{:?}", start.elapsed());
    let start = Instant::now();
    put(&cluster, 0, &key, "w").await;
    assert_eq!(start.elapsed(), Duration::ZERO, "once");
}

/// Copies take an eighth of the capacity at most.
#[tokio::test(start_paused = true)]
async fn copies_leave_room_for_what_a_node_owns() {
    let config = GroupConfig { capacity_bytes: 1 << 20, ..GroupConfig::default() };
    let cluster = cluster(2, false, &config).await;
    sleep(LEASE).await;
    let keys: Vec<String> = (0..400).map(|n| format!("k{n}")).filter(|key| cluster.owner(key) == 0).take(100).collect();
    for key in &keys {
        put(&cluster, 0, key, &"v".repeat(4_000)).await;
    }
    for _ in 0..ASKED {
        for key in &keys {
            cluster.get(1, key).await.unwrap();
        }
    }
    let hot = cluster.groups[1].store_stats().hot;
    assert!(hot.items > 10 && hot.bytes <= config.capacity_bytes / 8, "{hot:?}");
}
