//! [`RedisLocks`]: locks by Redis, 5 and later, or what speaks its protocol and runs its scripts.
//!
//! A lock is a key with the holder's token and a ttl; each step is one script, which nothing can come between. The fence is a counter of all
//! locks together, so that no name leaves anything behind. It is kept above the server's wall clock (milliseconds since 2025, times
//! 4,096), so that it goes on growing where the server has lost it, unless the clock was set back too.
//!
//! Who waits has a place in the lock's queue, which it keeps up and which ends soon if it vanishes, and is served in order of arrival.
//! It hears of releases by one subscription a node. An end of a ttl wakes nobody in Redis, but its time is known, and a timer
//! does that.
//!
//! # Why it is advisory
//!
//! Redis answers before a write is safe: a server that crashes may forget a lock, and one that takes over may never have heard of it.
//! Ttls are counted on the server's wall clock, which may jump. Neither can be seen from outside. A single server that syncs each write to disk
//! (`appendonly yes`, `appendfsync always`) forgets nothing; what is done under a lock still needs the fence. Several servers
//! by majority ("Redlock") would not change that: see Martin Kleppmann, "How to do distributed locking" (2016).

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture};
use larder_core::{
    Clock, Error, LockService,
    lock::{Acquired, Grant, Hold, LockName, LockRequest, LockToken},
};
use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind,
    aio::{MultiplexedConnection, PubSub},
};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Acquisitions, Keeper, PAUSE_MAX, Patience, REQUEST_TIME_MAX, away, refused};
use crate::backoff::Backoff;

/// The most acquisitions under way at one node: each costs some hundred bytes here, and all of one lock ask when it is released.
const ACQUISITIONS_MAX: usize = 1024;

/// The shortest wait for the end of another's ttl, which may be over in the same millisecond.
const EXPIRY_WAIT_MIN: Duration = Duration::from_millis(10);

/// How long a place in a queue lasts that its waiter doesn't keep up: so long a waiter that vanished holds up others, once.
const PLACE_TIME: Duration = Duration::from_secs(6);

/// How often a place is kept up within that time.
const PLACE_RENEWALS: u32 = 3;

/// How often a subscription is asked whether it still stands; one that doesn't costs waiters the rest of a ttl.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// For how long a note to the next holder is kept: what it tells of has changed by then.
const NOTE_TIME: Duration = Duration::from_secs(60);

/// How people call it in messages.
const REDIS: &str = "Redis";

/// Takes a lock. `KEYS`: the lock, the counter of fences, the queue by arrival, its places by their ends, the note for the next holder;
/// `ARGV`: what the token begins with, the ttl, how long a place lasts (0: none is wanted), the note and how long it is kept, all times in
/// milliseconds. It answers 1, the fence and the note of the holder before, or 0 and how long nothing changes if nobody does anything. It may
/// be asked again after an answer that was lost; the note is lost with it.
const TAKE: &str = "\
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local token = redis.call('GET', KEYS[1])
if token and string.sub(token, 1, #ARGV[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1, string.sub(token, #ARGV[1] + 1), ''}
end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now)) do
  redis.call('ZREM', KEYS[3], gone)
  redis.call('ZREM', KEYS[4], gone)
end
local first = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
local left = redis.call('PTTL', KEYS[1])
if left == -2 and first and first ~= ARGV[1] then
  left = redis.call('ZSCORE', KEYS[4], first) - now
end
if left ~= -2 then
  if ARGV[3] ~= '0' then
    if not redis.call('ZSCORE', KEYS[3], ARGV[1]) then
      redis.call('ZADD', KEYS[3], redis.call('INCR', KEYS[2]), ARGV[1])
    end
    redis.call('ZADD', KEYS[4], now + ARGV[3], ARGV[1])
    redis.call('PEXPIRE', KEYS[3], ARGV[3])
    redis.call('PEXPIRE', KEYS[4], ARGV[3])
  end
  return {0, string.format('%.0f', left), ''}
end
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
local fence = (now - 1735689600000) * 4096
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
if fence <= last then
  fence = last + 1
end
fence = string.format('%.0f', fence)
redis.call('SET', KEYS[2], fence)
redis.call('SET', KEYS[1], ARGV[1] .. fence, 'PX', ARGV[2], 'NX')
local note = redis.call('GET', KEYS[5]) or ''
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[5], ARGV[4], 'PX', ARGV[5])
end
return {1, fence, note}";

/// Has a lock last longer. `KEYS`: the lock; `ARGV`: the token, the ttl.
const RENEW: &str = "\
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0";

/// Frees a lock and tells who waits. `KEYS`: the lock; `ARGV`: the token, the channel, the lock's name.
const FREE: &str = "\
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', ARGV[2], ARGV[3])
  return 1
end
return 0";

