//! [`Consul`]: nodes that register themselves with Consul's agents.
//!
//! - An entry is a service instance at the agent that this node was told of: its `Meta` has the member's facts, and its
//!   check has a ttl within which the node says that it passes. Who doesn't is critical, and off the list.
//! - A read is a `consistent` health query for all instances; its rank is Consul's index. A check that passes at the local
//!   agent proves nothing: only the read does.
//! - A hint is a blocking query from the index of the last read. An index that went backwards is a change like any other.
//!
//! Consul has no transaction with which a name could be taken, and an agent tells its servers of an instance some time after it
//! was registered. So a node has registered when a read shows its entry, and where two have taken one name at the same
//! moment, every read lets the same one have it: see `instances.rs`.
//!
//! What happens to an agent happens to its nodes: when a whole machine fails, it is Consul's own gossip that finds out.

pub(crate) mod client;
mod instances;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use larder_core::{Clock, Error, ErrorKind, Member, Members};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{Instant, sleep};

use self::{client::Client, instances::Instance};
use crate::registry::{Failure, Registered, Registrant, Registry, TlsFiles, request_time_max, tls_config};

/// How long a blocking query waits. Reads come once a second whatever it says.
const HINT_TIME_MAX: Duration = Duration::from_secs(10);

/// Consul adds up to a sixteenth to the time that a query asks for, so that not all end at once.
const HINT_JITTER_SHARE: u32 = 16;

/// How often it is looked whether the agent has told its servers of an entry.
const SETTLE_PAUSE: Duration = Duration::from_millis(20);

/// How long Consul keeps entries of nodes that are gone; it takes no less.
const REMAINS_TIME: Duration = Duration::from_secs(60);

/// The longest name of a service: it is a label in the names that Consul's DNS answers.
const SERVICE_LEN_MAX: usize = 63;

/// How to take part in a cluster by Consul.
///
/// ```
/// use larder_cluster::ConsulConfig;
///
/// let config = ConsulConfig::new("http://127.0.0.1:8500");
/// assert_eq!((config.service.as_str(), config.lease_ttl.as_secs()), ("larder", 5));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsulConfig {
    /// The URL of an agent, best the one on the node's own machine.
    pub url: String,
    /// The service that the nodes of this cluster are instances of: letters, digits and `-`.
    pub service: String,
    /// A token that may write the service and read its health.
    pub token: Option<String>,
    /// For a URL that is `https`.
    pub tls: TlsFiles,
    /// How long a node may be unable to renew its entry before it is out.
    pub lease_ttl: Duration,
}

impl ConsulConfig {
    /// Without token, with the system's certificates, the service `larder` and a lease of 5 s.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            service: "larder".into(),
            token: None,
            tls: TlsFiles::default(),
            lease_ttl: Duration::from_secs(5),
        }
    }
}

/// Membership by Consul: nodes register themselves there with a check that they keep passing.
///
/// This node is on the list from its first [`announce`](larder_core::Membership::announce) to its [`leave`](larder_core::Membership::leave). Once a
/// second all members are read so that no failure can have made the list stale, and each such read is a
/// [proof](larder_core::Membership::authority) for 0.9 times the lease. A Consul that is away changes nothing: the last list stands.
///
/// ```no_run
/// use larder_cluster::{Consul, ConsulConfig};
/// use larder_core::{Member, Membership, MemberState};
/// # #[derive(Clone, Copy)] struct Clock;
/// # impl larder_core::Clock for Clock {
/// #     fn now(&self) -> larder_core::Moment { larder_core::Moment::default() }
/// #     fn wall_ms(&self) -> u64 { 0 }
/// # }
/// # async fn take_part(clock: Clock) -> Result<(), larder_core::Error> {
/// let me = Member { incarnation: 1_763_845_200, ..Member::new("a", "10.0.0.1:5274") };
/// let consul = Consul::new(ConsulConfig::new("http://127.0.0.1:8500"), me, clock, 42)?;
/// consul.announce(MemberState::Serving).await?;
/// println!("{} members", consul.members().borrow().len());
/// # Ok(()) }
/// ```
pub type Consul = Registrant<ConsulRegistry>;

impl Registrant<ConsulRegistry> {
    /// Begins to follow Consul, as this member; what it does is told by [`announce`](larder_core::Membership::announce). Proofs are
    /// counted on `clock`; `seed` is the start of what chance decides. It must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if the URL or the service's name can't be one, or a file can't be read. Whether Consul
    /// answers is not waited for.
    pub fn new(config: ConsulConfig, me: Member, clock: impl Clock, seed: u64) -> Result<Self, Error> {
        let lease_ttl = config.lease_ttl;
        let registry = ConsulRegistry::new(config, &me)?;
        Self::of(registry, "Consul", me, lease_ttl, Arc::new(clock), seed)
    }
}

/// The instances of one service in Consul.
pub struct ConsulRegistry {
    client: Client,
    service: String,
    /// The id of this node's instance, which no other run has.
    id: String,
    lease_ttl: Duration,
    request_time_max: Duration,
}

