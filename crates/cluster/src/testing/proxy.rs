//! [`Proxy`]: a way to a server that can be cut.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::JoinSet,
};

/// The most that is on its way at once, in bytes.
const PIECE_LEN_MAX: usize = 16 * 1024;

/// A way to a server. Cut, it is silent: nothing arrives in either direction, and no connection ends. Its tasks end with it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use larder_cluster::testing::Proxy;
///
/// let way = Proxy::to("127.0.0.1:2379".parse().unwrap()).await;
/// way.cut();
/// assert_ne!(way.address().port(), 2379);
/// # });
/// ```
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    is_open: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// An open way to this server.
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are free ports");
        let address = listener.local_addr().expect("a listener has an address");
        let (is_open, gate) = watch::channel(true);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, server, gate));
        Self { address, is_open, _tasks: tasks }
    }

    /// Where it is entered.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets nothing through any more.
    pub fn cut(&self) {
        self.is_open.send_replace(false);
    }

    /// Lets through what has waited and what comes.
    pub fn mend(&self) {
        self.is_open.send_replace(true);
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, gate: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let mut gate = gate.clone();
        connections.spawn(async move {
            if gate.wait_for(|is_open| *is_open).await.is_err() {
                return;
            }
            let Ok(server) = TcpStream::connect(server).await else { return };
            let ((client_reads, client_writes), (server_reads, server_writes)) =
                (client.into_split(), server.into_split());
            tokio::select! {
                () = pass(client_reads, server_writes, gate.clone()) => {}
                () = pass(server_reads, client_writes, gate) => {}
            }
        });
    }
}

async fn pass(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, mut gate: watch::Receiver<bool>) {
    let mut piece = vec![0; PIECE_LEN_MAX];
    while let Ok(len @ 1..) = from.read(&mut piece).await {
        if gate.wait_for(|is_open| *is_open).await.is_err() || to.write_all(&piece[..len]).await.is_err() {
            return;
        }
    }
}
