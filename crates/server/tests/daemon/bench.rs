//! `larder bench` against daemons: what it asks of them, what it tells, and how it ends.

use std::{
    process::{Child, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpListener};

use crate::{
    client::{GROUP, get, get_key, within},
    cluster::{Cluster, Over, Port},
    origin::Origin,
    process::{Daemon, POLL_INTERVAL, larder},
};

/// How long a benchmark may take to begin or to end: far longer than it does.
const PATIENCE: Duration = Duration::from_secs(60);

/// A benchmark that is over when it is told to stop.
const ENDLESS: &str = "1h";

/// A daemon with a group that is written to, which speaks gRPC with its peers.
async fn node() -> Daemon {
    with_transport("grpc", &format!("[groups.{GROUP}]\n")).await
}

async fn with_transport(transport: &str, groups: &str) -> Daemon {
    let nowhere = "listen = \"127.0.0.1:0\"\npeer = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n";
    Daemon::start(&format!("[node]\nname = \"a\"\ntransport = \"{transport}\"\n{nowhere}{groups}")).await
}

/// Where a node serves other nodes, as it tells.
async fn peer_of(node: &Daemon) -> String {
    let cluster = node.ask(get("/v1/cluster")).await.json();
    let me = cluster["members"].as_array().unwrap().iter().find(|member| member["name"] == cluster["self"]).unwrap();
    me["peer"].as_str().unwrap().to_owned()
}

/// Starts a benchmark of [`GROUP`], unless another is named.
fn start(args: &[&str]) -> Child {
    let mut command = larder();
    command.arg("bench").args(args);
    if !args.contains(&"--group") {
        command.args(["--group", GROUP]);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn end_of(benchmark: Child) -> Output {
    let waiting = tokio::task::spawn_blocking(|| benchmark.wait_with_output().unwrap());
    within(PATIENCE, "the benchmark", waiting).await.unwrap()
}

async fn bench(args: &[&str]) -> Output {
    end_of(start(args)).await
}

/// What a benchmark that ended well, or with this code, tells as JSON.
#[track_caller]
fn json(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// It ended with this code, told nothing, and said why in one sentence.
#[track_caller]
fn assert_refused(output: &Output, code: i32, sentence: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("larder: {sentence}\n"));
    assert_eq!(output.stdout, b"");
}

fn url(node: &Daemon) -> String {
    format!("http://{}", node.clients)
}

#[tokio::test]
async fn a_closed_loop_asks_the_node_for_what_it_then_tells() {
    let node = node().await;
    let args = ["--node", &url(&node), "--keys", "50", "--concurrency", "4", "--duration", "300ms", "--json"];
    let told = json(&bench(&args).await, 0);
    let gets = told["gets"].as_u64().unwrap();
    assert!(gets > 50, "{told}");
    assert_eq!((&told["not_found"], &told["found"], &told["failed"]), (&gets.into(), &0.into(), &0.into()));
    assert_eq!(node.metric("larder_gets_total").await, gets);
    let latency =
        ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"].map(|name| told["latency"][name].as_f64().unwrap());
    assert!(latency[0] > 0.0 && latency.is_sorted(), "{told}");
    let (seconds, rate) = (told["seconds"].as_f64().unwrap(), told["gets_per_second"].as_f64().unwrap());
    assert!(seconds >= 0.3 && (rate - gets as f64 / seconds).abs() < 1e-6, "{told}");
}

#[tokio::test]
async fn keys_are_written_only_where_their_size_is_given() {
    let node = node().await;
    let args = ["--node", &url(&node), "--keys", "20", "--prefix", "a/b ", "--duration", "100ms", "--json"];
    let told = json(&bench(&args).await, 0);
    assert_eq!(told["not_found"], told["gets"]);
    assert_eq!(node.ask(get_key("a/b 0")).await.status, 404);

    let told = json(&bench(&[&args[..], &["--value-size", "1KiB"]].concat()).await, 0);
    assert_eq!((&told["found"], &told["value_size"]), (&told["gets"], &1024.into()));
    for key in ["a/b 0", "a/b 19"] {
        assert_eq!(node.ask(get_key(key)).await.body.len(), 1024);
    }
    assert_eq!(node.ask(get_key("a/b 20")).await.status, 404);
}

#[tokio::test]
async fn an_open_loop_keeps_its_rate() {
    let node = node().await;
    let args = ["--node", &url(&node), "--duration", "500ms", "--rate", "400", "--json"];
    let told = json(&bench(&args).await, 0);
    assert_eq!((&told["gets"], &told["rate"]), (&200.into(), &400.0.into()));
    assert_eq!(node.metric("larder_gets_total").await, 200);
}

/// The origin holds the only caller up, and the gets that were due meanwhile waited as well.
#[tokio::test]
async fn an_open_loop_counts_from_when_gets_were_due() {
    let origin = Origin::start().await;
    let node = with_transport("grpc", &origin.group("")).await;
    // The first get takes 1.2 s.
    let keys = ["--keys", "1", "--prefix", "late"];
    let pace = ["--concurrency", "1", "--duration", "1s", "--rate", "100", "--json"];
    let told = json(&bench(&[&["--node", &url(&node)], &keys[..], &pace].concat()).await, 0);
    assert_eq!((&told["gets"], &told["found"]), (&100.into(), &100.into()));
    let latency = |name: &str| told["latency"][name].as_f64().unwrap();
    assert!(latency("p50_us") > 500_000.0 && latency("max_us") > 1_100_000.0, "{told}");
}

#[tokio::test]
async fn json_is_one_object_with_these_fields() {
    let node = node().await;
    let told = json(&bench(&["--node", &url(&node), "--duration", "50ms", "--json"]).await, 0);
    let fields = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<Vec<String>>().join(" ");
    assert_eq!(
        fields(&told),
        "concurrency dist duration_seconds failed failures found gets gets_per_second group interrupted keys latency \
         not_found prefix protocol rate seconds target value_size"
    );
    assert_eq!(fields(&told["latency"]), "max_us p50_us p90_us p999_us p99_us");
    for (name, value) in [
        ("target", url(&node).into()),
        ("protocol", "http".into()),
        ("group", GROUP.into()),
        ("keys", 10_000.into()),
        ("prefix", "key:".into()),
        ("dist", "zipf:0.99".into()),
        ("value_size", Value::Null),
        ("concurrency", 64.into()),
        ("rate", Value::Null),
        ("duration_seconds", 0.05.into()),
        ("interrupted", false.into()),
        ("failures", Value::Object(Default::default())),
    ] {
        assert_eq!(told[name], value, "{name}");
    }
}

#[tokio::test]
async fn people_are_told_in_lines() {
    let node = node().await;
    let output = bench(&["--node", &url(&node), "--duration", "50ms", "--value-size", "9", "--keys", "5"]).await;
    assert_eq!(
        (output.status.code(), output.stderr.len()),
        (Some(0), 0),
        "no bar where there is no terminal: {output:?}"
    );
    let stdout = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = stdout.lines().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(names, ["asked", "written", "load", "gets", "found", "not found", "failed", "latency"], "{stdout}");
    let line = |name: &str| stdout.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    assert_eq!(line("asked"), format!("{}, group g, keys key:0 to key:4, zipf:0.99", url(&node)));
    assert!(line("load").starts_with("64 callers, for 0.1 s"), "{stdout}");
    assert_eq!((line("not found"), line("failed")), ("0", "0"));
    for percentile in ["p50 ", "p90 ", "p99 ", "p99.9 ", "max "] {
        assert!(line("latency").contains(percentile), "{stdout}");
    }
}

#[tokio::test]
async fn a_peer_is_asked_as_nodes_ask_it() {
    let node = node().await;
    let args =
        ["--peer", &peer_of(&node).await, "--keys", "30", "--value-size", "100", "--duration", "200ms", "--json"];
    // That other commands know a node is no contradiction.
    let mut command = larder();
    command.env("LARDER_NODE", "http://127.0.0.1:1").arg("bench").args(args).args(["--group", GROUP]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = json(&output, 0);
    assert_eq!((&told["found"], &told["protocol"]), (&told["gets"], &"grpc".into()));
    assert_eq!(node.ask(get_key("key:29")).await.body.len(), 100);
    // The gets, the puts and the first look; and none of them as a client.
    let asked = told["gets"].as_u64().unwrap() + 30 + 1;
    assert_eq!(node.metric("larder_server_requests_total").await, asked);
    assert_eq!(node.metric("larder_gets_total").await, 1);
}

#[tokio::test]
async fn the_owner_of_each_key_is_asked_though_one_peer_is_named() {
    let cluster = Cluster::start(Over::Grpc, 3, &format!("[groups.{GROUP}]\n")).await;
    // One of them owns the key that is asked for first, and the others name it.
    for node in &cluster.nodes {
        let peer = peer_of(node).await;
        let args = ["--peer", &peer, "--keys", "300", "--value-size", "10", "--duration", "100ms", "--json"];
        let told = json(&bench(&args).await, 0);
        assert_eq!((&told["found"], &told["failed"]), (&told["gets"], &0.into()), "{told}");
    }
    for node in &cluster.nodes {
        // Its third of the puts, three times, and gets besides. What is passed on would be a client's get to it.
        assert!(node.metric("larder_server_requests_total").await > 200);
        assert_eq!(node.metric("larder_gets_total").await, 0);
    }
}

#[tokio::test]
async fn nodes_that_name_each_other_as_owners_are_not_asked_for_ever() {
    // Of some keys a says that b is the owner, and b that c is.
    let cluster = Cluster::with_lists(Over::Grpc, &["ab", "bc", "c"], &format!("[groups.{GROUP}]\n")).await;
    let peer = peer_of(&cluster[0]).await;
    let told = json(&bench(&["--peer", &peer, "--dist", "uniform", "--duration", "300ms", "--json"]).await, 1);
    assert!(told["not_found"].as_u64().unwrap() > 0, "{told}");
    assert!(told["failures"]["not-owner"].as_u64().unwrap() > 0, "{told}");
}

#[tokio::test]
async fn an_unknown_group_is_wrong_usage() {
    let node = node().await;
    let named = format!("there is no group \"nope\" at {}; its groups: {GROUP}", url(&node));
    assert_refused(&bench(&["--node", &url(&node), "--group", "nope"]).await, 2, &named);
    let output = bench(&["--peer", &peer_of(&node).await, "--group", "nope"]).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("larder: there is no group \"nope\""), "{output:?}");
}

#[tokio::test]
async fn a_group_that_takes_no_writes_is_left_alone() {
    let origin = Origin::start().await;
    let node = with_transport("grpc", &origin.group("")).await;
    let peer = peer_of(&node).await;
    for place in [["--node", &url(&node)], ["--peer", &peer]] {
        let output = bench(&[&place[..], &["--value-size", "10"]].concat()).await;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let said = "larder: the keys can't be written, and without --value-size none are: ";
        assert!(stderr.starts_with(said) && stderr.lines().count() == 1, "{stderr}");
    }
    assert_eq!(node.metric("larder_gets_total").await, 0);
}

#[tokio::test]
async fn a_node_that_is_not_there_can_not_be_reached() {
    let nobody = Port::take().address().to_string();
    let refused = "Connection refused (os error 111)";
    assert_refused(
        &bench(&["--node", &nobody]).await,
        4,
        &format!("could not reach http://{nobody}: {refused}; start a node there or name another with --node"),
    );
    assert_refused(
        &bench(&["--peer", &nobody]).await,
        4,
        &format!(
            "could not reach {nobody}: {refused}; start a node with transport = \"grpc\" there or name another with --peer \
             (one with transport = \"http\" is measured with --node)"
        ),
    );
}

#[tokio::test]
async fn an_address_that_is_no_peers_is_told_from_one_that_is() {
    let grpc = node().await;
    let (clients, peer) = (grpc.clients, peer_of(&grpc).await);
    assert_refused(
        &bench(&["--peer", &clients.to_string()]).await,
        1,
        &format!(
            "{clients} is where a node serves clients, and {peer} is where it serves other nodes: measure it with --node \
             http://{clients} or --peer {peer}"
        ),
    );
    let over_http = with_transport("http", &format!("[groups.{GROUP}]\n")).await;
    let http = over_http.clients;
    assert_refused(
        &bench(&["--peer", &http.to_string()]).await,
        1,
        &format!(
            "the node at {http} runs with transport = \"http\", and --peer measures gRPC: measure it with --node \
             http://{http}, or set node.transport = \"grpc\" there"
        ),
    );
    // Something else, that says its name to all who come.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // If it has gone already, it wants to hear nothing.
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await;
        }
    });
    let output = bench(&["--peer", &other]).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let (start, end) = ("does not speak the peer protocol (", "): name a node's node.peer with --peer\n");
    assert!(stderr.starts_with(&format!("larder: {other} {start}")) && stderr.ends_with(end), "{stderr}");
}

