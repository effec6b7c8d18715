//! The daemon as clients meet it over gRPC.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::Method;
use larder::peer::grpc::{
    api::{
        Condition, DeleteRequest, GetManyRequest, GetRequest, PutRequest, cache_client::CacheClient, condition::When,
        key_answer::Outcome,
    },
    status::ERROR,
};
use rustix::process::Signal;
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::{
    channel::Channel,
    client::{GROUP, get_key, key_path, put_key, request, value_of, within},
    cluster::{Cluster, Over},
    origin::Origin,
    process::Daemon,
};

/// More than anything here takes that is not held up.
const TIME_MAX: Duration = Duration::from_secs(5);

async fn channel(daemon: &Daemon) -> (Channel, http::Uri) {
    let address = daemon.peers.unwrap();
    (Channel::connect(address).await.0, format!("http://{address}").parse().unwrap())
}

async fn cache(daemon: &Daemon) -> CacheClient<Channel> {
    let (channel, uri) = channel(daemon).await;
    CacheClient::with_origin(channel, uri).max_decoding_message_size(usize::MAX)
}

fn get(key: impl AsRef<[u8]>) -> GetRequest {
    GetRequest { group: GROUP.into(), key: key.as_ref().to_vec().into(), known_version: String::new() }
}

fn put(key: &str, value: &str) -> PutRequest {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    PutRequest { group: GROUP.into(), key, value, ..PutRequest::default() }
}

