//! What a crowd costs in memory, and what those can make a node keep who mean it harm.
//!
//! Both ends of the link are in this process, and count.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use larder_core::{
    Error, ErrorKind, PeerService, Version,
    claim::{SlotCall, SlotRequest},
    peer::{Leave, PeerAnswer, PeerError, PeerGet, PeerQuestion, PeerWrite, WriteOp},
    testing::peer::{deadline, found, get_leaving, question, write},
};
use larder_peer::grpc::{
    limits,
    proto::{self, Answer, Chunk, Frame, Request, answer::Outcome, request::Op},
};
use prost::Message;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    ALLOCATOR,
    node::{link, node},
    raw::{self, Raw, RawNode, framed},
    run::alone,
};

const MIB: usize = 1 << 20;

/// How long what is sent may take to have its effect.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a link and a connection keep whatever happens: buffers, tasks, HTTP/2's own.
const FIXED: usize = 4 * MIB;

/// What is allocated from here on.
struct Gauge(usize);

impl Gauge {
    fn start() -> Self {
        ALLOCATOR.reset_peak_usage();
        Self(ALLOCATOR.current_usage())
    }

    /// The most at any moment.
    fn most(&self) -> usize {
        ALLOCATOR.peak_usage() - self.0
    }

    #[track_caller]
    fn stays_below(&self, bytes: usize) {
        println!("{} KiB of {} KiB", self.most() / 1024, bytes / 1024);
        assert!(self.most() < bytes, "{} bytes are more than {bytes}", self.most());
    }
}

/// Answers and writes nothing before it is let, and then one after the other. A key begins with the length of its value.
struct Slow(Semaphore);

impl Slow {
    fn new() -> Arc<Self> {
        Arc::new(Self(Semaphore::new(0)))
    }
}

impl PeerService for Slow {
    fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
        Box::pin(async move {
            let len = str::from_utf8(question.key.as_bytes()).unwrap().split(' ').next().unwrap().parse().unwrap();
            let _one = self.0.acquire().await;
            tokio::task::yield_now().await;
            Ok(found(vec![0; len]))
        })
    }

    fn write(&self, write: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
        Box::pin(async move {
            let _one = self.0.acquire().await;
            drop(write);
            Ok(None)
        })
    }
}

fn frame(requests: Vec<Request>) -> Frame {
    Frame { groups: vec!["g".into()], requests, ..Frame::default() }
}

fn request(id: u64, key: impl Into<Bytes>, op: Op) -> Request {
    Request { id, group: 0, key: key.into(), left_ms: 60_000, op: Some(op), ..Request::default() }
}

fn get() -> Op {
    Op::Get(proto::Get { value_len_max: u64::MAX, ..proto::Get::default() })
}

fn chunked(len: u64) -> Op {
    Op::Put(proto::Put { chunked_len: len, ..proto::Put::default() })
}

/// What comes back until the ping of this id is answered.
async fn until_pong(raw: &mut Raw, id: u64) -> Vec<Answer> {
    raw.send(&frame(vec![Request { id, op: Some(Op::Ping(proto::Ping {})), ..Request::default() }]).encode_to_vec());
    let mut answers = Vec::new();
    let pong = async {
        loop {
            for answer in raw.frame().await.answers {
                if answer.id == id {
                    return;
                }
                answers.push(answer);
            }
        }
    };
    timeout(PATIENCE, pong).await.unwrap();
    answers
}

fn count(answers: &[Answer], slug: &str) -> usize {
    let failed = |answer: &&Answer| matches!(&answer.outcome, Some(Outcome::Failed(failed)) if failed.slug == slug);
    answers.iter().filter(failed).count()
}

#[tokio::test]
async fn ten_thousand_callers_cost_little_each() {
    const CALLERS: usize = 10_000;
    /// At both ends, with the caller's own.
    const EACH: usize = 4 * 1024;
    let _alone = alone().await;
    let gauge = Gauge::start();
    let slow = Slow::new();
    let (address, _node) = node(slow.clone()).await;
    let link = link(address);
    let ask = |number| get_leaving(&link, question(format!("100 {number}")), Leave::Until);
    for _ in 0..2 {
        let answers: Vec<_> = (0..CALLERS).map(ask).collect();
        tokio::task::yield_now().await;
        slow.0.add_permits(CALLERS);
        assert!(join_all(answers).await.iter().all(Result::is_ok));
    }
    gauge.stays_below(CALLERS * EACH + FIXED);
}

