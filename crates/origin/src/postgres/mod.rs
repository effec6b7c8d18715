//! [`PostgresOrigin`]: a row a key, in a PostgreSQL database.

mod form;
mod pool;
mod statement;
mod store;
mod tls;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    path::PathBuf,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join_all};
use larder_core::{Error, Key, LoadError, LoadRequest, Loaded, Loader};
use tokio_postgres::{
    Client, Config,
    config::{Host, SslMode},
};

use self::{
    form::Bound,
    pool::{Pool, Unconnected},
    statement::{Select, Sql},
    tls::Tls,
};
use crate::{
    ConfigError,
    tls::{Wanted, client},
    too_large,
};

/// Connections at once unless set otherwise. A database does the more the fewer ask it at a time; ten for each of ten nodes are what
/// PostgreSQL takes as it comes.
const CONNECTIONS_MAX: usize = 10;

/// Keys in one batch unless set otherwise; see [`SqliteConfig`](crate::SqliteConfig) for why.
const BATCH_LEN_MAX: usize = 100;

/// What the server shows in its list of connections.
const APPLICATION_NAME: &str = "larder";

/// Where a [`PostgresOrigin`] looks, and how it asks.
///
/// # Examples
///
/// ```
/// use larder_origin::{PostgresConfig, PostgresOrigin};
///
/// let url = "postgres://larder:secret@db.internal/users";
/// let config = PostgresConfig::new(url, "SELECT body FROM users WHERE id = $1")
///     .select_many("SELECT id, body FROM users WHERE id = ANY($1)")
///     .upsert(
///         "INSERT INTO users (id, body, version) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE
///          SET body = excluded.body, version = excluded.version WHERE excluded.version >= users.version",
///     )
///     .delete("DELETE FROM users WHERE id = $1 AND version <= $3");
/// let origin = PostgresOrigin::new(config)?;
/// # Ok::<(), larder_origin::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct PostgresConfig {
    url: String,
    ca_file: Option<PathBuf>,
    sql: Sql,
    batch_len_max: usize,
    connections_max: usize,
}

impl PostgresConfig {
    /// `url` is that of a database as libpq takes it, `postgres://user:password@host:port/database?…` or words such as
    /// `host=/run/postgresql dbname=users`.
    ///
    /// With `sslmode=require` the connection is by TLS, with `disable` it is not, and with `prefer` it is if the server has it; the
    /// server's certificate is checked in any case. Unless the URL says otherwise it is `disable` for sockets and for addresses of
    /// this machine, else `prefer`.
    ///
    /// `select` gets the key as `$1` and returns one column, the value; of several rows the first counts. Either may be text, bytes
    /// (`bytea`), JSON, an integer or a UUID: numbers and UUIDs as PostgreSQL writes them. A key that can't be of the type of `$1` is
    /// nothing, such as `x` or `042` where an integer is asked for, or bytes that are not UTF-8 where text is.
    pub fn new(url: impl Into<String>, select: impl Into<Box<str>>) -> Self {
        Self {
            url: url.into(),
            ca_file: None,
            sql: Sql { select: select.into(), select_many: None, upsert: None, delete: None, upsert_many: None },
            batch_len_max: BATCH_LEN_MAX,
            connections_max: CONNECTIONS_MAX,
        }
    }

    /// Trusts the certificates in this PEM file, instead of the system's.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// A statement for many keys at once: it gets them as `$1`, an array, and returns two columns, key and value, in any order of
    /// rows.
    ///
    /// A key that no row has is asked for by `select`, which has the last word: a column of `char(n)` returns `42` and blanks where
    /// `42` was asked for.
    #[must_use]
    pub fn select_many(mut self, statement: impl Into<Box<str>>) -> Self {
        self.sql.select_many = Some(statement.into());
        self
    }

    /// A statement that writes a value: it gets the key as `$1`, the value as `$2` and, if it names it, the version as `$3`.
    ///
    /// The version is text of 24 hexadecimal digits, later ones greater. A statement that names it *fences*: it must write only
    /// what is not older than what is there, and if it changed no row that is taken for a conflict. Let it take the version that is
    /// there once more (`>=`), so that a write can be repeated; see the example above.
    #[must_use]
    pub fn upsert(mut self, statement: impl Into<Box<str>>) -> Self {
        self.sql.upsert = Some(statement.into());
        self
    }

    /// A statement that deletes a value: it gets the key as `$1` and, if it names it, the version as `$3`. One that fences and changed
    /// no row is a conflict only if `select` then finds a value.
    ///
    /// A row that is deleted forgets its version. Where a write that was overtaken by a deletion must not bring the value back, keep
    /// the row, such as with `UPDATE users SET body = NULL, version = $3 WHERE id = $1 AND version <= $3`.
    #[must_use]
    pub fn delete(mut self, statement: impl Into<Box<str>>) -> Self {
        self.sql.delete = Some(statement.into());
        self
    }

