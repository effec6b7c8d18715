//! [`serve()`]: the listener that other nodes connect to.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::BoxFuture;
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use larder_core::{PeerService, Standing};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Response, Status, Streaming};

use super::{
    convert,
    exchange::Exchange,
    limits,
    proto::{
        Frame,
        peer_server::{Peer, PeerServer},
    },
};

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
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept(), if connections.len() < limits::CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, service.clone(), standing.clone(), ending.clone()));
                }
                // Too many open files, mostly: wait for some to close.
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection from another node failed");
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

async fn connection(
    stream: TcpStream,
    service: Arc<dyn PeerService>,
    standing: Arc<Standing>,
    mut ending: watch::Receiver<bool>,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let course = Arc::new(Course::default());
    let node = Node { service, standing, course: course.clone(), ending: ending.clone() };
    let node = PeerServer::new(node).max_decoding_message_size(limits::ASKER_FRAME_LEN_MAX);
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_concurrent_streams(1)
        .keep_alive_interval(limits::KEEP_ALIVE_EVERY)
        .keep_alive_timeout(limits::KEEP_ALIVE_TIMEOUT);
    let mut http = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(node)));
    // Ends by itself when the other side goes, or fails; both are its own affair.
    let has_ended = tokio::select! {
        _ = http.as_mut() => return,
        () = course.is_late() => return,
        () = course.ended.notified() => true,
        _ = ending.wait_for(|ending| *ending) => false,
    };
    http.as_mut().graceful_shutdown();
    let too_long = async {
        if !has_ended {
            course.ended.notified().await;
        }
        sleep(limits::CLOSE_TIMEOUT).await;
    };
    tokio::select! {
        _ = http => {}
        () = course.is_late() => {}
        () = too_long => {}
    }
}

/// How far a connection has come.
#[derive(Default)]
struct Course {
    has_begun: AtomicBool,
    ended: Notify,
}

impl Course {
    /// Ready when no exchange has begun in time.
    async fn is_late(&self) {
        sleep(limits::HELLO_TIMEOUT).await;
        if self.has_begun.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

/// Dropped with the exchange, it closes the connection.
pub(super) struct Closing(Arc<Course>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.ended.notify_one();
    }
}

struct Node {
    service: Arc<dyn PeerService>,
    standing: Arc<Standing>,
    course: Arc<Course>,
    ending: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl Peer for Node {
    type ExchangeStream = Exchange;

    async fn exchange(&self, request: tonic::Request<Streaming<Frame>>) -> Result<Response<Exchange>, Status> {
        self.course.has_begun.store(true, Ordering::Relaxed);
        let closing = Closing(self.course.clone());
        let mut frames = request.into_inner();
        let first = timeout(limits::HELLO_TIMEOUT, frames.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let first = first.ok_or_else(|| Status::invalid_argument("the exchange ended before a hello"))?;
        convert::check_hello(&self.standing, &first).map_err(|error| Status::failed_precondition(error.message()))?;
        let mut ending = self.ending.clone();
        let ending: BoxFuture<'static, ()> = Box::pin(async move {
            // The listener is gone as well if it can't be waited for.
            let _gone = ending.wait_for(|ending| *ending).await;
        });
        let exchange = Exchange::new(self.service.clone(), self.standing.clone(), frames, ending, closing);
        Ok(Response::new(exchange))
    }
}
