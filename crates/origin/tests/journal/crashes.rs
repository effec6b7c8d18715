//! Power that fails at any moment, on a disk that forgets, tears and reorders what was not synced.

use std::collections::BTreeMap;

use larder_origin::{journal::Mark, storage::fake::FakeDisk};
use tokio::task::JoinSet;

use super::*;

/// Seeds that are tried, in parts that run side by side.
const SEEDS: u64 = 1000;
const PARTS: u64 = 4;

/// What was asked of a journal, and what came of it.
#[derive(Default)]
struct Told {
    /// Everything that was ever appended, acknowledged or not.
    asked: BTreeMap<RecordId, Record>,
    acknowledged: Vec<RecordId>,
    /// Up to where keys were asked to be settled, and were.
    settling: BTreeMap<Place, Version>,
    settled: BTreeMap<Place, Version>,
}

/// What one caller did.
enum Did {
    Append(Box<Record>, bool),
    Settle(Place, Version, bool),
}

/// Some callers work until the power fails.
async fn work(journal: &Journal, told: &mut Told, round: u64, random: &mut fastrand::Rng) {
    let mut callers = JoinSet::new();
    for caller in 0..6_u64 {
        let (journal, mut random) = (journal.clone(), random.fork());
        callers.spawn(async move {
            let mut did = Vec::new();
            for number in 1..=8 {
                let key = format!("k{}", caller % 4);
                let number = round * 1000 + number * 10 + caller;
                let padding = "x".repeat(random.usize(..3000));
                let record = Record { written_ms: 1, ..record(&key, number) };
                let record = if random.u8(..4) == 0 {
                    record
                } else {
                    record.with_idempotency_key(&padding[..padding.len().min(99)])
                };
                let value = Value::new(format!("{number}{padding}"));
                let record = Record { change: Change::Put(value), ..record };
                let result = journal.append(record.clone()).await;
                did.push(Did::Append(Box::new(record), result.is_ok()));
                if random.u8(..4) == 0 {
                    let mark = Mark::new(place(&key), version(number - 20));
                    let settled = journal.settle(vec![mark.clone()]).await;
                    did.push(Did::Settle(mark.place, mark.version, settled.is_ok()));
                }
                if result.is_err() {
                    break;
                }
            }
            did
        });
    }
    while let Some(did) = callers.join_next().await {
        for did in did.unwrap() {
            match did {
                Did::Append(record, is_acknowledged) => {
                    if is_acknowledged {
                        told.acknowledged.push(record.id.clone());
                    }
                    told.asked.insert(record.id.clone(), *record);
                }
                Did::Settle(place, version, is_acknowledged) => {
                    let raise = |settled: &mut BTreeMap<Place, Version>| {
                        let settled = settled.entry(place.clone()).or_default();
                        *settled = version.max(*settled);
                    };
                    raise(&mut told.settling);
                    if is_acknowledged {
                        raise(&mut told.settled);
                    }
                }
            }
        }
    }
}

/// What is in the journal is what it has to be.
async fn check(journal: &Journal, told: &Told) {
    let found = all(journal).await;
    assert!(found.is_sorted_by_key(|record| (record.id.place.slot, record.id.version)));
    let there: BTreeMap<RecordId, Record> = found.into_iter().map(|record| (record.id.clone(), record)).collect();
    for (id, record) in &there {
        assert_eq!(Some(record), told.asked.get(id), "it is what was appended, and was not invented");
        assert!(told.settled.get(&id.place).is_none_or(|settled| *settled < id.version), "{id} was settled");
    }
    for id in &told.acknowledged {
        let may_be_gone = told.settling.get(&id.place).is_some_and(|settling| *settling >= id.version);
        assert!(may_be_gone || there.contains_key(id), "{id} was acknowledged and is lost");
    }
    for (place, settled) in &told.settled {
        let mark = journal.mark(place.clone()).await.unwrap();
        assert!(mark.is_some_and(|mark| mark.version >= *settled), "a mark that was acknowledged is lost");
    }
    assert_eq!(journal.stats().held.records, there.len() as u64);
}

async fn crash_and_recover(seed: u64) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    let disk = FakeDisk::new(seed);
    let mut told = Told::default();
    for round in 1..=2 {
        let journal = open(disk.clone()).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        check(&journal, &told).await;
        disk.crash_after(random.u64(..80));
        work(&journal, &mut told, round, &mut random).await;
        // If there were not enough writes for it.
        disk.crash();
        journal.close().await;
    }
    // It fails once more while the journal is recovered.
    disk.crash_after(random.u64(..20));
    if let Ok(journal) = open(disk.clone()).await {
        journal.close().await;
    }
    disk.crash();
    let journal = open(disk).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    check(&journal, &told).await;
    told.acknowledged.len()
}

async fn part(part: u64) {
    let mut acknowledged = 0;
    for seed in (0..SEEDS).filter(|seed| seed % PARTS == part) {
        acknowledged += crash_and_recover(seed).await;
    }
    assert!(acknowledged > 1000, "{acknowledged} acknowledged: the power failed before anything could happen");
}

#[tokio::test]
async fn what_was_acknowledged_outlasts_failing_power_0() {
    part(0).await;
}

#[tokio::test]
async fn what_was_acknowledged_outlasts_failing_power_1() {
    part(1).await;
}

#[tokio::test]
async fn what_was_acknowledged_outlasts_failing_power_2() {
    part(2).await;
}

#[tokio::test]
async fn what_was_acknowledged_outlasts_failing_power_3() {
    part(3).await;
}
