use std::time::Duration;

use larder_core::{GROUPS_MAX, Ring, membership::MEMBERS_MAX};
use proptest::prelude::*;

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
fn every_mistake_is_named_with_its_key_and_line() {
    // Each case is a text and the mistakes that are found in it.
    let cases = [
        // Unknown keys, with the nearest that exists.
        (
            "[node]\nport = 1",
            "line 2: node.port: there is no such key; see docs/configuration.md for those that [node] has",
        ),
        ("[node]\nlistn = 1", "line 2: node.listn: there is no such key; did you mean node.listen?"),
        ("[nod]\nx = 1", "line 1: nod: there is no such key; did you mean node?"),
        ("listen = ''", "line 1: listen: there is no such key; did you mean node.listen?"),
        (
            "[groups.a]\nurl = ''",
            "line 2: groups.a.url: there is no such key; did you mean groups.NAME.origin.url (of kind = \"http\")?",
        ),
        (
            "[groups.a.origin]\nkind = 'none'\npath = 'x'",
            "line 3: groups.a.origin.path: there is no such key; did you mean groups.NAME.origin.path (of kind = \"directory\")?",
        ),
        // Wrong types.
        ("[node]\nworkers = '2'", "line 2: node.workers: expected a whole number from 0 to 1024, but found \"2\""),
        (
            "[node]\nname = 5",
            "line 2: node.name: expected a name of letters, digits, \".\", \"_\", \"-\", \":\", \"[\" and \"]\", but found 5",
        ),
        ("[security]\ninsecure = 'yes'", "line 2: security.insecure: expected true or false, but found \"yes\""),
        ("node = 1", "line 1: node: expected a table, but found 1"),
        ("[[groups]]\nttl = '1s'", "line 1: groups: expected a table of names, each with a table, but found an array"),
        ("groups.users = []", "line 1: groups.users: expected a table, but found an array"),
        (
            "[groups.a]\norigin = 'http://x/{key}'",
            "line 2: groups.a.origin: expected a table, but found \"http://x/{key}\"",
        ),
        (
            "[groups.a]\nttl = 1979-05-27",
            "line 2: groups.a.ttl: expected a duration such as \"250ms\" or \"5m\", at least 1ms, at most 1year, but found a date or time",
        ),
        // Impossible values.
        (
            "[groups.a]\ncapacity = '1B'",
            "line 2: groups.a.capacity: expected a size such as \"64KiB\" or \"256MiB\", from 1.0 KiB to 16.0 TiB, but found \"1B\"",
        ),
        (
            "[groups.a]\ncapacity = '12 parsecs'",
            "line 2: groups.a.capacity: expected a size such as \"64KiB\" or \"256MiB\", from 1.0 KiB to 16.0 TiB, but found \"12 parsecs\"",
        ),
        (
            "[groups.a]\nhot_lease = '61s'",
            "line 2: groups.a.hot_lease: expected a duration such as \"250ms\" or \"5m\", at most 1m, but found \"61s\"",
        ),
        (
            "[groups.a]\nttl_jitter = 1.5",
            "line 2: groups.a.ttl_jitter: expected a number from 0.0 to 1.0, but found 1.5",
        ),
        (
            "[groups.a]\nttl_jitter = nan",
            "line 2: groups.a.ttl_jitter: expected a number from 0.0 to 1.0, but found NaN",
        ),
        (
            "[groups.a]\norigin_concurrency = 0",
            "line 2: groups.a.origin_concurrency: expected a whole number from 1 to 65536, but found 0",
        ),
        (
            "[node]\nworkers = 99999999999999999999",
            "line 2: node.workers: expected a whole number from 0 to 1024, but found an integer beyond 64 bits",
        ),
        (
            "[node]\nlisten = ':5273'",
            "line 2: node.listen: expected an IP address and a port such as \"127.0.0.1:5273\" or \"[::1]:0\", but found \":5273\"",
        ),
        (
            "[node]\nadvertise = 'web1:5273'",
            "line 2: node.advertise: expected a host name or an IP address, without a port, but found \"web1:5273\"",
        ),
        (
            "[cluster]\nring = 'slot'",
            "line 2: cluster.ring: expected \"slots\" or \"groupcache\", but found \"slot\"; did you mean \"slots\"?",
        ),
        (
            "[groups.Users]",
            "line 1: groups.Users: expected a group's name: a lower-case letter or a digit first, then lower-case letters, digits, \"_\" and \"-\", 64 in all, but found \"Users\"",
        ),
        (
            "[cluster]\nlease_ttl = '100ms'",
            "line 2: cluster.lease_ttl: expected a duration such as \"250ms\" or \"5m\", at least 1s, at most 10m, but found \"100ms\"",
        ),
        (
            "[cluster]\ndiscovery = 'etcd'\netcd = ['10.0.0.1:2379']",
            "line 3: cluster.etcd[0]: expected the URL of a member of etcd such as \"http://127.0.0.1:2379\", but found \"10.0.0.1:2379\"",
        ),
        (
            "[cluster]\nconsul_service = 'a/b'",
            "line 2: cluster.consul_service: expected the name of a service: letters, digits and \"-\", at most 63, but found \"a/b\"",
        ),
        // etcd and Consul.
        (
            "[cluster]\nconsul = 'http://10.0.0.1:8500'",
            "line 2: cluster.consul: consul is only used with discovery = \"consul\" or locks = \"consul\": set one of them too",
        ),
        (
            "[cluster]\ndiscovery = 'etcd'\netcd_key = 'key.pem'",
            "line 3: cluster.etcd_key: a certificate and its key go together: set etcd_cert and etcd_key",
        ),
        (
            "[cluster]\ndiscovery = 'etcd'\netcd_password = 'secret'",
            "line 3: cluster.etcd_password: a user and a password go together: set etcd_user and etcd_password",
        ),
        (
            "[node]\ntransport = 'http'\n[cluster]\ndiscovery = 'consul'",
            "line 4: cluster.discovery: \"consul\" needs node.transport = \"grpc\": nodes that speak HTTP need a list of static members",
        ),
        // Locks.
        (
            "[cluster]\nlocks = 'zookeeper'",
            "line 2: cluster.locks: expected \"cluster\", \"etcd\", \"consul\" or \"redis\", but found \"zookeeper\"",
        ),
        (
            "[cluster]\nredis = 'redis://127.0.0.1:6379'",
            "line 2: cluster.redis: redis is only used with locks = \"redis\": set it too",
        ),
        (
            "[cluster]\nlocks = 'redis'\nredis = 'http://me:hunter2@x'",
            "line 3: cluster.redis: expected the URL of a Redis server such as \"redis://127.0.0.1:6379/0\"",
        ),
        (
            "[node]\nname = 'a'\ntransport = 'http'\n[cluster]\ndiscovery = 'static'\nmembers = ['a=x:1']\nlocks = 'cluster'",
            "line 7: cluster.locks: \"cluster\" needs node.transport = \"grpc\": nodes that speak HTTP don't tell each other of locks; use \"etcd\", \"consul\" or \"redis\"",
        ),
        (
            "[cluster]\nlocks = 'consul'\nconsul_session_ttl_min = '2m'",
            "line 3: cluster.consul_session_ttl_min: expected a duration such as \"250ms\" or \"5m\", at least 1ms, at most 1m, but found \"2m\"",
        ),
        (
            "[cluster]\ndiscovery = 'etcd'\n[groups.a]\nwrite = 'behind'\nconsistency = 'strong'\norigin = { kind = 'directory', path = '.' }",
            "line 4: groups.a.write: \"behind\" goes with eventual consistency only: set \"through\", or leave consistency out",
        ),
        (
            "[node]\nname = 'a'\ntransport = 'http'\n[cluster]\ndiscovery = 'static'\nmembers = ['a=x:1']\n[groups.a]\nwrite = 'behind'\norigin = { kind = 'directory', path = '.' }",
            "line 8: groups.a.write: \"behind\" needs node.transport = \"grpc\", over which nodes pass each other what is not at the origin yet",
        ),
        (
            "[groups.a]\nload_lock = 'on'",
            "line 2: groups.a.load_lock: a lock around loads needs an origin to load from: set groups.NAME.origin too",
        ),
        (
            "[node]\nname = 'a'\ntransport = 'http'\n[cluster]\ndiscovery = 'static'\nmembers = ['a=x:1']\n[groups.a]\nload_lock = 'strict'\n[groups.a.origin]\nkind = 'directory'\npath = 'x'",
            "line 8: groups.a.load_lock: a lock around loads needs somebody who keeps locks: nodes that speak HTTP don't, so set cluster.locks to \"etcd\", \"consul\" or \"redis\"",
        ),
        // Writes.
        (
            "[groups.a]\nconsistency = 'strong'\n[groups.b]\nwrite = 'through'",
            "line 2: groups.a.consistency: \"strong\" needs cluster.discovery = \"etcd\" or \"consul\": nothing else proves who owns a key\nline 4: groups.b.write: \"through\" needs an origin to write to: set groups.NAME.origin too",
        ),
        (
            "[groups.a]\nwrite = 'behind'\nwrite_delay = '1d'",
            "line 2: groups.a.write: \"behind\" needs an origin to write to: set groups.NAME.origin too\nline 3: groups.a.write_delay: expected a duration such as \"250ms\" or \"5m\", at most 1h, but found \"1d\"",
        ),
        (
            "[groups.a]\nwrite = 'sideways'",
            "line 2: groups.a.write: expected \"none\", \"through\" or \"behind\", but found \"sideways\"",
        ),
        (
            "[groups.a]\nload_lock = false",
            "line 2: groups.a.load_lock: expected \"off\", \"on\" or \"strict\", but found false",
        ),
        (
            "[groups.a.origin]\nkind = 'object'\nurl = 'x'",
            "line 3: groups.a.origin.url: expected the URL of an object store such as \"s3://bucket/path\" or \"file:///path\"",
        ),
        // What is missing.
        (
            "[groups.a]\n\n[groups.a.origin]",
            "line 3: groups.a.origin.kind: this key is missing: expected \"none\", \"http\", \"sqlite\", \"postgres\", \"directory\", \"object\" or \"redis\"",
        ),
        (
            "[groups.a.origin]\nkind = 'http'",
            "line 1: groups.a.origin.url: this key is missing: expected an http:// or https:// URL with {key} in its path or query, such as \"http://127.0.0.1:9000/users/{key}\"",
        ),
        (
            "[groups.a.origin]\nkind = 'sqlite'",
            "line 1: groups.a.origin.select: this key is missing: expected an SQL statement in which $1 stands for the key\nline 1: groups.a.origin.url: this key is missing: expected the path of a database file, such as \"users.db\"",
        ),
        (
            "[groups.a.origin]\nkind = 'directory'",
            "line 1: groups.a.origin.path: this key is missing: expected the path of a folder",
        ),
        (
            "groups.a.origin = { kind = 'sqlite', url = 'x.db', select = 'SELECT $10' }",
            "line 1: groups.a.origin.select: expected an SQL statement in which $1 stands for the key, but found \"SELECT $10\"",
        ),
        (
            "[groups.a.origin]\nkind = 'postgres'\nurl = 'x'\nselect = 'SELECT'\nupsert = 'UPDATE t SET v = $1'\nconnections = 0",
            "line 3: groups.a.origin.url: expected the URL of a PostgreSQL database such as \"postgres://larder@127.0.0.1/users\"\nline 4: groups.a.origin.select: expected an SQL statement in which $1 stands for the key, but found \"SELECT\"\nline 5: groups.a.origin.upsert: expected an SQL statement in which $1 stands for the key, $2 for the value and, if it is there, $3 for the version, but found \"UPDATE t SET v = $1\"\nline 6: groups.a.origin.connections: expected a whole number from 1 to 1000, but found 0",
        ),
        (
            "[groups.a.origin]\nkind = 'redis'\nurl = 'rediss://x'",
            "line 3: groups.a.origin.url: expected the URL of a Redis server such as \"redis://127.0.0.1:6379/0\"",
        ),
        (
            "[groups.a.origin]\nkind = 'sqlite'\nurl = 'x.db'\nselect = 'SELECT $1'\ndelete = 'DELETE FROM t'",
            "line 5: groups.a.origin.delete: expected an SQL statement in which $1 stands for the key and, if it is there, $3 for the version, but found \"DELETE FROM t\"",
        ),
        (
            "[groups.a.origin]\nkind = 'sqlite'\nurl = 'x.db'\nselect = 'SELECT $1'\nupsert_many = 'SELECT $1, $2'",
            "line 5: groups.a.origin.upsert_many: upsert_many needs upsert beside it, for what it can't take: set it too",
        ),
        (
            "[groups.a.origin]\nkind = 'http'\nurl = 'http://{key}/x'",
            "line 3: groups.a.origin.url: expected an http:// or https:// URL with {key} in its path or query, such as \"http://127.0.0.1:9000/users/{key}\", but found \"http://{key}/x\"",
        ),
        (
            "[groups.a.origin]\nkind = 'http'\nurl = 'http://x/{key}'\nheaders = { Host = 'x', accept = 5, 'x y' = '' }",
            "line 4: groups.a.origin.headers.Host: expected the name of a header, but found \"Host\"\nline 4: groups.a.origin.headers.accept: expected text that can be the value of a header, but found 5\nline 4: groups.a.origin.headers.x y: expected the name of a header, but found \"x y\"",
        ),
        // Keys that don't agree.
        (
            "[node]\nlisten = '0.0.0.0:5273'",
            "line 2: node.listen: 0.0.0.0:5273 is beyond loopback, where anyone may reach it: set security.insecure = true if that is meant",
        ),
        (
            "[node]\nadmin = '[::]:1'\n[security]\ninsecure = false",
            "line 2: node.admin: [::]:1 is beyond loopback, where anyone may reach it: set security.insecure = true if that is meant",
        ),
        (
            "[node]\n\nadmin = '127.0.0.1:5273'",
            "line 3: node.admin: expected an address of its own, but 127.0.0.1:5273 is also that of node.listen",
        ),
        (
            "[groups.a]\nsoft_timeout = '10s'",
            "line 2: groups.a.soft_timeout: expected less than hard_timeout, which is 10s",
        ),
        (
            "[cluster]\ndiscovery = 'static'",
            "line 1: cluster.members: this key is missing: discovery = \"static\" needs every member, such as [\"a=10.0.0.1:5274\", \"b=10.0.0.2:5274\"]",
        ),
        (
            "[cluster]\nmembers = ['a=x:1']",
            "line 2: cluster.members: members are only used with discovery = \"static\": set it too",
        ),
        (
            "[node]\nname = 'c'\n[cluster]\ndiscovery = 'static'\nmembers = ['a=x:1', 'b=x:2']",
            "line 5: cluster.members: this node's name is \"c\", and no entry has it: set node.name to one of a, b, or add an entry",
        ),
        (
            "[node]\nname = 'a'\nweight = 2\n[cluster]\ndiscovery = 'static'\nmembers = ['a=x:1']",
            "line 3: node.weight: expected 1: the list of static members carries no weights",
        ),
        (
            "node.name = 'a'\n[cluster]\ndiscovery = 'static'\nmembers = [\n'a=x:1',\n'b=x:1',\n'a=x:2',\n'c',\n]",
            "line 8: cluster.members[3]: expected NAME=ADDRESS such as \"a=10.0.0.1:5274\", but found \"c\"",
        ),
        (
            "node.name = 'a'\n[cluster]\ndiscovery = 'static'\nmembers = [\n'a=x:1',\n'b=x:1',\n'a=x:2',\n'c=:1',\n'd=x:0',\n]",
            "line 6: cluster.members[1]: the address \"x:1\" is that of cluster.members[0] too\nline 7: cluster.members[2]: the name \"a\" is taken by cluster.members[0]: names must be unique\nline 8: cluster.members[3]: expected a host and a port such as \"a=10.0.0.1:5274\", but found \"c=:1\"\nline 9: cluster.members[4]: expected a host and a port such as \"a=10.0.0.1:5274\", but found \"d=x:0\"",
        ),
        (
            "[cluster]\nring = 'groupcache'",
            "line 2: cluster.ring: \"groupcache\" needs discovery = \"static\" and members\nline 2: cluster.ring: \"groupcache\" needs node.transport = \"http\", which Go nodes speak: set that too",
        ),
        (
            "node.name = 'a'\n[cluster]\nring = 'groupcache'\ndiscovery = 'static'\nmembers = ['a=http://x:8080']",
            "line 3: cluster.ring: \"groupcache\" needs node.transport = \"http\", which Go nodes speak: set that too",
        ),
        (
            "node.name = 'a'\nnode.transport = 'http'\n[cluster]\nring = 'groupcache'\ndiscovery = 'static'\nmembers = ['a=http://x:8080', 'b=x:8080', 'c=http://x:8080/']",
            "line 6: cluster.members[1]: expected the URL exactly as the Go peers write it, such as \"a=http://10.0.0.1:8080\", but found \"b=x:8080\"\nline 6: cluster.members[2]: expected the URL exactly as the Go peers write it, such as \"a=http://10.0.0.1:8080\", but found \"c=http://x:8080/\"",
        ),
        (
            "[cluster]\ndiscovery = 'dns'",
            "line 1: cluster.dns_name: this key is missing: discovery = \"dns\" needs a name to look members up under, such as \"larder.default.svc:5274\"",
        ),
        (
            "[cluster]\ndns_name = 'larder:5274'",
            "line 2: cluster.dns_name: the name is only used with discovery = \"dns\": set it too",
        ),
        (
            "[cluster]\ndns_name = 'larder'",
            "line 2: cluster.dns_name: expected HOST:PORT such as \"larder.default.svc:5274\", or the name of SRV records such as \"_larder._tcp.example.com\", but found \"larder\"",
        ),
        (
            "[node]\nweight = 2\n[cluster]\ndiscovery = 'dns'\ndns_name = '_larder._tcp.x'",
            "line 2: node.weight: expected 1: what a DNS name has carries no weights",
        ),
        (
            "[node]\ntransport = 'http'\n[cluster]\ndiscovery = 'gossip'",
            "line 4: cluster.discovery: \"gossip\" needs node.transport = \"grpc\": nodes that speak HTTP need a list of static members",
        ),
        (
            "[cluster]\ndiscovery = 'gossip'\ngossip = '10.0.0.1:5275'",
            "line 3: cluster.gossip: 10.0.0.1:5275 is beyond loopback, where anyone may reach it: set cluster.gossip_key, or security.insecure = true if that is meant",
        ),
        (
            "[cluster]\ndiscovery = 'gossip'\ngossip = '[::]:5275'\ngossip_key = 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8='",
            "line 3: cluster.gossip: [::]:5275 is every address of this host: set node.advertise to the one that others reach it at",
        ),
        (
            "[cluster]\nseeds = ['10.0.0.1:5275']",
            "line 2: cluster.seeds: seeds are only used with discovery = \"gossip\": set it too",
        ),
        (
            "[cluster]\ndiscovery = 'gossip'\nseeds = ['10.0.0.1']",
            "line 3: cluster.seeds[0]: expected a host and a port such as \"10.0.0.1:5275\", but found \"10.0.0.1\"",
        ),
        (
            "[cluster]\ndiscovery = 'gossip'\ngossip_key = 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8'",
            "line 3: cluster.gossip_key: expected 32 bytes in base64",
        ),
        (
            "[cluster]\ndiscovery = 'gossip'\ngossip_key = 'AAECAw=='",
            "line 3: cluster.gossip_key: expected 32 bytes in base64",
        ),
        // What is not TOML.
        ("[node]\nname = a", "line 2: this is not TOML: string values must be quoted, expected literal string"),
        ("[node]\nname = [1 2 = 3", "line 2: this is not TOML: unexpected `=` in array, expected value, `]`"),
        (
            "[cluster]\ndiscovery = 'static'\nmembers = [a]",
            "line 3: this is not TOML: string values must be quoted, expected literal string",
        ),
        (
            "[groups.a.origin]\nkind = 'directory'\npath './x'",
            "line 3: this is not TOML: key with no value, expected `=`",
        ),
        (
            "[groups.a]\nttl = 5m\ncapacty = '1MiB'\n[groups.a]\n[groups.a.origin]\nkind = 'http'\nurl = ",
            "line 2: this is not TOML: string values must be quoted, expected literal string\nline 3: groups.a.capacty: there is no such key; did you mean groups.a.capacity?\nline 4: this is not TOML: duplicate key\nline 7: this is not TOML: string values must be quoted, expected literal string",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(mistakes(text), expected, "in:\n{text}");
    }
}

#[test]
fn mistakes_in_different_tables_are_found_in_one_pass() {
    let text = "[node]\nlisten = '0.0.0.0:1'\nworkers = -1\n[groups.a]\nttl = 1\n[groups.b]\nsoft_timeout = '1h'\n[groups.c.origin]\nkind = 'http'";
    let found = Config::parse(text, &[]).unwrap_err();
    let keys: Vec<&str> = found.iter().map(|mistake| mistake.key.as_str()).collect();
    // The missing URL leaves no configuration to check the rules on, and the listener is named all the same.
    assert_eq!(keys, ["node.listen", "node.workers", "groups.a.ttl", "groups.b.soft_timeout", "groups.c.origin.url"]);
}

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
fn there_is_a_most_of_everything_that_can_be_listed() {
    let members: String = (0..=MEMBERS_MAX).map(|index| format!("'{index}=x:1',")).collect();
    let found = mistakes(&format!("[cluster]\ndiscovery = 'static'\nmembers = [{members}]"));
    assert_eq!(found, "line 3: cluster.members: expected at most 4096 elements, but found 4097");
    let groups: String = (0..=GROUPS_MAX).map(|index| format!("g{index} = {{}}\n")).collect();
    assert_eq!(mistakes(&format!("[groups]\n{groups}")), "line 1: groups: expected at most 1024 names, but found 1025");
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
fn a_file_holds_a_value_and_the_line_break_at_its_end_is_not_part_of_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "7\r\n").unwrap();
    let path = file.path().display();
    let config = Config::parse(&format!("node.workers = 'file:{path}'\nnode.zone = 'file:{path}'"), &[]).unwrap();
    assert_eq!((config.node.workers, config.node.zone.as_str()), (7, "7"));

    for text in ["7\n", "7"] {
        fs::write(file.path(), text).unwrap();
        assert_eq!(Config::parse(&format!("node.zone = 'file:{path}'"), &[]).unwrap().node.zone, "7");
    }
    fs::write(file.path(), "['b=x:1', 'a=x:2']\n").unwrap();
    let text = format!("node.name = 'a'\n[cluster]\ndiscovery = 'static'\nmembers = 'file:{path}'");
    assert_eq!(Config::parse(&text, &[]).unwrap().cluster.members[1].address, "x:2");

    fs::write(file.path(), "7".repeat(70_000)).unwrap();
    let expected = format!("line 1: node.zone: the file {path:?} is too long: 65536 bytes is the most");
    assert_eq!(mistakes(&format!("node.zone = 'file:{path}'")), expected);
}

