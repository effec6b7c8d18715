//! [`Gossip`]: nodes that find each other by telling whom they know, with no other software.
//!
//! chitchat carries what each node says of itself to all others (Scuttlebutt reconciliation, van Renesse et al. 2008) and
//! counts heartbeats. What is made of it here: who is live and who has which name (`roster.rs`), what is said (`facts.rs`),
//! and that only who has the cluster's key can say anything (`seal.rs`).
//!
//! Each datagram names every member, so this is for clusters of up to some hundred nodes. Nothing here is agreed upon: two
//! halves of a cluster that don't reach each other each go on with the members they have.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use chitchat::{ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState, spawn_chitchat};
use futures_util::{StreamExt, future::BoxFuture, stream};
use larder_core::{Clock, Error, ErrorKind, Member, MemberState, Members, Membership};
use parking_lot::Mutex;
use tokio::{
    net::{UdpSocket, lookup_host},
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use self::{
    facts::Run,
    roster::{Claim, Roster, Sighting},
    seal::Seal,
    socket::{Counters, Filter, SealedUdp},
};

mod facts;
mod roster;
mod seal;
mod socket;
#[cfg(test)]
mod tests;
mod window;

pub use seal::KEY_LEN;

/// How often each node tells three others what it knows, and asks what they know.
const GOSSIP_EVERY: Duration = Duration::from_millis(250);

/// How long a run of a node that is out is still remembered. For half of that time others are told of it, and those who had
/// only lost it find it again without their seeds' help; each run so remembered makes each datagram longer.
const OUT_REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// How often a seed is asked while nobody else is known, and while others are. The latter heals a cluster whose halves have
/// forgotten each other.
const SEED_EVERY_ALONE: Duration = Duration::from_millis(500);
const SEED_EVERY: Duration = Duration::from_secs(2);

/// How long looking up a seed's name may take.
const SEED_LOOKUP_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a node that has seeds waits for one of them before it goes on alone.
const CONTACT_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a node waits to find out who of the members it was told of is alive. That takes a round or two, but for members
/// that crashed a moment ago.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(1);

/// How long a node waits to find out whether its name is free, if that is unclear: until a former run of it is out.
const CLAIM_TIME_MAX: Duration = Duration::from_secs(5);

/// How many others are asked at once when there may be news.
const ASKED_LEN: usize = 3;

/// How long their answers are waited for: less than a look may take.
const ASKED_TIME_MAX: Duration = Duration::from_millis(200);

/// How many times a node that leaves tells [`ASKED_LEN`] others so: any datagram may be lost.
const FAREWELLS_LEN: usize = 3;

/// The most seeds that are asked at once.
const SEEDS_ASKED_MAX: usize = 16;

/// What chitchat calls the cluster. Clusters are told apart by their keys.
const CLUSTER_ID: &str = "larder";

/// A node that gossips.
///
/// ```
/// use std::sync::Arc;
/// use larder_cluster::gossip::GossipConfig;
/// use larder_core::Member;
/// # use larder_core::testing::clock::TokioClock;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # let clock = Arc::new(TokioClock::new());
/// let config = GossipConfig {
///     advertise: "10.0.0.1:5275".parse().unwrap(),
///     seeds: vec!["10.0.0.2:5275".into(), "seed.example:5275".into()],
///     key: Some([42; 32]),
///     ..GossipConfig::new(Member::new("a", "10.0.0.1:5274"), clock)
/// };
/// assert_eq!(config.seeds.len(), 2);
/// # });
/// ```
#[derive(Clone)]
pub struct GossipConfig {
    /// This node, with the incarnation that the node itself has. Its state is not told; that is announced.
    pub me: Member,
    /// Where others reach this node's socket. The port 0 stands for the socket's own.
    pub advertise: SocketAddr,
    /// Where some other nodes gossip, `host:port`; names are looked up anew each time. This node may be among them.
    pub seeds: Vec<String>,
    /// The cluster's secret. Without one, everybody who reaches the socket may read and write what is gossiped.
    pub key: Option<[u8; KEY_LEN]>,
    /// The wall clock dates datagrams and this run of the node.
    pub clock: Arc<dyn Clock>,
    /// The start of what chance decides here. The library that gossips has chance of its own.
    pub seed: u64,
}

impl GossipConfig {
    /// A node on loopback, without seeds and without a key.
    pub fn new(me: Member, clock: Arc<dyn Clock>) -> Self {
        let advertise = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { me, advertise, seeds: Vec::new(), key: None, clock, seed: 0 }
    }
}

/// What has gone through a node's gossip socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GossipTraffic {
    /// Datagrams sent.
    pub sent: u64,
    /// Their bytes, without the heads of UDP and IP.
    pub sent_bytes: u64,
    /// Datagrams received, from whomever.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Bytes of the longest datagram sent.
    pub longest: u64,
    /// How many of those received were refused: not sealed with the cluster's key, or not to be taken again.
    pub refused: u64,
}

