//! Flights: however many callers miss a key at the same moment, one of them does the work and all get its result.
//!
//! The first caller to [`board`](Flights::board) a key becomes its *leader*, later ones join. The leader's work runs in a
//! task of its own, so that a caller who gives up, or panics, takes nobody along. A flight lives while any of its waiters
//! lives; when the last one leaves, the leader is told and its work is dropped.
//!
//! Two things end the right to join before the result is there. A flight is *sealed* when it has asked its question
//! elsewhere: whoever comes later must ask again, or it could get the answer to a question that was put before a write
//! it knows of. A flight is *detached* when its key was written, invalidated or given away: its waiters still get
//! what it brings, but it may not be installed anywhere. [`Leader::land`] tells, in one step with the end of the flight,
//! whether it may.
//!
//! Who writes a key has a place in its queue of writers, a [`Writer`]. While there is any, the key is guarded: nothing that is
//! under way may be installed, and no flight of it begins.
//!
//! This module knows nothing of stores, nodes or origins. The idea is that of Go's `singleflight`; what differs is
//! written above.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use larder_core::{Key, flight::Flights};
//! use tokio::time::Instant;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), larder_core::Error> {
//! let flights: Flights<u32> = Flights::new();
//! let key = Key::new("answer")?;
//! let deadline = Instant::now() + Duration::from_secs(1);
//! let first = flights.run(&key, deadline, || async { 42 });
//! let second = flights.run(&key, deadline, || async { unreachable!("the first one's work serves both") });
//! assert_eq!(tokio::join!(first, second), (Ok(42), Ok(42)));
//! # Ok(())
//! # }
//! ```

mod alarm;
mod key_state;
mod writer;

use std::{
    future::Future,
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use foldhash::quality::RandomState;
use futures_util::task::AtomicWaker;
use hashbrown::{HashTable, hash_table::Entry};
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;
use tokio::{sync::oneshot, time::Instant};

use alarm::{Alarm, Watched};
use key_state::{FlightId, KeyState};
pub use key_state::{UNDER_WAY_MAX, WRITERS_MAX};
pub use writer::Writer;

use crate::Key;

/// The most flights of one table. Each is a caller's open request, so that this also bounds the memory they take: about
/// 500 bytes a flight.
pub const FLIGHTS_MAX: usize = 65_536;

/// Locks per table: enough that two cores seldom meet at one, few enough to walk when slots move.
const SHARD_COUNT: usize = 64;

type Keys<T> = HashTable<Row<T>>;
type Shard<T> = Mutex<Keys<T>>;

type State<T> = KeyState<Arc<Flight<T>>, oneshot::Sender<()>>;

struct Row<T> {
    key: Key,
    state: State<T>,
}

/// A table of flights. Cheap to clone.
pub struct Flights<T>(Arc<Table<T>>);

struct Table<T> {
    shards: Box<[Shard<T>]>,
    hasher: RandomState,
    next_id: AtomicU64,
    len: AtomicUsize,
    alarm: Arc<Alarm>,
}

/// What those who are in a flight share.
struct Flight<T> {
    table: Arc<Table<T>>,
    key: Key,
    hash: u64,
    id: FlightId,
    end: Mutex<End<T>>,
    is_cleared: AtomicBool,
    is_abandoned: AtomicBool,
    /// Woken when either becomes true.
    leader: AtomicWaker,
}

/// A flight's end, and who is to hear of it.
struct End<T> {
    /// `Some(None)`: the leader went without a result.
    result: Option<Option<T>>,
    /// Mostly one.
    waiting: SmallVec<[Waiting; 1]>,
    /// Numbers those who wait.
    next: u32,
}

/// One who is to be woken.
struct Waiting {
    number: u32,
    deadline: Instant,
    waker: Waker,
}

/// What a caller becomes.
///
/// ```
/// use std::time::Duration;
/// use larder_core::{Key, flight::{Boarding, Flights}};
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), larder_core::Error> {
/// let flights: Flights<&str> = Flights::new();
/// let key = Key::new("k")?;
/// let deadline = Instant::now() + Duration::from_secs(1);
/// let Boarding::Leads(leader, first) = flights.board(&key, deadline) else { unreachable!() };
/// let Boarding::Joined(second) = flights.board(&key, deadline) else { unreachable!() };
/// // A write comes in between: the result may not be kept.
/// flights.overtake(&key, || ());
/// leader.land(|attached| if attached { "kept" } else { "not kept" });
/// assert_eq!((first.wait().await, second.wait().await), (Ok("not kept"), Ok("not kept")));
/// # Ok(())
/// # }
/// ```
pub enum Boarding<T: Clone> {
    /// One of those who wait.
    Joined(Waiter<T>),
    /// The one who does the work, and waits like the others.
    Leads(Leader<T>, Waiter<T>),
    /// Nothing: [`FLIGHTS_MAX`] are under way.
    Full,
}

/// Why a waiter got no result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WaitError {
    /// Its deadline passed.
    #[error("the deadline passed")]
    TimedOut,
    /// The leader went without a result: its work panicked, or its runtime was shut down.
    #[error("the work ended without a result")]
    LeaderLost,
    /// [`FLIGHTS_MAX`] are under way.
    #[error("too many flights are under way")]
    Full,
}

