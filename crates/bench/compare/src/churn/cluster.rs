//! A cluster of processes that nodes join and leave: daemons that find each other, or nodes of golang/groupcache that are given
//! a list each.

use std::{net::SocketAddr, path::Path, process::Command, thread, time::Duration};

use larder_core::placement::GroupcacheRing;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    churn::{Kind, Options},
    client::{self, GROUP, get},
    clock::Stopwatch,
    go,
    moves::owners,
    process::{Outcome, Process},
    traffic::Traffic,
};

/// How long nodes may take to agree on who they are: far longer than it takes, for machines that do much else.
const AGREE_TIME_MAX: Duration = Duration::from_secs(60);

/// How often they are asked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

const GO_NODE: &str = "../../peer/tests/groupcache/node.go";

pub(crate) struct Cluster<'a> {
    kind: Kind,
    larder: &'a Path,
    runtime: &'a Runtime,
    /// To which a key is appended.
    origin: String,
    nodes: Vec<Node>,
}

struct Node {
    name: String,
    /// Where clients ask.
    door: SocketAddr,
    /// Where others find it: where a daemon gossips, and a Go node's URL.
    address: String,
    process: Process,
}

impl Drop for Node {
    fn drop(&mut self) {
        // It is gone, or will be once it has no input.
        let _gone = self.process.kill();
    }
}

impl<'a> Cluster<'a> {
    /// So many nodes, which know each other.
    pub(crate) fn start(
        kind: Kind,
        options: &'a Options,
        runtime: &'a Runtime,
        origin: String,
        len: usize,
    ) -> Outcome<Self> {
        let mut cluster = Self { kind, larder: &options.larder, runtime, origin, nodes: Vec::new() };
        for number in 1..=len {
            let node = cluster.start_node(&name(number), "127.0.0.1:0")?;
            cluster.nodes.push(node);
        }
        cluster.agree()?;
        Ok(cluster)
    }

