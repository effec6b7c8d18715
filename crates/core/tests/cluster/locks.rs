//! Locks that nodes keep themselves: one node and three, contention, and owners that change, vanish or are cut off.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use larder_core::{
    Clock, ErrorKind, LockService, Locks, MemberState,
    lock::{Acquired, ClusterLocks, Grant, LOCK_TTL_MAX, LOCK_WAIT_MAX, LockName, LockRequest},
    testing::lock::LockBackend,
    version::Reading,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    handoff::{settle, states},
    *,
};

/// For how long nobody is granted a lock whose owner before said nothing.
const QUIET: Duration = LOCK_TTL_MAX;

struct LockCluster {
    cluster: Cluster,
    services: Vec<ClusterLocks>,
    clock: TokioClock,
    /// Which node the suite takes next.
    next: AtomicUsize,
}

impl LockCluster {
    /// A cluster that has never been before, so that it grants at once. With one more node that is joining, if that is wanted.
    async fn first(count: usize, joiners: usize) -> Self {
        Self::start(count, joiners, true).await
    }

    async fn start(count: usize, joiners: usize, is_first: bool) -> Self {
        let network = FakeNetwork::with_claims();
        let clock = TokioClock::new();
        let origin = FakeOrigin::new(1);
        let mut cluster = Cluster::over(&network, count + joiners, &GroupConfig::default(), origin, None);
        let joining: Vec<_> = (count..count + joiners).map(|place| (place, MemberState::Joining)).collect();
        for node in &cluster.nodes {
            node.change_view(states(&cluster, &joining)).unwrap();
            if is_first {
                node.vouch_for_locks();
            }
            cluster.drivers.push(tokio::spawn(node.clone().claim_slots()).abort_handle());
        }
        settle(&cluster).await;
        let services = cluster.nodes.iter().enumerate().map(|(place, node)| {
            let tokens = AtomicU64::new(0);
            let draw = move || Ok((place as u128) << 64 | u128::from(tokens.fetch_add(1, Ordering::Relaxed)));
            ClusterLocks::new(node.clone(), draw)
        });
        Self { services: services.collect(), cluster, clock, next: AtomicUsize::new(0) }
    }

    /// The place of the node that owns a lock.
    fn owner(&self, name: &str) -> usize {
        let owner = self.cluster.nodes[0].lock_owner(&named(name)).unwrap();
        self.cluster.nodes.iter().position(|node| *node.name() == owner).unwrap()
    }

    /// A lock that this node keeps.
    fn lock_of(&self, place: usize) -> String {
        (0..).map(|number| format!("lock {number}")).find(|name| self.owner(name) == place).unwrap()
    }

    async fn acquire(&self, place: usize, name: &str, ttl_secs: u64, wait_secs: u64) -> Result<Option<Grant>, Error> {
        let (ttl, wait) = (Duration::from_secs(ttl_secs), Duration::from_secs(wait_secs));
        match self.services[place].acquire(LockRequest::new(named(name), ttl, wait)?).await? {
            Acquired::Granted(grant) => Ok(Some(grant)),
            Acquired::Held => Ok(None),
        }
    }

    async fn renew(&self, place: usize, name: &str, grant: &Grant) -> Result<bool, Error> {
        Ok(self.services[place].renew(&named(name), &grant.token).await?.is_some())
    }

    async fn release(&self, place: usize, name: &str, grant: &Grant) -> Result<bool, Error> {
        self.services[place].release(&named(name), &grant.token).await
    }

    /// These nodes see each other, and no others, from now on.
    fn see(&self, places: &[usize], all: &[usize]) {
        let names: Vec<String> = all.iter().map(|place| self.cluster.nodes[*place].name().to_string()).collect();
        for place in places {
            self.cluster.nodes[*place].change_view(members(&names)).unwrap();
        }
    }
}

fn named(name: &str) -> LockName {
    LockName::new(name.to_owned()).unwrap()
}

impl LockBackend for LockCluster {
    fn service(&self) -> Arc<dyn LockService> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        Arc::new(self.services[next % self.services.len()].clone())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock)
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(500)
    }

    fn vanish_time_max(&self) -> Duration {
        self.ttl() + Duration::from_secs(5)
    }
}

larder_core::lock_contract!(of_one_node, LockCluster::first(1, 0).await);
larder_core::lock_contract!(of_three_nodes, LockCluster::first(3, 0).await);

