//! Slots that change owners, over a network that carries claims: who acts, what comes along, and what is never answered.

use std::time::Duration;

use larder_core::{ErrorKind, MemberState, Value, peer::Condition};
use tokio::time::{Instant, sleep, timeout};

use super::*;

const KEYS: usize = 300;

/// A cluster of so many serving nodes, with one more that is joining; all claims are done.
pub(crate) async fn cluster(count: usize, has_origin: bool, config: &GroupConfig) -> Cluster {
    let origin = FakeOrigin::new(1);
    let loader: Arc<dyn Loader> = Arc::new(origin.clone());
    let loader = has_origin.then_some(&loader);
    joinable(Cluster::over(&FakeNetwork::with_claims(), count + 1, config, origin, loader)).await
}

/// The last node of the cluster has not joined yet, and all claims are done.
pub(crate) async fn joinable(mut cluster: Cluster) -> Cluster {
    let last = cluster.nodes.len() - 1;
    for node in &cluster.nodes {
        node.change_view(states(&cluster, &[(last, MemberState::Joining)])).unwrap();
        cluster.drivers.push(tokio::spawn(node.clone().claim_slots()).abort_handle());
    }
    settle(&cluster).await;
    cluster
}

/// All nodes, these in other states than serving.
pub(crate) fn states(cluster: &Cluster, states: &[(usize, MemberState)]) -> Members {
    let members = cluster.nodes.iter().enumerate().map(|(place, node)| {
        let state = states.iter().find(|(other, _)| *other == place).map_or(MemberState::Serving, |(_, state)| *state);
        Member { state, ..Member::new(node.name().clone(), node.name().clone()) }
    });
    Members::new(members).unwrap()
}

