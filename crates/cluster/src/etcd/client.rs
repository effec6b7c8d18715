//! [`Client`]: calls etcd, at whichever of its endpoints answers.

use std::{
    error::Error as StdError,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, TryFutureExt, future::BoxFuture};
use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use larder_core::{Error, ErrorKind};
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::time::timeout;
use tonic::{Code, Status, body::Body};
use tower_service::Service;

use super::proto::{AuthenticateRequest, auth_client::AuthClient};
use crate::registry::{Failure, causes, connector};

/// A connection on which nothing has been heard for so long is asked whether it still stands, and dropped if it doesn't
/// say so within the same time: a paused etcd must not hold up a watch for ever.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// The most endpoints of etcd: a cluster of it has seven members at most.
pub const ENDPOINTS_MAX: usize = 16;

/// The header in which etcd wants tokens.
const TOKEN: &str = "token";

/// Asks for an error instead of silence from a member of etcd that has lost its leader.
const HAS_LEADER: &str = "hasleader";

/// What went wrong in making a request.
type BoxError = Box<dyn StdError + Send + Sync>;

/// Calls etcd at one endpoint at a time. One that fails is left for the next.
pub(crate) struct Client {
    endpoints: Vec<Uri>,
    tls: ClientConfig,
    user: Option<(String, String)>,
    request_time_max: Duration,
    current: Mutex<Current>,
}

/// Where calls go.
struct Current {
    /// Of this connection, among all that were made.
    number: usize,
    connection: Connection,
}

/// HTTP/2 to one endpoint, with the token that is sent along. It connects, and connects again, when something is sent.
#[derive(Clone)]
pub(crate) struct Connection {
    http: legacy::Client<HttpsConnector<HttpConnector>, Body>,
    endpoint: Uri,
    token: Option<HeaderValue>,
}

impl Client {
    /// A client that begins with the endpoint of this number.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if there is no endpoint, or one is no URL.
    pub(crate) fn new(
        endpoints: &[String],
        first: usize,
        tls: ClientConfig,
        user: Option<(String, String)>,
        request_time_max: Duration,
    ) -> Result<Self, Error> {
        if !(1..=ENDPOINTS_MAX).contains(&endpoints.len()) {
            let message = format!("{} endpoints of etcd: expected 1 to {ENDPOINTS_MAX}", endpoints.len());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let endpoints = endpoints.iter().map(|url| endpoint(url)).collect::<Result<Vec<_>, _>>()?;
        let connection = Connection::new(endpoints[first % endpoints.len()].clone(), &tls, request_time_max);
        let current = Mutex::new(Current { number: first, connection });
        Ok(Self { endpoints, tls, user, request_time_max, current })
    }

    /// Makes a call, within the time that one may take, and once more if etcd wants another token.
    ///
    /// # Errors
    ///
    /// As etcd has it; without an answer, [`Code::Unavailable`] or [`Code::DeadlineExceeded`].
    pub(crate) async fn call<T, F>(&self, ask: impl Fn(Connection) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut was_refreshed = false;
        loop {
            let (number, connection) = self.connection();
            let asked = async {
                let connection = self.with_token(number, connection).await?;
                ask(connection).await
            };
            let answer = timeout(self.request_time_max, asked).await.unwrap_or_else(|_| {
                Err(Status::deadline_exceeded(format!("no answer within {} ms", self.request_time_max.as_millis())))
            });
            match answer {
                Err(status) if self.user.is_some() && !was_refreshed && wants_another_token(&status) => {
                    self.forget_token(number);
                    was_refreshed = true;
                }
                Err(status) if is_of_the_endpoint(status.code()) => {
                    self.leave(number);
                    return Err(status);
                }
                answer => return answer,
            }
        }
    }

    fn connection(&self) -> (usize, Connection) {
        let current = self.current.lock();
        (current.number, current.connection.clone())
    }

    /// The connection with a token, if there is a user to have one.
    async fn with_token(&self, number: usize, connection: Connection) -> Result<Connection, Status> {
        let Some((name, password)) = &self.user else { return Ok(connection) };
        if connection.token.is_some() {
            return Ok(connection);
        }
        let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
        let answer = AuthClient::new(connection.clone()).authenticate(request).await.map_err(|status| {
            let message = format!("etcd takes neither the user {name:?} nor its password: {}", status.message());
            if status.code() == Code::InvalidArgument { Status::unauthenticated(message) } else { status }
        })?;
        let token = HeaderValue::try_from(answer.into_inner().token);
        let token = Some(token.map_err(|_| Status::internal("etcd gave a token that is no header"))?);
        let mut current = self.current.lock();
        if current.number == number {
            current.connection.token.clone_from(&token);
        }
        Ok(Connection { token, ..connection })
    }

    fn forget_token(&self, number: usize) {
        let mut current = self.current.lock();
        if current.number == number {
            current.connection.token = None;
        }
    }

    /// Goes on to the next endpoint, unless somebody has already.
    fn leave(&self, number: usize) {
        let mut current = self.current.lock();
        if current.number == number {
            let number = number.wrapping_add(1);
            let endpoint = self.endpoints[number % self.endpoints.len()].clone();
            // Tokens are good at every endpoint, most often; if not, it is told.
            let token = current.connection.token.take();
            let connection = Connection { token, ..Connection::new(endpoint, &self.tls, self.request_time_max) };
            *current = Current { number, connection };
        }
    }
}

impl Connection {
    fn new(endpoint: Uri, tls: &ClientConfig, connect_time_max: Duration) -> Self {
        let tls = HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http().enable_http2();
        let http = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_only(true)
            .http2_keep_alive_interval(SILENCE_MAX)
            .http2_keep_alive_timeout(SILENCE_MAX)
            .build(tls.wrap_connector(connector(connect_time_max)));
        Self { http, endpoint, token: None }
    }
}

/// What the generated clients need of a connection.
impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut parts = self.endpoint.clone().into_parts();
        parts.path_and_query = request.uri().path_and_query().cloned();
        let uri = match Uri::from_parts(parts) {
            Ok(uri) => uri,
            Err(error) => return std::future::ready(Err(error.into())).boxed(),
        };
        *request.uri_mut() = uri;
        request.headers_mut().insert(HAS_LEADER, HeaderValue::from_static("true"));
        if let Some(token) = &self.token {
            request.headers_mut().insert(TOKEN, token.clone());
        }
        let endpoint = self.endpoint.clone();
        let unavailable = move |error| Status::unavailable(format!("{endpoint} {}", causes(&error))).into();
        self.http.request(request).map_err(unavailable).boxed()
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => Self::Refused(message),
            _ => Self::Away(message),
        }
    }
}

