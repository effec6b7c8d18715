//! The keys: what a configuration may say, in one place.
//!
//! Each comment here is also the key's meaning in `docs/configuration.md`.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use larder::cluster::{ETCD_ENDPOINTS_MAX, LEASE_TTL_MAX, LEASE_TTL_MIN, dns::DnsName};
use larder_core::{
    GROUPS_MAX, Ring,
    group::{Consistency, HOT_LEASE_MAX, LoadLock},
    lock::LOCK_TTL_MAX,
    membership::MEMBERS_MAX,
    store::Policy,
};

use super::{
    difference::Differences,
    kind::{Choice, Flag, Fraction, List, Listener, Named, Nested, Size, Span, Whole, Works},
    origin::{FilePath, OriginConfig, OriginTable, RedisUrl, Secret, SecretText},
    section::{Absent, Default, Key, Presence, Reader, Section, section},
    shapes::{self, DnsNameText, GossipKey, GossipKeyText, MemberConfig, MemberEntry},
};

/// The most seeds: a few are enough for any cluster that gossips.
const SEEDS_MAX: usize = 64;

const HOUR: Duration = Duration::from_secs(3600);
/// As durations are written: `"1y"` is 365.25 days.
const YEAR: Duration = Duration::from_secs(31_557_600);

const PEM_FILE: FilePath = FilePath { expected: "the path of a PEM file" };

/// A window or a time-out that may be switched off with `"0s"`.
const fn up_to(max: Duration) -> Span {
    Span { min: Duration::ZERO, max }
}

/// A time that must pass.
const fn from_1ms_to(max: Duration) -> Span {
    Span { min: Duration::from_millis(1), max }
}

section! {
    /// A whole configuration.
    pub struct Config {
        /// This node: its name, its listeners, and how it runs.
        node: NodeConfig = Nested::<NodeConfig>::new(), Default("{}");
        /// Who else is in the cluster, and who owns what.
        cluster: ClusterConfig = Nested::<ClusterConfig>::new(), Default("{}");
        /// Who may reach the listeners.
        security: SecurityConfig = Nested::<SecurityConfig>::new(), Default("{}");
        /// The groups by name. Without any there is one, `default`, as an empty `[groups.default]` would make it.
        groups: BTreeMap<String, GroupConfig> = Named {
            suffix: ".NAME",
            names: shapes::GROUP_NAME,
            of: Nested::<GroupConfig>::new(),
            len_max: GROUPS_MAX,
        }, Default("{}");
    }
}

/// Whether what is put and deleted goes to the origin, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteMode {
    /// It does not.
    None,
    /// Before it is acknowledged.
    Through,
    /// Once it is acknowledged, and two nodes' disks have it.
    Behind,
}

/// How nodes talk to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Larder's own protocol: many requests in each message.
    Grpc,
    /// golang/groupcache's protocol for reads, the client API for writes.
    Http,
}

section! {
    /// This node: its name, its listeners, and how it runs.
    pub struct NodeConfig {
        /// The node's name, unique in the cluster.
        name: Option<String> = shapes::NODE_NAME, Absent("the host's name and the port of `peer`, as in `web1-5274`; with `discovery = \"dns\"`, the address of `peer` as others reach it");
        /// Where clients are served: the HTTP API, and the groupcache-compatible path for peers.
        listen: SocketAddr = Listener, Default("127.0.0.1:5273");
        /// Where other nodes are served by gRPC, and clients: `larder.v1.Cache`. Nothing listens here while `transport` is `"http"`.
        peer: SocketAddr = Listener, Default("127.0.0.1:5274");
        /// Where health, metrics and administration are served.
        admin: SocketAddr = Listener, Default("127.0.0.1:5276");
        /// The host at which others reach this node, as `GET /v1/cluster` gives it.
        advertise: Option<String> = shapes::HOST, Absent("each listener's own address, or the host's name where that is `0.0.0.0` or `[::]`");
        /// How nodes talk to each other; the same on every node. `"grpc"` is Larder's own protocol. `"http"` is golang/groupcache's protocol for reads and the client API for writes; it is the one that `ring = "groupcache"` needs.
        transport: Transport = Choice(&[Works("grpc", Transport::Grpc), Works("http", Transport::Http)]), Default("grpc");
        /// The folder for what must survive: the journal of writes that are not at their origins yet, and how far the node's clock has gone. Each
        /// node needs one of its own, on a disk of its own. It is used where a group writes to its origin, and where nodes keep locks themselves.
        data_dir: Option<PathBuf> = FilePath { expected: "the path of a folder" }, Absent("`larder-data` if a group is written behind; else nothing is kept, and should the wall clock be turned back while the node is down, its versions and the fences of its locks go back with it");
        /// This node's share of the keys, in relation to the other nodes' weights. Static members all weigh 1.
        weight: u32 = Whole { min: 1_u32, max: 1000 }, Default("1");
        /// Where the node stands, for people to read.
        zone: String = shapes::LABEL, Default("");
        /// The most bytes of keys and values that this node hands over, hottest first, each time that others take slots over from it. With 0B nothing is handed over or asked for: slots begin empty, and in groups without an origin what was in them is lost.
        handoff: usize = Size { min: 0_usize, max: 1 << 44 }, Default("1GiB"), live;
        /// How long a node that was told to stop may take to finish what runs.
        drain_timeout: Duration = up_to(HOUR), Default("10s");
        /// How many threads do the work; 0 is one for each core.
        workers: usize = Whole { min: 0_usize, max: 1024 }, Default("0");
    }
}

