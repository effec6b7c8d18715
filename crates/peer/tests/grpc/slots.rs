//! What is said about slots, by nodes that break the rules, are newer, or have another view.

use std::{future::ready, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use larder_core::{
    Error, Member, Members, Membership, NodeConfig, PeerService, Ring, Version,
    claim::{Carried, ClaimAnswer, PUSH_ENTRIES_MAX, PUSH_VALUE_LEN_MAX, SlotCall, SlotReply, SlotRequest, SlotsClaim},
    lock::CarriedLocks,
    peer::{PeerAnswer, PeerError, PeerQuestion, PeerWrite},
    placement::{Slot, SlotSet},
    testing::{
        clock::TokioClock,
        peer::{EchoNode, deadline, found, question},
    },
};
use larder_peer::grpc::{
    GrpcTransport,
    proto::{self, Answer, Frame, Request, answer::Outcome, claim_answer::Says, request::Op},
    serve,
};
use prost::Message;
use tokio::{net::TcpListener, sync::watch, time::timeout};

use crate::{
    node::{link, node},
    raw::{Raw, RawNode},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Confirms whatever it is told.
struct Confirms;

impl PeerService for Confirms {
    fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
        EchoNode.answer(question)
    }

    fn write(&self, write: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
        EchoNode.write(write)
    }

    fn slots(&self, _: SlotRequest) -> BoxFuture<'_, Result<SlotReply, Error>> {
        Box::pin(ready(Ok(SlotReply::Confirmed)))
    }
}

fn slots() -> Bytes {
    Slot::all().take(3).collect::<SlotSet>().to_bytes().into()
}

fn term() -> Option<proto::Version> {
    Some(proto::Version { reading: 7, incarnation: 1 })
}

fn claim() -> proto::Claim {
    proto::Claim { term: term(), slots: slots(), ..proto::Claim::default() }
}

fn entry() -> proto::Entry {
    proto::Entry { key: "k".into(), value: Some("v".into()), version: term(), ..proto::Entry::default() }
}

fn push(entries: Vec<proto::Entry>) -> Op {
    Op::Push(proto::Push { term: term(), entries: proto::Entries { entries }.encode_to_vec().into() })
}

fn request(id: u64, op: Op) -> Request {
    Request { id, left_ms: 10_000, op: Some(op), ..Request::default() }
}

fn get(id: u64) -> Request {
    let get = proto::Get { value_len_max: 1 << 20, ..proto::Get::default() };
    Request { key: "k".into(), ..request(id, Op::Get(get)) }
}

fn frame(requests: Vec<Request>) -> Frame {
    Frame { groups: vec!["g".into()], requests, ..Frame::default() }
}

/// The answers that come, by id.
async fn answers(raw: &mut Raw, count: usize) -> Vec<Outcome> {
    let mut answers = Vec::new();
    while answers.len() < count {
        answers.extend(timeout(PATIENCE, raw.frame()).await.unwrap().answers);
    }
    answers.sort_by_key(|answer| answer.id);
    answers.into_iter().map(|answer| answer.outcome.unwrap()).collect()
}

