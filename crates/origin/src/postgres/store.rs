//! Writes: a statement a change, or one for many.

use futures_util::future::{BoxFuture, join_all};
use larder_core::{Change, Key, Store, Update, UpdateError};
use tokio_postgres::{Client, Error, error::Severity};

use super::{
    PostgresOrigin, find,
    pool::Lent,
    statement::{Prepared, Write},
};
use crate::{cause, halves::Halves};

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
        if let Some(write) = &prepared.upsert_many
            && let Err(error) = make_together(client, write, &updates, &mut answers).await
        {
            finish(lent, Some(&error));
            let unasked =
                || Err(UpdateError::unreached("the connection to the PostgreSQL origin broke before it was asked"));
            return answers.into_iter().map(|answer| answer.unwrap_or_else(unasked)).collect();
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

/// Makes many changes with few statements. What has no answer then is to be made one by one, unless there is an error: after that nothing
/// can be made over this connection.
async fn make_together(
    client: &Client,
    write: &Write,
    updates: &[Update],
    answers: &mut [Option<Result<(), UpdateError>>],
) -> Result<(), Error> {
    // Those of them that one statement can make.
    let fits = |update: &Update| {
        matches!(update.change, Change::Put(_)) && unfit(write, &update.key, &update.change).is_none()
    };
    let places: Vec<usize> = (0..updates.len()).filter(|&at| fits(&updates[at])).collect();
    let mut halves = Halves::of(places.len());
    while let Some(part) = halves.next() {
        let places = &places[part.clone()];
        let batch = Batch::of(places.iter().map(|&at| &updates[at]));
        let error = match batch.make(client, write).await {
            Ok(true) => None,
            // One of them held up the others, and nothing changed.
            Ok(false) => {
                halves.failed(part);
                continue;
            }
            Err(error) => Some(error),
        };
        for &at in places {
            answers[at] = Some(error.as_ref().map_or(Ok(()), |error| answer(&Err(error))));
        }
        match error {
            Some(error) if fault(&error).is_none() => return Err(error),
            _ => {}
        }
    }
    Ok(())
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

/// Changes that one statement makes.
#[derive(Default)]
struct Batch<'updates> {
    keys: Vec<&'updates [u8]>,
    values: Vec<&'updates [u8]>,
    versions: Vec<String>,
}

impl<'updates> Batch<'updates> {
    fn of(updates: impl Iterator<Item = &'updates Update>) -> Self {
        let mut batch = Self::default();
        for Update { key, change, version, .. } in updates {
            if let Change::Put(value) = change {
                batch.keys.push(key.as_bytes());
                batch.values.push(value);
                batch.versions.push(version.to_string());
            }
        }
        batch
    }

    /// Makes all of them or none, and says whether it did, if one of them may be to blame. After an error that is nobody's fault among them
    /// nothing changed; any other leaves it unknown.
    async fn make(&self, client: &Client, write: &Write) -> Result<bool, Error> {
        let run = || write.run_many(client, &self.keys, &self.values, &self.versions);
        if write.version.is_none() {
            return made(run().await).map(|changed| changed.is_some());
        }
        // Only the number of rows tells that there was a conflict, and then those that were none must not be made twice.
        client.batch_execute("BEGIN").await?;
        let changed = match made(run().await) {
            Err(error) if fault(&error).is_some() => {
                client.batch_execute("ROLLBACK").await?;
                return Err(error);
            }
            changed => changed?,
        };
        if changed == Some(self.keys.len() as u64) {
            return made(client.batch_execute("COMMIT").await).map(|made| made.is_some());
        }
        client.batch_execute("ROLLBACK").await?;
        Ok(false)
    }
}

/// The result of a statement, `None` if it proves that nothing changed and one of the changes may be to blame.
fn made<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(result) => Ok(Some(result)),
        Err(error) if matches!(fault(&error), Some(Fault::Change | Fault::Moment)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is to blame where nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// The change: it would fare no better later.
    Change,
    /// What others do to the same rows, or how busy the server is: it may be made later, and others may be made now.
    Moment,
    /// The server, which takes no change now.
    Server,
}

/// Why a statement that ended so has changed nothing, if that is certain: the server refused it and lives on, so that its transaction
/// is undone.
fn fault(error: &Error) -> Option<Fault> {
    let Some(told) = error.as_db_error() else {
        // The server was not asked.
        return error.to_string().starts_with("error serializing parameter").then_some(Fault::Change);
    };
    (told.parsed_severity() == Some(Severity::Error)).then(|| fault_of(told.code().code())).flatten()
}

/// What an SQLSTATE blames.
fn fault_of(code: &str) -> Option<Fault> {
    match code {
        // A transaction of which the server doesn't know how it ended.
        "40003" => None,
        // A query that is cancelled, as by the server's limit of its time.
        "57014" => Some(Fault::Moment),
        // A server that only reads, as one does that waits to take over; and one that doesn't let us in.
        "25006" | "42501" => Some(Fault::Server),
        _ => match code.get(..2)? {
            // Conflicts between transactions; locks.
            "40" | "55" => Some(Fault::Moment),
            // Disk, memory, connections; who may come in.
            "53" | "28" => Some(Fault::Server),
            // 0A what can't be done, 20 to 2D data, constraints and states of transactions, 3x and 42 names and syntax, 44 views, 54
            // limits, P0 what functions raise.
            "0A" | "20" | "21" | "22" | "23" | "25" | "26" | "27" | "2B" | "2D" | "34" | "3D" | "3F" | "42" | "44"
            | "54" | "P0" => Some(Fault::Change),
            // 08 connections, 58 and XX what fails below the database, and all others.
            _ => None,
        },
    }
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
    Err(match fault(error) {
        Some(Fault::Change) => {
            UpdateError::refused(format_args!("the PostgreSQL origin refused the change ({told}): see its log"))
        }
        Some(Fault::Moment | Fault::Server) => {
            UpdateError::unreached(format_args!("the PostgreSQL origin did not take the change ({told}): see its log"))
        }
        None => UpdateError::unknown(format_args!(
            "the PostgreSQL origin broke off in the middle of a change ({told}): see its log"
        )),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a server that is full, or reads only for a while, would make a dead letter of every write behind.
    #[test]
    fn an_sqlstate_blames_the_change_the_moment_or_the_server() {
        for (code, blamed) in [
            ("23514", Some(Fault::Change)),
            ("22P02", Some(Fault::Change)),
            ("42P01", Some(Fault::Change)),
            ("P0001", Some(Fault::Change)),
            ("40P01", Some(Fault::Moment)),
            ("55P03", Some(Fault::Moment)),
            ("57014", Some(Fault::Moment)),
            ("53100", Some(Fault::Server)),
            ("25006", Some(Fault::Server)),
            ("42501", Some(Fault::Server)),
            ("40003", None),
            ("57P01", None),
            ("58030", None),
            ("XX001", None),
            ("", None),
        ] {
            assert_eq!(fault_of(code), blamed, "{code}");
        }
    }
}
