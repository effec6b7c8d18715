//! A node's journal and its flushers at work for a group: what the origin sees, what is given up, and what is retried.

#![expect(clippy::unwrap_used, reason = "a test fails by its panic")]

use std::{sync::Arc, time::Duration};

use larder_core::{
    ErrorKind, Group, GroupConfig, Key, Member, Members, Node, NodeConfig, Ring, Value,
    peer::Condition,
    testing::{
        clock::TokioClock,
        fake_peer::FakeNetwork,
        fake_store::{FakeStore, StoreMood},
    },
};
use larder_origin::{
    behind::{Behind, Retried, retry_dead_letter},
    journal::{Journal, JournalConfig},
    storage::fake::FakeDisk,
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Short, as this is real time.
const DELAY: Duration = Duration::from_millis(5);

struct Running {
    behind: Behind,
    node: Node,
    group: Group,
    _tasks: JoinSet<()>,
}

async fn start(disk: &FakeDisk, origin: &FakeStore) -> Running {
    let journal = Journal::open(disk.clone(), JournalConfig::default(), TokioClock::new()).await.unwrap();
    let behind = Behind::over(journal);
    let (clock, transport) = (Arc::new(TokioClock::new()), Arc::new(FakeNetwork::default()));
    let config =
        NodeConfig { name: "a".into(), http: "".into(), ring: Ring::Slots, incarnation: 1, seed: 42, clock, transport };
    let node = Node::new(config, Members::new([Member::new("a", "")]).unwrap()).unwrap();
    node.set_records(Arc::new(behind.clone()), true).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(node.clone().keep_records());
    let origin = Arc::new(origin.clone());
    let group = node.open_group_behind("g", GroupConfig::default(), origin.clone(), origin, DELAY).unwrap();
    Running { behind, node, group, _tasks: tasks }
}

impl Running {
    async fn put(&self, key: &str, value: &'static str) {
        self.group.put(key, Value::from(value), None, Condition::Always, TIMEOUT).await.unwrap();
    }

    async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        let waits = async {
            while !is_so(self) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(TIMEOUT, waits).await.unwrap();
    }

    async fn retry(&self, id: u64) -> Retried {
        retry_dead_letter(self.behind.journal(), id, &self.node, TIMEOUT).await.unwrap()
    }

    fn pending(&self) -> u64 {
        self.group.record_stats().unwrap().pending
    }
}

fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

#[tokio::test]
async fn writes_reach_the_origin_by_themselves_and_the_next_run_goes_on_with_those_that_did_not() {
    let (disk, origin) = (FakeDisk::new(1), FakeStore::new(100));
    let running = start(&disk, &origin).await;
    for number in 0..300 {
        running.put(&format!("k{number}"), "v").await;
    }
    running.until(|running| running.pending() == 0).await;
    assert_eq!(origin.held(&key("k299")).as_deref(), Some(&b"v"[..]));
    origin.set_mood(&key("stuck"), Some(StoreMood::Hanging));
    running.put("stuck", "v").await;
    disk.kill();
    drop(running);
    origin.set_mood(&key("stuck"), None);
    let running = start(&disk, &origin).await;
    running.until(|running| running.pending() == 0).await;
    assert_eq!(origin.held(&key("stuck")).as_deref(), Some(&b"v"[..]));
    running.behind.close().await;
}

#[tokio::test]
async fn one_that_is_refused_holds_up_no_other_and_may_be_retried() {
    let (disk, origin) = (FakeDisk::new(1), FakeStore::new(100));
    let running = start(&disk, &origin).await;
    origin.set_mood(&key("poison"), Some(StoreMood::Refusing));
    for number in 0..100 {
        running.put(&format!("k{number}"), "v").await;
    }
    running.put("poison", "v").await;
    running.until(|running| running.pending() == 0).await;
    // It is counted, and what is cached goes, once it is given up.
    running.until(|running| running.group.stats().dead_letters.sum() == 1).await;
    assert!(origin.held(&key("k99")).is_some());
    let dropped = async {
        while running.group.get("poison", TIMEOUT).await.unwrap().value.is_some() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(TIMEOUT, dropped).await.unwrap();
    let letters = running.behind.journal().dead_letters(0, 10).await.unwrap();
    let id = letters[0].id;
    origin.set_mood(&key("poison"), None);
    assert!(matches!(running.retry(id).await, Retried::Written(Some(_))));
    running.until(|running| running.pending() == 0).await;
    assert_eq!(origin.held(&key("poison")).as_deref(), Some(&b"v"[..]));
    assert_eq!((running.retry(id).await, running.group.record_stats().unwrap().dead_letters), (Retried::Unknown, 0));
    running.behind.close().await;
}

#[tokio::test]
async fn a_dead_letter_does_not_undo_what_was_written_since() {
    let (disk, origin) = (FakeDisk::new(1), FakeStore::new(1));
    let running = start(&disk, &origin).await;
    origin.set_mood(&key("k"), Some(StoreMood::Refusing));
    running.put("k", "refused").await;
    running.until(|running| running.pending() == 0).await;
    origin.set_mood(&key("k"), None);
    running.put("k", "later").await;
    let id = running.behind.journal().dead_letters(0, 10).await.unwrap()[0].id;
    assert!(matches!(running.retry(id).await, Retried::Overtaken(_)), "before the later one is flushed");
    running.until(|running| running.pending() == 0).await;
    assert!(matches!(running.retry(id).await, Retried::Overtaken(_)), "nor afterwards");
    assert_eq!(origin.held(&key("k")).as_deref(), Some(&b"later"[..]));
    running.behind.close().await;
}

#[tokio::test]
async fn a_disk_that_failed_takes_no_more_writes_and_what_was_taken_is_answered() {
    let (disk, origin) = (FakeDisk::new(1), FakeStore::new(1));
    let running = start(&disk, &origin).await;
    origin.set_mood(&key("k"), Some(StoreMood::Hanging));
    running.put("k", "v").await;
    disk.fail_sync_after(0);
    running.group.put("other", Value::from("x"), None, Condition::Always, TIMEOUT).await.unwrap_err();
    let refused = running.group.put("other", Value::from("x"), None, Condition::Always, TIMEOUT).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    assert_eq!(running.group.get("k", TIMEOUT).await.unwrap().value, Some("v".into()));
}
