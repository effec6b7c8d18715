//! Writes: put, delete and invalidate, wherever they are asked for. The key's owner carries them out (`carry_out.rs`).

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::{Instant, sleep};

use super::{Group, TIMEOUT_DEFAULT, TIMEOUT_MAX, unreachable};
use crate::{
    Error, ErrorKind, Key, Store, Value, Version,
    behind::Records,
    peer::{Condition, IDEMPOTENCY_KEY_LEN_MAX, PeerError, PeerWrite, WriteOp},
    placement::Slot,
    stats::Protocol,
    view::{Place, no_taker},
};

/// The pause before a write is tried again of which nobody was found who may do it; it doubles, and half of it is chance.
const WRITE_PAUSE: Duration = Duration::from_millis(20);

/// How often a write is tried: in two thirds of a second nodes that can hear of each other agree.
const WRITE_TRIES_MAX: u32 = 6;

/// The most keys of one [`Group::invalidate_many`].
pub const INVALIDATE_MANY_MAX: usize = 1_000;

/// How many of them are invalidated at once.
const INVALIDATED_AT_ONCE_MAX: usize = 256;

/// Where a group's writes go.
pub(crate) enum Writes {
    /// Nowhere beyond the cache.
    None,
    /// To the origin, before they are acknowledged.
    Through(Arc<dyn Store>),
    /// To disks, and from there to the origin.
    Behind(Arc<dyn Records>),
}

/// How a write is to be done.
///
/// ```
/// use std::time::Duration;
/// use larder_core::{group::WriteOptions, peer::Condition};
///
/// let once = WriteOptions { condition: Condition::IfAbsent, ..WriteOptions::default() };
/// assert_eq!(once.timeout, Duration::from_secs(10));
/// ```
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// On which condition.
    pub condition: Condition,
    /// A repetition under the same key is answered as the first was, for ten minutes, unless a crash of the owner makes it forget. At
    /// most [`IDEMPOTENCY_KEY_LEN_MAX`] bytes.
    pub idempotency_key: Option<Arc<str>>,
    /// In what time it has to be done, [`TIMEOUT_MAX`] at most.
    pub timeout: Duration,
}

impl Default for WriteOptions {
    /// On no condition, within ten seconds.
    fn default() -> Self {
        Self { condition: Condition::Always, idempotency_key: None, timeout: TIMEOUT_DEFAULT }
    }
}

