//! What the API answers clients of one node.

use std::{
    collections::HashMap,
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use larder::{Key, Node, loader_fn, peer::http::path};
use larder_core::{
    Locks,
    testing::{clock::TokioClock, fake_locks::FakeLocks, loader::odd_keys},
};
use larder_server::http::{Api, ApiConfig, HttpLimits};
use serde_json::json;
use tokio::sync::watch;

use crate::client::{Answer, Client, Server};

/// A node with a group `plain` without an origin, and a group `users` with one.
pub(crate) struct Daemon {
    pub(crate) node: Node,
    pub(crate) api: Api,
    pub(crate) loads: Arc<AtomicUsize>,
    pub(crate) locks: FakeLocks,
    pub(crate) draining: watch::Sender<bool>,
    clients: Server,
}

impl Daemon {
    pub(crate) async fn start() -> Self {
        let node = Node::builder().name("a").seed(1).start().await.unwrap();
        let loads = Arc::<AtomicUsize>::default();
        node.plain_group("plain").open().unwrap();
        let counted = loads.clone();
        let origin = loader_fn(move |key: Key| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                match key.as_bytes() {
                    b"missing" => Ok(None),
                    b"broken" => Err("the database is down"),
                    b"slow" => std::future::pending().await,
                    key => Ok(Some(format!("user {}", key.escape_ascii()))),
                }
            }
        });
        node.group("users", origin).ttl(Duration::from_secs(300)).open().unwrap();
        let (draining, watched) = watch::channel(false);
        let clock = TokioClock::new();
        let locks = FakeLocks::new(clock);
        let by = Locks::new(locks.clone(), clock);
        let max_ages = HashMap::from([("users".to_owned(), Duration::from_secs(30))]);
        let api = Api::new(ApiConfig { node: node.core().clone(), locks: by, max_ages, draining: watched });
        let clients = Server::with(api.clients(), HttpLimits::default());
        Self { node, api, loads, locks, draining, clients }
    }

    pub(crate) fn connect(&self) -> Client {
        self.clients.connect()
    }

    /// One request on a connection of its own; `headers` are whole lines.
    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
        let body = body.as_ref();
        let mut client = self.connect();
        let len = body.len();
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n{headers}\r\n")).await;
        // A refusal may come before all of the body is sent.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.0, body).await;
        client.answer_to(method).await.expect("an answer")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "").await
    }

    async fn put(&self, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
        self.ask("PUT", path, headers, body).await
    }
}

