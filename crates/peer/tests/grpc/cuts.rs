//! A connection that breaks under load, in each way that connections break.
//!
//! Whatever breaks, each request ends by its deadline with its own answer or an error, a write is done once at most, and
//! the link heals by itself.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use futures_util::future::BoxFuture;
use larder_core::{
    Error, Key, PeerClient, PeerService, Value, Version,
    peer::{PeerAnswer, PeerError, PeerGet, PeerQuestion, PeerWrite, WriteOp},
    testing::peer::{found, question, write},
};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    node::{link, node, node_on},
    proxy::{Mode, Proxy},
};

const CALLERS: u64 = 48;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How late a caller may learn of its deadline on a machine that does much else.
const LATE_MAX: Duration = Duration::from_secs(1);

/// How long a test waits for what ought to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a request takes at most that finds out whether a link works again.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);

/// How soon a link is to work again after what broke it is over.
const HEALED_WITHIN: Duration = Duration::from_secs(2);

/// How often a fault comes and goes whose requests end at once.
const ROUNDS: usize = 3;

/// Long enough for the longest pause between two attempts to connect.
const OUTAGE: Duration = Duration::from_millis(1_500);

/// How many requests see a fault, of those that end quickly.
const ENDED_EACH: u32 = 150;

/// A long value: it travels in chunks.
const LONG: usize = 600 * 1024;

/// The value of a key: its own name, over and over.
fn value_of(key: &[u8]) -> Value {
    if !key.starts_with(b"long") {
        return Value::new(Bytes::copy_from_slice(key));
    }
    let mut value = key.repeat(LONG.div_ceil(key.len()));
    value.truncate(LONG);
    Value::new(value)
}

/// A node that knows each key's value, and how often each key was written.
#[derive(Default)]
struct Ledger(Mutex<HashMap<Bytes, usize>>);

impl PeerService for Ledger {
    fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
        Box::pin(async move {
            if question.key.as_bytes().starts_with(b"slow") {
                sleep(Duration::from_millis(20)).await;
            }
            Ok(found(value_of(question.key.as_bytes())))
        })
    }

    fn write(&self, write: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
        Box::pin(async move {
            if let WriteOp::Put { value, .. } = &write.op {
                assert!(*value == value_of(write.key.as_bytes()), "a value arrived under another's key");
            }
            *self.0.lock().entry(write.key.to_bytes()).or_default() += 1;
            Ok(Some("0193a5c8e00000010000002a".parse().unwrap()))
        })
    }
}

impl Ledger {
    fn times(&self, key: &[u8]) -> usize {
        self.0.lock().get(key).copied().unwrap_or_default()
    }
}

/// Callers who go on until they are told to stop.
struct Load {
    link: Arc<dyn PeerClient>,
    ledger: Arc<Ledger>,
    /// A permit for each request that has ended.
    ended: Semaphore,
    failed: Semaphore,
    stops: AtomicBool,
}

impl Load {
    fn start(link: Arc<dyn PeerClient>, ledger: Arc<Ledger>) -> (Arc<Self>, JoinSet<()>) {
        let (ended, failed) = (Semaphore::new(0), Semaphore::new(0));
        let load = Arc::new(Self { link, ledger, ended, failed, stops: AtomicBool::new(false) });
        let callers = (0..CALLERS).map(|caller| load.clone().call(caller)).collect();
        (load, callers)
    }

    async fn call(self: Arc<Self>, caller: u64) {
        let mut chance = Rng::with_seed(caller);
        for turn in 0.. {
            if self.stops.load(Ordering::Relaxed) {
                return;
            }
            let kind = match chance.u8(..100) {
                0..4 => "long",
                4..14 => "slow",
                _ => "key",
            };
            let key = Key::new(format!("{kind} {caller} {turn}")).unwrap();
            let deadline = Instant::now() + TIMEOUT;
            let went_well = match chance.u8(..4) {
                0 => self.write(key, deadline, chance.bool()).await,
                _ => self.get(key, deadline).await,
            };
            let late = Instant::now().saturating_duration_since(deadline);
            assert!(late < LATE_MAX, "a caller heard {late:?} after its deadline");
            self.ended.add_permits(1);
            if !went_well {
                self.failed.add_permits(1);
                // A link that is down answers at once.
                sleep(Duration::from_millis(10)).await;
            }
        }
    }

    async fn get(&self, key: Key, deadline: Instant) -> bool {
        match self.link.get(PeerGet { deadline, ..question(key.to_bytes()) }).await {
            Ok(answer) => assert!(answer == found(value_of(key.as_bytes())), "{key:?} was answered {answer:?}"),
            Err(PeerError::Unreachable { .. } | PeerError::TimedOut) => return false,
            Err(PeerError::Answered(error)) => panic!("{error}"),
        }
        true
    }

