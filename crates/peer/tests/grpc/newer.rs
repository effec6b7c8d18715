//! Nodes of a later version, whose messages have more in them than this one knows.
//!
//! A descriptor made of the real `.proto` file has a field of each wire type more in every message, one alternative more
//! in every choice and one value more in every enumeration. Messages of that kind go to a real node, and come to a
//! real link.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use larder_core::{
    Error, ErrorKind, Member, Members, PeerService, Version,
    peer::{PeerAnswer, PeerError, PeerMeta, PeerQuestion, PeerWrite, WriteOp},
    testing::peer::{EchoNode, deadline, found, question, write},
};
use larder_peer::grpc::proto::{self, Answer, Chunk, Frame, Request, answer::Outcome, condition::When, request::Op};
use prost::Message;
use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, ReflectMessage, Value,
    prost_types::{
        DescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
        field_descriptor_proto::{Label, Type},
    },
};

use crate::{
    node::{WALL_MS, link, node},
    raw::{Raw, RawNode, hello},
    schema,
};

/// The number of the first field that a newer node adds to a message.
const FIRST: i32 = 1_000;

/// The value that a newer node adds to each enumeration.
const NEWER: i32 = 77;

/// Beside the fields that the file has.
const ADDED: [(&str, Type, Label); 7] = [
    ("newer_number", Type::Uint64, Label::Optional),
    ("newer_fixed", Type::Fixed64, Label::Optional),
    ("newer_short", Type::Fixed32, Label::Optional),
    ("newer_text", Type::String, Label::Optional),
    ("newer_bytes", Type::Bytes, Label::Repeated),
    ("newer_numbers", Type::Sint32, Label::Repeated),
    ("newer_message", Type::Message, Label::Optional),
];

/// The protocol as a newer node has it.
struct Newer(DescriptorPool);

fn field(name: &str, number: i32, of: Type, label: Label) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        r#type: Some(of.into()),
        label: Some(label.into()),
        type_name: (of == Type::Message).then(|| ".larder.peer.v1.Newer".to_owned()),
        ..FieldDescriptorProto::default()
    }
}

impl Newer {
    fn new() -> Self {
        let mut files = schema::compile("larder/peer/v1/peer.proto");
        let file = &mut files.file[0];
        for message in &mut file.message_type {
            let of_choices: Vec<_> = (0..)
                .zip(&message.oneof_decl)
                .filter(|(index, _)| {
                    // An optional field is a choice of one.
                    !message.field.iter().any(|field| field.oneof_index == Some(*index) && field.proto3_optional())
                })
                .map(|(index, choice)| FieldDescriptorProto {
                    oneof_index: Some(index),
                    ..field(&format!("newer_{}", choice.name()), FIRST + 100 + index, Type::Message, Label::Optional)
                })
                .collect();
            let added = (FIRST..).zip(ADDED).map(|(number, (name, of, label))| field(name, number, of, label));
            message.field.extend(added.chain(of_choices));
        }
        for known in &mut file.enum_type {
            let newer = EnumValueDescriptorProto {
                name: Some(format!("{}_NEWER", known.name())),
                number: Some(NEWER),
                ..EnumValueDescriptorProto::default()
            };
            known.value.push(newer);
        }
        let text = field("text", 1, Type::String, Label::Optional);
        file.message_type.push(DescriptorProto {
            name: Some("Newer".to_owned()),
            field: vec![text],
            ..DescriptorProto::default()
        });
        Self(DescriptorPool::from_file_descriptor_set(files).unwrap())
    }

    fn empty(&self, name: &str) -> DynamicMessage {
        DynamicMessage::new(self.0.get_message_by_name(&format!("larder.peer.v1.{name}")).unwrap())
    }

    /// A frame with all that a newer node adds to its messages.
    fn frame(&self, frame: &Frame) -> DynamicMessage {
        let mut message = self.empty("Frame");
        message.transcode_from(frame).unwrap();
        self.fill(&mut message);
        message
    }

    fn bytes(&self, frame: &Frame) -> Vec<u8> {
        self.frame(frame).encode_to_vec()
    }

    fn fill(&self, message: &mut DynamicMessage) {
        for (_, value) in message.fields_mut() {
            match value {
                Value::Message(inner) => self.fill(inner),
                Value::List(list) => list.iter_mut().filter_map(Value::as_message_mut).for_each(|it| self.fill(it)),
                _ => {}
            }
        }
        for (name, ..) in ADDED {
            let field = message.descriptor().get_field_by_name(name).unwrap();
            let value = match field.kind() {
                Kind::Uint64 | Kind::Fixed64 => Value::U64(u64::MAX),
                Kind::Fixed32 => Value::U32(u32::MAX),
                Kind::String => Value::String("newer".to_owned()),
                Kind::Bytes => Value::List(vec![Value::Bytes(Bytes::from_static(b"newer")); 3]),
                Kind::Sint32 => Value::List((-5..5).map(Value::I32).collect()),
                _ => self.newer(),
            };
            message.set_field(&field, value);
        }
    }