/// Membership by gossip. A node is on the list once it has [announced](Membership::announce) what it does; dropped, it is
/// out when its silence has been noticed.
///
/// ```
/// use std::sync::Arc;
/// use larder_cluster::gossip::{Gossip, GossipConfig};
/// use larder_core::{Member, MemberState, Membership};
/// # use larder_core::testing::clock::TokioClock;
/// use tokio::net::UdpSocket;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # let clock = Arc::new(TokioClock::new());
/// let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
/// let gossip = Gossip::start(GossipConfig::new(Member::new("a", "127.0.0.1:5274"), clock), socket).await?;
/// gossip.announce(MemberState::Serving).await?;
/// assert_eq!(gossip.members().borrow().len(), 1);
/// gossip.leave().await;
/// # Ok::<(), larder_core::Error>(()) }).unwrap();
/// ```
pub struct Gossip {
    shared: Arc<Shared>,
    /// Ended when the membership is dropped.
    _tasks: JoinSet<()>,
}

struct Shared {
    me: Member,
    run: Run,
    handle: ChitchatHandle,
    has_seeds: bool,
    counters: Arc<Counters>,
    roster: Mutex<(Roster, Instant)>,
    members: watch::Sender<Members>,
    /// Whether this node has found out that its name is free. Held while that is found out.
    has_name: tokio::sync::Mutex<bool>,
    chance: Mutex<fastrand::Rng>,
}

impl Gossip {
    /// Begins to gossip through a socket.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if this node's facts are too long, or the system gives no random bytes.
    pub async fn start(config: GossipConfig, socket: UdpSocket) -> Result<Self, Error> {
        Self::start_filtered(config, socket, None).await
    }

    async fn start_filtered(config: GossipConfig, socket: UdpSocket, filter: Option<Filter>) -> Result<Self, Error> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, message);
        let GossipConfig { me, mut advertise, seeds, key, clock, seed } = config;
        facts::write(&me, Some(me.state))?;
        let bound =
            socket.local_addr().map_err(|error| invalid(format!("the gossip socket has no address: {error}")))?;
        if advertise.port() == 0 {
            advertise.set_port(bound.port());
        }
        let run = Run { name: me.name.clone(), started_ms: clock.wall_ms(), gossips_at: advertise };
        let seal = Seal::new(key.as_ref()).ok_or_else(|| invalid("the system gives no random bytes".to_owned()))?;
        let (socket, counters) = SealedUdp::new(socket, seal, clock, filter);
        let handle = spawn_chitchat(chitchat_config(&run, bound), Vec::new(), &socket).await;
        let handle = handle.map_err(|error| invalid(format!("gossip can't begin: {error}")))?;

        let news = Arc::new(Notify::new());
        let heard = news.clone();
        let subscribed = handle.with_chitchat(|chitchat| {
            let heard = heard.clone();
            chitchat.subscribe_event(facts::KEY, move |_| heard.notify_one()).forever();
        });
        subscribed.await;
        let shared = Arc::new(Shared {
            roster: Mutex::new((Roster::new(run.clone()), Instant::now())),
            me,
            run,
            handle,
            has_seeds: seeds.iter().any(|seed| seed.parse() != Ok(advertise)),
            counters,
            members: watch::Sender::new(Members::default()),
            has_name: tokio::sync::Mutex::new(false),
            chance: Mutex::new(fastrand::Rng::with_seed(seed)),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_roster(shared.clone(), news));
        tasks.spawn(ask_seeds(shared.clone(), seeds));
        Ok(Self { shared, _tasks: tasks })
    }

    /// Where the others are told that this node gossips.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.run.gossips_at
    }

    /// What has gone through the socket.
    #[must_use]
    pub fn traffic(&self) -> GossipTraffic {
        self.shared.counters.traffic()
    }
}

