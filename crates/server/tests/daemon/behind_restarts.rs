//! Write-behind of nodes that are all killed and come back one after the other, and of nodes that never come back.
//!
//! `LARDER_TORTURE_ROUNDS`, if it is set, has three nodes come back in every order there is.

use std::{collections::HashMap, path::Path, sync::Arc};

use futures_util::future::join_all;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    behind_cluster::{got, has_all, put, takeover},
    client::{get_key, put_key, within},
    cluster::{Cluster, Over},
    gossip::PATIENCE,
    process::{Daemon, POLL_INTERVAL},
    sink::{Mood, Sink},
};

const KEYS: usize = 24;

/// How the nodes of a cluster know of each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    List,
    Gossip,
}

fn keys() -> Vec<String> {
    (0..KEYS).map(|number| format!("k{number}")).collect()
}

async fn cluster(by: By, len: usize, sink: &Sink, folder: &Path) -> Cluster {
    let groups = sink.group("write_delay = '10ms'");
    match by {
        By::List => Cluster::with_data(Over::Grpc, len, &groups, folder).await,
        By::Gossip => Cluster::gossiping(len, &groups, folder).await,
    }
}

/// A cluster that writes behind to an origin that is away.
async fn nodes(by: By, len: usize) -> (Cluster, Arc<Sink>, TempDir) {
    let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::start().await);
    sink.be(Mood::Failing);
    let cluster = cluster(by, len, &sink, folder.path()).await;
    (cluster, sink, folder)
}

async fn put_all(nodes: &[&Daemon], keys: &[String], value: &str) {
    join_all(keys.iter().zip(nodes.iter().cycle()).map(|(key, node)| put(node, key, value))).await;
}

/// What a node answers for each key, where it answers.
async fn answers(node: &Daemon, keys: &[String]) -> HashMap<String, Option<String>> {
    let asked = join_all(keys.iter().map(|key| node.ask(get_key(key)))).await;
    let answered = keys.iter().zip(asked).filter_map(|(key, answer)| match answer.status {
        200 => Some((key.clone(), Some(answer.text().to_owned()))),
        404 => Some((key.clone(), None)),
        503 => None,
        _ => panic!("{key}: {answer:?}"),
    });
    answered.collect()
}

/// Fails if a node answers anything but this for a key.
async fn answers_nothing_but(node: &Daemon, keys: &[String], value: &str) -> usize {
    let answered = answers(node, keys).await;
    for (key, answer) in &answered {
        assert_eq!(answer.as_deref(), Some(value), "{key}");
    }
    answered.len()
}

/// Puts an older value of each key to the origin, and a newer one on the disks only.
async fn written_twice(nodes: &[&Daemon], sink: &Sink, keys: &[String], old: &str, new: &str) {
    sink.be(Mood::Well);
    put_all(nodes, keys, old).await;
    sink.comes_to("the older values", has_all(keys, old)).await;
    sink.be(Mood::Failing);
    put_all(nodes, keys, new).await;
}

/// Nobody can take over what is another's.
#[tokio::test]
async fn the_first_of_two_listed_nodes_to_come_back_answers_for_its_own_keys_and_takes_none() {
    let (mut cluster, sink, _folder) = nodes(By::List, 2).await;
    let (mine, theirs) = (cluster.keys_of(0, "a", 6).await, cluster.keys_of(1, "b", 6).await);
    let all = [mine.clone(), theirs.clone()].concat();
    written_twice(&[&cluster[0], &cluster[1]], &sink, &all, "old", "new").await;
    (0..2).for_each(|node| cluster[node].kill());
    sink.be(Mood::Well);
    cluster.restart_unready(0).await;
    answers_nothing_but(&cluster[0], &all, "new").await;
    for key in &mine {
        assert_eq!(got(&cluster[0], key).await, "new");
    }
    assert_eq!(answers_nothing_but(&cluster[0], &all, "new").await, mine.len());
    let refused = cluster[0].ask(put_key(&mine[0], "alone")).await;
    assert_eq!(refused.problem(), (503, "owner-unreachable".to_owned()), "there is no second disk");
    cluster.restart_unready(1).await;
    for key in &all {
        assert_eq!(got(&cluster[0], key).await, "new");
        assert_eq!(got(&cluster[1], key).await, "new");
    }
    sink.comes_to("all that was acknowledged", has_all(&all, "new")).await;
    sink.assert_in_order();
}

