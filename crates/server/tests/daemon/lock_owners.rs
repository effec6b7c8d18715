//! What becomes of locks that daemons keep where their owner is killed or cut off, where all nodes are started again, and where they pass on:
//! nobody has one before its holder has lost it, and then somebody does.
//!
//! That takes a minute where nobody can say what was granted. `cargo xtask outages` waits for it, and other runs see that nobody got
//! anything before.

use std::{future::Future, net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use larder::cluster::testing::{ConsulServer, EtcdServer};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};

use crate::{
    client::{get, within},
    cluster::{Cluster, Over},
    gossip::{agree, config_of, first, join_with},
    locks::{free, granted, is_up, renew, take},
    process::{Daemon, POLL_INTERVAL},
    proxy::{Mode, Proxy},
    registries::{LEASE_TTL, Registry, by_each_registry, outage, start_flagged_at},
    ways::Ways,
};

/// How long nobody gets a lock whose owner before did not say what it had granted.
const QUIET: Duration = Duration::from_secs(60);

/// That, a ttl, and some time for a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);

/// Longer than a busy machine takes between two renewals here.
const TTL: Duration = Duration::from_secs(30);

/// How often a holder renews its lock here.
const RENEWAL: Duration = Duration::from_secs(5);

/// So many that each of three nodes keeps some.
const LOCKS_LEN: usize = 24;

/// Whether there is time to wait until nobody can hold what was granted before.
fn has_a_minute() -> bool {
    outage() >= QUIET
}

/// A lock that somebody had.
pub(crate) struct Had {
    name: String,
    token: String,
    fence: u64,
    /// When it was asked for, or renewed last.
    sent: Instant,
}

impl Had {
    /// What becomes of a renewal: a status.
    pub(crate) async fn renew(&mut self, node: &Daemon) -> u16 {
        let sent = Instant::now();
        let answer = node.ask(renew(&self.name, &self.token)).await;
        match answer.status {
            200 => self.sent = sent,
            409 => assert_eq!(answer.problem().1, "lock-lost"),
            _ => assert!(answer.status == 503 && !answer.header("retry-after").is_empty(), "{answer:?}"),
        }
        answer.status
    }

    /// It is the holder's at any of these nodes, once they agree on who owns what.
    async fn is_renewed(&mut self, nodes: &[&Daemon]) {
        for node in nodes {
            let renewed = async {
                while self.renew(node).await != 200 {
                    sleep(POLL_INTERVAL).await;
                }
            };
            within(PATIENCE, "a renewal", renewed).await;
        }
    }

    /// Any of these nodes tells its former holder that it is lost.
    pub(crate) async fn is_lost(&mut self, nodes: &[&Daemon]) {
        for node in nodes {
            let lost = async {
                while self.renew(node).await != 409 {
                    sleep(POLL_INTERVAL).await;
                }
            };
            within(PATIENCE, "the loss", lost).await;
        }
    }

    /// The next holder has it after this one's time, and the greater fence.
    #[track_caller]
    pub(crate) fn is_followed_by(&self, next: &Self, ttl: Duration, at: Instant) {
        assert!(at >= self.sent + ttl, "{} has a holder again after {:?}", self.name, at - self.sent);
        assert!(next.fence > self.fence, "{}: {} after {}", self.name, next.fence, self.fence);
    }
}

fn names() -> impl Iterator<Item = String> {
    (0..LOCKS_LEN).map(|number| format!("lock/{number}"))
}

/// Takes a lock that nobody has.
pub(crate) async fn had(node: &Daemon, name: &str, ttl: Duration) -> Had {
    let sent = Instant::now();
    let (token, fence) = granted(&node.ask(take(name, ttl, RENEWAL)).await);
    Had { name: name.to_owned(), token, fence, sent }
}

/// Takes a lock as soon as that can be done; when that was.
pub(crate) async fn had_at_last(node: &Daemon, name: &str, ttl: Duration) -> (Had, Instant) {
    let taken = async {
        loop {
            let sent = Instant::now();
            let answer = node.ask(take(name, ttl, RENEWAL)).await;
            if answer.status == 200 {
                let (token, fence) = granted(&answer);
                return (Had { name: name.to_owned(), token, fence, sent }, Instant::now());
            }
            assert!(matches!(answer.status, 409 | 503), "{answer:?}");
            sleep(POLL_INTERVAL).await;
        }
    };
    within(PATIENCE, "a lock", taken).await
}

/// All locks, had by way of a node.
async fn all(node: &Daemon) -> Vec<Had> {
    let names: Vec<String> = names().collect();
    join_all(names.iter().map(|name| had(node, name, TTL))).await
}

