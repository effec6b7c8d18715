//! The journal: what it keeps, what it refuses, and what it makes of disks that fail.

#![expect(clippy::unwrap_used, reason = "a test fails by its panic")]

mod crashes;
mod damage;
mod faults;
mod keeping;
mod killed;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use larder_core::{Change, Clock, Key, Moment, Value, Version, version::Reading};
use larder_origin::{
    journal::{Journal, JournalConfig, JournalError, Place, Record, RecordId, Scope},
    storage::Storage,
};

/// A clock that a test moves.
#[derive(Clone, Default)]
struct HandClock(Arc<AtomicU64>);

impl HandClock {
    fn pass(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_millis()).unwrap(), Relaxed);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Moment {
        Moment::from_nanos(self.wall_ms() * 1_000_000)
    }

    fn wall_ms(&self) -> u64 {
        1_750_000_000_000 + self.0.load(Relaxed)
    }
}

async fn open(storage: impl Storage) -> Result<Journal, JournalError> {
    Journal::open(storage, JournalConfig::default(), HandClock::default()).await
}

fn version(number: u64) -> Version {
    Version::new(Reading::from_bits(number), 7)
}

fn place(key: &str) -> Place {
    Place::new("users", Key::copy_from(key.as_bytes()).unwrap())
}

fn id(key: &str, number: u64) -> RecordId {
    place(key).at(version(number))
}

fn record(key: &str, number: u64) -> Record {
    let value = Value::new(format!("{key}={number}"));
    Record::new(id(key, number), Change::Put(value))
}

/// Everything in it, in its order.
async fn all(journal: &Journal) -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let after = all.last().map(|record| record.id.clone());
        let page = journal.records(Scope::All, after, 100).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

async fn ids(journal: &Journal) -> Vec<RecordId> {
    all(journal).await.into_iter().map(|record| record.id).collect()
}