impl<T> Clone for Flights<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone + Send + Sync + 'static> Default for Flights<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Table {
            shards: (0..SHARD_COUNT).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            next_id: AtomicU64::new(0),
            len: AtomicUsize::new(0),
            alarm: Alarm::new(),
        }))
    }

    /// How many flights are under way or queued.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len.load(Ordering::Relaxed)
    }

    /// Whether no flight is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Joins the key's open flight, or becomes the leader of a new one. Waits until `deadline` at most.
    pub fn board(&self, key: &Key, deadline: Instant) -> Boarding<T> {
        let hash = self.0.hash(key);
        let mut keys = self.0.shard(hash).lock();
        let row = match keys.entry(hash, |row| row.key == *key, |row| self.0.hash(&row.key)) {
            Entry::Occupied(row) => row.into_mut(),
            // The limit bounds memory and need not be exact to the flight.
            Entry::Vacant(_) if self.len() >= FLIGHTS_MAX => return Boarding::Full,
            Entry::Vacant(row) => row.insert(Row { key: key.clone(), state: KeyState::new() }).into_mut(),
        };
        let state = &mut row.state;
        if let Some(flight) = state.join(deadline) {
            return Boarding::Joined(Waiter { flight, deadline, number: None });
        }
        let is_cleared = state.has_room();
        let id = FlightId(self.0.next_id.fetch_add(1, Ordering::Relaxed));
        let flight = Arc::new(Flight {
            table: self.0.clone(),
            key: key.clone(),
            hash,
            id,
            end: Mutex::new(End { result: None, waiting: SmallVec::new(), next: 0 }),
            is_cleared: AtomicBool::new(is_cleared),
            is_abandoned: AtomicBool::new(false),
            leader: AtomicWaker::new(),
        });
        state.lead(id, deadline, flight.clone());
        drop(keys);
        self.0.len.fetch_add(1, Ordering::Relaxed);
        Boarding::Leads(Leader { flight: flight.clone() }, Waiter { flight, deadline, number: None })
    }

    /// Detaches what is under way for `key`, runs `overtake`, and lets no flight of the key land or begin meanwhile: a write that
    /// takes one step. `None`, and nothing was done, while somebody else writes it: who wants to has to [queue](Self::write).
    pub fn overtake<R>(&self, key: &Key, overtake: impl FnOnce() -> R) -> Option<R> {
        let hash = self.0.hash(key);
        let mut keys = self.0.shard(hash).lock();
        if let Some(row) = keys.find_mut(hash, |row| row.key == *key) {
            if row.state.is_guarded() {
                return None;
            }
            row.state.detach();
        }
        Some(overtake())
    }

    /// Comes to write `key`: detaches what is under way, and lets nothing begin or be installed until it has ended. `None`: too
    /// many write it already.
    #[must_use]
    pub fn write(&self, key: &Key) -> Option<Writer<T>> {
        let hash = self.0.hash(key);
        let mut keys = self.0.shard(hash).lock();
        let row = keys.entry(hash, |row| row.key == *key, |row| self.0.hash(&row.key));
        let row = row.or_insert_with(|| Row { key: key.clone(), state: KeyState::new() }).into_mut();
        let id = FlightId(self.0.next_id.fetch_add(1, Ordering::Relaxed));
        let (tell, told) = oneshot::channel();
        let has_turn = row.state.queue(id, tell)?;
        let turn = if has_turn { None } else { Some(told) };
        Some(Writer { table: self.0.clone(), key: key.clone(), hash, id, turn })
    }

    /// Runs `work` while no flight of `key` lands or begins and nobody writes it. `None`, and nothing was done, while somebody
    /// does.
    pub fn unless_guarded<R>(&self, key: &Key, work: impl FnOnce() -> R) -> Option<R> {
        let hash = self.0.hash(key);
        let keys = self.0.shard(hash).lock();
        let is_guarded = keys.find(hash, |row| row.key == *key).is_some_and(|row| row.state.holds_up());
        (!is_guarded).then(work)
    }

    /// Runs `work` while no flight of `key` lands or begins and nothing [overtakes](Self::overtake) it.
    pub fn hold<R>(&self, key: &Key, work: impl FnOnce() -> R) -> R {
        let _keys = self.0.shard(self.0.hash(key)).lock();
        work()
    }

    /// Tells states of a key apart that may go on differently, and how many flights of it work that may be installed.
    #[cfg(test)]
    pub(crate) fn sketch(&self, key: &Key) -> (String, usize) {
        let hash = self.0.hash(key);
        let keys = self.0.shard(hash).lock();
        let state = keys.find(hash, |row| row.key == *key).map(|row| &row.state);
        state.map_or_else(Default::default, |state| (state.sketch(), state.attached_under_way()))
    }

    /// The keys of those that `chosen` picks whose writers do what [can't be undone](Writer::goes_out).
    pub fn written_outside(&self, chosen: impl Fn(&Key) -> bool) -> Vec<Key> {
        let mut written = Vec::new();
        for shard in &self.0.shards {
            let keys = shard.lock();
            let outside = keys.iter().filter(|row| row.state.is_outside() && chosen(&row.key));
            written.extend(outside.map(|row| row.key.clone()));
        }
        written
    }

    /// Detaches the flights of every key that `chosen` picks.
    pub fn detach_all(&self, chosen: impl Fn(&Key) -> bool) {
        for shard in &self.0.shards {
            for row in shard.lock().iter_mut().filter(|row| chosen(&row.key)) {
                row.state.detach();
            }
        }
    }

    /// Does `work` once for all who ask for `key` at the same time. Joins the flight under way if there is one.
    ///
    /// # Errors
    ///
    /// [`WaitError`]; only this caller's own deadline ends its waiting.
    pub async fn run<F, W>(&self, key: &Key, deadline: Instant, work: F) -> Result<T, WaitError>
    where
        F: FnOnce() -> W,
        W: Future<Output = T> + Send + 'static,
    {
        let waiter = match self.board(key, deadline) {
            Boarding::Joined(waiter) => waiter,
            Boarding::Full => return Err(WaitError::Full),
            Boarding::Leads(leader, waiter) => {
                let work = work();
                tokio::spawn(async move {
                    if let Some(result) = leader.unless_abandoned(work).await {
                        leader.land(|_| result);
                    }
                });
                waiter
            }
        };
        waiter.wait().await
    }
}

