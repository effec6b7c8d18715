//! [`ClockReserve`]: how far a node's clock may go before its disk has to hear of it (rule V2).
//!
//! A version is worth something only if no later run of the node gives a lower one, whatever its wall clock says by then. So a node
//! with a disk reserves its clock ahead there and goes on above what it finds reserved after a restart. A version that goes out to an
//! origin or into a journal, and the fence of a lock, waits until the reserve covers it; as it is renewed in time, hardly one ever does.
//!
//! **It knows no disk.** Who keeps one says how far the clock is reserved, and waits here for what is to be reserved next. A node
//! that nobody keeps one for waits for nothing.

use tokio::sync::{Notify, watch};

use crate::{Error, version::Reading};

/// How far a clock is reserved, and for whom it is not far enough.
///
/// # Examples
///
/// ```
/// use larder_core::{reserve::ClockReserve, version::Reading};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let reserve = ClockReserve::default();
/// reserve.covers(Reading::from_bits(7)).await?; // Nobody keeps it on a disk.
/// reserve.begin();
/// reserve.extend(Reading::from_bits(7));
/// reserve.covers(Reading::from_bits(7)).await?;
/// # Ok::<(), larder_core::Error>(()) }).unwrap();
/// ```
pub struct ClockReserve {
    state: watch::Sender<State>,
    /// Somebody waits for more.
    wanted: Notify,
}

#[derive(Clone)]
struct State {
    until: Reading,
    /// Why it was not extended when that was tried last.
    trouble: Option<Error>,
}

impl Default for ClockReserve {
    fn default() -> Self {
        let all = State { until: Reading::from_bits(u64::MAX), trouble: None };
        Self { state: watch::Sender::new(all), wanted: Notify::new() }
    }
}

impl ClockReserve {
    /// From here on only what is [reserved](Self::extend) is covered: nothing yet.
    pub fn begin(&self) {
        self.state.send_replace(State { until: Reading::default(), trouble: None });
    }

    /// The clock is reserved up to `until`: a disk has it.
    pub fn extend(&self, until: Reading) {
        self.state.send_modify(|state| {
            state.until = state.until.max(until);
            state.trouble = None;
        });
    }

    /// It could not be extended, which may go better the next time: who waits for more is told why.
    pub fn delay(&self, trouble: Error) {
        self.state.send_modify(|state| state.trouble = Some(trouble));
    }

    /// It will never be extended again, and nothing is covered any more.
    pub fn end(&self, trouble: Error) {
        self.state.send_replace(State { until: Reading::default(), trouble: Some(trouble) });
    }

    /// Whether a reading is covered: the disk has it, or there is none.
    #[must_use]
    pub fn is_covered(&self, reading: Reading) -> bool {
        reading <= self.state.borrow().until
    }

    /// Waits until a reading is covered.
    ///
    /// # Errors
    ///
    /// Why it can't be, as whoever keeps the reserve has said.
    pub async fn covers(&self, reading: Reading) -> Result<(), Error> {
        if self.is_covered(reading) {
            return Ok(());
        }
        let mut state = self.state.subscribe();
        self.wanted.notify_one();
        let is_told = |state: &State| reading <= state.until || state.trouble.is_some();
        // The sender lives as long as this does.
        match state.wait_for(is_told).await.map(|state| state.clone()) {
            Ok(State { until, trouble: Some(trouble) }) if until < reading => Err(trouble),
            _ => Ok(()),
        }
    }

    /// Waits until somebody waits for more than is covered.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

impl std::fmt::Debug for ClockReserve {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClockReserve").field("until", &self.state.borrow().until).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::ErrorKind;

    fn reading(bits: u64) -> Reading {
        Reading::from_bits(bits)
    }

    fn trouble() -> Error {
        Error::new(ErrorKind::Overloaded, "the disk is full")
    }

    /// What a reading comes to if nobody waits.
    fn now(reserve: &ClockReserve, bits: u64) -> Option<Result<(), ErrorKind>> {
        reserve.covers(reading(bits)).now_or_never().map(|covered| covered.map_err(|error| error.kind()))
    }

    #[tokio::test]
    async fn a_reading_beyond_the_reserve_waits_for_the_disk_and_has_it_asked() {
        let reserve = ClockReserve::default();
        assert_eq!(now(&reserve, u64::MAX), Some(Ok(())), "nobody keeps it");
        reserve.begin();
        let mut waits = Box::pin(reserve.covers(reading(8)));
        assert!((&mut waits).now_or_never().is_none());
        assert!(reserve.wanted().now_or_never().is_some());
        reserve.extend(reading(7));
        assert!((&mut waits).now_or_never().is_none());
        reserve.extend(reading(9));
        waits.await.unwrap();
        reserve.extend(reading(7));
        assert_eq!(now(&reserve, 9), Some(Ok(())), "it never shrinks");
        assert_eq!(now(&reserve, 10), None);
    }

    #[test]
    fn a_full_disk_is_told_to_who_needs_more_and_a_broken_one_to_all() {
        let (reserve, told) = (ClockReserve::default(), Some(Err(ErrorKind::Overloaded)));
        reserve.begin();
        reserve.extend(reading(5));
        reserve.delay(trouble());
        assert_eq!((now(&reserve, 5), now(&reserve, 6)), (Some(Ok(())), told));
        reserve.extend(reading(6));
        assert_eq!((now(&reserve, 6), now(&reserve, 7)), (Some(Ok(())), None));
        reserve.end(trouble());
        assert_eq!(now(&reserve, 1), told);
    }
}
