//! What the flight table knows of one key: a state machine without I/O.
//!
//! Flights of a key come and go like this. One is *open* while callers may join it. It is *attached* until something
//! overtakes it: a write, an invalidation, a change of owner. At most [`UNDER_WAY_MAX`] work at the same time, so that a
//! key that is detached again and again can't pile loads up; one more may be *queued* behind them, open to everyone.
//!
//! Writers of a key have their turns in the order in which they came. From the first one's coming to the last one's end the
//! key is *guarded* (rule P2): what was under way is detached, and no flight begins.

use std::collections::VecDeque;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::rules::{Rule, keeps};

/// The most flights of one key that work at the same time (rules G2 and I1): one that is open, and one that was sealed
/// or detached before it.
pub const UNDER_WAY_MAX: usize = 2;

/// The most writers of one key that wait for their turns: each is a caller's open request.
pub const WRITERS_MAX: usize = 1_024;

/// Tells the flights and the writers of a table apart.
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

/// One who writes the key, or waits for that. `W` tells it of its turn.
struct WriterEntry<W> {
    id: FlightId,
    tell: Option<W>,
    /// What it does can't be undone any more: the origin was asked.
    is_outside: bool,
}

/// The flights and the writers of one key. `F` is the shell's handle of a flight, `W` that of a writer who waits.
pub(super) struct KeyState<F, W = ()> {
    /// Most keys have one.
    entries: SmallVec<[Entry<F>; 1]>,
    /// The first one has its turn. Most keys have none, and the place of an empty one is all that they take.
    #[expect(
        clippy::box_collection,
        reason = "there is a state for each key in flight: a word of it is for writers, not four"
    )]
    writers: Option<Box<VecDeque<WriterEntry<W>>>>,
}

