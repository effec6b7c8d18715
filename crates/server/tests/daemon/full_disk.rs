//! A data folder on a disk that fills up, and on one that can't be synced: real ones, which root may mount.

use std::{
    collections::HashMap,
    ffi::CStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use larder_core::testing::needs::needs;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use tempfile::TempDir;

use crate::{
    client::{Answer, get_key, put_key, within},
    process::{Daemon, POLL_INTERVAL},
    sink::{Mood, Sink, metric_comes_to},
};

/// Little, but enough for a journal with some writes.
const DISK_LEN: &CStr = c"size=8m";

/// What somebody else has on the disk.
const BALLAST_LEN: usize = 3 << 20;

const VALUE_LEN: usize = 64 << 10;

/// Longer than it takes a node to look for room again, by far.
const PATIENCE: Duration = Duration::from_secs(30);

/// A small disk in memory.
struct Disk {
    folder: TempDir,
}

impl Disk {
    fn mount(len: &CStr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        mount("larder", folder.path(), "tmpfs", MountFlags::empty(), Some(len)).unwrap();
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has something open there keeps it until then.
        let _unmounted = unmount(self.path(), UnmountFlags::DETACH);
    }
}

fn config(disk: &Path, sink: &Sink) -> String {
    let (data_dir, group) = (disk.join("data"), sink.group("capacity = '256MiB'\nwrite_delay = '10ms'"));
    format!(
        "[node]\nname = 'a'\nlisten = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\npeer = '127.0.0.1:0'\ndata_dir = {data_dir:?}\n{group}"
    )
}

fn value(key: &str) -> String {
    format!("{key} {}", "x".repeat(VALUE_LEN))
}

/// Puts keys until the node does not take one; gives those that it took, and what it said then.
async fn fill(daemon: &Daemon, prefix: &str) -> (Vec<String>, Answer) {
    let mut taken = Vec::new();
    for number in 0..1000 {
        let key = format!("{prefix}{number}");
        let answer = daemon.ask(put_key(&key, value(&key))).await;
        if answer.status != 204 {
            return (taken, answer);
        }
        taken.push(key);
    }
    panic!("the disk has room for everything");
}

#[tokio::test]
async fn on_a_full_disk_writers_are_told_nothing_is_lost_and_with_room_it_goes_on() {
    if !needs("mount") {
        return;
    }
    let (disk, sink) = (Disk::mount(DISK_LEN), Sink::start().await);
    fs::write(disk.ballast(), vec![0; BALLAST_LEN]).unwrap();
    sink.be(Mood::Failing);
    let mut daemon = Daemon::start(&config(disk.path(), &sink)).await;

    let (mut taken, told) = fill(&daemon, "first").await;
    assert_eq!(told.problem(), (503, "overloaded".to_owned()));
    let detail = told.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("is full: make room") && !told.header("retry-after").is_empty(), "{told:?}");
    assert!(taken.len() > 4, "{taken:?}");
    // Reads go on.
    assert_eq!(daemon.ask(get_key(&taken[0])).await.text(), value(&taken[0]));

    fs::remove_file(disk.ballast()).unwrap();
    within(PATIENCE, "a write with room for it", async {
        while daemon.ask(put_key("again", value("again"))).await.status != 204 {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await;
    let (more, told) = fill(&daemon, "second").await;
    assert_eq!(told.problem(), (503, "overloaded".to_owned()));
    taken.extend(more);
    taken.push("again".to_owned());

    // Killed on a full disk, and started there.
    daemon.kill();
    let daemon = Daemon::start(&config(disk.path(), &sink)).await;
    sink.be(Mood::Well);
    let expected: HashMap<String, String> = taken.iter().map(|key| (key.clone(), value(key))).collect();
    sink.comes_to("all that was acknowledged", |rows| expected.iter().all(|(key, value)| rows.get(key) == Some(value)))
        .await;
    // What is flushed makes room by itself.
    metric_comes_to(&daemon, "larder_write_behind_pending", 0).await;
    assert_eq!(daemon.ask(put_key("last", value("last"))).await.status, 204);
}

/// A file system that believes to be larger than what is under it, so that what it took can't be brought to the disk.
struct Thin {
    under: Disk,
    folder: TempDir,
}

/// As much as the file system takes for itself, and a journal with some writes.
const UNDER_LEN: &CStr = c"size=4m";
const UNDER_LEN_LATER: &CStr = c"size=64m";

impl Thin {
    fn mount() -> Self {
        let (under, folder) = (Disk::mount(UNDER_LEN), tempfile::tempdir().unwrap());
        let image = under.path().join("image");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-O", "^has_journal", "-E", "nodiscard"]).arg(&image));
        let thin = Self { under, folder };
        thin.mount_again();
        thin
    }

    fn mount_again(&self) {
        let image = self.under.path().join("image");
        run(Command::new("mount").args(["-o", "loop,errors=continue"]).arg(image).arg(self.folder.path()));
    }

    /// What is under it has room from now on.
    fn make_room(&self) {
        mount_remount(self.under.path(), MountFlags::empty(), UNDER_LEN_LATER).unwrap();
    }
}

impl Drop for Thin {
    fn drop(&mut self) {
        let _unmounted = unmount(self.folder.path(), UnmountFlags::DETACH);
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn after_a_sync_that_failed_nothing_is_taken_until_the_node_is_started_again_and_nothing_is_lost() {
    if !needs("loop") {
        return;
    }
    let (disk, sink) = (Thin::mount(), Sink::start().await);
    sink.be(Mood::Failing);
    let config = config(disk.folder.path(), &sink);
    let mut daemon = Daemon::start(&config).await;
    let (taken, told) = fill(&daemon, "k").await;
    // It may be on the disk or not.
    assert_eq!(told.problem(), (504, "indeterminate".to_owned()));
    assert!(taken.len() > 4, "{taken:?}");

    disk.make_room();
    for number in 0..3 {
        let told = daemon.ask(put_key(format!("after{number}"), value("after"))).await;
        assert_eq!(told.problem(), (503, "overloaded".to_owned()));
        let detail = told.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("takes no writes until its disk is seen to"), "{detail}");
    }
    assert!(daemon.stderr().contains("takes no writes until its disk is seen to"), "{}", daemon.stderr());
    assert_eq!(daemon.ask(get_key(&taken[0])).await.text(), value(&taken[0]), "reads go on");

    // What the system holds in memory of the disk is forgotten too.
    daemon.kill();
    unmount(disk.folder.path(), UnmountFlags::empty()).unwrap();
    disk.mount_again();
    sink.be(Mood::Well);
    let daemon = Daemon::start(&config).await;
    let is_there = |rows: &HashMap<String, String>| taken.iter().all(|key| rows.get(key) == Some(&value(key)));
    sink.comes_to("all that was acknowledged", is_there).await;
    assert!(sink.made().iter().all(|made| !made.key.starts_with("after")), "what was refused was not written");
    assert_eq!(daemon.ask(put_key("last", value("last"))).await.status, 204);
    drop(daemon);
}