#[tokio::test]
async fn writes_that_are_announced_and_never_come_cost_little() {
    let _alone = alone().await;
    let (address, _node) = node(Slow::new()).await;
    let mut raw = Raw::hello(address).await;
    let gauge = Gauge::start();
    raw.send(&frame((0..100).map(|id| request(id, "k", chunked(64 << 20))).collect()).encode_to_vec());
    assert_eq!(count(&until_pong(&mut raw, u64::MAX).await, "overloaded"), 99);
    let mut raw = Raw::hello(address).await;
    let mut refused = 0;
    for part in 0..2 {
        let requests = (0..10_000).map(|id| request(part * 10_000 + id, "k", chunked(1)));
        raw.send(&frame(requests.collect()).encode_to_vec());
        refused += count(&until_pong(&mut raw, u64::MAX).await, "overloaded");
    }
    assert_eq!(refused, 20_000 - limits::PARTIAL_COUNT_MAX);
    gauge.stays_below(16 * MIB);
}

#[tokio::test]
async fn an_asker_that_does_not_read_is_not_read_from() {
    let _alone = alone().await;
    let slow = Slow::new();
    slow.0.add_permits(1);
    let (address, _node) = node(slow).await;
    let raw = Raw::hello(address).await;
    let gauge = Gauge::start();
    raw.send(&frame((0..1_000).map(|id| request(id, format!("{MIB} {id}"), get())).collect()).encode_to_vec());
    // Another one is served meanwhile, and when that has been so for long, all has happened that will.
    let other = link(address);
    for number in 0..200 {
        other.get(question(format!("100 {number}"))).await.unwrap();
    }
    gauge.stays_below(2 * limits::READY_LEN_MAX + raw::WIDE as usize + 16 * MIB);
}

#[tokio::test]
async fn what_takes_long_is_limited_and_keeps_no_more_than_it_needs() {
    const FRAMES: u64 = 64;
    let _alone = alone().await;
    let (address, _node) = node(Slow::new()).await;
    let mut raw = Raw::hello(address).await;
    let gauge = Gauge::start();
    let requests = (0..10_000).map(|id| request(id, format!("100 {id}"), get()));
    raw.send(&frame(requests.collect()).encode_to_vec());
    let refused = count(&until_pong(&mut raw, u64::MAX).await, "overloaded");
    assert_eq!(refused, 10_000 - limits::TASKS_MAX);
    gauge.stays_below(32 * MIB);

    let mut raw = Raw::hello(address).await;
    let gauge = Gauge::start();
    for id in 0..FRAMES {
        // A piece that nobody waits for fills the frame. The node must not keep that for the sake of a key.
        let filler = Frame { chunks: vec![Chunk { id: 1, data: vec![0; 900_000].into() }], ..Frame::default() };
        let put = Op::Put(proto::Put { value: "v".into(), ..proto::Put::default() });
        let ops = [Op::Delete(proto::Delete::default()), put];
        let requests = ops.into_iter().map(|op| request(id, format!("100 {id}"), op)).collect();
        let mut bytes = filler.encode_to_vec();
        bytes.extend(frame(requests).encode_to_vec());
        raw.send(&bytes);
        until_pong(&mut raw, u64::MAX).await;
    }
    gauge.stays_below(16 * MIB);
}

/// Each takes two bytes in the frame, and many times that as a message.
#[tokio::test]
async fn a_frame_of_empty_things_is_no_bomb() {
    let _alone = alone().await;
    let (address, _node) = node(Slow::new()).await;
    for field in [0x2a, 0x32] {
        let mut raw = Raw::hello(address).await;
        let gauge = Gauge::start();
        raw.send(&[field, 0].repeat(limits::ASKER_FRAME_LEN_MAX / 2));
        let reason = timeout(PATIENCE, raw.end()).await.unwrap();
        assert!(reason.contains("things"), "{reason}");
        gauge.stays_below(8 * MIB);
    }
    for field in [0x2a, 0x32] {
        let mut other = RawNode::start().await;
        let link = link(other.address);
        let gauge = Gauge::start();
        let bomb = async {
            let mut raw = other.greet().await;
            raw.frame().await;
            raw.send(&[field, 0].repeat(limits::ANSWERER_FRAME_LEN_MAX / 2));
            raw.end().await;
        };
        let (outcome, ()) = tokio::join!(link.write(write("k", WriteOp::Delete)), bomb);
        assert!(outcome.is_err());
        gauge.stays_below(32 * MIB);
    }
}

