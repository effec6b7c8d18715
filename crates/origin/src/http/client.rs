//! [`Client`]: pooled connections to the origin, with TLS where its URL says so.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use crate::{
    ConfigError,
    tls::{self, Wanted},
};

pub(super) type Client = ClientOf<Full<Bytes>>;

/// A client whose requests have bodies of this kind.
pub(crate) type ClientOf<B> = legacy::Client<HttpsConnector<HttpConnector>, B>;

/// How long to try all of a host's addresses together before the load fails. An address of several that drops packets
/// must leave time for the others within a `hard_timeout` of 10 s.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// How long an idle connection is kept. Below the 5 s after which Node.js, Apache and uvicorn close theirs: a request
/// that crosses with the closing fails.
const IDLE_TIME_MAX: Duration = Duration::from_secs(4);

/// Idle connections kept. Connections are never more than loads at once; this bounds what a burst of loads leaves behind.
const IDLE_CONNECTIONS_MAX: usize = 256;

/// The most that is read from a connection at once, in bytes; the head of a response may have twice as much at most.
const READ_LEN_MAX: usize = 64 * 1024;

/// Makes a client. `ca_file` takes the place of the system's certificates.
pub(crate) fn client<B>(is_https: bool, ca_file: Option<&Path>) -> Result<ClientOf<B>, ConfigError>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIME_MAX));
    let tls = tls::client(if is_https { Wanted::Always } else { Wanted::Never }, ca_file)?;
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
    Ok(legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIME_MAX)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .http1_max_buf_size(READ_LEN_MAX)
        .build(connector.wrap_connector(http)))
}
