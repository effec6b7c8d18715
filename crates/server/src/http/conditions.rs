//! What a request's headers ask for: conditions (RFC 9110, section 13.1), a ttl (RFC 9111, section 5.2.2), tags, and an idempotency
//! key.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use larder::peer::http::headers;
use larder_core::{
    ErrorKind, Version,
    peer::{Condition, IDEMPOTENCY_KEY_LEN_MAX},
    store::{TAGS_MAX, Tag, Tags},
};

use super::problem::Problem;

/// The condition of a write: `If-Match: "<version>"` or `If-None-Match: *`.
pub(super) fn write_condition(headers: &HeaderMap) -> Result<Condition, Problem> {
    match (single(headers, &header::IF_MATCH)?, single(headers, &header::IF_NONE_MATCH)?) {
        (None, None) => Ok(Condition::Always),
        (Some(value), None) => if_match(value),
        (None, Some(value)) if value == "*" => Ok(Condition::IfAbsent),
        (None, Some(_)) => Err(Problem::bad_request("If-None-Match on a write takes * and nothing else.")),
        (Some(_), Some(_)) => Err(Problem::bad_request("Give If-Match or If-None-Match, not both.")),
    }
}

fn if_match(value: &HeaderValue) -> Result<Condition, Problem> {
    if let Some(version) = headers::parse_etag(value) {
        return Ok(Condition::IfVersion(version));
    }
    let tag = value.as_bytes();
    let is_one_tag = |tag: &[u8]| matches!(tag, [b'"', inner @ .., b'"'] if !inner.contains(&b'"'));
    if is_one_tag(tag.strip_prefix(b"W/").unwrap_or(tag)) {
        // A tag, but none that a value here ever had: the condition can be judged without asking anybody.
        return Err(Problem::new(ErrorKind::VersionMismatch, "No value has such an ETag: read the key and try again."));
    }
    Err(Problem::bad_request("If-Match takes one version in quotes, as an ETag has it."))
}

/// Whether `If-None-Match` of a read names the version that the client would get.
pub(super) fn none_match(headers: &HeaderMap, version: Option<Version>) -> bool {
    let names_it = |tag: &[u8]| {
        let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
        // Compared as text: the hexadecimal digits of our versions are lower-case, and another's tags are not ours.
        tag == b"*" || version.is_some_and(|version| headers::etag(version).as_bytes() == tag)
    };
    let mut values = headers.get_all(header::IF_NONE_MATCH).iter();
    values.any(|value| value.as_bytes().split(|byte| *byte == b',').any(|tag| names_it(tag.trim_ascii())))
}

/// The ttl that a write asks for: `Larder-Ttl-Ms`, else `Cache-Control: max-age`.
pub(super) fn ttl(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    if headers.contains_key(headers::TTL_MS) {
        let ttl = single(headers, &headers::TTL_MS)?.and_then(|_| headers::parse_millis(headers, &headers::TTL_MS));
        return ttl.map(Some).ok_or_else(|| Problem::bad_request("Larder-Ttl-Ms takes whole milliseconds."));
    }
    let mut max_age = None;
    for value in headers.get_all(header::CACHE_CONTROL) {
        for directive in value.as_bytes().split(|byte| *byte == b',') {
            let mut parts = directive.splitn(2, |byte| *byte == b'=');
            let name = parts.next().unwrap_or_default().trim_ascii();
            if !name.eq_ignore_ascii_case(b"max-age") {
                continue;
            }
            let seconds = parts.next().and_then(seconds);
            let seconds = seconds.ok_or_else(|| Problem::bad_request("max-age takes whole seconds."))?;
            if max_age.replace(Duration::from_secs(seconds)).is_some() {
                return Err(Problem::bad_request("There is more than one max-age: give one."));
            }
        }
    }
    Ok(max_age)
}

/// The tags of a value that is written: names with commas between them.
pub(super) fn tags(headers: &HeaderMap) -> Result<Tags, Problem> {
    let mut tags = Tags::NONE;
    let values = headers.get_all(headers::TAGS).iter();
    let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    for name in names.filter(|name| !name.is_empty()) {
        let tag = Tag::of(name);
        if !tags.iter().any(|known| known == tag) && !tags.push(tag) {
            return Err(Problem::bad_request(format!("Larder-Tags has too many tags: {TAGS_MAX} is the most.")));
        }
    }
    Ok(tags)
}

/// What tells a repetition of a write from another one.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<Arc<str>>, Problem> {
    let Some(value) = single(headers, &headers::IDEMPOTENCY_KEY)? else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| (1..=IDEMPOTENCY_KEY_LEN_MAX).contains(&text.len()));
    let wrong = || {
        Problem::bad_request(format!("Idempotency-Key takes 1 to {IDEMPOTENCY_KEY_LEN_MAX} visible ASCII characters."))
    };
    text.map(|text| Some(Arc::from(text))).ok_or_else(wrong)
}

