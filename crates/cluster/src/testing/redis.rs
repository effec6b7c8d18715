//! [`RedisServer`]: a real Redis.

use std::{net::SocketAddr, process::Command};

use super::process::{DATA, Process, Server, free_addresses};

/// How often `redis-cli` is tried while Redis has not answered.
const TRIES_MAX: usize = 100;

/// A Redis as a process, with its data in a temporary folder. It syncs each write to disk, so that it forgets nothing.
///
/// ```no_run
/// use larder_cluster::{locks::RedisConfig, testing::{RedisServer, Server}};
///
/// let mut server = RedisServer::start();
/// let config = RedisConfig::new(server.url());
/// server.kill();
/// server.restart();
/// ```
#[derive(Debug)]
pub struct RedisServer {
    process: Process,
    address: SocketAddr,
}

impl RedisServer {
    /// One that has no data.
    #[must_use]
    pub fn start() -> Self {
        let [address] = free_addresses();
        let mut server = Self { process: Process::new(), address };
        server.restart();
        server
    }

    /// Runs `redis-cli` with these words, once Redis answers; what it says.
    #[must_use]
    pub fn cli(&self, words: &[&str]) -> String {
        let mut said = String::new();
        for _ in 0..TRIES_MAX {
            let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
            let mut command = Command::new("redis-cli");
            command.args(["-h", &host, "-p", &port, "-e"]).args(words);
            let output = command.output().expect("redis-cli runs");
            said = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() {
                return said;
            }
        }
        panic!("redis-cli {words:?} fails: {said}");
    }
}

impl Server for RedisServer {
    fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn restart(&mut self) {
        std::fs::create_dir_all(self.process.folder().join(DATA)).expect("a folder can be made");
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let mut command = Command::new("redis-server");
        command.args(["--bind", &host, "--port", &port, "--dir", DATA]);
        command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        self.process.start(&mut command);
    }

    fn process(&self) -> &Process {
        &self.process
    }

    fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}
