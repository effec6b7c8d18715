//! Writers and readers at every node of a cluster that writes behind, while owners, their stand-ins and all nodes are killed and come back
//! or stand still, and the origin is slow, fails or hangs. Nothing that was acknowledged may be lost, nothing older may be read, and no
//! key's changes be made out of order: at an origin that takes whatever comes only where no node stands still and no flush is timed out,
//! as the promise has it.
//!
//! `LARDER_TORTURE_ROUNDS` sets how often each test does something to its nodes, `LARDER_TORTURE_SEED` by what chance.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use fastrand::Rng;
use futures_util::future::join_all;
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    client::{Answer, ask, get_key, put_key, within},
    cluster::{Cluster, Over},
    process::POLL_INTERVAL,
    sink::{Mood, Sink},
};

/// How many rounds there are unless told otherwise.
const ROUNDS: usize = 3;

/// For how many of them there is one where nodes gossip: it waits for views to change.
const ROUNDS_A_ROUND_OF_GOSSIP: usize = 2;

const NODES: usize = 3;
const KEYS: usize = 24;
const READERS: usize = 8;

/// How long a writer waits after each write: some ten writes a second for each key.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a client waits for an answer: a node may stand still.
const ASK_TIME_MAX: Duration = Duration::from_secs(3);

/// How long nodes work, and how long they are away, in milliseconds.
const PHASE: Range<u64> = 200..800;

/// How long the origin has for a change, and copies of others' values are kept.
const HARD_TIMEOUT: Duration = Duration::from_secs(1);
const HOT_LEASE: Duration = Duration::from_millis(200);

const SETTINGS: &str = "write_delay = '100ms'\nhot_lease = '200ms'\nhard_timeout = '1s'";

/// How long it may take until writes are acknowledged again: a busy machine, and members that have to be heard.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(60);

/// How long all that was acknowledged may take to reach the origin in the end. A flush that failed waits for half a minute at most.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(90);

/// What is done to the nodes of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Fault {
    KillsOwner,
    StopsOwner,
    KillsBoth,
    KillsStandIn,
    StopsOwnerKillsStandIn,
    KillsAll,
}

/// What is done in turn, so that all of it comes about; in another mood of the origin each time.
const FAULTS: [Fault; 6] = [
    Fault::KillsOwner,
    Fault::StopsOwner,
    Fault::KillsBoth,
    Fault::KillsStandIn,
    Fault::StopsOwnerKillsStandIn,
    Fault::KillsAll,
];

/// One that hangs comes after one that takes what there is, so that something hangs.
const MOODS: [Mood; 4] = [Mood::Slow(Duration::from_millis(20)), Mood::Hanging, Mood::Failing, Mood::Well];

/// What an origin that takes whatever comes is spared, as the order of what is made is promised without it only.
const KILLS: [Fault; 4] = [Fault::KillsOwner, Fault::KillsBoth, Fault::KillsStandIn, Fault::KillsAll];
const MOODS_THAT_END: [Mood; 3] = [Mood::Failing, Mood::Slow(Duration::from_millis(20)), Mood::Well];

impl Fault {
    /// Who is killed, and who stands still, of a key's nodes.
    fn victims(self, owner: usize, stand_in: usize) -> (Vec<usize>, Option<usize>) {
        match self {
            Self::KillsOwner => (vec![owner], None),
            Self::StopsOwner => (Vec::new(), Some(owner)),
            Self::KillsBoth => (vec![owner, stand_in], None),
            Self::KillsStandIn => (vec![stand_in], None),
            Self::StopsOwnerKillsStandIn => (vec![stand_in], Some(owner)),
            Self::KillsAll => ((0..NODES).collect(), None),
        }
    }
}

fn set(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().expect("a number"))
}

fn rounds() -> usize {
    set("LARDER_TORTURE_ROUNDS").map_or(ROUNDS, |rounds| usize::try_from(rounds).expect("not that many"))
}

/// What was written under a key: number after number, by one writer.
#[derive(Default)]
struct Written {
    /// The last number that was acknowledged, and the greatest version.
    acknowledged: Option<u64>,
    version: String,
    /// Numbers that may have been written, now or later: their writers were not told.
    doubtful: HashSet<u64>,
}

