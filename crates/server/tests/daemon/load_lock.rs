//! Loads under a lock, while nodes disagree on who owns what.

use std::time::Duration;

use larder::{
    cluster::testing::{RedisServer, Server},
    core::testing::needs::needs,
};

use crate::{
    client::{get_key, value_of, within},
    cluster::{Cluster, Over},
    crowd::Crowd,
    locks::{Keeper, PATIENCE, is_up},
    origin::Origin,
    process::Daemon,
};

/// Two nodes of which each knows no other, so that each owns all keys. None where there is no Redis.
async fn two(origin: &Origin, load_lock: &str) -> Option<(RedisServer, Cluster)> {
    if !needs("redis") {
        return None;
    }
    let redis = <RedisServer as Keeper>::start();
    let group = origin.group(&format!("load_lock = \"{load_lock}\""));
    // The groups stand behind the keys of `[cluster]`.
    let cluster = Cluster::with_lists(Over::Grpc, &["a", "b"], &format!("{}\n{group}", redis.keys())).await;
    is_up(&cluster[0]).await;
    Some((redis, cluster))
}

/// How many loads of a node that were to be made under a lock ended so.
async fn counted(node: &Daemon, result: &str) -> u64 {
    let metrics = node.ask_admin("/metrics").await;
    let of_result = format!("larder_load_locks_total{{group=\"g\",result=\"{result}\"}} ");
    metrics.text().lines().find_map(|line| line.strip_prefix(&*of_result)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn two_hundred_callers_of_nodes_that_disagree_cost_one_load() {
    let origin = Origin::start().await;
    let Some((_redis, cluster)) = two(&origin, "on").await else { return };
    origin.hold();
    let crowd = Crowd::ask(&cluster, &[0, 1], vec!["cold".to_owned(); 200]).await;
    origin.is_asked(1).await;
    origin.release();
    for (key, answer) in within(PATIENCE, "the crowd", crowd.answers()).await {
        assert_eq!((answer.status, answer.text()), (200, value_of(&key).as_str()));
    }
    assert_eq!(origin.targets(), ["/cold"]);
    // Of the two nodes one found what the other had loaded.
    assert_eq!(counted(&cluster[0], "found").await + counted(&cluster[1], "found").await, 1);
}

#[tokio::test]
async fn without_the_service_a_node_loads_once_all_the_same_and_says_so() {
    let origin = Origin::start().await;
    let Some((mut redis, cluster)) = two(&origin, "on").await else { return };
    redis.kill();
    origin.hold();
    let crowd = Crowd::ask(&cluster, &[0, 1], vec!["cold".to_owned(); 200]).await;
    origin.is_asked(1).await;
    origin.release();
    for (key, answer) in within(PATIENCE, "the crowd", crowd.answers()).await {
        assert_eq!((answer.status, answer.text()), (200, value_of(&key).as_str()));
    }
    assert!(origin.loads("cold") <= 2, "{:?}", origin.targets());
    for node in &cluster.nodes {
        assert_eq!(counted(node, "bypassed").await, 1);
    }
}

#[tokio::test]
async fn strict_loads_nothing_without_a_lock() {
    let origin = Origin::start().await;
    let Some((mut redis, cluster)) = two(&origin, "strict").await else { return };
    assert_eq!(cluster[0].ask(get_key("warm")).await.status, 200);
    redis.kill();
    for node in &cluster.nodes {
        let refused = within(PATIENCE, "a refusal", node.ask(get_key("cold"))).await;
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(!refused.header("retry-after").is_empty());
    }
    assert_eq!((origin.loads("cold"), cluster[0].ask(get_key("warm")).await.status), (0, 200));
    redis.restart();
    within(PATIENCE, "the service", async {
        while cluster[1].ask(get_key("cold")).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(origin.loads("cold"), 1);
}
