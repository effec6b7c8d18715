//! [`EtcdLocks`]: locks by etcd, 3.4 and later.
//!
//! A lock is a queue, as in etcd's own recipe (`client/v3/concurrency`): who wants it puts a key `{prefix}locks/{name}/{lease}`
//! under a lease of its own. The key that was made first has the lock, and the revision in which it was made is the fence. Who
//! waits watches the key before its own and nothing else, so that an end of a lock wakes one waiter.
//!
//! A note to the next holder is a key of its own under the holder's lease, which therefore is left to end by itself: so it lasts for a
//! ttl after the lock, costs no other lease, and goes away without anybody's doing.
//!
//! # What proves that a lease stands
//!
//! Not the answer to a keep-alive: leases are counted by etcd's leader, and a leader that has been replaced and doesn't know it
//! yet goes on answering (etcd issue 15247; Jepsen on etcd 3.4.3 tells what comes of it). The one in its place has begun the
//! lease's time anew when it took office, and that may end before what the old one promised. Nor is a read after the
//! keep-alive enough, which shows only that the lease has not ended yet.
//!
//! Both together prove it if they are of the same term of etcd's leaders. An answer tells the term of the latest change that the asked
//! member had applied; to a keep-alive it is taken down *before* the leader is asked, to a linearizable read *after* a majority
//! has confirmed the leader. So, where both are the term T, the leader of T was in office before the keep-alive and still when the
//! read began. Nobody else can have led between, and it is the one that the keep-alive went to.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use larder_core::{
    Clock, Error, LockService,
    lock::{Acquired, FENCE_MAX, Grant, Hold, LockName, LockRequest, LockToken},
};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use tokio::time::sleep;
use tonic::{Code, Status};

use super::{Acquisitions, Keeper, PAUSE_MAX, Patience, REQUEST_TIME_MAX, away, refused, waiting::kept_while_waiting};
use crate::{
    backoff::Backoff,
    etcd::{
        ENDPOINTS_MAX, EtcdConfig,
        client::{Client, is_https},
        end_of,
        proto::{
            Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader,
            TxnRequest, TxnResponse, WatchCreateRequest,
            compare::{CompareResult, CompareTarget, TargetUnion},
            event::EventType,
            range_request::{SortOrder, SortTarget},
            request_op::Request,
            response_op::Response,
        },
    },
    registry::tls_config,
};

/// The most acquisitions under way at one node. Each that waits is a watch and a lease of etcd's.
const ACQUISITIONS_MAX: usize = 1024;

/// How often the pair of a keep-alive and a read is tried: etcd had an election in between, and has a leader now.
const PROOF_TRIES_MAX: usize = 3;

/// The longest answer to a read of one key, in bytes: the key, and nothing of it.
const KEY_LEN_MAX: usize = 64 << 10;

/// How people call it in messages.
const ETCD: &str = "etcd";

/// Locks by etcd. Waiters are served in order of arrival, and fences are revisions of etcd.
///
/// etcd counts in whole seconds, and grants no less than one and a half of its election timeouts (2 s, as it comes): shorter ttls are made
/// longer, and the [`Hold`] says what was granted.
///
/// ```no_run
/// use larder_cluster::{EtcdConfig, locks::EtcdLocks};
/// use larder_core::Locks;
/// # #[derive(Clone, Copy)] struct Clock;
/// # impl larder_core::Clock for Clock {
/// #     fn now(&self) -> larder_core::Moment { larder_core::Moment::default() }
/// #     fn wall_ms(&self) -> u64 { 0 }
/// # }
/// # async fn work(clock: Clock) -> Result<(), larder_core::Error> {
/// let locks = Locks::new(EtcdLocks::new(EtcdConfig::new(["http://127.0.0.1:2379"]), clock, 42)?, clock);
/// let guard = locks.lock("nightly-job").acquire().await?;
/// println!("the fence is {}", guard.fence());
/// # Ok(()) }
/// ```
pub struct EtcdLocks {
    etcd: Arc<Queues>,
    acquisitions: Acquisitions,
}

