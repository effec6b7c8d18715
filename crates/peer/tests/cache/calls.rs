//! What the four calls answer.

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, join_all, pending};
use larder_core::{
    Error, PeerService, Version,
    peer::{PeerAnswer, PeerQuestion, PeerWrite},
    testing::origin::Mood,
};
use larder_peer::grpc::{
    api::{
        Condition, DeleteRequest, GetRequest, KeyAnswer, PutRequest, Value, cache_client::CacheClient, condition::When,
        key_answer::Outcome,
    },
    status::CACHE_STATUS,
};
use tokio::time::{Instant, timeout};
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::{
    channel::Channel,
    node::{PLAIN, Served, USERS, VALUE_LEN_MAX, delete, error, get, get_many, put},
};

const PATIENCE: Duration = Duration::from_secs(10);

fn within<M>(time: Duration, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(time);
    request
}

#[tokio::test]
async fn what_is_put_is_got_with_all_that_is_known_of_it() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let told = PutRequest { content_type: "text/x".into(), ttl_ms: Some(90_000), ..put("k", "value") };
    let version = client.put(told).await.unwrap().into_inner().version;
    let parsed: Version = version.parse().unwrap();
    assert_eq!(parsed.to_string(), version);
    let got = client.get(get(PLAIN, "k")).await.unwrap().into_inner();
    let Value { data, content_type, version: of, age_ms, ttl_left_ms, cache_status } = got.value.unwrap();
    assert_eq!((&data[..], content_type.as_str(), of), (&b"value"[..], "text/x", version));
    assert_eq!((cache_status.as_str(), got.unchanged), ("larder; hit", false));
    assert!(age_ms < 10_000);
    assert!(ttl_left_ms.is_some_and(|left| (80_000..=90_000).contains(&left)), "{ttl_left_ms:?}");

    let later = client.put(put("k", "")).await.unwrap().into_inner().version;
    assert!(later > parsed.to_string(), "later versions are greater as text");
    let value = client.get(get(PLAIN, "k")).await.unwrap().into_inner().value.unwrap();
    assert_eq!((value.content_type.as_str(), value.ttl_left_ms), ("application/octet-stream", None));
    assert!(value.data.is_empty());

    client.delete(delete(PLAIN, "k")).await.unwrap();
    assert_eq!(error(client.get(get(PLAIN, "k")).await), (Code::NotFound, "not-found".into()));
    client.delete(delete(PLAIN, "k")).await.unwrap();
}

#[tokio::test]
async fn any_bytes_are_a_key_and_long_values_are_values() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let every_byte: Vec<u8> = (0..=255).collect();
    for key in [&b"a b/../%2F"[..], b"\0", b"\xff\xfe", &every_byte, &[0xfe; 1024]] {
        let value = [key, b"!"].concat();
        client.put(put(key, value.clone())).await.unwrap();
        assert_eq!(client.get(get(PLAIN, key)).await.unwrap().into_inner().value.unwrap().data, value);
    }
    let long: Vec<u8> = (0..VALUE_LEN_MAX).map(|at| (at / 1000 % 251) as u8).collect();
    client.put(put("long", long.clone())).await.unwrap();
    assert!(client.get(get(PLAIN, "long")).await.unwrap().into_inner().value.unwrap().data == long);
}

#[tokio::test]
async fn a_caller_that_has_the_value_is_told_so_and_not_sent_it() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let version = client.put(put("k", "value")).await.unwrap().into_inner().version;
    let known = |version: &str| GetRequest { known_version: version.into(), ..get(PLAIN, "k") };
    let got = client.get(known(&version)).await.unwrap().into_inner();
    let value = got.value.unwrap();
    assert!(got.unchanged && value.data.is_empty());
    assert_eq!((value.version, value.cache_status.as_str()), (version, "larder; hit"));
    for other in ["", "x", "000000000000000000000000"] {
        let got = client.get(known(other)).await.unwrap().into_inner();
        assert_eq!((got.unchanged, &got.value.unwrap().data[..]), (false, &b"value"[..]), "{other}");
    }
}

#[tokio::test]
async fn a_hundred_calls_on_one_connection_cost_the_origin_one_load() {
    let served = Served::start().await;
    let client = served.client().await;
    served.origin.close_gate();
    let calls = (0..100).map(|_| {
        let mut client = client.clone();
        tokio::spawn(async move { client.get(get(USERS, "k")).await.unwrap().into_inner().value.unwrap() })
    });
    let calls: Vec<_> = calls.collect();
    timeout(PATIENCE, served.origin.requested(1)).await.unwrap();
    has_read(&client).await;
    served.origin.let_through(1);
    let mut collapsed = 0;
    for call in calls {
        let value = call.await.unwrap();
        assert_eq!(value.data, "k=0");
        collapsed += usize::from(value.cache_status == "larder; fwd=uri-miss; collapsed");
    }
    assert_eq!(served.origin.loads("k"), 1);
    assert!(collapsed > 50, "only {collapsed} were there before the answer");
}