impl Written {
    fn was_acknowledged(&self, number: u64) -> bool {
        self.acknowledged.is_some_and(|last| number <= last) && !self.doubtful.contains(&number)
    }

    /// Whether a number may be what there is, where that one was acknowledged.
    fn may_be(&self, number: u64, acknowledged: u64) -> bool {
        number >= acknowledged || self.doubtful.contains(&number)
    }
}

/// What clients know.
#[derive(Default)]
struct Clients {
    written: Mutex<HashMap<String, Written>>,
    /// Where writers find nodes, and where readers do: not at one that stood still and has not heard yet what others did meanwhile.
    doors: Mutex<Vec<SocketAddr>>,
    sound_doors: Mutex<Vec<SocketAddr>>,
    acknowledged: AtomicUsize,
    refused: AtomicUsize,
    read: AtomicUsize,
    is_over: AtomicBool,
}

fn key(number: usize) -> String {
    format!("k{number}")
}

async fn answer(door: SocketAddr, request: http::Request<http_body_util::Full<bytes::Bytes>>) -> Option<Answer> {
    timeout(ASK_TIME_MAX, ask(door, request)).await.ok()?.ok()
}

impl Clients {
    /// Writes a key again and again, at one node or another.
    async fn write(self: Arc<Self>, key: String, mut rng: Rng) {
        for number in 0.. {
            if self.is_over.load(Relaxed) {
                return;
            }
            let door = rng.choice(&*self.doors.lock()).copied().unwrap();
            // It may be there before its writer hears of it.
            self.written.lock().entry(key.clone()).or_default().doubtful.insert(number);
            let answer = answer(door, put_key(&key, number.to_string())).await;
            if let Some(answer) = answer.filter(|answer| answer.status == 204) {
                let version = answer.header("etag").trim_matches('"').to_owned();
                assert_eq!(version.len(), 24, "an acknowledged write has a version");
                let mut written = self.written.lock();
                let written = written.get_mut(&key).unwrap();
                written.acknowledged = Some(number);
                written.version = version.max(std::mem::take(&mut written.version));
                written.doubtful.remove(&number);
                self.acknowledged.fetch_add(1, Relaxed);
            } else {
                self.refused.fetch_add(1, Relaxed);
            }
            sleep(PAUSE).await;
        }
    }

    /// Reads one key or another again and again, and finds nothing older than what was acknowledged a lease ago.
    async fn read(self: Arc<Self>, mut rng: Rng) {
        while !self.is_over.load(Relaxed) {
            let key = key(rng.usize(..KEYS));
            let floor = self.written.lock().get(&key).and_then(|written| written.acknowledged);
            sleep(HOT_LEASE).await;
            let (door, Some(floor)) = (rng.choice(&*self.sound_doors.lock()).copied(), floor) else { continue };
            let Some(answer) = answer(door.unwrap(), get_key(&key)).await else { continue };
            match answer.status {
                200 => {
                    let number: u64 = answer.text().parse().unwrap();
                    let is_new = self.written.lock()[&key].may_be(number, floor);
                    assert!(is_new, "{key}: {number} was read after {floor} was acknowledged: {answer:?}");
                    self.read.fetch_add(1, Relaxed);
                }
                404 => panic!("{key}: nothing was read after {floor} was acknowledged"),
                _ => {}
            }
        }
    }

    /// Waits until so many writes as there are keys were acknowledged again.
    async fn go_on(&self) {
        let begin = self.acknowledged.load(Relaxed);
        within(RECOVERY_TIME_MAX, "writes that are acknowledged", async {
            while self.acknowledged.load(Relaxed) < begin + KEYS {
                sleep(POLL_INTERVAL).await;
            }
        })
        .await;
    }

    fn look_at(&self, cluster: &Cluster, unsound: Option<usize>) {
        let doors: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.clients).collect();
        let sound = doors.iter().enumerate().filter(|(place, _)| Some(*place) != unsound);
        *self.sound_doors.lock() = sound.map(|(_, door)| *door).collect();
        *self.doors.lock() = doors;
    }
}

struct Torture {
    name: &'static str,
    cluster: Cluster,
    sink: Arc<Sink>,
    clients: Arc<Clients>,
    /// Who dies is out of the others' view after a while.
    gossips: bool,
    rng: Rng,
    seed: u64,
}

