//! Writes: put and delete, carried out by the key's owner.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Group, TIMEOUT_MAX, unreachable};
use crate::{
    Error, ErrorKind, Key, Moment, Value, Version,
    claim::Phase,
    peer::{Condition, PeerError, PeerWrite, WriteOp},
    placement::Slot,
    stats::{Protocol, WriteResult},
    store::{Judged, Meta, Tier},
    view::{Place, no_taker},
};

/// The pause before a write is tried again of which nobody was found who may do it; it doubles, and half of it is chance.
const WRITE_PAUSE: Duration = Duration::from_millis(20);

/// How often a write is tried: in two thirds of a second nodes that can hear of each other agree.
const WRITE_TRIES_MAX: u32 = 6;

impl Group {
    /// Puts a value, for `ttl` or as long as the group keeps values. Carried out by the key's owner; answers with the new version
    /// where the transport to the owner tells it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ReadOnly`] if the group has an origin, [`ErrorKind::TooLarge`], [`ErrorKind::VersionMismatch`] if
    /// `condition` is not met, [`ErrorKind::OwnerUnreachable`] if nothing was done, [`ErrorKind::Indeterminate`] if that is
    /// not known.
    pub async fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: Value,
        ttl: Option<Duration>,
        condition: Condition,
        timeout: Duration,
    ) -> Result<Option<Version>, Error> {
        self.write(key.as_ref(), WriteOp::Put { value, ttl }, condition, timeout).await
    }

    /// Drops a value: in a group without an origin it is gone, in one with an origin it is loaded anew when it is next asked for.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put).
    pub async fn delete(
        &self,
        key: impl AsRef<[u8]>,
        condition: Condition,
        timeout: Duration,
    ) -> Result<Option<Version>, Error> {
        self.write(key.as_ref(), WriteOp::Delete, condition, timeout).await
    }

    async fn write(
        &self,
        key: &[u8],
        op: WriteOp,
        condition: Condition,
        timeout: Duration,
    ) -> Result<Option<Version>, Error> {
        let key = Key::copy_from(key)?;
        self.check_write(&op)?;
        let deadline = Instant::now() + timeout.min(TIMEOUT_MAX);
        let slot = Slot::of(self.name(), key.as_bytes());
        for attempt in 1..WRITE_TRIES_MAX {
            let pause = WRITE_PAUSE * 2_u32.pow(attempt - 1);
            match self.write_once(&key, slot, op.clone(), condition, deadline).await {
                // Nothing was written, and another node may have the slot.
                Err(error) if error.kind() == ErrorKind::OwnerUnreachable && Instant::now() + pause < deadline => {
                    sleep(pause.mul_f64(self.0.node.chance(|chance| 0.5 + chance.f64() / 2.0))).await;
                }
                written => return written,
            }
        }
        self.write_once(&key, slot, op, condition, deadline).await
    }

    async fn write_once(
        &self,
        key: &Key,
        slot: Slot,
        op: WriteOp,
        condition: Condition,
        deadline: Instant,
    ) -> Result<Option<Version>, Error> {
        match self.0.node.owner_place(slot, key.as_bytes()) {
            Place::Mine => self.write_as_owner(key, slot, op, condition, deadline).await.map(Some),
            Place::Nobody => Err(no_taker()),
            Place::At(owner) => {
                let write = PeerWrite { group: self.name().clone(), key: key.clone(), op, condition, deadline };
                owner.write(write).await.map_err(|error| match error {
                    PeerError::Answered(error) => error,
                    PeerError::Unreachable { sent: false, .. } => {
                        unreachable("the owner of the key can't be reached: nothing was written")
                    }
                    PeerError::Unreachable { sent: true, .. } | PeerError::TimedOut => Error::new(
                        ErrorKind::Indeterminate,
                        "the write was sent to its owner and no answer came: read the key to see whether it was done",
                    ),
                })
            }
        }
    }

    /// Carries out a write that another node passed on. It is not passed on again.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put); [`ErrorKind::OwnerUnreachable`] also if this node isn't the owner.
    pub async fn serve_write(
        &self,
        key: &Key,
        op: WriteOp,
        condition: Condition,
        deadline: Instant,
        over: Protocol,
    ) -> Result<Version, Error> {
        self.0.stats.server_requests.of(over).add(1);
        self.check_write(&op)?;
        let slot = Slot::of(self.name(), key.as_bytes());
        self.write_as_owner(key, slot, op, condition, deadline).await
    }

    fn check_write(&self, op: &WriteOp) -> Result<(), Error> {
        let WriteOp::Put { value, .. } = op else { return Ok(()) };
        if self.has_origin() {
            let message =
                "the group has an origin and takes no writes: change the origin, or delete the key to drop its copies";
            return Err(Error::new(ErrorKind::ReadOnly, message));
        }
        let (len, max) = (value.len(), self.0.settings.get().value_len_max);
        if len > max {
            return Err(Error::new(ErrorKind::TooLarge, format!("the value has {len} bytes: max_value is {max}")));
        }
        Ok(())
    }

    /// What the owner does: it waits until it has the slot, and what the condition depends on. Then, in one step, what is under
    /// way for the key is overtaken, the condition judged, the version taken, the value replaced.
    async fn write_as_owner(
        &self,
        key: &Key,
        slot: Slot,
        op: WriteOp,
        condition: Condition,
        deadline: Instant,
    ) -> Result<Version, Error> {
        let result = match self.ready_to_write(key, slot, condition, deadline).await {
            Ok(()) => self.0.loads.overtake(key, || {
                if self.0.node.phase(slot, key.as_bytes()) != Phase::Acts {
                    return Err(not_here());
                }
                let version = self.0.node.next_version();
                let done = match op {
                    WriteOp::Put { value, ttl } => self.replace(key, slot, value, ttl, condition, version),
                    WriteOp::Delete => self.drop_value(key, condition),
                };
                done.map(|()| {
                    self.bury(key, slot);
                    version
                })
            }),
            Err(error) => Err(error),
        };
        let label = match &result {
            Ok(_) => WriteResult::Ok,
            Err(error) if error.kind() == ErrorKind::VersionMismatch => WriteResult::Conflict,
            Err(_) => WriteResult::Error,
        };
        self.0.stats.writes.of(label).add(1);
        result
    }

    async fn ready_to_write(
        &self,
        key: &Key,
        slot: Slot,
        condition: Condition,
        deadline: Instant,
    ) -> Result<(), Error> {
        let node = &self.0.node;
        match timeout_at(deadline, node.acts(slot, key.as_bytes())).await {
            Ok(true) => {}
            Ok(false) => return Err(not_here()),
            Err(_) => {
                return Err(unreachable(
                    "the node that had the key before has not let it go, and may be writing it: nothing was written",
                ));
            }
        }
        if condition == Condition::Always { Ok(()) } else { self.bring(key, slot).await }
    }

    fn replace(
        &self,
        key: &Key,
        slot: Slot,
        value: Value,
        ttl: Option<Duration>,
        condition: Condition,
        version: Version,
    ) -> Result<(), Error> {
        let now = self.now();
        let fresh_until = ttl.or(self.0.settings.get().ttl).map_or(Moment::NEVER, |ttl| now + ttl);
        let keep_until = fresh_until;
        let meta = Meta { slot, tier: Tier::Main, version, load_start: version.reading(), fresh_until, keep_until };
        let inserted = self.0.store.insert_if(key.as_bytes(), Some(value), meta, now, |held| {
            let held = held.filter(|hit| hit.bytes().is_some() && now < hit.meta().fresh_until);
            match condition {
                Condition::Always => true,
                Condition::IfVersion(version) => held.is_some_and(|hit| hit.meta().version == version),
                Condition::IfAbsent => held.is_none(),
            }
        });
        match inserted {
            Judged::Stored => Ok(()),
            Judged::Refused(_) => Err(mismatch()),
            Judged::TooLarge => {
                Err(Error::new(ErrorKind::TooLarge, "the value does not fit into the group's capacity: raise it"))
            }
        }
    }

    fn drop_value(&self, key: &Key, condition: Condition) -> Result<(), Error> {
        let now = self.now();
        let held = self.0.store.peek(key.as_bytes(), now).filter(|hit| hit.bytes().is_some());
        // Writes to a key and landings of its loads all run under its lock in the flight table.
        let met = match condition {
            Condition::Always => true,
            Condition::IfVersion(version) => held.is_some_and(|hit| hit.meta().version == version),
            Condition::IfAbsent => held.is_none(),
        };
        if !met {
            return Err(mismatch());
        }
        self.0.store.remove(key.as_bytes());
        self.0.stats.invalidations.add(1);
        Ok(())
    }
}

fn not_here() -> Error {
    unreachable("the node that was asked does not have the key: nothing was written")
}

fn mismatch() -> Error {
    let message = "the key has another version than the condition names: read it and try again";
    Error::new(ErrorKind::VersionMismatch, message)
}
