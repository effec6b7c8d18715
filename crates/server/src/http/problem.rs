//! [`Problem`]: an error as HTTP tells it, and the only place where errors meet statuses (RFC 9457).

use std::{borrow::Cow, time::Duration};

use http::{HeaderValue, StatusCode, header};
use larder::peer::http::headers::{LOCK_HELD, LOCK_LOST};
use larder_core::{Error, ErrorKind};
use serde::Serialize;

use super::Response;

/// When to try again after a 503 that says nothing more exact: long enough for a full queue to move or a new view to
/// settle, short enough that nobody gives up.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What may be done with a key of a group that takes no writes.
const READ_ONLY_ALLOW: &str = "GET, HEAD, DELETE";

/// The media type of a problem.
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What kind of problem: its `type`, and with it its status and title.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProblemKind {
    /// An error, wherever it came from; its `type` is [`ErrorKind::slug`].
    Error(ErrorKind),
    /// There is no such key.
    NotFound,
    /// Another holds the lock.
    LockHeld,
    /// The lock is not held with this token.
    LockLost,
    /// There is nothing at the path.
    UnknownPath,
    /// The path doesn't take the method.
    MethodNotAllowed,
    /// The configuration that was read anew has mistakes.
    BadConfiguration,
    /// The node has no such dead letter.
    UnknownDeadLetter,
    /// A dead letter's key was written since.
    Overtaken,
}

impl ProblemKind {
    /// The kinds that no [`ErrorKind`] is behind.
    pub const OF_HTTP: [Self; 8] = [
        Self::NotFound,
        Self::LockHeld,
        Self::LockLost,
        Self::UnknownPath,
        Self::MethodNotAllowed,
        Self::BadConfiguration,
        Self::UnknownDeadLetter,
        Self::Overtaken,
    ];

    /// The problem's `type`.
    #[must_use]
    pub const fn slug(self) -> &'static str {
        match self {
            Self::Error(kind) => kind.slug(),
            Self::NotFound => "not-found",
            Self::LockHeld => LOCK_HELD,
            Self::LockLost => LOCK_LOST,
            Self::UnknownPath => "unknown-path",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::BadConfiguration => "bad-configuration",
            Self::UnknownDeadLetter => "unknown-dead-letter",
            Self::Overtaken => "overtaken",
        }
    }

    /// Its status and its title.
    #[must_use]
    pub const fn status_and_title(self) -> (StatusCode, &'static str) {
        use ErrorKind as E;
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "There is no such key."),
            Self::LockHeld => (StatusCode::CONFLICT, "Another holds the lock."),
            Self::LockLost => (StatusCode::CONFLICT, "The lock is not held with this token, or not any more."),
            Self::UnknownPath => (StatusCode::NOT_FOUND, "There is nothing at this path."),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "The path does not take this method."),
            Self::BadConfiguration => {
                (StatusCode::BAD_REQUEST, "The configuration has mistakes, and nothing was changed.")
            }
            Self::UnknownDeadLetter => (StatusCode::NOT_FOUND, "The node has no such dead letter."),
            Self::Overtaken => (StatusCode::CONFLICT, "The dead letter's key was written since."),
            Self::Error(kind) => match kind {
                E::Invalid => (StatusCode::BAD_REQUEST, "The key, the group, a header or the body is malformed."),
                E::UnknownGroup => (StatusCode::NOT_FOUND, "There is no such group."),
                E::ReadOnly => (StatusCode::METHOD_NOT_ALLOWED, "The group has an origin and takes no writes."),
                E::VersionMismatch => {
                    (StatusCode::PRECONDITION_FAILED, "The condition of If-Match or If-None-Match does not hold.")
                }
                E::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The key or the value is over its limit."),
                E::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "A limit on waiting work was reached."),
                E::OwnerUnreachable => {
                    (StatusCode::SERVICE_UNAVAILABLE, "No node that may answer for the key can be reached.")
                }
                E::NoAuthority => {
                    (StatusCode::SERVICE_UNAVAILABLE, "The node has no proof that it may answer for the key.")
                }
                E::Draining => (StatusCode::SERVICE_UNAVAILABLE, "The node is leaving."),
                E::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "The deadline passed."),
                E::Indeterminate => (StatusCode::GATEWAY_TIMEOUT, "A write was sent and its outcome is unknown."),
                // A kind unknown to this version came from behind the node, as the origin's errors do.
                E::Origin | _ => (StatusCode::BAD_GATEWAY, "The origin answered with an error."),
            },
        }
    }
}

