//! [`LockGuard`]: a lock that is held, renewed behind its holder, and freed when the guard goes.
//!
//! A guard is held until a moment on a clock that goes on while the machine sleeps, and renewals move that moment. Nothing else
//! makes it held: not that the service has said nothing, nor that a renewal is under way. A guard that was lost stays lost.
//!
//! It is the same over every [`LockService`], and knows none.

use std::{fmt, future::Future, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{Acquired, Grant, HeldLock, LockName, LockRequest, LockService, LockStats, LockToken, counted::Counted};
use crate::{Clock, Error, ErrorKind, Moment};

/// How long a lock lasts unless it is renewed, where nothing else is said.
pub const DEFAULT_TTL: Duration = Duration::from_secs(10);

/// How long a lock is waited for where nothing else is said.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(5);

/// How often a lock is renewed within its ttl: one renewal may be lost altogether.
const RENEWALS_PER_TTL: u32 = 3;

/// How often at most a renewal that failed is tried again within a ttl: a service that is back is found in time, and one that is
/// away is not stormed.
const TRIES_PER_TTL: u32 = 30;

/// The longest sleep between two looks at the clock. Timers stand still while the machine sleeps and the clock doesn't, so that a
/// guard that was overslept is found lost this much after waking up; [`LockGuard::is_held`] knows at once.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long freeing may take: who can't reach the service is not held up, and the ttl frees the lock.
const RELEASE_TIME_MAX: Duration = Duration::from_secs(5);

/// Locks by a service: what a node has to take them with. Cheap to clone.
///
/// ```
/// use std::time::Duration;
/// use larder_core::{lock::Locks, testing::{clock::TokioClock, fake_locks::FakeLocks}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder_core::Error> {
/// let clock = TokioClock::new();
/// let locks = Locks::new(FakeLocks::new(clock), clock);
/// let guard = locks.lock("nightly-job").ttl(Duration::from_secs(10)).acquire().await?;
/// assert!(guard.is_held() && guard.fence() > 0);
/// assert!(locks.lock("nightly-job").wait(Duration::ZERO).try_acquire().await?.is_none(), "it is held");
/// guard.release().await?;
/// assert!(locks.lock("nightly-job").wait(Duration::ZERO).try_acquire().await?.is_some());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Locks {
    counted: Arc<Counted>,
    /// The same, as its users see it.
    service: Arc<dyn LockService>,
    clock: Arc<dyn Clock>,
}

impl Locks {
    /// Locks by this service. The clock is the one that the service counts on.
    pub fn new(service: impl LockService, clock: impl Clock) -> Self {
        Self::at("", service, clock)
    }

    /// The same, at the node of this name, which [`held`](Self::held) tells.
    pub fn at(node: impl Into<Arc<str>>, service: impl LockService, clock: impl Clock) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(clock);
        let counted = Arc::new(Counted::new(Arc::new(service), clock.clone(), node.into()));
        Self { service: counted.clone(), counted, clock }
    }

    /// The lock of this name, to be [acquired](Acquire::acquire).
    pub fn lock(&self, name: impl Into<Bytes>) -> Acquire<'_> {
        Acquire { locks: self, name: name.into(), ttl: DEFAULT_TTL, wait: DEFAULT_WAIT, note: Bytes::new() }
    }

    /// The service, for those who hold locks without guards. What is asked of it counts as well.
    #[must_use]
    pub fn service(&self) -> &Arc<dyn LockService> {
        &self.service
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// What is counted of the locks that are taken by this.
    #[must_use]
    pub fn stats(&self) -> &LockStats {
        self.counted.stats()
    }

    /// The locks that were taken by this and are held, by name, as far as it can know: one that is renewed and released by its token
    /// at other nodes shows until its first ttl is over.
    #[must_use]
    pub fn held(&self) -> Vec<HeldLock> {
        self.counted.held()
    }

    async fn take(&self, request: LockRequest) -> Result<Option<LockGuard>, Error> {
        let name = request.name().clone();
        let Acquired::Granted(grant) = self.service.acquire(request).await? else { return Ok(None) };
        let guard = LockGuard::new(self, name, grant);
        if guard.is_held() {
            return Ok(Some(guard));
        }
        // The way back took longer than the ttl.
        Err(Error::new(ErrorKind::TimedOut, "the lock was granted and has run out on the way: give it a longer ttl"))
    }
}

impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locks").finish_non_exhaustive()
    }
}

/// A lock that is about to be taken.
#[derive(Debug)]
#[must_use = "nothing is locked until it is acquired"]
pub struct Acquire<'a> {
    locks: &'a Locks,
    name: Bytes,
    ttl: Duration,
    wait: Duration,
    note: Bytes,
}

impl Acquire<'_> {
    /// How long the lock lasts if its holder vanishes: 100 ms to 60 s, 10 s unless set. Services that count more coarsely take
    /// more.
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    /// How long it is waited for while another has it: up to 60 s, 5 s unless set; zero: not at all.
    pub fn wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// What the next holder is to be told, where the service passes that on.
    pub fn note(self, note: impl Into<Bytes>) -> Self {
        Self { note: note.into(), ..self }
    }

    /// Takes the lock. Where this is dropped before it has ended, the lock is nobody's.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] if another held it all the time; [`try_acquire`](Self::try_acquire) tells that apart.
    /// Otherwise as [`LockService::acquire`], and [`ErrorKind::Invalid`] or [`ErrorKind::TooLarge`] if name or times are out of
    /// their limits.
    pub async fn acquire(self) -> Result<LockGuard, Error> {
        self.try_acquire()
            .await?
            .ok_or_else(|| Error::new(ErrorKind::TimedOut, "another holds the lock: wait longer, or try again later"))
    }

    /// Takes the lock; `None`: another held it all the time.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), except for what is `None` here.
    pub async fn try_acquire(self) -> Result<Option<LockGuard>, Error> {
        let request = LockRequest::new(LockName::new(self.name)?, self.ttl, self.wait)?.with_note(self.note);
        self.locks.take(request).await
    }
}

/// A lock that is held. It is renewed in the background until it is [released](Self::release) or dropped, which frees it.
///
/// Work under a lock goes beside [`lost`](Self::lost), and what it changes is told the [`fence`](Self::fence):
///
/// ```
/// # use larder_core::{lock::Locks, testing::{clock::TokioClock, fake_locks::FakeLocks}};
/// # async fn work(fence: u64) {}
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder_core::Error> {
/// # let locks = Locks::new(FakeLocks::new(TokioClock::new()), TokioClock::new());
/// let guard = locks.lock("nightly-job").acquire().await?;
/// tokio::select! {
///     () = work(guard.fence()) => {}
///     () = guard.lost() => eprintln!("somebody else may have the lock by now"),
/// }
/// # Ok(()) }
/// ```
#[must_use = "a guard that is dropped frees its lock"]
pub struct LockGuard {
    held: Arc<Held>,
    fence: u64,
    note_before: Bytes,
    /// Dropped, it has the keeper free the lock.
    end: oneshot::Sender<()>,
    keeper: JoinHandle<Result<bool, Error>>,
}

/// What a guard and its keeper share.
struct Held {
    name: LockName,
    token: LockToken,
    service: Arc<dyn LockService>,
    standing: Arc<Standing>,
}

impl LockGuard {
    fn new(locks: &Locks, name: LockName, grant: Grant) -> Self {
        let Grant { token, fence, hold, note_before } = grant;
        let until = watch::Sender::new(Some(hold.until()));
        let standing = Arc::new(Standing { until, clock: locks.clock.clone() });
        let held = Arc::new(Held { name, token, service: locks.service.clone(), standing });
        let (end, ended) = oneshot::channel();
        let keeper = tokio::spawn(held.clone().keep(hold.sent, hold.ttl, ended));
        Self { held, fence, note_before, end, keeper }
    }

    /// The lock's name.
    #[must_use]
    pub fn name(&self) -> &LockName {
        &self.held.name
    }

    /// The number of this holding, greater than that of every earlier one. What the lock protects should refuse a smaller one than it
    /// has seen.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// What the holder before had to say to this one; empty: nothing, or nobody passed it on.
    #[must_use]
    pub fn note_before(&self) -> &Bytes {
        &self.note_before
    }

    /// What other processes can renew and free the lock with.
    #[must_use]
    pub fn token(&self) -> &LockToken {
        &self.held.token
    }

    /// Whether the lock can be relied on at this moment; it looks at the clock, which has counted while the machine slept.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.standing.until().is_some()
    }

    /// Ends when the lock can no longer be relied on, and before anybody else can have it, whatever became of the service. Who is
    /// stopped meanwhile, or whose machine sleeps, is told when it goes on.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        let standing = self.held.standing.clone();
        async move { standing.lost().await }
    }

    /// Frees the lock and waits until that is done. `false`: it had been lost.
    ///
    /// # Errors
    ///
    /// As [`LockService::release`]: the lock is free when its ttl has run out.
    pub async fn release(self) -> Result<bool, Error> {
        drop(self.end);
        match self.keeper.await {
            Ok(released) => released,
            Err(_) => Err(Error::new(ErrorKind::Draining, "the lock was left to its ttl: the runtime is ending")),
        }
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        f.debug_struct("LockGuard").field("name", name).field("fence", &self.fence).finish_non_exhaustive()
    }
}

