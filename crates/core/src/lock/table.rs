//! [`LockTable`]: the locks that a node keeps as the owner of their slots: a state machine without I/O.
//!
//! It is told what is asked, what the time is and whether grants may be given, and says what is answered and what became of those who
//! wait. It knows neither nodes nor messages; that a node may grant at all is the affair of the code around it (`keeper.rs`).
//!
//! A lock that ran out is nobody's from that moment on, whoever finds it. What nobody holds and nobody waits for takes no room but until the
//! next sweep.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{HeldLock, LockName, LockToken, fence::Fences};
use crate::{
    Moment,
    placement::{Slot, SlotSet},
};

/// The most locks of one node, held or waited for. One takes some 300 bytes and its name: 90 MB with the longest.
pub(crate) const LOCKS_MAX: usize = 65_536;

/// The most who wait for one lock. The last of them has its turn after a thousand others.
pub(crate) const WAITERS_OF_A_LOCK_MAX: usize = 1_024;

/// The most who wait for locks of one node.
pub(crate) const WAITERS_MAX: usize = 16_384;

/// For how long a token that was given up is refused: what asked for a lock with it may arrive after what gave it up.
const GIVEN_UP_FOR: Duration = Duration::from_secs(10);

/// The most of those tokens. Beyond it, who gave up may be granted a lock, for one ttl.
const GIVEN_UP_MAX: usize = 4_096;

/// From how many locks on those that ran out are looked for.
const SWEEP_LEN_MIN: usize = 256;

/// How long after that they are not looked for again: in a full table that takes a millisecond.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// Whether a node may grant a lock at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gate {
    /// It may.
    Open,
    /// Not before then: nobody has said what the owner before granted.
    Quiet(Moment),
    /// Not now.
    Closed,
}

/// A moment, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tick {
    pub(crate) now: Moment,
    /// The hybrid clock's, in milliseconds since 1970.
    pub(crate) clock_ms: u64,
}

/// Tells those who wait apart.
pub(crate) type Ticket = u64;

/// Who wants a lock, and how.
#[derive(Clone, Debug)]
pub(crate) struct Want {
    pub(crate) name: LockName,
    pub(crate) slot: Slot,
    pub(crate) token: LockToken,
    pub(crate) ttl: Duration,
    /// Until when it is waited for.
    pub(crate) deadline: Moment,
    /// The node that asks.
    pub(crate) from: Arc<str>,
}

/// What became of who wants a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Took {
    Granted {
        fence: u64,
        ttl: Duration,
    },
    Waits(Ticket),
    /// Another has it, and it is not waited for.
    Held,
    /// It can't be granted in time.
    Quiet(Moment),
    /// Nor now, and there is nothing to wait for.
    Closed,
    /// It has been given up already.
    GivenUp,
    /// A limit is reached.
    Full,
    /// There are no more fences.
    Spent,
}

/// What became of one who waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    Granted {
        ticket: Ticket,
        fence: u64,
        ttl: Duration,
    },
    /// It is the first from now on, and has to look when the lock is free.
    First(Ticket),
    /// The lock is not kept here any more, or was asked for anew.
    Away(Ticket),
}

/// Whether a token holds a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holds {
    Yes,
    No,
    /// The owner before may have granted it.
    Unknown,
}

/// A lock on its way to the next owner of its slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CarriedLock {
    /// Its name.
    pub name: LockName,
    /// What it is held with.
    pub token: LockToken,
    /// Its holder's.
    pub fence: u64,
    /// What it is renewed for.
    pub ttl: Duration,
    /// How long it lasts yet.
    pub left: Duration,
    /// The node at which its holder is.
    pub holder: Arc<str>,
}

struct Holder {
    token: LockToken,
    fence: u64,
    ttl: Duration,
    end: Moment,
    from: Arc<str>,
    /// Who waited for it was told of it under this ticket, and may not have heard.
    ticket: Option<Ticket>,
}

struct Waiter {
    ticket: Ticket,
    token: LockToken,
    ttl: Duration,
    deadline: Moment,
    from: Arc<str>,
}

struct Lock {
    slot: Slot,
    holder: Option<Holder>,
    /// Until then one may rely on it who does not hold it any more: another node had granted it too.
    free_from: Moment,
    queue: VecDeque<Waiter>,
}

impl Lock {
    fn new(slot: Slot) -> Self {
        Self { slot, holder: None, free_from: Moment::default(), queue: VecDeque::new() }
    }

    fn is_free(&self, now: Moment) -> bool {
        self.holder.is_none() && self.free_from <= now
    }

    fn is_idle(&self, now: Moment) -> bool {
        self.is_free(now) && self.queue.is_empty()
    }

