//! [`ConsulLocks`]: locks by Consul's sessions.
//!
//! A lock is the key `{service}/locks/{name}` while a session has it. The fence is the key's `ModifyIndex` as of the transaction in
//! which it was locked: an index of Consul's log, which grows also where the key was deleted in between, as `LockIndex` doesn't.
//! Who waits asks with blocking queries until nobody has the key, and then tries to lock it; of several, one gets it.
//!
//! A note to the next holder is a key of its own, `{service}/locks/note/{name}/`, which a session of the node's notes has, so that it goes
//! away by itself. Whoever has the lock takes it down and puts its own in its place.
//!
//! # What a session promises, and what is made of it
//!
//! - A session's ttl is 10 s at least, and Consul may take twice as long to end it. It ends none sooner; a new leader begins all
//!   ttls anew.
//! - Sessions are also ended out of turn: by operators, or with the machine that they were made at. Consul then keeps the key from
//!   everybody for the session's *lock-delay*. Here that is as long as the ttl, so that whatever ended the session, its holder has
//!   given the lock up by its own clock before another gets it. A lock that is released is free at once.
//! - Without being told otherwise, Consul ends a session when its agent seems to be gone. These have no checks: that a machine
//!   seems to be gone to others must not free what a live process holds.
//!
//! A renewal is answered by who believes to lead. One that is no leader any more believes so for some seconds at most, and the ttl
//! counts double; the `consistent` read that follows shows that the session has the key.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, StatusCode};
use larder_core::{
    Clock, Error, ErrorKind, LockService, Moment,
    lock::{Acquired, FENCE_MAX, Grant, Hold, LOCK_TTL_MAX, LockName, LockRequest, LockToken},
};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::sleep};

use super::{Acquisitions, Keeper, PAUSE_MAX, Patience, REQUEST_TIME_MAX, away, refused, waiting::kept_while_waiting};
use crate::{
    backoff::Backoff,
    consul::{
        ConsulConfig,
        client::{Answer, Client},
        encoded,
    },
    registry::{Failure, tls_config},
};

/// The shortest ttl of a session that agents take unless they are told another, as `session_ttl_min`.
pub const SESSION_TTL_MIN: Duration = Duration::from_secs(10);

/// The most acquisitions under way at one node. Each that waits is a connection to the agent, which takes 200 from one address.
const ACQUISITIONS_MAX: usize = 128;

/// How long a blocking query waits.
const QUERY_TIME_MAX: Duration = Duration::from_secs(30);

/// Consul adds up to a sixteenth to the time that a query asks for, so that not all end at once.
const QUERY_JITTER_SHARE: u32 = 16;

/// How often a key is tried that a lock-delay keeps from everybody: its end wakes nobody, and comes only after a holder that did not
/// release its lock.
const DELAYED_PAUSE: Duration = Duration::from_millis(500);

/// For how long a session has notes put under it. They last for so long at least after that: what they tell of has changed by then.
const NOTES_TIME: Duration = Duration::from_secs(60);

/// How people call it in messages.
const CONSUL: &str = "Consul";

/// Locks by Consul. Of those who wait, any may be the next; fences are indexes of Consul.
///
/// A ttl that is shorter than agents take (10 s, as they come) is made as long as that, and the [`Hold`] says what was
/// granted. A lock that was not released is free after one to two ttls and a lock-delay, which is a ttl too.
///
/// ```no_run
/// use larder_cluster::{ConsulConfig, locks::{CONSUL_SESSION_TTL_MIN, ConsulLocks}};
/// use larder_core::Locks;
/// # #[derive(Clone, Copy)] struct Clock;
/// # impl larder_core::Clock for Clock {
/// #     fn now(&self) -> larder_core::Moment { larder_core::Moment::default() }
/// #     fn wall_ms(&self) -> u64 { 0 }
/// # }
/// # async fn work(clock: Clock) -> Result<(), larder_core::Error> {
/// let config = ConsulConfig::new("http://127.0.0.1:8500");
/// let locks = Locks::new(ConsulLocks::new(config, CONSUL_SESSION_TTL_MIN, clock, 42)?, clock);
/// let guard = locks.lock("nightly-job").acquire().await?;
/// println!("the fence is {}", guard.fence());
/// # Ok(()) }
/// ```
pub struct ConsulLocks {
    consul: Arc<Sessions>,
    acquisitions: Acquisitions,
}

