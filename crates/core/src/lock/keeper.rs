//! What a node does as the owner of locks: time, waiting and the right to grant, around [`LockTable`].
//!
//! A lock belongs to a slot as a key does, of a group that nobody can open. Its owner grants while it acts for the slot, and not before
//! the owner before said what it had granted, or all that it may have granted has run out (rule C4). Whether it may is
//! looked at under the same lock as the table: so either who claims the slot is told of a grant, or it was not given.
//!
//! A fence goes out once the node's clock is reserved on its disk beyond it, where it has one (rule V2): a restart goes on above.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use super::{
    FENCE_MAX, HeldLock, LOCK_TTL_MAX, LockName, LockToken,
    fence::wall_ms_of,
    message::{Granted, LockCall, LockReply},
    table::{CarriedLock, Gate, Holds, LockTable, Tick, Ticket, Told, Took, Want},
};
use crate::{
    Error, ErrorKind, Moment, Node,
    claim::Phase,
    placement::{Slot, SlotSet},
    standing::READING_AHEAD_MS_MAX,
    version::Reading,
};

/// The group of whose keys locks are. No group can be opened under this name.
const GROUP: &str = "!locks";

/// For how long nobody is granted a lock of a slot whose owner before did not say what it had granted: the longest ttl.
pub(crate) const QUIET: Duration = LOCK_TTL_MAX;

/// How long a slot that is being claimed is waited for, by who doesn't want to wait for the lock: a claim that is answered at all takes
/// milliseconds.
const CLAIM_PATIENCE: Duration = Duration::from_millis(500);

/// The longest sleep of who is first in a queue. Timers stand still while the machine sleeps, and not everything that lets a node
/// grant again tells of it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The most locks that go with slots to another node. The slots of others are quiet there until those have run out.
pub const CARRIED_LOCKS_MAX: usize = 4_096;

/// The locks that a node keeps, and who waits for them here.
#[derive(Default)]
pub(crate) struct Keeper(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    table: LockTable,
    waiting: HashMap<Ticket, watch::Sender<Waits>>,
}

/// What one who waits knows.
#[derive(Clone, Copy)]
enum Waits {
    /// It is to look again.
    On,
    Granted(Granted),
    /// Not here any more.
    Away,
}

/// What goes with slots that are released of their locks (rule C2).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CarriedLocks {
    /// The greatest fence that the releaser gave or heard of.
    pub floor: u64,
    /// Slots of which the releaser could not tell who holds their locks.
    pub quiet: SlotSet,
    /// For how long yet.
    pub quiet_left: Duration,
    /// Those that are held.
    pub held: Vec<CarriedLock>,
}

/// The slot of a lock.
pub(crate) fn slot_of(name: &LockName) -> Slot {
    Slot::of(GROUP, name.as_bytes())
}

impl Keeper {
    /// The node's rank among all members that it has known, which tells its fences from those of others.
    pub(crate) fn set_tag(&self, rank: u64) {
        self.0.lock().table.fences().set_tag(rank);
    }
}

impl Kept {
    fn tell(&mut self, told: Vec<Told>) {
        for told in told {
            let (ticket, waits) = match told {
                Told::Granted { ticket, fence, ttl } => (ticket, Waits::Granted(Granted { fence, ttl })),
                Told::First(ticket) => (ticket, Waits::On),
                Told::Away(ticket) => (ticket, Waits::Away),
            };
            if let Some(waiting) = self.waiting.get(&ticket) {
                waiting.send_replace(waits);
            }
        }
    }
}

impl Node {
    /// Answers what is asked about a lock, as its owner.
    pub(crate) async fn keep_lock(&self, from: Arc<str>, call: LockCall) -> Result<LockReply, Error> {
        if !self.carries_claims() && self.view().peers().next().is_some() {
            let message = "nodes can't pass locks on over this transport: let etcd, Consul or Redis keep them";
            return Err(Error::new(ErrorKind::NoAuthority, message));
        }
        let slot = slot_of(call.name());
        let wait = if let LockCall::Acquire { wait, .. } = &call { *wait } else { Duration::ZERO };
        let deadline = Instant::now() + wait;
        let acts = self.acts(slot, call.name().as_bytes());
        match timeout_at(deadline.max(Instant::now() + CLAIM_PATIENCE), acts).await {
            Ok(true) => {}
            Ok(false) => return Err(not_here()),
            Err(_) => return Err(unclaimed()),
        }
        match call {
            LockCall::Acquire { name, token, ttl, .. } => {
                let deadline = self.clock().now() + deadline.saturating_duration_since(Instant::now());
                let want = Want { name, slot, token, ttl, deadline, from };
                self.grant_lock(want).await.map(LockReply::Acquired)
            }
            LockCall::Renew { name, token } => self.renew_lock(&name, slot, &token).map(LockReply::Renewed),
            LockCall::Release { name, token } => self.free_lock(&name, slot, &token).map(LockReply::Released),
        }
    }

