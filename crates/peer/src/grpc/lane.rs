//! [`Lane`]: one connection of a link, the requests on it, and the task that looks after both.
//!
//! Callers put requests into the queue and go. [`Outgoing`] is what HTTP/2 draws frames from: each takes what has queued.
//! The lane's task connects, hands out the answers, ends what is past its deadline and notices when the other node falls
//! silent. There is no task, timer or channel for each request.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use http::Uri;
use larder_core::{Standing, peer::PeerError, stats::Sizes};
use parking_lot::Mutex;
use prost::Message;
use tokio::{
    sync::Notify,
    task::yield_now,
    time::{Instant, sleep_until, timeout},
};

use super::{
    convert,
    dial::{Dialled, dial},
    limits,
    outbox::Outbox,
    pending::{Ask, Pending, Settled, Unanswered, Waiting, overloaded},
    pieces,
    proto::Frame,
};

/// One connection of a link and what belongs to it.
pub(super) struct Lane {
    address: String,
    uri: Uri,
    standing: Arc<Standing>,
    /// How many requests frames carry, of all of the link.
    batch_sizes: Arc<Sizes>,
    state: Mutex<State>,
    /// The sweeper must wake earlier than it meant to.
    rearm: Notify,
    closing: Notify,
    /// How many requests it has, about.
    load: AtomicUsize,
    /// Whether it is left alone after a failure.
    is_down: AtomicBool,
}

struct State {
    pending: Pending,
    pieces: pieces::Outgoing,
    phase: Phase,
    /// Counts the connections: what belongs to an earlier one has no say any more.
    connection: u64,
    /// Of who draws frames, while there is nothing to send.
    outgoing: Option<Waker>,
    /// When the sweeper looks next.
    alarm: Instant,
    /// Failures in a row.
    failures: u32,
    chance: fastrand::Rng,
}

enum Phase {
    /// There is no connection, and none was needed.
    Idle,
    /// No connection can be made, and none is tried until then.
    Down {
        until: Instant,
        reason: String,
    },
    Connecting,
    Up,
    /// The link is gone.
    Closed,
}

/// How a connection ended.
enum End {
    /// It could not be made, or the other node fell silent.
    Failed(Unanswered),
    /// It broke; whether anything was ever heard on it.
    Broke { why: Unanswered, heard: bool },
}

impl Lane {
    pub(super) fn new(
        address: String,
        uri: Uri,
        standing: Arc<Standing>,
        batch_sizes: Arc<Sizes>,
        number: usize,
    ) -> Arc<Self> {
        let mut seed = DefaultHasher::new();
        (standing.name(), standing.incarnation(), &address, number).hash(&mut seed);
        Arc::new(Self {
            address,
            uri,
            standing,
            batch_sizes,
            state: Mutex::new(State {
                pending: Pending::default(),
                pieces: pieces::Outgoing::default(),
                phase: Phase::Idle,
                connection: 0,
                outgoing: None,
                alarm: Instant::now(),
                failures: 0,
                chance: fastrand::Rng::with_seed(seed.finish()),
            }),
            rearm: Notify::new(),
            closing: Notify::new(),
            load: AtomicUsize::new(0),
            is_down: AtomicBool::new(false),
        })
    }

    /// How much it has to do; all there is if it can do nothing.
    pub(super) fn load(&self) -> usize {
        if self.is_down.load(Ordering::Relaxed) { usize::MAX } else { self.load.load(Ordering::Relaxed) }
    }

