//! [`EtcdServer`]: a real etcd.

use std::{net::SocketAddr, path::PathBuf, process::Command};

use super::process::{DATA, Process, Server, free_addresses};

/// How often `etcdctl` is tried while etcd has not answered.
const TRIES_MAX: usize = 20;

/// A member of etcd as a process, with its data in a temporary folder. It grants leases of 1 s and more.
///
/// ```no_run
/// use larder_cluster::{EtcdConfig, testing::{EtcdServer, Server}};
///
/// let mut server = EtcdServer::start();
/// let config = EtcdConfig::new([server.url()]);
/// server.kill();
/// server.restart();
/// ```
#[derive(Debug)]
pub struct EtcdServer {
    process: Process,
    /// The server's certificate, its key, and the certificates that clients must have theirs from: PEM files.
    tls: Option<[PathBuf; 3]>,
    name: String,
    clients: SocketAddr,
    peers: SocketAddr,
    /// Every member with where its peers reach it.
    cluster: String,
}

impl EtcdServer {
    /// One that is a cluster on its own.
    #[must_use]
    pub fn start() -> Self {
        let [server] = Self::start_cluster();
        server
    }

    /// Those of one cluster.
    #[must_use]
    pub fn start_cluster<const N: usize>() -> [Self; N] {
        let mut servers = Self::prepare();
        servers.iter_mut().for_each(Self::restart);
        servers
    }

    /// One that shows this certificate with its key, and wants such from those who have theirs from a third: PEM files,
    /// made for its address.
    #[must_use]
    pub fn start_secured(files: impl FnOnce(SocketAddr) -> [PathBuf; 3]) -> Self {
        let [mut server] = Self::prepare();
        server.tls = Some(files(server.clients));
        server.restart();
        server
    }

    fn prepare<const N: usize>() -> [Self; N] {
        let mut number = 0;
        let mut servers = [(); N].map(|()| {
            number += 1;
            let [clients, peers] = free_addresses();
            let name = format!("etcd-{number}");
            Self { process: Process::new(), tls: None, name, clients, peers, cluster: String::new() }
        });
        let members: Vec<String> = servers.iter().map(|it| format!("{}=http://{}", it.name, it.peers)).collect();
        servers.iter_mut().for_each(|server| server.cluster = members.join(","));
        servers
    }

    /// Runs `etcdctl` with these words, once etcd answers; what it says.
    #[must_use]
    pub fn ctl(&self, words: &[&str]) -> String {
        let mut said = String::new();
        for _ in 0..TRIES_MAX {
            let mut command = Command::new("etcdctl");
            command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url(), "--dial-timeout", "1s"]);
            let output = command.args(["--command-timeout", "3s"]).args(words).output().expect("etcdctl runs");
            if output.status.success() {
                return String::from_utf8_lossy(&output.stdout).into_owned();
            }
            said = String::from_utf8_lossy(&output.stderr).into_owned();
        }
        panic!("etcdctl {words:?} fails: {said}");
    }

    /// Whether it leads its cluster.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        // ENDPOINT, ID, VERSION, DB SIZE, IS LEADER, ...
        self.ctl(&["endpoint", "status"]).split(", ").nth(4) == Some("true")
    }
}

impl Server for EtcdServer {
    fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.clients)
    }

    fn address(&self) -> SocketAddr {
        self.clients
    }

    fn restart(&mut self) {
        let mut command = Command::new("etcd");
        let peers = format!("http://{}", self.peers);
        command
            .args(["--name", &self.name, "--data-dir", DATA, "--log-level", "warn"])
            .args(["--logger", "zap", "--log-outputs", "stderr"])
            .args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &self.cluster, "--initial-cluster-state", "new"])
            // The shortest lease is one and a half election timeouts.
            .args(["--heartbeat-interval", "60", "--election-timeout", "600"]);
        if let Some([cert, key, ca]) = &self.tls {
            command.arg("--cert-file").arg(cert).arg("--key-file").arg(key);
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
        }
        self.process.start(&mut command);
    }

    fn process(&self) -> &Process {
        &self.process
    }

    fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}
