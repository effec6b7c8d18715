//! `node.data_dir`: what of a node outlives it.

use std::{fs, path::Path};

use larder::{
    SystemClock, Version,
    origin::{
        journal::{Journal, JournalConfig, path_in},
        storage::DiskStorage,
    },
};
use larder_core::{Clock, version::Reading};

use crate::{client::put_key, lifecycle::refused, process::Daemon};

/// A node that writes through to `folder/origin` and keeps what must survive in `folder/data`.
pub(crate) fn config(folder: &Path) -> String {
    let (data_dir, origin) = (folder.join("data"), folder.join("origin"));
    fs::create_dir_all(&origin).unwrap();
    format!(
        "[node]\nname = 'a'\nlisten = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\npeer = '127.0.0.1:0'\ndata_dir = {data_dir:?}\n\
         [groups.g]\nwrite = 'through'\n[groups.g.origin]\nkind = 'directory'\npath = {origin:?}\n"
    )
}

async fn put(daemon: &Daemon, value: &str) -> Version {
    let answer = daemon.ask(put_key("k", value.to_owned())).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    answer.header("etag").trim_matches('"').parse().unwrap()
}

pub(crate) async fn journal(folder: &Path) -> Journal {
    let storage = DiskStorage::new(path_in(folder.join("data")));
    Journal::open(storage, JournalConfig::default(), SystemClock).await.unwrap()
}

/// Up to where the clock of a node that is gone is reserved.
async fn floor(folder: &Path) -> Reading {
    let journal = journal(folder).await;
    let floor = journal.clock_floor();
    // Else the file may be open for a moment longer.
    journal.close().await;
    floor
}

/// Rule V2: as if the wall clock had been turned back while the node was down, by less than other nodes bear.
#[tokio::test]
async fn a_node_whose_wall_clock_was_turned_back_goes_on_above_what_it_gave() {
    let folder = tempfile::tempdir().unwrap();
    let ahead_ms = SystemClock.wall_ms() + 40_000;
    let earlier = Reading::from_bits(ahead_ms << 16 | 7);
    let before = journal(folder.path()).await;
    before.reserve_clock(earlier).await.unwrap();
    before.close().await;
    let mut last = Version::new(earlier, u32::MAX);
    for value in ["one", "two", "three", "four"] {
        let mut daemon = Daemon::start(&config(folder.path())).await;
        let version = put(&daemon, value).await;
        assert!(version > last, "{version} after {last}");
        last = version;
        daemon.kill();
        let floor = floor(folder.path()).await;
        assert!(floor >= version.reading(), "{version} went out and only {floor:?} is reserved");
    }
    let drift_ms = last.reading().wall_ms() - ahead_ms;
    assert!(drift_ms < 10_000, "each start takes it {drift_ms} ms further from the wall");
}

#[tokio::test]
async fn a_node_that_ends_well_lets_go_of_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut last = Version::ZERO;
    for _ in 0..2 {
        let daemon = Daemon::start(&config(folder.path())).await;
        let version = put(&daemon, "value").await;
        assert!(version > last);
        last = version;
        assert_eq!(daemon.post_admin("/v1/drain").await.status, 202);
        assert_eq!(daemon.exit_code().await, Some(0), "{}", daemon.stderr());
    }
    assert!(floor(folder.path()).await >= last.reading());
}

/// The one sentence that a node ends with that can't start.
async fn sentence(config: String) -> String {
    let output = tokio::task::spawn_blocking(move || refused(&config)).await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
    stderr
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let daemon = Daemon::start(&config).await;
    let told = sentence(config.clone()).await;
    assert!(told.contains("node.data_dir") && told.contains("is open in another process"), "{told}");
    assert!(put(&daemon, "value").await > Version::ZERO, "the first goes on");
    drop(daemon);

    fs::write(path_in(folder.path().join("data")), "something else").unwrap();
    let told = sentence(config.clone()).await;
    assert!(
        told.contains("node.data_dir") && told.contains("is damaged") && told.contains("larder journal check"),
        "{told}"
    );

    fs::remove_dir_all(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data"), "a file").unwrap();
    let told = sentence(config).await;
    assert!(told.contains("node.data_dir") && told.contains("can't be opened"), "{told}");
}

/// Nobody who only reads needs a disk.
#[tokio::test]
async fn a_node_that_writes_to_no_origin_makes_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path()).replace("'through'", "'none'");
    let daemon = Daemon::start(&config).await;
    assert_eq!(daemon.ready().await, 200);
    assert!(!folder.path().join("data").exists());
}
