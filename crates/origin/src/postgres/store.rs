//! Writes: a statement a change, or one for many.

use futures_util::future::{BoxFuture, join_all};
use larder_core::{Change, Key, Store, Update, UpdateError};
use tokio_postgres::{Client, Error, error::Severity};

use super::{
    PostgresOrigin, find,
    pool::Lent,
    statement::{Prepared, Write},
};
use crate::cause;

/// What became of a change, if no error did.
#[derive(Clone, Copy)]
enum Outcome {
    Done,
    Conflict,
    /// The server was not asked, for this reason.
    Refused(&'static str),
}

impl PostgresOrigin {
    async fn write(&self, update: Update) -> Result<(), UpdateError> {
        let lent = self.pool.lend().await?;
        let (client, prepared) = lent.parts().map_err(UpdateError::refused)?;
        let made = make(client, prepared, &update).await;
        finish(lent, made.as_ref().err());
        answer(&made)
    }

    async fn write_many(&self, updates: Vec<Update>) -> Vec<Result<(), UpdateError>> {
        let reach_none = |error: UpdateError| {
            let why = error.to_string();
            updates.iter().map(|_| Err(UpdateError::unreached(&why))).collect()
        };
        let lent = match self.pool.lend().await {
            Ok(lent) => lent,
            Err(unconnected) => return reach_none(unconnected.into()),
        };
        let (client, prepared) = match lent.parts() {
            Ok(parts) => parts,
            Err(error) => return reach_none(UpdateError::unreached(error)),
        };
        let mut answers: Vec<Option<Result<(), UpdateError>>> = updates.iter().map(|_| None).collect();
        if let Some(write) = &prepared.upsert_many {
            let batch = Batch::of(&updates, write);
            match batch.make(client, write).await {
                Ok(true) => batch.places.iter().for_each(|at| answers[*at] = Some(Ok(()))),
                // One of them held up the others, and nothing changed.
                Ok(false) => {}
                Err(error) => {
                    batch.places.iter().for_each(|at| answers[*at] = Some(answer(&Err(&error))));
                    finish(lent, Some(&error));
                    let unasked = || {
                        Err(UpdateError::unreached("the connection to the PostgreSQL origin broke before it was asked"))
                    };
                    return answers.into_iter().map(|answer| answer.unwrap_or_else(unasked)).collect();
                }
            }
        }
        // Each is a transaction of its own, and all of them are on their way at once.
        let others = updates.iter().zip(&answers).filter(|(_, answer)| answer.is_none());
        let made = join_all(others.map(|(update, _)| make(client, prepared, update))).await;
        // What broke the connection broke it for all of them.
        let errors = made.iter().filter_map(|made| made.as_ref().err());
        finish(lent, errors.max_by_key(|error| error.as_db_error().is_none()));
        let mut made = made.iter().map(answer);
        answers.into_iter().filter_map(|answer| answer.or_else(|| made.next())).collect()
    }
}

fn finish(lent: Lent, error: Option<&Error>) {
    match error {
        None => lent.give_back(),
        Some(error) => lent.give_back_after(error),
    }
}

/// Makes one change, in a transaction of its own.
async fn make(client: &Client, prepared: &Prepared, update: &Update) -> Result<Outcome, Error> {
    let (write, value): (_, &[u8]) = match &update.change {
        Change::Put(value) => (prepared.upsert.as_ref().ok_or("has no statement that puts: set its upsert"), value),
        Change::Delete => (prepared.delete.as_ref().ok_or("has no statement that deletes: set its delete"), &[]),
    };
    let write = match write {
        Ok(write) => write,
        Err(why) => return Ok(Outcome::Refused(why)),
    };
    match unfit(write, &update.key, &update.change) {
        // No row can have such a key.
        Some(_) if update.change == Change::Delete => return Ok(Outcome::Done),
        Some(why) => return Ok(Outcome::Refused(why)),
        None => {}
    }
    let changed = write.run(client, update.key.as_bytes(), value, update.version).await?;
    if changed > 0 || write.version.is_none() {
        return Ok(Outcome::Done);
    }
    // That there is nothing to delete is no conflict. Whatever happened between the two statements: if nothing is there now, the
    // key is as a deletion leaves it.
    let is_gone = update.change == Change::Delete && find(client, &prepared.select, &update.key).await?.is_none();
    Ok(if is_gone { Outcome::Done } else { Outcome::Conflict })
}

/// Why the server need not be asked.
fn unfit(write: &Write, key: &Key, change: &Change) -> Option<&'static str> {
    match change {
        _ if !write.key.fits(key.as_bytes()) => Some("can't have such a key in a column of its type"),
        Change::Put(value) if !write.value.fits(value) => Some("can't have such a value in a column of its type"),
        _ => None,
    }
}

