//! A get's answer as HTTP tells it: the value, and in its headers what is known of it (RFC 9110, RFC 9111, RFC 9211).

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use larder::peer::http::headers;
use larder_core::{Answer, Clock};

use super::{
    Response, conditions,
    problem::{Problem, ProblemKind},
};

/// How a value was come by (RFC 9211).
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// In the place of a status that no header can hold; there is none such.
const NO_STATUS: HeaderValue = HeaderValue::from_static("larder");

/// How many headers an answer with a value has at most, so that room for them is made once.
const HEADERS_MAX: usize = 8;

/// The answer to a client that sent `request` and is to be told `cache_control`.
pub(super) fn response(
    answer: Answer,
    request: &HeaderMap,
    cache_control: &HeaderValue,
    clock: &dyn Clock,
) -> Response {
    let status = cache_status(&answer);
    let age = answer.age(clock);
    let Answer { value: Some(value), version, ttl_left, .. } = answer else {
        let mut response = Response::from(Problem::new(ProblemKind::NotFound, "Check the key, or put a value there."));
        response.headers_mut().insert(CACHE_STATUS, status);
        return response;
    };
    let mut response = Response::default();
    let told = response.headers_mut();
    told.reserve(HEADERS_MAX);
    if let Some(version) = version {
        told.insert(header::ETAG, headers::etag(version));
    }
    told.insert(header::AGE, age.as_secs().into());
    if let Some(left) = ttl_left {
        told.insert(headers::TTL_MS, headers::millis(left));
    }
    told.insert(header::CACHE_CONTROL, cache_control.clone());
    told.insert(CACHE_STATUS, status);
    if request.contains_key(header::IF_NONE_MATCH) && conditions::none_match(request, version) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let content_type = value.content_type().and_then(|text| HeaderValue::from_str(text).ok());
    told.insert(header::CONTENT_TYPE, content_type.unwrap_or(OCTETS));
    *response.body_mut() = value.into_bytes().into();
    response
}

/// What clients are told of how long they may keep a value.
pub(super) fn cache_control(max_age: Duration) -> HeaderValue {
    let text = if max_age.is_zero() { "no-cache".to_owned() } else { format!("max-age={}", max_age.as_secs()) };
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("no-cache"))
}

fn cache_status(answer: &Answer) -> HeaderValue {
    match answer.cache_status() {
        Cow::Borrowed(status) => HeaderValue::from_static(status),
        Cow::Owned(status) => HeaderValue::from_maybe_shared(Bytes::from(status)).unwrap_or(NO_STATUS),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use larder_core::{Moment, Outcome, Value, Version, stats::Source, store::Tier, version::Reading};

    use super::*;

    /// A clock that stands a hundred seconds after 1970.
    struct Stands;

    impl Clock for Stands {
        fn now(&self) -> Moment {
            Moment::default()
        }

        fn wall_ms(&self) -> u64 {
            100_000
        }
    }

    fn answer(value: Option<Value>, outcome: Outcome) -> Answer {
        let load_start = Reading::from_bits(92_500 << 16);
        let version = value.is_some().then(|| Version::new(load_start, 42));
        Answer { value, version, load_start, ttl_left: Some(Duration::from_millis(1_234)), outcome }
    }

    fn told(outcome: Outcome, value: Option<Value>, request: &HeaderMap) -> Response {
        response(answer(value, outcome), request, &cache_control(Duration::ZERO), &Stands)
    }

    #[tokio::test]
    async fn a_value_comes_with_what_is_known_of_it() {
        let value = Value::from("{}").with_content_type("application/json");
        let response = told(Outcome::Hit(Tier::Main), Some(value), &HeaderMap::new());
        let headers = response.headers();
        assert_eq!(response.status(), 200);
        assert_eq!(headers["etag"], "\"00000001695400000000002a\"");
        assert_eq!(headers["age"], "7");
        assert_eq!(headers["larder-ttl-ms"], "1234");
        assert_eq!(headers["cache-control"], "no-cache");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["cache-status"], "larder; hit");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "{}");
    }

    #[test]
    fn a_value_without_a_media_type_is_octets() {
        for value in [Value::from("x"), Value::from("x").with_content_type("a\nb")] {
            let response = told(Outcome::Hit(Tier::Main), Some(value), &HeaderMap::new());
            assert_eq!(response.headers()["content-type"], "application/octet-stream");
        }
    }

    #[test]
    fn how_it_was_come_by_is_told() {
        let miss = |collapsed, stored| Outcome::Miss { source: Source::Origin, collapsed, stored };
        for (outcome, expected) in [
            (Outcome::Hit(Tier::Hot), "larder; hit; detail=hot"),
            (Outcome::Stale { by: Duration::from_millis(2_001) }, "larder; hit; ttl=-3; detail=stale"),
            (miss(false, true), "larder; fwd=uri-miss; stored"),
            (miss(true, true), "larder; fwd=uri-miss; collapsed"),
            (miss(false, false), "larder; fwd=uri-miss"),
        ] {
            let response = told(outcome, Some(Value::from("x")), &HeaderMap::new());
            assert_eq!(response.headers()["cache-status"], expected);
        }
    }

    #[test]
    fn nothing_is_a_problem_that_tells_how_that_is_known() {
        let response = told(Outcome::Hit(Tier::Main), None, &HeaderMap::new());
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()["cache-status"], "larder; hit; detail=negative");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }

    #[tokio::test]
    async fn a_client_that_has_the_value_is_told_so() {
        let known = HeaderValue::from_static("\"00000001695400000000002a\"");
        let request = HeaderMap::from_iter([(header::IF_NONE_MATCH, known)]);
        let response = told(Outcome::Hit(Tier::Main), Some(Value::from("x")), &request);
        assert_eq!(response.status(), 304);
        assert_eq!(response.headers()["etag"], "\"00000001695400000000002a\"");
        assert!(!response.headers().contains_key("content-type"));
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        assert_eq!(told(Outcome::Hit(Tier::Main), None, &request).status(), 404);
    }

    #[test]
    fn clients_may_keep_a_value_as_long_as_the_group_says() {
        assert_eq!(cache_control(Duration::ZERO), "no-cache");
        assert_eq!(cache_control(Duration::from_secs(30)), "max-age=30");
    }
}
