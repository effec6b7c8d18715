//! What a client may not do, and what it may cost.

use std::{convert::Infallible, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, future::join_all, stream};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use larder_peer::grpc::{
    api::{cache_client::CacheClient, key_answer::Outcome},
    limits,
    proto::{self, peer_client::PeerClient},
    status::ERROR,
};
use prost::Message;
use tokio::{sync::mpsc, time::timeout};
use tonic::{Code, body::Body};

use crate::{
    channel::Channel,
    node::{PLAIN, Served, USERS, VALUE_LEN_MAX, delete, error, get, get_many, put},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A call whose body is as the test has it.
fn call(
    served: &Served,
    method: &str,
    timeout: &str,
    body: impl Stream<Item = Bytes> + Send + 'static,
) -> Request<Body> {
    let body = StreamBody::new(body.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
    Request::post(format!("http://{}/{method}", served.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(Body::new(body))
        .unwrap()
}

/// The start of a message of so many bytes.
fn prefix(len: usize) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(len).unwrap());
    bytes.freeze()
}

fn framed(message: &impl Message) -> Bytes {
    [prefix(message.encoded_len()), message.encode_to_vec().into()].concat().into()
}

/// How a call came to its end.
async fn outcome(response: Response<Incoming>) -> (Code, String) {
    let (head, body) = response.into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned();
    let told = |name: &str, headers: &HeaderMap| Some(headers.get(name)?.to_str().unwrap().to_owned());
    let of = |name: &str| told(name, &head.headers).or_else(|| told(name, trailers.as_ref()?)).unwrap_or_default();
    (Code::from_bytes(of("grpc-status").as_bytes()), of(ERROR))
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused_before_it_is_sent() {
    let served = Served::start().await;
    let (mut channel, _) = Channel::connect(served.address).await;
    for (method, len_max) in [
        ("larder.v1.Cache/Get", limits::MESSAGE_LEN_MAX),
        ("larder.v1.Cache/GetMany", limits::GET_MANY_LEN_MAX),
        ("larder.v1.Cache/Put", VALUE_LEN_MAX + limits::PUT_HEAD_LEN_MAX),
        ("grpc.health.v1.Health/Check", limits::MESSAGE_LEN_MAX),
    ] {
        let unsent = stream::iter([prefix(len_max + 1)]).chain(stream::pending());
        let response = timeout(PATIENCE, channel.send(call(&served, method, "30S", unsent))).await.unwrap().unwrap();
        assert_eq!(outcome(response).await, (Code::ResourceExhausted, "too-large".into()), "{method}");
    }
    let fits = put("k", vec![7; VALUE_LEN_MAX]);
    assert!(fits.encoded_len() > VALUE_LEN_MAX);
    served.client_on(channel).put(fits).await.unwrap();
}

#[tokio::test]
async fn who_sends_too_slowly_is_told_at_the_deadline() {
    let served = Served::start().await;
    let (mut channel, _) = Channel::connect(served.address).await;
    let whole = framed(&put("k", vec![7; 1000]));
    let late = || (Code::DeadlineExceeded, "timed-out".to_owned());
    for sent in [0, 3, 5, 6, whole.len() - 1, whole.len()] {
        let part = stream::iter([whole.slice(..sent)]).chain(stream::pending());
        let put = call(&served, "larder.v1.Cache/Put", "300m", part);
        let response = timeout(PATIENCE, channel.send(put)).await.unwrap().unwrap();
        assert_eq!(outcome(response).await, late(), "after {sent} bytes");
    }
    assert_eq!(served.group(PLAIN).store_stats().items(), 0, "a request that has not ended is not carried out");
    let in_pieces = stream::iter(whole.chunks(1).map(Bytes::copy_from_slice).collect::<Vec<_>>());
    let put = call(&served, "larder.v1.Cache/Put", "10S", in_pieces);
    assert_eq!(outcome(channel.send(put).await.unwrap()).await.0, Code::Ok);
}

#[tokio::test]
async fn what_is_no_message_or_no_service_is_refused() {
    let served = Served::start().await;
    let (mut channel, _) = Channel::connect(served.address).await;
    let garbage = Bytes::from_static(b"\0\0\0\0\x04\xff\xff\xff\xff");
    for (method, body, expected) in [
        ("larder.v1.Cache/Get", garbage, Code::Internal),
        ("larder.v1.Cache/Get", Bytes::new(), Code::Internal),
        ("larder.v1.Cache/Get", Bytes::from_static(b"\0\0"), Code::Internal),
        ("larder.v1.Cache/Fly", Bytes::new(), Code::Unimplemented),
        ("larder.v2.Cache/Get", Bytes::new(), Code::Unimplemented),
        ("larder.peer.v1.Peer/Fly", Bytes::new(), Code::Unimplemented),
        ("", Bytes::new(), Code::Unimplemented),
        ("larder.v1.Cache", Bytes::new(), Code::Unimplemented),
    ] {
        let call = call(&served, method, "10S", stream::iter([body]));
        let response = timeout(PATIENCE, channel.send(call)).await.unwrap().unwrap();
        assert_eq!(outcome(response).await.0, expected, "{method}");
    }
}

#[tokio::test]
async fn headers_that_are_too_long_are_refused_and_the_next_call_is_answered() {
    let served = Served::start().await;
    let (mut channel, _) = Channel::connect(served.address).await;
    let mut long = call(&served, "larder.v1.Cache/Get", "10S", stream::iter([framed(&get(PLAIN, "k"))]));
    long.headers_mut().insert("x-long", "y".repeat(limits::HEADERS_LEN_MAX as usize).parse().unwrap());
    let refused = timeout(PATIENCE, channel.send(long)).await.unwrap();
    assert!(refused.is_err() || refused.is_ok_and(|response| response.status() == 431));
    assert_eq!(error(served.client_on(channel).get(get(PLAIN, "k")).await).0, Code::NotFound);
}

#[tokio::test]
async fn of_more_calls_than_a_connection_takes_the_rest_wait_in_the_client() {
    let served = Served::start().await;
    let client = served.client().await;
    served.origin.close_gate();
    let count = limits::STREAMS_MAX as usize * 2;
    let calls = (0..count).map(|number| {
        let mut client = client.clone();
        tokio::spawn(async move { client.get(get(USERS, format!("k{number}"))).await })
    });
    let calls: Vec<_> = calls.collect();
    let begun = limits::STREAMS_MAX as usize;
    timeout(PATIENCE, served.origin.requested(begun)).await.unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(served.origin.requests(), begun);
    served.origin.let_through(count);
    for (number, call) in calls.into_iter().enumerate() {
        let value = call.await.unwrap().unwrap().into_inner().value.unwrap();
        assert_eq!(value.data, format!("k{number}=0"));
    }
}

#[tokio::test]
async fn an_answer_has_64_mib_of_values_and_names_the_keys_that_did_not_fit() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let value = Bytes::from(vec![7; VALUE_LEN_MAX]);
    let fitting = larder_core::group::GET_MANY_VALUES_LEN_MAX / VALUE_LEN_MAX;
    let keys: Vec<String> = (0..=fitting).map(|number| number.to_string()).collect();
    for key in &keys {
        client.put(put(key, value.clone())).await.unwrap();
    }
    client.put(put("small", "")).await.unwrap();
    let asked = keys.iter().map(String::as_str).chain(["small"]);
    let answers = client.get_many(get_many(PLAIN, asked)).await.unwrap().into_inner().answers;
    let told: Vec<Result<usize, String>> = answers
        .into_iter()
        .map(|answer| match answer.outcome.unwrap() {
            Outcome::Value(value) => Ok(value.data.len()),
            Outcome::Failed(failed) => Err(failed.r#type),
            Outcome::NotFound(_) => panic!("it is there"),
        })
        .collect();
    let mut expected = vec![Ok(VALUE_LEN_MAX); fitting];
    expected.extend([Err("too-large".to_owned()), Ok(0)]);
    assert_eq!(told, expected);
}

/// A node's first frame.
fn hello(served: &Served) -> proto::Frame {
    let hello = proto::Hello {
        name: "z".into(),
        incarnation: 9,
        wall_ms: served.node.standing().wall_ms(),
        http: String::new(),
    };
    proto::Frame { hello: Some(hello), ..proto::Frame::default() }
}

#[tokio::test]
async fn an_exchange_and_calls_share_a_connection() {
    let served = Served::start().await;
    let (channel, closed) = Channel::connect(served.address).await;
    let mut client = served.client_on(channel.clone());
    let uri: http::Uri = format!("http://{}", served.address).parse().unwrap();
    let (send, mut sent) = mpsc::unbounded_channel();
    let frames = stream::poll_fn(move |cx| sent.poll_recv(cx));
    send.send(hello(&served)).unwrap();
    let mut answers =
        PeerClient::with_origin(channel.clone(), uri.clone()).exchange(frames).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().hello.is_some());
    client.put(put("k", "v")).await.unwrap();
    let op = proto::Get { value_len_max: 100, ..proto::Get::default() };
    let request = proto::Request {
        id: 7,
        group: 0,
        key: "k".into(),
        left_ms: 10_000,
        op: Some(proto::request::Op::Get(op)),
        ..proto::Request::default()
    };
    send.send(proto::Frame { groups: vec![PLAIN.into()], requests: vec![request], ..Default::default() }).unwrap();
    let answer = answers.message().await.unwrap().unwrap().answers.remove(0);
    let Some(proto::answer::Outcome::Found(found)) = answer.outcome else { panic!("{answer:?}") };
    assert_eq!((answer.id, &found.value.unwrap()[..]), (7, &b"v"[..]));

    let second = PeerClient::with_origin(channel, uri).exchange(stream::iter([hello(&served)])).await;
    assert_eq!(second.unwrap_err().code(), Code::FailedPrecondition, "one is all");

    // The exchange takes the connection along, but not the calls that are under way.
    served.origin.close_gate();
    let mut running = client.clone();
    let running = tokio::spawn(async move { running.get(get(USERS, "k")).await });
    timeout(PATIENCE, served.origin.requested(1)).await.unwrap();
    client.delete(delete(PLAIN, "k")).await.unwrap();
    drop(send);
    is_closed(client).await;
    served.origin.let_through(1);
    assert_eq!(running.await.unwrap().unwrap().into_inner().value.unwrap().data, "k=0");
    timeout(PATIENCE, closed).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_exchange_without_a_hello_does_not_keep_its_connection() {
    let served = Served::start().await;
    let (mut channel, _) = Channel::connect(served.address).await;
    let nothing = framed(&proto::Frame::default());
    let exchange = call(&served, "larder.peer.v1.Peer/Exchange", "10S", stream::iter([nothing]));
    assert_eq!(outcome(channel.send(exchange).await.unwrap()).await.0, Code::FailedPrecondition);
    is_closed(served.client_on(channel)).await;
}

/// Calls until the connection takes none any more.
async fn is_closed(mut client: CacheClient<Channel>) {
    let calls =
        async { while client.get(get(PLAIN, "k")).await.is_err_and(|status| status.code() == Code::NotFound) {} };
    timeout(PATIENCE, calls).await.unwrap();
}

/// Its answers wait in the node, up to a limit, and nobody else's do.
#[tokio::test]
async fn who_reads_no_answers_holds_up_itself_alone() {
    let served = Served::start().await;
    let mut client = served.client().await;
    client.put(put("long", vec![7; VALUE_LEN_MAX])).await.unwrap();
    let (channel, _) = Channel::connect(served.address).await;
    let unread = (0..10).map(|_| {
        let body = stream::iter([framed(&get(PLAIN, "long"))]);
        let (mut channel, call) = (channel.clone(), call(&served, "larder.v1.Cache/Get", "1S", body));
        async move { channel.send(call).await.unwrap() }
    });
    let unread = timeout(PATIENCE, join_all(unread)).await.unwrap();
    let mut other = served.client().await;
    for client in [&mut client, &mut other] {
        let read = timeout(PATIENCE, client.get(get(PLAIN, "long"))).await.unwrap().unwrap();
        assert_eq!(read.into_inner().value.unwrap().data.len(), VALUE_LEN_MAX);
    }
    let read = timeout(PATIENCE, join_all(unread.into_iter().map(outcome))).await.unwrap();
    let fitting = limits::CONNECTION_MESSAGES_LEN_MAX / VALUE_LEN_MAX;
    assert_eq!(read.iter().filter(|(code, _)| *code == Code::Ok).count(), fitting, "it may come to itself");
    assert!(read.iter().filter(|(code, _)| *code != Code::Ok).all(|(_, kind)| kind == "overloaded"), "{read:?}");
}
