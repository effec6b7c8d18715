//! Connections that break, stall or never come to anything.

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
    peer::{Leave, PeerAnswer, PeerError, PeerQuestion, PeerWrite, WriteOp},
    testing::peer::{EchoNode, found, get_leaving, question, write},
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{
    node::{link, node},
    proxy::{Mode, Proxy},
};

#[tokio::test]
async fn cut_under_load_each_gets_its_own_answer_or_an_error() {
    let (address, _node) = node(Arc::new(EchoNode)).await;
    let proxy = Proxy::before(address).await;
    let link = link(proxy.address);
    let (asked, answered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let progress = Semaphore::new(0);
    let callers = join_all((0..64).map(|caller| {
        let (link, asked, answered, progress) = (&link, &asked, &answered, &progress);
        async move {
            for turn in 0..50 {
                let key = format!("key {caller} {turn}");
                asked.fetch_add(1, Ordering::Relaxed);
                match link.get(question(key.clone())).await {
                    Ok(answer) => {
                        assert_eq!(answer, found(key));
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(PeerError::Unreachable { .. }) => {}
                    Err(other) => panic!("{other:?}"),
                }
                progress.add_permits(1);
            }
        }
    }));
    let cutter = async {
        for _ in 0..10 {
            progress.acquire_many(200).await.unwrap().forget();
            proxy.cut().await;
        }
    };
    timeout(Duration::from_secs(30), async { tokio::join!(callers, cutter) }).await.unwrap();
    assert_eq!(asked.into_inner(), 64 * 50);
    let answered = answered.into_inner();
    assert!(answered > 64 * 45, "{answered}: what was asked when one broke is repeated on the next");
    let again = async {
        while link.get(question("k")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(2), again).await.expect("the link heals by itself");
}

#[tokio::test]
async fn a_node_that_falls_silent_is_given_up_before_the_deadline() {
    let (address, _node) = node(Arc::new(EchoNode)).await;
    let proxy = Proxy::before(address).await;
    let link = link(proxy.address);
    link.get(question("k")).await.unwrap();
    proxy.set(Mode::Stall);
    let asked = Instant::now();
    let (get, put) = tokio::join!(link.get(question("k")), link.write(write("k", WriteOp::Delete)));
    assert!(matches!(get, Err(PeerError::Unreachable { .. })), "{get:?}");
    assert!(matches!(put, Err(PeerError::Unreachable { sent: true, .. })), "{put:?}");
    assert!(asked.elapsed() < Duration::from_secs(10), "the deadline is 20 s");
    proxy.set(Mode::Pass);
}

#[tokio::test]
async fn one_that_answers_slowly_is_not_silent() {
    struct Slow;
    impl PeerService for Slow {
        fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(2_500)).await;
                EchoNode.answer(question).await
            })
        }
        fn write(&self, write: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
            EchoNode.write(write)
        }
    }
    let (address, _node) = node(Arc::new(Slow)).await;
    assert_eq!(link(address).get(question("k")).await.unwrap(), found("k"));
}

#[tokio::test]
async fn one_that_accepts_and_says_nothing_was_sent_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    let link = link(address);
    let mut brief = question("k");
    brief.deadline = Instant::now() + Duration::from_millis(50);
    let mut put = write("k", WriteOp::Delete);
    put.deadline = brief.deadline;
    let (brief, long, put) = tokio::join!(link.get(brief), link.get(question("k")), link.write(put));
    assert!(matches!(brief, Err(PeerError::TimedOut)), "{brief:?}");
    assert!(matches!(long, Err(PeerError::Unreachable { sent: false, .. })), "{long:?}");
    assert!(matches!(put, Err(PeerError::Unreachable { sent: false, .. })), "{put:?}");
}

#[tokio::test]
async fn a_link_that_is_dropped_leaves_nobody_waiting() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let link = link(listener.local_addr().unwrap());
    let answer = get_leaving(&link, question("k"), Leave::Until);
    drop(link);
    assert!(matches!(answer.await, Err(PeerError::Unreachable { sent: false, .. })));
}
