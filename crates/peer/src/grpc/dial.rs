//! Makes connections to other nodes.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::ready, stream};
use http::{Request, Response, Uri, uri::PathAndQuery};
use hyper::{body::Incoming, client::conn::http2, rt::Executor};
use hyper_util::rt::{TokioIo, TokioTimer};
use larder_core::Standing;
use parking_lot::Mutex;
use prost::Message;
use tokio::{net::TcpStream, task::JoinSet};
use tonic::{Streaming, body::Body, client::Grpc};
use tower_service::Service;

use super::{codec::AskerCodec, convert, limits, proto::Frame, serve::EXCHANGE};

/// An open exchange. Dropped, it closes the connection, whatever state that is in.
pub(super) struct Dialled {
    pub(super) frames: Streaming<Frame>,
    _tasks: Tasks,
}

impl Dialled {
    /// Hears who the other is. Comes before all else.
    ///
    /// # Errors
    ///
    /// Why it can't be talked to, in one sentence.
    pub(super) async fn hello(&mut self, standing: &Standing) -> Result<(), String> {
        let first = self.frames.message().await.map_err(|status| format!("it refused: {}", status.message()))?;
        let first = first.ok_or_else(|| "it closed the exchange before it said hello".to_owned())?;
        convert::check_hello(standing, &first).map(drop).map_err(|error| error.to_string())
    }
}

/// Connects to `address`, says and hears hello, and goes.
///
/// # Errors
///
/// What happened, in one sentence.
pub(super) async fn greet(address: &str, uri: &Uri, standing: &Standing) -> Result<(), String> {
    // The exchange must not end before the other has said something.
    let hello = convert::hello(standing).encode_to_vec().into();
    let hello = stream::once(ready(hello)).chain(stream::pending());
    dial(address, uri, hello).await?.hello(standing).await
}

/// Connects to `address` and opens an exchange that sends the frames of `outgoing`, each written already.
///
/// # Errors
///
/// What happened, in one sentence.
pub(super) async fn dial<S>(address: &str, uri: &Uri, outgoing: S) -> Result<Dialled, String>
where
    S: stream::Stream<Item = Bytes> + Send + 'static,
{
    let stream = TcpStream::connect(address).await.map_err(|error| format!("connecting failed: {error}"))?;
    stream.set_nodelay(true).map_err(|error| format!("connecting failed: {error}"))?;
    let tasks = Tasks::default();
    let (sender, connection) = http2::Builder::new(Spawn(tasks.0.clone()))
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("it speaks no HTTP/2: {error}"))?;
    Spawn(tasks.0.clone()).execute(connection);
    let mut client =
        Grpc::with_origin(Sender(sender), uri.clone()).max_decoding_message_size(limits::ANSWERER_FRAME_LEN_MAX);
    client.ready().await.map_err(|error| format!("it speaks no HTTP/2: {error}"))?;
    let (outgoing, path) = (tonic::Request::new(outgoing), PathAndQuery::from_static(EXCHANGE));
    let answer = client.streaming(outgoing, path, AskerCodec).await;
    let answer = answer.map_err(|status| format!("it refused: {}", status.message()))?;
    Ok(Dialled { frames: answer.into_inner(), _tasks: tasks })
}

/// The tasks of a connection.
#[derive(Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        // They hold the set themselves, through their executor.
        self.0.lock().abort_all();
    }
}

#[derive(Clone)]
struct Spawn(Arc<Mutex<JoinSet<()>>>);

impl<F> Executor<F> for Spawn
where
    F: Future + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.lock().spawn(async {
            future.await;
        });
    }
}

/// The connection, as tonic's client takes it.
struct Sender(http2::SendRequest<Body>);

impl Service<Request<Body>> for Sender {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = futures_util::future::BoxFuture<'static, Result<Response<Incoming>, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
