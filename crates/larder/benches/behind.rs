//! What a write costs that is acknowledged from disks, and how fast it goes on to the origin: nodes in one process that ask each other
//! over gRPC on loopback, each with a journal of its own, all on one disk.
//!
//! `cargo xtask bench behind`, or `cargo bench --package larder --bench behind -- PART…` for some of `put`, `callers` and `flush`. What is
//! compared takes turns, and a ratio is the median of those within each round. `TMPDIR` says which disk it is.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "a benchmark")]

#[path = "../../origin/tests/postgres/server.rs"]
#[expect(dead_code, reason = "tests have it do more")]
mod server;
mod support;

use std::{
    convert::Infallible,
    env,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use larder::{
    Change, Group, GroupConfig, Key, Store, SystemClock, Update, UpdateError, Value, Version,
    core::{
        behind::{Place, Record},
        version::Reading,
    },
    loader_fn,
    origin::{
        PostgresConfig, PostgresOrigin, SqliteConfig, SqliteOrigin,
        behind::Behind,
        journal::{Journal, JournalConfig, JournalStats, path_in},
        storage::DiskStorage,
    },
};
use support::{Cluster, GROUP, Rounds, TIMEOUT, VALUE_LEN, key, median, middle, value};
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinSet};

const ROUNDS: usize = 7;
const PUTS: usize = 300;
const CALLERS: usize = 64;
const CALLERS_FOR: Duration = Duration::from_secs(2);
const WRITE_DELAY: Duration = Duration::from_secs(1);

/// Keys from here on are not measured.
const ELSEWHERE: u64 = 1 << 40;

/// Longer than it takes to fill a journal.
const NOT_YET: Duration = Duration::from_secs(3_600);
const FLUSHED: usize = 20_000;
const FLUSH_ROUNDS: usize = 5;
const FLUSH_TIME_MAX: Duration = Duration::from_secs(300);

/// What is measured, and its name.
type Part = (&'static str, fn(&Runtime));

fn main() {
    let asked: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let is_asked = |part: &str| asked.is_empty() || asked.iter().any(|asked| asked == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let parts: [Part; 3] = [("put", put), ("callers", callers), ("flush", flush)];
    for (name, part) in parts {
        if is_asked(name) {
            part(&runtime);
        }
    }
}

// One caller

fn put(runtime: &Runtime) {
    let bench = runtime.block_on(Bench::start(3, WRITE_DELAY, || Open));
    let folder = tempfile::tempdir().unwrap();
    let journal = runtime.block_on(open_journal(folder.path()));
    let keys: Vec<String> = bench.cluster.keys_of(1).take(PUTS).collect();
    let mut rounds = Rounds::new();
    for round in 0..ROUNDS {
        let figures = runtime.block_on(async {
            let (asker, keys, journal) = (bench.groups[0].clone(), keys.clone(), journal.clone());
            // On a thread of the runtime, where a program's tasks are.
            let measured = tokio::spawn(async move {
                [commits(&journal, round).await, gets(&asker, &keys).await, puts(&asker, &keys).await]
            });
            measured.await.unwrap().map(|took| took.as_secs_f64() * 1e6)
        });
        let [commit, hop, _] = figures;
        rounds.add([commit, hop, figures[2], 3.0 * commit + hop]);
    }
    println!("\nA put that is acknowledged from two disks, asked of a node that has nothing of the key, {VALUE_LEN} B");
    println!(
        "one caller, p50 µs      commit {:.1}   hop {:.1}   put {:.1}",
        rounds.median(0),
        rounds.median(1),
        rounds.median(2)
    );
    println!("put / commit            {}", rounds.ratio(2, 0));
    println!("put / (3 commits + hop) {}", rounds.ratio(2, 3));
}

/// What one commit to a journal takes that nobody else writes to.
async fn commits(journal: &Journal, round: usize) -> Duration {
    let mut taken = Vec::with_capacity(PUTS);
    for number in 0..PUTS {
        let reading = Reading::from_bits((round * PUTS + number + 1) as u64);
        let place = Place::new(GROUP, Key::new(key(number as u64)).unwrap());
        let record = Record::new(place.at(Version::new(reading, 1)), Change::Put(value()));
        let started = Instant::now();
        journal.append(record).await.unwrap();
        taken.push(started.elapsed());
    }
    middle(taken)
}

async fn gets(asker: &Group, keys: &[String]) -> Duration {
    let mut taken = Vec::with_capacity(keys.len());
    for key in keys {
        let started = Instant::now();
        asker.get(key).await.unwrap();
        taken.push(started.elapsed());
    }
    middle(taken)
}

async fn puts(asker: &Group, keys: &[String]) -> Duration {
    let mut taken = Vec::with_capacity(keys.len());
    for key in keys {
        let started = Instant::now();
        asker.put(key, value()).await.unwrap();
        taken.push(started.elapsed());
    }
    middle(taken)
}

// Many callers

fn callers(runtime: &Runtime) {
    println!(
        "\n{CALLERS} callers that put keys of all nodes, {VALUE_LEN} B; what is flushed meanwhile is counted with it"
    );
    for nodes in [1, 3] {
        let bench = runtime.block_on(Bench::start(nodes, WRITE_DELAY, || Open));
        let (mut rates, mut shares, mut busiest) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let before = bench.stats();
            let (puts, took) = runtime.block_on(put_for(&bench.groups[0]));
            let done: Vec<JournalStats> = bench.stats();
            let commits = done.iter().zip(&before).map(|(done, before)| (done.commits - before.commits) as f64);
            // Each put is in two journals, where there are two.
            let records = done.iter().zip(&before).map(|(done, before)| done.records_written - before.records_written);
            busiest.extend(records.zip(commits.clone()).map(|(records, commits)| records as f64 / commits));
            shares.push(puts as f64 / commits.sum::<f64>() * nodes.min(2) as f64);
            rates.push(puts as f64 / took.as_secs_f64());
        }
        let least = busiest.into_iter().fold(f64::INFINITY, f64::min);
        println!(
            "{nodes} nodes   {:8.0} puts a second   {:.1} records a commit, at least {least:.1} at a journal",
            median(rates),
            median(shares)
        );
    }
}

/// How much is put, in which time.
async fn put_for(group: &Group) -> (u64, Duration) {
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let group = group.clone();
        callers.spawn(async move {
            let mut rng = fastrand::Rng::with_seed(caller as u64);
            let mut done = 0;
            while started.elapsed() < CALLERS_FOR {
                group.put(key(rng.u64(..10_000)), value()).await.unwrap();
                done += 1;
            }
            done
        });
    }
    (callers.join_all().await.into_iter().sum(), started.elapsed())
}

