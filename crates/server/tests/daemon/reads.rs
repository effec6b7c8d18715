//! What a get tells besides the value, and reads of many keys.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::Method;
use serde_json::json;

use crate::{
    client::{Answer, GROUP, get_key, key_path, request, value_of},
    cluster::{Cluster, Over, over_each_transport},
    origin::{LATE, Origin},
    process::Daemon,
};

async fn get_many(node: &Daemon, body: serde_json::Value) -> Answer {
    let path = format!("/v1/groups/{GROUP}/get-many");
    node.ask(request(Method::POST, &path, &[("content-type", "application/json")], body.to_string())).await
}

over_each_transport!(
    version_and_age_are_the_same_from_every_node,
    a_client_that_has_the_value_is_told_so_by_every_node,
    head_tells_all_but_the_value,
    many_keys_of_many_owners_come_in_one_answer,
    a_thousand_keys_are_the_most,
);

async fn version_and_age_are_the_same_from_every_node(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 3, &origin.group("ttl = '10m'\nttl_jitter = 0.0")).await;
    // A load that takes its time, so that there is an age to tell.
    let key = cluster.key_of(1, "late").await;
    let mut tags = Vec::new();
    for node in &cluster.nodes {
        let answer = node.ask(get_key(&key)).await;
        let age: u64 = answer.header("age").parse().unwrap();
        assert!(age >= LATE.as_secs() && age <= LATE.as_secs() + 3, "{answer:?}");
        let ttl_ms: u64 = answer.header("larder-ttl-ms").parse().unwrap();
        assert!(ttl_ms > 590_000 && ttl_ms < 599_000, "counted from the start of the load: {ttl_ms}");
        assert_eq!(answer.header("cache-control"), "no-cache");
        let tag = answer.header("etag").to_owned();
        assert_eq!(tag.len(), 26, "24 hexadecimal digits in quotes: {tag}");
        tags.push(tag);
    }
    assert!(tags.iter().all(|tag| *tag == tags[0]), "{tags:?}");
    assert_eq!(origin.loads(&key), 1);
}

async fn a_client_that_has_the_value_is_told_so_by_every_node(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 3, &origin.group("")).await;
    let tag = cluster[0].ask(get_key("key")).await.header("etag").to_owned();
    for node in &cluster.nodes {
        let known = request(Method::GET, &key_path("key"), &[("if-none-match", &format!("\"x\", {tag}"))], "");
        let answer = node.ask(known).await;
        assert_eq!((answer.status, answer.header("etag"), answer.body.len()), (304, tag.as_str(), 0));
        let other = request(Method::GET, &key_path("key"), &[("if-none-match", "\"000000000000000000000000\"")], "");
        assert_eq!(node.ask(other).await.status, 200);
    }
}

async fn head_tells_all_but_the_value(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 2, &origin.group("")).await;
    for node in &cluster.nodes {
        let head = node.ask(request(Method::HEAD, &key_path("key"), &[], "")).await;
        let get = node.ask(get_key("key")).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        for name in ["etag", "content-length", "content-type", "cache-control"] {
            assert_eq!(head.header(name), get.header(name), "{name}");
        }
        let missing = node.ask(request(Method::HEAD, &key_path("missing"), &[], "")).await;
        assert_eq!((missing.status, missing.body.len()), (404, 0));
    }
}

async fn many_keys_of_many_owners_come_in_one_answer(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 3, &origin.group("")).await;
    let keys: Vec<String> = (0..60).map(|number| format!("key{number}")).collect();
    let raw: &[u8] = b"\xff/\0";
    for (turn, node) in cluster.nodes.iter().enumerate() {
        let body = json!({
            "keys": keys.iter().map(String::as_str).chain(["missing", "broken"]).collect::<Vec<_>>(),
            "keys_b64": [STANDARD.encode(raw), STANDARD.encode("missing too")],
        });
        let answer = get_many(node, body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let told = answer.json();
        assert_eq!(told["values"].as_object().unwrap().len(), keys.len());
        for key in &keys {
            assert_eq!(told["values"][key], STANDARD.encode(value_of(key)), "{key}");
        }
        assert_eq!(told["missing"], json!(["missing"]));
        assert!(told["errors"]["broken"].is_string(), "{told}");
        assert_eq!(told["values_b64"][STANDARD.encode(raw)], STANDARD.encode(value_of(raw)));
        assert_eq!(told["missing_b64"], json!([STANDARD.encode("missing too")]));
        for key in keys.iter().map(|key| key.as_bytes()).chain([raw]) {
            assert_eq!(origin.loads(key), 1, "after node {turn}");
        }
    }
}

async fn a_thousand_keys_are_the_most(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 2, &origin.group("")).await;
    let keys = |len: usize| json!({ "keys": (0..len).map(|number| format!("{number}")).collect::<Vec<_>>() });
    let answer = get_many(&cluster[0], keys(1000)).await;
    assert_eq!(answer.json()["values"].as_object().unwrap().len(), 1000);
    assert_eq!(get_many(&cluster[0], keys(1001)).await.problem(), (400, "bad-request".to_owned()));
    let answer = get_many(&cluster[0], json!({ "keys": ["", "k".repeat(1025), "fine"] })).await;
    let told = answer.json();
    assert_eq!((told["values"].as_object().unwrap().len(), told["errors"].as_object().unwrap().len()), (1, 2));
}