#[tokio::test]
async fn what_is_said_against_the_rules_is_refused_and_nothing_else() {
    let mut raw = Raw::hello(node(Arc::new(Confirms)).await.0).await;
    let short = || slots().slice(1..);
    let long = || vec![0; 2_049].into();
    let given_up = Some(proto::GivenUp::default());
    let confirm = |slots| Op::Confirm(proto::Confirm { term: term(), slots });
    let bytes = |entries: &'static [u8]| Op::Push(proto::Push { term: term(), entries: entries.into() });
    let key = |len: usize| proto::Entry { key: vec![b'k'; len].into(), ..entry() };
    let value = |len: usize| proto::Entry { value: Some(vec![0; len].into()), ..entry() };
    let refused = [
        Op::Claim(proto::Claim { slots: short(), ..claim() }),
        Op::Claim(proto::Claim { slots: long(), ..claim() }),
        Op::Claim(proto::Claim { slots: Bytes::new(), ..claim() }),
        Op::Claim(proto::Claim { term: None, ..claim() }),
        Op::Claim(proto::Claim { sent_by: "c".into(), ..claim() }),
        Op::Claim(proto::Claim { given_up, ..claim() }),
        confirm(short()),
        Op::Confirm(proto::Confirm { term: None, slots: slots() }),
        push(vec![entry(); PUSH_ENTRIES_MAX + 1]),
        push(vec![proto::Entry::default(); 100 * PUSH_ENTRIES_MAX]),
        push(vec![entry(), proto::Entry { version: None, ..entry() }]),
        push(vec![entry(), key(0)]),
        push(vec![key(1_025), entry()]),
        push(vec![value(PUSH_VALUE_LEN_MAX + 1)]),
        bytes(b"no message"),
        Op::Push(proto::Push { term: None, ..proto::Push::default() }),
    ];
    let taken = [
        Op::Claim(claim()),
        Op::Claim(proto::Claim { sent_by: "c".into(), given_up, ..claim() }),
        confirm(slots()),
        Op::Recall(proto::Recall::default()),
        push(vec![]),
        push(vec![entry(); PUSH_ENTRIES_MAX]),
        push(vec![key(1_024), value(PUSH_VALUE_LEN_MAX), proto::Entry { value: None, ..entry() }]),
    ];
    let cases = refused.into_iter().map(|op| (op, true)).chain(taken.into_iter().map(|op| (op, false)));
    for (number, (op, is_refused)) in cases.enumerate() {
        raw.send(&frame(vec![request(1, op), get(2)]).encode_to_vec());
        let answers = answers(&mut raw, 2).await;
        let is_right = match &answers[0] {
            Outcome::Failed(failed) => is_refused && failed.slug == "bad-request",
            outcome => !is_refused && matches!(outcome, Outcome::Confirmed(_)),
        };
        assert!(is_right, "case {number}: {:?}", answers[0]);
        assert!(matches!(answers[1], Outcome::Found(_)), "case {number}");
    }
    let acquire = || proto::AcquireLock { token: "t".into(), ttl_ms: 100, wait_ms: 60_000 };
    let renew = |token: &str| Op::RenewLock(proto::RenewLock { token: token.into() });
    let release = |token: &str| Op::ReleaseLock(proto::ReleaseLock { token: token.into() });
    let longest = "t".repeat(128);
    let of_locks = [
        (1, Op::AcquireLock(acquire()), false),
        (1_024, Op::AcquireLock(proto::AcquireLock { ttl_ms: 60_000, token: longest.clone(), ..acquire() }), false),
        (1, renew("t"), false),
        (1, release(&longest), false),
        (0, Op::AcquireLock(acquire()), true),
        (1_025, renew("t"), true),
        (1, Op::AcquireLock(proto::AcquireLock { ttl_ms: 0, ..acquire() }), true),
        (1, Op::AcquireLock(proto::AcquireLock { ttl_ms: u64::MAX, ..acquire() }), true),
        (1, Op::AcquireLock(proto::AcquireLock { wait_ms: 60_001, ..acquire() }), true),
        (1, Op::AcquireLock(proto::AcquireLock { token: String::new(), ..acquire() }), true),
        (1, renew("a b"), true),
        (1, release(&format!("{longest}t")), true),
    ];
    for (number, (name_len, op, is_refused)) in of_locks.into_iter().enumerate() {
        let of_lock = Request { key: vec![0xff; name_len].into(), ..request(1, op) };
        raw.send(&frame(vec![of_lock, get(2)]).encode_to_vec());
        let answers = answers(&mut raw, 2).await;
        let is_failed =
            matches!(&answers[0], Outcome::Failed(failed) if ["bad-request", "too-large"].contains(&&*failed.slug));
        assert_eq!(is_failed, is_refused, "case {number}: {:?}", answers[0]);
        assert!(matches!(answers[1], Outcome::Found(_)), "case {number}");
    }
    let unnamed = Request { group: 1, ..request(1, push(vec![entry()])) };
    raw.send(&frame(vec![unnamed, get(2)]).encode_to_vec());
    assert!(matches!(&answers(&mut raw, 2).await[0], Outcome::Failed(failed) if failed.slug == "bad-request"));
}

#[tokio::test]
async fn a_peek_without_its_term_is_refused() {
    let mut raw = Raw::hello(node(Arc::new(Confirms)).await.0).await;
    let peek = |term| {
        let asked_as = proto::AskedAs::Before.into();
        Op::Get(proto::Get { asked_as, value_len_max: 100, term })
    };
    let requests = [(1, None), (2, term())].map(|(id, term)| Request { key: "k".into(), ..request(id, peek(term)) });
    raw.send(&frame(requests.into()).encode_to_vec());
    let answers = answers(&mut raw, 2).await;
    assert!(matches!(&answers[0], Outcome::Failed(failed) if failed.slug == "bad-request"), "{answers:?}");
    assert!(matches!(answers[1], Outcome::Found(_)), "{answers:?}");
}

