//! The headers of Larder's own, and how their values are written and read.

use std::{str::FromStr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use larder_core::{
    Error, ErrorKind, Version,
    peer::{AskedAs, PeerMeta},
};

/// How many milliseconds the whole work may still take.
pub const TIMEOUT_MS: HeaderName = HeaderName::from_static("larder-timeout-ms");
/// What is left of a value's ttl, in milliseconds; on a PUT the ttl it asks for, where whole seconds won't do. Stands
/// above `Cache-Control: max-age`.
pub const TTL_MS: HeaderName = HeaderName::from_static("larder-ttl-ms");
/// Time since the value's load began, in milliseconds.
pub const AGE_MS: HeaderName = HeaderName::from_static("larder-age-ms");
/// The value's media type, where `Content-Type` has to name the message around it.
pub const VALUE_TYPE: HeaderName = HeaderName::from_static("larder-value-type");
/// In which part the receiver is asked: `owner`, `stand-in` or `owner-by-stand-in`.
pub const ASKED_AS: HeaderName = HeaderName::from_static("larder-asked-as");
/// `1` on a write that comes from another node: it is not passed on again.
pub const PASSED_ON: HeaderName = HeaderName::from_static("larder-passed-on");
/// Tells a repetition of a write from another one (draft-ietf-httpapi-idempotency-key-header).
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// On a PUT: the value's tags, with commas between them.
pub const TAGS: HeaderName = HeaderName::from_static("larder-tags");
/// `1` on a DELETE from another node that leaves the origin alone.
pub const CACHE_ONLY: HeaderName = HeaderName::from_static("larder-cache-only");
/// What went wrong, as [`ErrorKind::slug`] names it, or [`NOT_FOUND`].
pub const ERROR: HeaderName = HeaderName::from_static("larder-error");

/// The value of [`ERROR`] that says that the origin has no such key.
pub const NOT_FOUND: &str = "not-found";
/// What clients are told of a lock that another holds.
pub const LOCK_HELD: &str = "lock-held";
/// What clients are told of a lock that is not held with their token, or not any more.
pub const LOCK_LOST: &str = "lock-lost";

/// How long a request may take that doesn't say.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// The longest that any request may take: what is asked for beyond it is cut.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// How long a request may take: what [`TIMEOUT_MS`] says, [`TIMEOUT_DEFAULT`] without it, [`TIMEOUT_MAX`] at most.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] if it is no number.
pub fn timeout(headers: &HeaderMap) -> Result<Duration, Error> {
    let Some(value) = headers.get(TIMEOUT_MS) else { return Ok(TIMEOUT_DEFAULT) };
    let timeout = parsed(value).map(Duration::from_millis).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, "the Larder-Timeout-Ms header is no number: give whole milliseconds")
    })?;
    Ok(timeout.min(TIMEOUT_MAX))
}

/// A version as an entity tag (RFC 9110, section 8.8.3).
#[must_use]
pub fn etag(version: Version) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // As the version is displayed, but by hand: every hit over HTTP has one, and formatting it took as long as finding
    // the value.
    let bits = u128::from(version.reading().to_bits()) << 32 | u128::from(version.incarnation());
    let mut tag = [b'"'; 26];
    for (index, digit) in tag[1..25].iter_mut().rev().enumerate() {
        *digit = DIGITS[(bits >> (4 * index)) as usize & 15];
    }
    ascii(&tag)
}