#[tokio::test(start_paused = true)]
async fn nine_contenders_on_three_nodes_have_five_hundred_turns_and_nobody_starves() {
    const TURNS: usize = 500;
    const CONTENDERS: usize = 9;
    let locks = LockCluster::first(3, 0).await;
    let held = Arc::new(AtomicBool::new(false));
    let turns: Arc<parking_lot::Mutex<Vec<(usize, u64)>>> = Arc::default();
    let mut contenders = JoinSet::new();
    for contender in 0..CONTENDERS {
        let (service, held, turns) = (locks.services[contender % 3].clone(), held.clone(), turns.clone());
        contenders.spawn(async move {
            while turns.lock().len() < TURNS {
                let request = LockRequest::new(named("contended"), Duration::from_secs(10), LOCK_WAIT_MAX).unwrap();
                let Acquired::Granted(grant) = service.acquire(request).await.unwrap() else { panic!("it is held on") };
                assert!(!held.swap(true, Ordering::SeqCst), "two hold it");
                turns.lock().push((contender, grant.fence));
                sleep(Duration::from_millis(1)).await;
                held.store(false, Ordering::SeqCst);
                assert!(service.release(&named("contended"), &grant.token).await.unwrap());
            }
        });
    }
    while let Some(ended) = contenders.join_next().await {
        ended.unwrap();
    }
    let turns = turns.lock();
    assert!(turns.len() >= TURNS && turns.is_sorted_by(|a, b| a.1 < b.1));
    for contender in 0..CONTENDERS {
        let at: Vec<usize> = (0..turns.len()).filter(|turn| turns[*turn].0 == contender).collect();
        let longest = at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(longest <= 2 * CONTENDERS, "{contender} waited for {longest} turns of others");
    }
}

#[tokio::test(start_paused = true)]
async fn while_an_owner_that_is_gone_may_have_granted_a_lock_nobody_else_gets_it_and_then_somebody_does() {
    let locks = LockCluster::first(3, 0).await;
    let name = locks.lock_of(0);
    let first = locks.acquire(1, &name, 60, 0).await.unwrap().unwrap();
    let sent = Instant::now();
    locks.cluster.kill(0);
    sleep(Duration::from_secs(3)).await;
    locks.see(&[1, 2], &[1, 2]);
    let error = locks.acquire(2, &name, 10, 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoAuthority, "{error}");
    assert!(error.retry_after().is_some_and(|after| after > Duration::from_secs(40)), "{error:?}");
    // The holder is told neither that it has it nor that it hasn't.
    assert_eq!(locks.renew(1, &name, &first).await.unwrap_err().kind(), ErrorKind::NoAuthority);
    assert_eq!(locks.release(1, &name, &first).await.unwrap_err().kind(), ErrorKind::NoAuthority);
    sleep(Duration::from_secs(20)).await;
    let second = locks.acquire(2, &name, 10, 60).await.unwrap().unwrap();
    assert!(second.fence > first.fence);
    assert!(sent.elapsed() >= Duration::from_secs(60), "the first was within its ttl: {:?}", sent.elapsed());
    assert!(sent.elapsed() < QUIET + Duration::from_secs(5), "{:?}", sent.elapsed());
    assert!(!locks.renew(1, &name, &first).await.unwrap());
    assert!(locks.release(2, &name, &second).await.unwrap());
    assert!(locks.acquire(1, &name, 10, 0).await.unwrap().is_some());
}