    /// Whether this node may grant locks of a slot now. To be asked under the table's lock.
    fn lock_gate(&self, slot: Slot, name: &LockName, now: Moment) -> Gate {
        let acts = self.phase(slot, name.as_bytes()) == Phase::Acts && self.contact().is_sure(|| now);
        let Some(lease) = self.lock_proof(slot).filter(|_| acts) else { return Gate::Closed };
        match self.tenure().quiet_until(slot) {
            until if until == Moment::default() => Gate::Open,
            // Whoever acted before may have had a proof for so long.
            until if now < until + lease => Gate::Quiet(until + lease),
            _ => Gate::Open,
        }
    }

    fn tick(&self) -> Tick {
        // Hybrid: at least the wall clock, and above all that other nodes have told of.
        Tick { now: self.clock().now(), clock_ms: self.next_version().reading().wall_ms() }
    }

    async fn grant_lock(&self, want: Want) -> Result<Option<Granted>, Error> {
        let (name, slot, token, deadline) = (want.name.clone(), want.slot, want.token.clone(), want.deadline);
        let (took, mut place) = self.enter(want);
        match took {
            Took::Granted { fence, ttl } => {
                if let Err(error) = self.reserve_fence(fence).await {
                    // Where it isn't freed here, as its owner has changed, who asked gives it up.
                    let _freed = self.free_lock(&name, slot, &token);
                    return Err(error);
                }
                return Ok(Some(Granted { fence, ttl }));
            }
            Took::Held => return Ok(None),
            Took::Waits(_) => {}
            Took::Quiet(until) => return Err(self.quiet(until)),
            Took::Closed => return Err(self.closed(slot, &name)),
            Took::GivenUp => return Err(not_here()),
            Took::Full => {
                let message = "too many locks are held or waited for at their owner: try again later";
                return Err(Error::new(ErrorKind::Overloaded, message).with_retry_after(Duration::from_secs(1)));
            }
            Took::Spent => return Err(spent()),
        }
        loop {
            let looks_at = self.look_at_lock(&name, slot, &place);
            let waits = *place.waits.borrow_and_update();
            match waits {
                Waits::Granted(granted) => {
                    // Where that fails, it is taken back.
                    self.reserve_fence(granted.fence).await?;
                    place.is_over = true;
                    return Ok(Some(granted));
                }
                Waits::Away => return Err(not_here()),
                Waits::On => {}
            }
            let now = self.clock().now();
            if now >= deadline {
                let gate = self.lock_gate(slot, &name, now);
                let is_held = self.keeper().0.lock().table.is_held(&name, now);
                return match gate {
                    Gate::Open => Ok(None),
                    _ if is_held => Ok(None),
                    Gate::Quiet(until) => Err(self.quiet(until)),
                    Gate::Closed => Err(self.closed(slot, &name)),
                };
            }
            let pause = looks_at.map_or(LOOK_EVERY, |at| at.since(now));
            tokio::select! {
                _ = place.waits.changed() => {}
                () = sleep(pause) => {}
            }
            // One that slept asks before it goes on (rule A1).
            self.awaken().await;
            tracing::trace!(?name, ?token, "a lock that is waited for is looked at");
        }
    }

    /// Waits until no later run of this node can give a fence as small as this one, if it has a disk.
    async fn reserve_fence(&self, fence: u64) -> Result<(), Error> {
        let standing = self.standing();
        let at = |counter: u16| Reading::from_bits(wall_ms_of(fence) << 16 | u64::from(counter));
        if standing.reserve().is_covered(at(u16::MAX)) {
            return Ok(());
        }
        // It is reserved ahead of the node's clock, which fences may be ahead of.
        standing.observe(at(0))?;
        standing.reserve().covers(at(u16::MAX)).await
    }

