//! An error as gRPC tells it to clients, and the only place where errors meet status codes.
//!
//! Nodes tell each other errors in another way: a request between nodes is no call of its own.

use std::{collections::HashMap, time::Duration};

use larder_core::{Error, ErrorKind};
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, StatusExt};

use crate::http::headers::{LOCK_HELD, LOCK_LOST, NOT_FOUND};

/// Whose kinds of errors they are: the `domain` of a `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "larder";

/// The trailer that names an error's kind to clients that don't know `google.rpc.ErrorInfo`.
pub const ERROR: &str = "larder-error";

/// Where the `google.rpc.ErrorInfo` of a key that isn't there says how that is known, as HTTP's `Cache-Status` does.
pub const CACHE_STATUS: &str = "cache_status";

/// When to try again after an `UNAVAILABLE` that says nothing more exact: long enough for a full queue to move or a new view
/// to settle, short enough that nobody gives up.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The status code of an error of this kind. There being no value is [`Code::NotFound`].
///
/// ```
/// use larder_core::ErrorKind;
/// use larder_peer::grpc::status;
///
/// assert_eq!(status::code(ErrorKind::Overloaded), tonic::Code::Unavailable);
/// ```
#[must_use]
pub const fn code(kind: ErrorKind) -> Code {
    use ErrorKind as E;
    match kind {
        E::Invalid => Code::InvalidArgument,
        E::UnknownGroup => Code::NotFound,
        E::ReadOnly => Code::FailedPrecondition,
        // What gRPC's own list recommends for a test-and-set that fails: read, and begin anew.
        E::VersionMismatch => Code::Aborted,
        // As gRPC's libraries tell messages that are too long.
        E::TooLarge => Code::ResourceExhausted,
        E::Overloaded | E::OwnerUnreachable | E::NoAuthority | E::Draining => Code::Unavailable,
        // The code of which clients are told that the work may have been done all the same.
        E::TimedOut | E::Indeterminate => Code::DeadlineExceeded,
        // A kind unknown to this version came from behind the node, as the origin's errors do. Nothing here broke.
        E::Origin | _ => Code::Unknown,
    }
}

/// An error as the outcome of a call.
#[expect(clippy::needless_pass_by_value, reason = "it is made for map_err")]
pub(super) fn of(error: Error) -> Status {
    let code = code(error.kind());
    let unless_told = (code == Code::Unavailable).then_some(RETRY_AFTER);
    told(code, error.kind().slug(), error.message(), HashMap::new(), error.retry_after().or(unless_told))
}

/// There is no value, which is known in this way.
pub(super) fn not_found(cache_status: &str) -> Status {
    let known = HashMap::from([(CACHE_STATUS.to_owned(), cache_status.to_owned())]);
    told(Code::NotFound, NOT_FOUND, "there is no such key: check it, or put a value there", known, None)
}

/// What no [`ErrorKind`] is behind: its code, and its kind as HTTP names it.
pub const OF_CLIENTS: [(Code, &str); 3] =
    // A lock that another holds may be free in a moment; one that was lost will not be had again by asking once more.
    [(Code::NotFound, NOT_FOUND), (Code::Aborted, LOCK_HELD), (Code::FailedPrecondition, LOCK_LOST)];

/// Another holds the lock.
pub(super) fn lock_held() -> Status {
    let message = "another held the lock all the time: wait longer with wait_ms, or try again later";
    told(Code::Aborted, LOCK_HELD, message, HashMap::new(), None)
}

/// The lock is not held with this token.
pub(super) fn lock_lost() -> Status {
    let message =
        "the lock ran out, was freed, or never was held with this token: stop what it protects, and take it anew";
    told(Code::FailedPrecondition, LOCK_LOST, message, HashMap::new(), None)
}

fn told(
    code: Code,
    slug: &'static str,
    message: &str,
    known: HashMap<String, String>,
    retry_after: Option<Duration>,
) -> Status {
    let mut details = ErrorDetails::with_error_info(slug, DOMAIN, known);
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    let mut metadata = MetadataMap::new();
    metadata.insert(ERROR, MetadataValue::from_static(slug));
    Status::with_error_details_and_metadata(code, message, details, metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_error_has_the_code_of_its_meaning() {
        let codes = ErrorKind::ALL.map(|kind| (kind.slug(), code(kind)));
        let expected = [
            ("bad-request", Code::InvalidArgument),
            ("unknown-group", Code::NotFound),
            ("read-only", Code::FailedPrecondition),
            ("version-mismatch", Code::Aborted),
            ("too-large", Code::ResourceExhausted),
            ("origin-failed", Code::Unknown),
            ("overloaded", Code::Unavailable),
            ("owner-unreachable", Code::Unavailable),
            ("no-authority", Code::Unavailable),
            ("draining", Code::Unavailable),
            ("timed-out", Code::DeadlineExceeded),
            ("indeterminate", Code::DeadlineExceeded),
        ];
        assert_eq!(codes, expected);
    }

    #[test]
    fn a_status_carries_kind_sentence_and_when_to_try_again() {
        for kind in ErrorKind::ALL {
            let status = of(Error::new(kind, "it went wrong: größer"));
            assert_eq!((status.code(), status.message()), (code(kind), "it went wrong: größer"));
            assert_eq!(status.metadata().get(ERROR).unwrap(), kind.slug());
            let info = status.get_details_error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (kind.slug(), DOMAIN));
            let retries = status.get_details_retry_info().and_then(|info| info.retry_delay);
            assert_eq!(retries, (code(kind) == Code::Unavailable).then_some(RETRY_AFTER), "{kind:?}");
        }
        let later = of(Error::new(ErrorKind::Overloaded, "later").with_retry_after(Duration::from_millis(2_500)));
        let retries = later.get_details_retry_info().unwrap();
        assert_eq!(retries.retry_delay, Some(Duration::from_millis(2_500)));
    }

    #[test]
    fn what_is_not_there_says_how_that_is_known() {
        let status = not_found("larder; hit; detail=negative");
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.metadata().get(ERROR).unwrap(), "not-found");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, "not-found");
        assert_eq!(info.metadata[CACHE_STATUS], "larder; hit; detail=negative");
    }
}
