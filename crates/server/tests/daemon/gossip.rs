//! Daemons that find each other: by gossip, with nothing but the address of one of them; and by DNS.

use std::{net::SocketAddr, time::Duration};

use rustix::process::Signal;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    client::{get, get_key, value_of, within},
    cluster::Port,
    load::Load,
    origin::Origin,
    process::{Daemon, POLL_INTERVAL, larder},
    ways::Ways,
};

/// How long news may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How soon a crash has to be known to all.
const CRASH_TIME_MAX: Duration = Duration::from_secs(5);

const KEYS_LEN: usize = 60;

/// How soon two halves that were cut from each other have to agree once they meet again.
const HEAL_TIME_MAX: Duration = Duration::from_secs(10);

/// A node that joins these others.
async fn join(name: &str, others: &[&Daemon], origin: &Origin) -> Daemon {
    join_with(name, others, &origin.group("")).await
}

/// A node with these groups that joins these others.
pub(crate) async fn join_with(name: &str, others: &[&Daemon], groups: &str) -> Daemon {
    let seeds: Vec<SocketAddr> = others.iter().map(|other| other.gossip.unwrap()).collect();
    Daemon::start(&config_of(name, ANYWHERE, "127.0.0.1:0", &seeds, groups)).await
}

/// The first node of a new cluster.
pub(crate) async fn first(name: &str) -> Daemon {
    Daemon::start_flagged(&config_of(name, ANYWHERE, "127.0.0.1:0", &[], ""), &["--first-start"]).await
}

/// Where a node listens that may listen anywhere.
const ANYWHERE: &str = "listen = \"127.0.0.1:0\"\npeer = \"127.0.0.1:0\"";

/// A node that gossips at an address, with these lines about itself.
pub(crate) async fn start(name: &str, node: &str, gossip: &str, seeds: &[SocketAddr], groups: &str) -> Daemon {
    Daemon::start(&config_of(name, node, gossip, seeds, groups)).await
}

/// The configuration of such a node.
pub(crate) fn config_of(name: &str, node: &str, gossip: &str, seeds: &[SocketAddr], groups: &str) -> String {
    let seeds: Vec<String> = seeds.iter().map(SocketAddr::to_string).collect();
    format!(
        "[node]\nname = \"{name}\"\nadmin = \"127.0.0.1:0\"\n{node}\n\
         [cluster]\ndiscovery = \"gossip\"\ngossip = \"{gossip}\"\nseeds = {seeds:?}\n\
         gossip_key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n{groups}"
    )
}

/// The members as a node shows them: names, states and slots.
async fn members(node: &Daemon) -> Vec<(String, String, u64)> {
    let shown = node.ask(get("/v1/cluster")).await.json();
    let read = |member: &Value| {
        let text = |key: &str| member[key].as_str().unwrap().to_owned();
        (text("name"), text("state"), member["slots"].as_u64().unwrap())
    };
    shown["members"].as_array().unwrap().iter().map(read).collect()
}

/// Waits until each of these nodes sees just these members, all of them serving, and says how long that took.
pub(crate) async fn agree(nodes: &[&Daemon], names: &[&str]) -> Duration {
    let start = Instant::now();
    for node in nodes {
        let sees = async {
            loop {
                let members = members(node).await;
                let is_serving = members.iter().all(|(_, state, slots)| state == "serving" && *slots > 0);
                if is_serving && members.iter().map(|(name, ..)| name).eq(names) {
                    return;
                }
                sleep(POLL_INTERVAL).await;
            }
        };
        within(PATIENCE, "the same list everywhere", sees).await;
    }
    start.elapsed()
}

pub(crate) fn keys() -> impl Iterator<Item = String> {
    (0..KEYS_LEN).map(|number| format!("key{number}"))
}

/// Asks these nodes for every key, each once more if it fails, and says how many failed once.
pub(crate) async fn all_are_found(nodes: &[&Daemon]) -> usize {
    let mut failed = 0;
    for key in keys() {
        for node in nodes {
            let mut answer = node.ask(get_key(&key)).await;
            if answer.status != 200 {
                failed += 1;
                answer = node.ask(get_key(&key)).await;
            }
            assert_eq!((answer.status, answer.text()), (200, &*value_of(&key)), "{key}");
        }
    }
    failed
}

#[tokio::test]
async fn nodes_that_join_one_share_the_keys_and_a_later_one_gets_its_share() {
    let origin = Origin::start().await;
    let a = join("a", &[], &origin).await;
    let b = join("b", &[&a], &origin).await;
    let c = join("c", &[&a], &origin).await;
    agree(&[&a, &b, &c], &["a", "b", "c"]).await;
    assert_eq!(all_are_found(&[&a, &b, &c]).await, 0);
    assert!(keys().all(|key| origin.loads(key) == 1), "each key has one owner");
    // Not at the one that the others began with.
    let d = join("d", &[&c], &origin).await;
    agree(&[&a, &b, &c, &d], &["a", "b", "c", "d"]).await;
    assert_eq!(all_are_found(&[&a, &b, &c, &d]).await, 0);
    assert!(d.metric("larder_owned_slots").await > 3_000);
    assert!(keys().map(|key| origin.loads(key)).sum::<usize>() < KEYS_LEN * 2);
}

