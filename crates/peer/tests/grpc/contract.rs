//! The suite that every transport passes.

use std::{net::SocketAddr, sync::Arc};

use larder_core::{
    Clock, Moment, PeerService, Standing, Transport, peer_transport_contract,
    testing::peer::{Bench, RunningNode},
};
use larder_peer::grpc::{GrpcTransport, serve};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::proxy::Proxy;

/// A wall clock that stands.
pub(crate) struct Wall(pub(crate) u64);

impl Clock for Wall {
    fn now(&self) -> Moment {
        Moment::default()
    }

    fn wall_ms(&self) -> u64 {
        self.0
    }
}

/// What all wall clocks show unless one is wrong.
pub(crate) const WALL_MS: u64 = 1_750_000_000_000;

pub(crate) fn standing(name: &str, wall_ms: u64) -> Arc<Standing> {
    Arc::new(Standing::new(name, 1, Arc::new(Wall(wall_ms))))
}

pub(crate) fn transport() -> GrpcTransport {
    let transport = GrpcTransport::new();
    transport.introduce(standing("a", WALL_MS));
    transport
}

/// Starts a node; it lasts until its task is aborted.
pub(crate) async fn node(service: Arc<dyn PeerService>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (address, tokio::spawn(serve(listener, service, standing("b", WALL_MS), std::future::pending())))
}

struct GrpcBench;

struct GrpcNode {
    proxy: Proxy,
    node: JoinHandle<()>,
}

peer_transport_contract!(GrpcBench);

impl Bench for GrpcBench {
    type Node = GrpcNode;

    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(transport())
    }

    async fn start(&self, service: Arc<dyn PeerService>) -> GrpcNode {
        let (address, node) = node(service).await;
        GrpcNode { proxy: Proxy::before(address).await, node }
    }
}

impl RunningNode for GrpcNode {
    fn address(&self) -> String {
        self.proxy.address.to_string()
    }

    async fn cut(&self) {
        self.proxy.cut().await;
    }

    async fn stop(self) {
        self.proxy.stop().await;
        self.node.abort();
    }
}
