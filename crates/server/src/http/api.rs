//! [`Api`]: what a node answers over HTTP, for clients and for operators.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use larder::peer::http::{groupcache, headers};
use larder_core::{
    ErrorKind, Group, GroupConfig, Key, Locks, Node, PeerService, Value, Version,
    group::WriteOptions,
    peer::{Condition, PeerWrite, WriteOp},
    stats::{GetOutcome, Protocol},
};
use tokio::{sync::watch, task::spawn_blocking, time::Instant};

use super::{
    Request, Response, about,
    admin::{Admin, Operations},
    body::{Body, Uploads},
    conditions, found,
    get_many::{self, Wanted},
    invalidate,
    listener::Handler,
    locks::LockDesk,
    metrics::Metrics,
    problem::Problem,
    route::{self, ClientRoute, Place},
};

/// What an [`Api`] is made of.
pub struct ApiConfig {
    /// The node, its groups open: those opened later are not served.
    pub node: Node,
    /// What locks are taken by.
    pub locks: Locks,
    /// By group, `Cache-Control: max-age` for clients; zero, as for groups that are not here, is `no-cache`.
    pub max_ages: HashMap<String, Duration>,
    /// Whether the node is leaving.
    pub draining: watch::Receiver<bool>,
}

/// A node's HTTP API. Clones are the same one.
///
/// # Examples
///
/// ```
/// use larder_server::http::{Api, ApiConfig, HttpLimits, serve};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = larder::Node::builder().name("a").start().await?;
/// let (draining, watched) = tokio::sync::watch::channel(false);
/// let api = Api::new(ApiConfig { node: node.core().clone(), locks: node.locks().clone(), max_ages: Default::default(), draining: watched });
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let stop = async { draining.send_replace(true); };
/// serve(listener, api.clients(), HttpLimits::default(), stop).await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Api(Arc<Inner>);

pub(super) struct Inner {
    pub(super) node: Node,
    draining: watch::Receiver<bool>,
    pub(super) metrics: Metrics,
    groups: BTreeMap<Arc<str>, Arc<Served>>,
    uploads: Uploads,
    peers: Arc<dyn PeerService>,
    locks: LockDesk,
}

/// A group as it is served.
pub(super) struct Served {
    pub(super) group: Group,
    cache_control: ArcSwap<HeaderValue>,
}

impl Api {
    /// The API of a node.
    #[must_use]
    pub fn new(config: ApiConfig) -> Self {
        let ApiConfig { node, locks, max_ages, draining } = config;
        let served = node.groups().into_iter().map(|group| {
            let max_age = max_ages.get(&**group.name()).copied().unwrap_or_default();
            let cache_control = ArcSwap::from_pointee(found::cache_control(max_age));
            Arc::new(Served { group, cache_control })
        });
        let served: Arc<[Arc<Served>]> = served.collect();
        let groups = served.iter().map(|served| (served.group.name().clone(), served.clone())).collect();
        let metrics = Metrics::new(node.clone(), served, locks.clone());
        let peers = node.service(Protocol::Http);
        let locks = LockDesk { locks, draining: draining.clone() };
        Self(Arc::new(Inner { node, draining, metrics, groups, uploads: Uploads::default(), peers, locks }))
    }

    /// What answers clients, and other nodes that speak HTTP.
    #[must_use]
    pub fn clients(&self) -> Clients {
        Clients(self.0.clone())
    }

    /// Whether the node is ready to serve, as `/readyz` tells it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.check_ready().is_ok()
    }

    /// What answers operators.
    #[must_use]
    pub fn admin(&self, operations: Operations) -> Admin {
        Admin { api: self.0.clone(), operations: Arc::new(operations) }
    }

    /// Bounds what the node hands over at a time, as [`Node::limit_handoffs`] has it.
    pub fn limit_handoffs(&self, bytes: usize) {
        self.0.node.limit_handoffs(bytes);
    }

    /// Changes the settings of a group, and its `Cache-Control: max-age` for clients; one that isn't served has none.
    ///
    /// # Errors
    ///
    /// As for [`Group::set_config`].
    pub fn set_group(&self, name: &str, config: GroupConfig, max_age: Duration) -> Result<(), larder_core::Error> {
        let Some(served) = self.0.groups.get(name) else { return Ok(()) };
        served.group.set_config(config)?;
        served.cache_control.store(Arc::new(found::cache_control(max_age)));
        Ok(())
    }
}