/// The path of a key, all of it encoded.
fn key_path(group: &str, key: &[u8]) -> String {
    let mut uri = format!("/v1/groups/{group}/keys/");
    path::encode_into(&mut uri, key);
    uri
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_put_comes_back_with_its_version() {
    let daemon = Daemon::start().await;
    let put = daemon.put("/v1/groups/plain/keys/k", "Content-Type: text/plain\r\n", "hello").await;
    assert_eq!((put.status, put.body.len()), (204, 0));
    assert_eq!(put.header("etag").len(), 26);

    let got = daemon.get("/v1/groups/plain/keys/k").await;
    assert_eq!((got.status, got.text()), (200, "hello"));
    assert_eq!(got.header("etag"), put.header("etag"));
    assert_eq!(got.header("content-type"), "text/plain");
    assert_eq!(got.header("cache-status"), "larder; hit");
    assert_eq!(got.header("cache-control"), "no-cache");
    assert_eq!(got.header("age"), "0");
    assert_eq!(got.header("larder-ttl-ms"), "");
    assert!(!got.header("date").is_empty());

    let head = daemon.ask("HEAD", "/v1/groups/plain/keys/k", "", "").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "5", 0));
    assert_eq!(head.header("etag"), put.header("etag"));

    let later = daemon.put("/v1/groups/plain/keys/k", "", "again").await;
    assert!(later.header("etag") > put.header("etag"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_knows_the_version_gets_no_value() {
    let daemon = Daemon::start().await;
    let etag = daemon.put("/v1/groups/plain/keys/k", "", "hello").await.header("etag").to_owned();
    for method in ["GET", "HEAD"] {
        let known = daemon.ask(method, "/v1/groups/plain/keys/k", &format!("If-None-Match: {etag}\r\n"), "").await;
        assert_eq!((known.status, known.header("etag")), (304, &*etag));
    }
    let other = daemon.ask("GET", "/v1/groups/plain/keys/k", "If-None-Match: \"0\"\r\n", "").await;
    assert_eq!((other.status, other.text()), (200, "hello"));
}

#[tokio::test(start_paused = true)]
async fn odd_keys_are_one_and_the_same_key_however_they_are_asked_for() {
    let daemon = Daemon::start().await;
    for key in odd_keys() {
        let (key, path) = (key.as_bytes(), key_path("plain", key.as_bytes()));
        assert_eq!(daemon.put(&path, "", key).await.status, 204, "{path}");
        // As it is, where a path may hold it.
        let mut raw = String::from("/v1/groups/plain/keys/");
        for byte in key {
            let plain = byte.is_ascii_alphanumeric() || b"/.-_~!$&'()*+,;=:@".contains(byte);
            raw += &if plain { char::from(*byte).to_string() } else { format!("%{byte:02x}") };
        }
        for path in [&path, &raw] {
            let got = daemon.get(path).await;
            assert_eq!((got.status, &*got.body), (200, key), "{path}");
        }
    }
    let stats = daemon.node.core().group("plain").unwrap().store_stats();
    assert_eq!(stats.main.items, odd_keys().len() as u64, "no two of them are one");
}

#[tokio::test(start_paused = true)]
async fn a_key_has_1_to_1024_bytes() {
    let daemon = Daemon::start().await;
    for (len, status, slug) in [(0, 400, "bad-request"), (1024, 404, "not-found"), (1025, 413, "too-large")] {
        let path = key_path("plain", &vec![0xff; len]);
        for method in ["GET", "PUT", "DELETE"] {
            let answer = daemon.ask(method, &path, "", "").await;
            let done = matches!((method, len), ("PUT" | "DELETE", 1024));
            let expected = if done { (204, String::new()) } else { (status, slug.to_owned()) };
            if (method, len) != ("GET", 1024) {
                assert_eq!((answer.status, answer.problem()), expected, "{method} {len}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_told_apart() {
    let daemon = Daemon::start().await;
    for (method, path, status, slug) in [
        ("GET", "/v1/groups/plain/keys/k", 404, "not-found"),
        ("GET", "/v1/groups/nobody/keys/k", 404, "unknown-group"),
        ("PUT", "/v1/groups/nobody/keys/k", 404, "unknown-group"),
        ("GET", "/v1/groups/No%20body/keys/k", 400, "bad-request"),
        ("GET", "/v1/groups/-a/keys/k", 400, "bad-request"),
        ("GET", "/v1/cluster/owner/nobody/k", 404, "unknown-group"),
        ("POST", "/v1/groups/nobody/get-many", 404, "unknown-group"),
        ("GET", "/v1/groups/plain/keys/%zz", 400, "bad-request"),
        ("GET", "/v1/groups/plain/keys/k?x=y", 400, "bad-request"),
        ("GET", "/", 404, "unknown-path"),
        ("GET", "/v1/groups/plain", 404, "unknown-path"),
        ("POST", "/v1/groups/plain/keys/k", 405, "method-not-allowed"),
        ("DELETE", "/v1/cluster", 405, "method-not-allowed"),
        ("OPTIONS", "/v1/groups", 405, "method-not-allowed"),
    ] {
        let answer = daemon.ask(method, path, "", "").await;
        assert_eq!((answer.status, &*answer.problem()), (status, slug), "{method} {path}");
        assert_eq!(answer.header("allow").is_empty(), status != 405);
    }
    let group = daemon.get("/v1/groups/%70lain/keys/k").await;
    assert_eq!(group.problem(), "not-found", "a group may be encoded, though it need not be");
}

#[tokio::test(start_paused = true)]
async fn a_condition_is_judged() {
    let daemon = Daemon::start().await;
    let path = "/v1/groups/plain/keys/k";
    let absent = "If-None-Match: *\r\n";
    let first = daemon.put(path, absent, "1").await;
    assert_eq!(first.status, 204);
    assert_eq!(daemon.put(path, absent, "2").await.problem(), "version-mismatch");
    let matching = format!("If-Match: {}\r\n", first.header("etag"));
    let second = daemon.put(path, &matching, "2").await;
    assert_eq!(second.status, 204);
    let stale = daemon.put(path, &matching, "3").await;
    assert_eq!((stale.status, &*stale.problem()), (412, "version-mismatch"));
    assert_eq!(daemon.ask("DELETE", path, &matching, "").await.status, 412);
    assert_eq!(daemon.get(path).await.text(), "2");
    let matching = format!("If-Match: {}\r\n", second.header("etag"));
    assert_eq!(daemon.ask("DELETE", path, &matching, "").await.status, 204);
    assert_eq!(daemon.get(path).await.status, 404);
    assert_eq!(daemon.ask("DELETE", path, "", "").await.status, 204, "whether or not it was there");
}

#[tokio::test(start_paused = true)]
async fn a_put_may_set_the_ttl() {
    let daemon = Daemon::start().await;
    let path = "/v1/groups/plain/keys/k";
    daemon.put(path, "Cache-Control: max-age=60\r\n", "x").await;
    let left: u64 = daemon.get(path).await.header("larder-ttl-ms").parse().unwrap();
    assert!((50_000..=60_000).contains(&left), "{left}");
    daemon.put(path, "Cache-Control: max-age=60\r\nLarder-Ttl-Ms: 5000\r\n", "x").await;
    let left: u64 = daemon.get(path).await.header("larder-ttl-ms").parse().unwrap();
    assert!((1..=5_000).contains(&left), "{left}");
    let wrong = daemon.put(path, "Cache-Control: max-age=soon\r\n", "x").await;
    assert_eq!(wrong.problem(), "bad-request");
}

#[tokio::test(start_paused = true)]
async fn tags_and_groups_are_invalidated_as_a_whole() {
    let daemon = Daemon::start().await;
    let path = |key: &str| format!("/v1/groups/plain/keys/{key}");
    let invalidate = async |body: &str| daemon.ask("POST", "/v1/groups/plain/invalidate", "", body).await;
    for (key, tags) in
        [("a", "Larder-Tags: red, round\r\n"), ("b", "Larder-Tags: red\r\nLarder-Tags: blue\r\n"), ("c", "")]
    {
        assert_eq!(daemon.ask("PUT", &path(key), tags, key).await.status, 204);
    }
    let found = async || {
        let mut found = String::new();
        for key in ["a", "b", "c"] {
            if daemon.get(&path(key)).await.status == 200 {
                found += key;
            }
        }
        found
    };
    assert_eq!(invalidate(r#"{"tags":["blue"]}"#).await.status, 204);
    assert_eq!(found().await, "ac");
    assert_eq!(invalidate(r#"{"tags":["round"],"keys_b64":["Yw=="]}"#).await.status, 204);
    assert_eq!(found().await, "");
    daemon.ask("PUT", &path("a"), "", "a").await;
    assert_eq!(invalidate(r#"{"keys":["b"]}"#).await.status, 204);
    assert_eq!(found().await, "a");
    assert_eq!(invalidate(r#"{"all":true}"#).await.status, 204);
    assert_eq!(found().await, "");
    for body in ["", "{}", r#"{"keys":"a"}"#, r#"{"keys_b64":["_"]}"#, r#"{"keys":[""]}"#] {
        assert_eq!(invalidate(body).await.problem(), "bad-request", "{body}");
    }
    let many = format!("Larder-Tags: {}\r\n", (0..16).map(|n| format!("t{n}")).collect::<Vec<_>>().join(","));
    assert_eq!(daemon.ask("PUT", &path("a"), &many, "a").await.problem(), "bad-request");
}

#[tokio::test(start_paused = true)]
async fn a_repeated_write_is_answered_as_the_first_was() {
    let daemon = Daemon::start().await;
    let path = "/v1/groups/plain/keys/k";
    let first = daemon.ask("PUT", path, "Idempotency-Key: 1\r\n", "one").await;
    let second = daemon.ask("PUT", path, "Idempotency-Key: 2\r\n", "two").await;
    let again = daemon.ask("PUT", path, "Idempotency-Key: 1\r\n", "one").await;
    assert_eq!((first.header("etag"), again.status), (again.header("etag"), 204));
    assert_ne!(first.header("etag"), second.header("etag"));
    assert_eq!(daemon.get(path).await.text(), "two");
    let too_long = format!("Idempotency-Key: {}\r\n", "x".repeat(257));
    for wrong in [&too_long, "Idempotency-Key: \r\n", "Idempotency-Key: a\r\nIdempotency-Key: b\r\n"] {
        assert_eq!(daemon.ask("PUT", path, wrong, "three").await.problem(), "bad-request");
    }
    assert_eq!(daemon.get(path).await.text(), "two");
}

#[tokio::test(start_paused = true)]
async fn an_origin_is_asked_once_and_its_answer_told() {
    let daemon = Daemon::start().await;
    let path = "/v1/groups/users/keys/42";
    let miss = daemon.get(path).await;
    assert_eq!((miss.status, miss.text()), (200, "user 42"));
    assert_eq!(miss.header("cache-status"), "larder; fwd=uri-miss; stored");
    assert_eq!(miss.header("content-type"), "application/octet-stream");
    assert_eq!(miss.header("cache-control"), "max-age=30");
    let hit = daemon.get(path).await;
    assert_eq!(hit.header("cache-status"), "larder; hit");
    assert_eq!(hit.header("etag"), miss.header("etag"));
    assert_eq!(daemon.loads.load(Ordering::Relaxed), 1);

    let none = daemon.get("/v1/groups/users/keys/missing").await;
    assert_eq!((&*none.problem(), none.header("cache-status")), ("not-found", "larder; fwd=uri-miss; stored"));
    let again = daemon.get("/v1/groups/users/keys/missing").await;
    assert_eq!((&*again.problem(), again.header("cache-status")), ("not-found", "larder; hit; detail=negative"));

    let failed = daemon.get("/v1/groups/users/keys/broken").await;
    assert_eq!((failed.status, &*failed.problem()), (502, "origin-failed"));
}

#[tokio::test(start_paused = true)]
async fn callers_at_once_share_one_load() {
    let daemon = Daemon::start().await;
    let gets = (0..300).map(|_| daemon.get("/v1/groups/users/keys/cold"));
    let answers = futures_util::future::join_all(gets).await;
    assert!(answers.iter().all(|answer| answer.text() == "user cold"));
    assert_eq!(daemon.loads.load(Ordering::Relaxed), 1);
    let shared = |answer: &&Answer| answer.header("cache-status") == "larder; fwd=uri-miss; collapsed";
    assert!(answers.iter().filter(shared).count() > 0);
}

#[tokio::test(start_paused = true)]
async fn a_group_with_an_origin_takes_no_puts_and_drops_its_copies_on_delete() {
    let daemon = Daemon::start().await;
    let path = "/v1/groups/users/keys/42";
    daemon.get(path).await;
    let mut client = daemon.connect();
    // The answer comes before the body.
    client.send(format!("PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n")).await;
    let refused = client.answer().await.unwrap();
    assert_eq!((refused.status, &*refused.problem()), (405, "read-only"));
    assert_eq!(refused.header("allow"), "GET, HEAD, DELETE");
    assert_eq!(daemon.ask("DELETE", path, "", "").await.status, 204);
    assert_eq!(daemon.get(path).await.header("cache-status"), "larder; fwd=uri-miss; stored");
    assert_eq!(daemon.loads.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_bounds_the_whole_work() {
    let daemon = Daemon::start().await;
    let slow = "/v1/groups/users/keys/slow";
    for (headers, seconds) in [("", 10.0), ("Larder-Timeout-Ms: 250\r\n", 0.25), ("Larder-Timeout-Ms: 0\r\n", 0.0)] {
        let start = tokio::time::Instant::now();
        let answer = daemon.ask("GET", slow, headers, "").await;
        assert_eq!((answer.status, &*answer.problem()), (504, "timed-out"));
        assert!((start.elapsed().as_secs_f64() - seconds).abs() < 0.01, "{:?} for {headers}", start.elapsed());
    }
    let wrong = daemon.ask("GET", slow, "Larder-Timeout-Ms: soon\r\n", "").await;
    assert_eq!(wrong.problem(), "bad-request");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_slow_or_breaks_off_is_no_value() {
    let daemon = Daemon::start().await;
    let head = "PUT /v1/groups/plain/keys/k HTTP/1.1\r\nHost: h\r\nLarder-Timeout-Ms: 2000\r\n";
    for framing in ["Content-Length: 100\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n64\r\n"] {
        let mut client = daemon.connect();
        let start = tokio::time::Instant::now();
        client.send(format!("{head}{framing}")).await;
        let dribble = async {
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                if tokio::io::AsyncWriteExt::write_all(&mut client.0, b"x").await.is_err() {
                    break;
                }
                if start.elapsed() > Duration::from_millis(2_100) {
                    break;
                }
            }
        };
        dribble.await;
        let answer = client.answer().await.unwrap();
        assert_eq!((answer.status, &*answer.problem()), (504, "timed-out"));
        assert!(client.answer().await.is_none());
    }
    let mut client = daemon.connect();
    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")).await;
    assert_eq!(client.answer().await.unwrap().problem(), "bad-request");
    assert_eq!(daemon.get("/v1/groups/plain/keys/k").await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn a_value_over_its_limit_is_refused_before_it_is_read() {
    let daemon = Daemon::start().await;
    let head = "PUT /v1/groups/plain/keys/k HTTP/1.1\r\nHost: h\r\n";
    let mut told = daemon.connect();
    told.send(format!("{head}Content-Length: {}\r\n\r\n", (8 << 20) + 1)).await;
    let answer = told.answer().await.unwrap();
    assert_eq!((answer.status, &*answer.problem()), (413, "too-large"));

    let mut untold = daemon.connect();
    untold.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n900000\r\n")).await;
    let _ = tokio::io::AsyncWriteExt::write_all(&mut untold.0, &vec![b'x'; 9 << 20]).await;
    assert_eq!(untold.answer().await.unwrap().problem(), "too-large");

    let largest = vec![b'x'; 8 << 20];
    assert_eq!(daemon.put("/v1/groups/plain/keys/k", "", &largest).await.status, 204);
    assert_eq!(daemon.get("/v1/groups/plain/keys/k").await.body, largest);
}

#[tokio::test(start_paused = true)]
async fn bodies_that_find_no_room_wait_and_are_turned_away() {
    let daemon = Daemon::start().await;
    let path = "/v1/groups/plain/keys";
    let mut holders = Vec::new();
    for id in 0..32 {
        let mut client = daemon.connect();
        client.send(format!("PUT {path}/{id} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\nx", 8 << 20)).await;
        holders.push(client);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = daemon.put("/v1/groups/plain/keys/k", "Larder-Timeout-Ms: 1000\r\n", "x").await;
    assert_eq!((refused.status, &*refused.problem(), refused.header("retry-after")), (503, "overloaded", "1"));
    let mut waiting = daemon.connect();
    waiting.send("PUT /v1/groups/plain/keys/k HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx").await;
    drop(holders.pop());
    assert_eq!(waiting.answer().await.unwrap().status, 204);
}

#[tokio::test(start_paused = true)]
async fn many_keys_are_answered_at_once() {
    let daemon = Daemon::start().await;
    let body = json!({ "keys": ["1", "missing", "broken", ""], "keys_b64": ["/w=="] }).to_string();
    let answer = daemon.ask("POST", "/v1/groups/users/get-many", "", body).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let json = answer.json();
    assert_eq!(json["values"], json!({ "1": "dXNlciAx" }));
    assert_eq!(json["missing"], json!(["missing"]));
    assert!(json["errors"]["broken"].as_str().unwrap().contains("the database is down"));
    assert!(json["errors"][""].as_str().unwrap().contains("empty"));
    assert_eq!(json["values_b64"], json!({ "/w==": "dXNlciBceGZm" }));

    let thousand: Vec<_> = (0..1_000).map(|key| key.to_string()).collect();
    let all = daemon.ask("POST", "/v1/groups/users/get-many", "", json!({ "keys": thousand }).to_string()).await;
    assert_eq!(all.json()["values"].as_object().unwrap().len(), 1_000);
    let more: Vec<_> = (0..1_001).map(|key| key.to_string()).collect();
    let refused = daemon.ask("POST", "/v1/groups/users/get-many", "", json!({ "keys": more }).to_string()).await;
    assert_eq!(refused.problem(), "bad-request");
    let no_json = daemon.ask("POST", "/v1/groups/users/get-many", "", "keys").await;
    assert_eq!(no_json.problem(), "bad-request");
}

#[tokio::test(start_paused = true)]
async fn a_node_tells_of_its_groups_its_members_and_owners() {
    let daemon = Daemon::start().await;
    daemon.get("/v1/groups/users/keys/1").await;
    daemon.get("/v1/groups/users/keys/1").await;
    let groups = daemon.get("/v1/groups").await.json();
    let names: Vec<_> = groups["groups"].as_array().unwrap().iter().map(|group| &group["name"]).collect();
    assert_eq!(names, ["plain", "users"]);
    let users = &groups["groups"][1];
    assert_eq!(users["settings"]["ttl_ms"], 300_000);
    assert_eq!(users["settings"]["has_origin"], true);
    assert_eq!(users["counters"]["gets"], 2);
    assert_eq!(users["counters"]["hits"]["main"], 1);
    assert_eq!(users["counters"]["loads"]["origin"], 1);
    assert_eq!(users["counters"]["cache_items"]["main"], 1);

    let cluster = daemon.get("/v1/cluster").await.json();
    assert_eq!(cluster["self"], "a");
    assert_eq!(cluster["view"]["settled"], true);
    assert_eq!(cluster["view"]["digest"].as_str().unwrap().len(), 16);
    let member = &cluster["members"][0];
    assert_eq!((&member["name"], &member["state"], &member["slots"]), (&json!("a"), &json!("serving"), &json!(16_384)));

    let owner = daemon.get("/v1/cluster/owner/users/user:42").await.json();
    assert_eq!(owner["owner"], "a");
    assert_eq!(owner["slot"], larder_core::placement::Slot::of("users", b"user:42").number());
    assert_eq!(owner["stand_in"], json!(null));
}

#[tokio::test(start_paused = true)]
async fn keys_and_values_do_not_get_into_the_log() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(log.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    tracing::info!("the log is heard");
    let daemon = Daemon::start().await;
    let secret = "hunter2-is-a-secret";
    daemon.put(&format!("/v1/groups/plain/keys/{secret}"), "", secret).await;
    for path in [format!("/v1/groups/plain/keys/{secret}"), format!("/v1/groups/{secret}/keys/{secret}?{secret}")] {
        daemon.get(&path).await;
        daemon.ask("DELETE", &path, &format!("Authorization: Bearer {secret}\r\n"), secret).await;
    }
    daemon.connect().send(format!("GET /{secret} HTTP/9.9\r\n{secret}\r\n\r\n")).await;
    daemon.ask("GET", "/v1/groups/users/keys/broken", "", "").await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("the log is heard"));
    assert!(!text.contains(secret), "{text}");
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