/// Rule B6: the other went on without it.
#[tokio::test]
async fn the_first_of_two_gossiping_nodes_to_come_back_waits_for_the_other_which_knows_more() {
    let (mut cluster, sink, _folder) = nodes(By::Gossip, 2).await;
    let keys = keys();
    put_all(&[&cluster[0], &cluster[1]], &keys, "old").await;
    cluster[0].kill();
    cluster.agree(&[1]).await;
    put_all(&[&cluster[1]], &keys, "new").await;
    cluster[1].kill();
    sink.is_left().await;
    sink.be(Mood::Well);
    cluster.restart_unready(0).await;
    assert_eq!(answers_nothing_but(&cluster[0], &keys, "new").await, 0);
    cluster.agree(&[0]).await;
    assert_eq!(answers_nothing_but(&cluster[0], &keys, "new").await, 0);
    assert_eq!(cluster[0].ask(put_key(&keys[0], "alone")).await.status, 503);
    assert!(sink.made().is_empty(), "{:?}", sink.made());
    cluster.restart_unready(1).await;
    for key in &keys {
        assert_eq!(got(&cluster[0], key).await, "new");
    }
    sink.comes_to("all that was acknowledged", has_all(&keys, "new")).await;
    sink.assert_in_order();
    assert!(sink.made().iter().all(|made| made.value.as_deref() == Some("new")), "what was overtaken is not made");
}

const ORDERS: [[usize; 3]; 6] = [[2, 0, 1], [1, 2, 0], [0, 1, 2], [0, 2, 1], [1, 0, 2], [2, 1, 0]];

/// Three nodes that are killed at once and come back in one order after another.
async fn come_back_in_every_order(by: By, unless_told: usize) {
    let (mut cluster, sink, _folder) = nodes(by, 3).await;
    let keys = keys();
    let count = if std::env::var_os("LARDER_TORTURE_ROUNDS").is_some() { ORDERS.len() } else { unless_told };
    for order in &ORDERS[..count] {
        let (old, new) = (format!("older than {order:?}"), format!("{order:?}"));
        written_twice(&[&cluster[0], &cluster[1], &cluster[2]], &sink, &keys, &old, &new).await;
        (0..3).for_each(|node| cluster[node].kill());
        sink.be(Mood::Well);
        for (place, node) in order.iter().enumerate() {
            cluster.restart_unready(*node).await;
            // What is asked while the others are away, and how they come.
            join_all(order[..=place].iter().map(|up| answers_nothing_but(&cluster[*up], &keys, &new))).await;
        }
        for key in &keys {
            for node in 0..3 {
                assert_eq!(got(&cluster[node], key).await, new);
            }
        }
        sink.comes_to("all that was acknowledged", has_all(&keys, &new)).await;
        sink.assert_in_order();
    }
}

#[tokio::test]
async fn three_nodes_that_are_killed_at_once_have_lost_nothing_in_whatever_order_they_come_back() {
    // They wait for most of the time.
    tokio::join!(come_back_in_every_order(By::List, 2), come_back_in_every_order(By::Gossip, 1));
}

