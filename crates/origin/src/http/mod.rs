//! [`HttpOrigin`]: a GET a key, and a PUT or a DELETE a change.

mod cache_control;
pub(crate) mod client;
mod store;
mod url_template;

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
        IF_NONE_MATCH, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
    },
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy;
use larder_core::{Error, Found, LoadError, LoadRequest, Loaded, Loader, Value};
use tokio::time::timeout;

use self::{client::Client, url_template::UrlTemplate};
use crate::{ConfigError, cause, too_large};

/// What is read of an answer's body that is no value, in bytes and in time, so that its connection can be used again.
/// A longer one costs more to read than a new connection.
const DRAIN_LEN_MAX: usize = 16 * 1024;
const DRAIN_TIME_MAX: Duration = Duration::from_millis(100);

/// How an [`HttpOrigin`] asks.
///
/// # Examples
///
/// ```
/// use larder_origin::{HttpConfig, HttpOrigin};
///
/// let config = HttpConfig::new("http://users.internal/v2/{key}?full=1")
///     .header("Authorization", "Bearer 0123456789")
///     .respect_cache_control(true);
/// let origin = HttpOrigin::new(config)?;
/// # Ok::<(), larder_origin::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct HttpConfig {
    url: String,
    respect_cache_control: bool,
    headers: Vec<(String, String)>,
    ca_file: Option<PathBuf>,
}

impl HttpConfig {
    /// `url` is that of a key, `http` or `https`, with `{key}` in its path or query. The key is percent-encoded there, all
    /// but RFC 3986's unreserved characters, so that any bytes arrive as they are; of the keys `.` and `..` even the dots.
    /// A user and password in the URL are sent as basic authentication.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), respect_cache_control: false, headers: Vec::new(), ca_file: None }
    }

    /// Whether the origin's `Cache-Control` and `Age` decide how long an answer is kept (RFC 9111, as a shared cache);
    /// `false` unless set.
    #[must_use]
    pub const fn respect_cache_control(mut self, respect: bool) -> Self {
        self.respect_cache_control = respect;
        self
    }

    /// Sends this header with every request; one of the same name as before is sent beside it.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Trusts the certificates in this PEM file, instead of the system's.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }
}

/// The URL and headers may hold secrets: they are not shown.
impl std::fmt::Debug for HttpConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpConfig")
            .field("respect_cache_control", &self.respect_cache_control)
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}

/// An HTTP server that is asked for each key with a GET (RFC 9110).
///
/// 200 is the key's value, 404 and 410 that there is none; anything else is a failure, redirects too. The value keeps
/// its `Content-Type`, and its `ETag` as [validator](Value::validator), with which it is asked for again
/// (`If-None-Match`). Values come as they are: a `Content-Encoding` is not asked for, and a failure if there is one.
///
/// As a [`Store`](larder_core::Store) it sends a change as a PUT or a DELETE of the key's URL, with `Larder-Version`, the change's
/// version, and `Idempotency-Key`, its writer's own or else the version. What the answer says of the change:
///
/// | answer | the change |
/// |---|---|
/// | 2xx; 404 and 410 to a DELETE | is made |
/// | 409, 412 | is a conflict: the origin has a newer version, which it can tell by `Larder-Version` |
/// | other 4xx, but 408; no connection came about | is refused, and nothing changed |
/// | anything else, or none | may be made or not |
///
/// A change that may have been sent is never sent again of itself.
///
/// HTTP/1.1, without proxies; connections are kept alive. There are never more of them than loads and changes under
/// way, so that the group's limit on those is the limit on connections. Needs a tokio runtime with time and I/O.
///
/// # Examples
///
/// ```no_run
/// use larder_core::{Found, Key, LoadRequest, Loader};
/// use larder_origin::{HttpConfig, HttpOrigin};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let origin = HttpOrigin::new(HttpConfig::new("http://127.0.0.1:9000/users/{key}"))?;
/// let request = LoadRequest {
///     key: Key::new("a/b c")?, // GET /users/a%2Fb%20c
///     previous: None,
///     value_len_max: 8 << 20,
///     deadline: tokio::time::Instant::now() + std::time::Duration::from_secs(10),
/// };
/// match origin.load(request).await?.found {
///     Found::Value(value) => println!("{} bytes of {:?}", value.len(), value.content_type()),
///     Found::Nothing => println!("no such user"),
///     Found::Unchanged => unreachable!("nothing was known before"),
/// }
/// # Ok(())
/// # }
/// ```
pub struct HttpOrigin {
    client: Client,
    url: UrlTemplate,
    headers: HeaderMap,
    respect_cache_control: bool,
}

