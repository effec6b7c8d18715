//! A client of HTTP: it sends a path byte for byte, and follows nothing.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use tokio::net::TcpStream;

/// The group of all these tests.
pub(crate) const GROUP: &str = "g";

/// Why there is no answer.
pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Waits for what has to come, but not for ever.
pub(crate) async fn within<T>(time: Duration, what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(time, future).await.unwrap_or_else(|_| panic!("{what} takes more than {time:?}"))
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header's value; empty if it isn't there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The status and the type of a problem.
    #[track_caller]
    pub(crate) fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        (self.status, problem["type"].as_str().unwrap().to_owned())
    }
}

/// A kept-alive connection.
pub(crate) struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Broken> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    pub(crate) async fn ask(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, Broken> {
        let (head, body) = self.0.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }
}

/// Asks over a connection of its own.
pub(crate) async fn ask(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer, Broken> {
    Connection::open(address).await?.ask(request).await
}

/// A request with these headers.
pub(crate) fn request(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "larder");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}

pub(crate) fn get(path: &str) -> Request<Full<Bytes>> {
    request(Method::GET, path, &[], "")
}

pub(crate) fn get_key(key: impl AsRef<[u8]>) -> Request<Full<Bytes>> {
    get(&key_path(key))
}

pub(crate) fn put_key(key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Request<Full<Bytes>> {
    request(Method::PUT, &key_path(key), &[], value)
}

pub(crate) fn delete_key(key: impl AsRef<[u8]>) -> Request<Full<Bytes>> {
    request(Method::DELETE, &key_path(key), &[], "")
}

/// The path of a key of [`GROUP`], with all but letters and digits percent-encoded.
pub(crate) fn key_path(key: impl AsRef<[u8]>) -> String {
    format!("/v1/groups/{GROUP}/keys/{}", percent_encode(key.as_ref(), NON_ALPHANUMERIC))
}

/// The value that the origin gives for a key.
pub(crate) fn value_of(key: impl AsRef<[u8]>) -> String {
    key.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
