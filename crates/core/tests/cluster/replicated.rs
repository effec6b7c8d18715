//! Write-behind among several nodes: second copies, marks, and what becomes of records when nodes come, go and start again (rules B1
//! and B4 to B6).

use larder_core::{
    ErrorKind, MemberState, Value, Version,
    behind::{Holder, PIECE_LEN, Record},
    group::WriteOptions,
    peer::{Condition, WriteOp},
    testing::fake_records::FakeRecords,
};
use tokio::time::{sleep, timeout};

use super::{
    behind::{Behind, some},
    handoff::{settle, states},
    leases::heat,
    *,
};

pub(super) fn disks(count: usize) -> Vec<FakeRecords> {
    (0..count).map(|_| FakeRecords::new()).collect()
}

/// Nodes with these disks, of which the first `up` are there.
pub(super) async fn nodes(disks: Vec<FakeRecords>, table: &FakeTable, up: usize) -> Behind {
    let mut behind = Behind::with(&FakeNetwork::with_claims(), disks, &GroupConfig::default(), table);
    for place in up..behind.disks.len() {
        behind.cluster.kill(place);
    }
    for node in &behind.cluster.nodes[..up] {
        behind.cluster.drivers.push(tokio::spawn(node.clone().claim_slots()).abort_handle());
    }
    if up == behind.disks.len() {
        settle(&behind.cluster).await;
    }
    behind
}

pub(super) async fn three() -> Behind {
    nodes(disks(3), &FakeTable::new(), 3).await
}

impl Behind {
    /// The records of a key on a node's disk.
    pub(super) fn records(&self, place: usize, key: &str) -> Vec<Record> {
        let records = self.disks[place].all().into_iter();
        records.filter(|record| record.id.place.key.as_bytes() == key.as_bytes()).collect()
    }

    /// Who holds a key's records, and for whom.
    pub(super) fn holders(&self, key: &str) -> Vec<(usize, Holder)> {
        let of = |place| self.records(place, key).into_iter().map(move |record| (place, record.holder));
        (0..self.disks.len()).flat_map(of).collect()
    }

    /// A node goes, and does nothing any more.
    pub(super) fn kill(&self, place: usize) {
        self.cluster.kill(place);
        if let Some(driver) = self.cluster.drivers.get(place) {
            driver.abort();
        }
    }

    /// The nodes that are left have a view without the others.
    pub(super) fn leave(&self, left: &[usize]) {
        let names: Vec<String> = left.iter().map(|place| self.cluster.nodes[*place].name().to_string()).collect();
        for place in left {
            self.cluster.nodes[*place].change_view(members(&names)).unwrap();
        }
    }

    pub(super) async fn flush_all(&self, places: &[usize]) {
        for place in places {
            self.disks[*place].flush().await.unwrap();
        }
    }