    fn expire(&mut self, now: Moment) {
        self.holder.take_if(|holder| holder.end <= now);
    }

    fn first(&self) -> Option<Ticket> {
        self.queue.front().map(|waiter| waiter.ticket)
    }

    fn held_with(&mut self, token: &LockToken) -> Option<&mut Holder> {
        self.holder.as_mut().filter(|holder| holder.token == *token)
    }
}

/// The locks that one node keeps.
#[derive(Default)]
pub(crate) struct LockTable {
    locks: HashMap<LockName, Lock>,
    fences: Fences,
    waiters_len: usize,
    tickets: Ticket,
    /// Tokens that were given up before they were known, and until when they are refused.
    given_up: HashMap<LockToken, Moment>,
    /// With so many locks it is swept.
    sweep_len: usize,
    /// When it was swept last.
    swept: Moment,
}

impl LockTable {
    /// The numbers that grants bear.
    pub(crate) fn fences(&mut self) -> &mut Fences {
        &mut self.fences
    }

    /// Takes a lock, or a place in its queue. Who asks again with the same token has what it has.
    pub(crate) fn acquire(&mut self, want: Want, gate: Gate, tick: Tick, told: &mut Vec<Told>) -> Took {
        let Tick { now, .. } = tick;
        if self.given_up.get(&want.token).is_some_and(|until| now < *until) {
            return Took::GivenUp;
        }
        self.sweep_if_due(now);
        if let Some(lock) = self.locks.get_mut(&want.name) {
            lock.expire(now);
            if let Some(holder) = lock.held_with(&want.token) {
                holder.end = holder.end.max(now + holder.ttl);
                holder.ticket = None;
                return Took::Granted { fence: holder.fence, ttl: holder.ttl };
            }
            if let Some(place) = lock.queue.iter_mut().find(|waiter| waiter.token == want.token) {
                self.tickets += 1;
                told.push(Told::Away(place.ticket));
                (place.ticket, place.deadline) = (self.tickets, want.deadline);
                return Took::Waits(self.tickets);
            }
        }
        let lock = self.locks.get(&want.name);
        let is_held = lock.is_some_and(|lock| !lock.is_free(now));
        let is_waited_for = lock.is_some_and(|lock| !lock.queue.is_empty());
        if lock.is_none() && self.locks.len() >= LOCKS_MAX {
            return Took::Full;
        }
        if gate == Gate::Open && !is_held && !is_waited_for {
            return self.grant(want, tick);
        }
        match gate {
            Gate::Quiet(until) if !is_held && until >= want.deadline => return Took::Quiet(until),
            Gate::Closed if !is_held && want.deadline <= now => return Took::Closed,
            _ if want.deadline <= now => return Took::Held,
            _ => {}
        }
        if lock.is_some_and(|lock| lock.queue.len() >= WAITERS_OF_A_LOCK_MAX) || self.waiters_len >= WAITERS_MAX {
            return Took::Full;
        }
        self.tickets += 1;
        self.waiters_len += 1;
        let Want { name, slot, token, ttl, deadline, from } = want;
        let waiter = Waiter { ticket: self.tickets, token, ttl, deadline, from };
        let lock = self.locks.entry(name).or_insert_with(|| Lock::new(slot));
        lock.queue.push_back(waiter);
        Took::Waits(self.tickets)
    }

    fn grant(&mut self, want: Want, tick: Tick) -> Took {
        let Want { name, slot, token, ttl, from, .. } = want;
        let Some(fence) = self.fences.next(slot, tick.clock_ms) else { return Took::Spent };
        let holder = Some(Holder { token, fence, ttl, end: tick.now + ttl, from, ticket: None });
        let lock = self.locks.entry(name).or_insert_with(|| Lock::new(slot));
        lock.holder = holder;
        Took::Granted { fence, ttl }
    }

    /// Gives a lock that has become free to who is first, if it may be given.
    pub(crate) fn step(&mut self, name: &LockName, gate: Gate, tick: Tick, told: &mut Vec<Told>) {
        let Tick { now, clock_ms } = tick;
        let Some(lock) = self.locks.get_mut(name) else { return };
        lock.expire(now);
        let first = lock.first();
        if lock.is_free(now) && gate == Gate::Open {
            // Who has waited long enough finds that out itself, and must not be given what it doesn't expect any more.
            if let Some(index) = lock.queue.iter().position(|waiter| now < waiter.deadline)
                && let Some(fence) = self.fences.next(lock.slot, clock_ms)
                && let Some(Waiter { ticket, token, ttl, from, .. }) = lock.queue.remove(index)
            {
                self.waiters_len -= 1;
                lock.holder = Some(Holder { token, fence, ttl, end: now + ttl, from, ticket: Some(ticket) });
                told.push(Told::Granted { ticket, fence, ttl });
            }
        }
        if lock.first() != first {
            told.extend(lock.first().map(Told::First));
        }
        if lock.is_idle(now) {
            self.locks.remove(name);
        }
    }

