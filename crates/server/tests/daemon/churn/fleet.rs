//! Daemons that find each other, and come and go.

use std::net::SocketAddr;

use crate::{
    gossip::{agree, join_with},
    process::Daemon,
    registries,
};

/// Nodes of one cluster, in the order of their names.
pub(crate) struct Fleet {
    /// The keys of the configuration that name a registry. `None`: they find each other by gossip.
    registry: Option<String>,
    groups: String,
    nodes: Vec<(String, Daemon)>,
}

impl Fleet {
    /// Nodes of these names, which agree on each other.
    pub(crate) async fn start(names: &[&str], groups: &str) -> Self {
        Self::start_in(None, names, groups).await
    }

    /// The same, where these keys of the configuration name a registry.
    pub(crate) async fn registered(registry: String, names: &[&str], groups: &str) -> Self {
        Self::start_in(Some(registry), names, groups).await
    }

    async fn start_in(registry: Option<String>, names: &[&str], groups: &str) -> Self {
        let mut fleet = Self { registry, groups: groups.to_owned(), nodes: Vec::new() };
        for name in names {
            fleet.nodes.push((name.to_string(), fleet.join(name).await));
        }
        fleet.agree().await;
        fleet
    }

    async fn join(&self, name: &str) -> Daemon {
        if let Some(registry) = &self.registry {
            return registries::start(name, registry, &self.groups).await;
        }
        let others: Vec<&Daemon> = self.nodes.iter().map(|(_, node)| node).collect();
        join_with(name, &others, &self.groups).await
    }

    /// Starts a node more, until it is ready and all agree on it.
    pub(crate) async fn add(&mut self, name: &str) -> &Daemon {
        let node = self.join(name).await;
        self.take_back(name, node);
        self.agree().await;
        self.get(name)
    }

    /// Takes a node in that runs, or will.
    pub(crate) fn take_back(&mut self, name: &str, node: Daemon) {
        self.nodes.push((name.to_owned(), node));
        self.nodes.sort_by(|one, other| one.0.cmp(&other.0));
    }

    /// Takes a node out of the fleet, whatever becomes of it.
    pub(crate) fn remove(&mut self, name: &str) -> Daemon {
        let at = self.nodes.iter().position(|(its, _)| its == name).unwrap();
        self.nodes.remove(at).1
    }

    pub(crate) fn get(&self, name: &str) -> &Daemon {
        let (_, node) = self.nodes.iter().find(|(its, _)| its == name).unwrap();
        node
    }

    /// Where clients find each of them.
    pub(crate) fn doors(&self) -> Vec<(String, SocketAddr)> {
        self.nodes.iter().map(|(name, node)| (name.clone(), node.clients)).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Daemon> + Clone {
        self.nodes.iter().map(|(_, node)| node)
    }

    /// Waits until each node sees all of them, and nobody else.
    pub(crate) async fn agree(&self) {
        let nodes: Vec<&Daemon> = self.iter().collect();
        let names: Vec<&str> = self.nodes.iter().map(|(name, _)| name.as_str()).collect();
        agree(&nodes, &names).await;
    }
}