#[track_caller]
fn kind<T: std::fmt::Debug>(outcome: Result<T, Status>) -> String {
    outcome.unwrap_err().metadata().get(ERROR).unwrap().to_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_is_put_over_grpc_is_got_over_http_at_every_node_and_the_other_way_round() {
    let cluster = Cluster::start(Over::Grpc, 3, "[groups.g]\nttl = '10m'\nttl_jitter = 0.0").await;
    for owner in 0..3 {
        let key = cluster.key_of(owner, "key").await;
        let typed = PutRequest { content_type: "text/x".into(), ..put(&key, "over gRPC") };
        let version = cache(&cluster[0]).await.put(typed).await.unwrap().into_inner().version;
        for node in &cluster.nodes {
            let over_http = node.ask(get_key(&key)).await;
            let value = cache(node).await.get(get(&key)).await.unwrap().into_inner().value.unwrap();
            assert_eq!((over_http.text(), &value.data[..]), ("over gRPC", &b"over gRPC"[..]));
            assert_eq!((over_http.header("etag"), &value.version), (&*format!("\"{version}\""), &version));
            assert_eq!((over_http.header("content-type"), &*value.content_type), ("text/x", "text/x"));
            assert_eq!(over_http.header("cache-status"), value.cache_status);
            assert!(value.ttl_left_ms.unwrap().abs_diff(600_000) < 10_000);
        }
        cluster[1].ask(put_key(&key, "over HTTP")).await;
        let mut last = cache(&cluster[2]).await;
        let value = last.get(get(&key)).await.unwrap().into_inner().value.unwrap();
        assert_eq!((&value.data[..], &*value.content_type), (&b"over HTTP"[..], "application/octet-stream"));
        let group = GROUP.to_owned();
        last.delete(DeleteRequest { group, key: key.clone().into(), condition: None, idempotency_key: String::new() })
            .await
            .unwrap();
        assert_eq!(cluster[0].ask(get_key(&key)).await.status, 404);
    }
}

#[tokio::test]
async fn an_error_is_the_same_over_grpc_and_http() {
    let origin = Origin::start().await;
    let groups = format!("{}[groups.plain]\nmax_value = '1KiB'\n", origin.group("max_value = '1KiB'"));
    let cluster = Cluster::start(Over::Grpc, 2, &groups).await;
    let node = &cluster[0];
    let mut client = cache(node).await;
    for key in ["missing", "broken", "sized/2000/", "", &"k".repeat(1025)] {
        let (_, over_http) = node.ask(get_key(key)).await.problem();
        assert_eq!(kind(client.get(get(key)).await), over_http, "{key}");
    }
    let plain = |request: PutRequest| PutRequest { group: "plain".into(), ..request };
    let absent =
        |request: PutRequest| PutRequest { condition: Some(Condition { when: Some(When::IfAbsent(true)) }), ..request };
    let to_plain = |key: &str, headers: &[(&str, &str)], body: &str| {
        request(Method::PUT, &key_path(key).replace("/g/", "/plain/"), headers, body.to_owned())
    };
    client.put(plain(put("there", "v"))).await.unwrap();
    let long = "v".repeat(1025);
    for (over_grpc, over_http) in [
        (put("k", "v"), put_key("k", "v")),
        (plain(put("k", &long)), to_plain("k", &[], &long)),
        (absent(plain(put("there", "v"))), to_plain("there", &[("if-none-match", "*")], "v")),
        (
            PutRequest { group: "none".into(), ..put("k", "v") },
            request(Method::PUT, "/v1/groups/none/keys/k", &[], "v"),
        ),
        (PutRequest { group: "No".into(), ..put("k", "v") }, request(Method::PUT, "/v1/groups/No/keys/k", &[], "v")),
    ] {
        let (_, over_http) = node.ask(over_http).await.problem();
        assert_eq!(kind(client.put(over_grpc).await), over_http);
    }
    origin.hold();
    let mut hasty = Request::new(get("key"));
    hasty.set_timeout(Duration::from_millis(200));
    let late = within(TIME_MAX, "a call", client.get(hasty)).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert_eq!(kind::<()>(Err(late)), "timed-out");
}

#[tokio::test]
async fn many_keys_of_all_owners_come_in_one_call() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(Over::Grpc, 3, &origin.group("")).await;
    let keys: Vec<String> =
        (0..998).map(|number| format!("key{number}")).chain(["missing".into(), "broken".into()]).collect();
    for node in &cluster.nodes {
        let asked = keys.iter().map(|key| key.clone().into()).collect();
        let request = GetManyRequest { group: GROUP.into(), keys: asked };
        let answers = cache(node).await.get_many(request).await.unwrap().into_inner().answers;
        assert_eq!(answers.len(), keys.len());
        for (key, answer) in keys.iter().zip(answers) {
            match answer.outcome.unwrap() {
                Outcome::Value(value) => assert_eq!(value.data, value_of(key)),
                Outcome::NotFound(_) => assert_eq!(key, "missing"),
                Outcome::Failed(failed) => assert_eq!((key.as_str(), &*failed.r#type), ("broken", "origin-failed")),
            }
        }
    }
    assert_eq!(origin.loads("key7"), 1);
}

#[tokio::test]
async fn callers_on_all_nodes_over_both_protocols_cost_the_origin_one_load() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(Over::Grpc, 3, &origin.group("")).await;
    origin.hold();
    let mut callers = Vec::new();
    for node in &cluster.nodes {
        let client = cache(node).await;
        for _ in 0..50 {
            let mut client = client.clone();
            callers.push(tokio::spawn(async move {
                client.get(get("cold")).await.unwrap().into_inner().value.unwrap().data
            }));
        }
    }
    let over_http = cluster[0].ask(get_key("cold"));
    let released = async {
        origin.is_asked(1).await;
        origin.release();
    };
    let (over_http, ()) = tokio::join!(over_http, released);
    assert_eq!(over_http.text(), value_of("cold"));
    for caller in callers {
        assert_eq!(within(TIME_MAX, "a caller", caller).await.unwrap(), value_of("cold"));
    }
    assert_eq!(origin.targets(), ["/cold"]);
    assert_eq!(cluster.metric("larder_gets_total").await, 151);
    assert_eq!(cluster.metric("larder_get_duration_seconds_count").await, 151);
    let (frames, requests) = ("larder_peer_batch_size_count", "larder_peer_batch_size_sum");
    assert!((1..=cluster.metric(requests).await).contains(&cluster.metric(frames).await));
}

#[tokio::test]
async fn reflection_names_what_is_served() {
    let daemon = Daemon::plain().await;
    let (channel, uri) = channel(&daemon).await;
    let asked = Some(MessageRequest::ListServices(String::new()));
    let asked = stream::iter([ServerReflectionRequest { host: String::new(), message_request: asked }]);
    let mut told = ServerReflectionClient::with_origin(channel, uri).server_reflection_info(asked).await.unwrap();
    let told = told.get_mut().message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(listed) = told else { panic!("{told:?}") };
    for name in ["larder.v1.Cache", "larder.peer.v1.Peer", "grpc.health.v1.Health"] {
        assert!(listed.service.iter().any(|service| service.name == name), "{listed:?}");
    }
}

#[tokio::test]
async fn told_to_stop_it_says_so_to_watchers_and_finishes_calls() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(Over::Grpc, 2, &origin.group("")).await;
    let (channel, uri) = channel(&cluster[0]).await;
    let mut health = HealthClient::with_origin(channel, uri);
    let of = |service: &str| HealthCheckRequest { service: service.into() };
    for service in ["", "larder.v1.Cache", "larder.peer.v1.Peer"] {
        let told = health.check(of(service)).await.unwrap().into_inner();
        assert_eq!((told.status(), cluster[0].ready().await), (ServingStatus::Serving, 200));
    }
    let mut watched = health.watch(of("")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    origin.hold();
    let mut running = Vec::new();
    for owner in [0, 1] {
        let key = cluster.key_of(owner, "key").await;
        let mut client = cache(&cluster[0]).await;
        running.push(tokio::spawn(async move { (client.get(get(&key)).await, key) }));
        origin.is_asked(running.len()).await;
    }
    cluster[0].signal(Signal::TERM);
    let told = within(TIME_MAX, "the word", watched.message()).await.unwrap().unwrap();
    assert_eq!((told.status(), cluster[0].ready().await), (ServingStatus::NotServing, 503));
    assert!(within(TIME_MAX, "the last word", watched.next()).await.is_none());
    origin.release();
    for call in running {
        let (answer, key) = call.await.unwrap();
        assert_eq!(answer.unwrap().into_inner().value.unwrap().data, value_of(&key));
    }
    assert_eq!(within(TIME_MAX, "the end", cluster[0].exit_code()).await, Some(0));
}