    /// Asks for a lock, and takes a place to wait for it.
    fn enter(&self, want: Want) -> (Took, Place<'_>) {
        let name = want.name.clone();
        let mut kept = self.keeper().0.lock();
        let (tick, mut told) = (self.tick(), Vec::new());
        let gate = self.lock_gate(want.slot, &want.name, tick.now);
        let took = kept.table.acquire(want, gate, tick, &mut told);
        let (tells, waits) = watch::channel(Waits::On);
        let ticket = if let Took::Waits(ticket) = took { Some(ticket) } else { None };
        if let Some(ticket) = ticket {
            kept.waiting.insert(ticket, tells);
        }
        kept.tell(told);
        drop(kept);
        (took, Place { node: self, name, ticket, waits, is_over: false })
    }

    /// Gives a lock on if it has become free; when who waits is to look again.
    fn look_at_lock(&self, name: &LockName, slot: Slot, place: &Place<'_>) -> Option<Moment> {
        let mut kept = self.keeper().0.lock();
        let (tick, mut told) = (self.tick(), Vec::new());
        let gate = self.lock_gate(slot, name, tick.now);
        kept.table.step(name, gate, tick, &mut told);
        let looks_at = place.ticket.and_then(|ticket| kept.table.looks_at(name, ticket, gate));
        kept.tell(told);
        // Where it can't grant now, nobody may tell when it can.
        looks_at.map(|at| if gate == Gate::Open { at } else { at.min(tick.now + LOOK_EVERY) })
    }

    fn renew_lock(&self, name: &LockName, slot: Slot, token: &LockToken) -> Result<Option<Duration>, Error> {
        let mut kept = self.keeper().0.lock();
        let now = self.clock().now();
        let gate = self.lock_gate(slot, name, now);
        if gate == Gate::Closed {
            return Err(self.closed(slot, name));
        }
        match (kept.table.renew(name, token, gate, now), gate) {
            ((Holds::Unknown, _), Gate::Quiet(until)) => Err(self.quiet(until)),
            ((_, ttl), _) => Ok(ttl),
        }
    }

    fn free_lock(&self, name: &LockName, slot: Slot, token: &LockToken) -> Result<bool, Error> {
        let mut kept = self.keeper().0.lock();
        let (tick, mut told) = (self.tick(), Vec::new());
        let gate = self.lock_gate(slot, name, tick.now);
        let held = kept.table.release(name, token, gate, tick, &mut told);
        kept.tell(told);
        match (held, gate) {
            (Holds::Yes, _) => Ok(true),
            (Holds::Unknown, Gate::Quiet(until)) => Err(self.quiet(until)),
            (_, Gate::Closed) => Err(self.closed(slot, name)),
            _ => Ok(false),
        }
    }

    /// Why a lock can't be granted, renewed or found free until then.
    fn quiet(&self, until: Moment) -> Error {
        let left = until.since(self.clock().now());
        let message = format!(
            "the lock's owner can't know yet who holds it, as it or the owner before has just started or was lost: try again in {} s",
            left.as_secs() + 1,
        );
        Error::new(ErrorKind::NoAuthority, message).with_retry_after(left)
    }

    fn closed(&self, slot: Slot, name: &LockName) -> Error {
        if self.phase(slot, name.as_bytes()) != Phase::Acts {
            return not_here();
        }
        let message = "the node can't prove that it owns the lock: the registry of the members may be away";
        Error::new(ErrorKind::NoAuthority, message).with_retry_after(Duration::from_secs(1))
    }

    /// The locks that this node keeps as their owner and that are held, by name: cluster locks only.
    #[must_use]
    pub fn kept_locks(&self) -> Vec<HeldLock> {
        self.keeper().0.lock().table.held(self.clock().now())
    }

    /// The name of the node that keeps a lock, if it is a cluster lock.
    #[must_use]
    pub fn lock_owner(&self, name: &LockName) -> Option<Arc<str>> {
        self.view().owner(slot_of(name), name.as_bytes()).map(|member| member.name.clone())
    }

    /// Says that nobody can hold a lock that an earlier run of this node or cluster granted, because there was none: locks need not wait
    /// until such would have run out. To be called after its start, before anything is asked of it.
    pub fn vouch_for_locks(&self) {
        self.tenure().vouch_for_locks();
    }

