//! Three nodes over gRPC: each key is loaded by its owner, once, whoever is asked.
//!
//! `cargo run -p larder --example cluster`

use std::{
    convert::Infallible,
    future::pending,
    sync::atomic::{AtomicU32, Ordering},
};

use larder::{Key, Member, Node, cluster::Static, core::stats::Protocol, loader_fn, peer::grpc};
use tokio::{net::TcpListener, task::JoinSet};

static LOADS: AtomicU32 = AtomicU32::new(0);

async fn load(key: Key) -> Result<Option<String>, Infallible> {
    LOADS.fetch_add(1, Ordering::Relaxed);
    Ok(Some(format!("the value of {}", key.as_bytes().escape_ascii())))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut listeners = Vec::new();
    let mut members = Vec::new();
    for name in ["a", "b", "c"] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        members.push(Member::new(name, listener.local_addr()?.to_string()));
        listeners.push(listener);
    }
    let membership = Static::new(members)?;

    let mut nodes = Vec::new();
    for (name, listener) in ["a", "b", "c"].into_iter().zip(listeners) {
        let node = Node::builder().name(name).membership(membership.clone()).start().await?;
        let (service, standing) = (node.core().service(Protocol::Grpc), node.core().standing().clone());
        tokio::spawn(grpc::serve(listener, service, standing, pending()));
        let group = node.group("things", loader_fn(load)).open()?;
        nodes.push((node, group));
    }

    let mut callers = JoinSet::new();
    for caller in 0..300 {
        let group = nodes[caller % 3].1.clone();
        callers.spawn(async move { group.get("one").await });
    }
    for answer in callers.join_all().await {
        answer?;
    }
    println!("300 callers on three nodes: {} load", LOADS.load(Ordering::Relaxed));
    for (node, group) in &nodes {
        println!("{} holds {}", node.core().name(), group.core().store_stats().items());
    }
    Ok(())
}