#[test]
fn what_is_not_there_to_be_read_is_a_mistake_with_its_line() {
    let text = "[node]\nname = 'env:LARDER_TEST_NOT_SET'\nzone = 'file:/does/not/exist'\nworkers = 'env:'";
    let expected = "line 2: node.name: the environment variable LARDER_TEST_NOT_SET is not set: set it
line 3: node.zone: the file \"/does/not/exist\" can't be read: No such file or directory (os error 2)
line 4: node.workers: expected the name of an environment variable after \"env:\", but found \"\"";
    assert_eq!(mistakes(text), expected);
}

#[test]
fn what_a_file_held_is_never_repeated() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "hunter2\u{7}").unwrap();
    let path = file.path().display();
    for key in ["node.workers", "node.zone", "node.listen", "cluster.ring", "cluster.members"] {
        let text = format!("{key} = 'file:{path}'");
        let found = mistakes(&text);
        assert!(!found.contains("hunter2") && found.contains("but found something else in file:"), "{found}");
    }
    let config = format!("[groups.a.origin]\nkind='http'\nurl='http://x/{{key}}'\nheaders.a = 'file:{path}'");
    assert!(!mistakes(&config).contains("hunter2"));

    fs::write(file.path(), "['hunter2', 'a=x:1']").unwrap();
    let expected = format!(
        "line 3: cluster.members[0]: expected NAME=ADDRESS such as \"a=10.0.0.1:5274\", but found something else in file:{path}"
    );
    assert_eq!(mistakes(&format!("\n\ncluster.members = 'file:{path}'")), expected);
    fs::write(file.path(), "slotz").unwrap();
    assert!(!mistakes(&format!("cluster.ring = 'file:{path}'")).contains("slotz"));
}