impl Torture {
    async fn begin(name: &'static str, sink: Arc<Sink>, gossips: bool, folder: &Path) -> Self {
        let seed = set("LARDER_TORTURE_SEED").unwrap_or(1);
        let groups = sink.group(SETTINGS);
        let cluster = if gossips {
            Cluster::gossiping(NODES, &groups, folder).await
        } else {
            Cluster::with_data(Over::Grpc, NODES, &groups, folder).await
        };
        let clients = Arc::<Clients>::default();
        clients.look_at(&cluster, None);
        Self { name, cluster, sink, clients, gossips, rng: Rng::with_seed(seed), seed }
    }

    fn phase(&mut self) -> Duration {
        Duration::from_millis(self.rng.u64(PHASE))
    }

    /// Does something to the nodes of a key while the origin is in a mood, and waits until all is well again. `outlasts`: who is away
    /// stays so until the others have another view.
    async fn round(&mut self, fault: Fault, mood: Mood, outlasts: bool) {
        self.sink.be(mood);
        // So that flushes are timed out before anything else happens, too.
        let hangs = if mood == Mood::Hanging && self.rng.bool() { HARD_TIMEOUT } else { Duration::ZERO };
        sleep(hangs + self.phase()).await;
        let key = key(self.rng.usize(..KEYS));
        let (owner, stand_in) = self.cluster.owner_and_stand_in(&key).await;
        let (mut killed, stopped) = fault.victims(owner, stand_in);
        if let Some(stopped) = stopped {
            self.clients.look_at(&self.cluster, Some(stopped));
            self.cluster[stopped].signal(Signal::STOP);
        }
        killed.iter().for_each(|&node| self.cluster[node].kill());
        sleep(self.phase()).await;
        let left: Vec<usize> = (0..NODES).filter(|node| !killed.contains(node) && Some(*node) != stopped).collect();
        if outlasts && !left.is_empty() {
            self.cluster.agree(&left).await;
            // What the others do then.
            sleep(self.phase()).await;
        }
        if stopped.is_some() {
            // What it has sent gets there while it stands still.
            self.sink.be(Mood::Well);
            sleep(self.phase()).await;
        }
        self.rng.shuffle(&mut killed);
        let mut comes_back: Vec<Option<usize>> = killed.into_iter().map(Some).collect();
        if stopped.is_some() {
            comes_back.insert(self.rng.usize(..=comes_back.len()), None);
        }
        for node in comes_back {
            match node {
                Some(node) => self.cluster.restart_unready(node).await,
                None => self.cluster[stopped.unwrap()].signal(Signal::CONT),
            }
            sleep(self.phase() / 4).await;
            self.clients.look_at(&self.cluster, stopped);
        }
        join_all(self.cluster.nodes.iter().map(|node| node.comes_ready())).await;
        if self.gossips {
            self.cluster.agree(&(0..NODES).collect::<Vec<_>>()).await;
        }
        self.clients.look_at(&self.cluster, None);
        self.clients.go_on().await;
    }

    async fn go_through(&mut self, rounds: usize, faults: &[Fault], moods: &[Mood]) {
        let (clients, seed) = (&self.clients, self.seed);
        let mut running = JoinSet::new();
        for number in 0..KEYS {
            running.spawn(clients.clone().write(key(number), Rng::with_seed(seed ^ number as u64)));
        }
        for number in 0..READERS {
            running.spawn(clients.clone().read(Rng::with_seed(!seed ^ number as u64)));
        }
        self.clients.go_on().await;
        let mut came_about: HashMap<Fault, usize> = HashMap::new();
        for round in 0..rounds {
            let turn = round / faults.len();
            let (fault, mood) = (faults[round % faults.len()], moods[(round + turn) % moods.len()]);
            let started = Instant::now();
            self.round(fault, mood, self.gossips && turn.is_multiple_of(2)).await;
            *came_about.entry(fault).or_default() += 1;
            say(self.name, round, fault, mood, started);
            // One that found something older ends with that.
            while let Some(ended) = running.try_join_next() {
                ended.unwrap();
            }
        }
        self.clients.is_over.store(true, Relaxed);
        while let Some(ended) = running.join_next().await {
            ended.unwrap();
        }
        eprintln!("{} of seed {seed}: {came_about:?}", self.name);
    }

