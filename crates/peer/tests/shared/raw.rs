//! One end of an exchange that sends whatever bytes a test gives it, and hears whatever comes.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, stream};
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{self, Incoming},
    client, server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use larder_peer::grpc::proto;
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, watch},
    task::AbortHandle,
};

use crate::node::WALL_MS;

/// A window that holds back nothing.
pub(crate) const WIDE: u32 = 8 << 20;

/// The asker's end, or the other's.
pub(crate) struct Raw {
    send: Sending,
    body: Incoming,
    unread: BytesMut,
    connection: Connection,
}

/// How an exchange went on.
#[derive(Debug)]
pub(crate) enum Heard {
    Frame(proto::Frame),
    /// With this reason.
    Ended(String),
    Broke,
}

/// The connection of an exchange.
#[derive(Clone, Default)]
struct Connection {
    breaks: Arc<Notify>,
    /// It has no more senders once the connection is gone.
    ends: Option<watch::Receiver<()>>,
}

impl Connection {
    /// Gives a connection with what drives it.
    fn of<T>(drive: impl Future<Output = T>) -> (Self, impl Future<Output = ()>) {
        let breaks = Arc::new(Notify::new());
        let (lives, ends) = watch::channel(());
        let broken = breaks.clone();
        let drive = async move {
            let _lives = lives;
            tokio::select! {
                _ = drive => {}
                () = broken.notified() => {}
            }
        };
        (Self { breaks, ends: Some(ends) }, drive)
    }
}

impl Raw {
    /// Begins an exchange with this frame.
    pub(crate) async fn begin(node: SocketAddr, first: &[u8]) -> Result<Self, String> {
        Self::begin_over(connect(node).await, first, WIDE).await
    }

    /// Begins one over this stream, and takes only so many bytes at a time.
    pub(crate) async fn begin_over<S>(stream: S, first: &[u8], window: u32) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, frames) = frames();
        // Both ends of the channel are here.
        let _ = send.send(body::Frame::data(framed(first)));
        Self::open(stream, window, send, frames).await
    }

    /// Begins one that sends these bytes, and after them nothing: it ends, or stays open.
    pub(crate) async fn play<S>(stream: S, bytes: impl IntoIterator<Item = Bytes>, ends: bool) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, frames) = frames();
        bytes.into_iter().for_each(|bytes| drop(send.send(body::Frame::data(bytes))));
        let kept = if ends { mpsc::unbounded_channel().0 } else { send.clone() };
        drop(send);
        Self::open(stream, WIDE, kept, frames).await
    }

    async fn open<S>(stream: S, window: u32, send: Sending, frames: Frames) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let text = |error: hyper::Error| error.to_string();
        let (mut sender, connection) = client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .initial_connection_window_size(WIDE)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(text)?;
        let (connection, drive) = Connection::of(connection);
        tokio::spawn(drive);
        let request = Request::post("http://node/larder.peer.v1.Peer/Exchange")
            .header(header::CONTENT_TYPE, "application/grpc")
            .body(StreamBody::new(frames))
            .unwrap();
        let response = sender.send_request(request).await.map_err(text)?;
        match reason(response.headers()) {
            Some(reason) => Err(reason),
            None => Ok(Self { send, body: response.into_body(), unread: BytesMut::new(), connection }),
        }
    }

    /// Begins one as a node does, and hears the other's hello.
    pub(crate) async fn hello(node: SocketAddr) -> Self {
        let mut raw = Self::begin(node, &hello(WALL_MS).encode_to_vec()).await.unwrap();
        raw.hears_hello().await;
        raw
    }

    pub(crate) async fn hears_hello(&mut self) {
        assert!(self.frame().await.hello.is_some());
    }

    pub(crate) fn send(&self, message: &[u8]) {
        self.send_bytes(framed(message));
    }

    pub(crate) fn send_bytes(&self, bytes: Bytes) {
        // If the other has closed, that will be heard.
        let _ = self.send.send(body::Frame::data(bytes));
    }

    /// Breaks the connection.
    pub(crate) fn break_off(&self) {
        self.connection.breaks.notify_one();
    }

    /// Ready when the connection is gone.
    pub(crate) async fn is_gone(&mut self) {
        if let Some(ends) = &mut self.connection.ends {
            // It ends with an error: its sender has gone.
            let _ = ends.changed().await;
        }
    }

    pub(crate) async fn hear(&mut self) -> Heard {
        loop {
            if let Some(message) = message(&mut self.unread) {
                return Heard::Frame(proto::Frame::decode(message).unwrap());
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.unread.extend_from_slice(&data),
                    Err(frame) => return Heard::Ended(reason(frame.trailers_ref().unwrap()).unwrap_or_default()),
                },
                Some(Err(_)) | None => return Heard::Broke,
            }
        }
    }

    /// The next frame.
    pub(crate) async fn frame(&mut self) -> proto::Frame {
        match self.hear().await {
            Heard::Frame(frame) => frame,
            other => panic!("{other:?}"),
        }
    }

    /// Why the other ends the exchange, after whatever else it says.
    pub(crate) async fn end(&mut self) -> String {
        loop {
            match self.hear().await {
                Heard::Frame(_) => {}
                Heard::Ended(reason) => return reason,
                Heard::Broke => return "it broke".to_owned(),
            }
        }
    }
}