// Flushing

fn flush(runtime: &Runtime) {
    println!("\n{FLUSHED} changes of {VALUE_LEN} B that are flushed, beside a loop of batches of the same");
    flush_to::<Sqlite>(runtime);
    flush_to::<Postgres>(runtime);
    flush_to::<PostgresInMemory>(runtime);
}

fn flush_to<O: Origin>(runtime: &Runtime) {
    for nodes in [1, 2] {
        let mut rounds = Rounds::new();
        for _ in 0..FLUSH_ROUNDS {
            let (plain, behind) = (O::start(), O::start());
            rounds.add([runtime.block_on(plain_loop(&plain)), runtime.block_on(flushed(&behind, nodes))]);
        }
        println!(
            "{:<21} {nodes} nodes   a second: loop {:.0}, flushed {:.0}   flushed / loop {}",
            O::NAME,
            rounds.median(0),
            rounds.median(1),
            rounds.ratio(1, 0)
        );
    }
}

/// Changes a second.
async fn plain_loop(origin: &impl Origin) -> f64 {
    let store = origin.store();
    let deadline = tokio::time::Instant::now() + FLUSH_TIME_MAX;
    let update = |number: usize| Update {
        key: Key::new(key(number as u64)).unwrap(),
        change: Change::Put(value()),
        version: Version::new(Reading::from_bits(number as u64 + 1), 1),
        idempotency_key: None,
        deadline,
    };
    // As most programs do that write behind, neither in the order of keys.
    let mut numbers: Vec<usize> = (0..FLUSHED).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut numbers);
    let batches = numbers.chunks(store.update_batch_len_max());
    let batches: Vec<Vec<Update>> = batches.map(|numbers| numbers.iter().copied().map(update).collect()).collect();
    let started = Instant::now();
    for batch in batches {
        assert!(store.update_many(batch).await.iter().all(Result::is_ok));
    }
    FLUSHED as f64 / started.elapsed().as_secs_f64()
}

