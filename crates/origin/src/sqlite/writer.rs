//! [`Writer`]: the one connection that writes, in transactions that are made as a whole or not at all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use larder_core::UpdateError;
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::time::{Instant, sleep};

use super::connections::{GiveUp, INSTRUCTIONS_PER_LOOK, LOCK_TIME_MAX, message};
use crate::blocking::Threads;

/// Connections that write. SQLite has one writer at a time, so that more would only wait for each other.
const WRITERS_MAX: usize = 1;

/// How long one try waits for the lock of another process. Then whoever gave up is gone, and the next in the queue has its try;
/// all tries together wait as long as a read does.
const LOCK_TRY_TIME: Duration = Duration::from_millis(100);

/// How long to wait between tries, for the locks that SQLite doesn't wait for itself.
const PAUSE: Duration = Duration::from_millis(5);

/// A connection that writes, opened when it is first needed.
pub(super) struct Writer {
    database: Box<str>,
    idle: Arc<Mutex<Option<Connection>>>,
    threads: Threads,
}

/// Why a transaction was not made, or may not have been.
#[derive(Clone, Debug)]
pub(super) enum Failed {
    /// Another process has the lock. Nothing changed.
    Locked(String),
    /// Nothing changed, and no change is to blame for it: there is no room or no memory, or the file may not be written.
    Unable(String),
    /// Nothing changed.
    Undone(String),
    /// Nobody knows what changed.
    Unknown(String),
}

impl Writer {
    /// Opens the connection.
    pub(super) fn open(database: &str) -> rusqlite::Result<Self> {
        let first = open(database)?;
        Ok(Self {
            database: database.into(),
            idle: Arc::new(Mutex::new(Some(first))),
            threads: Threads::new(WRITERS_MAX),
        })
    }

    /// Runs `work` on this thread, on the connection that [`open`](Self::open) has opened.
    pub(super) fn run_here<T>(&self, work: impl FnOnce(&Connection) -> T) -> rusqlite::Result<T> {
        let idle = self.idle.lock().take();
        let connection = idle.map_or_else(|| open(&self.database), Ok)?;
        let result = work(&connection);
        *self.idle.lock() = Some(connection);
        Ok(result)
    }

    /// Runs `work` in a transaction on a thread of its own, and again while another process has the lock. The transaction is made if
    /// `work` answers, and undone if it answers nothing or the future is dropped before it is made.
    pub(super) async fn transact<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> rusqlite::Result<Option<T>> + Send + Sync + 'static,
    ) -> Result<Option<T>, Failed> {
        let begun = Instant::now();
        let given_up = Arc::new(AtomicBool::new(false));
        let _guard = GiveUp(Arc::clone(&given_up));
        let work = Arc::new(work);
        loop {
            let (idle, database) = (Arc::clone(&self.idle), self.database.clone());
            let (work, given_up) = (Arc::clone(&work), Arc::clone(&given_up));
            let tried = self.threads.run(move || {
                let popped = idle.lock().take();
                let mut connection = popped.map_or_else(|| open(&database), Ok).map_err(undone)?;
                // See `Connections::run`.
                let looked = Arc::clone(&given_up);
                let look = move || looked.load(Relaxed);
                connection.progress_handler(INSTRUCTIONS_PER_LOOK, Some(look)).map_err(undone)?;
                let result = transact(&connection, |connection| {
                    let answer = work(connection)?;
                    // It may have waited for the lock for longer than anybody waited for it.
                    Ok(answer.filter(|_| !given_up.load(Relaxed)))
                });
                // What is wrong with it, if anything is, ends with it.
                if connection.is_autocommit() && !matches!(result, Err(Failed::Unknown(_))) {
                    *idle.lock() = Some(connection);
                }
                result
            });
            match tried.await {
                Ok(Err(Failed::Locked(_))) if begun.elapsed() < LOCK_TIME_MAX => sleep(PAUSE).await,
                Ok(result) => return result,
                Err(error) => return Err(Failed::Unknown(error.to_string())),
            }
        }
    }
}

fn open(database: &str) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(LOCK_TRY_TIME)?;
    Ok(connection)
}

fn transact<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<Option<T>>,
) -> Result<Option<T>, Failed> {
    // The lock is taken first, so that nothing is done that it could still be missing for.
    connection.execute_batch("BEGIN IMMEDIATE").map_err(undone)?;
    let answer = match work(connection) {
        Ok(Some(answer)) => answer,
        other => {
            // A statement may have ended the transaction by itself. One that does not end now ends with its connection.
            let _ended = connection.execute_batch("ROLLBACK");
            return other.map_err(undone);
        }
    };
    match connection.execute_batch("COMMIT") {
        Ok(()) => Ok(Some(answer)),
        // Readers are in the way, or a constraint that is checked last: what was written is still to be undone.
        Err(error) if is_locked(&error) || error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            match connection.execute_batch("ROLLBACK") {
                Ok(()) => Err(undone(error)),
                Err(error) => Err(Failed::Unknown(told(&error))),
            }
        }
        Err(error) => Err(Failed::Unknown(told(&error))),
    }
}

fn is_locked(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// The outcome of a transaction that was given up before it was made. What failed below SQLite proves nothing.
#[expect(clippy::needless_pass_by_value, reason = "takes it as `map_err` gives it")]
fn undone(error: rusqlite::Error) -> Failed {
    let told = told(&error);
    match error.sqlite_error_code() {
        _ if is_locked(&error) => Failed::Locked(told),
        Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::FileLockingProtocolFailed) => {
            Failed::Unknown(told)
        }
        Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::OutOfMemory) => {
            Failed::Unable(told)
        }
        _ => Failed::Undone(told),
    }
}

/// What SQLite has for the error's number: the text of an error may come from a trigger, and hold anything.
fn told(error: &rusqlite::Error) -> String {
    error.sqlite_error().map_or_else(|| message(error), ToString::to_string)
}

impl From<Failed> for UpdateError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Locked(told) => Self::unreached(format!(
                "the SQLite origin was locked for {LOCK_TIME_MAX:?} ({told}): keep the writes of others to it short, or set its \
                 journal_mode to WAL"
            )),
            Failed::Unable(told) => Self::unreached(format!(
                "the SQLite origin did not take the change ({told}): see its file and its disk"
            )),
            Failed::Undone(told) => Self::refused(format!(
                "the SQLite origin refused the change ({told}): see its statements and constraints"
            )),
            Failed::Unknown(told) => Self::unknown(format!(
                "the SQLite origin failed in the middle of a change ({told}): see its file and its disk"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    /// Else a disk that is full would make a dead letter of every write behind.
    #[test]
    fn what_no_change_is_to_blame_for_may_be_made_later() {
        for (code, is_later) in [
            (ffi::SQLITE_FULL, true),
            (ffi::SQLITE_READONLY, true),
            (ffi::SQLITE_CANTOPEN, true),
            (ffi::SQLITE_NOMEM, true),
            (ffi::SQLITE_BUSY, true),
            (ffi::SQLITE_CONSTRAINT, false),
            (ffi::SQLITE_TOOBIG, false),
            (ffi::SQLITE_ERROR, false),
        ] {
            let error = UpdateError::from(undone(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)));
            let expected = if is_later {
                matches!(error, UpdateError::Unreached(_))
            } else {
                matches!(error, UpdateError::Refused(_))
            };
            assert!(expected, "{code}: {error:?}");
        }
    }
}
