//! Nodes that stand still while others act in their place (rules A1 and W5).

use larder_core::{MemberState, Value, peer::Condition};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    handoff::{cluster, joinable, settle, states},
    *,
};

/// Who stands still.
const SLEEPER: usize = 0;

/// How long, for others to take its place.
const NAP: Duration = Duration::from_secs(3);

/// More turns than a node takes to find out that it was sent away, and what of its own is elsewhere.
const STEPS_OF_WAKING: usize = 6;

/// A cluster of three whose groups write through, and a key of the one that is to stand still.
async fn through(table: &FakeTable) -> (Cluster, String) {
    let cluster = Cluster::through(&FakeNetwork::with_claims(), 4, &GroupConfig::default(), table);
    let cluster = joinable(cluster).await;
    let key = own_key(&cluster);
    (cluster, key)
}

fn own_key(cluster: &Cluster) -> String {
    (0..).map(|number| format!("k{number}")).find(|key| cluster.owner(key) == SLEEPER).unwrap()
}

/// Has the node stand still, and the others act in its place.
async fn falls_asleep(cluster: &Cluster) {
    let names: Vec<_> = cluster.nodes.iter().map(|node| node.name().to_string()).collect();
    cluster.network.hold(&names[SLEEPER]);
    cluster.drivers[SLEEPER].abort();
    for place in [1, 2] {
        cluster.nodes[place].change_view(members(&names[1..3])).unwrap();
    }
    sleep(NAP).await;
}

/// The others take it in again, and it goes on.
fn wakes(cluster: &mut Cluster) {
    for place in [1, 2] {
        cluster.nodes[place].change_view(states(cluster, &[(3, MemberState::Joining)])).unwrap();
    }
    cluster.network.release(cluster.nodes[SLEEPER].name());
    cluster.drivers[SLEEPER] = tokio::spawn(cluster.nodes[SLEEPER].clone().claim_slots()).abort_handle();
}

async fn put(cluster: &Cluster, place: usize, key: &str, value: &str) {
    put_later(cluster, place, key, value).await.unwrap();
}

fn put_later(cluster: &Cluster, place: usize, key: &str, value: &str) -> JoinHandle<()> {
    let (group, key, value) = (cluster.groups[place].clone(), key.to_owned(), Value::from(value.to_owned()));
    tokio::spawn(async move {
        group.put(key, value, None, Condition::Always, TIMEOUT).await.unwrap();
    })
}

async fn assert_is(cluster: &Cluster, key: &str, value: &str) {
    for place in 0..3 {
        assert_eq!(text(&cluster.get(place, key).await.unwrap()), value, "at {place}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_slept_while_others_acted_for_it_answers_with_what_they_wrote() {
    let mut cluster = cluster(3, false, &GroupConfig::default()).await;
    let key = own_key(&cluster);
    put(&cluster, 1, &key, "old").await;
    falls_asleep(&cluster).await;
    put(&cluster, 1, &key, "new").await;
    wakes(&mut cluster);
    assert_is(&cluster, &key, "new").await;
}

/// The slowest answer must not take longer than the others count.
#[tokio::test(start_paused = true)]
async fn a_node_that_slept_goes_on_though_one_of_the_others_says_nothing() {
    let mut cluster = cluster(3, false, &GroupConfig::default()).await;
    let key = own_key(&cluster);
    put(&cluster, 1, &key, "v").await;
    cluster.drivers[SLEEPER].abort();
    sleep(NAP).await;
    cluster.network.hold(cluster.nodes[2].name());
    cluster.drivers[SLEEPER] = tokio::spawn(cluster.nodes[SLEEPER].clone().claim_slots()).abort_handle();
    assert_eq!(text(&cluster.get(SLEEPER, &key).await.unwrap()), "v");
}

/// Whoever is the first to ask may go away again at any step of what a node does that was sent away.
#[tokio::test(start_paused = true)]
async fn what_others_acted_for_while_a_node_slept_is_claimed_though_who_asked_first_goes_away() {
    let mut cluster = cluster(3, false, &GroupConfig::default()).await;
    let key = own_key(&cluster);
    for steps in 0..STEPS_OF_WAKING {
        falls_asleep(&cluster).await;
        let value = steps.to_string();
        put(&cluster, 1, &key, &value).await;
        wakes(&mut cluster);
        cluster.drivers[SLEEPER].abort();
        let first = cluster.spawn_get(SLEEPER, &key);
        for _ in 0..steps {
            tokio::task::yield_now().await;
        }
        first.abort();
        quiet().await;
        cluster.drivers[SLEEPER] = tokio::spawn(cluster.nodes[SLEEPER].clone().claim_slots()).abort_handle();
        assert_is(&cluster, &key, &value).await;
    }
}

/// What it has written is done, and what the others had before is older.
#[tokio::test(start_paused = true)]
async fn a_write_during_which_its_owner_slept_is_not_hidden_by_what_others_had_meanwhile() {
    let table = FakeTable::new();
    let (mut cluster, key) = through(&table).await;
    table.set(&key, "old");
    table.close_writes();
    let write = put_later(&cluster, SLEEPER, &key, "new");
    table.writes_begun(1).await;
    falls_asleep(&cluster).await;
    for place in [1, 2] {
        assert_eq!(text(&cluster.get(place, &key).await.unwrap()), "old", "at {place}");
    }
    wakes(&mut cluster);
    table.let_writes(1);
    write.await.unwrap();
    assert_is(&cluster, &key, "new").await;
}

/// Who comes before the node has found out must not be told what was so before it slept.
#[tokio::test(start_paused = true)]
async fn who_joins_a_load_during_which_its_owner_slept_gets_what_others_wrote_meanwhile() {
    let table = FakeTable::new();
    let (mut cluster, key) = through(&table).await;
    table.set(&key, "old");
    table.close_loads();
    let early = cluster.spawn_get(SLEEPER, &key);
    table.loads_begun(1).await;
    falls_asleep(&cluster).await;
    put(&cluster, 1, &key, "new").await;
    for place in [1, 2] {
        cluster.nodes[place].change_view(states(&cluster, &[(3, MemberState::Joining)])).unwrap();
    }
    let late = cluster.spawn_get(SLEEPER, &key);
    quiet().await;
    wakes(&mut cluster);
    table.let_loads(2);
    assert_eq!(text(&late.await.unwrap().unwrap()), "new");
    timeout(TIMEOUT, early).await.unwrap().unwrap().unwrap();
    assert_is(&cluster, &key, "new").await;
}

/// One whose view was the same all the time does not know that it should ask.
#[tokio::test(start_paused = true)]
async fn who_acted_for_a_node_that_was_there_all_the_time_tells_it() {
    let cluster = cluster(3, false, &GroupConfig::default()).await;
    let names: Vec<_> = cluster.nodes.iter().map(|node| node.name().to_string()).collect();
    let apart = &cluster.nodes[2];
    cluster.network.hold(&names[0]);
    apart.change_view(members(&names[1..3])).unwrap();
    sleep(NAP).await;
    let acts = |key: &String| apart.place("g", key.as_bytes()).owner.as_ref() == Some(apart.name());
    let mut keys = (0..).map(|number| format!("k{number}"));
    let key = keys.find(|key| cluster.owner(key) == 0 && acts(key)).unwrap();
    put(&cluster, 2, &key, "new").await;
    apart.change_view(states(&cluster, &[(3, MemberState::Joining)])).unwrap();
    cluster.network.release(&names[0]);
    sleep(Duration::from_millis(200)).await;
    settle(&cluster).await;
    assert_is(&cluster, &key, "new").await;
}
