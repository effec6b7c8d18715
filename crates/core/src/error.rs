//! [`Error`]: what went wrong, for callers to ask and for other nodes to be told.

use std::{fmt, sync::Arc, time::Duration};

use crate::KEY_LEN_MAX;

/// Why a request could not be answered. Cheap to clone: every waiter of a flight gets the same one.
///
/// "Not found" is no error but an answer, `None`.
///
/// ```
/// use larder_core::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::Overloaded, "too many keys are being fetched at once: try again");
/// assert!(error.is_retryable() && !error.is_origin());
/// assert_eq!(error.kind().slug(), "overloaded");
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Box<str>,
    retry_after: Option<Duration>,
}

/// The kinds of [`Error`], each with one meaning over HTTP and gRPC alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The key, group or another part of the request is malformed.
    Invalid,
    /// There is no such group.
    UnknownGroup,
    /// The group has an origin and takes no writes.
    ReadOnly,
    /// A condition of a write was not met.
    VersionMismatch,
    /// The key or the value is over its limit.
    TooLarge,
    /// The origin answered with an error, broke off, or its loader panicked.
    Origin,
    /// A limit on waiting work was reached; nothing was done.
    Overloaded,
    /// No node that may answer for the key could be reached.
    OwnerUnreachable,
    /// The node has no proof that it may answer for the key.
    NoAuthority,
    /// The node is leaving.
    Draining,
    /// The deadline passed.
    TimedOut,
    /// A write was sent and its outcome is unknown.
    Indeterminate,
}

impl ErrorKind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 12] = [
        Self::Invalid,
        Self::UnknownGroup,
        Self::ReadOnly,
        Self::VersionMismatch,
        Self::TooLarge,
        Self::Origin,
        Self::Overloaded,
        Self::OwnerUnreachable,
        Self::NoAuthority,
        Self::Draining,
        Self::TimedOut,
        Self::Indeterminate,
    ];

    /// The kind's name on every wire: the `type` of a problem (RFC 9457) and what other nodes are told.
    #[must_use]
    pub const fn slug(self) -> &'static str {
        match self {
            Self::Invalid => "bad-request",
            Self::UnknownGroup => "unknown-group",
            Self::ReadOnly => "read-only",
            Self::VersionMismatch => "version-mismatch",
            Self::TooLarge => "too-large",
            Self::Origin => "origin-failed",
            Self::Overloaded => "overloaded",
            Self::OwnerUnreachable => "owner-unreachable",
            Self::NoAuthority => "no-authority",
            Self::Draining => "draining",
            Self::TimedOut => "timed-out",
            Self::Indeterminate => "indeterminate",
        }
    }

    /// The kind of this name; `None` if it names none.
    ///
    /// ```
    /// use larder_core::ErrorKind;
    ///
    /// assert_eq!(ErrorKind::from_slug("origin-failed"), Some(ErrorKind::Origin));
    /// assert_eq!(ErrorKind::from_slug("not-found"), None, "that is an answer");
    /// ```
    #[must_use]
    pub fn from_slug(slug: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.slug() == slug)
    }
}

impl Error {
    /// An error of this kind; `message` is one sentence that says what happened and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<Box<str>>) -> Self {
        Self(Arc::new(Inner { kind, message: message.into(), retry_after: None }))
    }

    /// The same error, with a hint when to try again.
    #[must_use]
    pub fn with_retry_after(self, after: Duration) -> Self {
        let Inner { kind, message, .. } = &*self.0;
        Self(Arc::new(Inner { kind: *kind, message: message.clone(), retry_after: Some(after) }))
    }

    /// The origin failed in this way.
    pub fn origin(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Origin, message.to_string())
    }

    pub(crate) fn invalid_key_len(len: usize) -> Self {
        if len == 0 {
            return Self::new(ErrorKind::Invalid, "the key is empty: give it 1 to 1024 bytes");
        }
        Self::new(ErrorKind::TooLarge, format!("the key has {len} bytes: {KEY_LEN_MAX} is the most"))
    }

    pub(crate) fn timed_out(what: &str) -> Self {
        Self::new(ErrorKind::TimedOut, format!("the deadline passed while {what}: allow more time or try again"))
    }

    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The sentence, without the kind.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// When to try again, if that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the request itself was malformed.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.kind() == ErrorKind::Invalid
    }

    /// Whether the key or the value was over its limit.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.kind() == ErrorKind::TooLarge
    }

    /// Whether the origin failed.
    #[must_use]
    pub fn is_origin(&self) -> bool {
        self.kind() == ErrorKind::Origin
    }

    /// Whether the deadline passed.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::TimedOut
    }

    /// Whether the same request may succeed a little later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        use ErrorKind::{Draining, NoAuthority, Overloaded, OwnerUnreachable, TimedOut};
        matches!(self.kind(), Overloaded | OwnerUnreachable | NoAuthority | Draining | TimedOut)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {})", self.0.kind, self.0.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_slug_of_its_own() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_slug(kind.slug()), Some(kind));
        }
    }
}
