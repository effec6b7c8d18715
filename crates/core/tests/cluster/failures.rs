//! What fails harms nobody else.

use std::time::Duration;

use larder_core::{
    ErrorKind, GroupConfig, Outcome,
    stats::Source,
    testing::origin::{FakeOrigin, Mood},
};

use futures_util::{StreamExt, stream::FuturesUnordered};

use crate::{Cluster, TIMEOUT, quiet, text};

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_takes_nobody_along() {
    let cluster = Cluster::new(3);
    for place in 0..3 {
        let key = format!("k{place}");
        cluster.origin.close_gate();
        let first = cluster.spawn_get(place, &key);
        cluster.origin.requested(place + 1).await;
        let second = cluster.spawn_get(place, &key);
        quiet().await;
        first.abort();
        quiet().await;
        cluster.origin.let_through(1);
        assert_eq!(text(&second.await.unwrap().unwrap()), format!("{key}=0"));
        assert_eq!(cluster.origin.loads(&key), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_loader_that_panics_is_an_error_of_the_origin_and_the_key_works_afterwards() {
    let cluster = Cluster::new(3);
    cluster.origin.set_mood(Mood::Panicking);
    let gets: Vec<_> = (0..30).map(|caller| cluster.spawn_get(caller % 3, "k")).collect();
    for get in gets {
        assert_eq!(get.await.unwrap().unwrap_err().kind(), ErrorKind::Origin);
    }
    cluster.origin.set_mood(Mood::Well);
    assert_eq!(text(&cluster.get(cluster.third("k"), "k").await.unwrap()), "k=0");
}

/// Rule G4.
#[tokio::test(start_paused = true)]
async fn an_origins_error_is_the_answer_and_costs_one_request_a_flight() {
    let cluster = Cluster::new(3);
    cluster.origin.set_mood(Mood::Failing);
    cluster.origin.close_gate();
    let gets: Vec<_> = (0..300).map(|caller| cluster.spawn_get(caller % 3, "k")).collect();
    cluster.origin.requested(1).await;
    quiet().await;
    // Questions that gathered behind the first two of each node are asked after these have failed.
    cluster.origin.let_through(100);
    for get in gets {
        let error = get.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Origin, "the origin is in a bad mood"));
    }
    let owner = &cluster.groups[cluster.owner("k")];
    assert_eq!(
        cluster.origin.requests() as u64,
        owner.stats().load_errors.of(larder_core::stats::LoadErrorKind::Origin).sum()
    );
    assert!(cluster.origin.requests() <= 3, "{} requests", cluster.origin.requests());
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_is_an_answer_that_is_remembered_for_negative_ttl() {
    let cluster = Cluster::new(3);
    let owner = cluster.owner("missing");
    assert_eq!(cluster.get(cluster.third("missing"), "missing").await.unwrap().value, None);
    assert!(matches!(cluster.get(owner, "missing").await.unwrap().outcome, Outcome::Hit(_)));
    tokio::time::advance(Duration::from_secs(6)).await;
    cluster.get(owner, "missing").await.unwrap();
    assert_eq!(cluster.origin.loads("missing"), 2);
}

/// Rule S1: every caller gets an answer, and the origin sees the load of the dead owner and one of the stand-in.
#[tokio::test(start_paused = true)]
async fn with_the_owner_killed_amid_a_load_all_are_answered_for_two_loads() {
    let cluster = Cluster::new(3);
    let owner = cluster.owner("k");
    cluster.origin.close_gate();
    let others: Vec<usize> = (0..3).filter(|place| *place != owner).collect();
    let gets: Vec<_> = (0..200).map(|caller| cluster.spawn_get(others[caller % 2], "k")).collect();
    cluster.origin.requested(1).await;
    quiet().await;
    cluster.kill(owner);
    cluster.origin.requested(2).await;
    quiet().await;
    cluster.origin.let_through(2);
    for get in gets {
        assert_eq!(text(&get.await.unwrap().unwrap()), "k=0");
    }
    assert_eq!(cluster.origin.loads("k"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stand_in_keeps_what_it_loads_for_hot_lease_and_for_stand_in_answers_only() {
    let cluster = Cluster::new(3);
    let (owner, stand_in, third) = (cluster.owner("k"), cluster.stand_in("k"), cluster.third("k"));
    cluster.kill(owner);
    for _ in 0..5 {
        let answer = cluster.get(third, "k").await.unwrap();
        assert!(matches!(answer.outcome, Outcome::Miss { source: Source::StandIn, .. }), "{answer:?}");
        cluster.get(stand_in, "k").await.unwrap();
    }
    assert_eq!(cluster.origin.loads("k"), 1);
    tokio::time::advance(Duration::from_millis(1001)).await;
    cluster.get(third, "k").await.unwrap();
    assert_eq!(cluster.origin.loads("k"), 2);

    // The owner is back, and its answer counts again.
    cluster.origin.change("k");
    cluster
        .network
        .add(cluster.nodes[owner].name().clone(), cluster.nodes[owner].service(larder_core::stats::Protocol::Grpc));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(text(&cluster.get(stand_in, "k").await.unwrap()), "k=1");
}

/// Rule S1: what a load brings may be as old as its beginning, and a stand-in hears of no write.
#[tokio::test(start_paused = true)]
async fn nobody_joins_a_load_of_a_stand_in_that_began_longer_ago_than_hot_lease() {
    let cluster = Cluster::new(3);
    let (stand_in, third) = (cluster.stand_in("k"), cluster.third("k"));
    cluster.kill(cluster.owner("k"));
    // Who stands in is worked out beside all this, and would come late.
    cluster.nodes.iter().for_each(|node| drop(node.place("g", b"k")));
    cluster.origin.close_gate();
    let first = cluster.spawn_get(third, "k");
    cluster.origin.requested(1).await;
    let joins = cluster.spawn_get(stand_in, "k");
    quiet().await;
    tokio::time::advance(Duration::from_millis(1001)).await;
    quiet().await;
    assert_eq!(cluster.origin.requests(), 1, "who came within the lease shares it");
    let later = cluster.spawn_get(stand_in, "k");
    tokio::time::timeout(TIMEOUT, cluster.origin.requested(2)).await.unwrap();
    cluster.origin.let_through(2);
    for get in [first, joins, later] {
        assert_eq!(text(&get.await.unwrap().unwrap()), "k=0");
    }
}

#[tokio::test(start_paused = true)]
async fn with_owner_and_stand_in_away_the_node_that_is_asked_answers() {
    let cluster = Cluster::new(3);
    cluster.kill(cluster.owner("k"));
    cluster.kill(cluster.stand_in("k"));
    assert_eq!(text(&cluster.get(cluster.third("k"), "k").await.unwrap()), "k=0");
}

/// Rule G3's one exception: the link between two nodes is cut, and the stand-in reaches the owner.
#[tokio::test(start_paused = true)]
async fn a_stand_in_that_reaches_the_owner_hands_the_question_on() {
    let cluster = Cluster::new(3);
    let (owner, stand_in) = (cluster.owner("k"), cluster.stand_in("k"));
    let key = larder_core::Key::new("k").unwrap();
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    let service = cluster.nodes[stand_in].service(larder_core::stats::Protocol::Grpc);
    let question = larder_core::peer::PeerQuestion {
        asker: None,
        group: "g".into(),
        key,
        asked_as: larder_core::peer::AskedAs::StandIn,
        deadline,
    };
    service.answer(question).await.unwrap();
    assert_eq!(cluster.groups[owner].store_stats().main.items, 1);
    assert_eq!(cluster.groups[stand_in].store_stats().items(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_owner_is_given_up_within_three_seconds_and_then_left_alone() {
    let cluster = Cluster::new(3);
    let (owner, third) = (cluster.owner("k"), cluster.third("k"));
    // It accepts and never answers, probes neither.
    cluster.network.hold(cluster.nodes[owner].name());
    for _ in 0..3 {
        let start = tokio::time::Instant::now();
        assert_eq!(text(&cluster.get(third, "k").await.unwrap()), "k=0");
        assert!(start.elapsed() <= Duration::from_secs(3), "{:?}", start.elapsed());
    }
    // From now on one caller at a time finds out whether it is back.
    let keys: Vec<String> = (0..100).map(|n| format!("k{n}")).filter(|key| cluster.owner(key) == owner).collect();
    let start = tokio::time::Instant::now();
    let mut gets: FuturesUnordered<_> = keys.iter().map(|key| cluster.get(third, key)).collect();
    for _ in 0..keys.len() - 2 {
        gets.next().await.unwrap().unwrap();
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_slow_load_is_waited_for_as_long_as_the_owner_lives() {
    let cluster = Cluster::new(3);
    cluster.origin.close_gate();
    let get = cluster.spawn_get(cluster.third("k"), "k");
    cluster.origin.requested(1).await;
    tokio::time::sleep(Duration::from_millis(4500)).await;
    cluster.origin.let_through(1);
    assert_eq!(text(&get.await.unwrap().unwrap()), "k=0");
    assert_eq!(cluster.origin.loads("k"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_origin_ends_at_the_deadline_of_each_caller_and_at_hard_timeout() {
    let config = GroupConfig { hard_timeout: Duration::from_secs(2), ..GroupConfig::default() };
    let cluster = Cluster::with(1, &config, FakeOrigin::new(1));
    cluster.origin.close_gate();
    let start = tokio::time::Instant::now();
    let hasty = cluster.groups[0].get("k", Duration::from_millis(300));
    let patient = cluster.groups[0].get("k", TIMEOUT);
    let (hasty, patient) = tokio::join!(async { (hasty.await.unwrap_err().kind(), start.elapsed()) }, async {
        (patient.await.unwrap_err().kind(), start.elapsed())
    },);
    assert_eq!(hasty, (ErrorKind::TimedOut, Duration::from_millis(300)));
    assert_eq!(patient, (ErrorKind::TimedOut, Duration::from_secs(2)));
    assert_eq!(cluster.origin.loads("k"), 1);
}

#[tokio::test(start_paused = true)]
async fn loads_beyond_origin_concurrency_wait_their_turn() {
    let config = GroupConfig { origin_concurrency: 2, ..GroupConfig::default() };
    let cluster = Cluster::with(1, &config, FakeOrigin::new(1));
    cluster.origin.close_gate();
    let gets: Vec<_> = (0..5).map(|n| cluster.spawn_get(0, &format!("k{n}"))).collect();
    quiet().await;
    assert_eq!((cluster.origin.requests(), cluster.groups[0].origin_in_flight()), (2, 2));
    cluster.origin.let_through(5);
    for get in gets {
        get.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_longer_than_max_value_is_an_error_and_is_not_kept() {
    let config = GroupConfig { value_len_max: 3, ..GroupConfig::default() };
    let cluster = Cluster::with(1, &config, FakeOrigin::new(1));
    assert_eq!(text(&cluster.get(0, "k").await.unwrap()), "k=0");
    assert_eq!(cluster.get(0, "kk").await.unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(cluster.groups[0].store_stats().items(), 1);
}
