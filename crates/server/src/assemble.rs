//! The whole system, drawn in code: makes a daemon of a configuration. This is the only place that names the parts that a daemon
//! is made of.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Future, pending},
    io,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use larder::{
    Loader, Member, Membership, SystemClock,
    cluster::{
        Consul, ConsulConfig, Etcd, EtcdConfig, Static, TlsFiles,
        dns::{Dns, DnsConfig},
        gossip::{Gossip, GossipConfig},
        locks::{ConsulLocks, EtcdLocks, RedisConfig as LocksConfig, RedisLocks},
    },
    core::{LockService, Locks, MemberState},
    origin::{
        behind::Behind,
        journal::{self, Journal, JournalConfig},
        storage::DiskStorage,
    },
    peer::{
        grpc::{self, GrpcTransport},
        http::HttpTransport,
    },
};
use tokio::{
    net::{TcpListener, UdpSocket, lookup_host},
    sync::{oneshot, watch},
    time::{Instant, sleep, timeout},
};

use crate::{
    commands::Failure,
    config::{self, ClusterConfig, Config, DATA_DIR, Discovery, LockKeeper, Transport, WriteMode},
    http::{self, Api, ApiConfig, HttpLimits, Operations},
    lock_note::{Note, Noted},
    reload::Reload,
};

mod origins;

pub use origins::{Origin, origin};

/// How long operators' requests may take once there are no clients any more: they are answered from memory.
const ADMIN_DRAIN_TIME: Duration = Duration::from_secs(1);

/// The sockets of a daemon, bound before anything else is done: a port that is taken is the first thing to know.
pub struct Listeners {
    /// For clients, and for nodes that speak HTTP.
    pub clients: TcpListener,
    /// For nodes and clients that speak gRPC. Not there where the configured transport is HTTP.
    pub peers: Option<TcpListener>,
    /// For health, metrics and administration.
    pub admin: TcpListener,
    /// For gossip, where that is how members are found.
    pub gossip: Option<UdpSocket>,
}

impl Listeners {
    /// Binds the addresses of the configuration.
    ///
    /// # Errors
    ///
    /// If one can't be bound.
    pub async fn bind(config: &Config) -> Result<Self, Failure> {
        let Config { node, cluster, .. } = config;
        let taken = |address: SocketAddr, key: &str, error: io::Error| {
            Failure::failed(format!("can't listen on {address}: {error}; set {key} to another address, or port 0"))
        };
        let bind = async |address: SocketAddr, key: &str| {
            TcpListener::bind(address).await.map_err(|error| taken(address, key, error))
        };
        let peers = match node.transport {
            Transport::Grpc => Some(bind(node.peer, "node.peer").await?),
            Transport::Http => None,
        };
        let gossip = match cluster.discovery {
            Discovery::Gossip => {
                let bound = UdpSocket::bind(cluster.gossip).await;
                Some(bound.map_err(|error| taken(cluster.gossip, "cluster.gossip", error))?)
            }
            Discovery::None | Discovery::Static | Discovery::Dns | Discovery::Etcd | Discovery::Consul => None,
        };
        let (clients, admin) = (bind(node.listen, "node.listen").await?, bind(node.admin, "node.admin").await?);
        Ok(Self { clients, peers, admin, gossip })
    }

    /// Where the sockets are.
    ///
    /// # Errors
    ///
    /// If the system doesn't tell.
    pub fn addresses(&self) -> io::Result<Addresses> {
        let peers = self.peers.as_ref().map(TcpListener::local_addr).transpose()?;
        let gossip = self.gossip.as_ref().map(UdpSocket::local_addr).transpose()?;
        Ok(Addresses { clients: self.clients.local_addr()?, peers, gossip, admin: self.admin.local_addr()? })
    }
}

/// Where a daemon listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// For clients.
    pub clients: SocketAddr,
    /// For nodes and clients that speak gRPC.
    pub peers: Option<SocketAddr>,
    /// For gossip.
    pub gossip: Option<SocketAddr>,
    /// For administration.
    pub admin: SocketAddr,
}