/// A lock that this node keeps once all nodes serve.
fn lock_of_joiner(locks: &LockCluster) -> String {
    let target = Cluster::plain(locks.cluster.nodes.len());
    let joiner = target.nodes.last().unwrap();
    let is_its = |name: &String| joiner.lock_owner(&named(name)).as_ref() == Some(joiner.name());
    (0..).map(|number| format!("lock {number}")).find(is_its).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_lock_goes_along_with_its_slot_when_a_node_joins_and_when_it_drains() {
    let locks = LockCluster::first(3, 1).await;
    let name = lock_of_joiner(&locks);
    let first = locks.acquire(0, &name, 10, 0).await.unwrap().unwrap();
    let draining = [(3, MemberState::Draining)];
    for changes in [&[][..], &draining[..]] {
        for node in &locks.cluster.nodes {
            node.change_view(states(&locks.cluster, changes)).unwrap();
        }
        assert!(locks.renew(0, &name, &first).await.unwrap(), "{changes:?}");
        assert_eq!(locks.acquire(1, &name, 10, 0).await.unwrap(), None, "{changes:?}");
        settle(&locks.cluster).await;
        let keeps = |place: &usize| !locks.cluster.nodes[*place].kept_locks().is_empty();
        let owner = locks.owner(&name);
        assert!(keeps(&owner) && (owner == 3) == changes.is_empty());
        let kept = locks.cluster.nodes[owner].kept_locks();
        assert_eq!((&kept[0].name, kept[0].fence, &*kept[0].holder), (&named(&name), first.fence, "n0"));
    }
    timeout(TIMEOUT, locks.cluster.nodes[3].handed_over()).await.unwrap();
    locks.cluster.kill(3);
    locks.see(&[0, 1, 2], &[0, 1, 2]);
    assert!(locks.renew(2, &name, &first).await.unwrap());
    assert!(locks.release(1, &name, &first).await.unwrap());
    let second = locks.acquire(2, &name, 10, 0).await.unwrap().unwrap();
    assert!(second.fence > first.fence);
}

#[tokio::test(start_paused = true)]
async fn who_waits_goes_on_waiting_at_the_next_owner() {
    let locks = Arc::new(LockCluster::first(3, 1).await);
    let name = lock_of_joiner(&locks);
    let first = locks.acquire(0, &name, 10, 0).await.unwrap().unwrap();
    let waits = {
        let (locks, name) = (locks.clone(), name.clone());
        tokio::spawn(async move { locks.acquire(1, &name, 10, 30).await })
    };
    sleep(Duration::from_secs(1)).await;
    for node in &locks.cluster.nodes {
        node.change_view(states(&locks.cluster, &[])).unwrap();
    }
    sleep(Duration::from_secs(2)).await;
    assert_eq!(locks.cluster.nodes[3].kept_locks()[0].waiters, 1);
    assert!(locks.release(2, &name, &first).await.unwrap());
    let second = timeout(Duration::from_secs(1), waits).await.unwrap().unwrap().unwrap().unwrap();
    assert!(second.fence > first.fence);
}

#[tokio::test(start_paused = true)]
async fn after_a_start_nothing_is_granted_until_what_was_granted_before_has_run_out() {
    for count in [1, 3] {
        let began = Instant::now();
        let locks = LockCluster::start(count, 0, false).await;
        for wait_secs in [0, 10] {
            let error = locks.acquire(0, "a", 10, wait_secs).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoAuthority);
            let after = error.retry_after().unwrap();
            assert!(after <= QUIET && began.elapsed() + after + Duration::from_secs(1) >= QUIET, "{after:?}");
        }
        sleep(Duration::from_secs(1)).await;
        assert!(locks.acquire(0, "a", 10, 60).await.unwrap().is_some());
        assert!((QUIET..QUIET + Duration::from_secs(3)).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
}

/// What the releaser did not know, the claimer does not know either.
#[tokio::test(start_paused = true)]
async fn a_slot_that_goes_on_while_it_is_quiet_stays_so() {
    let locks = LockCluster::start(3, 1, false).await;
    let name = lock_of_joiner(&locks);
    sleep(Duration::from_secs(20)).await;
    for node in &locks.cluster.nodes {
        node.change_view(states(&locks.cluster, &[])).unwrap();
    }
    settle(&locks.cluster).await;
    let error = locks.acquire(0, &name, 10, 5).await.unwrap_err();
    let after = error.retry_after().unwrap();
    assert!(error.kind() == ErrorKind::NoAuthority && after > Duration::from_secs(35), "{after:?}");
    assert!(after < Duration::from_secs(42), "the rest of it, not all of it anew: {after:?}");
}

/// Each side of a cut is a cluster. Both grant, after a while, and no fence twice.
#[tokio::test(start_paused = true)]
async fn both_sides_of_a_cut_grant_after_a_while_and_what_they_gave_can_be_told_apart() {
    let locks = LockCluster::first(2, 0).await;
    let name = locks.lock_of(0);
    let first = locks.acquire(0, &name, 60, 0).await.unwrap().unwrap();
    for place in [0, 1] {
        locks.cluster.kill(place);
        locks.see(&[place], &[place]);
    }
    let cut = Instant::now();
    // The side of the owner goes on at once.
    assert!(locks.renew(0, &name, &first).await.unwrap());
    sleep(Duration::from_secs(10)).await;
    assert!(locks.renew(0, &name, &first).await.unwrap());
    assert!(locks.acquire(1, &name, 10, 30).await.is_err());
    let second = locks.acquire(1, &name, 60, 60).await.unwrap().unwrap();
    assert!(cut.elapsed() >= QUIET && second.fence > first.fence);
    assert!(locks.renew(0, &name, &first).await.unwrap(), "it holds on its side");
    // At the same moment.
    for number in 0..20 {
        let name = format!("same {number}");
        let (one, other) = tokio::join!(locks.acquire(0, &name, 10, 5), locks.acquire(1, &name, 10, 5));
        let [one, other] = [one, other].map(|grant| grant.unwrap().unwrap().fence);
        assert!(one != other && one / 4_096 == other / 4_096, "{one} {other}");
    }
    // They meet again: the later holder keeps it, and the other hears that it doesn't.
    for node in &locks.cluster.nodes {
        locks.cluster.network.add(node.name().clone(), node.service(Protocol::Grpc));
    }
    locks.see(&[0, 1], &[0, 1]);
    sleep(Duration::from_secs(2)).await;
    settle(&locks.cluster).await;
    assert!(!locks.renew(0, &name, &first).await.unwrap());
    assert!(locks.renew(1, &name, &second).await.unwrap());
    assert!(locks.release(1, &name, &second).await.unwrap());
    // Who lost it may believe in it until its ttl is over.
    assert_eq!(locks.acquire(0, &name, 10, 0).await.unwrap(), None);
    let third = locks.acquire(0, &name, 10, 60).await.unwrap().unwrap();
    assert!(third.fence > second.fence);
}

#[tokio::test(start_paused = true)]
async fn who_vanished_while_it_waited_is_passed_over() {
    let locks = Arc::new(LockCluster::first(3, 0).await);
    let name = locks.lock_of(0);
    let first = locks.acquire(0, &name, 60, 0).await.unwrap().unwrap();
    let waits = {
        let (locks, name) = (locks.clone(), name.clone());
        tokio::spawn(async move { locks.acquire(1, &name, 60, 60).await })
    };
    sleep(Duration::from_secs(1)).await;
    assert_eq!(locks.cluster.nodes[0].kept_locks()[0].waiters, 1);
    waits.abort();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(locks.cluster.nodes[0].kept_locks()[0].waiters, 0);
    assert!(locks.release(2, &name, &first).await.unwrap());
    assert!(locks.acquire(2, &name, 10, 0).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_guard_holds_over_a_change_of_owner_and_is_lost_in_time_where_the_owner_is_gone() {
    let locks = LockCluster::first(3, 1).await;
    let name = lock_of_joiner(&locks);
    let at = Locks::at("n0", locks.services[0].clone(), locks.clock);
    let guard = at.lock(name.clone()).ttl(Duration::from_secs(3)).acquire().await.unwrap();
    for node in &locks.cluster.nodes {
        node.change_view(states(&locks.cluster, &[])).unwrap();
    }
    sleep(Duration::from_secs(10)).await;
    assert!(guard.is_held());
    locks.cluster.kill(3);
    locks.see(&[0, 1, 2], &[0, 1, 2]);
    let gone = Instant::now();
    guard.lost().await;
    assert!(gone.elapsed() <= Duration::from_secs(3), "{:?}", gone.elapsed());
    drop(guard);
}

/// Rule V2: a run that comes after it starts at what is reserved, and its first fence is that of the next millisecond or later.
#[tokio::test(start_paused = true)]
async fn a_fence_that_no_disk_has_reserved_yet_is_not_given() {
    let locks = Arc::new(LockCluster::first(1, 0).await);
    let standing = locks.cluster.nodes[0].standing().clone();
    let reserve = standing.reserve();
    reserve.begin();
    for (wait_secs, name) in [(0, "at once"), (30, "waited for")] {
        reserve.extend(standing.reading());
        let held = if wait_secs > 0 {
            reserve.extend(Reading::from_bits((standing.wall_ms() + 1) << 16));
            locks.acquire(0, name, 60, 0).await.unwrap()
        } else {
            None
        };
        sleep(Duration::from_secs(1)).await;
        let spawn = || {
            let locks = locks.clone();
            tokio::spawn(async move { locks.acquire(0, name, 10, wait_secs).await })
        };
        let taken = spawn();
        quiet().await;
        if let Some(held) = held {
            assert!(locks.release(0, name, &held).await.unwrap());
        }
        // Its own millisecond is not enough: a later run may begin in it.
        reserve.extend(Reading::from_bits(standing.wall_ms() << 16));
        quiet().await;
        assert!(!taken.is_finished(), "{name}");
        reserve.extend(Reading::from_bits((standing.wall_ms() + 1) << 16));
        let grant = taken.await.unwrap().unwrap().unwrap();
        assert!(locks.release(0, name, &grant).await.unwrap());

        // The disk gives no more: nobody gets it, and nobody has it.
        sleep(Duration::from_secs(1)).await;
        reserve.delay(Error::new(ErrorKind::Overloaded, "the disk is full"));
        assert_eq!(spawn().await.unwrap().unwrap_err().kind(), ErrorKind::Overloaded);
        assert_eq!(locks.cluster.nodes[0].kept_locks(), [], "{name}");
        reserve.extend(Reading::from_bits((standing.wall_ms() + 1) << 16));
        let next = locks.acquire(0, name, 10, 0).await.unwrap().unwrap();
        assert!(next.fence > grant.fence);
        assert!(locks.release(0, name, &next).await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn over_a_transport_without_claims_nodes_keep_no_locks() {
    let cluster = Cluster::plain(2);
    let service = ClusterLocks::new(cluster.nodes[0].clone(), || Ok(1));
    for name in ["a", "b", "c", "d"] {
        let request = LockRequest::new(named(name), Duration::from_secs(1), Duration::ZERO).unwrap();
        assert_eq!(service.acquire(request).await.unwrap_err().kind(), ErrorKind::NoAuthority);
    }
}
