//! How requests are gathered into frames, and answers handed out.

use futures_util::future::join_all;
use larder_core::testing::peer::{found, question};
use larder_peer::grpc::{
    limits::{HANDED_MIN, HANDED_PART},
    proto::{Answer, Found, Frame, Request, answer::Outcome},
};
use prost::Message;

use crate::{
    node::{WALL_MS, link},
    raw::{Raw, RawNode, hello},
};

/// So many that a part of them is worth handing out.
const CALLERS: usize = HANDED_PART * HANDED_MIN;

async fn asked(raw: &mut Raw, count: usize) -> Vec<Request> {
    let mut requests = Vec::new();
    while requests.len() < count {
        requests.extend(raw.frame().await.requests);
    }
    requests
}

fn answer(raw: &Raw, requests: &[Request]) {
    let answers = requests.iter().map(|request| {
        let value = Some(request.key.clone());
        Answer { id: request.id, outcome: Some(Outcome::Found(Found { value, ..Found::default() })) }
    });
    raw.send(&Frame { answers: answers.collect(), ..Frame::default() }.encode_to_vec());
}

#[tokio::test]
async fn who_has_an_answer_asks_on_before_all_of_its_frame_have_theirs() {
    let mut other = RawNode::start().await;
    let link = link(other.address);
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let link = link.clone();
            tokio::spawn(async move {
                for key in [format!("first {number}"), format!("second {number}")] {
                    assert_eq!(link.get(question(key.clone())).await.unwrap(), found(key));
                }
            })
        })
        .collect();
    let mut raw = other.accept().await;
    raw.hears_hello().await;
    raw.send(&hello(WALL_MS).encode_to_vec());
    let requests = asked(&mut raw, CALLERS).await;
    let sent = link.batch_sizes().unwrap().snapshot();
    assert_eq!((sent.count, sent.sum), (1, CALLERS as u64), "what had queued went in one frame");
    answer(&raw, &requests);
    let next = raw.frame().await.requests;
    assert_eq!(next.len(), CALLERS / HANDED_PART);
    answer(&raw, &next);
    let rest = asked(&mut raw, CALLERS - next.len()).await;
    answer(&raw, &rest);
    join_all(callers).await.into_iter().for_each(|caller| caller.unwrap());
    assert_eq!(link.batch_sizes().unwrap().snapshot().sum, 2 * CALLERS as u64);
}
