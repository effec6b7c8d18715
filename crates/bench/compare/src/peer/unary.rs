//! A call of its own for each get, as a gRPC service is commonly built: tonic, a channel, and a table behind it. It has
//! neither groups nor flights, neither ttl nor counters.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{
        Server,
        server::{Router, TcpIncoming},
    },
};

use super::{
    keys::{self, KEYS},
    sides::{Ended, asking, serving},
};
use proto::{
    GetRequest, GetResponse,
    values_client::ValuesClient,
    values_server::{Values, ValuesServer},
};

#[expect(unreachable_pub, clippy::default_trait_access, reason = "it is generated")]
mod proto {
    tonic::include_proto!("larder.compare");
}

/// Calls under way at once on a connection: more than any case has callers. hyper's own limit of 200 would make them wait.
const STREAMS_MAX: u32 = 1_024;

pub(crate) async fn serve(value_len: usize) -> Ended {
    let values = (0..KEYS).map(|index| (keys::key(index).to_vec().into(), keys::value(index, value_len).into()));
    let table = Table { values: values.collect(), answered: AtomicU64::new(0) };
    let table = Arc::new(table);
    let service = ValuesServer::from_arc(table.clone());
    let (address, server) = listen(|mut it| it.add_service(service)).await?;
    tokio::spawn(server);
    serving(address, || table.answered.load(Ordering::Relaxed)).await
}

/// A tonic server on a port of its own.
pub(super) async fn listen(
    services: impl FnOnce(Server) -> Router,
) -> Result<(String, impl Future<Output = Result<(), tonic::transport::Error>>), std::io::Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder().max_concurrent_streams(STREAMS_MAX);
    Ok((address, services(server).serve_with_incoming(incoming)))
}

pub(crate) async fn ask(address: &str, value_len: usize) -> Ended {
    let client = ValuesClient::connect(format!("http://{address}")).await?;
    asking(move |index| {
        let mut client = client.clone();
        async move {
            let answer = client.get(GetRequest { key: Bytes::copy_from_slice(&keys::key(index)) }).await;
            answer.is_ok_and(|answer| keys::is_right(index, value_len, &answer.into_inner().value))
        }
    })
    .await
}

struct Table {
    values: HashMap<Bytes, Bytes>,
    answered: AtomicU64,
}

#[tonic::async_trait]
impl Values for Table {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let value = self.values.get(&request.into_inner().key).cloned();
        value.map(|value| Response::new(GetResponse { value })).ok_or_else(|| Status::not_found("no such key"))
    }
}
