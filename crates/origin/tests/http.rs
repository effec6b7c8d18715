//! The HTTP origin, against a server that shows what goes over the wire.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by its panic")]

#[cfg(feature = "journal")]
#[path = "support/behind.rs"]
mod behind;
mod support;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use larder_core::{
    Change, Error, Found, Key, LoadError, LoadRequest, Loaded, Loader, Store, Update, UpdateError, Value,
    loader_contract, store_contract,
    testing::{
        loader::{Arrange, SECRET, VALUE_LEN_MAX, odd_keys, request},
        store::{self, delete, put, version},
    },
};
use larder_origin::{HttpConfig, HttpOrigin};
use percent_encoding::percent_decode_str;
use support::{Answer, Asked, Server};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{TlsAcceptor, rustls};

fn key(bytes: impl AsRef<[u8]>) -> Key {
    Key::copy_from(bytes.as_ref()).unwrap()
}

fn origin(server: &Server) -> HttpOrigin {
    HttpOrigin::new(HttpConfig::new(format!("http://{}/v/{{key}}", server.addr()))).unwrap()
}

async fn load(origin: &HttpOrigin, name: &str) -> Result<Loaded, LoadError> {
    answer(origin, request(&key(name))).await
}

async fn load_again(origin: &HttpOrigin, name: &str, previous: Value) -> Result<Loaded, LoadError> {
    answer(origin, LoadRequest { previous: Some(previous), ..request(&key(name)) }).await
}

/// A load that isn't answered fails its test, and doesn't hang it.
async fn answer(origin: &HttpOrigin, request: LoadRequest) -> Result<Loaded, LoadError> {
    timeout_at(request.deadline, origin.load(request)).await.expect("the load was not answered")
}

fn value(loaded: Loaded) -> Value {
    match loaded.found {
        Found::Value(value) => value,
        found => panic!("{found:?}"),
    }
}

/// What the server of the contract has for a key.
#[derive(Clone)]
enum Held {
    Value { body: Vec<u8>, etag: String },
    Hang,
    Fail,
}

/// What the server of the contract does with those who put a key.
#[derive(Clone, Copy)]
enum Mood {
    Refuse,
    KeepOut,
    BreakOff,
    Hang,
}

type PerKey<T> = Arc<Mutex<HashMap<Vec<u8>, T>>>;

struct Http {
    origin: HttpOrigin,
    held: PerKey<Held>,
    moods: PerKey<Mood>,
    _server: Server,
}

impl Http {
    async fn start() -> Self {
        let (held, moods) = (PerKey::default(), PerKey::default());
        let (held_there, moods_there) = (Arc::clone(&held), Arc::clone(&moods));
        let server = Server::start(move |asked| {
            let key: Vec<u8> = percent_decode_str(asked.target().strip_prefix("/v/").unwrap()).collect();
            if asked.method() != "GET" {
                return change(asked, key, &held_there, &moods_there);
            }
            let held = held_there.lock().unwrap().get(&key).cloned();
            match held {
                None => Answer::new("404 Not Found", "no such key"),
                Some(Held::Hang) => Answer::Hang(Vec::new()),
                Some(Held::Fail) => Answer::new("500 Internal Server Error", format!("the password is {SECRET}")),
                Some(Held::Value { etag, .. }) if asked.header("If-None-Match") == [etag.as_str()] => {
                    Answer::Keep(b"HTTP/1.1 304 Not Modified\r\n\r\n".into())
                }
                Some(Held::Value { body, etag }) => Answer::new(&format!("200 OK\r\nETag: {etag}"), body),
            }
        })
        .await;
        Self { origin: origin(&server), held, moods, _server: server }
    }

    fn set_mood(&self, key: &Key, mood: Mood) -> bool {
        self.moods.lock().unwrap().insert(key.as_bytes().into(), mood);
        true
    }

    fn hold(&self, key: &Key, held: Held) -> bool {
        self.held.lock().unwrap().insert(key.as_bytes().into(), held);
        true
    }
}