#[test]
fn the_password_of_an_origin_is_not_shown() {
    let origin =
        |url: &str| format!("[groups.a.origin]\nkind = 'http'\nurl = '{url}'\nheaders = {{ token = 'hunter2' }}");
    let config = Config::parse(&origin("http://me:hunter2@x/{key}"), &[]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!mistakes(&origin("http://me:hunter2@x/")).contains("hunter2"));
}

#[test]
fn the_password_of_a_database_is_not_shown() {
    for (kind, url) in [("postgres", "postgres://me:hunter2@x/y"), ("redis", "redis://:hunter2@x")] {
        let origin = |url: &str| {
            format!(
                "[groups.a.origin]\nkind = '{kind}'\nurl = '{url}'\n{}",
                if kind == "redis" { "" } else { "select = '$1'" }
            )
        };
        let config = Config::parse(&origin(url), &[]).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!mistakes(&origin("ftp://hunter2")).contains("hunter2"));
        assert!(!Override::origin("ftp://me:hunter2@x").unwrap_err().contains("hunter2"));
    }
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
fn the_defaults_are_those_of_the_core() {
    let mut settings = Config::parse("", &[]).unwrap().groups["default"].settings();
    let core = larder_core::GroupConfig::default();
    // The core's default is the name of the policy to come, which is the same for now.
    settings.policy = core.policy;
    assert_eq!(format!("{settings:?}"), format!("{core:?}"));
}