/// The locks that a node keeps, where all were taken by way of another.
async fn kept_by(node: &Daemon) -> Vec<String> {
    let shown = node.ask(get("/v1/locks")).await.json();
    shown["locks"].as_array().unwrap().iter().map(|lock| lock["name"].as_str().unwrap().to_owned()).collect()
}

/// Nobody gets any of these locks at a node.
async fn none_is_had(node: &Daemon, names: impl Iterator<Item = &String>) {
    join_all(names.map(async |name| {
        let answer = node.ask(take(name, TTL, Duration::ZERO)).await;
        assert!(matches!(answer.status, 409 | 503), "a second holder of {name}: {answer:?}");
    }))
    .await;
}

/// A node says of a lock that it may be another's, and nobody can know.
async fn has_no_authority(node: &Daemon, name: &str) -> String {
    let answer = node.ask(take(name, TTL, Duration::ZERO)).await;
    assert_eq!(answer.problem(), (503, "no-authority".to_owned()), "{name}");
    assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
    answer.json()["detail"].as_str().unwrap().to_owned()
}

/// Does this while all these locks are renewed at a node.
async fn renewed_meanwhile<T>(node: &Daemon, locks: &mut [Had], work: impl Future<Output = T>) -> T {
    let renewals = async {
        loop {
            sleep(RENEWAL).await;
            for lock in &mut *locks {
                assert_eq!(lock.renew(node).await, 200, "{}", lock.name);
            }
        }
    };
    tokio::select! {
        () = renewals => unreachable!("they go on"),
        done = work => done,
    }
}

#[tokio::test]
async fn what_a_killed_owner_had_granted_is_nobodys_before_its_time_and_then_somebodys() {
    let a = first("a").await;
    let b = join_with("b", &[&a], "").await;
    let mut c = join_with("c", &[&a], "").await;
    agree(&[&a, &b, &c], &["a", "b", "c"]).await;
    let locks = all(&a).await;
    let of_c = kept_by(&c).await;
    let (mut lost, mut others): (Vec<Had>, Vec<Had>) = locks.into_iter().partition(|lock| of_c.contains(&lock.name));
    assert!(!lost.is_empty() && !others.is_empty());
    c.kill();
    // Before anybody knows, and after.
    for wait in [false, true] {
        if wait {
            agree(&[&a, &b], &["a", "b"]).await;
        }
        for node in [&a, &b] {
            none_is_had(node, lost.iter().chain(&others).map(|lock| &lock.name)).await;
        }
    }
    for lock in &mut others {
        assert_eq!(lock.renew(&b).await, 200, "{} is not the killed node's", lock.name);
    }
    for lock in &mut lost {
        assert_eq!(lock.renew(&a).await, 503, "nobody knows whether {} is held", lock.name);
        has_no_authority(&b, &lock.name).await;
    }
    if !has_a_minute() {
        return;
    }
    let next = join_all(lost.iter().map(|lock| had_at_last(&b, &lock.name, TTL)));
    let next = renewed_meanwhile(&a, &mut others, next).await;
    for (lock, (mut next, at)) in lost.iter_mut().zip(next) {
        lock.is_followed_by(&next, TTL, at);
        lock.is_lost(&[&a, &b]).await;
        next.is_renewed(&[&a, &b]).await;
    }
}

#[tokio::test]
async fn where_all_nodes_are_started_again_nobody_gets_a_lock_before_its_time_and_then_somebody_does() {
    let mut cluster = Cluster::with_flags(Over::Grpc, &["abc"; 3], "", &["--first-start"]).await;
    let locks = all(&cluster[0]).await;
    for index in 0..3 {
        cluster[index].kill();
    }
    for index in 0..3 {
        cluster.restart(index).await;
    }
    for node in &cluster.nodes {
        none_is_had(node, locks.iter().map(|lock| &lock.name)).await;
    }
    if !has_a_minute() {
        return;
    }
    let next = join_all(locks.iter().map(|lock| had_at_last(&cluster[1], &lock.name, TTL))).await;
    for (lock, (next, at)) in locks.iter().zip(&next) {
        lock.is_followed_by(next, TTL, *at);
    }
}