/// Until when a lock is held.
///
/// The clock is read under the lock of `until`, by who looks and by who renews. So nobody finds the lock lost and another finds it
/// held after that.
struct Standing {
    /// `None`: it is lost, for good.
    until: watch::Sender<Option<Moment>>,
    clock: Arc<dyn Clock>,
}

impl Standing {
    /// Until when it is held; `None`: it isn't any more.
    fn until(&self) -> Option<Moment> {
        let until = self.until.borrow();
        until.filter(|until| self.clock.now() < *until)
    }

    /// It is held until then too, unless it has been lost.
    fn extend(&self, later: Moment) {
        self.until.send_modify(|until| {
            *until = until.filter(|until| self.clock.now() < *until).map(|until| until.max(later));
        });
    }

    fn lose(&self) {
        self.until.send_replace(None);
    }

    async fn lost(&self) {
        let mut changes = self.until.subscribe();
        while let Some(until) = self.until() {
            tokio::select! {
                // The sender is here.
                _ = changes.changed() => {}
                () = self.reached(until) => {}
            }
        }
    }

    /// Waits until the clock has come to this moment.
    async fn reached(&self, moment: Moment) {
        loop {
            let left = moment.since(self.clock.now());
            if left.is_zero() {
                return;
            }
            sleep(left.min(LOOK_EVERY)).await;
        }
    }
}

impl Held {
    /// Renews until the guard is gone, and frees the lock then.
    async fn keep(
        self: Arc<Self>,
        sent: Moment,
        ttl: Duration,
        mut ended: oneshot::Receiver<()>,
    ) -> Result<bool, Error> {
        tokio::select! {
            // Nothing is ever sent.
            _ = &mut ended => {}
            () = self.renew_until_lost(sent, ttl) => {
                tracing::warn!(name = ?self.name, "a lock was lost: who holds it should stop");
                // The holder frees it when it has stopped, in case that it is held all the same.
                let _gone = (&mut ended).await;
            }
        }
        let released = timeout(RELEASE_TIME_MAX, self.service.release(&self.name, &self.token)).await;
        let released = released.unwrap_or_else(|_| {
            let message = "the lock service does not answer: the lock is free when its ttl has run out";
            Err(Error::new(ErrorKind::TimedOut, message))
        });
        if let Err(error) = &released {
            tracing::debug!(name = ?self.name, "a lock is left to its ttl: {error}");
        }
        released
    }

    async fn renew_until_lost(&self, mut sent: Moment, mut ttl: Duration) {
        let standing = &self.standing;
        let mut gone = pin!(self.service.gone(&self.name, &self.token));
        let mut next = sent + ttl / RENEWALS_PER_TTL;
        loop {
            let renewal = async {
                standing.reached(next).await;
                self.service.renew(&self.name, &self.token).await
            };
            let renewed = tokio::select! {
                renewed = renewal => renewed,
                () = standing.lost() => return,
                () = &mut gone => return standing.lose(),
            };
            match renewed {
                Ok(Some(hold)) => {
                    standing.extend(hold.until());
                    (sent, ttl) = (sent.max(hold.sent), hold.ttl);
                    next = sent + ttl / RENEWALS_PER_TTL;
                }
                Ok(None) => return standing.lose(),
                Err(error) => {
                    tracing::debug!(name = ?self.name, "a lock could not be renewed: {error}");
                    next = standing.clock.now() + ttl / TRIES_PER_TTL;
                }
            }
        }
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests;