fn chitchat_config(run: &Run, bound: SocketAddr) -> ChitchatConfig {
    ChitchatConfig {
        chitchat_id: ChitchatId::new(run.name.clone(), run.started_ms, run.gossips_at),
        cluster_id: CLUSTER_ID.to_owned(),
        gossip_interval: GOSSIP_EVERY,
        listen_addr: bound,
        // They are asked by `ask_seeds`, which looks names up again when they begin to exist.
        seed_nodes: Vec::new(),
        // Who is live is the roster's judgement. This one only says whom chitchat tells more often. A window of one interval
        // holds the mean near the interval that is given, so that the limit is about that of the roster.
        failure_detector_config: FailureDetectorConfig {
            phi_threshold: roster::SILENCE_MAX.as_secs_f64() / GOSSIP_EVERY.as_secs_f64(),
            sampling_window_size: 1,
            max_interval: GOSSIP_EVERY * 2,
            initial_interval: GOSSIP_EVERY,
            dead_node_grace_period: OUT_REMEMBERED_FOR,
        },
        marked_for_deletion_grace_period: OUT_REMEMBERED_FOR,
        catchup_callback: None,
        extra_liveness_predicate: None,
    }
}

impl Membership for Gossip {
    fn members(&self) -> watch::Receiver<Members> {
        self.shared.members.subscribe()
    }

    fn announce(&self, state: MemberState) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.shared.announce(state))
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.leave())
    }

    fn look(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.shared.ask().await;
            self.shared.look().await;
        })
    }
}

impl Shared {
    async fn announce(&self, state: MemberState) -> Result<(), Error> {
        let facts = facts::write(&self.me, Some(state))?;
        let mut has_name = self.has_name.lock().await;
        if !*has_name {
            self.find_out_about_the_others().await;
            *has_name = true;
        }
        if self.claim_name().await {
            self.tell(&facts).await;
            return Ok(());
        }
        // Whatever it said before would stand in the way of the other.
        if let Ok(left) = facts::write(&self.me, None) {
            self.tell(&left).await;
        }
        let name = &self.me.name;
        Err(Error::new(
            ErrorKind::Invalid,
            format!("a live member is named {name:?} already: give this node another name"),
        ))
    }

    /// Joins: waits until a seed has told whom it knows, and who of these is alive.
    async fn find_out_about_the_others(&self) {
        if self.has_seeds {
            let mut exchanges = self.counters.exchanges.subscribe();
            let contact = timeout(CONTACT_TIME_MAX, exchanges.wait_for(|exchanges| *exchanges > 0)).await;
            if contact.is_err() {
                tracing::warn!("no seed answers; this node goes on alone and goes on asking them");
            }
        }
        let settled = async {
            while {
                self.look().await;
                !self.roster.lock().0.is_settled()
            } {
                sleep(GOSSIP_EVERY / 2).await;
            }
        };
        // Who is silent all that time is as good as out.
        let _in_time = timeout(SETTLE_TIME_MAX, settled).await;
    }

    /// Whether this node may have its name, however long it takes to find that out.
    async fn claim_name(&self) -> bool {
        let claimed = async {
            loop {
                self.look().await;
                let claim = self.roster.lock().0.claim();
                match claim {
                    Claim::Free => return true,
                    Claim::Taken => return false,
                    Claim::Unclear => sleep(GOSSIP_EVERY / 2).await,
                }
            }
        };
        // What comes and goes for so long is no former run.
        timeout(CLAIM_TIME_MAX, claimed).await.unwrap_or(false)
    }

