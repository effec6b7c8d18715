//! What nodes make of their lists of members, of such as differ too.

use std::time::Duration;

use crate::{
    client::{delete_key, get, get_key, put_key, value_of, within},
    cluster::{Cluster, Over, over_each_transport},
    crowd::Crowd,
    origin::Origin,
    process::Daemon,
};

/// How often a get is passed on at most, where nodes disagree on the owner. Over gRPC who isn't it says so, and four are asked;
/// then the stand-in, and by that its own idea of the owner. Over HTTP whoever is asked answers.
const fn hops_max(over: Over) -> u64 {
    match over {
        Over::Grpc => 6,
        Over::Http => 1,
    }
}

/// Far less than a caller's deadline: nobody waits for anybody in vain.
const AT_ONCE: Duration = Duration::from_secs(5);

over_each_transport!(
    every_node_shows_where_clients_reach_all_of_them,
    the_order_of_the_list_means_nothing,
    lists_that_differ_cost_loads_and_neither_loops_nor_wrong_answers,
    a_write_that_reaches_no_owner_is_refused_and_not_passed_on,
);

/// At once, and whatever they have had to do with each other. Over gRPC their lists don't say it.
async fn every_node_shows_where_clients_reach_all_of_them(over: Over) {
    let mut cluster = Cluster::start(over, 3, "[groups.g]").await;
    let shown = async |node: &Daemon| {
        let shown = node.ask(get("/v1/cluster")).await.json();
        let http = |member: &serde_json::Value| member["http"].as_str().unwrap().to_owned();
        (shown["members"].as_array().unwrap().iter().map(http).collect::<Vec<_>>(), shown["view"]["digest"].clone())
    };
    let there = |cluster: &Cluster| cluster.nodes.iter().map(|node| node.clients.to_string()).collect::<Vec<_>>();
    let (_, digest) = shown(&cluster[0]).await;
    for node in &cluster.nodes {
        assert_eq!(shown(node).await, (there(&cluster), digest.clone()));
    }
    cluster[2].kill();
    cluster.restart(2).await;
    let back = within(AT_ONCE, "the word of its return", async {
        while shown(&cluster[0]).await.0 != there(&cluster) {
            // It is heard when something is asked of it, or by it.
            cluster[0].ask(get_key(cluster.key_of(2, "key").await)).await;
        }
        shown(&cluster[0]).await
    });
    assert_eq!(back.await.1, digest, "nothing hangs on it");
}

async fn the_order_of_the_list_means_nothing(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::with_lists(over, &["abc", "cab", "bca"], &origin.group("")).await;
    let keys: Vec<String> = (0..30).map(|number| format!("key{number}")).collect();
    for key in &keys {
        for node in &cluster.nodes {
            assert_eq!(node.ask(get_key(key)).await.text(), value_of(key));
        }
        assert_eq!(origin.loads(key), 1, "all nodes have the same owner for {key}");
    }
    let mut digests = Vec::new();
    for node in &cluster.nodes {
        digests.push(node.ask(get("/v1/cluster")).await.json()["view"]["digest"].clone());
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

async fn lists_that_differ_cost_loads_and_neither_loops_nor_wrong_answers(over: Over) {
    // Each knows another node besides itself; a hangs on b, b on c and c on a. Then: one knows all, the others less.
    for lists in [&["ab", "bc", "ca"][..], &["abc", "bc", "c"], &["abcd", "bad", "cd", "da"]] {
        let origin = Origin::start().await;
        let cluster = Cluster::with_lists(over, lists, &origin.group("")).await;
        let nodes: Vec<usize> = (0..lists.len()).collect();
        let keys = (0..300).map(|caller| format!("key{}", caller % 20));
        let crowd = Crowd::ask(&cluster, &nodes, keys).await;
        for (key, answer) in within(AT_ONCE, "the crowd", crowd.answers()).await {
            assert_eq!((answer.status, answer.text()), (200, value_of(&key).as_str()), "{lists:?}");
        }
        let mut passed_on = cluster.metric("larder_server_requests_total").await;
        for number in 0..20 {
            for (asked, node) in cluster.nodes.iter().enumerate() {
                let key = format!("hop{number}-{asked}");
                assert_eq!(node.ask(get_key(&key)).await.text(), value_of(&key), "{lists:?}");
                let now = cluster.metric("larder_server_requests_total").await;
                assert!(now <= passed_on + hops_max(over), "{lists:?}: {} hops", now - passed_on);
                passed_on = now;
            }
        }
    }
}

async fn a_write_that_reaches_no_owner_is_refused_and_not_passed_on(over: Over) {
    let cluster = Cluster::with_lists(over, &["ab", "bc", "ca"], "[groups.g]").await;
    let mut refused = 0;
    // Enough that some have no owner who knows it: each of those is tried for two thirds of a second.
    for number in 0..8 {
        let key = format!("key{number}");
        for node in &cluster.nodes {
            for request in [put_key(&key, "v"), delete_key(&key)] {
                let answer = within(AT_ONCE, "a write", node.ask(request)).await;
                if answer.status != 204 {
                    assert_eq!(answer.problem(), (503, "owner-unreachable".to_owned()));
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 0, "some of the keys have no owner who knows it");
    assert!(cluster.metric("larder_server_requests_total").await <= 8 * 3 * 2 * 6, "six tries each at most");
}
