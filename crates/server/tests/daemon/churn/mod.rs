//! Nodes that come and go under load, and what that costs the origin and those who ask.

pub(crate) mod fleet;
mod overtaken;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use http::Method;
use rustix::process::Signal;

use self::fleet::Fleet;
use crate::{
    client::{GROUP, ask, key_path, request, within},
    moves::{Excess, moved, owners},
    origin::Origin,
    process::Daemon,
    traffic::{Plan, Report, Traffic},
};

/// As many as there are in the promise.
const KEYS_LEN: usize = 20_000;

/// So few that a restarted node's share of them is asked for within seconds.
const ROLLED_KEYS_LEN: usize = 2_000;

/// How many keys are asked for at once where all have to be asked for soon, and in how many requests.
const SWEPT_KEYS_LEN: usize = 100;
const SWEEPERS: usize = 2;

/// How long a node may take to leave: its `drain_timeout`, and some time for a busy machine.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(15);

/// A caller's deadline.
const DEADLINE: Duration = Duration::from_secs(10);

/// Of what it was, the hit ratio of no second may be less.
const HIT_RATIO_KEPT: f64 = 0.95;

fn keys(len: usize) -> Vec<String> {
    (0..len).map(|number| format!("key{number}")).collect()
}

/// Asks for each key once, through all nodes by turns, and sees to it that all are found.
async fn sweep(fleet: &Fleet, keys: &[String]) {
    let doors = fleet.iter().map(|node| node.clients).cycle();
    let ask_many = async |(door, keys): (_, &[String])| {
        let body = serde_json::json!({ "keys": keys }).to_string();
        let answer =
            ask(door, request(Method::POST, &format!("/v1/groups/{GROUP}/get-many"), &[], body)).await.unwrap();
        let answer = answer.json();
        assert_eq!(answer["values"].as_object().map_or(0, |values| values.len()), keys.len(), "{}", answer["errors"]);
    };
    stream::iter(doors.zip(keys.chunks(SWEPT_KEYS_LEN))).for_each_concurrent(SWEEPERS, ask_many).await;
}

/// Clients of all nodes.
fn traffic(fleet: &Fleet, origin: &Arc<Origin>, keys: &[String]) -> Traffic {
    let plan = Plan {
        keys: keys.to_vec(),
        callers: 8,
        pause: Duration::from_millis(25),
        path: |key| key_path(key),
        window: Duration::from_secs(1),
    };
    Traffic::start(plan, fleet.iter().map(|node| node.clients), origin)
}

/// Every node answered, and with the value.
fn assert_undisturbed(report: &Report) {
    let Report { unreached, refused, .. } = report;
    assert!(*unreached == 0 && refused.is_empty(), "{unreached} unreached; {refused:?}");
}

async fn stop(node: &Daemon) {
    node.signal(Signal::TERM);
    assert_eq!(within(LEAVE_TIME_MAX, "to leave", node.exit_code()).await, Some(0));
}

/// Three nodes that have loaded every key.
async fn three(origin: &Origin, keys: &[String]) -> Fleet {
    let fleet = Fleet::start(&["a", "b", "c"], &origin.group("")).await;
    sweep(&fleet, keys).await;
    assert_eq!(origin.asked_len(), keys.len(), "each key is loaded once");
    fleet
}

#[tokio::test]
async fn a_node_that_joins_takes_its_keys_over_from_the_others_and_not_from_the_origin() {
    let (origin, keys) = (Arc::new(Origin::start().await), keys(KEYS_LEN));
    let mut fleet = three(&origin, &keys).await;
    let traffic = traffic(&fleet, &origin, &keys);
    let joined = fleet.add("d").await.clients;
    traffic.open(joined);
    sweep(&fleet, &keys).await;
    assert_undisturbed(&traffic.stop().await);
    let moved = moved(&keys, &owners(&keys, &["a", "b", "c"]), &owners(&keys, &["a", "b", "c", "d"]));
    let excess = Excess::of(&origin, &moved);
    assert!(excess.total() * 100 <= moved.len(), "{excess:?} of {} keys that moved", moved.len());
}

#[tokio::test]
async fn a_node_that_drains_hands_its_keys_over_and_not_to_the_origin() {
    let (origin, keys) = (Arc::new(Origin::start().await), keys(KEYS_LEN));
    let mut fleet = three(&origin, &keys).await;
    let traffic = traffic(&fleet, &origin, &keys);
    let leaving = fleet.remove("c");
    stop(&leaving).await;
    traffic.close(leaving.clients);
    fleet.agree().await;
    sweep(&fleet, &keys).await;
    let Report { refused, failed, .. } = traffic.stop().await;
    assert!(refused.is_empty() && failed.is_empty(), "{refused:?}");
    let moved = moved(&keys, &owners(&keys, &["a", "b", "c"]), &owners(&keys, &["a", "b"]));
    let excess = Excess::of(&origin, &moved);
    assert!(excess.total() * 100 <= moved.len(), "{excess:?} of {} keys that moved", moved.len());
}

#[tokio::test]
async fn the_keys_of_a_node_that_dies_are_loaded_once_more_and_no_get_fails() {
    let (origin, keys) = (Arc::new(Origin::start().await), keys(KEYS_LEN));
    let mut fleet = three(&origin, &keys).await;
    let traffic = traffic(&fleet, &origin, &keys);
    let mut dead = fleet.remove("c");
    dead.kill();
    traffic.close(dead.clients);
    fleet.agree().await;
    traffic.settle().await;
    let by_stand_ins = origin.loads_by_key();
    sweep(&fleet, &keys).await;
    let Report { failed, slowest, .. } = traffic.stop().await;
    assert!(failed.is_empty(), "{failed:?}");
    assert!(slowest < DEADLINE, "a get took {slowest:?}");
    let moved = moved(&keys, &owners(&keys, &["a", "b", "c"]), &owners(&keys, &["a", "b"]));
    let excess = Excess::of(&origin, &moved);
    assert!(excess.total() * 10 <= moved.len() * 11, "{excess:?} of {} keys that moved", moved.len());
    let again = origin.loads_by_key().into_iter().filter(|(key, loads)| loads - by_stand_ins[key] > 1);
    let again: Vec<_> = again.collect();
    assert!(again.is_empty(), "an owner loads each key once: {again:?}");
}

#[tokio::test]
async fn a_rolling_restart_keeps_the_hit_ratio() {
    let (origin, keys) = (Arc::new(Origin::start().await), keys(ROLLED_KEYS_LEN));
    let names = ["a", "b", "c", "d", "e"];
    let mut fleet = Fleet::start(&names, &origin.group("")).await;
    sweep(&fleet, &keys).await;
    let traffic = traffic(&fleet, &origin, &keys);
    for name in names {
        let leaving = fleet.remove(name);
        stop(&leaving).await;
        traffic.close(leaving.clients);
        let back = fleet.add(name).await.clients;
        traffic.open(back);
    }
    traffic.pass().await;
    let Report { refused, failed, windows, .. } = traffic.stop().await;
    assert!(refused.is_empty() && failed.is_empty(), "{refused:?}");
    let ratios: Vec<f64> = windows.iter().map(|window| window.hit_ratio()).collect();
    // Each key was loaded before, so that without a restart every get is a hit.
    assert!(ratios.iter().all(|ratio| *ratio >= HIT_RATIO_KEPT), "{ratios:.3?}");
}