    /// When one who waits has to look again: the first when the lock may be free. `None`: it does not wait any more.
    pub(crate) fn looks_at(&self, name: &LockName, ticket: Ticket, gate: Gate) -> Option<Moment> {
        let lock = self.locks.get(name)?;
        let index = lock.queue.iter().position(|waiter| waiter.ticket == ticket)?;
        let deadline = lock.queue[index].deadline;
        if index > 0 {
            return Some(deadline);
        }
        let held_until = lock.holder.as_ref().map_or(Moment::default(), |holder| holder.end);
        let quiet_until = if let Gate::Quiet(until) = gate { until } else { Moment::default() };
        let free = held_until.max(lock.free_from).max(quiet_until);
        // One that was free has been granted, or can't be, and nobody knows when it can.
        Some(if free == Moment::default() { deadline } else { free.min(deadline) })
    }

    /// Whether anybody has a lock.
    pub(crate) fn is_held(&self, name: &LockName, now: Moment) -> bool {
        let is_held = |lock: &Lock| now < lock.free_from || lock.holder.as_ref().is_some_and(|holder| now < holder.end);
        self.locks.get(name).is_some_and(is_held)
    }

    /// One does not wait any more. Whether it did.
    pub(crate) fn leave(&mut self, name: &LockName, ticket: Ticket, now: Moment, told: &mut Vec<Told>) -> bool {
        let Some(lock) = self.locks.get_mut(name) else { return false };
        let Some(index) = lock.queue.iter().position(|waiter| waiter.ticket == ticket) else { return false };
        lock.queue.remove(index);
        self.waiters_len -= 1;
        if index == 0 {
            told.extend(lock.first().map(Told::First));
        }
        if lock.is_idle(now) {
            self.locks.remove(name);
        }
        true
    }

    /// One who waited was granted the lock and went away before it heard.
    pub(crate) fn take_back(&mut self, name: &LockName, ticket: Ticket, gate: Gate, tick: Tick, told: &mut Vec<Told>) {
        let Some(lock) = self.locks.get_mut(name) else { return };
        if lock.holder.take_if(|holder| holder.ticket == Some(ticket)).is_some() {
            told.extend(lock.first().map(Told::First));
            self.step(name, gate, tick, told);
        }
    }

    /// Has a lock last for its ttl once more; for how long that is.
    pub(crate) fn renew(
        &mut self,
        name: &LockName,
        token: &LockToken,
        gate: Gate,
        now: Moment,
    ) -> (Holds, Option<Duration>) {
        let held = self.locks.get_mut(name).and_then(|lock| {
            lock.expire(now);
            lock.held_with(token)
        });
        match held {
            Some(holder) => {
                holder.end = holder.end.max(now + holder.ttl);
                (Holds::Yes, Some(holder.ttl))
            }
            None => (holds_not(gate, now), None),
        }
    }

    /// Frees a lock, or gives up the wait for it. Whether it was held.
    pub(crate) fn release(
        &mut self,
        name: &LockName,
        token: &LockToken,
        gate: Gate,
        tick: Tick,
        told: &mut Vec<Told>,
    ) -> Holds {
        let now = tick.now;
        let (mut held, mut waits) = (false, false);
        if let Some(lock) = self.locks.get_mut(name) {
            lock.expire(now);
            held = lock.holder.take_if(|holder| holder.token == *token).is_some();
            if let Some(index) = lock.queue.iter().position(|waiter| waiter.token == *token) {
                waits = true;
                told.extend(lock.queue.remove(index).map(|waiter| Told::Away(waiter.ticket)));
                self.waiters_len -= 1;
            }
            // Where it can't be granted now, who is first has to look when it can.
            told.extend(lock.first().map(Told::First));
        }
        if !held && !waits {
            self.give_up(token, now);
        }
        self.step(name, gate, tick, told);
        if held { Holds::Yes } else { holds_not(gate, now) }
    }

    fn give_up(&mut self, token: &LockToken, now: Moment) {
        if self.given_up.len() >= GIVEN_UP_MAX {
            self.given_up.retain(|_, until| now < *until);
        }
        if self.given_up.len() < GIVEN_UP_MAX {
            self.given_up.insert(token.clone(), now + GIVEN_UP_FOR);
        }
    }

