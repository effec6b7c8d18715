//! [`Node`] and its [builder](NodeBuilder): the core's node with the machine's clocks, a membership that it follows, and
//! the tasks that it needs.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use larder_cluster::Static;
use larder_core::{
    Clock, Error, ErrorKind, Loader, LockService, Locks, Member, Membership, NodeConfig, Ring, Transport, View,
    behind::Records,
    lock::{Acquire, ClusterLocks},
};
use larder_peer::grpc::GrpcTransport;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::task::JoinSet;

use crate::{GroupBuilder, SystemClock};

/// How often expired entries are looked for, so that their bytes come back without a get.
const SWEEP_EVERY: Duration = Duration::from_millis(250);

/// How many entries of a group one sweep looks at: some tens of microseconds of work.
const SWEEP_ENTRIES_MAX: usize = 4096;

/// A member of the cluster, or a cache of one. Everything it owns ends with it; two of them in one process have nothing in
/// common.
///
/// ```
/// use larder::{Key, Node, loader_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder::Error> {
/// let node = Node::builder().name("a").start().await?;
/// let loader = loader_fn(|key: Key| async move { Ok::<_, std::io::Error>(Some(key.to_bytes())) });
/// let echoes = node.group("echoes", loader).open()?;
/// assert_eq!(echoes.get("hello").await?.as_deref(), Some(&b"hello"[..]));
/// # Ok(()) }
/// ```
pub struct Node {
    core: larder_core::Node,
    locks: Locks,
    /// Ended when the node is dropped.
    _tasks: JoinSet<()>,
}

impl Node {
    /// Settings of a node that is about to be started.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// A group of keys that `loader` loads, to be set up and opened.
    pub fn group(&self, name: impl Into<String>, loader: impl Loader) -> GroupBuilder<'_> {
        GroupBuilder::new(&self.core, name.into(), Some(Arc::new(loader)))
    }

    /// A group without an origin, which holds what is put into it.
    pub fn plain_group(&self, name: impl Into<String>) -> GroupBuilder<'_> {
        GroupBuilder::new(&self.core, name.into(), None)
    }

    /// The members as this node sees them, and what each owns.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.core.view()
    }

    /// The lock of this name, to be [acquired](Acquire::acquire). The nodes of the cluster keep it, unless the
    /// [builder](NodeBuilder::locks) was given another service.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder::Error> {
    /// let node = larder::Node::builder().start().await?;
    /// let guard = node.lock("nightly-job").ttl(Duration::from_secs(10)).wait(Duration::ZERO).acquire().await?;
    /// println!("my number is {}", guard.fence());
    /// guard.release().await?;
    /// # Ok(()) }
    /// ```
    pub fn lock(&self, name: impl Into<Bytes>) -> Acquire<'_> {
        self.locks.lock(name)
    }

    /// What [`lock`](Self::lock) takes locks by: the service for who holds them by their tokens, what is counted, and what is held.
    #[must_use]
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// The node's inside, as servers of its protocols need it.
    #[must_use]
    pub fn core(&self) -> &larder_core::Node {
        &self.core
    }
}

/// Settings of a node that is about to be started. Nothing needs to be set: the default is a cluster of one.
#[must_use = "a node does nothing until it is started"]
pub struct NodeBuilder {
    name: Arc<str>,
    http: Arc<str>,
    membership: Option<Arc<dyn Membership>>,
    ring: Ring,
    transport: Option<Arc<dyn Transport>>,
    clock: Arc<dyn Clock>,
    incarnation: Option<u32>,
    seed: Option<u64>,
    #[cfg(feature = "journal")]
    clock_journal: Option<larder_origin::journal::Journal>,
    journal: Option<Arc<dyn Records>>,
    locks: Option<Arc<dyn LockService>>,
    is_first_start: bool,
}

impl Default for NodeBuilder {
    fn default() -> Self {
        Self {
            name: Arc::from("larder"),
            http: Arc::from(""),
            membership: None,
            ring: Ring::default(),
            transport: None,
            clock: Arc::new(SystemClock),
            incarnation: None,
            seed: None,
            #[cfg(feature = "journal")]
            clock_journal: None,
            journal: None,
            locks: None,
            is_first_start: false,
        }
    }
}

impl NodeBuilder {
    /// The node's name; in a cluster, its name among the members.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Where clients reach the node's HTTP API, `host:port`, if it has one: the other nodes are told.
    pub fn http(mut self, http: impl Into<Arc<str>>) -> Self {
        self.http = http.into();
        self
    }

    /// Who is in the cluster. Not set: this node alone.
    pub fn membership(mut self, membership: impl Membership) -> Self {
        self.membership = Some(Arc::new(membership));
        self
    }

    /// How keys are placed; the same on every node.
    pub fn ring(mut self, ring: Ring) -> Self {
        self.ring = ring;
        self
    }