    /// Queues a request. `None`: it is settled already.
    pub(super) fn push(self: &Arc<Self>, ask: Ask, deadline: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        match &state.phase {
            Phase::Closed => {
                drop(state);
                ask.settled(Err(PeerError::not_sent("the link is closed"))).tell();
                return None;
            }
            Phase::Down { until, reason } if Instant::now() < *until => {
                let error = PeerError::not_sent(reason.as_str());
                drop(state);
                ask.settled(Err(error)).tell();
                return None;
            }
            _ => {}
        }
        if !state.pending.has_room() {
            drop(state);
            ask.settled(Err(overloaded())).tell();
            return None;
        }
        let id = state.pending.push(ask, deadline);
        self.load.fetch_add(1, Ordering::Relaxed);
        let starts = matches!(state.phase, Phase::Idle | Phase::Down { .. });
        if starts {
            state.phase = Phase::Connecting;
            state.alarm = deadline;
        }
        let earlier = deadline < state.alarm;
        if earlier {
            state.alarm = deadline;
        }
        let outgoing = state.outgoing.take();
        drop(state);
        if starts {
            tokio::spawn(run(Running { lane: self.clone(), has_ended: false }));
        } else if earlier {
            self.rearm.notify_one();
        }
        if let Some(outgoing) = outgoing {
            outgoing.wake();
        }
        Some(id)
    }

    /// Forgets a request: who waited for it has gone.
    pub(super) fn give_up(&self, id: u64) {
        let removed = self.state.lock().pending.remove(id);
        if let Some((_waiting, goes_on)) = removed {
            self.load.fetch_sub(1, Ordering::Relaxed);
            self.go_on(goes_on);
        }
    }

    pub(super) fn close(&self) {
        self.closing.notify_one();
        self.end_all(Phase::Closed, &Unanswered::because("the link is closed"));
    }

    fn go_on(&self, goes_on: bool) {
        if goes_on {
            let outgoing = self.state.lock().outgoing.take();
            if let Some(outgoing) = outgoing {
                outgoing.wake();
            }
        }
    }

    /// Lets those go who don't wait any more. What they hold may need this lane's lock.
    fn forget(&self, abandoned: Vec<Waiting>) {
        self.load.fetch_sub(abandoned.len(), Ordering::Relaxed);
        drop(abandoned);
    }

    fn settle(&self, settled: Vec<Settled>) {
        self.load.fetch_sub(settled.len(), Ordering::Relaxed);
        for settled in settled {
            settled.tell();
        }
    }

    /// Answers all that waits, for this reason.
    fn end_all(&self, phase: Phase, why: &Unanswered) {
        let mut settled = Vec::new();
        let mut state = self.state.lock();
        self.is_down.store(matches!(phase, Phase::Down { .. }), Ordering::Relaxed);
        state.phase = phase;
        state.connection += 1;
        state.pieces.clear();
        state.pending.fail_all(why, &mut settled);
        drop(state);
        self.settle(settled);
    }

    /// Connects, and does so again for as long as there is something to send.
    async fn stay_connected(self: &Arc<Self>) {
        loop {
            let end = match timeout(limits::CONNECT_TIMEOUT, self.connect()).await {
                Ok(Ok(dialled)) => self.exchange(dialled).await,
                Ok(Err(reason)) => End::Failed(Unanswered::because(reason)),
                Err(_) => End::Failed(Unanswered::because("it did not say hello in time")),
            };
            if !self.goes_on_after(end) {
                return;
            }
        }
    }

    async fn connect(self: &Arc<Self>) -> Result<Dialled, String> {
        let number = {
            let mut state = self.state.lock();
            state.connection += 1;
            state.connection
        };
        let hello = convert::hello(&self.standing).encode_to_vec().into();
        let outgoing = Outgoing { lane: self.clone(), connection: number, hello: Some(hello) };
        let mut dialled = dial(&self.address, &self.uri, outgoing).await?;
        dialled.hello(&self.standing).await?;
        Ok(dialled)
    }

