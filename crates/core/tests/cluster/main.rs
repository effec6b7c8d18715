//! Nodes of a cluster in one process, over a network and an origin in memory that tests hold up and cut.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a helper that can't go on fails its test")]

mod behind;
mod failures;
mod handoff;
mod leases;
mod load_lock;
mod locks;
mod marks;
mod one_load;
mod reads;
mod replicated;
mod settings;
mod slept;
mod standing_in;
mod straddled;
mod strong;
mod through;
mod views;
mod writes;

use std::{sync::Arc, time::Duration};

use larder_core::{
    Answer, Error, Group, GroupConfig, Loader, Member, Members, Node, NodeConfig, Ring,
    placement::Slot,
    stats::Protocol,
    testing::{clock::TokioClock, fake_peer::FakeNetwork, origin::FakeOrigin, table::FakeTable},
};
use tokio::task::AbortHandle;

/// Longer than anything here takes; time is paused, so that it costs nothing.
const TIMEOUT: Duration = Duration::from_secs(5);

struct Cluster {
    network: FakeNetwork,
    origin: FakeOrigin,
    nodes: Vec<Node>,
    groups: Vec<Group>,
    /// What sends the nodes' claims, where there are any.
    drivers: Vec<AbortHandle>,
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("n{index}")).collect()
}

fn members(names: &[String]) -> Members {
    Members::new(names.iter().map(|name| Member::new(name.as_str(), name.as_str()))).unwrap()
}

impl Cluster {
    fn new(count: usize) -> Self {
        Self::with(count, &GroupConfig::default(), FakeOrigin::new(1))
    }

    fn with(count: usize, config: &GroupConfig, origin: FakeOrigin) -> Self {
        let loader: Arc<dyn Loader> = Arc::new(origin.clone());
        Self::start(count, config, origin, Some(&loader))
    }

    /// Without an origin.
    fn plain(count: usize) -> Self {
        Self::start(count, &GroupConfig::default(), FakeOrigin::new(1), None)
    }

    fn start(count: usize, config: &GroupConfig, origin: FakeOrigin, loader: Option<&Arc<dyn Loader>>) -> Self {
        Self::over(&FakeNetwork::default(), count, config, origin, loader)
    }

    fn over(
        network: &FakeNetwork,
        count: usize,
        config: &GroupConfig,
        origin: FakeOrigin,
        loader: Option<&Arc<dyn Loader>>,
    ) -> Self {
        Self::opened(network, count, origin, |node| node.open_group("g", config.clone(), loader.cloned()))
    }

    /// Whose groups write to a table.
    fn through(network: &FakeNetwork, count: usize, config: &GroupConfig, table: &FakeTable) -> Self {
        let table = Arc::new(table.clone());
        Self::opened(network, count, FakeOrigin::new(1), |node| {
            node.open_group_through("g", config.clone(), table.clone(), table.clone())
        })
    }

    fn opened(
        network: &FakeNetwork,
        count: usize,
        origin: FakeOrigin,
        open: impl Fn(&Node) -> Result<Group, Error>,
    ) -> Self {
        let names = names(count);
        Self::begun(network, &names, origin, |_| members(&names), open)
    }

    /// Whose nodes begin with views of their own.
    fn begun(
        network: &FakeNetwork,
        names: &[String],
        origin: FakeOrigin,
        first_view: impl Fn(usize) -> Members,
        open: impl Fn(&Node) -> Result<Group, Error>,
    ) -> Self {
        let clock = Arc::new(TokioClock::new());
        let mut cluster =
            Self { network: network.clone(), origin, nodes: Vec::new(), groups: Vec::new(), drivers: Vec::new() };
        for (index, name) in names.iter().enumerate() {
            let node_config = NodeConfig {
                name: name.as_str().into(),
                http: "".into(),
                ring: Ring::Slots,
                incarnation: u32::try_from(index).unwrap() + 1,
                seed: 42 + index as u64,
                clock: clock.clone(),
                transport: Arc::new(network.of_a_node()),
            };
            let node = Node::new(node_config, first_view(index)).unwrap();
            network.add(name.as_str(), node.service(Protocol::Grpc));
            cluster.groups.push(open(&node).unwrap());
            cluster.nodes.push(node);
        }
        cluster
    }

    /// The place of the node that owns `key`.
    fn owner(&self, key: &str) -> usize {
        let owner = self.nodes[0].place("g", key.as_bytes()).owner.unwrap();
        self.nodes.iter().position(|node| *node.name() == owner).unwrap()
    }

    fn stand_in(&self, key: &str) -> usize {
        let stand_in = self.nodes[0].place("g", key.as_bytes()).stand_in.unwrap();
        self.nodes.iter().position(|node| *node.name() == stand_in).unwrap()
    }

    /// The place of a node that is neither owner nor stand-in.
    fn third(&self, key: &str) -> usize {
        let (owner, stand_in) = (self.owner(key), self.stand_in(key));
        (0..self.nodes.len()).find(|place| ![owner, stand_in].contains(place)).unwrap()
    }

    /// Takes a node off the network, as if it had been killed.
    fn kill(&self, place: usize) {
        self.network.remove(self.nodes[place].name());
    }

    async fn get(&self, place: usize, key: &str) -> Result<Answer, Error> {
        self.groups[place].get(key, TIMEOUT).await
    }

    /// A get in a task of its own.
    fn spawn_get(&self, place: usize, key: &str) -> tokio::task::JoinHandle<Result<Answer, Error>> {
        let (group, key) = (self.groups[place].clone(), key.to_owned());
        tokio::spawn(async move { group.get(key, TIMEOUT).await })
    }
}

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(answer.value.as_ref().expect("found")).unwrap()
}

/// Lets every task that can go on do so; time stands still meanwhile.
async fn quiet() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn slot(key: &str) -> Slot {
    Slot::of("g", key.as_bytes())
}
