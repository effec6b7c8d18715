//! Nodes and links of tests that look at the gRPC link alone.

use std::{net::SocketAddr, sync::Arc};

use larder_core::{Clock, Member, Moment, PeerClient, PeerService, Standing, Transport};
use larder_peer::grpc::{GrpcTransport, serve};
use tokio::{net::TcpListener, task::JoinHandle};

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

pub(crate) fn link(address: SocketAddr) -> Arc<dyn PeerClient> {
    transport().link(&Member::new("b", address.to_string())).unwrap()
}

/// Starts a node; it lasts until its task is aborted.
pub(crate) async fn node(service: Arc<dyn PeerService>) -> (SocketAddr, JoinHandle<()>) {
    node_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), service)
}

pub(crate) fn node_on(listener: TcpListener, service: Arc<dyn PeerService>) -> (SocketAddr, JoinHandle<()>) {
    let address = listener.local_addr().unwrap();
    (address, tokio::spawn(serve(listener, service, standing("b", WALL_MS), std::future::pending())))
}