/// A node with its groups, its API and its sockets, ready to [`run`](Self::run).
pub struct Daemon {
    node: larder::Node,
    membership: Arc<dyn Membership>,
    addresses: Addresses,
    listeners: Listeners,
    api: Api,
    locks: Locks,
    note: Option<Arc<Note>>,
    limits: HttpLimits,
    draining: watch::Sender<bool>,
    /// How long its slots may take to be handed over.
    hand_over_max: Duration,
    /// How long its writes that are not at their origins yet may take to get there, before that and in the end.
    flush_max: Duration,
    reload: Reload,
    /// Where the node keeps what must survive, if anything must.
    journal: Option<Journal>,
    /// What brings writes from there to their origins, if any go behind.
    behind: Option<Behind>,
}

/// Makes a daemon of a configuration, which `read` reads anew when that is asked for. At the first start of a cluster nobody can hold a lock.
///
/// # Errors
///
/// If the members can't be, such as for a name that another live node has, or an origin can't be opened.
pub async fn assemble(
    config: &Config,
    listeners: Listeners,
    is_first_start: bool,
    read: impl Fn() -> Result<Config, Failure> + Send + Sync + 'static,
) -> Result<Daemon, Failure> {
    let daemon = assemble_around(config, listeners, is_first_start, |loader| loader).await?;
    Ok(Daemon { reload: daemon.reload.reading(read), ..daemon })
}

/// As [`assemble`], with each origin as `around` makes it of the one that the configuration names, and a configuration that stays.
///
/// # Errors
///
/// As for [`assemble`].
pub async fn assemble_around(
    config: &Config,
    mut listeners: Listeners,
    is_first_start: bool,
    around: impl Fn(Arc<dyn Loader>) -> Arc<dyn Loader>,
) -> Result<Daemon, Failure> {
    let wrong = |error: larder::Error| Failure::failed(error.to_string());
    let addresses = listeners.addresses().map_err(|error| Failure::failed(format!("no address: {error}")))?;
    let http = config.node.advertised(addresses.clients);
    let address = addresses.peers.map_or_else(|| http.clone(), |peers| config.node.advertised(peers));
    let name: Arc<str> = match (config.cluster.discovery, &config.node.name) {
        // There members are named by their addresses.
        (Discovery::Dns, None) => address.as_str().into(),
        _ => config.node.name(addresses.peers.unwrap_or(config.node.peer).port()).into(),
    };

    // Before anybody hears of this node: its clock goes on above what is in there.
    let journal = open_journal(config).await?;
    let mut builder = larder::Node::builder().name(name.clone()).http(http.clone()).ring(config.cluster.ring);
    builder = match config.node.transport {
        Transport::Grpc => builder.transport(GrpcTransport::new()),
        Transport::Http => builder.transport(HttpTransport::new()),
    };
    let mut chance = machine_chance();
    let incarnation = chance.u32(1..);
    let me = Member {
        incarnation,
        http: http.into(),
        weight: config.node.weight,
        zone: config.node.zone.as_str().into(),
        ..Member::new(name.clone(), address)
    };
    let (membership, list) = membership(config, me, &mut listeners, chance.u64(..)).await?;
    membership.announce(MemberState::Joining).await.map_err(wrong)?;
    if let Some(journal) = &journal {
        builder = builder.clock_journal(journal.clone());
    }
    let goes_behind = config.groups.values().any(|group| group.write == WriteMode::Behind);
    let behind = journal.clone().filter(|_| goes_behind).map(Behind::over);
    if let Some(behind) = &behind {
        builder = builder.journal(behind.clone());
    }
    // No seed: what it decides by chance is nobody's to know, tokens of locks above all.
    builder = builder.membership(membership.clone()).incarnation(incarnation);
    if let Some(service) = lock_service(&config.cluster, chance.u64(..)).map_err(wrong)? {
        builder = builder.locks(service);
    }
    let note = lock_note(config, &name)?.map(Arc::new);
    if is_first_start || note.as_ref().is_some_and(|note| note.is_over()) {
        builder = builder.first_start();
    }
    let node = builder.start().await.map_err(wrong)?;
    node.core().limit_handoffs(config.node.handoff);

    let mut max_ages = HashMap::new();
    for (name, group) in &config.groups {
        let made = origin(&group.origin).await;
        let Origin { loader, store } =
            made.map_err(|error| Failure::failed(format!("groups.{name}.origin: {error}")))?;
        let (core, settings, loader) = (node.core(), group.settings(), loader.map(&around));
        let opened = match (group.write, loader, store) {
            (WriteMode::Through, Some(loader), Some(store)) => core.open_group_through(name, settings, loader, store),
            (WriteMode::Behind, Some(loader), Some(store)) => {
                core.open_group_behind(name, settings, loader, store, group.write_delay)
            }
            (WriteMode::Through | WriteMode::Behind, _, _) => {
                return Err(Failure::failed(format!("groups.{name}.write: the origin takes no writes")));
            }
            (WriteMode::None, loader, _) => core.open_group(name, settings, loader),
        };
        opened.map_err(wrong)?;
        max_ages.insert(name.clone(), group.downstream_max_age);
    }

    let (draining, watched) = watch::channel(false);
    let locks = note.as_ref().map_or_else(|| node.locks().clone(), |note| noted(&node, note.clone()));
    let api = Api::new(ApiConfig { node: node.core().clone(), locks: locks.clone(), max_ages, draining: watched });
    let limits = HttpLimits { drain_time_max: config.node.drain_timeout, ..HttpLimits::default() };
    let reload = Reload::new(config.clone(), list, api.clone());
    // Where nodes don't register themselves, nobody hears that this one is about to leave.
    let hand_over_max = match config.cluster.discovery {
        Discovery::Gossip | Discovery::Etcd | Discovery::Consul => config.node.drain_timeout / 2,
        Discovery::None | Discovery::Static | Discovery::Dns => Duration::ZERO,
    };
    let flush_max = if behind.is_some() { config.node.drain_timeout / 4 } else { Duration::ZERO };
    Ok(Daemon {
        node,
        membership,
        addresses,
        listeners,
        api,
        locks,
        note,
        limits,
        draining,
        hand_over_max,
        flush_max,
        reload,
        journal,
        behind,
    })
}

