//! Tags and whole groups: what is void is void on every node (rules T1 and T2).

use larder_core::{
    ErrorKind, MemberState, Outcome, Value,
    peer::Condition,
    store::{Tag, Tags, Tier},
};
use tokio::time::{Instant, sleep};

use super::*;
use crate::handoff::{cluster, joinable, settle, states};

const LEASE: Duration = Duration::from_secs(1);

fn tagged(value: &str, tags: &[&str]) -> Value {
    let tags: Tags = tags.iter().map(|tag| Tag::of(tag.as_bytes())).collect();
    Value::from(value.to_owned()).with_tags(tags)
}

async fn put(cluster: &Cluster, key: &str, tags: &[&str]) {
    cluster.groups[0].put(key, tagged("v", tags), None, Condition::Always, TIMEOUT).await.unwrap();
}

async fn has(cluster: &Cluster, place: usize, key: &str) -> bool {
    cluster.get(place, key).await.unwrap().value.is_some()
}

#[tokio::test(start_paused = true)]
async fn what_bears_a_tag_goes_everywhere_and_nothing_else_does() {
    let cluster = cluster(3, false, &GroupConfig::default()).await;
    for number in 0..30 {
        put(&cluster, &format!("shoe{number}"), &["shoes", "de"]).await;
        put(&cluster, &format!("hat{number}"), &["hats"]).await;
    }
    cluster.groups[1].invalidate_tags(&["shoes", "none"], TIMEOUT).await.unwrap();
    for number in 0..30 {
        for place in 0..3 {
            assert!(!has(&cluster, place, &format!("shoe{number}")).await);
            assert!(has(&cluster, place, &format!("hat{number}")).await);
        }
    }
    put(&cluster, "shoe0", &["shoes"]).await;
    assert!(has(&cluster, 2, "shoe0").await, "what comes after is later");
    cluster.groups[2].invalidate_all(TIMEOUT).await.unwrap();
    for place in 0..3 {
        assert!(!has(&cluster, place, "shoe0").await && !has(&cluster, place, "hat0").await);
    }
}

#[tokio::test(start_paused = true)]
async fn copies_that_were_lent_go_with_their_tag() {
    let cluster = cluster(3, false, &GroupConfig::default()).await;
    sleep(LEASE).await;
    put(&cluster, "k", &["t"]).await;
    let asker = cluster.third("k");
    for _ in 0..40 {
        cluster.get(asker, "k").await.unwrap();
    }
    assert_eq!(cluster.get(asker, "k").await.unwrap().outcome, Outcome::Hit(Tier::Hot));
    cluster.groups[cluster.owner("k")].invalidate_tags(&["t"], TIMEOUT).await.unwrap();
    assert!(!has(&cluster, asker, "k").await);
}

/// What a load brings may bear the tag.
#[tokio::test(start_paused = true)]
async fn a_load_that_is_under_way_is_not_kept_and_not_joined() {
    let cluster = cluster(3, true, &GroupConfig::default()).await;
    cluster.origin.close_gate();
    let (owner, third) = (cluster.owner("k"), cluster.third("k"));
    let early = cluster.spawn_get(third, "k");
    cluster.origin.requested(1).await;
    cluster.origin.change("k");
    cluster.groups[cluster.stand_in("k")].invalidate_all(TIMEOUT).await.unwrap();
    let late = [owner, third].map(|place| cluster.spawn_get(place, "k"));
    cluster.origin.requested(2).await;
    cluster.origin.let_through(2);
    assert_eq!(text(&early.await.unwrap().unwrap()), "k=0");
    for get in late {
        assert_eq!(text(&get.await.unwrap().unwrap()), "k=1");
    }
    assert_eq!(text(&cluster.get(owner, "k").await.unwrap()), "k=1");
}

/// A load at a node whose clock is ahead began before the invalidation, whatever its reading says.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_keeps_nothing_alive() {
    let cluster = cluster(3, false, &GroupConfig::default()).await;
    let ahead = larder_core::version::Reading::from_bits((cluster.nodes[0].clock().wall_ms() + 5_000) << 16);
    let owner = cluster.owner("k");
    cluster.nodes[owner].standing().observe(ahead).unwrap();
    cluster.groups[owner].put("k", tagged("v", &["t"]), None, Condition::Always, TIMEOUT).await.unwrap();
    let other = (owner + 1) % 3;
    assert!(cluster.nodes[other].standing().reading() < ahead);
    cluster.groups[other].invalidate_tags(&["t"], TIMEOUT).await.unwrap();
    for place in 0..3 {
        assert!(!has(&cluster, place, "k").await);
    }
}