impl ConsulLocks {
    /// Locks by the agent of this configuration, under the name of its service; its `lease_ttl` is the membership's and not used
    /// here. `session_ttl_min` is the shortest ttl that the agents take. Holds are counted on `clock`; `seed` is the start of what chance
    /// decides.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if the URL can't be one, a file can't be read, or the shortest ttl is longer than 60 s.
    /// Whether Consul answers is not waited for.
    pub fn new(config: ConsulConfig, session_ttl_min: Duration, clock: impl Clock, seed: u64) -> Result<Self, Error> {
        if session_ttl_min > LOCK_TTL_MAX {
            let message = "Consul's shortest ttl of a session is longer than locks may be: take 60 s or less";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let ConsulConfig { url, service, token, tls, lease_ttl: _ } = config;
        let tls = tls_config(url.starts_with("https:"), &tls)?;
        let consul = Sessions {
            client: Client::new(&url, token.as_deref(), tls, REQUEST_TIME_MAX)?,
            folder: format!("{service}/locks/"),
            session_ttl_min,
            clock: Arc::new(clock),
            seed: AtomicU64::new(seed),
            notes: Mutex::default(),
        };
        Ok(Self { consul: Arc::new(consul), acquisitions: Acquisitions::new(ACQUISITIONS_MAX) })
    }
}

impl LockService for ConsulLocks {
    fn acquire(&self, request: LockRequest) -> BoxFuture<'_, Result<Acquired, Error>> {
        self.acquisitions.acquire(self.consul.clone(), request)
    }

    fn renew<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<Option<Hold>, Error>> {
        Box::pin(async {
            let Some(session) = session_of(token) else { return Ok(None) };
            self.consul.renew(&self.consul.key(name), session).await.map_err(failure)
        })
    }

    fn release<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(self.consul.free(name, token))
    }
}

/// Sessions and the keys that they have.
struct Sessions {
    client: Client,
    /// What the keys of all locks begin with.
    folder: String,
    session_ttl_min: Duration,
    clock: Arc<dyn Clock>,
    seed: AtomicU64,
    /// The session of this node's notes, and since when it is.
    notes: Mutex<Option<(String, Moment)>>,
}

/// What became of an attempt to lock a key.
enum Locked {
    /// It is this session's, since this index.
    Done(u64),
    /// Another session has it, or had it a moment ago.
    ByAnother,
    /// Nobody has it, nor may anybody: its last session ended out of turn.
    Delayed,
    /// This session is gone.
    SessionLost,
}

impl Keeper for Sessions {
    async fn take(&self, request: &LockRequest, patience: &mut Patience<'_>) -> Result<Acquired, Error> {
        let key = self.key(request.name());
        let ttl = request.ttl().max(self.session_ttl_min);
        loop {
            let sent = self.clock.now();
            let session = self.begin(ttl, ttl).await.map_err(failure)?;
            let locked = self.lock_in_time(&key, &session, ttl, patience).await;
            let granted = match locked {
                Ok(Locked::Done(index)) => self.granted(&key, &session, index, Hold { sent, ttl }).await,
                Ok(Locked::SessionLost) => Ok(None),
                Ok(Locked::ByAnother | Locked::Delayed) => {
                    self.end(&session).await;
                    return Ok(Acquired::Held);
                }
                Err(failure) => Err(failure),
            };
            match granted {
                Ok(Some(grant)) => {
                    let note_before = self.pass_note(request).await;
                    return Ok(Acquired::Granted(Grant { note_before, ..grant }));
                }
                // The session ended, because Consul was away for longer.
                Ok(None) if !patience.is_over() => {}
                Ok(None) => return Err(away(CONSUL, "the session ended while the lock was waited for")),
                Err(error) => {
                    // What was sent may have been done. Where this fails too, the session ends by itself.
                    let _unlocked = self.unlock(&key, &session).await;
                    self.end(&session).await;
                    return Err(failure(error));
                }
            }
        }
    }

