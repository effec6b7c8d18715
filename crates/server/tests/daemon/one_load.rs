//! However many callers on however many nodes: one load.

use std::time::Duration;

use crate::{
    client::{Connection, get_key, value_of, within},
    cluster::{Cluster, Over, over_each_transport},
    crowd::{Crowd, allow_many_files, has_read},
    origin::Origin,
};

/// Far more than any of these takes.
const TIME_MAX: Duration = Duration::from_secs(9);

over_each_transport!(
    three_hundred_callers_on_three_nodes_cost_the_origin_one_request,
    a_hundred_callers_for_each_of_thirty_two_keys_cost_thirty_two,
    a_client_that_leaves_takes_nobody_along,
    a_load_that_all_have_left_is_taken_up_by_the_next,
    a_missing_key_is_not_found_everywhere_and_asked_for_once,
    an_origins_failure_is_the_answer_and_costs_one_request_a_flight,
    a_value_over_the_limit_is_refused_on_every_node_and_not_read,
);

async fn three_hundred_callers_on_three_nodes_cost_the_origin_one_request(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 3, &origin.group("")).await;
    origin.hold();
    let crowd = Crowd::ask(&cluster, &[0, 1, 2], vec!["cold".to_owned(); 300]).await;
    origin.is_asked(1).await;
    origin.release();
    let answers = within(TIME_MAX, "the crowd", crowd.answers()).await;
    let mut waited = 0;
    for (key, answer) in &answers {
        assert_eq!((answer.status, answer.text()), (200, value_of(key).as_str()));
        waited += u64::from(answer.header("cache-status").contains("collapsed"));
    }
    assert_eq!(origin.targets(), ["/cold"]);
    assert!(waited > 200, "only {waited} callers were there before the answer");
    // What the nodes count agrees with what the origin saw and the callers were told. Nodes that waited count, too.
    assert_eq!(cluster.metric("larder_origin_requests_total").await, 1);
    assert_eq!(cluster.metric("larder_gets_total").await, 300);
    assert!(cluster.metric("larder_loads_deduped_total").await >= waited);
}

async fn a_hundred_callers_for_each_of_thirty_two_keys_cost_thirty_two(over: Over) {
    allow_many_files();
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 3, &origin.group("")).await;
    origin.hold();
    // 100 is no multiple of three, so that each node is asked for each key.
    let keys = (0..3_200).map(|caller| format!("key{}", caller % 32));
    let crowd = Crowd::ask(&cluster, &[0, 1, 2], keys).await;
    origin.is_asked(32).await;
    origin.release();
    for (key, answer) in within(TIME_MAX, "the crowd", crowd.answers()).await {
        assert_eq!((answer.status, answer.text()), (200, value_of(&key).as_str()));
    }
    assert_eq!(origin.targets().len(), 32);
    assert_eq!(cluster.metric("larder_origin_requests_total").await, 32);
}

async fn a_client_that_leaves_takes_nobody_along(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 3, &origin.group("")).await;
    origin.hold();
    let key = cluster.key_of(0, "key").await;
    for (asked, leaves_from) in [(&key, 0), (&cluster.key_of(0, "other").await, 1)] {
        let before = origin.targets().len();
        let mut first = Connection::open(cluster[leaves_from].clients).await.unwrap();
        let leaving = tokio::spawn({
            let key = asked.clone();
            async move { first.ask(get_key(key)).await.map(drop) }
        });
        origin.is_asked(before + 1).await;
        let crowd = Crowd::ask(&cluster, &[0, 1, 2], vec![asked.clone(); 30]).await;
        leaving.abort();
        assert!(leaving.await.is_err(), "it has not been answered");
        has_read(&cluster, leaves_from).await;
        origin.release();
        for (key, answer) in within(TIME_MAX, "the crowd", crowd.answers()).await {
            assert_eq!((answer.status, answer.text()), (200, value_of(&key).as_str()));
        }
        assert_eq!(origin.loads(asked), 1);
        origin.hold();
    }
    origin.release();
    let again = cluster[2].ask(get_key(&key)).await;
    assert_eq!((again.text(), origin.loads(&key)), (value_of(&key).as_str(), 1));
}

async fn a_load_that_all_have_left_is_taken_up_by_the_next(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 3, &origin.group("")).await;
    origin.hold();
    let crowd = Crowd::ask(&cluster, &[0, 1, 2], vec!["key".to_owned(); 30]).await;
    origin.is_asked(1).await;
    drop(crowd);
    has_read(&cluster, 0).await;
    origin.release();
    for node in &cluster.nodes {
        let answer = within(TIME_MAX, "the next caller", node.ask(get_key("key"))).await;
        assert_eq!((answer.status, answer.text()), (200, value_of("key").as_str()));
    }
    assert!(origin.loads("key") <= 2, "{:?}", origin.targets());
}

async fn a_missing_key_is_not_found_everywhere_and_asked_for_once(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 3, &origin.group("negative_ttl = '1m'")).await;
    for round in 0..2 {
        for node in &cluster.nodes {
            let answer = node.ask(get_key("missing")).await;
            assert_eq!(answer.problem(), (404, "not-found".to_owned()), "round {round}");
        }
    }
    assert_eq!(origin.loads("missing"), 1);
    let owner = cluster.owner("missing").await;
    let answer = cluster[owner].ask(get_key("missing")).await;
    assert_eq!(answer.header("cache-status"), "larder; hit; detail=negative");
}

async fn an_origins_failure_is_the_answer_and_costs_one_request_a_flight(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 3, &origin.group("")).await;
    let owner = cluster.owner("broken").await;
    let others = [(owner + 1) % 3, (owner + 2) % 3];
    for flight in 1..=3 {
        let asked = cluster[owner].metric("larder_server_requests_total").await;
        origin.hold();
        let own = Crowd::ask(&cluster, &[owner], vec!["broken".to_owned(); 20]).await;
        origin.is_asked(flight).await;
        let others = Crowd::ask(&cluster, &others, vec!["broken".to_owned(); 2]).await;
        // A failure is not remembered: who comes after it is a flight of his own.
        within(TIME_MAX, "both questions", async {
            while cluster[owner].metric("larder_server_requests_total").await < asked + 2 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        origin.release();
        for crowd in [own, others] {
            for (_, answer) in within(TIME_MAX, "the crowd", crowd.answers()).await {
                assert_eq!(answer.problem(), (502, "origin-failed".to_owned()));
            }
        }
        assert_eq!(origin.loads("broken"), flight);
    }
}

async fn a_value_over_the_limit_is_refused_on_every_node_and_not_read(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 2, &origin.group("max_value = '64KiB'")).await;
    let fits = format!("sized/{}/", 64 << 10);
    for key in [format!("sized/{}/", (64 << 10) + 1), format!("sized/{}/", 64 << 20)] {
        for node in &cluster.nodes {
            assert_eq!(node.ask(get_key(&key)).await.problem(), (413, "too-large".to_owned()));
            assert_eq!(node.ask(get_key(&fits)).await.body.len(), 64 << 10);
        }
        assert_eq!(origin.loads(&fits), 1);
    }
    for node in &cluster.nodes {
        assert!(node.resident_bytes() < 60 << 20, "{} bytes", node.resident_bytes());
    }
}