    /// Waits until a key has a value at a node, for as long as members may take that don't answer.
    pub(super) async fn until(&self, place: usize, key: &str, value: Option<&str>) {
        let has = async {
            loop {
                let answer = self.cluster.get(place, key).await;
                let has = answer.map(|answer| answer.value.map(|value| String::from_utf8_lossy(&value).into_owned()));
                if has.is_ok_and(|has| has.as_deref() == value) {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(60), has).await.unwrap();
    }

    pub(super) fn copy_for(&self, place: usize) -> Holder {
        Holder::CopyFor(self.cluster.nodes[place].name().clone())
    }
}

/// Rule B1.
#[tokio::test(start_paused = true)]
async fn a_write_is_on_two_disks_before_it_is_acknowledged() {
    let behind = three().await;
    let (owner, stand_in, third) = (behind.cluster.owner("k"), behind.cluster.stand_in("k"), behind.cluster.third("k"));
    behind.disks[stand_in].hold(true);
    let group = behind.cluster.groups[third].clone();
    let put = tokio::spawn(async move { group.put("k", Value::from("new"), None, Condition::Always, TIMEOUT).await });
    behind.disks[stand_in].appends_begun(1).await;
    assert_eq!(behind.holders("k"), [(owner, Holder::Owner)]);
    quiet().await;
    assert!(!put.is_finished());
    behind.disks[stand_in].hold(false);
    put.await.unwrap().unwrap();
    let mut holders = behind.holders("k");
    holders.sort_by_key(|(place, _)| *place != owner);
    assert_eq!(holders, [(owner, Holder::Owner), (stand_in, behind.copy_for(owner))]);
    for place in 0..3 {
        assert_eq!(behind.get(place, "k").await, some("new"));
    }
}

impl Behind {
    /// A put whose owner's disk is held up, and whose copy is kept already.
    async fn put_that_is_copied(
        &self,
        key: &'static str,
    ) -> tokio::task::JoinHandle<Result<Option<Version>, larder_core::Error>> {
        let (owner, stand_in) = (self.cluster.owner(key), self.cluster.stand_in(key));
        self.disks[owner].hold(true);
        let group = self.cluster.groups[owner].clone();
        let put = async move { group.put(key, Value::from("new"), None, Condition::Always, TIMEOUT).await };
        let put = tokio::spawn(put);
        self.disks[stand_in].appends_begun(1).await;
        quiet().await;
        assert_eq!(self.holders(key), [(stand_in, self.copy_for(owner))]);
        assert!(!put.is_finished());
        put
    }
}

/// Rule B1: neither disk waits for the other.
#[tokio::test(start_paused = true)]
async fn a_write_goes_to_both_disks_at_the_same_time() {
    let behind = three().await;
    let put = behind.put_that_is_copied("k").await;
    behind.disks[behind.cluster.owner("k")].hold(false);
    put.await.unwrap().unwrap();
    assert_eq!(behind.holders("k").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_its_owner_has_no_room_for_is_taken_back_from_the_other_disk() {
    let behind = three().await;
    let (owner, put) = (behind.cluster.owner("k"), behind.put_that_is_copied("k").await);
    behind.disks[owner].refuse(Some(larder_core::Error::new(ErrorKind::Overloaded, "the disk is full")));
    behind.disks[owner].hold(false);
    assert_eq!(put.await.unwrap().unwrap_err().kind(), ErrorKind::Overloaded);
    assert_eq!(behind.holders("k"), []);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_taken_back_is_in_doubt() {
    let behind = three().await;
    let (owner, put) = (behind.cluster.owner("k"), behind.put_that_is_copied("k").await);
    behind.disks[owner].refuse(Some(larder_core::Error::new(ErrorKind::Overloaded, "the disk is full")));
    behind.kill(behind.cluster.stand_in("k"));
    behind.disks[owner].hold(false);
    assert_eq!(put.await.unwrap().unwrap_err().kind(), ErrorKind::Indeterminate);
}

/// Rule H2: who had the slot does not know that its copy was brought to the origin.
#[tokio::test(start_paused = true)]
async fn what_a_new_owner_found_and_flushed_is_not_hidden_by_what_the_one_before_holds() {
    let behind = three().await;
    let (owner, stand_in) = (behind.cluster.owner("k"), behind.cluster.stand_in("k"));
    behind.put(owner, "k", "old").await.unwrap();
    behind.flush_all(&[owner]).await;
    let put = behind.put_that_is_copied("k").await;
    for node in &behind.cluster.nodes {
        node.change_view(states(&behind.cluster, &[(owner, MemberState::Draining)])).unwrap();
    }
    settle(&behind.cluster).await;
    let flushed = async {
        while behind.table.row("k") != some("new") {
            behind.disks[stand_in].flush().await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(TIMEOUT, flushed).await.unwrap();
    // The new owner guards the key for as long as the write may take.
    sleep(behind.cluster.groups[0].config().hard_timeout + Duration::from_secs(2)).await;
    assert_eq!(behind.get(stand_in, "k").await, some("new"));
    put.abort();
}

/// Rule B1.
#[tokio::test(start_paused = true)]
async fn where_the_stand_in_is_away_the_next_member_keeps_the_copy_and_without_any_nothing_is_written() {
    let behind = three().await;
    let (owner, stand_in, third) = (behind.cluster.owner("k"), behind.cluster.stand_in("k"), behind.cluster.third("k"));
    behind.kill(stand_in);
    behind.put(owner, "k", "old").await.unwrap();
    assert_eq!(behind.records(third, "k")[0].holder, behind.copy_for(owner));
    behind.kill(third);
    let refused = behind.put(owner, "k", "new").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::OwnerUnreachable);
    assert_eq!((behind.records(owner, "k").len(), behind.get(owner, "k").await), (1, some("old")));
}

/// Rule B1: whether the copy is there is not known.
#[tokio::test(start_paused = true)]
async fn a_copy_that_may_be_somewhere_leaves_the_write_in_doubt_and_it_is_answered() {
    let behind = three().await;
    let (owner, stand_in, third) = (behind.cluster.owner("k"), behind.cluster.stand_in("k"), behind.cluster.third("k"));
    behind.kill(third);
    behind.disks[stand_in].hold(true);
    let refused = behind.put(owner, "k", "new").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Indeterminate);
    assert_eq!(behind.get(owner, "k").await, some("new"));
}

/// Rule B5.
#[tokio::test(start_paused = true)]
async fn what_is_flushed_is_marked_on_two_disks_before_its_key_is_flushed_again() {
    let behind = three().await;
    let (owner, stand_in) = (behind.cluster.owner("k"), behind.cluster.stand_in("k"));
    let version = behind.put(owner, "k", "new").await.unwrap();
    behind.flush_all(&[owner]).await;
    assert_eq!(behind.table.row("k"), some("new"));
    assert_eq!(behind.holders("k"), []);
    for place in [owner, stand_in] {
        assert_eq!(behind.disks[place].mark("g", "k"), Some(version));
    }
    behind.put(owner, "k", "newer").await.unwrap();
    for place in [stand_in, behind.cluster.third("k")] {
        behind.kill(place);
    }
    assert!(behind.disks[owner].flush().await.is_err(), "a late copy would be flushed again");
    assert_eq!(behind.records(owner, "k").len(), 1);
}

/// Rule P4, where the origin is written later.
#[tokio::test(start_paused = true)]
async fn copies_of_a_key_in_demand_are_gone_before_a_write_is_acknowledged() {
    let behind = three().await;
    let (owner, third) = (behind.cluster.owner("k"), behind.cluster.third("k"));
    behind.put(owner, "k", "old").await.unwrap();
    heat(&behind.cluster, "k", &[third]).await;
    behind.put(owner, "k", "new").await.unwrap();
    assert_eq!(behind.get(third, "k").await, some("new"));
}

/// Rule B5: marks are on two disks as records are.
#[tokio::test(start_paused = true)]
async fn a_mark_is_on_two_disks_again_when_a_view_took_one_away() {
    let behind = three().await;
    let (owner, stand_in, third) = (behind.cluster.owner("k"), behind.cluster.stand_in("k"), behind.cluster.third("k"));
    let version = behind.put(owner, "k", "new").await.unwrap();
    behind.flush_all(&[owner]).await;
    assert_eq!(behind.disks[third].mark("g", "k"), None);
    behind.kill(stand_in);
    behind.leave(&[owner, third]);
    let marked = async {
        while behind.disks[third].mark("g", "k") != Some(version) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(TIMEOUT, marked).await.unwrap();
}

/// Rule B4.
#[tokio::test(start_paused = true)]
async fn a_new_owner_answers_with_what_a_killed_one_had_and_brings_it_to_the_origin() {
    let behind = three().await;
    behind.table.set("k", "old");
    let (owner, stand_in, third) = (behind.cluster.owner("k"), behind.cluster.stand_in("k"), behind.cluster.third("k"));
    let write = async || {
        let op = WriteOp::Put { value: "new".into(), ttl: None };
        let options = WriteOptions { idempotency_key: Some("once".into()), ..WriteOptions::default() };
        behind.cluster.groups[third].write("k", op, options).await.unwrap().unwrap()
    };
    let version = write().await;
    behind.delete(third, "gone").await.unwrap();
    behind.kill(owner);
    behind.leave(&[stand_in, third]);
    behind.until(third, "k", Some("new")).await;
    assert_eq!(behind.table.loads(), 0);
    let copies = || behind.holders("k").into_iter().filter(|(place, _)| *place != owner).count();
    let copied = async {
        while copies() < 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(TIMEOUT, copied).await.expect("there are two copies again");
    assert_eq!(write().await, version, "it was done already");
    behind.flush_all(&[stand_in, third]).await;
    assert_eq!((behind.table.row("k"), behind.disks[third].mark("g", "k")), (some("new"), Some(version)));
}

/// Three of which the owner and the stand-in of `k` died at once, with all there was of a write that the origin doesn't have; their places,
/// and that of the third, which is asked and doesn't answer.
async fn one_of_three_that_is_left() -> (Behind, usize, usize, usize) {
    let behind = three().await;
    behind.table.set("k", "old");
    let (owner, stand_in, third) = (behind.cluster.owner("k"), behind.cluster.stand_in("k"), behind.cluster.third("k"));
    behind.put(third, "k", "new").await.unwrap();
    behind.kill(owner);
    behind.kill(stand_in);
    behind.leave(&[third]);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(behind.cluster.get(third, "k").await.unwrap_err().kind(), ErrorKind::OwnerUnreachable);
    (behind, owner, stand_in, third)
}

/// Rule B4: who was a member may have what was written, and only one may be done without.
#[tokio::test(start_paused = true)]
async fn where_owner_and_stand_in_are_gone_at_once_nobody_answers_until_one_is_back() {
    let (behind, _, stand_in, third) = one_of_three_that_is_left().await;
    assert_eq!(behind.put(third, "k", "x").await.unwrap_err().kind(), ErrorKind::OwnerUnreachable);
    // It is heard, and is a member no more.
    let node = &behind.cluster.nodes[stand_in];
    node.change_view(members(&[behind.cluster.nodes[third].name().to_string()])).unwrap();
    behind.cluster.network.add(node.name().clone(), node.service(Protocol::Grpc));
    behind.until(third, "k", Some("new")).await;
}

/// Rules B4 and C2: nothing is flushed by two, and who has let go forgets.
#[tokio::test(start_paused = true)]
async fn records_follow_their_slot_to_a_joiner() {
    let behind = nodes(disks(4), &FakeTable::new(), 4).await;
    for node in &behind.cluster.nodes {
        node.change_view(states(&behind.cluster, &[(3, MemberState::Joining)])).unwrap();
    }
    settle(&behind.cluster).await;
    let keys: Vec<String> = (0..40).map(|number| format!("k{number}")).collect();
    for key in &keys {
        behind.put(0, key, key).await.unwrap();
    }
    for node in &behind.cluster.nodes {
        node.change_view(states(&behind.cluster, &[])).unwrap();
    }
    settle(&behind.cluster).await;
    for key in &keys {
        behind.until(1, key, Some(key)).await;
        behind.put(2, key, "newer").await.unwrap();
    }
    quiet().await;
    sleep(Duration::from_secs(1)).await;
    let moved = keys.iter().filter(|key| behind.cluster.owner(key) == 3).count();
    assert!(moved > 0);
    for key in &keys {
        let owner = behind.cluster.owner(key);
        let holders = behind.holders(key);
        let is_right = |(place, holder): &(usize, Holder)| match holder {
            Holder::Owner => *place == owner,
            copy => *copy == behind.copy_for(owner),
        };
        assert!(holders.iter().all(is_right), "{key} of {owner}: {holders:?}");
    }
    behind.flush_all(&[0, 1, 2, 3]).await;
    for key in &keys {
        assert_eq!((behind.table.row(key), behind.holders(key)), (some("newer"), Vec::new()));
    }
    assert_eq!(behind.table.loads(), 0);
}

/// Rules B4 and B5: what a node has that was away while others went on is not made again.
#[tokio::test(start_paused = true)]
async fn what_comes_back_late_does_not_undo_what_was_flushed_since() {
    let behind = three().await;
    let (owner, stand_in, third) = (behind.cluster.owner("k"), behind.cluster.stand_in("k"), behind.cluster.third("k"));
    behind.put(owner, "k", "old").await.unwrap();
    behind.kill(owner);
    behind.leave(&[stand_in, third]);
    behind.until(third, "k", Some("old")).await;
    behind.put(third, "k", "new").await.unwrap();
    behind.flush_all(&[stand_in, third]).await;
    assert_eq!(behind.table.row("k"), some("new"));
    // It starts again, with what it had on its disk.
    let mut again = behind.disks.clone();
    again[owner] = again[owner].restarted();
    again[stand_in] = again[stand_in].restarted();
    again[third] = again[third].restarted();
    let again = nodes(again, &behind.table, 3).await;
    again.until(owner, "k", Some("new")).await;
    again.flush_all(&[0, 1, 2]).await;
    assert_eq!((again.table.row("k"), again.holders("k")), (some("new"), Vec::new()));
}

/// Rule B6.
#[tokio::test(start_paused = true)]
async fn after_a_start_nothing_is_answered_or_flushed_before_all_members_were_heard() {
    let before = three().await;
    before.table.set("k", "old");
    before.put(0, "k", "new").await.unwrap();
    let disks: Vec<_> = before.disks.iter().map(FakeRecords::restarted).collect();
    let owner = before.cluster.owner("k");
    for place in 0..3 {
        before.kill(place);
    }
    let again = Behind::with(&FakeNetwork::with_claims(), disks, &GroupConfig::default(), &before.table);
    let (stand_in, third) = (again.cluster.stand_in("k"), again.cluster.third("k"));
    let services: Vec<_> = again.cluster.nodes.iter().map(|node| node.service(Protocol::Grpc)).collect();
    for place in [stand_in, third] {
        again.cluster.kill(place);
    }
    let start = |place: usize| drop(tokio::spawn(again.cluster.nodes[place].clone().claim_slots()));
    start(owner);
    again.leave(&[owner]);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(again.cluster.get(owner, "k").await.unwrap_err().kind(), ErrorKind::OwnerUnreachable);
    assert_eq!(again.put(owner, "k", "x").await.unwrap_err().kind(), ErrorKind::OwnerUnreachable);
    assert_eq!(again.disks[owner].flush().await.unwrap(), 0);
    // Others come back. One of them may have flushed it, and something since.
    let names = names(3);
    for place in [third, stand_in] {
        assert_eq!(again.cluster.get(owner, "k").await.unwrap_err().kind(), ErrorKind::OwnerUnreachable);
        again.cluster.network.add(again.cluster.nodes[place].name().clone(), services[place].clone());
        start(place);
        for node in &again.cluster.nodes {
            node.change_view(members(&names)).unwrap();
        }
        sleep(Duration::from_secs(5)).await;
    }
    again.until(owner, "k", Some("new")).await;
    again.flush_all(&[0, 1, 2]).await;
    assert_eq!(again.table.row("k"), some("new"));
}

/// Rule B6: where somebody writes the list of members, a node's own journal is enough, but not one that was just made.
#[tokio::test(start_paused = true)]
async fn who_lost_its_disk_gets_its_records_from_the_others() {
    let before = three().await;
    before.table.set("k", "old");
    before.put(0, "k", "new").await.unwrap();
    let owner = before.cluster.owner("k");
    let mut disks: Vec<_> = before.disks.iter().map(FakeRecords::restarted).collect();
    disks[owner] = FakeRecords::new();
    for place in 0..3 {
        before.kill(place);
    }
    let network = FakeNetwork::with_claims();
    let mut again = Behind::by(&network, disks, &GroupConfig::default(), &before.table, true);
    for node in &again.cluster.nodes {
        again.cluster.drivers.push(tokio::spawn(node.clone().claim_slots()).abort_handle());
    }
    let first = async {
        loop {
            if let Ok(answer) = again.cluster.get(owner, "k").await {
                return answer;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert_eq!(text(&timeout(Duration::from_secs(60), first).await.unwrap()), "new");
}

/// Rules B4 and B6.
#[tokio::test(start_paused = true)]
async fn a_takeover_goes_on_without_who_does_not_come_back_and_says_so() {
    let before = three().await;
    before.put(0, "k", "new").await.unwrap();
    let disks: Vec<_> = before.disks.iter().map(FakeRecords::restarted).collect();
    let (owner, stand_in) = (before.cluster.owner("k"), before.cluster.stand_in("k"));
    let again = Behind::with(&FakeNetwork::with_claims(), disks, &GroupConfig::default(), &before.table);
    again.cluster.kill(stand_in);
    again.cluster.kill(again.cluster.third("k"));
    drop(tokio::spawn(again.cluster.nodes[owner].clone().claim_slots()));
    again.leave(&[owner]);
    sleep(Duration::from_secs(10)).await;
    again.cluster.get(owner, "k").await.unwrap_err();
    let takeover = again.cluster.nodes[owner].take_over_records();
    assert_eq!(takeover.without.len(), 2);
    assert!(takeover.slots > 0 && takeover.to_string().contains(&**again.cluster.nodes[stand_in].name()));
    again.until(owner, "k", Some("new")).await;
    again.put(owner, "k", "newer").await.unwrap();
    assert_eq!(again.cluster.nodes[owner].take_over_records().slots, 0);
}

/// Rule B4: a write is on two disks, and both are away.
#[tokio::test(start_paused = true)]
async fn where_two_die_at_once_nobody_answers_for_what_they_had_before_a_takeover() {
    let (behind, owner, stand_in, third) = one_of_three_that_is_left().await;
    assert_eq!(behind.table.loads(), 0);
    let takeover = behind.cluster.nodes[third].take_over_records();
    let mut without: Vec<_> = [owner, stand_in].map(|place| behind.cluster.nodes[place].name().clone()).to_vec();
    without.sort();
    assert_eq!(takeover.without, without);
    // That was given up.
    behind.until(third, "k", Some("old")).await;
    behind.put(third, "k", "newer").await.unwrap();
}

/// Rule B4: nothing can be written, but what there is can be read.
#[tokio::test(start_paused = true)]
async fn a_takeover_counts_also_where_nobody_can_keep_second_copies() {
    let behind = three().await;
    let (owner, stand_in, third) = (behind.cluster.owner("k"), behind.cluster.stand_in("k"), behind.cluster.third("k"));
    behind.put(third, "k", "new").await.unwrap();
    let is_kept_by_owner =
        |key: &String| behind.cluster.owner(key) == stand_in && behind.cluster.stand_in(key) == owner;
    let own = (0..).map(|number| format!("own{number}")).find(is_kept_by_owner).unwrap();
    behind.put(third, &own, "own").await.unwrap();
    behind.kill(owner);
    behind.kill(third);
    // Its stand-in's view has another who is away, so that there is none who keeps what the owner had copies of.
    let left = [stand_in, third].map(|place| behind.cluster.nodes[place].name().to_string());
    behind.cluster.nodes[stand_in].change_view(members(&left)).unwrap();
    sleep(Duration::from_secs(10)).await;
    behind.cluster.get(stand_in, "k").await.unwrap_err();
    let takeover = behind.cluster.nodes[stand_in].take_over_records();
    assert!(takeover.slots > 0, "{takeover}");
    behind.until(stand_in, "k", Some("new")).await;
    assert_eq!(behind.put(stand_in, "k", "newer").await.unwrap_err().kind(), ErrorKind::OwnerUnreachable);
}

/// Values that do not go in one message.
#[tokio::test(start_paused = true)]
async fn a_long_value_is_copied_and_told_of_whole() {
    let behind = three().await;
    let (owner, stand_in, third) = (behind.cluster.owner("k"), behind.cluster.stand_in("k"), behind.cluster.third("k"));
    let long: String = (0..PIECE_LEN * 2 + 7).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
    behind.put(owner, "k", &long).await.unwrap();
    behind.kill(owner);
    behind.leave(&[stand_in, third]);
    behind.until(third, "k", Some(&long)).await;
}

/// Rule B1: a copy that was on its way while its keeper left is made anew, before the write is acknowledged.
#[tokio::test(start_paused = true)]
async fn a_write_whose_copy_is_on_its_way_while_views_change_twice_is_on_two_disks_of_the_last() {
    let behind = nodes(disks(5), &FakeTable::new(), 5).await;
    let owner = behind.cluster.owner("k");
    let (mut left, mut keepers): (Vec<usize>, Vec<usize>) = ((0..5).collect(), Vec::new());
    // In its view as it is then.
    let stand_in = || {
        let stand_in = behind.cluster.nodes[owner].place("g", b"k").stand_in.unwrap();
        behind.cluster.nodes.iter().position(|node| *node.name() == stand_in).unwrap()
    };
    behind.disks[stand_in()].hold(true);
    let group = behind.cluster.groups[owner].clone();
    let put = tokio::spawn(async move { group.put("k", Value::from("new"), None, Condition::Always, TIMEOUT).await });
    for _ in 0..2 {
        let keeper = stand_in();
        behind.disks[keeper].appends_begun(1).await;
        // It is no member any more by the time that it has the copy.
        left.retain(|place| *place != keeper);
        keepers.push(keeper);
        behind.leave(&left);
        behind.disks[stand_in()].hold(true);
        behind.disks[keeper].hold(false);
        quiet().await;
        assert!(!put.is_finished());
    }
    let last = stand_in();
    behind.disks[last].hold(false);
    put.await.unwrap().unwrap();
    assert_eq!(behind.records(last, "k")[0].holder, behind.copy_for(owner));
    for place in keepers.into_iter().chain([owner]) {
        behind.kill(place);
    }
    left.retain(|place| *place != owner);
    behind.leave(&left);
    behind.until(left[0], "k", Some("new")).await;
}

/// Rule B1: under a new view what there is has two copies before anything comes to it.
#[tokio::test(start_paused = true)]
async fn nothing_is_written_until_the_copies_that_a_view_took_away_are_made_anew() {
    let behind = nodes(disks(4), &FakeTable::new(), 4).await;
    let (owner, gone) = (behind.cluster.owner("k"), behind.cluster.stand_in("k"));
    behind.put(owner, "k", "x").await.unwrap();
    let left: Vec<usize> = (0..4).filter(|place| *place != gone).collect();
    behind.kill(gone);
    behind.leave(&left);
    let keeper = behind.cluster.nodes[owner].place("g", b"k").stand_in.unwrap();
    let keeper = behind.cluster.nodes.iter().position(|node| *node.name() == keeper).unwrap();
    behind.disks[keeper].hold(true);
    // One that has its copy elsewhere.
    let place_of = |key: &str| behind.cluster.nodes[owner].place("g", key.as_bytes());
    let is_apart = |key: &String| {
        let place = place_of(key);
        let is_his = place.owner.as_ref() == Some(behind.cluster.nodes[owner].name());
        let was_his = behind.cluster.owner(key) == owner;
        is_his && was_his && place.stand_in.as_ref() != Some(behind.cluster.nodes[keeper].name())
    };
    let other = (0..).map(|number| format!("o{number}")).find(is_apart).unwrap();
    let group = behind.cluster.groups[owner].clone();
    let put = tokio::spawn(async move { group.put(other, Value::from("x"), None, Condition::Always, TIMEOUT).await });
    behind.disks[keeper].appends_begun(1).await;
    quiet().await;
    assert!(!put.is_finished());
    behind.disks[keeper].hold(false);
    put.await.unwrap().unwrap();
    assert_eq!(behind.records(keeper, "k").len(), 1);
}

/// Rules B1 and B4, while copies are made anew.
#[tokio::test(start_paused = true)]
async fn views_that_change_twice_while_copies_are_made_anew_lose_nothing() {
    let behind = nodes(disks(5), &FakeTable::new(), 5).await;
    let keys: Vec<String> = (0..30).map(|number| format!("k{number}")).collect();
    let mut versions: Vec<Version> = Vec::new();
    for key in &keys {
        versions.push(behind.put(0, key, key).await.unwrap());
    }
    behind.kill(4);
    behind.disks[3].hold(true);
    let appends = behind.disks[3].appends();
    behind.leave(&[0, 1, 2, 3]);
    // Copies are on their way to one that leaves as well.
    behind.disks[3].appends_begun(appends + 1).await;
    behind.leave(&[0, 1, 2]);
    quiet().await;
    behind.disks[3].hold(false);
    for key in &keys {
        behind.until(0, key, Some(key)).await;
        behind.put(0, &format!("{key} settles"), "x").await.unwrap();
    }
    behind.kill(3);
    behind.kill(2);
    behind.leave(&[0, 1]);
    for key in &keys {
        behind.until(1, key, Some(key)).await;
    }
    behind.flush_all(&[0, 1]).await;
    for (key, version) in keys.iter().zip(versions) {
        let owner = behind.cluster.nodes[0].place("g", key.as_bytes()).owner.unwrap();
        let owner = behind.cluster.nodes.iter().position(|node| *node.name() == owner).unwrap();
        assert_eq!((behind.table.row(key), behind.disks[owner].mark("g", key)), (some(key), Some(version)));
    }
}

/// Many records cost few messages, each of which is a sync at who keeps them.
#[tokio::test(start_paused = true)]
async fn copies_that_are_made_anew_go_several_at_a_time() {
    let behind = three().await;
    let keys: Vec<String> = (0..60).map(|number| format!("k{number}")).collect();
    for key in &keys {
        behind.put(0, key, "x").await.unwrap();
    }
    let appends = || behind.disks[0].appends() + behind.disks[1].appends();
    let before = appends();
    behind.kill(2);
    behind.leave(&[0, 1]);
    let is_on_both = |key: &String| !behind.records(0, key).is_empty() && !behind.records(1, key).is_empty();
    let copied = async {
        while !keys.iter().all(is_on_both) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), copied).await.unwrap();
    let took = appends() - before;
    assert!(took <= keys.len() / 2, "{took} messages");
}

/// What a node that stood still makes at the origin when it goes on does not undo what its successor made, where the origin fences.
#[tokio::test(start_paused = true)]
async fn a_late_flush_of_a_former_owner_is_turned_down_by_an_origin_that_fences() {
    let behind = three().await;
    behind.table.fence();
    let (owner, stand_in, third) = (behind.cluster.owner("k"), behind.cluster.stand_in("k"), behind.cluster.third("k"));
    behind.put(owner, "k", "old").await.unwrap();
    // It stands still, and has asked the origin already.
    behind.table.close_writes();
    let disk = behind.disks[owner].clone();
    let late = tokio::spawn(async move { disk.flush().await });
    behind.table.writes_begun(1).await;
    behind.kill(owner);
    behind.leave(&[stand_in, third]);
    behind.until(third, "k", Some("old")).await;
    behind.put(third, "k", "new").await.unwrap();
    let flushers = [stand_in, third].map(|place| behind.disks[place].clone());
    let flushed = tokio::spawn(async move {
        for disk in flushers {
            disk.flush().await.unwrap();
        }
    });
    behind.table.writes_begun(2).await;
    // The later one is there first.
    behind.table.set_newer("k", "new");
    behind.table.let_writes(2);
    flushed.await.unwrap();
    drop(late.await.unwrap());
    assert_eq!((behind.table.row("k"), behind.get(third, "k").await), (some("new"), some("new")));
}

/// Rule H3.
#[tokio::test(start_paused = true)]
async fn who_drains_flushes_and_leaves_the_rest_to_others() {
    let behind = three().await;
    for number in 0..20 {
        behind.put(0, &format!("k{number}"), "x").await.unwrap();
    }
    behind.disks[0].forget_to_flush();
    for node in &behind.cluster.nodes {
        node.change_view(states(&behind.cluster, &[(0, MemberState::Draining)])).unwrap();
    }
    let now = tokio::time::Instant::now();
    let left = behind.cluster.nodes[0].drain_records(now, now + Duration::from_secs(30)).await;
    assert_eq!(left, 0);
    behind.kill(0);
    behind.leave(&[1, 2]);
    for number in 0..20 {
        behind.until(1, &format!("k{number}"), Some("x")).await;
    }
}