    async fn free(&self, name: &LockName, token: &LockToken) -> Result<bool, Error> {
        let Some(session) = session_of(token) else { return Ok(false) };
        let was_held = self.unlock(&self.key(name), session).await.map_err(failure)?;
        if was_held {
            self.end(session).await;
        }
        Ok(was_held)
    }
}

/// A session, as Consul tells of it.
#[derive(Deserialize)]
struct Session {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "TTL", default)]
    ttl: String,
}

/// A key, as Consul tells of it.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "Session", default)]
    session: Option<String>,
}

impl Sessions {
    /// A new session, which has nothing yet.
    async fn begin(&self, ttl: Duration, lock_delay: Duration) -> Result<String, Failure> {
        let [ttl, lock_delay] = [ttl, lock_delay].map(|time| format!("{}ms", time.as_millis()));
        let body = json!({
            "Name": "Larder lock",
            "TTL": ttl,
            "LockDelay": lock_delay,
            // The key goes with the session, so that no lock leaves anything behind.
            "Behavior": "delete",
            "Checks": [],
            "NodeChecks": [],
            "ServiceChecks": [],
        });
        let answer = self.ask(Method::PUT, "/v1/session/create", Some(body)).await?.good()?;
        Ok(read::<Session>(&answer)?.id)
    }

    /// Ends a session. Where that fails, it ends by itself.
    async fn end(&self, session: &str) {
        let _ended = self.ask(Method::PUT, &format!("/v1/session/destroy/{session}"), None).await;
    }

    /// Tries to lock a key until it is done, or patience is over. A look that fails is made again as long as patience lasts:
    /// Consul elects a leader now and then, and that must not send all waiters away.
    async fn lock_in_time(
        &self,
        key: &str,
        session: &str,
        ttl: Duration,
        patience: &mut Patience<'_>,
    ) -> Result<Locked, Failure> {
        let mut locked = self.lock(key, session).await?;
        let renew = || async { self.renew_session(session).await.ok().map(|ttl| ttl.is_some()) };
        let mut kept = pin!(kept_while_waiting(ttl, renew));
        let mut backoff = self.backoff();
        while matches!(locked, Locked::ByAnother | Locked::Delayed) && !patience.is_over() {
            let is_free = async {
                if matches!(locked, Locked::Delayed) {
                    sleep(DELAYED_PAUSE).await;
                    return;
                }
                while let Err(_away) = self.is_free(key).await {
                    sleep(backoff.next()).await;
                }
            };
            tokio::select! {
                () = is_free => {}
                () = &mut kept => return Ok(Locked::SessionLost),
                () = patience.over() => return Ok(locked),
            }
            // What a failure leaves open is seen next time.
            locked = match self.lock(key, session).await {
                Ok(locked) => locked,
                Err(failure) if patience.is_over() => return Err(failure),
                Err(_) => Locked::ByAnother,
            };
        }
        Ok(locked)
    }

    /// Locks a key, if nobody has it, or this session already.
    async fn lock(&self, key: &str, session: &str) -> Result<Locked, Failure> {
        let body = json!([{ "KV": { "Verb": "lock", "Key": key, "Value": "", "Session": session } }]);
        let answer = self.ask(Method::PUT, "/v1/txn", Some(body)).await?;
        if answer.status == StatusCode::CONFLICT {
            return Ok(if answer.says("invalid session") {
                Locked::SessionLost
            } else if answer.says("lock delay") {
                Locked::Delayed
            } else {
                Locked::ByAnother
            });
        }
        let answer: Value = read(&answer.good()?)?;
        let index = answer["Results"][0]["KV"]["ModifyIndex"].as_u64();
        index.map(Locked::Done).ok_or_else(|| Failure::Away("Consul told no index of a key".to_owned()))
    }

