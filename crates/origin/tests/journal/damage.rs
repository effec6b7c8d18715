//! Files that were cut or that rotted: recovered, or refused loudly, and never silently short.

use larder_origin::{journal::Mark, storage::fake::FakeDisk};

use super::*;

/// Images of a journal, and what was acknowledged in it: closed well, and killed after its last commit.
async fn images() -> (Vec<Vec<u8>>, Vec<Record>) {
    let disk = FakeDisk::new(1);
    let journal = open(disk.clone()).await.unwrap();
    for number in 1..=30 {
        let value = Value::new(format!("{number}").repeat(200));
        let record = Record { change: Change::Put(value), ..record(&format!("k{}", number % 7), number) };
        journal.append(record).await.unwrap();
    }
    journal.settle(vec![Mark::new(place("k3"), version(17))]).await.unwrap();
    journal.bury(vec![(id("k4", 11), "no".into())]).await.unwrap();
    journal.append(record("last", 99)).await.unwrap();
    let acknowledged = all(&journal).await;
    let killed = disk.image().unwrap();
    journal.close().await;
    (vec![disk.image().unwrap(), killed], acknowledged)
}

/// Whether the file was refused; if not, all that was acknowledged is there.
async fn is_refused(image: Vec<u8>, acknowledged: &[Record], how: &str) -> bool {
    let Ok(journal) = open(FakeDisk::holding(1, image)).await else { return true };
    assert_eq!(all(&journal).await, acknowledged, "{how}: silently short");
    assert!(journal.mark(place("k3")).await.unwrap().is_some(), "{how}: a mark is gone");
    assert!(!journal.dead_letters(0, 10).await.unwrap().is_empty(), "{how}: a dead letter is gone");
    journal.close().await;
    false
}

#[tokio::test]
async fn a_file_that_was_cut_is_refused_or_whole() {
    let (images, acknowledged) = images().await;
    for image in images {
        let mut random = fastrand::Rng::with_seed(7);
        let mut offsets = vec![0, 1, 15, 16, 1000, 4095, 4096, 4097, 4500, 8191, 8192, image.len() - 1];
        offsets.extend((0..60).map(|_| random.usize(..image.len())));
        offsets.extend((2..image.len() / 4096).map(|page| page * 4096));
        let mut refused = 0;
        for &offset in &offsets {
            let is_refused = is_refused(image[..offset].to_vec(), &acknowledged, &format!("cut at {offset}")).await;
            assert!(is_refused || offset > 8192, "cut at {offset}");
            refused += usize::from(is_refused);
        }
        assert!(refused > offsets.len() / 2, "{refused} of {}", offsets.len());
    }
}

#[tokio::test]
async fn a_file_with_a_flipped_bit_is_refused_or_whole() {
    let (images, acknowledged) = images().await;
    for image in images {
        let mut random = fastrand::Rng::with_seed(7);
        // Every byte that says where something is, and samples of the rest.
        let heads = [0..16, 1024..1036, 2048..2060, 4096..4096 + 320];
        let mut bytes: Vec<usize> = heads.into_iter().flatten().collect();
        bytes.extend((0..300).map(|_| random.usize(4096..image.len())));
        let mut refused = 0;
        for byte in bytes {
            let bit = random.u8(..8);
            let mut flipped = image.clone();
            flipped[byte] ^= 1 << bit;
            refused +=
                usize::from(is_refused(flipped, &acknowledged, &format!("bit {bit} of byte {byte} flipped")).await);
        }
        assert!(refused > 100, "{refused}");
    }
}

/// Disks lose whole sectors, and writes that they have acknowledged.
#[tokio::test]
async fn a_file_with_a_sector_that_is_lost_or_as_it_was_before_is_refused_or_whole() {
    const SECTOR_LEN: usize = 512;
    let disk = FakeDisk::new(1);
    let journal = open(disk.clone()).await.unwrap();
    let mut images = Vec::new();
    for number in 1..=12 {
        journal.append(record(&format!("k{}", number % 5), number)).await.unwrap();
        images.push(disk.image().unwrap());
    }
    journal.settle(vec![Mark::new(place("k3"), version(3))]).await.unwrap();
    journal.bury(vec![(id("k4", 4), "no".into())]).await.unwrap();
    let (acknowledged, last) = (all(&journal).await, disk.image().unwrap());
    let mut refused = 0;
    for at in (0..last.len()).step_by(SECTOR_LEN) {
        let place = at..at + SECTOR_LEN;
        let earlier = images.iter().filter_map(|image| image.get(place.clone()));
        let mut sectors: Vec<&[u8]> = earlier.chain([&[0; SECTOR_LEN][..]]).collect();
        sectors.dedup();
        for sector in sectors.into_iter().filter(|sector| *sector != &last[place.clone()]) {
            let mut image = last.clone();
            image[place.clone()].copy_from_slice(sector);
            refused += usize::from(is_refused(image, &acknowledged, &format!("another sector at {at}")).await);
        }
    }
    assert!(refused > 20, "{refused}");
}

#[tokio::test]
async fn a_file_of_another_format_or_kind_is_refused_by_name() {
    let (images, _) = images().await;
    let mut newer = images[0].clone();
    newer[11] = 2;
    let checksum = crc32fast::hash(&newer[..12]).to_be_bytes();
    newer[12..16].copy_from_slice(&checksum);
    let error = open(FakeDisk::holding(1, newer)).await.unwrap_err();
    assert!(error.to_string().starts_with("the fake disk's file has format 2, and this version"), "{error}");
    let error = open(FakeDisk::holding(1, vec![b'{'; 9000])).await.unwrap_err();
    assert!(error.to_string().contains("does not begin as a journal does"), "{error}");
    let error = open(FakeDisk::holding(1, Vec::new())).await.unwrap_err();
    assert!(error.to_string().contains("it is cut short"), "an emptied file is no new one: {error}");
}

#[tokio::test]
async fn a_file_that_went_back_to_an_earlier_commit_is_refused() {
    let disk = FakeDisk::new(1);
    let journal = open(disk.clone()).await.unwrap();
    journal.append(record("a", 1)).await.unwrap();
    let earlier = disk.image().unwrap();
    journal.append(record("b", 2)).await.unwrap();
    let mut later = disk.image().unwrap();
    // All of redb's part as it was a commit ago, and the seals as they are.
    later.truncate(earlier.len());
    later[4096..].copy_from_slice(&earlier[4096..]);
    let error = open(FakeDisk::holding(1, later)).await.unwrap_err();
    assert!(error.to_string().contains("it ends with commit 1, and commit 2 was acknowledged"), "{error}");
}