/// Takes over, again and again, until the node answers for all these keys. Gives back what was given up, in its words.
async fn taken_over(node: &Daemon, keys: &[String]) -> Vec<String> {
    let mut given_up = Vec::new();
    within(PATIENCE, "answers after a takeover", async {
        while answers(node, keys).await.len() < keys.len() {
            let told = String::from_utf8(takeover(node).await.stdout).unwrap();
            if !told.contains("nothing is given up") {
                given_up.push(told);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await;
    given_up
}

/// Has nodes read a list of these members, where they have one.
fn relist(cluster: &mut Cluster, by: By, list: &str) {
    if by == By::List {
        for place in 0..3 {
            cluster.relist(place, list);
        }
        cluster[0].signal(Signal::HUP);
    }
}

/// Two are killed at once, and one of them comes back. Each write is on two disks, so that nothing is lost; but nobody can know.
async fn one_never_comes_back(by: By) {
    let (mut cluster, sink, _folder) = nodes(by, 3).await;
    let keys = keys();
    let owners = join_all(keys.iter().map(|key| cluster.owner(key))).await;
    let of = |owner| keys.iter().zip(&owners).filter(|(_, its)| **its == owner).map(|(key, _)| key.clone()).collect();
    let (of_first, of_second): (Vec<String>, Vec<String>) = (of(0), of(1));
    put_all(&[&cluster[0], &cluster[1], &cluster[2]], &keys, "v").await;
    (1..3).for_each(|node| cluster[node].kill());
    relist(&mut cluster, by, "ab");
    cluster.restart_unready(1).await;
    cluster.agree(&[0, 1]).await;
    // What has been here all along is answered for, and goes on.
    for key in &of_first {
        assert_eq!(got(&cluster[0], key).await, "v");
        put(&cluster[0], key, "w").await;
    }
    let value = |key: &String| if of_first.contains(key) { "w" } else { "v" };
    assert_eq!(
        answers(&cluster[1], &of_second).await.len(),
        0,
        "the third may have gone on alone, and had later writes"
    );
    let given_up = taken_over(&cluster[1], &keys).await;
    assert!(!given_up.is_empty() && given_up.iter().all(|told| told.contains("what only c has")), "{given_up:?}");
    for (key, answer) in answers(&cluster[0], &keys).await {
        assert_eq!(answer.as_deref(), Some(value(&key)), "{key}: nothing is only there");
    }
    put_all(&[&cluster[1]], &of_second, "w").await;
    sink.be(Mood::Well);
    sink.comes_to("all that was acknowledged", has_all(&[of_first, of_second].concat(), "w")).await;
    sink.comes_to("all keys", |rows| rows.len() == KEYS).await;
    sink.assert_in_order();
}

#[tokio::test]
async fn a_node_that_never_comes_back_is_done_without_after_a_takeover() {
    tokio::join!(one_never_comes_back(By::List), one_never_comes_back(By::Gossip));
}

/// What two of three had, and nobody else, is lost with them.
async fn two_never_come_back(by: By) {
    let (mut cluster, sink, _folder) = nodes(by, 3).await;
    let keys = keys();
    let parts = join_all(keys.iter().map(|key| cluster.owner_and_stand_in(key))).await;
    put_all(&[&cluster[0], &cluster[1], &cluster[2]], &keys, "v").await;
    (1..3).for_each(|node| cluster[node].kill());
    relist(&mut cluster, by, "a");
    cluster.agree(&[0]).await;
    let of = |is_such: fn(&(usize, usize)) -> bool| {
        let such = keys.iter().zip(&parts).filter(|(_, parts)| is_such(parts));
        such.map(|(key, _)| key.clone()).collect::<Vec<_>>()
    };
    let (own, gained) = (of(|(owner, _)| *owner == 0), of(|(owner, _)| *owner != 0));
    let may_be_lost = of(|(owner, stand_in)| *owner != 0 && *stand_in != 0);
    for key in &own {
        assert_eq!(got(&cluster[0], key).await, "v");
        put(&cluster[0], key, "w").await;
    }
    assert_eq!(answers(&cluster[0], &gained).await.len(), 0);
    sink.be(Mood::Well);
    let given_up = taken_over(&cluster[0], &keys).await;
    assert!(!given_up.is_empty() && given_up.iter().all(|told| told.contains("what only b, c has")), "{given_up:?}");
    let mut lost = Vec::new();
    for (key, answer) in answers(&cluster[0], &keys).await {
        match answer.as_deref() {
            Some(value) => assert_eq!(value, if own.contains(&key) { "w" } else { "v" }, "{key}"),
            None => lost.push(key),
        }
    }
    assert!(!lost.is_empty() && lost.iter().all(|key| may_be_lost.contains(key)), "{lost:?} of {may_be_lost:?}");
    put_all(&[&cluster[0]], &keys, "x").await;
    sink.comes_to("what was written after that", has_all(&keys, "x")).await;
    sink.assert_in_order();
}

#[tokio::test]
async fn a_takeover_gives_up_what_two_nodes_had_and_nothing_else() {
    tokio::join!(two_never_come_back(By::List), two_never_come_back(By::Gossip));
}

/// What a node that stands still has sent to the origin comes there after what its successor made.
#[tokio::test]
async fn a_late_flush_of_a_node_that_stood_still_is_turned_down_by_an_origin_that_fences() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::fencing().await);
    let cluster = cluster(By::Gossip, 3, &sink, folder.path()).await;
    let mut late = sink.park();
    let (owner, _) = cluster.owner_and_stand_in("k").await;
    let left: Vec<usize> = (0..3).filter(|place| *place != owner).collect();
    put(&cluster[left[0]], "k", "old").await;
    late.comes().await;
    cluster[owner].signal(Signal::STOP);
    cluster.agree(&left).await;
    put(&cluster[left[0]], "k", "new").await;
    sink.comes_to("what the successor has", |rows| rows.get("k").is_some_and(|value| value == "new")).await;
    late.goes_on();
    within(PATIENCE, "the late one", async {
        while sink.turned_down() == 0 {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await;
    cluster[owner].signal(Signal::CONT);
    cluster.agree(&[0, 1, 2]).await;
    for node in &cluster.nodes {
        assert_eq!(got(node, "k").await, "new");
    }
    within(PATIENCE, "an end of what is pending", async {
        while cluster.metric("larder_write_behind_pending").await > 0 {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await;
    assert_eq!(sink.row("k").as_deref(), Some("new"));
    sink.assert_in_order();
}