/// Those of several changes that one statement can make.
struct Batch<'updates> {
    /// Their places among all.
    places: Vec<usize>,
    keys: Vec<&'updates [u8]>,
    values: Vec<&'updates [u8]>,
    versions: Vec<String>,
}

impl<'updates> Batch<'updates> {
    fn of(updates: &'updates [Update], write: &Write) -> Self {
        let mut batch = Self { places: Vec::new(), keys: Vec::new(), values: Vec::new(), versions: Vec::new() };
        for (at, Update { key, change, version, .. }) in updates.iter().enumerate() {
            match change {
                Change::Put(value) if unfit(write, key, change).is_none() => {
                    batch.places.push(at);
                    batch.keys.push(key.as_bytes());
                    batch.values.push(value);
                    batch.versions.push(version.to_string());
                }
                Change::Put(_) | Change::Delete => {}
            }
        }
        batch
    }

    /// Makes all of them or none, and says whether it did. An error leaves it unknown.
    async fn make(&self, client: &Client, write: &Write) -> Result<bool, Error> {
        if self.places.is_empty() {
            return Ok(true);
        }
        let run = || write.run_many(client, &self.keys, &self.values, &self.versions);
        if write.version.is_none() {
            return made(run().await).map(|changed| changed.is_some());
        }
        // Only the number of rows tells that there was a conflict, and then those that were none must not be made twice.
        client.batch_execute("BEGIN").await?;
        let changed = made(run().await)?;
        if changed == Some(self.places.len() as u64) {
            return made(client.batch_execute("COMMIT").await).map(|made| made.is_some());
        }
        client.batch_execute("ROLLBACK").await?;
        Ok(false)
    }
}

/// The result of a statement, `None` if it proves that nothing changed.
fn made<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(result) => Ok(Some(result)),
        Err(error) if proves_nothing_changed(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a statement that ended so has changed nothing: the server refused it and lives on, so that its transaction is undone.
fn proves_nothing_changed(error: &Error) -> bool {
    // Classes of SQLSTATE: 0A what can't be done, 21 to 2D data, constraints and states of transactions, 3x and 42 names, rights and
    // syntax, 40 conflicts between transactions, 44 views, 53 to 55 resources, locks and limits, 57 a query that is cancelled, P0 what
    // functions raise. Not in it: 08 connections, 58 and XX what fails below the database.
    const REFUSALS: [&str; 21] = [
        "0A", "20", "21", "22", "23", "25", "26", "27", "28", "2B", "2D", "34", "3D", "3F", "40", "42", "44", "53",
        "54", "55", "P0",
    ];
    // A query that is cancelled, and a transaction of which the server doesn't know how it ended.
    const CANCELLED: &str = "57014";
    const UNKNOWN: &str = "40003";
    let Some(told) = error.as_db_error() else {
        // The server was not asked.
        return error.to_string().starts_with("error serializing parameter");
    };
    let code = told.code().code();
    told.parsed_severity() == Some(Severity::Error)
        && code != UNKNOWN
        && (code == CANCELLED || REFUSALS.contains(&&code[..2]))
}

/// What is told of a change. The server's words may hold anything: its log has them.
fn answer(made: &Result<Outcome, impl std::borrow::Borrow<Error>>) -> Result<(), UpdateError> {
    let error = match made {
        Ok(Outcome::Done) => return Ok(()),
        Ok(Outcome::Conflict) => return Err(UpdateError::Conflict),
        Ok(Outcome::Refused(why)) => return Err(UpdateError::refused(format_args!("the PostgreSQL origin {why}"))),
        Err(error) => error.borrow(),
    };
    let told = error.as_db_error().map_or_else(|| cause(error), |told| format!("SQLSTATE {}", told.code().code()));
    Err(if proves_nothing_changed(error) {
        UpdateError::refused(format_args!("the PostgreSQL origin refused the change ({told}): see its log"))
    } else {
        UpdateError::unknown(format_args!(
            "the PostgreSQL origin broke off in the middle of a change ({told}): see its log"
        ))
    })
}

impl Store for PostgresOrigin {
    fn update(&self, update: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
        Box::pin(self.write(update))
    }

    fn update_batch_len_max(&self) -> usize {
        if self.sql.upsert_many.is_some() { self.batch_len_max } else { 1 }
    }

    fn update_many(&self, updates: Vec<Update>) -> BoxFuture<'_, Vec<Result<(), UpdateError>>> {
        Box::pin(self.write_many(updates))
    }

    fn fences(&self) -> bool {
        self.sql.fences()
    }
}
