//! [`Etcd`]: nodes that register themselves in etcd, 3.4 and later.
//!
//! - An entry is the key `{prefix}members/{name}`, its value the member's facts in JSON, under a lease of the node's own.
//! - A read is a linearizable `Range` of all entries; its rank is etcd's revision.
//! - A hint is the first event of a watch from the revision behind the last read. Who is told that this revision has been
//!   compacted away has been told of a change.
//!
//! [`client`] knows endpoints, time limits and tokens, `calls.rs` the calls that locks need too; here is what a registry asks of
//! etcd. The messages are those of `proto/etcd/etcd.proto`.

mod calls;
pub(crate) mod client;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use larder_core::{Clock, Error, Member, Members};
use parking_lot::Mutex;
use tonic::{Code, Status};

pub use self::client::ENDPOINTS_MAX;
use self::{
    client::{Client, is_https},
    proto::{
        Compare, KeyValue, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
        response_op::Response,
    },
};
use crate::registry::{Facts, Failure, Registered, Registrant, Registry, TlsFiles, request_time_max, tls_config};

/// The messages and the clients of etcd's API, as `proto/etcd/etcd.proto` describes them.
#[allow(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::default_trait_access,
    clippy::doc_markdown,
    clippy::enum_variant_names,
    clippy::missing_errors_doc,
    missing_docs,
    unreachable_pub,
    reason = "it is generated"
)]
pub(crate) mod proto {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

/// How often an entry that others write at the same moment is tried.
const TRIES_MAX: usize = 4;

/// The longest list of entries, in bytes: 4,096 members with the longest names and zones.
const LIST_LEN_MAX: usize = 16 << 20;

/// How to take part in a cluster by etcd.
///
/// ```
/// use larder_cluster::EtcdConfig;
///
/// let config = EtcdConfig::new(["http://127.0.0.1:2379"]);
/// assert_eq!((config.prefix.as_str(), config.lease_ttl.as_secs()), ("/larder/", 5));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EtcdConfig {
    /// URLs of etcd's members, in any order. One at a time is used; one that fails is left for the next.
    pub endpoints: Vec<String>,
    /// What the keys of this cluster begin with, to tell it from others in the same etcd.
    pub prefix: String,
    /// A user of etcd and its password.
    pub user: Option<(String, String)>,
    /// For endpoints that are `https`.
    pub tls: TlsFiles,
    /// How long a node may be unable to renew its entry before it is out. etcd counts in whole seconds, and takes no less
    /// than its election timeout allows, 2 s as a rule.
    pub lease_ttl: Duration,
}

impl EtcdConfig {
    /// Without user, with the system's certificates, the prefix `/larder/` and a lease of 5 s.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: "/larder/".into(),
            user: None,
            tls: TlsFiles::default(),
            lease_ttl: Duration::from_secs(5),
        }
    }
}

/// Membership by etcd: nodes register themselves there under a lease.
///
/// This node is on the list from its first [`announce`](larder_core::Membership::announce) to its [`leave`](larder_core::Membership::leave). Once a
/// second all members are read so that no failure can have made the list stale, and each such read is a
/// [proof](larder_core::Membership::authority) for 0.9 times the lease. An etcd that is away changes nothing: the last list stands.
///
/// ```no_run
/// use larder_cluster::{Etcd, EtcdConfig};
/// use larder_core::{Member, Membership, MemberState};
/// # #[derive(Clone, Copy)] struct Clock;
/// # impl larder_core::Clock for Clock {
/// #     fn now(&self) -> larder_core::Moment { larder_core::Moment::default() }
/// #     fn wall_ms(&self) -> u64 { 0 }
/// # }
/// # async fn take_part(clock: Clock) -> Result<(), larder_core::Error> {
/// let me = Member { incarnation: 1_763_845_200, ..Member::new("a", "10.0.0.1:5274") };
/// let etcd = Etcd::new(EtcdConfig::new(["http://127.0.0.1:2379"]), me, clock, 42)?;
/// etcd.announce(MemberState::Serving).await?;
/// println!("{} members", etcd.members().borrow().len());
/// # Ok(()) }
/// ```
pub type Etcd = Registrant<EtcdRegistry>;

impl Registrant<EtcdRegistry> {
    /// Begins to follow etcd, as this member; what it does is told by [`announce`](larder_core::Membership::announce). Proofs are counted
    /// on `clock`; `seed` is the start of what chance decides. It must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](larder_core::ErrorKind::Invalid) if an endpoint is no URL or a file can't be read. Whether
    /// etcd answers is not waited for.
    pub fn new(config: EtcdConfig, me: Member, clock: impl Clock, seed: u64) -> Result<Self, Error> {
        let EtcdConfig { endpoints, prefix, user, tls, lease_ttl } = config;
        let tls = tls_config(is_https(&endpoints), &tls)?;
        let request_time_max = request_time_max(lease_ttl);
        // Nodes begin with different endpoints.
        let first = usize::try_from(seed % ENDPOINTS_MAX as u64).unwrap_or_default();
        let registry = EtcdRegistry {
            client: Client::new(&endpoints, first, tls, user, request_time_max)?,
            members: format!("{prefix}members/").into(),
            lease_ttl,
            lease: Mutex::default(),
        };
        Self::of(registry, "etcd", me, lease_ttl, Arc::new(clock), seed)
    }
}

