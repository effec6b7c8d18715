//! A node with a listener, an origin and another member that is as a test has it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use larder_core::{
    Group, GroupConfig, Locks, Member, Members, Node, NodeConfig, Ring,
    testing::{clock::TokioClock, fake_locks::FakeLocks, fake_peer::FakeNetwork, origin::FakeOrigin},
};
use larder_peer::grpc::{
    api::{DeleteRequest, GetManyRequest, GetRequest, PutRequest, cache_client::CacheClient},
    serve_node,
    status::ERROR,
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{Code, Status};

use crate::channel::Channel;

/// The longest value of every group.
pub(crate) const VALUE_LEN_MAX: usize = 8 << 20;

/// A group without an origin.
pub(crate) const PLAIN: &str = "plain";

/// A group with an origin.
pub(crate) const USERS: &str = "users";

pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) node: Node,
    pub(crate) origin: FakeOrigin,
    pub(crate) network: FakeNetwork,
    pub(crate) locks: FakeLocks,
    pub(crate) ready: Arc<AtomicBool>,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) listener: JoinHandle<()>,
}

impl Served {
    /// A node on its own.
    pub(crate) async fn start() -> Self {
        Self::among(&["a"]).await
    }

    /// A node named `a`, one of these members.
    pub(crate) async fn among(names: &[&str]) -> Self {
        let network = FakeNetwork::default();
        let clock = TokioClock::new();
        let locks = FakeLocks::new(clock);
        let config = NodeConfig {
            name: "a".into(),
            http: "".into(),
            ring: Ring::Slots,
            incarnation: 1,
            seed: 42,
            clock: Arc::new(clock),
            transport: Arc::new(network.clone()),
        };
        let members = Members::new(names.iter().map(|name| Member::new(*name, *name))).unwrap();
        let node = Node::new(config, members).unwrap();
        // Room for many of the longest values, wherever in the store they fall, and no loads that wait for others.
        let (capacity_bytes, origin_concurrency) = (4 << 30, 10_000);
        let settings =
            GroupConfig { capacity_bytes, origin_concurrency, value_len_max: VALUE_LEN_MAX, ..GroupConfig::default() };
        let origin = FakeOrigin::new(1);
        node.open_group(PLAIN, settings.clone(), None).unwrap();
        node.open_group(USERS, settings, Some(Arc::new(origin.clone()))).unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ready = Arc::new(AtomicBool::new(true));
        let is_ready = ready.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (served, by) = (node.clone(), Locks::new(locks.clone(), clock));
        let listener = tokio::spawn(async move {
            let is_ready = move || is_ready.load(Ordering::Relaxed);
            serve_node(listener, served, by, is_ready, async { drop(stopped.await) }).await;
        });
        Self { address, node, origin, network, locks, ready, stop: Some(stop), listener }
    }

    /// A client on a connection of its own.
    pub(crate) async fn client(&self) -> CacheClient<Channel> {
        self.client_on(Channel::connect(self.address).await.0)
    }

    pub(crate) fn client_on(&self, channel: Channel) -> CacheClient<Channel> {
        let uri = format!("http://{}", self.address).parse().unwrap();
        CacheClient::with_origin(channel, uri).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn group(&self, name: &str) -> Group {
        self.node.group(name).unwrap()
    }

    /// A key of a group that `owner` owns.
    pub(crate) fn key_of(&self, group: &str, owner: &str) -> String {
        let owned = |key: &String| self.node.place(group, key.as_bytes()).owner.as_deref() == Some(owner);
        (0..).map(|number| format!("key{number}")).find(owned).unwrap()
    }
}

pub(crate) fn get(group: &str, key: impl AsRef<[u8]>) -> GetRequest {
    GetRequest { group: group.into(), key: key.as_ref().to_vec().into(), known_version: String::new() }
}

pub(crate) fn get_many(group: &str, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> GetManyRequest {
    let keys = keys.into_iter().map(|key| key.as_ref().to_vec().into());
    GetManyRequest { group: group.into(), keys: keys.collect() }
}

pub(crate) fn put(key: impl AsRef<[u8]>, value: impl Into<bytes::Bytes>) -> PutRequest {
    let (group, key) = (PLAIN.to_owned(), key.as_ref().to_vec().into());
    PutRequest { group, key, value: value.into(), ..PutRequest::default() }
}

pub(crate) fn delete(group: &str, key: impl AsRef<[u8]>) -> DeleteRequest {
    DeleteRequest {
        group: group.into(),
        key: key.as_ref().to_vec().into(),
        condition: None,
        idempotency_key: String::new(),
    }
}

/// The code of an error, and the kind that it names.
#[track_caller]
pub(crate) fn error<T: std::fmt::Debug>(outcome: Result<T, Status>) -> (Code, String) {
    let status = outcome.unwrap_err();
    let kind = status.metadata().get(ERROR).unwrap_or_else(|| panic!("no kind: {status:?}"));
    (status.code(), kind.to_str().unwrap().to_owned())
}