impl Group {
    /// Puts a value, for `ttl` or as long as the group keeps values; into the origin, if the group writes to it. Carried out by the
    /// key's owner; answers with the new version where the transport to the owner tells it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ReadOnly`] if the group has an origin and does not write to it, [`ErrorKind::TooLarge`],
    /// [`ErrorKind::VersionMismatch`] if `condition` is not met, [`ErrorKind::OwnerUnreachable`] if nothing was done,
    /// [`ErrorKind::Origin`] if the origin refused, [`ErrorKind::Indeterminate`] if that is not known.
    pub async fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: Value,
        ttl: Option<Duration>,
        condition: Condition,
        timeout: Duration,
    ) -> Result<Option<Version>, Error> {
        let options = WriteOptions { condition, timeout, ..WriteOptions::default() };
        self.write(key, WriteOp::Put { value, ttl }, options).await
    }

    /// Deletes a value: at the origin, if the group writes to it; in a group without an origin it is gone, in one with an origin that
    /// it does not write to it is loaded anew when it is next asked for.
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
        self.write(key, WriteOp::Delete, WriteOptions { condition, timeout, ..WriteOptions::default() }).await
    }

    /// Drops what is cached of a key on every node, and leaves its origin alone.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put), but that it needs nobody's leave.
    pub async fn invalidate(&self, key: impl AsRef<[u8]>, timeout: Duration) -> Result<(), Error> {
        let options = WriteOptions { timeout, ..WriteOptions::default() };
        self.write(key, WriteOp::Invalidate { ends_guard: false }, options).await.map(drop)
    }

    /// Drops what is cached of several keys on every node.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if there are more than [`INVALIDATE_MANY_MAX`], and if one can't be a key: nothing was done then. Else the
    /// first error: some of the others may be done.
    pub async fn invalidate_many<K: AsRef<[u8]>>(&self, keys: &[K], timeout: Duration) -> Result<(), Error> {
        if keys.len() > INVALIDATE_MANY_MAX {
            let message = format!("{} keys in one request: {INVALIDATE_MANY_MAX} is the most", keys.len());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        keys.iter().try_for_each(|key| Key::check(key.as_ref()))?;
        let invalidations: Vec<_> = keys.iter().map(|key| self.invalidate(key.as_ref(), timeout)).collect();
        // They go to their owners in the same frames.
        stream::iter(invalidations).buffer_unordered(INVALIDATED_AT_ONCE_MAX).try_collect::<()>().await
    }

    /// Writes a key, in whichever way.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put), and [`ErrorKind::Invalid`] if the idempotency key is too long.
    pub async fn write(
        &self,
        key: impl AsRef<[u8]>,
        op: WriteOp,
        options: WriteOptions,
    ) -> Result<Option<Version>, Error> {
        let WriteOptions { condition, idempotency_key, timeout } = options;
        let deadline = Instant::now() + timeout.min(TIMEOUT_MAX);
        let (group, key) = (self.name().clone(), Key::copy_from(key.as_ref())?);
        let write = PeerWrite { group, key, op, condition, idempotency_key, deadline };
        self.check_write(&write)?;
        self.write_anywhere(write).await
    }

    /// Has a write carried out by whoever owns its key, now or in a moment.
    pub(super) async fn write_anywhere(&self, write: PeerWrite) -> Result<Option<Version>, Error> {
        let slot = Slot::of(self.name(), write.key.as_bytes());
        for attempt in 1..WRITE_TRIES_MAX {
            let pause = WRITE_PAUSE * 2_u32.pow(attempt - 1);
            match self.write_once(write.clone(), slot).await {
                // Nothing was written, and another node may have the slot.
                Err(error)
                    if error.kind() == ErrorKind::OwnerUnreachable && Instant::now() + pause < write.deadline =>
                {
                    sleep(pause.mul_f64(self.0.node.chance(|chance| 0.5 + chance.f64() / 2.0))).await;
                }
                written => return written,
            }
        }
        self.write_once(write, slot).await
    }

    async fn write_once(&self, write: PeerWrite, slot: Slot) -> Result<Option<Version>, Error> {
        match self.owner_place(slot, write.key.as_bytes()) {
            Place::Mine => self.write_as_owner(write, slot).await.map(Some),
            Place::Nobody => Err(no_taker()),
            Place::At(owner) => owner.write(write).await.map_err(|error| match error {
                PeerError::Answered(error) => error,
                PeerError::Unreachable { sent: false, .. } => {
                    unreachable("the owner of the key can't be reached: nothing was written")
                }
                PeerError::Unreachable { sent: true, .. } | PeerError::TimedOut => Error::new(
                    ErrorKind::Indeterminate,
                    "the write was sent to its owner and no answer came: read the key to see whether it was done",
                ),
            }),
        }
    }

    /// Carries out a write that another node passed on. It is not passed on again.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put); [`ErrorKind::OwnerUnreachable`] also if this node isn't the owner.
    pub async fn serve_write(&self, write: PeerWrite, over: Protocol) -> Result<Version, Error> {
        self.0.stats.server_requests.of(over).add(1);
        self.check_write(&write)?;
        let slot = Slot::of(self.name(), write.key.as_bytes());
        if let WriteOp::Invalidate { ends_guard: true } = write.op {
            self.lower_inherited(&write.key);
        }
        self.write_as_owner(write, slot).await
    }

    fn check_write(&self, write: &PeerWrite) -> Result<(), Error> {
        if write.idempotency_key.as_ref().is_some_and(|key| key.len() > IDEMPOTENCY_KEY_LEN_MAX) {
            let message = format!("the idempotency key is too long: {IDEMPOTENCY_KEY_LEN_MAX} bytes are the most");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let WriteOp::Put { value, .. } = &write.op else { return Ok(()) };
        if self.has_origin() && !self.writes_through() && !self.writes_behind() {
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
}