impl<T> Table<T> {
    fn hash(&self, key: &Key) -> u64 {
        self.hasher.hash_one(key.as_bytes())
    }

    fn shard(&self, hash: u64) -> &Shard<T> {
        // The table takes the top bits and the lowest ones for itself.
        &self.shards[(hash >> 32) as usize % SHARD_COUNT]
    }
}

impl<T: Send + Sync + 'static> Watched for Table<T> {
    fn alarm(&self) -> &Arc<Alarm> {
        &self.alarm
    }

    fn wake_late(&self, now: Instant) -> Option<Instant> {
        let (mut late, mut next) = (Vec::new(), None::<Instant>);
        for shard in &self.shards {
            let keys = shard.lock();
            for flight in keys.iter().flat_map(|row| row.state.flights()) {
                for Waiting { deadline, waker, .. } in &flight.end.lock().waiting {
                    if *deadline <= now {
                        late.push(waker.clone());
                    } else {
                        next = Some(next.map_or(*deadline, |next| next.min(*deadline)));
                    }
                }
            }
        }
        late.into_iter().for_each(Waker::wake);
        next
    }

    fn wake_all(&self) {
        let mut waiting = Vec::new();
        for shard in &self.shards {
            for flight in shard.lock().iter().flat_map(|row| row.state.flights()) {
                waiting.extend(flight.end.lock().waiting.iter().map(|waiting| waiting.waker.clone()));
            }
        }
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl<T> Flight<T> {
    fn keys(&self) -> MutexGuard<'_, Keys<T>> {
        self.table.shard(self.hash).lock()
    }

    /// What the table knows of the key.
    fn state<'a>(&self, keys: &'a mut Keys<T>) -> Option<&'a mut State<T>> {
        keys.find_mut(self.hash, |row| row.key == self.key).map(|row| &mut row.state)
    }

    /// Ends the flight. `install` makes the result and is told whether the flight is attached.
    fn land(&self, install: impl FnOnce(bool) -> Option<T>) {
        let mut keys = self.keys();
        let Ok(mut row) = keys.find_entry(self.hash, |row| row.key == self.key) else { return };
        let result = install(row.get().state.is_attached(self.id));
        // The result is set before the flight leaves the table, so that who finds none there finds it in the store.
        let waiting = {
            let mut end = self.end.lock();
            end.result = Some(result);
            std::mem::take(&mut end.waiting)
        };
        self.table.len.fetch_sub(1, Ordering::Relaxed);
        let state = &mut row.get_mut().state;
        if let Some(next) = state.end(self.id) {
            next.is_cleared.store(true, Ordering::Release);
            next.leader.wake();
        }
        if state.is_empty() {
            row.remove();
        }
        drop(keys);
        for waiting in waiting {
            waiting.waker.wake();
        }
    }
}

