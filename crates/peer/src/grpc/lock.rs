//! `larder.v1.Lock`: locks that clients hold over gRPC, as `proto/larder/v1/lock.proto` has them.

use std::{future::Future, time::Duration};

use larder_core::{
    Error, ErrorKind, Locks,
    lock::{DEFAULT_TTL, DEFAULT_WAIT, LockName, LockRequest, LockToken},
};
use tokio::{sync::watch, time::timeout};
use tonic::{Request, Response, Status};

use super::{
    api::{
        AcquireRequest, AcquireResponse, ReleaseRequest, ReleaseResponse, RenewRequest, RenewResponse,
        lock_server::Lock,
    },
    cache::parts,
    convert::millis,
    status,
};

pub(super) struct LockDesk {
    pub(super) locks: Locks,
    /// Whether the node goes.
    pub(super) ending: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl Lock for LockDesk {
    async fn acquire(&self, request: Request<AcquireRequest>) -> Result<Response<AcquireResponse>, Status> {
        let (call, AcquireRequest { name, ttl_ms, wait_ms }) = parts(request)?;
        let (ttl, wait) =
            (ttl_ms.map_or(DEFAULT_TTL, Duration::from_millis), wait_ms.map_or(DEFAULT_WAIT, Duration::from_millis));
        let request = LockName::new(name).and_then(|name| LockRequest::new(name, ttl, wait)).map_err(status::of)?;
        let mut ending = self.ending.clone();
        let taken = tokio::select! {
            taken = within(call.left_beside(wait), self.locks.take_for_another(request)) => taken,
            // The listener that it is told by is there for as long as its connections are.
            _ = ending.wait_for(|ending| *ending) => {
                Err(Error::new(ErrorKind::Draining, "the node is leaving: ask another one for the lock"))
            }
        };
        let Some(delivery) = taken.map_err(status::of)? else { return Err(status::lock_held()) };
        let grant = delivery.grant();
        let (token, fence, ttl_ms) = (grant.token.as_str().to_owned(), grant.fence, millis(grant.hold.ttl));
        call.delivers(delivery);
        Ok(Response::new(AcquireResponse { token, fence, ttl_ms }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let (call, RenewRequest { name, token }) = parts(request)?;
        let (name, token) = (LockName::new(name).map_err(status::of)?, check(token)?);
        let renewed = within(call.left(), self.locks.service().renew(&name, &token)).await.map_err(status::of)?;
        let hold = renewed.ok_or_else(status::lock_lost)?;
        Ok(Response::new(RenewResponse { ttl_ms: millis(hold.ttl) }))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        let (call, ReleaseRequest { name, token }) = parts(request)?;
        let (name, token) = (LockName::new(name).map_err(status::of)?, check(token)?);
        match within(call.left(), self.locks.service().release(&name, &token)).await.map_err(status::of)? {
            true => Ok(Response::new(ReleaseResponse {})),
            false => Err(status::lock_lost()),
        }
    }
}

async fn within<T>(left: Duration, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = "there was no answer by the deadline: allow more time, or try again later";
    timeout(left, answer).await.unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, late)))
}

/// Text that can't be a token holds nothing, as one that is none holds nothing.
fn check(token: String) -> Result<LockToken, Status> {
    if token.is_empty() {
        let message = "the token is empty: give the one that came with the lock";
        return Err(status::of(Error::new(ErrorKind::Invalid, message)));
    }
    LockToken::new(token).map_err(|_| status::lock_lost())
}
