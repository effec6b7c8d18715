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

use crate::{
    client::put_key,
    cluster::{Cluster, Over},
    lifecycle::refused,
    locks::{PATIENCE, granted, is_up, take},
    process::Daemon,
};

/// So many that each of two nodes keeps some.
const LOCKS_LEN: usize = 12;

/// From when on the milliseconds of fences count: the start of 2025.
const FENCES_BEGIN_MS: u64 = 1_735_689_600_000;

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
    journal_in(&folder.join("data")).await
}

/// The journal in a data folder.
async fn journal_in(data_dir: &Path) -> Journal {
    let storage = DiskStorage::new(path_in(data_dir));
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

/// The same of locks: the fences of what was granted before are smaller, whoever owns the lock by now.
#[tokio::test]
async fn nodes_whose_wall_clocks_were_turned_back_go_on_above_the_fences_that_they_gave() {
    let folder = tempfile::tempdir().unwrap();
    let ahead_ms = SystemClock.wall_ms() + 40_000;
    for name in ["a", "b"] {
        let before = journal_in(&folder.path().join(name)).await;
        before.reserve_clock(Reading::from_bits(ahead_ms << 16 | 7)).await.unwrap();
        before.close().await;
    }
    // The greatest that an earlier run can have given.
    let mut fences = [(ahead_ms - FENCES_BEGIN_MS) * 4_096 - 1; LOCKS_LEN];
    for _ in 0..3 {
        // Nobody has to wait for what may be held from before: it is said to be long ago.
        let cluster = Cluster::with_data_flagged(Over::Grpc, 2, "", folder.path(), &["--first-start"]).await;
        is_up(&cluster[0]).await;
        for (number, last) in fences.iter_mut().enumerate() {
            let taken = cluster[number % 2].ask(take(&format!("lock/{number}"), PATIENCE, PATIENCE)).await;
            let (_, fence) = granted(&taken);
            assert!(fence > *last, "{fence} after {last}");
            *last = fence;
        }
    }
}

/// Nobody needs a disk who is not told of one and only reads.
#[tokio::test]
async fn a_node_that_writes_to_no_origin_makes_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path()).replace("'through'", "'none'").replace("data_dir", "# data_dir");
    let daemon = Daemon::start(&config).await;
    assert_eq!(daemon.ready().await, 200);
    assert!(!folder.path().join("data").exists());
}