/// One who waits for a flight's result. Dropping it leaves the flight.
pub struct Waiter<T: Clone> {
    flight: Arc<Flight<T>>,
    deadline: Instant,
    /// Under which its waker is kept.
    number: Option<u32>,
}

impl<T: Clone + Send + Sync + 'static> Waiter<T> {
    /// Waits for the result, until the deadline that was given at boarding.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub async fn wait(mut self) -> Result<T, WaitError> {
        self.wait_until(self.deadline).await
    }

    /// Waits until `pause` only, and may be asked again after.
    ///
    /// # Errors
    ///
    /// [`WaitError::TimedOut`] if there is no result by then.
    pub fn wait_until(&mut self, pause: Instant) -> impl Future<Output = Result<T, WaitError>> + Send {
        std::future::poll_fn(move |cx| self.poll(cx, pause))
    }

    fn poll(&mut self, cx: &Context<'_>, pause: Instant) -> Poll<Result<T, WaitError>> {
        let table = &self.flight.table;
        let mut end = self.flight.end.lock();
        if let Some(result) = &end.result {
            return Poll::Ready(result.clone().ok_or(WaitError::LeaderLost));
        }
        let is_new = self.number.is_none();
        let number = *self.number.get_or_insert(end.next);
        let waiting = Waiting { number, deadline: pause, waker: cx.waker().clone() };
        match end.waiting.iter_mut().find(|it| it.number == number) {
            Some(place) => *place = waiting,
            None => {
                end.next += 1;
                end.waiting.push(waiting);
            }
        }
        let is_watched = table.alarm.is_set_for(pause);
        drop(end);
        // Who begins to wait need not look at the clock: a deadline that has passed sets off the alarm.
        if !is_new && pause <= Instant::now() {
            return Poll::Ready(Err(WaitError::TimedOut));
        }
        if !is_watched {
            table.alarm.set_for(pause, table);
        }
        Poll::Pending
    }
}