/// The next owner is told how much of its ttl is left, and no more.
#[tokio::test]
async fn a_lock_that_has_passed_on_ends_with_its_ttl_and_not_before() {
    const SHORT_TTL: Duration = Duration::from_secs(3);
    let a = first("a").await;
    let names: Vec<String> = names().collect();
    let locks = join_all(names.iter().map(|name| had(&a, name, SHORT_TTL))).await;
    let b = join_with("b", &[&a], "").await;
    agree(&[&a, &b], &["a", "b"]).await;
    let next = join_all(names.iter().map(|name| had_at_last(&b, name, TTL))).await;
    for (lock, (next, at)) in locks.iter().zip(&next) {
        lock.is_followed_by(next, SHORT_TTL, *at);
    }
    assert!(!kept_by(&a).await.is_empty() && kept_by(&a).await.len() < LOCKS_LEN, "some have passed on");
}

/// Two nodes that know each other by addresses that are cut off where their proxies stall, and gossip.
async fn two_sides() -> (Ways, [Proxy; 2], [Daemon; 2]) {
    let ways = Ways::between(2).await;
    let (mut proxies, mut nodes) = (Vec::new(), Vec::new());
    for (place, name) in ["a", "b"].into_iter().enumerate() {
        let (listeners, proxy) = between(&ways, place).await;
        proxies.push(proxy);
        let config = config_of(name, &listeners, &ways.to(place).to_string(), &[ways.advertised(0)], "");
        nodes.push(Daemon::start_flagged(&config, &["--first-start"]).await);
    }
    let two = |_| unreachable!("there are two");
    (ways, proxies.try_into().unwrap_or_else(two), nodes.try_into().unwrap_or_else(|_| unreachable!("there are two")))
}

/// Where a node listens that others reach by way of a proxy.
async fn between(ways: &Ways, place: usize) -> (String, Proxy) {
    let (known, real) = (ways.advertised(place).ip(), ways.to(place).ip());
    let listener = TcpListener::bind((known, 0)).await.unwrap();
    let peer = SocketAddr::new(real, listener.local_addr().unwrap().port());
    let listeners = format!("advertise = \"{known}\"\nlisten = \"{real}:0\"\npeer = \"{peer}\"");
    (listeners, Proxy::at(listener, peer))
}

#[tokio::test]
async fn of_a_cluster_cut_in_two_the_owners_side_goes_on_and_the_other_follows_with_greater_fences() {
    let (ways, proxies, [a, b]) = two_sides().await;
    agree(&[&a, &b], &["a", "b"]).await;
    let locks = all(&a).await;
    let of_b = kept_by(&b).await;
    let (mut of_b, mut of_a): (Vec<Had>, Vec<Had>) = locks.into_iter().partition(|lock| of_b.contains(&lock.name));
    assert!(!of_a.is_empty() && !of_b.is_empty());
    ways.cut();
    proxies.iter().for_each(|proxy| proxy.set(Mode::Stall));
    let (one, other) = ([&a], [&b]);
    tokio::join!(agree(&one, &["a"]), agree(&other, &["b"]));
    let mut sides = [(&a, &b, &mut of_a), (&b, &a, &mut of_b)];
    for (owner, other, locks) in &mut sides {
        for lock in &mut **locks {
            assert_eq!((lock.renew(owner).await, lock.renew(other).await), (200, 503), "{}", lock.name);
            has_no_authority(other, &lock.name).await;
        }
        none_is_had(owner, locks.iter().map(|lock| &lock.name)).await;
        // What is free there is to be had there.
        let last = locks.pop().unwrap();
        assert_eq!(owner.ask(free(&last.name, &last.token)).await.status, 204);
        let next = had(owner, &last.name, TTL).await;
        assert!(next.fence > last.fence);
        has_no_authority(other, &next.name).await;
        locks.push(next);
    }
    let mut later = Vec::new();
    if has_a_minute() {
        for (owner, other, locks) in &mut sides {
            let names: Vec<String> = locks.iter().map(|lock| lock.name.clone()).collect();
            let next = join_all(names.iter().map(|name| had_at_last(other, name, TTL)));
            // Both are held, each on its side.
            let next = renewed_meanwhile(owner, locks, next).await;
            later.extend(next.into_iter().map(|(next, _)| next));
        }
        // At the same moment, too, each side gives fences of its own.
        let new: Vec<String> = (0..LOCKS_LEN).map(|number| format!("new/{number}")).collect();
        let both = new.iter().map(async |name| tokio::join!(had_at_last(&a, name, TTL), had_at_last(&b, name, TTL)));
        for ((one, _), (other, _)) in join_all(both).await {
            assert_ne!(one.fence, other.fence, "{}", one.name);
        }
    }
    proxies.iter().for_each(|proxy| proxy.set(Mode::Pass));
    ways.mend();
    agree(&[&a, &b], &["a", "b"]).await;
    let first = of_a.into_iter().chain(of_b);
    if !has_a_minute() {
        for mut lock in first {
            lock.is_renewed(&[&a, &b]).await;
            none_is_had(&a, [&lock.name].into_iter()).await;
        }
        return;
    }
    for mut lock in first {
        let mut next = later.remove(later.iter().position(|next| next.name == lock.name).unwrap());
        assert!(next.fence > lock.fence, "{}: {} after {}", lock.name, next.fence, lock.fence);
        lock.is_lost(&[&a, &b]).await;
        next.is_renewed(&[&a, &b]).await;
        assert_eq!(b.ask(free(&next.name, &next.token)).await.status, 204);
        let (third, at) = had_at_last(&a, &lock.name, TTL).await;
        // Who was told at its renewal, and not before, may have gone on until its time was over.
        lock.is_followed_by(&third, TTL, at);
        assert!(third.fence > next.fence);
    }
}