fn change(asked: &Asked, key: Vec<u8>, held: &PerKey<Held>, moods: &PerKey<Mood>) -> Answer {
    if asked.method() == "DELETE" {
        let was_there = held.lock().unwrap().remove(&key).is_some();
        return Answer::new(if was_there { "200 OK" } else { "404 Not Found" }, "");
    }
    assert_eq!(asked.method(), "PUT");
    match moods.lock().unwrap().get(&key) {
        Some(Mood::Refuse) => Answer::new("422 Unprocessable Content", SECRET),
        Some(Mood::KeepOut) => Answer::new("429 Too Many Requests", SECRET),
        Some(Mood::BreakOff) => Answer::Close(format!("HTTP/1.1 200 {SECRET}").into()),
        Some(Mood::Hang) => Answer::Hang(Vec::new()),
        None => {
            let body = asked.body().to_vec();
            let etag = format!("\"{}\"", asked.header("Larder-Version")[0]);
            held.lock().unwrap().insert(key, Held::Value { body, etag });
            Answer::new("201 Created", "made")
        }
    }
}

impl store::Arrange for Http {
    fn store(&self) -> &dyn Store {
        &self.origin
    }

    fn loader(&self) -> &dyn Loader {
        &self.origin
    }

    fn refuse(&self, key: &Key) -> bool {
        self.set_mood(key, Mood::Refuse)
    }

    fn keep_out(&self, key: &Key) -> bool {
        self.set_mood(key, Mood::KeepOut)
    }

    fn break_off(&self, key: &Key) -> bool {
        self.set_mood(key, Mood::BreakOff)
    }

    fn hang(&self, key: &Key) -> bool {
        self.set_mood(key, Mood::Hang)
    }
}

impl Arrange for Http {
    fn loader(&self) -> &dyn Loader {
        &self.origin
    }

    fn put(&self, key: &Key, value: &[u8]) -> bool {
        let etag = format!("\"{}-{:?}\"", value.len(), value.first());
        self.hold(key, Held::Value { body: value.into(), etag })
    }

    fn hang(&self, key: &Key) -> bool {
        self.hold(key, Held::Hang)
    }

    fn fail(&self, key: &Key) -> bool {
        self.hold(key, Held::Fail)
    }
}

loader_contract!(contract, Http::start().await);
store_contract!(writes, Http::start().await);
#[cfg(feature = "journal")]
behind::behind_contract!(behind_writes, Http::start().await);