    /// A statement that writes many values: as [`upsert`](Self::upsert), with three arrays that belong together by their places, such
    /// as
    ///
    /// ```sql
    /// INSERT INTO users (id, body, version) SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) ON CONFLICT (id) DO UPDATE
    /// SET body = excluded.body, version = excluded.version WHERE excluded.version >= users.version
    /// ```
    ///
    /// If one of the batch is refused or a conflict, nothing of it is kept and each is written alone, so that none holds up another.
    #[must_use]
    pub fn upsert_many(mut self, statement: impl Into<Box<str>>) -> Self {
        self.sql.upsert_many = Some(statement.into());
        self
    }

    /// How many keys `select_many` and `upsert_many` get at once; 100 unless set, at least 1.
    #[must_use]
    pub const fn batch_len_max(mut self, len: usize) -> Self {
        self.batch_len_max = len;
        self
    }

    /// How many connections there are at most; 10 unless set, at least 1. What finds none free waits.
    #[must_use]
    pub const fn connections_max(mut self, connections: usize) -> Self {
        self.connections_max = connections;
        self
    }

    /// What `url` stands for, and when TLS is used.
    fn database(&self) -> Result<(Config, Wanted), ConfigError> {
        let expected = "must be the URL of a PostgreSQL database, such as postgres://user:password@host/database";
        let mut database: Config = self.url.parse().map_err(|_| ConfigError::new("url", expected))?;
        if database.get_hosts().is_empty() && database.get_hostaddrs().is_empty() {
            return Err(ConfigError::new("url", "must name a host, or the folder of a socket"));
        }
        if database.get_application_name().is_none() {
            database.application_name(APPLICATION_NAME);
        }
        if !self.url.contains("sslmode") && database.get_hosts().iter().all(is_of_this_machine) {
            database.ssl_mode(SslMode::Disable);
        }
        let wanted = match database.get_ssl_mode() {
            SslMode::Disable => Wanted::Never,
            SslMode::Prefer => Wanted::IfOffered,
            _ => Wanted::Always,
        };
        Ok((database, wanted))
    }
}

fn is_of_this_machine(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(host) => host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback()),
    }
}

/// The URL may hold secrets: it is not shown.
impl std::fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresConfig").field("sql", &self.sql).finish_non_exhaustive()
    }
}

/// A PostgreSQL database that is asked for each key with a statement of its own.
///
/// NULL, or no row, is nothing. Connections are made when they are first needed, with the statements prepared, and kept. A query whose
/// load is given up is cancelled at the server, and its connection ended. A value over the limit is refused once it has come. Needs a tokio
/// runtime with time and I/O.
///
/// With `upsert` or `delete` it is a [`Store`](larder_core::Store) too ([`takes_writes`](Self::takes_writes)). Each change is a transaction
/// of its own. An error that the server tells of a statement, such as a constraint's, is a refusal: the statement is undone. What
/// became of a change is unknown if the connection breaks, or if the server itself fails or stops.
///
/// # Examples
///
/// ```no_run
/// use larder_core::{Found, Key, LoadRequest, Loader};
/// use larder_origin::{PostgresConfig, PostgresOrigin};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let config = PostgresConfig::new("postgres://larder@127.0.0.1/users", "SELECT body FROM users WHERE id = $1");
/// let origin = PostgresOrigin::new(config)?;
/// if !origin.check().await? {
///     println!("PostgreSQL is away: mistakes in the statements will show later");
/// }
/// let request = LoadRequest {
///     key: Key::new("42")?,
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
pub struct PostgresOrigin {
    pool: Pool,
    sql: Sql,
    batch_len_max: usize,
}

impl PostgresOrigin {
    /// Sets the origin up, without asking it anything yet: see [`check`](Self::check).
    ///
    /// # Errors
    ///
    /// Of the settings `url`, `ca_file`, `upsert_many`, `batch_len_max` and `connections_max`.
    pub fn new(config: PostgresConfig) -> Result<Self, ConfigError> {
        if config.batch_len_max == 0 {
            return Err(ConfigError::new("batch_len_max", "is 0: give it at least 1"));
        }
        if config.connections_max == 0 {
            return Err(ConfigError::new("connections_max", "is 0: give it at least 1"));
        }
        if config.sql.upsert.is_none() && config.sql.upsert_many.is_some() {
            return Err(ConfigError::new(
                "upsert_many",
                "needs upsert beside it, for what it can't take: set that too",
            ));
        }
        let (database, wanted) = config.database()?;
        let tls = Tls::new(client(wanted, config.ca_file.as_deref())?);
        let PostgresConfig { sql, batch_len_max, connections_max, .. } = config;
        Ok(Self { pool: Pool::new(database, tls, sql.clone(), connections_max), sql, batch_len_max })
    }

    /// Connects to the database and checks the statements against its tables; `false` if it can't be reached now. Then they are checked
    /// with the first connection, and what is wrong with them fails loads.
    ///
    /// # Errors
    ///
    /// Of the settings `url`, if the server doesn't let us in, `select`, `select_many`, `upsert`, `delete` and `upsert_many`.
    pub async fn check(&self) -> Result<bool, ConfigError> {
        match self.pool.lend_asked().await {
            Ok(lent) => lent.give_back(),
            Err(Unconnected::Away(_)) => return Ok(false),
            Err(Unconnected::Mistaken(error)) => return Err(error),
        }
        Ok(true)
    }

