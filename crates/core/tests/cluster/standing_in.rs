//! Stand-ins of groups that write behind: what they answer while an owner has just died, and when they don't (rule S1).

use larder_core::{
    ErrorKind, MemberState, PeerService,
    behind::{AboutRecords, RecordsCall},
    claim::{SlotCall, SlotRequest},
    testing::fake_records::FakeRecords,
};
use tokio::time::{Instant, advance, sleep, sleep_until};

use super::{
    behind::{Behind, some},
    replicated::{disks, nodes, three},
    *,
};

/// As it comes.
const HOT_LEASE: Duration = Duration::from_secs(1);

/// Longer than it takes until stand-ins have all copies and know it.
const COVERED: Duration = Duration::from_secs(3);

/// Longer than between two questions of a stand-in.
const ASKED: Duration = Duration::from_millis(300);

/// Of a key.
struct Parts {
    owner: usize,
    stand_in: usize,
    third: usize,
}

impl Behind {
    fn parts(&self, key: &str) -> Parts {
        let cluster = &self.cluster;
        Parts { owner: cluster.owner(key), stand_in: cluster.stand_in(key), third: cluster.third(key) }
    }

    fn service(&self, place: usize) -> Arc<dyn PeerService> {
        self.cluster.nodes[place].service(Protocol::Grpc)
    }

    fn revive(&self, place: usize) {
        self.cluster.network.add(self.cluster.nodes[place].name().clone(), self.service(place));
    }

    /// A node took the owner's slots, while it could not reach that, and does not need what another has of a key's slot.
    async fn forgets(&self, place: usize, by: usize, key: &str) {
        let about = AboutRecords::Forget { slots: std::iter::once(slot(key)).collect() };
        let call = SlotCall::Records(RecordsCall { group: "g".into(), about });
        let from = self.cluster.nodes[by].name().clone();
        self.service(place).slots(SlotRequest { from, incarnation: 1, call }).await.unwrap();
    }

    /// Who stands in does not know whether it has all that was written.
    async fn is_not_answered(&self, place: usize, key: &str) {
        let error = self.cluster.get(place, key).await.unwrap_err();
        assert_eq!((error.kind(), error.retry_after().is_some()), (ErrorKind::OwnerUnreachable, true));
    }
}

/// Three nodes that had the time to ask each other, and an origin that has an old value of the key.
async fn covered() -> (Behind, Parts) {
    let behind = three().await;
    behind.table.set("k", "old");
    let parts = behind.parts("k");
    sleep(COVERED).await;
    (behind, parts)
}

