//! The flusher at work: what an origin sees of it, time paused; and once from a journal on a disk.

#![expect(clippy::unwrap_used, reason = "a test fails by its panic")]

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use larder_core::{
    Change, Error, ErrorKind, Key, Store, Update, UpdateError, Value, Version, testing::clock::TokioClock,
    version::Reading,
};
use larder_origin::{
    flush::{Flush, FlushConfig, Ledger, Settled, Settlement},
    journal::{Journal, JournalConfig, Place, Record, RecordId, Scope},
    storage::fake::FakeDisk,
};
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};

const DELAY: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the origin does with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    Well,
    /// Each change that is poison is refused.
    Refusing,
    /// The whole request fails if it has poison.
    Choking,
    Conflicting,
    Failing,
    Hanging,
    Panicking,
}

/// The keys and versions of a request.
type Asked = Vec<(String, Version)>;

struct Origin {
    batch_len_max: usize,
    mood: Mutex<Mood>,
    requests: Mutex<Vec<Asked>>,
    values: Mutex<BTreeMap<String, Version>>,
    under_way: AtomicUsize,
    under_way_max: AtomicUsize,
    gate: Semaphore,
    begun: watch::Sender<usize>,
}

fn name(key: &Key) -> String {
    String::from_utf8(key.as_bytes().to_vec()).unwrap()
}

impl Origin {
    fn new(batch_len_max: usize) -> Arc<Self> {
        Arc::new(Self {
            batch_len_max,
            mood: Mutex::new(Mood::Well),
            requests: Mutex::default(),
            values: Mutex::default(),
            under_way: AtomicUsize::new(0),
            under_way_max: AtomicUsize::new(0),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            begun: watch::Sender::new(0),
        })
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    fn sizes(&self) -> Vec<usize> {
        self.requests.lock().iter().map(Vec::len).collect()
    }

    fn versions(&self, key: &str) -> Vec<Version> {
        let requests = self.requests.lock();
        requests.iter().flatten().filter(|(name, _)| name == key).map(|(_, version)| *version).collect()
    }

    async fn ask(&self, updates: Vec<Update>) -> Vec<Result<(), UpdateError>> {
        let items: Vec<_> = updates.iter().map(|update| (name(&update.key), update.version)).collect();
        self.requests.lock().push(items);
        let under_way = self.under_way.fetch_add(1, SeqCst) + 1;
        self.under_way_max.fetch_max(under_way, SeqCst);
        self.begun.send_modify(|begun| *begun += 1);
        let _turn = self.gate.acquire().await.unwrap();
        // As long as a request takes, so that several may be under way.
        sleep(Duration::from_millis(1)).await;
        self.under_way.fetch_sub(1, SeqCst);
        let mood = *self.mood.lock();
        let is_poison = |update: &Update| update.key.as_bytes().starts_with(b"poison");
        let has_poison = updates.iter().any(is_poison);
        if mood == Mood::Hanging {
            return pending().await;
        }
        assert!(mood != Mood::Panicking, "the origin panics, as it was told to");
        let answer = |update: Update| match mood {
            Mood::Failing => Err(UpdateError::unknown("down")),
            Mood::Choking if has_poison => Err(UpdateError::unknown("choked")),
            Mood::Refusing if is_poison(&update) => Err(UpdateError::refused("too bitter")),
            Mood::Conflicting => Err(UpdateError::Conflict),
            _ => {
                let before = self.values.lock().insert(name(&update.key), update.version);
                assert!(before.is_none_or(|before| before < update.version), "versions come in order, each once");
                Ok(())
            }
        };
        updates.into_iter().map(answer).collect()
    }
}

impl Store for Origin {
    fn update(&self, update: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
        Box::pin(async move { self.ask(vec![update]).await.pop().unwrap() })
    }

    fn update_batch_len_max(&self) -> usize {
        self.batch_len_max
    }

    fn update_many(&self, updates: Vec<Update>) -> BoxFuture<'_, Vec<Result<(), UpdateError>>> {
        assert!((2..=self.batch_len_max).contains(&updates.len()));
        Box::pin(self.ask(updates))
    }
}