    /// What stands in an alternative that only a newer node knows.
    fn newer(&self) -> Value {
        let mut newer = self.empty("Newer");
        newer.set_field_by_name("text", Value::String("newer".to_owned()));
        Value::Message(newer)
    }
}

/// The message of this name in another, which has one of them at least: the first.
fn inside<'a>(message: &'a mut DynamicMessage, name: &str) -> &'a mut DynamicMessage {
    match message.get_field_by_name_mut(name).unwrap() {
        Value::Message(inner) => inner,
        Value::List(list) => list[0].as_message_mut().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Takes every write whose value is like its key.
struct Taking;

impl PeerService for Taking {
    fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
        EchoNode.answer(question)
    }

    fn write(&self, write: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
        Box::pin(async move {
            if let WriteOp::Put { value, .. } = &write.op {
                assert!(value.iter().all(|byte| *byte == write.key.as_bytes()[0]));
            }
            Ok(None)
        })
    }
}

fn request(id: u64, key: &'static str, op: Op) -> Request {
    Request { id, group: 0, key: key.into(), left_ms: 10_000, op: Some(op), ..Request::default() }
}

fn get(id: u64) -> Request {
    request(id, "k", Op::Get(proto::Get { value_len_max: 1 << 20, ..proto::Get::default() }))
}

fn frame(requests: Vec<Request>) -> Frame {
    Frame { clock: WALL_MS << 16, view: 1, groups: vec!["g".into()], requests, ..Frame::default() }
}

async fn begin(newer: &Newer) -> Raw {
    let (address, _) = node(Arc::new(Taking)).await;
    let mut raw = Raw::begin(address, &newer.bytes(&hello(WALL_MS))).await.unwrap();
    raw.hears_hello().await;
    raw
}

/// The answers that come, by id.
async fn answers(raw: &mut Raw, count: usize) -> Vec<Outcome> {
    let mut answers = Vec::new();
    while answers.len() < count {
        answers.extend(raw.frame().await.answers);
    }
    answers.sort_by_key(|answer| answer.id);
    answers.into_iter().map(|answer| answer.outcome.unwrap()).collect()
}

#[tokio::test]
async fn a_newer_asker_is_answered() {
    let newer = Newer::new();
    let mut raw = begin(&newer).await;
    let condition = Some(proto::Condition { when: Some(When::IfAbsent(true)) });
    let put = proto::Put { value: "kkk".into(), condition, ..proto::Put::default() };
    let long = proto::Put { chunked_len: 6, ..proto::Put::default() };
    let asked = vec![
        get(1),
        request(2, "k", Op::Put(put)),
        request(3, "l", Op::Put(long)),
        request(4, "k", Op::Delete(proto::Delete { condition })),
        request(5, "", Op::Ping(proto::Ping {})),
    ];
    let chunks = vec![Chunk { id: 3, data: "lll".into() }, Chunk { id: 3, data: "lll".into() }];
    raw.send(&newer.bytes(&Frame { chunks, ..frame(asked) }));
    let answers = answers(&mut raw, 5).await;
    assert!(matches!(&answers[0], Outcome::Found(found) if found.value.as_deref() == Some(b"k")));
    assert!(answers[1..4].iter().all(|outcome| matches!(outcome, Outcome::Written(_))), "{answers:?}");
    assert!(matches!(answers[4], Outcome::Pong(_)));
}

#[tokio::test]
async fn what_only_a_newer_node_asks_is_refused_and_nothing_else() {
    let newer = Newer::new();
    let mut raw = begin(&newer).await;
    type Change = fn(&Newer, &mut DynamicMessage);
    let changes: [(Op, Change); 4] = [
        (Op::Get(proto::Get::default()), |newer, request| request.set_field_by_name("newer_op", newer.newer())),
        (Op::Get(proto::Get::default()), |_, request| {
            inside(request, "get").set_field_by_name("asked_as", Value::EnumNumber(NEWER));
        }),
        (Op::Put(proto::Put::default()), |newer, request| {
            inside(inside(request, "put"), "condition").set_field_by_name("newer_when", newer.newer());
        }),
        (Op::Delete(proto::Delete::default()), |newer, request| {
            inside(inside(request, "delete"), "condition").set_field_by_name("newer_when", newer.newer());
        }),
    ];
    for (op, change) in changes {
        let mut asked = newer.frame(&frame(vec![request(1, "k", op), get(2)]));
        change(&newer, inside(&mut asked, "requests"));
        raw.send(&asked.encode_to_vec());
        let answers = answers(&mut raw, 2).await;
        assert!(matches!(&answers[0], Outcome::Failed(failed) if failed.slug == "bad-request"), "{:?}", answers[0]);
        assert!(matches!(answers[1], Outcome::Found(_)));
    }
}

