//! [`Limit`]: how many requests to the origin may be under way at once. It may be changed while they are.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Clone)]
pub(super) struct Limit(Arc<Inner>);

struct Inner {
    permits: Arc<Semaphore>,
    size: Mutex<Size>,
    in_flight: AtomicUsize,
}

/// What is granted, and how many permits are to be withdrawn as they come back.
struct Size {
    granted: usize,
    excess: usize,
}

/// The right to one request.
pub(super) struct Permit {
    limit: Limit,
    permit: Option<OwnedSemaphorePermit>,
}

impl Limit {
    pub(super) fn new(size: usize) -> Self {
        Self(Arc::new(Inner {
            permits: Arc::new(Semaphore::new(size)),
            size: Mutex::new(Size { granted: size, excess: 0 }),
            in_flight: AtomicUsize::new(0),
        }))
    }

    pub(super) fn resize(&self, to: usize) {
        let mut size = self.0.size.lock();
        if to >= size.granted {
            let more = to - size.granted;
            let forgiven = more.min(size.excess);
            size.excess -= forgiven;
            self.0.permits.add_permits(more - forgiven);
        } else {
            let fewer = size.granted - to;
            size.excess += fewer - self.0.permits.forget_permits(fewer);
        }
        size.granted = to;
    }

    pub(super) fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    /// Waits for its turn; first come, first served.
    pub(super) async fn acquire(&self) -> Permit {
        // The semaphore is never closed, so that there is always a permit in the end.
        let permit = self.0.permits.clone().acquire_owned().await.ok();
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        Permit { limit: self.clone(), permit }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let limit = &*self.limit.0;
        limit.in_flight.fetch_sub(1, Ordering::Relaxed);
        let mut size = limit.size.lock();
        if size.excess > 0
            && let Some(permit) = self.permit.take()
        {
            size.excess -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(limit: &Limit) -> usize {
        limit.0.permits.available_permits()
    }

    #[tokio::test]
    async fn permits_in_use_are_withdrawn_as_they_come_back() {
        let limit = Limit::new(3);
        let (a, b) = (limit.acquire().await, limit.acquire().await);
        limit.resize(1);
        assert_eq!((free(&limit), limit.in_flight()), (0, 2));
        drop(a);
        assert_eq!(free(&limit), 0);
        drop(b);
        assert_eq!((free(&limit), limit.in_flight()), (1, 0));
    }

    #[tokio::test]
    async fn growing_again_forgives_what_was_to_be_withdrawn() {
        let limit = Limit::new(2);
        let (a, b) = (limit.acquire().await, limit.acquire().await);
        limit.resize(1);
        limit.resize(4);
        drop((a, b));
        assert_eq!(free(&limit), 4);
    }
}
