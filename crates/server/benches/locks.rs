//! Locks by each service beside what people do with that service without Larder: loops of `etcdctl lock` and of `redis-cli`.
//!
//! `cargo xtask bench locks`, or `cargo bench --package larder-server --bench locks -- SERVICE…` for some of `cluster`, `etcd`, `consul` and
//! `redis`. A turn is from when a contender wants the lock until it has freed it, with nothing done in between. Each way to take turns has the
//! same contenders, over the same server; ways alternate, and what is printed is of all rounds together. Ways that start a process for
//! each turn are marked: of their turn, starting it is the most.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark")]

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use larder::{
    SystemClock,
    cluster::{
        ConsulConfig, EtcdConfig,
        locks::{CONSUL_SESSION_TTL_MIN, ConsulLocks, EtcdLocks, RedisConfig, RedisLocks},
        testing::{ConsulServer, EtcdServer, RedisServer, Server},
    },
    core::Locks,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const CONTENDERS: [usize; 2] = [1, 9];
const TTL: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_secs(60);
const START_TIME_MAX: Duration = Duration::from_secs(30);
const NAME: &str = "bench";

/// What is measured, and its name.
type Part = (&'static str, fn(&Runtime));

/// One turn after the other.
type Turn<'a> = Box<dyn Fn() + Send + Sync + 'a>;

struct Way<'a> {
    name: &'static str,
    turn: Turn<'a>,
}

fn main() {
    let asked: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let parts: [Part; 4] = [("cluster", cluster), ("etcd", etcd), ("consul", consul), ("redis", redis)];
    println!("turns of a lock, {ROUNDS} rounds of {} s a way; * starts a process for each turn", ROUND.as_secs());
    for (name, part) in parts {
        if asked.is_empty() || asked.iter().any(|asked| asked == name) {
            part(&runtime);
        }
    }
}

fn cluster(_runtime: &Runtime) {
    let daemon = Daemon::start("");
    compare("cluster, one node", &[daemon.way()]);
}

fn etcd(runtime: &Runtime) {
    let server = EtcdServer::start();
    let url = server.url();
    let daemon = Daemon::start(&format!("locks = \"etcd\"\netcd = [{url:?}]"));
    let service = EtcdLocks::new(EtcdConfig::new([url.clone()]), SystemClock, 1).unwrap();
    let etcdctl = move || {
        let mut command = Command::new("etcdctl");
        ended(command.env("ETCDCTL_API", "3").args(["--endpoints", &url, "lock", "plain", "true"]));
    };
    let plain = Way { name: "etcdctl lock *", turn: Box::new(etcdctl) };
    compare("etcd", &[guards(runtime, Locks::new(service, SystemClock)), daemon.way(), plain]);
}

fn consul(runtime: &Runtime) {
    let server = ConsulServer::start();
    let url = server.url();
    let daemon = Daemon::start(&format!("locks = \"consul\"\nconsul = {url:?}"));
    let service = ConsulLocks::new(ConsulConfig::new(url), CONSUL_SESSION_TTL_MIN, SystemClock, 1).unwrap();
    compare("Consul", &[guards(runtime, Locks::new(service, SystemClock)), daemon.way()]);
}

fn redis(runtime: &Runtime) {
    let server = RedisServer::start();
    let url = server.url();
    let daemon = Daemon::start(&format!("locks = \"redis\"\nredis = {url:?}"));
    let _enters = runtime.enter();
    let service = RedisLocks::new(RedisConfig::new(url), SystemClock, 1).unwrap();
    let cli = format!("redis-cli -h {} -p {}", server.address().ip(), server.address().port());
    let script = format!(
        "until [ \"$({cli} SET plain $$ NX PX {})\" = OK ]; do sleep 0.01; done; {cli} DEL plain > /dev/null",
        TTL.as_millis()
    );
    let plain =
        Way { name: "redis-cli loop *", turn: Box::new(move || ended(Command::new("sh").args(["-c", &script]))) };
    compare("Redis, each write synced", &[guards(runtime, Locks::new(service, SystemClock)), daemon.way(), plain]);
}

/// Guards in this process.
fn guards(runtime: &Runtime, locks: Locks) -> Way<'_> {
    let turn = move || {
        runtime.block_on(async {
            let guard = locks.lock(NAME).ttl(TTL).wait(WAIT).acquire().await.unwrap();
            assert!(guard.release().await.unwrap());
        });
    };
    Way { name: "guards", turn: Box::new(turn) }
}

/// A daemon that keeps its locks by somebody.
struct Daemon {
    child: Child,
    clients: String,
    _folder: TempDir,
}

impl Daemon {
    fn start(cluster: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--peer", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        for line in cluster.lines() {
            command.args(["--set", &format!("cluster.{}", line.replace(" = ", "="))]);
        }
        let folder = tempfile::tempdir().unwrap();
        command.args(["--set", &format!("node.data_dir={}", folder.path().display())]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let clients =
            lines.map(Result::unwrap).find_map(|line| Some(line.trim().strip_prefix("clients")?.trim().to_owned()));
        let daemon = Self { child, clients: clients.unwrap(), _folder: folder };
        // Who keeps the locks may not be up yet.
        let until = Instant::now() + START_TIME_MAX;
        while !daemon.lock(&["--wait", "0s"]).status().unwrap().success() {
            assert!(Instant::now() < until, "no lock is to be had");
            thread::sleep(Duration::from_millis(50));
        }
        daemon
    }

    fn lock(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.args(["lock", NAME, "--node", &self.clients]).args(flags).args(["--", "true"]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn way(&self) -> Way<'_> {
        Way { name: "larder lock *", turn: Box::new(|| ended(&mut self.lock(&["--wait", "60s"]))) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ended(command: &mut Command) {
    assert!(command.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap().success(), "{command:?}");
}

/// Has each way take turns, and prints what came of it.
fn compare(service: &str, ways: &[Way<'_>]) {
    println!("\n{service:<26} contenders    turns/s    p50 ms    p99 ms    max ms");
    for contenders in CONTENDERS {
        let mut taken = vec![(0.0, Vec::new()); ways.len()];
        for _ in 0..ROUNDS {
            for (way, (rate, times)) in ways.iter().zip(&mut taken) {
                let begun = Instant::now();
                let more = round(&way.turn, contenders, begun + ROUND);
                *rate += more.len() as f64 / begun.elapsed().as_secs_f64() / ROUNDS as f64;
                times.extend(more);
            }
        }
        for (way, (rate, mut times)) in ways.iter().zip(taken) {
            times.sort();
            let at = |share: f64| ms(times[((times.len() - 1) as f64 * share) as usize]);
            let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
            println!("  {:<24} {contenders:>10} {rate:>10.1} {p50:>9.2} {p99:>9.2} {max:>9.2}", way.name);
        }
    }
}

/// How long each turn took, of this many contenders.
fn round(turn: &Turn<'_>, contenders: usize, until: Instant) -> Vec<Duration> {
    let contend = || {
        let mut times = Vec::new();
        while Instant::now() < until {
            let begun = Instant::now();
            turn();
            times.push(begun.elapsed());
        }
        times
    };
    thread::scope(|scope| {
        let contenders: Vec<_> = (0..contenders).map(|_| scope.spawn(contend)).collect();
        contenders.into_iter().flat_map(|contender| contender.join().unwrap()).collect()
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