pub(crate) async fn connect(node: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(node).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A node of which each exchange is in a test's hands.
pub(crate) struct RawNode {
    pub(crate) address: SocketAddr,
    exchanges: mpsc::UnboundedReceiver<Raw>,
    task: AbortHandle,
}

impl RawNode {
    pub(crate) async fn start() -> Self {
        Self::around(WIDE, |stream| stream).await
    }

    /// One that takes only so many bytes of an exchange at a time.
    pub(crate) async fn with_window(window: u32) -> Self {
        Self::around(window, |stream| stream).await
    }

    /// The same over streams that are wrapped.
    pub(crate) async fn around<S>(window: u32, wrap: impl Fn(TcpStream) -> S + Send + 'static) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (begun, exchanges) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                serve(wrap(stream), window, begun.clone());
            }
        });
        Self { address, exchanges, task: task.abort_handle() }
    }

    /// The next exchange, whose first frame has not been heard yet.
    pub(crate) async fn accept(&mut self) -> Raw {
        self.exchanges.recv().await.unwrap()
    }

    /// The next exchange, with the hellos done.
    pub(crate) async fn greet(&mut self) -> Raw {
        let mut raw = self.accept().await;
        raw.hears_hello().await;
        raw.send(&hello(WALL_MS).encode_to_vec());
        raw
    }
}

impl Drop for RawNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn serve<S>(stream: S, window: u32, begun: mpsc::UnboundedSender<Raw>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let of: Arc<std::sync::OnceLock<Connection>> = Arc::default();
    let known = of.clone();
    let answer = service_fn(move |request: Request<Incoming>| {
        let connection = known.get().cloned().unwrap_or_default();
        let (send, frames) = frames();
        // Nobody may be interested any more.
        let _ = begun.send(Raw { send, body: request.into_body(), unread: BytesMut::new(), connection });
        let response = Response::builder().header(header::CONTENT_TYPE, "application/grpc");
        std::future::ready(response.body(StreamBody::new(frames)))
    });
    let http = server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .initial_connection_window_size(WIDE)
        .serve_connection(TokioIo::new(stream), answer);
    let (connection, drive) = Connection::of(http);
    let _ = of.set(connection);
    tokio::spawn(drive);
}

type Sending = mpsc::UnboundedSender<body::Frame<Bytes>>;

type Frames = std::pin::Pin<Box<dyn Stream<Item = Result<body::Frame<Bytes>, Infallible>> + Send>>;

/// What is sent, on its way to HTTP/2.
fn frames() -> (Sending, Frames) {
    let (send, sent) = mpsc::unbounded_channel();
    let frames = stream::unfold(sent, |mut sent| async { sent.recv().await.map(|frame| (Ok(frame), sent)) });
    (send, Box::pin(frames))
}

pub(crate) fn hello(wall_ms: u64) -> proto::Frame {
    let hello = proto::Hello { name: "a".into(), incarnation: 7, wall_ms, http: String::new() };
    proto::Frame { hello: Some(hello), ..proto::Frame::default() }
}

/// A message as gRPC frames it.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap());
    bytes.put_slice(message);
    bytes.freeze()
}

/// The first whole message among these bytes.
fn message(bytes: &mut BytesMut) -> Option<BytesMut> {
    let len = u32::from_be_bytes(bytes.get(1..5)?.try_into().unwrap()) as usize;
    if bytes.len() < 5 + len {
        return None;
    }
    bytes.advance(5);
    Some(bytes.split_to(len))
}

fn reason(headers: &HeaderMap) -> Option<String> {
    let message = headers.get("grpc-message").map(|message| message.to_str().unwrap().to_owned());
    message.or_else(|| headers.get("grpc-status").map(|status| status.to_str().unwrap().to_owned()))
}
