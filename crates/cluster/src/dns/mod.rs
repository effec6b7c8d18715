//! [`Dns`]: the members are what a DNS name has.
//!
//! Nodes have no say here: whoever keeps the zone does, such as Kubernetes for a headless service. A member's name is its
//! address, so that all nodes make equal lists of equal answers. Which entry a node itself is, it knows by its name: that
//! has to be the address which the zone gives it.
//!
//! An answer that is empty, and one that does not come, change nothing: a name server in trouble must not take a cluster
//! apart.

use std::{collections::BTreeSet, fmt, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::RData,
};
use larder_core::{Error, ErrorKind, Member, Members, Membership, membership::LOOK_TIME_MAX};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

#[cfg(test)]
mod tests;

/// How long one answer may take before the question is asked again.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// How often a question is asked in all.
const ATTEMPTS_MAX: usize = 2;

/// How long a node that starts waits for the first answer.
const FIRST_ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// A name to look the members up under.
///
/// ```
/// use larder_cluster::dns::DnsName;
///
/// let headless: DnsName = "larder.default.svc:5274".parse()?;
/// assert_eq!(headless, DnsName::Addresses { host: "larder.default.svc".into(), port: 5274 });
/// let services: DnsName = "_larder._tcp.example.com".parse()?;
/// assert_eq!(services, DnsName::Services("_larder._tcp.example.com".into()));
/// assert!("larder.default.svc".parse::<DnsName>().is_err(), "it has no port");
/// # Ok::<(), larder_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DnsName {
    /// `host:port`: each address of the host (A records, or AAAA where there are none) is a member, at that port.
    Addresses {
        /// The name with the addresses.
        host: String,
        /// The port that all members have.
        port: u16,
    },
    /// `_service._proto.name`: each target (SRV records, RFC 2782) is a member, at the port that stands beside it. Priorities
    /// and weights are not looked at.
    Services(String),
}

impl FromStr for DnsName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = match text.split_once(':') {
            None if text.starts_with('_') && is_host(text) => Some(Self::Services(text.to_owned())),
            None => None,
            Some((host, port)) => port
                .parse()
                .ok()
                .filter(|port| *port > 0 && is_host(host))
                .map(|port| Self::Addresses { host: host.to_owned(), port }),
        };
        parsed.ok_or_else(|| {
            let message = format!(
                "{text:?} is no name to look members up under: expected HOST:PORT, or the name of SRV records such as \"_larder._tcp.example.com\""
            );
            Error::new(ErrorKind::Invalid, message)
        })
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses { host, port } => write!(f, "{host}:{port}"),
            Self::Services(name) => f.write_str(name),
        }
    }
}

fn is_host(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(fits)
}

/// What a [`Dns`] looks up, and how.
///
/// ```
/// use std::time::Duration;
/// use larder_cluster::dns::DnsConfig;
///
/// let config = DnsConfig { every: Duration::from_secs(1), ..DnsConfig::new("larder.default.svc:5274".parse()?) };
/// assert_eq!(config.server, None);
/// # Ok::<(), larder_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// The name with the members.
    pub name: DnsName,
    /// How often it is looked up.
    pub every: Duration,
    /// The name server; `None` is those that the system asks.
    pub server: Option<SocketAddr>,
}

impl DnsConfig {
    /// Looks the name up every five seconds, as the system does.
    #[must_use]
    pub fn new(name: DnsName) -> Self {
        Self { name, every: Duration::from_secs(5), server: None }
    }
}

/// Membership by a DNS name.
///
/// ```no_run
/// use larder_cluster::dns::{Dns, DnsConfig};
/// use larder_core::Membership;
///
/// # async fn example() -> Result<(), larder_core::Error> {
/// let dns = Dns::start(DnsConfig::new("larder.default.svc:5274".parse()?)).await?;
/// for member in dns.members().borrow().iter() {
///     println!("{}", member.address);
/// }
/// # Ok(()) }
/// ```
pub struct Dns {
    lookup: Arc<Lookup>,
    /// Ended when the membership is dropped.
    _tasks: JoinSet<()>,
}

struct Lookup {
    name: DnsName,
    resolver: TokioResolver,
    members: watch::Sender<Members>,
}

