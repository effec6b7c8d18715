//! Daemons beside nodes of golang/groupcache, on one ring.

use larder_core::testing::needs::needs;

use crate::{
    client::{GROUP, get, get_key, value_of},
    cluster::Port,
    go::GoNode,
    origin::Origin,
    process::Daemon,
};

/// Two Go nodes and some daemons, and an origin behind them.
struct Mixed {
    origin: Origin,
    go: Vec<GoNode>,
    larder: Vec<(String, Daemon)>,
    _ports: Vec<Port>,
}

impl Mixed {
    async fn start(larders: usize) -> Self {
        let origin = Origin::start().await;
        let mut go: Vec<GoNode> = (0..2).map(|_| GoNode::start(&origin.url())).collect();
        let ports: Vec<Port> = (0..larders).map(|_| Port::take()).collect();
        let url = |port: &Port| format!("http://{}", port.address());
        let urls: Vec<String> = go.iter().map(|node| node.url.clone()).chain(ports.iter().map(url)).collect();
        let peers: Vec<&str> = urls.iter().map(String::as_str).collect();
        for node in &mut go {
            node.join(&peers);
        }
        let members: Vec<String> =
            urls.iter().enumerate().map(|(number, url)| format!("\"node{number}={url}\"")).collect();
        let mut larder = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let config = format!(
                "[node]\nname = \"node{}\"\nlisten = \"{}\"\nadmin = \"127.0.0.1:0\"\npeer = \"127.0.0.1:0\"\n\
                 transport = \"http\"\n\
                 [cluster]\ndiscovery = \"static\"\nring = \"groupcache\"\nmembers = [{}]\n{}",
                go.len() + index,
                port.address(),
                members.join(", "),
                origin.group("")
            );
            larder.push((url(port), Daemon::start(&config).await));
        }
        Self { origin, go, larder, _ports: ports }
    }

    fn urls(&self) -> Vec<&str> {
        self.go.iter().map(|node| &*node.url).chain(self.larder.iter().map(|(url, _)| &**url)).collect()
    }

    /// The URL of the owner in the eyes of each node.
    async fn owners(&self, key: &str) -> Vec<String> {
        let urls = self.urls();
        let mut owners = Vec::new();
        for node in &self.go {
            owners.push(node.owner(key).await);
        }
        for (_, daemon) in &self.larder {
            let answer = daemon.ask(get(&format!("/v1/cluster/owner/{GROUP}/{key}"))).await.json();
            let index: usize = answer["owner"].as_str().unwrap().strip_prefix("node").unwrap().parse().unwrap();
            owners.push(urls[index].to_owned());
        }
        owners
    }

    /// Every node's value is the right one.
    async fn check(&self, key: &str) {
        for node in &self.go {
            assert_eq!(node.get(key).await.unwrap(), value_of(key), "{key} at Go's {}", node.url);
        }
        for (url, daemon) in &self.larder {
            let answer = daemon.ask(get_key(key)).await;
            assert_eq!((answer.status, answer.text()), (200, value_of(key).as_str()), "{key} at Larder's {url}");
        }
    }
}

#[tokio::test]
async fn go_nodes_and_daemons_name_the_same_owner_and_have_the_same_values() {
    if !needs("go") {
        return;
    }
    for larders in [1, 2] {
        let mixed = Mixed::start(larders).await;
        let mut owning = std::collections::HashSet::new();
        for number in 0..60 {
            let key = format!("user:{number}");
            let owners = mixed.owners(&key).await;
            assert!(owners.iter().all(|owner| *owner == owners[0]), "{key}: {owners:?}");
            owning.insert(owners[0].clone());
            mixed.check(&key).await;
            assert_eq!(mixed.origin.loads(&key), 1, "{key}");
        }
        assert_eq!(owning.len(), 2 + larders, "each owns some: {owning:?}");
    }
}

#[tokio::test]
async fn whichever_of_them_is_killed_the_others_serve() {
    if !needs("go") {
        return;
    }
    for (larders, victim) in [(1, 0), (1, 2), (2, 1), (2, 3)] {
        let mut mixed = Mixed::start(larders).await;
        for number in 0..10 {
            mixed.check(&format!("before:{number}")).await;
        }
        if victim < 2 {
            drop(mixed.go.remove(victim));
        } else {
            mixed.larder.remove(victim - 2).1.kill();
        }
        for number in 0..30 {
            mixed.check(&format!("after:{number}")).await;
            mixed.check(&format!("before:{}", number % 10)).await;
        }
    }
}

#[tokio::test]
async fn the_command_owner_names_an_owner_on_groupcaches_ring_too() {
    if !needs("go") {
        return;
    }
    let mixed = Mixed::start(1).await;
    let (_, daemon) = &mixed.larder[0];
    let output = crate::commands::run(daemon, &["owner", GROUP, "user:1"]).await;
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && stdout.starts_with("owner     node"), "{output:?}");
}