    /// How other members are reached. Not set: over [gRPC](larder_peer::grpc), which they answer with
    /// [`larder_peer::grpc::serve()`].
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// The clocks. Not set: the machine's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Tells this run of the node from its earlier ones and from all other nodes; a membership in which nodes register
    /// themselves must be told the same. Not set: drawn by chance.
    pub fn incarnation(mut self, incarnation: u32) -> Self {
        self.incarnation = Some(incarnation);
        self
    }

    /// The start of everything that chance decides, for runs that are to be repeated. Not set: the machine's chance.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The journal in which the node reserves its clock ahead, so that its versions and the fences of locks that it keeps grow after a restart
    /// too, whatever the wall clock says by then: for nodes whose groups write to their origins, or that keep locks. Not set: it is
    /// reserved nowhere. The journal stays the caller's to close, once the node is gone.
    #[cfg(feature = "journal")]
    pub fn clock_journal(mut self, journal: larder_origin::journal::Journal) -> Self {
        self.clock_journal = Some(journal);
        self
    }

    /// Where the node takes writes down that their origins get later, for groups that [write
    /// behind](GroupBuilder::write_behind): `larder::origin::behind::Behind` (feature `journal`) keeps them in a journal on disk. Not
    /// set: there can be no such groups.
    pub fn journal(mut self, journal: impl Records) -> Self {
        self.journal = Some(Arc::new(journal));
        self
    }

    /// Who keeps locks. Not set: the nodes of the cluster themselves ([`ClusterLocks`]).
    pub fn locks(mut self, service: impl LockService) -> Self {
        self.locks = Some(Arc::new(service));
        self
    }

    /// Says that this is the first start of a cluster, or that its last one is longer ago than a lock can last: nobody can hold a lock that
    /// an earlier run granted. The node then grants locks at once. Without it, it grants none for a minute after its start, unless who had
    /// them before says which there are. A node without a membership, which nobody but its program knows, grants them at once.
    pub fn first_start(mut self) -> Self {
        self.is_first_start = true;
        self
    }

    /// Starts the node: it follows its membership from now on and answers what it is asked.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if a member's address can't be one.
    // Waiting for a first view or a first claim is part of starting for other memberships than those there are today.
    #[expect(clippy::unused_async, reason = "starting waits for the cluster where there is something to wait for")]
    pub async fn start(self) -> Result<Node, Error> {
        let Self {
            name,
            http,
            membership,
            ring,
            transport,
            clock,
            incarnation,
            seed,
            locks,
            is_first_start,
            journal,
            ..
        } = self;
        let knows_all_holders = is_first_start || membership.is_none();
        let membership = match membership {
            Some(membership) => membership,
            None => Arc::new(Static::new([Member::new(name.clone(), "")])?),
        };
        let mut chance = fastrand::Rng::with_seed(seed.unwrap_or_else(machine_chance));
        let config = NodeConfig {
            name,
            http,
            ring,
            incarnation: incarnation.unwrap_or_else(|| chance.u32(1..)),
            seed: chance.u64(..),
            clock: clock.clone(),
            transport: transport.unwrap_or_else(|| Arc::new(GrpcTransport::new())),
        };
        let core = larder_core::Node::new(config, membership.members().borrow().clone())?;
        if let Some(journal) = journal {
            core.set_records(journal, membership.is_fixed())?;
        }
        if knows_all_holders {
            core.vouch_for_locks();
        }
        let service: Arc<dyn LockService> = match (locks, seed) {
            (Some(service), _) => service,
            (None, None) => Arc::new(ClusterLocks::new(core.clone(), machine_secret())),
            // A run that is to be repeated has no secrets.
            (None, Some(_)) => {
                let chance = Mutex::new(chance.fork());
                let draw = move || Ok(chance.lock().map_or(0, |mut chance| chance.u128(..)));
                Arc::new(ClusterLocks::new(core.clone(), draw))
            }
        };
        core.lock_loads_with(service.clone());
        let locks = Locks::at(core.name().clone(), service, clock);
        let mut tasks = JoinSet::new();
        #[cfg(feature = "journal")]
        if let Some(journal) = self.clock_journal {
            crate::reserve::begin(core.standing(), &journal);
            tasks.spawn(crate::reserve::keep(core.clone(), journal));
        }
        tasks.spawn(core.clone().keep_records());
        tasks.spawn(core.clone().follow(membership));
        tasks.spawn(core.clone().claim_slots());
        tasks.spawn(sweep(core.clone()));
        Ok(Node { core, locks, _tasks: tasks })
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where a node's chance begins")]
fn machine_chance() -> u64 {
    fastrand::u64(..)
}

/// What locks' tokens are drawn from: chance that nobody can guess from what it gave before.
fn machine_secret() -> impl Fn() -> Result<u128, Error> + Send + Sync {
    let random = SystemRandom::new();
    move || {
        let mut bits = [0; 16];
        let no_chance = |_| Error::new(ErrorKind::Draining, "the machine gives no random numbers: try again");
        random.fill(&mut bits).map_err(no_chance)?;
        Ok(u128::from_ne_bytes(bits))
    }
}

async fn sweep(node: larder_core::Node) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for group in node.groups() {
            group.sweep(SWEEP_ENTRIES_MAX);
        }
    }
}
