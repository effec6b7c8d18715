//! The server's side: answers `/_groupcache/{group}/{key}` as golang/groupcache does, and tells another Larder node the
//! rest in [`headers`].
//!
//! It has no socket: whoever listens calls [`serve`] for every path that begins with [`PREFIX`], whatever the method.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use larder_core::{
    Clock, Error, ErrorKind, Key, PeerService,
    peer::{PeerAnswer, PeerMeta, PeerQuestion},
};
use tokio::time::Instant;

pub use super::message::Body;
use super::{headers, message, path};

/// What the paths of this protocol begin with.
pub const PREFIX: &str = "/_groupcache/";

/// Answers one request of another node.
///
/// `raw_path` is the path as it came, still encoded and without the query. It is decoded once and split at the first
/// `/` after [`PREFIX`]: keys may hold `/`, groups may not.
pub async fn serve(
    service: &dyn PeerService,
    clock: &dyn Clock,
    raw_path: &str,
    request: &HeaderMap,
) -> Response<Body> {
    let answer = match question(raw_path, request) {
        Ok(question) => service.answer(question).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(PeerAnswer::Found { value: Some(value), meta, .. }) => {
            let expire = meta.and_then(|meta| meta.ttl_left).map(|left| unix_ns(clock, left));
            let mut response = Response::new(Body::value(value.to_bytes(), expire));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(message::MEDIA_TYPE));
            if let Some(media_type) = value.content_type().and_then(|it| HeaderValue::from_str(it).ok()) {
                headers.insert(headers::VALUE_TYPE, media_type);
            }
            with_meta(response, meta.as_ref())
        }
        Ok(PeerAnswer::Found { value: None, meta, .. }) => {
            with_meta(refusal(StatusCode::NOT_FOUND, headers::NOT_FOUND, "no such key"), meta.as_ref())
        }
        // This wire has no word for it: a node answers nonetheless if it knows what it is asked over.
        Ok(PeerAnswer::NotOwner { .. } | PeerAnswer::NotHeld) => failure(&Error::new(
            ErrorKind::OwnerUnreachable,
            "the node that was asked is not the key's owner: check that all nodes have the same members",
        )),
        Err(error) => failure(&error),
    }
}

fn question(raw_path: &str, request: &HeaderMap) -> Result<PeerQuestion, Error> {
    let bad = |message: &str| Error::new(ErrorKind::Invalid, message);
    let path = path::decode(raw_path).ok_or_else(|| bad("bad request: a % without two hexadecimal digits"))?;
    let rest = path.strip_prefix(PREFIX.as_bytes()).unwrap_or_default();
    let slash = rest.iter().position(|&byte| byte == b'/').ok_or_else(|| bad("bad request"))?;
    let group = str::from_utf8(&rest[..slash]).map_err(|_| bad("bad request: the group is not UTF-8"))?;
    Ok(PeerQuestion {
        asker: None,
        group: group.into(),
        key: Key::copy_from(&rest[slash + 1..])?,
        asked_as: headers::parse_asked_as(request).ok_or_else(|| bad("the Larder-Asked-As header is unknown"))?,
        deadline: Instant::now() + headers::timeout(request)?,
    })
}

/// Go's programs know 400, 404 for the group and 500 for all else; Larder nodes read the header.
fn failure(error: &Error) -> Response<Body> {
    let status = match error.kind() {
        ErrorKind::Invalid | ErrorKind::TooLarge => StatusCode::BAD_REQUEST,
        ErrorKind::UnknownGroup => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = refusal(status, error.kind().slug(), error.message());
    if let Some(after) = error.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, headers::retry_after(after));
    }
    response
}

/// As Go's `http.Error` writes it.
fn refusal(status: StatusCode, slug: &'static str, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::text(format!("{message}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(headers::ERROR, HeaderValue::from_static(slug));
    response
}

fn with_meta(mut response: Response<Body>, meta: Option<&PeerMeta>) -> Response<Body> {
    if let Some(meta) = meta {
        headers::put_meta(response.headers_mut(), meta);
    }
    response
}