/// Who answers this has most likely begun what was asked before on the same connection.
async fn has_read(client: &CacheClient<Channel>) {
    for _ in 0..3 {
        assert_eq!(error(client.clone().get(get(PLAIN, "nothing")).await).0, Code::NotFound);
    }
}

#[tokio::test]
async fn many_keys_have_an_answer_each_in_their_order() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let too_long = [b'k'; 1025];
    let keys: [&[u8]; 7] = [b"a", b"missing", b"", b"b", &too_long, b"\xff", b"a"];
    let answers = client.get_many(get_many(USERS, keys)).await.unwrap().into_inner().answers;
    let told: Vec<String> = answers.into_iter().map(brief).collect();
    let expected = ["a=0", "larder; fwd=uri-miss; stored", "bad-request", "b=0", "too-large", "\\xff=0", "a=0"];
    assert_eq!(told, expected);
    let again = client.get_many(get_many(USERS, ["missing"])).await.unwrap().into_inner().answers;
    assert_eq!(brief(again[0].clone()), "larder; hit; detail=negative");
    served.origin.set_mood(Mood::Failing);
    let failing = client.get_many(get_many(USERS, ["a", "c"])).await.unwrap().into_inner().answers;
    assert_eq!(failing.into_iter().map(brief).collect::<Vec<_>>(), ["a=0", "origin-failed"]);
    assert!(client.get_many(get_many(USERS, [""; 0])).await.unwrap().into_inner().answers.is_empty());
}

fn brief(answer: KeyAnswer) -> String {
    match answer.outcome.unwrap() {
        Outcome::Value(value) => {
            assert_eq!((value.version.len(), value.content_type.as_str()), (24, "application/octet-stream"));
            value.data.escape_ascii().to_string()
        }
        Outcome::NotFound(known) => known.cache_status,
        Outcome::Failed(failed) => {
            assert!(!failed.message.is_empty());
            failed.r#type
        }
    }
}

fn only(when: When) -> Option<Condition> {
    Some(Condition { when: Some(when) })
}

#[tokio::test]
async fn conditions_are_judged() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let absent = |value: &'static str| PutRequest { condition: only(When::IfAbsent(true)), ..put("k", value) };
    let of_version = |value: &'static str, version: &str| PutRequest {
        condition: only(When::IfVersion(version.into())),
        ..put("k", value)
    };
    let delete_of =
        |version: &str| DeleteRequest { condition: only(When::IfVersion(version.into())), ..delete(PLAIN, "k") };
    let mismatch = (Code::Aborted, "version-mismatch".to_owned());
    let first = client.put(absent("one")).await.unwrap().into_inner().version;
    assert_eq!(error(client.put(absent("two")).await), mismatch);
    let second = client.put(of_version("two", &first)).await.unwrap().into_inner().version;
    assert_eq!(error(client.put(of_version("three", &first)).await), mismatch);
    assert_eq!(client.get(get(PLAIN, "k")).await.unwrap().into_inner().value.unwrap().data, "two");
    assert_eq!(error(client.delete(delete_of(&first)).await), mismatch);
    let if_absent = only(When::IfAbsent(true));
    assert_eq!(error(client.delete(DeleteRequest { condition: if_absent, ..delete(PLAIN, "k") }).await), mismatch);
    client.delete(delete_of(&second)).await.unwrap();
    assert_eq!(error(client.delete(delete_of(&second)).await), mismatch);
    client.put(absent("four")).await.unwrap();
    let not_absent = only(When::IfAbsent(false));
    client.put(PutRequest { condition: not_absent, ..put("k", "five") }).await.unwrap();
    let newer = Some(Condition { when: None });
    let refused = client.put(PutRequest { condition: newer, ..put("k", "six") }).await;
    assert_eq!(error(refused), (Code::InvalidArgument, "bad-request".into()));
    for wrong in ["", "x", "00000000000000000000000g"] {
        assert_eq!(error(client.put(of_version("v", wrong)).await), (Code::InvalidArgument, "bad-request".into()));
        assert_eq!(error(client.delete(delete_of(wrong)).await), (Code::InvalidArgument, "bad-request".into()));
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let told = |code, kind: &str| (code, kind.to_owned());
    let invalid = || told(Code::InvalidArgument, "bad-request");
    let too_large = || told(Code::ResourceExhausted, "too-large");
    for (group, expected) in [
        ("Users", invalid()),
        ("", invalid()),
        (&"g".repeat(65), invalid()),
        ("nobody", told(Code::NotFound, "unknown-group")),
    ] {
        assert_eq!(error(client.get(get(group, "k")).await), expected, "{group}");
        assert_eq!(error(client.get_many(get_many(group, ["k"])).await), expected, "{group}");
        assert_eq!(error(client.delete(delete(group, "k")).await), expected, "{group}");
        assert_eq!(error(client.put(PutRequest { group: group.into(), ..put("k", "v") }).await), expected, "{group}");
    }
    for (key, expected) in [(vec![], invalid()), (vec![b'k'; 1025], too_large()), (vec![b'k'; 9000], too_large())] {
        assert_eq!(error(client.get(get(PLAIN, &key)).await), expected);
        assert_eq!(error(client.put(put(&key, "v")).await), expected);
        assert_eq!(error(client.delete(delete(PLAIN, &key)).await), expected);
    }
    let odd = PutRequest { content_type: "text/x\r\nevil: 1".into(), ..put("k", "v") };
    assert_eq!(error(client.put(odd).await), invalid());
    let too_long = vec![0; VALUE_LEN_MAX + 1];
    assert_eq!(error(client.put(put("k", too_long)).await), too_large());
    let keys: Vec<String> = (0..1001).map(|number| number.to_string()).collect();
    assert_eq!(client.get_many(get_many(PLAIN, &keys[1..])).await.unwrap().into_inner().answers.len(), 1000);
    assert_eq!(error(client.get_many(get_many(PLAIN, &keys)).await), invalid());
    assert_eq!(served.group(PLAIN).store_stats().items(), 0);
}

