//! The client's side: [`HttpTransport`] and its links.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header, request,
    response::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body_util::Full;
use hyper_util::client::legacy::connect::HttpConnector;
use larder_core::{
    Error, ErrorKind, Member, PeerClient, Transport, Value, Version,
    peer::{Asker, Condition, Leave, PeerAnswer, PeerError, PeerWrite, WriteOp},
};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::{
    groupcache, headers, message, path,
    pool::{Answer, Connect, Pool},
    watch::{Knock, Watch},
};

/// The longest error that is read, in bytes. A longer one counts without its text.
const ERROR_LEN_MAX: usize = 16 * 1024;

/// Links to other nodes over HTTP/1.1, with golang/groupcache's protocol for reads.
///
/// A [`Member::address`] is `host:port`, or a URL as Go nodes write it, such as `http://10.0.0.1:8080`.
///
/// # Examples
///
/// ```
/// use larder_core::{Member, Transport};
/// use larder_peer::http::HttpTransport;
///
/// let transport = HttpTransport::new();
/// let link = transport.link(&Member::new("b", "http://10.0.0.2:8080"))?;
/// assert!(transport.link(&Member::new("c", "https://10.0.0.3")).is_err());
/// # Ok::<(), larder_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct HttpTransport<C = HttpConnector> {
    connector: C,
}

impl HttpTransport {
    /// A transport over the machine's own network.
    #[must_use]
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { connector }
    }
}

impl Default for HttpTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: Connect> HttpTransport<C> {
    /// A transport over the connections that `connector` makes.
    pub fn with_connector(connector: C) -> Self {
        Self { connector }
    }
}

impl<C: Connect> Transport for HttpTransport<C> {
    fn name(&self) -> &'static str {
        "http"
    }

    fn link(&self, member: &Member) -> Result<Arc<dyn PeerClient>, Error> {
        let Address { node, host, base } = Address::parse(&member.address)?;
        Ok(Arc::new(HttpLink { pool: Pool::new(self.connector.clone(), node), watch: Watch::default(), host, base }))
    }
}

struct HttpLink<C> {
    pool: Pool<C>,
    watch: Watch,
    host: HeaderValue,
    base: String,
}

/// Where a member is reached, in the pieces that requests need.
struct Address {
    /// Scheme and authority, to connect to.
    node: Uri,
    host: HeaderValue,
    /// What stands before every path; usually nothing.
    base: String,
}

impl Address {
    /// Taken as it is: like a Go node, which puts its path right behind the URL that it was given.
    fn parse(address: &str) -> Result<Self, Error> {
        let wrong = || {
            let message = format!("{address:?} can't be a node's address: give host:port or http://host:port");
            Error::new(ErrorKind::Invalid, message)
        };
        let (rest, is_url) = match address.strip_prefix("http://") {
            Some(rest) => (rest, true),
            None => (address, false),
        };
        let (authority, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let authority = Authority::try_from(authority).map_err(|_| wrong())?;
        let whole = authority.port_u16().is_some() || (is_url && authority.as_str() == authority.host());
        if !whole || authority.host().is_empty() || authority.as_str().contains('@') || base.contains(['?', '#']) {
            return Err(wrong());
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| wrong())?;
        PathAndQuery::try_from(format!("{base}/")).map_err(|_| wrong())?;
        let node = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(authority)
            .path_and_query("/")
            .build()
            .map_err(|_| wrong())?;
        Ok(Self { node, host, base: base.to_owned() })
    }
}

impl<C: Connect> PeerClient for HttpLink<C> {
    fn ask(self: Arc<Self>, mut asker: Box<dyn Asker>) {
        tokio::spawn(async move {
            let deadline = asker.question().deadline;
            let asked = self.watch.unless_silent(self.question(&mut *asker), &*self);
            let answer = timeout_at(deadline, asked).await.unwrap_or(Err(PeerError::TimedOut));
            asker.answered(answer);
        });
    }

