//! Nodes whose lists of members differ.

use std::time::Duration;

use crate::{
    client::{delete_key, get, get_key, put_key, value_of, within},
    cluster::Cluster,
    crowd::Crowd,
    origin::Origin,
};

/// Far less than a caller's deadline: nobody waits for anybody in vain.
const AT_ONCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn the_order_of_the_list_means_nothing() {
    let origin = Origin::start().await;
    let cluster = Cluster::with_lists(&["abc", "cab", "bca"], &origin.group("")).await;
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

#[tokio::test]
async fn lists_that_differ_cost_loads_and_neither_loops_nor_wrong_answers() {
    // Each knows another node besides itself; a hangs on b, b on c and c on a. Then: one knows all, the others less.
    for lists in [&["ab", "bc", "ca"][..], &["abc", "bc", "c"], &["abcd", "bad", "cd", "da"]] {
        let origin = Origin::start().await;
        let cluster = Cluster::with_lists(lists, &origin.group("")).await;
        let nodes: Vec<usize> = (0..lists.len()).collect();
        let keys = (0..300).map(|caller| format!("key{}", caller % 20));
        let crowd = Crowd::ask(&cluster, &nodes, keys).await;
        for (key, answer) in within(AT_ONCE, "the crowd", crowd.answers()).await {
            assert_eq!((answer.status, answer.text()), (200, value_of(&key).as_str()), "{lists:?}");
        }
        // A get is passed on once at most, even where the one it is passed to has another owner in mind.
        let mut passed_on = cluster.metric("larder_server_requests_total").await;
        for number in 0..20 {
            for (asked, node) in cluster.nodes.iter().enumerate() {
                let key = format!("hop{number}-{asked}");
                assert_eq!(node.ask(get_key(&key)).await.text(), value_of(&key), "{lists:?}");
                let now = cluster.metric("larder_server_requests_total").await;
                assert!(now <= passed_on + 1, "{lists:?}: {} hops", now - passed_on);
                passed_on = now;
            }
        }
    }
}

#[tokio::test]
async fn a_write_that_reaches_no_owner_is_refused_and_not_passed_on() {
    let cluster = Cluster::with_lists(&["ab", "bc", "ca"], "[groups.g]").await;
    let mut refused = 0;
    for number in 0..30 {
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
    assert!(cluster.metric("larder_server_requests_total").await <= 30 * 3 * 2);
}