#[tokio::test(start_paused = true)]
async fn two_nodes_may_invalidate_at_once() {
    let cluster = cluster(3, false, &GroupConfig::default()).await;
    for round in 0..20 {
        put(&cluster, "k", &["t"]).await;
        let [a, b] = [0, 1].map(|place| cluster.groups[place].invalidate_tags(&["t"], TIMEOUT));
        let (a, b) = tokio::join!(a, b);
        assert!(a.is_ok() && b.is_ok(), "round {round}");
        for place in 0..3 {
            assert!(!has(&cluster, place, "k").await, "round {round}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_a_member_can_not_be_told_nobody_is_told_that_it_is_done() {
    let cluster = cluster(3, false, &GroupConfig::default()).await;
    put(&cluster, "k", &["t"]).await;
    cluster.network.hold("n1");
    let start = Instant::now();
    let error = cluster.groups[0].invalidate_tags(&["t"], Duration::from_secs(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Indeterminate);
    assert!(start.elapsed() <= Duration::from_secs(4));
    cluster.network.release("n1");
    cluster.groups[0].invalidate_tags(&["t"], TIMEOUT).await.unwrap();
}

/// Rule T2: whoever comes to be known again learns what is void, before it acts and before it answers from what it kept.
#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_learns_what_was_invalidated_meanwhile() {
    let network = FakeNetwork::with_claims();
    let config = GroupConfig { hot_lease: Duration::from_secs(60), ..GroupConfig::default() };
    let cluster = joinable(Cluster::over(&network, 3, &config, FakeOrigin::new(1), None)).await;
    sleep(config.hot_lease).await;
    put(&cluster, "k", &["t"]).await;
    for _ in 0..40 {
        cluster.get(2, "k").await.unwrap();
    }
    assert_eq!(cluster.get(2, "k").await.unwrap().outcome, Outcome::Hit(Tier::Hot));
    // It is cut off, and no member of the others' view while they invalidate.
    network.hold("n2");
    let rest = [0, 1].map(|place| cluster.nodes[place].name().to_string());
    for place in [0, 1] {
        cluster.nodes[place].change_view(members(&rest)).unwrap();
    }
    cluster.groups[0].invalidate_tags(&["t"], TIMEOUT).await.unwrap();
    network.release("n2");
    for place in [0, 1] {
        cluster.nodes[place].change_view(states(&cluster, &[(2, MemberState::Joining)])).unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    for node in &cluster.nodes {
        node.change_view(states(&cluster, &[])).unwrap();
    }
    settle(&cluster).await;
    for place in 0..3 {
        assert!(!has(&cluster, place, "k").await, "at {place}");
    }
}

/// Rule T1: who took the marks before they were raised, and is about to be a member, is told as well.
#[tokio::test(start_paused = true)]
async fn who_joins_meanwhile_is_told_too() {
    let network = FakeNetwork::with_claims();
    let cluster = joinable(Cluster::over(&network, 3, &GroupConfig::default(), FakeOrigin::new(1), None)).await;
    let rest = [0, 1].map(|place| cluster.nodes[place].name().to_string());
    // Node 0 has not heard of the joiner yet, which has taken its marks.
    cluster.nodes[0].change_view(members(&rest)).unwrap();
    let service = cluster.nodes[0].service(Protocol::Grpc);
    let call = larder_core::claim::SlotCall::Marks { group: "g".into(), marks: Vec::new() };
    service.slots(larder_core::claim::SlotRequest { from: "n2".into(), incarnation: 3, call }).await.unwrap();
    let group = cluster.groups[0].clone();
    let invalidation = tokio::spawn(async move { group.invalidate_all(TIMEOUT).await });
    sleep(Duration::from_secs(1)).await;
    assert!(!invalidation.is_finished(), "the joiner has not been told");
    cluster.nodes[0].change_view(states(&cluster, &[(2, MemberState::Joining)])).unwrap();
    invalidation.await.unwrap().unwrap();
}
