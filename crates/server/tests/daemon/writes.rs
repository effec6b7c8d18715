//! Groups without an origin: what is put from any node, all nodes have.

use http::Method;

use crate::{
    client::{Answer, Connection, delete_key, get_key, key_path, put_key, request},
    cluster::{Cluster, Over, over_each_transport},
    origin::Origin,
    process::Daemon,
};

const PLAIN: &str = "[groups.g]\nmax_value = '1MiB'";

async fn put_if(node: &Daemon, key: &str, value: &str, condition: (&str, &str)) -> Answer {
    node.ask(request(Method::PUT, &key_path(key), &[condition], value.to_owned())).await
}

over_each_transport!(
    what_one_node_is_given_every_node_has_at_once,
    a_writers_media_type_and_ttl_reach_every_reader,
    conditions_are_judged_by_the_owner_for_every_node,
    of_many_who_put_if_absent_one_does,
    a_group_with_an_origin_takes_no_put_and_a_delete_drops_its_copies,
    a_value_over_the_limit_is_refused_before_it_is_sent,
    while_the_owner_is_away_its_keys_are_too,
    what_is_written_through_is_at_the_origin_before_it_is_acknowledged,
    what_is_invalidated_is_gone_everywhere_but_at_the_origin,
);

/// A group that writes through to a folder.
fn through(folder: &std::path::Path) -> String {
    format!("[groups.g]\nwrite = \"through\"\n[groups.g.origin]\nkind = \"directory\"\npath = {folder:?}")
}

async fn what_is_written_through_is_at_the_origin_before_it_is_acknowledged(over: Over) {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(over, 3, &through(folder.path())).await;
    let at_origin = |key: &str| std::fs::read_to_string(folder.path().join(key)).ok();
    for number in 0..6 {
        let key = format!("key{number}");
        for (writer, value) in cluster.nodes.iter().zip(["one", "two", "three"]) {
            assert_eq!(writer.ask(put_key(&key, value)).await.status, 204);
            assert_eq!(at_origin(&key).as_deref(), Some(value));
            for reader in &cluster.nodes {
                assert_eq!(reader.ask(get_key(&key)).await.text(), value);
            }
        }
        assert_eq!(cluster[number % 3].ask(delete_key(&key)).await.status, 204);
        assert_eq!(at_origin(&key), None);
        assert_eq!(cluster[0].ask(get_key(&key)).await.status, 404);
    }
    // No file can have such a name: the origin says no, and nothing changes.
    assert_eq!(cluster[0].ask(put_key("a/../b", "v")).await.problem(), (502, "origin-failed".to_owned()));
}