pub(crate) async fn settle(cluster: &Cluster) {
    for node in &cluster.nodes {
        timeout(TIMEOUT, async {
            while !node.is_settled() {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
    }
}

fn keys() -> Vec<String> {
    (0..KEYS).map(|n| format!("k{n}")).collect()
}

/// Asks for every key at every place.
async fn get_all(cluster: &Cluster, places: &[usize]) {
    for key in keys() {
        for place in places {
            assert_eq!(text(&cluster.get(*place, &key).await.unwrap()), format!("{key}=0"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_joiner_takes_over_what_there_is_and_the_origin_hears_nothing() {
    let cluster = cluster(3, true, &GroupConfig::default()).await;
    get_all(&cluster, &[0, 1, 2]).await;
    assert_eq!(cluster.origin.requests(), KEYS);
    // Its own view is the first to change; the others learn from its claims.
    cluster.nodes[3].change_view(states(&cluster, &[])).unwrap();
    get_all(&cluster, &[0, 1, 2, 3]).await;
    for node in &cluster.nodes {
        node.change_view(states(&cluster, &[])).unwrap();
    }
    get_all(&cluster, &[0, 1, 2, 3]).await;
    assert_eq!(cluster.origin.requests(), KEYS, "nothing is loaded again");
    let moved = keys().iter().filter(|key| cluster.owner(key) == 3).count();
    assert!(moved > KEYS / 8);
    assert_eq!(cluster.groups[3].store_stats().main.items, moved as u64);
}

#[tokio::test(start_paused = true)]
async fn with_no_handoff_slots_begin_empty() {
    let cluster = cluster(3, true, &GroupConfig::default()).await;
    cluster.nodes.iter().for_each(|node| node.limit_handoffs(0));
    get_all(&cluster, &[0, 1, 2]).await;
    for node in &cluster.nodes {
        node.change_view(states(&cluster, &[])).unwrap();
    }
    settle(&cluster).await;
    get_all(&cluster, &[0, 1, 2, 3]).await;
    let moved = keys().iter().filter(|key| cluster.owner(key) == 3).count();
    assert_eq!(cluster.origin.requests(), KEYS + moved, "what moved is loaded again, and nothing else is");
}

#[tokio::test(start_paused = true)]
async fn what_the_others_hear_first_costs_the_origin_nothing_either() {
    let cluster = cluster(3, true, &GroupConfig::default()).await;
    get_all(&cluster, &[0, 1, 2]).await;
    for place in 0..3 {
        cluster.nodes[place].change_view(states(&cluster, &[])).unwrap();
        quiet().await;
        get_all(&cluster, &[0, 1, 2]).await;
    }
    cluster.nodes[3].change_view(states(&cluster, &[])).unwrap();
    get_all(&cluster, &[0, 1, 2, 3]).await;
    assert_eq!(cluster.origin.requests(), KEYS);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_drains_leaves_everything_to_the_others() {
    let cluster = cluster(3, true, &GroupConfig::default()).await;
    get_all(&cluster, &[0]).await;
    let without = [(0, MemberState::Draining), (3, MemberState::Joining)];
    for place in [1, 2, 3] {
        cluster.nodes[place].change_view(states(&cluster, &without)).unwrap();
    }
    get_all(&cluster, &[0, 1, 2]).await;
    timeout(TIMEOUT, cluster.nodes[0].handed_over()).await.unwrap();
    cluster.nodes[0].change_view(states(&cluster, &without)).unwrap();
    cluster.kill(0);
    for place in [1, 2] {
        let rest = [1, 2].map(|place| cluster.nodes[place].name().to_string());
        cluster.nodes[place].change_view(members(&rest)).unwrap();
    }
    get_all(&cluster, &[1, 2]).await;
    assert_eq!(cluster.origin.requests(), KEYS);
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_node_had_is_loaded_once_more_and_written_after_a_lease() {
    let cluster = cluster(3, true, &GroupConfig::default()).await;
    get_all(&cluster, &[1]).await;
    let lost = keys().iter().filter(|key| cluster.owner(key) == 0).count();
    let key = keys().into_iter().find(|key| cluster.owner(key) == 0).unwrap();
    cluster.kill(0);
    let start = Instant::now();
    let rest = [1, 2].map(|place| cluster.nodes[place].name().to_string());
    for place in [1, 2] {
        cluster.nodes[place].change_view(members(&rest)).unwrap();
    }
    get_all(&cluster, &[1, 2]).await;
    cluster.groups[1].delete(&key, Condition::Always, TIMEOUT).await.unwrap();
    let waited = start.elapsed();
    let lease = GroupConfig::default().hot_lease;
    assert!(waited >= lease, "who had it may have let a copy be kept until then: {waited:?}");
    assert!(waited < 2 * lease, "{waited:?}");
    get_all(&cluster, &[1, 2]).await;
    assert_eq!(cluster.origin.requests(), KEYS + lost + 1, "and once after the delete");
}

#[tokio::test(start_paused = true)]
async fn values_without_an_origin_move_as_well() {
    let cluster = cluster(3, false, &GroupConfig::default()).await;
    for key in keys() {
        let value = Value::from(format!("{key}=0"));
        cluster.groups[0].put(&key, value, None, Condition::Always, TIMEOUT).await.unwrap();
    }
    for node in &cluster.nodes {
        node.change_view(states(&cluster, &[])).unwrap();
    }
    get_all(&cluster, &[0, 1, 2, 3]).await;
    // A condition is judged by what came along.
    let moved = keys().into_iter().find(|key| cluster.owner(key) == 3).unwrap();
    let put = cluster.groups[3].put(&moved, Value::from("new"), None, Condition::IfAbsent, TIMEOUT).await;
    assert_eq!(put.unwrap_err().kind(), ErrorKind::VersionMismatch);
}

/// Rule H2: what was deleted at the new owner does not come back from the old one.
#[tokio::test(start_paused = true)]
async fn what_is_written_after_a_slot_moved_is_not_undone_by_what_comes_along() {
    let cluster = cluster(3, false, &GroupConfig::default()).await;
    let group = &cluster.groups[0];
    for key in keys() {
        group.put(&key, Value::from("old"), None, Condition::Always, TIMEOUT).await.unwrap();
    }
    for node in &cluster.nodes {
        node.change_view(states(&cluster, &[])).unwrap();
    }
    let mut moved = 0;
    for key in keys() {
        group.delete(&key, Condition::Always, TIMEOUT).await.unwrap();
        moved += usize::from(cluster.owner(&key) == 3);
        assert!(group.get(&key, TIMEOUT).await.unwrap().value.is_none(), "{key}");
    }
    assert!(moved > 0);
    sleep(Duration::from_secs(1)).await;
    for key in keys() {
        assert!(group.get(&key, TIMEOUT).await.unwrap().value.is_none(), "{key}");
    }
}

/// Rules W3 and C2.
#[tokio::test(start_paused = true)]
async fn a_load_that_a_claim_overtakes_is_answered_and_not_kept() {
    let cluster = cluster(2, true, &GroupConfig::default()).await;
    let target = Cluster::over(&FakeNetwork::default(), 3, &GroupConfig::default(), FakeOrigin::new(1), None);
    let key = keys().into_iter().find(|key| target.owner(key) == 2).unwrap();
    let owner = cluster.owner(&key);
    cluster.origin.close_gate();
    let get = cluster.spawn_get(owner, &key);
    cluster.origin.requested(1).await;
    cluster.nodes[2].change_view(states(&cluster, &[])).unwrap();
    settle(&cluster).await;
    cluster.origin.let_through(1);
    assert_eq!(text(&get.await.unwrap().unwrap()), format!("{key}=0"));
    assert_eq!(cluster.groups[owner].store_stats().items(), 0);
}

/// Has the last of three take a key that by its view it owns for a while from the first, which goes on owning it by its own. The key.
async fn taken_from_its_owner(cluster: &Cluster) -> String {
    let names: Vec<_> = cluster.nodes.iter().map(|node| node.name().to_string()).collect();
    let key = keys().into_iter().find(|key| cluster.owner(key) == 0 && cluster.stand_in(key) == 2).unwrap();
    cluster.groups[0].put(&key, Value::from("old"), None, Condition::Always, TIMEOUT).await.unwrap();
    cluster.nodes[2].change_view(members(&names[1..3])).unwrap();
    sleep(Duration::from_secs(1)).await;
    cluster.groups[2].put(&key, Value::from("new"), None, Condition::Always, TIMEOUT).await.unwrap();
    key
}

/// Rules C5 and W2: nobody owns it by any view but the one who let go of it.
#[tokio::test(start_paused = true)]
async fn a_get_waits_until_a_node_has_back_what_was_taken_from_it() {
    let config = GroupConfig { hot_lease: Duration::from_millis(10), ..GroupConfig::default() };
    let cluster = cluster(3, false, &config).await;
    // Whenever it was turned down last.
    for step in 0..8 {
        let key = taken_from_its_owner(&cluster).await;
        sleep(step * Duration::from_millis(110)).await;
        cluster.nodes[2].change_view(states(&cluster, &[(3, MemberState::Joining)])).unwrap();
        sleep(2 * config.hot_lease).await;
        for place in 0..3 {
            let answer = cluster.get(place, &key).await;
            assert_eq!(text(&answer.unwrap()), "new", "at {place} in step {step}");
        }
    }
}

/// Rule C5: what this node still holds from before is older than what the other may have written.
#[tokio::test(start_paused = true)]
async fn what_was_taken_from_a_node_by_one_that_died_is_not_answered_as_it_was_before() {
    let table = FakeTable::new();
    let cluster = Cluster::through(&FakeNetwork::with_claims(), 4, &GroupConfig::default(), &table);
    let cluster = joinable(cluster).await;
    let key = taken_from_its_owner(&cluster).await;
    cluster.kill(2);
    let left: Vec<_> = cluster.nodes[..2].iter().map(|node| node.name().to_string()).collect();
    cluster.nodes[..2].iter().for_each(|node| node.change_view(members(&left)).unwrap());
    for place in 0..2 {
        assert_eq!(text(&cluster.get(place, &key).await.unwrap()), "new", "at {place}");
    }
}

/// Rule W5: who does not say at once what it acted for is asked until it does.
#[tokio::test(start_paused = true)]
async fn what_a_node_wrote_while_it_was_apart_is_had_from_it_though_it_answers_late() {
    let cluster = cluster(2, false, &GroupConfig::default()).await;
    let names: Vec<_> = cluster.nodes.iter().map(|node| node.name().to_string()).collect();
    cluster.nodes.iter().for_each(|node| node.change_view(states(&cluster, &[])).unwrap());
    settle(&cluster).await;
    let key = keys().into_iter().find(|key| cluster.owner(key) == 1).unwrap();
    let alone = cluster.nodes[0].name();
    cluster.network.hold(alone);
    cluster.nodes[0].change_view(members(&names[..1])).unwrap();
    for node in &cluster.nodes[1..] {
        node.change_view(members(&names[1..])).unwrap();
    }
    sleep(Duration::from_millis(3_500)).await;
    cluster.groups[0].put(&key, Value::from("new"), None, Condition::Always, TIMEOUT).await.unwrap();

    cluster.nodes.iter().for_each(|node| node.change_view(states(&cluster, &[])).unwrap());
    sleep(Duration::from_secs(1)).await;
    cluster.network.release(alone);
    sleep(Duration::from_millis(500)).await;
    for place in 0..3 {
        assert_eq!(text(&cluster.get(place, &key).await.unwrap()), "new", "at {place}");
    }
}

/// Rule W5: two nodes that start at once, each of which takes the other for one that is joining.
#[tokio::test(start_paused = true)]
async fn what_two_nodes_wrote_while_each_took_the_other_for_a_joiner_is_had_by_both() {
    let names = names(2);
    let state = |is_joining| if is_joining { MemberState::Joining } else { MemberState::Serving };
    let view = |joining: Option<usize>| {
        let member = |(place, name): (usize, &String)| Member {
            state: state(joining == Some(place)),
            ..Member::new(name.as_str(), name.as_str())
        };
        Members::new(names.iter().enumerate().map(member)).unwrap()
    };
    let open = |node: &Node| node.open_group("g", GroupConfig::default(), None);
    let network = FakeNetwork::with_claims();
    let mut cluster = Cluster::begun(&network, &names, FakeOrigin::new(1), |place| view(Some(1 - place)), open);
    for node in &cluster.nodes {
        cluster.drivers.push(tokio::spawn(node.clone().claim_slots()).abort_handle());
    }
    settle(&cluster).await;
    let keys: Vec<String> = keys().into_iter().take(20).collect();
    for (number, key) in keys.iter().enumerate() {
        let group = &cluster.groups[number % 2];
        group.put(key, Value::from(key.clone()), None, Condition::Always, TIMEOUT).await.unwrap();
    }
    cluster.nodes.iter().for_each(|node| node.change_view(view(None)).unwrap());
    sleep(Duration::from_millis(500)).await;
    for (place, key) in (0..2).flat_map(|place| keys.iter().map(move |key| (place, key))) {
        assert_eq!(text(&cluster.get(place, key).await.unwrap()), key, "at {place}");
    }
}

/// A slot that comes back brings what was written meanwhile, also of keys that were written here before it left.
#[tokio::test(start_paused = true)]
async fn what_was_written_before_a_slot_left_does_not_hide_what_it_comes_back_with() {
    let cluster = cluster(3, false, &GroupConfig::default()).await;
    let joins = || {
        for node in &cluster.nodes {
            node.change_view(states(&cluster, &[])).unwrap();
        }
    };
    joins();
    settle(&cluster).await;
    let key = keys().into_iter().find(|key| cluster.owner(key) == 3).unwrap();
    // Within the window in which its slot warms.
    cluster.groups[0].put(&key, Value::from("old"), None, Condition::Always, TIMEOUT).await.unwrap();
    for node in &cluster.nodes {
        node.change_view(states(&cluster, &[(3, MemberState::Draining)])).unwrap();
    }
    settle(&cluster).await;
    cluster.groups[0].put(&key, Value::from("new"), None, Condition::Always, TIMEOUT).await.unwrap();
    joins();
    for place in 0..4 {
        assert_eq!(text(&cluster.get(place, &key).await.unwrap()), "new", "at {place}");
    }
}
