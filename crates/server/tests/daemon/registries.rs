//! Daemons that register themselves in a real etcd and with a real agent of Consul.

use std::time::Duration;

use larder::cluster::testing::{ConsulServer, EtcdServer, Server};
use larder_core::testing::needs::needs;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::{
    gossip::{agree, all_are_found, keys},
    origin::Origin,
    process::Daemon,
};

const LEASE_TTL: Duration = Duration::from_secs(3);

/// How soon after a crash everybody has to know of it, with a second for a busy machine.
const CRASH_TIME_MAX: Duration = Duration::from_secs(LEASE_TTL.as_secs() + 1 + 1);

/// A node in the cluster that these keys of the configuration describe.
async fn join(name: &str, cluster: &str, origin: &Origin) -> Daemon {
    let config = format!(
        "[node]\nname = \"{name}\"\nlisten = \"127.0.0.1:0\"\npeer = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [cluster]\nlease_ttl = \"{}s\"\n{cluster}\n{}",
        LEASE_TTL.as_secs(),
        origin.group("")
    );
    Daemon::start(&config).await
}

/// While the registry is away all goes on; a node that is killed is out in time, and one that is told to stop at once.
async fn nodes_outlive_the_registry_and_not_their_leases(cluster: &str, mut set_running: impl FnMut(bool)) {
    let origin = Origin::start().await;
    let a = join("a", cluster, &origin).await;
    let b = join("b", cluster, &origin).await;
    let mut c = join("c", cluster, &origin).await;
    agree(&[&a, &b, &c], &["a", "b", "c"]).await;
    assert_eq!(all_are_found(&[&a, &b, &c]).await, 0);
    let changes = a.metric("larder_view_changes_total").await;
    set_running(false);
    // Until no lease stands any more.
    sleep(2 * LEASE_TTL).await;
    assert_eq!(all_are_found(&[&a, &b, &c]).await, 0);
    set_running(true);
    // Until all have registered again, if they had to.
    let d = join("d", cluster, &origin).await;
    agree(&[&a, &b, &c, &d], &["a", "b", "c", "d"]).await;
    assert!(keys().all(|key| origin.loads(&key) == 1), "what is kept was loaded once");
    assert!(a.metric("larder_view_changes_total").await <= changes + 2, "d joined, and served");
    c.kill();
    let gone = agree(&[&a, &b, &d], &["a", "b", "d"]).await;
    assert!(gone <= CRASH_TIME_MAX, "it took {gone:?}");
    assert_eq!(all_are_found(&[&a, &b, &d]).await, 0);
    d.signal(Signal::TERM);
    let gone = agree(&[&a, &b], &["a", "b"]).await;
    assert!(gone < LEASE_TTL, "nobody had to wait for a lease: {gone:?}");
    assert_eq!(d.exit_code().await, Some(0));
}

#[tokio::test]
async fn by_etcd_nodes_outlive_the_registry_and_not_their_leases() {
    if !needs("etcd") {
        return;
    }
    let mut server = EtcdServer::start();
    let cluster = format!("discovery = \"etcd\"\netcd = [\"{}\"]", server.url());
    let set_running = |run| if run { server.restart() } else { server.stop() };
    nodes_outlive_the_registry_and_not_their_leases(&cluster, set_running).await;
}

#[tokio::test]
async fn by_consul_nodes_outlive_the_registry_and_not_their_leases() {
    if !needs("consul") {
        return;
    }
    let mut server = ConsulServer::start();
    let cluster = format!("discovery = \"consul\"\nconsul = \"{}\"", server.url());
    let set_running = |run| if run { server.restart() } else { server.stop() };
    nodes_outlive_the_registry_and_not_their_leases(&cluster, set_running).await;
}