    /// Lets requests out and hands answers over until the connection ends.
    async fn exchange(&self, mut dialled: Dialled) -> End {
        self.is_down.store(false, Ordering::Relaxed);
        let outgoing = {
            let mut state = self.state.lock();
            state.phase = Phase::Up;
            state.outgoing.take()
        };
        if let Some(outgoing) = outgoing {
            outgoing.wake();
        }
        let (mut heard, mut quiet_ticks, mut handed) = (false, 0, 0);
        let mut tick = std::pin::pin!(sleep_until(Instant::now() + limits::TICK_IDLE));
        loop {
            tokio::select! {
                frame = dialled.frames.message() => {
                    let reason = match frame {
                        Ok(Some(frame)) => match self.take(frame, &mut handed).await {
                            Ok(()) => {
                                (heard, quiet_ticks) = (true, 0);
                                continue;
                            }
                            Err(wrong) => wrong,
                        },
                        Ok(None) => "it ended the exchange".to_owned(),
                        Err(status) => format!("the connection broke: {}", status.message()),
                    };
                    return End::Broke { why: Unanswered::because(reason), heard };
                }
                () = &mut tick => {
                    let waits = !self.state.lock().pending.is_empty();
                    quiet_ticks = if waits { quiet_ticks + 1 } else { 0 };
                    if quiet_ticks == limits::PING_AFTER_TICKS {
                        self.ping();
                    } else if quiet_ticks >= limits::GIVE_UP_AFTER_TICKS {
                        return End::Failed(Unanswered { reason: "it gives no sign of life".to_owned(), silent: true });
                    }
                    let pause = if waits { limits::TICK } else { limits::TICK_IDLE };
                    tick.as_mut().reset(Instant::now() + pause);
                }
            }
        }
    }

    /// Asks for a sign of life on the connection that there is.
    fn ping(&self) {
        let deadline = Instant::now() + limits::TICK * limits::GIVE_UP_AFTER_TICKS;
        let mut state = self.state.lock();
        state.pending.push_ping(deadline);
        self.load.fetch_add(1, Ordering::Relaxed);
        let outgoing = state.outgoing.take();
        drop(state);
        if let Some(outgoing) = outgoing {
            outgoing.wake();
        }
    }

    /// Hands out what came, a few answers at a time: `handed` counts them. Whoever has its answer gets a turn then and asks for
    /// the next thing, which is on its way while the others still hear of theirs: neither node waits for the other to be
    /// through with all.
    async fn take(&self, frame: Frame, handed: &mut usize) -> Result<(), String> {
        // What is answered is not judged by the answering node's view: who waits need not wait for a look at the membership.
        let _can_judge = convert::check_frame(&self.standing, &frame).map_err(|error| error.to_string())?;
        if frame.hello.is_some() || !frame.requests.is_empty() {
            return Err("it sent a frame that only an asker sends".to_owned());
        }
        for answer in frame.answers {
            if *handed >= (self.load() / limits::HANDED_PART).clamp(limits::HANDED_MIN, limits::HANDED_MAX) {
                *handed = 0;
                yield_now().await;
            }
            *handed += 1;
            self.hand_out(|pending| pending.answer(answer))?;
        }
        for chunk in frame.chunks {
            self.hand_out(|pending| pending.chunk(&chunk))?;
        }
        Ok(())
    }

    fn hand_out(
        &self,
        came: impl FnOnce(&mut Pending) -> Result<Option<(Settled, bool)>, &'static str>,
    ) -> Result<(), String> {
        let mut state = self.state.lock();
        let Some((settled, goes_on)) = came(&mut state.pending)? else { return Ok(()) };
        let outgoing = if goes_on { state.outgoing.take() } else { None };
        drop(state);
        if let Some(outgoing) = outgoing {
            outgoing.wake();
        }
        self.load.fetch_sub(1, Ordering::Relaxed);
        settled.tell();
        Ok(())
    }