impl ConsulRegistry {
    fn new(config: ConsulConfig, me: &Member) -> Result<Self, Error> {
        let ConsulConfig { url, service, token, tls, lease_ttl } = config;
        let is_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !(1..=SERVICE_LEN_MAX).contains(&service.len()) || !service.bytes().all(is_label) {
            let message =
                format!("{service:?} can't be a service in Consul: take letters, digits and \"-\", 63 in all");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let request_time_max = request_time_max(lease_ttl);
        let tls = tls_config(url.starts_with("https:"), &tls)?;
        let client = Client::new(&url, token.as_deref(), tls, request_time_max)?;
        let id = format!("{service}-{}-{:08x}", me.name, me.incarnation);
        Ok(Self { client, service, id, lease_ttl, request_time_max })
    }
}

impl Registry for ConsulRegistry {
    async fn register(
        &self,
        me: &Member,
        replaces: impl Fn(&Member) -> bool + Send + Sync,
    ) -> Result<Registered, Failure> {
        let (shown, _) = self.instances().await?;
        let former = instances::holder(&shown, &me.name).filter(|holder| holder.id != self.id);
        if let Some(former) = former
            && !replaces(&former.member)
        {
            return self.give_way(former).await;
        }
        let ttl = self.lease_ttl;
        let entry = instances::registration(&self.id, &self.service, me, ttl, REMAINS_TIME.max(ttl));
        let path = "/v1/agent/service/register?replace-existing-checks=true";
        self.client.ask(Method::PUT, path, Some(entry), self.request_time_max).await?.good()?;
        if let Some(former) = former {
            // Where another agent has it, it gives way to the later entry of the same address until it is critical.
            let _gone = self.take_away(&former.id).await;
        }
        let deadline = Instant::now() + self.request_time_max;
        while Instant::now() < deadline {
            let (shown, _) = self.instances().await?;
            match instances::holder(&shown, &me.name) {
                Some(holder) if holder.member == *me => return Ok(Registered::Done),
                Some(holder) if holder.id != self.id && !replaces(&holder.member) => {
                    // Somebody was faster.
                    return self.give_way(holder).await;
                }
                _ => sleep(SETTLE_PAUSE).await,
            }
        }
        Err(Failure::Away("the agent has not told its servers of this node yet".to_owned()))
    }

    async fn renew(&self) -> Result<bool, Failure> {
        let path = format!("/v1/agent/check/pass/{}", encoded(&format!("service:{}", self.id)));
        let answer = self.client.ask(Method::PUT, &path, None, self.request_time_max).await?;
        match answer.status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => answer.good().map(|_| true),
            // An agent needs nobody else for this: what it can't do, it can't because it doesn't know the check.
            status => Ok(status.is_success()),
        }
    }

    async fn deregister(&self) -> Result<(), Failure> {
        self.take_away(&self.id).await
    }

    async fn read(&self) -> Result<Members, Failure> {
        let (shown, index) = self.instances().await?;
        let members = Members::new(instances::members(&shown));
        Ok(members.map_err(|error| Failure::Away(error.message().to_owned()))?.ranked(index))
    }

    async fn changed(&self, since: u64) -> Result<(), Failure> {
        // With the index 0 the query would not wait.
        let (service, index, wait) = (&self.service, since.max(1), HINT_TIME_MAX.as_secs());
        let path = format!("/v1/health/service/{service}?index={index}&wait={wait}s");
        let time_max = HINT_TIME_MAX + HINT_TIME_MAX / HINT_JITTER_SHARE + self.request_time_max;
        // What changed, and whether it did, is for a read to say.
        self.client.ask(Method::GET, &path, None, time_max).await?.good().map(|_| ())
    }
}

impl ConsulRegistry {
    /// Every instance of the service, and the index that this is as of.
    async fn instances(&self) -> Result<(Vec<Instance>, u64), Failure> {
        let path = format!("/v1/health/service/{}?consistent", self.service);
        let answer = self.client.ask(Method::GET, &path, None, self.request_time_max).await?.good()?;
        let shown = instances::parse(&answer.body)
            .map_err(|error| Failure::Away(format!("Consul's list of instances can't be read: {error}")))?;
        Ok((shown, answer.index))
    }

    /// Leaves the name to somebody else.
    async fn give_way(&self, holder: &Instance) -> Result<Registered, Failure> {
        self.take_away(&self.id).await?;
        Ok(Registered::Held(holder.member.clone()))
    }

    /// Takes an instance away from the agent, if it has it.
    async fn take_away(&self, id: &str) -> Result<(), Failure> {
        let path = format!("/v1/agent/service/deregister/{}", encoded(id));
        let answer = self.client.ask(Method::PUT, &path, None, self.request_time_max).await?;
        let is_unknown = answer.status == StatusCode::NOT_FOUND || answer.says("Unknown service");
        if is_unknown { Ok(()) } else { answer.good().map(|_| ()) }
    }
}

/// An id as a piece of a path.
pub(crate) fn encoded(id: &str) -> String {
    utf8_percent_encode(id, NON_ALPHANUMERIC).to_string()
}
