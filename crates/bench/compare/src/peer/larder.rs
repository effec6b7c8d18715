//! Larder as a library, the whole way: the asking node has a group and a view of two members, of which the other owns
//! every key; the serving node has loaded them all.

use std::{convert::Infallible, future::pending, iter};

use fastrand::Rng;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use larder::{
    ByteSize, Error, Group, Key, Member, Node, SystemClock,
    cluster::Static,
    core::stats::Protocol,
    loader_fn,
    peer::{
        grpc::{self, GrpcTransport},
        http::{HttpTransport, groupcache},
    },
};
use tokio::net::TcpListener;

use super::{
    keys::{self, KEYS},
    sides::{Ended, asking, asking_in_batches, serving},
};

const GROUP: &str = "things";

/// More than all keys and values.
const CAPACITY: ByteSize = ByteSize::gib(2);

/// Where the asking node would be reached. It owns nothing, so that nobody tries.
const NOBODY_ASKS: &str = "127.0.0.1:9";

pub(crate) async fn serve(protocol: Protocol, value_len: usize) -> Ended {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let node = start("serving", &address, protocol).await?;
    let loader = loader_fn(move |key: Key| async move {
        Ok::<_, Infallible>(keys::index(key.as_bytes()).map(|index| keys::value(index, value_len)))
    });
    let group = node.group(GROUP, loader).capacity(CAPACITY).open()?;
    for index in 0..KEYS {
        group.get(keys::key(index)).await?;
    }
    let core = node.core().clone();
    tokio::spawn(async move {
        match protocol {
            Protocol::Grpc => {
                grpc::serve(listener, core.service(protocol), core.standing().clone(), pending()).await;
            }
            Protocol::Http => serve_http(listener, core).await,
        }
    });
    serving(address, || group.core().stats().server_requests.of(protocol).sum()).await
}

/// The asking node, and its group.
async fn asker(protocol: Protocol, address: &str) -> Result<(Node, Group), Error> {
    let node = start("asking", address, protocol).await?;
    let no_loads = loader_fn(|_: Key| async { Err::<Option<Vec<u8>>, _>("the asking node is to load nothing") });
    let group = node.group(GROUP, no_loads).open()?;
    Ok((node, group))
}

/// Each caller asks for so many keys at once.
pub(crate) async fn ask_many(keys_len: usize, address: &str, value_len: usize) -> Ended {
    let (_node, group) = asker(Protocol::Grpc, address).await?;
    asking_in_batches(keys_len as u64, move |index| {
        let group = group.clone();
        async move {
            let mut rng = Rng::with_seed(index);
            let indices: Vec<u64> =
                iter::once(index).chain(iter::repeat_with(|| rng.u64(..KEYS))).take(keys_len).collect();
            let Ok(answers) = group.get_many(indices.iter().map(|index| keys::key(*index))).await else { return false };
            let mut answers = indices.into_iter().zip(answers);
            answers.all(|(index, answer)| matches!(answer, Ok(Some(value)) if keys::is_right(index, value_len, &value)))
        }
    })
    .await
}

pub(crate) async fn ask(protocol: Protocol, address: &str, value_len: usize) -> Ended {
    let (_node, group) = asker(protocol, address).await?;
    asking(move |index| {
        let group = group.clone();
        async move {
            let answer = group.get(keys::key(index)).await;
            matches!(answer, Ok(Some(value)) if keys::is_right(index, value_len, &value))
        }
    })
    .await
}

async fn start(name: &str, serving: &str, protocol: Protocol) -> Result<Node, Error> {
    let asker = Member { weight: 0, ..Member::new("asking", NOBODY_ASKS) };
    let node = Node::builder().name(name).membership(Static::new([Member::new("serving", serving), asker])?);
    match protocol {
        Protocol::Grpc => node.transport(GrpcTransport::new()),
        Protocol::Http => node.transport(HttpTransport::new()),
    }
    .start()
    .await
}

async fn serve_http(listener: TcpListener, node: larder::core::Node) {
    let peers = node.service(Protocol::Http);
    while let Ok((stream, _)) = listener.accept().await {
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let peers = peers.clone();
        let answer = service_fn(move |request: Request<Incoming>| {
            let peers = peers.clone();
            async move {
                let answer = groupcache::serve(&*peers, &SystemClock, request.uri().path(), request.headers());
                Ok::<_, Infallible>(answer.await)
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}