#[tokio::test(start_paused = true)]
async fn what_an_owner_that_died_had_not_flushed_is_answered_from_its_copy() {
    let (behind, Parts { owner, stand_in, third }) = covered().await;
    let version = behind.put(owner, "k", "new").await.unwrap();
    sleep(ASKED).await;
    behind.kill(owner);
    for place in [third, stand_in, third] {
        let answer = behind.cluster.get(place, "k").await.unwrap();
        assert_eq!((text(&answer), answer.version), ("new", Some(version)));
    }
    assert_eq!(behind.table.loads(), 0);
    assert_eq!(behind.put(third, "k", "newer").await.unwrap_err().kind(), ErrorKind::OwnerUnreachable);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_its_owner_deleted_stays_away_when_that_dies() {
    let (behind, Parts { owner, third, .. }) = covered().await;
    behind.delete(owner, "k").await.unwrap();
    sleep(ASKED).await;
    behind.kill(owner);
    assert_eq!(behind.get(third, "k").await, None);
    assert_eq!(behind.table.loads(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_an_owner_that_died_had_flushed_is_loaded_once() {
    let (behind, Parts { owner, stand_in, third }) = covered().await;
    behind.put(owner, "k", "new").await.unwrap();
    behind.flush_all(&[owner]).await;
    sleep(ASKED).await;
    behind.kill(owner);
    for place in [third, stand_in] {
        assert_eq!(behind.get(place, "k").await, some("new"));
    }
    assert_eq!(behind.table.loads(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stand_in_answers_no_longer_than_a_lease_after_it_last_heard_of_its_owner() {
    let (behind, Parts { owner, stand_in, third }) = covered().await;
    behind.put(owner, "k", "new").await.unwrap();
    behind.get(third, "flushed").await;
    behind.kill(owner);
    assert_eq!(behind.get(third, "k").await, some("new"));
    advance(HOT_LEASE).await;
    for place in [stand_in, third] {
        behind.is_not_answered(place, "k").await;
    }
}

/// A write that is acknowledged meanwhile may have a copy elsewhere.
#[tokio::test(start_paused = true)]
async fn what_is_loaded_for_longer_than_the_lease_is_no_answer_and_what_was_is_kept_for_no_longer() {
    let (behind, Parts { owner, third, .. }) = covered().await;
    behind.kill(owner);
    assert_eq!(behind.get(third, "k").await, some("old"));
    advance(HOT_LEASE).await;
    behind.is_not_answered(third, "k").await;

    let (behind, Parts { owner, stand_in, .. }) = covered().await;
    behind.kill(owner);
    behind.table.close_loads();
    let slow = behind.cluster.spawn_get(stand_in, "k");
    behind.table.loads_begun(1).await;
    advance(HOT_LEASE).await;
    behind.table.let_loads(1);
    assert_eq!(slow.await.unwrap().unwrap_err().kind(), ErrorKind::OwnerUnreachable);
}

/// As who is lent a copy counts (rule L1).
#[tokio::test(start_paused = true)]
async fn a_stand_in_counts_from_when_it_asked_however_long_the_answer_took() {
    let start = Instant::now();
    let (behind, Parts { owner, stand_in, .. }) = covered().await;
    let (early, late) = (Duration::from_millis(10), Duration::from_millis(200));
    // All have asked from the start on, each time after a quarter of a lease.
    let asks = start + 4 * HOT_LEASE;
    sleep_until(asks - early).await;
    behind.cluster.network.hold(behind.cluster.nodes[owner].name());
    sleep_until(asks + late).await;
    behind.cluster.network.release(behind.cluster.nodes[owner].name());
    quiet().await;
    behind.kill(owner);
    assert_eq!(behind.get(stand_in, "k").await, some("old"));
    sleep_until(asks + HOT_LEASE + early).await;
    behind.is_not_answered(stand_in, "k").await;
}

#[tokio::test(start_paused = true)]
async fn what_was_written_since_a_stand_in_loaded_a_key_is_what_it_answers() {
    let (behind, Parts { owner, stand_in, .. }) = covered().await;
    behind.cluster.kill(owner);
    assert_eq!(behind.get(stand_in, "k").await, some("old"));
    behind.revive(owner);
    behind.put(owner, "k", "new").await.unwrap();
    sleep(ASKED).await;
    behind.kill(owner);
    assert_eq!(behind.get(stand_in, "k").await, some("new"));
    assert_eq!(behind.table.loads(), 1);
}

/// Who is in another view may know of others that have written.
#[tokio::test(start_paused = true)]
async fn an_owner_answers_for_copies_under_the_same_view_only_and_a_later_one_ends_what_it_said() {
    let (behind, Parts { owner, stand_in, .. }) = covered().await;
    let with_one_more = || {
        let joiner = Member { state: MemberState::Joining, ..Member::new("n9", "n9") };
        Members::new(members(&names(3)).iter().cloned().chain([joiner])).unwrap()
    };
    behind.cluster.nodes[stand_in].change_view(with_one_more()).unwrap();
    behind.cluster.kill(owner);
    behind.is_not_answered(stand_in, "k").await;
    behind.revive(owner);
    sleep(COVERED).await;
    behind.cluster.kill(owner);
    behind.is_not_answered(stand_in, "k").await;
    behind.revive(owner);
    behind.cluster.nodes[owner].change_view(with_one_more()).unwrap();
    sleep(COVERED).await;
    behind.kill(owner);
    assert_eq!(behind.get(stand_in, "k").await, some("old"));
}

/// The record of the key may be among them.
#[tokio::test(start_paused = true)]
async fn what_is_loaded_while_copies_are_dropped_is_no_answer() {
    let behind = three().await;
    sleep(COVERED).await;
    // Of one slot.
    let (key, other) = ("{k}1", "{k}2");
    let Parts { owner, stand_in, third } = behind.parts(key);
    behind.put(owner, other, "new").await.unwrap();
    sleep(ASKED).await;
    behind.kill(owner);
    behind.table.close_loads();
    let slow = behind.cluster.spawn_get(stand_in, key);
    behind.table.loads_begun(1).await;
    behind.forgets(stand_in, third, key).await;
    behind.table.let_loads(1);
    assert_eq!(slow.await.unwrap().unwrap_err().kind(), ErrorKind::OwnerUnreachable);
}

#[tokio::test(start_paused = true)]
async fn where_a_copy_had_to_go_elsewhere_a_stand_in_does_not_answer_until_it_has_all_again() {
    let (behind, Parts { owner, stand_in, third }) = covered().await;
    behind.cluster.kill(stand_in);
    behind.put(owner, "k", "new").await.unwrap();
    assert_eq!(behind.records(third, "k").len(), 1);
    sleep(ASKED).await;
    behind.cluster.kill(owner);
    behind.is_not_answered(stand_in, "k").await;

    behind.revive(stand_in);
    behind.revive(owner);
    sleep(COVERED).await;
    assert_eq!(behind.records(stand_in, "k").len(), 1);
    behind.kill(owner);
    assert_eq!(behind.get(third, "k").await, some("new"));
    assert_eq!(behind.table.loads(), 0);
}

/// What is in doubt was not acknowledged, and may have been answered by its owner.
#[tokio::test(start_paused = true)]
async fn while_it_is_in_doubt_whether_it_has_a_copy_a_stand_in_does_not_answer() {
    let (behind, Parts { owner, stand_in, third }) = covered().await;
    behind.cluster.kill(third);
    behind.disks[stand_in].hold(true);
    assert_eq!(behind.put(owner, "k", "new").await.unwrap_err().kind(), ErrorKind::Indeterminate);
    sleep(ASKED).await;
    behind.kill(owner);
    behind.is_not_answered(stand_in, "k").await;
}

/// The origin may have been changed since, and the key invalidated.
#[tokio::test(start_paused = true)]
async fn a_copy_that_missed_its_mark_is_not_answered() {
    let (behind, Parts { owner, stand_in, .. }) = covered().await;
    behind.put(owner, "k", "flushed").await.unwrap();
    behind.cluster.kill(stand_in);
    behind.flush_all(&[owner]).await;
    behind.table.set("k", "changed there");
    behind.cluster.groups[owner].invalidate("k", TIMEOUT).await.unwrap();
    assert_eq!(behind.records(stand_in, "k").len(), 1);
    sleep(ASKED).await;
    behind.kill(owner);
    behind.is_not_answered(stand_in, "k").await;
}

#[tokio::test(start_paused = true)]
async fn what_a_stand_in_has_dropped_it_does_not_answer_for_until_it_was_brought_anew() {
    let (behind, Parts { owner, stand_in, third }) = covered().await;
    behind.put(owner, "k", "new").await.unwrap();
    sleep(ASKED).await;
    behind.forgets(stand_in, third, "k").await;
    assert!(behind.records(stand_in, "k").is_empty());
    behind.cluster.kill(owner);
    behind.is_not_answered(stand_in, "k").await;

    behind.revive(owner);
    sleep(COVERED).await;
    behind.kill(owner);
    assert_eq!(behind.get(stand_in, "k").await, some("new"));
    assert_eq!(behind.table.loads(), 0);
}

/// Nobody's view changes while it is away.
#[tokio::test(start_paused = true)]
async fn a_stand_in_that_starts_again_without_its_disk_is_brought_all_copies() {
    let table = FakeTable::new();
    table.set("k", "old");
    let behind = nodes(disks(2), &table, 2).await;
    let Parts { owner, stand_in, .. } =
        Parts { third: 0, owner: behind.cluster.owner("k"), stand_in: behind.cluster.stand_in("k") };
    behind.put(owner, "k", "new").await.unwrap();
    sleep(COVERED).await;
    behind.kill(stand_in);
    let config = NodeConfig {
        name: behind.cluster.nodes[stand_in].name().clone(),
        http: "".into(),
        ring: Ring::Slots,
        incarnation: 9,
        seed: 9,
        clock: Arc::new(TokioClock::new()),
        transport: Arc::new(behind.cluster.network.of_a_node()),
    };
    let node = Node::new(config, members(&names(2))).unwrap();
    let disk = FakeRecords::new();
    node.set_records(Arc::new(disk.clone()), false).unwrap();
    let origin = Arc::new(table.clone());
    let group =
        node.open_group_behind("g", GroupConfig::default(), origin.clone(), origin, Duration::from_secs(1)).unwrap();
    tokio::spawn(node.clone().claim_slots());
    tokio::spawn(node.clone().keep_records());
    behind.cluster.network.add(node.name().clone(), node.service(Protocol::Grpc));
    assert!(disk.all().is_empty());
    sleep(COVERED).await;
    assert_eq!(disk.all().len(), 1);
    behind.kill(owner);
    assert_eq!(text(&group.get("k", TIMEOUT).await.unwrap()), "new");
    assert_eq!(table.loads(), 0);
}