impl<T: Clone> Drop for Waiter<T> {
    fn drop(&mut self) {
        let flight = &self.flight;
        {
            let mut end = flight.end.lock();
            if end.result.is_some() {
                return;
            }
            if let Some(number) = self.number {
                end.waiting.retain(|waiting| waiting.number != number);
            }
        }
        if flight.state(&mut flight.keys()).is_some_and(|state| state.leave(flight.id)) {
            flight.is_abandoned.store(true, Ordering::Release);
            flight.leader.wake();
        }
    }
}

/// The one who does a flight's work. Dropped without [`land`](Self::land), it leaves its waiters with
/// [`WaitError::LeaderLost`].
pub struct Leader<T: Clone> {
    flight: Arc<Flight<T>>,
}

impl<T: Clone> Leader<T> {
    /// The key that the flight is of.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.flight.key
    }

    /// Whether the flight may begin.
    #[must_use]
    pub fn is_cleared(&self) -> bool {
        self.flight.is_cleared.load(Ordering::Acquire)
    }

    /// Waits until the flight may begin: fewer than [`UNDER_WAY_MAX`] others of its key are under way.
    pub async fn cleared(&self) {
        self.until(&self.flight.is_cleared).await;
    }

    /// Waits until nobody waits for the result any more.
    pub async fn abandoned(&self) {
        self.until(&self.flight.is_abandoned).await;
    }

    /// Only the leader's own task may wait.
    async fn until(&self, it_is: &AtomicBool) {
        std::future::poll_fn(|cx| {
            self.flight.leader.register(cx.waker());
            if it_is.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Waits for clearance and does `work`; drops it and answers `None` if everybody has left.
    pub async fn unless_abandoned<R>(&self, work: impl Future<Output = R>) -> Option<R> {
        tokio::select! {
            result = async { self.cleared().await; work.await } => Some(result),
            () = self.abandoned() => None,
        }
    }

    /// The latest deadline of those who boarded.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let flight = &self.flight;
        flight.state(&mut flight.keys()).and_then(|state| state.deadline(flight.id))
    }

    /// Seals the flight.
    pub fn seal(&self) -> Sealed {
        seal(&self.flight)
    }

    /// What seals the flight, for whoever sends its question.
    #[must_use]
    pub fn sealer(&self) -> Sealer<T> {
        Sealer(self.flight.clone())
    }

    /// Ends the flight. `install` makes the result and is told whether it may be kept: whether the flight is still
    /// attached. Nothing can [overtake](Flights::overtake) the key between that and the end of `install`.
    pub fn land(self, install: impl FnOnce(bool) -> T) {
        self.flight.land(|attached| Some(install(attached)));
    }
}

impl<T: Clone> Drop for Leader<T> {
    fn drop(&mut self) {
        // After a landing there is nothing left to end.
        if self.flight.end.lock().result.is_none() {
            self.flight.land(|_| None);
        }
    }
}

/// What sealing a flight comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sealed {
    /// Nobody joins it any more, and those who did wait until then at the latest.
    Until(Instant),
    /// Nobody waits for it: its question need not be asked.
    Abandoned,
}

fn seal<T>(flight: &Flight<T>) -> Sealed {
    match flight.state(&mut flight.keys()).and_then(|state| state.seal(flight.id)) {
        Some(deadline) => Sealed::Until(deadline),
        None => Sealed::Abandoned,
    }
}

/// Seals a flight: nobody joins it any more.
pub struct Sealer<T>(Arc<Flight<T>>);

impl<T> Sealer<T> {
    /// Seals it.
    pub fn seal(&self) -> Sealed {
        seal(&self.0)
    }
}

#[cfg(test)]
mod tests;
