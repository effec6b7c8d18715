//! Loads under a lock, while nodes disagree on who owns what.

use larder::cluster::testing::{ConsulServer, EtcdServer, RedisServer};

use crate::{
    client::{get_key, value_of, within},
    cluster::{Cluster, Over},
    crowd::Crowd,
    locks::{Keeper, PATIENCE, by_each_keeper, is_up},
    origin::Origin,
    process::{Daemon, POLL_INTERVAL},
};

by_each_keeper!(
    two_hundred_callers_of_nodes_that_disagree_cost_one_load,
    without_the_service_a_node_loads_once_all_the_same_and_says_so,
    strict_loads_nothing_without_a_lock,
);

/// Two nodes of which each knows no other, so that each owns all keys.
async fn two(keeper: &impl Keeper, origin: &Origin, load_lock: &str) -> Cluster {
    let group = origin.group(&format!("load_lock = \"{load_lock}\""));
    // The groups stand behind the keys of `[cluster]`.
    let cluster = Cluster::with_lists(Over::Grpc, &["a", "b"], &format!("{}\n{group}", keeper.keys())).await;
    is_up(&cluster[0]).await;
    cluster
}

/// How many loads of a node that were to be made under a lock ended so.
async fn counted(node: &Daemon, result: &str) -> u64 {
    let metrics = node.ask_admin("/metrics").await;
    let of_result = format!("larder_load_locks_total{{group=\"g\",result=\"{result}\"}} ");
    metrics.text().lines().find_map(|line| line.strip_prefix(&*of_result)).unwrap().parse().unwrap()
}

async fn two_hundred_callers_of_nodes_that_disagree_cost_one_load(keeper: impl Keeper) {
    let origin = Origin::start().await;
    let cluster = two(&keeper, &origin, "on").await;
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

async fn without_the_service_a_node_loads_once_all_the_same_and_says_so(mut keeper: impl Keeper) {
    let origin = Origin::start().await;
    let cluster = two(&keeper, &origin, "on").await;
    keeper.kill();
    origin.hold();
    let crowd = Crowd::ask(&cluster, &[0, 1], vec!["cold".to_owned(); 200]).await;
    origin.is_asked(1).await;
    origin.release();
    for (key, answer) in within(PATIENCE, "the crowd", crowd.answers()).await {
        assert_eq!((answer.status, answer.text()), (200, value_of(&key).as_str()));
    }
    assert!(origin.loads("cold") <= 2, "{:?}", origin.targets());
    for node in &cluster.nodes {
        assert_eq!((counted(node, "bypassed").await, counted(node, "taken").await), (1, 0));
    }
}

async fn strict_loads_nothing_without_a_lock(mut keeper: impl Keeper) {
    let origin = Origin::start().await;
    let cluster = two(&keeper, &origin, "strict").await;
    assert_eq!(cluster[0].ask(get_key("warm")).await.status, 200);
    keeper.kill();
    for node in &cluster.nodes {
        let refused = within(PATIENCE, "a refusal", node.ask(get_key("cold"))).await;
        assert_eq!(refused.problem(), (503, "no-authority".to_owned()));
        assert!(!refused.header("retry-after").is_empty());
        assert_eq!((counted(node, "refused").await, counted(node, "bypassed").await), (1, 0));
    }
    assert_eq!((origin.loads("cold"), cluster[0].ask(get_key("warm")).await.status), (0, 200));
    keeper.restart();
    within(PATIENCE, "the service", async {
        while cluster[1].ask(get_key("cold")).await.status != 200 {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await;
    assert_eq!(origin.loads("cold"), 1);
}
