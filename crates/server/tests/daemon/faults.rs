//! Nodes that die, hang and come back.

use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::time::Instant;

use crate::{
    client::{get_key, value_of, within},
    cluster::{Cluster, Over, over_each_transport},
    crowd::{Crowd, has_read},
    origin::Origin,
    process::POLL_INTERVAL,
};

/// A caller's deadline, and some time for a busy machine.
const DEADLINE: Duration = Duration::from_secs(12);

/// How soon a hung owner must have been given up.
const GIVEN_UP: Duration = Duration::from_secs(3);

/// Less than any wait for a sign of life, and more than a busy machine takes for answers that need none.
const NOBODY_WAITED: Duration = Duration::from_millis(900);

/// The longest back-off, and the time for a probe.
const BACK_AGAIN: Duration = Duration::from_secs(20);

async fn get_all(cluster: &Cluster, node: usize, keys: &[String]) -> Duration {
    let start = Instant::now();
    let answers = join_all(keys.iter().map(|key| cluster[node].ask(get_key(key)))).await;
    for (key, answer) in keys.iter().zip(answers) {
        assert_eq!((answer.status, answer.text()), (200, value_of(key).as_str()));
    }
    start.elapsed()
}

/// Asks node `asked` for ever new keys of `owner` until that one loads them itself.
async fn is_asked_again(cluster: &Cluster, asked: usize, owner: usize) {
    let before = cluster[owner].metric("larder_origin_requests_total").await;
    within(BACK_AGAIN, "to be asked again", async {
        for number in 0.. {
            let key = format!("again{number}");
            if cluster.owner(&key).await != owner {
                continue;
            }
            assert_eq!(cluster[asked].ask(get_key(&key)).await.text(), value_of(&key));
            if cluster[owner].metric("larder_origin_requests_total").await > before {
                break;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await;
}

over_each_transport!(
    an_owner_killed_mid_load_leaves_nobody_without_an_answer,
    a_hung_owner_is_given_up_and_asked_again_when_it_goes_on,
    an_owner_that_hangs_mid_load_is_given_up_too,
    an_owner_that_waits_long_for_its_origin_is_waited_for,
    a_deadline_is_kept_while_the_origin_is_silent,
    the_last_node_serves_what_all_owned,
);

async fn an_owner_killed_mid_load_leaves_nobody_without_an_answer(over: Over) {
    let origin = Origin::start().await;
    let mut cluster = Cluster::start(over, 3, &origin.group("")).await;
    let key = cluster.key_of(2, "key").await;
    let later = cluster.keys_of(2, "after", 30).await;
    origin.hold();
    let crowd = Crowd::ask(&cluster, &[0, 1], vec![key.clone(); 60]).await;
    origin.is_asked(1).await;
    has_read(&cluster, 2).await;
    cluster[2].kill();
    origin.is_asked(2).await;
    origin.release();
    for (_, answer) in within(DEADLINE, "the crowd", crowd.answers()).await {
        assert_eq!((answer.status, answer.text()), (200, value_of(&key).as_str()));
    }
    assert_eq!(origin.loads(&key), 2, "the owner's load and the stand-in's");

    // A dead owner costs one fast failure, and then nothing.
    for node in [0, 1] {
        let took = get_all(&cluster, node, &later).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    for key in &later {
        // A stand-in keeps what it loads for `hot_lease`; one that is slow may load twice.
        assert!(origin.loads(key) <= 2, "{key}: {}", origin.loads(key));
    }

    cluster.restart(2).await;
    is_asked_again(&cluster, 0, 2).await;
    is_asked_again(&cluster, 1, 2).await;
}

async fn a_hung_owner_is_given_up_and_asked_again_when_it_goes_on(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 3, &origin.group("")).await;
    let keys = cluster.keys_of(2, "key", 12).await;
    let later = cluster.keys_of(2, "after", 12).await;
    // Connections are open, as they are in a cluster that works.
    let warm = cluster.keys_of(2, "warm", 4).await;
    get_all(&cluster, 0, &warm).await;
    get_all(&cluster, 1, &warm).await;

    cluster[2].signal(Signal::STOP);
    let (one, other) = tokio::join!(get_all(&cluster, 0, &keys), get_all(&cluster, 1, &keys));
    assert!(one.max(other) < GIVEN_UP, "{one:?} {other:?}");
    for key in &keys {
        assert!(origin.loads(key) <= 2, "{key}: {}", origin.loads(key));
    }
    for node in [0, 1] {
        let times = later.iter().map(|key| get_all(&cluster, node, std::slice::from_ref(key)));
        let mut times = join_all(times).await;
        times.sort();
        // This node and the one that stands in may each have one caller find out whether the owner is back.
        assert!(times[later.len() - 3] < NOBODY_WAITED, "{times:?}");
        assert!(times[later.len() - 1] < GIVEN_UP, "{times:?}");
    }

    cluster[2].signal(Signal::CONT);
    is_asked_again(&cluster, 0, 2).await;
    is_asked_again(&cluster, 1, 2).await;
}

async fn an_owner_that_hangs_mid_load_is_given_up_too(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 3, &origin.group("")).await;
    let key = cluster.key_of(2, "key").await;
    origin.hold();
    let crowd = Crowd::ask(&cluster, &[0, 1], vec![key.clone(); 40]).await;
    origin.is_asked(1).await;
    has_read(&cluster, 2).await;
    let start = Instant::now();
    cluster[2].signal(Signal::STOP);
    origin.is_asked(2).await;
    origin.release();
    for (_, answer) in within(DEADLINE, "the crowd", crowd.answers()).await {
        assert_eq!((answer.status, answer.text()), (200, value_of(&key).as_str()));
    }
    assert!(start.elapsed() < GIVEN_UP, "{:?}", start.elapsed());
    assert_eq!(origin.loads(&key), 2, "the owner's load and the stand-in's");
}

/// The origin is slow, not the owner: that is no reason to load elsewhere.
async fn an_owner_that_waits_long_for_its_origin_is_waited_for(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 3, &origin.group("")).await;
    let key = cluster.key_of(2, "late").await;
    origin.hold();
    let crowd = Crowd::ask(&cluster, &[0, 1], vec![key.clone(); 20]).await;
    origin.is_asked(1).await;
    // Long enough for every probe that there is.
    tokio::time::sleep(Duration::from_secs(2)).await;
    origin.release();
    for (_, answer) in within(DEADLINE, "the crowd", crowd.answers()).await {
        assert_eq!(answer.text(), value_of(&key));
    }
    assert_eq!(origin.loads(&key), 1);
}

async fn a_deadline_is_kept_while_the_origin_is_silent(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 2, &origin.group("")).await;
    origin.hold();
    for (node, owner) in [(0, 0), (0, 1)] {
        let key = cluster.key_of(owner, "key").await;
        let mut request = get_key(&key);
        request.headers_mut().insert("larder-timeout-ms", 300.into());
        let start = Instant::now();
        assert_eq!(cluster[node].ask(request).await.problem(), (504, "timed-out".to_owned()));
        let took = start.elapsed();
        assert!(took > Duration::from_millis(290) && took < Duration::from_millis(900), "{took:?}");
    }
}

async fn the_last_node_serves_what_all_owned(over: Over) {
    let origin = Origin::start().await;
    let mut cluster = Cluster::start(over, 3, &origin.group("")).await;
    let mut keys = Vec::new();
    for owner in 0..3 {
        keys.extend(cluster.keys_of(owner, "key", 10).await);
    }
    cluster[1].kill();
    cluster[2].kill();
    let took = get_all(&cluster, 0, &keys).await;
    assert!(took < GIVEN_UP, "{took:?}");
    for key in &keys {
        assert_eq!(origin.loads(key), 1);
    }
}
