//! Groups with strong consistency: no answer without proof (rules A2 and C6).

use larder_core::{
    ErrorKind, LockService, MemberState, Membership, Moment, Outcome, Proof, Value,
    group::Consistency,
    lock::{Acquired, ClusterLocks, LockName, LockRequest},
    peer::Condition,
    store::Tier,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::*;
use crate::handoff::states;

/// The registry's lease.
const LEASE_TTL: Duration = Duration::from_secs(5);

/// What a node hears from its registry, as the test has it.
struct Heard {
    members: watch::Sender<Members>,
    proofs: watch::Sender<Option<Proof>>,
}

impl Membership for Heard {
    fn members(&self) -> watch::Receiver<Members> {
        self.members.subscribe()
    }

    fn authority(&self) -> Option<watch::Receiver<Option<Proof>>> {
        Some(self.proofs.subscribe())
    }
}

struct Strong {
    cluster: Cluster,
    heard: Vec<Arc<Heard>>,
    rank: u64,
}

impl Strong {
    /// Two serving nodes and one that is joining, with what proofs they need.
    async fn start(table: &FakeTable) -> Self {
        let config = GroupConfig { consistency: Consistency::Strong, ..GroupConfig::default() };
        let mut cluster = Cluster::through(&FakeNetwork::with_claims(), 3, &config, table);
        let list = states(&cluster, &[(2, MemberState::Joining)]);
        let mut heard = Vec::new();
        for node in &cluster.nodes {
            let (members, proofs) = (watch::Sender::new(list.clone()), watch::Sender::new(None));
            let its = Arc::new(Heard { members, proofs });
            tokio::spawn(node.clone().follow(its.clone()));
            cluster.drivers.push(tokio::spawn(node.clone().claim_slots()).abort_handle());
            heard.push(its);
        }
        let strong = Self { cluster, heard, rank: 0 };
        strong.prove_for(LEASE_TTL + Duration::from_secs(1), &[0, 1]).await;
        strong
    }

    fn now(&self) -> Moment {
        self.cluster.nodes[0].clock().now()
    }

    /// A node's read of all members is answered.
    fn prove(&self, place: usize) {
        let (members, sent) = (self.heard[place].members.borrow().clone(), self.now());
        let until = sent + LEASE_TTL * 9 / 10;
        self.heard[place].proofs.send_replace(Some(Proof { members, sent, until }));
    }

    /// These nodes have a proof each second for so long.
    async fn prove_for(&self, time: Duration, places: &[usize]) {
        let end = Instant::now() + time;
        loop {
            for place in places {
                self.prove(*place);
            }
            quiet().await;
            if Instant::now() >= end {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// These nodes hear of the list.
    async fn tell(&mut self, list: Members, places: &[usize]) {
        self.rank += 1;
        for place in places {
            self.heard[*place].members.send_replace(list.clone().ranked(self.rank));
        }
        sleep(Duration::from_millis(100)).await;
    }

    fn key_of(&self, owner: usize) -> String {
        (0..1_000).map(|n| format!("k{n}")).find(|key| self.cluster.owner(key) == owner).unwrap()
    }

    async fn put(&self, place: usize, key: &str, value: &str) -> Result<(), Error> {
        let put = self.cluster.groups[place].put(key, Value::from(value.to_owned()), None, Condition::Always, TIMEOUT);
        put.await.map(drop)
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test(start_paused = true)]
async fn with_proof_every_node_answers_and_nothing_is_lent() {
    let table = FakeTable::new();
    let strong = Strong::start(&table).await;
    let key = strong.key_of(0);
    strong.put(1, &key, "v").await.unwrap();
    for _ in 0..100 {
        let answer = strong.cluster.get(1, &key).await.unwrap();
        assert_eq!(text(&answer), "v");
        assert_ne!(answer.outcome, Outcome::Hit(Tier::Hot));
    }
    assert_eq!(strong.cluster.get(0, &key).await.unwrap().outcome, Outcome::Hit(Tier::Main));
}

/// Rule A2: a proof counts for 0.9 times the lease, and a value that was cached while it did is none without it.
#[tokio::test(start_paused = true)]
async fn without_proof_nothing_is_answered_and_nothing_written() {
    let table = FakeTable::new();
    let strong = Strong::start(&table).await;
    let key = strong.key_of(0);
    strong.put(0, &key, "v").await.unwrap();
    sleep(LEASE_TTL * 9 / 10 - Duration::from_millis(1)).await;
    assert_eq!(text(&strong.cluster.get(0, &key).await.unwrap()), "v");
    sleep(Duration::from_millis(1)).await;
    for place in [0, 1] {
        assert_eq!(kind(strong.cluster.get(place, &key).await), ErrorKind::NoAuthority);
        assert_eq!(kind(strong.put(place, &key, "w").await), ErrorKind::NoAuthority);
    }
    assert_eq!(table.row(&key).as_deref(), Some("v"));
}

/// Somebody else may have acted meanwhile.
#[tokio::test(start_paused = true)]
async fn after_a_moment_without_proof_what_is_cached_is_forgotten_and_a_lease_is_waited() {
    let table = FakeTable::new();
    let strong = Strong::start(&table).await;
    let key = strong.key_of(0);
    strong.put(0, &key, "old").await.unwrap();
    sleep(LEASE_TTL).await;
    table.set(&key, "new");
    strong.prove(0);
    quiet().await;
    assert_eq!(kind(strong.cluster.get(0, &key).await), ErrorKind::NoAuthority, "too soon");
    strong.prove_for(LEASE_TTL + Duration::from_secs(1), &[0]).await;
    assert_eq!(text(&strong.cluster.get(0, &key).await.unwrap()), "new");
}

/// Rule C6: who could prove that it had a slot hands it over at once.
#[tokio::test(start_paused = true)]
async fn a_slot_that_is_released_with_proof_is_answered_for_with_the_next_proof() {
    let table = FakeTable::new();
    let mut strong = Strong::start(&table).await;
    let all = states(&strong.cluster, &[]);
    let target = Cluster::through(&FakeNetwork::default(), 3, &GroupConfig::default(), &table);
    let key = (0..1_000).map(|n| format!("k{n}")).find(|key| target.owner(key) == 2).unwrap();
    strong.put(0, &key, "v").await.unwrap();
    strong.prove_for(Duration::ZERO, &[0, 1, 2]).await;
    strong.tell(all, &[0, 1, 2]).await;
    strong.prove_for(Duration::from_secs(1), &[0, 1]).await;
    assert_eq!(kind(strong.cluster.get(2, &key).await), ErrorKind::NoAuthority, "it has no proof of this view");
    let start = Instant::now();
    strong.prove_for(Duration::from_secs(1), &[0, 1, 2]).await;
    let since_start = start.elapsed();
    // Its first proof, though: what it had before may have run out.
    strong.prove_for(LEASE_TTL, &[0, 1, 2]).await;
    for place in 0..3 {
        assert_eq!(text(&strong.cluster.get(place, &key).await.unwrap()), "v", "at {place} after {since_start:?}");
    }
}

/// Rule C6: who releases a slot has most often heard of the view that takes it away, and has no proof of that one yet. Its last proof before
/// counts, as long as it does; proofs of the view in which the slot is another's say nothing of it.
#[tokio::test(start_paused = true)]
async fn what_a_releaser_could_prove_last_counts_until_that_runs_out() {
    let table = FakeTable::new();
    let target = Cluster::through(&FakeNetwork::default(), 3, &GroupConfig::default(), &table);
    let key = (0..1_000).map(|n| format!("k{n}")).find(|key| target.owner(key) == 2).unwrap();
    for (heard_earlier_by, is_waited_for) in [(Duration::ZERO, false), (LEASE_TTL, true)] {
        let mut strong = Strong::start(&table).await;
        let all = states(&strong.cluster, &[]);
        strong.put(0, &key, "v").await.unwrap();
        strong.prove_for(LEASE_TTL, &[0, 1, 2]).await;
        strong.tell(all.clone(), &[0, 1]).await;
        strong.prove_for(heard_earlier_by, &[0, 1, 2]).await;
        strong.tell(all, &[2]).await;
        strong.prove_for(Duration::from_secs(1), &[2]).await;
        let got = strong.cluster.get(2, &key).await;
        assert_eq!(got.is_err_and(|error| error.kind() == ErrorKind::NoAuthority), is_waited_for);
        strong.prove_for(LEASE_TTL, &[0, 1, 2]).await;
        assert_eq!(text(&strong.cluster.get(2, &key).await.unwrap()), "v");
    }
}

/// Rule C6: an owner that is cut off may act for as long as its proof counts, and nobody else does meanwhile.
#[tokio::test(start_paused = true)]
async fn who_takes_over_from_a_node_that_is_cut_off_waits_until_its_proof_has_run_out() {
    let table = FakeTable::new();
    let mut strong = Strong::start(&table).await;
    let (key, start) = (strong.key_of(0), Instant::now());
    strong.put(0, &key, "old").await.unwrap();
    strong.prove_for(Duration::ZERO, &[0, 1]).await;
    strong.cluster.network.hold("n0");
    let with_joiner = states(&strong.cluster, &[(2, MemberState::Joining)]);
    let rest = with_joiner.iter().filter(|member| *member.name != *"n0").cloned();
    strong.tell(Members::new(rest).unwrap(), &[1, 2]).await;
    let (mut last_by_old, mut first_by_new) = (None, None);
    while start.elapsed() < 3 * LEASE_TTL {
        strong.prove_for(Duration::ZERO, &[1]).await;
        let brief = Duration::from_millis(10);
        if strong.cluster.groups[0].get(&key, brief).await.is_ok() {
            last_by_old = Some(Instant::now());
        }
        let put = strong.cluster.groups[1].put(&key, Value::from("new"), None, Condition::Always, brief).await;
        if put.is_ok() {
            first_by_new.get_or_insert_with(Instant::now);
        }
        sleep(Duration::from_millis(250)).await;
    }
    let (last_by_old, first_by_new) = (last_by_old.unwrap(), first_by_new.unwrap());
    assert!(last_by_old < first_by_new, "{:?} {:?}", last_by_old - start, first_by_new - start);
    assert_eq!(table.row(&key).as_deref(), Some("new"));
}

/// Rule C4: a node that heard neither of the view without it nor of the claim knows nothing of what was granted in its place.
#[tokio::test(start_paused = true)]
async fn who_had_no_proof_for_so_long_that_others_granted_its_locks_does_not_grant_them_at_once() {
    let table = FakeTable::new();
    for (gap_secs, is_quiet) in [(40, false), (61, true)] {
        let strong = Strong::start(&table).await;
        let node = &strong.cluster.nodes[0];
        node.vouch_for_locks();
        let locks = ClusterLocks::new(node.clone(), || Ok(1));
        let names = (0..).map(|number| LockName::new(format!("lock {number}")).unwrap());
        let name = names.into_iter().find(|name| node.lock_owner(name).as_ref() == Some(node.name())).unwrap();
        let request = LockRequest::new(name, Duration::from_secs(1), Duration::ZERO).unwrap();
        assert!(matches!(locks.acquire(request.clone()).await.unwrap(), Acquired::Granted(_)));
        sleep(Duration::from_secs(gap_secs)).await;
        strong.prove_for(LEASE_TTL * 2, &[0, 1]).await;
        let taken = locks.acquire(request.clone()).await;
        assert_eq!(taken.is_err_and(|error| error.kind() == ErrorKind::NoAuthority), is_quiet, "{gap_secs}");
        strong.prove_for(Duration::from_secs(60), &[0, 1]).await;
        assert!(matches!(locks.acquire(request).await.unwrap(), Acquired::Granted(_)));
    }
}

/// No stand-in answers for a strong group.
#[tokio::test(start_paused = true)]
async fn an_owner_that_is_away_is_waited_for_and_not_stood_in_for() {
    let table = FakeTable::new();
    let strong = Strong::start(&table).await;
    let key = strong.key_of(0);
    table.set(&key, "v");
    strong.cluster.kill(0);
    assert_eq!(kind(strong.cluster.get(1, &key).await), ErrorKind::OwnerUnreachable);
    assert_eq!(table.loads(), 0);
}