/// Seconds, in quotes or without; as many as a number holds stand for more (RFC 9111, section 1.2.2).
fn seconds(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    let digits = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit)).then(|| digits.iter().fold(0, add))
}

/// The only value of a header; `None` without it.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Problem::bad_request(format!("The header {name} stands more than once: give it once."))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::ProblemKind;

    const VERSION: &str = "0193a5c8e00000010000002a";

    fn headers_of(lines: &[(HeaderName, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn condition(lines: &[(HeaderName, &str)]) -> Result<Condition, ProblemKind> {
        write_condition(&headers_of(lines)).map_err(|problem| problem.kind())
    }

    #[test]
    fn a_write_may_name_a_version_or_ask_for_absence() {
        let version = VERSION.parse().unwrap();
        let quoted = format!("\"{VERSION}\"");
        assert_eq!(condition(&[]), Ok(Condition::Always));
        assert_eq!(condition(&[(header::IF_MATCH, &quoted)]), Ok(Condition::IfVersion(version)));
        assert_eq!(condition(&[(header::IF_NONE_MATCH, "*")]), Ok(Condition::IfAbsent));
    }

    #[test]
    fn a_tag_that_no_value_has_is_a_mismatch_and_what_is_no_tag_a_bad_request() {
        let invalid = Err(ErrorKind::Invalid.into());
        let mismatch = Err(ErrorKind::VersionMismatch.into());
        let weak = format!("W/\"{VERSION}\"");
        for (value, expected) in [
            ("\"another\"", mismatch),
            ("\"\"", mismatch),
            (&weak, mismatch),
            (VERSION, invalid),
            ("*", invalid),
            ("\"a\", \"b\"", invalid),
            ("\"", invalid),
            ("", invalid),
        ] {
            assert_eq!(condition(&[(header::IF_MATCH, value)]), expected, "{value}");
        }
        assert_eq!(condition(&[(header::IF_NONE_MATCH, "\"a\"")]), invalid);
        assert_eq!(condition(&[(header::IF_MATCH, "\"a\""), (header::IF_NONE_MATCH, "*")]), invalid);
        assert_eq!(condition(&[(header::IF_NONE_MATCH, "*"), (header::IF_NONE_MATCH, "*")]), invalid);
    }

    #[test]
    fn a_read_matches_any_tag_of_the_list() {
        let version = VERSION.parse().ok();
        let matches = |value: &str| none_match(&headers_of(&[(header::IF_NONE_MATCH, value)]), version);
        for value in ["*", &format!("\"{VERSION}\""), &format!("W/\"{VERSION}\""), &format!("\"a\" ,\t\"{VERSION}\"")] {
            assert!(matches(value), "{value}");
        }
        for value in ["\"a\"", VERSION, "", "\"0193a5c8e00000010000002b\""] {
            assert!(!matches(value), "{value}");
        }
        assert!(!none_match(&HeaderMap::new(), version));
        let unknown = headers_of(&[(header::IF_NONE_MATCH, "\"a\"")]);
        assert!(!none_match(&unknown, None));
    }

    #[test]
    fn max_age_is_a_ttl() {
        let ttl_of =
            |value: &str| ttl(&headers_of(&[(header::CACHE_CONTROL, value)])).map_err(|problem| problem.kind());
        let seconds = |seconds| Ok(Some(Duration::from_secs(seconds)));
        assert_eq!(ttl(&HeaderMap::new()).unwrap(), None);
        assert_eq!(ttl_of("no-store, private"), Ok(None));
        assert_eq!(ttl_of("max-age=60"), seconds(60));
        assert_eq!(ttl_of("private,\tMAX-AGE = \"5\" , x=max-age"), seconds(5));
        assert_eq!(ttl_of("max-age=99999999999999999999999"), seconds(u64::MAX));
        for bad in ["max-age", "max-age=", "max-age=-1", "max-age=1s", "max-age=1.5", "max-age=1, max-age=1"] {
            assert_eq!(ttl_of(bad), Err(ErrorKind::Invalid.into()), "{bad}");
        }
    }

    #[test]
    fn a_ttl_in_milliseconds_stands_above_max_age() {
        let both = headers_of(&[(headers::TTL_MS, "250"), (header::CACHE_CONTROL, "max-age=60")]);
        assert_eq!(ttl(&both).unwrap(), Some(Duration::from_millis(250)));
        assert!(ttl(&headers_of(&[(headers::TTL_MS, "soon")])).is_err());
    }
}
