//! An origin that is away for a while, and writers that go on: what the node takes, what it says to them, what it needs meanwhile, and how
//! the origin is met when it is back.
//!
//! `LARDER_OUTAGE_SECONDS` says for how long it is away.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::{
    client::{Connection, put_key, within},
    process::{Daemon, POLL_INTERVAL},
    sink::{Mood, Sink, metric_comes_to},
};

/// How long it is away unless told otherwise, at least. What waits then is tried again the later the longer it was.
const OUTAGE: Duration = Duration::from_secs(1);

const WRITERS: usize = 4;

/// Keys of each writer, more than what may wait has room for.
const KEYS: usize = 400;

const VALUE_LEN: usize = 8 << 10;

const MIB: usize = 1 << 20;
const CAPACITY: usize = 8 * MIB;

/// A quarter of the capacity may wait to be flushed.
const WAITING_MAX: usize = CAPACITY / 4 / VALUE_LEN;

/// A store may take 1.3 times its capacity, the process 24 MiB besides, and the journal's cache of its file 16.
const RESIDENT_MAX: usize = CAPACITY * 13 / 10 + 40 * MIB;

/// How many requests the origin bears at once, of all nodes and of each.
const BUDGET: usize = 3;
const CONCURRENCY: usize = 8;

/// How long a writer waits that was told to: a tenth of what it was told, so that there are more of them.
const PAUSE: Duration = Duration::from_millis(100);

/// How long the node may take until it is overloaded, beyond the outage.
const PATIENCE: Duration = Duration::from_secs(60);

/// Half of the time that a request has: who is told within that is told before it is late.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

fn outage() -> Duration {
    let seconds = std::env::var("LARDER_OUTAGE_SECONDS");
    seconds.map_or(OUTAGE, |seconds| Duration::from_secs(seconds.parse().expect("a number")))
}

/// What a writer was told.
#[derive(Default)]
struct Told {
    /// Of each key, the value that was acknowledged last.
    acknowledged: HashMap<String, String>,
    acknowledgements: usize,
    slowest: Duration,
}

/// What all writers know of each other.
#[derive(Default)]
struct Writers {
    end: AtomicBool,
    /// How often one was told that the node is overloaded.
    overloaded: AtomicUsize,
}

/// Writes its keys in turn until it is stopped.
async fn write(writer: usize, daemon: Arc<Daemon>, all: Arc<Writers>) -> Told {
    let (mut told, mut connection) = (Told::default(), Connection::open(daemon.clients).await.unwrap());
    let padding = "x".repeat(VALUE_LEN);
    for number in 0.. {
        if all.end.load(Relaxed) {
            break;
        }
        let (key, value) = (format!("k{writer}-{}", number % KEYS), format!("{number} {padding}"));
        let asked = Instant::now();
        let answer = connection.ask(put_key(&key, value.clone())).await.unwrap();
        told.slowest = told.slowest.max(asked.elapsed());
        if answer.status == 204 {
            told.acknowledgements += 1;
            told.acknowledged.insert(key, value);
            continue;
        }
        assert_eq!(answer.problem(), (503, "overloaded".to_owned()));
        assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
        all.overloaded.fetch_add(1, Relaxed);
        sleep(PAUSE).await;
    }
    told
}

#[tokio::test]
async fn while_the_origin_is_away_writers_are_told_in_time_and_when_it_is_back_it_gets_everything_without_a_burst() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::start().await);
    let data_dir = folder.path().join("data");
    let group = sink.group(&format!(
        "capacity = '{CAPACITY} B'\nwrite_delay = '50ms'\norigin_concurrency = {CONCURRENCY}\norigin_budget = {BUDGET}"
    ));
    let config = format!(
        "[node]\nname = 'a'\nlisten = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\npeer = '127.0.0.1:0'\ndata_dir = {data_dir:?}\n{group}"
    );
    let (daemon, all) = (Arc::new(Daemon::start(&config).await), Arc::<Writers>::default());

    sink.be(Mood::Failing);
    let away = outage();
    let until = Instant::now() + away;
    let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(writer, daemon.clone(), all.clone()))).collect();
    let mut resident = 0;
    within(away + PATIENCE, "a node that is overloaded", async {
        while Instant::now() < until || all.overloaded.load(Relaxed) < WRITERS {
            resident = resident.max(daemon.resident_bytes());
            sleep(POLL_INTERVAL).await;
        }
    })
    .await;
    let (tried, waiting) = (sink.writes(), daemon.metric("larder_write_behind_pending").await);
    assert!(sink.made().is_empty());

    sink.be(Mood::Slow(Duration::from_millis(5)));
    all.end.store(true, Relaxed);
    let told: Vec<Told> = join_all(writers).await.into_iter().map(Result::unwrap).collect();
    let back = Instant::now();
    metric_comes_to(&daemon, "larder_write_behind_pending", 0).await;
    let acknowledged = told.iter().map(|told| told.acknowledgements).sum::<usize>();
    let overloaded = all.overloaded.load(Relaxed);
    let slowest = told.iter().map(|told| told.slowest).max().unwrap();
    println!(
        "away for {away:?}: {acknowledged} writes acknowledged, {overloaded} told to wait, after {slowest:?} at most; {waiting} waited \
         at its end, asked for {tried} times; {} MiB resident of {}; all there {:?} after, {} requests at once at most",
        resident / MIB,
        RESIDENT_MAX / MIB,
        back.elapsed(),
        sink.under_way_max(),
    );

    assert!(acknowledged >= WAITING_MAX / 2, "{acknowledged} of {WAITING_MAX}");
    assert!(waiting as usize <= WAITING_MAX, "{waiting} wait, of {WAITING_MAX}");
    assert!(slowest < ANSWER_TIME_MAX, "{slowest:?}");
    assert!(resident < RESIDENT_MAX, "{} MiB", resident / MIB);
    for (key, value) in told.iter().flat_map(|told| &told.acknowledged) {
        assert!(sink.row(key).as_ref() == Some(value), "{key}");
    }
    assert_eq!(sink.under_way_max(), BUDGET, "as many as it bears, and no more");
    sink.assert_in_order();
    let made = sink.made().len();
    assert!(made <= acknowledged, "{made} changes made of {acknowledged}: none twice");
}
