//! Locks that other software keeps: [`LockService`](larder_core::LockService) by etcd, Consul and Redis.
//!
//! - `EtcdLocks`: a queue of keys under leases. Waiters are served in order of arrival.
//! - `ConsulLocks`: a key that a session has. Waiters are woken together, and one of them gets it.
//! - `RedisLocks`: a key with a value and a ttl. Advisory: what Redis forgets, another gets.
//!
//! A service keeps nothing of what it granted: all that it needs to know of a lock is in the token. What each promises is told in
//! `docs/locks.md`; how a lock is held, by [`larder_core::lock`].

#[cfg(feature = "consul")]
mod consul;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "redis")]
mod redis;
#[cfg(test)]
mod tests;
#[cfg(any(feature = "consul", feature = "etcd"))]
mod waiting;

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, ready};
use larder_core::{
    Error, ErrorKind,
    lock::{Acquired, LockName, LockRequest, LockToken},
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, sleep_until},
};

#[cfg(feature = "consul")]
pub use self::consul::{ConsulLocks, SESSION_TTL_MIN as CONSUL_SESSION_TTL_MIN};
#[cfg(feature = "etcd")]
pub use self::etcd::EtcdLocks;
#[cfg(feature = "redis")]
pub use self::redis::{RedisConfig, RedisLocks};

/// How long one request to a service may take: such software answers in milliseconds, and a renewal that is never answered must
/// leave time for others within the ttls that people give locks.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(1);

/// The longest pause after a failure while a lock is waited for.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// A lock service, as far as acquisitions need it.
trait Keeper: Send + Sync + 'static {
    /// Takes the lock, or gives up when patience is over. It is not dropped on the way; what it began and didn't get it takes
    /// back itself.
    fn take(
        &self,
        request: &LockRequest,
        patience: &mut Patience<'_>,
    ) -> impl Future<Output = Result<Acquired, Error>> + Send;

    /// Frees a lock.
    fn free(&self, name: &LockName, token: &LockToken) -> impl Future<Output = Result<bool, Error>> + Send;
}

/// How long a lock is waited for: as long as the request says, and somebody still wants it.
struct Patience<'a> {
    deadline: Instant,
    answer: &'a mut oneshot::Sender<Result<Acquired, Error>>,
}

impl Patience<'_> {
    fn is_over(&self) -> bool {
        self.answer.is_closed() || self.deadline <= Instant::now()
    }

    /// Waits until it is over.
    async fn over(&mut self) {
        tokio::select! {
            () = self.answer.closed() => {}
            () = sleep_until(self.deadline) => {}
        }
    }
}

/// The acquisitions that are under way at one node.
struct Acquisitions {
    permits: Arc<Semaphore>,
}

impl Acquisitions {
    /// Room for this many at once.
    fn new(len_max: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(len_max)) }
    }

    /// Acquires in a task of its own: whoever drops the future must not drop what was sent and not answered yet, because the
    /// answer may be a lock. The task ends soon after, and takes back what nobody wants.
    fn acquire<K: Keeper>(&self, keeper: Arc<K>, request: LockRequest) -> BoxFuture<'static, Result<Acquired, Error>> {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            let message = "too many locks are waited for at this node: try again later";
            return Box::pin(ready(Err(Error::new(ErrorKind::Overloaded, message))));
        };
        let deadline = Instant::now() + request.wait();
        Box::pin(async move {
            let (mut answer, answered) = oneshot::channel();
            tokio::spawn(async move {
                let _permit = permit;
                let mut patience = Patience { deadline, answer: &mut answer };
                let acquired = keeper.take(&request, &mut patience).await;
                if let Err(Ok(Acquired::Granted(grant))) = answer.send(acquired) {
                    // Where this fails, the ttl frees it.
                    let _freed = keeper.free(request.name(), &grant.token).await;
                }
            });
            let ended = || Error::new(ErrorKind::Draining, "the lock was not waited for: the node is ending");
            answered.await.unwrap_or_else(|_| Err(ended()))
        })
    }
}

/// A service that can't be reached, doesn't answer, or can't do it now.
fn away(service: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::OwnerUnreachable, format!("{service} gives no locks, try again later: {why}"))
}

/// A service that will not do it, now or later, unless somebody changes something.
fn refused(service: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::NoAuthority, format!("{service} refuses this node, which needs other settings: {why}"))
}
