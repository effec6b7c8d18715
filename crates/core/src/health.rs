//! [`Health`]: what the requests to a peer tell of it, so that a dead one costs its callers one fast failure and not a
//! time-out each.
//!
//! A state machine without I/O. After [`FAILURES_MAX`] failures in a row, or one question for a sign of life that stays
//! unanswered, the peer is in *back-off*: requests are refused at once. When that is over, one request goes through as a
//! probe. If it succeeds the peer is up again; if it fails, the next back-off is twice as long. (The half-open state of a
//! circuit breaker: Nygard, "Release It!", 2007.)
//!
//! It sends nothing by itself and does not judge what is a failure: its caller knows the difference between a peer that
//! could not be reached and one that answered with an error.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Failures in a row after which a peer is left alone. One or two may be a connection that broke; at three, the callers
/// have waited enough.
pub const FAILURES_MAX: u32 = 3;

/// The shortest back-off: a process that restarts is back in about this time.
pub const BACK_OFF_MIN: Duration = Duration::from_millis(100);

/// The longest back-off: how late a peer that came back may be noticed. One that stays away costs one caller in that time
/// a second at most, which is what an attempt to connect may take.
pub const BACK_OFF_MAX: Duration = Duration::from_millis(500);

/// The passive health of one peer.
///
/// # Examples
///
/// ```
/// use larder_core::health::{Admission, FAILURES_MAX, Health};
/// use tokio::time::Instant;
///
/// let health = Health::new(7);
/// let now = Instant::now();
/// for _ in 0..FAILURES_MAX {
///     let Admission::Go(permit) = health.admit(|| now) else { unreachable!() };
///     permit.failed(now);
/// }
/// let Admission::BackOff { until } = health.admit(|| now) else { unreachable!() };
/// let Admission::Go(probe) = health.admit(|| until) else { unreachable!() };
/// assert!(matches!(health.admit(|| until), Admission::BackOff { .. }));
/// probe.succeeded();
/// assert!(health.is_admitting(until));
/// ```
#[derive(Clone, Debug)]
pub struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Whether it is up and the last request did not fail: most requests need to know no more, and change nothing.
    is_calm: AtomicBool,
    /// As in the machine.
    era: AtomicU64,
    machine: Mutex<Machine>,
}

/// Whether a request may be made.
#[derive(Debug)]
#[must_use]
pub enum Admission {
    /// It may; the permit wants to know how it ended.
    Go(Permit),
    /// It may not: the peer is left alone.
    BackOff {
        /// When asking again may make sense.
        until: Instant,
    },
}

/// What is known of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HealthState {
    /// Requests are made.
    Up,
    /// No requests are made; the first after `until` will be the probe.
    BackOff {
        /// When the back-off ends, or ended.
        until: Instant,
    },
    /// The probe is under way.
    Probing,
}

#[derive(Debug)]
struct Machine {
    state: HealthState,
    /// Failures in a row while it is up.
    failures: u32,
    /// Back-offs in a row.
    back_offs: u32,
    /// The number of the present state of being up or in back-off: what a permit of an earlier one learns late is old news.
    era: u64,
    random: fastrand::Rng,
}

