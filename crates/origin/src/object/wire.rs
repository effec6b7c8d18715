//! [`Wire`]: how requests reach an object store: over the connections that HTTP origins have, and not over a second client library with a
//! TLS of its own.

use std::path::Path;

use async_trait::async_trait;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
        HttpResponseBody, HttpService,
    },
};

use crate::{
    ConfigError,
    http::client::{ClientOf, client},
};

#[derive(Clone)]
pub(super) struct Wire(ClientOf<HttpRequestBody>);

impl Wire {
    pub(super) fn new(is_https: bool, ca_file: Option<&Path>) -> Result<Self, ConfigError> {
        client(is_https, ca_file).map(Self)
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

/// An answer that blames neither a name nor who asks.
#[derive(Debug, thiserror::Error)]
#[error("{status}")]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    /// The store will never take what it was sent.
    pub(super) is_refusal: bool,
}

/// What a store calls a bucket that isn't there: S3 and Google, Microsoft.
const NO_PLACE: [&str; 2] = ["NoSuchBucket", "ContainerNotFound"];

/// What S3, and after it the others, call an object that they will never take. All else that they answer 400 to may be mended: a token that
/// ran out, a region that is another.
const NO_OBJECT: [&str; 4] = ["EntityTooLarge", "KeyTooLong", "MetadataTooLarge", "InvalidObjectName"];

/// The longest error that is read, in bytes. They have some hundred.
const ERROR_LEN_MAX: usize = 64 << 10;

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.0.request(request).await.map_err(|error| {
            let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
            HttpError::new(kind, error)
        })?;
        let status = response.status();
        if !status.is_client_error() && !status.is_server_error() {
            let broken = |error| HttpError::new(HttpErrorKind::Interrupted, error);
            return Ok(response.map(|body| HttpResponseBody::new(body.map_err(broken))));
        }
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ERROR_LEN_MAX).collect().await;
        let body = body.map_err(|error| HttpError::new_boxed(HttpErrorKind::Interrupted, error))?.to_bytes();
        let text = String::from_utf8_lossy(&body);
        let says = |codes: &[&str]| codes.iter().any(|code| text.contains(code));
        // These the store's client has words for; of others it keeps the status to itself.
        let is_known = match status {
            StatusCode::NOT_FOUND => !says(&NO_PLACE),
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::CONFLICT
            | StatusCode::PRECONDITION_FAILED => true,
            _ => false,
        };
        if is_known {
            return Ok(HttpResponse::from_parts(head, body.into()));
        }
        let is_refusal = match status {
            // The last is how WebDAV says that no file can have the name, as a folder has it or it is too long (RFC 4918, 9.7.2).
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::URI_TOO_LONG | StatusCode::METHOD_NOT_ALLOWED => true,
            status => status.is_client_error() && says(&NO_OBJECT),
        };
        Err(HttpError::new(HttpErrorKind::Unknown, Answered { status, is_refusal }))
    }
}
