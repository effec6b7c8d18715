//! An asker that sends whatever bytes a test gives it.

use std::{convert::Infallible, net::SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use larder_peer::grpc::proto;
use prost::Message;
use tokio::{net::TcpStream, sync::mpsc, task::JoinHandle};

use crate::contract::WALL_MS;

pub(crate) struct Raw {
    send: mpsc::UnboundedSender<Bytes>,
    body: Incoming,
    unread: BytesMut,
    pub(crate) connection: JoinHandle<()>,
}

/// How an exchange went on.
#[derive(Debug)]
pub(crate) enum Heard {
    Frame(proto::Frame),
    /// With this reason.
    Ended(String),
    Broke,
}

impl Raw {
    /// Begins an exchange with this frame.
    pub(crate) async fn begin(node: SocketAddr, first: &[u8]) -> Result<Self, String> {
        let stream = TcpStream::connect(node).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let connection = tokio::spawn(async { drop(connection.await) });
        let (send, sent) = mpsc::unbounded_channel::<Bytes>();
        send.send(framed(first)).unwrap();
        let frames = stream::unfold(sent, |mut sent| async {
            let bytes = sent.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(bytes)), sent))
        });
        let request = Request::post(format!("http://{node}/larder.peer.v1.Peer/Exchange"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .body(StreamBody::new(Box::pin(frames)))
            .unwrap();
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if let Some(reason) = reason(response.headers()) {
            return Err(reason);
        }
        Ok(Self { send, body: response.into_body(), unread: BytesMut::new(), connection })
    }

    /// Begins one as a node does, and hears the other's hello.
    pub(crate) async fn hello(node: SocketAddr) -> Self {
        let mut raw = Self::begin(node, &hello(WALL_MS).encode_to_vec()).await.unwrap();
        assert!(matches!(raw.hear().await, Heard::Frame(frame) if frame.hello.is_some()));
        raw
    }

    pub(crate) fn send(&self, message: &[u8]) {
        // If it has closed, that will be heard.
        let _ = self.send.send(framed(message));
    }

    pub(crate) fn send_bytes(&self, bytes: Bytes) {
        let _ = self.send.send(bytes);
    }

    pub(crate) async fn hear(&mut self) -> Heard {
        loop {
            if self.unread.len() >= 5 {
                let len = u32::from_be_bytes(self.unread[1..5].try_into().unwrap()) as usize;
                if self.unread.len() >= 5 + len {
                    self.unread.advance(5);
                    return Heard::Frame(proto::Frame::decode(self.unread.split_to(len)).unwrap());
                }
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

    /// Why the node ends the exchange, after whatever else it says.
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

pub(crate) fn hello(wall_ms: u64) -> proto::Frame {
    let hello = proto::Hello { name: "a".into(), incarnation: 7, wall_ms, http: String::new() };
    proto::Frame { hello: Some(hello), ..proto::Frame::default() }
}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap());
    bytes.put_slice(message);
    bytes.freeze()
}

fn reason(headers: &HeaderMap) -> Option<String> {
    let message = headers.get("grpc-message").map(|message| message.to_str().unwrap().to_owned());
    message.or_else(|| headers.get("grpc-status").map(|status| status.to_str().unwrap().to_owned()))
}
