//! `--set KEY=VALUE`.

use super::*;

#[test]
fn a_flag_overrides_the_file() {
    let text = "[node]\nworkers = 1\n[groups.users]\nttl = '1h'\n";
    let flags =
        set(&["node.workers=2", "groups.users.ttl=5m", "groups.users.ttl_jitter=0", "groups.new.capacity=\"1MiB\""]);
    let config = Config::parse(text, &flags).unwrap();
    assert_eq!(config.node.workers, 2);
    assert_eq!(config.groups["users"].ttl, Some(Duration::from_secs(300)));
    assert!(config.groups["users"].ttl_jitter.abs() < f64::EPSILON);
    assert_eq!(config.groups["new"].capacity, 1 << 20);
}

#[test]
fn the_last_of_two_flags_counts_and_text_may_look_like_a_number() {
    let config = Config::parse("", &set(&["node.name=a", "node.name=7", "node.zone=true"])).unwrap();
    assert_eq!((config.node.name.as_deref(), config.node.zone.as_str()), (Some("7"), "true"));
}

#[test]
fn a_flag_takes_arrays_and_tables() {
    let flags = set(&[
        "node.name=a",
        "cluster.discovery=static",
        "cluster.members=['a=x:1', 'b=x:2']",
        "groups.users={ ttl = '1s', origin = { kind = 'directory', path = '.' } }",
    ]);
    let config = Config::parse("", &flags).unwrap();
    assert_eq!(config.cluster.members[1], MemberConfig { name: "b".into(), address: "x:2".into() });
    assert_eq!(config.groups["users"].origin, OriginConfig::Directory(DirectoryOriginConfig { path: ".".into() }));
}

#[test]
fn a_mistake_of_a_flag_names_the_flag() {
    let cases = [
        ("node.worker=2", "--set: node.worker: there is no such key; did you mean node.workers?"),
        ("node.workers=many", "--set: node.workers: expected a whole number from 0 to 1024, but found \"many\""),
        ("node.workers.x=1", "--set: node.workers: expected a whole number from 0 to 1024, but found a table"),
        ("node..x=1", "--set: node..x: this is not a key: expected a dotted path such as node.workers"),
        (
            "node.listen=0.0.0.0:0",
            "--set: node.listen: 0.0.0.0:0 is beyond loopback, where anyone may reach it: set security.insecure = true if that is meant",
        ),
        (
            "groups.a.origin={}",
            "--set: groups.a.origin.kind: this key is missing: expected \"none\", \"http\", \"sqlite\", \"postgres\", \"directory\", \"object\" or \"redis\"",
        ),
        (
            "cluster.members=['a']",
            "--set: cluster.members[0]: expected NAME=ADDRESS such as \"a=10.0.0.1:5274\", but found \"a\"",
        ),
    ];
    for (flag, expected) in cases {
        let found = Config::parse("", &set(&[flag])).unwrap_err();
        assert_eq!(found.to_string(), expected, "{flag}");
        assert!(found.are_all_in_flags());
    }
    assert!("=1".parse::<Override>().is_err());
    assert!("node.name".parse::<Override>().is_err());
}
