//! [`Clients`]: the services that a listener has for clients, and what their calls may cost.

use std::{convert::Infallible, sync::Arc};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use larder_core::{Error, ErrorKind, Locks, Node};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Status, body::Body, server::NamedService};
use tonic_health::pb::{FILE_DESCRIPTOR_SET as HEALTH_DESCRIPTORS, health_server::HealthServer};
use tower_service::Service;

use super::{
    api::{cache_server::CacheServer, lock_server::LockServer},
    cache::CacheService,
    call::{Call, Intake, Outgoing, Room},
    health::{HealthService, IsReady},
    limits,
    lock::LockDesk,
    status,
    streams::Streams,
};

/// The descriptors of all that is in the folder `proto`, with its comments.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

const PUT: &str = "/larder.v1.Cache/Put";
const GET_MANY: &str = "/larder.v1.Cache/GetMany";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// A service, once its types are forgotten.
type Answers = Box<dyn Fn(Request<Intake>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// The services that a listener has for clients.
pub(super) struct Clients {
    node: Node,
    services: Vec<(&'static str, Answers)>,
    room: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// The right to call on one connection.
pub(super) struct Admitted {
    room: Arc<Room>,
    _place: OwnedSemaphorePermit,
}

impl Clients {
    pub(super) fn new(node: Node, locks: Locks, is_ready: IsReady, ending: watch::Receiver<bool>) -> Self {
        // How long requests may be is seen to before.
        let cache = CacheServer::new(CacheService(node.clone())).max_decoding_message_size(usize::MAX);
        let lock = LockServer::new(LockDesk { locks, ending: ending.clone() }).max_decoding_message_size(usize::MAX);
        let health = HealthServer::new(HealthService { is_ready, ending });
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(HEALTH_DESCRIPTORS)
        };
        let len_max = limits::MESSAGE_LEN_MAX;
        let mut services = vec![named(cache), named(lock), named(health)];
        // Both fail only if the descriptors are none, which then the tests tell.
        services.extend(reflection().build_v1().ok().map(|server| named(server.max_decoding_message_size(len_max))));
        services
            .extend(reflection().build_v1alpha().ok().map(|server| named(server.max_decoding_message_size(len_max))));
        let connections = Arc::new(Semaphore::new(limits::CLIENT_CONNECTIONS_MAX));
        Self { node, services, room: Room::of_all(), connections }
    }

    /// The right to call on one more connection.
    pub(super) fn admit(&self) -> Option<Admitted> {
        let place = self.connections.clone().try_acquire_owned().ok()?;
        Some(Admitted { room: Room::of_connection(self.room.clone()), _place: place })
    }

    /// Answers a call.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        by: &Admitted,
        streams: &Arc<Streams>,
    ) -> Response<Body> {
        let path = request.uri().path();
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
        let Some((_, answers)) = self.services.iter().find(|(name, _)| Some(*name) == service) else {
            return unimplemented();
        };
        let len_max = match path {
            PUT => self.value_len_max().saturating_add(limits::PUT_HEAD_LEN_MAX),
            GET_MANY => limits::GET_MANY_LEN_MAX,
            _ => limits::MESSAGE_LEN_MAX,
        };
        let open = if path == WATCH { streams.watch() } else { streams.call() };
        let call = match Call::new(request.headers(), by.room.clone(), open) {
            Ok(call) => call,
            Err(error) => return refused(error),
        };
        let (mut head, body) = request.into_parts();
        head.extensions.insert(call.clone());
        let body = Intake::new(body, len_max, call.clone());
        answers(Request::from_parts(head, body)).await.map(|body| Body::new(Outgoing::new(body, call)))
    }

    /// The longest value that any group takes.
    fn value_len_max(&self) -> usize {
        self.node.groups().iter().map(|group| group.config().value_len_max).max().unwrap_or(0)
    }
}

fn named<S>(server: S) -> (&'static str, Answers)
where
    S: NamedService + Service<Request<Intake>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let answers: Answers = Box::new(move |request| {
        let answer = server.clone().call(request);
        Box::pin(async move {
            let Ok(response) = answer.await;
            response
        })
    });
    (S::NAME, answers)
}

/// There is no such service.
pub(super) fn unimplemented() -> Response<Body> {
    Status::unimplemented("there is no such service: list them by reflection").into_http()
}

/// There are too many connections of clients.
pub(super) fn turned_away() -> Response<Body> {
    let message = "this node has all the connections it takes: ask another one, or try again";
    refused(Error::new(ErrorKind::Overloaded, message))
}

fn refused(error: Error) -> Response<Body> {
    status::of(error).into_http()
}

#[cfg(test)]
mod tests {
    use larder_core::{
        Members, NodeConfig, Ring,
        testing::{clock::TokioClock, fake_locks::FakeLocks, fake_peer::FakeNetwork},
    };

    use super::*;

    #[tokio::test]
    async fn connections_of_clients_are_limited() {
        let config = NodeConfig {
            name: "a".into(),
            http: "".into(),
            ring: Ring::Slots,
            incarnation: 1,
            seed: 1,
            clock: Arc::new(TokioClock::new()),
            transport: Arc::new(FakeNetwork::default()),
        };
        let node = Node::new(config, Members::default()).unwrap();
        let locks = Locks::new(FakeLocks::new(TokioClock::new()), TokioClock::new());
        let clients = Clients::new(node, locks, Arc::new(|| true), watch::channel(false).1);
        let mut admitted: Vec<_> = (0..limits::CLIENT_CONNECTIONS_MAX).map(|_| clients.admit()).collect();
        assert!(admitted.iter().all(Option::is_some) && clients.admit().is_none());
        admitted.pop();
        assert!(clients.admit().is_some(), "one that ends makes room for another");
    }
}