#[tokio::test]
async fn a_key_goes_over_the_wire_encoded_once_and_is_never_normalised() {
    let server = Server::start(|_| Answer::new("200 OK", "")).await;
    let origin = origin(&server);
    let targets = [
        ("plain-._~09", "/v/plain-._~09"),
        ("..", "/v/%2E%2E"),
        (".", "/v/%2E"),
        ("%2E%2E", "/v/%252E%252E"),
        ("a/../b", "/v/a%2F..%2Fb"),
        ("a b+c", "/v/a%20b%2Bc"),
        ("%2F", "/v/%252F"),
        ("//", "/v/%2F%2F"),
        ("?q#f;p", "/v/%3Fq%23f%3Bp"),
        ("\r\nx: y", "/v/%0D%0Ax%3A%20y"),
        ("é", "/v/%C3%A9"),
    ];
    for (name, _) in targets {
        load(&origin, name).await.unwrap();
    }
    origin.load(request(&key(b"\xff\x00"))).await.unwrap();
    let asked: Vec<_> = server.asked().iter().map(|asked| asked.target().to_owned()).collect();
    let expected: Vec<_> = targets.iter().map(|(_, target)| *target).chain(["/v/%FF%00"]).collect();
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn every_odd_key_arrives_as_itself_in_a_query_too() {
    let server = Server::start(|_| Answer::new("200 OK", "")).await;
    let origin = HttpOrigin::new(HttpConfig::new(format!("http://{}?k={{key}}", server.addr()))).unwrap();
    for key in odd_keys() {
        origin.load(request(&key)).await.unwrap();
        let asked = server.asked().pop().unwrap();
        let arrived: Vec<u8> = percent_decode_str(asked.target().strip_prefix("/?k=").unwrap()).collect();
        assert_eq!(arrived, key.as_bytes());
    }
}

#[tokio::test]
async fn not_found_and_gone_are_nothing() {
    for status in ["404 Not Found", "410 Gone"] {
        let server = Server::start(move |_| Answer::new(status, "<h1>Not here</h1>")).await;
        assert_eq!(load(&origin(&server), "k").await.unwrap(), Loaded::nothing(), "{status}");
    }
}

#[tokio::test]
async fn any_other_status_is_a_failure_told_by_its_number() {
    let statuses = [
        "201 Created",
        "202 Accepted",
        "204 No Content",
        "206 Partial Content",
        "300 Multiple Choices",
        "304 Not Modified",
        "400 Bad Request",
        "401 Unauthorized",
        "403 Forbidden",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "599 hunter2",
        "999 hunter2",
    ];
    for status in statuses {
        let server = Server::start(move |_| {
            Answer::Close(format!("HTTP/1.1 {status}\r\nX-Why: {SECRET}\r\nConnection: close\r\n\r\n").into())
        })
        .await;
        let origin =
            HttpOrigin::new(HttpConfig::new(format!("http://u:{SECRET}@{}/{SECRET}?{SECRET}={{key}}", server.addr())));
        let error = load(&origin.unwrap(), SECRET).await.unwrap_err().to_string();
        assert!(error.contains(&status[..3]) && error.contains(&server.addr().to_string()), "{error}");
        assert!(!error.contains(SECRET), "{error}");
        assert_eq!(server.asked().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = Server::start(|asked| match asked.target() {
        "/elsewhere" => Answer::new("200 OK", "followed"),
        _ => Answer::new("302 Found\r\nLocation: /elsewhere", ""),
    })
    .await;
    let error = load(&origin(&server), "k").await.unwrap_err().to_string();
    assert!(error.contains("302") && error.contains("redirect"), "{error}");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn content_type_and_etag_are_kept() {
    let server = Server::start(|_| Answer::new("200 OK\r\nContent-Type: text/plain\r\nETag: W/\"7\"", "x")).await;
    let value = value(load(&origin(&server), "k").await.unwrap());
    assert_eq!(value.content_type(), Some("text/plain"));
    assert_eq!(value.validator(), Some("W/\"7\""));
}

#[tokio::test]
async fn an_etag_is_sent_along_and_304_means_unchanged() {
    let server = Server::start(|asked| match asked.header("If-None-Match")[..] {
        [] => Answer::new("200 OK\r\nETag: \"1\"", "x"),
        [_] => Answer::Keep(b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=9\r\n\r\n".into()),
        _ => panic!("sent twice"),
    })
    .await;
    let config = HttpConfig::new(format!("http://{}/{{key}}", server.addr())).respect_cache_control(true);
    let origin = HttpOrigin::new(config).unwrap();
    let first = value(load(&origin, "k").await.unwrap());
    let again = load_again(&origin, "k", first).await.unwrap();
    assert_eq!(again, Loaded { found: Found::Unchanged, ttl: Some(Duration::from_secs(9)) });
    assert_eq!(server.asked()[1].header("If-None-Match"), ["\"1\""]);
    assert_eq!(server.connections(), 1);

    load_again(&origin, "k", Value::from("no etag")).await.unwrap();
    assert!(server.asked()[2].header("If-None-Match").is_empty());
}

#[tokio::test]
async fn cache_control_decides_the_ttl_only_where_it_is_respected() {
    let server = Server::start(|asked| match asked.target() {
        "/v/kept" => Answer::new("200 OK\r\nCache-Control: max-age=60\r\nAge: 20", "x"),
        "/v/not-kept" => Answer::new("200 OK\r\nCache-Control: no-store", "x"),
        "/v/missing" => Answer::new("404 Not Found\r\nCache-Control: max-age=3", ""),
        _ => Answer::new("200 OK", "x"),
    })
    .await;
    let config = HttpConfig::new(format!("http://{}/v/{{key}}", server.addr()));
    let respecting = HttpOrigin::new(config.clone().respect_cache_control(true)).unwrap();
    let ignoring = HttpOrigin::new(config).unwrap();
    for (name, seconds) in [("kept", Some(40)), ("not-kept", Some(0)), ("missing", Some(3)), ("silent", None)] {
        assert_eq!(load(&respecting, name).await.unwrap().ttl, seconds.map(Duration::from_secs), "{name}");
        assert_eq!(load(&ignoring, name).await.unwrap().ttl, None, "{name}");
    }
}

fn assert_too_large(result: Result<Loaded, LoadError>) {
    let error = result.unwrap_err();
    assert!(error.downcast_ref::<Error>().is_some_and(Error::is_too_large), "{error}");
}

#[tokio::test]
async fn a_length_over_the_limit_is_refused_before_the_body_comes() {
    let server =
        Server::start(|_| Answer::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n".into())).await;
    assert_too_large(load(&origin(&server), "k").await);
    server.until_one_is_gone().await;
}

#[tokio::test]
async fn a_body_without_a_length_is_cut_off_at_the_limit() {
    let chunked = |_: &_| {
        Answer::Repeat(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(), b"10\r\n0123456789abcdef\r\n")
    };
    let server = Server::start(chunked).await;
    assert_too_large(load(&origin(&server), "k").await);
    server.until_one_is_gone().await;

    let until_closed = |_: &_| Answer::Repeat(b"HTTP/1.1 200 OK\r\n\r\n".into(), b"0123456789abcdef");
    let server = Server::start(until_closed).await;
    assert_too_large(load(&origin(&server), "k").await);
    server.until_one_is_gone().await;
}

#[tokio::test]
async fn a_chunked_value_comes_whole_and_in_a_buffer_of_its_own() {
    let chunks = (VALUE_LEN_MAX / 16).min(1_000);
    let server = Server::start(move |_| {
        let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        answer.extend(b"10\r\n0123456789abcdef\r\n".repeat(chunks));
        answer.extend(b"0\r\n\r\n");
        Answer::Keep(answer)
    })
    .await;
    let value = value(load(&origin(&server), "k").await.unwrap());
    assert_eq!(&value[..], "0123456789abcdef".repeat(chunks).as_bytes());
    assert_eq!(value.into_bytes().try_into_mut().unwrap().capacity(), chunks * 16);
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_makes_no_sense_is_a_failure() {
    let endless_head = Answer::Repeat(b"HTTP/1.1 200 OK\r\n".into(), b"X-Filler: 0123456789abcdef0123456789abcdef\r\n");
    let long_head = format!("200 OK\r\nX-Filler: {}", "x".repeat(200_000));
    let answers = Mutex::new(vec![
        endless_head,
        Answer::new(&long_head, "value"),
        Answer::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".into()),
        Answer::Close(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel".into()),
        Answer::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx".into()),
        Answer::Close(b"HTTP/1.1 200 OK\r\nContent-Le".into()),
        Answer::Close(b"SSH-2.0-hunter2\r\n\r\n".into()),
        Answer::Close(b"\x16\x03\x01\x00\x00".into()),
        Answer::Close(Vec::new()),
        Answer::new("200 OK\r\nContent-Encoding: gzip", "\x1f\u{8}"),
    ]);
    let len = answers.lock().unwrap().len();
    let server = Server::start(move |_| answers.lock().unwrap().pop().unwrap()).await;
    let origin = origin(&server);
    for _ in 0..len {
        let error = load(&origin, "k").await.unwrap_err().to_string();
        assert!(error.starts_with("the origin http://127.0.0.1:") && !error.contains(SECRET), "{error}");
    }
    assert_eq!(server.asked().len(), len);
}

#[tokio::test]
async fn one_connection_serves_loads_that_follow_each_other_whatever_the_answers() {
    let server = Server::start(|asked| match asked.target() {
        "/v/missing" => Answer::new("404 Not Found", "x".repeat(15_000)).late(),
        "/v/failing" => Answer::new("500 Internal Server Error", "x".repeat(15_000)).late(),
        _ => Answer::new("200 OK", "x".repeat(100_000)),
    })
    .await;
    let origin = origin(&server);
    // A connection is given up if its page takes longer; here that is only a machine that stood still.
    let (mut slow, drain_time_max) = (0, Duration::from_millis(100));
    for _ in 0..5 {
        for (key, fails) in [("there", false), ("missing", false), ("failing", true)] {
            let start = Instant::now();
            assert_eq!(load(&origin, key).await.is_err(), fails);
            slow += usize::from(start.elapsed() >= drain_time_max);
        }
    }
    assert_eq!(server.asked().len(), 15);
    assert!((1..=1 + slow).contains(&server.connections()), "{} with {slow} slow loads", server.connections());
}

#[tokio::test]
async fn a_long_page_is_not_read_for_the_sake_of_its_connection() {
    let server = Server::start(|_| Answer::new("404 Not Found", "x".repeat(1_000_000))).await;
    let origin = origin(&server);
    for connections in 1..=3 {
        assert_eq!(load(&origin, "k").await.unwrap(), Loaded::nothing());
        assert_eq!(server.connections(), connections);
    }
}

#[tokio::test]
async fn a_missing_keys_page_that_never_ends_holds_the_answer_up_no_longer_than_its_bound() {
    let endless = |_: &_| Answer::Repeat(b"HTTP/1.1 404 Not Found\r\n\r\n".into(), b"<p>not here</p>");
    let stuck = |_: &_| Answer::Hang(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n".into());
    for server in [Server::start(endless).await, Server::start(stuck).await] {
        assert_eq!(load(&origin(&server), "k").await.unwrap(), Loaded::nothing());
        server.until_one_is_gone().await;
    }
}

#[tokio::test]
async fn a_load_that_is_dropped_hangs_up() {
    let server = Server::start(|_| Answer::Hang(Vec::new())).await;
    let origin = origin(&server);
    let given_up = tokio::spawn(async move { load(&origin, "k").await });
    while server.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    given_up.abort();
    server.until_one_is_gone().await;
}

#[tokio::test]
async fn an_origin_that_is_not_there_is_a_failure_that_says_so() {
    let server = Server::start(|_| Answer::Close(Vec::new())).await;
    let origin = origin(&server);
    drop(server);
    tokio::task::yield_now().await;
    let error = load(&origin, "k").await.unwrap_err().to_string();
    assert!(error.contains("can't be reached") && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn headers_are_sent_as_configured() {
    let server = Server::start(|_| Answer::new("200 OK", "")).await;
    let config = HttpConfig::new(format!("http://me:{SECRET}@{}/{{key}}", server.addr()));
    let config = config.header("X-Twice", "1").header("x-twice", "2").header("User-Agent", "test");
    let origin = HttpOrigin::new(config.clone()).unwrap();
    load(&origin, "k").await.unwrap();
    let origin = HttpOrigin::new(config.header("Authorization", "Bearer t")).unwrap();
    load(&origin, "k").await.unwrap();

    let asked = server.asked();
    assert_eq!(asked[0].header("Authorization"), ["Basic bWU6aHVudGVyMg=="]);
    assert_eq!(asked[1].header("Authorization"), ["Bearer t"]);
    assert_eq!(asked[0].header("Host"), [server.addr().to_string()]);
    assert_eq!(asked[0].header("X-Twice"), ["1", "2"]);
    assert_eq!(asked[0].header("User-Agent"), ["test"]);
    assert_eq!(asked[0].header("Accept-Encoding"), ["identity"]);
}

#[test]
fn nothing_secret_is_shown() {
    let config = HttpConfig::new(format!("http://me:{SECRET}@h/{SECRET}/{{key}}")).header("X-Token", SECRET);
    let shown = format!("{config:?} {:?}", HttpOrigin::new(config.clone()).unwrap());
    assert!(!shown.contains(SECRET), "{shown}");
    let broken = HttpOrigin::new(config.header("X-Token", format!("{SECRET}\n"))).unwrap_err();
    assert!(!broken.to_string().contains(SECRET), "{broken}");
}

#[test]
fn a_header_that_cannot_be_sent_is_refused() {
    for (name, value) in [("", "v"), ("a b", "v"), ("X-A", "v\r\nX-B: w"), ("Content-Length", "5"), ("connection", "x")]
    {
        let error = HttpOrigin::new(HttpConfig::new("http://h/{key}").header(name, value)).unwrap_err();
        assert_eq!(error.setting(), "headers", "{name}");
    }
}

/// A certificate for this machine, and a server that has it.
async fn tls_server() -> (Server, tempfile::NamedTempFile) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    (Server::start_with(Some(acceptor), |_| Answer::new("200 OK", "over TLS")).await, file)
}

#[tokio::test]
async fn https_trusts_the_given_certificates_and_no_others() {
    let (server, ca_file) = tls_server().await;
    let (_other, other_ca_file) = tls_server().await;
    let config = HttpConfig::new(format!("https://{}/{{key}}", server.addr()));

    let origin = HttpOrigin::new(config.clone().ca_file(ca_file.path())).unwrap();
    assert_eq!(load(&origin, "..").await.unwrap(), Loaded::value("over TLS"));
    assert_eq!(server.asked()[0].target(), "/%2E%2E");

    let origin = HttpOrigin::new(config.ca_file(other_ca_file.path())).unwrap();
    let error = load(&origin, "k").await.unwrap_err().to_string();
    assert!(error.contains("can't be reached") && error.contains("certificate"), "{error}");
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_ca_file_without_certificates_is_refused() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    for path in [empty.path(), empty.path().with_extension("missing").as_path()] {
        let error = HttpOrigin::new(HttpConfig::new("https://h/{key}").ca_file(path)).unwrap_err();
        assert_eq!(error.setting(), "ca_file");
    }
}

/// A change that isn't answered fails its test, and doesn't hang it.
async fn make(origin: &HttpOrigin, update: Update) -> Result<(), UpdateError> {
    timeout_at(update.deadline, origin.update(update)).await.expect("the change was not answered")
}

#[tokio::test]
async fn a_put_brings_the_value_its_type_its_version_and_a_key_that_tells_a_repetition() {
    let server = Server::start(|_| Answer::new("204 No Content", "")).await;
    let config = HttpConfig::new(format!("http://{}/v/{{key}}?full=1", server.addr())).header("Authorization", "token");
    let origin = HttpOrigin::new(config).unwrap();
    let value = Value::from("{}").with_content_type("application/json");
    let first = store::update(&key("a/b"), Change::Put(value), 3);
    make(&origin, Update { idempotency_key: Some("once".into()), ..first }).await.unwrap();
    make(&origin, put(&key(".."), "", 4)).await.unwrap();
    make(&origin, delete(&key("a/b"), 5)).await.unwrap();

    let asked = server.asked();
    let seen: Vec<_> = asked.iter().map(|asked| (asked.method(), asked.target(), asked.body())).collect();
    assert_eq!(
        seen,
        [("PUT", "/v/a%2Fb?full=1", &b"{}"[..]), ("PUT", "/v/%2E%2E?full=1", b""), ("DELETE", "/v/a%2Fb?full=1", b"")]
    );
    let headers = ["Content-Type", "Content-Length", "Larder-Version", "Idempotency-Key", "Authorization"];
    let seen = asked.iter().map(|asked| headers.map(|name| asked.header(name).join(", ")));
    let versions = [3, 4, 5].map(|place| version(place).to_string());
    let [third, fourth, fifth] = versions.each_ref().map(String::as_str);
    let expected = [
        ["application/json", "2", third, "once", "token"],
        ["", "0", fourth, fourth, "token"],
        ["", "", fifth, fifth, "token"],
    ];
    assert_eq!(seen.collect::<Vec<_>>(), expected.map(|line| line.map(str::to_owned)));
}

#[tokio::test]
async fn the_status_says_what_became_of_a_change() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Became {
        Made,
        Refused,
        KeptOut,
        Conflict,
        Unknown,
    }
    use Became::{Conflict, KeptOut, Made, Refused, Unknown};
    // The status, and what it says of a PUT and of a DELETE.
    let statuses = [
        ("200 OK", Made, Made),
        ("201 Created", Made, Made),
        ("202 Accepted", Made, Made),
        ("204 No Content", Made, Made),
        ("303 See Other\r\nLocation: /", Unknown, Unknown),
        ("308 Permanent Redirect\r\nLocation: /", Unknown, Unknown),
        ("400 Bad Request", Refused, Refused),
        ("401 Unauthorized", KeptOut, KeptOut),
        ("404 Not Found", Refused, Made),
        ("405 Method Not Allowed", Refused, Refused),
        ("408 Request Timeout", Unknown, Unknown),
        ("409 Conflict", Conflict, Conflict),
        ("410 Gone", Refused, Made),
        ("412 Precondition Failed", Conflict, Conflict),
        ("413 Content Too Large", Refused, Refused),
        ("423 Locked", KeptOut, KeptOut),
        ("425 Too Early", KeptOut, KeptOut),
        ("429 Too Many Requests", KeptOut, KeptOut),
        ("500 Internal Server Error", Unknown, Unknown),
        ("502 Bad Gateway", Unknown, Unknown),
        ("503 Service Unavailable", Unknown, Unknown),
        ("999 hunter2", Unknown, Unknown),
    ];
    for (status, on_put, on_delete) in statuses {
        let server = Server::start(move |_| {
            Answer::Close(format!("HTTP/1.1 {status}\r\nX-Why: {SECRET}\r\nConnection: close\r\n\r\n").into())
        })
        .await;
        let origin = origin(&server);
        for (update, expected) in [(put(&key("k"), "v", 1), on_put), (delete(&key("k"), 2), on_delete)] {
            let answer = make(&origin, update).await;
            let text = answer.as_ref().err().map(UpdateError::to_string).unwrap_or_default();
            assert!(!text.contains(SECRET), "{text}");
            let became = match answer {
                Ok(()) => Made,
                Err(UpdateError::Refused(_)) => Refused,
                Err(UpdateError::Unreached(_)) => KeptOut,
                Err(UpdateError::Conflict) => Conflict,
                Err(UpdateError::Unknown(_)) => Unknown,
            };
            assert_eq!(became, expected, "{status}: {text}");
            assert!(matches!(became, Made | Conflict) || text.contains(&status[..3]), "{text}");
        }
        assert_eq!(server.asked().len(), 2, "{status}");
    }
}

#[tokio::test]
async fn a_change_that_was_sent_is_sent_once_whatever_breaks() {
    let broken = Mutex::new(vec![
        Answer::Close(b"SSH-2.0-hunter2\r\n\r\n".into()),
        Answer::Close(b"HTTP/1.1 20".into()),
        Answer::Close(Vec::new()),
    ]);
    let len = broken.lock().unwrap().len();
    let server = Server::start(move |asked| match asked.method() {
        "GET" => Answer::new("200 OK", "x"),
        _ => broken.lock().unwrap().pop().unwrap(),
    })
    .await;
    let origin = origin(&server);
    for made in 1..=len {
        // So that the change finds a connection that has been used before, where clients are quick to try again.
        load(&origin, "k").await.unwrap();
        let answer = make(&origin, put(&key("k"), "v", 1)).await;
        assert!(matches!(answer, Err(UpdateError::Unknown(_))), "{answer:?}");
        assert_eq!(server.asked().iter().filter(|asked| asked.method() == "PUT").count(), made);
    }
}

#[tokio::test]
async fn a_change_that_reached_nobody_may_be_made_later() {
    let server = Server::start(|_| Answer::Close(Vec::new())).await;
    let origin = origin(&server);
    drop(server);
    tokio::task::yield_now().await;
    let answer = make(&origin, put(&key("k"), "v", 1)).await;
    let Err(UpdateError::Unreached(error)) = answer else { panic!("{answer:?}") };
    assert!(error.to_string().contains("can't be reached"), "{error}");
}

#[tokio::test]
async fn a_repetitions_key_that_no_header_can_have_is_refused_unsent() {
    let server = Server::start(|_| Answer::new("200 OK", "")).await;
    let update = Update { idempotency_key: Some("a\r\nb: c".into()), ..put(&key("k"), "v", 1) };
    let answer = make(&origin(&server), update).await;
    assert!(matches!(answer, Err(UpdateError::Refused(_))), "{answer:?}");
    assert!(server.asked().is_empty());
}