/// Records in memory.
#[derive(Default)]
struct Memory {
    records: Mutex<BTreeMap<RecordId, Record>>,
    settled: Mutex<Vec<Settlement>>,
    settles: AtomicUsize,
    /// Settlements that fail.
    failing: AtomicUsize,
}

impl Ledger for Memory {
    fn records(&self, ids: Vec<RecordId>) -> BoxFuture<'_, Result<Vec<Option<Record>>, Error>> {
        let records = self.records.lock();
        let found = ids.iter().map(|id| records.get(id).cloned()).collect();
        Box::pin(async move { Ok(found) })
    }

    fn settle(&self, group: Arc<str>, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.settles.fetch_add(1, SeqCst);
            if self.failing.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                return Err(Error::new(ErrorKind::Overloaded, "not now"));
            }
            let mut records = self.records.lock();
            for Settlement { key, version, .. } in &settlements {
                let place = Place::new(Arc::clone(&group), key.clone());
                let before = place.clone().at(Version::ZERO)..=place.at(*version);
                let gone: Vec<RecordId> = records.range(before).map(|(id, _)| id.clone()).collect();
                gone.iter().for_each(|id| drop(records.remove(id)));
            }
            self.settled.lock().extend(settlements);
            Ok(())
        })
    }
}

fn id(key: &str, number: u64) -> RecordId {
    Place::new("users", Key::copy_from(key.as_bytes()).unwrap()).at(version(number))
}

fn version(number: u64) -> Version {
    Version::new(Reading::from_bits(number), 7)
}

struct Bench {
    origin: Arc<Origin>,
    memory: Arc<Memory>,
    flush: Flush,
    stop: Arc<Semaphore>,
    running: JoinHandle<()>,
}

impl Bench {
    fn new(batch_len_max: usize, limit: usize) -> Self {
        let (origin, memory) = (Origin::new(batch_len_max), Arc::new(Memory::default()));
        let config = FlushConfig { write_delay: DELAY, timeout: TIMEOUT, seed: 7 };
        let limit = Arc::new(Arc::new(Semaphore::new(limit)));
        let ledger = Arc::clone(&memory) as Arc<dyn Ledger>;
        let flush = Flush::new("users", config, Arc::clone(&origin) as Arc<dyn Store>, ledger, limit);
        let stop = Arc::new(Semaphore::new(0));
        let stopped = Arc::clone(&stop);
        let running = tokio::spawn(flush.clone().run(async move { drop(stopped.acquire().await) }));
        Self { origin, memory, flush, stop, running }
    }

    fn record(&self, key: &str, number: u64) {
        let id = id(key, number);
        let record = Record::new(id.clone(), Change::Put(Value::new(number.to_string())));
        self.memory.records.lock().insert(id.clone(), record);
        self.flush.recorded(&id);
    }