    /// Who waits for locks of slots like these is to ask their next owner.
    pub(crate) fn send_lock_waiters_away(&self, is_such: impl Fn(Slot) -> bool) {
        let (mut kept, mut told) = (self.keeper().0.lock(), Vec::new());
        kept.table.send_away(is_such, &mut told);
        kept.tell(told);
    }

    /// What is known of the locks of slots like these is told by somebody else, or by nobody.
    pub(crate) fn forget_locks(&self, is_such: impl Fn(Slot) -> bool) {
        let (mut kept, mut told) = (self.keeper().0.lock(), Vec::new());
        kept.table.forget(is_such, &mut told);
        kept.tell(told);
    }

    /// What goes with slots that this node has stopped acting for.
    pub(crate) fn carry_locks(&self, slots: &SlotSet, room: &mut usize, carried: &mut CarriedLocks) {
        let now = self.clock().now();
        let mut kept = self.keeper().0.lock();
        let len_max = CARRIED_LOCKS_MAX - carried.held.len();
        let (held, left_out, last_end) = kept.table.carry(slots, now, len_max, room);
        carried.floor = kept.table.fences().latest();
        drop(kept);
        carried.held.extend(held);
        let mut until = now + carried.quiet_left;
        for slot in left_out.iter() {
            carried.quiet.insert(slot);
            until = until.max(last_end);
        }
        for (slot, quiet_until) in self.tenure().quiet_slots(slots, now) {
            carried.quiet.insert(slot);
            until = until.max(quiet_until);
        }
        carried.quiet_left = until.since(now);
    }

    /// Whether what came with slots can be true: fences are ahead of the clock as readings may be (rule V2), of the clocks of two nodes.
    pub(crate) fn can_be_carried(&self, carried: &CarriedLocks) -> bool {
        let greatest = carried.held.iter().map(|lock| lock.fence).fold(carried.floor, u64::max);
        greatest <= FENCE_MAX && wall_ms_of(greatest) <= self.clock().wall_ms() + 2 * READING_AHEAD_MS_MAX
    }

    /// Takes what came with slots that this node is about to act for, of which the owner before answered itself.
    pub(crate) fn take_locks(&self, slots: &SlotSet, carried: &CarriedLocks, now: Moment) {
        let CarriedLocks { floor, quiet, quiet_left, held } = carried;
        let quiet_left = now + (*quiet_left).min(QUIET * 2);
        let mut kept = self.keeper().0.lock();
        kept.table.fences().observe(*floor);
        self.tenure().lift_quiet(slots);
        for slot in quiet.iter().filter(|slot| slots.contains(*slot)) {
            self.tenure().keep_quiet(slot, quiet_left);
        }
        for lock in held {
            let slot = slot_of(&lock.name);
            if slots.contains(slot) {
                kept.table.take(slot, lock, now);
            }
        }
    }
}

/// A place in the queue of a lock. Dropped, it is given up, and so is what was granted and not taken.
struct Place<'a> {
    node: &'a Node,
    name: LockName,
    ticket: Option<Ticket>,
    waits: watch::Receiver<Waits>,
    is_over: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let (mut kept, mut told) = (self.node.keeper().0.lock(), Vec::new());
        kept.waiting.remove(&ticket);
        if self.is_over {
            return;
        }
        if !kept.table.leave(&self.name, ticket, self.node.clock().now(), &mut told)
            && matches!(*self.waits.borrow(), Waits::Granted(_))
        {
            let (slot, tick) = (slot_of(&self.name), self.node.tick());
            let gate = self.node.lock_gate(slot, &self.name, tick.now);
            kept.table.take_back(&self.name, ticket, gate, tick, &mut told);
        }
        kept.tell(told);
    }
}

fn not_here() -> Error {
    let message = "the node that was asked does not keep the lock any more: its owner has changed, try again";
    Error::new(ErrorKind::OwnerUnreachable, message).with_retry_after(Duration::from_secs(1))
}

fn unclaimed() -> Error {
    let message = "the node that kept the lock before has not let go of it yet: try again";
    Error::new(ErrorKind::OwnerUnreachable, message).with_retry_after(Duration::from_secs(1))
}

fn spent() -> Error {
    let message = "the clock is so far ahead that there are no fences any more: set the machine's clock right";
    Error::new(ErrorKind::NoAuthority, message)
}
