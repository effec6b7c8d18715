//! The `groupcache` crate, by Petroniuss: a gRPC call for each key that another peer owns.
//!
//! A node can't be told to own nothing, so the asker takes the keys that the ring gives to the other. What a node
//! keeps of the others' values is turned off, as every get would otherwise be a hit in process one time in ten.

use std::{
    error::Error,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use groupcache::{Groupcache, GroupcachePeer, ValueLoader, moka::future::Cache};
use tokio::task::JoinSet;
use tonic::service::interceptor::InterceptedService;

use super::{
    keys::{self, KEYS},
    sides::{Ended, asking, serving},
    unary,
};

/// Where the asker would be reached.
const NOBODY_ASKS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

/// Keys whose owner is looked for together, to be done sooner.
const ASKED_AT_ONCE: usize = 100;

type LoadError = Box<dyn Error + Send + Sync>;

struct Values {
    value_len: usize,
}

#[tonic::async_trait]
impl ValueLoader for Values {
    type Value = Bytes;

    async fn load(&self, key: &str) -> Result<Bytes, LoadError> {
        let index = keys::index(key.as_bytes()).ok_or("no such key")?;
        Ok(keys::value(index, self.value_len).into())
    }
}

/// What an asker loads from: asked for its own keys, it fails.
struct Nothing;

#[tonic::async_trait]
impl ValueLoader for Nothing {
    type Value = Bytes;

    async fn load(&self, _: &str) -> Result<Bytes, LoadError> {
        Err("the asking node is to load nothing".into())
    }
}

pub(crate) async fn serve(value_len: usize) -> Ended {
    // It owns every key it is asked for, wherever it is: its ring has no other peer.
    let peer = Groupcache::builder(GroupcachePeer::from_socket(NOBODY_ASKS), Values { value_len }).build();
    let answered = Arc::new(AtomicU64::new(0));
    let counted = answered.clone();
    let service = InterceptedService::new(peer.grpc_service(), move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(request)
    });
    let (address, server) = unary::listen(|mut it| it.add_service(service)).await?;
    tokio::spawn(server);
    serving(address, || answered.load(Ordering::Relaxed)).await
}

pub(crate) async fn ask(address: &str, value_len: usize) -> Ended {
    let hot_cache = Cache::builder().max_capacity(0).build();
    let peer = Groupcache::builder(GroupcachePeer::from_socket(NOBODY_ASKS), Nothing).hot_cache(hot_cache).build();
    peer.add_peer(GroupcachePeer::from_socket(address.parse()?)).await?;
    let indices = Arc::new(remote(&peer).await?);
    asking(move |number| {
        let (peer, index) = (peer.clone(), indices[number as usize]);
        async move {
            let answer = peer.get(keys::text(&keys::key(index))).await;
            answer.is_ok_and(|value| keys::is_right(index, value_len, &value))
        }
    })
    .await
}

/// As many keys as there are, all owned by the other peer. Asks for each, so that the other has them loaded.
async fn remote(peer: &Groupcache<Bytes>) -> Result<Vec<u64>, Box<dyn Error>> {
    let mut indices = Vec::with_capacity(KEYS as usize);
    // The ring gives each of two peers half, give or take.
    for first in (0..KEYS * 10).step_by(ASKED_AT_ONCE) {
        let gets = (first..first + ASKED_AT_ONCE as u64).map(|index| {
            let peer = peer.clone();
            async move { peer.get(keys::text(&keys::key(index))).await.is_ok().then_some(index) }
        });
        indices.extend(gets.collect::<JoinSet<_>>().join_all().await.into_iter().flatten());
        if indices.len() >= KEYS as usize {
            return Ok(indices);
        }
    }
    Err("the other peer owns hardly anything".into())
}
