//! Writes that the origin will never take, among many that it takes: what they cost the others is counted in requests at the origin, and
//! not in time.
//!
//! `LARDER_POISON_WRITES` says among how many.

use std::{collections::BTreeSet, fs, path::Path};

use larder::{
    Change, Key, Value, Version,
    core::version::Reading,
    origin::journal::{Place, Record},
};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{
    client::GROUP,
    data_dir::journal,
    process::Daemon,
    sink::{Sink, metric_comes_to},
};

/// Writes that the origin takes, unless told otherwise.
const GOOD: usize = 1_000;

/// How many changes a batch has.
const BATCH_LEN: usize = 100;

/// Where there is memory to write to: what is counted takes no disk.
const MEMORY: &str = "/dev/shm";

fn good() -> usize {
    std::env::var("LARDER_POISON_WRITES").map_or(GOOD, |number| number.parse().expect("a number"))
}

fn folder() -> TempDir {
    tempfile::tempdir_in(MEMORY).or_else(|_| tempfile::tempdir()).unwrap()
}

/// Has a journal in `folder` hold so many writes, with poison among them at even distances, the first one first.
async fn write(folder: &Path, good: usize, poison: usize) {
    let record = |number: usize, key: String| {
        let version = Version::new(Reading::from_bits((1_750_000_000_000 + number as u64) << 16), 7);
        let place = Place::new(GROUP, Key::copy_from(key.as_bytes()).unwrap());
        Record { written_ms: 1_750_000_000_000, ..Record::new(place.at(version), Change::Put(Value::from("v"))) }
    };
    let step = good / poison;
    let keys = (0..good).flat_map(|number| {
        let poison = number.is_multiple_of(step).then(|| format!("poison{number}"));
        poison.into_iter().chain([format!("k{number}")])
    });
    let records: Vec<Record> = keys.enumerate().map(|(number, key)| record(number, key)).collect();
    assert_eq!(records.len(), good + poison);
    let journal = journal(folder).await;
    for records in records.chunks(1000) {
        journal.append_all(records.to_vec()).await.unwrap();
    }
    journal.close().await;
}

fn config(folder: &Path, group: &str) -> String {
    let data_dir = folder.join("data");
    format!(
        "[node]\nname = 'a'\nlisten = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\npeer = '127.0.0.1:0'\ndata_dir = {data_dir:?}\n{group}"
    )
}

/// The keys of all dead letters.
async fn dead_letters(daemon: &Daemon) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut after = 0;
    loop {
        let page = daemon.ask_admin(&format!("/v1/dead-letters?after={after}")).await.json();
        let letters = page["dead_letters"].as_array().unwrap().clone();
        let Some(last) = letters.last() else { return keys };
        after = last["id"].as_u64().unwrap();
        keys.extend(letters.iter().map(|letter| letter["key"].as_str().unwrap().to_owned()));
    }
}

/// A database that tells how often it was changed. It takes no poison.
struct Database {
    folder: TempDir,
}

impl Database {
    fn new() -> Self {
        let folder = folder();
        let database = Self { folder };
        let sql = "CREATE TABLE t (key PRIMARY KEY CHECK (key NOT LIKE 'poison%'), value, version)";
        database.open().execute_batch(sql).unwrap();
        database
    }

    fn path(&self) -> String {
        self.folder.path().join("origin.db").to_str().unwrap().to_owned()
    }

    fn open(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn group(&self) -> String {
        let upsert = "INTO t %WHAT% ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version";
        let one = upsert.replace("%WHAT%", "VALUES ($1, $2, NULL)");
        let many = upsert.replace("%WHAT%", "SELECT value, $2 ->> key, NULL FROM json_each($1) WHERE true");
        // One batch after another, so that nothing goes on while the poison is looked for.
        format!(
            "[groups.{GROUP}]\nwrite = 'behind'\nwrite_delay = '1ms'\norigin_concurrency = 1\n[groups.{GROUP}.origin]\n\
             kind = 'sqlite'\nurl = '{}'\nselect = 'SELECT value FROM t WHERE key = $1'\nupsert = '''INSERT {one}'''\n\
             upsert_many = '''INSERT {many}'''\n",
            self.path()
        )
    }

    /// How many transactions have changed it: without a write-ahead log its head counts them.
    fn transactions(&self) -> usize {
        let head = fs::read(self.path()).unwrap();
        u32::from_be_bytes(head[24..28].try_into().unwrap()) as usize
    }

    fn rows(&self) -> usize {
        let rows: u32 = self.open().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        rows as usize
    }
}

/// What comes of so many good writes with so many among them that are refused; gives how many transactions it took.
async fn transactions(good: usize, poison: usize) -> usize {
    let (folder, database) = (folder(), Database::new());
    write(folder.path(), good, poison).await;
    let before = database.transactions();
    let daemon = Daemon::start(&config(folder.path(), &database.group())).await;
    metric_comes_to(&daemon, "larder_write_behind_pending", 0).await;
    assert_eq!(database.rows(), good, "each good one is there");
    let dead = dead_letters(&daemon).await;
    assert!(dead.len() == poison && dead.iter().all(|key| key.starts_with("poison")), "{dead:?}");
    database.transactions() - before
}

#[tokio::test]
async fn of_batches_with_poison_only_that_is_given_up_and_the_others_take_few_requests_more() {
    let good = good();
    // One in a hundred, so that each batch has one.
    let some = good / BATCH_LEN;
    let batches = (good + some).div_ceil(BATCH_LEN);
    let (one, many) = (transactions(good, 1).await, transactions(good, some).await);
    println!("{batches} batches: {one} transactions with one poison write, {many} with {some}");
    // A batch is taken apart into 12 pieces at most: halves, and what is left of the last one by one.
    assert!(one <= batches + 12, "{one} transactions for {batches} batches");
    assert!(many <= batches + some * 12, "{many} transactions for {batches} batches");
}

#[tokio::test]
async fn where_there_are_no_batches_poison_costs_its_own_request_and_no_more() {
    let (folder, sink) = (folder(), Sink::start().await);
    let good = good();
    write(folder.path(), good, 10).await;
    let daemon = Daemon::start(&config(folder.path(), &sink.group("write_delay = '1ms'"))).await;
    metric_comes_to(&daemon, "larder_write_behind_pending", 0).await;
    assert_eq!(sink.made().len(), good, "each good one once");
    assert_eq!(sink.writes(), good + 10, "and each other one, which is refused at once");
    assert_eq!(dead_letters(&daemon).await.len(), 10);
}
