//! Write-behind of three nodes: a write is on two disks, and goes on through the deaths of nodes.

use std::{collections::HashMap, process::Output, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    client::{get_key, put_key},
    cluster::{Cluster, Over},
    process::{Daemon, POLL_INTERVAL, larder},
    sink::{Mood, Sink},
};

/// How long something may take that has to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Three nodes that write behind to an origin that is away, and where they keep what must survive.
async fn three(settings: &str) -> (Cluster, Arc<Sink>, TempDir) {
    let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::start().await);
    sink.be(Mood::Failing);
    let cluster = Cluster::with_data(Over::Grpc, 3, &sink.group(settings), folder.path()).await;
    (cluster, sink, folder)
}

/// Puts a key at some node that takes it, now or in a moment.
pub(crate) async fn put(node: &Daemon, key: &str, value: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = node.ask(put_key(key, value.to_owned())).await;
        match answer.status {
            204 => return,
            // It may be done or not, and is done again.
            503 | 504 if Instant::now() < until => tokio::time::sleep(POLL_INTERVAL).await,
            _ => panic!("{key}: {answer:?}"),
        }
    }
}

/// Waits until a node answers for a key, and says what.
pub(crate) async fn got(node: &Daemon, key: &str) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = node.ask(get_key(key)).await;
        if answer.status == 200 {
            return answer.text().to_owned();
        }
        assert!(Instant::now() < until, "{key}: {answer:?}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

pub(crate) async fn takeover(node: &Daemon) -> Output {
    let mut command = larder();
    command.args(["takeover", "--admin", &node.admin.to_string()]);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

pub(crate) fn has_all(keys: &[String], value: &str) -> impl Fn(&HashMap<String, String>) -> bool {
    let (keys, value) = (keys.to_vec(), value.to_owned());
    move |rows| keys.iter().all(|key| rows.get(key) == Some(&value))
}

/// Rules B1 and B4.
#[tokio::test]
async fn what_was_acknowledged_reaches_the_origin_though_its_owner_was_killed() {
    let (mut cluster, sink, _folder) = three("write_delay = '10ms'").await;
    let keys = cluster.keys_of(1, "k", 5).await;
    for key in &keys {
        put(&cluster[0], key, "v").await;
    }
    cluster[1].kill();
    // Nobody else may have all that was written, and the origin has none of it.
    let answer = cluster[0].ask(get_key(&keys[0])).await;
    assert!(answer.status == 503 || (answer.status, answer.text()) == (200, "v"), "{answer:?}");
    cluster.restart_unready(1).await;
    for key in &keys {
        assert_eq!(got(&cluster[0], key).await, "v");
    }
    sink.be(Mood::Well);
    sink.comes_to("what the dead node acknowledged", has_all(&keys, "v")).await;
    sink.assert_in_order();
}

#[tokio::test]
async fn a_takeover_says_what_it_gives_up() {
    let (cluster, _sink, _folder) = three("write_delay = '10ms'").await;
    put(&cluster[0], "k", "v").await;
    let told = takeover(&cluster[0]).await;
    let sentence = String::from_utf8(told.stdout).unwrap();
    assert!(told.status.success() && sentence.lines().count() == 1, "{sentence}");
    assert!(sentence.contains("nothing is given up"), "all three are there: {sentence}");
}
