//! The rules between keys: what no key can know on its own.
//!
//! A rule is silent where a key of its own could not be read, so that one mistake gives one message.

use std::{collections::BTreeMap, net::SocketAddr};

use larder_core::{
    Ring,
    group::{Consistency, LoadLock},
};

use super::{
    document::{Document, Value},
    keys::{Config, Discovery, LockKeeper, Transport, WriteMode},
    mistake::Mistakes,
    origin::OriginConfig,
    shapes,
};

/// A document that is being checked against the rules.
struct Rules<'a> {
    config: &'a Config,
    document: &'a Document,
    /// Those made in reading the document.
    misread: &'a Mistakes,
    broken: Mistakes,
}

/// What breaks a rule, where the keys could be read.
pub(super) fn check(config: &Config, document: &Document, misread: &Mistakes) -> Mistakes {
    let mut rules = Rules { config, document, misread, broken: Mistakes::default() };
    rules.listeners();
    rules.members();
    rules.transport();
    rules.dns();
    rules.gossip();
    rules.registries();
    rules.locks();
    rules.load_locks();
    rules.ring();
    rules.timeouts();
    rules.consistency();
    rules.writes();
    rules.statements();
    rules.broken
}

impl Rules<'_> {
    /// Whether all of the keys could be read.
    fn sound(&self, keys: &[&str]) -> bool {
        !keys.iter().any(|key| self.misread.concern(key))
    }

    fn breaks(&mut self, key: &str, message: impl Into<String>) {
        self.broken.add(self.document.place(key), key, message);
    }

    fn listeners(&mut self) {
        let node = &self.config.node;
        let listeners = [("node.listen", node.listen), ("node.peer", node.peer), ("node.admin", node.admin)];
        for (index, (key, address)) in listeners.iter().enumerate() {
            if !self.sound(&[key, "security.insecure"]) {
                continue;
            }
            if !is_loopback(address) && !self.config.security.insecure {
                self.breaks(
                    key,
                    format!("{address} is beyond loopback, where anyone may reach it: set security.insecure = true if that is meant"),
                );
            }
            let same = listeners[..index].iter().find(|(_, other)| other == address && address.port() != 0);
            if let Some((other, _)) = same {
                self.breaks(key, format!("expected an address of its own, but {address} is also that of {other}"));
            }
        }
    }

    fn consistency(&mut self) {
        let is_proven = matches!(self.config.cluster.discovery, Discovery::Etcd | Discovery::Consul);
        for (name, group) in &self.config.groups {
            let key = format!("groups.{name}.consistency");
            if group.consistency == Consistency::Strong && !is_proven && self.sound(&["cluster.discovery", &key]) {
                let message =
                    "\"strong\" needs cluster.discovery = \"etcd\" or \"consul\": nothing else proves who owns a key";
                self.breaks(&key, message);
            }
        }
    }

    fn writes(&mut self) {
        for (name, group) in &self.config.groups {
            let (key, origin) = (format!("groups.{name}.write"), format!("groups.{name}.origin"));
            let word = match group.write {
                WriteMode::None => continue,
                WriteMode::Through => "through",
                WriteMode::Behind => "behind",
            };
            if !self.sound(&[&key, &origin]) {
                continue;
            }
            if group.write == WriteMode::Behind {
                self.behind(name, &key, group.consistency);
            }
            let statement = match &group.origin {
                OriginConfig::None => {
                    self.breaks(&key, format!("{word:?} needs an origin to write to: set groups.NAME.origin too"));
                    continue;
                }
                OriginConfig::Sqlite(origin) => &origin.upsert,
                OriginConfig::Postgres(origin) => &origin.upsert,
                OriginConfig::Http(_)
                | OriginConfig::Directory(_)
                | OriginConfig::Object(_)
                | OriginConfig::Redis(_) => continue,
            };
            if statement.is_none() {
                self.breaks(&key, format!("{word:?} needs a statement that writes: set {origin}.upsert too"));
            }
        }
    }

    fn behind(&mut self, name: &str, key: &str, consistency: Consistency) {
        let Config { node, cluster, .. } = self.config;
        if consistency == Consistency::Strong && self.sound(&[&format!("groups.{name}.consistency")]) {
            self.breaks(
                key,
                "\"behind\" goes with eventual consistency only: set \"through\", or leave consistency out",
            );
        }
        let is_alone = cluster.discovery == Discovery::None;
        if node.transport == Transport::Http && !is_alone && self.sound(&["cluster.discovery", "node.transport"]) {
            self.breaks(key, "\"behind\" needs node.transport = \"grpc\", over which nodes pass each other what is not at the origin yet");
        }
    }

    fn statements(&mut self) {
        for (name, group) in &self.config.groups {
            let (upsert, upsert_many) = match &group.origin {
                OriginConfig::Sqlite(origin) => (&origin.upsert, &origin.upsert_many),
                OriginConfig::Postgres(origin) => (&origin.upsert, &origin.upsert_many),
                OriginConfig::None
                | OriginConfig::Http(_)
                | OriginConfig::Directory(_)
                | OriginConfig::Object(_)
                | OriginConfig::Redis(_) => {
                    continue;
                }
            };
            let key = |key: &str| format!("groups.{name}.origin.{key}");
            if upsert.is_none() && upsert_many.is_some() && self.sound(&[&key("upsert")]) {
                self.breaks(
                    &key("upsert_many"),
                    "upsert_many needs upsert beside it, for what it can't take: set it too",
                );
            }
        }
    }

    fn members(&mut self) {
        let cluster = &self.config.cluster;
        if !self.sound(&["cluster.discovery", "cluster.members", "node.name"]) {
            return;
        }
        let key = "cluster.members";
        match cluster.discovery {
            Discovery::None if !cluster.members.is_empty() && self.document.get("cluster.discovery").is_none() => {
                self.breaks(key, "members are only used with discovery = \"static\": set it too");
            }
            Discovery::None | Discovery::Dns | Discovery::Gossip | Discovery::Etcd | Discovery::Consul => {}
            Discovery::Static if cluster.members.is_empty() => {
                let message = "this key is missing: discovery = \"static\" needs every member, such as [\"a=10.0.0.1:5274\", \"b=10.0.0.2:5274\"]";
                self.breaks(key, message);
            }
            Discovery::Static => {
                self.twins();
                self.own_entry();
                if self.config.node.weight != 1 {
                    self.breaks("node.weight", "expected 1: the list of static members carries no weights");
                }
            }
        }
    }

    fn transport(&mut self) {
        let discovery = match self.config.cluster.discovery {
            Discovery::None | Discovery::Static => return,
            Discovery::Dns => "dns",
            Discovery::Gossip => "gossip",
            Discovery::Etcd => "etcd",
            Discovery::Consul => "consul",
        };
        if self.config.node.transport == Transport::Http && self.sound(&["cluster.discovery", "node.transport"]) {
            let message = format!(
                "{discovery:?} needs node.transport = \"grpc\": nodes that speak HTTP need a list of static members"
            );
            self.breaks("cluster.discovery", message);
        }
    }

    fn dns(&mut self) {
        let Config { node, cluster, .. } = self.config;
        if !self.sound(&["cluster.discovery", "cluster.dns_name", "node.weight"]) {
            return;
        }
        match (cluster.discovery, &cluster.dns_name) {
            (Discovery::Dns, None) => {
                let message = "this key is missing: discovery = \"dns\" needs a name to look members up under, such as \"larder.default.svc:5274\"";
                self.breaks("cluster.dns_name", message);
            }
            (Discovery::Dns, Some(_)) if node.weight != 1 => {
                self.breaks("node.weight", "expected 1: what a DNS name has carries no weights");
            }
            (_, Some(_)) if self.document.get("cluster.discovery").is_none() => {
                self.breaks("cluster.dns_name", "the name is only used with discovery = \"dns\": set it too");
            }
            _ => {}
        }
    }

    fn gossip(&mut self) {
        let Config { node, cluster, security, .. } = self.config;
        if !self.sound(&[
            "cluster.discovery",
            "cluster.gossip",
            "cluster.seeds",
            "cluster.gossip_key",
            "node.advertise",
        ]) {
            return;
        }
        if cluster.discovery != Discovery::Gossip {
            if !cluster.seeds.is_empty() && self.document.get("cluster.discovery").is_none() {
                self.breaks("cluster.seeds", "seeds are only used with discovery = \"gossip\": set it too");
            }
            return;
        }
        let address = cluster.gossip;
        if !is_loopback(&address) && cluster.gossip_key.is_none() && !security.insecure {
            self.breaks(
                "cluster.gossip",
                format!("{address} is beyond loopback, where anyone may reach it: set cluster.gossip_key, or security.insecure = true if that is meant"),
            );
        }
        if address.ip().is_unspecified() && node.advertise.is_none() {
            let message = format!(
                "{address} is every address of this host: set node.advertise to the one that others reach it at"
            );
            self.breaks("cluster.gossip", message);
        }
    }

    /// etcd and Consul.
    fn registries(&mut self) {
        let cluster = &self.config.cluster;
        if !self.sound(&["cluster"]) {
            return;
        }
        for (key, word) in [("cluster.etcd", "etcd"), ("cluster.consul", "consul")] {
            let is_named = ["cluster.discovery", "cluster.locks"].iter().any(|key| self.document.get(key).is_some());
            if self.document.get(key).is_some() && !is_named {
                let message = format!(
                    "{word} is only used with discovery = \"{word}\" or locks = \"{word}\": set one of them too"
                );
                self.breaks(key, message);
            }
        }
        if cluster.etcd_cert.is_some() != cluster.etcd_key.is_some() {
            let key = if cluster.etcd_cert.is_some() { "cluster.etcd_cert" } else { "cluster.etcd_key" };
            self.breaks(key, "a certificate and its key go together: set etcd_cert and etcd_key");
        }
        if cluster.etcd_user.is_empty() != cluster.etcd_password.reveal().is_empty() {
            let key = if cluster.etcd_user.is_empty() { "cluster.etcd_password" } else { "cluster.etcd_user" };
            self.breaks(key, "a user and a password go together: set etcd_user and etcd_password");
        }
    }

    fn locks(&mut self) {
        if !self.sound(&["cluster.locks", "cluster.redis", "cluster.discovery", "node.transport"]) {
            return;
        }
        let is_set = |key: &str| self.document.get(key).is_some();
        if is_set("cluster.redis") && !is_set("cluster.locks") {
            self.breaks("cluster.redis", "redis is only used with locks = \"redis\": set it too");
        }
        if is_set("cluster.locks") && self.keeps_no_locks() {
            let message = "\"cluster\" needs node.transport = \"grpc\": nodes that speak HTTP don't tell each other of locks; use \"etcd\", \"consul\" or \"redis\"";
            self.breaks("cluster.locks", message);
        }
    }

    /// Whether the nodes are to keep locks and can't.
    fn keeps_no_locks(&self) -> bool {
        let Config { node, cluster, .. } = self.config;
        let is_alone = cluster.discovery == Discovery::None;
        cluster.locks == LockKeeper::Cluster && node.transport == Transport::Http && !is_alone
    }

    fn load_locks(&mut self) {
        for (name, group) in &self.config.groups {
            let (key, origin) = (format!("groups.{name}.load_lock"), format!("groups.{name}.origin"));
            if group.load_lock == LoadLock::Off || !self.sound(&[&key, &origin, "cluster", "node.transport"]) {
                continue;
            }
            if group.origin == OriginConfig::None {
                self.breaks(&key, "a lock around loads needs an origin to load from: set groups.NAME.origin too");
            } else if self.keeps_no_locks() {
                let message = "a lock around loads needs somebody who keeps locks: nodes that speak HTTP don't, so set cluster.locks to \"etcd\", \"consul\" or \"redis\"";
                self.breaks(&key, message);
            }
        }
    }

    fn twins(&mut self) {
        let (mut names, mut addresses) = (BTreeMap::new(), BTreeMap::new());
        for (index, member) in self.config.cluster.members.iter().enumerate() {
            if let Some(first) = names.insert(member.name.as_str(), index) {
                let message =
                    format!("the name {:?} is taken by cluster.members[{first}]: names must be unique", member.name);
                self.member(index, message);
            }
            if let Some(first) = addresses.insert(member.address.as_str(), index) {
                let message = format!("the address {:?} is that of cluster.members[{first}] too", member.address);
                self.member(index, message);
            }
        }
    }

    fn own_entry(&mut self) {
        let node = &self.config.node;
        let own = node.name(node.peer.port());
        let members = &self.config.cluster.members;
        if members.iter().any(|member| member.name == own) {
            return;
        }
        let is_default = if node.name.is_none() { ", its default" } else { "" };
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        let names = names.join(", ");
        self.breaks(
            "cluster.members",
            format!("this node's name is {own:?}{is_default}, and no entry has it: set node.name to one of {names}, or add an entry"),
        );
    }

    fn ring(&mut self) {
        let cluster = &self.config.cluster;
        if !self.sound(&["cluster.ring", "cluster.members", "cluster.discovery", "node.transport"]) {
            return;
        }
        if cluster.ring == Ring::Groupcache {
            if cluster.discovery != Discovery::Static {
                self.breaks("cluster.ring", "\"groupcache\" needs discovery = \"static\" and members");
            }
            if self.config.node.transport != Transport::Http {
                self.breaks(
                    "cluster.ring",
                    "\"groupcache\" needs node.transport = \"http\", which Go nodes speak: set that too",
                );
            }
        }
        if cluster.discovery != Discovery::Static {
            return;
        }
        for (index, member) in cluster.members.iter().enumerate() {
            let address = &member.address;
            let (fits, expected) = match cluster.ring {
                Ring::Slots => (shapes::is_host_and_port(address), "a host and a port such as \"a=10.0.0.1:5274\""),
                Ring::Groupcache => (
                    is_peer_url(address),
                    "the URL exactly as the Go peers write it, such as \"a=http://10.0.0.1:8080\"",
                ),
            };
            if !fits {
                self.member(index, format!("expected {expected}, but found \"{}={address}\"", member.name));
            }
        }
    }

    fn timeouts(&mut self) {
        for (name, group) in &self.config.groups {
            let (soft, hard) = (format!("groups.{name}.soft_timeout"), format!("groups.{name}.hard_timeout"));
            if group.soft_timeout >= group.hard_timeout && self.sound(&[&soft, &hard]) {
                let limit = humantime::format_duration(group.hard_timeout);
                self.breaks(&soft, format!("expected less than hard_timeout, which is {limit}"));
            }
        }
    }

    /// Adds a mistake in an element of `cluster.members`.
    fn member(&mut self, index: usize, message: String) {
        let key = "cluster.members";
        let place = match self.document.get(key).map(|entry| &entry.value) {
            Some(Value::Array(elements)) => elements[index].place,
            _ => self.document.place(key),
        };
        self.broken.add(place, format!("{key}[{index}]"), message);
    }
}

/// Only this machine reaches it.
fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// golang/groupcache adds its path to the URL as it is, so it has none of its own and no slash at its end.
fn is_peer_url(text: &str) -> bool {
    let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    authority.is_some_and(|authority| {
        authority
            .parse::<http::uri::Authority>()
            .is_ok_and(|parsed| parsed.as_str() == authority && !authority.contains('@'))
    })
}