impl Health {
    /// The health of a peer of which nothing is known; `seed` decides the jitter of its back-offs.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let machine = Machine { state: HealthState::Up, failures: 0, back_offs: 0, era: 0, random };
        Self(Arc::new(Shared { is_calm: AtomicBool::new(true), era: AtomicU64::new(0), machine: Mutex::new(machine) }))
    }

    /// Asks whether a request may be made. The time matters to a peer only that is not up.
    pub fn admit(&self, now: impl FnOnce() -> Instant) -> Admission {
        let permit = |era, probe_since| Admission::Go(Permit { health: self.clone(), era, probe_since });
        if self.0.is_calm.load(Ordering::Acquire) {
            return permit(self.0.era.load(Ordering::Relaxed), None);
        }
        let mut machine = self.0.machine.lock();
        if machine.state == HealthState::Up {
            return permit(machine.era, None);
        }
        let now = now();
        match machine.state {
            HealthState::BackOff { until } if until <= now => {
                machine.state = HealthState::Probing;
                permit(machine.era, Some(now))
            }
            HealthState::BackOff { until } => Admission::BackOff { until },
            HealthState::Up | HealthState::Probing => Admission::BackOff { until: now + BACK_OFF_MIN },
        }
    }

    /// The peer was asked for a sign of life and gave none: that says as much as [`FAILURES_MAX`] failures, and each of
    /// those would cost a caller just as long a wait.
    pub fn silent(&self, now: Instant) {
        self.change(|machine| {
            if !matches!(machine.state, HealthState::BackOff { .. }) {
                machine.back_off(now);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Machine)) {
        let mut machine = self.0.machine.lock();
        change(&mut machine);
        self.0.era.store(machine.era, Ordering::Relaxed);
        self.0.is_calm.store(machine.state == HealthState::Up && machine.failures == 0, Ordering::Release);
    }

    /// Whether [`admit`](Self::admit) would let a request go now.
    #[must_use]
    pub fn is_admitting(&self, now: Instant) -> bool {
        match self.state() {
            HealthState::Up => true,
            HealthState::BackOff { until } => until <= now,
            HealthState::Probing => false,
        }
    }

    /// What is known of the peer, for people to read.
    #[must_use]
    pub fn state(&self) -> HealthState {
        self.0.machine.lock().state
    }
}

impl Machine {
    fn succeeded(&mut self) {
        self.failures = 0;
        if self.state != HealthState::Up {
            self.state = HealthState::Up;
            self.back_offs = 0;
            self.era += 1;
        }
    }

    fn failed(&mut self, now: Instant) {
        self.failures += 1;
        if self.state != HealthState::Up || self.failures >= FAILURES_MAX {
            self.back_off(now);
        }
    }

    fn back_off(&mut self, now: Instant) {
        // Between half and the whole of a span that doubles, so that the nodes that lost a peer together don't come back to
        // it together.
        let doubled = BACK_OFF_MIN.saturating_mul(2_u32.saturating_pow(self.back_offs.saturating_add(1)));
        let span = doubled.min(BACK_OFF_MAX);
        let until = now + span.mul_f64(0.5 + 0.5 * self.random.f64());
        self.state = HealthState::BackOff { until };
        self.failures = 0;
        self.back_offs = self.back_offs.saturating_add(1);
        self.era += 1;
    }
}

/// Leave to make one request. Dropped without a word it says nothing of the peer; if it was the probe's, the next request
/// is the probe.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    health: Health,
    era: u64,
    /// Whether it is the probe's, and since when.
    probe_since: Option<Instant>,
}

impl Permit {
    /// The peer answered. It is up, even if others have failed meanwhile.
    pub fn succeeded(self) {
        if !self.health.0.is_calm.load(Ordering::Acquire) {
            self.health.change(Machine::succeeded);
        }
    }

