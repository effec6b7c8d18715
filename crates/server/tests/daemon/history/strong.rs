//! Groups with strong consistency: what clients of them see is linearizable, whatever befalls nodes and their registry.
//!
//! The groups write through to an origin that takes nothing older than what it has: a node that stood still while it wrote may
//! go on long after others have its keys (see `docs/consistency.md`).

use std::{net::SocketAddr, time::Duration};

use fastrand::Rng;
use larder::cluster::testing::{ConsulServer, EtcdServer};
use rustix::process::Signal;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};

use super::{
    clients::{Clients, Crowd, Does},
    ledger::Ledger,
    linear,
    record::{History, Op, Operation, Outcome},
    torture::{LEAVE_TIME_MAX, REQUESTS_BETWEEN, end, keys, seed},
};
use crate::{
    churn::fleet::Fleet,
    client::within,
    gossip::agree,
    process::Daemon,
    proxy::{Mode, Proxy},
    registries::{LEASE_TTL, Registry, by_each_registry, start_at},
    ways::Ways,
};

/// How many keys there are. Each is asked for often enough that answers out of order would be seen.
const KEYS_LEN: usize = 12;

/// Of how many events in a row one is a fault of each kind: of a node and of the registry.
const KINDS: usize = 5;

/// Writes that have to be done at least in a test.
const WRITES_MIN: usize = 100;

by_each_registry!(what_clients_see_is_linearizable, who_is_cut_off_answers_with_nothing_old);

fn groups(ledger: &Ledger) -> String {
    format!(
        "[groups.strong]\nconsistency = \"strong\"\nwrite = \"through\"\n\
         [groups.strong.origin]\nkind = \"http\"\nurl = \"{}\"\n",
        ledger.url()
    )
}

async fn what_clients_see_is_linearizable(mut registry: impl Registry) {
    let ledger = Ledger::start(seed()).await;
    let mut fleet = Fleet::registered(registry.cluster(), &["a", "b", "c"], &groups(&ledger)).await;
    let (clients, end, mut chance) = (begin(fleet.doors()), end(), Rng::with_seed(seed()));
    clients.go_on_for(REQUESTS_BETWEEN).await;
    let mut kinds: Vec<usize> = (0..KINDS).collect();
    chance.shuffle(&mut kinds);
    for kind in kinds.into_iter().cycle() {
        let name = *chance.choice(&["a", "b", "c"]).unwrap();
        match kind {
            0 => {
                fleet.get(name).signal(Signal::STOP);
                // The pause itself: after half a lease others have not noticed, after four they have its keys.
                sleep(LEASE_TTL.mul_f64(0.5 + 3.5 * chance.f64())).await;
                fleet.get(name).signal(Signal::CONT);
            }
            1 => {
                fleet.remove(name).kill();
                clients.tell_of(fleet.doors());
                fleet.agree().await;
                fleet.add(name).await;
            }
            2 => {
                fleet.add("d").await;
                clients.tell_of(fleet.doors());
                clients.go_on_for(REQUESTS_BETWEEN).await;
                let drained = fleet.remove("d");
                clients.tell_of(fleet.doors());
                drained.signal(Signal::TERM);
                assert_eq!(within(LEAVE_TIME_MAX, "to leave", drained.exit_code()).await, Some(0));
            }
            3 => {
                registry.pause();
                // For longer than a proof counts.
                sleep(LEASE_TTL.mul_f64(1.0 + chance.f64())).await;
                registry.resume();
            }
            _ => {
                registry.kill();
                sleep(LEASE_TTL.mul_f64(chance.f64())).await;
                registry.restart();
            }
        }
        fleet.agree().await;
        clients.tell_of(fleet.doors());
        clients.go_on_for(REQUESTS_BETWEEN).await;
        if Instant::now() > end {
            break;
        }
    }
    judge(&*clients.end().await);
}

/// Clients reach a node that neither the others nor the registry reach.
async fn who_is_cut_off_answers_with_nothing_old<R: Registry>(registry: R) {
    let ledger = Ledger::start(seed()).await;
    let hosts = Ways::between(3).await;
    let (mut nodes, mut ways) = (Vec::new(), Vec::new());
    for (place, name) in ["a", "b", "c"].into_iter().enumerate() {
        let (known, real) = (hosts.advertised(place).ip(), hosts.to(place).ip());
        let listener = TcpListener::bind((known, 0)).await.unwrap();
        let peer = SocketAddr::new(real, listener.local_addr().unwrap().port());
        let listeners = format!("advertise = \"{known}\"\nlisten = \"{real}:0\"\npeer = \"{peer}\"");
        let to_registry = Proxy::before(registry.address()).await;
        let cluster = R::cluster_at(&format!("http://{}", to_registry.address));
        ways.push([Proxy::at(listener, peer), to_registry]);
        nodes.push(start_at(&listeners, name, LEASE_TTL, &cluster, &groups(&ledger)).await);
    }
    let all: Vec<&Daemon> = nodes.iter().collect();
    agree(&all, &["a", "b", "c"]).await;
    let doors = ["a", "b", "c"].iter().zip(&nodes).map(|(name, node)| ((*name).to_owned(), node.clients));
    let (clients, end, mut chance) = (begin(doors.collect()), end(), Rng::with_seed(seed()));
    clients.go_on_for(REQUESTS_BETWEEN).await;
    loop {
        let cut_off = chance.choice(&ways).unwrap();
        cut_off.iter().for_each(|way| way.set(Mode::Stall));
        // Until the others have its keys, and write them.
        sleep(4 * LEASE_TTL).await;
        clients.go_on_for(REQUESTS_BETWEEN).await;
        cut_off.iter().for_each(|way| way.set(Mode::Pass));
        agree(&all, &["a", "b", "c"]).await;
        clients.go_on_for(REQUESTS_BETWEEN).await;
        if Instant::now() > end {
            break;
        }
    }
    judge(&*clients.end().await);
}

/// Readers, writers, and some that write what they have read.
fn begin(doors: Vec<(String, SocketAddr)>) -> Clients {
    let mut clients = Clients::new(doors, seed());
    for (does, per_node, pause_ms) in [(Does::Get, 2, 20), (Does::Write, 1, 60), (Does::Count, 1, 60)] {
        let (keys, pause) = (keys("strong", KEYS_LEN), Duration::from_millis(pause_ms));
        clients.begin(&Crowd { group: "strong", keys, per_node, does, pause, padding: 0 });
    }
    clients
}

#[track_caller]
fn judge(history: &History) {
    let mut writes = 0;
    let mut wrong = Vec::new();
    for mut operations in history.by_key().into_values() {
        writes += operations.iter().filter(|operation| operation.is_done()).count();
        operations.iter_mut().for_each(forgive);
        wrong.extend(linear::check(&operations).err());
    }
    eprintln!("{} requests; {writes} writes done; {} keys wrong", history.len(), wrong.len());
    assert!(wrong.is_empty(), "seed {}:\n{}", seed(), wrong.join("\n"));
    assert!(writes > WRITES_MIN, "{writes} writes");
}

/// A value that is loaded anew has another version, so that a compare-and-set may fail without need (rule V3): one that failed says
/// nothing.
fn forgive(operation: &mut Operation) {
    if matches!((operation.op, operation.outcome), (Op::PutIf(..), Outcome::Refused)) {
        operation.outcome = Outcome::NotDone;
    }
}
