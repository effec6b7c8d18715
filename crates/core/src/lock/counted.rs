//! [`Counted`]: a lock service, and what a node counts and knows of the locks that were taken by it here.
//!
//! It is the same over every service. What it knows is what passed by: a lock that somebody takes away shows until its ttl is over or
//! it is renewed.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::{Acquired, Grant, HeldLock, Hold, LockName, LockRequest, LockService, LockToken};
use crate::{
    Clock, Error, Moment,
    stats::{Counter, Histogram, LockAcquisitions, LockResult},
};

/// The most locks that are known to be held here. Those beyond are held all the same, and do not show.
const KNOWN_MAX: usize = 65_536;

/// What a node counts of the locks that are taken at it.
#[derive(Default, Debug)]
pub struct LockStats {
    /// How acquisitions ended.
    pub acquisitions: LockAcquisitions,
    /// How long they took, whatever their end.
    pub waits: Histogram,
    /// Locks that were not released: their ttl ran out, or the service said that they are not held any more.
    pub lost: Counter,
}

pub(super) struct Counted {
    service: Arc<dyn LockService>,
    clock: Arc<dyn Clock>,
    me: Arc<str>,
    stats: LockStats,
    known: Mutex<HashMap<LockToken, Known>>,
}

struct Known {
    name: LockName,
    fence: u64,
    end: Moment,
}

impl Counted {
    pub(super) fn new(service: Arc<dyn LockService>, clock: Arc<dyn Clock>, me: Arc<str>) -> Self {
        Self { service, clock, me, stats: LockStats::default(), known: Mutex::default() }
    }

    pub(super) fn stats(&self) -> &LockStats {
        // What ran out without a word has been lost by now.
        self.let_go(&mut self.known.lock());
        &self.stats
    }

    pub(super) fn held(&self) -> Vec<HeldLock> {
        let (now, mut known) = (self.clock.now(), self.known.lock());
        self.let_go(&mut known);
        let held = known.values().map(|Known { name, fence, end }| HeldLock {
            name: name.clone(),
            holder: self.me.clone(),
            fence: *fence,
            ttl_left: end.since(now),
            waiters: 0,
        });
        let mut held: Vec<HeldLock> = held.collect();
        held.sort_by(|a, b| (&a.name, a.fence).cmp(&(&b.name, b.fence)));
        held
    }

    fn let_go(&self, known: &mut HashMap<LockToken, Known>) {
        let (now, before) = (self.clock.now(), known.len());
        known.retain(|_, known| now < known.end);
        self.stats.lost.add((before - known.len()) as u64);
    }

    fn granted(&self, name: LockName, grant: &Grant) {
        let mut known = self.known.lock();
        if known.len() >= KNOWN_MAX {
            self.let_go(&mut known);
        }
        if known.len() < KNOWN_MAX {
            let end = grant.hold.sent + grant.hold.ttl;
            known.insert(grant.token.clone(), Known { name, fence: grant.fence, end });
        }
    }

    /// It is held until then, or not any more.
    fn renewed(&self, token: &LockToken, hold: Option<&Hold>) {
        let mut known = self.known.lock();
        match (known.get_mut(token), hold) {
            (Some(known), Some(hold)) => known.end = known.end.max(hold.sent + hold.ttl),
            (Some(_), None) => {
                known.remove(token);
                self.stats.lost.add(1);
            }
            // It was taken at another node, or there was no room.
            (None, _) => {}
        }
    }

    fn released(&self, token: &LockToken, was_held: bool) {
        if self.known.lock().remove(token).is_some() && !was_held {
            self.stats.lost.add(1);
        }
    }
}

impl LockService for Counted {
    fn acquire(&self, request: LockRequest) -> BoxFuture<'_, Result<Acquired, Error>> {
        Box::pin(async move {
            let (name, began) = (request.name().clone(), self.clock.now());
            let acquired = self.service.acquire(request).await;
            let result = match &acquired {
                Ok(Acquired::Granted(grant)) => {
                    self.granted(name, grant);
                    LockResult::Granted
                }
                Ok(Acquired::Held) => LockResult::Held,
                Err(_) => LockResult::Error,
            };
            self.stats.acquisitions.of(result).add(1);
            self.stats.waits.observe(self.clock.now().since(began));
            acquired
        })
    }

    fn renew<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<Option<Hold>, Error>> {
        Box::pin(async move {
            let renewed = self.service.renew(name, token).await;
            if let Ok(hold) = &renewed {
                self.renewed(token, hold.as_ref());
            }
            renewed
        })
    }

    fn release<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            let released = self.service.release(name, token).await;
            if let Ok(was_held) = released {
                self.released(token, was_held);
            }
            released
        })
    }

    fn gone<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, ()> {
        self.service.gone(name, token)
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        lock::Locks,
        testing::{
            clock::TokioClock,
            fake_locks::{FakeLocks, Trouble},
        },
    };

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_counted_and_what_is_held_shows() {
        let clock = TokioClock::new();
        let service = FakeLocks::new(clock);
        let locks = Locks::new(service.clone(), clock);
        let guard = locks.lock("a").acquire().await.unwrap();
        assert!(locks.lock("a").wait(Duration::from_secs(1)).try_acquire().await.unwrap().is_none());
        service.set_trouble(Trouble::Away);
        assert!(locks.lock("a").acquire().await.is_err());
        service.set_trouble(Trouble::None);
        let of = |result| locks.stats().acquisitions.of(result).sum();
        assert_eq!([LockResult::Granted, LockResult::Held, LockResult::Error].map(of), [1, 1, 1]);
        let waits = locks.stats().waits.snapshot();
        assert!(waits.count == 3 && waits.sum_seconds >= 1.0);
        let [held] = &locks.held()[..] else { panic!("one is held") };
        assert_eq!((held.name.as_bytes(), held.fence), (&b"a"[..], guard.fence()));
        assert!(guard.release().await.unwrap());
        assert!(locks.held().is_empty() && locks.stats().lost.sum() == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_released_is_lost_once() {
        let clock = TokioClock::new();
        let service = FakeLocks::new(clock);
        let locks = Locks::new(service.clone(), clock);
        let lost = || locks.stats().lost.sum();
        let guard = locks.lock("taken away").acquire().await.unwrap();
        service.take_away(guard.name());
        guard.lost().await;
        assert!(!guard.release().await.unwrap());
        assert_eq!(lost(), 1);
        let request = LockRequest::new(LockName::new("left").unwrap(), Duration::from_secs(1), Duration::ZERO);
        assert!(matches!(locks.service().acquire(request.unwrap()).await, Ok(Acquired::Granted(_))));
        assert_eq!((locks.held().len(), lost()), (1, 1));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!((locks.held().len(), lost()), (0, 2));
        assert_eq!(lost(), 2);
    }
}
