//! [`Client`]: pooled connections to the origin, with TLS where its URL says so.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Empty;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::ConfigError;

pub(super) type Client = legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

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
pub(super) fn client(is_https: bool, ca_file: Option<&Path>) -> Result<Client, ConfigError> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIME_MAX));
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls(is_https, ca_file)?).https_or_http().enable_http1();
    Ok(legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIME_MAX)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .http1_max_buf_size(READ_LEN_MAX)
        .build(connector.wrap_connector(http)))
}

fn tls(is_https: bool, ca_file: Option<&Path>) -> Result<ClientConfig, ConfigError> {
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::new("url", format!("can't be reached by TLS: {error}")))?;
    let tls = match ca_file {
        Some(file) => tls.with_root_certificates(certificates(file)?),
        None if is_https => tls.with_native_roots().map_err(|error| {
            let message = format!(
                "is https, and this system has no certificates to check it against ({error}): \
                                   install them (ca-certificates), or name a ca_file"
            );
            ConfigError::new("url", message)
        })?,
        None => tls.with_root_certificates(RootCertStore::empty()),
    };
    Ok(tls.with_no_client_auth())
}

/// Reads the certificates of a PEM file, at least one.
fn certificates(file: &Path) -> Result<RootCertStore, ConfigError> {
    let fail = |error: &dyn std::fmt::Display| {
        ConfigError::new("ca_file", format!("{} has no PEM certificates to read: {error}", file.display()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| fail(&error))? {
        let certificate = certificate.map_err(|error| fail(&error))?;
        roots.add(certificate).map_err(|error| fail(&error))?;
    }
    if roots.is_empty() {
        return Err(fail(&"there is none in it"));
    }
    Ok(roots)
}
