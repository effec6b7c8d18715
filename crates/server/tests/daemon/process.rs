//! A daemon: `larder serve` as a process of its own, that signals reach and that can die.

use std::{
    fs,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use http::{Method, Request};
use http_body_util::Full;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::unix::pipe::Receiver,
};

use crate::client::{Answer, Broken, ask, get, request, within};

/// How long a daemon may take to serve: far longer than it does, for machines that do much else.
const START_TIME_MAX: Duration = Duration::from_secs(30);

/// How often a state that nothing announces is looked at.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What its configuration is called.
const CONFIG: &str = "larder.toml";

/// The program.
pub(crate) fn larder() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.env_remove("LARDER_NODE").env_remove("LARDER_ADMIN").env_remove("LARDER_LOG").stdin(Stdio::null());
    command
}

/// A running daemon. It is killed when this is dropped; if a test fails then, what it said on stderr is shown.
pub(crate) struct Daemon {
    pub(crate) clients: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Where it speaks gRPC, if it does.
    pub(crate) peers: Option<SocketAddr>,
    /// Where it gossips, if it does.
    pub(crate) gossip: Option<SocketAddr>,
    child: Child,
    folder: TempDir,
}

impl Daemon {
    /// A daemon with this configuration, once it is ready.
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_flagged(config, &[]).await
    }

    /// A daemon with this configuration and these flags, once it is ready.
    pub(crate) async fn start_flagged(config: &str, flags: &[&str]) -> Self {
        let daemon = Self::start_flagged_unready(config, flags).await;
        daemon.comes_ready().await;
        daemon
    }

    /// A daemon with this configuration, once it serves.
    pub(crate) async fn start_unready(config: &str) -> Self {
        Self::start_flagged_unready(config, &[]).await
    }

    /// A daemon with this configuration and these variables in its environment, once it is ready.
    pub(crate) async fn start_with_env(config: &str, envs: &[(&str, &str)]) -> Self {
        let (folder, path) = folder_of(config);
        let daemon =
            Self::start_as(folder, larder().args(["serve", "--config", &path]).envs(envs.iter().copied())).await;
        daemon.comes_ready().await;
        daemon
    }

    async fn start_flagged_unready(config: &str, flags: &[&str]) -> Self {
        let (folder, path) = folder_of(config);
        Self::start_in(folder, &[&["--config", &path], flags].concat()).await
    }

    /// The same daemon, killed and started again in its folder with this configuration.
    pub(crate) async fn killed_and_started(mut self, config: &str) -> Self {
        self.kill();
        self.rewrite(config);
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        let path = folder.path().join(CONFIG).to_str().unwrap().to_owned();
        Self::start_in(folder, &["--config", &path]).await
    }

    /// A file in its folder, which is where it runs.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A daemon with these flags, once it is ready.
    pub(crate) async fn start_with(args: &[&str]) -> Self {
        let daemon = Self::start_in(tempfile::tempdir().unwrap(), args).await;
        daemon.comes_ready().await;
        daemon
    }

    /// A daemon without a configuration: a plain cache.
    pub(crate) async fn plain() -> Self {
        Self::start_with(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--peer", "127.0.0.1:0"]).await
    }

    async fn start_in(folder: TempDir, args: &[&str]) -> Self {
        Self::start_as(folder, larder().arg("serve").args(args)).await
    }

    async fn start_as(folder: TempDir, command: &mut Command) -> Self {
        let stderr = fs::File::create(stderr_in(&folder)).unwrap();
        let mut child =
            command.current_dir(folder.path()).stdout(Stdio::piped()).stderr(Stdio::from(stderr)).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        // From here on whatever fails ends the process.
        let mut daemon = Self { clients: nowhere, admin: nowhere, peers: None, gossip: None, child, folder };
        within(START_TIME_MAX, "its start", async {
            (daemon.clients, daemon.peers, daemon.gossip, daemon.admin) = announced(stdout).await;
        })
        .await;
        daemon
    }

    /// Waits until it is ready.
    pub(crate) async fn comes_ready(&self) {
        within(START_TIME_MAX, "its start", async {
            while self.ready().await != 200 {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        })
        .await;
    }

    /// What `/readyz` answers.
    pub(crate) async fn ready(&self) -> u16 {
        self.ask_admin("/readyz").await.status
    }

    /// What the admin listener has at a path.
    pub(crate) async fn ask_admin(&self, path: &str) -> Answer {
        ask(self.admin, get(path)).await.unwrap()
    }

    /// What an operator's order is answered.
    pub(crate) async fn post_admin(&self, path: &str) -> Answer {
        ask(self.admin, request(Method::POST, path, &[], "")).await.unwrap()
    }

    /// Puts this into its configuration's place, which it reads when it is told to.
    pub(crate) fn rewrite(&self, config: &str) {
        fs::write(self.folder.path().join(CONFIG), config).unwrap();
    }

    /// The answer to a client.
    pub(crate) async fn ask(&self, request: Request<Full<bytes::Bytes>>) -> Answer {
        self.try_ask(request).await.unwrap()
    }

    /// The answer to a client, if the daemon lives long enough to give it.
    pub(crate) async fn try_ask(&self, request: Request<Full<bytes::Bytes>>) -> Result<Answer, Broken> {
        ask(self.clients, request).await
    }

    /// The sum of a metric over all its labels.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let metrics = self.ask_admin("/metrics").await;
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let values = metrics.text().lines().filter(of_name).map(|line| line.rsplit(' ').next().unwrap());
        values.map(|value| value.parse::<f64>().unwrap() as u64).sum()
    }

    /// The resident memory of the process, in bytes, without the pages of its program, of which a build for tests has many.
    pub(crate) fn resident_bytes(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end and gives its exit code; `None` if a signal ended it.
    pub(crate) async fn exit_code(&self) -> Option<i32> {
        let pid = self.pid();
        // It stays a zombie until this is dropped, so that its number can't be another process's before that.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let ended = tokio::task::spawn_blocking(move || waitid(WaitId::Pid(pid), options)).await.unwrap();
        ended.unwrap().unwrap().exit_status()
    }

    /// What it has said on stderr.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(stderr_in(&self.folder)).unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Neither can fail in a way that leaves a process behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("── the daemon at {} said ──\n{}", self.clients, self.stderr());
        }
    }
}

/// A folder with this configuration in it, and where that is.
fn folder_of(config: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(CONFIG);
    fs::write(&path, config).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

fn stderr_in(folder: &TempDir) -> impl AsRef<Path> + use<> {
    folder.path().join("stderr")
}

/// The addresses that a daemon prints when it serves: those for clients, for other nodes, for gossip, and for administration.
async fn announced(stdout: ChildStdout) -> (SocketAddr, Option<SocketAddr>, Option<SocketAddr>, SocketAddr) {
    let mut lines = BufReader::new(Receiver::from_owned_fd(OwnedFd::from(stdout)).unwrap()).lines();
    let (mut clients, mut peers, mut gossip) = (None, None, None);
    loop {
        let line = lines.next_line().await.unwrap().expect("it ended before it served");
        let Some((listener, address)) = line.trim().split_once(' ') else { continue };
        let address = address.trim().trim_start_matches("http://").parse();
        match listener {
            "clients" => clients = address.ok(),
            "peers" => peers = address.ok(),
            "gossip" => gossip = address.ok(),
            // The last one.
            "admin" => return (clients.unwrap(), peers, gossip, address.unwrap()),
            _ => {}
        }
    }
}
