//! [`Ways`]: the ways that gossip takes between nodes, with a gate in the middle.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{net::UdpSocket, task::JoinSet};

/// The longest datagram.
const DATAGRAM_LEN_MAX: usize = 65_535;

/// The ways between some nodes, of whom the former half can be cut off from the latter.
///
/// A node gossips at one address and is known by another, where a socket passes on what comes for it: through the socket of
/// who sent it, so that answers come back the same way.
pub(crate) struct Ways {
    nodes: Arc<[Way]>,
    is_cut: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

/// The way to a node.
struct Way {
    /// Where the node is.
    to: SocketAddr,
    /// Where the others believe it to be.
    socket: UdpSocket,
}

impl Ways {
    pub(crate) async fn between(count: u8) -> Self {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        // Addresses that no other process has, so that a port that is free at one is free at the other.
        let host = |last| Ipv4Addr::new(127, 128 | (high & 63), low, last);
        let mut nodes = Vec::new();
        for number in 1..=count {
            let socket = UdpSocket::bind((host(number), 0)).await.unwrap();
            let port = socket.local_addr().unwrap().port();
            nodes.push(Way { to: (host(100 + number), port).into(), socket });
        }
        let (nodes, is_cut): (Arc<[Way]>, _) = (nodes.into(), Arc::<AtomicBool>::default());
        let mut tasks = JoinSet::new();
        for place in 0..nodes.len() {
            tasks.spawn(pass(nodes.clone(), place, is_cut.clone()));
        }
        Self { nodes, is_cut, _tasks: tasks }
    }

    /// Where the node at this place is to gossip.
    pub(crate) fn to(&self, place: usize) -> SocketAddr {
        self.nodes[place].to
    }

    /// Where the others reach it.
    pub(crate) fn advertised(&self, place: usize) -> SocketAddr {
        self.nodes[place].socket.local_addr().unwrap()
    }

    /// Nothing gets from one half to the other.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    pub(crate) fn mend(&self) {
        self.is_cut.store(false, Ordering::Relaxed);
    }
}

/// Passes on what comes for the node at this place.
async fn pass(nodes: Arc<[Way]>, place: usize, is_cut: Arc<AtomicBool>) {
    let mut datagram = vec![0; DATAGRAM_LEN_MAX];
    let is_former = |place: usize| place < nodes.len() / 2;
    loop {
        // A datagram that found nobody there earlier is an error here.
        let Ok((len, from)) = nodes[place].socket.recv_from(&mut datagram).await else { continue };
        let Some(sender) = nodes.iter().position(|node| node.to == from) else { continue };
        if is_former(sender) == is_former(place) || !is_cut.load(Ordering::Relaxed) {
            let _sent = nodes[sender].socket.send_to(&datagram[..len], nodes[place].to).await;
        }
    }
}
