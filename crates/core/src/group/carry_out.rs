//! How the owner of a key carries a write out (rules P1 to P7).
//!
//! Most writes take one step: nothing has to be waited for, and what is under way for the key is detached, the condition judged, the
//! version taken and the value replaced under the key's lock in the flight table. Others have to wait: for those who came
//! before, for the origin, for copies elsewhere to be gone. They queue, and while they do the key is guarded: no load of it begins, is
//! kept, or gets a lease. Such a write goes on if its caller goes away, as what it has begun can't be undone.

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, join_all};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Group, Landing, leases::Lease, unreachable};
use crate::{
    Change, Error, ErrorKind, Key, Moment, Update, UpdateError, Version,
    claim::{Phase, SlotCall, SlotReply},
    flight::Writer,
    peer::{Condition, PeerWrite, WriteOp},
    placement::Slot,
    rules::{Rule, keeps},
    stats::WriteResult,
    store::{Hit, Judged, Meta, Tier},
};

/// How long the confirmation of a revocation is waited for before it is asked for again: it takes a busy node milliseconds.
const REVOKE_WAIT: Duration = Duration::from_millis(250);

/// The pause before that.
const REVOKE_PAUSE: Duration = Duration::from_millis(20);

/// How much longer than a write may take its end is waited for: within it, a write that did nothing says so.
const LATE: Duration = Duration::from_millis(100);

/// What the origin said of a change.
enum Outside {
    /// It is made.
    Done,
    /// It is not.
    Refused(Error),
    /// It is not, and the origin has a newer version.
    Conflict,
    /// Nobody knows.
    Unknown(Error),
}

impl Group {
    /// Carries out a write of a key that this node owns, and counts it.
    pub(super) async fn write_as_owner(&self, write: PeerWrite, slot: Slot) -> Result<Version, Error> {
        let result = match self.has_slot(&write, slot).await {
            Ok(()) => match self.write_at_once(&write, slot) {
                Some(done) => done,
                None => self.queue(write, slot).await,
            },
            Err(error) => Err(error),
        };
        let label = match &result {
            Ok(_) => WriteResult::Ok,
            Err(error) if error.kind() == ErrorKind::VersionMismatch => WriteResult::Conflict,
            Err(error) if error.kind() == ErrorKind::Indeterminate => WriteResult::Indeterminate,
            Err(_) => WriteResult::Error,
        };
        self.0.stats.writes.of(label).add(1);
        result
    }

    /// A write was done here: whether this node had the key to its end, where the group demands a proof.
    fn proven_write(&self, key: &Key, slot: Slot) -> Result<(), Error> {
        if self.is_proven(slot) {
            return Ok(());
        }
        // Whoever has the key now does not know of it.
        self.0.store.remove(key.as_bytes());
        let message =
            "the node could not prove to the end that it has the key: read it to see whether the write was done";
        Err(Error::new(ErrorKind::Indeterminate, message))
    }

