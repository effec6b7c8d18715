//! The client's side: [`GrpcTransport`] and its links.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::BoxFuture;
use http::{
    Uri,
    uri::{Authority, Scheme},
};
use larder_core::{
    Error, ErrorKind, Member, PeerClient, Standing, Transport, Version,
    claim::{SlotReply, SlotRequest},
    peer::{Asker, PeerError, PeerWrite},
    stats::Sizes,
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    dial::greet,
    lane::Lane,
    limits::{CONNECT_TIMEOUT, LANE_LOAD, LANES_MAX, SLOTS_LEN_MAX},
    pending::{Ask, Said},
    slots,
};

/// Links to other nodes over gRPC. A [`Member::address`] is `host:port`.
///
/// A node tells a transport whose links it makes; one that belongs to no node has to be told by
/// [`introduce`](Transport::introduce).
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "testing")] {
/// use std::sync::Arc;
/// use larder_core::{Member, Standing, Transport, testing::clock::TokioClock};
/// use larder_peer::grpc::GrpcTransport;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let transport = GrpcTransport::new();
/// assert!(transport.link(&Member::new("b", "10.0.0.2:5274")).is_err(), "it does not know whose link that is");
/// transport.introduce(Arc::new(Standing::new("a", 1, Arc::new(TokioClock::new()))));
/// assert!(transport.link(&Member::new("b", "10.0.0.2:5274")).is_ok());
/// assert!(transport.link(&Member::new("c", "10.0.0.3")).is_err(), "the port is missing");
/// # });
/// # }
/// ```
#[derive(Default, Debug)]
pub struct GrpcTransport {
    standing: OnceLock<Arc<Standing>>,
}

impl GrpcTransport {
    /// A transport that has not been told yet whose links it makes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Transport for GrpcTransport {
    fn name(&self) -> &'static str {
        "grpc"
    }

    /// The first to say so is it.
    fn introduce(&self, node: Arc<Standing>) {
        self.standing.get_or_init(|| node);
    }

    fn carries_claims(&self) -> bool {
        true
    }

    fn greet(&self, member: &Member) -> BoxFuture<'static, ()> {
        let (standing, address) = (self.standing.get().cloned(), member.address.clone());
        Box::pin(async move {
            let (Some(standing), Ok(uri)) = (standing, parse(&address)) else { return };
            match timeout(CONNECT_TIMEOUT, greet(&address, &uri, &standing)).await {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => tracing::debug!(%address, reason, "a member was not met"),
                Err(_) => tracing::debug!(%address, "a member did not say hello in time"),
            }
        })
    }

    fn link(&self, member: &Member) -> Result<Arc<dyn PeerClient>, Error> {
        let Some(standing) = self.standing.get() else {
            return Err(Error::new(ErrorKind::Invalid, "the gRPC transport belongs to no node: introduce one first"));
        };
        let uri = parse(&member.address)?;
        let batch_sizes = Arc::default();
        let lane = |number| {
            Lane::new(member.address.to_string(), uri.clone(), standing.clone(), Arc::clone(&batch_sizes), number)
        };
        Ok(Arc::new(Link { lanes: std::array::from_fn(lane), open: AtomicUsize::new(1), batch_sizes }))
    }
}

fn parse(address: &str) -> Result<Uri, Error> {
    let wrong = || {
        let message = format!("{address:?} can't be a node's address: give host:port");
        Error::new(ErrorKind::Invalid, message)
    };
    let authority = Authority::try_from(address).map_err(|_| wrong())?;
    if authority.port_u16().is_none() || authority.host().is_empty() || address.contains('@') {
        return Err(wrong());
    }
    let uri = Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query("/");
    uri.build().map_err(|_| wrong())
}

struct Link {
    lanes: [Arc<Lane>; LANES_MAX],
    /// How many of them are in use, from the first.
    open: AtomicUsize,
    batch_sizes: Arc<Sizes>,
}

impl Link {
    /// The lane with the least to do. Opens another when all have much.
    fn lane(&self) -> &Arc<Lane> {
        let open = self.open.load(Ordering::Relaxed);
        let mut least = (&self.lanes[0], self.lanes[0].load());
        if least.1 < LANE_LOAD {
            return least.0;
        }
        for lane in &self.lanes[1..open] {
            let load = lane.load();
            if load < least.1 {
                least = (lane, load);
            }
        }
        if least.1 < LANE_LOAD || least.1 == usize::MAX || open == LANES_MAX {
            return least.0;
        }
        self.open.store(open + 1, Ordering::Relaxed);
        &self.lanes[open]
    }

    /// Has a request answered, and forgets it if nobody waits any more.
    async fn put<T>(
        &self,
        deadline: Instant,
        ask: impl FnOnce(oneshot::Sender<Result<T, PeerError>>) -> Ask + Send,
    ) -> Result<T, PeerError> {
        let (tell, told) = oneshot::channel();
        let lane = self.lane();
        let mut place = Place { lane, id: lane.push(ask(tell), deadline) };
        let answer = told.await;
        place.id = None;
        answer.unwrap_or_else(|_| Err(PeerError::broke_off("the link was closed")))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.close();
        }
    }
}

/// A request whose caller still waits.
struct Place<'a> {
    lane: &'a Arc<Lane>,
    id: Option<u64>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.lane.give_up(id);
        }
    }
}

impl PeerClient for Link {
    fn ask(self: Arc<Self>, asker: Box<dyn Asker>) {
        let deadline = asker.question().deadline;
        self.lane().push(Ask::Get(asker), deadline);
    }

    fn write(&self, request: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, PeerError>> {
        let deadline = request.deadline;
        Box::pin(self.put(deadline, |tell| Ask::Write(Some(Box::new(request)), tell)))
    }

    /// Who says it has said so when the connection was made.
    fn slots(&self, request: SlotRequest, deadline: Instant) -> BoxFuture<'_, Result<SlotReply, PeerError>> {
        Box::pin(async move {
            let (group, key, op) = slots::op(&request.call);
            if op.encoded_len() > SLOTS_LEN_MAX {
                let message = format!("what is said about slots takes more than {SLOTS_LEN_MAX} bytes");
                return Err(PeerError::Answered(Error::new(ErrorKind::TooLarge, message)));
            }
            let said = Box::new(Said { group, key, op });
            let reply = self.put(deadline, |tell| Ask::Slots(Some(said), tell)).await?;
            if slots::is_reply(&request.call, &reply) {
                Ok(reply)
            } else {
                Err(PeerError::broke_off("it answered something else than it was asked"))
            }
        })
    }

    fn probe(&self, deadline: Instant) -> BoxFuture<'_, Result<(), PeerError>> {
        Box::pin(self.put(deadline, |tell| Ask::Ping(Some(tell))))
    }

    fn batch_sizes(&self) -> Option<&Sizes> {
        Some(&self.batch_sizes)
    }
}
