//! [`Writer`]: a place in a key's queue of writers.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::oneshot;

use super::{FlightId, Table};
use crate::Key;

/// A place in a key's queue of writers. While it is there the key is guarded; dropped, it leaves the queue.
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
/// let mut writer = flights.write(&key).expect("nobody else writes");
/// writer.turn().await;
/// // Who comes meanwhile waits, so that it can't bring what the write is about to replace.
/// let deadline = Instant::now() + Duration::from_secs(1);
/// let Boarding::Leads(leader, waiter) = flights.board(&key, deadline) else { unreachable!() };
/// assert!(!leader.is_cleared());
/// writer.end(|| ());
/// assert!(leader.is_cleared());
/// # drop(waiter);
/// # Ok(())
/// # }
/// ```
pub struct Writer<T> {
    pub(super) table: Arc<Table<T>>,
    pub(super) key: Key,
    pub(super) hash: u64,
    pub(super) id: FlightId,
    /// `None`: it has its turn.
    pub(super) turn: Option<oneshot::Receiver<()>>,
}

impl<T> Writer<T> {
    /// Waits for its turn: those who came before have ended.
    pub async fn turn(&mut self) {
        if let Some(turn) = &mut self.turn {
            // The sender is in the table until this one has its turn or goes.
            drop(turn.await);
            self.turn = None;
        }
    }

    /// Says that it does from here on what can't be undone, if `may` agrees, which is asked in one step with that. Whether it
    /// does.
    pub fn goes_out(&self, may: impl FnOnce() -> bool) -> bool {
        let mut keys = self.table.shard(self.hash).lock();
        if !may() {
            return false;
        }
        if let Some(row) = keys.find_mut(self.hash, |row| row.key == self.key) {
            row.state.goes_out(self.id);
        }
        true
    }

    /// Ends the write: runs `work` while nothing of the key lands or begins, and leaves the queue.
    pub fn end<R>(self, work: impl FnOnce() -> R) -> R {
        let _keys = self.table.shard(self.hash).lock();
        work()
        // The lock goes first, then the place in the queue.
    }
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        let mut keys = self.table.shard(self.hash).lock();
        let Ok(mut row) = keys.find_entry(self.hash, |row| row.key == self.key) else { return };
        let (next, begins) = row.get_mut().state.write_ends(self.id);
        for flight in begins {
            flight.is_cleared.store(true, Ordering::Release);
            flight.leader.wake();
        }
        if row.get().state.is_empty() {
            row.remove();
        }
        drop(keys);
        if let Some(next) = next {
            // Who has gone meanwhile passes the turn on as it goes.
            let _gone = next.send(());
        }
    }
}