/// How the members of the cluster are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Discovery {
    /// Not at all: the node is alone.
    None,
    /// They are the list in `members`.
    Static,
    /// They are what a DNS name has.
    Dns,
    /// They tell each other.
    Gossip,
    /// They register themselves in etcd.
    Etcd,
    /// They register themselves with agents of Consul.
    Consul,
}

/// Who keeps locks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKeeper {
    /// The nodes themselves.
    Cluster,
    /// etcd.
    Etcd,
    /// Consul.
    Consul,
    /// Redis.
    Redis,
}

section! {
    /// Who else is in the cluster, and who owns what.
    pub struct ClusterConfig {
        /// How members are found: `"none"` is a node on its own, `"static"` takes the list in `members`, `"dns"` looks `dns_name` up,
        /// with `"gossip"` nodes tell each other, with `"etcd"` and `"consul"` they register themselves there.
        discovery: Discovery = Choice(&[
            Works("none", Discovery::None),
            Works("static", Discovery::Static),
            Works("dns", Discovery::Dns),
            Works("gossip", Discovery::Gossip),
            Works("etcd", Discovery::Etcd),
            Works("consul", Discovery::Consul),
        ]), Default("none");
        /// Every member, this node too: its own entry is the one with its name. The address is the other's `peer`, or its
        /// `listen` where `transport` is `"http"`; with `ring = "groupcache"` it is the URL exactly as the Go peers write it.
        members: Vec<MemberConfig> = List { of: MemberEntry, len_max: MEMBERS_MAX }, Default("[]"), live;
        /// The name to look members up under: `HOST:PORT`, whose addresses (A, or AAAA where there is no A) are the members, at that port; or
        /// the name of SRV records, such as `_larder._tcp.example.com`. A member's name is its address.
        dns_name: Option<DnsName> = DnsNameText, Absent("needed with `discovery = \"dns\"`");
        /// How often the name is looked up.
        dns_interval: Duration = Span { min: Duration::from_millis(100), max: HOUR }, Default("5s");
        /// Where gossip is heard (UDP). `node.advertise` is the host that others are told.
        gossip: SocketAddr = Listener, Default("127.0.0.1:5275");
        /// Nodes to begin the gossip with: where some of them hear it, two or three for a large cluster. This node may be among them. A name
        /// may have several addresses, and is looked up anew each time.
        seeds: Vec<String> = List { of: shapes::SEED, len_max: SEEDS_MAX }, Default("[]");
        /// The cluster's secret, 32 bytes in base64: gossip is encrypted and authenticated with it. `head -c 32 /dev/urandom | base64`
        /// makes one.
        gossip_key: Option<GossipKey> = GossipKeyText, Absent("whoever reaches `gossip` can read it and join; only taken on loopback, or if `security.insecure`");
        /// URLs of etcd's members. One at a time is used; one that fails is left for the next.
        etcd: Vec<String> = List { of: shapes::ETCD, len_max: ETCD_ENDPOINTS_MAX }, Default(r#"["http://127.0.0.1:2379"]"#);
        /// What this cluster's keys in etcd begin with, to tell it from other clusters there.
        etcd_prefix: String = shapes::ETCD_PREFIX, Default("/larder/");
        /// etcd's user; `""` is none.
        etcd_user: String = shapes::LABEL, Default("");
        /// The user's password.
        etcd_password: Secret = SecretText, Default("");
        /// A PEM file with the certificates that an `https` etcd is trusted by.
        etcd_ca: Option<PathBuf> = PEM_FILE, Absent("those that the system trusts");
        /// A PEM file with the certificate that this node shows to etcd.
        etcd_cert: Option<PathBuf> = PEM_FILE, Absent("it shows none");
        /// A PEM file with that certificate's key.
        etcd_key: Option<PathBuf> = PEM_FILE, Absent("it has none");
        /// The URL of an agent of Consul, best of the one on this machine.
        consul: String = shapes::CONSUL, Default("http://127.0.0.1:8500");
        /// The service in Consul that this cluster's nodes are instances of.
        consul_service: String = shapes::CONSUL_SERVICE, Default("larder");
        /// A token that may write the service and read its health, and for locks write sessions and the keys below `SERVICE/locks/`; `""` is none.
        consul_token: Secret = SecretText, Default("");
        /// The shortest session that the agents of Consul take, as their own `session_ttl_min` has it: shorter locks by Consul are made so long.
        consul_session_ttl_min: Duration = from_1ms_to(LOCK_TTL_MAX), Default("10s");
        /// With etcd or Consul: a node that can't renew its entry for so long is out, and knows it. etcd counts in whole seconds and takes
        /// 2 as a rule, if less is asked for.
        lease_ttl: Duration = Span { min: LEASE_TTL_MIN, max: LEASE_TTL_MAX }, Default("5s");
        /// Who keeps locks; the same on every node. `"cluster"` is the nodes themselves, `"etcd"` and `"consul"` are those that are named above, with their
        /// prefix, service and credentials, `"redis"` is the one below. What each promises is in [locks.md](locks.md).
        locks: LockKeeper = Choice(&[
            Works("cluster", LockKeeper::Cluster),
            Works("etcd", LockKeeper::Etcd),
            Works("consul", LockKeeper::Consul),
            Works("redis", LockKeeper::Redis),
        ]), Default("cluster");
        /// With `locks = "redis"`: the server. It may hold a user and a password; `rediss://` is TLS.
        redis: Secret = RedisUrl { schemes: &["redis://", "rediss://", "redis+unix://", "unix://"] }, Default("redis://127.0.0.1:6379");
        /// Who owns what: `"slots"` is Larder's own placement, `"groupcache"` is golang/groupcache's ring, for clusters with Go peers.
        ring: Ring = Choice(&[Works("slots", Ring::Slots), Works("groupcache", Ring::Groupcache)]), Default("slots");
    }
}

section! {
    /// Who may reach the listeners.
    pub struct SecurityConfig {
        /// Whether listeners may stand beyond loopback without TLS and tokens. Whoever reaches them can read, write and stop the node.
        insecure: bool = Flag, Default("false");
    }
}

section! {
    /// A group of keys with an origin and limits of its own. Its name begins with a lower-case letter or a digit; lower-case letters,
    /// digits, `_` and `-` may follow, 64 in all.
    pub struct GroupConfig {
        /// How many bytes of keys, values and bookkeeping a node keeps of this group, its own and hot copies together.
        capacity: u64 = Size { min: 1024_u64, max: 1 << 44 }, Default("256MiB");
        /// What is evicted first when the group is full.
        policy: Policy = Choice(&[Works("s3-fifo", Policy::S3Fifo), Works("lru", Policy::Lru)]), Default("s3-fifo");
        /// How long a value is fresh, counted from when its load began.
        ttl: Option<Duration> = from_1ms_to(YEAR), Absent("until it is evicted or invalidated"), live;
        /// By how much of itself the ttl of each value is shortened at random, so that values loaded together don't expire together.
        ttl_jitter: f64 = Fraction { max: 1.0 }, Default("0.1"), live;
        /// How long "not found" is remembered; `"0s"` is not at all.
        negative_ttl: Duration = up_to(YEAR), Default("5s"), live;
        /// How long after its ttl a value is still served while it is loaded again (RFC 5861).
        stale_while_revalidate: Duration = up_to(YEAR), Default("0s"), live;
        /// How long after its ttl a value is still served when the origin fails (RFC 5861).
        stale_if_error: Duration = up_to(YEAR), Default("0s"), live;
        /// After which share of its ttl a value in use is loaded again in the background; 0.8 is after 80%, 0.0 is never.
        refresh_ahead: f64 = Fraction { max: 0.99 }, Default("0.0"), live;
        /// A stale copy is served if the origin has not answered by then; `"0s"` is never. Shorter than `hard_timeout`.
        soft_timeout: Duration = up_to(HOUR), Default("0s"), live;
        /// How long the origin may take.
        hard_timeout: Duration = from_1ms_to(HOUR), Default("10s");
        /// How long another node may keep a copy of a hot key; `"0s"` is never.
        hot_lease: Duration = up_to(HOT_LEASE_MAX), Default("1s");
        /// What a get may answer while links are cut or the members change: `"strong"` is linearizable for each key, and an error where that
        /// can't be kept; it needs discovery `"etcd"` or `"consul"`.
        consistency: Consistency = Choice(&[Works("eventual", Consistency::Eventual), Works("strong", Consistency::Strong)]), Default("eventual");
        /// Whether what is put and deleted is written to the origin: `"through"` is before it is acknowledged, `"behind"` once it is acknowledged and
        /// on the disks of two nodes (docs/journal.md), which needs eventual consistency and `transport = "grpc"`.
        write: WriteMode = Choice(&[
            Works("none", WriteMode::None),
            Works("through", WriteMode::Through),
            Works("behind", WriteMode::Behind),
        ]), Default("none");
        /// Write-behind: how long changes to a key are gathered, of which the newest is written.
        write_delay: Duration = up_to(HOUR), Default("1s");
        /// `Cache-Control: max-age` for HTTP clients; `"0s"` is `no-cache`.
        downstream_max_age: Duration = up_to(YEAR), Default("0s"), live;
        /// The longest value.
        max_value: usize = Size { min: 1_usize, max: 1 << 30 }, Default("8MiB"), live;
        /// How many loads may be under way at once, on each node.
        origin_concurrency: usize = Whole { min: 1_usize, max: 65_536 }, Default("64"), live;
        /// The same for the whole cluster, divided among its nodes; 0 is no such limit.
        origin_budget: usize = Whole { min: 0_usize, max: 1_000_000 }, Default("0"), live;
        /// Whether each load is made under the key's lock, so that nodes that disagree on the members load a key once: `"on"` loads all the same while whoever
        /// keeps the locks is away, `"strict"` answers 503 then.
        load_lock: LoadLock = Choice(&[Works("off", LoadLock::Off), Works("on", LoadLock::On), Works("strict", LoadLock::Strict)]), Default("off");
        /// Where values come from.
        origin: OriginConfig = OriginTable, Default("{ kind = \"none\" }");
    }
}

/// The data folder of nodes that need one and were not told which.
pub(crate) const DATA_DIR: &str = "larder-data";

impl Config {
    /// Where the node keeps what must survive, if anything must.
    #[must_use]
    pub fn data_dir(&self) -> Option<PathBuf> {
        let has = |mode| self.groups.values().any(|group| group.write == mode);
        if has(WriteMode::Behind) {
            return Some(self.node.data_dir.clone().unwrap_or_else(|| DATA_DIR.into()));
        }
        // Fences have to grow over a restart as versions have to.
        let keeps_locks = self.cluster.locks == LockKeeper::Cluster;
        self.node.data_dir.clone().filter(|_| keeps_locks || has(WriteMode::Through))
    }
}

impl GroupConfig {
    /// The settings as the core takes them; those that are not in it are the daemon's own.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder_server::config::Config;
    ///
    /// let config = Config::parse("[groups.users]\nmax_value = '1KiB'", &[])?;
    /// assert_eq!(config.groups["users"].settings().value_len_max, 1024);
    /// # Ok::<(), larder_server::config::Mistakes>(())
    /// ```
    #[must_use]
    pub fn settings(&self) -> larder_core::GroupConfig {
        larder_core::GroupConfig {
            capacity_bytes: self.capacity,
            policy: self.policy,
            ttl: self.ttl,
            ttl_jitter: self.ttl_jitter,
            negative_ttl: self.negative_ttl,
            stale_while_revalidate: self.stale_while_revalidate,
            stale_if_error: self.stale_if_error,
            refresh_ahead: self.refresh_ahead,
            soft_timeout: self.soft_timeout,
            hard_timeout: self.hard_timeout,
            hot_lease: self.hot_lease,
            consistency: self.consistency,
            value_len_max: self.max_value,
            origin_concurrency: self.origin_concurrency,
            origin_budget: self.origin_budget,
            load_lock: self.load_lock,
        }
    }
}
