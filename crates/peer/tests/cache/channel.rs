//! What tonic's clients call on: one connection of HTTP/2.

use std::{
    net::SocketAddr,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinHandle};
use tonic::body::Body;
use tower_service::Service;

/// A connection. Clones call on the same one.
#[derive(Clone)]
pub(crate) struct Channel {
    sender: http2::SendRequest<Body>,
}

impl Channel {
    /// Connects. The task ends when the connection has.
    pub(crate) async fn connect(node: SocketAddr) -> (Self, JoinHandle<()>) {
        let stream = TcpStream::connect(node).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        (Self { sender }, tokio::spawn(async { drop(connection.await) }))
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Response<Incoming>, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}