#[tokio::test]
async fn what_went_wrong_behind_the_node_is_told() {
    let served = Served::among(&["a", "b"]).await;
    let mut client = served.client().await;
    let own = served.key_of(USERS, "a");
    let read_only = PutRequest { group: USERS.into(), ..put(&own, "v") };
    assert_eq!(error(client.put(read_only).await), (Code::FailedPrecondition, "read-only".into()));

    let missing = client.get(get(USERS, "missing")).await.unwrap_err();
    let info = missing.get_details_error_info().unwrap();
    assert_eq!((missing.code(), info.reason.as_str()), (Code::NotFound, "not-found"));
    assert!(info.metadata[CACHE_STATUS].starts_with("larder; fwd=uri-miss"));

    served.origin.set_mood(Mood::Failing);
    assert_eq!(error(client.get(get(USERS, &own)).await), (Code::Unknown, "origin-failed".into()));

    // Nobody is at b's address.
    let others = served.key_of(PLAIN, "b");
    let status = client.put(put(&others, "v")).await.unwrap_err();
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert_eq!(error::<()>(Err(status)), (Code::Unavailable, "owner-unreachable".into()));

    // Now there is somebody, who says nothing.
    served.network.add("b", Arc::new(Silent));
    let write = client.put(within(Duration::from_millis(300), put(&others, "v"))).await;
    assert_eq!(error(write), (Code::DeadlineExceeded, "indeterminate".into()));
}

/// Another node that never answers.
struct Silent;

impl PeerService for Silent {
    fn answer(&self, _: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
        Box::pin(pending())
    }

    fn write(&self, _: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
        Box::pin(pending())
    }
}

#[tokio::test]
async fn a_deadline_is_kept() {
    let served = Served::start().await;
    let mut client = served.client().await;
    served.origin.close_gate();
    for time in [Duration::from_millis(300), Duration::ZERO] {
        let start = Instant::now();
        let late = (Code::DeadlineExceeded, "timed-out".to_owned());
        assert_eq!(error(client.get(within(time, get(USERS, "k"))).await), late);
        assert!(start.elapsed() >= time && start.elapsed() < time + Duration::from_secs(5), "{:?}", start.elapsed());
    }
    let many = client.get_many(within(Duration::from_millis(100), get_many(USERS, ["k", "l"]))).await.unwrap();
    let told: Vec<String> = many.into_inner().answers.into_iter().map(brief).collect();
    assert_eq!(told, ["timed-out", "timed-out"]);
    let mut odd = Request::new(get(PLAIN, "k"));
    odd.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    assert_eq!(error(client.get(odd).await), (Code::InvalidArgument, "bad-request".into()));
}

#[tokio::test]
async fn a_call_that_is_cancelled_takes_nobody_along() {
    let served = Served::start().await;
    let client = served.client().await;
    served.origin.close_gate();
    let call = |key: &'static str| {
        let mut client = client.clone();
        tokio::spawn(async move { client.get(get(USERS, key)).await.unwrap().into_inner().value.unwrap().data })
    };
    let first = call("k");
    timeout(PATIENCE, served.origin.requested(1)).await.unwrap();
    let others: Vec<_> = (0..20).map(|_| call("k")).collect();
    has_read(&client).await;
    first.abort();
    for cancelled in (0..300).map(|_| call("k")).collect::<Vec<_>>() {
        tokio::task::yield_now().await;
        cancelled.abort();
    }
    has_read(&client).await;
    served.origin.let_through(1);
    for answer in join_all(others).await {
        assert_eq!(answer.unwrap(), "k=0");
    }
    assert_eq!(served.origin.loads("k"), 1);
}

#[tokio::test]
async fn gets_are_counted_as_those_over_http_are() {
    use larder_core::stats::GetOutcome;
    let served = Served::start().await;
    let mut client = served.client().await;
    client.get(get(USERS, "k")).await.unwrap();
    client.get(get(USERS, "k")).await.unwrap();
    served.origin.set_mood(Mood::Failing);
    client.get(get(USERS, "other")).await.unwrap_err();
    let group = served.group(USERS);
    let counted = |outcome| group.stats().get_durations.of(outcome).snapshot().count;
    assert_eq!(group.stats().gets(), 3);
    assert_eq!([GetOutcome::Miss, GetOutcome::Hit, GetOutcome::Error].map(counted), [1, 1, 1]);
}