impl EtcdLocks {
    /// Locks under the prefix of this configuration, whose `lease_ttl` is the membership's and not used here. Holds are counted on
    /// `clock`; `seed` is the start of what chance decides.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](larder_core::ErrorKind::Invalid) if an endpoint is no URL or a file can't be read. Whether
    /// etcd answers is not waited for.
    pub fn new(config: EtcdConfig, clock: impl Clock, seed: u64) -> Result<Self, Error> {
        let EtcdConfig { endpoints, prefix, user, tls, lease_ttl: _ } = config;
        let tls = tls_config(is_https(&endpoints), &tls)?;
        // Nodes begin with different endpoints.
        let first = usize::try_from(seed % ENDPOINTS_MAX as u64).unwrap_or_default();
        let etcd = Queues {
            client: Client::new(&endpoints, first, tls, user, REQUEST_TIME_MAX)?,
            prefix: format!("{prefix}locks/"),
            notes: format!("{prefix}lock-notes/"),
            clock: Arc::new(clock),
            seed: AtomicU64::new(seed),
        };
        Ok(Self { etcd: Arc::new(etcd), acquisitions: Acquisitions::new(ACQUISITIONS_MAX) })
    }
}

impl LockService for EtcdLocks {
    fn acquire(&self, request: LockRequest) -> BoxFuture<'_, Result<Acquired, Error>> {
        self.acquisitions.acquire(self.etcd.clone(), request)
    }

    fn renew<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<Option<Hold>, Error>> {
        Box::pin(async {
            let Some(place) = self.etcd.place_of(name, token) else { return Ok(None) };
            self.etcd.prove(&place).await.map_err(|status| failure(&status))
        })
    }

    fn release<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(self.etcd.free(name, token))
    }

    fn gone<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, ()> {
        Box::pin(async {
            let Some(place) = self.etcd.place_of(name, token) else { return };
            let mut backoff = self.etcd.backoff();
            loop {
                match self.etcd.stands(&place).await {
                    Ok(false) => return,
                    Ok(true) => backoff.reset(),
                    Err(_) => sleep(backoff.next()).await,
                }
            }
        })
    }
}

/// The queues for locks in etcd.
struct Queues {
    client: Client,
    /// What the keys of all queues begin with.
    prefix: String,
    /// What the keys of all notes begin with.
    notes: String,
    clock: Arc<dyn Clock>,
    seed: AtomicU64,
}

/// A place in a queue.
struct Place {
    key: Vec<u8>,
    lease: i64,
    /// The revision in which the key was made.
    created: i64,
}

/// What became of a place in a queue.
enum Taken {
    Granted(Grant),
    /// Others were before it until patience was over.
    Held,
    /// Its lease ended, because etcd was away for longer.
    PlaceLost,
}

impl Keeper for Queues {
    async fn take(&self, request: &LockRequest, patience: &mut Patience<'_>) -> Result<Acquired, Error> {
        loop {
            let lease = self.client.grant(request.ttl()).await.map_err(|status| failure(&status))?;
            let taken = self.line_up(request, lease.id, seconds(lease.ttl), patience).await;
            if let Ok(Taken::Granted(grant)) = taken {
                return Ok(Acquired::Granted(grant));
            }
            // Where this fails, the lease ends by itself.
            let _revoked = self.client.revoke(lease.id).await;
            match taken {
                Ok(Taken::PlaceLost) if !patience.is_over() => {}
                Ok(Taken::PlaceLost) => return Err(away(ETCD, "the lease ended while the lock was waited for")),
                Ok(_) => return Ok(Acquired::Held),
                Err(status) => return Err(failure(&status)),
            }
        }
    }

    async fn free(&self, name: &LockName, token: &LockToken) -> Result<bool, Error> {
        let Some(Place { key, lease, created }) = self.place_of(name, token) else { return Ok(false) };
        let compare = vec![is_of(&key, created)];
        let delete = Request::RequestDeleteRange(DeleteRangeRequest { key, range_end: Vec::new() });
        let success = vec![op(delete), op(Request::RequestRange(all_of(self.note(name))))];
        let request = TxnRequest { compare, success, failure: Vec::new() };
        let answer = self.client.txn(request).await.map_err(|status| failure(&status))?;
        if !answer.succeeded {
            return Ok(false);
        }
        if found(answer).is_none_or(|note| note.lease != lease) {
            // The lock is free already, and the lease holds nothing any more.
            let _revoked = self.client.revoke(lease).await;
        }
        Ok(true)
    }
}