/// The journal in the data folder, where a group writes to its origin or the node keeps locks.
async fn open_journal(config: &Config) -> Result<Option<Journal>, Failure> {
    let Some(folder) = config.data_dir() else { return Ok(None) };
    let storage = DiskStorage::new(journal::path_in(folder));
    let opened = Journal::open(storage, JournalConfig::default(), SystemClock).await;
    opened.map(Some).map_err(|error| Failure::failed(format!("node.data_dir: {error}")))
}

/// What knows who is in the cluster, and the list that it is, if somebody writes it. Nodes that register themselves do so as `me`,
/// once they announce something.
async fn membership(
    config: &Config,
    me: Member,
    listeners: &mut Listeners,
    seed: u64,
) -> Result<(Arc<dyn Membership>, Option<Static>), Failure> {
    let wrong = |error: larder::Error| Failure::failed(error.to_string());
    let Config { node, cluster, .. } = config;
    let membership: Arc<dyn Membership> = match cluster.discovery {
        Discovery::None => {
            // This is the only list there is, so that nothing needs to tell this run of the node from another.
            Arc::new(Static::new([Member { incarnation: 0, ..me }]).map_err(wrong)?)
        }
        Discovery::Static => {
            let list = Static::new(static_members(config)).map_err(wrong)?;
            return Ok((Arc::new(list.clone()), Some(list)));
        }
        Discovery::Dns => {
            let name = cluster.dns_name.clone().ok_or_else(|| Failure::failed("cluster.dns_name is missing"))?;
            let dns = DnsConfig { every: cluster.dns_interval, ..DnsConfig::new(name) };
            Arc::new(Dns::start(dns).await.map_err(wrong)?)
        }
        Discovery::Gossip => {
            let socket = listeners.gossip.take().ok_or_else(|| Failure::failed("there is no socket for gossip"))?;
            let bound = socket.local_addr().map_err(|error| Failure::failed(format!("no address: {error}")))?;
            let (seeds, key) = (cluster.seeds.clone(), cluster.gossip_key.as_ref().map(config::GossipKey::reveal));
            let advertise = address_of(&node.advertised(bound)).await?;
            let gossip = GossipConfig { advertise, seeds, key, seed, ..GossipConfig::new(me, Arc::new(SystemClock)) };
            Arc::new(Gossip::start(gossip, socket).await.map_err(wrong)?)
        }
        Discovery::Etcd => Arc::new(Etcd::new(etcd(cluster), me, SystemClock, seed).map_err(wrong)?),
        Discovery::Consul => Arc::new(Consul::new(consul(cluster), me, SystemClock, seed).map_err(wrong)?),
    };
    Ok((membership, None))
}