impl<F: Clone, W> KeyState<F, W> {
    pub(super) fn new() -> Self {
        Self { entries: SmallVec::new(), writers: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && !self.is_guarded()
    }

    /// Whether somebody writes the key, or waits for that.
    pub(super) fn is_guarded(&self) -> bool {
        self.writers.is_some()
    }

    /// Whether the key is guarded against loads, copies and installations (rule P2).
    pub(super) fn holds_up(&self) -> bool {
        self.is_guarded() && keeps(Rule::P2)
    }

    /// A writer comes: what is under way is detached. Whether it has its turn at once; else it is told when it does. `None`: there
    /// are [`WRITERS_MAX`].
    pub(super) fn queue(&mut self, id: FlightId, tell: W) -> Option<bool> {
        self.detach();
        let writers = self.writers.get_or_insert_default();
        if writers.len() >= WRITERS_MAX {
            return None;
        }
        let is_first = writers.is_empty();
        writers.push_back(WriterEntry { id, tell: Some(tell).filter(|_| !is_first), is_outside: false });
        Some(is_first)
    }

    /// The writer whose turn it is does from here on what can't be undone.
    pub(super) fn goes_out(&mut self, id: FlightId) {
        let writer = self.writers.as_mut().and_then(|writers| writers.iter_mut().find(|writer| writer.id == id));
        if let Some(writer) = writer {
            writer.is_outside = true;
        }
    }

    /// Whether a writer does what can't be undone.
    pub(super) fn is_outside(&self) -> bool {
        self.writers.as_ref().is_some_and(|writers| writers.iter().any(|writer| writer.is_outside))
    }

    /// A writer goes, done or not. Answers with whom to tell that it is its turn, and the queued flights that begin now as nobody
    /// writes any more.
    pub(super) fn write_ends(&mut self, id: FlightId) -> (Option<W>, SmallVec<[F; 1]>) {
        let Some(writers) = &mut self.writers else { return (None, SmallVec::new()) };
        writers.retain(|writer| writer.id != id);
        let next = writers.front_mut().and_then(|writer| writer.tell.take());
        if writers.is_empty() {
            self.writers = None;
        }
        let mut begins = SmallVec::new();
        while let Some(flight) = self.begin_queued() {
            begins.push(flight);
        }
        (next, begins)
    }

    /// Every flight, whatever its state.
    pub(super) fn flights(&self) -> impl Iterator<Item = &F> {
        self.entries.iter().map(|entry| &entry.flight)
    }

    /// A caller joins the open flight, if there is one.
    pub(super) fn join(&mut self, deadline: Instant) -> Option<F> {
        let entry = self.entries.iter_mut().find(|entry| entry.open)?;
        entry.waiters += 1;
        entry.deadline = entry.deadline.max(deadline);
        Some(entry.flight.clone())
    }

    /// A caller that found none to join leads this flight. Where there [is no room](Self::has_room) it is queued, and begins
    /// when another has ended.
    pub(super) fn lead(&mut self, id: FlightId, deadline: Instant, flight: F) {
        let under_way = self.has_room();
        self.entries.push(Entry { id, open: true, attached: true, under_way, waiters: 1, deadline, flight });
    }

    /// Whether another flight may be under way.
    pub(super) fn has_room(&self) -> bool {
        !self.holds_up() && self.under_way() < UNDER_WAY_MAX
    }

    /// Nobody joins this flight any more. Says until when it is waited for; `None`: not at all.
    pub(super) fn seal(&mut self, id: FlightId) -> Option<Instant> {
        let entry = self.entry(id)?;
        // Rule G2.
        entry.open &= !keeps(Rule::G2);
        (entry.waiters > 0).then_some(entry.deadline)
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
        self.begin_queued()
    }

    fn begin_queued(&mut self) -> Option<F> {
        if !self.has_room() {
            return None;
        }
        let next = self.entries.iter_mut().find(|entry| !entry.under_way)?;
        next.under_way = true;
        Some(next.flight.clone())
    }

    pub(super) fn is_attached(&self, id: FlightId) -> bool {
        // Rule G6.
        self.entries.iter().any(|entry| entry.id == id && (entry.attached || !keeps(Rule::G6)))
    }

    /// The latest deadline of those who ever joined.
    pub(super) fn deadline(&self, id: FlightId) -> Option<Instant> {
        self.entries.iter().find(|entry| entry.id == id).map(|entry| entry.deadline)
    }

    /// Tells states apart that may go on differently.
    #[cfg(test)]
    pub(super) fn sketch(&self) -> String {
        let flight = |entry: &Entry<F>| {
            let Entry { open, attached, under_way, waiters, .. } = entry;
            format!("{}{}{}{waiters}", u8::from(*open), u8::from(*attached), u8::from(*under_way))
        };
        let flights: Vec<String> = self.entries.iter().map(flight).collect();
        let writers = self.writers.iter().flat_map(|writers| writers.iter().map(|writer| writer.is_outside));
        format!("{flights:?}{:?}", writers.collect::<Vec<_>>())
    }

    /// How many flights may be installed that work already.
    #[cfg(test)]
    pub(super) fn attached_under_way(&self) -> usize {
        self.entries.iter().filter(|entry| entry.attached && entry.under_way).count()
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
        state: KeyState<u64, u64>,
        next: u64,
        start: Instant,
    }

    impl Driver {
        fn new() -> Self {
            Self { state: KeyState::new(), next: 0, start: Instant::now() }
        }

        fn deadline(&mut self) -> Instant {
            self.next += 1;
            self.start + Duration::from_secs(self.next)
        }

        fn join(&mut self) -> Option<FlightId> {
            let deadline = self.deadline();
            self.state.join(deadline).map(FlightId)
        }

        /// Leads a flight, and says whether it may begin.
        fn lead(&mut self) -> (FlightId, bool) {
            let deadline = self.deadline();
            assert!(self.state.join(deadline).is_none(), "should lead");
            let begins = self.state.has_room();
            self.state.lead(FlightId(self.next), deadline, self.next);
            (FlightId(self.next), begins)
        }

        fn leads(&mut self) -> FlightId {
            let (id, begins) = self.lead();
            assert!(begins, "should begin");
            id
        }
    }

    #[test]
    fn callers_join_the_open_flight_and_its_deadline_is_the_latest() {
        let mut driver = Driver::new();
        let first = driver.leads();
        assert_eq!(driver.join(), Some(first));
        assert_eq!(driver.state.deadline(first), Some(driver.start + Duration::from_secs(2)));
    }

    #[test]
    fn nobody_joins_a_sealed_flight_which_stays_attached() {
        let mut driver = Driver::new();
        let first = driver.leads();
        assert_eq!(driver.join(), Some(first));
        let latest = driver.start + Duration::from_secs(driver.next);
        assert_eq!(driver.state.seal(first), Some(latest));
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
        let (third, begins) = driver.lead();
        assert!(!begins);
        assert_eq!(driver.join(), Some(third));
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
        let (third, begins) = driver.lead();
        assert!(!begins);
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
        assert_eq!(driver.join(), Some(first));
        assert!(!driver.state.leave(first));
        assert!(driver.state.leave(first));
        assert_eq!(driver.state.seal(first), None);
        assert!(!driver.state.is_attached(first));
        assert_ne!(driver.leads(), first);
    }

    #[test]
    fn writers_have_their_turns_in_order_and_no_flight_begins_meanwhile() {
        let mut driver = Driver::new();
        let early = driver.leads();
        assert_eq!(driver.state.queue(FlightId(101), 101), Some(true));
        assert!(!driver.state.is_attached(early));
        assert_eq!(driver.state.queue(FlightId(102), 102), Some(false));
        assert_eq!(driver.state.queue(FlightId(103), 103), Some(false));
        let (late, begins) = driver.lead();
        assert!(!begins, "a get that misses waits");
        assert_eq!(driver.state.end(early), None, "also where there is room");
        // One that gives up before its turn is passed over.
        assert_eq!(driver.state.write_ends(FlightId(102)).0, None);
        assert_eq!(driver.state.write_ends(FlightId(101)).0, Some(103));
        assert!(driver.state.is_guarded());
        let (next, begins) = driver.state.write_ends(FlightId(103));
        assert_eq!((next, begins.as_slice()), (None, &[late.0][..]));
        assert!(driver.state.is_attached(late), "it has asked nothing before the writes ended");
    }

    #[test]
    fn a_key_takes_so_many_writers_and_no_more() {
        let mut driver = Driver::new();
        for number in 0..WRITERS_MAX as u64 {
            assert_eq!(driver.state.queue(FlightId(number), number), Some(number == 0));
        }
        assert_eq!(driver.state.queue(FlightId(WRITERS_MAX as u64), 0), None);
    }

    #[test]
    fn what_can_not_be_undone_is_known_until_its_end() {
        let mut driver = Driver::new();
        driver.state.queue(FlightId(1), 1);
        assert!(!driver.state.is_outside());
        driver.state.goes_out(FlightId(1));
        assert!(driver.state.is_outside());
        driver.state.write_ends(FlightId(1));
        assert!(!driver.state.is_outside() && driver.state.is_empty());
    }
}