    /// Whether another connection is to be made right away.
    fn goes_on_after(&self, end: End) -> bool {
        let mut settled = Vec::new();
        let mut state = self.state.lock();
        state.connection += 1;
        state.pieces.clear();
        let why = match end {
            End::Failed(why) => why,
            End::Broke { why, heard } => {
                state.failures = if heard { 0 } else { state.failures + 1 };
                // A connection on which nothing was heard may be one of many. Those are paused between.
                if state.failures < 2 {
                    state.pending.requeue(&why, &mut settled);
                    let goes_on = !state.pending.is_empty();
                    state.phase = if goes_on { Phase::Connecting } else { Phase::Idle };
                    drop(state);
                    tracing::debug!(address = self.address, why.reason, "a connection to another node broke");
                    self.settle(settled);
                    return goes_on;
                }
                why
            }
        };
        state.failures = state.failures.saturating_add(1);
        let pause = back_off(state.failures, &mut state.chance);
        drop(state);
        tracing::debug!(address = self.address, why.reason, "no connection to another node");
        self.end_all(Phase::Down { until: Instant::now() + pause, reason: why.reason.clone() }, &why);
        false
    }

    /// Ends requests whose deadline has passed, for ever.
    async fn sweep(&self) {
        loop {
            let alarm = self.state.lock().alarm;
            tokio::select! {
                () = sleep_until(alarm) => {}
                () = self.rearm.notified() => continue,
            }
            let now = Instant::now();
            let mut settled = Vec::new();
            let outgoing = {
                let mut state = self.state.lock();
                let next = state.pending.expire(now, &mut settled);
                let latest = now + limits::SWEEP_EVERY_MAX;
                state.alarm = next.map_or(latest, |next| next.clamp(now + limits::SWEEP_EVERY_MIN, latest));
                if settled.is_empty() { None } else { state.outgoing.take() }
            };
            if let Some(outgoing) = outgoing {
                outgoing.wake();
            }
            self.settle(settled);
        }
    }
}

fn back_off(failures: u32, chance: &mut fastrand::Rng) -> Duration {
    let full = limits::BACK_OFF_MIN * 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    full.min(limits::BACK_OFF_MAX).mul_f64(0.5 + chance.f64() / 2.0)
}

/// A lane's task. If it is gone before its end, with its runtime or in a panic, it leaves nobody waiting.
struct Running {
    lane: Arc<Lane>,
    has_ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended {
            let why = Unanswered::because("the task that looks after the connection was ended");
            self.lane.end_all(Phase::Idle, &why);
        }
    }
}

async fn run(mut running: Running) {
    let lane = &running.lane;
    tokio::select! {
        () = lane.stay_connected() => {}
        () = lane.sweep() => {}
        () = lane.closing.notified() => {}
    }
    // The lane knows already, and may have another task by now.
    running.has_ended = true;
}

/// What a connection's frames are drawn from.
struct Outgoing {
    lane: Arc<Lane>,
    connection: u64,
    hello: Option<Bytes>,
}

impl Stream for Outgoing {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(hello));
        }
        let (mut requests, mut abandoned) = (Outbox::default(), Vec::new());
        let chunk = {
            let mut guard = self.lane.state.lock();
            let state = &mut *guard;
            if state.connection != self.connection {
                return Poll::Ready(None);
            }
            if matches!(state.phase, Phase::Up) {
                while !requests.is_full() && state.pending.send(&mut requests, &mut abandoned).is_some() {}
                for (id, value) in requests.long.drain(..) {
                    state.pieces.send(id, value);
                }
            }
            let chunk = state.pieces.next(|id| state.pending.is_pending(id));
            if requests.is_empty() && chunk.is_none() {
                state.outgoing = Some(cx.waker().clone());
                drop(guard);
                self.lane.forget(abandoned);
                return Poll::Pending;
            }
            chunk
        };
        self.lane.forget(abandoned);
        let mut frame = convert::frame(&self.lane.standing);
        frame.chunks.extend(chunk);
        if !requests.is_empty() {
            self.lane.batch_sizes.observe(requests.count());
        }
        Poll::Ready(Some(requests.into_message(frame)))
    }
}