/// Gives up a place, and the lock if a request without an answer has taken it. `KEYS`: the lock, the queue, its places; `ARGV`: what
/// the token begins with, the channel, the lock's name.
const GIVE_UP: &str = "\
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
local token = redis.call('GET', KEYS[1])
if token and string.sub(token, 1, #ARGV[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  token = false
end
if not token then
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
return 0";

/// Where Redis is, and how its keys begin.
///
/// ```
/// use larder_cluster::locks::RedisConfig;
///
/// let config = RedisConfig::new("redis://127.0.0.1:6379");
/// assert_eq!(config.prefix, "larder:");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// `redis://[user:password@]host:port[/database]`, or `rediss://` for TLS with the certificates that the system trusts.
    pub url: String,
    /// What the keys of this cluster begin with, to tell it from others in the same Redis.
    pub prefix: String,
}

impl RedisConfig {
    /// With the prefix `larder:`.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), prefix: "larder:".into() }
    }
}

/// The URL may hold a password.
impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConfig").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Locks by Redis: advisory. Waiters are served in order of arrival.
///
/// ```no_run
/// use larder_cluster::locks::{RedisConfig, RedisLocks};
/// use larder_core::Locks;
/// # #[derive(Clone, Copy)] struct Clock;
/// # impl larder_core::Clock for Clock {
/// #     fn now(&self) -> larder_core::Moment { larder_core::Moment::default() }
/// #     fn wall_ms(&self) -> u64 { 0 }
/// # }
/// # async fn work(clock: Clock, seed: u64) -> Result<(), larder_core::Error> {
/// let locks = Locks::new(RedisLocks::new(RedisConfig::new("redis://127.0.0.1:6379"), clock, seed)?, clock);
/// let guard = locks.lock("nightly-job").acquire().await?;
/// println!("the fence is {}", guard.fence());
/// # Ok(()) }
/// ```
pub struct RedisLocks {
    redis: Arc<Keys>,
    acquisitions: Acquisitions,
    _tasks: JoinSet<()>,
}

impl RedisLocks {
    /// Locks by this Redis. Holds are counted on `clock`; `seed` is the start of what chance decides, and must differ from node to
    /// node. It must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](larder_core::ErrorKind::Invalid) if the URL can't be one. Whether Redis answers is not waited for.
    pub fn new(config: RedisConfig, clock: impl Clock, seed: u64) -> Result<Self, Error> {
        let RedisConfig { url, prefix } = config;
        // What is wrong with it is not said, because it may hold a password.
        let client = Client::open(url).map_err(|_| {
            let message = "that is no URL of Redis: expected one such as \"redis://127.0.0.1:6379\"";
            Error::new(larder_core::ErrorKind::Invalid, message)
        })?;
        let redis = Arc::new(Keys {
            client,
            connection: AsyncMutex::default(),
            prefix,
            clock: Arc::new(clock),
            chance: Mutex::new(fastrand::Rng::with_seed(seed)),
            seed: AtomicU64::new(seed),
            bells: Bells::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(redis.clone().listen());
        Ok(Self { redis, acquisitions: Acquisitions::new(ACQUISITIONS_MAX), _tasks: tasks })
    }
}

impl LockService for RedisLocks {
    fn acquire(&self, request: LockRequest) -> BoxFuture<'_, Result<Acquired, Error>> {
        self.acquisitions.acquire(self.redis.clone(), request)
    }

    fn renew<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<Option<Hold>, Error>> {
        Box::pin(async {
            let Some(ttl) = ttl_of(token) else { return Ok(None) };
            let sent = self.redis.clock.now();
            let mut command = script(RENEW, &[&self.redis.key("lock", name)]);
            command.arg(token.as_str()).arg(millis(ttl));
            let is_held: bool = self.redis.ask(&command).await?;
            Ok(is_held.then_some(Hold { sent, ttl }))
        })
    }

    fn release<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(self.redis.free(name, token))
    }
}

/// The keys of locks in a Redis.
struct Keys {
    client: Client,
    /// The connection that there is, and its number among all that were made.
    connection: AsyncMutex<(u64, Option<MultiplexedConnection>)>,
    prefix: String,
    clock: Arc<dyn Clock>,
    chance: Mutex<fastrand::Rng>,
    seed: AtomicU64,
    bells: Bells,
}

/// What became of an attempt to take a lock.
enum Taken {
    Granted(Grant),
    /// Another has it, for so long unless something happens.
    Busy(Duration),
}

