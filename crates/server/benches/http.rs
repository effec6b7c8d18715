//! What the daemon adds to the HTTP library under it: a hit over HTTP beside a bare axum handler that returns the same
//! bytes.
//!
//! `cargo xtask bench http`. `wrk` asks both by turns, with one thread and 64 connections, each on a process of its own kind:
//! the daemon as `larder serve` starts it, the handler in this process, both with a thread a core.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use bytes::Bytes;
use larder_bench::interleave;

const PATH: &str = "/v1/groups/default/keys/user:42";
const VALUE: &[u8] = &[b'x'; 100];
const ROUNDS: usize = 5;
const ROUND_SECONDS: &str = "4s";
const START_TIME_MAX: Duration = Duration::from_secs(10);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let bare = listener.local_addr().unwrap();
    let handler = Router::new().route(PATH, get(|| async { Bytes::from_static(VALUE) }));
    runtime.spawn(async { axum::serve(listener, handler).await });
    let daemon = Daemon::start();
    daemon.put();

    let mut of_bare = || gets_per_second(bare);
    let mut of_daemon = || gets_per_second(daemon.listen);
    let spreads = interleave(ROUNDS, &mut [("bare axum handler", &mut of_bare), ("larder hit", &mut of_daemon)]);

    let len = VALUE.len();
    println!("gets/s under wrk -t1 -c64, {len} B, median of {ROUNDS} rounds of {ROUND_SECONDS} (least to greatest)");
    spreads.iter().for_each(|spread| println!("{spread}"));
    println!("ratio {:.2}", spreads[1].median / spreads[0].median);
}

/// One round of `wrk`.
fn gets_per_second(server: SocketAddr) -> f64 {
    let url = format!("http://{server}{PATH}");
    let output = Command::new("wrk").args(["-t1", "-c64", "-d", ROUND_SECONDS, &url]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    rate.and_then(|rate| rate.trim().parse().ok()).unwrap()
}

/// `larder serve` on free ports; dropping it ends it.
struct Daemon {
    process: Child,
    listen: SocketAddr,
}

impl Daemon {
    fn start() -> Self {
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(["serve", "--log", "warn", "--peer", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--listen"])
            .arg(listen.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, listen }
    }

    /// Puts the value, as soon as the daemon takes connections.
    fn put(&self) {
        let started = Instant::now();
        let mut stream = loop {
            match TcpStream::connect(self.listen) {
                Ok(stream) => break stream,
                Err(error) => assert!(started.elapsed() < START_TIME_MAX, "the daemon does not listen: {error}"),
            }
            thread::sleep(Duration::from_millis(10));
        };
        let len = VALUE.len();
        let head = format!("PUT {PATH} HTTP/1.1\r\nHost: larder\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n");
        stream.write_all(&[head.as_bytes(), VALUE].concat()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        drop(ended);
    }
}
