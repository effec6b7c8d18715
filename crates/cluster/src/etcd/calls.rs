//! What several parts of Larder ask of etcd, as calls of [`Client`].

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::{
    client::Client,
    proto::{
        Event, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
        LeaseRevokeRequest, RangeRequest, RangeResponse, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest,
        kv_client::KvClient, lease_client::LeaseClient, watch_client::WatchClient, watch_request::RequestUnion,
    },
};

/// How long a watch is waited on before it is begun anew, so that one that was forgotten by etcd is not for ever.
const WATCH_TIME_MAX: Duration = Duration::from_secs(60);

impl Client {
    /// A new lease of this ttl, in whole seconds.
    pub(crate) async fn grant(&self, ttl: Duration) -> Result<LeaseGrantResponse, Status> {
        let ttl = i64::try_from(ttl.as_millis().div_ceil(1_000)).unwrap_or(i64::MAX);
        let request = LeaseGrantRequest { ttl, id: 0 };
        let ask = |connection| async move { LeaseClient::new(connection).lease_grant(request).await };
        Ok(self.call(ask).await?.into_inner())
    }

    /// Has a lease last for its ttl once more; `None`: it is gone.
    pub(crate) async fn keep_alive(&self, lease: i64) -> Result<Option<LeaseKeepAliveResponse>, Status> {
        let ask = |connection| async move {
            let request = stream::iter([LeaseKeepAliveRequest { id: lease }]).chain(stream::pending());
            let answers = LeaseClient::new(connection).lease_keep_alive(request).await?;
            let answer = answers.into_inner().message().await?;
            answer.ok_or_else(|| Status::unavailable("etcd closed the stream of renewals"))
        };
        match self.call(ask).await {
            Ok(answer) => Ok(Some(answer).filter(|answer| answer.ttl > 0)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Ends a lease, and the keys under it; one that has ended is fine.
    pub(crate) async fn revoke(&self, lease: i64) -> Result<(), Status> {
        let ask = |connection| async move {
            LeaseClient::new(connection).lease_revoke(LeaseRevokeRequest { id: lease }).await
        };
        match self.call(ask).await {
            Err(status) if status.code() != Code::NotFound => Err(status),
            _ => Ok(()),
        }
    }

    /// A read, whose answer has this many bytes at most.
    pub(crate) async fn range(&self, request: RangeRequest, len_max: usize) -> Result<RangeResponse, Status> {
        let ask = |connection| {
            let request = request.clone();
            async move { KvClient::new(connection).max_decoding_message_size(len_max).range(request).await }
        };
        Ok(self.call(ask).await?.into_inner())
    }

    /// A transaction.
    pub(crate) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        let ask = |connection| {
            let request = request.clone();
            async move { KvClient::new(connection).txn(request).await }
        };
        Ok(self.call(ask).await?.into_inner())
    }

    /// Waits for an event of this kind. It may end without one, now and then: whoever watches looks what there is.
    pub(crate) async fn watch(
        &self,
        create: WatchCreateRequest,
        is_of_interest: impl Fn(&Event) -> bool,
    ) -> Result<(), Status> {
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let ask = |connection| {
            let request = stream::iter([create.clone()]).chain(stream::pending());
            async move { WatchClient::new(connection).watch(request).await }
        };
        let mut answers = self.call(ask).await?.into_inner();
        let event = async {
            while let Some(answer) = answers.message().await? {
                // What was compacted away may have been such an event.
                if answer.events.iter().any(&is_of_interest) || answer.compact_revision > 0 {
                    return Ok(());
                }
                if answer.canceled {
                    return Err(Status::unavailable(format!("etcd ended a watch: {}", answer.cancel_reason)));
                }
            }
            Err(Status::unavailable("etcd closed a watch"))
        };
        timeout(WATCH_TIME_MAX, event).await.unwrap_or(Ok(()))
    }
}
