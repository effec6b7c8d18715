//! Deadlines: what is left of them travels, and what has passed is not served.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use larder_core::{
    Error, Key, PeerService, Version,
    peer::{PeerAnswer, PeerError, PeerGet, PeerQuestion, PeerWrite},
    testing::peer::{EchoNode, found, question},
};
use larder_peer::grpc::{
    limits::DEADLINE_MAX,
    proto::{self, Answer, Frame, Request, answer::Outcome, request::Op},
};
use parking_lot::Mutex;
use prost::Message;
use tokio::time::{Instant, sleep};

use crate::{
    node::{WALL_MS, link, node},
    raw::{Raw, RawNode, hello},
};

/// Keeps what it was asked, and until when.
#[derive(Default)]
struct Asked(Mutex<Vec<(Key, Instant)>>);

impl PeerService for Asked {
    fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
        self.0.lock().push((question.key.clone(), question.deadline));
        EchoNode.answer(question)
    }

    fn write(&self, write: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
        self.0.lock().push((write.key.clone(), write.deadline));
        EchoNode.write(write)
    }
}

fn request(id: u64, left_ms: u64, op: Op) -> Request {
    Request { id, group: 0, key: format!("key {id}").into(), left_ms, op: Some(op), ..Request::default() }
}

fn get() -> Op {
    Op::Get(proto::Get { value_len_max: 1024, ..proto::Get::default() })
}

fn requests(requests: Vec<Request>) -> Vec<u8> {
    Frame { groups: vec!["g".into()], requests, ..Frame::default() }.encode_to_vec()
}

#[tokio::test]
async fn a_request_that_is_late_on_arrival_is_refused_and_not_served() {
    let asked = Arc::new(Asked::default());
    let mut raw = Raw::hello(node(asked.clone()).await.0).await;
    let put = proto::Put { value: "v".into(), ..proto::Put::default() };
    let late = [get(), Op::Put(put), Op::Delete(proto::Delete::default())];
    let late = late.into_iter().zip(1..).map(|(op, id)| request(id, 0, op));
    raw.send(&requests(late.chain([request(4, 1_000, get())]).collect()));
    let mut answers: Vec<Answer> = Vec::new();
    while answers.len() < 4 {
        answers.extend(raw.frame().await.answers);
    }
    for answer in answers {
        match (answer.id, answer.outcome) {
            (1..=3, Some(Outcome::Failed(failed))) => assert_eq!(failed.slug, "timed-out"),
            (4, Some(Outcome::Found(_))) => {}
            other => panic!("{other:?}"),
        }
    }
    let keys: Vec<Key> = asked.0.lock().iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys, [Key::new("key 4").unwrap()]);
}

#[tokio::test]
async fn more_than_a_minute_counts_as_a_minute() {
    let asked = Arc::new(Asked::default());
    let mut raw = Raw::hello(node(asked.clone()).await.0).await;
    raw.send(&requests(vec![request(1, u64::MAX, get())]));
    raw.frame().await;
    assert!(asked.0.lock()[0].1 <= Instant::now() + DEADLINE_MAX);
}

#[tokio::test]
async fn what_is_left_when_a_request_leaves_is_what_travels() {
    const WAITED: Duration = Duration::from_millis(200);
    let mut other = RawNode::start().await;
    let link = link(other.address);
    let start = Instant::now();
    let ask = |key: &'static str, time: Duration| {
        let link = link.clone();
        tokio::spawn(async move { link.get(PeerGet { deadline: start + time, ..question(key) }).await })
    };
    let (brief, long) = (ask("brief", WAITED / 2), ask("long", Duration::from_secs(5)));
    let mut raw = other.accept().await;
    raw.hears_hello().await;
    sleep(WAITED).await;
    // Its deadline passed while it could not leave.
    assert!(matches!(brief.await.unwrap(), Err(PeerError::TimedOut)));
    raw.send(&hello(WALL_MS).encode_to_vec());
    let sent = raw.frame().await;
    let took_ms = start.elapsed().as_millis() as u64 + 1;
    let [Request { id, key, left_ms, .. }] = &sent.requests[..] else { panic!("{sent:?}") };
    assert_eq!(key, "long");
    assert!((5_000 - took_ms..=5_000 - WAITED.as_millis() as u64).contains(left_ms), "{left_ms}");
    let answer = proto::Found { value: Some("v".into()), ..proto::Found::default() };
    let answer = Answer { id: *id, outcome: Some(Outcome::Found(answer)) };
    raw.send(&Frame { answers: vec![answer], ..Frame::default() }.encode_to_vec());
    assert_eq!(long.await.unwrap().unwrap(), found("v"));
}
