//! [`SqliteOrigin`]: a row a key.

mod connections;
mod statement;
mod store;
mod writer;

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use larder_core::{Error, Key, LoadError, LoadRequest, Loaded, Loader};
use rusqlite::{
    Connection,
    types::{ToSqlOutput, ValueRef},
};

use self::{
    connections::{Connections, message},
    statement::check_read,
    store::Writes,
};
use crate::{ConfigError, too_large};

/// Keys in one batch unless set otherwise. More gain little: the cost of a query is already divided by a hundred. A batch
/// holds its values in memory together.
const BATCH_LEN_MAX: usize = 100;

/// Where an [`SqliteOrigin`] looks, and how it asks.
///
/// # Examples
///
/// ```no_run
/// use larder_origin::{SqliteConfig, SqliteOrigin};
///
/// let config = SqliteConfig::new("users.db", "SELECT body FROM users WHERE id = $1").select_many(
///     "SELECT asked.value, users.body FROM json_each($1) AS asked JOIN users ON users.id = asked.value",
/// );
/// let origin = SqliteOrigin::open(config)?;
/// # Ok::<(), larder_origin::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct SqliteConfig {
    url: String,
    select: String,
    select_many: Option<String>,
    upsert: Option<String>,
    delete: Option<String>,
    upsert_many: Option<String>,
    batch_len_max: usize,
}

impl SqliteConfig {
    /// `url` is the path of the database file, with `sqlite:` or `sqlite://` before it or not; or a `file:` URI with
    /// SQLite's parameters, such as `file:users.db?immutable=1`.
    ///
    /// `select` gets the key as `$1` and returns one column, the value; of several rows the first counts. The key is
    /// bound as text if it is UTF-8, else as a blob; it is compared as SQLite compares: a column of integers finds `42`
    /// under the keys `42` and `042`.
    pub fn new(url: impl Into<String>, select: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            select: select.into(),
            select_many: None,
            upsert: None,
            delete: None,
            upsert_many: None,
            batch_len_max: BATCH_LEN_MAX,
        }
    }

    /// A statement for many keys at once: it gets them as `$1`, a JSON array of strings, and returns two columns, key and
    /// value, in any order of rows.
    ///
    /// A key that no row has is asked for by `select`, which has the last word: a column of integers returns `42` where
    /// `042` was asked for. So are keys that are not UTF-8, which JSON can't hold.
    #[must_use]
    pub fn select_many(mut self, statement: impl Into<String>) -> Self {
        self.select_many = Some(statement.into());
        self
    }

    /// A statement that writes a value: it gets the key as `$1`, the value as `$2` and, if it names it, the version as `$3`.
    ///
    /// The key is bound as for `select`; the value as text if it is UTF-8 without NUL, else as a blob. What a statement must have one
    /// way it can `CAST($2 AS BLOB)`; a column of numbers changes text that looks like one, as SQLite does.
    ///
    /// The version is text of 24 hexadecimal digits, later ones greater. A statement that names it *fences*: it must write only
    /// what is not older than what is there, and if it changed no row that is taken for a conflict. Let it take the version that is
    /// there once more (`>=`), so that a write can be repeated:
    ///
    /// ```sql
    /// INSERT INTO users (id, body, version) VALUES ($1, $2, $3)
    /// ON CONFLICT (id) DO UPDATE SET body = excluded.body, version = excluded.version WHERE excluded.version >= users.version
    /// ```
    #[must_use]
    pub fn upsert(mut self, statement: impl Into<String>) -> Self {
        self.upsert = Some(statement.into());
        self
    }

    /// A statement that deletes a value: it gets the key as `$1` and, if it names it, the version as `$3`. One that fences and changed
    /// no row is a conflict only if `select` then finds a value.
    ///
    /// A row that is deleted forgets its version. Where a write that was overtaken by a deletion must not bring the value back, keep
    /// the row, such as with `UPDATE users SET body = NULL, version = $3 WHERE id = $1 AND version <= $3`.
    #[must_use]
    pub fn delete(mut self, statement: impl Into<String>) -> Self {
        self.delete = Some(statement.into());
        self
    }

    /// A statement that writes many values: as [`upsert`](Self::upsert), with three JSON arrays of strings that belong together by
    /// their places, such as
    ///
    /// ```sql
    /// INSERT INTO users (id, body, version) SELECT value, $2 ->> key, $3 ->> key FROM json_each($1) WHERE true
    /// ON CONFLICT (id) DO UPDATE SET body = excluded.body, version = excluded.version WHERE excluded.version >= users.version
    /// ```
    ///
    /// What JSON can't hold, keys and values that are not UTF-8 or have a NUL, is written by `upsert` in the same transaction. If one of
    /// the batch is refused or a conflict, nothing of it is kept and each is written alone, so that none holds up another.
    #[must_use]
    pub fn upsert_many(mut self, statement: impl Into<String>) -> Self {
        self.upsert_many = Some(statement.into());
        self
    }

    /// How many keys `select_many` and `upsert_many` get at once; 100 unless set, at least 1.
    #[must_use]
    pub const fn batch_len_max(mut self, len: usize) -> Self {
        self.batch_len_max = len;
        self
    }

    /// What SQLite is to open.
    fn database(&self) -> &str {
        let url = self.url.as_str();
        url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).unwrap_or(url)
    }
}