/// They stand deeper, where they are not counted with what the frame carries.
#[tokio::test]
async fn a_list_of_empty_things_is_no_bomb() {
    let _alone = alone().await;
    let empty = |len: usize| Bytes::from([0x0a, 0].repeat((len - 1_000) / 2));
    let (address, _node) = node(Slow::new()).await;
    let mut raw = Raw::hello(address).await;
    let gauge = Gauge::start();
    let term = Some(proto::Version::default());
    let push = proto::Push { term, entries: empty(limits::ASKER_FRAME_LEN_MAX) };
    raw.send(&frame(vec![request(1, "", Op::Push(push))]).encode_to_vec());
    assert_eq!(count(&until_pong(&mut raw, u64::MAX).await, "bad-request"), 1);
    gauge.stays_below(8 * MIB);

    let mut other = RawNode::start().await;
    let link = link(other.address);
    let gauge = Gauge::start();
    let bomb = async {
        let mut raw = other.greet().await;
        let id = raw.frame().await.requests[0].id;
        let claimed = proto::Claimed { answers: empty(limits::ANSWERER_FRAME_LEN_MAX), ..proto::Claimed::default() };
        let answers = vec![Answer { id, outcome: Some(Outcome::Claimed(claimed)) }];
        raw.send(&Frame { answers, ..Frame::default() }.encode_to_vec());
        raw
    };
    let recall = SlotRequest { from: "a".into(), incarnation: 1, call: SlotCall::Recall { has_yours: true } };
    let (reply, _raw) = tokio::join!(link.slots(recall, deadline()), bomb);
    assert!(matches!(reply, Err(PeerError::Unreachable { sent: true, .. })), "{reply:?}");
    gauge.stays_below(32 * MIB);
}

#[tokio::test]
async fn a_write_that_is_answered_with_a_value_takes_none_of_it() {
    let _alone = alone().await;
    let mut other = RawNode::start().await;
    let link = link(other.address);
    let gauge = Gauge::start();
    let flood = async {
        let mut raw = other.greet().await;
        let id = raw.frame().await.requests[0].id;
        let found = proto::Found { chunked_len: u64::MAX, ..proto::Found::default() };
        let answers = vec![Answer { id, outcome: Some(Outcome::Found(found)) }];
        raw.send(&Frame { answers, ..Frame::default() }.encode_to_vec());
        let piece = Frame { chunks: vec![Chunk { id, data: vec![0; limits::CHUNK_LEN].into() }], ..Frame::default() };
        let piece = framed(&piece.encode_to_vec());
        (0..400).for_each(|_| raw.send_bytes(piece.clone()));
        raw
    };
    let (outcome, mut raw) = tokio::join!(link.write(write("k", WriteOp::Delete)), flood);
    assert!(matches!(outcome, Err(PeerError::Unreachable { sent: true, .. })), "{outcome:?}");
    // What comes after the pieces is read after them.
    let (alive, ()) = tokio::join!(link.probe(deadline()), async {
        let id = raw.frame().await.requests[0].id;
        let pong = Answer { id, outcome: Some(Outcome::Pong(proto::Ping {})) };
        raw.send(&Frame { answers: vec![pong], ..Frame::default() }.encode_to_vec());
    });
    assert!(alive.is_ok());
    gauge.stays_below(32 * MIB);
}

#[tokio::test]
async fn long_values_that_never_become_whole_are_limited() {
    const ASKED: usize = 60;
    const LEN: usize = 8 * MIB;
    let _alone = alone().await;
    let mut other = RawNode::start().await;
    let link = link(other.address);
    let gauge = Gauge::start();
    let ask = |number: usize| {
        let question = PeerGet { value_len_max: LEN, ..question(format!("key {number}")) };
        get_leaving(&link, question, Leave::Until)
    };
    let mut answers: Vec<_> = (0..ASKED).map(ask).collect();
    let mut raw = other.greet().await;
    let mut asked = Vec::new();
    while asked.len() < ASKED {
        asked.extend(raw.frame().await.requests);
    }
    let found = proto::Found { chunked_len: LEN as u64, ..proto::Found::default() };
    let announced = asked.iter().map(|asked| Answer { id: asked.id, outcome: Some(Outcome::Found(found.clone())) });
    raw.send(&Frame { answers: announced.collect(), ..Frame::default() }.encode_to_vec());
    for asked in asked {
        let chunks = vec![Chunk { id: asked.id, data: vec![0; 1_000].into() }];
        raw.send(&Frame { chunks, ..Frame::default() }.encode_to_vec());
    }
    for refused in answers.split_off(limits::ANNOUNCED_LEN_MAX / LEN) {
        let answer = timeout(PATIENCE, refused).await.unwrap();
        assert!(matches!(answer, Err(PeerError::Answered(error)) if error.kind() == ErrorKind::Overloaded));
    }
    drop(raw);
    gauge.stays_below(16 * MIB);
}
