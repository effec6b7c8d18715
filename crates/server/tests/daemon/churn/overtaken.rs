//! What a change of the members overtakes: loads that are under way, and nodes that stood still.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::fleet::Fleet;
use crate::{
    client::{self, Connection, get, get_key, put_key, value_of, within},
    moves::{moved, owners},
    origin::Origin,
    process::Daemon,
};

/// How long a node stands still: several times as long as the others wait for it.
const PAUSE: Duration = Duration::from_secs(10);

/// How long the loads take at least that are overtaken.
const LOAD_TIME: Duration = Duration::from_secs(2);

/// A caller's deadline, and some time for a busy machine.
const DEADLINE: Duration = Duration::from_secs(12);

/// So many keys are looked at.
const KEYS_LEN: usize = 12;

/// As many of the keys named `key` and a number as are wanted that change owners.
fn moving(before: &[&str], after: &[&str]) -> Vec<String> {
    let keys: Vec<String> = (0..KEYS_LEN * 20).map(|number| format!("key{number}")).collect();
    let moved: HashSet<String> = moved(&keys, &owners(&keys, before), &owners(&keys, after));
    let moving: Vec<String> = keys.into_iter().filter(|key| moved.contains(key)).take(KEYS_LEN).collect();
    assert_eq!(moving.len(), KEYS_LEN);
    moving
}

/// Connections to a node that reads what is sent on them.
async fn connect(node: &Daemon, len: usize) -> Vec<Connection> {
    let open = async |_| {
        let mut connection = Connection::open(node.clients).await.unwrap();
        connection.ask(get("/v1/cluster")).await.unwrap();
        connection
    };
    join_all((0..len).map(open)).await
}

#[tokio::test]
async fn what_is_loaded_for_an_owner_that_is_none_any_more_is_answered_and_not_kept() {
    let origin = Arc::new(Origin::start().await);
    // Without hot copies, what a node holds it holds as the owner.
    let mut fleet = Fleet::start(&["a", "b", "c"], &origin.group("hot_lease = \"0s\"")).await;
    let keys = moving(&["a", "b", "c"], &["a", "b", "c", "d"]);
    origin.hold();
    let start = Instant::now();
    let mut callers = JoinSet::new();
    let mut ask = |node: &Daemon| {
        for key in &keys {
            let (address, key) = (node.clients, key.clone());
            callers.spawn(async move { (client::ask(address, get_key(&key)).await.unwrap(), key) });
        }
    };
    fleet.iter().for_each(&mut ask);
    origin.is_asked(keys.len()).await;
    let joined = fleet.add("d").await;
    ask(joined);
    origin.is_asked(2 * keys.len()).await;
    sleep_until(start + LOAD_TIME).await;
    origin.release();
    for (answer, key) in within(DEADLINE, "the callers", callers.join_all()).await {
        assert_eq!((answer.status, answer.text()), (200, value_of(&key).as_str()), "{key}");
    }
    // The former owner's load of a key and the present one's; and once more what that loaded before its claim was answered.
    assert!(origin.asked_len() <= 3 * keys.len(), "{} loads", origin.asked_len());
    for node in fleet.iter() {
        for key in &keys {
            assert_eq!(node.ask(get_key(key)).await.text(), value_of(key), "{key}");
        }
    }
    for (name, items) in [("a", 0), ("b", 0), ("c", 0), ("d", keys.len() as u64)] {
        assert_eq!(fleet.get(name).metric("larder_cache_items").await, items, "at {name}");
    }
}

#[tokio::test]
async fn a_node_that_stood_still_does_not_answer_from_the_view_it_had() {
    let mut fleet = Fleet::start(&["a", "b", "c"], "[groups.g]").await;
    let keys = moving(&["a", "b", "c"], &["a", "b"]);
    let put = async |node: &Daemon, value: &'static str| {
        for key in &keys {
            assert_eq!(node.ask(put_key(key, value)).await.status, 204, "{value}");
        }
    };
    put(fleet.get("a"), "old").await;
    let connections = connect(fleet.get("c"), keys.len()).await;
    let stopped = fleet.remove("c");
    stopped.signal(Signal::STOP);
    let start = Instant::now();
    fleet.agree().await;
    put(fleet.get("a"), "new").await;
    // What is sent now waits in its sockets, and is the first thing that it reads.
    let (read, written) = keys.split_at(keys.len() / 2);
    let requests = read.iter().map(get_key).chain(written.iter().map(|key| put_key(key, "late")));
    let waiting = requests.zip(connections).map(async |(request, mut connection)| connection.ask(request).await);
    let waiting = join_all(waiting);
    let go_on = async {
        sleep_until(start + PAUSE).await;
        stopped.signal(Signal::CONT);
    };
    let (answers, ()) = within(PAUSE + DEADLINE, "its answers", async { tokio::join!(waiting, go_on) }).await;
    let mut expected = Vec::new();
    for (answer, key) in answers.into_iter().zip(&keys) {
        let answer = answer.unwrap();
        let is_late = written.contains(key) && answer.status == 204;
        assert!(answer.status == 503 || is_late || answer.text() == "new", "{key}: {answer:?}");
        expected.push((key, if is_late { "late" } else { "new" }));
    }
    fleet.take_back("c", stopped);
    fleet.agree().await;
    for node in fleet.iter() {
        for (key, value) in &expected {
            assert_eq!(node.ask(get_key(key)).await.text(), *value, "{key} at {}", node.clients);
        }
    }
}
