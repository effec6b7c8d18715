//! [`SealedUdp`]: what chitchat sends and receives through: UDP, each datagram [sealed](Seal).

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chitchat::{
    ChitchatMessage, Deserializable, Serializable,
    transport::{Socket, Transport},
};
use larder_core::Clock;
use parking_lot::Mutex;
use tokio::{
    net::UdpSocket,
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    GossipTraffic,
    seal::{OVERHEAD, Refusal, Seal},
};

/// The longest payload of a UDP datagram over IPv4, in bytes.
const DATAGRAM_LEN_MAX: usize = 65_507;

/// How long to wait after the system failed to receive, so that an error that stays doesn't keep a processor busy.
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);

/// How often, at most, each kind of trouble is logged: whoever reaches the port can make any number of it.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Decides which datagrams get through, by where they go; tests cut nodes off with it, and look at what they send.
pub(super) type Filter = Arc<dyn Fn(SocketAddr, &[u8]) -> bool + Send + Sync>;

/// What is counted at the socket, for others to look at.
#[derive(Default)]
pub(super) struct Counters {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    longest: AtomicU64,
    refused: AtomicU64,
    /// How many exchanges that this node began have ended: it has heard what the other knew, and has answered.
    pub(super) exchanges: watch::Sender<u64>,
}

impl Counters {
    pub(super) fn traffic(&self) -> GossipTraffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GossipTraffic {
            sent: read(&self.sent),
            sent_bytes: read(&self.sent_bytes),
            received: read(&self.received),
            received_bytes: read(&self.received_bytes),
            longest: read(&self.longest),
            refused: read(&self.refused),
        }
    }
}

/// A socket that is bound already, for chitchat to open once.
pub(super) struct SealedUdp(Mutex<Option<SealedSocket>>);

impl SealedUdp {
    pub(super) fn new(
        udp: UdpSocket,
        seal: Seal,
        clock: Arc<dyn Clock>,
        filter: Option<Filter>,
    ) -> (Self, Arc<Counters>) {
        let counters = Arc::new(Counters::default());
        let socket = SealedSocket {
            udp,
            seal,
            clock,
            filter,
            counters: counters.clone(),
            text: Vec::new(),
            outgoing: Vec::new(),
            incoming: vec![0; DATAGRAM_LEN_MAX + 1].into(),
            warned: [None; 3],
        };
        (Self(Mutex::new(Some(socket))), counters)
    }
}

#[async_trait]
impl Transport for SealedUdp {
    async fn open(&self, _bound: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let socket = self.0.lock().take();
        Ok(Box::new(socket.ok_or_else(|| anyhow::anyhow!("the socket is opened once"))?))
    }
}

struct SealedSocket {
    udp: UdpSocket,
    seal: Seal,
    clock: Arc<dyn Clock>,
    filter: Option<Filter>,
    counters: Arc<Counters>,
    text: Vec<u8>,
    outgoing: Vec<u8>,
    incoming: Box<[u8]>,
    /// When each [`Trouble`] was last logged.
    warned: [Option<Instant>; 3],
}

/// What an operator should know of.
#[derive(Clone, Copy)]
enum Trouble {
    Foreign,
    Stamp,
    TooLong,
}

#[async_trait]
impl Socket for SealedSocket {
    /// Never fails: an error would end the gossip, and no datagram is sure to arrive anyway.
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        self.text.clear();
        message.serialize(&mut self.text);
        if self.text.len() + OVERHEAD > DATAGRAM_LEN_MAX {
            let len = self.text.len();
            self.warn(Trouble::TooLong, || {
                tracing::error!(len, "the gossip of so many members fits no datagram: use etcd or Consul");
            });
            return Ok(());
        }
        self.seal.seal(&self.text, self.clock.wall_ms(), &mut self.outgoing);
        if self.filter.as_ref().is_none_or(|filter| filter(to, &self.outgoing)) {
            match self.udp.send_to(&self.outgoing, to).await {
                Ok(len) => {
                    let len = len as u64;
                    self.counters.sent.fetch_add(1, Ordering::Relaxed);
                    self.counters.sent_bytes.fetch_add(len, Ordering::Relaxed);
                    self.counters.longest.fetch_max(len, Ordering::Relaxed);
                }
                Err(error) => tracing::debug!(%to, %error, "gossip can't be sent"),
            }
        }
        if matches!(message, ChitchatMessage::Ack { .. }) {
            self.counters.exchanges.send_modify(|exchanges| *exchanges += 1);
        }
        Ok(())
    }

    /// Never fails, for the same reason.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            match self.udp.recv_from(&mut self.incoming).await {
                Ok((len, from)) => {
                    if let Some(message) = self.take(len, from) {
                        return Ok((from, message));
                    }
                }
                // A datagram sent earlier found nobody there.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => {
                    tracing::debug!(%error, "gossip can't be received");
                    sleep(RECEIVE_PAUSE).await;
                }
            }
        }
    }
}

impl SealedSocket {
    fn take(&mut self, len: usize, from: SocketAddr) -> Option<ChitchatMessage> {
        self.counters.received.fetch_add(1, Ordering::Relaxed);
        self.counters.received_bytes.fetch_add(len as u64, Ordering::Relaxed);
        let opened = self.seal.open(&mut self.incoming[..len], self.clock.wall_ms(), Instant::now());
        let message = match opened {
            Ok(mut text) => {
                let message = ChitchatMessage::deserialize(&mut text).ok();
                message.filter(|_| text.is_empty()).ok_or(Refusal::Foreign)
            }
            Err(refusal) => Err(refusal),
        };
        let refusal = match message {
            Ok(message) => return Some(message),
            Err(refusal) => refusal,
        };
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        match refusal {
            Refusal::Foreign => self.warn(Trouble::Foreign, || {
                tracing::warn!(%from, "gossip that can't be opened: all nodes need the same cluster.gossip_key");
            }),
            Refusal::Stamp => self.warn(Trouble::Stamp, || {
                tracing::warn!(%from, "gossip whose time stamp is far from this node's clock: set the nodes' clocks");
            }),
            Refusal::Replay => tracing::debug!(%from, "gossip that has been taken already"),
        }
        None
    }

    fn warn(&mut self, trouble: Trouble, log: impl FnOnce()) {
        let now = Instant::now();
        let last = &mut self.warned[trouble as usize];
        if last.is_none_or(|last| now - last >= WARN_EVERY) {
            *last = Some(now);
            log();
        }
    }
}