#[test]
fn a_default_is_what_the_reference_says() {
    let mut text = String::new();
    for (path, key, default) in reference::defaults() {
        text += &format!("{}.{key} = {default}\n", path.replace("NAME", "default"));
    }
    assert!(text.contains("groups.default.max_value = \"8MiB\"\n"), "{text}");
    assert_eq!(Config::parse(&text, &[]), Config::parse("", &[]));
}

#[test]
fn a_file_that_is_no_configuration_is_a_mistake() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), b"[node]\nname = \"\xff\"").unwrap();
    let found = Config::load(Some(file.path()), &[]).unwrap_err();
    assert_eq!(found.to_string(), "line 2: this is not TOML: expected UTF-8 text");
    fs::write(file.path(), "#".repeat(FILE_BYTES_MAX as usize + 1)).unwrap();
    let found = Config::load(Some(file.path()), &[]).unwrap_err();
    assert_eq!(found.to_string(), "the file is too long: 4194304 bytes is the most");
    let found = Config::load(Some(&file.path().join("x")), &[]).unwrap_err();
    assert!(found.to_string().starts_with("the file can't be read: "), "{found}");
}

#[test]
fn a_text_of_nothing_but_mistakes_gives_a_bounded_list() {
    let text: String = (0..10_000).map(|index| format!("x{index} = 1\n")).collect();
    assert_eq!(Config::parse(&text, &[]).unwrap_err().len(), MISTAKES_MAX);
    assert!(Config::parse(&"[".repeat(100_000), &[]).is_err());
    assert!(Config::parse(&format!("a = {}", "[".repeat(100_000)), &[]).is_err());
    assert!(Config::parse(&format!("a{} = 1", ".a".repeat(50_000)), &[]).is_err());
    assert!(Config::parse(&format!("{{ a{} = ", ".a".repeat(78)).repeat(20)[2..], &[]).is_err());
    assert!(Config::parse("", &set(&[&format!("a{}=1", ".a".repeat(50_000))])).is_err());
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

#[test]
fn the_reference_holds_every_key_and_its_examples_are_right() {
    let text = reference();
    for key in
        ["listen", "data_dir", "members", "insecure", "ttl_jitter", "consistency", "select_many", "path", "headers"]
    {
        assert!(text.contains(&format!("| `{key}` |")), "{key}");
    }
    let examples: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 3);
    for example in examples {
        let parsed = Config::parse(example, &[]);
        assert!(parsed.is_ok(), "{parsed:?} in:\n{example}");
    }
}