/// Has a link claim slots, and answers that and a get with these.
async fn claimed(outcome: Outcome) -> Result<SlotReply, PeerError> {
    let mut other = RawNode::start().await;
    let link = link(other.address);
    let node = async {
        let mut raw = other.greet().await;
        let mut requests = Vec::new();
        while requests.len() < 2 {
            requests.extend(raw.frame().await.requests);
        }
        let found = proto::Found { value: Some("v".into()), ..proto::Found::default() };
        let of = |request: &Request| match request.op {
            Some(Op::Claim(_)) => outcome.clone(),
            _ => Outcome::Found(found.clone()),
        };
        let answers = requests.iter().map(|request| Answer { id: request.id, outcome: Some(of(request)) }).collect();
        raw.send(&Frame { answers, ..Frame::default() }.encode_to_vec());
        raw
    };
    let claim = SlotsClaim {
        term: Version::ZERO,
        acted: Version::ZERO,
        gave_up: None,
        is_polite: false,
        slots: SlotSet::default(),
    };
    let request = SlotRequest { from: "a".into(), incarnation: 1, call: SlotCall::Claim(claim) };
    let ask = async { tokio::join!(link.slots(request, deadline()), link.get(question("k"))) };
    let (_raw, (reply, value)) = tokio::join!(node, ask);
    assert_eq!(value.unwrap(), found("v"));
    reply
}

fn says(answers: Vec<proto::ClaimAnswer>) -> Outcome {
    Outcome::Claimed(proto::Claimed {
        answers: proto::Answers { answers }.encode_to_vec().into(),
        ..proto::Claimed::default()
    })
}

fn lock() -> proto::CarriedLock {
    let (name, token, holder) = ("a".into(), "t".into(), "n".into());
    proto::CarriedLock { name, token, fence: 1, ttl_ms: 10_000, left_ms: 60_000, holder }
}

/// An answer to a claim with which these locks go.
fn with_locks(held: Vec<proto::CarriedLock>) -> Outcome {
    let locks = proto::CarriedLocks { held, ..proto::CarriedLocks::default() };
    let carried = proto::Carried { locks: Some(locks.encode_to_vec().into()), ..proto::Carried::default() };
    Outcome::Claimed(proto::Claimed { carried: carried.encode_to_vec().into(), ..proto::Claimed::default() })
}

fn claim_answer(says: Says) -> proto::ClaimAnswer {
    proto::ClaimAnswer { slots: slots(), says: Some(says) }
}

#[tokio::test]
async fn an_answer_that_can_not_be_one_is_an_error_of_its_request_alone() {
    let released = || claim_answer(Says::Released(proto::Released { had: true }));
    let elsewhere = |at: &str, given_up| claim_answer(Says::Elsewhere(proto::Elsewhere { at: at.into(), given_up }));
    let answers = [
        says(vec![proto::ClaimAnswer { slots: slots().slice(1..), ..released() }]),
        says(vec![released(), elsewhere("", Some(proto::GivenUp::default()))]),
        says(vec![elsewhere("c", None)]),
        says(vec![proto::ClaimAnswer::default(); 10_000]),
        with_locks(vec![proto::CarriedLock { fence: 0, ..lock() }]),
        with_locks(vec![proto::CarriedLock { fence: 1 << 53, ..lock() }]),
        with_locks(vec![proto::CarriedLock { left_ms: 60_001, ..lock() }]),
        with_locks(vec![proto::CarriedLock { name: Bytes::new(), ..lock() }]),
        with_locks(vec![lock(), proto::CarriedLock { token: "a b".into(), ..lock() }]),
        with_locks(vec![lock(); 4_097]),
        with_locks(vec![proto::CarriedLock::default(); 100_000]),
        Outcome::LockAcquired(proto::LockAcquired::default()),
        Outcome::LockReleased(proto::LockReleased { was_held: true }),
        Outcome::Claimed(proto::Claimed { answers: "no message".into(), ..proto::Claimed::default() }),
        Outcome::Pushed(proto::Pushed::default()),
        Outcome::Confirmed(proto::Confirmed {}),
        Outcome::Recalled(proto::Recalled { slots: slots(), ..proto::Recalled::default() }),
        Outcome::Written(proto::Written::default()),
        Outcome::NotHeld(proto::NotHeld {}),
    ];
    for outcome in answers {
        let reply = claimed(outcome.clone()).await;
        assert!(matches!(reply, Err(PeerError::Unreachable { sent: true, .. })), "{reply:?} to {outcome:?}");
    }
}