    /// Whether it has a statement that writes. Without one, every change is refused.
    #[must_use]
    pub const fn takes_writes(&self) -> bool {
        self.sql.upsert.is_some() || self.sql.delete.is_some()
    }
}

impl std::fmt::Debug for PostgresOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresOrigin").field("sql", &self.sql).finish_non_exhaustive()
    }
}

impl Loader for PostgresOrigin {
    fn load(&self, request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        Box::pin(async move {
            let lent = self.pool.lend().await.map_err(Error::from)?;
            let (client, prepared) = lent.parts()?;
            let found = find(client, &prepared.select, &request.key).await;
            match found {
                Ok(value) => {
                    lent.give_back();
                    Ok(answer(value, request.value_len_max)?)
                }
                Err(error) => {
                    lent.give_back_after(&error);
                    Err(failed(&error).into())
                }
            }
        })
    }

    fn batch_len_max(&self) -> usize {
        if self.sql.select_many.is_some() { self.batch_len_max } else { 1 }
    }

    fn load_many(
        &self,
        requests: Vec<LoadRequest>,
    ) -> BoxFuture<'_, Result<Vec<Result<Loaded, LoadError>>, LoadError>> {
        Box::pin(async move {
            let lent = self.pool.lend().await.map_err(Error::from)?;
            let (client, prepared) = lent.parts()?;
            let found = async {
                let mut found = match &prepared.select_many {
                    Some(select_many) => find_many(client, select_many, &requests).await?,
                    None => HashMap::new(),
                };
                let keys = requests.iter().map(|request| &request.key);
                let missing: Vec<&Key> = keys.filter(|key| !found.contains_key(key.as_bytes())).collect();
                // All of them are on their way at once.
                let singly = try_join_all(missing.iter().map(|key| find(client, &prepared.select, key))).await?;
                found.extend(missing.iter().map(|key| key.as_bytes()).zip(singly));
                Ok(found)
            };
            match found.await {
                Ok(mut found) => {
                    lent.give_back();
                    let value = |request: &LoadRequest| found.remove(request.key.as_bytes()).flatten();
                    let found: Vec<Option<Bytes>> = requests.iter().map(value).collect();
                    let answers = requests.iter().zip(found);
                    Ok(answers.map(|(request, value)| Ok(answer(value, request.value_len_max)?)).collect())
                }
                Err(error) => {
                    lent.give_back_after(&error);
                    Err(failed(&error).into())
                }
            }
        })
    }
}

/// The value of `key`, `None` if there is none.
async fn find(client: &Client, select: &Select, key: &Key) -> Result<Option<Bytes>, tokio_postgres::Error> {
    if !select.key.fits(key.as_bytes()) {
        return Ok(None);
    }
    let rows = client.query(&select.statement, &[&Bound { form: select.key, bytes: key.as_bytes() }]).await?;
    // What the connection has read is part of a larger buffer.
    Ok(rows.first().and_then(|row| select.column(row, 0)).map(|value| Bytes::copy_from_slice(&value)))
}

/// What `select_many` has rows for.
async fn find_many<'requests>(
    client: &Client,
    select_many: &Select,
    requests: &'requests [LoadRequest],
) -> Result<HashMap<&'requests [u8], Option<Bytes>>, tokio_postgres::Error> {
    let keys = requests.iter().map(|request| request.key.as_bytes());
    let asked: HashSet<&[u8]> = keys.filter(|key| select_many.key.fits(key)).collect();
    let mut found = HashMap::with_capacity(asked.len());
    if asked.is_empty() {
        return Ok(found);
    }
    let keys: Vec<&[u8]> = asked.iter().copied().collect();
    for row in client.query(&select_many.statement, &[&Bound::all(select_many.key, &keys)]).await? {
        // A key that nobody asked for is the database's own spelling of one that was.
        let key = select_many.column(&row, 0);
        let Some(key) = key.and_then(|key| asked.get(&*key)) else { continue };
        let value = || select_many.column(&row, 1).map(|value| Bytes::copy_from_slice(&value));
        found.entry(*key).or_insert_with(value);
    }
    Ok(found)
}

fn answer(value: Option<Bytes>, len_max: usize) -> Result<Loaded, Error> {
    match value {
        None => Ok(Loaded::nothing()),
        Some(value) if value.len() > len_max => Err(too_large(len_max)),
        Some(value) => Ok(Loaded::value(value)),
    }
}

/// The server's words may hold anything: its log has them.
fn failed(error: &tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(told) => Error::origin(format_args!(
            "the PostgreSQL origin's query failed (SQLSTATE {}): see its statements and its log",
            told.code().code()
        )),
        None => Error::origin(format_args!(
            "the PostgreSQL origin broke off its answer ({}): see its log",
            crate::cause(error)
        )),
    }
}