impl Queues {
    async fn line_up(
        &self,
        request: &LockRequest,
        lease: i64,
        ttl: Duration,
        patience: &mut Patience<'_>,
    ) -> Result<Taken, Status> {
        let queue = self.queue(request.name());
        let key = key_in(&queue, lease);
        let created = self.put(&key, lease).await?;
        let place = Place { key, lease, created };
        let turn = self.turn(&queue, &place, ttl, patience).await?;
        if !matches!(turn, Turn::Mine) {
            return Ok(if matches!(turn, Turn::Never) { Taken::PlaceLost } else { Taken::Held });
        }
        let Some(hold) = self.prove(&place).await? else { return Ok(Taken::PlaceLost) };
        let fence = u64::try_from(created).ok().filter(|fence| *fence <= FENCE_MAX);
        let fence = fence.ok_or_else(|| Status::internal("etcd's revisions are greater than fences may be"))?;
        let token = format!("{:x}.{fence:x}", lease.cast_unsigned());
        let token = LockToken::new(token).map_err(|error| Status::internal(error.message()))?;
        let note_before = self.pass_note(request, &place).await;
        Ok(Taken::Granted(Grant { token, fence, hold, note_before }))
    }

    /// Leaves a note for the next holder, and tells what the one before had to say. The lock is worth more than that: what fails is as if there
    /// were none.
    async fn pass_note(&self, request: &LockRequest, place: &Place) -> Bytes {
        if request.note().is_empty() {
            return Bytes::new();
        }
        let (key, value) = (self.note(request.name()), request.note().to_vec());
        let read = Request::RequestRange(all_of(key.clone()));
        let write = Request::RequestPut(PutRequest { key, value, lease: place.lease });
        let compare = vec![is_of(&place.key, place.created)];
        let exchange = TxnRequest { compare, success: vec![op(read), op(write)], failure: Vec::new() };
        let before = self.client.txn(exchange).await.ok().and_then(found);
        before.map_or_else(Bytes::new, |entry| entry.value.into())
    }

    /// Waits until nobody is before this place. A look or a watch that fails is made again as long as patience lasts: etcd elects
    /// a leader now and then, and that must not send all waiters away.
    async fn turn(
        &self,
        queue: &[u8],
        place: &Place,
        ttl: Duration,
        patience: &mut Patience<'_>,
    ) -> Result<Turn, Status> {
        let renew = || async { self.client.keep_alive(place.lease).await.ok().map(|kept| kept.is_some()) };
        let mut kept = pin!(kept_while_waiting(ttl, renew));
        let mut backoff = self.backoff();
        loop {
            let ahead = match self.ahead(queue, place).await {
                Ok(None) => return Ok(Turn::Mine),
                Err(status) if patience.is_over() => return Err(status),
                Ok(_) if patience.is_over() => return Ok(Turn::NotYet),
                ahead => ahead,
            };
            let next = async {
                let gone = match ahead {
                    Ok(Some((key, revision))) => self.deleted(key, revision).await,
                    Ok(None) => Ok(()),
                    Err(status) => Err(status),
                };
                match gone {
                    Ok(()) => backoff.reset(),
                    Err(_) => sleep(backoff.next()).await,
                }
            };
            tokio::select! {
                () = next => {}
                () = &mut kept => return Ok(Turn::Never),
                () = patience.over() => {}
            }
        }
    }

    /// Puts a key under a lease and tells in which revision that made it.
    async fn put(&self, key: &[u8], lease: i64) -> Result<i64, Status> {
        let put = PutRequest { key: key.to_vec(), value: Vec::new(), lease };
        let request = TxnRequest { success: vec![op(Request::RequestPut(put))], ..TxnRequest::default() };
        let header = self.client.txn(request).await?.header;
        header.map(|header| header.revision).ok_or_else(|| Status::internal("etcd told no revision"))
    }

    /// The key right before this one in its queue, and the revision of the look; `None`: this is the first.
    async fn ahead(&self, queue: &[u8], place: &Place) -> Result<Option<(Vec<u8>, i64)>, Status> {
        let request = RangeRequest {
            key: queue.to_vec(),
            range_end: end_of(queue),
            limit: 1,
            sort_order: SortOrder::Descend.into(),
            sort_target: SortTarget::Create.into(),
            max_create_revision: place.created - 1,
            ..RangeRequest::default()
        };
        let answer = self.client.range(request, KEY_LEN_MAX).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        Ok(answer.kvs.into_iter().next().map(|entry| (entry.key, revision)))
    }

