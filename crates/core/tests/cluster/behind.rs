//! Write-behind at one node: what is acknowledged is on disk, is what is answered, and reaches the origin later (rules B1 to B3).

use larder_core::{
    Change, Clock, ErrorKind, Key, Value, Version,
    behind::{Place, Record, Records},
    group::WriteOptions,
    peer::{Condition, WriteOp},
    testing::{fake_records::FakeRecords, table::Writing},
    version::Reading,
};
use tokio::time::{advance, sleep};

use super::*;

const TTL: Duration = Duration::from_secs(1);

/// A cluster whose groups write behind, and the disk of each node.
pub(crate) struct Behind {
    pub(crate) cluster: Cluster,
    pub(crate) table: FakeTable,
    pub(crate) disks: Vec<FakeRecords>,
}

impl Behind {
    /// Nodes with these disks, over a network that carries claims.
    pub(crate) fn with(
        network: &FakeNetwork,
        disks: Vec<FakeRecords>,
        config: &GroupConfig,
        table: &FakeTable,
    ) -> Self {
        Self::by(network, disks, config, table, false)
    }

    /// The same, where the list of members may be one that somebody writes.
    pub(crate) fn by(
        network: &FakeNetwork,
        disks: Vec<FakeRecords>,
        config: &GroupConfig,
        table: &FakeTable,
        is_fixed: bool,
    ) -> Self {
        let origin = Arc::new(table.clone());
        let mut left = disks.iter();
        let left = std::cell::RefCell::new(&mut left);
        let cluster = Cluster::opened(network, disks.len(), FakeOrigin::new(1), |node| {
            let disk = left.borrow_mut().next().unwrap();
            node.set_records(Arc::new(disk.clone()), is_fixed)?;
            tokio::spawn(node.clone().keep_records());
            node.open_group_behind("g", config.clone(), origin.clone(), origin.clone(), Duration::from_secs(1))
        });
        Self { cluster, table: table.clone(), disks }
    }

    /// One node, whose values expire.
    fn one() -> Self {
        let config = GroupConfig { ttl: Some(TTL), ttl_jitter: 0.0, ..GroupConfig::default() };
        Self::with(&FakeNetwork::default(), vec![FakeRecords::new()], &config, &FakeTable::new())
    }

    pub(crate) async fn put(&self, place: usize, key: &str, value: &str) -> Result<Version, Error> {
        let value = Value::from(value.to_owned());
        let version = self.cluster.groups[place].put(key, value, None, Condition::Always, TIMEOUT).await?;
        Ok(version.unwrap())
    }

    pub(crate) async fn delete(&self, place: usize, key: &str) -> Result<(), Error> {
        self.cluster.groups[place].delete(key, Condition::Always, TIMEOUT).await.map(drop)
    }

