//! [`Connections`]: read-only connections to one database, each on a thread of its own while it works.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use larder_core::Error;
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags, limits::Limit};

use crate::{blocking::Threads, too_large};

/// Connections at once. Reads scale with cores, and each connection costs up to 2 MiB of page cache.
const CONNECTIONS_MAX: usize = 8;

/// How long a read or a write waits for a writer's lock. For a read it is not cut short when the load is given up: whoever takes the thread next would
/// wait for the same lock.
pub(super) const LOCK_TIME_MAX: Duration = Duration::from_secs(5);

/// After how many instructions of SQLite's virtual machine a query looks whether it is still wanted: well under a
/// millisecond of work.
pub(super) const INSTRUCTIONS_PER_LOOK: i32 = 10_000;

/// The longest string or blob that a statement may handle, in bytes, where the group's limit on values is lower. It bounds the memory
/// of a query that meets a huge value; the values that a statement only handles in passing, and the keys of a batch, must
/// have room in it.
const LENGTH_MAX_LEAST: usize = 16 * 1024 * 1024;

/// A bounded number of connections, opened when they are first needed.
pub(super) struct Connections {
    database: Box<str>,
    idle: Arc<Mutex<Vec<Connection>>>,
    threads: Threads,
}

impl Connections {
    /// Opens a first connection.
    pub(super) fn open(database: &str) -> rusqlite::Result<Self> {
        let first = open(database)?;
        // Opening reads nothing yet; this reads the file's header.
        first.pragma_query_value(None, "schema_version", |_| Ok(()))?;
        Ok(Self {
            database: database.into(),
            idle: Arc::new(Mutex::new(vec![first])),
            threads: Threads::new(CONNECTIONS_MAX),
        })
    }

    /// Runs `work` on this thread.
    pub(super) fn run_here<T>(&self, work: impl FnOnce(&Connection) -> T) -> rusqlite::Result<T> {
        let idle = self.idle.lock().pop();
        let connection = idle.map_or_else(|| open(&self.database), Ok)?;
        let result = work(&connection);
        self.idle.lock().push(connection);
        Ok(result)
    }

    /// Runs `work` on another thread. When the future is dropped its queries are interrupted.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        value_len_max: usize,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let given_up = Arc::new(AtomicBool::new(false));
        let _guard = GiveUp(Arc::clone(&given_up));
        let idle = Arc::clone(&self.idle);
        let database = self.database.clone();
        let done = self.threads.run(move || {
            let popped = idle.lock().pop();
            let mut connection = popped.map_or_else(|| open(&database), Ok)?;
            let length_max = value_len_max.max(LENGTH_MAX_LEAST);
            connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::try_from(length_max).unwrap_or(i32::MAX))?;
            // Not `sqlite3_interrupt`: that stops nothing which has not begun yet, and might stop the next load.
            connection.progress_handler(INSTRUCTIONS_PER_LOOK, Some(move || given_up.load(Relaxed)))?;
            let result = work(&connection);
            // One that failed is opened anew, whatever was wrong with it.
            if result.is_ok() {
                idle.lock().push(connection);
            }
            result
        });
        done.await?.map_err(|error| failed(&error, value_len_max))
    }
}

fn open(database: &str) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(LOCK_TIME_MAX)?;
    Ok(connection)
}

/// Tells the queries of what is dropped.
pub(super) struct GiveUp(pub(super) Arc<AtomicBool>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// What SQLite says, without the statement, which is none of a client's business.
pub(super) fn message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) | rusqlite::Error::SqlInputError { msg: message, .. } => {
            message.clone()
        }
        error => error.to_string(),
    }
}

fn failed(error: &rusqlite::Error, value_len_max: usize) -> Error {
    let message = message(error);
    match error.sqlite_error_code() {
        Some(ErrorCode::TooBig) => too_large(value_len_max),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::origin(format!(
            "the SQLite origin was locked for {LOCK_TIME_MAX:?} ({message}): keep writes to it short, or set its \
             journal_mode to WAL"
        )),
        _ => Error::origin(format!("the SQLite origin's query failed ({message}): see its statements and its file")),
    }
}
