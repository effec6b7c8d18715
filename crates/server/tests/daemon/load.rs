//! Gets that go on while something happens.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    client::{Connection, get_key, value_of},
    process::Daemon,
};

/// How long it rests between two keys: it is small enough that a busy machine keeps up, and large enough that whatever
/// takes a tenth of a second meets some of it.
const PAUSE: Duration = Duration::from_millis(10);

/// A client that asks some nodes for a key that each of them knows, and for one that nobody has asked for, again and again.
pub(crate) struct Load {
    stop: oneshot::Sender<()>,
    asked: JoinHandle<Asked>,
}

/// What the client saw.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Keys that were asked for, the known ones too, each at every node.
    pub(crate) keys: Vec<String>,
    /// What else came than the key's value.
    pub(crate) failed: Vec<String>,
    /// The longest that a get took.
    pub(crate) slowest: Duration,
}

impl Load {
    /// At these nodes; `known` are keys that they have been asked for.
    pub(crate) fn start(nodes: &[&Daemon], known: impl IntoIterator<Item = String>) -> Self {
        let nodes: Vec<SocketAddr> = nodes.iter().map(|node| node.clients).collect();
        let known: Vec<String> = known.into_iter().collect();
        let (stop, stopped) = oneshot::channel();
        Self { stop, asked: tokio::spawn(ask(nodes, known, stopped)) }
    }

    /// Ends it.
    pub(crate) async fn end(self) -> Asked {
        self.stop.send(()).unwrap();
        self.asked.await.unwrap()
    }
}

async fn ask(nodes: Vec<SocketAddr>, known: Vec<String>, mut stopped: oneshot::Receiver<()>) -> Asked {
    let mut asked = Asked { keys: known.clone(), ..Asked::default() };
    let mut connections = Vec::new();
    for node in nodes {
        connections.push(Connection::open(node).await.unwrap());
    }
    for (number, known) in known.iter().cycle().enumerate() {
        if stopped.try_recv().is_ok() {
            break;
        }
        let new = format!("new{number}");
        for (node, connection) in connections.iter_mut().enumerate() {
            for key in [known, &new] {
                let start = Instant::now();
                let answer = connection.ask(get_key(key)).await.unwrap();
                asked.slowest = asked.slowest.max(start.elapsed());
                if (answer.status, answer.text()) != (200, &value_of(key)) {
                    asked.failed.push(format!("{key} at {node}: {} {}", answer.status, answer.text()));
                }
            }
        }
        asked.keys.push(new);
        sleep(PAUSE).await;
    }
    asked
}