    /// Frees a key, if this session has it.
    async fn unlock(&self, key: &str, session: &str) -> Result<bool, Failure> {
        // In one step, so that nobody gets the key between and loses it again.
        let body = json!([
            { "KV": { "Verb": "unlock", "Key": key, "Value": "", "Session": session } },
            { "KV": { "Verb": "delete", "Key": key } },
        ]);
        let answer = self.ask(Method::PUT, "/v1/txn", Some(body)).await?;
        if answer.status == StatusCode::CONFLICT {
            return Ok(false);
        }
        answer.good().map(|_| true)
    }

    /// Waits until no session has a key.
    async fn is_free(&self, key: &str) -> Result<(), Failure> {
        let mut how = "consistent".to_owned();
        loop {
            let (entry, index) = self.look(key, &how).await?;
            if entry.is_none_or(|entry| entry.session.is_none()) {
                return Ok(());
            }
            // With the index 0 the query would not wait.
            how = format!("index={}&wait={}s", index.max(1), QUERY_TIME_MAX.as_secs());
        }
    }

    /// What is known of a key, and the index that this is as of.
    async fn look(&self, key: &str, how: &str) -> Result<(Option<Entry>, u64), Failure> {
        let path = format!("/v1/kv/{}?{how}", encoded(key));
        let time_max = QUERY_TIME_MAX + QUERY_TIME_MAX / QUERY_JITTER_SHARE + REQUEST_TIME_MAX;
        let time_max = if how.contains("wait=") { time_max } else { REQUEST_TIME_MAX };
        let answer = self.client.ask(Method::GET, &path, None, time_max).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok((None, answer.index));
        }
        let answer = answer.good()?;
        Ok((Some(read(&answer)?), answer.index))
    }

    /// The grant of a key that has been locked. A session that was waited with has been renewed meanwhile, and its hold is that of
    /// one more renewal.
    async fn granted(&self, key: &str, session: &str, index: u64, first: Hold) -> Result<Option<Grant>, Failure> {
        let is_fresh = self.clock.now().since(first.sent) < first.ttl / 10;
        let hold = if is_fresh { Some(first) } else { self.renew(key, session).await? };
        let Some(hold) = hold else { return Ok(None) };
        if !(1..=FENCE_MAX).contains(&index) {
            return Err(Failure::Away("Consul's indexes are greater than fences may be".to_owned()));
        }
        let token = LockToken::new(session).map_err(|error| Failure::Away(error.message().to_owned()))?;
        Ok(Some(Grant { token, fence: index, hold, note_before: Bytes::new() }))
    }

    /// Renews a session, and sees that it has the key; `None`: it hasn't.
    async fn renew(&self, key: &str, session: &str) -> Result<Option<Hold>, Failure> {
        let sent = self.clock.now();
        let Some(ttl) = self.renew_session(session).await? else { return Ok(None) };
        let (entry, _) = self.look(key, "consistent").await?;
        let is_mine = entry.is_some_and(|entry| entry.session.as_deref() == Some(session));
        Ok(is_mine.then_some(Hold { sent, ttl }))
    }

    /// Has a session last for its ttl once more, which is told; `None`: it is gone.
    async fn renew_session(&self, session: &str) -> Result<Option<Duration>, Failure> {
        let answer = self.ask(Method::PUT, &format!("/v1/session/renew/{session}"), None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let ttl = read::<Session>(&answer.good()?)?.ttl;
        let millis = ttl.strip_suffix("ms").and_then(|millis| millis.parse().ok());
        let unknown = || Failure::Away(format!("a session in Consul has the ttl {ttl:?}: it is not Larder's"));
        millis.map(|millis| Some(Duration::from_millis(millis))).ok_or_else(unknown)
    }

    /// Leaves a note for the next holder, and tells what the one before had to say. The lock is worth more than that: what fails is as if there
    /// were none.
    async fn pass_note(&self, request: &LockRequest) -> Bytes {
        if request.note().is_empty() {
            return Bytes::new();
        }
        self.exchange(request.name(), request.note()).await.ok().flatten().unwrap_or_default()
    }

    async fn exchange(&self, name: &LockName, note: &Bytes) -> Result<Option<Bytes>, Failure> {
        let (session, key) = (self.notes_session().await?, self.note_key(name));
        let body = json!([
            { "KV": { "Verb": "get-tree", "Key": key } },
            // From whichever session has it.
            { "KV": { "Verb": "delete", "Key": key } },
            { "KV": { "Verb": "lock", "Key": key, "Value": STANDARD.encode(note), "Session": session } },
        ]);
        let answer = self.ask(Method::PUT, "/v1/txn", Some(body)).await?;
        if answer.status == StatusCode::CONFLICT {
            // Somebody has ended the session.
            self.notes.lock().await.take_if(|(id, _)| *id == session);
            return Ok(None);
        }
        let answer: Value = read(&answer.good()?)?;
        // What was written comes without its value.
        let mut entries = answer["Results"].as_array().into_iter().flatten();
        let before = entries.find_map(|entry| entry["KV"]["Value"].as_str());
        Ok(before.and_then(|value| STANDARD.decode(value).ok()).map(Bytes::from))
    }

    async fn notes_session(&self) -> Result<String, Failure> {
        let mut notes = self.notes.lock().await;
        let now = self.clock.now();
        if let Some((session, since)) = &*notes
            && now.since(*since) < NOTES_TIME
        {
            return Ok(session.clone());
        }
        // Whoever comes after it takes the keys from it, so that there is nothing to keep them from.
        let session = self.begin(NOTES_TIME * 2, Duration::ZERO).await?;
        *notes = Some((session.clone(), now));
        Ok(session)
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Answer, Failure> {
        let body = body.map(|body| body.to_string().into_bytes());
        self.client.ask(method, path, body, REQUEST_TIME_MAX).await
    }

    /// The key of a lock, in letters that mean nothing to Consul nor to URLs.
    fn key(&self, name: &LockName) -> String {
        format!("{}{}", self.folder, percent_encode(name.as_bytes(), NON_ALPHANUMERIC))
    }

    /// The key of the note to the next holder of a lock. No key of a lock has such letters, and no other begins with it.
    fn note_key(&self, name: &LockName) -> String {
        format!("{}note/{}/", self.folder, percent_encode(name.as_bytes(), NON_ALPHANUMERIC))
    }

    /// Waits for the next try, in each task from another start of chance.
    fn backoff(&self) -> Backoff {
        Backoff::new(PAUSE_MAX, self.seed.fetch_add(1, Ordering::Relaxed))
    }
}

/// The session that a token is; `None`: it is none, and must not become a part of a path.
fn session_of(token: &LockToken) -> Option<&str> {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let is_hex = |group: &str| group.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let groups: Vec<&str> = token.as_str().split('-').collect();
    let is_id = groups.iter().map(|group| group.len()).eq(GROUPS) && groups.iter().all(|group| is_hex(group));
    is_id.then_some(token.as_str())
}

/// Reads an answer: what Consul tells of one thing it puts into a list, or not.
fn read<T: for<'a> Deserialize<'a>>(answer: &Answer) -> Result<T, Failure> {
    let parsed = match serde_json::from_slice(&answer.body) {
        Ok(Value::Array(list)) => list.into_iter().next().unwrap_or_default(),
        Ok(value) => value,
        Err(error) => return Err(Failure::Away(format!("Consul's answer can't be read: {error}"))),
    };
    serde_json::from_value(parsed).map_err(|error| Failure::Away(format!("Consul's answer can't be read: {error}")))
}

fn failure(failure: Failure) -> Error {
    match failure {
        Failure::Away(why) => away(CONSUL, why),
        Failure::Refused(why) => refused(CONSUL, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_no_session_is_not_asked_for() {
        let session = |text: &str| session_of(&LockToken::new(text).unwrap()).is_some();
        assert!(session("adf4238a-882b-9ddc-4a9d-5b6758e4159e"));
        for bad in [
            "a",
            "..",
            "adf4238a-882b-9ddc-4a9d-5b6758e4159e0",
            "adf4238a-882b-9ddc-4a9d-5b6758e4159",
            "adf4238g-882b-9ddc-4a9d-5b6758e4159e",
        ] {
            assert!(!session(bad), "{bad}");
        }
    }
}
