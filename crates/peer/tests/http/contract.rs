//! The suite that every transport passes, with a node that reads writes as contract and clients have them.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Either, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use larder_core::{
    Clock, Error, Key, Moment, PeerService, Transport, Value,
    peer::{Condition, PeerWrite, WriteOp},
    peer_transport_contract,
    testing::peer::{Bench, RunningNode},
};
use larder_peer::http::{HttpTransport, groupcache, headers, path};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use crate::proxy::Proxy;

struct HttpBench;

struct HttpNode {
    proxy: Proxy,
    node: JoinHandle<()>,
}

peer_transport_contract!(HttpBench);

impl Bench for HttpBench {
    type Node = HttpNode;

    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(HttpTransport::new())
    }

    async fn start(&self, service: Arc<dyn PeerService>) -> HttpNode {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let node = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service.clone();
                let node = service_fn(move |request| answer(service.clone(), request));
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), node));
            }
        });
        HttpNode { proxy: Proxy::before(address).await, node }
    }
}

impl RunningNode for HttpNode {
    fn address(&self) -> String {
        self.proxy.address.to_string()
    }

    async fn cut(&self) {
        self.proxy.cut().await;
    }

    async fn stop(self) {
        self.proxy.stop().await;
        self.node.abort();
    }
}

/// A wall clock that stands.
pub(crate) struct Wall(pub(crate) u64);

impl Clock for Wall {
    fn now(&self) -> Moment {
        Moment::default()
    }

    fn wall_ms(&self) -> u64 {
        self.0
    }
}

type Body = Either<groupcache::Body, Full<Bytes>>;

async fn answer(service: Arc<dyn PeerService>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    if head.uri.path().starts_with(groupcache::PREFIX) {
        let response = groupcache::serve(&*service, &Wall(0), head.uri.path(), &head.headers).await;
        return Ok(response.map(Either::Left));
    }
    let body = body.collect().await.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
    let mut response = Response::new(Either::Right(Full::default()));
    match service.write(write(&head, body)).await {
        Ok(version) => {
            *response.status_mut() = StatusCode::NO_CONTENT;
            response.headers_mut().extend(version.map(|version| (header::ETAG, headers::etag(version))));
        }
        Err(error) => {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            let after = error.retry_after().map(|after| (header::RETRY_AFTER, headers::retry_after(after)));
            response.headers_mut().extend(after);
            *response.body_mut() = Either::Right(problem(&error).into());
        }
    }
    Ok(response)
}

fn problem(error: &Error) -> String {
    let (slug, detail) = (error.kind().slug(), error.message());
    serde_json::json!({ "type": slug, "title": "It failed.", "detail": detail }).to_string()
}

/// The client API's PUT and DELETE, as another node sends them.
fn write(head: &Parts, body: Bytes) -> PeerWrite {
    let text = |name| head.headers.get(name).map(|value: &http::HeaderValue| value.to_str().unwrap());
    assert_eq!(text(headers::PASSED_ON), Some("1"));
    let (group, key) = head.uri.path().strip_prefix("/v1/groups/").unwrap().split_once("/keys/").unwrap();
    let op = match head.method {
        Method::PUT => WriteOp::Put {
            value: match text(header::CONTENT_TYPE) {
                Some(media_type) => Value::new(body).with_content_type(media_type),
                None => Value::new(body),
            },
            ttl: ttl(&head.headers),
        },
        Method::DELETE => WriteOp::Delete,
        ref other => panic!("{other}"),
    };
    let condition = match (head.headers.get(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (Some(tag), None) => Condition::IfVersion(headers::parse_etag(tag).unwrap()),
        (None, Some("*")) => Condition::IfAbsent,
        (None, None) => Condition::Always,
        other => panic!("{other:?}"),
    };
    PeerWrite {
        group: group.into(),
        key: Key::new(path::decode(key).unwrap()).unwrap(),
        op,
        condition,
        idempotency_key: head.headers.get(headers::IDEMPOTENCY_KEY).map(|key| key.to_str().unwrap().into()),
        deadline: Instant::now() + headers::timeout(&head.headers).unwrap(),
    }
}

fn ttl(request: &HeaderMap) -> Option<Duration> {
    let max_age = request.get(header::CACHE_CONTROL)?.to_str().unwrap().strip_prefix("max-age=").unwrap();
    let seconds = Duration::from_secs(max_age.parse().unwrap());
    let exact = headers::parse_millis(request, &headers::TTL_MS);
    assert!(exact.is_none_or(|exact| exact.as_secs() == seconds.as_secs()));
    Some(exact.unwrap_or(seconds))
}
