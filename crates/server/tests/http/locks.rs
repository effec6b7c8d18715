//! What the API answers who takes, renews and frees locks, whoever keeps them.

use std::time::Duration;

use larder_core::{
    lock::{LOCK_NAME_LEN_MAX, LockName},
    testing::fake_locks::Trouble,
};
use tokio::time::Instant;

use crate::{answer::Answer, api::Daemon, client::Client};

impl Daemon {
    async fn take(&self, name: &str, body: &str) -> Answer {
        self.ask("POST", &format!("/v1/locks/{name}"), "", body).await
    }

    async fn renew(&self, name: &str, token: &str) -> Answer {
        self.ask("PUT", &format!("/v1/locks/{name}"), "", format!("{{\"token\":{token:?}}}")).await
    }

    async fn free(&self, name: &str, token: &str) -> Answer {
        self.ask("DELETE", &format!("/v1/locks/{name}?token={token}"), "", "").await
    }

    /// One who waits for a lock.
    async fn waiter(&self, name: &str, body: &str) -> Client {
        let mut client = self.connect();
        let len = body.len();
        client.send(format!("POST /v1/locks/{name} HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n{body}")).await;
        self.locks.is_waited_for(1).await;
        client
    }
}

#[track_caller]
fn token(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["token"].as_str().unwrap().to_owned()
}