    /// Waits until nothing is pending, an hour at most.
    async fn flushed(&self) {
        for _ in 0..36_000 {
            if self.flush.pending() == 0 {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("{} keys are still pending", self.flush.pending());
    }

    async fn begun(&self, count: usize) {
        self.origin.begun.subscribe().wait_for(|begun| *begun >= count).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_key_reach_the_origin_as_one() {
    let bench = Bench::new(1, 64);
    for number in 1..=100 {
        bench.record("a", number);
        sleep(Duration::from_millis(10)).await;
    }
    bench.flushed().await;
    assert!(bench.origin.sizes().len() <= 2, "{:?}", bench.origin.sizes());
    assert_eq!(bench.origin.values.lock()["a"], version(100));
    assert!(bench.memory.records.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn keys_go_in_batches_within_the_limit() {
    let bench = Bench::new(100, 2);
    for number in 0..450 {
        bench.record(&format!("k{number}"), 1);
    }
    bench.flushed().await;
    assert_eq!(bench.origin.sizes(), [100, 100, 100, 100, 50]);
    assert_eq!(bench.origin.under_way_max.load(SeqCst), 2);
    assert_eq!(bench.flush.stats().flushed, 450);
}

#[tokio::test(start_paused = true)]
async fn what_became_of_requests_at_about_the_same_time_is_taken_down_together() {
    let bench = Bench::new(1, 8);
    for number in 0..400 {
        bench.record(&format!("k{number}"), 1);
    }
    bench.flushed().await;
    // Eight requests take a millisecond.
    assert_eq!((bench.origin.sizes().len(), bench.memory.settled.lock().len()), (400, 400));
    let settles = bench.memory.settles.load(SeqCst);
    assert!(settles <= 400 / 8 / 3, "{settles} times");
}

#[tokio::test(start_paused = true)]
async fn a_poison_change_delays_no_other_by_more_than_a_batch() {
    for mood in [Mood::Choking, Mood::Refusing] {
        let bench = Bench::new(100, 4);
        bench.origin.set(mood);
        for number in 0..10_000 {
            bench.record(&format!("k{number}"), 1);
        }
        bench.record("poison", 1);
        let start = Instant::now();
        while bench.origin.values.lock().len() < 10_000 {
            sleep(Duration::from_millis(1)).await;
            assert!(start.elapsed() < TIMEOUT, "others are held up");
        }
        // 101 batches, four at a time, and the halves of one.
        assert!(start.elapsed() < DELAY + Duration::from_millis(101 / 4 + 50), "{:?}", start.elapsed());
        assert!(bench.origin.sizes().len() <= 101 + 20, "{}", bench.origin.sizes().len());
        bench.origin.set(Mood::Refusing);
        bench.flushed().await;
        let settled = bench.memory.settled.lock();
        let refused: Vec<_> = settled.iter().filter(|settled| matches!(settled.how, Settled::Refused(_))).collect();
        assert_eq!(refused.len(), 1);
        assert_eq!((name(&refused[0].key), &refused[0].how), ("poison".into(), &Settled::Refused("too bitter".into())));
    }
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_hangs_or_panics_is_asked_again_and_gets_everything_in_order() {
    for mood in [Mood::Hanging, Mood::Panicking, Mood::Failing] {
        let bench = Bench::new(10, 4);
        bench.origin.set(mood);
        for number in 1..=60 {
            for key in ["a", "b", "c"] {
                bench.record(key, number);
            }
            sleep(DELAY).await;
        }
        assert!(bench.origin.values.lock().is_empty());
        assert!(bench.origin.versions("a").is_sorted());
        bench.origin.set(Mood::Well);
        bench.flushed().await;
        assert_eq!(bench.origin.values.lock().values().collect::<Vec<_>>(), [&version(60); 3]);
        assert!(bench.origin.under_way_max.load(SeqCst) <= 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_settles_a_key() {
    let bench = Bench::new(1, 4);
    bench.origin.set(Mood::Conflicting);
    bench.record("a", 1);
    bench.flushed().await;
    assert_eq!(bench.memory.settled.lock()[0].how, Settled::Conflict);
    assert_eq!(bench.flush.stats().conflicts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_waits_until_its_last_flush_is_taken_down_however_often_that_fails() {
    let bench = Bench::new(1, 4);
    bench.memory.failing.store(5, SeqCst);
    bench.record("a", 1);
    bench.begun(1).await;
    bench.record("a", 2);
    while bench.memory.failing.load(SeqCst) > 0 {
        assert_eq!(bench.origin.versions("a"), [version(1)]);
        sleep(Duration::from_millis(10)).await;
    }
    bench.flushed().await;
    assert_eq!(bench.origin.versions("a"), [version(1), version(2)]);
}

#[tokio::test(start_paused = true)]
async fn what_the_ledger_has_no_more_is_not_flushed() {
    let bench = Bench::new(10, 4);
    bench.record("a", 1);
    bench.record("gone", 1);
    bench.memory.records.lock().remove(&id("gone", 1));
    bench.flushed().await;
    assert_eq!(bench.origin.sizes(), [1]);
    assert_eq!(bench.memory.settled.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_released_when_its_flush_has_ended_and_nothing_of_it_begins() {
    let bench = Bench::new(1, 4);
    bench.origin.gate.forget_permits(Semaphore::MAX_PERMITS);
    bench.record("{x}a", 1);
    bench.begun(1).await;
    bench.record("{x}b", 1);
    let slot = id("{x}", 1).place.slot;
    let release = tokio::spawn({
        let flush = bench.flush.clone();
        async move { flush.release(slot).await }
    });
    sleep(DELAY * 3).await;
    assert!(!release.is_finished(), "a flush is under way");
    bench.origin.gate.add_permits(10);
    release.await.unwrap();
    assert_eq!(bench.flush.pending(), 0);
    sleep(DELAY * 3).await;
    assert_eq!(bench.origin.sizes().len(), 1, "what waited is another node's");
}

#[tokio::test(start_paused = true)]
async fn a_drain_goes_on_to_its_end_and_says_what_is_left() {
    let bench = Bench::new(1, 4);
    bench.record("a", 1);
    let start = Instant::now();
    assert_eq!(bench.flush.drain(start + DELAY).await, 0);
    assert!(start.elapsed() < DELAY / 2, "it does not gather");

    let bench = Bench::new(1, 4);
    bench.origin.set(Mood::Failing);
    bench.record("a", 1);
    bench.record("b", 1);
    let start = Instant::now();
    assert_eq!(bench.flush.drain(start + DELAY).await, 2);
    assert_eq!(start.elapsed(), DELAY);
    bench.origin.set(Mood::Well);
    sleep(Duration::from_secs(60)).await;
    assert!(bench.origin.values.lock().is_empty(), "after its end nothing begins");
}

#[tokio::test(start_paused = true)]
async fn it_stops_when_what_is_under_way_has_ended() {
    let bench = Bench::new(1, 4);
    bench.origin.gate.forget_permits(Semaphore::MAX_PERMITS);
    bench.record("a", 1);
    bench.begun(1).await;
    bench.stop.add_permits(1);
    sleep(Duration::from_millis(10)).await;
    assert!(!bench.running.is_finished());
    bench.origin.gate.add_permits(1);
    bench.running.await.unwrap();
    assert_eq!(bench.memory.settled.lock().len(), 1);
}

#[tokio::test]
async fn a_journal_is_flushed_and_what_is_refused_is_among_its_dead_letters() {
    let disk = FakeDisk::new(1);
    let open = async || Journal::open(disk.clone(), JournalConfig::default(), TokioClock::new()).await.unwrap();
    let journal = open().await;
    for number in 1..=3 {
        for key in ["a", "b", "poison"] {
            journal.append(Record::new(id(key, number), Change::Delete)).await.unwrap();
        }
    }
    journal.close().await;

    // After a restart: what is found there is to be flushed.
    let journal = open().await;
    let origin = Origin::new(10);
    origin.set(Mood::Refusing);
    let config = FlushConfig { write_delay: DELAY, timeout: TIMEOUT, seed: 7 };
    let limit = Arc::new(Arc::new(Semaphore::new(4)));
    let flush = Flush::new("users", config, Arc::clone(&origin) as Arc<dyn Store>, Arc::new(journal.clone()), limit);
    for id in journal.oldest("users", usize::MAX) {
        flush.recorded(&id);
    }
    let running = tokio::spawn(flush.clone().run(pending()));
    assert_eq!(flush.drain(Instant::now() + Duration::from_secs(60)).await, 0);
    running.abort();

    assert_eq!(origin.sizes(), [3], "the newest of each key settles those before it");
    assert!(journal.records(Scope::All, None, 10).await.unwrap().is_empty());
    let dead = journal.dead_letters(0, 10).await.unwrap();
    assert!(dead.len() == 3 && dead.iter().all(|letter| letter.record.id.place.key.as_bytes() == b"poison"));
    assert_eq!(journal.mark(id("a", 1).place).await.unwrap().unwrap().version, version(3));
}
