//! [`Delivery`]: a lock that was had for somebody else, on its way there.
//!
//! Who asks a node for a lock over a network may have gone when the lock is had, and then nobody would hold it until its ttl has run
//! out. So whoever answers keeps the delivery until the answer has left; dropped before, it frees the lock.
//!
//! It renews nothing: that is for who was given the token. What becomes of an answer that has left can't be known here.

use std::{fmt, sync::Arc};

use tokio::runtime::Handle;

use super::{Acquired, Grant, LockName, LockRequest, LockService, Locks};
use crate::{Error, ErrorKind};

impl Locks {
    /// Takes a lock for somebody else, who renews and frees it with its token; `None`: another held it all the time. Where this is
    /// dropped before it has ended, the lock is nobody's.
    ///
    /// # Errors
    ///
    /// As [`LockService::acquire`]; [`ErrorKind::TimedOut`] if the way back from the service took longer than the ttl.
    pub async fn take_for_another(&self, request: LockRequest) -> Result<Option<Delivery>, Error> {
        let name = request.name().clone();
        let Acquired::Granted(grant) = self.service().acquire(request).await? else { return Ok(None) };
        let is_held = self.clock().now() < grant.hold.until();
        let delivery = Delivery { service: self.service().clone(), name, grant, is_delivered: false };
        if is_held {
            return Ok(Some(delivery));
        }
        Err(Error::new(ErrorKind::TimedOut, "the lock was granted and has run out on the way: give it a longer ttl"))
    }
}

/// A lock that was had for somebody else. It is freed unless this is said to be [delivered](Self::delivered).
///
/// ```
/// use std::time::Duration;
/// use larder_core::{
///     lock::{LockName, LockRequest, Locks},
///     testing::{clock::TokioClock, fake_locks::FakeLocks},
/// };
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder_core::Error> {
/// let clock = TokioClock::new();
/// let locks = Locks::new(FakeLocks::new(clock), clock);
/// let request = LockRequest::new(LockName::new("nightly-job")?, Duration::from_secs(10), Duration::from_secs(1))?;
/// drop(locks.take_for_another(request.clone()).await?.expect("it was free"));
/// let delivery = locks.take_for_another(request).await?.expect("nobody was given it");
/// let token = delivery.grant().token.clone();
/// delivery.delivered();
/// assert!(locks.service().release(&LockName::new("nightly-job")?, &token).await?);
/// # Ok(()) }
/// ```
#[must_use = "dropped, it frees the lock"]
pub struct Delivery {
    service: Arc<dyn LockService>,
    name: LockName,
    grant: Grant,
    is_delivered: bool,
}

impl Delivery {
    /// What was granted.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The answer has left.
    pub fn delivered(mut self) {
        self.is_delivered = true;
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // Without a runtime the process is ending; the ttl frees the lock.
        let Ok(runtime) = Handle::try_current() else { return };
        if self.is_delivered {
            return;
        }
        let (service, name, token) = (self.service.clone(), self.name.clone(), self.grant.token.clone());
        runtime.spawn(async move {
            if let Err(error) = service.release(&name, &token).await {
                tracing::debug!(?name, "a lock that nobody was given is left to its ttl: {error}");
            }
        });
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("name", &self.name).field("fence", &self.grant.fence).finish_non_exhaustive()
    }
}
