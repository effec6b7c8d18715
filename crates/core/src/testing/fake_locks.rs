//! [`FakeLocks`]: locks in memory, that tests can take away.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    Clock, Error, ErrorKind, Moment,
    lock::{Acquired, Grant, Hold, LockName, LockRequest, LockService, LockToken},
};

/// What is the matter with a [`FakeLocks`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Trouble {
    /// It answers at once.
    #[default]
    None,
    /// It answers that it is away.
    Away,
    /// It gives no answer, and does nothing.
    Silent,
}

/// A lock service in memory. Clones are the same service; waiters are served in order of arrival.
///
/// ```
/// use larder_core::{lock::Locks, testing::{clock::TokioClock, fake_locks::FakeLocks}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let clock = TokioClock::new();
/// let locks = Locks::new(FakeLocks::new(clock), clock);
/// let guard = locks.lock("a").acquire().await.unwrap();
/// assert_eq!(guard.fence(), 1);
/// # }
/// ```
#[derive(Clone)]
pub struct FakeLocks(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    trouble: watch::Sender<Trouble>,
    /// Counts what may let a waiter go on.
    changes: watch::Sender<u64>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    fence: u64,
    tickets: u64,
    renewals: u64,
    locks: HashMap<LockName, Lock>,
}

#[derive(Default)]
struct Lock {
    holder: Option<Holder>,
    /// Tickets of who waits, the first first.
    queue: VecDeque<u64>,
    note: Bytes,
}

struct Holder {
    token: LockToken,
    ttl: Duration,
    until: Moment,
}

impl FakeLocks {
    /// A service that counts on this clock.
    pub fn new(clock: impl Clock) -> Self {
        Self(Arc::new(Shared {
            clock: Arc::new(clock),
            trouble: watch::Sender::default(),
            changes: watch::Sender::default(),
            inner: Mutex::default(),
        }))
    }

    /// What is the matter from now on.
    pub fn set_trouble(&self, trouble: Trouble) {
        self.0.trouble.send_replace(trouble);
    }

    /// Frees a lock as an operator would, without its holder.
    pub fn take_away(&self, name: &LockName) {
        if let Some(lock) = self.0.inner.lock().locks.get_mut(name) {
            lock.holder = None;
        }
        self.0.change();
    }

    /// How many renewals there were.
    #[must_use]
    pub fn renewals(&self) -> u64 {
        self.0.inner.lock().renewals
    }

    /// Waits until so many wait for locks, or more.
    pub async fn is_waited_for(&self, len: usize) {
        let mut changes = self.0.changes.subscribe();
        let waiting = || self.0.inner.lock().locks.values().map(|lock| lock.queue.len()).sum::<usize>();
        while waiting() < len && changes.changed().await.is_ok() {}
    }

    /// How many locks are held, or waited for.
    #[must_use]
    pub fn in_use(&self) -> usize {
        let now = self.0.clock.now();
        let inner = self.0.inner.lock();
        let is_used = |lock: &&Lock| lock.holder_at(now).is_some() || !lock.queue.is_empty();
        inner.locks.values().filter(is_used).count()
    }
}

impl Lock {
    fn holder_at(&self, now: Moment) -> Option<&Holder> {
        self.holder.as_ref().filter(|holder| now < holder.until)
    }

    fn is_held_with(&self, token: &LockToken, now: Moment) -> bool {
        self.holder_at(now).is_some_and(|holder| holder.token == *token)
    }
}