#[tokio::test]
async fn a_killed_node_is_out_everywhere_and_no_get_fails() {
    let origin = Origin::start().await;
    let a = join("a", &[], &origin).await;
    let b = join("b", &[&a], &origin).await;
    let mut c = join("c", &[&a], &origin).await;
    agree(&[&a, &b, &c], &["a", "b", "c"]).await;
    all_are_found(&[&a, &b, &c]).await;
    c.kill();
    let nodes = [&a, &b];
    let (gone, _failed) = tokio::join!(agree(&nodes, &["a", "b"]), all_are_found(&nodes));
    assert!(gone <= CRASH_TIME_MAX, "it took {gone:?}");
    assert_eq!(all_are_found(&nodes).await, 0);
    // Its name is free again, at another address too.
    let c = join("c", &[&b], &origin).await;
    agree(&[&a, &b, &c], &["a", "b", "c"]).await;
}

#[tokio::test]
async fn a_node_that_is_told_to_stop_says_so_and_leaves() {
    let origin = Origin::start().await;
    let a = join("a", &[], &origin).await;
    let b = join("b", &[&a], &origin).await;
    agree(&[&a, &b], &["a", "b"]).await;
    b.signal(Signal::TERM);
    let gone = agree(&[&a], &["a"]).await;
    assert!(gone < Duration::from_millis(2_500), "nobody had to find out: {gone:?}");
    assert_eq!(b.exit_code().await, Some(0));
    assert_eq!(all_are_found(&[&a]).await, 0);
}

#[tokio::test]
async fn a_node_that_stands_still_for_a_moment_is_not_thrown_out_and_one_that_comes_back_is_taken_in() {
    let origin = Origin::start().await;
    let a = join("a", &[], &origin).await;
    let b = join("b", &[&a], &origin).await;
    agree(&[&a, &b], &["a", "b"]).await;
    let changes = a.metric("larder_view_changes_total").await;
    b.signal(Signal::STOP);
    // The pause itself.
    sleep(Duration::from_secs(2)).await;
    b.signal(Signal::CONT);
    agree(&[&a, &b], &["a", "b"]).await;
    assert_eq!(a.metric("larder_view_changes_total").await, changes);
    b.signal(Signal::STOP);
    agree(&[&a], &["a"]).await;
    b.signal(Signal::CONT);
    agree(&[&a, &b], &["a", "b"]).await;
}

#[tokio::test]
async fn a_name_that_a_live_node_has_is_refused() {
    let origin = Origin::start().await;
    let a = join("a", &[], &origin).await;
    let b = join("b", &[&a], &origin).await;
    let seed = a.gossip.unwrap().to_string();
    let args = ["serve", "--listen", "127.0.0.1:0", "--peer", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--join", &seed];
    let key = "cluster.gossip_key=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let mut twin = larder();
    twin.args(args).args(["--set", "node.name=b", "--set", "cluster.gossip=127.0.0.1:0", "--set", key]);
    let output = tokio::task::spawn_blocking(move || twin.output().unwrap());
    let output = within(PATIENCE, "the refusal", output).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("a live member is named \"b\" already: give this node another name"), "{said}");
    agree(&[&a, &b], &["a", "b"]).await;
}

/// It knows itself by its address.
#[tokio::test]
async fn a_node_finds_itself_under_a_dns_name() {
    let origin = Origin::start().await;
    let port = Port::take();
    let peer = port.address();
    let config = format!(
        "[node]\nlisten = \"127.0.0.1:0\"\npeer = \"{peer}\"\nadmin = \"127.0.0.1:0\"\n\
         [cluster]\ndiscovery = \"dns\"\ndns_name = \"localhost:{}\"\n{}",
        peer.port(),
        origin.group("")
    );
    let node = Daemon::start(&config).await;
    let peer = peer.to_string();
    agree(&[&node], &[&peer]).await;
    assert_eq!(all_are_found(&[&node]).await, 0);
}

#[tokio::test]
async fn two_halves_that_are_cut_from_each_other_both_serve_and_then_agree() {
    let origin = Origin::start().await;
    let ways = Ways::between(4).await;
    let mut nodes = Vec::new();
    for (place, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let host = ways.advertised(place).ip();
        let node = format!("advertise = \"{host}\"\nlisten = \"{host}:0\"\npeer = \"{host}:0\"");
        let seeds = [0, 2].map(|place| ways.advertised(place));
        nodes.push(start(name, &node, &ways.to(place).to_string(), &seeds, &origin.group("")).await);
    }
    let all: Vec<&Daemon> = nodes.iter().collect();
    agree(&all, &["a", "b", "c", "d"]).await;
    assert_eq!(all_are_found(&all).await, 0);
    let load = Load::start(&all, keys());
    let (one, other) = all.split_at(2);
    ways.cut();
    tokio::join!(agree(one, &["a", "b"]), agree(other, &["c", "d"]));
    assert_eq!(all_are_found(&all).await, 0);
    assert!(keys().map(|key| origin.loads(key)).sum::<usize>() < KEYS_LEN * 3, "what each half had it kept");
    ways.mend();
    let healed = agree(&all, &["a", "b", "c", "d"]).await;
    assert!(healed <= HEAL_TIME_MAX, "it took {healed:?}");
    assert_eq!(all_are_found(&all).await, 0);
    let asked = load.end().await;
    assert!(asked.failed.is_empty() && asked.keys.len() > 100, "{:?} of {}", asked.failed, asked.keys.len());
}