/// Waits until a benchmark has begun to ask a node.
async fn has_begun(node: &Daemon) {
    within(PATIENCE, "the first gets", async {
        while node.metric("larder_server_requests_total").await + node.metric("larder_gets_total").await < 100 {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_that_dies_shows_in_the_failures() {
    for by_peer in [false, true] {
        let mut node = node().await;
        let place = if by_peer { ["--peer", &peer_of(&node).await] } else { ["--node", &url(&node)] };
        let benchmark = start(&[&place[..], &["--duration", "3s", "--concurrency", "4", "--json"]].concat());
        has_begun(&node).await;
        node.kill();
        let output = end_of(benchmark).await;
        let told = json(&output, 1);
        assert!(told["not_found"].as_u64().unwrap() >= 90, "{told}");
        assert!(told["failures"]["unreachable"].as_u64().unwrap() > 0, "{told}");
        let (failed, gets) = (told["failed"].as_u64().unwrap(), told["gets"].as_u64().unwrap());
        let sentence = String::from_utf8(output.stderr).unwrap();
        assert!(sentence.starts_with(&format!("larder: {failed} of {gets} gets failed: ")), "{sentence}");
        // Four callers for three seconds, each with a pause after a failure: not some hundred thousands.
        assert!(failed <= 1_200, "{told}");
    }
}

#[tokio::test]
async fn an_interrupt_brings_the_report_so_far() {
    let node = node().await;
    let benchmark = start(&["--node", &url(&node), "--duration", ENDLESS, "--json"]);
    has_begun(&node).await;
    kill_process(Pid::from_child(&benchmark), Signal::INT).unwrap();
    let told = json(&end_of(benchmark).await, 0);
    assert_eq!((&told["interrupted"], &told["duration_seconds"]), (&true.into(), &3600.0.into()));
    assert!(told["gets"].as_u64().unwrap() > 30 && told["seconds"].as_f64().unwrap() < 60.0, "{told}");
}

#[tokio::test]
async fn an_interrupt_before_the_first_get_leaves_nothing_to_report() {
    let node = node().await;
    let benchmark = start(&["--node", &url(&node), "--value-size", "1", "--keys", "1000000000"]);
    within(PATIENCE, "the first put", async {
        while node.ask(get_key("key:100")).await.status != 200 {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await;
    kill_process(Pid::from_child(&benchmark), Signal::INT).unwrap();
    assert_refused(&end_of(benchmark).await, 1, "stopped before anything was measured");
}
