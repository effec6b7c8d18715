//! What the journal keeps, finds and counts on a disk that is well.

use std::sync::{Arc, OnceLock};

use larder_core::placement::Slot;
use larder_origin::{
    journal::{Appended, Holder, Mark, RECORD_OVERHEAD, path_in},
    storage::{DiskStorage, Fill, StorageFile, fake::FakeDisk},
};

use super::*;

#[tokio::test]
async fn what_was_appended_is_there_after_reopening_in_the_order_of_versions() {
    let disk = FakeDisk::new(1);
    let journal = open(disk.clone()).await.unwrap();
    let full = Record::new(id("b", 1), Change::Put(Value::from("x").with_content_type("text/plain")))
        .with_idempotency_key("once")
        .held_as(Holder::CopyFor("n2".into()));
    journal.append_all(vec![record("a", 9), record("a", 2), full.clone()]).await.unwrap();
    journal.append(Record::new(id("a", 5), Change::Delete)).await.unwrap();
    journal.close().await;

    let journal = open(disk).await.unwrap();
    let of_a = journal.records(Scope::Key(place("a")), None, 10).await.unwrap();
    assert_eq!(of_a.iter().map(|record| record.id.version).collect::<Vec<_>>(), [version(2), version(5), version(9)]);
    assert_eq!(of_a[1].change, Change::Delete);
    assert_eq!(journal.newest(place("a")).await.unwrap().unwrap().id, id("a", 9));
    let found = journal.record(id("b", 1)).await.unwrap().unwrap();
    assert_eq!(found, Record { written_ms: found.written_ms, ..full });
    assert!(found.written_ms > 0 && journal.record(id("b", 2)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_scope_shows_its_part_page_by_page() {
    let journal = open(FakeDisk::new(1)).await.unwrap();
    let other = Place::new("users2", Key::new("a").unwrap()).at(version(1));
    let mut records: Vec<Record> = (0..10).map(|number| record(&format!("{{tag}}{number}"), 1)).collect();
    records.extend([record("a", 1), record("a", 2), Record::new(other.clone(), Change::Delete)]);
    journal.append_all(records).await.unwrap();
    let count = async |scope| journal.records(scope, None, 100).await.unwrap().len();
    assert_eq!(count(Scope::All).await, 13);
    assert_eq!(count(Scope::Group("users".into())).await, 12);
    assert_eq!(count(Scope::Group("users2".into())).await, 1);
    assert_eq!(count(Scope::Slot("users".into(), Slot::of("users", b"{tag}"))).await, 10);
    assert_eq!(count(Scope::Key(place("a"))).await, 2);
    assert_eq!(all(&journal).await.len(), 13);
    let page = journal.records(Scope::Key(place("a")), Some(id("a", 1)), 10).await.unwrap();
    assert_eq!(page.len(), 1);
    assert_eq!(page[0].id, id("a", 2));
    // Places of the same beginning are others'.
    journal.append(record("aa", 1)).await.unwrap();
    assert_eq!(count(Scope::Key(place("a"))).await, 2);
}

#[tokio::test]
async fn a_mark_settles_its_version_and_those_before_it_and_keeps_them_away() {
    let disk = FakeDisk::new(1);
    let journal = open(disk.clone()).await.unwrap();
    journal.append_all(vec![record("a", 1), record("a", 2), record("a", 3), record("b", 1)]).await.unwrap();
    assert_eq!(journal.settle(vec![Mark::new(place("a"), version(2))]).await.unwrap(), 2);
    assert_eq!(ids(&journal).await.len(), 2);
    journal.close().await;

    let journal = open(disk).await.unwrap();
    assert_eq!(journal.mark(place("a")).await.unwrap().unwrap().version, version(2));
    // A copy that was long on its way.
    assert_eq!(journal.append(record("a", 2)).await.unwrap(), Appended::Settled);
    assert_eq!(journal.append(record("a", 4)).await.unwrap(), Appended::Stored);
    // A mark that comes late does not take the newer one's place.
    journal.settle(vec![Mark::new(place("a"), version(1))]).await.unwrap();
    assert_eq!(journal.mark(place("a")).await.unwrap().unwrap().version, version(2));
}

#[tokio::test]
async fn marks_are_forgotten_when_they_are_old_or_too_many_and_then_old_records_are_dead_letters() {
    let clock = HandClock::default();
    let config = JournalConfig { marks_max: 3, ..JournalConfig::default() };
    let journal = Journal::open(FakeDisk::new(1), config, clock.clone()).await.unwrap();
    for number in 1..=5 {
        clock.pass(Duration::from_secs(1));
        journal.settle(vec![Mark::new(place(&format!("k{number}")), version(number))]).await.unwrap();
    }
    let left = journal.marks(Scope::All, None, 10).await.unwrap();
    assert_eq!(left.len(), 3);
    assert_eq!(journal.horizon(), version(2));

    assert_eq!(journal.append(record("k1", 1)).await.unwrap(), Appended::Buried);
    assert_eq!(journal.append(record("k4", 4)).await.unwrap(), Appended::Settled);
    assert_eq!(journal.append(record("k1", 3)).await.unwrap(), Appended::Stored);
    let dead = journal.dead_letters(0, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert!(dead[0].record.id == id("k1", 1) && dead[0].reason.contains("older than the marks"));

    clock.pass(Duration::from_secs(25 * 60 * 60));
    journal.forget_old_marks().await.unwrap();
    assert!(journal.marks(Scope::All, None, 10).await.unwrap().is_empty());
    assert_eq!(journal.horizon(), version(5));
    // What is here was never flushed, however old it is: it may change its holder.
    let copy = record("k1", 3).held_as(Holder::CopyFor("n2".into()));
    assert_eq!(journal.append(copy).await.unwrap(), Appended::Stored);
}

#[tokio::test]
async fn what_is_given_up_is_a_dead_letter_with_all_that_was_gathered() {
    let disk = FakeDisk::new(1);
    let journal = open(disk.clone()).await.unwrap();
    journal.append_all(vec![record("a", 1), record("a", 2), record("a", 3)]).await.unwrap();
    let buried = journal.bury(vec![(id("a", 2), "no such table".into())]).await.unwrap();
    assert_eq!(buried, [1, 2]);
    journal.close().await;

    let journal = open(disk).await.unwrap();
    assert_eq!(ids(&journal).await, [id("a", 3)]);
    let dead = journal.dead_letters(0, 10).await.unwrap();
    assert_eq!(dead.iter().map(|letter| letter.id).collect::<Vec<_>>(), [1, 2]);
    assert!(dead[0].reason.starts_with("it was gathered with version"), "{}", dead[0].reason);
    assert_eq!(&*dead[1].reason, "no such table");
    assert_eq!(dead[1].record.change, record("a", 2).change);
    assert_eq!(journal.dead_letter(2).await.unwrap().unwrap(), dead[1]);
    assert_eq!(journal.mark(place("a")).await.unwrap().unwrap().version, version(2), "copies of it go as well");
    assert_eq!(journal.group_stats("users").dead_letters, 2);

    journal.drop_dead_letter(1).await.unwrap();
    let error = journal.drop_dead_letter(1).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no dead letter 1");
    assert_eq!(journal.dead_letters(0, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn holders_change_and_records_that_others_have_are_dropped() {
    let journal = open(FakeDisk::new(1)).await.unwrap();
    let copy = |key| record(key, 1).held_as(Holder::CopyFor("n2".into()));
    journal.append_all(vec![copy("a"), copy("b"), record("c", 1)]).await.unwrap();
    let stats = journal.group_stats("users");
    assert_eq!((stats.records, stats.copies), (1, 2));
    assert_eq!(journal.oldest("users", 10), [id("c", 1)], "copies are others' to flush");

    assert_eq!(journal.hold(vec![id("a", 1), id("z", 1)], Holder::Owner).await.unwrap(), 1);
    assert_eq!(journal.record(id("a", 1)).await.unwrap().unwrap().holder, Holder::Owner);
    assert_eq!(journal.drop_records(vec![id("b", 1), id("z", 1)]).await.unwrap(), 1);
    let stats = journal.group_stats("users");
    assert_eq!((stats.records, stats.copies), (2, 0));
    assert!(journal.mark(place("b")).await.unwrap().is_none());
}

#[tokio::test]
async fn the_clock_goes_on_above_all_that_was_reserved_or_journalled() {
    let disk = FakeDisk::new(1);
    let reading = Reading::from_bits;
    let journal = open(disk.clone()).await.unwrap();
    assert_eq!((journal.clock_floor(), journal.members()), (reading(0), None));
    journal.reserve_clock(reading(100)).await.unwrap();
    journal.reserve_clock(reading(50)).await.unwrap();
    journal.remember_members(vec!["n1".into(), "n2".into()]).await.unwrap();
    journal.close().await;

    let journal = open(disk.clone()).await.unwrap();
    assert_eq!(journal.clock_floor(), reading(100));
    assert_eq!(journal.members().unwrap(), [Arc::<str>::from("n1"), Arc::from("n2")]);
    journal.append(record("a", 200)).await.unwrap();
    journal.settle(vec![Mark::new(place("b"), version(300))]).await.unwrap();
    journal.close().await;
    assert_eq!(open(disk).await.unwrap().clock_floor(), reading(300));
}

#[tokio::test]
async fn a_full_journal_refuses_writers_until_something_is_flushed() {
    let config = JournalConfig { bytes_max: 3 * (RECORD_OVERHEAD + 60), ..JournalConfig::default() };
    let journal = Journal::open(FakeDisk::new(1), config, HandClock::default()).await.unwrap();
    let mut number = 0;
    let error = loop {
        number += 1;
        assert!(number <= 4, "it never fills up");
        match journal.append(record(&format!("k{number}"), number)).await {
            Ok(appended) => assert_eq!(appended, Appended::Stored),
            Err(error) => break larder_core::Error::from(error),
        }
    };
    assert_eq!(number, 4);
    assert!(error.kind() == larder_core::ErrorKind::Overloaded && error.retry_after().is_some(), "{error}");
    let before = journal.stats().bytes;
    journal.settle(vec![Mark::new(place("k1"), version(1))]).await.unwrap();
    assert!(journal.stats().bytes < before);
    journal.append(record("k9", 9)).await.unwrap();
}

#[tokio::test]
async fn a_text_that_is_too_long_is_refused() {
    let journal = open(FakeDisk::new(1)).await.unwrap();
    let error = journal.append(record("a", 1).with_idempotency_key("x".repeat(5000))).await.unwrap_err();
    assert_eq!(error.to_string(), "the idempotency key has more than 4096 bytes");
    journal.append(record("b", 1)).await.unwrap();
    journal.bury(vec![(id("b", 1), "é".repeat(5000).into())]).await.unwrap();
    assert!(journal.dead_letter(1).await.unwrap().unwrap().reason.len() <= 4096, "a reason is cut");
}

#[tokio::test]
async fn a_second_opener_is_refused_by_name_until_the_first_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(folder.path().join("not/there/yet"));
    let journal = open(DiskStorage::new(&path)).await.unwrap();
    journal.append(record("a", 1)).await.unwrap();
    let error = open(DiskStorage::new(&path)).await.unwrap_err();
    assert!(matches!(error, JournalError::Locked { .. }), "{error}");
    assert!(error.to_string().starts_with(&format!("{} is open in another process", path.display())), "{error}");
    journal.close().await;
    assert_eq!(ids(&open(DiskStorage::new(&path)).await.unwrap()).await, [id("a", 1)]);
}

#[tokio::test]
async fn who_asks_a_closed_journal_is_told_and_what_waited_is_written() {
    let disk = FakeDisk::new(1);
    let journal = open(disk.clone()).await.unwrap();
    let waiting = journal.append(record("a", 1));
    let (appended, ()) = tokio::join!(biased; waiting, journal.close());
    appended.unwrap();
    assert!(matches!(journal.append(record("b", 1)).await, Err(JournalError::Closed)));
    assert!(matches!(journal.newest(place("a")).await, Err(JournalError::Closed)));
    assert_eq!(ids(&open(disk).await.unwrap()).await, [id("a", 1)]);
}

#[tokio::test]
async fn an_append_that_is_given_up_is_done_all_the_same() {
    let disk = FakeDisk::new(1);
    let journal = open(disk.clone()).await.unwrap();
    disk.close_gate();
    let append = journal.append(record("a", 1));
    assert!(futures_util::future::FutureExt::now_or_never(append).is_none());
    disk.open_gate();
    journal.append(record("b", 1)).await.unwrap();
    assert_eq!(ids(&journal).await.len(), 2);
}

/// A disk whose syncs take as long as it takes every caller to have asked again.
#[derive(Clone, Debug)]
struct Paced {
    disk: FakeDisk,
    journal: Arc<OnceLock<Journal>>,
    callers: Arc<AtomicU64>,
}

#[derive(Debug)]
struct PacedFile {
    file: Arc<dyn StorageFile>,
    pace: Paced,
}

impl Storage for Paced {
    fn name(&self) -> String {
        self.disk.name()
    }

    fn open(&self, fill: Fill<'_>) -> std::io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(PacedFile { file: self.disk.open(fill)?, pace: self.clone() }))
    }
}

impl StorageFile for PacedFile {
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }

    fn read(&self, at: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.file.read(at, into)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write(at, bytes)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> std::io::Result<()> {
        let is_early = |journal: &Journal| journal.stats().waiting < self.pace.callers.load(Relaxed);
        while self.pace.journal.get().is_some_and(is_early) {
            std::thread::yield_now();
        }
        self.file.sync()
    }
}

#[tokio::test]
async fn writers_that_wait_together_share_a_commit() {
    const CALLERS: u64 = 64;
    const APPENDS: u64 = 20;
    let pace = Paced { disk: FakeDisk::new(1), journal: Arc::default(), callers: Arc::default() };
    let journal = open(pace.clone()).await.unwrap();
    pace.callers.store(CALLERS, Relaxed);
    assert!(pace.journal.set(journal.clone()).is_ok());
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (journal, pace) = (journal.clone(), pace.clone());
            tokio::spawn(async move {
                for number in 0..APPENDS {
                    if number == APPENDS - 1 {
                        // It does not come again: nobody is to wait for it.
                        pace.callers.fetch_sub(1, Relaxed);
                    }
                    journal.append(record(&format!("k{caller}"), number + 1)).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let stats = journal.stats();
    assert_eq!((stats.operations, stats.held.records), (CALLERS * APPENDS, CALLERS * APPENDS));
    assert!(stats.commits * 20 <= CALLERS * APPENDS, "{} commits", stats.commits);
}
