//! [`ClusterLocks`]: locks that the nodes themselves keep, without other software.
//!
//! A lock belongs to one slot, and that slot's owner keeps it (`keeper.rs`); this is how any node asks for it. A question goes to the owner,
//! to the next one where that has changed, and ends within the wait: who asks makes the token, so that asking again changes nothing, and
//! what nobody waits for any more is given up by it.
//!
//! It stands here and not beside the other services, because it lives on claims and on the link to other nodes, neither of which the
//! core shows to anybody.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, sleep},
};

use super::{
    Acquired, Grant, Hold, LockName, LockRequest, LockService, LockToken,
    keeper::slot_of,
    message::{Granted, LockCall, LockReply},
};
use crate::{
    Error, ErrorKind, Moment, Node,
    claim::{SlotCall, SlotReply},
    peer::PeerError,
    view::{Place, no_taker},
};

/// The most acquisitions under way at one node: each is a task here and a place at the lock's owner.
const ACQUISITIONS_MAX: usize = 1_024;

/// How long it is tried to find a lock's owner, where the wait is shorter: nodes that can hear of each other agree within that. It
/// is also how long a renewal or a release may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long one answer that is not waited for may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// The pause before another try; it doubles, and half of it is chance.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// The longest such pause: how late a new owner is found.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Which share of a ttl may have passed since a lock was asked for when it is had, before it is renewed at once.
const FRESH_SHARE: u32 = 4;

/// What draws tokens: 128 bits that nobody can guess.
type Draw = dyn Fn() -> Result<u128, Error> + Send + Sync;

/// Locks that the nodes of a cluster keep themselves. Cheap to clone.
///
/// One holder at a time, as long as nodes share a view of the members, or prove what they own by etcd or Consul. `docs/locks.md` tells
/// what that comes to.
///
/// ```
/// # #[cfg(feature = "testing")] {
/// use larder_core::{Locks, lock::ClusterLocks, testing::clock::TokioClock};
/// # use std::sync::Arc;
/// # use larder_core::{Member, Members, Node, NodeConfig, Ring, testing::fake_peer::FakeNetwork};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// # let (clock, transport) = (Arc::new(TokioClock::new()), Arc::new(FakeNetwork::default()));
/// # let config = NodeConfig { name: "a".into(), http: "".into(), ring: Ring::Slots, incarnation: 1, seed: 1, clock, transport };
/// # let node = Node::new(config, Members::new([Member::new("a", "a:1")]).unwrap()).unwrap();
/// node.vouch_for_locks(); // It is the first start: nobody can hold a lock yet.
/// let chance = || Ok(4); // A program takes the machine's.
/// let locks = Locks::new(ClusterLocks::new(node, chance), TokioClock::new());
/// assert!(locks.lock("nightly-job").acquire().await.unwrap().is_held());
/// # });
/// # }
/// ```
#[derive(Clone)]
pub struct ClusterLocks {
    node: Node,
    draw: Arc<Draw>,
    permits: Arc<Semaphore>,
}

/// What is waited for until when.
#[derive(Clone, Copy)]
struct Patience {
    /// Until then the lock is waited for.
    wait: Instant,
    /// Until then its owner is looked for.
    owner: Instant,
}

impl Patience {
    /// For what nobody waits for.
    fn brief() -> Self {
        let now = Instant::now();
        Self { wait: now, owner: now + PATIENCE }
    }
}

impl ClusterLocks {
    /// The locks of this node's cluster. `draw` draws 128 bits that nobody can guess, of which tokens are made: whoever can guess one
    /// can free the lock.
    pub fn new(node: Node, draw: impl Fn() -> Result<u128, Error> + Send + Sync + 'static) -> Self {
        Self { node, draw: Arc::new(draw), permits: Arc::new(Semaphore::new(ACQUISITIONS_MAX)) }
    }

