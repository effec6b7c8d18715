//! The cluster that the demonstration runs: daemons in one process, and an origin that all of them ask.

use std::{
    fmt::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, pending};
use larder::{
    LoadError, LoadRequest, Loaded, Loader,
    core::{self, stats::Source},
};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::{
    assemble::{Listeners, assemble_around},
    commands::Failure,
    config::{Config, Discovery, MemberConfig},
};

/// How much longer each request to the origin is made to take.
pub(super) const ORIGIN_DELAY: Duration = Duration::from_millis(20);

/// The group of the made-up rows.
const GROUP: &str = "users";

/// A row that the load never asks for.
pub(super) const COLD_KEY: &str = "user:cold";

/// The key of an index.
pub(super) fn key(index: u64) -> String {
    format!("user:{index}")
}

/// Daemons, and what they ask.
pub(super) struct Cluster {
    groups: Vec<core::Group>,
    addresses: Vec<String>,
    turn: AtomicUsize,
    origin_requests: Arc<AtomicU64>,
    _daemons: JoinSet<usize>,
    /// Deleted at the end.
    _folder: TempDir,
}

impl Cluster {
    /// Makes the origin and starts the nodes on free ports.
    pub(super) async fn start(nodes: u16, rows: u32) -> Result<Self, Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| Failure::failed(format!("{what}: {error}"));
        let folder = tempfile::tempdir().map_err(|error| failed("no temporary folder", &error))?;
        let file = folder.path().join("users.db");
        fill(&file, rows).map_err(|error| failed("the origin can't be made", &error))?;

        let mut config = Config::parse(&configuration(&file), &[])
            .map_err(|mistakes| failed("the demonstration's own configuration", &mistakes))?;
        // Every socket is bound before the first node starts, because the list of members names their ports.
        let mut listeners = Vec::new();
        let (mut addresses, mut members) = (Vec::new(), Vec::new());
        for index in 0..nodes.into() {
            let bound = Listeners::bind(&config).await?;
            let bound_to = bound.addresses().map_err(|error| failed("no address", &error))?;
            addresses.push(bound_to.clients.to_string());
            let address = bound_to.peers.unwrap_or(bound_to.clients).to_string();
            members.push(MemberConfig { name: name(index), address });
            listeners.push(bound);
        }
        config.cluster.discovery = Discovery::Static;
        config.cluster.members = members;

        let origin_requests = Arc::new(AtomicU64::new(0));
        let slowly = |origin| -> Arc<dyn Loader> { Arc::new(SlowOrigin { origin, requests: origin_requests.clone() }) };
        let mut groups = Vec::new();
        let mut daemons = JoinSet::new();
        for (index, listeners) in listeners.into_iter().enumerate() {
            config.node.name = Some(name(index));
            let daemon = assemble_around(&config, listeners, true, slowly).await?;
            groups.push(daemon.node().core().group(GROUP).map_err(|error| failed("the group", &error))?);
            daemons.spawn(daemon.run(pending()));
        }
        Ok(Self { groups, addresses, turn: AtomicUsize::new(0), origin_requests, _daemons: daemons, _folder: folder })
    }

    /// Where clients reach the nodes.
    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The group at the next node in turn, as behind a load balancer.
    pub(super) fn next_group(&self) -> core::Group {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.groups[turn % self.groups.len()].clone()
    }

    /// How many requests the origin has seen.
    pub(super) fn origin_requests(&self) -> u64 {
        self.origin_requests.load(Ordering::Relaxed)
    }

    /// What the nodes have counted until now.
    pub(super) fn counts(&self) -> Counts {
        let nodes = self.groups.iter().enumerate().map(|(index, group)| NodeCounts::of(name(index), group)).collect();
        Counts { nodes, origin_requests: self.origin_requests() }
    }
}

fn name(index: usize) -> String {
    // Spreadsheet columns: a to z, aa to az, and so on.
    let mut name = String::new();
    let mut rest = index;
    loop {
        name.insert(0, char::from(b'a' + (rest % 26) as u8));
        if rest < 26 {
            return name;
        }
        rest = rest / 26 - 1;
    }
}

/// What one node counts.
#[derive(Clone, Debug)]
pub(super) struct NodeCounts {
    pub(super) name: String,
    pub(super) gets: u64,
    pub(super) hits_main: u64,
    pub(super) hits_hot: u64,
    pub(super) loads_origin: u64,
    pub(super) loads_peer: u64,
    pub(super) deduped: u64,
    pub(super) items: u64,
}

impl NodeCounts {
    fn of(name: String, group: &core::Group) -> Self {
        let stats = group.stats();
        Self {
            name,
            gets: stats.gets(),
            hits_main: stats.hits_main.sum(),
            hits_hot: stats.hits_hot.sum(),
            loads_origin: stats.loads.of(Source::Origin).sum(),
            loads_peer: stats.loads.of(Source::Peer).sum(),
            deduped: stats.loads_deduped.sum(),
            items: group.store_stats().items(),
        }
    }
}

/// What all nodes count.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    pub(super) nodes: Vec<NodeCounts>,
    pub(super) origin_requests: u64,
}

impl Counts {
    /// How many of 100 gets were answered from the store of the node that was asked.
    pub(super) fn hit_percent(&self) -> f64 {
        let sum = |of: fn(&NodeCounts) -> u64| self.nodes.iter().map(of).sum::<u64>() as f64;
        100.0 * sum(|node| node.hits_main + node.hits_hot) / sum(|node| node.gets).max(1.0)
    }
}

/// What each node is told; the members are added when their ports are known.
fn configuration(database: &Path) -> String {
    let url = toml::Value::from(format!("sqlite:{}", database.display()));
    format!(
        "[node]\nlisten = '127.0.0.1:0'\npeer = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\n\
         [groups.{GROUP}.origin]\nkind = 'sqlite'\nurl = {url}\nselect = 'SELECT body FROM users WHERE id = $1'\n"
    )
}

/// A database with made-up users.
fn fill(file: &Path, rows: u32) -> rusqlite::Result<()> {
    let mut database = Connection::open(file)?;
    database.execute("CREATE TABLE users (id TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID", [])?;
    let insertion = database.transaction()?;
    {
        let mut insert = insertion.prepare("INSERT INTO users VALUES (?1, ?2)")?;
        let keys = (0..u64::from(rows)).map(key).chain([COLD_KEY.to_owned()]);
        let mut body = String::new();
        for (number, key) in keys.enumerate() {
            body.clear();
            // Writing to a String does not fail.
            let _ = write!(body, r#"{{"id":"{key}","name":"user number {number}","visits":{}}}"#, number * 7 % 1000);
            insert.execute([&key, &body])?;
        }
    }
    insertion.commit()
}

/// An origin made slower, and counted.
struct SlowOrigin {
    origin: Arc<dyn Loader>,
    requests: Arc<AtomicU64>,
}

impl Loader for SlowOrigin {
    fn load(&self, request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        Box::pin(async move {
            self.requests.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(ORIGIN_DELAY).await;
            self.origin.load(request).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_like_columns() {
        assert_eq!([0, 25, 26, 27, 63].map(name), ["a", "z", "aa", "ab", "bl"]);
    }

    #[test]
    fn the_origin_has_a_row_for_every_key_and_a_cold_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users.db");
        fill(&file, 100).unwrap();
        let database = Connection::open(file).unwrap();
        let count: u32 = database.query_one("SELECT count(*) FROM users", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 101);
    }
}
