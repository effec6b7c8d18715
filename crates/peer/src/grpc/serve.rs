//! [`serve()`] and [`serve_node()`]: the listener that other nodes connect to, and clients.
//!
//! A connection may carry a node's exchange, a client's calls, or both; which it is shows in its first request.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, OnceLock},
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use larder_core::{Locks, Node, PeerService, Standing, stats::Protocol};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Status, Streaming, body::Body};
use tower_service::Service;

use super::{
    clients::{Admitted, Clients, turned_away, unimplemented},
    convert,
    exchange::Exchange,
    limits,
    proto::{
        Frame,
        peer_server::{Peer, PeerServer},
    },
    streams::{End, Streams},
};

/// The path of the exchanges of nodes.
pub(super) const EXCHANGE: &str = "/larder.peer.v1.Peer/Exchange";

/// Answers other nodes on `listener`, with what `service` knows and as the node of `standing`.
///
/// Once `shutdown` is ready nothing more is accepted or read; it ends when what was asked before is answered. Dropped, it
/// breaks all connections.
///
/// # Examples
///
/// ```no_run
/// # async fn run(node: larder_core::Node) -> std::io::Result<()> {
/// use larder_core::stats::Protocol;
///
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:5274").await?;
/// let shutdown = std::future::pending();
/// larder_peer::grpc::serve(listener, node.service(Protocol::Grpc), node.standing().clone(), shutdown).await;
/// # Ok(())
/// # }
/// ```
pub async fn serve(
    listener: TcpListener,
    service: Arc<dyn PeerService>,
    standing: Arc<Standing>,
    shutdown: impl Future<Output = ()>,
) {
    let (end, ending) = watch::channel(false);
    let served = Served { service, standing, clients: None, ending };
    accept(listener, served, end, shutdown).await;
}

/// Answers other nodes on `listener`, as [`serve()`] does, and clients: the services `larder.v1.Cache` and `larder.v1.Lock`, which takes
/// locks by `locks`, server reflection, and `grpc.health.v1`, which tells what `is_ready` says.
///
/// Once `shutdown` is ready nothing more is accepted; calls that are under way are finished. Dropped, it breaks all
/// connections.
///
/// # Examples
///
/// ```no_run
/// # async fn run(node: larder_core::Node, locks: larder_core::Locks) -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:5274").await?;
/// let asked = node.clone();
/// let is_ready = move || asked.view().is_serving();
/// larder_peer::grpc::serve_node(listener, node, locks, is_ready, std::future::pending()).await;
/// # Ok(())
/// # }
/// ```
pub async fn serve_node(
    listener: TcpListener,
    node: Node,
    locks: Locks,
    is_ready: impl Fn() -> bool + Send + Sync + 'static,
    shutdown: impl Future<Output = ()>,
) {
    let (end, ending) = watch::channel(false);
    let (service, standing) = (node.service(Protocol::Grpc), node.standing().clone());
    let clients = Clients::new(node, locks, Arc::new(is_ready), ending.clone());
    let served = Served { service, standing, clients: Some(Arc::new(clients)), ending };
    accept(listener, served, end, shutdown).await;
}

/// What a listener answers with.
#[derive(Clone)]
struct Served {
    service: Arc<dyn PeerService>,
    standing: Arc<Standing>,
    clients: Option<Arc<Clients>>,
    /// Whether the node goes.
    ending: watch::Receiver<bool>,
}

async fn accept(listener: TcpListener, served: Served, end: watch::Sender<bool>, shutdown: impl Future<Output = ()>) {
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept(), if connections.len() < limits::CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, served.clone()));
                }
                // Too many open files, mostly: wait for some to close.
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection for gRPC failed");
                    sleep(limits::TICK).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    end.send_replace(true);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, served: Served) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let (streams, mut ending) = (Streams::new(), served.ending.clone());
    let connection = Connection::new(served, streams.clone());
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_concurrent_streams(limits::STREAMS_MAX)
        .max_pending_accept_reset_streams(limits::RESETS_MAX)
        .max_header_list_size(limits::HEADERS_LEN_MAX)
        .keep_alive_interval(limits::KEEP_ALIVE_EVERY)
        .keep_alive_timeout(limits::KEEP_ALIVE_TIMEOUT);
    let answer = service_fn(|request| connection.clone().answer(request));
    let mut http = pin!(http.serve_connection(TokioIo::new(stream), answer));
    // Ends by itself when the other side goes, or fails; both are its own affair.
    tokio::select! {
        _ = http.as_mut() => return,
        end = streams.end() => if end == End::Cut {
            tracing::debug!("a connection is cut: its client reads no answers");
            return;
        },
        _ = ending.wait_for(|ending| *ending) => {}
    }
    http.as_mut().graceful_shutdown();
    tokio::select! {
        _ = http => {}
        () = streams.closed() => {}
    }
}

/// What the requests of one connection meet.
#[derive(Clone)]
struct Connection {
    peer: PeerServer<Exchanges>,
    clients: Option<Arc<Clients>>,
    streams: Arc<Streams>,
    /// Whether clients may call on it. Decided with the first call.
    admitted: Arc<OnceLock<Option<Admitted>>>,
}

impl Connection {
    fn new(served: Served, streams: Arc<Streams>) -> Self {
        let Served { service, standing, clients, ending } = served;
        let exchanges = Exchanges { service, standing, streams: streams.clone(), ending };
        let peer = PeerServer::new(exchanges).max_decoding_message_size(limits::ASKER_FRAME_LEN_MAX);
        Self { peer, clients, streams, admitted: Arc::default() }
    }

    async fn answer(mut self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        if request.uri().path() == EXCHANGE {
            return self.peer.call(request).await;
        }
        let Some(clients) = &self.clients else { return Ok(unimplemented()) };
        let Some(admitted) = self.admitted.get_or_init(|| clients.admit()) else {
            self.streams.turn_away();
            return Ok(turned_away());
        };
        Ok(clients.answer(request, admitted, &self.streams).await)
    }
}

/// Begins exchanges.
struct Exchanges {
    service: Arc<dyn PeerService>,
    standing: Arc<Standing>,
    streams: Arc<Streams>,
    ending: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl Peer for Exchanges {
    type ExchangeStream = Exchange;

    async fn exchange(&self, request: tonic::Request<Streaming<Frame>>) -> Result<tonic::Response<Exchange>, Status> {
        let open = self.streams.exchange();
        let open = open.ok_or_else(|| Status::failed_precondition("a connection has one exchange: open another"))?;
        let mut frames = request.into_inner();
        let first = timeout(limits::HELLO_TIMEOUT, frames.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let first = first.ok_or_else(|| Status::invalid_argument("the exchange ended before a hello"))?;
        let hello = convert::check_hello(&self.standing, &first);
        let hello = hello.map_err(|error| Status::failed_precondition(error.message()))?;
        let asker = (hello.name.as_str().into(), hello.incarnation);
        let mut ending = self.ending.clone();
        let ending: BoxFuture<'static, ()> = Box::pin(async move {
            // The listener is gone as well if it can't be waited for.
            let _gone = ending.wait_for(|ending| *ending).await;
        });
        let exchange = Exchange::new(self.service.clone(), self.standing.clone(), asker, frames, ending, open);
        Ok(tonic::Response::new(exchange))
    }
}
