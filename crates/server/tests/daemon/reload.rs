//! Configurations that change while daemons run.

use rustix::process::Signal;
use serde_json::json;

use crate::{
    client::{GROUP, get, get_key, value_of, within},
    cluster::{Cluster, Over, over_each_transport},
    gossip::{PATIENCE, agree, all_are_found, keys},
    lifecycle::END_TIME_MAX,
    origin::Origin,
    process::{Daemon, POLL_INTERVAL},
};

/// Waits until a daemon has said this in its log so many times.
async fn says(node: &Daemon, text: &str, times: usize) {
    within(END_TIME_MAX, text, async {
        while node.stderr().matches(text).count() < times {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await;
}

over_each_transport!(a_node_that_is_added_to_every_list_gets_its_share);

async fn a_node_that_is_added_to_every_list_gets_its_share(over: Over) {
    let origin = Origin::start().await;
    let mut cluster = Cluster::with_lists(over, &["abc", "abc", "abc", "abcd"], &origin.group("")).await;
    assert_eq!(all_are_found(&[&cluster[0], &cluster[1], &cluster[2]]).await, 0);
    for index in 0..3 {
        cluster.relist(index, "abcd");
    }
    let answer = cluster[0].post_admin("/v1/reload").await;
    assert_eq!((answer.status, answer.json()), (200, json!({"changed": ["cluster.members"], "needs_restart": []})));
    cluster[1].signal(Signal::HUP);
    cluster[2].signal(Signal::HUP);
    let nodes: Vec<&Daemon> = cluster.nodes.iter().collect();
    agree(&nodes, &["a", "b", "c", "d"]).await;
    says(nodes[1], "the configuration was read anew", 1).await;
    assert_eq!(all_are_found(&nodes).await, 0);
    assert!(nodes[3].metric("larder_owned_slots").await > 3_000);
    let moved = keys().filter(|key| origin.loads(key) > 1).count();
    assert!(moved < keys().count() / 2, "{moved} of the keys were loaded again");
    // What the newcomer loads before its slots have been handed over it drops then.
    let handed_over = async {
        for round in 0.. {
            let mut keys = Vec::new();
            for number in 0..20 {
                let key = format!("new{round}-{number}");
                for node in &nodes {
                    assert_eq!(node.ask(get_key(&key)).await.text(), value_of(&key));
                }
                keys.push(key);
            }
            if keys.iter().all(|key| origin.loads(key) == 1) {
                return;
            }
        }
    };
    within(PATIENCE, "one owner for each key", handed_over).await;
}

#[tokio::test]
async fn what_can_change_does_and_the_rest_is_named_until_a_restart() {
    let origin = Origin::start().await;
    let config = |listen: &str, group: &str| {
        let rest = origin.group(group);
        format!("[node]\nlisten = '127.0.0.1:{listen}'\nadmin = '127.0.0.1:0'\npeer = '127.0.0.1:0'\n{rest}")
    };
    let node = Daemon::start(&config("0", "")).await;
    let answer = node.ask(get_key("before")).await;
    assert_eq!((answer.header("larder-ttl-ms"), answer.header("cache-control")), ("", "no-cache"));
    let group = "ttl = '1h'\nttl_jitter = 0.0\ndownstream_max_age = '5s'\ncapacity = '1MiB'";
    node.rewrite(&config("1", group));
    let changed = json!(["groups.g.ttl", "groups.g.ttl_jitter", "groups.g.downstream_max_age"]);
    let needs_restart = json!(["node.listen", "groups.g.capacity"]);
    for changed in [changed, json!([])] {
        let answer = node.post_admin("/v1/reload").await;
        assert_eq!(answer.json(), json!({"changed": changed, "needs_restart": needs_restart}));
    }
    let answer = node.ask(get_key("after")).await;
    let ttl_left_ms: u64 = answer.header("larder-ttl-ms").parse().unwrap();
    assert!((3_500_000..=3_600_000).contains(&ttl_left_ms), "{ttl_left_ms}");
    assert_eq!(answer.header("cache-control"), "max-age=5");
    let settings = &node.ask(get("/v1/groups")).await.json()["groups"][0]["settings"];
    assert_eq!((&settings["ttl_ms"], &settings["capacity_bytes"]), (&json!(3_600_000), &json!(256 << 20)));
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_every_mistake_is_told() {
    let origin = Origin::start().await;
    let mut cluster = Cluster::start(Over::Grpc, 2, &origin.group("")).await;
    cluster.relist(0, "a");
    let node = &cluster[0];
    node.rewrite(&format!("node.workers = -1\n[groups.{GROUP}]\nttl = '1h'\ncapacity = 'lots'\n"));
    let answer = node.post_admin("/v1/reload").await;
    assert_eq!(answer.problem(), (400, "bad-configuration".to_owned()));
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    for told in ["larder.toml, line 1: node.workers: expected", "line 4: groups.g.capacity: expected"] {
        assert!(detail.contains(told), "{told} is not in {detail}");
    }
    node.signal(Signal::HUP);
    says(node, "line 4: groups.g.capacity", 1).await;
    assert_eq!(node.ask(get("/v1/cluster")).await.json()["members"].as_array().unwrap().len(), 2);
    assert!(node.ask(get("/v1/groups")).await.json()["groups"][0]["settings"]["ttl_ms"].is_null());
    assert_eq!(node.ask(get_key("k")).await.text(), value_of("k"));
}
