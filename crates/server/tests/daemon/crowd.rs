//! Many callers at once, each a client with a connection of its own.

use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    sync::{Barrier, Semaphore},
    task::JoinSet,
};

use crate::{
    client::{Answer, Broken, Connection, GROUP, get, get_key},
    cluster::Cluster,
};

/// How many connections are made at once: fewer than a listener's queue holds.
const CONNECTING_MAX: usize = 128;

/// How many files this process and the daemons that it starts may have open.
const FILES_MAX: u64 = 8192;

/// What became of one caller.
pub(crate) struct Called {
    pub(crate) key: String,
    pub(crate) result: Result<Answer, Broken>,
}

/// Callers that have asked and now wait.
pub(crate) struct Crowd(JoinSet<Called>);

impl Crowd {
    /// Has a caller ask each node in `nodes`, in turn, for each key of `keys`; all at once, over connections that are
    /// open.
    pub(crate) async fn ask(cluster: &Cluster, nodes: &[usize], keys: impl IntoIterator<Item = String>) -> Self {
        let keys: Vec<String> = keys.into_iter().collect();
        let connecting = Arc::new(Semaphore::new(CONNECTING_MAX));
        let start = Arc::new(Barrier::new(keys.len() + 1));
        let mut crowd = JoinSet::new();
        for (caller, key) in keys.into_iter().enumerate() {
            let address = cluster[nodes[caller % nodes.len()]].clients;
            let (connecting, start) = (connecting.clone(), start.clone());
            crowd.spawn(async move {
                let permit = connecting.acquire().await;
                let mut connection = Connection::open(address).await.unwrap();
                connection.ask(get("/v1/cluster")).await.unwrap();
                drop(permit);
                start.wait().await;
                let result = connection.ask(get_key(&key)).await;
                Called { key, result }
            });
        }
        start.wait().await;
        for &node in nodes {
            has_read(cluster, node).await;
        }
        Self(crowd)
    }

    /// What became of each.
    pub(crate) async fn results(self) -> Vec<Called> {
        self.0.join_all().await
    }

    /// Each one's answer.
    pub(crate) async fn answers(self) -> Vec<(String, Answer)> {
        self.results().await.into_iter().map(|called| (called.key, called.result.unwrap())).collect()
    }
}

/// A node that answers a request has most likely read those that were sent before it.
pub(crate) async fn has_read(cluster: &Cluster, node: usize) {
    for _ in 0..3 {
        cluster[node].ask(get(&format!("/v1/cluster/owner/{GROUP}/x"))).await;
    }
}

/// Allows this process, and those that it starts, the files that a crowd needs.
pub(crate) fn allow_many_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(FILES_MAX, |maximum| maximum.min(FILES_MAX));
    if current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).unwrap();
    }
}
