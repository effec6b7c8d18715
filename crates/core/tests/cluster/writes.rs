//! Puts and deletes through the owner.

use std::time::Duration;

use larder_core::{ErrorKind, Value, peer::Condition};

use crate::{Cluster, TIMEOUT, text};

async fn put(cluster: &Cluster, place: usize, value: &'static str) -> larder_core::Version {
    let put = cluster.groups[place].put("k", Value::from(value), None, Condition::Always, TIMEOUT);
    put.await.unwrap().expect("the fake network tells versions")
}

#[tokio::test(start_paused = true)]
async fn what_is_put_at_any_node_is_read_at_every_node() {
    let cluster = Cluster::plain(3);
    let mut last = None;
    for (place, value) in ["one", "two", "three"].into_iter().enumerate() {
        let version = put(&cluster, place, value).await;
        assert!(Some(version) > last);
        last = Some(version);
        for reader in 0..3 {
            let answer = cluster.get(reader, "k").await.unwrap();
            assert_eq!((text(&answer), answer.version), (value, Some(version)));
        }
    }
    cluster.groups[0].delete("k", Condition::Always, TIMEOUT).await.unwrap();
    for reader in 0..3 {
        assert_eq!(cluster.get(reader, "k").await.unwrap().value, None);
    }
}

#[tokio::test(start_paused = true)]
async fn conditions_admit_one() {
    let cluster = Cluster::plain(3);
    let group = &cluster.groups[0];
    let put_if = |condition| group.put("k", Value::from("x"), None, condition, TIMEOUT);
    let first = put_if(Condition::IfAbsent).await.unwrap().unwrap();
    assert_eq!(put_if(Condition::IfAbsent).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
    let second = put_if(Condition::IfVersion(first)).await.unwrap().unwrap();
    assert_eq!(put_if(Condition::IfVersion(first)).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
    let delete_if = |condition| group.delete("k", condition, TIMEOUT);
    assert_eq!(delete_if(Condition::IfVersion(first)).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
    delete_if(Condition::IfVersion(second)).await.unwrap();
    assert_eq!(cluster.get(1, "k").await.unwrap().value, None);
}

#[tokio::test(start_paused = true)]
async fn a_puts_own_ttl_counts() {
    let cluster = Cluster::plain(1);
    let ttl = Some(Duration::from_secs(3));
    cluster.groups[0].put("k", Value::from("x"), ttl, Condition::Always, TIMEOUT).await.unwrap();
    assert_eq!(cluster.get(0, "k").await.unwrap().ttl_left, ttl);
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(cluster.get(0, "k").await.unwrap().value, None);
    cluster.groups[0].put("k", Value::from("y"), None, Condition::IfAbsent, TIMEOUT).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_write_to_an_owner_that_is_away_says_what_is_known() {
    let cluster = Cluster::plain(2);
    let owner = cluster.owner("k");
    cluster.kill(owner);
    let put = cluster.groups[1 - owner].put("k", Value::from("x"), None, Condition::Always, TIMEOUT).await;
    assert_eq!(put.unwrap_err().kind(), ErrorKind::OwnerUnreachable);
    assert_eq!(
        cluster.get(1 - owner, "k").await.unwrap_err().kind(),
        ErrorKind::OwnerUnreachable,
        "no origin, no stand-in"
    );
}

#[tokio::test(start_paused = true)]
async fn a_group_with_an_origin_takes_no_puts_and_a_delete_drops_its_copies() {
    let cluster = Cluster::new(3);
    let put = cluster.groups[0].put("k", Value::from("x"), None, Condition::Always, TIMEOUT).await;
    assert_eq!(put.unwrap_err().kind(), ErrorKind::ReadOnly);
    cluster.get(0, "k").await.unwrap();
    cluster.origin.change("k");
    cluster.groups[0].delete("k", Condition::Always, TIMEOUT).await.unwrap();
    for place in 0..3 {
        assert_eq!(text(&cluster.get(place, "k").await.unwrap()), "k=1");
    }
}

/// A load that is under way when its key is deleted must not put the old value back.
#[tokio::test(start_paused = true)]
async fn a_load_that_a_delete_overtakes_is_not_kept_and_not_joined() {
    let cluster = Cluster::new(3);
    let owner = cluster.owner("k");
    cluster.origin.close_gate();
    let early = cluster.spawn_get(owner, "k");
    cluster.origin.requested(1).await;
    cluster.origin.change("k");
    cluster.groups[owner].delete("k", Condition::Always, TIMEOUT).await.unwrap();
    let late: Vec<_> = (0..3).map(|place| cluster.spawn_get(place, "k")).collect();
    cluster.origin.requested(2).await;
    cluster.origin.let_through(1);
    assert_eq!(text(&early.await.unwrap().unwrap()), "k=0", "it asked before the delete");
    cluster.origin.let_through(1);
    for get in late {
        assert_eq!(text(&get.await.unwrap().unwrap()), "k=1");
    }
    assert_eq!((cluster.origin.loads("k"), cluster.origin.under_way_max()), (2, 2));
}

/// Rule I1: a key that is deleted again and again does not pile loads up.
#[tokio::test(start_paused = true)]
async fn two_loads_of_a_key_at_most_are_under_way() {
    let cluster = Cluster::new(1);
    cluster.origin.close_gate();
    let mut gets = Vec::new();
    for _ in 0..10 {
        gets.push(cluster.spawn_get(0, "k"));
        crate::quiet().await;
        cluster.groups[0].delete("k", Condition::Always, TIMEOUT).await.unwrap();
    }
    assert_eq!(cluster.origin.requests(), 2);
    cluster.origin.let_through(10);
    for get in gets {
        get.await.unwrap().unwrap();
    }
    assert_eq!(cluster.origin.under_way_max(), 2);
}