    pub(crate) fn doors(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.door).collect()
    }

    /// The path at which a node has a key.
    pub(crate) fn path(&self) -> fn(&str) -> String {
        match self.kind {
            Kind::Larder { .. } => |key| client::key_path(key),
            Kind::Groupcache => |key| format!("/get?key={key}"),
        }
    }

    /// A node more than there were.
    pub(crate) fn join(&mut self, traffic: &Traffic) -> Outcome<()> {
        let node = self.start_node(&name(self.nodes.len() + 1), "127.0.0.1:0")?;
        self.take_in(node, traffic)
    }

    /// The last node leaves in order.
    pub(crate) fn drain(&mut self, traffic: &Traffic) -> Outcome<()> {
        let node = self.nodes.pop().ok_or("no node is left")?;
        self.let_go(node, traffic)
    }

    /// The last node dies.
    pub(crate) fn crash(&mut self, traffic: &Traffic) -> Outcome<()> {
        let mut node = self.nodes.pop().ok_or("no node is left")?;
        node.process.kill()?;
        traffic.close(node.door);
        self.agree()
    }

    /// One node after the other leaves, and comes back empty.
    pub(crate) fn roll(&mut self, traffic: &Traffic) -> Outcome<()> {
        for _ in 0..self.nodes.len() {
            let node = self.nodes.remove(0);
            let (name, door) = (node.name.clone(), node.door);
            self.let_go(node, traffic)?;
            let node = self.start_node(&name, &door.to_string())?;
            self.take_in(node, traffic)?;
        }
        Ok(())
    }

    /// The owner of each key.
    pub(crate) fn owners(&self, keys: &[String]) -> Vec<String> {
        let each = |of: fn(&Node) -> &str| self.nodes.iter().map(of).collect::<Vec<_>>();
        match self.kind {
            Kind::Larder { .. } => owners(keys, &each(|node| &node.name)),
            Kind::Groupcache => {
                let urls = each(|node| &node.address);
                let ring = GroupcacheRing::new(&urls);
                keys.iter().map(|key| ring.owner(key.as_bytes()).map_or("", |place| urls[place]).to_owned()).collect()
            }
        }
    }

    fn take_in(&mut self, node: Node, traffic: &Traffic) -> Outcome<()> {
        let door = node.door;
        self.nodes.push(node);
        self.agree()?;
        traffic.open(door);
        Ok(())
    }

    fn let_go(&mut self, mut node: Node, traffic: &Traffic) -> Outcome<()> {
        match self.kind {
            Kind::Larder { .. } => {
                node.process.terminate()?;
                traffic.close(node.door);
                self.agree()
            }
            // It can't say that it leaves. So the others are told first, then its clients, and it ends when nobody asks it any more.
            Kind::Groupcache => {
                self.agree()?;
                traffic.close(node.door);
                self.runtime.block_on(traffic.settle());
                node.process.kill()
            }
        }
    }

    fn start_node(&self, name: &str, listen: &str) -> Outcome<Node> {
        match self.kind {
            Kind::Larder { warms } => self.start_daemon(name, listen, warms),
            Kind::Groupcache => {
                let mut command = Command::new(go::build(GO_NODE)?);
                let mut process = Process::start(command.args(["-origin", &self.origin, "-listen", listen]))?;
                let address = process.line()?;
                let door = address.trim_start_matches("http://").parse()?;
                Ok(Node { name: name.to_owned(), door, address, process })
            }
        }
    }

    fn start_daemon(&self, name: &str, listen: &str, warms: bool) -> Outcome<Node> {
        let any = "127.0.0.1:0";
        let mut command = Command::new(self.larder);
        command.args(["serve", "--listen", listen, "--peer", any, "--admin", any]).env("LARDER_LOG", "error");
        let url = format!("{}{{key}}", self.origin);
        for (key, value) in [
            ("node.name", name),
            ("cluster.discovery", "gossip"),
            ("cluster.gossip", any),
            ("node.handoff", if warms { "1GiB" } else { "0B" }),
            (&format!("groups.{GROUP}.origin.kind"), "http"),
            (&format!("groups.{GROUP}.origin.url"), &url),
        ] {
            command.args(["--set", &format!("{key}={value}")]);
        }
        for other in &self.nodes {
            command.args(["--join", &other.address]);
        }
        let mut process = Process::start(&mut command)?;
        let (mut door, mut address) = (None, None);
        loop {
            let line = process.line()?;
            let Some((listener, at)) = line.trim().split_once(' ') else { continue };
            let at = at.trim().trim_start_matches("http://");
            match listener {
                "clients" => door = Some(at.parse()?),
                "gossip" => address = Some(at.to_owned()),
                // The last one.
                "admin" => break,
                _ => {}
            }
        }
        let (door, address) = (door.ok_or("no clients")?, address.ok_or("no gossip")?);
        Ok(Node { name: name.to_owned(), door, address, process })
    }

    /// Has all nodes know just these: daemons find out, and Go nodes are told.
    fn agree(&mut self) -> Outcome<()> {
        match self.kind {
            Kind::Larder { .. } => {
                let watch = Stopwatch::start();
                while !self.is_agreed() {
                    if watch.elapsed() > AGREE_TIME_MAX {
                        return Err("the nodes do not come to know each other".into());
                    }
                    #[expect(clippy::disallowed_methods, reason = "nothing else is done on this thread")]
                    thread::sleep(POLL_INTERVAL);
                }
            }
            Kind::Groupcache => {
                let list = self.nodes.iter().map(|node| node.address.as_str()).collect::<Vec<_>>().join(" ");
                // Whoever is new serves once it has its list.
                for node in self.nodes.iter_mut().rev() {
                    node.process.say(&list)?;
                }
            }
        }
        Ok(())
    }

    fn is_agreed(&self) -> bool {
        let mut names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        names.sort_unstable();
        self.nodes.iter().all(|node| {
            let Ok(shown) = self.runtime.block_on(client::ask(node.door, get("/v1/cluster"))) else { return false };
            let shown = shown.json();
            let Some(members) = shown["members"].as_array() else { return false };
            let is_serving = |member: &Value| member["state"] == "serving" && member["slots"] != 0;
            members.iter().all(is_serving)
                && members.iter().map(|member| member["name"].as_str().unwrap_or("")).eq(names.iter().copied())
        })
    }
}

fn name(number: usize) -> String {
    format!("n{number}")
}