impl Keeper for Keys {
    async fn take(&self, request: &LockRequest, patience: &mut Patience<'_>) -> Result<Acquired, Error> {
        let nonce = self.chance.lock().u128(..);
        let start = format!("{nonce:032x}.{}.", millis(request.ttl()));
        let taken = self.take_as(&start, request, patience).await;
        let leaves_a_trace = match &taken {
            Ok(Acquired::Granted(_)) => false,
            Ok(Acquired::Held) => !request.wait().is_zero(),
            Err(_) => true,
        };
        if leaves_a_trace {
            let name = request.name();
            let mut command =
                script(GIVE_UP, &[&self.key("lock", name), &self.key("queue", name), &self.key("places", name)]);
            command.arg(&start).arg(self.channel()).arg(name.as_bytes());
            // Where this fails, what is there ends by itself.
            let _given_up = self.ask::<bool>(&command).await;
        }
        taken
    }

    async fn free(&self, name: &LockName, token: &LockToken) -> Result<bool, Error> {
        let mut command = script(FREE, &[&self.key("lock", name)]);
        command.arg(token.as_str()).arg(self.channel()).arg(name.as_bytes());
        self.ask(&command).await
    }
}

impl Keys {
    /// Takes the lock with a token that begins like this.
    async fn take_as(
        &self,
        start: &str,
        request: &LockRequest,
        patience: &mut Patience<'_>,
    ) -> Result<Acquired, Error> {
        let mut bell = self.bells.hang(request.name());
        // At first a failure is the answer. Later it is waited out, as far as patience goes.
        let mut taken = Ok(self.take_at_once(start, request).await?);
        let mut backoff = self.backoff();
        loop {
            let pause = match &taken {
                Ok(Taken::Busy(time)) => {
                    backoff.reset();
                    (*time).clamp(EXPIRY_WAIT_MIN, PLACE_TIME / PLACE_RENEWALS)
                }
                _ => backoff.next(),
            };
            match taken {
                Ok(Taken::Granted(grant)) => return Ok(Acquired::Granted(grant)),
                Ok(Taken::Busy(_)) if patience.is_over() => return Ok(Acquired::Held),
                Err(error) if patience.is_over() => return Err(error),
                Ok(Taken::Busy(_)) | Err(_) => {}
            }
            tokio::select! {
                () = bell.rung() => {}
                () = sleep(pause) => {}
                () = patience.over() => {}
            }
            taken = self.take_at_once(start, request).await;
        }
    }

    async fn take_at_once(&self, start: &str, request: &LockRequest) -> Result<Taken, Error> {
        let (name, ttl) = (request.name(), request.ttl());
        let note_key = self.key("note", name);
        let keys = [
            &self.key("lock", name),
            &self.fence_key(),
            &self.key("queue", name),
            &self.key("places", name),
            &note_key,
        ];
        let mut command = script(TAKE, &keys.map(Vec::as_slice));
        let place_time = if request.wait().is_zero() { Duration::ZERO } else { PLACE_TIME };
        command.arg(start).arg(millis(ttl)).arg(millis(place_time)).arg(&request.note()[..]).arg(millis(NOTE_TIME));
        let sent = self.clock.now();
        let (is_granted, number, note_before): (bool, i64, Vec<u8>) = self.ask(&command).await?;
        if !is_granted {
            // A key without an end is not Larder's.
            return Ok(Taken::Busy(u64::try_from(number).map_or(PLACE_TIME, Duration::from_millis)));
        }
        let fence = u64::try_from(number).unwrap_or_default();
        let token = LockToken::new(format!("{start}{fence}"))?;
        Ok(Taken::Granted(Grant { token, fence, hold: Hold { sent, ttl }, note_before: note_before.into() }))
    }

