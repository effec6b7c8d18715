//! Values too long to travel in one piece.

use std::sync::Arc;

use crate::{
    node::{WALL_MS, link, node},
    raw::{Raw, RawNode, connect, hello},
};
use futures_util::future::{BoxFuture, join_all};
use larder_core::{
    Error, PeerService, Value, Version,
    peer::{PeerAnswer, PeerGet, PeerQuestion, PeerWrite, Reply, WriteOp},
    testing::peer::{EchoNode, deadline, found, question, write},
};
use larder_peer::grpc::{
    limits::CHUNK_LEN,
    proto::{self, Frame, Request, answer::Outcome, request::Op},
};
use prost::Message;

/// More than the sockets between two nodes hold.
const LONG: usize = 32 << 20;

fn long_value() -> Vec<u8> {
    (0..32).map(|part| vec![part; LONG / 32]).collect::<Vec<_>>().concat()
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

/// How many bytes of a long value the other may send ahead of what was read.
const SMALL_WINDOW: u32 = 64 * 1024;

/// How much of a long value may come before something short that was asked for in its midst: what is in the window and in
/// HTTP/2's buffer already, and a piece.
const AHEAD_MAX: usize = 1024 * 1024;

const EIGHT_MIB: usize = 8 << 20;

fn short(id: u64) -> Vec<u8> {
    let op = Op::Get(proto::Get { value_len_max: EIGHT_MIB as u64, ..proto::Get::default() });
    let key = if id == 0 { "big".into() } else { format!("key {id}").into() };
    let request = Request { id, group: 0, key, left_ms: 60_000, op: Some(op), ..Request::default() };
    Frame { groups: vec!["g".into()], requests: vec![request], ..Frame::default() }.encode_to_vec()
}

fn len(frame: &Frame) -> usize {
    assert!(frame.chunks.iter().all(|chunk| chunk.data.len() <= CHUNK_LEN));
    frame.chunks.iter().map(|chunk| chunk.data.len()).sum()
}

#[tokio::test]
async fn a_short_answer_waits_for_little_of_a_long_one() {
    let (address, _node) = node(Arc::new(BigNode(vec![7; EIGHT_MIB].into()))).await;
    let mut raw = Raw::begin_over(connect(address).await, &hello(WALL_MS).encode_to_vec(), SMALL_WINDOW).await.unwrap();
    raw.hears_hello().await;
    raw.send(&short(0));
    let (mut total, mut ahead, mut asked) = (0, 0, 0);
    while total < EIGHT_MIB {
        let frame = raw.frame().await;
        total += len(&frame);
        ahead += len(&frame);
        for answer in &frame.answers {
            if answer.id > 0 {
                assert!(matches!(&answer.outcome, Some(Outcome::Found(found)) if found.value.is_some()));
                assert!(ahead <= AHEAD_MAX, "{ahead} bytes came before a short answer");
            }
        }
        // Another is asked for as soon as the last is answered, and the long value is under way.
        if asked == 0 || frame.answers.iter().any(|answer| answer.id == asked) {
            (asked, ahead) = (asked + 1, 0);
            raw.send(&short(asked));
        }
    }
    assert!(asked > 5, "{asked}");
}

#[tokio::test]
async fn a_short_question_waits_for_little_of_a_long_write() {
    let mut other = RawNode::with_window(SMALL_WINDOW).await;
    let link = link(other.address);
    let put = WriteOp::Put { value: vec![7; EIGHT_MIB].into(), ttl: None };
    let (write, get) = (link.write(write("big", put)), async {
        let mut raw = other.greet().await;
        let (mut total, mut ahead, mut asked) = (0, 0, Vec::new());
        let ask = |number: usize| {
            let link = link.clone();
            tokio::spawn(async move { link.get(question(format!("key {number}"))).await })
        };
        while total < EIGHT_MIB {
            let frame = raw.frame().await;
            total += len(&frame);
            ahead += len(&frame);
            let is_short = |request: &Request| matches!(request.op, Some(Op::Get(_)));
            if asked.is_empty() || frame.requests.iter().any(is_short) {
                assert!(ahead <= AHEAD_MAX, "{ahead} bytes came before a short question");
                asked.push(ask(asked.len()));
                ahead = 0;
            }
        }
        assert!(asked.len() > 5, "{}", asked.len());
        raw.break_off();
    });
    let (outcome, ()) = tokio::join!(write, get);
    assert!(outcome.is_err(), "it was not answered");
}
