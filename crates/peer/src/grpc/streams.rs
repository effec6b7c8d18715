//! [`Streams`]: what is under way on one connection, and when to close it.
//!
//! A connection may carry a node's exchange, a client's calls, or both. It is closed when nothing was asked on it in time,
//! when it has been idle for long, and when its exchange has ended; it is cut when a call lasts longer than any may,
//! because its client reads no answer.
//!
//! It knows no sockets: it is told what begins and ends.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use slab::Slab;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::limits;

/// What is under way on a connection.
pub(super) struct Streams {
    state: watch::Sender<State>,
    has_exchange: AtomicBool,
}

struct State {
    /// When each of the open calls must have ended.
    calls: Slab<Instant>,
    /// How many streams are open that may last.
    lasting: usize,
    /// Since when none is open, if none is.
    idle_since: Instant,
    has_begun: bool,
    /// Nothing more is to be asked on it.
    is_over: bool,
}

impl State {
    fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.lasting == 0
    }
}

/// A stream that is open for as long as this lives.
pub(super) struct Open {
    streams: Arc<Streams>,
    kind: Kind,
}

enum Kind {
    /// It ends soon. Its place among the calls.
    Call(usize),
    Watch,
    Exchange,
}

/// Why a connection is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// In good order: what is open may be finished.
    Close,
    /// At once.
    Cut,
}

impl Streams {
    pub(super) fn new() -> Arc<Self> {
        let (calls, idle_since) = (Slab::new(), Instant::now());
        let state = State { calls, lasting: 0, idle_since, has_begun: false, is_over: false };
        Arc::new(Self { state: watch::Sender::new(state), has_exchange: AtomicBool::new(false) })
    }

    /// The exchange begins. `None`: there has been one.
    pub(super) fn exchange(self: &Arc<Self>) -> Option<Open> {
        let is_first = !self.has_exchange.swap(true, Ordering::Relaxed);
        is_first.then(|| self.lasting(Kind::Exchange))
    }

    /// A stream begins that lasts for as long as its client likes.
    pub(super) fn watch(self: &Arc<Self>) -> Open {
        self.lasting(Kind::Watch)
    }

    fn lasting(self: &Arc<Self>, kind: Kind) -> Open {
        self.state.send_modify(|state| {
            state.lasting += 1;
            state.has_begun = true;
        });
        Open { streams: self.clone(), kind }
    }

    /// A call begins, which must have ended in [`limits::CALL_TIME_MAX`].
    pub(super) fn call(self: &Arc<Self>) -> Open {
        let mut place = 0;
        self.state.send_if_modified(|state| {
            place = state.calls.insert(Instant::now() + limits::CALL_TIME_MAX);
            state.has_begun = true;
            // Of one more among several nobody needs to know: it ends later.
            state.calls.len() == 1
        });
        Open { streams: self.clone(), kind: Kind::Call(place) }
    }

    /// Has the connection closed once what is open has ended.
    pub(super) fn turn_away(&self) {
        self.state.send_modify(|state| state.is_over = true);
    }

    /// Ready when the connection is to end.
    pub(super) async fn end(&self) -> End {
        let mut state = self.state.subscribe();
        loop {
            let (until, end) = {
                let state = state.borrow_and_update();
                if state.is_over {
                    return End::Close;
                }
                if state.is_idle() {
                    let patience = if state.has_begun { limits::IDLE_TIMEOUT } else { limits::FIRST_STREAM_TIMEOUT };
                    (Some(state.idle_since + patience), End::Close)
                } else {
                    (state.calls.iter().map(|(_, ends_by)| *ends_by).min(), End::Cut)
                }
            };
            let passes = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // The sender is this one's.
                _ = state.changed() => {}
                // The call in question may have ended without a word, as others go on.
                () = passes => if self.is_due(end) { return end },
            }
        }
    }

    fn is_due(&self, end: End) -> bool {
        let (state, now) = (self.state.borrow(), Instant::now());
        match end {
            End::Close => state.is_idle(),
            End::Cut => state.calls.iter().any(|(_, ends_by)| *ends_by <= now),
        }
    }

    /// Ready when what is open has ended, or should have, and its connection has had the time to close.
    pub(super) async fn closed(&self) {
        let mut state = self.state.subscribe();
        // Whatever is open and may last ends of itself when the node goes.
        let latest = Instant::now() + limits::CALL_TIME_MAX;
        drop(timeout_at(latest, state.wait_for(State::is_idle)).await);
        sleep(limits::CLOSE_TIMEOUT).await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.streams.state.send_if_modified(|state| {
            match self.kind {
                Kind::Call(place) => {
                    state.calls.remove(place);
                }
                Kind::Watch => state.lasting -= 1,
                Kind::Exchange => {
                    state.lasting -= 1;
                    state.is_over = true;
                }
            }
            if state.is_idle() {
                state.idle_since = Instant::now();
            }
            state.is_idle() || state.is_over
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    async fn ends_within(streams: &Streams, time: std::time::Duration) -> Option<End> {
        tokio::time::timeout(time, streams.end()).await.ok()
    }

    const MOMENT: std::time::Duration = std::time::Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_is_asked_is_closed_soon() {
        let streams = Streams::new();
        assert_eq!(ends_within(&streams, limits::FIRST_STREAM_TIMEOUT - MOMENT).await, None);
        assert_eq!(ends_within(&streams, 2 * MOMENT).await, Some(End::Close));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_used_may_rest_for_longer() {
        let streams = Streams::new();
        drop(streams.call());
        advance(limits::IDLE_TIMEOUT - MOMENT).await;
        drop(streams.call());
        assert_eq!(ends_within(&streams, limits::IDLE_TIMEOUT - MOMENT).await, None);
        assert_eq!(ends_within(&streams, 2 * MOMENT).await, Some(End::Close));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_lasts_longer_than_any_may_has_the_connection_cut() {
        let streams = Streams::new();
        let ended = streams.call();
        let _watch = streams.watch();
        advance(MOMENT).await;
        let _stuck = streams.call();
        drop(ended);
        assert_eq!(ends_within(&streams, limits::CALL_TIME_MAX - MOMENT).await, None);
        assert_eq!(ends_within(&streams, 2 * MOMENT).await, Some(End::Cut));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_turned_away_is_closed() {
        let streams = Streams::new();
        let _watch = streams.watch();
        streams.turn_away();
        assert_eq!(ends_within(&streams, MOMENT).await, Some(End::Close));
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_last_does() {
        let streams = Streams::new();
        let _exchange = streams.exchange().unwrap();
        let _watch = streams.watch();
        assert_eq!(ends_within(&streams, 10 * limits::CALL_TIME_MAX + limits::IDLE_TIMEOUT).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_exchange_takes_its_connection_along_and_lets_calls_finish() {
        let streams = Streams::new();
        let exchange = streams.exchange().unwrap();
        assert!(streams.exchange().is_none(), "one is all");
        let call = streams.call();
        drop(exchange);
        assert_eq!(ends_within(&streams, MOMENT).await, Some(End::Close));
        let mut closed = std::pin::pin!(streams.closed());
        assert!(tokio::time::timeout(10 * limits::CLOSE_TIMEOUT, &mut closed).await.is_err());
        drop(call);
        closed.await;
    }

    #[tokio::test(start_paused = true)]
    async fn closing_does_not_wait_for_ever() {
        let streams = Streams::new();
        let _stuck = streams.watch();
        let begun = Instant::now();
        streams.closed().await;
        assert_eq!(begun.elapsed(), limits::CALL_TIME_MAX + limits::CLOSE_TIMEOUT);
    }
}
