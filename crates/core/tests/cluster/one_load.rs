//! However many ask on however many nodes, the origin is asked once.

use larder_core::{ErrorKind, GroupConfig, Outcome, stats::Source, testing::origin::FakeOrigin};
use tokio::task::JoinSet;

use crate::{Cluster, TIMEOUT, quiet, text};

#[tokio::test(start_paused = true)]
async fn three_hundred_callers_on_three_nodes_cost_one_load() {
    let cluster = Cluster::new(3);
    cluster.origin.close_gate();
    let gets: Vec<_> = (0..300).map(|caller| cluster.spawn_get(caller % 3, "cold")).collect();
    cluster.origin.requested(1).await;
    quiet().await;
    cluster.origin.let_through(1);
    for get in gets {
        assert_eq!(text(&get.await.unwrap().unwrap()), "cold=0");
    }
    assert_eq!(cluster.origin.loads("cold"), 1);
}

#[tokio::test(start_paused = true)]
async fn thirty_two_keys_and_a_hundred_callers_each_cost_thirty_two_loads() {
    let cluster = Cluster::new(3);
    let mut gets = JoinSet::new();
    for caller in 0..3200 {
        let group = cluster.groups[caller % 3].clone();
        gets.spawn(async move {
            let key = format!("k{}", caller / 3 % 32);
            assert_eq!(text(&group.get(&key, TIMEOUT).await.unwrap()), format!("{key}=0"));
        });
    }
    gets.join_all().await;
    assert_eq!(cluster.origin.requests(), 32);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_kept_by_its_owner_alone() {
    let cluster = Cluster::new(3);
    let (owner, third) = (cluster.owner("k"), cluster.third("k"));
    let miss = Outcome::Miss { source: Source::Peer, collapsed: false, stored: false };
    assert_eq!(cluster.get(third, "k").await.unwrap().outcome, miss);
    assert_eq!(cluster.get(third, "k").await.unwrap().outcome, miss);
    assert!(matches!(cluster.get(owner, "k").await.unwrap().outcome, Outcome::Hit(_)));
    assert_eq!(cluster.groups[third].store_stats().items(), 0);
    assert_eq!(cluster.origin.loads("k"), 1);
    let stats = cluster.groups[owner].stats();
    assert_eq!(
        (stats.gets(), stats.misses.sum(), stats.hits_main.sum()),
        (1, 0, 1),
        "what peers ask is not counted as gets"
    );
}

/// Rule G2: whoever comes after the question has left asks again, or it could get an answer older than a write it knows of.
#[tokio::test(start_paused = true)]
async fn a_question_that_has_left_is_not_joined_and_two_are_outstanding_at_most() {
    let cluster = Cluster::new(3);
    let third = cluster.third("k");
    cluster.origin.close_gate();
    let first = cluster.spawn_get(third, "k");
    cluster.origin.requested(1).await;
    let others: Vec<_> = (0..10).map(|_| cluster.spawn_get(third, "k")).collect();
    quiet().await;
    let owner = &cluster.groups[cluster.owner("k")];
    let asked = || owner.stats().server_requests.of(larder_core::stats::Protocol::Grpc).sum();
    assert_eq!(asked(), 2, "the second question has left; the third gathers");
    cluster.origin.let_through(1);
    assert_eq!(text(&first.await.unwrap().unwrap()), "k=0");
    for get in others {
        get.await.unwrap().unwrap();
    }
    assert!((2..=3).contains(&asked()));
    assert_eq!(cluster.origin.loads("k"), 1);
}

#[tokio::test(start_paused = true)]
async fn callers_share_a_question_that_has_not_left() {
    let cluster = Cluster::new(2);
    let owner = cluster.owner("k");
    cluster.network.hold(cluster.nodes[owner].name());
    let gets: Vec<_> = (0..100).map(|_| cluster.spawn_get(1 - owner, "k")).collect();
    quiet().await;
    cluster.network.release(cluster.nodes[owner].name());
    for get in gets {
        get.await.unwrap().unwrap();
    }
    assert_eq!(cluster.groups[owner].stats().server_requests.of(larder_core::stats::Protocol::Grpc).sum(), 1);
    assert_eq!(cluster.groups[1 - owner].stats().loads_deduped.sum(), 99);
}

#[tokio::test(start_paused = true)]
async fn get_many_loads_the_owners_keys_in_one_request_and_answers_in_order() {
    let cluster = Cluster::with(1, &GroupConfig::default(), FakeOrigin::new(100));
    let keys: Vec<String> =
        (0..50).map(|n| if n % 10 == 7 { format!("missing{n}") } else { format!("k{n}") }).collect();
    let answers = cluster.groups[0].get_many(&keys, TIMEOUT).await.unwrap();
    for (key, answer) in keys.iter().zip(&answers) {
        let answer = answer.as_ref().unwrap();
        match key.starts_with("missing") {
            true => assert_eq!(answer.value, None),
            false => assert_eq!(text(answer), format!("{key}=0")),
        }
    }
    assert_eq!(cluster.origin.requests(), 1);
    cluster.groups[0].get_many(&keys, TIMEOUT).await.unwrap();
    assert_eq!(cluster.origin.requests(), 1, "everything is kept now, what is missing too");
}

#[tokio::test(start_paused = true)]
async fn get_many_reaches_every_owner_and_splits_batches_that_are_too_long() {
    let cluster = Cluster::with(3, &GroupConfig::default(), FakeOrigin::new(10));
    let keys: Vec<String> = (0..100).map(|n| format!("k{n}")).collect();
    for answer in cluster.groups[0].get_many(&keys, TIMEOUT).await.unwrap() {
        answer.unwrap();
    }
    assert!(keys.iter().all(|key| cluster.origin.loads(key) == 1));
    assert!(cluster.origin.requests() < 100);
}

#[tokio::test(start_paused = true)]
async fn get_many_shares_loads_that_are_under_way_and_names_bad_keys() {
    let cluster = Cluster::with(1, &GroupConfig::default(), FakeOrigin::new(100));
    cluster.origin.close_gate();
    let single = cluster.spawn_get(0, "a");
    cluster.origin.requested(1).await;
    let group = cluster.groups[0].clone();
    let many = tokio::spawn(async move { group.get_many(&["a", "b", "b", ""], TIMEOUT).await.unwrap() });
    cluster.origin.requested(2).await;
    cluster.origin.let_through(2);
    single.await.unwrap().unwrap();
    let answers = many.await.unwrap();
    assert_eq!([0, 1, 2].map(|place: usize| text(answers[place].as_ref().unwrap())), ["a=0", "b=0", "b=0"]);
    assert_eq!(answers[3].as_ref().unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!((cluster.origin.loads("a"), cluster.origin.loads("b")), (1, 1));
}
