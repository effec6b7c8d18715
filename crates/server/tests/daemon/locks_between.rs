//! Locks that daemons keep between them, and what a daemon knows of the locks that it has out.

use std::{fs, time::Duration};

use futures_util::future::join_all;
use rustix::process::Signal;

use crate::{
    client::{get, within},
    cluster::{Cluster, Over},
    commands::run,
    gossip::{agree, first, join_with},
    locks::{PATIENCE, free, granted, is_up, nine_take_turns, renew, take, tokens_are_good_at_every_node},
    process::Daemon,
};

/// Longer than any of these tests takes.
const TTL: Duration = Duration::from_secs(60);

/// So many that each of three nodes keeps some.
const LOCKS_LEN: usize = 24;

/// Three static members of a new cluster.
async fn three() -> Cluster {
    let cluster = Cluster::with_flags(Over::Grpc, &["abc"; 3], "", &["--first-start"]).await;
    for node in &cluster.nodes {
        is_up(node).await;
    }
    cluster
}

fn name(number: usize) -> String {
    format!("lock/{number}")
}

/// Many locks, had at a node: their tokens and fences.
async fn many(node: &Daemon) -> Vec<(String, u64)> {
    let taken = join_all((0..LOCKS_LEN).map(|number| node.ask(take(&name(number), TTL, Duration::ZERO)))).await;
    taken.iter().map(granted).collect()
}

/// Nobody gets any of them.
async fn are_held(node: &Daemon) {
    for (number, answer) in join_all((0..LOCKS_LEN).map(|number| node.ask(take(&name(number), TTL, Duration::ZERO))))
        .await
        .iter()
        .enumerate()
    {
        assert!(matches!(answer.status, 409 | 503), "a second holder of {}: {answer:?}", name(number));
    }
}

#[tokio::test]
async fn a_token_is_good_at_every_member() {
    let nodes = three().await.nodes.try_into().unwrap_or_else(|_| panic!("three"));
    tokens_are_good_at_every_node(&nodes).await;
}

#[tokio::test]
async fn nine_contenders_on_three_members_take_turns() {
    let nodes = three().await.nodes.try_into().unwrap_or_else(|_| panic!("three"));
    nine_take_turns(&nodes, true).await;
}

#[tokio::test]
async fn a_lock_has_no_second_holder_while_nodes_are_killed_and_started_again() {
    let mut cluster = three().await;
    many(&cluster[0]).await;
    are_held(&cluster[2]).await;
    cluster[1].kill();
    are_held(&cluster[0]).await;
    are_held(&cluster[2]).await;
    cluster.restart(1).await;
    for node in &cluster.nodes {
        are_held(node).await;
    }
    for index in 0..3 {
        cluster[index].kill();
    }
    for index in 0..3 {
        cluster.restart(index).await;
    }
    for node in &cluster.nodes {
        are_held(node).await;
    }
}

#[tokio::test]
async fn locks_go_on_with_the_slots_of_who_joins_and_who_leaves() {
    let a = first("a").await;
    let locks = many(&a).await;
    let b = join_with("b", &[&a], "").await;
    let c = join_with("c", &[&a], "").await;
    agree(&[&a, &b, &c], &["a", "b", "c"]).await;
    let all_renew = async |node: &Daemon| {
        for (number, (token, _)) in locks.iter().enumerate() {
            let renewed = node.ask(renew(&name(number), token)).await;
            assert_eq!(renewed.status, 200, "{}: {renewed:?}", name(number));
        }
    };
    all_renew(&b).await;
    are_held(&c).await;
    c.signal(Signal::TERM);
    assert_eq!(within(PATIENCE, "its end", c.exit_code()).await, Some(0));
    agree(&[&a, &b], &["a", "b"]).await;
    all_renew(&a).await;
    are_held(&b).await;
    for (number, (token, fence)) in locks.iter().enumerate() {
        assert_eq!(b.ask(free(&name(number), token)).await.status, 204);
        let next = granted(&a.ask(take(&name(number), TTL, Duration::from_secs(10))).await);
        assert!(next.1 > *fence, "{} after {fence}", next.1);
    }
}

#[tokio::test]
async fn a_node_that_is_alone_grants_at_once_and_not_again_what_it_had_granted_before() {
    let config = "[node]\nname = \"lone\"\nlisten = \"127.0.0.1:0\"\npeer = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"";
    let mut node = Daemon::start(config).await;
    let note = "larder-data/locks-lone";
    assert!(!node.file(note).exists(), "nothing is written before there is a lock");
    let (_, fence) = granted(&node.ask(take("job", TTL, Duration::ZERO)).await);
    node = node.killed_and_started(config).await;
    let refused = node.ask(take("job", TTL, Duration::ZERO)).await;
    assert_eq!(refused.problem(), (503, "no-authority".to_owned()));
    assert!(!refused.header("retry-after").is_empty());
    // As if it had stood still for longer than a lock lasts.
    fs::write(node.file(note), "1735689600000").unwrap();
    node = node.killed_and_started(config).await;
    let (token, next) = granted(&node.ask(take("job", TTL, Duration::ZERO)).await);
    assert!(next > fence, "{next} after {fence}");
    assert_eq!(node.ask(free("job", &token)).await.status, 204);
    node.signal(Signal::TERM);
    assert_eq!(within(PATIENCE, "its end", node.exit_code()).await, Some(0));
    assert!(!node.file(note).exists(), "nobody holds a lock that it granted");
}

#[tokio::test]
async fn what_is_held_shows_in_status_and_metrics() {
    let cluster = three().await;
    let before = cluster.metric("larder_lock_acquisitions_total").await;
    let (token, fence) = granted(&cluster[0].ask(take("a%20b", TTL, Duration::ZERO)).await);
    let (odd, _) = granted(&cluster[0].ask(take("%ff", TTL, Duration::ZERO)).await);
    assert_eq!(cluster[1].ask(take("a%20b", TTL, Duration::ZERO)).await.status, 409);
    let shown = cluster[0].ask(get("/v1/locks")).await;
    assert!(!shown.text().contains(&token), "a token is a secret: {}", shown.text());
    let shown = shown.json();
    let of = |name: &str, value: &str| {
        shown["locks"].as_array().unwrap().iter().find(|lock| lock[name] == value).unwrap().clone()
    };
    let lock = of("name", "a b");
    assert_eq!((lock["fence"].as_u64(), lock["node"].as_str()), (Some(fence), Some("a")));
    assert!((50_000..=60_000).contains(&lock["ttl_left_ms"].as_u64().unwrap()), "{lock}");
    assert_eq!(of("name_b64", "/w==")["name"], serde_json::Value::Null);
    let status = String::from_utf8(run(&cluster[0], &["status"]).await.stdout).unwrap();
    assert!(status.contains(&fence.to_string()) && status.contains("/w== (Base64)"), "{status}");
    assert_eq!(cluster.metric("larder_locks_held").await, 2);
    assert_eq!(cluster.metric("larder_lock_acquisitions_total").await - before, 3);
    assert!(cluster.metric("larder_lock_wait_seconds_count").await >= 3);
    for (name, token) in [("a%20b", &token), ("%ff", &odd)] {
        assert_eq!(cluster[2].ask(free(name, token)).await.status, 204);
    }
    assert_eq!(cluster.metric("larder_locks_lost_total").await, 0);
    assert!(cluster[1].ask(get("/v1/locks")).await.json()["locks"].as_array().is_some());
}
