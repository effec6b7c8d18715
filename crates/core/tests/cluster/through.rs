//! Write-through: the origin first, then copies elsewhere, then the acknowledgement (rules P1 to P7).

use larder_core::{
    ErrorKind, Outcome, Value, Version,
    group::WriteOptions,
    peer::{Condition, WriteOp},
    testing::table::Writing,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::*;

const HARD_TIMEOUT: Duration = Duration::from_secs(3);

/// Three nodes without claims, so that nothing has to be waited for at the start.
fn three(table: &FakeTable) -> Cluster {
    let config = GroupConfig { hard_timeout: HARD_TIMEOUT, hot_lease: Duration::ZERO, ..GroupConfig::default() };
    Cluster::through(&FakeNetwork::default(), 3, &config, table)
}

async fn put(cluster: &Cluster, place: usize, value: &str) -> Result<Option<Version>, Error> {
    cluster.groups[place].put("k", Value::from(value.to_owned()), None, Condition::Always, TIMEOUT).await
}

fn spawn_put(cluster: &Cluster, place: usize, value: &'static str) -> JoinHandle<Result<Option<Version>, Error>> {
    let group = cluster.groups[place].clone();
    tokio::spawn(async move { group.put("k", Value::from(value), None, Condition::Always, TIMEOUT).await })
}

fn was_stored(answer: &Answer) -> bool {
    matches!(answer.outcome, Outcome::Miss { stored: true, .. })
}

#[tokio::test(start_paused = true)]
async fn what_is_put_is_at_the_origin_and_at_every_node() {
    let table = FakeTable::new();
    let cluster = three(&table);
    let mut last = None;
    for (place, value) in ["one", "two", "three"].into_iter().enumerate() {
        let version = put(&cluster, place, value).await.unwrap();
        assert!(version > last);
        last = version;
        assert_eq!(table.row("k").as_deref(), Some(value));
        for reader in 0..3 {
            let answer = cluster.get(reader, "k").await.unwrap();
            assert_eq!((text(&answer), answer.version), (value, version));
        }
    }
    assert_eq!(table.loads(), 0, "what was written need not be read");
    cluster.groups[1].delete("k", Condition::Always, TIMEOUT).await.unwrap();
    assert_eq!(table.row("k"), None);
    for reader in 0..3 {
        assert_eq!(cluster.get(reader, "k").await.unwrap().value, None);
    }
}

/// Rules P2 and G6.
#[tokio::test(start_paused = true)]
async fn a_load_that_reads_the_old_row_while_it_is_written_is_not_kept_and_not_joined() {
    let table = FakeTable::new();
    let cluster = three(&table);
    table.set("k", "old");
    table.close_loads();
    let owner = cluster.owner("k");
    let early = cluster.spawn_get(owner, "k");
    table.loads_begun(1).await;
    put(&cluster, 0, "new").await.unwrap();
    let late: Vec<_> = (0..3).map(|place| cluster.spawn_get(place, "k")).collect();
    for get in late {
        assert_eq!(text(&get.await.unwrap().unwrap()), "new");
    }
    table.let_loads(1);
    assert_eq!(text(&early.await.unwrap().unwrap()), "old", "it was asked before");
    assert_eq!(text(&cluster.get(owner, "k").await.unwrap()), "new");
}

/// Rule P2: what is cached is served meanwhile, and a get that misses waits.
#[tokio::test(start_paused = true)]
async fn while_a_key_is_written_no_load_of_it_begins() {
    let table = FakeTable::new();
    let cluster = three(&table);
    table.set("k", "old");
    table.close_writes();
    let write = spawn_put(&cluster, 0, "new");
    table.writes_begun(1).await;
    let gets: Vec<_> = (0..3).map(|place| cluster.spawn_get(place, "k")).collect();
    quiet().await;
    assert_eq!(table.loads(), 0);
    table.let_writes(1);
    write.await.unwrap().unwrap();
    for get in gets {
        assert_eq!(text(&get.await.unwrap().unwrap()), "new");
    }
    let write = spawn_put(&cluster, 0, "newer");
    table.writes_begun(2).await;
    for place in 0..3 {
        assert_eq!(text(&cluster.get(place, "k").await.unwrap()), "new", "it is not acknowledged yet");
    }
    table.let_writes(1);
    write.await.unwrap().unwrap();
}

/// Rule P1: two concurrent writes are two writes.
#[tokio::test(start_paused = true)]
async fn writes_of_a_key_have_their_turns_and_other_keys_do_not_wait() {
    let table = FakeTable::new();
    let cluster = three(&table);
    table.close_writes();
    let writes: Vec<_> = ["a", "b", "c", "d"].into_iter().map(|value| spawn_put(&cluster, 0, value)).collect();
    table.writes_begun(1).await;
    quiet().await;
    let other = cluster.groups[0].clone();
    let other =
        tokio::spawn(async move { other.put("other", Value::from("x"), None, Condition::Always, TIMEOUT).await });
    table.writes_begun(2).await;
    table.let_writes(5);
    other.await.unwrap().unwrap();
    let mut versions = Vec::new();
    for write in writes {
        versions.push(write.await.unwrap().unwrap().unwrap());
    }
    let mut distinct = versions.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 4, "{versions:?}");
    let last = ["a", "b", "c", "d"][versions.iter().position(|version| version == distinct.last().unwrap()).unwrap()];
    assert_eq!(table.row("k").as_deref(), Some(last));
    for reader in 0..3 {
        assert_eq!(text(&cluster.get(reader, "k").await.unwrap()), last);
    }
}