/// An SQLite database that is asked for each key with a statement of its own.
///
/// The value is text or a blob, as it is; a number is its text, as `CAST(… AS TEXT)` has it. NULL, or no row, is nothing.
///
/// The file must exist. For loads it is opened for reading alone. Up to 8 loads run at once, each on a thread and a connection of its
/// own; the others wait. A query whose load is given up is interrupted. A writer's lock is waited for up to 5 s. Rows may
/// change at any time; a file that is put in the place of the open one is seen only after a restart. Needs a tokio runtime.
///
/// With `upsert` or `delete` it is a [`Store`](larder_core::Store) too ([`takes_writes`](Self::takes_writes)). Changes are made one after another, each in a
/// transaction, on one connection more. One that is given up is undone, unless it was just being committed. What SQLite says before a commit
/// is a refusal; a failed commit, or an I/O error at any time, leaves it unknown what changed.
///
/// # Examples
///
/// ```
/// use larder_core::{Found, Key, LoadRequest, Loader};
/// use larder_origin::{SqliteConfig, SqliteOrigin};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("users.db");
/// # let database = rusqlite::Connection::open(&file)?;
/// # let url = file.to_str().ok_or("the temporary folder's name is not UTF-8")?;
/// database.execute_batch("CREATE TABLE users (id TEXT PRIMARY KEY, body TEXT); INSERT INTO users VALUES ('42', 'Ada')")?;
///
/// let origin = SqliteOrigin::open(SqliteConfig::new(url, "SELECT body FROM users WHERE id = $1"))?;
/// let request = LoadRequest {
///     key: Key::new("42")?,
///     previous: None,
///     value_len_max: 1024,
///     deadline: tokio::time::Instant::now() + std::time::Duration::from_secs(10),
/// };
/// assert_eq!(origin.load(request).await?.found, Found::Value("Ada".into()));
///
/// let mistaken = SqliteOrigin::open(SqliteConfig::new(url, "SELECT bdy FROM users WHERE id = $1"));
/// assert_eq!(
///     mistaken.unwrap_err().to_string(),
///     r#"select: no such column: bdy, at byte 7 of "SELECT bdy FROM users WHERE id = $1""#,
/// );
/// # Ok(())
/// # }
/// ```
pub struct SqliteOrigin {
    connections: Connections,
    select: Box<str>,
    select_many: Option<Box<str>>,
    batch_len_max: usize,
    writes: Option<Writes>,
}

impl SqliteOrigin {
    /// Opens the database and checks the statements against its tables; blocks for as long as that takes.
    ///
    /// # Errors
    ///
    /// Of the settings `url`, `select`, `select_many`, `upsert`, `delete`, `upsert_many` and `batch_len_max`.
    pub fn open(config: SqliteConfig) -> Result<Self, ConfigError> {
        if config.batch_len_max == 0 {
            return Err(ConfigError::new("batch_len_max", "is 0: give it at least 1"));
        }
        let unopened = |error: rusqlite::Error| {
            let message = message(&error);
            ConfigError::new("url", format!("{} can't be opened to be read: {message}", config.database()))
        };
        let connections = Connections::open(config.database()).map_err(unopened)?;
        connections
            .run_here(|connection| {
                check_read(connection, "select", &config.select, &["the value"])?;
                let many = config.select_many.as_deref();
                many.map_or(Ok(()), |many| check_read(connection, "select_many", many, &["the key", "the value"]))
            })
            .map_err(unopened)??;
        let writes = Writes::open(&config)?;
        Ok(Self {
            connections,
            writes,
            select: config.select.into(),
            select_many: config.select_many.map(Into::into),
            batch_len_max: config.batch_len_max,
        })
    }

    /// Whether it has a statement that writes. Without one, every change is refused.
    #[must_use]
    pub const fn takes_writes(&self) -> bool {
        self.writes.is_some()
    }
}

impl std::fmt::Debug for SqliteOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteOrigin").field("select", &self.select).finish_non_exhaustive()
    }
}

