//! [`ByHttp`]: locks by a node, asked as its clients ask it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, StatusCode};
use larder::SystemClock;
use larder_core::{
    Clock, Error, ErrorKind, LockService, Moment,
    lock::{Acquired, Grant, Hold, LockName, LockRequest, LockToken},
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::commands::{
    Exit, NodeUrl,
    client::{ANSWER_TIMEOUT, NodeClient, lock_path, problem, whole},
};

/// How long a renewal may take: a node answers in milliseconds, and one that doesn't answer must leave time for another try.
const RENEWAL_TIME_MAX: Duration = Duration::from_secs(1);

/// How soon a node that gives no locks now is asked again, within the wait.
const PAUSE: Duration = Duration::from_millis(250);

/// The share of a ttl after which a lock that could not be renewed is given up, in tenths: what is left of the ttl is for ending the
/// command.
const GIVEN_UP_AFTER_TENTHS: u32 = 7;

/// The share of a ttl for which a lock is surely held, in tenths, as all holders count it.
const HELD_TENTHS: u32 = 9;

/// A node, and what is known of the one lock that is taken there.
pub(super) struct ByHttp {
    client: NodeClient,
    renewal_time_max: Duration,
    /// Until when the lock is surely held.
    sure_until: Mutex<Moment>,
}

/// A lock as a node grants it.
#[derive(Deserialize)]
struct Granted {
    token: String,
    fence: u64,
    ttl_ms: u64,
}

/// A renewal as a node answers it.
#[derive(Deserialize)]
struct Renewed {
    ttl_ms: u64,
}

/// What a node answers.
enum Told {
    Done(Bytes),
    /// Another holds the lock, or it was lost.
    Conflict,
}

impl ByHttp {
    pub(super) fn new(node: NodeUrl, ttl: Duration) -> Self {
        let renewal_time_max = RENEWAL_TIME_MAX.min(ttl / 3);
        Self { client: NodeClient::new(node), renewal_time_max, sure_until: Mutex::new(Moment::default()) }
    }

    /// Until when nobody else can have the lock, whatever became of it.
    pub(super) fn sure_until(&self) -> Moment {
        *self.sure_until.lock()
    }

    /// What is held since this was sent. It tells of less than was granted, so that the guard gives the lock up while there is time.
    fn hold(&self, sent: Moment, ttl_ms: u64) -> Hold {
        let ttl = Duration::from_millis(ttl_ms);
        let mut sure_until = self.sure_until.lock();
        *sure_until = (*sure_until).max(sent + ttl * HELD_TENTHS / 10);
        Hold { sent, ttl: ttl * GIVEN_UP_AFTER_TENTHS / HELD_TENTHS }
    }

    async fn take(&self, request: LockRequest) -> Result<Acquired, Error> {
        let deadline = Instant::now() + request.wait();
        let mut has_answered = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match self.try_to_take(&request, left).await {
                Ok(acquired) => return Ok(acquired),
                Err(error) => error,
            };
            // Nobody waits for a node that never was there.
            has_answered |= error.kind() != ErrorKind::OwnerUnreachable;
            let left = deadline.saturating_duration_since(Instant::now());
            if !has_answered || !is_worth_another_try(error.kind()) || left < PAUSE {
                return Err(error);
            }
            sleep(PAUSE).await;
        }
    }

    async fn try_to_take(&self, request: &LockRequest, wait: Duration) -> Result<Acquired, Error> {
        let (sent, path) = (SystemClock.now(), lock_path(request.name()));
        let body = json!({ "ttl_ms": millis(request.ttl()), "wait_ms": millis(wait) }).to_string();
        let Told::Done(body) = self.ask(Method::POST, &path, body, wait + ANSWER_TIMEOUT).await? else {
            return Ok(Acquired::Held);
        };
        let Granted { token, fence, ttl_ms } = parse(&body)?;
        let (token, hold) = (LockToken::new(token)?, self.hold(sent, ttl_ms));
        if SystemClock.now() < hold.sent + hold.ttl / 3 {
            return Ok(Acquired::Granted(Grant { token, fence, hold, note_before: Bytes::new() }));
        }
        // When the ttl began is not known of a lock that was waited for. Of a renewal it is.
        match self.renew(request.name(), &token).await {
            Ok(Some(hold)) => Ok(Acquired::Granted(Grant { token, fence, hold, note_before: Bytes::new() })),
            Ok(None) => Ok(Acquired::Held),
            Err(error) => {
                // Where this fails, the ttl frees it.
                let _freed = timeout(self.renewal_time_max, self.release(request.name(), &token)).await;
                Err(error)
            }
        }
    }

    async fn ask(&self, method: Method, path: &str, body: String, time_max: Duration) -> Result<Told, Error> {
        let unreachable = |message: &str| Error::new(ErrorKind::OwnerUnreachable, message.to_owned());
        let response = match timeout(time_max, self.client.send(method, path, body.into())).await {
            Ok(response) => response.map_err(|failure| match failure.exit() {
                Exit::Unreachable => unreachable(&failure.to_string()),
                _ => Error::new(ErrorKind::Invalid, failure.to_string()),
            })?,
            Err(_) => return Err(unreachable("the node did not answer in time: is it overloaded, or standing still?")),
        };
        let status = response.status();
        if status.is_success() {
            return whole(response).await.map(Told::Done).map_err(|failure| unreachable(&failure.to_string()));
        }
        let Some(problem) = problem(response).await else {
            let message = format!("the node answered {status}, which no Larder node would: is it one?");
            return Err(Error::new(ErrorKind::Origin, message));
        };
        if status == StatusCode::CONFLICT {
            return Ok(Told::Conflict);
        }
        let kind = match ErrorKind::from_slug(&problem.r#type) {
            // It is the node that can reach nobody: it was reached.
            Some(ErrorKind::OwnerUnreachable) => ErrorKind::NoAuthority,
            Some(kind) => kind,
            None => ErrorKind::Origin,
        };
        Err(Error::new(kind, problem.sentence()))
    }
}

impl LockService for ByHttp {
    fn acquire(&self, request: LockRequest) -> BoxFuture<'_, Result<Acquired, Error>> {
        Box::pin(self.take(request))
    }

    fn renew<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<Option<Hold>, Error>> {
        Box::pin(async {
            let (sent, body) = (SystemClock.now(), json!({ "token": token.as_str() }).to_string());
            Ok(match self.ask(Method::PUT, &lock_path(name), body, self.renewal_time_max).await? {
                Told::Done(body) => Some(self.hold(sent, parse::<Renewed>(&body)?.ttl_ms)),
                Told::Conflict => None,
            })
        })
    }

    fn release<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async {
            let path = format!("{}?token={}", lock_path(name), token.as_str());
            let told = self.ask(Method::DELETE, &path, String::new(), ANSWER_TIMEOUT).await?;
            Ok(matches!(told, Told::Done(_)))
        })
    }
}

/// Whether it may go otherwise in a moment.
fn is_worth_another_try(kind: ErrorKind) -> bool {
    use ErrorKind as E;
    matches!(kind, E::Overloaded | E::OwnerUnreachable | E::NoAuthority | E::Draining | E::TimedOut)
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Error> {
    let strange =
        |error| Error::new(ErrorKind::Origin, format!("the node does not answer as a Larder node does: {error}"));
    serde_json::from_slice(body).map_err(strange)
}

/// Rounded up: a wait that is all but over is asked for all the same.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
