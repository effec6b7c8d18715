//! The suite that every transport passes.

use std::sync::Arc;

use larder_core::{
    PeerService, Transport, peer_transport_contract, slots_transport_contract,
    testing::peer::{Bench, RunningNode},
};
use tokio::task::JoinHandle;

use crate::{
    node::{node, transport},
    proxy::Proxy,
};

struct GrpcBench;

struct GrpcNode {
    proxy: Proxy,
    node: JoinHandle<()>,
}

peer_transport_contract!(GrpcBench);
slots_transport_contract!(GrpcBench);

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
