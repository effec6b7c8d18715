//! Daemons that register themselves in a real etcd and with a real agent of Consul, and what befalls those.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures_util::future::join_all;
use larder::{
    Member, SystemClock,
    cluster::{
        Consul, ConsulConfig, Etcd, EtcdConfig,
        testing::{ConsulServer, EtcdServer, Server},
    },
    core::{Membership, testing::needs::needs},
};
use rustix::process::Signal;
use tokio::time::sleep;

use crate::{
    client::{GROUP, get, get_key, put_key, within},
    gossip::{PATIENCE, agree, all_are_found, keys},
    load::{Asked, Load},
    origin::Origin,
    process::Daemon,
};

/// Short, and still longer than a busy machine stands still.
pub(crate) const LEASE_TTL: Duration = Duration::from_secs(2);

/// Longer than a busy machine takes to hand everything over and leave.
const LONG_LEASE_TTL: Duration = Duration::from_secs(10);

/// How soon after a crash everybody has to know of it, with a second for a busy machine.
const CRASH_TIME_MAX: Duration = Duration::from_secs(LEASE_TTL.as_secs() + 1 + 1);

/// How long a registry is away, unless `LARDER_OUTAGE_SECONDS` says otherwise. More than any time limit of a node that has to do with
/// it: leases, proofs, requests and waits between tries.
const OUTAGE: Duration = Duration::from_secs(6);

/// How soon a write is tried again that was refused for want of a proof.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a registry that was away may take to tell of what is registered. An agent of Consul that failed to tell its servers, as
/// when they have no leader yet, tells them again after 15 s and up to 15 s of chance.
const RETOLD_TIME_MAX: Duration = Duration::from_secs(45);

/// How long stand-ins keep what they load: for as long as most outages take here.
const STAND_INS_KEEP: Duration = Duration::from_secs(60);

pub(crate) fn outage() -> Duration {
    let seconds = std::env::var("LARDER_OUTAGE_SECONDS");
    seconds.map_or(OUTAGE, |seconds| Duration::from_secs(seconds.parse().expect("a number")))
}

/// A registry that nodes can be told of.
pub(crate) trait Registry: Server + Sized {
    /// What is asked for by its name.
    const PROGRAM: &str;

    fn start() -> Self;

    /// The keys of the configuration that name it.
    fn cluster(&self) -> String {
        Self::cluster_at(&self.url())
    }

    /// The same, where it is reached at this URL.
    fn cluster_at(url: &str) -> String;

    /// Follows it, without an entry.
    fn observe(&self) -> Box<dyn Membership>;
}

impl Registry for EtcdServer {
    const PROGRAM: &str = "etcd";

    fn start() -> Self {
        Self::start()
    }

    fn cluster_at(url: &str) -> String {
        by_etcd(&[url.to_owned()])
    }

    fn observe(&self) -> Box<dyn Membership> {
        Box::new(Etcd::new(EtcdConfig::new([self.url()]), Member::new("observer", ""), SystemClock, 1).unwrap())
    }
}

impl Registry for ConsulServer {
    const PROGRAM: &str = "consul";

    fn start() -> Self {
        Self::start()
    }

    fn cluster_at(url: &str) -> String {
        format!("discovery = \"consul\"\nconsul = \"{url}\"")
    }

    fn observe(&self) -> Box<dyn Membership> {
        Box::new(Consul::new(ConsulConfig::new(self.url()), Member::new("observer", ""), SystemClock, 1).unwrap())
    }
}

fn by_etcd(urls: &[String]) -> String {
    format!("discovery = \"etcd\"\netcd = {urls:?}")
}

/// A node in the cluster that these keys of the configuration describe, with these groups.
pub(crate) async fn start(name: &str, cluster: &str, groups: &str) -> Daemon {
    start_leased(name, LEASE_TTL, cluster, groups).await
}