impl HttpOrigin {
    /// Sets the origin up, without asking it anything yet.
    ///
    /// # Errors
    ///
    /// Of the settings `url`, `headers` and `ca_file`.
    pub fn new(config: HttpConfig) -> Result<Self, ConfigError> {
        let (url, authorization) = UrlTemplate::parse(&config.url)?;
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("larder/", env!("CARGO_PKG_VERSION"))));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.extend(authorization.map(|value| (AUTHORIZATION, value)));
        add_headers(&mut headers, config.headers)?;
        let client = client::client(url.is_https(), config.ca_file.as_deref())?;
        Ok(Self { client, url, headers, respect_cache_control: config.respect_cache_control })
    }

    async fn get(&self, request: &LoadRequest) -> Result<Loaded, Error> {
        // A validator that is none of an ETag's characters can't have come from here.
        let validator = request.previous.as_ref().and_then(Value::validator);
        let validator = validator.and_then(|validator| HeaderValue::from_str(validator).ok());
        let may_be_unchanged = validator.is_some();

        let asked = self.request(request, validator).map_err(Error::origin)?;
        let response = self.client.request(asked).await.map_err(|error| self.unreached(&error))?;
        let status = response.status();
        let ttl = if self.respect_cache_control { cache_control::ttl(response.headers()) } else { None };
        if status == StatusCode::OK {
            let value = self.value(response, request.value_len_max).await?;
            return Ok(Loaded { found: Found::Value(value), ttl });
        }
        drain(response.into_body()).await;
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(Loaded { found: Found::Nothing, ttl }),
            StatusCode::NOT_MODIFIED if may_be_unchanged => Ok(Loaded { found: Found::Unchanged, ttl }),
            status if status.is_redirection() => {
                Err(self
                    .failed(format_args!("answered {status}; redirects are not followed: set url to where it leads")))
            }
            status => Err(self.failed(format_args!("answered {status}: see its log"))),
        }
    }

    fn request(
        &self,
        request: &LoadRequest,
        validator: Option<HeaderValue>,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut asked = Request::get(self.url.of(&request.key)?).body(Full::default())?;
        *asked.headers_mut() = self.headers.clone();
        asked.headers_mut().extend(validator.map(|validator| (IF_NONE_MATCH, validator)));
        Ok(asked)
    }

    /// The value that a 200 brings.
    async fn value(&self, response: Response<Incoming>, len_max: usize) -> Result<Value, Error> {
        let (head, body) = response.into_parts();
        if let Some(encoding) = head.headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            return Err(self.failed(format_args!(
                "answered in the encoding {encoding:?}, which it was not asked for: have it heed Accept-Encoding"
            )));
        }
        let mut value = Value::new(self.read(body, len_max).await?);
        let text = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        if let Some(content_type) = text(CONTENT_TYPE) {
            value = value.with_content_type(content_type);
        }
        if let Some(etag) = text(ETAG) {
            value = value.with_validator(etag);
        }
        Ok(value)
    }

    /// Reads a body of `len_max` bytes at most, into a buffer of its own: what hyper gives is part of a larger one.
    async fn read(&self, mut body: Incoming, len_max: usize) -> Result<Bytes, Error> {
        let len_min = body.size_hint().lower();
        if len_min > len_max as u64 {
            return Err(too_large(len_max));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(len_min).unwrap_or(len_max));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broke_off(&error))?;
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > len_max - bytes.len() {
                return Err(too_large(len_max));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.into_boxed_slice().into())
    }

    fn unreached(&self, error: &legacy::Error) -> Error {
        if error.is_connect() {
            let cause = cause(error);
            return self.failed(format_args!("can't be reached ({cause}): see that it runs and that url names it"));
        }
        self.broke_off(error)
    }

    fn broke_off(&self, error: &dyn std::error::Error) -> Error {
        self.failed(format_args!("broke off its answer ({}): see its log", cause(error)))
    }

    fn failed(&self, how: std::fmt::Arguments<'_>) -> Error {
        Error::origin(format_args!("the origin {} {how}", self.url))
    }
}

/// The headers may hold secrets: they are not shown.
impl std::fmt::Debug for HttpOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpOrigin").field("url", &format_args!("{}", self.url)).finish_non_exhaustive()
    }
}

impl Loader for HttpOrigin {
    fn load(&self, request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        Box::pin(async move { Ok(self.get(&request).await?) })
    }
}

/// Adds the configured headers; the first of a name takes the place of Larder's own.
fn add_headers(headers: &mut HeaderMap, configured: Vec<(String, String)>) -> Result<(), ConfigError> {
    // They say where a request ends and what becomes of its connection, which is hyper's to say.
    const FRAMING: [HeaderName; 4] = [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE];

    let mut added = HeaderMap::new();
    for (name, value) in configured {
        let fail = |message| ConfigError::new("headers", message);
        let header = HeaderName::try_from(&name).map_err(|_| fail(format!("{name:?} is no header's name")))?;
        if FRAMING.contains(&header) {
            return Err(fail(format!("{name} can't be set: remove it")));
        }
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| fail(format!("the value of {name} has characters that a header can't have")))?;
        value.set_sensitive(true);
        added.append(header, value);
    }
    headers.extend(added);
    Ok(())
}

/// Reads the rest of a body that nobody wants, if it is short and there.
async fn drain(body: Incoming) {
    let rest = Limited::new(body, DRAIN_LEN_MAX).collect();
    // Whatever comes of it: a connection that isn't at the end of its answer is closed.
    let _ = timeout(DRAIN_TIME_MAX, rest).await;
}