    /// Does a write that has to wait. It goes on without its caller.
    fn queue(&self, write: PeerWrite, slot: Slot) -> BoxFuture<'static, Result<Version, Error>> {
        let (group, deadline) = (self.clone(), write.deadline);
        Box::pin(async move {
            let queued = tokio::spawn(async move { group.write_in_turn(&write, slot).await });
            match timeout_at(deadline + LATE, queued).await {
                Ok(Ok(done)) => done,
                Ok(Err(_)) | Err(_) => Err(Error::new(
                    ErrorKind::Indeterminate,
                    "the deadline passed while the key was written: read it to see whether that was done",
                )),
            }
        })
    }

    /// Waits until this node acts for the slot, and what its earlier incarnation may have lent has run out (rule C4).
    async fn has_slot(&self, write: &PeerWrite, slot: Slot) -> Result<(), Error> {
        let node = &self.0.node;
        match timeout_at(write.deadline, node.acts(slot, write.key.as_bytes())).await {
            Ok(true) => {}
            Ok(false) => return Err(not_here()),
            Err(_) => {
                return Err(unreachable(
                    "the node that had the key before has not let it go, and may be writing it: nothing was written",
                ));
            }
        }
        if self.is_strong() {
            return self.proven(slot, write.key.as_bytes(), write.deadline).await;
        }
        if !matches!(write.op, WriteOp::Invalidate { .. }) {
            self.takes_records(slot, write.key.as_bytes(), write.deadline).await?;
        }
        let lease = self.0.settings.get().hot_lease;
        self.wait_for(node.lent_before_until(lease), write.deadline).await
    }

    /// Waits for a moment after which nothing that this node did not lend itself is held any more.
    async fn wait_for(&self, until: Moment, deadline: Instant) -> Result<(), Error> {
        let left = until.since(self.now());
        if left.is_zero() {
            return Ok(());
        }
        if Instant::now() + left > deadline {
            let message =
                "other nodes may hold copies of the key for longer than this write may take: nothing was written";
            return Err(unreachable(message));
        }
        sleep(left).await;
        Ok(())
    }

    /// Does a write that has to wait for nothing. `None`: this one has to.
    fn write_at_once(&self, write: &PeerWrite, slot: Slot) -> Option<Result<Version, Error>> {
        let Self(inner) = self;
        let goes_out =
            (self.writes_through() || self.writes_behind()) && !matches!(write.op, WriteOp::Invalidate { .. });
        let depends = write.condition != Condition::Always && (self.has_origin() || !inner.node.is_settled_at(slot));
        if goes_out || depends || write.idempotency_key.is_some() {
            return None;
        }
        let lent = || self.is_lent(&write.key, slot);
        let version_of = || {
            if !inner.node.acts_now(slot, write.key.as_bytes()) {
                return Some(Err(not_here()));
            }
            if lent() {
                return None;
            }
            let done = self.apply(write, slot, inner.node.next_version());
            Some(done.and_then(|version| self.proven_write(&write.key, slot).map(|()| version)))
        };
        inner.loads.overtake(&write.key, version_of).flatten()
    }

    /// Whether others may hold copies of a key.
    fn is_lent(&self, key: &Key, slot: Slot) -> bool {
        if !keeps(Rule::P4) {
            return false;
        }
        let now = self.now();
        self.0.leases.of(key, now).is_some() || now < self.0.node.tenure().lent_until(slot)
    }

    /// Does a write that has to wait.
    async fn write_in_turn(&self, write: &PeerWrite, slot: Slot) -> Result<Version, Error> {
        let Self(inner) = self;
        // From here on the key is guarded (rule P2).
        let Some(mut writer) = inner.loads.write(&write.key) else {
            let message = "too many writes of the key are waiting for their turns: try again";
            return Err(Error::new(ErrorKind::Overloaded, message).with_retry_after(Duration::from_secs(1)));
        };
        if timeout_at(write.deadline, writer.turn()).await.is_err() {
            let message = "the deadline passed while other writes of the key were done: nothing was written, try again";
            return Err(Error::new(ErrorKind::TimedOut, message));
        }
        if let Some(id) = &write.idempotency_key
            && let Some(came_to) = inner.memory.of(&write.key, id, self.now())
        {
            return came_to.ok_or_else(mismatch);
        }
        let result = self.write_now(write, slot, writer).await;
        if let Some(id) = &write.idempotency_key {
            let came_to = match &result {
                Ok(version) => Some(Some(*version)),
                Err(error) if error.kind() == ErrorKind::VersionMismatch => Some(None),
                // It may be done another time.
                Err(_) => None,
            };
            if let Some(came_to) = came_to {
                inner.memory.add(&write.key, id, came_to, self.now());
            }
        }
        result
    }

    /// Does a write whose turn it is: the condition, the origin, copies elsewhere; then, in one step, its own store.
    async fn write_now(&self, write: &PeerWrite, slot: Slot, writer: Writer<Landing>) -> Result<Version, Error> {
        let Self(inner) = self;
        let key = &write.key;
        if write.condition != Condition::Always {
            timeout_at(write.deadline, self.know(write, slot))
                .await
                .map_err(|_| Error::timed_out("the key was read"))??;
        }
        let is_change = !matches!(write.op, WriteOp::Invalidate { .. });
        if is_change && self.writes_behind() {
            return self.write_behind(write, slot, writer).await;
        }
        let goes_out = is_change && self.writes_through();
        if !goes_out {
            self.settle_leases(key, slot, Some(write.deadline)).await?;
            inner.node.awaken().await;
            return writer.end(|| {
                if !inner.node.acts_now(slot, key.as_bytes()) {
                    return Err(not_here());
                }
                let version = self.apply(write, slot, inner.node.next_version())?;
                self.proven_write(key, slot).map(|()| version)
            });
        }
        let (outside, version) = self.write_outside(write, slot, &writer).await?;
        // The copies elsewhere go whatever came of it, however long that takes: the origin was asked.
        self.settle_leases(key, slot, None).await?;
        inner.node.awaken().await;
        let has_slot = writer.end(|| {
            let has_slot = inner.node.acts_now(slot, key.as_bytes());
            if has_slot {
                self.apply_outside(write, slot, version, &outside);
            }
            has_slot
        });
        if !has_slot && keeps(Rule::W3) {
            self.tell_present_owner(write).await?;
        } else if let Outside::Done = outside {
            self.proven_write(key, slot)?;
        }
        match outside {
            Outside::Done => Ok(version),
            Outside::Refused(error) => Err(error),
            Outside::Conflict => {
                let message = "the origin has a newer version of the key than this write: read the key and try again";
                Err(Error::new(ErrorKind::Indeterminate, message))
            }
            Outside::Unknown(error) => {
                let message = format!("the origin was asked to write and may have done so or not: {}", error.message());
                Err(Error::new(ErrorKind::Indeterminate, message))
            }
        }
    }

    /// Has the origin make the change (rule P3). The version that it is made under is the write's.
    async fn write_outside(
        &self,
        write: &PeerWrite,
        slot: Slot,
        writer: &Writer<Landing>,
    ) -> Result<(Outside, Version), Error> {
        let Self(inner) = self;
        let Some(origin) = &inner.origin else { return Err(not_here()) };
        let change = match &write.op {
            WriteOp::Put { value, .. } => Change::Put(value.clone()),
            WriteOp::Delete | WriteOp::Invalidate { .. } => Change::Delete,
        };
        let permit = origin.permit(write.deadline).await?;
        let version = inner.node.next_version();
        let covered = inner.node.standing().reserve().covers(version.reading());
        timeout_at(write.deadline, covered)
            .await
            .map_err(|_| Error::timed_out("the clock was reserved on the disk"))??;
        // Either this sees that the slot was claimed, or who claims it is told of the write.
        if !writer.goes_out(|| inner.node.phase(slot, write.key.as_bytes()) == Phase::Acts) {
            return Err(not_here());
        }
        let (key, idempotency_key) = (write.key.clone(), write.idempotency_key.clone());
        let config = self.config();
        let deadline = Instant::now() + config.hard_timeout;
        let update = Update { key, change, version, idempotency_key, deadline };
        let outcome = origin.update(update, permit, inner.node.clock(), &inner.stats.origin_write).await;
        let outside = match outcome {
            Ok(()) => Outside::Done,
            Err(UpdateError::Refused(error) | UpdateError::Unreached(error)) => {
                Outside::Refused(super::origin::into_error(error))
            }
            Err(UpdateError::Conflict) => Outside::Conflict,
            Err(UpdateError::Unknown(error)) => Outside::Unknown(super::origin::into_error(error)),
        };
        Ok((outside, version))
    }

    /// What an outcome at the origin means for this node's store. Called under the key's lock.
    fn apply_outside(&self, write: &PeerWrite, slot: Slot, version: Version, outside: &Outside) {
        let Self(inner) = self;
        match outside {
            Outside::Refused(_) => {}
            Outside::Done => {
                // The condition was judged when the write had its turn, and nobody else had one since.
                let write = PeerWrite { condition: Condition::Always, ..write.clone() };
                if self.apply(&write, slot, version).is_err() {
                    inner.store.remove(write.key.as_bytes());
                }
            }
            Outside::Conflict | Outside::Unknown(_) => {
                inner.store.remove(write.key.as_bytes());
                self.bury(&write.key, slot);
                let wait = inner.settings.get().hard_timeout;
                inner.unsettled.add(&write.key, self.now(), wait);
            }
        }
    }

    /// The slot went to another node while the origin was written: that one drops what it has loaded of the key since (rule W3).
    pub(super) async fn tell_present_owner(&self, write: &PeerWrite) -> Result<(), Error> {
        let hard_timeout = self.0.settings.get().hard_timeout;
        let invalidate = PeerWrite {
            op: WriteOp::Invalidate { ends_guard: true },
            condition: Condition::Always,
            idempotency_key: None,
            deadline: Instant::now() + hard_timeout,
            ..write.clone()
        };
        let unknown = |error: Error| {
            let message =
                format!("the key's owner changed while it was written, and could not be told: {}", error.message());
            Error::new(ErrorKind::Indeterminate, message)
        };
        self.write_anywhere(invalidate).await.map(drop).map_err(unknown)
    }

    /// Sees to it that what a condition depends on is known (rule P7), and judges it.
    async fn know(&self, write: &PeerWrite, slot: Slot) -> Result<(), Error> {
        if let Some(is_met) = self.meets_record(write).await? {
            return if is_met { Ok(()) } else { Err(mismatch()) };
        }
        self.bring(&write.key, slot).await?;
        let (held, now) = (self.held(&write.key), self.now());
        let is_known = held.is_some() || !self.has_origin();
        match write.condition {
            // The origin has the last word on what a get would find.
            Condition::IfAbsent if !is_known => match self.ask_origin(&write.key).await?.value {
                Some(_) => Err(mismatch()),
                None => Ok(()),
            },
            condition if is_met(condition, held.as_ref(), now) => Ok(()),
            _ => Err(mismatch()),
        }
    }

    fn held(&self, key: &Key) -> Option<Hit> {
        let hit = self.0.store.peek(key.as_bytes(), self.now())?;
        (hit.meta().tier == Tier::Main).then_some(hit)
    }

    /// Sees to it that no copy is left elsewhere: has them dropped, or waits until they have run out (rule P4). Without a deadline
    /// that takes as long as the longest lease.
    pub(super) async fn settle_leases(&self, key: &Key, slot: Slot, deadline: Option<Instant>) -> Result<(), Error> {
        let Self(inner) = self;
        if !keeps(Rule::P4) {
            return Ok(());
        }
        let deadline = deadline.unwrap_or_else(|| Instant::now() + super::HOT_LEASE_MAX + LATE);
        // Those who lent before this node had the slot did not say to whom.
        self.wait_for(inner.node.tenure().lent_until(slot), deadline).await?;
        let Some(Lease { holders, ends, departures, .. }) = inner.leases.of(key, self.now()) else { return Ok(()) };
        // Who has left can't be asked.
        if departures != inner.node.departures() || !self.revoke(key, holders.as_deref(), ends).await {
            self.wait_for(ends, deadline).await?;
        }
        inner.leases.settled(key);
        Ok(())
    }

    /// Has copies dropped; whether all holders confirmed it before they `end`ed.
    async fn revoke(&self, key: &Key, holders: Option<&[Arc<str>]>, ends: Moment) -> bool {
        let node = &self.0.node;
        let holders: Vec<Arc<str>> = match holders {
            Some(holders) => holders.to_vec(),
            None => node.view().peers().map(|peer| peer.member().name.clone()).collect(),
        };
        let revoke_from = async |holder: Arc<str>| {
            loop {
                let left = ends.since(self.now());
                if left.is_zero() {
                    return false;
                }
                let call = SlotCall::Revoke { group: self.name().clone(), key: key.clone() };
                if let Ok(SlotReply::Revoked) = node.say(&holder, call, Instant::now() + REVOKE_WAIT.min(left)).await {
                    return true;
                }
                sleep(REVOKE_PAUSE.min(ends.since(self.now()))).await;
            }
        };
        join_all(holders.into_iter().map(revoke_from)).await.into_iter().all(|is_gone| is_gone)
    }

    /// The owner of a key ends this node's lease on it, or one that is on its way here (rule P5). More than one is meant may go:
    /// that costs a question.
    pub(crate) fn revoked(&self, key: &Key) {
        let Self(inner) = self;
        let drop_copy = || inner.store.remove_if(key.as_bytes(), |hit| hit.meta().tier == Tier::Hot);
        if keeps(Rule::P5) {
            // Whatever question is under way may bring what was lent.
            inner.asks.overtake(key, drop_copy);
        } else {
            drop_copy();
        }
    }

    /// Replaces or drops what this node's store has, if the condition is met. Called under the key's lock in the flight table, under which
    /// writes to a key and landings of its loads all run.
    pub(super) fn apply(&self, write: &PeerWrite, slot: Slot, version: Version) -> Result<Version, Error> {
        let Self(inner) = self;
        let (key, now) = (&write.key, self.now());
        match &write.op {
            WriteOp::Put { value, ttl } => {
                let fresh_until = ttl.or(inner.settings.get().ttl).map_or(Moment::NEVER, |ttl| now + ttl);
                let keep_until = fresh_until;
                let load_start = version.reading();
                let meta = Meta { slot, tier: Tier::Main, version, load_start, fresh_until, keep_until };
                let stored = inner.store.insert_if(key.as_bytes(), Some(value.clone()), meta, now, |held| {
                    is_met(write.condition, held, now)
                });
                match stored {
                    Judged::Stored => {}
                    Judged::Refused(_) => return Err(mismatch()),
                    Judged::TooLarge => {
                        let message = "the value does not fit into the group's capacity: raise it";
                        return Err(Error::new(ErrorKind::TooLarge, message));
                    }
                }
            }
            WriteOp::Delete | WriteOp::Invalidate { .. } => {
                if !is_met(write.condition, inner.store.peek(key.as_bytes(), now).as_ref(), now) {
                    return Err(mismatch());
                }
                inner.store.remove(key.as_bytes());
                inner.stats.invalidations.add(1);
            }
        }
        self.bury(key, slot);
        Ok(version)
    }
}

/// Whether what is held of a key meets a condition.
fn is_met(condition: Condition, held: Option<&Hit>, now: Moment) -> bool {
    let held =
        held.filter(|hit| hit.meta().tier == Tier::Main && hit.bytes().is_some() && now < hit.meta().fresh_until);
    match condition {
        Condition::Always => true,
        Condition::IfVersion(version) => held.is_some_and(|hit| hit.meta().version == version),
        Condition::IfAbsent => held.is_none(),
    }
}

pub(super) fn not_here() -> Error {
    unreachable("the node that was asked does not have the key: nothing was written")
}

fn mismatch() -> Error {
    let message = "the key has another version than the condition names: read it and try again";
    Error::new(ErrorKind::VersionMismatch, message)
}
