//! Disks that fail while the node goes on.

use larder_core::{Error, ErrorKind};
use larder_origin::{journal::Mark, storage::fake::FakeDisk};

use super::*;

fn big(key: &str, number: u64) -> Record {
    Record { change: Change::Put(Value::new(vec![b'x'; 9000])), ..record(key, number) }
}

#[tokio::test]
async fn a_failed_sync_ends_all_writing_and_is_never_tried_again() {
    for seed in 0..20 {
        let disk = FakeDisk::new(seed);
        let journal = open(disk.clone()).await.unwrap();
        let mut acknowledged = Vec::new();
        for number in 1..=seed % 3 {
            journal.append(record("before", number)).await.unwrap();
            acknowledged.push(id("before", number));
        }
        disk.fail_sync_after(0);
        let error = journal.append(record("under", 1)).await.unwrap_err();
        assert!(matches!(error, JournalError::Unknown { .. }), "{error}");
        assert_eq!(Error::from(error).kind(), ErrorKind::Indeterminate);
        let syncs = disk.syncs();
        for number in 1..=3 {
            let error = journal.append(record("after", number)).await.unwrap_err();
            assert!(error.to_string().contains("takes no writes until its disk is seen to"), "{error}");
            assert_eq!(Error::from(error).kind(), ErrorKind::Overloaded);
        }
        assert!(journal.settle(vec![Mark::new(place("before"), version(1))]).await.is_err());
        assert!(matches!(journal.failure(), Some(JournalError::Failed { .. })));
        journal.close().await;
        assert_eq!(disk.syncs(), syncs, "nothing was synced as if nothing had happened");

        disk.crash();
        let journal = open(disk).await.unwrap();
        let found = ids(&journal).await;
        assert!(acknowledged.iter().all(|id| found.contains(id)), "{found:?}");
        assert!(found.iter().all(|id| !id.place.key.as_bytes().starts_with(b"after")), "{found:?}");
        assert!(journal.failure().is_none());
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writers_cleanly_and_takes_them_again_when_there_is_room() {
    for seed in 0..40 {
        let disk = if seed % 2 == 0 { FakeDisk::new(seed) } else { FakeDisk::new(seed).sparse() };
        let clock = HandClock::default();
        let journal = Journal::open(disk.clone(), JournalConfig::default(), clock.clone()).await.unwrap();
        disk.set_room(Some(usize::try_from(seed).unwrap() * 8000));
        let (mut acknowledged, mut refused) = (Vec::new(), Vec::new());
        for number in 1..=60 {
            clock.pass(Duration::from_millis(300));
            match journal.append(big(&format!("k{number}"), number)).await {
                Ok(_) => acknowledged.push(id(&format!("k{number}"), number)),
                Err(error) => {
                    assert!(matches!(error, JournalError::NoRoom { .. }), "{error}");
                    let error = Error::from(error);
                    assert!(error.kind() == ErrorKind::Overloaded && error.retry_after().is_some());
                    refused.push(id(&format!("k{number}"), number));
                }
            }
        }
        assert!(!refused.is_empty(), "seed {seed}");
        disk.set_room(None);
        clock.pass(Duration::from_secs(2));
        journal.append(big("z", 1000)).await.unwrap();
        acknowledged.push(id("z", 1000));
        let check = async |journal: &Journal| {
            let found = ids(journal).await;
            assert_eq!(found.len(), acknowledged.len(), "seed {seed}: what was refused is not there");
            assert!(acknowledged.iter().all(|id| found.contains(id)));
            assert_eq!(journal.stats().held.records, found.len() as u64);
        };
        check(&journal).await;
        disk.crash();
        check(&open(disk).await.unwrap()).await;
    }
}

#[tokio::test]
async fn while_a_disk_is_full_it_is_not_tried_for_every_writer_and_reads_go_on() {
    let disk = FakeDisk::new(1);
    let clock = HandClock::default();
    let journal = Journal::open(disk.clone(), JournalConfig::default(), clock.clone()).await.unwrap();
    journal.append(big("k", 1)).await.unwrap();
    disk.set_room(Some(0));
    let mut number = 1;
    while journal.append(big("k", number + 1)).await.is_ok() {
        number += 1;
    }
    let syncs = disk.syncs();
    for _ in 0..10 {
        assert!(matches!(journal.append(big("k", number + 1)).await, Err(JournalError::NoRoom { .. })));
    }
    assert_eq!(disk.syncs(), syncs, "who asks at once is answered from memory");
    assert_eq!(journal.newest(place("k")).await.unwrap().unwrap().id, id("k", number));
    disk.set_room(None);
    // What needs no room is tried at any rate.
    journal.settle(vec![Mark::new(place("k"), version(number))]).await.unwrap();
    clock.pass(Duration::from_secs(1));
    journal.append(big("k", number + 1)).await.unwrap();
    assert_eq!(ids(&journal).await, [id("k", number + 1)]);
}
