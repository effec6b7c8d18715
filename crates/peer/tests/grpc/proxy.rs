//! What stands between two nodes, and breaks what passes through it.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    orders: mpsc::Sender<Order>,
    flows: watch::Sender<bool>,
}

enum Order {
    Cut(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

impl Proxy {
    pub(crate) async fn before(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (orders, mut given) = mpsc::channel(1);
        let (flows, flowing) = watch::channel(true);
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            let done = loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let flowing = flowing.clone();
                        connections.spawn(async move {
                            let (here, _) = accepted.unwrap();
                            let Ok(there) = TcpStream::connect(node).await else { return };
                            there.set_nodelay(true).unwrap();
                            here.set_nodelay(true).unwrap();
                            let (from_here, to_here) = here.into_split();
                            let (from_there, to_there) = there.into_split();
                            tokio::select! {
                                () = pass(from_here, to_there, flowing.clone()) => {}
                                () = pass(from_there, to_here, flowing) => {}
                            }
                        });
                    }
                    order = given.recv() => match order {
                        Some(Order::Cut(done)) => {
                            connections.shutdown().await;
                            let _ = done.send(());
                        }
                        Some(Order::Stop(done)) => break Some(done),
                        None => break None,
                    },
                }
            };
            drop(listener);
            connections.shutdown().await;
            done.map(|done| done.send(()))
        });
        Self { address, orders, flows }
    }

    pub(crate) async fn cut(&self) {
        let (done, cut) = oneshot::channel();
        assert!(self.orders.send(Order::Cut(done)).await.is_ok());
        cut.await.unwrap();
    }

    pub(crate) async fn stop(self) {
        let (done, stopped) = oneshot::channel();
        assert!(self.orders.send(Order::Stop(done)).await.is_ok());
        stopped.await.unwrap();
    }

    /// Lets nothing pass any more, or again.
    pub(crate) fn stall(&self, stalls: bool) {
        self.flows.send_replace(!stalls);
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut flowing: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        if flowing.wait_for(|flows| *flows).await.is_err() || to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}
