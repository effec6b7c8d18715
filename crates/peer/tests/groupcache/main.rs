//! Clusters of golang/groupcache's own nodes and Larder's, on one ring.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests fail them")]

mod go;
mod larder;

use go::GoNode;
use larder::{LarderNode, Origin, value};
use larder_core::testing::needs::needs;

/// Two Go nodes and some of Larder's, and an origin behind them.
struct Cluster {
    origin: Origin,
    go: Vec<GoNode>,
    larder: Vec<LarderNode>,
}

impl Cluster {
    async fn start(larders: usize) -> Self {
        let origin = Origin::start().await;
        let mut go: Vec<GoNode> = (0..2).map(|_| GoNode::start(&origin.url)).collect();
        let mut bound = Vec::new();
        for _ in 0..larders {
            bound.push(LarderNode::bind().await);
        }
        let urls: Vec<String> =
            go.iter().map(|node| &node.url).chain(bound.iter().map(|(url, _)| url)).cloned().collect();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        for node in &mut go {
            node.join(&urls);
        }
        let start = |(url, listener): (String, _)| LarderNode::start(&url, listener, &origin.url, &urls);
        let larder = bound.into_iter().map(start).collect();
        Self { origin, go, larder }
    }

    /// Every node's value is the right one.
    async fn check(&self, key: &str) {
        for node in &self.go {
            assert_eq!(node.get(key).await, Some(value(key)), "{key:?} at Go's {}", node.url);
        }
        for node in &self.larder {
            let got = node.get(key).await;
            assert!(
                matches!(&got, Ok(Some(got)) if got[..] == value(key)),
                "{key:?} at Larder's {}: {got:?}",
                node.url
            );
        }
    }

    /// A key that begins with `name` and belongs to the node of this URL.
    fn key_of(&self, name: &str, url: &str) -> String {
        let mut keys = (0..).map(|number| format!("{name}:{number}"));
        keys.find(|key| self.larder[0].owner(key) == url).unwrap()
    }
}

#[tokio::test]
async fn every_node_names_the_same_owner_and_every_value_is_right() {
    if !needs("go") {
        return;
    }
    for larders in [1, 2] {
        let cluster = Cluster::start(larders).await;
        let odd = ["+", "%2F", "a/b", "//", "..", "/../x", "größe", "?a=b&c#d", "\n", "a%20b"].map(str::to_owned);
        let mut owned = std::collections::HashMap::<String, usize>::new();
        for key in (0..300).map(|number| format!("user:{number}")).chain(odd) {
            let owner = cluster.larder[0].owner(&key);
            for node in &cluster.larder {
                assert_eq!(node.owner(&key), owner, "{key:?} at Larder's {}", node.url);
            }
            for node in &cluster.go {
                assert_eq!(node.owner(&key).await, owner, "{key:?} at Go's {}", node.url);
            }
            cluster.check(&key).await;
            assert_eq!(cluster.origin.loads(&key), 1, "{key:?}");
            *owned.entry(owner).or_default() += 1;
        }
        assert_eq!(owned.len(), 2 + larders, "each owns some: {owned:?}");
    }
}

#[tokio::test]
async fn whichever_node_dies_the_others_serve() {
    if !needs("go") {
        return;
    }
    for (larders, victim) in [(1, 0), (1, 2), (2, 1), (2, 3)] {
        let mut cluster = Cluster::start(larders).await;
        for number in 0..20 {
            cluster.check(&format!("before:{number}")).await;
        }
        if victim < 2 {
            drop(cluster.go.remove(victim));
        } else {
            drop(cluster.larder.remove(victim - 2));
        }
        for number in 0..60 {
            cluster.check(&format!("after:{number}")).await;
            cluster.check(&format!("before:{}", number % 20)).await;
        }
    }
}

#[tokio::test]
async fn a_missing_key_and_a_failing_origin_are_told_as_far_as_the_protocol_can() {
    if !needs("go") {
        return;
    }
    let cluster = Cluster::start(2).await;
    let (here, there) = (&cluster.larder[0], &cluster.larder[1]);
    // Among Larder nodes "no such key" is an answer; Go has no word for it.
    let missing = cluster.key_of("missing", &there.url);
    assert_eq!(here.get(&missing).await.unwrap(), None);
    assert_eq!(cluster.go[0].get(&missing).await, None);
    let missing = cluster.key_of("missing", &cluster.go[0].url);
    assert!(here.get(&missing).await.unwrap_err().is_origin());

    for owner in [&there.url, &cluster.go[0].url] {
        let broken = cluster.key_of("broken", owner);
        let error = here.get(&broken).await.unwrap_err();
        assert!(error.is_origin() && error.message().contains("the origin answered 500"), "{error}");
        assert_eq!(cluster.origin.loads(&broken), 1, "an origin's error is the answer");
    }
    let broken = cluster.key_of("broken:too", &here.url);
    assert_eq!(cluster.go[0].get(&broken).await, None);
}

/// golang/groupcache's client escapes a key as if for a query, and no server undoes that, its own neither.
#[tokio::test]
async fn a_space_reaches_another_node_from_a_go_node_as_a_plus() {
    if !needs("go") {
        return;
    }
    let cluster = Cluster::start(1).await;
    for owner in [&cluster.larder[0].url, &cluster.go[1].url] {
        let key = cluster.key_of("a b", owner);
        let got = cluster.go[0].get(&key).await;
        assert_eq!(got, Some(value(&key.replace(' ', "+"))), "from {owner}");
        assert_eq!(cluster.larder[0].get(&key).await.unwrap().unwrap()[..], value(&key));
    }
}