impl Dns {
    /// Looks the name up, and again and again from now on. If the first answer doesn't come within seconds, the list is empty
    /// until one does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if the system's name servers can't be found out.
    pub async fn start(config: DnsConfig) -> Result<Self, Error> {
        let DnsConfig { name, every, server } = config;
        let no_resolver = |error: NetError| {
            Error::new(
                ErrorKind::Invalid,
                format!("the name servers can't be found out: {error}; check /etc/resolv.conf"),
            )
        };
        let resolver = resolver(server).map_err(no_resolver)?;
        let lookup = Arc::new(Lookup { name, resolver, members: watch::Sender::new(Members::default()) });
        let first = timeout(FIRST_ANSWER_TIME_MAX, lookup.look()).await;
        if first.is_err() || lookup.members.borrow().is_empty() {
            tracing::warn!(name = %lookup.name, "no members are found yet; this node has no part in the cluster until they are");
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(go_on(lookup.clone(), every));
        Ok(Self { lookup, _tasks: tasks })
    }
}

fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(server) => {
            let port = |mut connection: ConnectionConfig| {
                connection.port = server.port();
                connection
            };
            let connections = vec![port(ConnectionConfig::udp()), port(ConnectionConfig::tcp())];
            let server = NameServerConfig::new(server.ip(), true, connections);
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.timeout = ANSWER_TIME_MAX;
    options.attempts = ATTEMPTS_MAX;
    // How long an answer counts is said by the configuration.
    options.cache_size = 0;
    builder.build()
}

async fn go_on(lookup: Arc<Lookup>, every: Duration) {
    let mut times = interval(every);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one comes at once, and was made before.
    times.tick().await;
    loop {
        times.tick().await;
        lookup.look().await;
    }
}

impl Membership for Dns {
    fn members(&self) -> watch::Receiver<Members> {
        self.lookup.members.subscribe()
    }

    fn look(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // Whoever asked goes on with the list that there is.
            let _in_time = timeout(LOOK_TIME_MAX, self.lookup.look()).await;
        })
    }
}

impl Lookup {
    async fn look(&self) {
        let name = &self.name;
        let addresses = match self.addresses().await {
            Ok(addresses) if addresses.is_empty() => {
                return tracing::warn!(%name, "the name has no members; the list stays as it is");
            }
            Ok(addresses) => addresses,
            Err(error) => return tracing::warn!(%name, %error, "the name can't be looked up; the list stays as it is"),
        };
        let members = addresses.into_iter().map(|address| Member::new(address.as_str(), address.as_str()));
        match Members::new(members) {
            Ok(members) => {
                self.members.send_if_modified(|present| {
                    let is_change = *present != members;
                    *present = members;
                    is_change
                });
            }
            Err(error) => {
                tracing::error!(%name, %error, "what the name has is no list of members; the list stays as it is");
            }
        }
    }

    async fn addresses(&self) -> Result<BTreeSet<String>, NetError> {
        match &self.name {
            DnsName::Addresses { host, port } => {
                let at_port = |address: std::net::IpAddr| SocketAddr::new(address, *port).to_string();
                let found = records(self.resolver.ipv4_lookup(host.as_str()).await, |data| match data {
                    RData::A(address) => Some(at_port(address.0.into())),
                    _ => None,
                })?;
                if !found.is_empty() {
                    return Ok(found);
                }
                records(self.resolver.ipv6_lookup(host.as_str()).await, |data| match data {
                    RData::AAAA(address) => Some(at_port(address.0.into())),
                    _ => None,
                })
            }
            DnsName::Services(name) => records(self.resolver.srv_lookup(name.as_str()).await, |data| match data {
                // A target that is the root says that there is no such service (RFC 2782).
                RData::SRV(service) if !service.target.is_root() => {
                    let target = service.target.to_utf8();
                    Some(format!("{}:{}", target.trim_end_matches('.'), service.port))
                }
                _ => None,
            }),
        }
    }
}

/// What an answer has. One that there is no such record has nothing, which is no failure.
fn records(
    answer: Result<hickory_resolver::lookup::Lookup, NetError>,
    read: impl Fn(&RData) -> Option<String>,
) -> Result<BTreeSet<String>, NetError> {
    match answer {
        Ok(answer) => Ok(answer.answers().iter().filter_map(|record| read(&record.data)).collect()),
        Err(error) if error.is_no_records_found() => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}