async fn start_leased(name: &str, lease_ttl: Duration, cluster: &str, groups: &str) -> Daemon {
    start_at("listen = \"127.0.0.1:0\"\npeer = \"127.0.0.1:0\"", name, lease_ttl, cluster, groups).await
}

/// The same, with these lines about where the node listens.
pub(crate) async fn start_at(listeners: &str, name: &str, lease_ttl: Duration, cluster: &str, groups: &str) -> Daemon {
    start_flagged_at(listeners, name, lease_ttl, cluster, groups, &[]).await
}

/// The same, with these flags.
pub(crate) async fn start_flagged_at(
    listeners: &str,
    name: &str,
    lease_ttl: Duration,
    cluster: &str,
    groups: &str,
    flags: &[&str],
) -> Daemon {
    let config = format!(
        "[node]\nname = \"{name}\"\nadmin = \"127.0.0.1:0\"\n{listeners}\n\
         [cluster]\nlease_ttl = \"{}s\"\n{cluster}\n{groups}",
        lease_ttl.as_secs(),
    );
    Daemon::start_flagged(&config, flags).await
}

async fn join(name: &str, cluster: &str, origin: &Origin) -> Daemon {
    start(name, cluster, &group(origin)).await
}

fn group(origin: &Origin) -> String {
    origin.group(&format!("hot_lease = \"{}s\"", STAND_INS_KEEP.as_secs()))
}

/// Three nodes that have all keys between them.
async fn three(cluster: &str, origin: &Origin) -> [Daemon; 3] {
    let nodes = [join("a", cluster, origin).await, join("b", cluster, origin).await, join("c", cluster, origin).await];
    let all = nodes.each_ref();
    agree(&all, &["a", "b", "c"]).await;
    assert_eq!(all_are_found(&all).await, 0);
    nodes
}

/// Waits until whoever asks the registry now is told of these nodes.
async fn is_told_of(registry: &impl Registry, names: &str) {
    let observer = registry.observe();
    let mut list = observer.members();
    let listed = list.wait_for(|list| list.iter().flat_map(|it| it.name.chars()).eq(names.chars()));
    within(RETOLD_TIME_MAX, "the entries", listed).await.unwrap();
}

/// How often each key was loaded that was not loaded once.
fn loaded_otherwise(origin: &Origin, asked: &Asked) -> HashMap<String, usize> {
    let mut loads: HashMap<String, usize> = asked.keys.iter().map(|key| (key.clone(), 0)).collect();
    for target in origin.targets() {
        *loads.entry(target.trim_start_matches('/').to_owned()).or_default() += 1;
    }
    loads.retain(|_, loads| *loads != 1);
    loads
}

async fn owner(node: &Daemon, key: &str) -> String {
    let place = node.ask(get(&format!("/v1/cluster/owner/{GROUP}/{key}"))).await.json();
    place["owner"].as_str().unwrap().to_owned()
}

async fn view_changes(nodes: &[&Daemon; 3]) -> [u64; 3] {
    let [a, b, c] = nodes.map(|node| node.metric("larder_view_changes_total"));
    tokio::join!(a, b, c).into()
}

/// What befell the registry cost nothing: since there were so many changes of each node's view.
async fn cost_nothing(nodes: &[&Daemon; 3], changes: [u64; 3], origin: &Origin, asked: &Asked) {
    assert!(asked.failed.is_empty(), "{:?}", asked.failed);
    assert!(asked.keys.len() > 100, "{} keys are no load", asked.keys.len());
    assert!(asked.slowest < Duration::from_secs(2), "a get took {:?}", asked.slowest);
    let otherwise = loaded_otherwise(origin, asked);
    assert!(otherwise.is_empty(), "{otherwise:?}");
    assert_eq!(view_changes(nodes).await, changes, "no view changed");
}

