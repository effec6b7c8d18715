//! Writers at every node of a cluster that writes behind, while its owners, its stand-ins and all of them are killed and come back, and the
//! origin is slow or fails. Nothing that was acknowledged may be lost, and no key's changes be made out of order.
//!
//! `LARDER_TORTURE_SECONDS` sets for how long it goes on at least, `LARDER_TORTURE_SEED` by what chance.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use fastrand::Rng;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::{
    client::{Answer, ask, put_key, within},
    cluster::{Cluster, Over},
    process::POLL_INTERVAL,
    sink::{Mood, Sink},
};

/// How long it goes on unless told otherwise.
const SECONDS: u64 = 5;

const KEYS: usize = 24;

/// How long a writer waits after each write: some ten writes a second for each key.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a node works, and how long it is away.
const PHASE: std::ops::Range<u64> = 200..800;

/// How long all that was acknowledged may take to reach the origin in the end. A flush that failed waits for half a minute at most.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(90);

const SETTINGS: &str = "write_delay = '100ms'\nhot_lease = '200ms'";

fn set(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().expect("a number"))
}

/// What a cluster's writers have been told.
#[derive(Default)]
struct Told {
    /// Of each key, the greatest version that was acknowledged.
    last: HashMap<String, String>,
    acknowledged: usize,
    refused: usize,
}

impl Told {
    fn hear(&mut self, key: &str, answer: Option<Answer>) {
        let Some(answer) = answer.filter(|answer| answer.status == 204) else {
            self.refused += 1;
            return;
        };
        self.acknowledged += 1;
        let version = answer.header("etag").trim_matches('"').to_owned();
        assert_eq!(version.len(), 24, "an acknowledged write has a version");
        let last = self.last.entry(key.to_owned()).or_default();
        *last = version.max(std::mem::take(last));
    }
}

/// Writes a key again and again, at one node or another.
async fn write(
    key: String,
    doors: Arc<Mutex<Vec<SocketAddr>>>,
    told: Arc<Mutex<Told>>,
    ends: Arc<AtomicBool>,
    mut rng: Rng,
) {
    for number in 0_u64.. {
        if ends.load(Relaxed) {
            return;
        }
        let door = rng.choice(&*doors.lock().unwrap()).copied().unwrap();
        let answer = ask(door, put_key(&key, number.to_string())).await;
        told.lock().unwrap().hear(&key, answer.ok());
        sleep(PAUSE).await;
    }
}

/// Which nodes are killed in a round.
fn victims(rng: &mut Rng) -> Vec<usize> {
    let mut nodes = vec![0, 1, 2];
    rng.shuffle(&mut nodes);
    // One, which owns some keys and stands in for others; two, which are owner and stand-in of some; all.
    nodes.truncate([1, 1, 2, 3][rng.usize(..4)]);
    nodes
}

#[tokio::test]
async fn what_was_acknowledged_is_never_lost_and_never_made_out_of_order() {
    let seed = set("LARDER_TORTURE_SEED").unwrap_or(1);
    let end = Instant::now() + Duration::from_secs(set("LARDER_TORTURE_SECONDS").unwrap_or(SECONDS));
    let mut rng = Rng::with_seed(seed);
    let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::start().await);
    let mut cluster = Cluster::with_data(Over::Grpc, 3, &sink.group(SETTINGS), folder.path()).await;
    let doors = |cluster: &Cluster| cluster.nodes.iter().map(|node| node.clients).collect::<Vec<_>>();
    let open = Arc::new(Mutex::new(doors(&cluster)));
    let (told, ends) = (Arc::<Mutex<Told>>::default(), Arc::<AtomicBool>::default());
    let writers: Vec<_> = (0..KEYS)
        .map(|number| {
            let (key, rng) = (format!("k{number}"), Rng::with_seed(seed ^ number as u64));
            tokio::spawn(write(key, open.clone(), told.clone(), ends.clone(), rng))
        })
        .collect();
    let mut rounds = 0;
    while rounds < 2 || Instant::now() < end {
        rounds += 1;
        sink.be([Mood::Well, Mood::Slow(Duration::from_millis(20)), Mood::Failing][rng.usize(..3)]);
        sleep(Duration::from_millis(rng.u64(PHASE))).await;
        let killed = victims(&mut rng);
        killed.iter().for_each(|&node| cluster[node].kill());
        sleep(Duration::from_millis(rng.u64(PHASE))).await;
        let order = {
            let mut order = killed.clone();
            rng.shuffle(&mut order);
            order
        };
        for &node in &order {
            cluster.restart_unready(node).await;
            sleep(Duration::from_millis(rng.u64(0..200))).await;
        }
        *open.lock().unwrap() = doors(&cluster);
        join_all(cluster.nodes.iter().map(|node| node.comes_ready())).await;
    }
    ends.store(true, Relaxed);
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    sink.be(Mood::Well);
    within(FLUSH_TIME_MAX, "the last flush", async {
        while cluster.metric("larder_write_behind_pending").await > 0 {
            sleep(POLL_INTERVAL).await;
        }
    })
    .await;
    let (told, made) = (std::mem::take(&mut *told.lock().unwrap()), sink.made());
    let Told { last, acknowledged, refused } = told;
    let count = made.len();
    let mut reached: HashMap<String, String> = HashMap::new();
    for change in made {
        let newest = reached.entry(change.key).or_default();
        *newest = change.version.max(std::mem::take(newest));
    }
    let lost: Vec<_> =
        last.iter().filter(|(key, version)| reached.get(*key).is_none_or(|made| made < *version)).collect();
    eprintln!(
        "seed {seed}: {rounds} rounds, {acknowledged} writes acknowledged, {refused} not; {count} made at the origin"
    );
    assert!(lost.is_empty(), "acknowledged and lost, of seed {seed}: {lost:?}");
    sink.assert_in_order();
    assert!(count < acknowledged, "changes of a key are gathered");
    assert_eq!(cluster.metric("larder_dead_letters_total").await, 0);
}