    async fn write(&self, key: Key, deadline: Instant, deletes: bool) -> bool {
        let put = WriteOp::Put { value: value_of(key.as_bytes()), ttl: None };
        let op = if deletes { WriteOp::Delete } else { put };
        let outcome = self.link.write(PeerWrite { key: key.clone(), deadline, ..write("k", op) }).await;
        let times = self.ledger.times(key.as_bytes());
        match &outcome {
            Ok(_) => assert_eq!(times, 1),
            Err(PeerError::Unreachable { sent: false, .. }) => assert_eq!(times, 0),
            Err(PeerError::Unreachable { sent: true, .. } | PeerError::TimedOut) => assert!(times <= 1),
            Err(PeerError::Answered(error)) => panic!("{error}"),
        }
        outcome.is_ok()
    }

    /// Waits until so many requests more have ended.
    async fn goes_on(&self, more: u32) {
        self.ended.forget_permits(usize::MAX);
        let ended = timeout(PATIENCE, self.ended.acquire_many(more)).await;
        ended.expect("requests end").unwrap().forget();
    }

    /// Waits until a request is answered.
    async fn heals(&self) {
        let healed = async {
            while !self.get(Key::new("probe").unwrap(), Instant::now() + PROBE_TIMEOUT).await {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(HEALED_WITHIN, healed).await.expect("the link heals by itself");
    }

    /// Ends it, and judges what became of the writes.
    async fn stop(self: Arc<Self>, callers: JoinSet<()>) {
        self.stops.store(true, Ordering::Relaxed);
        timeout(PATIENCE, callers.join_all()).await.expect("every caller ends");
        assert!(self.ledger.0.lock().values().all(|times| *times == 1), "no write is done twice");
    }
}

/// Load through a proxy that does this and then passes everything again, so many times. Gives how many requests failed.
async fn under(fault: Mode, times: usize) -> usize {
    let ledger = Arc::new(Ledger::default());
    let (address, _node) = node(ledger.clone()).await;
    let proxy = Proxy::before(address).await;
    let (load, callers) = Load::start(link(proxy.address), ledger);
    for _ in 0..times {
        load.goes_on(ENDED_EACH).await;
        proxy.set(fault);
        load.goes_on(ENDED_EACH).await;
        proxy.set(Mode::Pass);
        load.heals().await;
    }
    load.clone().stop(callers).await;
    load.failed.available_permits()
}

#[tokio::test]
async fn resets_under_load_cost_no_more_than_what_they_cut_off() {
    assert!(under(Mode::Reset(100_000), ROUNDS).await > 0);
}

#[tokio::test]
async fn what_is_cut_off_in_the_middle_is_not_taken_for_whole() {
    assert!(under(Mode::Truncate(100_000), ROUNDS).await > 0);
}

#[tokio::test]
async fn a_link_that_stalls_under_load_keeps_nobody_past_the_deadline() {
    assert!(under(Mode::Stall, 1).await > 0);
}

/// As when a firewall forgets its connections.
#[tokio::test]
async fn a_link_that_swallows_what_it_is_given_is_replaced() {
    assert!(under(Mode::Swallow, 1).await > 0);
}

#[tokio::test]
async fn a_slow_link_answers_everybody() {
    assert_eq!(under(Mode::Delay(Duration::from_millis(20)), 1).await, 0);
}

#[tokio::test]
async fn a_node_that_is_gone_and_comes_back_is_found_again() {
    let ledger = Arc::new(Ledger::default());
    let (address, running) = node(ledger.clone()).await;
    let (load, callers) = Load::start(link(address), ledger.clone());
    load.goes_on(ENDED_EACH).await;
    running.abort();
    load.goes_on(ENDED_EACH).await;
    sleep(OUTAGE).await;
    let listener = TcpListener::bind(address).await.unwrap();
    let (_, _running) = node_on(listener, ledger);
    load.heals().await;
    load.clone().stop(callers).await;
    assert!(load.failed.available_permits() > 0);
}

/// Where a port is held by something else, or by a node that hangs before it has begun.
#[tokio::test]
async fn a_node_that_accepts_and_says_nothing_is_found_again_when_it_does() {
    let ledger = Arc::new(Ledger::default());
    let (address, _node) = node(ledger.clone()).await;
    let proxy = Proxy::before(address).await;
    proxy.set(Mode::Stall);
    let (load, callers) = Load::start(link(proxy.address), ledger);
    load.goes_on(ENDED_EACH).await;
    proxy.set(Mode::Pass);
    load.heals().await;
    load.clone().stop(callers).await;
}
