//! [`LockDesk`]: `/v1/locks/{name}`, for programs that hold locks over HTTP.
//!
//! A node keeps nothing of what it hands out: the token is all that a lock is renewed and freed with, at any node. So a client that goes
//! away while it waits must be noticed, because nobody else would ever free what it is granted then.

use std::{collections::HashSet, future::Future, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::request::Parts;
use hyper::body::Incoming;
use larder::peer::http::headers;
use larder_core::{
    Error, ErrorKind, Locks, Node,
    lock::{DEFAULT_TTL, DEFAULT_WAIT, HeldLock, LockName, LockRequest, LockToken},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    Response,
    api::{json, json_of, written},
    body::{Body, Uploads},
    intake::ClientEnd,
    problem::{Problem, ProblemKind},
    route,
};

/// The longest body of a request, in bytes: a token and some names, with room.
const REQUEST_LEN_MAX: usize = 4 * 1024;

/// The most locks that are listed: what people read is shorter by far.
const HELD_SHOWN_MAX: usize = 1_000;

/// Answers clients that take, renew and free locks.
pub(super) struct LockDesk {
    pub(super) locks: Locks,
    pub(super) draining: watch::Receiver<bool>,
}

/// What a lock is asked for with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    ttl_ms: Option<u64>,
    wait_ms: Option<u64>,
}

/// What a lock is renewed with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    token: String,
}

impl LockDesk {
    /// Takes a lock.
    pub(super) async fn take(
        &self,
        uploads: &Uploads,
        name: &str,
        head: &Parts,
        body: Incoming,
    ) -> Result<Response, Problem> {
        let (name, deadline) = begin(name, head)?;
        let Wanted { ttl_ms, wait_ms } = read(uploads, body, deadline, r#"{"ttl_ms":10000,"wait_ms":5000}"#).await?;
        let (ttl, wait) =
            (ttl_ms.map_or(DEFAULT_TTL, Duration::from_millis), wait_ms.map_or(DEFAULT_WAIT, Duration::from_millis));
        let request = LockRequest::new(name, ttl, wait)?;
        // Who says how long all may take means it; else what is waited for comes on top of what a request may take.
        let is_bounded = head.headers.contains_key(headers::TIMEOUT_MS);
        let deadline = if is_bounded { deadline } else { deadline + wait };
        // Who doesn't wait may have ended its half of the connection with the request, and still reads the answer.
        let end = head.extensions.get::<ClientEnd>().filter(|_| wait > Duration::ZERO).cloned();
        let mut draining = self.draining.clone();
        let taken = tokio::select! {
            // In this order: who has gone gets nothing, whatever there is.
            biased;
            () = reached(end) => Err(Error::new(ErrorKind::TimedOut, "the client has gone: keep the connection while waiting")),
            taken = within(deadline, self.locks.take_for_another(request)) => taken,
            // The sender is there until all is served.
            _ = draining.wait_for(|draining| *draining) => {
                Err(Error::new(ErrorKind::Draining, "the node is leaving: ask another one for the lock"))
            }
        };
        let Some(delivery) = taken? else {
            let detail = "Another held the lock all the time: wait longer with wait_ms, or try again later.";
            return Err(Problem::new(ProblemKind::LockHeld, detail));
        };
        let grant = delivery.grant();
        let told = json!({ "token": grant.token.as_str(), "fence": grant.fence, "ttl_ms": millis(grant.hold.ttl) });
        Ok(json_of(Body::granted(told.to_string().into_bytes(), delivery)))
    }

    /// Has a lock last for its ttl once more.
    pub(super) async fn renew(
        &self,
        uploads: &Uploads,
        name: &str,
        head: &Parts,
        body: Incoming,
    ) -> Result<Response, Problem> {
        let (name, deadline) = begin(name, head)?;
        let Held { token } = read(uploads, body, deadline, r#"{"token":"…"}"#).await?;
        let token = check(token)?;
        match within(deadline, self.locks.service().renew(&name, &token)).await? {
            Some(hold) => Ok(json(&json!({ "ttl_ms": millis(hold.ttl) }))),
            None => Err(lost()),
        }
    }

    /// Frees a lock.
    pub(super) async fn free(&self, name: &str, query: &str, head: &Parts) -> Result<Response, Problem> {
        let (name, deadline) = begin(name, head)?;
        let missing =
            || Problem::bad_request("Say with which token the lock is held: DELETE /v1/locks/NAME?token=TOKEN.");
        let token = query.strip_prefix("token=").filter(|token| !token.contains('&')).ok_or_else(missing)?;
        let token = String::from_utf8(route::decode(token)?.into_owned()).map_err(|_| lost())?;
        let token = check(token)?;
        match within(deadline, self.locks.service().release(&name, &token)).await? {
            true => Ok(written(None)),
            false => Err(lost()),
        }
    }

    /// `GET /v1/locks`.
    pub(super) fn held(&self, node: &Node) -> Value {
        // What the node keeps for all knows of waiters, too; of other services it knows what was had here.
        let mut held = node.kept_locks();
        let kept: HashSet<(LockName, u64)> = held.iter().map(|lock| (lock.name.clone(), lock.fence)).collect();
        held.extend(self.locks.held().into_iter().filter(|lock| !kept.contains(&(lock.name.clone(), lock.fence))));
        held.sort_by(|one, other| (&one.name, one.fence).cmp(&(&other.name, other.fence)));
        let shown: Vec<Value> = held.iter().take(HELD_SHOWN_MAX).map(held_lock).collect();
        json!({ "locks": shown, "more": held.len() - shown.len() })
    }
}

/// Whoever is shown a token could free the lock: it stays out.
fn held_lock(lock: &HeldLock) -> Value {
    let HeldLock { name, holder, fence, ttl_left, waiters } = lock;
    // Names that are no text come in Base64, as keys do.
    let (name, name_b64) = match str::from_utf8(name.as_bytes()) {
        Ok(name) => (Some(name), None),
        Err(_) => (None, Some(STANDARD.encode(name.as_bytes()))),
    };
    json!({
        "name": name,
        "name_b64": name_b64,
        "node": **holder,
        "fence": fence,
        "ttl_left_ms": millis(*ttl_left),
        "waiters": waiters,
    })
}

async fn reached(end: Option<ClientEnd>) {
    match end {
        Some(end) => end.reached().await,
        None => std::future::pending().await,
    }
}

async fn within<T>(deadline: Instant, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = "there was no answer by the deadline: allow more time with Larder-Timeout-Ms, or try again later";
    timeout_at(deadline, answer).await.unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, late)))
}