    /// Waits until a key is deleted after this revision.
    async fn deleted(&self, key: Vec<u8>, since: i64) -> Result<(), Status> {
        let create = WatchCreateRequest { key, start_revision: since + 1, ..WatchCreateRequest::default() };
        self.client.watch(create, |event| event.r#type() == EventType::Delete).await
    }

    /// Has a lease last for its ttl once more, so that no failure of etcd can make that untrue; `None`: the place is gone. Why it
    /// takes two steps is told at the top.
    async fn prove(&self, place: &Place) -> Result<Option<Hold>, Status> {
        for _ in 0..PROOF_TRIES_MAX {
            let sent = self.clock.now();
            let Some(kept) = self.client.keep_alive(place.lease).await? else { return Ok(None) };
            let found = self.find(place).await?;
            if !is_at(&found, place) {
                return Ok(None);
            }
            if term(kept.header).is_some_and(|term| found.header.is_some_and(|header| header.raft_term == term)) {
                return Ok(Some(Hold { sent, ttl: seconds(kept.ttl) }));
            }
        }
        Err(Status::unavailable("etcd changes its leader all the time"))
    }

    /// Whether the place was there until now: `true` after something happened to its key, `false` if it is gone.
    async fn stands(&self, place: &Place) -> Result<bool, Status> {
        let found = self.find(place).await?;
        if !is_at(&found, place) {
            return Ok(false);
        }
        self.deleted(place.key.clone(), found.header.map_or(0, |header| header.revision)).await?;
        Ok(true)
    }

    /// A linearizable read of a place's key.
    async fn find(&self, place: &Place) -> Result<RangeResponse, Status> {
        self.client.range(all_of(place.key.clone()), KEY_LEN_MAX).await
    }

    /// What the keys of a lock's queue begin with.
    fn queue(&self, name: &LockName) -> Vec<u8> {
        format!("{}{}/", self.prefix, percent_encode(name.as_bytes(), NON_ALPHANUMERIC)).into_bytes()
    }

    /// The key of the note to the next holder of a lock.
    fn note(&self, name: &LockName) -> Vec<u8> {
        format!("{}{}", self.notes, percent_encode(name.as_bytes(), NON_ALPHANUMERIC)).into_bytes()
    }

    /// The place that a token is for; `None`: it is no token of ours.
    fn place_of(&self, name: &LockName, token: &LockToken) -> Option<Place> {
        let (lease, created) = token.as_str().split_once('.')?;
        let (lease, created) = (hexadecimal(lease)?, i64::try_from(hexadecimal(created)?).ok()?);
        let lease = lease.cast_signed();
        Some(Place { key: key_in(&self.queue(name), lease), lease, created })
    }

    /// Waits for the next try, in each task from another start of chance.
    fn backoff(&self) -> Backoff {
        Backoff::new(PAUSE_MAX, self.seed.fetch_add(1, Ordering::Relaxed))
    }
}

/// What came of waiting for one's turn.
enum Turn {
    Mine,
    NotYet,
    Never,
}

fn key_in(queue: &[u8], lease: i64) -> Vec<u8> {
    [queue, format!("{:016x}", lease.cast_unsigned()).as_bytes()].concat()
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// What there is of one key.
fn all_of(key: Vec<u8>) -> RangeRequest {
    RangeRequest { key, ..RangeRequest::default() }
}

/// The key that a transaction's read found.
fn found(answer: TxnResponse) -> Option<KeyValue> {
    answer.responses.into_iter().find_map(|response| match response.response {
        Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
        _ => None,
    })
}

/// Reads a number as it was written, and in no other form.
fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok().filter(|number| format!("{number:x}") == text)
}

/// That a key is the one that was made in this revision.
fn is_of(key: &[u8], created: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.to_vec(),
        target_union: Some(TargetUnion::CreateRevision(created)),
    }
}

/// Whether a place's key is what was found.
fn is_at(found: &RangeResponse, place: &Place) -> bool {
    found.kvs.first().is_some_and(|entry| entry.create_revision == place.created && entry.lease == place.lease)
}

/// 0 is what an etcd without a leader has had, or one that tells none.
fn term(header: Option<ResponseHeader>) -> Option<u64> {
    header.map(|header| header.raft_term).filter(|term| *term > 0)
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or_default())
}

fn failure(status: &Status) -> Error {
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => refused(ETCD, status.message()),
        _ => away(ETCD, status.message()),
    }
}