/// Who keeps locks, where the nodes don't.
fn lock_service(cluster: &ClusterConfig, seed: u64) -> Result<Option<Arc<dyn LockService>>, larder::Error> {
    let clock = SystemClock;
    Ok(match cluster.locks {
        LockKeeper::Cluster => None,
        LockKeeper::Etcd => Some(Arc::new(EtcdLocks::new(etcd(cluster), clock, seed)?)),
        LockKeeper::Consul => {
            let session_ttl_min = cluster.consul_session_ttl_min;
            Some(Arc::new(ConsulLocks::new(consul(cluster), session_ttl_min, clock, seed)?))
        }
        LockKeeper::Redis => Some(Arc::new(RedisLocks::new(LocksConfig::new(cluster.redis.reveal()), clock, seed)?)),
    })
}

/// The note of what locks a node may have out that nobody else knows of.
fn lock_note(config: &Config, name: &str) -> Result<Option<Note>, Failure> {
    let Config { cluster, .. } = config;
    if cluster.locks != LockKeeper::Cluster || cluster.discovery != Discovery::None {
        return Ok(None);
    }
    let folder = config.node.data_dir.as_deref().unwrap_or(Path::new(DATA_DIR));
    let unread = |error| Failure::failed(format!("the note of locks in {} can't be read: {error}", folder.display()));
    Note::open(folder, name).map(Some).map_err(unread)
}

/// Locks that the node keeps, none of which is granted before it is noted.
fn noted(node: &larder::Node, note: Arc<Note>) -> Locks {
    let service = Noted::new(node.locks().service().clone(), note);
    Locks::at(node.core().name().clone(), service, SystemClock)
}

/// The members that the configuration lists.
pub(crate) fn static_members(config: &Config) -> impl Iterator<Item = Member> {
    config.cluster.members.iter().map(|it| match config.node.transport {
        Transport::Grpc => Member::new(it.name.as_str(), it.address.as_str()),
        Transport::Http => http_member(it),
    })
}

fn etcd(cluster: &config::ClusterConfig) -> EtcdConfig {
    let user = (cluster.etcd_user.clone(), cluster.etcd_password.reveal().to_owned());
    EtcdConfig {
        endpoints: cluster.etcd.clone(),
        prefix: cluster.etcd_prefix.clone(),
        user: Some(user).filter(|(name, _)| !name.is_empty()),
        tls: TlsFiles { ca: cluster.etcd_ca.clone(), cert: cluster.etcd_cert.clone(), key: cluster.etcd_key.clone() },
        lease_ttl: cluster.lease_ttl,
    }
}

fn consul(cluster: &config::ClusterConfig) -> ConsulConfig {
    let token = Some(cluster.consul_token.reveal().to_owned()).filter(|token| !token.is_empty());
    let service = cluster.consul_service.clone();
    ConsulConfig { service, token, lease_ttl: cluster.lease_ttl, ..ConsulConfig::new(&cluster.consul) }
}

/// The address behind a host and a port.
async fn address_of(host: &str) -> Result<SocketAddr, Failure> {
    let not_found =
        |why: &str| Failure::failed(format!("can't look up {host}: {why}; set node.advertise to an IP address"));
    let mut found = lookup_host(host).await.map_err(|error| not_found(&error.to_string()))?;
    found.next().ok_or_else(|| not_found("it has no address"))
}

#[expect(clippy::disallowed_methods, reason = "this is where a daemon's chance begins")]
fn machine_chance() -> fastrand::Rng {
    fastrand::Rng::with_seed(fastrand::u64(..))
}