impl From<ErrorKind> for ProblemKind {
    fn from(kind: ErrorKind) -> Self {
        Self::Error(kind)
    }
}

/// An error, about to be told to a client.
///
/// # Examples
///
/// ```
/// use larder_server::http::{Problem, ProblemKind, Response};
///
/// let response = Response::from(Problem::new(ProblemKind::NotFound, "The origin has no such key."));
/// assert_eq!(response.status(), 404);
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// ```
#[derive(Clone, Debug)]
pub struct Problem {
    kind: ProblemKind,
    detail: Cow<'static, str>,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
}

impl Problem {
    /// A problem of this kind; `detail` is one sentence that says what to do.
    pub fn new(kind: impl Into<ProblemKind>, detail: impl Into<Cow<'static, str>>) -> Self {
        let kind = kind.into();
        let allow = (kind == ErrorKind::ReadOnly.into()).then_some(READ_ONLY_ALLOW);
        Self { kind, detail: detail.into(), retry_after: None, allow }
    }

    /// A malformed request.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, detail)
    }

    /// A method that a path doesn't take; `allow` are those it does, as the `Allow` header has them.
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("Use one of the methods that this path takes: {allow}.");
        Self { allow: Some(allow), ..Self::new(ProblemKind::MethodNotAllowed, detail) }
    }

    /// What kind it is.
    #[must_use]
    pub const fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// What to do, in one sentence.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let problem = Self::new(error.kind(), error.message().to_owned());
        Self { retry_after: error.retry_after(), ..problem }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

/// The body of a problem.
#[derive(Serialize)]
struct Told<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        let (status, title) = problem.kind.status_and_title();
        let told = Told { r#type: problem.kind.slug(), title, status: status.as_u16(), detail: &problem.detail };
        // Four strings and a number: there is nothing in it that could fail to be written as JSON.
        let body = serde_json::to_vec(&told).unwrap_or_default();
        let mut response = Self::new(body.into());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let after = problem.retry_after.unwrap_or(RETRY_AFTER);
            // Whole seconds, rounded up: trying again too early is what it is meant to prevent.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(allow) = problem.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn json(problem: Problem) -> (Response, serde_json::Value) {
        let (head, body) = Response::from(problem).into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (Response::from_parts(head, Default::default()), serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn a_problem_tells_type_title_status_and_detail() {
        let (response, body) = json(Problem::new(ErrorKind::UnknownGroup, "There is no group \"x\".")).await;
        assert_eq!(response.status(), 404);
        assert_eq!(body["type"], "unknown-group");
        assert_eq!(body["title"], "There is no such group.");
        assert_eq!(body["status"], 404);
        assert_eq!(body["detail"], "There is no group \"x\".");
    }

    #[tokio::test]
    async fn a_503_says_when_to_try_again_in_whole_seconds() {
        let (response, _) = json(Problem::new(ErrorKind::Draining, "Ask another node.")).await;
        assert_eq!(response.headers()["retry-after"], "1");
        let error = Error::new(ErrorKind::Overloaded, "later").with_retry_after(Duration::from_millis(2_001));
        let (response, _) = json(error.into()).await;
        assert_eq!(response.headers()["retry-after"], "3");
        let (response, _) = json(Error::new(ErrorKind::TimedOut, "late").into()).await;
        assert!(!response.headers().contains_key("retry-after"));
    }

    #[test]
    fn each_kind_of_error_has_the_status_of_its_meaning() {
        let statuses = ErrorKind::ALL.map(|kind| (kind.slug(), ProblemKind::from(kind).status_and_title().0.as_u16()));
        let expected = [
            ("bad-request", 400),
            ("unknown-group", 404),
            ("read-only", 405),
            ("version-mismatch", 412),
            ("too-large", 413),
            ("origin-failed", 502),
            ("overloaded", 503),
            ("owner-unreachable", 503),
            ("no-authority", 503),
            ("draining", 503),
            ("timed-out", 504),
            ("indeterminate", 504),
        ];
        assert_eq!(statuses, expected);
    }

    #[test]
    fn a_wrong_method_is_told_the_right_ones() {
        let response = Response::from(Problem::method_not_allowed("GET, HEAD"));
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET, HEAD");
    }
}