    fn write(&self, request: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, PeerError>> {
        Box::pin(async move {
            let uri = self.uri("/v1/groups/", &request.group, "/keys/", request.key.as_bytes());
            let left = AtomicBool::new(false);
            let order = || {
                left.store(true, Ordering::Relaxed);
                Some(self.order(&uri, &request))
            };
            let exchange = self.pool.exchange(order, false, |_| ERROR_LEN_MAX);
            let exchange = self.watch.unless_silent(exchange, self);
            match timeout_at(request.deadline, exchange).await {
                Ok(outcome) => outcome_of(outcome?),
                Err(_) if left.into_inner() => Err(PeerError::TimedOut),
                Err(_) => Err(PeerError::not_sent("the deadline passed before there was a connection to it")),
            }
        })
    }

    fn probe(&self, deadline: Instant) -> BoxFuture<'_, Result<(), PeerError>> {
        let probe = self.watch.probe(self, deadline);
        Box::pin(async move { timeout_at(deadline, probe).await.unwrap_or(Err(PeerError::TimedOut)) })
    }
}

impl<C: Connect> Knock for HttpLink<C> {
    fn knock(&self, until: Instant) -> BoxFuture<'_, Result<(), PeerError>> {
        Box::pin(async move {
            // Bad to a Go node and to a Larder node alike: neither goes on to look for a key.
            let head = self.head(Method::GET, &self.uri(groupcache::PREFIX, "", "", b""), until);
            let knock = self.pool.knock(Request::from_parts(head, Full::default()));
            timeout_at(until, knock).await.unwrap_or(Err(PeerError::TimedOut))
        })
    }
}

impl<C: Connect> HttpLink<C> {
    async fn question(&self, asker: &mut dyn Asker) -> Result<PeerAnswer, PeerError> {
        let question = asker.question();
        let uri = self.uri(groupcache::PREFIX, &question.group, "/", question.key.as_bytes());
        let len_max = question.value_len_max;
        let Some(asked_as) = headers::asked_as(question.asked_as) else {
            let error = Error::new(ErrorKind::Invalid, "over HTTP nobody is asked for what it held before");
            return Err(PeerError::Answered(error));
        };
        let request = || {
            let Leave::Until(deadline) = asker.leaves() else { return None };
            let mut head = self.head(Method::GET, &uri, deadline);
            head.headers.insert(headers::ASKED_AS, asked_as.clone());
            Some(Request::from_parts(head, Full::default()))
        };
        let body_len_max = |head: &Parts| match head.status {
            StatusCode::OK => len_max.saturating_add(message::OVERHEAD_LEN_MAX),
            _ => ERROR_LEN_MAX,
        };
        answer_of(self.pool.exchange(request, true, body_len_max).await?, len_max)
    }

    #[expect(clippy::expect_used, reason = "the base was checked with the address, the rest is encoded")]
    fn uri(&self, prefix: &str, group: &str, between: &str, key: &[u8]) -> Uri {
        let mut path = self.base.clone() + prefix;
        path::encode_into(&mut path, group.as_bytes());
        path += between;
        path::encode_into(&mut path, key);
        path.parse().expect("a path")
    }

    fn head(&self, method: Method, uri: &Uri, deadline: Instant) -> request::Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = method;
        head.uri = uri.clone();
        head.headers.insert(header::HOST, self.host.clone());
        let left = deadline.saturating_duration_since(Instant::now());
        head.headers.insert(headers::TIMEOUT_MS, headers::millis(left));
        head
    }

    /// The request that a client of the owner's would make, but for [`headers::PASSED_ON`].
    fn order(&self, uri: &Uri, write: &PeerWrite) -> Request<Full<Bytes>> {
        let (method, value) = match &write.op {
            WriteOp::Put { value, .. } => (Method::PUT, value.clone()),
            WriteOp::Delete | WriteOp::Invalidate { .. } => (Method::DELETE, Value::new(Bytes::new())),
        };
        let mut head = self.head(method, uri, write.deadline);
        head.headers.insert(headers::PASSED_ON, HeaderValue::from_static("1"));
        match write.condition {
            Condition::Always => None,
            Condition::IfVersion(version) => head.headers.insert(header::IF_MATCH, headers::etag(version)),
            Condition::IfAbsent => head.headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*")),
        };
        if let WriteOp::Invalidate { .. } = write.op {
            head.headers.insert(headers::CACHE_ONLY, HeaderValue::from_static("1"));
        }
        if let Some(key) = write.idempotency_key.as_deref().and_then(|key| HeaderValue::from_str(key).ok()) {
            head.headers.insert(headers::IDEMPOTENCY_KEY, key);
        }
        if let WriteOp::Put { ttl: Some(ttl), .. } = write.op {
            head.headers.insert(header::CACHE_CONTROL, headers::max_age(ttl));
            if ttl.subsec_nanos() > 0 {
                head.headers.insert(headers::TTL_MS, headers::millis(ttl));
            }
        }
        if let Some(media_type) = value.content_type().and_then(|it| HeaderValue::from_str(it).ok()) {
            head.headers.insert(header::CONTENT_TYPE, media_type);
        }
        Request::from_parts(head, Full::new(value.into_bytes()))
    }
}