impl Daemon {
    /// The node, for programs that hold one in their own process.
    #[must_use]
    pub fn node(&self) -> &larder::Node {
        &self.node
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What takes up a configuration that has changed, while it runs.
    #[must_use]
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Tells the others that it serves, and serves until `shutdown`, or until an operator has it leave. Then it says so to the
    /// others and on `/readyz`, hands its slots over, takes no more connections of clients, finishes what runs, and leaves, all
    /// within `drain_timeout`. Answers with how many connections it had to cut off.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> usize {
        let Self {
            node, membership, listeners, api, locks, note, mut limits, draining, reload, journal, behind, ..
        } = self;
        let (hand_over_max, flush_max) = (self.hand_over_max, self.flush_max);
        limits.drain_time_max = limits.drain_time_max.saturating_sub(hand_over_max + flush_max);
        let closing = watch::Sender::new(false);
        let (ended, all_ended) = oneshot::channel();
        let operations = Operations { draining: draining.clone(), reload, journal: journal.clone() };
        // Operators are answered to the end: that is how they learn that this node is leaving.
        let admin_limits = HttpLimits { drain_time_max: ADMIN_DRAIN_TIME, ..limits.clone() };
        let admin = http::serve(listeners.admin, api.admin(operations), admin_limits, async {
            // The sender is not dropped before it has sent.
            let _sent = all_ended.await;
        });
        let drains = |mut draining: watch::Receiver<bool>| async move {
            // The sender is there until all is served.
            drop(draining.wait_for(|draining| *draining).await);
        };
        let (begins, watched) = (drains(closing.subscribe()), drains(closing.subscribe()));
        let asked_to_leave = drains(draining.subscribe());
        let states = tell_states(&*membership, drains(draining.subscribe()));
        let drain_time_max = limits.drain_time_max;
        let too_late = async {
            watched.await;
            sleep(drain_time_max).await;
        };
        let peers = async {
            let Some(listener) = listeners.peers else { return };
            let asked = api.clone();
            tokio::select! {
                () = grpc::serve_node(listener, node.core().clone(), locks, move || asked.is_ready(), begins) => {}
                // Whoever was not answered by then asks the stand-in.
                () = too_late => {}
            }
        };
        let clients = async {
            let stop = async {
                tokio::select! {
                    () = shutdown => {}
                    () = asked_to_leave => {}
                }
                draining.send_replace(true);
                if let Some(behind) = &behind {
                    behind.flush_all(flush_max / 2).await;
                }
                let handed_over = async {
                    node.core().handed_over().await;
                    // Whoever takes a slot over has what was not flushed of it, too, a moment later.
                    let now = Instant::now();
                    node.core().drain_records(now, now + hand_over_max).await;
                };
                if timeout(hand_over_max, handed_over).await.is_err() && !hand_over_max.is_zero() {
                    tracing::warn!("the other nodes did not take over all slots in time: they load them anew");
                }
                closing.send_replace(true);
            };
            // In a box, or the whole would be a large future.
            Box::pin(http::serve(listeners.clients, api.clients(), limits, stop)).await
        };
        let served = async {
            // Telling may take as long as whom to tell is away; it ends with what it would be told for.
            let served = async { tokio::join!(clients, peers) };
            let (cut_off, ()) = tokio::select! {
                served = served => served,
                never = states => match never {},
            };
            membership.leave().await;
            // The receiver waits in the other branch.
            let _received = ended.send(());
            cut_off
        };
        let (cut_off, _) = tokio::join!(served, admin);
        if let Some(behind) = behind {
            // What was taken meanwhile. What is under way then may be waited for, but no longer: it is in the journal.
            let left = behind.flush_all(flush_max / 4).await;
            if left > 0 {
                tracing::warn!(keys = left, "not all writes reached their origins in time: the journal keeps them");
            }
            let _in_time = timeout(flush_max / 4, behind.close()).await;
        }
        if let Some(note) = note.filter(|_| node.core().kept_locks().is_empty()) {
            note.remove();
        }
        drop(node);
        if let Some(journal) = journal {
            journal.close().await;
        }
        cut_off
    }
}

/// Tells the others what the node does: that it serves, and once it drains, that.
async fn tell_states(membership: &dyn Membership, drains: impl Future<Output = ()>) -> Infallible {
    let announce = async |state| {
        if let Err(error) = membership.announce(state).await {
            tracing::error!(%state, %error, "the other nodes can't be told what this one does");
        }
    };
    tokio::pin!(drains);
    tokio::select! {
        () = async { announce(MemberState::Serving).await; pending().await } => {}
        () = &mut drains => {}
    }
    announce(MemberState::Draining).await;
    pending().await
}

/// A static member over HTTP: its address is where its clients are served, too.
fn http_member(config: &config::MemberConfig) -> Member {
    let address = config.address.as_str();
    let http = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    Member { http: http.into(), ..Member::new(config.name.as_str(), address) }
}
