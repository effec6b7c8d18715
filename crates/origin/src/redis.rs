//! [`RedisOrigin`]: a string a key, in Redis or Valkey.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use larder_core::{Change, Error, Key, LoadError, LoadRequest, Loaded, Loader, Store, Update, UpdateError};
use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisError,
    aio::MultiplexedConnection,
};

use crate::{ConfigError, cause, too_large};

/// How long a connection may take to come about. Within a `hard_timeout` of 10 s there must be time left for the load.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// Keys in one batch: as many questions as are on their way at once.
const BATCH_LEN_MAX: usize = 100;

/// Where a [`RedisOrigin`] looks.
///
/// # Examples
///
/// ```
/// use larder_origin::{RedisConfig, RedisOrigin};
///
/// let origin = RedisOrigin::new(RedisConfig::new("redis://:secret@127.0.0.1:6379/2").prefix("users:"))?;
/// # Ok::<(), larder_origin::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct RedisConfig {
    url: String,
    prefix: String,
}

impl RedisConfig {
    /// `url` is that of a server, `redis://user:password@host:port/database` or `unix:///path/of/socket`. TLS is not to be had.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), prefix: String::new() }
    }

    /// What stands before each key at the server; nothing unless set.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }
}

/// The URL may hold secrets: it is not shown.
impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConfig").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// A Redis server that is asked for each key with GET.
///
/// A key that isn't there is nothing; one that holds no string is a failure. All share one connection, which is made when it is first
/// needed, and anew once it broke or somebody gave up waiting for it. A value over the limit is refused once it has come. Needs a
/// tokio runtime with time and I/O.
///
/// As a [`Store`] it sends SET and DEL. An error that the server answers is a refusal: the command was not carried out. What became of a
/// change is unknown if the connection breaks. It doesn't fence: a write of a node that stood still may undo a later one.
///
/// # Examples
///
/// ```no_run
/// use larder_core::{Found, Key, LoadRequest, Loader};
/// use larder_origin::{RedisConfig, RedisOrigin};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let origin = RedisOrigin::new(RedisConfig::new("redis://127.0.0.1").prefix("users:"))?;
/// let request = LoadRequest {
///     key: Key::new("42")?, // GET users:42
///     previous: None,
///     value_len_max: 8 << 20,
///     deadline: tokio::time::Instant::now() + std::time::Duration::from_secs(10),
/// };
/// if let Found::Value(value) = origin.load(request).await?.found {
///     println!("{} bytes", value.len());
/// }
/// # Ok(())
/// # }
/// ```
pub struct RedisOrigin {
    client: Client,
    prefix: Box<str>,
    connection: Mutex<Connection>,
    /// One connects at a time, and the others wait for what comes of it.
    connecting: tokio::sync::Mutex<()>,
}

/// The connection that there is, and how many there were before it.
#[derive(Default)]
struct Connection {
    number: u64,
    current: Option<MultiplexedConnection>,
}

/// Why a command was not answered as it should be.
enum Failed {
    /// There was no connection to send it over.
    Unconnected(RedisError),
    /// The server answered with an error, or none came.
    Unanswered(RedisError),
}

impl RedisOrigin {
    /// Sets the origin up, without asking it anything yet.
    ///
    /// # Errors
    ///
    /// Of the setting `url`.
    pub fn new(config: RedisConfig) -> Result<Self, ConfigError> {
        let fail = |message: &str| ConfigError::new("url", message);
        let server = config.url.as_str().into_connection_info();
        let server =
            server.map_err(|_| fail("must be the URL of a Redis server, such as redis://user:password@host:6379/0"))?;
        if matches!(server.addr(), ConnectionAddr::TcpTls { .. }) {
            return Err(fail("asks for TLS, which this origin doesn't have: use redis:// and a tunnel"));
        }
        let client = Client::open(server).map_err(|_| fail("can't be that of a Redis server"))?;
        let (connection, connecting) = Default::default();
        Ok(Self { client, prefix: config.prefix.into(), connection, connecting })
    }

    /// The connection, and its number.
    async fn connected(&self) -> Result<(MultiplexedConnection, u64), RedisError> {
        let current = || {
            let connection = self.connection.lock();
            connection.current.clone().map(|current| (current, connection.number))
        };
        if let Some(current) = current() {
            return Ok(current);
        }
        let _turn = self.connecting.lock().await;
        if let Some(current) = current() {
            return Ok(current);
        }
        // Whoever asks knows how long to wait.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let config = config.set_connection_timeout(Some(CONNECT_TIME_MAX));
        let made = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut connection = self.connection.lock();
        connection.number += 1;
        connection.current = Some(made.clone());
        Ok((made, connection.number))
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Failed> {
        let (mut connection, number) = self.connected().await.map_err(Failed::Unconnected)?;
        let mut asking = Asking { origin: self, number, is_answered: false };
        let answer = command.query_async(&mut connection).await;
        asking.is_answered = answer.as_ref().map_or_else(is_answer, |_| true);
        answer.map_err(Failed::Unanswered)
    }

    fn command(&self, name: &str, key: &Key) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg([self.prefix.as_bytes(), key.as_bytes()].concat());
        command
    }