impl Shared {
    fn change(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    async fn answers(&self) -> Result<(), Error> {
        let mut trouble = self.trouble.subscribe();
        // The sender is here.
        let _lasts = trouble.wait_for(|trouble| *trouble != Trouble::Silent).await;
        match *self.trouble.borrow() {
            Trouble::Away => Err(Error::new(ErrorKind::OwnerUnreachable, "the lock service is away: try again")),
            _ => Ok(()),
        }
    }

    async fn acquire(&self, request: LockRequest) -> Result<Acquired, Error> {
        let deadline = Instant::now() + request.wait();
        self.answers().await?;
        let place = Place::take(self, request.name());
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let busy_for = match self.try_to_take(&request, place.ticket) {
                Ok(grant) => return Ok(Acquired::Granted(grant)),
                Err(busy_for) => busy_for,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Acquired::Held);
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep(busy_for.min(left)) => {}
            }
        }
    }

    /// Takes the lock if it is this one's turn, or tells when to look again if nothing changes.
    fn try_to_take(&self, request: &LockRequest, ticket: u64) -> Result<Grant, Duration> {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        let fence = inner.fence + 1;
        let lock = inner.locks.entry(request.name().clone()).or_default();
        if let Some(holder) = lock.holder_at(now) {
            return Err(holder.until.since(now));
        }
        if lock.queue.front() != Some(&ticket) {
            return Err(request.wait());
        }
        let token = LockToken::new(format!("fake-{fence}")).expect("it is a token");
        let hold = Hold { sent: now, ttl: request.ttl() };
        lock.holder = Some(Holder { token: token.clone(), ttl: hold.ttl, until: now + hold.ttl });
        let note_before = lock.note.clone();
        if !request.note().is_empty() {
            lock.note = request.note().clone();
        }
        inner.fence = fence;
        Ok(Grant { token, fence, hold, note_before })
    }
}

/// A place in a queue, given up when this is dropped.
struct Place<'a> {
    shared: &'a Shared,
    name: &'a LockName,
    ticket: u64,
}

impl<'a> Place<'a> {
    fn take(shared: &'a Shared, name: &'a LockName) -> Self {
        let mut inner = shared.inner.lock();
        inner.tickets += 1;
        let ticket = inner.tickets;
        inner.locks.entry(name.clone()).or_default().queue.push_back(ticket);
        drop(inner);
        shared.change();
        Self { shared, name, ticket }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(lock) = self.shared.inner.lock().locks.get_mut(self.name) {
            lock.queue.retain(|ticket| *ticket != self.ticket);
        }
        self.shared.change();
    }
}

impl LockService for FakeLocks {
    fn acquire(&self, request: LockRequest) -> BoxFuture<'_, Result<Acquired, Error>> {
        let shared = self.0.clone();
        Box::pin(async move { shared.acquire(request).await })
    }

    fn renew<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<Option<Hold>, Error>> {
        Box::pin(async move {
            let sent = self.0.clock.now();
            self.0.answers().await?;
            let now = self.0.clock.now();
            let mut inner = self.0.inner.lock();
            inner.renewals += 1;
            let lock = inner.locks.get_mut(name).filter(|lock| lock.is_held_with(token, now));
            Ok(lock.and_then(|lock| lock.holder.as_mut()).map(|holder| {
                holder.until = now + holder.ttl;
                Hold { sent, ttl: holder.ttl }
            }))
        })
    }

    fn release<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            self.0.answers().await?;
            let now = self.0.clock.now();
            let mut inner = self.0.inner.lock();
            let Some(lock) = inner.locks.get_mut(name).filter(|lock| lock.is_held_with(token, now)) else {
                return Ok(false);
            };
            lock.holder = None;
            drop(inner);
            self.0.change();
            Ok(true)
        })
    }

    fn gone<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut changes = self.0.changes.subscribe();
            let is_held = || {
                let now = self.0.clock.now();
                self.0.inner.lock().locks.get(name).is_some_and(|lock| lock.is_held_with(token, now))
            };
            while is_held() {
                // The sender is here.
                let _changed = changes.changed().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lock_contract,
        testing::{clock::TokioClock, lock::LockBackend},
    };

    struct Fake {
        locks: FakeLocks,
        clock: TokioClock,
    }

    impl Fake {
        fn start() -> Self {
            let clock = TokioClock::new();
            Self { locks: FakeLocks::new(clock), clock }
        }
    }

    impl LockBackend for Fake {
        fn service(&self) -> Arc<dyn LockService> {
            Arc::new(self.locks.clone())
        }

        fn clock(&self) -> Arc<dyn Clock> {
            Arc::new(self.clock)
        }

        fn ttl(&self) -> Duration {
            Duration::from_millis(500)
        }

        fn vanish_time_max(&self) -> Duration {
            self.ttl() + Duration::from_secs(5)
        }
    }

    lock_contract!(contract, Fake::start());
}
