//! How a daemon starts, and how it ends.

use std::{fs, net::TcpStream, process::Output, time::Duration};

use rustix::process::Signal;
use tokio::time::Instant;

use crate::{
    client::{Connection, get, get_key, put_key, value_of, within},
    cluster::{Cluster, Over, Port, over_each_transport},
    origin::Origin,
    process::{Daemon, larder},
};

/// More than any end takes that is not held up.
pub(crate) const END_TIME_MAX: Duration = Duration::from_secs(5);

/// `larder serve` with a configuration that it can't start with.
pub(crate) fn refused(config: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("larder.toml");
    fs::write(&path, config).unwrap();
    let output = larder().arg("serve").arg("--config").arg(path).output().unwrap();
    assert!(output.stdout.is_empty(), "it says that it serves: {output:?}");
    output
}

#[tokio::test]
async fn every_mistake_is_named_with_its_line_and_nothing_starts() {
    let (listen, admin) = (Port::take(), Port::take());
    let config = format!(
        "[node]
name = \"a\"
listen = \"{}\"
admin = \"{}\"
drain = \"5s\"
weight = \"heavy\"
[cluster]
discovery = \"static\"
members = [
    \"a=127.0.0.1:1\",
    \"b\",
]
[groups.Users]
[groups.users]
capacity = \"lots\"
ttl = \"-1s\"
ttl_jitter = 2.0
[groups.users.origin]
kind = \"http\"
[groups.files.origin]
kind = \"carrier pigeon\"
",
        listen.address(),
        admin.address()
    );
    let output = tokio::task::spawn_blocking(move || refused(&config)).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for (line, key) in [
        (5, "node.drain"),
        (6, "node.weight"),
        (11, "cluster.members[1]"),
        (13, "Users"),
        (15, "groups.users.capacity"),
        (16, "groups.users.ttl"),
        (17, "groups.users.ttl_jitter"),
        (18, "groups.users.origin"),
        (21, "groups.files.origin.kind"),
    ] {
        let place = format!("line {line}: ");
        let told = stderr.lines().any(|told| told.contains(&place) && told.contains(key));
        assert!(told, "nothing of line {line}, {key}:\n{stderr}");
    }
    assert_eq!(stderr.lines().count(), 9, "each mistake once, and nothing else:\n{stderr}");
    for port in [listen, admin] {
        assert!(TcpStream::connect(port.address()).is_err());
    }
}

#[tokio::test]
async fn an_origin_that_cannot_be_opened_is_told_at_the_start() {
    for origin in
        ["kind = 'directory'\npath = '/nowhere'", "kind = 'sqlite'\nurl = '/nowhere/x.db'\nselect = 'SELECT $1'"]
    {
        let config = format!(
            "[node]\nlisten = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\npeer = '127.0.0.1:0'\n[groups.g.origin]\n{origin}\n"
        );
        let output = tokio::task::spawn_blocking(move || refused(&config)).await.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("groups.g.origin") && stderr.contains("/nowhere"), "{stderr}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_with_its_key() {
    let daemon = Daemon::plain().await;
    for (key, address) in [("listen", daemon.clients), ("admin", daemon.admin), ("peer", daemon.peers.unwrap())] {
        let others = ["listen", "admin", "peer"].into_iter().filter(|other| *other != key);
        let others = others.map(|other| format!("{other} = '127.0.0.1:0'\n")).collect::<String>();
        let config = format!("[node]\n{key} = '{address}'\n{others}");
        let output = tokio::task::spawn_blocking(move || refused(&config)).await.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(&address.to_string()) && stderr.contains(&format!("node.{key}")), "{stderr}");
    }
}

#[tokio::test]
async fn without_a_configuration_it_is_a_plain_cache() {
    let daemon = Daemon::plain().await;
    let path = "/v1/groups/default/keys/a";
    let of_default = |mut request: http::Request<_>| {
        *request.uri_mut() = path.parse().unwrap();
        request
    };
    assert_eq!(daemon.ask(get(path)).await.problem(), (404, "not-found".to_owned()));
    assert_eq!(daemon.ask(of_default(put_key("a", "v"))).await.status, 204);
    assert_eq!(daemon.ask(get(path)).await.text(), "v");
    assert_eq!(daemon.ask_admin("/healthz").await.status, 200);
    let cluster = daemon.ask(get("/v1/cluster")).await.json();
    assert_eq!(cluster["members"].as_array().unwrap().len(), 1);
    assert_eq!(cluster["members"][0]["slots"], 16384);
    daemon.signal(Signal::INT);
    assert_eq!(within(END_TIME_MAX, "the end", daemon.exit_code()).await, Some(0));
}

