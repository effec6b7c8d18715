//! What a configuration comes to.

mod defaults;
mod flags;
mod mistakes;
mod secrets;

use std::time::Duration;

use larder_core::Ring;

use super::*;

/// The mistakes in `text`, one a line.
fn mistakes(text: &str) -> String {
    Config::parse(text, &[]).unwrap_err().to_string()
}

fn set(pairs: &[&str]) -> Vec<Override> {
    pairs.iter().map(|pair| pair.parse().unwrap()).collect()
}

#[test]
fn an_empty_configuration_is_one_group_without_an_origin() {
    let config = Config::parse("", &[]).unwrap();
    assert_eq!(config.groups.keys().collect::<Vec<_>>(), ["default"]);
    let group = &config.groups["default"];
    assert_eq!(group.origin, OriginConfig::None);
    assert_eq!((group.capacity, group.max_value), (256 << 20, 8 << 20));
    assert_eq!((group.ttl, group.hot_lease), (None, Duration::from_secs(1)));
    assert_eq!(config.node.peer.to_string(), "127.0.0.1:5274");
    assert_eq!((config.cluster.discovery, config.cluster.ring), (Discovery::None, Ring::Slots));
    assert_eq!(config, Config::parse("[node]\n[groups]", &[]).unwrap());
}

#[test]
fn a_group_of_ones_own_takes_the_place_of_the_default_one() {
    let config = Config::parse("[groups.users]", &[]).unwrap();
    assert_eq!(config.groups.keys().collect::<Vec<_>>(), ["users"]);
}

#[test]
fn members_may_be_left_standing_while_discovery_is_off() {
    let config = Config::parse("[cluster]\ndiscovery = 'none'\nmembers = ['a=x:1']", &[]).unwrap();
    assert_eq!(config.cluster.members.len(), 1);
}

#[test]
fn gossip_leaves_loopback_with_a_key_or_when_told_so() {
    let key = "gossip_key = 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8='";
    let gossip = "[cluster]\ndiscovery = 'gossip'\ngossip = '10.0.0.1:0'\nseeds = ['web1:5275', '[::1]:5275']";
    for rest in [key, "[security]\ninsecure = true"] {
        let config = Config::parse(&format!("{gossip}\n{rest}"), &[]).unwrap();
        assert_eq!(config.cluster.seeds, ["web1:5275", "[::1]:5275"]);
        assert!(!format!("{config:?}").contains("AAEC"), "the secret stays one");
    }
}

#[test]
fn locks_are_kept_by_whom_the_configuration_names() {
    for (words, keeper) in [
        ("", LockKeeper::Cluster),
        ("locks = 'cluster'", LockKeeper::Cluster),
        ("locks = 'etcd'\netcd = ['http://x:1']\netcd_prefix = '/here/'", LockKeeper::Etcd),
        ("locks = 'consul'\nconsul = 'http://x:1'\nconsul_session_ttl_min = '1s'", LockKeeper::Consul),
        ("locks = 'redis'\nredis = 'rediss://me:hunter2@x:1/2'", LockKeeper::Redis),
        ("locks = 'redis'\nredis = 'env:PATH'", LockKeeper::Redis),
    ] {
        let parsed = Config::parse(&format!("[cluster]\n{words}"), &[]);
        if words.contains("env:") {
            let mistakes = parsed.unwrap_err().to_string();
            assert!(mistakes.starts_with("line 3: cluster.redis: expected the URL"), "it is followed: {mistakes}");
            continue;
        }
        let cluster = parsed.unwrap().cluster;
        assert_eq!(cluster.locks, keeper, "{words}");
        assert!(!format!("{cluster:?}").contains("hunter2"), "a password stays one");
    }
}

#[test]
fn listeners_may_leave_loopback_when_told_so_and_share_port_0() {
    let text = "[node]\nlisten = '0.0.0.0:0'\npeer = '127.0.0.1:0'\nadmin = 'localhost:0'\n[security]\ninsecure = true";
    let config = Config::parse(text, &[]).unwrap();
    assert_eq!(config.node.admin.to_string(), "127.0.0.1:0");
    assert_eq!(config.node.listen.to_string(), "0.0.0.0:0");
    assert!(Config::parse("node.listen = '[::ffff:127.0.0.1]:1'", &[]).is_ok());
}