/// Greets a link as a newer node, and gives what it asks.
async fn asked(other: &mut RawNode, newer: &Newer, count: usize) -> (Raw, Vec<Request>) {
    let mut raw = other.accept().await;
    raw.hears_hello().await;
    raw.send(&newer.bytes(&hello(WALL_MS)));
    let mut requests = Vec::new();
    while requests.len() < count {
        requests.extend(raw.frame().await.requests);
    }
    (raw, requests)
}

#[tokio::test]
async fn a_newer_node_is_understood() {
    let (newer, mut other) = (Newer::new(), RawNode::start().await);
    let link = link(other.address);
    let members = Members::new([Member { weight: 3, zone: "west".into(), ..Member::new("b", "b:1") }]).unwrap();
    let version: Version = "0193a5c8e00000010000002a".parse().unwrap();
    let node = async {
        let (raw, asked) = asked(&mut other, &newer, 6).await;
        let [value, long, not_owner, failed, written, pong] = &asked[..] else { panic!("{asked:?}") };
        let at = proto::Version { reading: version.reading().to_bits(), incarnation: version.incarnation() };
        let outcome = |to: &Request, outcome| Answer { id: to.id, outcome: Some(outcome) };
        let member = proto::Member {
            name: "b".into(),
            address: "b:1".into(),
            weight: 3,
            zone: "west".into(),
            ..proto::Member::default()
        };
        let found = proto::Found { value: Some("v".into()), version: Some(at), age_ms: 7, ..proto::Found::default() };
        let answers = vec![
            outcome(value, Outcome::Found(found)),
            outcome(long, Outcome::Found(proto::Found { chunked_len: 6, ..proto::Found::default() })),
            outcome(not_owner, Outcome::NotOwner(proto::NotOwner { members: vec![member], to: "c".into() })),
            outcome(failed, Outcome::Failed(proto::Failed { slug: "newer-slug".into(), ..proto::Failed::default() })),
            outcome(written, Outcome::Written(proto::Written { version: Some(at) })),
            outcome(pong, Outcome::Pong(proto::Ping {})),
        ];
        let chunk = |data: &'static str| Chunk { id: long.id, data: data.into() };
        let chunks = vec![chunk("lon"), chunk("ger")];
        raw.send(&newer.bytes(&Frame { answers, chunks, ..frame(vec![]) }));
        raw
    };
    let ask = async {
        tokio::join!(
            biased;
            link.get(question("value")),
            link.get(question("long")),
            link.get(question("not owner")),
            link.get(question("failed")),
            link.write(write("k", WriteOp::Delete)),
            link.probe(deadline()),
        )
    };
    let (_raw, (value, long, not_owner, failed, written, pong)) = tokio::join!(node, ask);
    let meta = PeerMeta { version, age: std::time::Duration::from_millis(7), ttl_left: None };
    assert_eq!(value.unwrap(), PeerAnswer::Found { value: Some("v".into()), meta: Some(meta), lease: None });
    assert_eq!(long.unwrap(), found("longer"));
    assert_eq!(not_owner.unwrap(), PeerAnswer::NotOwner { members, to: Some("c".into()) });
    // An error of a kind that this node does not know is the origin's.
    assert!(matches!(failed, Err(PeerError::Answered(error)) if error.kind() == ErrorKind::Origin));
    assert_eq!(written.unwrap(), Some(version));
    assert!(pong.is_ok());
}

#[tokio::test]
async fn an_answer_that_only_a_newer_node_gives_is_an_error_of_its_request_alone() {
    let (newer, mut other) = (Newer::new(), RawNode::start().await);
    let link = link(other.address);
    let node = async {
        let (raw, asked) = asked(&mut other, &newer, 2).await;
        let answer = |to: &Request| {
            let found = proto::Found { value: Some("v".into()), ..proto::Found::default() };
            Answer { id: to.id, outcome: Some(Outcome::Found(found)) }
        };
        let mut answers = newer.frame(&Frame { answers: asked.iter().map(answer).collect(), ..frame(vec![]) });
        inside(&mut answers, "answers").set_field_by_name("newer_outcome", newer.newer());
        raw.send(&answers.encode_to_vec());
        raw
    };
    let ask = async { tokio::join!(biased; link.get(question("newer")), link.get(question("value"))) };
    let (_raw, (unknown, value)) = tokio::join!(node, ask);
    match unknown {
        Err(PeerError::Unreachable { message, sent: true, .. }) => assert!(message.contains("newer"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(value.unwrap(), found("v"));
}
