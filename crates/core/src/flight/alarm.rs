//! [`Alarm`]: one timer for all deadlines of a table of flights.
//!
//! Most flights land long before their callers' deadlines. A timer for each caller would be set and cleared for nothing,
//! millions of times a second. So there is one, set for the earliest deadline: whoever waits compares theirs with it, and
//! moves it only if theirs is earlier. When it goes off, a task looks through the table, wakes who is late, and sets it for
//! the earliest of the others.
//!
//! It knows no flights: what there is to look through is the [`Watched`] of it.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The least time between two looks through the table, of which each may be at [`FLIGHTS_MAX`](super::FLIGHTS_MAX) flights.
/// Nobody needs a deadline exact to the millisecond.
const PAUSE: Duration = Duration::from_millis(2);

/// No deadline is watched.
const NEVER: u64 = u64::MAX;

/// What has deadlines to watch.
pub(super) trait Watched: Send + Sync + 'static {
    /// Its alarm.
    fn alarm(&self) -> &Arc<Alarm>;

    /// Wakes all whose deadline is not after `now`, and says which is the earliest of the others.
    fn wake_late(&self, now: Instant) -> Option<Instant>;

    /// Wakes all.
    fn wake_all(&self);
}

/// When the next look is due.
pub(super) struct Alarm {
    start: Instant,
    /// Nanoseconds after the start.
    at: AtomicU64,
    /// Whether there is a task that watches. Held to move `at` to an earlier time.
    has_watch: Mutex<bool>,
    moved: Notify,
}

impl Alarm {
    pub(super) fn new() -> Arc<Self> {
        let (at, has_watch) = (AtomicU64::new(NEVER), Mutex::default());
        Arc::new(Self { start: Instant::now(), at, has_watch, moved: Notify::new() })
    }

    /// Whether it goes off by `deadline`. Who waits asks under the lock under which they are woken: [`Watched::wake_late`]
    /// looks after the alarm was taken back, so that it either finds who waits or they find it taken back.
    pub(super) fn is_set_for(&self, deadline: Instant) -> bool {
        self.at.load(Ordering::Relaxed) <= self.nanos(deadline)
    }

    /// Has it go off by `deadline`. Not to be called under a lock that the watched takes.
    pub(super) fn set_for(&self, deadline: Instant, watched: &Arc<impl Watched>) {
        let mut has_watch = self.has_watch.lock();
        self.at.fetch_min(self.nanos(deadline), Ordering::Relaxed);
        if std::mem::replace(&mut *has_watch, true) {
            self.moved.notify_one();
        } else {
            drop(has_watch);
            let watch = Watch { alarm: watched.alarm().clone(), of: Arc::downgrade(watched), has_ended: false };
            tokio::spawn(watch.run());
        }
    }

    fn nanos(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.start);
        u64::try_from(since.as_nanos()).unwrap_or(NEVER - 1)
    }
}

/// The task that watches. It ends when nobody waits, or what it watches is gone.
struct Watch<W: Watched> {
    alarm: Arc<Alarm>,
    of: Weak<W>,
    has_ended: bool,
}

impl<W: Watched> Watch<W> {
    async fn run(mut self) {
        loop {
            let at = self.alarm.start + Duration::from_nanos(self.alarm.at.load(Ordering::Relaxed));
            tokio::select! {
                () = sleep_until(at) => {}
                () = self.alarm.moved.notified() => continue,
            }
            let Some(watched) = self.of.upgrade() else { break };
            self.alarm.at.store(NEVER, Ordering::Relaxed);
            let now = Instant::now();
            let next = watched.wake_late(now).map(|next| self.alarm.nanos(next.max(now + PAUSE)));
            let mut has_watch = self.alarm.has_watch.lock();
            let before = self.alarm.at.fetch_min(next.unwrap_or(NEVER), Ordering::Relaxed);
            if next.is_none() && before == NEVER {
                *has_watch = false;
                break;
            }
        }
        self.has_ended = true;
    }
}

impl<W: Watched> Drop for Watch<W> {
    /// The runtime that it ran on may end before those who wait: they set the alarm anew.
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let mut has_watch = self.alarm.has_watch.lock();
        self.alarm.at.store(NEVER, Ordering::Relaxed);
        *has_watch = false;
        drop(has_watch);
        if let Some(watched) = self.of.upgrade() {
            watched.wake_all();
        }
    }
}
