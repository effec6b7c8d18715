//! What `larder.v1.Lock` answers, whoever keeps the locks.

use std::time::Duration;

use larder_core::{
    lock::{LOCK_NAME_LEN_MAX, LOCK_TOKEN_LEN_MAX},
    testing::fake_locks::Trouble,
};
use larder_peer::grpc::api::{AcquireRequest, ReleaseRequest, RenewRequest, lock_client::LockClient};
use tokio::time::timeout;
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::{
    channel::Channel,
    node::{Served, error},
};

const PATIENCE: Duration = Duration::from_secs(10);

async fn client(served: &Served) -> LockClient<Channel> {
    let uri = format!("http://{}", served.address).parse().unwrap();
    LockClient::with_origin(Channel::connect(served.address).await.0, uri)
}

fn acquire(name: &[u8], ttl_ms: u64, wait_ms: u64) -> AcquireRequest {
    AcquireRequest { name: name.to_vec().into(), ttl_ms: Some(ttl_ms), wait_ms: Some(wait_ms) }
}

fn release(name: &[u8], token: &str) -> ReleaseRequest {
    ReleaseRequest { name: name.to_vec().into(), token: token.into() }
}

fn renew(name: &[u8], token: &str) -> RenewRequest {
    RenewRequest { name: name.to_vec().into(), token: token.into() }
}

#[tokio::test]
async fn a_lock_is_had_held_renewed_and_freed() {
    let served = Served::start().await;
    let mut client = client(&served).await;
    let name = b"\0a/\xff";
    let first = client.acquire(acquire(name, 10_000, 0)).await.unwrap().into_inner();
    assert_eq!(first.ttl_ms, 10_000);
    let held = (Code::Aborted, "lock-held".to_owned());
    assert_eq!(error(client.acquire(acquire(name, 10_000, 0)).await), held);
    assert_eq!(client.renew(renew(name, &first.token)).await.unwrap().into_inner().ttl_ms, 10_000);
    let lost = (Code::FailedPrecondition, "lock-lost".to_owned());
    let long = "x".repeat(LOCK_TOKEN_LEN_MAX + 1);
    for token in ["another", "a b", &long] {
        assert_eq!(error(client.renew(renew(name, token)).await), lost);
        assert_eq!(error(client.release(release(name, token)).await), lost);
    }
    client.release(release(name, &first.token)).await.unwrap();
    assert_eq!(error(client.release(release(name, &first.token)).await), lost);
    assert_eq!(error(client.renew(renew(name, &first.token)).await), lost);
    let unsaid = AcquireRequest { name: name.to_vec().into(), ttl_ms: None, wait_ms: None };
    let second = client.acquire(unsaid).await.unwrap().into_inner();
    assert!(second.fence > first.fence && second.ttl_ms == 10_000);
}

#[tokio::test]
async fn what_is_no_request_for_a_lock_is_refused() {
    let served = Served::start().await;
    let mut client = client(&served).await;
    for request in
        [acquire(b"", 10_000, 0), acquire(b"a", 0, 0), acquire(b"a", 60_001, 0), acquire(b"a", 1_000, 3_600_000)]
    {
        assert_eq!(error(client.acquire(request).await), (Code::InvalidArgument, "bad-request".into()));
    }
    let long = acquire(&[b'x'; LOCK_NAME_LEN_MAX + 1], 10_000, 0);
    assert_eq!(error(client.acquire(long).await), (Code::ResourceExhausted, "too-large".into()));
    assert_eq!(error(client.renew(renew(b"a", "")).await), (Code::InvalidArgument, "bad-request".into()));
    assert_eq!(error(client.release(release(b"", "x")).await), (Code::InvalidArgument, "bad-request".into()));
}

#[tokio::test]
async fn a_service_that_is_away_is_worth_another_try() {
    let served = Served::start().await;
    let mut client = client(&served).await;
    served.locks.set_trouble(Trouble::Away);
    let status = client.acquire(acquire(b"a", 10_000, 0)).await.unwrap_err();
    assert!(status.get_details_retry_info().is_some());
    assert_eq!(status.code(), Code::Unavailable);
    served.locks.set_trouble(Trouble::Silent);
    let mut request = Request::new(acquire(b"a", 10_000, 60_000));
    request.set_timeout(Duration::from_millis(200));
    let late = timeout(PATIENCE, client.acquire(request)).await.unwrap();
    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_call_that_is_cancelled_while_it_waits_holds_nothing() {
    let served = Served::start().await;
    let (mut holder, mut waiter) = (client(&served).await, client(&served).await);
    let first = holder.acquire(acquire(b"a", 60_000, 0)).await.unwrap().into_inner();
    let waits = tokio::spawn(async move { waiter.acquire(acquire(b"a", 60_000, 60_000)).await });
    served.locks.is_waited_for(1).await;
    waits.abort();
    assert!(waits.await.is_err(), "it was not answered");
    holder.release(release(b"a", &first.token)).await.unwrap();
    let next = timeout(PATIENCE, holder.acquire(acquire(b"a", 60_000, 30_000))).await.unwrap();
    assert!(next.unwrap().into_inner().fence > first.fence);
}

#[tokio::test]
async fn who_waits_at_a_node_that_goes_is_sent_elsewhere() {
    let mut served = Served::start().await;
    let (mut holder, mut waiter) = (client(&served).await, client(&served).await);
    holder.acquire(acquire(b"a", 60_000, 0)).await.unwrap();
    let waits = tokio::spawn(async move { waiter.acquire(acquire(b"a", 60_000, 60_000)).await });
    served.locks.is_waited_for(1).await;
    drop(served.stop.take());
    let told = timeout(PATIENCE, waits).await.unwrap().unwrap();
    assert_eq!(error(told), (Code::Unavailable, "draining".into()));
}
