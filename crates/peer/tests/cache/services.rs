//! What is beside the cache on the listener: reflection and health; and how the listener ends.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::{StreamExt, stream};
use prost::Message;
use tokio::{net::TcpStream, time::timeout};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::{v1, v1alpha};

use crate::{
    channel::Channel,
    node::{PLAIN, Served, USERS, get, put},
};

const PATIENCE: Duration = Duration::from_secs(10);

const SERVICES: [&str; 4] = ["grpc.health.v1.Health", "larder.peer.v1.Peer", "larder.v1.Cache", "larder.v1.Lock"];

macro_rules! ask_reflection {
    ($served:expr, $version:ident, $question:ident($argument:expr)) => {{
        use $version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest,
        };
        let (channel, _) = Channel::connect($served.address).await;
        let uri = format!("http://{}", $served.address).parse().unwrap();
        let message_request = Some(MessageRequest::$question($argument.to_owned()));
        let asked = stream::iter([ServerReflectionRequest { host: String::new(), message_request }]);
        let mut told = ServerReflectionClient::with_origin(channel, uri).server_reflection_info(asked).await.unwrap();
        told.get_mut().message().await.map(|message| message.unwrap().message_response.unwrap())
    }};
}

#[tokio::test]
async fn reflection_lists_the_services_and_describes_them() {
    let served = Served::start().await;
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(listed) =
        ask_reflection!(served, v1, ListServices("")).unwrap()
    else {
        panic!("no list")
    };
    let mut names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(names, [&["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"], &SERVICES[1..]].concat());

    let v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(described) =
        ask_reflection!(served, v1alpha, FileContainingSymbol("larder.v1.Cache")).unwrap()
    else {
        panic!("no file")
    };
    let file = prost_types::FileDescriptorProto::decode(&described.file_descriptor_proto[0][..]).unwrap();
    assert_eq!(file.name(), "larder/v1/cache.proto");
    let methods: Vec<&str> = file.service[0].method.iter().map(|method| method.name()).collect();
    assert_eq!(methods, ["Get", "GetMany", "Put", "Delete", "Invalidate"]);
    let comments = file.source_code_info.unwrap().location;
    assert!(comments.iter().any(|place| place.leading_comments().contains("The value of a key")));
    assert!(ask_reflection!(served, v1, FileContainingSymbol("nothing")).is_err());
}

fn health(served: &Served, channel: Channel) -> HealthClient<Channel> {
    HealthClient::with_origin(channel, format!("http://{}", served.address).parse().unwrap())
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

#[tokio::test]
async fn health_is_what_readiness_is() {
    let served = Served::start().await;
    let mut client = health(&served, Channel::connect(served.address).await.0);
    for (is_ready, expected) in [(true, ServingStatus::Serving), (false, ServingStatus::NotServing)] {
        served.ready.store(is_ready, Ordering::Relaxed);
        for service in ["", "larder.v1.Cache", "larder.peer.v1.Peer"] {
            assert_eq!(client.check(of(service)).await.unwrap().into_inner().status(), expected, "{service}");
        }
        assert_eq!(client.check(of("larder.v1.Other")).await.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn who_watches_health_is_told_of_each_change_and_of_the_end() {
    let mut served = Served::start().await;
    let mut client = health(&served, Channel::connect(served.address).await.0);
    let mut watched = client.watch(of("larder.v1.Cache")).await.unwrap().into_inner();
    let mut unknown = client.watch(of("other")).await.unwrap().into_inner();
    assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    for is_ready in [true, false, true] {
        served.ready.store(is_ready, Ordering::Relaxed);
        let told = timeout(PATIENCE, watched.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(told.status() == ServingStatus::Serving, is_ready);
    }
    drop(served.stop.take());
    let told = timeout(PATIENCE, watched.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::NotServing);
    assert!(timeout(PATIENCE, watched.next()).await.unwrap().is_none());
    timeout(PATIENCE, &mut served.listener).await.expect("nothing is under way any more").unwrap();
}

#[tokio::test]
async fn told_to_stop_it_finishes_calls_and_takes_no_more() {
    let mut served = Served::start().await;
    let (channel, closed) = Channel::connect(served.address).await;
    let mut client = served.client_on(channel);
    let (_idle, idle_closed) = Channel::connect(served.address).await;
    client.put(put("k", "v")).await.unwrap();
    served.origin.close_gate();
    let mut running = client.clone();
    let running = tokio::spawn(async move { running.get(get(USERS, "k")).await });
    timeout(PATIENCE, served.origin.requested(1)).await.unwrap();
    drop(served.stop.take());
    // Told by a GOAWAY, whatever is under way.
    timeout(PATIENCE, idle_closed).await.unwrap().unwrap();
    timeout(PATIENCE, async { while client.get(get(PLAIN, "k")).await.is_ok() {} }).await.expect("calls are refused");
    assert!(TcpStream::connect(served.address).await.is_err(), "and so are connections");
    served.origin.let_through(1);
    let value = running.await.unwrap().unwrap().into_inner().value.unwrap();
    assert_eq!(value.data, "k=0");
    timeout(PATIENCE, &mut served.listener).await.unwrap().unwrap();
    timeout(PATIENCE, closed).await.unwrap().unwrap();
}