/// Changes a second.
async fn flushed(origin: &impl Origin, nodes: usize) -> f64 {
    let bench = Bench::start(nodes, NOT_YET, || origin.store()).await;
    let mut keys: Vec<String> = bench.cluster.keys_of(0).take(FLUSHED).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut keys);
    let keys: Arc<[String]> = keys.into();
    let mut callers = JoinSet::new();
    for part in 0..CALLERS {
        let (group, keys) = (bench.groups[0].clone(), keys.clone());
        callers.spawn(async move {
            for key in keys.iter().skip(part).step_by(CALLERS) {
                group.put(key, value()).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    let pending = bench.groups[0].core().record_stats().unwrap().pending;
    assert!(pending >= FLUSHED as u64, "{pending}");
    let started = Instant::now();
    assert_eq!(bench.journals[0].flush_all(FLUSH_TIME_MAX).await, 0);
    let took = started.elapsed();
    pending as f64 / took.as_secs_f64()
}

/// What is flushed to: a table that is empty at first, and takes no older version.
trait Origin {
    const NAME: &str;
    type Store: Store;
    fn start() -> Self;
    fn store(&self) -> Self::Store;
}

const SELECT: &str = "SELECT body FROM users WHERE id = $1";
const UPSERT: &str = "INSERT INTO users VALUES ($1, $2, $3)";
const DELETE: &str = "DELETE FROM users WHERE id = $1 AND version <= $3";

/// In a file that is synced as usual.
struct Sqlite {
    folder: TempDir,
}

impl Origin for Sqlite {
    const NAME: &str = "SQLite";
    type Store = SqliteOrigin;

    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = rusqlite::Connection::open(folder.path().join("users.db")).unwrap();
        let sql = "PRAGMA journal_mode = WAL; CREATE TABLE users (id TEXT PRIMARY KEY, body TEXT, version TEXT) WITHOUT ROWID";
        database.execute_batch(sql).unwrap();
        Self { folder }
    }

    fn store(&self) -> SqliteOrigin {
        let newer = "ON CONFLICT DO UPDATE SET body = excluded.body, version = excluded.version WHERE excluded.version >= version";
        let many = "INSERT INTO users SELECT value, $2 ->> key, $3 ->> key FROM json_each($1) WHERE true";
        let path = self.folder.path().join("users.db").display().to_string();
        let config = SqliteConfig::new(path, SELECT).upsert(format!("{UPSERT} {newer}")).delete(DELETE);
        SqliteOrigin::open(config.upsert_many(format!("{many} {newer}"))).unwrap()
    }
}

/// Beside this process, in files that are synced as usual.
struct Postgres(server::Server);

impl Origin for Postgres {
    const NAME: &str = "PostgreSQL";
    type Store = PostgresOrigin;

    fn start() -> Self {
        Self(with_table(server::Server::start_synced()))
    }

    fn store(&self) -> PostgresOrigin {
        postgres(&self.0)
    }
}

/// Beside this process, with its data in memory and never synced.
struct PostgresInMemory(server::Server);

impl Origin for PostgresInMemory {
    const NAME: &str = "PostgreSQL in memory";
    type Store = PostgresOrigin;

    fn start() -> Self {
        Self(with_table(server::Server::start()))
    }

    fn store(&self) -> PostgresOrigin {
        postgres(&self.0)
    }
}

fn with_table(server: server::Server) -> server::Server {
    server.admin().run("CREATE TABLE users (id text PRIMARY KEY, body bytea, version text)");
    server
}

fn postgres(server: &server::Server) -> PostgresOrigin {
    let newer = "ON CONFLICT (id) DO UPDATE SET body = excluded.body, version = excluded.version WHERE excluded.version >= users.version";
    let many = "INSERT INTO users SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[])";
    let config = PostgresConfig::new(server.url(), SELECT).upsert(format!("{UPSERT} {newer}")).delete(DELETE);
    PostgresOrigin::new(config.upsert_many(format!("{many} {newer}"))).unwrap()
}

// Nodes with journals

struct Bench {
    cluster: Cluster,
    groups: Vec<Group>,
    journals: Vec<Behind>,
    _folders: Vec<TempDir>,
}

impl Bench {
    async fn start<S: Store>(count: usize, write_delay: Duration, store: impl Fn() -> S) -> Self {
        let (mut folders, mut journals) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let folder = tempfile::tempdir().unwrap();
            journals.push(Behind::open(folder.path(), JournalConfig::default(), SystemClock).await.unwrap());
            folders.push(folder);
        }
        let cluster = Cluster::start(count, |place, node| node.journal(journals[place].clone())).await;
        let config = GroupConfig { hot_lease: Duration::ZERO, ..GroupConfig::default() };
        let groups: Vec<Group> = cluster
            .nodes
            .iter()
            .map(|node| {
                let nothing = loader_fn(|_| async { Ok::<Option<Value>, Infallible>(None) });
                node.group(GROUP, nothing).config(config.clone()).write_behind(store(), write_delay).open().unwrap()
            })
            .collect();
        let bench = Self { cluster, groups, journals, _folders: folders };
        bench.comes_to_write().await;
        bench
    }

    /// Slots are not written at once: members have to be heard first.
    async fn comes_to_write(&self) {
        let until = Instant::now() + TIMEOUT;
        for number in 0..1_000 {
            while let Err(error) = self.groups[0].put(key(ELSEWHERE + number), value()).await {
                assert!(Instant::now() < until, "nothing can be written: {error}");
            }
        }
    }

    fn stats(&self) -> Vec<JournalStats> {
        self.journals.iter().map(|behind| behind.journal().stats()).collect()
    }
}

async fn open_journal(folder: &Path) -> Journal {
    Journal::open(DiskStorage::new(path_in(folder)), JournalConfig::default(), SystemClock).await.unwrap()
}

/// An origin that takes everything at once.
struct Open;

impl Store for Open {
    fn update(&self, _: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
        Box::pin(async { Ok(()) })
    }

    fn update_batch_len_max(&self) -> usize {
        100
    }

    fn update_many(&self, updates: Vec<Update>) -> BoxFuture<'_, Vec<Result<(), UpdateError>>> {
        Box::pin(async move { updates.iter().map(|_| Ok(())).collect() })
    }
}