/// Rule P3: a refusal that proves that nothing changed leaves everything as it was.
#[tokio::test(start_paused = true)]
async fn a_refused_write_leaves_what_there_was() {
    let table = FakeTable::new();
    let cluster = three(&table);
    put(&cluster, 0, "old").await.unwrap();
    table.set_writing(Writing::Refused);
    let error = put(&cluster, 1, "new").await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Origin, "the table takes no such value"));
    for place in 0..3 {
        assert_eq!(text(&cluster.get(place, "k").await.unwrap()), "old");
    }
    assert_eq!(table.loads(), 0, "the copy stays");
}

/// Rule P3: it may be done now, or a little later.
#[tokio::test(start_paused = true)]
async fn after_a_write_of_unknown_outcome_the_key_is_answered_and_not_kept_for_a_while() {
    for (writing, seen) in [(Writing::DoneUnheard, "new"), (Writing::Late, "old")] {
        let table = FakeTable::new();
        let cluster = three(&table);
        put(&cluster, 0, "old").await.unwrap();
        table.set_writing(writing);
        let start = Instant::now();
        assert_eq!(put(&cluster, 1, "new").await.unwrap_err().kind(), ErrorKind::Indeterminate);
        let owner = cluster.owner("k");
        let answer = cluster.get(owner, "k").await.unwrap();
        assert_eq!((text(&answer), was_stored(&answer)), (seen, false), "{writing:?}");
        table.do_late();
        assert_eq!(text(&cluster.get(owner, "k").await.unwrap()), "new", "{writing:?}: nothing old was kept");
        sleep(HARD_TIMEOUT - start.elapsed()).await;
        assert!(was_stored(&cluster.get(owner, "k").await.unwrap()), "{writing:?}: it is settled by now");
    }
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_hangs_costs_the_writer_its_deadline_and_nobody_an_old_value() {
    let table = FakeTable::new();
    let cluster = three(&table);
    put(&cluster, 0, "old").await.unwrap();
    table.set_writing(Writing::Hangs);
    let owner = cluster.owner("k");
    let start = Instant::now();
    let brief = Duration::from_secs(1);
    let write = cluster.groups[owner].put("k", Value::from("new"), None, Condition::Always, brief).await;
    assert_eq!(write.unwrap_err().kind(), ErrorKind::Indeterminate);
    assert!(start.elapsed() >= brief && start.elapsed() < brief * 2);
    table.set_writing(Writing::Done);
    table.set("k", "newer");
    sleep(HARD_TIMEOUT).await;
    assert_eq!(text(&cluster.get(owner, "k").await.unwrap()), "newer", "the copy is gone");
}

/// A later write that reached the origin by another way: this node's is refused there, and its copy is old.
#[tokio::test(start_paused = true)]
async fn an_origin_that_has_moved_on_makes_the_copy_go() {
    let table = FakeTable::new();
    table.fence();
    let cluster = three(&table);
    put(&cluster, 0, "old").await.unwrap();
    let later = larder_core::version::Reading::from_bits(u64::MAX >> 1);
    let update = larder_core::Update {
        key: larder_core::Key::new("k").unwrap(),
        change: larder_core::Change::Put(Value::from("from elsewhere")),
        version: Version::new(later, 9),
        idempotency_key: None,
        deadline: Instant::now() + TIMEOUT,
    };
    larder_core::Store::update(&table, update).await.unwrap();
    assert_eq!(put(&cluster, 0, "new").await.unwrap_err().kind(), ErrorKind::Indeterminate);
    assert_eq!(text(&cluster.get(1, "k").await.unwrap()), "from elsewhere");
}

/// What has begun can't be undone, and is ended.
#[tokio::test(start_paused = true)]
async fn a_write_goes_on_when_its_caller_goes_away() {
    let table = FakeTable::new();
    let cluster = three(&table);
    put(&cluster, 0, "old").await.unwrap();
    table.close_writes();
    let owner = cluster.owner("k");
    let write = spawn_put(&cluster, owner, "new");
    table.writes_begun(2).await;
    write.abort();
    table.let_writes(1);
    quiet().await;
    assert_eq!(text(&cluster.get(owner, "k").await.unwrap()), "new");
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_gives_up_before_its_turn_has_written_nothing() {
    let table = FakeTable::new();
    let cluster = three(&table);
    table.close_writes();
    let owner = cluster.owner("k");
    let first = spawn_put(&cluster, owner, "first");
    table.writes_begun(1).await;
    let brief = Duration::from_millis(500);
    let second = cluster.groups[owner].put("k", Value::from("second"), None, Condition::Always, brief).await;
    assert_eq!(second.unwrap_err().kind(), ErrorKind::TimedOut);
    table.let_writes(2);
    first.await.unwrap().unwrap();
    assert_eq!(table.row("k").as_deref(), Some("first"));
}

/// Rule P7.
#[tokio::test(start_paused = true)]
async fn conditions_are_judged_by_what_a_get_would_find() {
    let table = FakeTable::new();
    let cluster = three(&table);
    table.set("k", "at the origin");
    let put_if = |condition| cluster.groups[0].put("k", Value::from("x"), None, condition, TIMEOUT);
    let absent = put_if(Condition::IfAbsent).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::VersionMismatch, "it is not cached, but it is there");
    let version = cluster.get(1, "k").await.unwrap().version.unwrap();
    let next = put_if(Condition::IfVersion(version)).await.unwrap().unwrap();
    assert_eq!(put_if(Condition::IfVersion(version)).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
    assert!(next > version);
    cluster.groups[2].delete("k", Condition::Always, TIMEOUT).await.unwrap();
    put_if(Condition::IfAbsent).await.unwrap();
    assert_eq!(table.row("k").as_deref(), Some("x"));
}

#[tokio::test(start_paused = true)]
async fn of_concurrent_conditional_writes_one_is_done() {
    let table = FakeTable::new();
    let cluster = three(&table);
    for condition in [Condition::IfAbsent, Condition::Always] {
        let condition = match condition {
            Condition::Always => Condition::IfVersion(cluster.get(0, "k").await.unwrap().version.unwrap()),
            other => other,
        };
        let writes: Vec<_> = (0..9)
            .map(|number| {
                let group = cluster.groups[number % 3].clone();
                let value = Value::from(number.to_string());
                tokio::spawn(async move { group.put("k", value, None, condition, TIMEOUT).await })
            })
            .collect();
        let mut done = 0;
        for write in writes {
            match write.await.unwrap() {
                Ok(_) => done += 1,
                Err(error) => assert_eq!(error.kind(), ErrorKind::VersionMismatch),
            }
        }
        assert_eq!(done, 1, "{condition:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_write_is_answered_as_the_first_was_and_done_once() {
    let table = FakeTable::new();
    let cluster = three(&table);
    let write = |place: usize, value: &'static str, id: &str| {
        let options = WriteOptions { idempotency_key: Some(id.into()), timeout: TIMEOUT, ..WriteOptions::default() };
        cluster.groups[place].write("k", WriteOp::Put { value: Value::from(value), ttl: None }, options)
    };
    let first = write(0, "one", "a").await.unwrap();
    let second = write(1, "two", "b").await.unwrap();
    assert_eq!(write(2, "one", "a").await.unwrap(), first);
    assert_eq!(write(0, "two", "b").await.unwrap(), second);
    assert_eq!(table.row("k").as_deref(), Some("two"));
    table.set_writing(Writing::Refused);
    assert!(write(0, "three", "c").await.is_err());
    table.set_writing(Writing::Done);
    write(0, "three", "c").await.unwrap();
    assert_eq!(table.row("k").as_deref(), Some("three"), "what was not done may be done another time");
    sleep(Duration::from_secs(600)).await;
    assert_ne!(write(0, "one", "a").await.unwrap(), first, "ten minutes are over");
}

#[tokio::test(start_paused = true)]
async fn an_invalidation_leaves_the_origin_alone_and_overtakes_a_load_at_every_point() {
    let table = FakeTable::new();
    let cluster = three(&table);
    table.set("k", "old");
    let (owner, third) = (cluster.owner("k"), cluster.third("k"));
    table.close_loads();
    for asker in [owner, third] {
        table.set("k", "old");
        let begun = table.loads();
        let early = cluster.spawn_get(asker, "k");
        table.loads_begun(begun + 1).await;
        table.set("k", "new");
        cluster.groups[asker].invalidate("k", TIMEOUT).await.unwrap();
        let late = cluster.spawn_get(asker, "k");
        table.loads_begun(begun + 2).await;
        table.let_loads(2);
        assert_eq!(text(&early.await.unwrap().unwrap()), "old");
        assert_eq!(text(&late.await.unwrap().unwrap()), "new");
        for place in 0..3 {
            assert_eq!(text(&cluster.get(place, "k").await.unwrap()), "new");
        }
        cluster.groups[asker].invalidate("k", TIMEOUT).await.unwrap();
    }
    assert_eq!(table.row("k").as_deref(), Some("new"));
}

/// Rule V2.
#[tokio::test(start_paused = true)]
async fn a_version_that_no_disk_has_reserved_yet_does_not_reach_the_origin() {
    let table = FakeTable::new();
    let cluster = three(&table);
    let owner = &cluster.nodes[cluster.owner("k")];
    let reserve = owner.standing().reserve();
    reserve.begin();
    let write = spawn_put(&cluster, 0, "new");
    quiet().await;
    reserve.extend(owner.standing().reading());
    let version = write.await.unwrap().unwrap().unwrap();
    assert_eq!(table.row("k").as_deref(), Some("new"));
    // The next one is beyond, and the disk gives no more.
    reserve.delay(Error::new(ErrorKind::Overloaded, "the disk is full"));
    assert_eq!(put(&cluster, 0, "newer").await.unwrap_err().kind(), ErrorKind::Overloaded);
    assert_eq!(table.row("k").as_deref(), Some("new"));
    assert_eq!(cluster.get(0, "k").await.unwrap().version, Some(version));
}
