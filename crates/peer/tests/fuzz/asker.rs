//! A hostile asker, and a real node.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use larder_core::{
    Error, PeerClient, PeerService, Version,
    claim::{SlotReply, SlotRequest},
    peer::{PeerAnswer, PeerQuestion, PeerWrite, Reply},
    testing::peer::{found, question},
};
use larder_peer::grpc::proto::{Frame, Ping, Request, answer::Outcome, request::Op};
use tokio::time::timeout;

use crate::{
    flipped::Flipped,
    node::{link, node},
    raw::{Heard, Raw, connect},
    run::{Judged, alone, run},
    script::{Script, Step, value_of},
};

const CASES: u64 = 1_000;

/// How long the node may take to say anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an asker waits that sent what may be the beginning of something.
const LEAVES_AFTER: Duration = Duration::from_millis(100);

/// The id of the ping that ends each script.
const PING: u64 = 0x7069_6e67_7069_6e67;

/// Knows the value of each key, and takes every write. Keys that begin with `late` are never answered.
struct Node;

fn answer(key: &[u8]) -> PeerAnswer {
    found(value_of(key, if key.starts_with(b"long") { 300_000 } else { 40 }))
}

impl PeerService for Node {
    fn answer_all(self: Arc<Self>, questions: Vec<PeerQuestion>) -> Vec<Reply> {
        let reply = |question: PeerQuestion| match question.key.as_bytes() {
            key if key.starts_with(b"slow") || key.starts_with(b"late") => {
                let this = self.clone();
                Reply::Later(Box::pin(async move { this.answer(question).await }))
            }
            key => Reply::Now(Ok(answer(key))),
        };
        questions.into_iter().map(reply).collect()
    }

    fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
        Box::pin(async move {
            if question.key.as_bytes().starts_with(b"late") {
                std::future::pending::<()>().await;
            }
            tokio::task::yield_now().await;
            Ok(answer(question.key.as_bytes()))
        })
    }

    fn slots(&self, _: SlotRequest) -> BoxFuture<'_, Result<SlotReply, Error>> {
        Box::pin(async {
            tokio::task::yield_now().await;
            Ok(SlotReply::Confirmed)
        })
    }

    fn write(&self, _: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
        Box::pin(async {
            tokio::task::yield_now().await;
            Ok(None)
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_asker_harms_nobody() {
    let _alone = alone().await;
    let (address, _node) = node(Arc::new(Node)).await;
    let good = link(address);
    run("asker", CASES, move |script| {
        let good = good.clone();
        async move {
            play(address, &script).await?;
            is_served(&good).await
        }
    })
    .await;
}

async fn is_served(good: &Arc<dyn PeerClient>) -> Judged {
    match timeout(PATIENCE, good.get(question("key"))).await {
        Ok(Ok(given)) if given == answer(b"key") => Ok(()),
        other => Err(format!("another asker gets {other:?}")),
    }
}

async fn play(address: SocketAddr, script: &Script) -> Judged {
    let (steps, is_framed) = (script.steps(), script.is_framed());
    let ping = Request { id: PING, op: Some(Op::Ping(Ping {})), ..Request::default() };
    let ping = Step::Frame(Frame { requests: vec![ping], ..Frame::default() });
    let bytes: Vec<Bytes> = steps.iter().chain([&ping]).map(Step::bytes).collect();
    let stream = Flipped::new(connect(address).await, script.flips());
    let patience = if is_framed { PATIENCE } else { LEAVES_AFTER };
    let mut raw = match timeout(patience, Raw::play(stream, bytes, !is_framed)).await {
        Ok(Ok(raw)) => raw,
        Ok(Err(reason)) if reason.is_empty() => return Err("it is refused without a reason".to_owned()),
        Err(_) if is_framed => return Err("it is neither taken nor refused".to_owned()),
        Ok(Err(_)) | Err(_) => return Ok(()),
    };
    let mut heard = script.is_readable().then(|| Answers::to(&steps));
    let can_go_on = steps.iter().all(|step| step.frame().is_some());
    loop {
        match timeout(patience, raw.hear()).await {
            _ if !is_framed => return Ok(()),
            Err(_) => return Err("a ping is not answered".to_owned()),
            Ok(Heard::Broke) => return Err("the connection breaks without a reason".to_owned()),
            Ok(Heard::Ended(reason)) if reason.is_empty() => return Err("it ends without a reason".to_owned()),
            Ok(Heard::Ended(_)) => return Ok(()),
            Ok(Heard::Frame(mut frame)) => {
                let len = frame.answers.len();
                frame.answers.retain(|answer| answer.id != PING);
                let is_alive = frame.answers.len() < len;
                if is_alive && !can_go_on {
                    return Err("it goes on after what can't be read".to_owned());
                }
                if let Some(heard) = &mut heard {
                    heard.take(&frame)?;
                }
                if is_alive {
                    return Ok(());
                }
            }
        }
    }
}

/// What was asked, and what of it was answered.
struct Answers {
    /// The keys asked for under an id, and how many answers it may still get: an asker may use one twice.
    asked: HashMap<u64, (Vec<Bytes>, usize)>,
    /// The pieces to come, in bytes, and how many came.
    chunked: HashMap<u64, (usize, usize)>,
}

impl Answers {
    fn to(steps: &[Step]) -> Self {
        let mut asked: HashMap<u64, (Vec<Bytes>, usize)> = HashMap::new();
        for request in steps.iter().filter_map(Step::frame).flat_map(|frame| frame.requests) {
            let (keys, answers) = asked.entry(request.id).or_default();
            keys.push(request.key);
            *answers += 1;
        }
        Self { asked, chunked: HashMap::new() }
    }

    fn take(&mut self, frame: &Frame) -> Judged {
        for answer in &frame.answers {
            let asked = self.asked.get_mut(&answer.id).filter(|(_, answers)| *answers > 0);
            let (keys, answers) = asked.ok_or_else(|| format!("{} is answered, which was not asked", answer.id))?;
            *answers -= 1;
            match &answer.outcome {
                Some(Outcome::Found(found)) => {
                    let value = found.value.clone().unwrap_or_default();
                    if !keys.iter().any(|key| value == value_of(key, value.len())) {
                        return Err("a key is answered with another's value".to_owned());
                    }
                    self.chunked.entry(answer.id).or_default().0 += found.chunked_len as usize;
                }
                Some(_) => {}
                None => return Err("an answer says nothing".to_owned()),
            }
        }
        for chunk in &frame.chunks {
            let (announced, came) = self.chunked.get_mut(&chunk.id).ok_or("a chunk comes without its answer")?;
            *came += chunk.data.len();
            if came > announced {
                return Err("more comes of a value than was announced".to_owned());
            }
        }
        Ok(())
    }
}