#[track_caller]
fn assert_is(answer: &Answer, status: u16, kind: &str) {
    assert_eq!((answer.status, answer.json()["type"].as_str()), (status, Some(kind)), "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.header("retry-after").is_empty(), status != 503, "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_had_held_renewed_and_freed() {
    let daemon = Daemon::start().await;
    let first = daemon.take("a", r#"{"ttl_ms":2000,"wait_ms":0}"#).await;
    assert_eq!((first.json()["ttl_ms"].as_u64(), first.header("cache-control")), (Some(2_000), "no-store"));
    let held = token(&first);
    assert_is(&daemon.take("a", r#"{"wait_ms":0}"#).await, 409, "lock-held");
    assert_eq!(daemon.renew("a", &held).await.json()["ttl_ms"], 2_000);
    for wrong in ["another", "a%20b", &"x".repeat(200)] {
        assert_is(&daemon.renew("a", wrong).await, 409, "lock-lost");
        assert_is(&daemon.free("a", wrong).await, 409, "lock-lost");
    }
    let freed = daemon.free("a", &held).await;
    assert_eq!((freed.status, freed.body.len()), (204, 0));
    assert_is(&daemon.free("a", &held).await, 409, "lock-lost");
    assert_is(&daemon.renew("a", &held).await, 409, "lock-lost");
    let second = daemon.take("a", "{}").await;
    assert_eq!(second.json()["ttl_ms"], 10_000, "the default");
    assert!(second.json()["fence"].as_u64() > first.json()["fence"].as_u64());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_is(&daemon.renew("a", &token(&second)).await, 409, "lock-lost");
}

#[tokio::test(start_paused = true)]
async fn a_name_is_any_bytes_decoded_once() {
    let daemon = Daemon::start().await;
    for (path, name) in
        [("a/b//../c", &b"a/b//../c"[..]), ("a%2Fb%252F", b"a/b%2F"), ("%00%ff", b"\0\xff"), ("%3F", b"?")]
    {
        let held = token(&daemon.take(path, r#"{"wait_ms":0}"#).await);
        daemon.locks.take_away(&LockName::new(name).unwrap());
        assert_is(&daemon.free(path, &held).await, 409, "lock-lost");
    }
    let longest = "x".repeat(LOCK_NAME_LEN_MAX);
    assert_eq!(daemon.take(&longest, "{}").await.status, 200);
    assert_is(&daemon.take(&format!("{longest}x"), "{}").await, 413, "too-large");
    for path in ["", "%", "%zz", "a?wait_ms=1"] {
        assert_is(&daemon.take(path, "{}").await, 400, "bad-request");
    }
}

#[tokio::test(start_paused = true)]
async fn bad_input_is_told_apart_and_locks_nothing() {
    let daemon = Daemon::start().await;
    for body in [
        "",
        "null",
        "[10000,0]",
        r#"{"ttl_ms":0}"#,
        r#"{"ttl_ms":99}"#,
        r#"{"ttl_ms":60001}"#,
        r#"{"ttl_ms":"10s"}"#,
        r#"{"wait_ms":-1}"#,
        r#"{"wait_ms":3600000}"#,
        r#"{"ttl":10000}"#,
    ] {
        assert_is(&daemon.take("a", body).await, 400, "bad-request");
    }
    assert_is(&daemon.take("a", &format!("{{\"wait_ms\":{}0}}", " ".repeat(5_000))).await, 413, "too-large");
    for (method, path, body) in [
        ("PUT", "/v1/locks/a", ""),
        ("PUT", "/v1/locks/a", "{}"),
        ("PUT", "/v1/locks/a", r#"{"token":""}"#),
        ("PUT", "/v1/locks/a", r#"{"token":7}"#),
        ("DELETE", "/v1/locks/a", ""),
        ("DELETE", "/v1/locks/a?token=", ""),
        ("DELETE", "/v1/locks/a?toke=x", ""),
        ("DELETE", "/v1/locks/a?token=x&force=1", ""),
        ("DELETE", "/v1/locks/?token=x", ""),
    ] {
        assert_is(&daemon.ask(method, path, "", body).await, 400, "bad-request");
    }
    let wrong = daemon.ask("GET", "/v1/locks/a", "", "").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, "POST, PUT, DELETE"));
    assert_eq!(daemon.locks.in_use(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_the_lock_or_when_it_is_over() {
    let daemon = Daemon::start().await;
    let held = token(&daemon.take("a", r#"{"ttl_ms":60000}"#).await);
    let begun = Instant::now();
    // Longer than a request may take that doesn't say.
    assert_is(&daemon.take("a", r#"{"wait_ms":30000}"#).await, 409, "lock-held");
    assert_eq!(begun.elapsed().as_secs(), 30);
    let mut waiter = daemon.waiter("a", r#"{"wait_ms":29000}"#).await;
    assert_eq!(daemon.free("a", &held).await.status, 204);
    let next = waiter.answer_to("POST").await.unwrap();
    assert_ne!(token(&next), held);
    let begun = Instant::now();
    let bounded = daemon.ask("POST", "/v1/locks/a", "Larder-Timeout-Ms: 700\r\n", r#"{"wait_ms":5000}"#).await;
    assert_is(&bounded, 504, "timed-out");
    assert_eq!(begun.elapsed().as_millis(), 700);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_while_it_waits_holds_nothing() {
    let daemon = Daemon::start().await;
    let held = token(&daemon.take("a", r#"{"ttl_ms":60000}"#).await);
    drop(daemon.waiter("a", r#"{"ttl_ms":60000,"wait_ms":60000}"#).await);
    // At once: nobody has noticed yet that it has gone.
    assert_eq!(daemon.free("a", &held).await.status, 204);
    let begun = Instant::now();
    let next = daemon.take("a", r#"{"ttl_ms":60000,"wait_ms":30000}"#).await;
    assert!(next.status == 200 && begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_may_end_its_half_of_the_connection() {
    use tokio::io::AsyncWriteExt;

    let daemon = Daemon::start().await;
    let mut client = daemon.connect();
    let body = r#"{"wait_ms":0}"#;
    let len = body.len();
    client.send(format!("POST /v1/locks/a HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n{body}")).await;
    client.0.shutdown().await.unwrap();
    assert_eq!(client.answer_to("POST").await.unwrap().status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_away_is_a_503_and_one_that_is_silent_a_504() {
    let daemon = Daemon::start().await;
    let held = token(&daemon.take("a", "{}").await);
    daemon.locks.set_trouble(Trouble::Away);
    assert_is(&daemon.take("b", "{}").await, 503, "owner-unreachable");
    assert_is(&daemon.renew("a", &held).await, 503, "owner-unreachable");
    assert_is(&daemon.free("a", &held).await, 503, "owner-unreachable");
    daemon.locks.set_trouble(Trouble::Silent);
    assert_is(&daemon.renew("a", &held).await, 504, "timed-out");
    daemon.locks.set_trouble(Trouble::None);
    assert_is(&daemon.renew("a", &held).await, 409, "lock-lost");
}

#[tokio::test(start_paused = true)]
async fn who_waits_at_a_node_that_leaves_is_sent_elsewhere() {
    let daemon = Daemon::start().await;
    let held = token(&daemon.take("a", "{}").await);
    let mut waiter = daemon.waiter("a", r#"{"wait_ms":60000}"#).await;
    daemon.draining.send_replace(true);
    assert_is(&waiter.answer_to("POST").await.unwrap(), 503, "draining");
    assert_eq!(daemon.renew("a", &held).await.status, 200, "what is held stays held");
}