/// The version in an entity tag; `None` if it is none of Larder's.
#[must_use]
pub fn parse_etag(value: &HeaderValue) -> Option<Version> {
    value.to_str().ok()?.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

/// The `Cache-Control` that asks for a ttl, in whole seconds, rounded down.
pub(super) fn max_age(ttl: Duration) -> HeaderValue {
    ascii(format!("max-age={}", ttl.as_secs()).as_bytes())
}

/// A duration in whole milliseconds, rounded down.
#[must_use]
pub fn millis(duration: Duration) -> HeaderValue {
    HeaderValue::from(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// The duration that a header gives in milliseconds.
#[must_use]
pub fn parse_millis(headers: &HeaderMap, name: &HeaderName) -> Option<Duration> {
    headers.get(name).and_then(parsed).map(Duration::from_millis)
}

/// When to try again: whole seconds, rounded up (RFC 9110, section 10.2.3).
#[must_use]
pub fn retry_after(after: Duration) -> HeaderValue {
    HeaderValue::from(after.as_secs() + u64::from(after.subsec_nanos() > 0))
}

/// When to try again, if the headers say so in seconds.
#[must_use]
pub fn parse_retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER).and_then(parsed).map(Duration::from_secs)
}

/// `None`: it has no word, where nothing is passed on.
pub(super) fn asked_as(part: AskedAs) -> Option<HeaderValue> {
    Some(HeaderValue::from_static(match part {
        AskedAs::Owner => "owner",
        AskedAs::StandIn => "stand-in",
        AskedAs::OwnerByStandIn => "owner-by-stand-in",
        AskedAs::Before(_) | AskedAs::Another => return None,
    }))
}

/// A Go node says nothing: it asks whom it takes for the owner.
pub(super) fn parse_asked_as(headers: &HeaderMap) -> Option<AskedAs> {
    let Some(part) = headers.get(ASKED_AS) else { return Some(AskedAs::Owner) };
    match part.as_bytes() {
        b"owner" => Some(AskedAs::Owner),
        b"stand-in" => Some(AskedAs::StandIn),
        b"owner-by-stand-in" => Some(AskedAs::OwnerByStandIn),
        _ => None,
    }
}

pub(super) fn put_meta(headers: &mut HeaderMap, meta: &PeerMeta) {
    headers.insert(header::ETAG, etag(meta.version));
    headers.insert(AGE_MS, millis(meta.age));
    if let Some(left) = meta.ttl_left {
        headers.insert(TTL_MS, millis(left));
    }
}

/// `None` unless all of it is there: golang/groupcache sends none of it.
pub(super) fn parse_meta(headers: &HeaderMap) -> Option<PeerMeta> {
    Some(PeerMeta {
        version: headers.get(header::ETAG).and_then(parse_etag)?,
        age: parse_millis(headers, &AGE_MS)?,
        ttl_left: parse_millis(headers, &TTL_MS),
    })
}

fn parsed<T: FromStr>(value: &HeaderValue) -> Option<T> {
    value.to_str().ok()?.parse().ok()
}

#[expect(clippy::expect_used, reason = "given only what this module writes")]
fn ascii(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).expect("visible characters")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_tag_comes_back_as_its_version() {
        let version: Version = "0193a5c8e00000010000002a".parse().unwrap();
        assert_eq!(etag(version), "\"0193a5c8e00000010000002a\"");
        assert_eq!(parse_etag(&etag(version)), Some(version));
        for foreign in ["0193a5c8e00000010000002a", "W/\"0193a5c8e00000010000002a\"", "\"\"", "\"", "*"] {
            assert_eq!(parse_etag(&HeaderValue::from_static(foreign)), None, "{foreign}");
        }
    }

    #[test]
    fn a_timeout_is_bounded_and_has_a_default() {
        let of = |value: &'static str| timeout(&HeaderMap::from_iter([(TIMEOUT_MS, HeaderValue::from_static(value))]));
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), TIMEOUT_DEFAULT);
        assert_eq!(of("250").unwrap(), Duration::from_millis(250));
        assert_eq!(of("9999999").unwrap(), TIMEOUT_MAX);
        assert!(of("soon").unwrap_err().is_invalid());
        assert!(of("-1").unwrap_err().is_invalid());
    }

    #[test]
    fn the_time_to_try_again_is_rounded_up() {
        assert_eq!(retry_after(Duration::from_millis(1)), "1");
        assert_eq!(retry_after(Duration::from_secs(2)), "2");
    }
}
