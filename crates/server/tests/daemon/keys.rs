//! Keys of odd bytes, from a client's path over another node to the origin and back.

use crate::{
    client::{GROUP, get, get_key, put_key, value_of},
    cluster::{Cluster, Over, over_each_transport},
    origin::Origin,
};

/// How a path may spell a key, each spelling the same key at every node.
const SPELLINGS: &[(&[u8], &[&str])] = &[
    (b"a b", &["a%20b"]),
    (b"a+b", &["a+b", "a%2Bb", "a%2bb"]),
    (b"%2F", &["%252F"]),
    (b"%252F", &["%25252F"]),
    (b"a/b", &["a/b", "a%2Fb", "a%2fb"]),
    (b"/", &["/", "%2F"]),
    (b"//", &["//", "/%2F", "%2F%2F"]),
    (b"/lead", &["/lead", "%2Flead"]),
    (b"trail/", &["trail/", "trail%2F"]),
    (b"..", &["..", "%2E%2E", ".%2e"]),
    (b".", &[".", "%2E"]),
    (b"../../etc/passwd", &["../../etc/passwd", "..%2F..%2Fetc%2Fpasswd"]),
    (b"a/./b/../c", &["a/./b/../c"]),
    (b"a//b", &["a//b"]),
    (b"?", &["%3F"]),
    (b"a?b=c&d", &["a%3Fb=c&d", "a%3Fb%3Dc%26d"]),
    (b"#", &["%23"]),
    (b"a#b", &["a%23b"]),
    (b"\xff\xfe", &["%ff%FE"]),
    (b"\xc3\x28", &["%C3("]),
    (b"\0", &["%00"]),
    (b"\r\n", &["%0D%0A"]),
    (b"gr\xc3\xb6\xc3\x9fe", &["gr%C3%B6%C3%9Fe"]),
    (b";,:@!$&'()*~", &[";,:@!$&'()*~"]),
    (b"keys/get-many", &["keys/get-many"]),
    (b"{key}", &["%7Bkey%7D"]),
    (b"http://x/y", &["http://x/y", "http%3A%2F%2Fx%2Fy"]),
    (b"{tag}x", &["%7Btag%7Dx"]),
];

fn path(spelling: &str) -> String {
    format!("/v1/groups/{GROUP}/keys/{spelling}")
}

over_each_transport!(
    a_key_is_one_and_the_same_from_every_node_to_the_origin,
    a_key_is_one_and_the_same_in_writes,
    a_key_has_1_to_1024_bytes,
    what_is_no_key_is_refused_and_nobody_is_sent_elsewhere,
);

async fn a_key_is_one_and_the_same_from_every_node_to_the_origin(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 3, &origin.group("")).await;
    let mut owners = [0; 3];
    for (key, spellings) in SPELLINGS {
        let shown = key.escape_ascii();
        for spelling in *spellings {
            for node in &cluster.nodes {
                let answer = node.ask(get(&path(spelling))).await;
                assert_eq!((answer.status, answer.text()), (200, value_of(key).as_str()), "{shown} as {spelling}");
            }
        }
        assert_eq!(origin.loads(key), 1, "{shown}: {:?}", origin.targets());
        owners[cluster.owner(spellings[0]).await] += 1;
    }
    assert_eq!(origin.targets().len(), SPELLINGS.len());
    assert!(owners.iter().all(|&keys| keys > 0), "each node owns some: {owners:?}");
}

async fn a_key_is_one_and_the_same_in_writes(over: Over) {
    let cluster = Cluster::start(over, 3, "[groups.g]").await;
    for (turn, (key, spellings)) in SPELLINGS.iter().enumerate() {
        let put = cluster[turn % 3].ask(put_key(key, value_of(key))).await;
        assert_eq!(put.status, 204, "{}", key.escape_ascii());
        for spelling in *spellings {
            for node in &cluster.nodes {
                let answer = node.ask(get(&path(spelling))).await;
                assert_eq!((answer.status, answer.text()), (200, value_of(key).as_str()), "{spelling}");
            }
        }
    }
    assert_eq!(cluster.metric("larder_cache_items").await, SPELLINGS.len() as u64);
}

async fn a_key_has_1_to_1024_bytes(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 3, &origin.group("")).await;
    // Bytes that take three characters each in a path.
    let longest = vec![0xfe_u8; 1024];
    let too_long = vec![0xfe_u8; 1025];
    for node in &cluster.nodes {
        let answer = node.ask(get_key(&longest)).await;
        assert_eq!((answer.status, answer.text()), (200, value_of(&longest).as_str()));
        assert_eq!(node.ask(get_key(&too_long)).await.problem(), (413, "too-large".to_owned()));
        assert_eq!(node.ask(get_key("")).await.problem(), (400, "bad-request".to_owned()));
    }
    assert_eq!((origin.loads(&longest), origin.targets().len()), (1, 1));
}

async fn what_is_no_key_is_refused_and_nobody_is_sent_elsewhere(over: Over) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 2, &origin.group("")).await;
    for (path, problem) in [
        (path("a%2"), (400, "bad-request")),
        (path("%zz"), (400, "bad-request")),
        (path("a?b"), (400, "bad-request")),
        ("/v1/groups/none/keys/a".to_owned(), (404, "unknown-group")),
        (format!("/v1/groups/{GROUP}/../{GROUP}/keys/a"), (404, "unknown-path")),
        (format!("/v1/groups/{GROUP}//keys/a"), (404, "unknown-path")),
        (format!("//v1/groups/{GROUP}/keys/a"), (404, "unknown-path")),
    ] {
        for node in &cluster.nodes {
            let (status, slug) = node.ask(get(&path)).await.problem();
            assert_eq!((status, slug.as_str()), problem, "{path}");
        }
    }
    assert!(origin.targets().is_empty());
}