/// Makes a test by each registry of each of these functions, which take it.
macro_rules! by_each_registry {
    (@ $module:ident $server:ident $($test:ident)+) => {
        mod $module {
            use larder::core::testing::needs::needs;

            use super::{$server, Registry};

            $(
                #[tokio::test]
                async fn $test() {
                    if needs($server::PROGRAM) {
                        super::$test(<$server as Registry>::start()).await;
                    }
                }
            )+
        }
    };
    ($($test:ident),+ $(,)?) => {
        $crate::registries::by_each_registry!(@ by_etcd EtcdServer $($test)+);
        $crate::registries::by_each_registry!(@ by_consul ConsulServer $($test)+);
    };
}
pub(crate) use by_each_registry;

by_each_registry!(
    who_crashes_is_out_in_time,
    who_leaves_is_out_before_its_lease_ends,
    while_it_is_away_or_stands_still_gets_go_on,
    who_crashes_while_it_is_away_is_answered_for_and_out_when_it_is_back,
    a_strong_group_is_answered_with_proof_alone,
);

/// Three nodes whose group is strong and written through to a folder.
async fn a_strong_group_is_answered_with_proof_alone(mut registry: impl Registry) {
    let folder = tempfile::tempdir().unwrap();
    let group = format!(
        "[groups.{GROUP}]\nconsistency = \"strong\"\nwrite = \"through\"\n[groups.{GROUP}.origin]\nkind = \"directory\"\npath = {:?}",
        folder.path()
    );
    let start = async |name| start(name, &registry.cluster(), &group).await;
    let nodes = [start("a").await, start("b").await, start("c").await];
    let all = nodes.each_ref();
    agree(&all, &["a", "b", "c"]).await;
    let keys: Vec<String> = (0..12).map(|number| format!("key{number}")).collect();
    // Nobody says no for good: proofs have to come, and leases that others might have to run out.
    let put_all = async |value: &'static str| {
        for (key, node) in keys.iter().zip(nodes.iter().cycle()) {
            within(PATIENCE, "a put", async {
                while node.ask(put_key(key, value)).await.status != 204 {
                    sleep(PAUSE).await;
                }
            })
            .await;
        }
    };
    let all_have = async |value: &str| {
        for (node, key) in nodes.iter().flat_map(|node| keys.iter().map(move |key| (node, key))) {
            let got = node.ask(get_key(key)).await;
            assert_eq!((got.status, got.text()), (200, value), "{key}");
            assert_eq!(std::fs::read_to_string(folder.path().join(key)).unwrap(), value);
        }
    };
    put_all("one").await;
    all_have("one").await;
    registry.kill();
    // A proof counts for less than a lease.
    sleep(LEASE_TTL).await;
    let pairs = nodes.iter().flat_map(|node| keys.iter().map(move |key| (node, key)));
    // At once, as each waits for a proof for a while.
    join_all(pairs.map(async |(node, key)| {
        assert_eq!(node.ask(get_key(key)).await.problem(), (503, "no-authority".to_owned()), "{key}");
        assert_eq!(node.ask(put_key(key, "lost")).await.problem(), (503, "no-authority".to_owned()), "{key}");
    }))
    .await;
    registry.restart();
    put_all("two").await;
    all_have("two").await;
}

async fn who_crashes_is_out_in_time(registry: impl Registry) {
    let origin = Origin::start().await;
    let [a, b, mut c] = three(&registry.cluster(), &origin).await;
    let load = Load::start(&[&a, &b], keys());
    c.kill();
    let gone = agree(&[&a, &b], &["a", "b"]).await;
    assert!(gone <= CRASH_TIME_MAX, "it took {gone:?}");
    let asked = load.end().await;
    assert!(asked.failed.is_empty(), "{:?}", asked.failed);
}