    /// Asks, within the time that a request may take.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        let (number, mut connection) = self.connection().await?;
        let answer = command.query_async(&mut connection).await;
        answer.map_err(|error: RedisError| {
            if error.is_timeout() || error.is_io_error() || error.is_unrecoverable_error() {
                self.leave(number);
            }
            failure(&error)
        })
    }

    /// The connection, made if there is none.
    async fn connection(&self) -> Result<(u64, MultiplexedConnection), Error> {
        let mut current = self.connection.lock().await;
        if let (number, Some(connection)) = &*current {
            return Ok((*number, connection.clone()));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(REQUEST_TIME_MAX))
            .set_response_timeout(Some(REQUEST_TIME_MAX));
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await;
        let connection = connection.map_err(|error| failure(&error))?;
        *current = (current.0 + 1, Some(connection.clone()));
        Ok((current.0, connection))
    }

    /// Has the next connection made anew, unless somebody has already.
    fn leave(&self, number: u64) {
        // Who holds the lock makes a new connection already.
        if let Ok(mut current) = self.connection.try_lock()
            && current.0 == number
        {
            current.1 = None;
        }
    }

    /// Rings the bells of locks that are released, as long as anybody waits.
    async fn listen(self: Arc<Self>) {
        let mut backoff = self.backoff();
        loop {
            self.bells.are_hung().await;
            if let Ok(subscription) = self.subscribe().await {
                backoff.reset();
                // What was released before is not told.
                self.bells.ring_all();
                self.follow(subscription).await;
            }
            sleep(backoff.next()).await;
        }
    }

    async fn subscribe(&self) -> Result<PubSub, RedisError> {
        let subscribed = async {
            let mut subscription = self.client.get_async_pubsub().await?;
            subscription.subscribe(self.channel()).await?;
            Ok(subscription)
        };
        timeout(REQUEST_TIME_MAX, subscribed).await.unwrap_or_else(|_| {
            Err(RedisError::from((ErrorKind::Io, "no subscription within the time that a request may take")))
        })
    }

    /// Rings for each message until the subscription ends.
    async fn follow(&self, subscription: PubSub) {
        let (mut asks, mut messages) = subscription.split();
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => self.bells.ring(message.get_payload_bytes()),
                    None => return,
                },
                () = sleep(SILENCE_MAX) => {
                    if !matches!(timeout(REQUEST_TIME_MAX, asks.ping::<redis::Value>()).await, Ok(Ok(_))) {
                        return;
                    }
                }
            }
        }
    }

    /// One of the keys of a lock.
    fn key(&self, which: &str, name: &LockName) -> Vec<u8> {
        [self.prefix.as_bytes(), which.as_bytes(), b":", name.as_bytes()].concat()
    }

    fn fence_key(&self) -> Vec<u8> {
        [self.prefix.as_bytes(), b"fence"].concat()
    }

    fn channel(&self) -> String {
        format!("{}freed", self.prefix)
    }

    /// Waits for the next try, in each task from another start of chance.
    fn backoff(&self) -> Backoff {
        Backoff::new(PAUSE_MAX, self.seed.fetch_add(1, Ordering::Relaxed))
    }
}

/// What wakes who waits for a lock, by its name. There is one for each that is waited for.
#[derive(Default)]
struct Bells {
    bells: Mutex<HashMap<Vec<u8>, Hung>>,
    /// Whether anybody waits, or did since this was last looked at.
    are_hung: watch::Sender<bool>,
}

#[derive(Default)]
struct Hung {
    waiters: usize,
    rings: watch::Sender<()>,
}

impl Bells {
    fn hang(&self, name: &LockName) -> Bell<'_> {
        let name = name.as_bytes().to_vec();
        let mut bells = self.bells.lock();
        let hung = bells.entry(name.clone()).or_default();
        hung.waiters += 1;
        let rings = hung.rings.subscribe();
        self.are_hung.send_replace(true);
        Bell { bells: self, name, rings }
    }

    /// Waits until somebody waits.
    async fn are_hung(&self) {
        let mut are_hung = self.are_hung.subscribe();
        {
            let bells = self.bells.lock();
            self.are_hung.send_replace(!bells.is_empty());
        }
        // The sender is here.
        let _hung = are_hung.wait_for(|are_hung| *are_hung).await;
    }

    fn ring(&self, name: &[u8]) {
        if let Some(hung) = self.bells.lock().get(name) {
            hung.rings.send_replace(());
        }
    }

    fn ring_all(&self) {
        for hung in self.bells.lock().values() {
            hung.rings.send_replace(());
        }
    }
}

/// One waiter's hold on a bell.
struct Bell<'a> {
    bells: &'a Bells,
    name: Vec<u8>,
    rings: watch::Receiver<()>,
}

impl Bell<'_> {
    /// Waits until it has rung since this was last waited for.
    async fn rung(&mut self) {
        // The sender is in the table as long as this is.
        let _rung = self.rings.changed().await;
    }
}

impl Drop for Bell<'_> {
    fn drop(&mut self) {
        let mut bells = self.bells.bells.lock();
        if let Some(hung) = bells.get_mut(&self.name) {
            hung.waiters -= 1;
            if hung.waiters == 0 {
                bells.remove(&self.name);
            }
        }
    }
}

/// A script with its keys. Redis keeps what it made of the text by itself.
fn script(text: &str, keys: &[&[u8]]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(keys.len());
    for key in keys {
        command.arg(*key);
    }
    command
}

/// The ttl that stands in a token; `None`: it is no token of ours.
fn ttl_of(token: &LockToken) -> Option<Duration> {
    let millis = token.as_str().split('.').nth(1)?.parse().ok()?;
    Some(Duration::from_millis(millis))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What Redis says is shown, but not what the connection does, which may name the URL and with it a password.
fn failure(error: &RedisError) -> Error {
    match error.kind() {
        ErrorKind::AuthenticationFailed => refused(REDIS, "it takes neither the user nor the password"),
        ErrorKind::Server(ServerErrorKind::NoPerm) => refused(REDIS, error.detail().unwrap_or("NOPERM")),
        _ => away(REDIS, error.detail().unwrap_or(error.category())),
    }
}
