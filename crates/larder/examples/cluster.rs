//! Three nodes over HTTP: each key is loaded by its owner, once, whoever is asked. A program mounts golang/groupcache's path on
//! its own HTTP server, as it would in Go; here that is hyper.
//!
//! `cargo run -p larder --example cluster`

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU32, Ordering},
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use larder::{
    Key, Member, Node, SystemClock, cluster::Static, core::stats::Protocol, loader_fn, peer::http::groupcache,
};
use tokio::{net::TcpListener, task::JoinSet};

static LOADS: AtomicU32 = AtomicU32::new(0);

async fn load(key: Key) -> Result<Option<String>, Infallible> {
    LOADS.fetch_add(1, Ordering::Relaxed);
    Ok(Some(format!("the value of {}", key.as_bytes().escape_ascii())))
}

/// Answers other nodes on this listener.
async fn serve(listener: TcpListener, node: larder::core::Node) {
    let peers = node.service(Protocol::Http);
    while let Ok((socket, _)) = listener.accept().await {
        let peers = peers.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let peers = peers.clone();
                async move {
                    let (path, headers) = (request.uri().path().to_owned(), request.headers());
                    Ok::<_, Infallible>(groupcache::serve(&*peers, &SystemClock, &path, headers).await)
                }
            });
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
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
        tokio::spawn(serve(listener, node.core().clone()));
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