async fn who_leaves_is_out_before_its_lease_ends(registry: impl Registry) {
    let (origin, cluster) = (Origin::start().await, registry.cluster());
    let start = async |name| start_leased(name, LONG_LEASE_TTL, &cluster, &group(&origin)).await;
    let (a, b) = (start("a").await, start("b").await);
    agree(&[&a, &b], &["a", "b"]).await;
    assert_eq!(all_are_found(&[&a, &b]).await, 0);
    b.signal(Signal::TERM);
    let gone = agree(&[&a], &["a"]).await;
    assert!(gone < LONG_LEASE_TTL, "nobody had to wait for a lease: {gone:?}");
    assert_eq!(b.exit_code().await, Some(0));
    assert_eq!(all_are_found(&[&a]).await, 0);
}

async fn while_it_is_away_or_stands_still_gets_go_on(mut registry: impl Registry) {
    let origin = Origin::start().await;
    let cluster = registry.cluster();
    let nodes = three(&cluster, &origin).await;
    let nodes = nodes.each_ref();
    let changes = view_changes(&nodes).await;
    let load = Load::start(&nodes, keys());
    registry.stop();
    sleep(outage()).await;
    registry.restart();
    is_told_of(&registry, "abc").await;
    registry.pause();
    sleep(outage()).await;
    registry.resume();
    is_told_of(&registry, "abc").await;
    cost_nothing(&nodes, changes, &origin, &load.end().await).await;
    let d = join("d", &cluster, &origin).await;
    agree(&[nodes[0], nodes[1], nodes[2], &d], &["a", "b", "c", "d"]).await;
}

async fn who_crashes_while_it_is_away_is_answered_for_and_out_when_it_is_back(mut registry: impl Registry) {
    let origin = Origin::start().await;
    let [a, b, mut c] = three(&registry.cluster(), &origin).await;
    registry.kill();
    let load = Load::start(&[&a, &b], keys());
    c.kill();
    sleep(outage()).await;
    let mut dead = HashSet::new();
    for key in keys() {
        if owner(&a, &key).await == "c" {
            let expired = outage().as_secs() / STAND_INS_KEEP.as_secs();
            let loads = origin.loads(&key) as u64;
            assert!((2..=2 + expired).contains(&loads), "{key}: its stand-in loaded it {} times", loads - 1);
            dead.insert(key);
        }
    }
    assert!(!dead.is_empty());
    registry.restart();
    agree(&[&a, &b], &["a", "b"]).await;
    let asked = load.end().await;
    assert!(asked.failed.is_empty(), "{:?}", asked.failed);
    for (key, loads) in loaded_otherwise(&origin, &asked) {
        // Once more at the new owner, and at each node that came to know of it before that did.
        let is_new = key.starts_with("new");
        assert!(if is_new { loads <= 2 } else { dead.contains(&key) && loads <= 4 }, "{key} was loaded {loads} times");
    }
    let d = join("d", &registry.cluster(), &origin).await;
    agree(&[&a, &b, &d], &["a", "b", "d"]).await;
}

#[tokio::test]
async fn by_etcd_a_killed_leader_and_a_compacted_history_cost_nothing() {
    if !needs("etcd") {
        return;
    }
    let mut servers = EtcdServer::start_cluster::<3>();
    let cluster = by_etcd(&servers.each_ref().map(Server::url));
    let origin = Origin::start().await;
    let nodes = three(&cluster, &origin).await;
    let nodes = nodes.each_ref();
    let changes = view_changes(&nodes).await;
    let load = Load::start(&nodes, keys());
    let leader = servers.iter().position(EtcdServer::is_leader).unwrap();
    servers[leader].kill();
    sleep(outage()).await;
    let other = &servers[(leader + 1) % servers.len()];
    let put = other.ctl(&["put", "elsewhere", "1", "-w", "json"]);
    let revision = serde_json::from_str::<serde_json::Value>(&put).unwrap()["header"]["revision"].to_string();
    let _compacted = other.ctl(&["compaction", &revision]);
    is_told_of(other, "abc").await;
    cost_nothing(&nodes, changes, &origin, &load.end().await).await;
    let d = join("d", &cluster, &origin).await;
    agree(&[nodes[0], nodes[1], nodes[2], &d], &["a", "b", "c", "d"]).await;
}