impl Inner {
    /// Whether the node should be asked anything: it is a serving member, and not about to leave.
    pub(super) fn check_ready(&self) -> Result<(), Problem> {
        if *self.draining.borrow() {
            return Err(Problem::new(ErrorKind::Draining, "The node is leaving: send requests to another one."));
        }
        if !self.node.view().is_serving() {
            let detail = "The node is not a serving member of the cluster: check that the members name it.";
            return Err(Problem::new(ErrorKind::NoAuthority, detail));
        }
        if let Some(failure) = self.node.records_failure() {
            return Err(failure.into());
        }
        if !self.node.is_settled() {
            let detail =
                "The node claims slots from the nodes that had them: this takes milliseconds, if those answer.";
            return Err(Problem::new(ErrorKind::NoAuthority, detail));
        }
        Ok(())
    }
}

/// Answers clients' requests.
#[derive(Clone)]
pub struct Clients(Arc<Inner>);

impl Handler for Clients {
    async fn answer(&self, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let answer = match route::client(&head.method, &head.uri) {
            Ok(ClientRoute::Get(place)) => self.get(place, &head.headers).await,
            // In a box, so that a get doesn't carry the room that the others need.
            Ok(route) => Box::pin(self.answer_rarer(route, &head, body)).await,
            Err(problem) => Err(problem),
        };
        answer.unwrap_or_else(Response::from)
    }
}

impl Clients {
    async fn answer_rarer(&self, route: ClientRoute<'_>, head: &Parts, body: Incoming) -> Result<Response, Problem> {
        let Inner { node, groups, .. } = &*self.0;
        match route {
            ClientRoute::Get(place) => self.get(place, &head.headers).await,
            ClientRoute::Put(place) => self.put(place, &head.headers, body).await,
            ClientRoute::Delete(place) => self.delete(place, &head.headers).await,
            ClientRoute::GetMany(group) => self.get_many(group, &head.headers, body).await,
            ClientRoute::Invalidate(group) => self.invalidate(group, &head.headers, body).await,
            ClientRoute::Groups => Ok(json(&about::groups(groups.values().map(|served| &served.group)))),
            ClientRoute::Cluster => Ok(json(&about::cluster(node).await)),
            ClientRoute::Owner(place) => {
                let served = self.group(place.group)?;
                let key = route::decode(place.key)?;
                Key::check(&key)?;
                // Who stands in has to be worked out first, perhaps: where nobody is served.
                let (asked, group, key) = (node.clone(), served.group.name().clone(), key.into_owned());
                let place = spawn_blocking(move || asked.place(&group, &key)).await;
                let place = place.map_err(|error| Problem::new(ErrorKind::Overloaded, error.to_string()))?;
                Ok(json(&about::owner(node, &place)))
            }
            ClientRoute::Locks => Ok(json(&self.0.locks.held(node))),
            ClientRoute::TakeLock(name) => self.0.locks.take(&self.0.uploads, name, head, body).await,
            ClientRoute::RenewLock(name) => self.0.locks.renew(&self.0.uploads, name, head, body).await,
            ClientRoute::FreeLock(name, query) => self.0.locks.free(name, query, head).await,
            ClientRoute::Peer => {
                let peers = &*self.0.peers;
                let answer = groupcache::serve(peers, node.clock(), head.uri.path(), &head.headers).await;
                Ok(answer.map(Body::Peer))
            }
        }
    }

    fn group(&self, part: &str) -> Result<&Served, Problem> {
        let name = route::decode(part)?;
        let served = str::from_utf8(&name).ok().and_then(|name| self.0.groups.get(name));
        served.map(|served| &**served).ok_or_else(|| unknown_group(&name))
    }

    async fn get(&self, place: Place<'_>, request: &HeaderMap) -> Result<Response, Problem> {
        let served = self.group(place.group)?;
        let key = route::decode(place.key)?;
        let timeout = headers::timeout(request)?;
        let start = Instant::now();
        let answer = served.group.get(&key, timeout).await;
        served.group.stats().get_durations.of(GetOutcome::of(&answer)).observe(start.elapsed());
        Ok(found::response(answer?, request, &served.cache_control.load(), self.0.node.clock()))
    }

    async fn get_many(&self, group: &str, request: &HeaderMap, body: Incoming) -> Result<Response, Problem> {
        let served = self.group(group)?;
        let deadline = Instant::now() + headers::timeout(request)?;
        self.0
            .uploads
            .read(body, get_many::REQUEST_LEN_MAX, deadline, async |body| {
                let wanted = Wanted::parse(&body)?;
                let answers = served.group.get_many(&wanted.keys()?, left(deadline)).await?;
                Ok(json_bytes(wanted.answer(&answers)))
            })
            .await
    }

