//! The commands against real nodes.

use std::process::{Output, Stdio};

use crate::{
    client::{get_key, value_of},
    cluster::{Cluster, Over, Port},
    origin::Origin,
    process::{Daemon, larder},
};

/// Runs a command against a node.
pub(crate) async fn run(node: &Daemon, args: &[&str]) -> Output {
    let mut command = larder();
    command.args(args).args(["--node", &format!("http://{}", node.clients)]).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[track_caller]
fn assert_ends(output: &Output, code: i32, stdout: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout);
    let lines = String::from_utf8_lossy(&output.stderr).lines().count();
    assert_eq!(lines, usize::from(code != 0), "one sentence, if it failed: {output:?}");
}

#[tokio::test]
async fn what_is_set_at_one_node_is_got_and_removed_at_others() {
    let cluster = Cluster::start(Over::Grpc, 3, "[groups.g]").await;
    for key in ["plain", "a b/..", "größe", "%2F+"] {
        assert_ends(&run(&cluster[0], &["set", "g", key, "the value"]).await, 0, "");
        assert_ends(&run(&cluster[1], &["get", "g", key]).await, 0, "the value");
        assert_ends(&run(&cluster[2], &["rm", "g", key]).await, 0, "");
        assert_ends(&run(&cluster[1], &["get", "g", key]).await, 3, "");
        assert_ends(&run(&cluster[1], &["rm", "g", key]).await, 0, "");
    }
}

#[tokio::test]
async fn a_nodes_refusal_is_told_and_has_its_code() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(Over::Grpc, 2, &origin.group("")).await;
    let node = &cluster[0];
    assert_ends(&run(node, &["get", "g", "key"]).await, 0, &value_of("key"));
    assert_ends(&run(node, &["get", "g", "missing"]).await, 3, "");
    assert_ends(&run(node, &["get", "g", "broken"]).await, 1, "");
    assert_ends(&run(node, &["get", "nothing", "key"]).await, 2, "");
    assert_ends(&run(node, &["owner", "nothing", "key"]).await, 2, "");
    assert_ends(&run(node, &["set", "g", "key", "v"]).await, 1, "");
    assert_ends(&run(node, &["rm", "g", "key"]).await, 0, "");
    let nobody = Port::take();
    let output = larder().args(["get", "g", "k", "--node", &nobody.address().to_string()]).output().unwrap();
    assert_ends(&output, 4, "");
}

#[tokio::test]
async fn owner_and_status_show_the_cluster() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(Over::Grpc, 3, &origin.group("")).await;
    cluster[0].ask(get_key("key")).await;
    let owner = run(&cluster[1], &["owner", "g", "key"]).await;
    let stdout = String::from_utf8(owner.stdout).unwrap();
    let letter = ["a", "b", "c"][cluster.owner("key").await];
    assert!(stdout.starts_with(&format!("owner     {letter}\nstand-in  ")), "{stdout}");

    let status = run(&cluster[0], &["status"]).await;
    let stdout = String::from_utf8(status.stdout).unwrap();
    assert_eq!(status.status.code(), Some(0));
    let rows: Vec<Vec<&str>> = stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    for (name, node) in ["a", "b", "c"].iter().zip(&cluster.nodes) {
        let address = node.clients.to_string();
        assert!(rows.iter().any(|row| row.starts_with(&[name, "serving", &address])), "{stdout}");
    }
    // One get, asked of this node.
    assert!(rows.iter().any(|row| row.starts_with(&["g", "1"])), "{stdout}");
}
