//! What is wrong in a configuration is named, with its key and its line.

use larder_core::{GROUPS_MAX, membership::MEMBERS_MAX};
use proptest::prelude::*;

use super::*;

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
fn there_is_a_most_of_everything_that_can_be_listed() {
    let members: String = (0..=MEMBERS_MAX).map(|index| format!("'{index}=x:1',")).collect();
    let found = mistakes(&format!("[cluster]\ndiscovery = 'static'\nmembers = [{members}]"));
    assert_eq!(found, "line 3: cluster.members: expected at most 4096 elements, but found 4097");
    let groups: String = (0..=GROUPS_MAX).map(|index| format!("g{index} = {{}}\n")).collect();
    assert_eq!(mistakes(&format!("[groups]\n{groups}")), "line 1: groups: expected at most 1024 names, but found 1025");
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