    async fn put(&self, place: Place<'_>, request: &HeaderMap, body: Incoming) -> Result<Response, Problem> {
        let served = self.group(place.group)?;
        let deadline = Instant::now() + headers::timeout(request)?;
        let ttl = conditions::ttl(request)?;
        let write = self.write(served, place, request, deadline)?;
        let (through, behind) = (served.group.writes_through(), served.group.writes_behind());
        if served.group.has_origin() && !through && !behind {
            // Said before the body is read, and by the core for writes that come another way.
            return Err(Problem::new(
                ErrorKind::ReadOnly,
                "The group has an origin: change the value there, or DELETE the key to drop its copies.",
            ));
        }
        let content_type = request.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let tags = conditions::tags(request)?;
        let len_max = served.group.config().value_len_max;
        let version = self
            .0
            .uploads
            .read(body, len_max, deadline, async |body| {
                let value = Value::new(body).with_tags(tags);
                let value = match content_type {
                    Some(content_type) => value.with_content_type(content_type),
                    None => value,
                };
                write.carry_out(WriteOp::Put { value, ttl }).await
            })
            .await?;
        Ok(written(version))
    }

    async fn delete(&self, place: Place<'_>, request: &HeaderMap) -> Result<Response, Problem> {
        let served = self.group(place.group)?;
        let deadline = Instant::now() + headers::timeout(request)?;
        let write = self.write(served, place, request, deadline)?;
        let is_cache_only = write.passed_on && request.contains_key(headers::CACHE_ONLY);
        write
            .carry_out(if is_cache_only { WriteOp::Invalidate { ends_guard: false } } else { WriteOp::Delete })
            .await?;
        Ok(written(None))
    }

    async fn invalidate(&self, group: &str, request: &HeaderMap, body: Incoming) -> Result<Response, Problem> {
        let served = self.group(group)?;
        let deadline = Instant::now() + headers::timeout(request)?;
        self.0
            .uploads
            .read(body, get_many::REQUEST_LEN_MAX, deadline, async |body| {
                invalidate::carry_out(&served.group, &body, || left(deadline)).await
            })
            .await?;
        Ok(written(None))
    }

    fn write<'a>(
        &'a self,
        served: &'a Served,
        place: Place<'_>,
        request: &HeaderMap,
        deadline: Instant,
    ) -> Result<Write<'a>, Problem> {
        let idempotency_key = conditions::idempotency_key(request)?;
        let key = Key::new(route::decode(place.key)?.into_owned())?;
        let condition = conditions::write_condition(request)?;
        // Passed on once at most: the node that passed it took this one for the owner.
        let passed_on = request.contains_key(headers::PASSED_ON);
        let (peers, group) = (&*self.0.peers, &served.group);
        Ok(Write { peers, group, key, condition, idempotency_key, deadline, passed_on })
    }
}

/// A write, all but what is written.
struct Write<'a> {
    peers: &'a dyn PeerService,
    group: &'a Group,
    key: Key,
    condition: Condition,
    idempotency_key: Option<Arc<str>>,
    deadline: Instant,
    passed_on: bool,
}

impl Write<'_> {
    async fn carry_out(self, op: WriteOp) -> Result<Option<Version>, Problem> {
        let Self { peers, group, key, condition, idempotency_key, deadline, passed_on } = self;
        Ok(if passed_on {
            let group = group.name().clone();
            peers.write(PeerWrite { group, key, op, condition, idempotency_key, deadline }).await?
        } else {
            group
                .write(key.as_bytes(), op, WriteOptions { condition, idempotency_key, timeout: left(deadline) })
                .await?
        })
    }
}

pub(super) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// A name that no group could have is a mistake of another kind than one that none has.
fn unknown_group(name: &[u8]) -> Problem {
    let name = String::from_utf8_lossy(name);
    match larder_core::check_group_name(&name) {
        Ok(()) => {
            Problem::new(ErrorKind::UnknownGroup, format!("There is no group {name:?}: GET /v1/groups lists them."))
        }
        Err(error) => error.into(),
    }
}

pub(super) fn written(version: Option<Version>) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Some(version) = version {
        response.headers_mut().insert(header::ETAG, headers::etag(version));
    }
    response
}

pub(super) fn json(value: &serde_json::Value) -> Response {
    json_bytes(value.to_string().into_bytes())
}

pub(super) fn json_bytes(bytes: Vec<u8>) -> Response {
    json_of(Bytes::from(bytes).into())
}

/// An answer with this JSON.
pub(super) fn json_of(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