/// When the value expires, as forks of groupcache have it: they keep a copy until then.
fn unix_ns(clock: &dyn Clock, left: Duration) -> i64 {
    let now = Duration::from_millis(clock.wall_ms());
    i64::try_from(now.saturating_add(left).as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::future::BoxFuture;
    use http_body_util::BodyExt;
    use larder_core::{
        Moment, Value, Version,
        peer::{AskedAs, PeerWrite},
        testing::peer::EchoNode,
    };

    use super::*;

    /// A clock that shows 2001-09-09T01:46:40Z.
    struct Stands;

    impl Clock for Stands {
        fn now(&self) -> Moment {
            Moment::default()
        }

        fn wall_ms(&self) -> u64 {
            1_000_000_000_000
        }
    }

    /// A node with the same answer to everything, which remembers what it was asked.
    struct Says(Result<PeerAnswer, Error>, parking_lot::Mutex<Option<PeerQuestion>>);

    impl PeerService for Says {
        fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
            self.1.lock().replace(question);
            Box::pin(async { self.0.clone() })
        }

        fn write(&self, _: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
            unreachable!("this protocol has no writes")
        }
    }

    fn says(answer: Result<PeerAnswer, Error>) -> Says {
        Says(answer, parking_lot::Mutex::default())
    }

    async fn ask(service: &dyn PeerService, path: &str) -> (StatusCode, HeaderMap, Bytes) {
        let (head, body) = serve(service, &Stands, path, &HeaderMap::new()).await.into_parts();
        (head.status, head.headers, body.collect().await.unwrap().to_bytes())
    }

    #[tokio::test]
    async fn a_path_is_decoded_once_and_split_at_its_first_slash() {
        for (path, key) in [
            ("/_groupcache/g/k", &b"k"[..]),
            ("/_groupcache/g/a/b//c/..", b"a/b//c/.."),
            ("/_groupcache/g//", b"/"),
            ("/_groupcache/g%2Fa%2Fb/c", b"a/b/c"),
            ("/%5Fgroupcache/%67/a+b%2B%252B", b"a+b+%2B"),
            ("/_groupcache/g/%FF%00%0A", b"\xff\0\n"),
        ] {
            let (status, headers, body) = ask(&EchoNode, path).await;
            assert_eq!(
                (status, &headers[header::CONTENT_TYPE]),
                (StatusCode::OK, &HeaderValue::from_static(message::MEDIA_TYPE))
            );
            assert_eq!(message::decode(body).unwrap(), key, "{path}");
        }
    }

    #[tokio::test]
    async fn a_path_that_names_no_key_is_a_bad_request() {
        let too_long = format!("/_groupcache/g/{}", "k".repeat(1025));
        let paths =
            ["/_groupcache/", "/_groupcache/g", "/_groupcache/g/", "/_groupcache/g/%", "/_groupcache/%FF/k", &too_long];
        for path in paths {
            let (status, headers, body) = ask(&EchoNode, path).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
            assert_eq!(headers[header::CONTENT_TYPE], "text/plain; charset=utf-8");
            assert_eq!(body.last(), Some(&b'\n'));
        }
        assert_eq!(ask(&EchoNode, "/_groupcache/g").await.2, "bad request\n");
    }

    #[tokio::test]
    async fn a_go_node_that_says_nothing_asks_the_owner() {
        let node = says(Err(Error::origin("down")));
        ask(&node, "/_groupcache/users/k").await;
        let question = node.1.into_inner().unwrap();
        assert_eq!((&*question.group, question.asked_as), ("users", AskedAs::Owner));
        let left = question.deadline - Instant::now();
        assert!(left <= headers::TIMEOUT_DEFAULT && left > headers::TIMEOUT_DEFAULT / 2);
    }

    #[tokio::test]
    async fn headers_that_mean_nothing_are_a_bad_request() {
        for (name, value) in [(headers::ASKED_AS, "cook"), (headers::TIMEOUT_MS, "soon")] {
            let request = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
            let response = serve(&EchoNode, &Stands, "/_groupcache/g/k", &request).await;
            assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        }
    }

    #[tokio::test]
    async fn a_go_node_sees_400_404_and_500() {
        for kind in ErrorKind::ALL {
            let (status, headers, body) = ask(&says(Err(Error::new(kind, "it failed"))), "/_groupcache/g/k").await;
            let expected = match kind {
                ErrorKind::Invalid | ErrorKind::TooLarge => 400,
                ErrorKind::UnknownGroup => 404,
                _ => 500,
            };
            assert_eq!((status.as_u16(), &body[..]), (expected, &b"it failed\n"[..]), "{kind:?}");
            assert_eq!(headers[headers::ERROR], kind.slug());
        }
        let nothing = PeerAnswer::Found { value: None, meta: None, lease: None };
        let (status, headers, _) = ask(&says(Ok(nothing)), "/_groupcache/g/k").await;
        assert_eq!((status.as_u16(), headers[headers::ERROR].as_bytes()), (404, &b"not-found"[..]));
        let members = larder_core::Members::default();
        let (status, ..) = ask(&says(Ok(PeerAnswer::NotOwner { members, to: None })), "/_groupcache/g/k").await;
        assert_eq!(status.as_u16(), 500);
    }

    #[tokio::test]
    async fn forks_are_told_when_the_value_expires() {
        let meta = PeerMeta { version: Version::ZERO, age: Duration::ZERO, ttl_left: Some(Duration::from_secs(1)) };
        let value = Some(Value::from("v"));
        let (_, headers, body) =
            ask(&says(Ok(PeerAnswer::Found { value, meta: Some(meta), lease: None })), "/_groupcache/g/k").await;
        // Field 3 as a varint: 1,000,000,001 s in nanoseconds.
        assert_eq!(body, &b"\x18\x80\x94\xfb\x97\xbe\xd6\xad\xf0\x0d\x0a\x01v"[..]);
        assert_eq!(headers[headers::TTL_MS], "1000");
    }
}