/// What each request begins with: which lock it is about, and until when it is to be answered.
fn begin(name: &str, head: &Parts) -> Result<(LockName, Instant), Problem> {
    let name = LockName::new(route::decode(name)?.into_owned())?;
    Ok((name, Instant::now() + headers::timeout(&head.headers)?))
}

/// What a request says beside that.
async fn read<T: DeserializeOwned>(
    uploads: &Uploads,
    body: Incoming,
    deadline: Instant,
    example: &str,
) -> Result<T, Problem> {
    let body = uploads.read(body, REQUEST_LEN_MAX, deadline, async |body| Ok(body)).await?;
    parse(&body, example)
}

/// Text that can't be a token holds nothing, as one that is none holds nothing.
fn check(token: String) -> Result<LockToken, Problem> {
    if token.is_empty() {
        return Err(Problem::bad_request("The token is empty: give the one that came with the lock."));
    }
    LockToken::new(token).map_err(|_| lost())
}

fn lost() -> Problem {
    let detail =
        "The lock ran out, was freed, or never was held with this token: stop what it protects, and take it anew.";
    Problem::new(ProblemKind::LockLost, detail)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn parse<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, Problem> {
    let wrong = |reason: &str| Problem::bad_request(format!("The body must be JSON like {example}: {reason}."));
    if !body.trim_ascii_start().starts_with(b"{") {
        // serde would take a list for an object without names.
        return Err(wrong("this is no object"));
    }
    serde_json::from_slice(body).map_err(|error| wrong(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_request_for_a_lock_is_refused() {
        for body in
            ["", "[]", "[1,2]", "{", r#"{"ttl":1}"#, r#"{"ttl_ms":-1}"#, r#"{"ttl_ms":1.5}"#, r#"{"wait_ms":"5s"}"#]
        {
            assert!(parse::<Wanted>(body.as_bytes(), "…").is_err(), "{body}");
        }
        for body in ["{}", r#" {"ttl_ms":100}"#, r#"{"wait_ms":0,"ttl_ms":60000}"#] {
            assert!(parse::<Wanted>(body.as_bytes(), "…").is_ok(), "{body}");
        }
        for body in ["", "{}", r#"{"token":1}"#, r#"{"token":"a","fence":1}"#] {
            assert!(parse::<Held>(body.as_bytes(), "…").is_err(), "{body}");
        }
    }

    #[test]
    fn a_token_that_can_be_none_is_one_that_holds_nothing() {
        assert_eq!(check("a b".into()).unwrap_err().kind(), ProblemKind::LockLost);
        assert_eq!(check(String::new()).unwrap_err().kind(), ErrorKind::Invalid.into());
        assert!(check("abc-1".into()).is_ok());
    }
}
