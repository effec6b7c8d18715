//! Traffic: clients that get every key over and over, through whatever nodes they know, and what became of their gets.
//!
//! A client behind a list of addresses asks another node when it does not reach the one it chose. It asks once more too
//! when a node answers with an error; whether it may have to is for the test to say.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use fastrand::Rng;
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    client::{Connection, get, value_of},
    origin::Origin,
};

/// A get is sent to one node, and to a second one if need be.
const ATTEMPTS_MAX: usize = 2;

/// More than any node takes to answer: ten seconds, unless it is told otherwise.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

/// How often it is looked at how far a pass has come.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How much of it there is.
pub(crate) struct Plan {
    pub(crate) keys: Vec<String>,
    pub(crate) callers: usize,
    /// From one get of a caller to its next, at least.
    pub(crate) pause: Duration,
    /// The path at which a node has a key.
    pub(crate) path: fn(&str) -> String,
    /// Gets and loads are counted by stretches of this length.
    pub(crate) window: Duration,
}

/// What a stretch of time came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) gets: usize,
    /// What the origin was asked for.
    pub(crate) loads: usize,
}

impl Window {
    /// Gets that cost no load, as a part of all.
    pub(crate) fn hit_ratio(self) -> f64 {
        1.0 - self.loads as f64 / self.gets.max(1) as f64
    }
}

/// What became of the gets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) gets: usize,
    /// Attempts that reached no node, or were not answered by it.
    pub(crate) unreached: usize,
    /// Attempts that were answered, but not with the value.
    pub(crate) refused: Vec<String>,
    /// Gets for which a second attempt did no better.
    pub(crate) failed: Vec<String>,
    pub(crate) slowest: Duration,
    /// In order, since the traffic began.
    pub(crate) windows: Vec<Window>,
}

/// Clients at work. Dropped, they stop.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    plan: Plan,
    doors: Mutex<Vec<SocketAddr>>,
    begun: AtomicUsize,
    /// The gets of each caller that have ended.
    ended: Box<[AtomicUsize]>,
    stopped: AtomicBool,
    report: Mutex<Report>,
}

/// Why an attempt brought no value.
enum Trouble {
    Unreached(String),
    Refused(String),
}

impl Traffic {
    /// Has clients get the keys through nodes at `doors`. They first ask for each key in turn, then again, and so on.
    pub(crate) fn start(plan: Plan, doors: impl IntoIterator<Item = SocketAddr>, origin: &Arc<Origin>) -> Self {
        let shared = Arc::new(Shared {
            ended: (0..plan.callers).map(|_| AtomicUsize::new(0)).collect(),
            plan,
            doors: Mutex::new(doors.into_iter().collect()),
            begun: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            report: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for caller in 0..shared.plan.callers {
            tasks.spawn(call(shared.clone(), caller));
        }
        tasks.spawn(watch(shared.clone(), origin.clone()));
        Self { shared, tasks }
    }

    /// Clients hear of a node.
    pub(crate) fn open(&self, door: SocketAddr) {
        self.shared.doors.lock().push(door);
    }

    /// Clients hear that a node is gone.
    pub(crate) fn close(&self, door: SocketAddr) {
        self.shared.doors.lock().retain(|known| *known != door);
    }

    /// Waits until each key has been asked for once more, and its get has ended.
    pub(crate) async fn pass(&self) {
        let end = self.shared.begun.load(Relaxed) + self.shared.plan.keys.len();
        while self.shared.begun.load(Relaxed) < end {
            sleep(POLL_INTERVAL).await;
        }
        self.settle().await;
    }

    /// Waits until the gets have ended that are under way.
    pub(crate) async fn settle(&self) {
        let ended = || self.shared.ended.iter().map(|ended| ended.load(Relaxed)).collect::<Vec<_>>();
        let before = ended();
        while ended().iter().zip(&before).any(|(now, before)| now == before) {
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Ends it, and tells what it came to.
    pub(crate) async fn stop(mut self) -> Report {
        self.shared.stopped.store(true, Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.shared.report.lock().clone()
    }
}

async fn call(shared: Arc<Shared>, caller: usize) {
    let mut random = Rng::with_seed(caller as u64);
    let Plan { keys, pause, .. } = &shared.plan;
    let mut connections = HashMap::new();
    let mut due = interval(*pause);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !shared.stopped.load(Relaxed) {
        due.tick().await;
        let number = shared.begun.fetch_add(1, Relaxed);
        let first = random.usize(..);
        let start = Instant::now();
        shared.get(&keys[number % keys.len()], first, &mut connections).await;
        shared.ended[caller].fetch_add(1, Relaxed);
        let mut report = shared.report.lock();
        report.gets += 1;
        report.slowest = report.slowest.max(start.elapsed());
    }
}

/// Counts by windows.
async fn watch(shared: Arc<Shared>, origin: Arc<Origin>) {
    let mut every = interval(shared.plan.window);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    every.tick().await;
    let mut before = Window { gets: shared.report.lock().gets, loads: origin.asked_len() };
    while !shared.stopped.load(Relaxed) {
        every.tick().await;
        let mut report = shared.report.lock();
        let now = Window { gets: report.gets, loads: origin.asked_len() };
        report.windows.push(Window { gets: now.gets - before.gets, loads: now.loads - before.loads });
        before = now;
    }
}

impl Shared {
    async fn get(&self, key: &str, first: usize, connections: &mut HashMap<SocketAddr, Connection>) {
        for attempt in 0..ATTEMPTS_MAX {
            let door = {
                let doors = self.doors.lock();
                doors[(first + attempt) % doors.len()]
            };
            let asked = timeout(ANSWER_TIME_MAX, self.ask(key, door, connections)).await;
            let trouble = match asked {
                Ok(Ok(())) => return,
                Ok(Err(trouble)) => trouble,
                Err(_) => Trouble::Unreached(format!("no answer in {ANSWER_TIME_MAX:?}")),
            };
            connections.remove(&door);
            let mut report = self.report.lock();
            let what = match trouble {
                Trouble::Unreached(what) => {
                    report.unreached += 1;
                    what
                }
                Trouble::Refused(what) => {
                    report.refused.push(format!("{key} at {door}: {what}"));
                    what
                }
            };
            if attempt + 1 == ATTEMPTS_MAX {
                report.failed.push(format!("{key} at {door}: {what}"));
            }
        }
    }

    async fn ask(
        &self,
        key: &str,
        door: SocketAddr,
        connections: &mut HashMap<SocketAddr, Connection>,
    ) -> Result<(), Trouble> {
        let unreached = |error: crate::client::Broken| Trouble::Unreached(error.to_string());
        // A connection that the node has closed meanwhile is no news of the node.
        if connections.get(&door).is_none_or(Connection::is_closed) {
            connections.insert(door, Connection::open(door).await.map_err(unreached)?);
        }
        let Some(connection) = connections.get_mut(&door) else { unreachable!("it was just put there") };
        let answer = connection.ask(get(&(self.plan.path)(key))).await.map_err(unreached)?;
        if answer.status == 200 && answer.body == value_of(key) {
            return Ok(());
        }
        Err(Trouble::Refused(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))))
    }
}
