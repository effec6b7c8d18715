//! Writes: a PUT or a DELETE of the key's URL.

use std::fmt::{Arguments, Display};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{
    HeaderName, HeaderValue, Method, Request, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper_util::client::legacy;
use larder_core::{Change, Store, Update, UpdateError};

use super::{HttpOrigin, drain};
use crate::cause;

/// The place of a change among all changes of its key, for origins that take nothing older than what they have.
const LARDER_VERSION: HeaderName = HeaderName::from_static("larder-version");

/// Tells a repetition from another write (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

impl Store for HttpOrigin {
    fn update(&self, update: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
        Box::pin(self.write(update))
    }
}

impl HttpOrigin {
    async fn write(&self, update: Update) -> Result<(), UpdateError> {
        let deletes = update.change == Change::Delete;
        let asked = self.change(update).map_err(|why| self.refused(format_args!("can't be asked: {why}")))?;
        // The client sends a request anew only if it comes back from a connection that had closed before any of it was
        // written. One of which a byte may have been sent is sent once, or a late copy could undo a newer write.
        let response = self.client.request(asked).await.map_err(|error| self.unheard(&error))?;
        let status = response.status();
        drain(response.into_body()).await;
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND | StatusCode::GONE if deletes => Ok(()),
            StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Err(UpdateError::Conflict),
            // The server gave up waiting for the request, of which it may have had all.
            StatusCode::REQUEST_TIMEOUT => Err(self.unknown(format_args!("answered {status}: see its log"))),
            // Whoever asked, or when, is to blame, and not the change.
            StatusCode::UNAUTHORIZED
            | StatusCode::PROXY_AUTHENTICATION_REQUIRED
            | StatusCode::LOCKED
            | StatusCode::TOO_EARLY
            | StatusCode::TOO_MANY_REQUESTS => {
                let how = format_args!("did not take the change ({status}): see its log");
                Err(UpdateError::unreached(format_args!("the origin {} {how}", self.url)))
            }
            status if status.is_client_error() => {
                Err(self.refused(format_args!("refused the change with {status}: see its log")))
            }
            // 303 is how some say that a change was made; so may others.
            status if status.is_redirection() => {
                Err(self
                    .unknown(format_args!("answered {status}; redirects are not followed: set url to where it leads")))
            }
            status => Err(self.unknown(format_args!("answered {status}: see its log"))),
        }
    }

    fn change(&self, update: Update) -> Result<Request<Full<Bytes>>, http::Error> {
        let version = update.version.to_string();
        let idempotency_key = update.idempotency_key.as_deref().unwrap_or(&version);
        let mut asked = Request::new(Full::default());
        *asked.uri_mut() = self.url.of(&update.key)?;
        let headers = asked.headers_mut();
        *headers = self.headers.clone();
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_bytes(idempotency_key.as_bytes())?);
        headers.insert(LARDER_VERSION, HeaderValue::try_from(version)?);
        match update.change {
            Change::Delete => *asked.method_mut() = Method::DELETE,
            Change::Put(value) => {
                if let Some(content_type) = value.content_type() {
                    headers.insert(CONTENT_TYPE, HeaderValue::try_from(content_type)?);
                }
                // Else hyper leaves the length of an empty body out.
                headers.insert(CONTENT_LENGTH, value.len().into());
                *asked.method_mut() = Method::PUT;
                *asked.body_mut() = Full::new(value.into_bytes());
            }
        }
        Ok(asked)
    }

    /// Why no answer came.
    fn unheard(&self, error: &legacy::Error) -> UpdateError {
        let cause = cause(error);
        if error.is_connect() {
            let how = format!("can't be reached ({cause}): see that it runs and that url names it");
            return UpdateError::unreached(format_args!("the origin {} {how}", self.url));
        }
        self.unknown(format_args!("did not say what became of a change ({cause}): see its log"))
    }

    fn refused(&self, how: impl Display) -> UpdateError {
        UpdateError::refused(format_args!("the origin {} {how}", self.url))
    }

    fn unknown(&self, how: Arguments<'_>) -> UpdateError {
        UpdateError::unknown(format_args!("the origin {} {how}", self.url))
    }
}
