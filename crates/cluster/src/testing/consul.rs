//! [`ConsulServer`]: a real agent of Consul.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use super::process::{DATA, Process, Server, free_addresses};

/// Where `cargo xtask test` puts the program if the machine has none, from the root of the project.
const UNPACKED: &str = "../../target/needs/consul";

/// An agent of Consul as a process, with its data in a temporary folder: a server that is a cluster on its own, or an agent
/// that knows one. It takes sessions of 1 s and more.
///
/// ```no_run
/// use larder_cluster::{ConsulConfig, testing::{ConsulServer, Server}};
///
/// let mut server = ConsulServer::start();
/// let config = ConsulConfig::new(server.url());
/// server.kill();
/// server.restart();
/// ```
#[derive(Debug)]
pub struct ConsulServer {
    process: Process,
    http: SocketAddr,
    gossip: SocketAddr,
}

impl ConsulServer {
    /// A server on its own.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(json!({}))
    }

    /// A server on its own, to which nobody may do anything without a token; this one may do all.
    #[must_use]
    pub fn start_with_master(token: &str) -> Self {
        let acl = json!({ "enabled": true, "default_policy": "deny", "tokens": { "master": token, "agent": token } });
        Self::start_with(json!({ "acl": acl, "primary_datacenter": "dc1" }))
    }

    fn start_with(more: Value) -> Self {
        let mut settings = json!({ "server": true, "bootstrap_expect": 1 });
        merge(&mut settings, more);
        Self::start_agent(settings)
    }

    /// An agent beside this server, on a machine of its own as far as Consul is concerned.
    #[must_use]
    pub fn start_neighbour(&self) -> Self {
        Self::start_agent(json!({ "retry_join": [self.gossip.to_string()], "retry_interval": "100ms" }))
    }

    fn start_agent(more: Value) -> Self {
        let [http, server, gossip] = free_addresses();
        let host = http.ip().to_string();
        let mut settings = json!({
            "node_name": format!("machine-{}", host.replace('.', "-")),
            "data_dir": DATA,
            "bind_addr": host,
            "client_addr": host,
            "ports": {
                "dns": -1,
                "grpc": -1,
                "http": http.port(),
                "serf_lan": gossip.port(),
                "serf_wan": -1,
                "server": server.port(),
            },
            "performance": { "raft_multiplier": 1 },
            "session_ttl_min": "1s",
            "disable_update_check": true,
            "leave_on_terminate": false,
            "log_level": "WARN",
        });
        merge(&mut settings, more);
        let mut agent = Self { process: Process::new(), http, gossip };
        fs::write(agent.process.folder().join("agent.json"), settings.to_string()).expect("settings can be written");
        agent.restart();
        agent
    }
}

impl Server for ConsulServer {
    fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    fn address(&self) -> SocketAddr {
        self.http
    }

    fn restart(&mut self) {
        self.process.start(Command::new(program()).args(["agent", "-config-file", "agent.json"]));
    }

    fn process(&self) -> &Process {
        &self.process
    }

    fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn merge(settings: &mut Value, more: Value) {
    if let (Value::Object(settings), Value::Object(more)) = (settings, more) {
        settings.extend(more);
    }
}

fn program() -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join(UNPACKED);
    if unpacked.exists() { unpacked } else { "consul".into() }
}
