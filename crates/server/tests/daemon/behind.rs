//! Write-behind of a node alone: what is acknowledged reaches the origin, through its own deaths and the origin's.

use std::{collections::HashMap, path::Path, time::Duration};

use tokio::time::interval;

use crate::{
    client::{delete_key, get_key, put_key, within},
    lifecycle::END_TIME_MAX,
    process::Daemon,
    sink::{Mood, Sink, metric_comes_to},
};

/// Far longer than anything here takes: nothing is flushed on its own.
const NEVER: &str = "write_delay = '1h'";

/// More than a time-out of the node takes that is told to end.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);

/// A node that keeps its journal in `folder` and writes to `sink`.
fn config(folder: &Path, sink: &Sink, settings: &str) -> String {
    let data_dir = folder.join("data");
    let group = sink.group(settings);
    format!(
        "[node]\nname = 'a'\nlisten = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\npeer = '127.0.0.1:0'\ndata_dir = {data_dir:?}\n\
         drain_timeout = '2s'\n{group}"
    )
}

async fn put(daemon: &Daemon, key: &str, value: impl Into<String>) {
    let answer = daemon.ask(put_key(key, value.into())).await;
    assert_eq!(answer.status, 204, "{answer:?}");
}

#[tokio::test]
async fn what_was_acknowledged_outlives_the_process_and_reaches_the_origin() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::start().await);
    sink.set("gone", "old");
    sink.be(Mood::Failing);
    let config = config(folder.path(), &sink, "write_delay = '10ms'\nhard_timeout = '1s'");
    let mut daemon = Daemon::start(&config).await;
    for number in 0..10 {
        put(&daemon, &format!("k{number}"), format!("v{number}")).await;
    }
    put(&daemon, "k0", "newer").await;
    assert_eq!(daemon.ask(delete_key("gone")).await.status, 204);
    assert_eq!(daemon.metric("larder_write_behind_pending").await, 12);
    for _ in 0..2 {
        daemon.kill();
        daemon = Daemon::start(&config).await;
        // Until it is flushed a write is the truth, whatever the origin says.
        assert_eq!(daemon.ask(get_key("k0")).await.text(), "newer");
        assert_eq!(daemon.ask(get_key("k9")).await.text(), "v9");
        assert_eq!(daemon.ask(get_key("gone")).await.problem(), (404, "not-found".to_owned()));
        assert!(sink.made().is_empty());
    }
    sink.be(Mood::Well);
    let all = |rows: &HashMap<String, String>| rows.len() == 10 && !rows.contains_key("gone");
    sink.comes_to("all that was acknowledged", all).await;
    assert_eq!((sink.row("k0").as_deref(), sink.row("gone")), (Some("newer"), None));
    metric_comes_to(&daemon, "larder_write_behind_pending", 0).await;
    assert_eq!(daemon.metric("larder_write_behind_oldest_seconds").await, 0);
    assert_eq!(daemon.ask(get_key("k0")).await.text(), "newer");
    sink.assert_in_order();
}

/// As a group does that says nothing of it.
#[tokio::test]
async fn changes_of_a_key_are_gathered_and_the_newest_is_made() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::start().await);
    let daemon = Daemon::start(&config(folder.path(), &sink, "")).await;
    let mut ticks = interval(Duration::from_millis(10));
    let writes = 200;
    for number in 0..writes {
        // A hundred writes a second.
        ticks.tick().await;
        put(&daemon, "k", number.to_string()).await;
    }
    sink.comes_to("the newest", |rows| rows.get("k").is_some_and(|value| *value == (writes - 1).to_string())).await;
    let made = sink.made().len();
    eprintln!("{made} writes of the origin for {writes} of a key at 100 a second");
    assert!(made < writes / 2, "{made} writes of the origin for {writes} that were acknowledged");
    sink.assert_in_order();
    assert_eq!(daemon.ask(delete_key("k")).await.status, 204);
    sink.comes_to("the delete", |rows| rows.is_empty()).await;
}

#[tokio::test]
async fn writers_are_told_while_the_origin_is_away_and_what_was_acknowledged_is_flushed_after() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::start().await);
    sink.be(Mood::Failing);
    let settings = "capacity = '4MiB'\nwrite_delay = '10ms'\norigin_concurrency = 4";
    let daemon = Daemon::start(&config(folder.path(), &sink, settings)).await;
    let value = "x".repeat(64 << 10);
    let mut acknowledged = Vec::new();
    let refusal = loop {
        let key = format!("k{}", acknowledged.len());
        let answer = daemon.ask(put_key(&key, value.clone())).await;
        match answer.status {
            204 => acknowledged.push(key),
            _ => break answer,
        }
        assert!(acknowledged.len() < 64, "a quarter of the capacity is the most");
    };
    assert_eq!(refusal.problem(), (503, "overloaded".to_owned()));
    assert!(!refusal.header("retry-after").is_empty() && acknowledged.len() > 8, "{refusal:?} {acknowledged:?}");
    sink.be(Mood::Well);
    let len = acknowledged.len();
    sink.comes_to("all that was acknowledged", |rows| rows.len() == len).await;
    assert!(acknowledged.iter().all(|key| sink.row(key).is_some()));
    put(&daemon, "more", "again").await;
}

#[tokio::test]
async fn what_is_refused_is_a_dead_letter_and_the_promise_ends_there() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::start().await);
    let daemon = Daemon::start(&config(folder.path(), &sink, "write_delay = '10ms'")).await;
    put(&daemon, "poison", "v").await;
    metric_comes_to(&daemon, "larder_dead_letters_total", 1).await;
    metric_comes_to(&daemon, "larder_write_behind_pending", 0).await;
    let letters = daemon.ask_admin("/v1/dead-letters").await.json();
    let letter = &letters["dead_letters"][0];
    assert!(letter["key"] == "poison" && letter["reason"].as_str().unwrap().contains("422"), "{letters}");
    // What the origin has counts again.
    assert_eq!(daemon.ask(get_key("poison")).await.problem(), (404, "not-found".to_owned()));
    assert!(daemon.stderr().contains("dead letter"), "{}", daemon.stderr());
}

#[tokio::test]
async fn a_node_that_drains_flushes_first() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::start().await);
    let daemon = Daemon::start(&config(folder.path(), &sink, NEVER)).await;
    for number in 0..20 {
        put(&daemon, &format!("k{number}"), "v").await;
    }
    assert!(sink.made().is_empty());
    assert_eq!(daemon.post_admin("/v1/drain").await.status, 202);
    assert_eq!(within(DRAIN_TIME_MAX, "its end", daemon.exit_code()).await, Some(0));
    assert_eq!(sink.made().len(), 20);
}

#[tokio::test]
async fn a_node_that_cannot_flush_ends_in_time_and_keeps_the_rest() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::start().await);
    let config = config(folder.path(), &sink, "write_delay = '10ms'\nhard_timeout = '1s'");
    let daemon = Daemon::start(&config).await;
    sink.be(Mood::Hanging);
    put(&daemon, "k", "v").await;
    assert_eq!(daemon.post_admin("/v1/drain").await.status, 202);
    let ended = within(DRAIN_TIME_MAX + END_TIME_MAX, "its end", daemon.exit_code()).await;
    assert_eq!(ended, Some(0), "{}", daemon.stderr());
    assert_eq!(sink.row("k"), None);
    sink.be(Mood::Well);
    let _daemon = Daemon::start(&config).await;
    sink.comes_to("what it kept", |rows| rows.len() == 1).await;
}