/// What an answer on the groupcache path means.
fn answer_of(Answer { head, body }: Answer, value_len_max: usize) -> Result<PeerAnswer, PeerError> {
    let slug = text(&head.headers, &headers::ERROR);
    let found = |value| PeerAnswer::Found { value, meta: headers::parse_meta(&head.headers), lease: None };
    if head.status == StatusCode::OK {
        let value = body.map(message::decode).transpose();
        let value = value.map_err(|error| PeerError::broke_off(format!("it sent no groupcache message: {error}")))?;
        let Some(value) = value.filter(|value| value.len() <= value_len_max) else {
            let message = format!("the value is longer than the {value_len_max} bytes that the group allows");
            return Err(PeerError::Answered(Error::new(ErrorKind::TooLarge, message)));
        };
        let media_type = text(&head.headers, &headers::VALUE_TYPE);
        let value = Value::new(value);
        return Ok(found(Some(match media_type {
            Some(media_type) => value.with_content_type(media_type),
            None => value,
        })));
    }
    if slug == Some(headers::NOT_FOUND) {
        return Ok(found(None));
    }
    let kind = slug.and_then(ErrorKind::from_slug).or(match head.status {
        StatusCode::BAD_REQUEST => Some(ErrorKind::Invalid),
        StatusCode::NOT_FOUND => Some(ErrorKind::UnknownGroup),
        StatusCode::INTERNAL_SERVER_ERROR => Some(ErrorKind::Origin),
        _ => None,
    });
    let message = body.map(|body| String::from_utf8_lossy(&body).trim_end().to_owned());
    Err(refused(&head, kind, message))
}

/// A problem (RFC 9457), as far as it is of use here.
#[derive(Deserialize)]
struct Problem {
    #[serde(rename = "type")]
    slug: String,
    title: Option<String>,
    detail: Option<String>,
}

/// What an answer on the client API means to a writer.
fn outcome_of(Answer { head, body }: Answer) -> Result<Option<Version>, PeerError> {
    if head.status.is_success() {
        return Ok(head.headers.get(header::ETAG).and_then(headers::parse_etag));
    }
    let problem: Option<Problem> = body.and_then(|body| serde_json::from_slice(&body).ok());
    let Some(Problem { slug, title, detail }) = problem else {
        // A Go node, or anything else that has no such API: nothing was written.
        let known = matches!(head.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
        let message = "the key's owner takes no writes: it is not a Larder node".to_owned();
        return Err(refused(&head, known.then_some(ErrorKind::ReadOnly), known.then_some(message)));
    };
    Err(refused(&head, ErrorKind::from_slug(&slug), detail.or(title)))
}

/// An answer that is an error, if it is one of a node's. Others come from something that stands before it.
fn refused(head: &Parts, kind: Option<ErrorKind>, message: Option<String>) -> PeerError {
    let Some(kind) = kind else {
        return PeerError::broke_off(format!("it answered {}, which no node does", head.status));
    };
    let message = message.filter(|message| !message.is_empty()).unwrap_or_else(|| head.status.to_string());
    let error = Error::new(kind, message);
    PeerError::Answered(match headers::parse_retry_after(&head.headers) {
        Some(after) => error.with_retry_after(after),
        None => error,
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