#[tokio::test]
async fn a_flag_is_enough_for_an_origin() {
    let origin = Origin::start().await;
    let url = format!("{}{{key}}", origin.url());
    let args = ["--origin", &url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--peer", "127.0.0.1:0"];
    let daemon = Daemon::start_with(&args).await;
    assert_eq!(daemon.ask(get("/v1/groups/default/keys/a%2Fb")).await.text(), value_of("a/b"));
    assert_eq!(origin.loads("a/b"), 1);
}

over_each_transport!(
    told_to_stop_it_finishes_what_runs_and_says_that_it_leaves,
    told_so_by_an_operator_it_leaves_as_by_a_signal,
);

async fn told_to_stop_it_finishes_what_runs_and_says_that_it_leaves(over: Over) {
    leaves(over, async |node: &Daemon| {
        node.signal(Signal::TERM);
        within(END_TIME_MAX, "to say so", async {
            while node.ready().await != 503 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    })
    .await;
}

async fn told_so_by_an_operator_it_leaves_as_by_a_signal(over: Over) {
    leaves(over, async |node: &Daemon| {
        assert_eq!(node.post_admin("/v1/drain").await.status, 202);
        assert_eq!(node.ready().await, 503, "at once");
    })
    .await;
}

async fn leaves(over: Over, tell: impl AsyncFnOnce(&Daemon)) {
    let origin = Origin::start().await;
    let cluster = Cluster::start(over, 2, &origin.group("")).await;
    let mut running = Vec::new();
    origin.hold();
    for owner in [0, 1] {
        let key = cluster.key_of(owner, "key").await;
        let mut connection = Connection::open(cluster[0].clients).await.unwrap();
        running.push(tokio::spawn(async move { (connection.ask(get_key(&key)).await, key) }));
        origin.is_asked(running.len()).await;
    }
    tell(&cluster[0]).await;
    assert!(cluster[0].try_ask(get_key("new")).await.is_err(), "it takes no more connections");
    origin.release();
    for request in running {
        let (answer, key) = request.await.unwrap();
        assert_eq!(answer.unwrap().text(), value_of(&key));
    }
    assert_eq!(within(END_TIME_MAX, "the end", cluster[0].exit_code()).await, Some(0));
    assert_eq!(cluster[1].ask(get_key("other")).await.text(), value_of("other"));
}

#[tokio::test]
async fn what_does_not_end_within_drain_timeout_is_cut_off() {
    let origin = Origin::start().await;
    let config =
        "[node]\nlisten = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\npeer = '127.0.0.1:0'\ndrain_timeout = '700ms'\n";
    let daemon = Daemon::start(&format!("{config}{}", origin.group(""))).await;
    origin.hold();
    let mut connection = Connection::open(daemon.clients).await.unwrap();
    let running = tokio::spawn(async move { connection.ask(get_key("key")).await });
    origin.is_asked(1).await;
    let start = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(within(END_TIME_MAX, "the end", daemon.exit_code()).await, Some(0));
    let took = start.elapsed();
    assert!(took > Duration::from_millis(650) && took < Duration::from_secs(3), "{took:?}");
    assert!(running.await.unwrap().is_err());
    assert!(daemon.stderr().contains("drain_timeout"), "{}", daemon.stderr());
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(Over::Grpc, 1, &origin.group("")).await;
    origin.hold();
    let mut connection = Connection::open(cluster[0].clients).await.unwrap();
    let running = tokio::spawn(async move { connection.ask(get_key("key")).await });
    origin.is_asked(1).await;
    cluster[0].signal(Signal::TERM);
    within(END_TIME_MAX, "the first signal", async {
        while !cluster[0].stderr().contains("second signal") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let start = Instant::now();
    cluster[0].signal(Signal::TERM);
    let code = within(END_TIME_MAX, "the end", cluster[0].exit_code()).await;
    assert!(code.is_none_or(|code| code != 0), "{code:?}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(running.await.unwrap().is_err());
}