/// The entries of one cluster in etcd.
pub struct EtcdRegistry {
    client: Client,
    /// What the keys of entries begin with.
    members: Vec<u8>,
    lease_ttl: Duration,
    /// The lease that this node's entry is under.
    lease: Mutex<Option<i64>>,
}

impl Registry for EtcdRegistry {
    async fn register(
        &self,
        me: &Member,
        replaces: impl Fn(&Member) -> bool + Send + Sync,
    ) -> Result<Registered, Failure> {
        let key = [&*self.members, me.name.as_bytes()].concat();
        let value = serde_json::to_vec(&Facts::from(me)).map_err(|error| Failure::Refused(error.to_string()))?;
        // What the key must still be for the entry to be put there: at first, nothing.
        let mut expected = TargetUnion::CreateRevision(0);
        for _ in 0..TRIES_MAX {
            let lease = self.lease().await?;
            let put = PutRequest { key: key.clone(), value: value.clone(), lease };
            let present = match self.put_if(expected, put).await {
                Ok(None) => return Ok(Registered::Done),
                Ok(Some(present)) => present,
                Err(status) if status.code() == Code::NotFound => {
                    self.forget_lease(lease);
                    continue;
                }
                Err(status) => return Err(status.into()),
            };
            // Gone again: it is tried as if nothing had been there.
            let Some(present) = present else {
                expected = TargetUnion::CreateRevision(0);
                continue;
            };
            let Some(other) = self.member(&present) else {
                let key = String::from_utf8_lossy(&key).into_owned();
                return Err(Failure::Refused(format!("the key {key} in etcd is not Larder's: delete it")));
            };
            if !replaces(&other) {
                return Ok(Registered::Held(other));
            }
            expected = TargetUnion::ModRevision(present.mod_revision);
        }
        Err(Failure::Away(format!("others write the entry {:?} all the time", me.name)))
    }

    async fn renew(&self) -> Result<bool, Failure> {
        let Some(lease) = *self.lease.lock() else { return Ok(false) };
        let is_there = self.client.keep_alive(lease).await?.is_some();
        if !is_there {
            self.forget_lease(lease);
        }
        Ok(is_there)
    }

    async fn deregister(&self) -> Result<(), Failure> {
        let Some(lease) = *self.lease.lock() else { return Ok(()) };
        self.client.revoke(lease).await?;
        self.forget_lease(lease);
        Ok(())
    }

    async fn read(&self) -> Result<Members, Failure> {
        let request = RangeRequest { range_end: end_of(&self.members), ..self.range(self.members.clone()) };
        let answer = self.client.range(request, LIST_LEN_MAX).await?;
        let rank = answer.header.map_or(0, |header| header.revision).unsigned_abs();
        let members = Members::new(answer.kvs.iter().filter_map(|entry| self.member(entry)));
        Ok(members.map_err(|error| Failure::Away(error.message().to_owned()))?.ranked(rank))
    }

    async fn changed(&self, since: u64) -> Result<(), Failure> {
        let create = WatchCreateRequest {
            key: self.members.clone(),
            range_end: end_of(&self.members),
            start_revision: i64::try_from(since.saturating_add(1)).unwrap_or(i64::MAX),
        };
        Ok(self.client.watch(create, |_| true).await?)
    }
}

impl EtcdRegistry {
    /// The lease of this node, made if there is none.
    async fn lease(&self) -> Result<i64, Status> {
        if let Some(lease) = *self.lease.lock() {
            return Ok(lease);
        }
        let lease = self.client.grant(self.lease_ttl).await?.id;
        *self.lease.lock() = Some(lease);
        Ok(lease)
    }

    fn forget_lease(&self, ended: i64) {
        self.lease.lock().take_if(|lease| *lease == ended);
    }

    /// Puts it if the key is as expected, in one step. `Some`: it is not, and this is what is there.
    async fn put_if(&self, expected: TargetUnion, put: PutRequest) -> Result<Option<Option<KeyValue>>, Status> {
        let target = match expected {
            TargetUnion::CreateRevision(_) => CompareTarget::Create,
            TargetUnion::ModRevision(_) => CompareTarget::Mod,
        };
        let request = TxnRequest {
            compare: vec![Compare {
                result: CompareResult::Equal.into(),
                target: target.into(),
                key: put.key.clone(),
                target_union: Some(expected),
            }],
            failure: vec![RequestOp { request: Some(Request::RequestRange(self.range(put.key.clone()))) }],
            success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
        };
        let answer = self.client.txn(request).await?;
        if answer.succeeded {
            return Ok(None);
        }
        let first = answer.responses.into_iter().next().and_then(|answer| answer.response);
        let Some(Response::ResponseRange(found)) = first else { return Ok(Some(None)) };
        Ok(Some(found.kvs.into_iter().next()))
    }

    /// A linearizable read of this key.
    fn range(&self, key: Vec<u8>) -> RangeRequest {
        RangeRequest { key, ..RangeRequest::default() }
    }

    /// The member whose entry this is; `None`: it is none that can be read.
    fn member(&self, entry: &KeyValue) -> Option<Member> {
        let name = std::str::from_utf8(entry.key.strip_prefix(&*self.members)?).ok().filter(|name| !name.is_empty())?;
        match serde_json::from_slice::<Facts>(&entry.value) {
            Ok(facts) => Some(facts.member(name)),
            Err(error) => {
                tracing::debug!("the entry {name:?} in etcd can't be read: {error}");
                None
            }
        }
    }
}

/// The first key behind all that begin with `prefix`, which doesn't end with the greatest byte.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}
