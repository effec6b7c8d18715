//! What the API answers operators.

use larder::{Member, Node, cluster::Static};
use larder_server::http::{Api, ApiConfig, HttpLimits};
use tokio::sync::watch;

use crate::{api::Daemon, client::Server};

#[tokio::test(start_paused = true)]
async fn a_serving_member_is_healthy_and_ready_until_it_drains() {
    let daemon = Daemon::start().await;
    let admin = Server::with(daemon.api.admin(), HttpLimits::default());
    for path in ["/healthz", "/readyz"] {
        assert_eq!(admin.get(path).await.status, 200, "{path}");
    }
    daemon.draining.send_replace(true);
    assert_eq!(admin.get("/healthz").await.status, 200);
    let draining = admin.get("/readyz").await;
    assert_eq!((draining.status, &*draining.problem()), (503, "draining"));
    assert_eq!(admin.get("/v1/groups").await.problem(), "unknown-path");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_the_members_do_not_name_is_not_ready() {
    let others = Static::new([Member::new("b", "127.0.0.1:1")]).unwrap();
    let node = Node::builder().name("a").membership(others).start().await.unwrap();
    let (_draining, watched) = watch::channel(false);
    let api = Api::new(ApiConfig { node: node.core().clone(), max_ages: Default::default(), draining: watched });
    let admin = Server::with(api.admin(), HttpLimits::default());
    assert_eq!(admin.get("/healthz").await.status, 200);
    assert_eq!(admin.get("/readyz").await.status, 503);
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
    let admin = Server::with(daemon.api.admin(), HttpLimits::default());
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
