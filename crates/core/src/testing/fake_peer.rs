//! [`FakeNetwork`]: a transport in memory that tests can hold up and cut.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    Error, ErrorKind, Member, PeerClient, PeerService, Standing, Transport, Version,
    claim::{SlotReply, SlotRequest},
    peer::{Asker, Leave, PeerAnswer, PeerError, PeerGet, PeerQuestion, PeerWrite, SILENCE_MAX},
};

/// Nodes that reach each other by address, without sockets. Clones are the same network.
///
/// # Examples
///
/// ```
/// # use std::sync::Arc;
/// use larder_core::{Member, Transport, testing::{fake_peer::FakeNetwork, peer::{EchoNode, deadline}}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let network = FakeNetwork::default();
/// network.add("b:1", Arc::new(EchoNode));
/// let link = network.link(&Member::new("b", "b:1")).unwrap();
/// assert!(link.probe(deadline()).await.is_ok());
/// network.remove("b:1");
/// assert!(link.probe(deadline()).await.is_err());
/// # }
/// ```
#[derive(Clone, Default)]
pub struct FakeNetwork {
    nodes: Arc<Mutex<HashMap<Arc<str>, Arc<Node>>>>,
    carries_claims: bool,
    /// Whose links it makes.
    me: OnceLock<Arc<str>>,
}

struct Node {
    service: Arc<dyn PeerService>,
    /// How often its connections were cut.
    cuts: watch::Sender<u64>,
    held: watch::Sender<bool>,
    /// What it answers to gets waits.
    answers_held: watch::Sender<bool>,
}

impl FakeNetwork {
    /// A network over which slots are passed on. Over others they are not.
    #[must_use]
    pub fn with_claims() -> Self {
        Self { carries_claims: true, ..Self::default() }
    }

    /// The same network for another node: whose links are made here is that one's to say.
    #[must_use]
    pub fn of_a_node(&self) -> Self {
        Self { me: OnceLock::new(), ..self.clone() }
    }

    /// Answers of `address` do not arrive until [`release_answers`](Self::release_answers).
    pub fn hold_answers(&self, address: &str) {
        if let Some(node) = self.node(address) {
            node.answers_held.send_replace(true);
        }
    }

    /// Lets go what [`hold_answers`](Self::hold_answers) held up.
    pub fn release_answers(&self, address: &str) {
        if let Some(node) = self.node(address) {
            node.answers_held.send_replace(false);
        }
    }

    /// Has `service` answer at `address`, instead of whoever did.
    pub fn add(&self, address: impl Into<Arc<str>>, service: Arc<dyn PeerService>) {
        let (held, answers_held) = (watch::Sender::new(false), watch::Sender::new(false));
        let node = Node { service, cuts: watch::Sender::new(0), held, answers_held };
        self.nodes.lock().insert(address.into(), Arc::new(node));
    }

    /// Nobody answers at `address` any more, and what is under way there breaks off.
    pub fn remove(&self, address: &str) {
        let node = self.nodes.lock().remove(address);
        if let Some(node) = node {
            node.cuts.send_modify(|cuts| *cuts += 1);
            node.held.send_replace(false);
        }
    }

    /// What is under way to `address` breaks off; new requests reach it.
    pub fn cut(&self, address: &str) {
        if let Some(node) = self.node(address) {
            node.cuts.send_modify(|cuts| *cuts += 1);
        }
    }

    /// Requests to `address` do not leave until [`release`](Self::release).
    pub fn hold(&self, address: &str) {
        if let Some(node) = self.node(address) {
            node.held.send_replace(true);
        }
    }

    /// Lets go what [`hold`](Self::hold) held up.
    pub fn release(&self, address: &str) {
        if let Some(node) = self.node(address) {
            node.held.send_replace(false);
        }
    }

    fn node(&self, address: &str) -> Option<Arc<Node>> {
        self.nodes.lock().get(address).cloned()
    }
}

impl Transport for FakeNetwork {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn carries_claims(&self) -> bool {
        self.carries_claims
    }

    fn introduce(&self, node: Arc<Standing>) {
        self.me.get_or_init(|| node.name().clone());
    }

    fn link(&self, member: &Member) -> Result<Arc<dyn PeerClient>, Error> {
        Ok(Arc::new(FakeLink { network: self.clone(), address: member.address.clone() }))
    }
}

struct FakeLink {
    network: FakeNetwork,
    address: Arc<str>,
}