/// What a load brings; SQLite's own errors are told beside it, as they end a whole batch.
type Answer = Result<Loaded, Error>;

impl Loader for SqliteOrigin {
    fn load(&self, request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        let LoadRequest { key, value_len_max, .. } = request;
        let select = self.select.clone();
        Box::pin(async move {
            let work = move |connection: &Connection| load(connection, &select, &key, value_len_max);
            Ok(self.connections.run(value_len_max, work).await??)
        })
    }

    fn batch_len_max(&self) -> usize {
        if self.select_many.is_some() { self.batch_len_max } else { 1 }
    }

    fn load_many(
        &self,
        requests: Vec<LoadRequest>,
    ) -> BoxFuture<'_, Result<Vec<Result<Loaded, LoadError>>, LoadError>> {
        let select = self.select.clone();
        let select_many = self.select_many.clone();
        Box::pin(async move {
            let value_len_max = requests.iter().map(|request| request.value_len_max).max().unwrap_or(0);
            let work = move |connection: &Connection| {
                let found = match select_many {
                    Some(select_many) => load_batch(connection, &select_many, &requests)?,
                    None => HashMap::new(),
                };
                let one_by_one = |request: &LoadRequest| match found.get(request.key.as_bytes()) {
                    Some(answer) => Ok(answer.clone()),
                    None => load(connection, &select, &request.key, request.value_len_max),
                };
                requests.iter().map(one_by_one).collect::<rusqlite::Result<Vec<_>>>()
            };
            let answers = self.connections.run(value_len_max, work).await?;
            Ok(answers.into_iter().map(|answer| answer.map_err(LoadError::from)).collect())
        })
    }
}

fn load(connection: &Connection, select: &str, key: &Key, value_len_max: usize) -> rusqlite::Result<Answer> {
    let bytes = key.as_bytes();
    let bound = if str::from_utf8(bytes).is_ok() { ValueRef::Text(bytes) } else { ValueRef::Blob(bytes) };
    let mut statement = connection.prepare_cached(select)?;
    let mut rows = statement.query([ToSqlOutput::Borrowed(bound)])?;
    match rows.next()? {
        Some(row) => answer(connection, row.get_ref(0)?, value_len_max),
        None => Ok(Ok(Loaded::nothing())),
    }
}

/// Asks `select_many` for the keys that JSON can hold, and returns what it has rows for.
fn load_batch<'requests>(
    connection: &Connection,
    select_many: &str,
    requests: &'requests [LoadRequest],
) -> rusqlite::Result<HashMap<&'requests [u8], Answer>> {
    let text = |request: &'requests LoadRequest| str::from_utf8(request.key.as_bytes()).ok();
    let asked: HashMap<_, _> = requests.iter().filter_map(|request| Some((text(request)?, request))).collect();
    if asked.is_empty() {
        return Ok(HashMap::new());
    }
    let keys: serde_json::Value = asked.keys().copied().collect();
    let mut statement = connection.prepare_cached(select_many)?;
    let mut rows = statement.query([keys.to_string()])?;
    let mut found = HashMap::with_capacity(asked.len());
    while let Some(row) = rows.next()? {
        let key = bytes(connection, row.get_ref(0)?)?;
        // A key that nobody asked for is the database's own spelling of one that was: `42` for `042`.
        let Some(request) = key.and_then(|key| asked.get(str::from_utf8(&key).ok()?)) else { continue };
        if let Entry::Vacant(place) = found.entry(request.key.as_bytes()) {
            place.insert(answer(connection, row.get_ref(1)?, request.value_len_max)?);
        }
    }
    Ok(found)
}

fn answer(connection: &Connection, value: ValueRef<'_>, len_max: usize) -> rusqlite::Result<Answer> {
    Ok(match bytes(connection, value)? {
        None => Ok(Loaded::nothing()),
        Some(bytes) if bytes.len() > len_max => Err(too_large(len_max)),
        Some(bytes) => Ok(Loaded::value(Bytes::copy_from_slice(&bytes))),
    })
}

/// The bytes of a column, `None` if it is NULL.
fn bytes<'row>(connection: &Connection, column: ValueRef<'row>) -> rusqlite::Result<Option<Cow<'row, [u8]>>> {
    Ok(match column {
        ValueRef::Null => None,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes.into()),
        ValueRef::Integer(number) => Some(number.to_string().into_bytes().into()),
        ValueRef::Real(number) => {
            // SQLite's own text of it, which is not Rust's.
            let text: String = connection.query_row("SELECT CAST(?1 AS TEXT)", [number], |row| row.get(0))?;
            Some(text.into_bytes().into())
        }
    })
}
