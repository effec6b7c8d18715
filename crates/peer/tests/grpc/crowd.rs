//! Ten thousand callers on one link.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use larder_core::{
    Error, PeerService, Version,
    peer::{Leave, PeerAnswer, PeerError, PeerGet, PeerQuestion, PeerWrite},
    testing::peer::{EchoNode, found, get_leaving, question},
};
use larder_peer::grpc::limits;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::node::{link, node};

const CALLERS: usize = 10_000;

/// What sets apart when a timer is due and when it fires.
const TIMER_GRAIN: Duration = Duration::from_millis(2);

/// A node of one kind of answer, given for every question.
struct Answers<F>(F);

impl<F> PeerService for Answers<F>
where
    F: Fn(PeerQuestion) -> BoxFuture<'static, Result<PeerAnswer, Error>> + Send + Sync + 'static,
{
    fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
        (self.0)(question)
    }

    fn write(&self, write: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
        EchoNode.write(write)
    }
}

#[tokio::test]
async fn ten_thousand_callers_are_all_answered() {
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opens, asks) = (gate.clone(), asked.clone());
    let service = Answers(move |question: PeerQuestion| -> BoxFuture<'static, _> {
        let (gate, asked) = (gate.clone(), asked.clone());
        Box::pin(async move {
            asked.fetch_add(1, Ordering::Relaxed);
            drop(gate.acquire().await);
            Ok(found(question.key.to_bytes()))
        })
    });
    let (address, _node) = node(Arc::new(service)).await;
    let link = link(address);
    let ask = |number| get_leaving(&link, question(format!("key {number}")), Leave::Until);
    let answers: Vec<_> = (0..CALLERS).map(ask).collect();
    while asks.load(Ordering::Relaxed) < CALLERS / 2 {
        tokio::task::yield_now().await;
    }
    opens.add_permits(CALLERS);
    for (number, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap(), found(format!("key {number}")));
    }
}

/// Each asks again as soon as it is answered. Whoever is served first must not be served at the others' cost.
#[tokio::test]
async fn of_ten_thousand_callers_none_starves() {
    const ROUNDS: usize = 6;
    let (address, _node) = node(Arc::new(EchoNode)).await;
    let link = link(address);
    let answered: Arc<[AtomicUsize]> = (0..CALLERS).map(|_| AtomicUsize::new(0)).collect();
    let callers = (0..CALLERS).map(|caller| {
        let (link, answered) = (link.clone(), answered.clone());
        async move {
            for round in 0..ROUNDS {
                let key = format!("key {caller} {round}");
                let deadline = Instant::now() + limits::DEADLINE_MAX;
                while let Err(error) = link.get(PeerGet { deadline, ..question(key.clone()) }).await {
                    // A machine with much to do may take longer than a connection may.
                    assert!(matches!(error, PeerError::Unreachable { .. }), "{error:?}");
                    sleep(limits::BACK_OFF_MIN).await;
                }
                answered[caller].fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut callers: JoinSet<()> = callers.collect();
    callers.join_next().await.unwrap().unwrap();
    // How far the last caller is when the first is done.
    let last = answered.iter().map(|count| count.load(Ordering::Relaxed)).min().unwrap();
    println!("the first caller had {ROUNDS} answers when the last had {last}");
    assert!(last >= 1);
    callers.join_all().await;
}

/// Some are answered late, some never.
#[tokio::test(start_paused = true)]
async fn of_ten_thousand_callers_nobody_waits_past_the_deadline() {
    let start = Instant::now();
    let service = Answers(|question: PeerQuestion| -> BoxFuture<'static, _> {
        Box::pin(async move {
            let number: u64 = str::from_utf8(question.key.as_bytes()).unwrap().parse().unwrap();
            match number % 3 {
                0 => sleep_until(question.deadline - Duration::from_millis(number % 50)).await,
                1 => std::future::pending().await,
                _ => {}
            }
            Ok(found(question.key.to_bytes()))
        })
    });
    let (address, _node) = node(Arc::new(service)).await;
    let link = link(address);
    let outcomes = join_all((0..CALLERS).map(|number| {
        let link = &link;
        async move {
            let key = number.to_string();
            let deadline = start + Duration::from_millis(20 + number as u64 * 7 % 3_000);
            let outcome = link.get(PeerGet { deadline, ..question(key.clone()) }).await;
            let late = Instant::now().saturating_duration_since(deadline);
            assert!(late <= limits::SWEEP_EVERY_MIN + TIMER_GRAIN, "{key} heard {late:?} after its deadline");
            match &outcome {
                Ok(answer) => assert_eq!(*answer, found(key)),
                Err(error) => assert!(!matches!(error, PeerError::Answered(_)), "{error:?}"),
            }
            outcome.is_ok()
        }
    }))
    .await;
    let answered = outcomes.iter().filter(|answered| **answered).count();
    println!("{answered} of {CALLERS} were answered");
    assert!(answered > 0);
}
