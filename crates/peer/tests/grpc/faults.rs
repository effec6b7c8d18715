//! Connections that break, stall or never come to anything, and links with much to do.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use larder_core::{
    Error, Member, PeerClient, PeerService, Transport, Value, Version,
    peer::{Leave, PeerAnswer, PeerError, PeerGet, PeerQuestion, PeerWrite, Reply, WriteOp},
    testing::peer::{EchoNode, deadline, found, get_leaving, question, write},
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{
    contract::{node, transport},
    proxy::Proxy,
};

/// More than the sockets between two nodes hold.
const LONG: usize = 32 << 20;

fn long_value() -> Vec<u8> {
    (0..32).map(|part| vec![part; LONG / 32]).collect::<Vec<_>>().concat()
}

fn link(address: SocketAddr) -> Arc<dyn PeerClient> {
    transport().link(&Member::new("b", address.to_string())).unwrap()
}

/// Answers `big` with a long value, and everything else with its key.
struct BigNode(Value);

impl PeerService for BigNode {
    fn answer_all(self: Arc<Self>, questions: Vec<PeerQuestion>) -> Vec<Reply> {
        let answer = |question: PeerQuestion| match question.key.as_bytes() {
            b"big" => found(self.0.clone()),
            key => found(key.to_vec()),
        };
        questions.into_iter().map(|question| Reply::Now(Ok(answer(question)))).collect()
    }

    fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
        EchoNode.answer(question)
    }

    /// Takes a value of which every byte is like its first one.
    fn write(&self, write: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
        Box::pin(async move {
            let WriteOp::Put { value, .. } = &write.op else { return Ok(None) };
            assert!(value[..] == vec![value[0]; value.len()]);
            Ok(Some("0193a5c8e00000010000002a".parse().unwrap()))
        })
    }
}

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
    proxy.stall(true);
    let asked = Instant::now();
    let (get, put) = tokio::join!(link.get(question("k")), link.write(write("k", WriteOp::Delete)));
    assert!(matches!(get, Err(PeerError::Unreachable { .. })), "{get:?}");
    assert!(matches!(put, Err(PeerError::Unreachable { sent: true, .. })), "{put:?}");
    assert!(asked.elapsed() < Duration::from_secs(10), "the deadline is 20 s");
    proxy.stall(false);
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
async fn a_long_answer_holds_up_no_short_one() {
    let (address, _node) = node(Arc::new(BigNode(long_value().into()))).await;
    let link = link(address);
    link.probe(deadline()).await.unwrap();
    let big = link.get(PeerGet { value_len_max: LONG, ..question("big") });
    let mut big = std::pin::pin!(big);
    for turn in 0..3 {
        let key = format!("key {turn}");
        tokio::select! {
            biased;
            answer = link.get(question(key.clone())) => assert_eq!(answer.unwrap(), found(key)),
            _ = &mut big => panic!("the long one came first"),
        }
    }
    let Ok(PeerAnswer::Found { value: Some(value), .. }) = big.await else { panic!("a value") };
    assert!(value[..] == long_value());
}

#[tokio::test]
async fn long_and_short_writes_travel_together() {
    let (address, _node) = node(Arc::new(BigNode(long_value().into()))).await;
    let link = link(address);
    let put = |number: usize| {
        let len = if number.is_multiple_of(2) { 5 << 20 } else { 10 };
        let value = Value::new(vec![u8::try_from(number).unwrap(); len]);
        link.write(write("k", WriteOp::Put { value, ttl: None }))
    };
    for outcome in join_all((0..8).map(put)).await {
        assert!(outcome.unwrap().is_some());
    }
}

#[tokio::test]
async fn ten_thousand_callers_are_all_answered() {
    struct Gate(Semaphore, AtomicUsize);
    impl PeerService for Gate {
        fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
            Box::pin(async move {
                self.1.fetch_add(1, Ordering::Relaxed);
                drop(self.0.acquire().await);
                EchoNode.answer(question).await
            })
        }
        fn write(&self, write: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
            EchoNode.write(write)
        }
    }
    let gate = Arc::new(Gate(Semaphore::new(0), AtomicUsize::new(0)));
    let (address, _node) = node(gate.clone()).await;
    let link = link(address);
    let asked = (0..10_000).map(|number| get_leaving(&link, question(format!("key {number}")), Leave::Until));
    let asked: Vec<_> = asked.collect();
    while gate.1.load(Ordering::Relaxed) < 5_000 {
        tokio::task::yield_now().await;
    }
    gate.0.add_permits(10_000);
    for (number, answer) in asked.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap(), found(format!("key {number}")));
    }
}

#[tokio::test]
async fn a_link_that_is_dropped_leaves_nobody_waiting() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let link = link(listener.local_addr().unwrap());
    let answer = get_leaving(&link, question("k"), Leave::Until);
    drop(link);
    assert!(matches!(answer.await, Err(PeerError::Unreachable { sent: false, .. })));
}