    /// Asks the lock's owner, whoever that is by now. Gives when what was answered had been asked.
    async fn ask(&self, patience: Patience, call: LockCall) -> Result<(LockReply, Moment), Error> {
        let mut pause = PAUSE_MIN;
        loop {
            let sent = self.node.clock().now();
            let error = match self.ask_once(patience, call.clone()).await {
                Ok(reply) => return Ok((reply, sent)),
                Err(error) => error,
            };
            let left = patience.owner.saturating_duration_since(Instant::now());
            if error.kind() != ErrorKind::OwnerUnreachable || left.is_zero() {
                return Err(error);
            }
            let share = self.node.chance(|chance| 0.5 + chance.f64() / 2.0);
            sleep(pause.mul_f64(share).min(left)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn ask_once(&self, patience: Patience, mut call: LockCall) -> Result<LockReply, Error> {
        let (now, slot) = (Instant::now(), slot_of(call.name()));
        let left = patience.wait.saturating_duration_since(now);
        if let LockCall::Acquire { wait, .. } = &mut call {
            *wait = left;
        }
        match self.node.owner_place_by_view(slot, call.name().as_bytes()) {
            Place::Mine => self.node.keep_lock(self.node.name().clone(), call).await,
            Place::Nobody => Err(no_taker()),
            Place::At(owner) => {
                let name = owner.member().name.clone();
                let said = self.node.say(&name, SlotCall::Lock(call), now + left + ANSWER_TIME_MAX).await;
                match said {
                    Ok(SlotReply::Lock(reply)) => Ok(reply),
                    Err(PeerError::Answered(error)) => Err(error),
                    Ok(_) | Err(PeerError::Unreachable { .. } | PeerError::TimedOut) => {
                        let message = format!("node {name:?}, which keeps the lock, can't be reached: try again");
                        Err(Error::new(ErrorKind::OwnerUnreachable, message).with_retry_after(Duration::from_secs(1)))
                    }
                }
            }
        }
    }

    async fn take(&self, request: LockRequest, token: LockToken) -> Result<Acquired, Error> {
        let now = Instant::now();
        let patience = Patience { wait: now + request.wait(), owner: now + request.wait().max(PATIENCE) };
        let (name, ttl, wait) = (request.name().clone(), request.ttl(), request.wait());
        let call = LockCall::Acquire { name: name.clone(), token: token.clone(), ttl, wait };
        match self.ask(patience, call).await? {
            (LockReply::Acquired(None), _) => Ok(Acquired::Held),
            (LockReply::Acquired(Some(Granted { fence, ttl })), sent) => {
                // It was granted at some time since it was asked for: where that was long ago, the holder has to know better.
                let hold = if self.node.clock().now().since(sent) <= ttl / FRESH_SHARE {
                    Hold { sent, ttl }
                } else {
                    self.extend(&name, &token).await?.ok_or_else(ran_out)?
                };
                // Nodes of one view need no notes.
                Ok(Acquired::Granted(Grant { token, fence, hold, note_before: Bytes::new() }))
            }
            _ => Err(wrong_kind()),
        }
    }

    async fn extend(&self, name: &LockName, token: &LockToken) -> Result<Option<Hold>, Error> {
        let call = LockCall::Renew { name: name.clone(), token: token.clone() };
        match self.ask(Patience::brief(), call).await? {
            (LockReply::Renewed(ttl), sent) => Ok(ttl.map(|ttl| Hold { sent, ttl })),
            _ => Err(wrong_kind()),
        }
    }

    async fn free(&self, name: &LockName, token: &LockToken) -> Result<bool, Error> {
        let call = LockCall::Release { name: name.clone(), token: token.clone() };
        match self.ask(Patience::brief(), call).await? {
            (LockReply::Released(was_held), _) => Ok(was_held),
            _ => Err(wrong_kind()),
        }
    }
}

impl LockService for ClusterLocks {
    /// In a task of its own: whoever drops the future must not drop what was asked and not answered yet, because the answer may be
    /// a lock. The task ends then, and what it asked for is given up.
    fn acquire(&self, request: LockRequest) -> BoxFuture<'_, Result<Acquired, Error>> {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            let message = "too many locks are waited for at this node: try again later";
            return Box::pin(ready(Err(Error::new(ErrorKind::Overloaded, message))));
        };
        let this = self.clone();
        Box::pin(async move {
            let drawn = format!("{:032x}", (this.draw)()?);
            let token = LockToken::new(drawn)?;
            let (mut answer, answered) = oneshot::channel();
            tokio::spawn(async move {
                let _permit = permit;
                let name = request.name().clone();
                let acquired = tokio::select! {
                    acquired = this.take(request, token.clone()) => acquired,
                    () = answer.closed() => Err(not_wanted()),
                };
                let is_had = matches!(acquired, Ok(Acquired::Granted(_)));
                // That another held it is an answer; after any other end there may be something to take back.
                let is_open = acquired.is_err();
                let is_told = answer.send(acquired).is_ok();
                if is_open || (is_had && !is_told) {
                    // Where this fails, the ttl frees it.
                    let _freed = this.free(&name, &token).await;
                }
            });
            answered.await.unwrap_or_else(|_| Err(not_wanted()))
        })
    }

    fn renew<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<Option<Hold>, Error>> {
        Box::pin(self.extend(name, token))
    }

    fn release<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(self.free(name, token))
    }
}

fn not_wanted() -> Error {
    Error::new(ErrorKind::Draining, "the lock was not waited for: the node is ending")
}

fn ran_out() -> Error {
    Error::new(ErrorKind::TimedOut, "the lock was granted and has run out on the way: give it a longer ttl")
}

fn wrong_kind() -> Error {
    Error::new(ErrorKind::OwnerUnreachable, "the node that keeps the lock answered something else than it was asked")
}
