//! A node's HTTP API, as the commands ask it.
//!
//! It speaks through hyper and not through reqwest, whose URLs turn a key like `..` or `%2e%2e` into another path.

use std::{fmt, str::FromStr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use larder_core::{Key, lock::LockName};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Deserialize;

use super::{Exit, Failure};

/// How long a connection may take: longer than a lost packet, shorter than patience.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take to begin, and each part of it to follow: a node answers within 10 s unless asked otherwise.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The longest answer that is read as JSON; a thousand members and as many groups fit.
const JSON_BYTES_MAX: usize = 16 << 20;

/// What stays as it is in a path (RFC 3986, "unreserved"); everything else is percent-encoded.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where a node serves clients: `http://HOST:PORT`, or `HOST:PORT`.
///
/// # Examples
///
/// ```
/// use larder_server::commands::NodeUrl;
///
/// assert_eq!("web1:5273".parse::<NodeUrl>()?, "http://web1:5273/".parse()?);
/// assert!("ftp://web1".parse::<NodeUrl>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeUrl(String);

impl FromStr for NodeUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = url.trim_end_matches('/');
        match url.parse::<Uri>() {
            Ok(uri) if uri.scheme_str() == Some("http") && uri.query().is_none() => Ok(Self(url.to_owned())),
            _ => Err(format!("expected a node's address such as http://127.0.0.1:5273, but found {text:?}")),
        }
    }
}

impl fmt::Display for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error as a node tells it (RFC 9457).
#[derive(Deserialize)]
pub(super) struct Problem {
    pub(super) r#type: String,
    title: String,
    #[serde(default)]
    detail: String,
}

impl Problem {
    /// What happened and what to do.
    pub(super) fn sentence(self) -> String {
        if self.detail.is_empty() { self.title } else { self.detail }
    }
}

/// The path of a key's value.
pub(super) fn key_path(group: &str, key: &Key) -> String {
    format!("/v1/groups/{group}/keys/{}", encode(key.as_bytes()))
}

/// The path of a key's owner.
pub(super) fn owner_path(group: &str, key: &Key) -> String {
    format!("/v1/cluster/owner/{group}/{}", encode(key.as_bytes()))
}

/// The path of a lock.
pub(super) fn lock_path(name: &LockName) -> String {
    format!("/v1/locks/{}", encode(name.as_bytes()))
}

fn encode(bytes: &[u8]) -> String {
    match bytes {
        // These name other paths to many a proxy (RFC 3986, section 5.2.4).
        b"." => "%2E".to_owned(),
        b".." => "%2E%2E".to_owned(),
        bytes => percent_encode(bytes, RESERVED).to_string(),
    }
}

/// A client of one node, which keeps its connections for the next requests.
pub(super) struct NodeClient {
    http: Client<HttpConnector, Full<Bytes>>,
    node: NodeUrl,
    /// What names another one.
    flag: &'static str,
}

impl NodeClient {
    pub(super) fn new(node: NodeUrl) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        Self { http: Client::builder(TokioExecutor::new()).build(connector), node, flag: "--node" }
    }

    /// A client of where a node serves operators.
    pub(super) fn of_admin(node: NodeUrl) -> Self {
        Self { flag: "--admin", ..Self::new(node) }
    }

    /// Waits for an answer to begin, whatever it is and however long that takes.
    ///
    /// # Errors
    ///
    /// If the node can't be reached.
    pub(super) async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let node = &self.node;
        let request = Request::builder()
            .method(method)
            .uri(format!("{node}{path}"))
            .body(Full::new(body))
            .map_err(|error| Failure::usage(format!("{node} can't be asked: {error}")))?;
        self.http.request(request).await.map_err(|error| self.unreachable(&innermost(&error)))
    }

    /// Waits for an answer to begin.
    ///
    /// # Errors
    ///
    /// If the node can't be reached, or its answer is an error.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let response = match tokio::time::timeout(ANSWER_TIMEOUT, self.send(method, path, body)).await {
            Ok(response) => response?,
            Err(_) => return Err(self.unreachable("it did not answer in time")),
        };
        if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
    }

    /// Asks for JSON.
    ///
    /// # Errors
    ///
    /// As for [`ask`](Self::ask), and if something else comes.
    pub(super) async fn ask_json(&self, path: &str) -> Result<serde_json::Value, Failure> {
        self.ask_for_json(Method::GET, path, Bytes::new()).await
    }

    /// As [`ask_json`](Self::ask_json), with an order.
    pub(super) async fn ask_for_json(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<serde_json::Value, Failure> {
        let response = self.ask(method, path, body).await?;
        serde_json::from_slice(&whole(response).await?)
            .map_err(|error| Failure::failed(format!("{} does not answer as a Larder node does: {error}", self.node)))
    }

    fn unreachable(&self, reason: &str) -> Failure {
        let Self { node, flag, .. } = self;
        let message = format!("could not reach {node}: {reason}; start a node there or name another with {flag}");
        Failure::new(Exit::Unreachable, message)
    }
}

/// Asks a node once, and waits for its answer to begin.
///
/// # Errors
///
/// If the node can't be reached, or its answer is an error.
pub(super) async fn ask(
    node: &NodeUrl,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Response<Incoming>, Failure> {
    NodeClient::new(node.clone()).ask(method, path, body).await
}

/// Asks a node for JSON once.
pub(super) async fn ask_json(node: &NodeUrl, path: &str) -> Result<serde_json::Value, Failure> {
    NodeClient::new(node.clone()).ask_json(path).await
}

pub(super) async fn whole(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let body = Limited::new(response.into_body(), JSON_BYTES_MAX).collect();
    match tokio::time::timeout(ANSWER_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Failure::failed(format!("the answer is longer than {JSON_BYTES_MAX} bytes")))
        }
        Ok(Err(error)) => Err(Failure::failed(format!("the answer broke off: {error}"))),
        Err(_) => Err(Failure::failed("the answer did not end in time")),
    }
}

/// What lies at the bottom of an error, which says it best: "Connection refused".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The error that an answer tells; `None` if it is no Larder node's.
pub(super) async fn problem(response: Response<Incoming>) -> Option<Problem> {
    serde_json::from_slice(&whole(response).await.ok()?).ok()
}

async fn refused(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let Some(problem) = problem(response).await else {
        return Failure::failed(format!("the node answered {status}, which no Larder node would: is it one?"));
    };
    let exit = match (status, problem.r#type.as_str()) {
        (StatusCode::NOT_FOUND, "not-found" | "unknown-dead-letter") => Exit::NotFound,
        (StatusCode::NOT_FOUND, "unknown-group") => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, problem.sentence())
}