    /// The peer could not be reached, or broke off.
    pub fn failed(self, now: Instant) {
        self.health.change(|machine| {
            // Requests that were under way together fail together: they count for the state they were made in only.
            if machine.era == self.era {
                machine.failed(now);
            }
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(since) = self.probe_since else { return };
        let mut machine = self.health.0.machine.lock();
        if machine.era == self.era && machine.state == HealthState::Probing {
            machine.state = HealthState::BackOff { until: since };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(health: &Health, now: Instant) -> Permit {
        match health.admit(|| now) {
            Admission::Go(permit) => permit,
            Admission::BackOff { until } => panic!("refused until {until:?}"),
        }
    }

    fn refused(health: &Health, now: Instant) -> Instant {
        match health.admit(|| now) {
            Admission::Go(_) => panic!("let through"),
            Admission::BackOff { until } => until,
        }
    }

    /// A peer in its first back-off, and that one's end.
    fn lost(now: Instant) -> (Health, Instant) {
        let health = Health::new(1);
        (0..FAILURES_MAX).for_each(|_| go(&health, now).failed(now));
        let until = refused(&health, now);
        (health, until)
    }

    #[test]
    fn three_failures_in_a_row_are_one_too_many() {
        let (now, health) = (Instant::now(), Health::new(1));
        for _ in 0..5 {
            go(&health, now).failed(now);
            go(&health, now).failed(now);
            go(&health, now).succeeded();
        }
        assert_eq!(health.state(), HealthState::Up);
        (0..FAILURES_MAX).for_each(|_| go(&health, now).failed(now));
        refused(&health, now);
        assert!(!health.is_admitting(now));
    }

    #[test]
    fn while_the_back_off_lasts_everybody_is_refused_and_then_one_goes_through() {
        let now = Instant::now();
        let (health, until) = lost(now);
        assert_eq!(refused(&health, until - Duration::from_nanos(1)), until);
        assert!(health.is_admitting(until));
        let probe = go(&health, until);
        assert_eq!(health.state(), HealthState::Probing);
        assert!(!health.is_admitting(until) && refused(&health, until) > until);
        probe.succeeded();
        let both = (go(&health, until), go(&health, until));
        assert_eq!(health.state(), HealthState::Up);
        drop(both);
    }

    #[test]
    fn a_probe_that_vanishes_gives_its_permit_back() {
        let (health, until) = lost(Instant::now());
        drop(go(&health, until));
        assert!(health.is_admitting(until));
        go(&health, until).failed(until);
        assert!(refused(&health, until) > until);
    }

    #[test]
    fn back_offs_double_from_100_ms_to_half_a_second_and_begin_anew_after_a_success() {
        for seed in 0..200 {
            let (health, mut now) = (Health::new(seed), Instant::now());
            let mut spans = Vec::new();
            while spans.len() < 40 {
                go(&health, now).failed(now);
                if let HealthState::BackOff { until } = health.state() {
                    spans.push(until - now);
                    now = until;
                }
            }
            for (i, span) in spans.iter().enumerate() {
                let whole = (BACK_OFF_MIN * 2 * 2_u32.pow(i.min(10) as u32)).min(BACK_OFF_MAX);
                assert!((whole / 2..=whole).contains(span), "number {i}: {span:?}");
            }
            go(&health, now).succeeded();
            (0..FAILURES_MAX).for_each(|_| go(&health, now).failed(now));
            assert!(refused(&health, now) - now <= 2 * BACK_OFF_MIN);
        }
    }

    #[test]
    fn nodes_that_lose_a_peer_together_come_back_to_it_apart() {
        let now = Instant::now();
        let ends = |seed| {
            let health = Health::new(seed);
            (0..FAILURES_MAX).for_each(|_| go(&health, now).failed(now));
            refused(&health, now)
        };
        let apart: std::collections::HashSet<Instant> = (0..100).map(ends).collect();
        assert!(apart.len() > 90);
        assert_eq!(ends(5), ends(5));
    }

    #[test]
    fn silence_is_enough_for_a_back_off() {
        let (now, health) = (Instant::now(), Health::new(1));
        let waiting: Vec<_> = (0..FAILURES_MAX).map(|_| go(&health, now)).collect();
        health.silent(now);
        let until = refused(&health, now);
        assert!(until - now <= 2 * BACK_OFF_MIN);
        // Those that waited with it tell nothing new, and neither does more silence.
        waiting.into_iter().for_each(|permit| permit.failed(now));
        health.silent(now);
        assert_eq!(health.state(), HealthState::BackOff { until });
        let probe = go(&health, until);
        health.silent(until);
        probe.failed(until);
        let longer = refused(&health, until) - until;
        assert!((2 * BACK_OFF_MIN..=4 * BACK_OFF_MIN).contains(&longer), "the probe's failure counts once: {longer:?}");
    }

    #[test]
    fn requests_that_fail_together_count_for_one_back_off() {
        let (now, health) = (Instant::now(), Health::new(1));
        let many: Vec<_> = (0..100).map(|_| go(&health, now)).collect();
        many.into_iter().for_each(|permit| permit.failed(now));
        assert!(refused(&health, now) - now <= 2 * BACK_OFF_MIN);
    }

    #[test]
    fn failures_from_before_a_back_off_do_not_count_after_it() {
        let (now, health) = (Instant::now(), Health::new(1));
        let old: Vec<_> = (0..2 * FAILURES_MAX).map(|_| go(&health, now)).collect();
        (0..FAILURES_MAX).for_each(|_| go(&health, now).failed(now));
        let until = refused(&health, now);
        go(&health, until).succeeded();
        old.into_iter().for_each(|permit| permit.failed(until));
        assert_eq!(health.state(), HealthState::Up);
        go(&health, until).succeeded();
    }

    #[test]
    fn a_late_answer_ends_a_back_off_and_the_probe_then_changes_nothing() {
        let (now, health) = (Instant::now(), Health::new(1));
        let slow = go(&health, now);
        (0..FAILURES_MAX).for_each(|_| go(&health, now).failed(now));
        let until = refused(&health, now);
        let probe = go(&health, until);
        slow.succeeded();
        assert_eq!(health.state(), HealthState::Up);
        probe.failed(until);
        (1..FAILURES_MAX).for_each(|_| go(&health, until).failed(until));
        assert_eq!(health.state(), HealthState::Up);
    }

    #[test]
    fn an_old_probe_does_not_end_a_new_one() {
        let (health, until) = lost(Instant::now());
        let old = go(&health, until);
        // The peer comes up by another request's answer and is lost again while the old probe still waits.
        health.change(Machine::succeeded);
        (0..FAILURES_MAX).for_each(|_| go(&health, until).failed(until));
        let later = refused(&health, until);
        let probe = go(&health, later);
        drop(old);
        assert_eq!(health.state(), HealthState::Probing);
        drop(probe);
        assert!(health.is_admitting(later));
    }

    #[test]
    fn of_many_threads_one_gets_the_probe() {
        let (health, until) = lost(Instant::now());
        let barrier = std::sync::Barrier::new(8);
        let probes: usize = std::thread::scope(|scope| {
            let ask = || {
                barrier.wait();
                let admission = health.admit(|| until);
                barrier.wait();
                usize::from(matches!(admission, Admission::Go(_)))
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(probes, 1);
    }
}
