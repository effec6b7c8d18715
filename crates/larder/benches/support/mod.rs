//! Nodes in one process that ask each other over gRPC on loopback, their keys, and figures of several rounds.

use std::{future::pending, time::Duration};

use larder::{Member, Node, NodeBuilder, Value, cluster::Static, peer::grpc};
use tokio::{
    net::TcpListener,
    task::{JoinSet, yield_now},
    time::timeout,
};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const GROUP: &str = "users";
pub(crate) const VALUE_LEN: usize = 100;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    _servers: JoinSet<()>,
}

impl Cluster {
    /// Nodes that `build` adds to what they all have: by their places, up to five.
    pub(crate) async fn start(count: usize, build: impl Fn(usize, NodeBuilder) -> NodeBuilder) -> Self {
        let mut listeners = Vec::new();
        for name in NAMES.into_iter().take(count) {
            listeners.push((name, TcpListener::bind("127.0.0.1:0").await.unwrap()));
        }
        let member =
            |(name, listener): &(&str, TcpListener)| Member::new(*name, listener.local_addr().unwrap().to_string());
        let membership = Static::new(listeners.iter().map(member)).unwrap();
        let (mut nodes, mut servers) = (Vec::new(), JoinSet::new());
        for (place, (name, listener)) in listeners.into_iter().enumerate() {
            let builder = Node::builder().name(name).membership(membership.clone());
            let node = build(place, builder).start().await.unwrap();
            let (served, locks) = (node.core().clone(), node.locks().clone());
            servers.spawn(grpc::serve_node(listener, served, locks, || true, pending()));
            nodes.push(node);
        }
        let serve = async {
            while !nodes.iter().all(|node| node.view().is_serving()) {
                yield_now().await;
            }
        };
        timeout(TIMEOUT, serve).await.unwrap();
        Self { nodes, _servers: servers }
    }

    /// Which node owns a key.
    pub(crate) fn owner_of(&self, key: &str) -> usize {
        let owner = self.nodes[0].core().place(GROUP, key.as_bytes()).owner.unwrap();
        self.nodes.iter().position(|node| *node.core().name() == owner).unwrap()
    }

    pub(crate) fn keys_of(&self, node: usize) -> impl Iterator<Item = String> {
        (0..).map(key).filter(move |key| self.owner_of(key) == node)
    }
}

/// Twenty bytes.
pub(crate) fn key(index: u64) -> String {
    format!("user:{index:015}")
}

pub(crate) fn value() -> Value {
    Value::from(vec![7; VALUE_LEN])
}

pub(crate) fn middle(mut durations: Vec<Duration>) -> Duration {
    durations.sort();
    durations[durations.len() / 2]
}

pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// What several rounds of so many measurements came to.
pub(crate) struct Rounds<const N: usize>(Vec<[f64; N]>);

impl<const N: usize> Rounds<N> {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn add(&mut self, figures: [f64; N]) {
        self.0.push(figures);
    }

    pub(crate) fn median(&self, of: usize) -> f64 {
        median(self.0.iter().map(|round| round[of]))
    }

    /// The ratio of two of them, within each round: median, least and greatest.
    pub(crate) fn ratio(&self, over: usize, under: usize) -> String {
        let ratios = self.0.iter().map(|round| round[over] / round[under]);
        let (least, greatest) = (ratios.clone().fold(f64::INFINITY, f64::min), ratios.clone().fold(0.0, f64::max));
        format!("{:.2} ({least:.2} to {greatest:.2})", median(ratios))
    }
}
