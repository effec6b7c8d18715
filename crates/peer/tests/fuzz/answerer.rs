//! A hostile node, and a real link.

use std::{collections::HashMap, ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use larder_core::{
    PeerClient, Version,
    claim::{SlotCall, SlotRequest, SlotsClaim},
    peer::{PeerAnswer, PeerGet, PeerWrite, WriteOp},
    placement::SlotSet,
    testing::peer::{question, write},
};
use larder_peer::grpc::proto::{self, Answer, Frame, Request, answer::Outcome, request::Op};
use prost::Message;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    flipped::Flipped,
    node::{WALL_MS, link},
    raw::{Heard, Raw, RawNode, WIDE, hello},
    run::{Judged, alone, run},
    script::{Script, Step, value_of},
};

const CASES: u64 = 600;

/// How long each request may take.
const TIMEOUT: Duration = Duration::from_millis(150);

/// How late a caller may learn of its deadline on a machine that does much else.
const LATE_MAX: Duration = Duration::from_secs(5);

/// How long a link may take to work again.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked before the script goes on after its hello.
const ASKED: [&str; 10] = ["key 0", "key 1", "key 2", "key 3", "long 4", "long 5", "put", "delete", "claim", "recall"];

/// Ids below it stand for requests in the order in which they came.
const ID_MAX: u64 = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_node_harms_nobody() {
    let _alone = alone().await;
    run("answerer", CASES, case).await;
}

async fn case(script: Script) -> Judged {
    let (goes_straight, is_honest) = watch::channel(false);
    let (flips, is_straight) = (script.flips(), is_honest.clone());
    let flips = move || if *is_straight.borrow() { Vec::new() } else { flips.clone() };
    let node = RawNode::around(WIDE, move |stream| Flipped::new(stream, flips())).await;
    let link = link(node.address);
    let is_readable = script.is_readable();
    let _node = Task(tokio::spawn(talk(node, script.steps(), is_honest)));
    for outcome in join_all(ASKED.iter().map(|name| ask(&link, name, is_readable))).await {
        outcome?;
    }
    goes_straight.send_replace(true);
    let healed = async {
        while !matches!(get(&link, "again").await, Ok(PeerAnswer::Found { value: Some(_), .. })) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, healed).await.map_err(|_| "the link does not heal".to_owned())
}

struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn get(link: &Arc<dyn PeerClient>, key: &'static str) -> Result<PeerAnswer, larder_core::peer::PeerError> {
    link.get(PeerGet { deadline: Instant::now() + TIMEOUT, ..question(key) }).await
}

fn claim() -> SlotsClaim {
    let (term, slots) = (Version::ZERO, SlotSet::default());
    SlotsClaim { term, acted: term, gave_up: None, is_polite: false, slots }
}

/// Asks, and judges the answer: that it comes in time, and is this key's if the node tells no lies.
async fn ask(link: &Arc<dyn PeerClient>, name: &'static str, is_readable: bool) -> Judged {
    let deadline = Instant::now() + TIMEOUT;
    match name {
        "put" | "delete" => {
            let put = WriteOp::Put { value: vec![7; 1_000].into(), ttl: None };
            let op = if name == "put" { put } else { WriteOp::Delete };
            let written = link.write(PeerWrite { deadline, ..write(name, op) });
            drop(timeout(TIMEOUT + LATE_MAX, written).await.map_err(|_| format!("{name} does not end"))?);
        }
        "claim" | "recall" => {
            let call = if name == "claim" { SlotCall::Claim(claim()) } else { SlotCall::Recall { has_yours: false } };
            let said = link.slots(SlotRequest { from: "a".into(), incarnation: 1, call }, deadline);
            drop(timeout(TIMEOUT + LATE_MAX, said).await.map_err(|_| format!("{name} does not end"))?);
        }
        key => {
            let answer = timeout(TIMEOUT + LATE_MAX, get(link, key)).await;
            let answer = answer.map_err(|_| format!("{key} does not end"))?;
            if let Ok(PeerAnswer::Found { value: Some(value), .. }) = answer
                && is_readable
                && value[..] != value_of(key.as_bytes(), value.len())
            {
                return Err(format!("{key} is answered with another's value"));
            }
        }
    }
    Ok(())
}

/// Plays the script on the first two connections, and answers on those that follow once all callers have ended.
async fn talk(mut node: RawNode, steps: Vec<Step>, mut is_honest: watch::Receiver<bool>) {
    for number in 0.. {
        let mut raw = node.accept().await;
        if *is_honest.borrow() || number >= 2 {
            tokio::spawn(async move { honest(&mut raw).await });
            continue;
        }
        tokio::select! {
            _ = play(&mut raw, &steps) => {}
            _ = is_honest.wait_for(|is_honest| *is_honest) => {}
        }
        raw.break_off();
    }
}

/// Sends what the script has to an asker that has said hello, and then nothing.
async fn play(raw: &mut Raw, steps: &[Step]) -> ControlFlow<()> {
    heard(raw).await?;
    let mut requests: Vec<Request> = Vec::new();
    let mut sent: HashMap<u64, usize> = HashMap::new();
    for (number, step) in steps.iter().enumerate() {
        if number == 1 {
            while requests.len() < ASKED.len() {
                requests.extend(heard(raw).await?.requests);
            }
        }
        match step {
            Step::Frame(frame) => {
                raw.send(&resolve(frame.clone(), &requests, &mut sent).encode_to_vec());
            }
            step => raw.send_bytes(step.bytes()),
        }
    }
    loop {
        heard(raw).await?;
    }
}

async fn heard(raw: &mut Raw) -> ControlFlow<(), Frame> {
    match raw.hear().await {
        Heard::Frame(frame) => ControlFlow::Continue(frame),
        Heard::Ended(_) | Heard::Broke => ControlFlow::Break(()),
    }
}

/// Puts real ids and the keys' own values into what a script has.
fn resolve(mut frame: Frame, requests: &[Request], sent: &mut HashMap<u64, usize>) -> Frame {
    let meant = |id: u64| (id < ID_MAX && !requests.is_empty()).then(|| &requests[id as usize % requests.len()]);
    for answer in &mut frame.answers {
        let Some(request) = meant(answer.id) else { continue };
        answer.id = request.id;
        if let Some(Outcome::Found(proto::Found { value: Some(value), .. })) = &mut answer.outcome {
            *value = value_of(&request.key, value.len());
        }
    }
    for chunk in &mut frame.chunks {
        let Some(request) = meant(chunk.id) else { continue };
        chunk.id = request.id;
        let sent = sent.entry(chunk.id).or_default();
        let end = *sent + chunk.data.len();
        chunk.data = value_of(&request.key, end).slice(*sent..);
        *sent = end;
    }
    frame
}

/// Answers whatever comes, as a node does.
async fn honest(raw: &mut Raw) -> ControlFlow<()> {
    heard(raw).await?;
    raw.send(&hello(WALL_MS).encode_to_vec());
    loop {
        let answers = heard(raw).await?.requests.into_iter().map(|request| {
            let outcome = match request.op {
                Some(Op::Get(_)) => {
                    let value: Bytes = value_of(&request.key, 24);
                    Outcome::Found(proto::Found { value: Some(value), ..proto::Found::default() })
                }
                Some(Op::Ping(ping)) => Outcome::Pong(ping),
                _ => Outcome::Written(proto::Written::default()),
            };
            Answer { id: request.id, outcome: Some(outcome) }
        });
        let answers = answers.collect();
        raw.send(&Frame { answers, ..Frame::default() }.encode_to_vec());
    }
}