/// Whether a failure is the endpoint's: another may do better. What etcd as a whole says is the same everywhere.
fn is_of_the_endpoint(code: Code) -> bool {
    let of_etcd = [
        Code::NotFound,
        Code::AlreadyExists,
        Code::InvalidArgument,
        Code::FailedPrecondition,
        Code::OutOfRange,
        Code::PermissionDenied,
        Code::Unauthenticated,
    ];
    !of_etcd.contains(&code)
}

/// Tokens run out, and are worth nothing after a restart or a change of users.
fn wants_another_token(status: &Status) -> bool {
    let is_outdated = ["revision of auth store is old", "user name is empty"];
    match status.code() {
        Code::Unauthenticated => status.message().contains("invalid auth token"),
        Code::InvalidArgument => is_outdated.iter().any(|text| status.message().contains(text)),
        _ => false,
    }
}

/// Reads an endpoint: a scheme, a host, and most often a port.
fn endpoint(url: &str) -> Result<Uri, Error> {
    let uri = url.trim_end_matches('/').parse::<Uri>().ok();
    uri.filter(|uri| {
        let is_bare = uri.path_and_query().is_none_or(|path| path == "/");
        is_bare && uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
    })
    .ok_or_else(|| {
        let message = format!("{url:?} is no endpoint of etcd: expected a URL such as \"http://127.0.0.1:2379\"");
        Error::new(ErrorKind::Invalid, message)
    })
}

/// Whether any of the endpoints is to be reached by TLS.
pub(crate) fn is_https(endpoints: &[String]) -> bool {
    endpoints.iter().any(|url| url.starts_with("https:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_without_a_path() {
        for good in ["http://127.0.0.1:2379", "https://etcd.example:2379/", "http://[::1]:2379"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:2379", "etcd", "http://", "http://a:2379/v3", "ftp://a:1"] {
            let error = endpoint(bad).unwrap_err();
            assert!(error.is_invalid() && error.message().contains("such as"), "{bad}: {error}");
        }
    }
}
