//! [`retry_dead_letter`]: a write that its origin refused for good is made again.

use std::time::Duration;

use larder_core::{Change, Error, Node, Version, behind::Record, group::WriteOptions, peer::WriteOp};

use crate::journal::{Journal, JournalError};

/// What became of a dead letter that was to be written again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retried {
    /// It was, as this version where that is known, and is a dead letter no more.
    Written(Option<Version>),
    /// It was not: its key was written since, as far as this node knows, as this version, which that would undo.
    Overtaken(Version),
    /// There is no such dead letter.
    Unknown,
}

/// Writes a dead letter again, as if it were written now, by whoever owns its key; then it is a dead letter no more. Its idempotency key
/// does not go with it: under that the first write was answered.
///
/// # Errors
///
/// As for [`Group::write`](larder_core::Group::write): it stays a dead letter.
pub async fn retry_dead_letter(journal: &Journal, id: u64, node: &Node, timeout: Duration) -> Result<Retried, Error> {
    let Some(letter) = journal.dead_letter(id).await? else { return Ok(Retried::Unknown) };
    let Record { id: dead, change, ttl, .. } = letter.record;
    let mark = journal.mark(dead.place.clone()).await?.map(|mark| mark.version);
    if let Some(newest) = mark.max(journal.newest_version(&dead.place)).filter(|newest| *newest > dead.version) {
        return Ok(Retried::Overtaken(newest));
    }
    let op = match change {
        Change::Put(value) => WriteOp::Put { value, ttl },
        Change::Delete => WriteOp::Delete,
    };
    let options = WriteOptions { timeout, ..WriteOptions::default() };
    let version = node.group(&dead.place.group)?.write(dead.place.key.as_bytes(), op, options).await?;
    match journal.drop_dead_letter(id).await {
        // Somebody else may have done the same.
        Ok(()) | Err(JournalError::Invalid(_)) => Ok(Retried::Written(version)),
        Err(error) => Err(error.into()),
    }
}