    /// All that was acknowledged reaches the origin, and is what every node answers.
    async fn judge(self) {
        let Self { name, cluster, sink, clients, seed, .. } = self;
        sink.be(Mood::Well);
        within(FLUSH_TIME_MAX, "the last flush", async {
            while cluster.metric("larder_write_behind_pending").await > 0 {
                sleep(POLL_INTERVAL).await;
            }
        })
        .await;
        let (made, written) = (sink.made(), std::mem::take(&mut *clients.written.lock()));
        let count = |of: &AtomicUsize| of.load(Relaxed);
        let (acknowledged, refused, read) =
            (count(&clients.acknowledged), count(&clients.refused), count(&clients.read));
        let made_count = made.len();
        let mut reached: HashMap<String, String> = HashMap::new();
        let mut made_acknowledged = HashSet::new();
        for change in made {
            let number = change.value.as_deref().unwrap().parse().unwrap();
            if written[&change.key].was_acknowledged(number) {
                made_acknowledged.insert((change.key.clone(), number));
            }
            let newest = reached.entry(change.key).or_default();
            *newest = change.version.max(std::mem::take(newest));
        }
        let is_lost = |(key, it): &(&String, &Written)| {
            it.acknowledged.is_some() && reached.get(*key).is_none_or(|made| *made < it.version)
        };
        let lost: Vec<_> = written.iter().filter(is_lost).map(|(key, it)| (key, &it.version)).collect();
        eprintln!(
            "{name} of seed {seed}: {acknowledged} writes acknowledged, {} of them made one by one, {} lost, {refused} not acknowledged; \
             {made_count} made at the origin, {} turned down there; {read} read",
            made_acknowledged.len(),
            lost.len(),
            sink.turned_down(),
        );
        assert!(lost.is_empty(), "acknowledged and lost, of seed {seed}: {lost:?}");
        sink.assert_in_order();
        assert!(made_acknowledged.len() < acknowledged, "changes of a key are gathered");
        assert_eq!(cluster.metric("larder_dead_letters_total").await, 0);
        for (key, it) in &written {
            let Some(acknowledged) = it.acknowledged else { continue };
            for node in &cluster.nodes {
                // Writes whose clients have gone may still be under way.
                let agrees = async {
                    loop {
                        let (answer, row) = (node.ask(get_key(key)).await, sink.row(key));
                        if answer.status < 500 {
                            let answered = Some(answer.text());
                            for (who, number) in [("the origin has", row.as_deref()), ("is answered", answered)] {
                                let number: u64 = number.unwrap().parse().unwrap();
                                assert!(
                                    it.may_be(number, acknowledged),
                                    "{key}: {who} {number}, and {acknowledged} was acknowledged"
                                );
                            }
                            if answered == row.as_deref() {
                                return;
                            }
                        }
                        sleep(POLL_INTERVAL).await;
                    }
                };
                within(FLUSH_TIME_MAX, "a node that answers what the origin has", agrees).await;
            }
        }
    }
}

fn say(name: &str, round: usize, fault: Fault, mood: Mood, started: Instant) {
    eprintln!("{name}: round {round}, {fault:?} while the origin is {mood:?}, took {:?}", started.elapsed());
}

#[tokio::test]
async fn of_listed_nodes_that_are_killed_nothing_is_lost_or_made_out_of_order_at_any_origin() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::start().await);
    let mut torture = Torture::begin("listed, any origin", sink, false, folder.path()).await;
    torture.go_through(rounds(), &KILLS, &MOODS_THAT_END).await;
    torture.judge().await;
}

#[tokio::test]
async fn of_listed_nodes_that_are_killed_or_stand_still_nothing_is_lost_or_undone_at_an_origin_that_fences() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::fencing().await);
    let mut torture = Torture::begin("listed, fencing origin", sink, false, folder.path()).await;
    torture.go_through(rounds(), &FAULTS, &MOODS).await;
    torture.judge().await;
}

#[tokio::test]
async fn of_gossiping_nodes_that_are_killed_or_stand_still_nothing_is_lost_or_undone_at_an_origin_that_fences() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::fencing().await);
    let mut torture = Torture::begin("gossiping, fencing origin", sink, true, folder.path()).await;
    torture.go_through(rounds().div_ceil(ROUNDS_A_ROUND_OF_GOSSIP), &FAULTS, &MOODS).await;
    torture.judge().await;
}