/// Who does not say a word of locks is older, and does not know of them.
#[tokio::test]
async fn what_an_older_node_does_not_say_of_locks_is_not_taken_for_none() {
    let of = |reply| match reply {
        Ok(SlotReply::Claimed(_, carried)) => carried.locks,
        reply => panic!("{reply:?}"),
    };
    assert_eq!(of(claimed(says(Vec::new())).await), None);
    assert_eq!(of(claimed(with_locks(Vec::new())).await), Some(CarriedLocks::default()));
    assert_eq!(of(claimed(with_locks(vec![lock(); 4_096])).await).map(|locks| locks.held.len()), Some(4_096));
}

#[tokio::test]
async fn what_only_a_newer_node_says_to_a_claim_is_passed_over() {
    let released = claim_answer(Says::Released(proto::Released { had: true }));
    let newer = proto::ClaimAnswer { slots: slots(), says: None };
    let mut answers = proto::Answers { answers: vec![newer, released] }.encode_to_vec();
    // A field of which this node does not know.
    answers.extend([0x98, 0x06, 0x01]);
    let reply = claimed(Outcome::Claimed(proto::Claimed { answers: answers.into(), ..proto::Claimed::default() }))
        .await
        .unwrap();
    let slots = SlotSet::from_bytes(&slots()).unwrap();
    assert_eq!(reply, SlotReply::Claimed(vec![(slots, ClaimAnswer::Released { had: true })], Carried::default()));
}

/// A membership that has the same members for ever, and tells when somebody looks.
struct Looked {
    list: watch::Sender<Members>,
    looks: watch::Sender<usize>,
}

impl Membership for Looked {
    fn members(&self) -> watch::Receiver<Members> {
        self.list.subscribe()
    }

    fn look(&self) -> BoxFuture<'_, ()> {
        self.looks.send_modify(|looks| *looks += 1);
        Box::pin(std::future::pending())
    }
}

/// A node that follows a membership. Gives where it is, and how often it has looked there.
async fn looking() -> (SocketAddr, watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let members = Members::new([Member::new("b", address.to_string())]).unwrap();
    let config = NodeConfig {
        name: "b".into(),
        http: "".into(),
        ring: Ring::Slots,
        incarnation: 1,
        seed: 42,
        clock: Arc::new(TokioClock::new()),
        transport: Arc::new(GrpcTransport::new()),
    };
    let node = larder_core::Node::new(config, members.clone()).unwrap();
    let (looks, looked) = watch::channel(0);
    tokio::spawn(node.clone().follow(Arc::new(Looked { list: watch::Sender::new(members), looks })));
    tokio::spawn(serve(listener, Arc::new(Confirms), node.standing().clone(), std::future::pending()));
    (address, looked)
}

#[tokio::test]
async fn what_is_said_of_an_unknown_view_does_not_wait_for_a_look_and_a_get_does() {
    let (node, mut looked) = looking().await;
    let ops = [Op::Claim(claim()), Op::Confirm(proto::Confirm { term: term(), slots: slots() })];
    let others = [Op::Recall(proto::Recall::default()), push(vec![entry()])];
    let mut raw = Raw::hello(node).await;
    for (view, op) in (1_000..).zip(ops.into_iter().chain(others)) {
        raw.send(&Frame { view, ..frame(vec![get(1), request(2, op)]) }.encode_to_vec());
        for id in [2, 1] {
            let ids: Vec<u64> = raw.frame().await.answers.iter().map(|answer| answer.id).collect();
            assert_eq!(ids, [id]);
        }
    }
    // A look begins all the same.
    let before = *looked.borrow();
    raw.send(&Frame { view: 2_000, ..frame(vec![request(1, Op::Claim(claim()))]) }.encode_to_vec());
    assert!(matches!(answers(&mut raw, 1).await[..], [Outcome::Confirmed(_)]));
    timeout(PATIENCE, looked.wait_for(|looks| *looks > before)).await.unwrap().unwrap();
}