    /// Says this of the node, to itself too.
    async fn tell(&self, facts: &str) {
        self.handle.with_chitchat(|chitchat| chitchat.self_node_state().set(facts::KEY, facts)).await;
        self.look().await;
    }

    async fn leave(&self) {
        let Ok(left) = facts::write(&self.me, None) else { return };
        let farewells = if self.roster.lock().0.live_len() > 0 { FAREWELLS_LEN } else { 0 };
        self.tell(&left).await;
        for _ in 0..farewells {
            self.ask().await;
        }
    }

    /// Exchanges what is known with some others.
    async fn ask(&self) {
        let mut live = self.roster.lock().0.live_addresses();
        self.chance.lock().shuffle(&mut live);
        live.truncate(ASKED_LEN);
        let mut exchanges = self.counters.exchanges.subscribe();
        let enough = *exchanges.borrow_and_update() + live.len() as u64;
        for address in live {
            // It fails if the gossip has ended, and then nothing would help.
            let _asked = self.handle.gossip(address);
        }
        let answered = exchanges.wait_for(|exchanges| *exchanges >= enough);
        // Who is about to be out does not answer.
        let _in_time = timeout(ASKED_TIME_MAX, answered).await;
    }

    /// Takes what chitchat knows into the roster, and what follows into the list.
    async fn look(&self) {
        let members = self.handle.with_chitchat(|chitchat| {
            let now = Instant::now();
            let mut roster = self.roster.lock();
            let (roster, looked_at) = &mut *roster;
            roster.look(chitchat.node_states().values().map(sighting), now - std::mem::replace(looked_at, now));
            roster.members()
        });
        match Members::new(members.await) {
            Ok(members) => {
                self.members.send_if_modified(|present| {
                    let is_change = *present != members;
                    *present = members;
                    is_change
                });
            }
            Err(error) => tracing::error!(%error, "the gossip's member list is not used"),
        }
    }
}

fn sighting(state: &NodeState) -> Sighting {
    let id = state.chitchat_id();
    let said = facts::read(&id.node_id, state.get(facts::KEY));
    let run = Run { name: id.node_id.clone(), started_ms: id.generation_id, gossips_at: id.gossip_advertise_addr };
    Sighting { run, heartbeat: state.heartbeat().into(), said }
}

/// Looks at each round of gossip, and whenever somebody has said something.
async fn watch_roster(shared: Arc<Shared>, news: Arc<Notify>) {
    let mut rounds = interval(GOSSIP_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ended = shared.handle.termination_watcher();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            () = news.notified() => {}
            ended = &mut ended => {
                tracing::error!(?ended, "the gossip has ended, and this node will be out for the others: start it again");
                return;
            }
        }
        shared.look().await;
    }
}

/// Asks seeds for as long as the node is there: all of them while it is alone, one at a time later.
async fn ask_seeds(shared: Arc<Shared>, mut seeds: Vec<String>) {
    seeds.retain(|seed| seed.parse() != Ok(shared.run.gossips_at));
    if seeds.is_empty() {
        return;
    }
    loop {
        let is_alone = shared.roster.lock().0.live_len() == 0;
        shared.chance.lock().shuffle(&mut seeds);
        let asked = if is_alone { seeds.len().min(SEEDS_ASKED_MAX) } else { 1 };
        let asks = stream::iter(&seeds[..asked]).for_each_concurrent(None, |seed| shared.ask_seed(seed));
        asks.await;
        sleep(if is_alone { SEED_EVERY_ALONE } else { SEED_EVERY }).await;
    }
}

impl Shared {
    async fn ask_seed(&self, seed: &str) {
        let found = match timeout(SEED_LOOKUP_TIME_MAX, lookup_host(seed)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return tracing::debug!(seed, %error, "a seed can't be looked up"),
            Err(_) => return tracing::debug!(seed, "looking a seed up takes too long"),
        };
        for address in found.filter(|address| *address != self.run.gossips_at).take(SEEDS_ASKED_MAX) {
            let _asked = self.handle.gossip(address);
        }
    }
}