async fn what_is_invalidated_is_gone_everywhere_but_at_the_origin(over: Over) {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(over, 3, &through(folder.path())).await;
    let invalidate = |body: &str| request(Method::POST, "/v1/groups/g/invalidate", &[], body.to_owned());
    for (number, node) in cluster.nodes.iter().enumerate() {
        let key = format!("key{number}");
        assert_eq!(node.ask(put_key(&key, "old")).await.status, 204);
        std::fs::write(folder.path().join(&key), "new").unwrap();
        assert_eq!(cluster[(number + 1) % 3].ask(get_key(&key)).await.text(), "old");
        assert_eq!(cluster[(number + 2) % 3].ask(invalidate(&format!(r#"{{"keys":["{key}"]}}"#))).await.status, 204);
        for reader in &cluster.nodes {
            assert_eq!(reader.ask(get_key(&key)).await.text(), "new");
        }
    }
}

async fn what_one_node_is_given_every_node_has_at_once(over: Over) {
    let cluster = Cluster::start(over, 3, PLAIN).await;
    for number in 0..12 {
        let key = format!("key{number}");
        let mut last = String::new();
        for writer in &cluster.nodes {
            let value = format!("{key} at {}", writer.clients);
            let put = writer.ask(put_key(&key, value.clone())).await;
            assert_eq!((put.status, put.body.len()), (204, 0));
            let tag = put.header("etag").to_owned();
            assert!(tag > last, "later versions are greater: {tag} after {last}");
            for reader in &cluster.nodes {
                let got = reader.ask(get_key(&key)).await;
                assert_eq!((got.status, got.text(), got.header("etag")), (200, value.as_str(), tag.as_str()));
            }
            last = tag;
        }
        assert_eq!(cluster[number % 3].ask(delete_key(&key)).await.status, 204);
        for reader in &cluster.nodes {
            assert_eq!(reader.ask(get_key(&key)).await.problem(), (404, "not-found".to_owned()));
        }
        assert_eq!(cluster[number % 3].ask(delete_key(&key)).await.status, 204, "gone is gone");
    }
}

async fn a_writers_media_type_and_ttl_reach_every_reader(over: Over) {
    let cluster = Cluster::start(over, 3, PLAIN).await;
    for (number, writer) in cluster.nodes.iter().enumerate() {
        let key = cluster.key_of((number + 1) % 3, "key").await;
        let headers = [("content-type", "text/x-odd; a=\"b\""), ("cache-control", "max-age=100")];
        assert_eq!(writer.ask(request(Method::PUT, &key_path(&key), &headers, "v")).await.status, 204);
        for reader in &cluster.nodes {
            let got = reader.ask(get_key(&key)).await;
            assert_eq!(got.header("content-type"), "text/x-odd; a=\"b\"");
            let left: u64 = got.header("larder-ttl-ms").parse().unwrap();
            assert!(left > 80_000 && left <= 100_000, "{left}");
        }
    }
}

async fn conditions_are_judged_by_the_owner_for_every_node(over: Over) {
    let cluster = Cluster::start(over, 3, PLAIN).await;
    let absent = ("if-none-match", "*");
    let mismatch = || (412, "version-mismatch".to_owned());
    for (number, writer) in cluster.nodes.iter().enumerate() {
        let other = &cluster[(number + 1) % 3];
        for owner in 0..3 {
            let key = cluster.key_of(owner, &format!("from{number}-")).await;
            let first = put_if(writer, &key, "one", absent).await;
            assert_eq!(first.status, 204);
            assert_eq!(put_if(other, &key, "two", absent).await.problem(), mismatch());
            let tag = first.header("etag").to_owned();
            let second = put_if(other, &key, "two", ("if-match", &tag)).await;
            assert_eq!(second.status, 204, "{second:?}");
            assert_eq!(put_if(writer, &key, "three", ("if-match", &tag)).await.problem(), mismatch());
            assert_eq!(writer.ask(get_key(&key)).await.text(), "two");
            let delete = |tag: &str| request(Method::DELETE, &key_path(&key), &[("if-match", tag)], "");
            assert_eq!(writer.ask(delete(&tag)).await.problem(), mismatch());
            assert_eq!(writer.ask(delete(second.header("etag"))).await.status, 204);
            assert_eq!(put_if(other, &key, "four", absent).await.status, 204);
        }
    }
}

async fn of_many_who_put_if_absent_one_does(over: Over) {
    let cluster = Cluster::start(over, 3, PLAIN).await;
    for round in 0..5 {
        let key = format!("key{round}");
        let writers = (0..60).map(|writer| {
            let (node, key) = (&cluster[writer % 3], &key);
            async move { (writer, put_if(node, key, &writer.to_string(), ("if-none-match", "*")).await.status) }
        });
        let done = futures_util::future::join_all(writers).await;
        let won: Vec<usize> = done.iter().filter(|(_, status)| *status == 204).map(|(writer, _)| *writer).collect();
        assert_eq!(won.len(), 1, "{done:?}");
        assert!(done.iter().all(|(_, status)| [204, 412].contains(status)), "{done:?}");
        assert_eq!(cluster[0].ask(get_key(&key)).await.text(), won[0].to_string());
    }
}

async fn a_group_with_an_origin_takes_no_put_and_a_delete_drops_its_copies(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 3, &origin.group("")).await;
    for (number, node) in cluster.nodes.iter().enumerate() {
        let refused = node.ask(put_key("key", "v")).await;
        assert_eq!(refused.problem(), (405, "read-only".to_owned()));
        node.ask(get_key("key")).await;
        assert_eq!(origin.loads("key"), number + 1);
        assert_eq!(node.ask(delete_key("key")).await.status, 204);
    }
}

async fn a_value_over_the_limit_is_refused_before_it_is_sent(over: Over) {
    let cluster = Cluster::start(over, 2, PLAIN).await;
    for owner in 0..2 {
        let key = cluster.key_of(owner, "key").await;
        assert_eq!(cluster[0].ask(put_key(&key, vec![0; 1 << 20])).await.status, 204);
        assert_eq!(cluster[1].ask(get_key(&key)).await.body.len(), 1 << 20);
        let mut connection = Connection::open(cluster[0].clients).await.unwrap();
        let answer = connection.ask(put_key(&key, vec![0; (1 << 20) + 1])).await.unwrap();
        assert_eq!(answer.problem(), (413, "too-large".to_owned()));
        assert_eq!(cluster[1].ask(get_key(&key)).await.body.len(), 1 << 20, "what was there is still there");
    }
}

/// There is nowhere to load it from, and nobody else may take a write.
async fn while_the_owner_is_away_its_keys_are_too(over: Over) {
    let mut cluster = Cluster::start(over, 2, PLAIN).await;
    let key = cluster.key_of(1, "key").await;
    assert_eq!(cluster[0].ask(put_key(&key, "v")).await.status, 204);
    cluster[1].kill();
    for _ in 0..5 {
        for request in [get_key(&key), put_key(&key, "w"), delete_key(&key)] {
            let answer = cluster[0].ask(request).await;
            let (status, slug) = answer.problem();
            assert!((status, slug.as_str()) == (503, "owner-unreachable") || slug == "indeterminate", "{answer:?}");
        }
    }
    let own = cluster.key_of(0, "key").await;
    assert_eq!(cluster[0].ask(put_key(&own, "v")).await.status, 204);
}