    async fn get(&self, request: LoadRequest) -> Result<Loaded, Error> {
        let found: Option<Vec<u8>> =
            self.ask(&self.command("GET", &request.key)).await.map_err(|failed| match failed {
                Failed::Unconnected(error) => Error::origin(unreached(&error)),
                Failed::Unanswered(error) => match error.code() {
                    Some(code) => {
                        Error::origin(format_args!("the Redis origin answered with an error ({code}): see its log"))
                    }
                    None => Error::origin(format_args!(
                        "the Redis origin broke off its answer ({}): see its log",
                        cause(&error)
                    )),
                },
            })?;
        match found {
            None => Ok(Loaded::nothing()),
            Some(value) if value.len() > request.value_len_max => Err(too_large(request.value_len_max)),
            Some(value) => Ok(Loaded::value(Bytes::from(value.into_boxed_slice()))),
        }
    }

    async fn write(&self, update: Update) -> Result<(), UpdateError> {
        let command = match &update.change {
            Change::Put(value) => {
                let mut command = self.command("SET", &update.key);
                command.arg(&value[..]);
                command
            }
            Change::Delete => self.command("DEL", &update.key),
        };
        self.ask::<redis::Value>(&command).await.map(drop).map_err(|failed| match failed {
            Failed::Unconnected(error) => UpdateError::unreached(unreached(&error)),
            Failed::Unanswered(error) => match error.code() {
                Some(code) if is_of_the_server(code) => UpdateError::unreached(format_args!(
                    "the Redis origin did not take the change ({code}): see its log"
                )),
                Some(code) => {
                    UpdateError::refused(format_args!("the Redis origin refused the change ({code}): see its log"))
                }
                None => UpdateError::unknown(format_args!(
                    "the Redis origin did not say what became of a change ({}): see its log",
                    cause(&error)
                )),
            },
        })
    }
}

/// Whether an error came from the server, over a connection that lives on.
fn is_answer(error: &RedisError) -> bool {
    error.code().is_some()
}

/// Whether an error says that the server takes no change now, whatever it is: it is full, loads, runs a script, lost its replicas or its
/// disk, is a replica itself, or doesn't know us.
fn is_of_the_server(code: &str) -> bool {
    const CODES: [&str; 12] = [
        "OOM",
        "LOADING",
        "BUSY",
        "NOREPLICAS",
        "MISCONF",
        "READONLY",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "MOVED",
        "ASK",
        "NOAUTH",
    ];
    CODES.contains(&code)
}

fn unreached(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("the Redis origin doesn't let us in ({code}): see its url and its log"),
        None => format!("the Redis origin can't be reached ({}): see that it runs and that url names it", cause(error)),
    }
}

/// A command that is under way. If it ends without an answer, nobody trusts its connection any more.
struct Asking<'origin> {
    origin: &'origin RedisOrigin,
    number: u64,
    is_answered: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut connection = self.origin.connection.lock();
        if !self.is_answered && connection.number == self.number {
            connection.current = None;
        }
    }
}

impl std::fmt::Debug for RedisOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisOrigin").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Loader for RedisOrigin {
    fn load(&self, request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        Box::pin(async move { Ok(self.get(request).await?) })
    }

    fn batch_len_max(&self) -> usize {
        BATCH_LEN_MAX
    }

    /// As so many GETs, which go out together. MGET would take what holds no string for nothing.
    fn load_many(
        &self,
        requests: Vec<LoadRequest>,
    ) -> BoxFuture<'_, Result<Vec<Result<Loaded, LoadError>>, LoadError>> {
        Box::pin(async move { Ok(join_all(requests.into_iter().map(|request| self.load(request))).await) })
    }
}

impl Store for RedisOrigin {
    fn update(&self, update: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
        Box::pin(self.write(update))
    }

    fn update_batch_len_max(&self) -> usize {
        BATCH_LEN_MAX
    }

    fn update_many(&self, updates: Vec<Update>) -> BoxFuture<'_, Vec<Result<(), UpdateError>>> {
        Box::pin(join_all(updates.into_iter().map(|update| self.update(update))))
    }
}
