//! What the flight table knows of one key: a state machine without I/O.
//!
//! Flights of a key come and go like this. One is *open* while callers may join it. It is *attached* until something
//! overtakes it: a write, an invalidation, a change of owner. At most [`UNDER_WAY_MAX`] work at the same time, so that a
//! key that is detached again and again can't pile loads up; one more may be *queued* behind them, open to everyone.

use tokio::time::Instant;

/// The most flights of one key that work at the same time (rules G2 and I1): one that is open, and one that was sealed
/// or detached before it.
pub const UNDER_WAY_MAX: usize = 2;

/// Tells the flights of a table apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FlightId(pub(super) u64);

struct Entry<F> {
    id: FlightId,
    open: bool,
    attached: bool,
    under_way: bool,
    waiters: usize,
    deadline: Instant,
    flight: F,
}

/// The flights of one key. `F` is the shell's handle of a flight.
pub(super) struct KeyState<F> {
    entries: Vec<Entry<F>>,
}

/// What becomes of a caller.
pub(super) enum Boarding<F> {
    /// It waits for this flight, which another leads.
    Joins(FlightId, F),
    /// It leads the flight it brought, which may begin at once.
    Leads(FlightId),
    /// It leads the flight it brought, which begins when another has ended.
    Queues(FlightId),
}

impl<F: Clone> KeyState<F> {
    pub(super) fn new() -> Self {
        Self { entries: Vec::with_capacity(1) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A caller arrives: it joins the open flight, or leads a new one.
    pub(super) fn board(&mut self, id: FlightId, deadline: Instant, flight: impl FnOnce() -> F) -> Boarding<F> {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.open) {
            entry.waiters += 1;
            entry.deadline = entry.deadline.max(deadline);
            return Boarding::Joins(entry.id, entry.flight.clone());
        }
        let under_way = self.under_way() < UNDER_WAY_MAX;
        let flight = flight();
        self.entries.push(Entry { id, open: true, attached: true, under_way, waiters: 1, deadline, flight });
        if under_way { Boarding::Leads(id) } else { Boarding::Queues(id) }
    }

    /// Nobody joins this flight any more.
    pub(super) fn seal(&mut self, id: FlightId) {
        if let Some(entry) = self.entry(id) {
            entry.open = false;
        }
    }

    /// Something overtook the key: what is under way must not be installed and takes no more callers. A flight that is
    /// only queued has asked nothing yet, so that it can't bring anything old.
    pub(super) fn detach(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.under_way) {
            entry.open = false;
            entry.attached = false;
        }
    }

    /// A caller goes. Says whether it was the last: the flight is abandoned then and nobody joins it any more.
    pub(super) fn leave(&mut self, id: FlightId) -> bool {
        let Some(entry) = self.entry(id) else { return false };
        entry.waiters = entry.waiters.saturating_sub(1);
        if entry.waiters > 0 {
            return false;
        }
        entry.open = false;
        entry.attached = false;
        true
    }

    /// A flight's leader is through with it. Answers with a queued flight that begins now.
    pub(super) fn end(&mut self, id: FlightId) -> Option<F> {
        self.entries.retain(|entry| entry.id != id);
        if self.under_way() >= UNDER_WAY_MAX {
            return None;
        }
        let next = self.entries.iter_mut().find(|entry| !entry.under_way)?;
        next.under_way = true;
        Some(next.flight.clone())
    }

    pub(super) fn is_attached(&self, id: FlightId) -> bool {
        self.entries.iter().any(|entry| entry.id == id && entry.attached)
    }

    /// The latest deadline of those who ever joined.
    pub(super) fn deadline(&self, id: FlightId) -> Option<Instant> {
        self.entries.iter().find(|entry| entry.id == id).map(|entry| entry.deadline)
    }

    fn under_way(&self) -> usize {
        self.entries.iter().filter(|entry| entry.under_way).count()
    }

    fn entry(&mut self, id: FlightId) -> Option<&mut Entry<F>> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Driver {
        state: KeyState<u64>,
        next: u64,
        start: Instant,
    }

    impl Driver {
        fn new() -> Self {
            Self { state: KeyState::new(), next: 0, start: Instant::now() }
        }

        fn board(&mut self) -> Boarding<u64> {
            self.next += 1;
            let deadline = self.start + Duration::from_secs(self.next);
            self.state.board(FlightId(self.next), deadline, || self.next)
        }

        fn leads(&mut self) -> FlightId {
            match self.board() {
                Boarding::Leads(id) => id,
                _ => panic!("should lead"),
            }
        }
    }

    #[test]
    fn callers_join_the_open_flight_and_its_deadline_is_the_latest() {
        let mut driver = Driver::new();
        let first = driver.leads();
        assert!(matches!(driver.board(), Boarding::Joins(id, 1) if id == first));
        assert_eq!(driver.state.deadline(first), Some(driver.start + Duration::from_secs(2)));
    }

    #[test]
    fn nobody_joins_a_sealed_flight_which_stays_attached() {
        let mut driver = Driver::new();
        let first = driver.leads();
        driver.state.seal(first);
        let second = driver.leads();
        assert_ne!(first, second);
        assert!(driver.state.is_attached(first));
    }

    #[test]
    fn a_third_flight_waits_until_one_of_two_has_ended() {
        let mut driver = Driver::new();
        let first = driver.leads();
        driver.state.seal(first);
        let second = driver.leads();
        driver.state.seal(second);
        let Boarding::Queues(third) = driver.board() else { panic!("should queue") };
        assert!(matches!(driver.board(), Boarding::Joins(id, _) if id == third));
        assert_eq!(driver.state.end(second), Some(third.0));
        assert_eq!(driver.state.end(first), None);
    }

    #[test]
    fn what_is_under_way_is_detached_and_what_is_queued_is_not() {
        let mut driver = Driver::new();
        let first = driver.leads();
        driver.state.detach();
        let second = driver.leads();
        driver.state.detach();
        let Boarding::Queues(third) = driver.board() else { panic!("should queue") };
        driver.state.detach();
        let attached = [first, second, third].map(|id| driver.state.is_attached(id));
        assert_eq!(attached, [false, false, true]);
        for id in [first, second, third] {
            driver.state.end(id);
        }
        assert!(driver.state.is_empty());
    }

    #[test]
    fn a_flight_without_waiters_is_abandoned_and_not_joined() {
        let mut driver = Driver::new();
        let first = driver.leads();
        driver.board();
        assert!(!driver.state.leave(first));
        assert!(driver.state.leave(first));
        assert!(!driver.state.is_attached(first));
        assert_ne!(driver.leads(), first);
    }
}