    pub(crate) async fn get(&self, place: usize, key: &str) -> Option<String> {
        let answer = self.cluster.get(place, key).await.unwrap();
        answer.value.map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    fn restarted(&self) -> Self {
        let disks = self.disks.iter().map(FakeRecords::restarted).collect();
        Self::with(&FakeNetwork::default(), disks, &GroupConfig::default(), &self.table)
    }
}

pub(crate) fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_write_is_on_disk_when_it_is_acknowledged_and_at_the_origin_later() {
    let behind = Behind::one();
    behind.table.set("k", "old");
    assert_eq!(behind.get(0, "k").await, some("old"));
    let version = behind.put(0, "k", "new").await.unwrap();
    let [record] = &behind.disks[0].all()[..] else { panic!("one record") };
    assert_eq!(record.id.version, version);
    assert_eq!((behind.table.row("k"), behind.get(0, "k").await), (some("old"), some("new")));
    let newer = behind.put(0, "k", "newer").await.unwrap();
    assert_eq!(behind.disks[0].flush().await.unwrap(), 1, "the newest settles those before it");
    assert_eq!((behind.table.row("k"), behind.disks[0].mark("g", "k")), (some("newer"), Some(newer)));
    assert!(behind.disks[0].all().is_empty());
    assert_eq!(behind.cluster.groups[0].record_stats().unwrap().pending, 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_that_the_disk_refuses() {
    let behind = Behind::one();
    behind.put(0, "k", "old").await.unwrap();
    behind.disks[0].refuse(Some(Error::new(ErrorKind::Overloaded, "the disk is full")));
    assert_eq!(behind.put(0, "k", "new").await.unwrap_err().kind(), ErrorKind::Overloaded);
    assert_eq!(behind.get(0, "k").await, some("old"));
    behind.disks[0].refuse(None);
    behind.put(0, "k", "new").await.unwrap();
    behind.disks[0].fail(Error::new(ErrorKind::Overloaded, "the disk failed"));
    assert_eq!(behind.put(0, "k", "newer").await.unwrap_err().kind(), ErrorKind::Overloaded);
    assert_eq!(behind.get(0, "k").await, some("new"));
}

/// Rule B3.
#[tokio::test(start_paused = true)]
async fn until_it_is_flushed_a_record_is_what_is_answered() {
    let behind = Behind::one();
    behind.table.set("k", "old");
    let group = &behind.cluster.groups[0];
    let version = behind.put(0, "k", "new").await.unwrap();
    advance(TTL * 2).await;
    let answer = behind.cluster.get(0, "k").await.unwrap();
    assert_eq!((text(&answer), answer.version), ("new", Some(version)));
    group.invalidate("k", TIMEOUT).await.unwrap();
    assert_eq!(behind.get(0, "k").await, some("new"));
    group.invalidate_all(TIMEOUT).await.unwrap();
    assert_eq!(behind.get(0, "k").await, some("new"));
    let answers = group.get_many(&["k", "other"], TIMEOUT).await.unwrap();
    assert_eq!(text(answers[0].as_ref().unwrap()), "new");
    assert_eq!(behind.table.loads(), 1, "of the other key");
    behind.delete(0, "k").await.unwrap();
    assert_eq!(behind.get(0, "k").await, None);
    group.invalidate("k", TIMEOUT).await.unwrap();
    assert_eq!(behind.get(0, "k").await, None);
    behind.disks[0].flush().await.unwrap();
    assert_eq!(behind.table.row("k"), None);
    assert_eq!(behind.table.loads(), 1);
}

/// Rule B3, where the origin is asked for several keys at once.
#[tokio::test(start_paused = true)]
async fn a_key_that_has_a_record_is_not_loaded_with_others() {
    let (origin, table) = (FakeOrigin::new(10), FakeTable::new());
    let cluster = Cluster::opened(&FakeNetwork::default(), 1, origin.clone(), |node| {
        node.set_records(Arc::new(FakeRecords::new()), false)?;
        tokio::spawn(node.clone().keep_records());
        let (loader, store) = (Arc::new(origin.clone()), Arc::new(table.clone()));
        node.open_group_behind("g", GroupConfig::default(), loader, store, Duration::from_secs(1))
    });
    let group = &cluster.groups[0];
    group.put("k", Value::from("new"), None, Condition::Always, TIMEOUT).await.unwrap();
    group.invalidate("k", TIMEOUT).await.unwrap();
    let answers = group.get_many(&["a", "k", "b"], TIMEOUT).await.unwrap();
    assert_eq!(text(answers[1].as_ref().unwrap()), "new");
    assert_eq!((origin.loads("k"), origin.requests()), (0, 1));
}

/// Rule B3: what does not fit into the store is answered from its record.
#[tokio::test(start_paused = true)]
async fn a_value_that_was_evicted_is_answered_from_its_record() {
    let config = GroupConfig { capacity_bytes: 64 << 10, ..GroupConfig::default() };
    let behind = Behind::with(&FakeNetwork::default(), vec![FakeRecords::new()], &config, &FakeTable::new());
    let keys: Vec<String> = (0..60).map(|number| format!("k{number}")).collect();
    for key in &keys {
        behind.put(0, key, key).await.unwrap();
    }
    for number in 0..2_000 {
        behind.get(0, &format!("other{number}")).await;
    }
    let loads = behind.table.loads();
    for key in &keys {
        assert_eq!(behind.get(0, key).await.as_ref(), Some(key));
    }
    assert_eq!(behind.table.loads(), loads);
}

/// Rules B3 and G6.
#[tokio::test(start_paused = true)]
async fn a_load_that_began_before_does_not_take_the_place_of_a_record() {
    let behind = Behind::one();
    behind.table.set("k", "old");
    behind.table.close_loads();
    let early = behind.cluster.spawn_get(0, "k");
    behind.table.loads_begun(1).await;
    behind.put(0, "k", "new").await.unwrap();
    behind.table.let_loads(1);
    assert_eq!(text(&early.await.unwrap().unwrap()), "old", "it was asked before");
    assert_eq!(behind.get(0, "k").await, some("new"));
    advance(TTL * 2).await;
    assert_eq!(behind.get(0, "k").await, some("new"));
}

/// Rule B3.
#[tokio::test(start_paused = true)]
async fn past_a_quarter_of_the_capacity_writers_are_told_to_wait() {
    let config = GroupConfig { capacity_bytes: 400_000, ..GroupConfig::default() };
    let behind = Behind::with(&FakeNetwork::default(), vec![FakeRecords::new()], &config, &FakeTable::new());
    let large = "x".repeat(30_000);
    for key in ["a", "b", "c"] {
        behind.put(0, key, &large).await.unwrap();
    }
    let refused = behind.put(0, "d", &large).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    assert!(refused.retry_after().is_some());
    assert_eq!(behind.get(0, "d").await, None);
    behind.disks[0].flush().await.unwrap();
    behind.put(0, "d", &large).await.unwrap();
}

/// Rule B2.
#[tokio::test(start_paused = true)]
async fn what_the_origin_refuses_for_good_is_given_up_and_not_answered_any_more() {
    let behind = Behind::one();
    behind.table.set("k", "old");
    behind.put(0, "k", "poison").await.unwrap();
    assert_eq!(behind.get(0, "k").await, some("poison"));
    behind.table.set_writing(Writing::Refused);
    behind.disks[0].flush().await.unwrap();
    let letters = behind.disks[0].letters();
    assert_eq!((letters.len(), behind.disks[0].all().len()), (1, 0));
    assert_eq!(behind.cluster.groups[0].stats().dead_letters.sum(), 1);
    assert_eq!(behind.get(0, "k").await, some("old"));
}

/// Rule B2, at an origin that fences.
#[tokio::test(start_paused = true)]
async fn where_the_origin_has_moved_on_it_is_asked_anew() {
    let behind = Behind::one();
    behind.table.fence();
    behind.put(0, "k", "late").await.unwrap();
    behind.table.set_newer("k", "newer");
    behind.disks[0].flush().await.unwrap();
    assert_eq!((behind.table.row("k"), behind.get(0, "k").await), (some("newer"), some("newer")));
    assert!(behind.disks[0].letters().is_empty());
}

/// Rules P7 and B3.
#[tokio::test(start_paused = true)]
async fn conditions_are_judged_by_the_record() {
    let behind = Behind::one();
    let group = &behind.cluster.groups[0];
    let put = async |condition| {
        let version = group.put("k", Value::from("x"), None, condition, TIMEOUT).await?;
        Ok::<_, Error>(version.unwrap())
    };
    let first = put(Condition::IfAbsent).await.unwrap();
    group.invalidate("k", TIMEOUT).await.unwrap();
    assert_eq!(put(Condition::IfAbsent).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
    let second = put(Condition::IfVersion(first)).await.unwrap();
    assert_eq!(put(Condition::IfVersion(first)).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
    assert!(second > first);
    behind.table.set("k", "the origin has one still");
    behind.delete(0, "k").await.unwrap();
    group.invalidate("k", TIMEOUT).await.unwrap();
    put(Condition::IfAbsent).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_repeated_write_is_taken_down_once() {
    let behind = Behind::one();
    let write = async || {
        let op = WriteOp::Put { value: Value::from("x").with_content_type("text/plain"), ttl: Some(TTL * 3) };
        let options = WriteOptions { idempotency_key: Some("once".into()), ..WriteOptions::default() };
        behind.cluster.groups[0].write("k", op, options).await.unwrap()
    };
    assert_eq!(write().await, write().await);
    let [record] = &behind.disks[0].all()[..] else { panic!("one record") };
    assert_eq!((record.idempotency_key.as_deref(), record.ttl), (Some("once"), Some(TTL * 3)));
    behind.cluster.groups[0].invalidate("k", TIMEOUT).await.unwrap();
    let answer = behind.cluster.get(0, "k").await.unwrap();
    assert_eq!((answer.ttl_left, answer.value.unwrap().content_type()), (Some(TTL * 3), Some("text/plain")));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_again_goes_on_with_what_it_had() {
    let behind = Behind::one();
    behind.table.set("k", "old");
    let version = behind.put(0, "k", "new").await.unwrap();
    let again = behind.restarted();
    assert_eq!(again.get(0, "k").await, some("new"));
    assert!(again.put(0, "other", "x").await.unwrap() > version);
    again.disks[0].flush().await.unwrap();
    assert_eq!(again.table.row("k"), some("new"));
    let place = Place::new("g", Key::new("k").unwrap());
    assert_eq!(again.disks[0].newest_version(&place), None);
}

/// Rule V2: what the disk has was given by a clock that this run's may be behind.
#[tokio::test(start_paused = true)]
async fn versions_go_on_above_those_on_the_disk() {
    let disk = FakeRecords::new();
    let ahead = Reading::from_bits((TokioClock::new().wall_ms() + 30_000) << 16);
    let id = Place::new("g", Key::new("k").unwrap()).at(Version::new(ahead, 1));
    disk.append(vec![Record::new(id.clone(), Change::Delete)]).await.unwrap();
    let behind = Behind::with(&FakeNetwork::default(), vec![disk], &GroupConfig::default(), &FakeTable::new());
    assert!(behind.put(0, "k", "new").await.unwrap() > id.version);
}

/// What waits for the disk holds up its own key and no other.
#[tokio::test(start_paused = true)]
async fn while_the_disk_takes_its_time_what_is_cached_is_answered() {
    let behind = Behind::one();
    behind.put(0, "k", "old").await.unwrap();
    behind.disks[0].hold(true);
    let group = behind.cluster.groups[0].clone();
    let put = tokio::spawn(async move { group.put("k", Value::from("new"), None, Condition::Always, TIMEOUT).await });
    behind.disks[0].appends_begun(2).await;
    assert_eq!((behind.get(0, "k").await, behind.get(0, "other").await), (some("old"), None));
    sleep(TTL / 2).await;
    behind.disks[0].hold(false);
    put.await.unwrap().unwrap();
    assert_eq!(behind.get(0, "k").await, some("new"));
}
