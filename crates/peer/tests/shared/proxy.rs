//! What stands between two nodes, and breaks what passes through it.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::sleep,
};

/// What is read at a go.
const PIECE_LEN: usize = 64 * 1024;

/// What becomes of the bytes that pass.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Mode {
    Pass,
    /// Nothing passes, either way. Connections stay, and new ones are accepted; nothing comes of them.
    Stall,
    /// The same, but what came meanwhile is lost, and no connection that lost something carries anything again.
    Swallow,
    /// Each piece waits for so long.
    Delay(Duration),
    /// A connection is reset once it has carried more bytes than this.
    Reset(usize),
    /// The same, but it is closed in the middle of what it carries.
    Truncate(usize),
}

/// A proxy before a node. Dropped, it breaks its connections and is gone.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    orders: mpsc::Sender<Order>,
    mode: watch::Sender<Mode>,
}

enum Order {
    Cut(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

impl Proxy {
    pub(crate) async fn before(node: SocketAddr) -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").await.unwrap(), node)
    }

    /// A proxy before a node that may yet have to start.
    pub(crate) fn at(listener: TcpListener, node: SocketAddr) -> Self {
        let address = listener.local_addr().unwrap();
        let (orders, given) = mpsc::channel(1);
        let (mode, watched) = watch::channel(Mode::Pass);
        tokio::spawn(run(listener, given, node, watched));
        Self { address, orders, mode }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Breaks all connections that there are.
    pub(crate) async fn cut(&self) {
        let (done, cut) = oneshot::channel();
        assert!(self.orders.send(Order::Cut(done)).await.is_ok());
        cut.await.unwrap();
    }

    /// The same, and accepts no more.
    pub(crate) async fn stop(self) {
        let (done, stopped) = oneshot::channel();
        assert!(self.orders.send(Order::Stop(done)).await.is_ok());
        stopped.await.unwrap();
    }
}

async fn run(listener: TcpListener, mut given: mpsc::Receiver<Order>, node: SocketAddr, mode: watch::Receiver<Mode>) {
    let mut connections = JoinSet::new();
    let done = loop {
        tokio::select! {
            accepted = listener.accept() => {
                connections.spawn(carry(accepted.unwrap().0, node, mode.clone()));
            }
            Some(_) = connections.join_next() => {}
            order = given.recv() => match order {
                Some(Order::Cut(done)) => {
                    connections.shutdown().await;
                    // Whoever ordered it may have gone.
                    let _ = done.send(());
                }
                Some(Order::Stop(done)) => break Some(done),
                None => break None,
            },
        }
    };
    drop(listener);
    connections.shutdown().await;
    if let Some(done) = done {
        let _ = done.send(());
    }
}

async fn carry(mut here: TcpStream, node: SocketAddr, mode: watch::Receiver<Mode>) {
    let Ok(mut there) = TcpStream::connect(node).await else { return };
    there.set_nodelay(true).unwrap();
    here.set_nodelay(true).unwrap();
    let (from_here, to_here) = here.split();
    let (from_there, to_there) = there.split();
    tokio::select! {
        () = pass(from_here, to_there, mode.clone()) => {}
        () = pass(from_there, to_here, mode) => {}
    }
}

async fn pass(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut mode: watch::Receiver<Mode>) {
    let mut buffer = vec![0; PIECE_LEN];
    let (mut carried, mut has_lost) = (0, false);
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        let Ok(now) = mode.wait_for(|mode| *mode != Mode::Stall).await.map(|mode| *mode) else { return };
        carried += len;
        has_lost |= now == Mode::Swallow;
        if has_lost {
            continue;
        }
        match now {
            Mode::Reset(after) if carried > after => {
                from.as_ref().set_zero_linger().unwrap();
                to.as_ref().set_zero_linger().unwrap();
                return;
            }
            Mode::Truncate(after) if carried > after => {
                // It is closed next, whether this gets through or not.
                let _ = to.write_all(&buffer[..len / 2]).await;
                return;
            }
            Mode::Delay(time) => sleep(time).await,
            _ => {}
        }
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}