by_each_registry!(who_is_cut_off_grants_nothing_without_a_proof_and_who_follows_waits_for_its_locks);

/// Clients reach an owner of locks that neither the other node nor the registry reaches.
async fn who_is_cut_off_grants_nothing_without_a_proof_and_who_follows_waits_for_its_locks<R: Registry>(registry: R) {
    let hosts = Ways::between(2).await;
    let (mut nodes, mut ways) = (Vec::new(), Vec::new());
    for (place, name) in ["a", "b"].into_iter().enumerate() {
        let (listeners, proxy) = between(&hosts, place).await;
        let to_registry = Proxy::before(registry.address()).await;
        let cluster = R::cluster_at(&format!("http://{}", to_registry.address));
        ways.push((proxy, to_registry));
        let node = start_flagged_at(&listeners, name, LEASE_TTL, &cluster, "", &["--first-start"]).await;
        // What one without a proof says to who comes after it of the locks that there are counts for nothing.
        is_up(&node).await;
        nodes.push(node);
    }
    let (a, b) = (&nodes[0], &nodes[1]);
    agree(&[a, b], &["a", "b"]).await;
    let locks = all(b).await;
    let of_a = kept_by(a).await;
    let (mut of_a, mut of_b): (Vec<Had>, Vec<Had>) = locks.into_iter().partition(|lock| of_a.contains(&lock.name));
    let freed = of_a.pop().unwrap();
    assert!(!of_a.is_empty() && !of_b.is_empty());
    assert_eq!(b.ask(free(&freed.name, &freed.token)).await.status, 204);

    let set = |mode| [&ways[0].0, &ways[0].1, &ways[1].0].into_iter().for_each(|proxy| proxy.set(mode));
    set(Mode::Stall);
    let no_proof = async {
        while of_a[0].renew(a).await != 503 {
            sleep(POLL_INTERVAL).await;
        }
    };
    within(PATIENCE, "the end of the last proof", no_proof).await;
    for lock in &mut of_a {
        assert_eq!(lock.renew(a).await, 503, "{}", lock.name);
    }
    let said = has_no_authority(a, &freed.name).await;
    assert!(said.contains("can't prove"), "{said}");
    agree(&[b], &["b"]).await;
    for lock in &mut of_a {
        assert_eq!(lock.renew(b).await, 503, "{}", lock.name);
    }
    // Nor what was free, of which the other node has not heard that it is.
    for name in of_a.iter().map(|lock| &lock.name).chain([&freed.name]) {
        has_no_authority(b, name).await;
    }
    for lock in &mut of_b {
        assert_eq!(lock.renew(b).await, 200, "{}", lock.name);
    }
    let mut later = Vec::new();
    if has_a_minute() {
        let next = join_all(of_a.iter().map(|lock| had_at_last(b, &lock.name, TTL)));
        for (lock, (next, at)) in of_a.iter().zip(renewed_meanwhile(b, &mut of_b, next).await) {
            lock.is_followed_by(&next, TTL, at);
            later.push(next);
        }
        has_no_authority(a, &freed.name).await;
    }
    set(Mode::Pass);
    agree(&[a, b], &["a", "b"]).await;
    for lock in &mut of_b {
        lock.is_renewed(&[a, b]).await;
    }
    for node in [a, b] {
        none_is_had(node, of_a.iter().chain(&of_b).map(|lock| &lock.name)).await;
    }
    // Who is back has not heard of what the other granted in its place, and waits until that is over.
    let third = join_all(later.iter().map(|next| had_at_last(a, &next.name, TTL))).await;
    for (next, (third, at)) in later.iter().zip(&third) {
        next.is_followed_by(third, TTL, *at);
    }
}
