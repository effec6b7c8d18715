//! Frames that no node of this version sends: newer ones, broken ones, and such as are meant to do harm.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use larder_core::{
    Member, Transport,
    peer::PeerError,
    testing::peer::{EchoNode, found, question},
};
use larder_peer::grpc::{
    GrpcTransport,
    proto::{self, Frame, Request, request::Op},
    serve,
};
use prost::Message;
use tokio::{net::TcpListener, time::timeout};

use crate::{
    node::{WALL_MS, link, node, standing},
    raw::{Raw, hello},
};

fn get(id: u64, key: &str) -> Request {
    let op = proto::Get { value_len_max: 1 << 20, ..proto::Get::default() };
    Request { id, group: 0, key: key.to_owned().into(), left_ms: 10_000, op: Some(Op::Get(op)), ..Request::default() }
}

fn frame(requests: Vec<Request>) -> Frame {
    Frame { groups: vec!["g".into()], requests, ..Frame::default() }
}

async fn echo() -> SocketAddr {
    node(Arc::new(EchoNode)).await.0
}

#[tokio::test]
async fn a_frame_against_the_rules_ends_the_connection_with_a_reason() {
    let node = echo().await;
    let chunk = |len| proto::Chunk { id: 9, data: vec![0; len].into() };
    let put = proto::Put { chunked_len: 10, ..proto::Put::default() };
    let put = || Request { op: Some(Op::Put(put.clone())), ..get(9, "k") };
    let both = proto::Put { chunked_len: 10, value: Bytes::from_static(b"v"), ..proto::Put::default() };
    let cases = [
        (hello(WALL_MS), "only the first"),
        (Frame { answers: vec![proto::Answer::default()], ..frame(vec![]) }, "only the first"),
        (Frame { clock: (WALL_MS + 61_000) << 16, ..frame(vec![]) }, "ahead"),
        (Frame { groups: vec![], ..frame(vec![get(1, "k")]) }, "does%20not%20name"),
        (Frame { groups: vec!["g".repeat(65)], ..frame(vec![]) }, "too%20long"),
        (frame(vec![put(), put()]), "twice"),
        (frame(vec![Request { op: Some(Op::Put(both)), ..get(1, "k") }]), "twice"),
        (Frame { chunks: vec![chunk(0)], ..frame(vec![put()]) }, "a%20chunk"),
        (Frame { chunks: vec![chunk(11)], ..frame(vec![put()]) }, "a%20chunk"),
    ];
    for (bad, says) in cases {
        let mut raw = Raw::hello(node).await;
        raw.send(&bad.encode_to_vec());
        let reason = timeout(Duration::from_secs(10), raw.end()).await.unwrap();
        assert!(reason.replace("%20", " ").contains(&says.replace("%20", " ")), "{reason} for {bad:?}");
        timeout(Duration::from_secs(10), raw.is_gone()).await.unwrap();
    }
    assert_eq!(link(node).get(question("k")).await.unwrap(), found("k"));
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_the_connection() {
    let node = echo().await;
    let mut raw = Raw::hello(node).await;
    raw.send_bytes(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]));
    timeout(Duration::from_secs(10), raw.end()).await.unwrap();
    assert_eq!(link(node).get(question("k")).await.unwrap(), found("k"));
}

#[tokio::test]
async fn an_exchange_begins_with_a_hello_of_about_the_same_time() {
    let node = echo().await;
    for (wall_ms, is_taken) in [(WALL_MS - 11_000, false), (WALL_MS + 11_000, false), (WALL_MS + 9_000, true)] {
        assert_eq!(Raw::begin(node, &hello(wall_ms).encode_to_vec()).await.is_ok(), is_taken, "{wall_ms}");
    }
    let reason = Raw::begin(node, &frame(vec![get(1, "k")]).encode_to_vec()).await.err().unwrap();
    assert!(reason.contains("hello"), "{reason}");
}

#[tokio::test]
async fn a_node_whose_clock_is_off_is_not_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Arc::new(EchoNode), standing("b", WALL_MS + 11_000), std::future::pending()));
    match link(address).get(question("k")).await {
        Err(PeerError::Unreachable { message, sent: false, .. }) => assert!(message.contains("clocks"), "{message}"),
        other => panic!("{other:?}"),
    }
    let same = GrpcTransport::new();
    same.introduce(standing("a", WALL_MS + 11_000));
    let link = same.link(&Member::new("b", address.to_string())).unwrap();
    assert_eq!(link.get(question("k")).await.unwrap(), found("k"));
}