/// `UPDATE_DOCS=1 cargo test -p larder-server --lib` writes the file anew.
#[test]
fn the_committed_docs_are_those_of_the_keys() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, reference()).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap();
    assert!(
        committed == reference(),
        "docs/configuration.md is stale: run UPDATE_DOCS=1 cargo test -p larder-server --lib"
    );
}

/// Lines that are often nearly right, so that more than the TOML parser is reached.
fn nearly_right() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        Just("node"),
        Just("groups"),
        Just("groups.a"),
        Just("origin"),
        Just("kind"),
        Just("ttl"),
        Just("members"),
        Just("listen"),
        Just("capacity"),
        Just("url"),
        Just("discovery"),
        Just("headers"),
        Just("\"\""),
    ];
    let value = prop_oneof![
        Just("1".to_owned()),
        Just("-0.5".to_owned()),
        Just("inf".to_owned()),
        Just("true".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("'5m'".to_owned()),
        Just("'http'".to_owned()),
        Just("'static'".to_owned()),
        "'[ -~]{0,12}'",
        "\"[ -~é]{0,12}\"",
        "\\[[a-z',=:0-9]{0,12}\\]",
    ];
    let line = prop_oneof![
        key.clone().prop_map(|key| format!("[{key}]")),
        (key.clone(), key.clone()).prop_map(|(outer, inner)| format!("[{outer}.{inner}]")),
        (key, value).prop_map(|(key, value)| format!("{key} = {value}")),
        "\\PC{0,20}",
    ];
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "(?s).{0,200}", near in nearly_right(), flag in "[a-z.]{1,12}=.{0,12}") {
        let flags: Vec<Override> = flag.parse().into_iter().collect();
        for text in [&text, &near] {
            for flags in [&[], flags.as_slice()] {
                if let Err(found) = Config::parse(text, flags) {
                    prop_assert!(!found.is_empty());
                    let lines = text.matches('\n').count() + 1;
                    let within = |place| !matches!(place, Place::Line(line) if line == 0 || line > lines);
                    prop_assert!(found.iter().all(|mistake| within(mistake.place)), "{found}");
                }
            }
        }
    }
}
