//! What the API answers operators.

use std::sync::Mutex;

use larder::{Member, Node, cluster::Static};
use larder_server::{
    commands::Failure,
    config::Config,
    http::{Api, ApiConfig, HttpLimits, Operations},
    reload::Reload,
};
use tokio::sync::watch;

use crate::{
    api::Daemon,
    client::{Answer, Server},
};

/// What operators can have done at a node that runs by an empty configuration.
fn operations(api: &Api, draining: &watch::Sender<bool>) -> Operations {
    let config = Config::parse("", &[]).unwrap();
    Operations { draining: draining.clone(), reload: Reload::new(config, None, api.clone()), journal: None }
}

async fn post(admin: &Server, path: &str) -> Answer {
    let mut client = admin.connect();
    client.send(format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")).await;
    client.answer().await.expect("an answer")
}

#[tokio::test(start_paused = true)]
async fn a_serving_member_is_healthy_and_ready_until_it_drains() {
    let daemon = Daemon::start().await;
    let admin = Server::with(daemon.api.admin(operations(&daemon.api, &daemon.draining)), HttpLimits::default());
    for path in ["/healthz", "/readyz"] {
        assert_eq!(admin.get(path).await.status, 200, "{path}");
    }
    assert_eq!(post(&admin, "/v1/drain").await.status, 202);
    assert!(*daemon.draining.borrow());
    assert_eq!(admin.get("/healthz").await.status, 200);
    let draining = admin.get("/readyz").await;
    assert_eq!((draining.status, &*draining.problem()), (503, "draining"));
    assert_eq!(admin.get("/v1/groups").await.problem(), "unknown-path");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_the_members_do_not_name_is_not_ready() {
    let others = Static::new([Member::new("b", "127.0.0.1:1")]).unwrap();
    let node = Node::builder().name("a").membership(others).start().await.unwrap();
    let (draining, watched) = watch::channel(false);
    let api = Api::new(ApiConfig {
        node: node.core().clone(),
        locks: node.locks().clone(),
        max_ages: Default::default(),
        draining: watched,
    });
    let admin = Server::with(api.admin(operations(&api, &draining)), HttpLimits::default());
    assert_eq!(admin.get("/healthz").await.status, 200);
    assert_eq!(admin.get("/readyz").await.status, 503);
}

#[tokio::test]
async fn what_was_read_anew_is_told_key_by_key_and_mistakes_change_nothing() {
    let daemon = Daemon::start().await;
    let Operations { draining, reload, journal } = operations(&daemon.api, &daemon.draining);
    let texts = Mutex::new(vec!["node.zone = 'b'\ngroups.default.ttl = '5m'", "[groups.x]", "node.zone = 1"]);
    let reload = reload.reading(move || {
        let text = texts.lock().unwrap().remove(0);
        Config::parse(text, &[]).map_err(|mistakes| Failure::mistaken(None, &mistakes))
    });
    let admin = Server::with(daemon.api.admin(Operations { draining, reload, journal }), HttpLimits::default());
    let first = post(&admin, "/v1/reload").await;
    assert_eq!((first.status, first.header("content-type")), (200, "application/json"));
    assert_eq!(first.text(), r#"{"changed":["groups.default.ttl"],"needs_restart":["node.zone"]}"#);
    // The ttl is what it became, and a group that is not there, or no longer, is named as a whole.
    let second = post(&admin, "/v1/reload").await;
    assert_eq!(second.text(), r#"{"changed":[],"needs_restart":["groups.default","groups.x"]}"#);
    let third = post(&admin, "/v1/reload").await;
    assert_eq!((third.status, &*third.problem()), (400, "bad-configuration"));
    assert!(third.text().contains("line 1: node.zone: expected a word"), "{}", third.text());
}

/// The samples of the text, with their labels.
fn samples(text: &str) -> Vec<(&str, f64)> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, value)| (name, value.parse().unwrap())).collect()
}

#[tokio::test(start_paused = true)]
async fn metrics_tell_what_was_done() {
    let daemon = Daemon::start().await;
    for path in ["/v1/groups/users/keys/1", "/v1/groups/users/keys/1", "/v1/groups/users/keys/broken"] {
        daemon.get(path).await;
    }
    daemon.ask("PUT", "/v1/groups/plain/keys/k", "", "x").await;
    daemon.ask("DELETE", "/v1/groups/plain/keys/k", "", "").await;
    let admin = Server::with(daemon.api.admin(operations(&daemon.api, &daemon.draining)), HttpLimits::default());
    let answer = admin.get("/metrics").await;
    assert!(answer.header("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(answer.text().ends_with("# EOF\n"));
    let samples = samples(answer.text());
    let sample = |name: &str| {
        let found: Vec<_> = samples.iter().filter(|sample| sample.0 == name).collect();
        assert_eq!(found.len(), 1, "{name} stands {} times in {}", found.len(), answer.text());
        found[0].1
    };
    for (name, expected) in [
        (r#"larder_gets_total{group="users"}"#, 3.0),
        (r#"larder_hits_total{group="users",tier="main"}"#, 1.0),
        (r#"larder_hits_total{group="users",tier="hot"}"#, 0.0),
        (r#"larder_misses_total{group="users"}"#, 2.0),
        (r#"larder_loads_total{group="users",source="origin"}"#, 1.0),
        (r#"larder_load_errors_total{group="users",kind="origin"}"#, 1.0),
        (r#"larder_origin_requests_total{group="users",op="load",result="ok"}"#, 1.0),
        (r#"larder_origin_requests_total{group="users",op="load",result="error"}"#, 1.0),
        (r#"larder_writes_total{group="plain",mode="none",result="ok"}"#, 2.0),
        (r#"larder_invalidations_total{group="plain"}"#, 1.0),
        (r#"larder_evictions_total{group="plain",tier="main",reason="invalidated"}"#, 1.0),
        (r#"larder_cache_items{group="users",tier="main"}"#, 1.0),
        (r#"larder_members{state="serving"}"#, 1.0),
        ("larder_owned_slots", 16_384.0),
        ("larder_view_changes_total", 0.0),
        (r#"larder_get_duration_seconds_count{group="users",outcome="hit"}"#, 1.0),
        (r#"larder_get_duration_seconds_count{group="users",outcome="miss"}"#, 1.0),
        (r#"larder_get_duration_seconds_count{group="users",outcome="error"}"#, 1.0),
        (r#"larder_get_duration_seconds_bucket{le="+Inf",group="users",outcome="hit"}"#, 1.0),
        (r#"larder_get_duration_seconds_bucket{le="10.0",group="users",outcome="hit"}"#, 1.0),
        (r#"larder_origin_duration_seconds_count{group="users",op="load"}"#, 2.0),
    ] {
        assert_eq!(sample(name), expected, "{name}");
    }
    assert!(sample(r#"larder_cache_bytes{group="users",tier="main"}"#) > 0.0);
    assert!(answer.text().contains(concat!("larder_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\",commit=")));
}
