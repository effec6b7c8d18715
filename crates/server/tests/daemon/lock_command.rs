//! `larder lock`, from the outside: what it runs, what it hands on, how it ends, and that what it runs is gone before another has the lock.

use std::{
    fs,
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use larder::{
    cluster::testing::{ConsulServer, EtcdServer, RedisServer, Server},
    core::testing::needs::needs,
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    net::unix::pipe::Receiver,
    task::spawn_blocking,
    time::sleep,
};

use crate::{
    client::within,
    cluster::Port,
    locks::{Keeper, PATIENCE, by_each_keeper, free, granted, nodes, take},
    process::{Daemon, POLL_INTERVAL, larder},
};

/// A `larder lock` that runs. It is killed when this is dropped; what it runs ends by itself, as every script here does.
struct Locker {
    child: Child,
    lines: Lines<BufReader<Receiver>>,
}

impl Locker {
    fn start(node: &Daemon, flags: &[&str], script: &str) -> Self {
        let node = format!("http://{}", node.clients);
        let mut command = larder();
        command.args(["lock", "job", "--node", &node]).args(flags).args(["--", "sh", "-c", script]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = OwnedFd::from(child.stdout.take().unwrap());
        Self { child, lines: BufReader::new(Receiver::from_owned_fd(stdout).unwrap()).lines() }
    }

    /// The next line that the command writes.
    async fn line(&mut self) -> String {
        within(PATIENCE, "a line", self.lines.next_line()).await.unwrap().expect("it has ended")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit code, and what it said on stderr. Shells have their say there too, of what was ended.
    async fn ended(self) -> (Option<i32>, String) {
        let (sender, ended) = tokio::sync::oneshot::channel();
        spawn_blocking(move || {
            use std::io::Read;

            let (mut locker, mut stderr) = (self, String::new());
            let read = locker.child.stderr.take().unwrap().read_to_string(&mut stderr);
            let status = locker.child.wait().unwrap();
            read.unwrap();
            let said: String = stderr.split_inclusive('\n').filter(|line| line.starts_with("larder: ")).collect();
            drop(sender.send((status.code(), said)));
        });
        within(PATIENCE, "its end", ended).await.unwrap()
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Goes on for a minute, unless it is ended.
const LOOP: &str = "for i in $(seq 1200); do sleep 0.05; done";

/// A node, and the Redis that keeps its locks. None where there is no Redis.
async fn with_redis() -> Option<(RedisServer, Daemon)> {
    if !needs("redis") {
        return None;
    }
    let redis = <RedisServer as Keeper>::start();
    let [node] = nodes(&redis).await;
    Some((redis, node))
}

async fn is_free(node: &Daemon) {
    let (token, _) = granted(&node.ask(take("job", Duration::from_secs(10), Duration::ZERO)).await);
    assert_eq!(node.ask(free("job", &token)).await.status, 204);
}

#[tokio::test]
async fn a_command_runs_with_the_fence_and_its_code_is_the_commands() {
    let Some((_redis, node)) = with_redis().await else { return };
    let mut last = 0;
    for (script, code) in
        [("true", 0), ("exit 7", 7), ("exit 255", 255), ("kill -KILL $$", 137), ("kill -TERM $$", 143)]
    {
        let mut locker = Locker::start(&node, &[], &format!("echo $LARDER_FENCE; {script}"));
        let fence: u64 = locker.line().await.parse().unwrap();
        assert!(fence > last && fence < 1 << 53, "{fence} after {last}");
        last = fence;
        assert_eq!(locker.ended().await, (Some(code), String::new()), "{script}");
        is_free(&node).await;
    }
    let missing = Locker::start(&node, &[], "exec /no/such/program").ended().await;
    assert_eq!(missing.0, Some(127), "sh says so");
    is_free(&node).await;
}

#[tokio::test]
async fn arguments_go_on_as_they_are_and_stdin_too() {
    let Some((_redis, node)) = with_redis().await else { return };
    let url = format!("http://{}", node.clients);
    let output = spawn_blocking(move || {
        let mut command = larder();
        command
            .args(["lock", "a/b ü", "--node", &url, "--", "printf", "%s,", "a b", "$HOME", "--wait"])
            .output()
            .unwrap()
    });
    assert_eq!(output.await.unwrap().stdout, b"a b,$HOME,--wait,");
    let url = format!("http://{}", node.clients);
    let output = spawn_blocking(move || {
        use std::io::Write;

        let mut command = larder();
        command.args(["lock", "job", "--node", &url, "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"from outside").unwrap();
        child.wait_with_output().unwrap()
    });
    assert_eq!(output.await.unwrap().stdout, b"from outside");
}

#[tokio::test]
async fn who_does_not_get_the_lock_says_why_and_has_a_code_of_its_own() {
    let Some((mut redis, node)) = with_redis().await else { return };
    let mut holder = Locker::start(&node, &[], &format!("echo ready; {LOOP}"));
    assert_eq!(holder.line().await, "ready");
    let never = "echo ran";
    let (code, said) = Locker::start(&node, &["--wait", "0s"], never).ended().await;
    assert_eq!((code, said.lines().count()), (Some(5), 1), "{said}");
    for flags in [["--ttl", "0s"], ["--ttl", "61s"], ["--wait", "1h"], ["--ttl", "soon"]] {
        assert_eq!(Locker::start(&node, &flags, never).ended().await.0, Some(2), "{flags:?}");
    }
    for args in [&["lock", "job"][..], &["lock", "", "--", "true"], &["lock", "job", "true"]] {
        let mut command = larder();
        command.args(args);
        assert_eq!(spawn_blocking(move || command.output().unwrap()).await.unwrap().status.code(), Some(2), "{args:?}");
    }
    let nobody = Port::take();
    let url = nobody.address().to_string();
    let mut command = larder();
    command.args(["lock", "job", "--node", &url, "--", "true"]);
    let output = spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).lines().count()), (Some(4), 1));
    let waiting = Locker::start(&node, &["--wait", "60s"], never);
    holder.signal(Signal::TERM);
    assert_eq!(holder.ended().await.0, Some(143));
    assert_eq!(waiting.ended().await, (Some(0), String::new()));
    redis.kill();
    let (code, said) = Locker::start(&node, &["--wait", "300ms"], never).ended().await;
    assert_eq!((code, said.lines().count()), (Some(5), 1), "{said}");
}

#[tokio::test]
async fn signals_reach_the_command_and_what_it_has_started() {
    let Some((_redis, node)) = with_redis().await else { return };
    for (signal, name) in [(Signal::HUP, "HUP"), (Signal::INT, "INT"), (Signal::TERM, "TERM"), (Signal::USR1, "USR1")] {
        let trap = format!("trap 'echo {name}; exit 9' {name}; echo ready; {LOOP}");
        let mut locker = Locker::start(&node, &[], &trap);
        assert_eq!(locker.line().await, "ready");
        locker.signal(signal);
        assert_eq!(locker.line().await, name);
        assert_eq!(locker.ended().await, (Some(9), String::new()));
    }
    // The shell waits for what it started, and hears of nothing before that has ended.
    let mut locker = Locker::start(&node, &[], "trap 'exit 8' TERM; sh -c 'echo ready; exec sleep 90'; exit 1");
    assert_eq!(locker.line().await, "ready");
    locker.signal(Signal::TERM);
    assert_eq!(locker.ended().await.0, Some(8));
    is_free(&node).await;
}

#[tokio::test]
async fn who_is_told_to_stop_while_it_waits_holds_nothing() {
    let Some((_redis, node)) = with_redis().await else { return };
    let (token, _) = granted(&node.ask(take("job", Duration::from_secs(60), Duration::ZERO)).await);
    let waiting = Locker::start(&node, &["--wait", "60s"], "echo ran");
    // Whoever comes after it waits behind it.
    let behind = node.ask(take("job", Duration::from_secs(10), Duration::from_millis(500))).await;
    assert_eq!(behind.status, 409);
    waiting.signal(Signal::INT);
    assert_eq!(waiting.ended().await, (Some(130), String::new()));
    assert_eq!(node.ask(free("job", &token)).await.status, 204);
    is_free_soon(&node).await;
}

async fn is_free_soon(node: &Daemon) {
    let (token, _) = granted(&node.ask(take("job", Duration::from_secs(10), Duration::from_secs(20))).await);
    assert_eq!(node.ask(free("job", &token)).await.status, 204);
}

#[tokio::test]
async fn a_lock_that_was_taken_away_ends_the_command() {
    let Some((redis, node)) = with_redis().await else { return };
    let flags = ["--ttl", "1s"];
    let lost = |said: &str| said.lines().count() == 1 && said.contains("the lock \"job\" is lost");
    let mut locker = Locker::start(&node, &flags, &format!("trap 'echo TERM; exit 0' TERM; echo ready; {LOOP}"));
    assert_eq!(locker.line().await, "ready");
    assert_eq!(redis.cli(&["DEL", "larder:lock:job"]).trim(), "1");
    assert_eq!(locker.line().await, "TERM");
    let (code, said) = locker.ended().await;
    assert!(code == Some(1) && lost(&said), "it did not end well: {code:?} {said}");

    // Who won't go is made to, and what it started.
    let mut locker = Locker::start(&node, &flags, &format!("trap '' TERM; echo ready; ({LOOP}) & wait"));
    assert_eq!(locker.line().await, "ready");
    assert_eq!(redis.cli(&["DEL", "larder:lock:job"]).trim(), "1");
    let (code, said) = locker.ended().await;
    assert!(code == Some(137) && lost(&said), "{code:?} {said}");
}

by_each_keeper!(
    what_a_holder_runs_that_stood_still_is_refused_and_ended,
    what_can_not_be_renewed_is_gone_before_the_next_begins
);

/// What has a script not mind being told to stop.
const STUBBORN: &str = "trap '' TERM";

/// Writes its fence again and again.
fn writes(path: &Path) -> String {
    let path = path.display();
    format!("for i in $(seq 3000); do echo $LARDER_FENCE >> {path}; sleep 0.02; done")
}

/// Waits until somebody has written who wrote not before, and gives all that was written.
async fn wrote(path: &Path, fences_len: usize) -> Vec<u64> {
    within(PATIENCE, "a write", async {
        loop {
            let text = fs::read_to_string(path).unwrap_or_default();
            // The last line may be half written.
            let written: Vec<u64> =
                text.rsplit_once('\n').map_or("", |(whole, _)| whole).lines().map(|it| it.parse().unwrap()).collect();
            let mut fences = written.clone();
            fences.sort_unstable();
            fences.dedup();
            if fences.len() >= fences_len {
                return written;
            }
            sleep(POLL_INTERVAL).await;
        }
    })
    .await
}

async fn what_a_holder_runs_that_stood_still_is_refused_and_ended(keeper: impl Keeper) {
    let [a, b] = nodes(&keeper).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resource");
    let flags = ["--ttl", "2s", "--wait", "60s"];
    let mut first = Locker::start(&a, &flags, &format!("{STUBBORN}; echo $$; {}", writes(&path)));
    let group = Pid::from_raw(first.line().await.parse().unwrap()).unwrap();
    wrote(&path, 1).await;
    first.signal(Signal::STOP);
    kill_process_group(group, Signal::STOP).unwrap();
    let second = Locker::start(&b, &flags, &writes(&path));
    wrote(&path, 2).await;
    first.signal(Signal::CONT);
    kill_process_group(group, Signal::CONT).unwrap();
    let (code, said) = first.ended().await;
    assert!(code == Some(137) && said.contains("is lost"), "{code:?} {said}");
    let written = wrote(&path, 2).await;
    // What comes late bears a smaller number, by which what is written to refuses it.
    let (old, new) = (written[0], *written.iter().max().unwrap());
    assert!(old < new && written.iter().all(|fence| [old, new].contains(fence)), "{written:?}");
    second.signal(Signal::TERM);
    assert_eq!(second.ended().await.0, Some(143));
}

async fn what_can_not_be_renewed_is_gone_before_the_next_begins(keeper: impl Keeper) {
    let [a, b] = nodes(&keeper).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resource");
    let flags = ["--ttl", "5s", "--wait", "60s"];
    let first = Locker::start(&a, &flags, &format!("{STUBBORN}; {}", writes(&path)));
    wrote(&path, 1).await;
    let second = Locker::start(&b, &flags, &writes(&path));
    a.signal(Signal::STOP);
    let (code, said) = first.ended().await;
    assert!(code == Some(137) && said.contains("can't be renewed"), "{code:?} {said}");
    let written = wrote(&path, 2).await;
    assert!(written.is_sorted(), "the first wrote after the second had begun: {written:?}");
    a.signal(Signal::CONT);
    second.signal(Signal::TERM);
    assert_eq!(second.ended().await.0, Some(143));
}