impl FakeLink {
    /// Does `what` at the node: not before it may leave, and not after the node was cut off.
    async fn reach<T>(
        &self,
        deadline: Instant,
        what: impl AsyncFnOnce(&Node) -> Result<T, PeerError>,
    ) -> Result<T, PeerError> {
        let gone = || PeerError::not_sent(format!("nobody is at {}", self.address));
        let reached = async {
            let node = self.network.node(&self.address).ok_or_else(gone)?;
            let held = || node.held.subscribe();
            let reached = async {
                held().wait_for(|held| !held).await.map_err(|_| gone())?;
                // It may be another by now, or none.
                let node = self.network.node(&self.address).ok_or_else(gone)?;
                let mut cuts = node.cuts.subscribe();
                tokio::select! {
                    outcome = what(&node) => outcome,
                    _ = cuts.changed() => Err(PeerError::broke_off(format!("{} was cut off", self.address))),
                }
            };
            tokio::select! {
                reached = reached => reached,
                () = silent(held()) => Err(PeerError::fell_silent(format!("{} gives no sign of life", self.address))),
            }
        };
        timeout_at(deadline, reached).await.unwrap_or(Err(PeerError::TimedOut))
    }
}

/// Ready once the node has been held for so long that its silence shows.
async fn silent(mut held: watch::Receiver<bool>) {
    while held.wait_for(|held| *held).await.is_ok() {
        if timeout(SILENCE_MAX, held.wait_for(|held| !held)).await.is_err() {
            return;
        }
    }
    // It was removed: who waits for it hears of that.
    std::future::pending::<()>().await;
}

impl PeerClient for FakeLink {
    fn ask(self: Arc<Self>, mut asker: Box<dyn Asker>) {
        tokio::spawn(async move {
            let PeerGet { group, key, asked_as, deadline, value_len_max } = asker.question().clone();
            let reached = self.reach(deadline, async |node| {
                let Leave::Until(deadline) = asker.leaves() else {
                    return Err(PeerError::not_sent("nobody waits for the answer any more"));
                };
                let asker = self.network.me.get().cloned();
                let question = PeerQuestion { asker, group, key, asked_as, deadline };
                let answer = node.service.answer(question).await;
                // The sender is in the node.
                drop(node.answers_held.subscribe().wait_for(|held| !held).await);
                match answer.map_err(PeerError::Answered)? {
                    PeerAnswer::Found { value: Some(value), .. } if value.len() > value_len_max => {
                        let message = "the value is longer than the group allows";
                        Err(PeerError::Answered(Error::new(ErrorKind::TooLarge, message)))
                    }
                    answer => Ok(answer),
                }
            });
            let answer = reached.await;
            asker.answered(answer);
        });
    }

    fn write(&self, request: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, PeerError>> {
        Box::pin(
            self.reach(request.deadline, async move |node| {
                node.service.write(request).await.map_err(PeerError::Answered)
            }),
        )
    }

    fn slots(&self, request: SlotRequest, deadline: Instant) -> BoxFuture<'_, Result<SlotReply, PeerError>> {
        Box::pin(self.reach(deadline, async move |node| node.service.slots(request).await.map_err(PeerError::Answered)))
    }

    fn probe(&self, deadline: Instant) -> BoxFuture<'_, Result<(), PeerError>> {
        Box::pin(self.reach(deadline, async |_| Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::FutureExt;

    use super::*;
    use crate::testing::peer::{Bench, EchoNode, RunningNode, deadline, get_leaving, question};

    #[derive(Default)]
    struct FakeBench(FakeNetwork);

    struct FakeNode(FakeNetwork);

    impl Bench for FakeBench {
        type Node = FakeNode;

        fn transport(&self) -> Arc<dyn Transport> {
            Arc::new(self.0.clone())
        }

        async fn start(&self, service: Arc<dyn PeerService>) -> FakeNode {
            self.0.add("here", service);
            FakeNode(self.0.clone())
        }
    }

    impl RunningNode for FakeNode {
        fn address(&self) -> String {
            "here".into()
        }

        async fn cut(&self) {
            self.0.cut("here");
        }

        async fn stop(self) {
            self.0.remove("here");
        }
    }

    crate::peer_transport_contract!(FakeBench::default());
    crate::slots_transport_contract!(FakeBench(FakeNetwork::with_claims()));

    #[tokio::test]
    async fn what_is_held_has_not_left() {
        let network = FakeNetwork::default();
        network.add("b", Arc::new(EchoNode));
        network.hold("b");
        let link = network.link(&Member::new("b", "b")).unwrap();
        let left = Arc::new(AtomicBool::new(false));
        let mark = left.clone();
        let get = get_leaving(&link, question("k"), move |until| {
            mark.store(true, Ordering::Relaxed);
            Leave::Until(until)
        });
        let mut get = Box::pin(get);
        tokio::task::yield_now().await;
        assert!((&mut get).now_or_never().is_none());
        assert!(!left.load(Ordering::Relaxed));
        network.release("b");
        assert!(get.await.is_ok() && left.load(Ordering::Relaxed));
        network.remove("b");
        assert!(matches!(link.probe(deadline()).await, Err(PeerError::Unreachable { sent: false, .. })));
    }
}