    /// Who waits for locks of slots like these is to ask elsewhere.
    pub(crate) fn send_away(&mut self, is_such: impl Fn(Slot) -> bool, told: &mut Vec<Told>) {
        for lock in self.locks.values_mut().filter(|lock| is_such(lock.slot)) {
            self.waiters_len -= lock.queue.len();
            told.extend(lock.queue.drain(..).map(|waiter| Told::Away(waiter.ticket)));
        }
    }

    /// Forgets what it knows of slots like these.
    pub(crate) fn forget(&mut self, is_such: impl Fn(Slot) -> bool, told: &mut Vec<Told>) {
        self.send_away(&is_such, told);
        self.locks.retain(|_, lock| !is_such(lock.slot));
    }

    /// The locks of some slots that are held: at most `len_max` of them, of `room` bytes. The slots of those that there is no room
    /// for, or of which that does not say all, and until when the last of them may be held, are told.
    pub(crate) fn carry(
        &self,
        slots: &SlotSet,
        now: Moment,
        len_max: usize,
        room: &mut usize,
    ) -> (Vec<CarriedLock>, SlotSet, Moment) {
        let (mut carried, mut left_out, mut last_end) = (Vec::new(), SlotSet::default(), now);
        for (name, lock) in self.locks.iter().filter(|(_, lock)| slots.contains(lock.slot)) {
            if now < lock.free_from {
                left_out.insert(lock.slot);
                last_end = last_end.max(lock.free_from);
            }
            let Some(Holder { token, fence, ttl, end, from, .. }) =
                lock.holder.as_ref().filter(|holder| now < holder.end)
            else {
                continue;
            };
            let len = name.as_bytes().len() + token.as_str().len() + from.len();
            if carried.len() >= len_max || len > *room {
                left_out.insert(lock.slot);
                last_end = last_end.max(*end);
                continue;
            }
            *room -= len;
            let (name, token, holder) = (name.clone(), token.clone(), from.clone());
            carried.push(CarriedLock { name, token, fence: *fence, ttl: *ttl, left: end.since(now), holder });
        }
        (carried, left_out, last_end)
    }

    /// Takes a lock that came with its slot. Where this node granted it as well, the later grant counts, and nobody else gets the lock
    /// before the other can't be relied on any more.
    pub(crate) fn take(&mut self, slot: Slot, carried: &CarriedLock, now: Moment) {
        let CarriedLock { name, token, fence, ttl, left, holder } = carried.clone();
        self.fences.observe(fence);
        let theirs = Holder { token, fence, ttl, end: now + left, from: holder, ticket: None };
        let lock = self.locks.entry(name).or_insert_with(|| Lock::new(slot));
        lock.expire(now);
        let (later, earlier_end) = match lock.holder.take() {
            None => (theirs, now),
            Some(ours) if ours.token == theirs.token => (Holder { end: ours.end.max(theirs.end), ..ours }, now),
            Some(ours) if ours.fence > theirs.fence => (ours, theirs.end),
            Some(ours) => (theirs, ours.end),
        };
        lock.free_from = lock.free_from.max(earlier_end);
        lock.holder = Some(later);
    }

    /// What is held, by name.
    pub(crate) fn held(&self, now: Moment) -> Vec<HeldLock> {
        let held = self.locks.iter().filter_map(|(name, lock)| {
            let Holder { fence, end, from, .. } = lock.holder.as_ref().filter(|holder| now < holder.end)?;
            let (name, holder) = (name.clone(), from.clone());
            Some(HeldLock { name, holder, fence: *fence, ttl_left: end.since(now), waiters: lock.queue.len() })
        });
        let mut held: Vec<HeldLock> = held.collect();
        held.sort_by(|a, b| a.name.cmp(&b.name));
        held
    }

    /// Lets go of what ran out, once there is twice as much as there was after the last time.
    fn sweep_if_due(&mut self, now: Moment) {
        let is_due = self.locks.len() >= self.sweep_len.clamp(SWEEP_LEN_MIN, LOCKS_MAX);
        if !is_due || now < self.swept + SWEEP_PAUSE {
            return;
        }
        self.swept = now;
        self.locks.retain(|_, lock| {
            lock.expire(now);
            !lock.is_idle(now)
        });
        self.sweep_len = 2 * self.locks.len();
    }
}

/// What is to be said of a token that holds nothing here.
fn holds_not(gate: Gate, now: Moment) -> Holds {
    match gate {
        Gate::Quiet(until) if now < until => Holds::Unknown,
        _ => Holds::No,
    }
}

#[cfg(test)]
mod tests;