#[test]
fn an_origin_in_one_word_is_that_of_the_group_default() {
    let origin =
        |url: &str| Config::parse("", &[Override::origin(url).unwrap()]).unwrap().groups["default"].origin.clone();
    let OriginConfig::Http(http) = origin("http://x:9000/users/{key}?a='b'") else { panic!("not http") };
    assert_eq!(http.url.reveal(), "http://x:9000/users/{key}?a='b'");
    let OriginConfig::Sqlite(sqlite) =
        origin("sqlite:/x/users.db?select=SELECT body FROM users WHERE id = $1 AND a = '\"?'")
    else {
        panic!("not sqlite")
    };
    assert_eq!(
        (sqlite.url.as_str(), sqlite.select.as_str()),
        ("/x/users.db", "SELECT body FROM users WHERE id = $1 AND a = '\"?'")
    );
    let OriginConfig::Postgres(postgres) = origin(
        "postgres://me:pw@db/users?sslmode=disable&select=SELECT body FROM users WHERE id = $1 OR id = '?select='",
    ) else {
        panic!("not postgres")
    };
    assert_eq!(postgres.url.reveal(), "postgres://me:pw@db/users?sslmode=disable");
    assert_eq!(postgres.select, "SELECT body FROM users WHERE id = $1 OR id = '?select='");
    let OriginConfig::Redis(redis) = origin("redis://:pw@x:6379/2") else { panic!("not redis") };
    assert_eq!((redis.url.reveal(), redis.prefix.as_str()), ("redis://:pw@x:6379/2", ""));
    for (url, path) in [("directory:x", "x"), ("./x y", "./x y"), ("/", "/"), (".", "."), ("a/b:c", "a/b:c")] {
        assert_eq!(origin(url), OriginConfig::Directory(DirectoryOriginConfig { path: path.into() }), "{url}");
    }
    for url in ["", "users", "s3://b/{key}", "sqlite:x.db", "postgres:x", "postgres://db/users"] {
        assert!(Override::origin(url).is_err(), "{url}");
    }
    let found = Config::parse("", &[Override::origin("http://x/users").unwrap()]).unwrap_err().to_string();
    assert!(found.starts_with("--origin: groups.default.origin.url: expected an http://"), "{found}");
}

#[test]
fn a_data_folder_is_used_where_something_must_survive() {
    let folder = |text: &str| {
        let origin = "origin = { kind = 'directory', path = '.' }";
        Config::parse(&format!("{text}\n{origin}"), &[]).unwrap().data_dir()
    };
    assert_eq!(folder("[groups.a]\nwrite = 'behind'"), Some("larder-data".into()));
    assert_eq!(folder("node.data_dir = 'x'\n[groups.a]\nwrite = 'behind'"), Some("x".into()));
    assert_eq!(folder("node.data_dir = 'x'\n[groups.a]\nwrite = 'through'"), Some("x".into()));
    assert_eq!(folder("[groups.a]\nwrite = 'through'"), None);
    assert_eq!(folder("node.data_dir = 'x'\n[groups.a]"), Some("x".into()), "for the fences of locks");
    let by_etcd = "cluster = { locks = 'etcd', etcd = ['http://127.0.0.1:2379'] }";
    assert_eq!(folder(&format!("node.data_dir = 'x'\n{by_etcd}\n[groups.a]")), None);
    assert_eq!(folder("[groups.a]"), None);
}

#[test]
fn a_default_name_is_the_host_and_the_port_of_peer() {
    let config = Config::parse("", &[]).unwrap();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(config.node.name(1234), format!("{host}-1234"));
    assert_eq!(config.node.advertised("[::1]:5".parse().unwrap()), "[::1]:5");
    assert_eq!(config.node.advertised("0.0.0.0:5".parse().unwrap()), format!("{host}:5"));
    let config = Config::parse("node.advertise = 'fe80::1'", &[]).unwrap();
    assert_eq!(config.node.advertised("0.0.0.0:5".parse().unwrap()), "[fe80::1]:5");
}
