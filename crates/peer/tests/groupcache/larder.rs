//! Nodes of Larder in this process, and the origin behind all nodes.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use larder_core::{
    Clock, Error, LoadError, LoadRequest, Loaded, Loader, Member, Members, Moment, Node, NodeConfig, Value,
    group::{Group, GroupConfig},
    stats::Protocol,
    view::Ring,
};
use larder_peer::http::{HttpTransport, groupcache, headers, path};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use crate::go::fetch;

/// The group's name, at Go nodes too.
pub(crate) const GROUP: &str = "g";

/// The value of every key, but for those that begin with `missing` or `broken`.
pub(crate) fn value(key: &str) -> Bytes {
    format!("value of {key}").into()
}

/// An HTTP origin that counts the loads of each key.
pub(crate) struct Origin {
    /// To which an escaped key is appended.
    pub(crate) url: String,
    loads: Arc<Mutex<HashMap<String, usize>>>,
}

impl Origin {
    pub(crate) async fn start() -> Self {
        let loads: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let counted = loads.clone();
        tokio::spawn(serve(listener, move |request| {
            let key = path::decode(&request.uri().path()[1..]).unwrap();
            let key = String::from_utf8(key).unwrap();
            *counted.lock().entry(key.clone()).or_default() += 1;
            let mut response = Response::new(Full::new(value(&key)));
            if key.starts_with("missing") {
                *response.status_mut() = StatusCode::NOT_FOUND;
            } else if key.starts_with("broken") {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            std::future::ready(response)
        }));
        Self { url, loads }
    }

    /// How often the key was loaded.
    pub(crate) fn loads(&self, key: &str) -> usize {
        self.loads.lock().get(key).copied().unwrap_or_default()
    }
}

/// Reads from an [`Origin`].
struct FromOrigin(String);

impl Loader for FromOrigin {
    fn load(&self, request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        Box::pin(async move {
            let mut url = self.0.clone();
            path::encode_into(&mut url, request.key.as_bytes());
            match fetch(&url).await {
                (StatusCode::OK, value) => Ok(Loaded::value(value)),
                (StatusCode::NOT_FOUND, _) => Ok(Loaded::nothing()),
                (status, _) => Err(format!("the origin answered {status}").into()),
            }
        })
    }
}

/// A node with the HTTP transport and golang/groupcache's ring. It ends when this is dropped.
pub(crate) struct LarderNode {
    pub(crate) url: String,
    node: Node,
    group: Group,
    server: JoinHandle<()>,
}

impl LarderNode {
    /// Its place in the network, before it knows its peers.
    pub(crate) async fn bind() -> (String, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (format!("http://{}", listener.local_addr().unwrap()), listener)
    }

    pub(crate) fn start(url: &str, listener: TcpListener, origin: &str, urls: &[&str]) -> Self {
        static INCARNATION: AtomicU32 = AtomicU32::new(1);
        let clock = Arc::new(Ticks(Instant::now()));
        let config = NodeConfig {
            name: url.into(),
            http: "".into(),
            ring: Ring::Groupcache,
            incarnation: INCARNATION.fetch_add(1, Ordering::Relaxed),
            seed: 7,
            clock: clock.clone(),
            transport: Arc::new(HttpTransport::new()),
        };
        let members = Members::new(urls.iter().map(|url| Member::new(*url, *url))).unwrap();
        let node = Node::new(config, members).unwrap();
        let loader = Arc::new(FromOrigin(origin.to_owned()));
        let group = node.open_group(GROUP, GroupConfig::default(), Some(loader)).unwrap();
        let service = node.service(Protocol::Http);
        let server = tokio::spawn(serve(listener, move |request| {
            let (service, clock) = (service.clone(), clock.clone());
            async move { groupcache::serve(&*service, &*clock, request.uri().path(), request.headers()).await }
        }));
        Self { url: url.to_owned(), node, group, server }
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Value>, Error> {
        Ok(self.group.get(key, headers::TIMEOUT_DEFAULT).await?.value)
    }

    pub(crate) fn owner(&self, key: &str) -> String {
        self.node.place(GROUP, key.as_bytes()).owner.unwrap().to_string()
    }
}

impl Drop for LarderNode {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Serves until it is aborted, and then breaks its connections.
async fn serve<A, Fut, B>(listener: TcpListener, answer: A)
where
    A: Fn(Request<Incoming>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let answer = answer(request);
            async { Ok::<_, Infallible>(answer.await) }
        });
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

struct Ticks(Instant);

impl Clock for Ticks {
    fn now(&self) -> Moment {
        Moment::default() + self.0.elapsed()
    }

    fn wall_ms(&self) -> u64 {
        let since_2025 = Duration::from_secs(1_735_689_600) + self.0.elapsed();
        u64::try_from(since_2025.as_millis()).unwrap()
    }
}
