//! What a daemon's memory comes to.

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::{
    client::{Connection, get_key, put_key},
    origin::Origin,
    process::Daemon,
};

const MIB: usize = 1 << 20;
const CAPACITY: usize = 64 * MIB;

/// A store may take 1.3 times its capacity, and the process 24 MiB besides.
const RESIDENT_MAX: usize = CAPACITY * 13 / 10 + 24 * MIB;

/// How much is put through the cache.
const TOTAL: usize = 1024 * MIB;

/// How many clients put at once.
const CLIENTS: usize = 4;

/// Sizes as they come in caches: many small ones, and most bytes in few large ones.
fn value_len(random: &mut fastrand::Rng) -> usize {
    match random.u8(..100) {
        0..50 => random.usize(1..512),
        50..80 => random.usize(512..16 * 1024),
        80..95 => random.usize(16 * 1024..256 * 1024),
        _ => random.usize(256 * 1024..=MIB),
    }
}

fn config(groups: &str) -> String {
    format!("[node]\nlisten = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\npeer = '127.0.0.1:0'\n{groups}")
}

/// Puts `total` bytes of values and gets some of them; gives the most memory that was seen.
async fn fill(daemon: &Daemon, seed: u64, total: usize) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut connection = Connection::open(daemon.clients).await.unwrap();
    let source = Bytes::from(vec![b'x'; MIB]);
    let (mut put, mut peak) = (0, 0);
    for number in 0_usize.. {
        let len = value_len(&mut random);
        let answer = connection.ask(put_key(format!("{seed}/{number}"), source.slice(..len))).await.unwrap();
        assert_eq!(answer.status, 204);
        put += len;
        if number.is_multiple_of(8) {
            let recent = number - random.usize(..=number.min(500));
            connection.ask(get_key(format!("{seed}/{recent}"))).await.unwrap();
        }
        if number.is_multiple_of(64) {
            peak = peak.max(daemon.resident_bytes());
        }
        if put >= total {
            break;
        }
    }
    peak.max(daemon.resident_bytes())
}

#[tokio::test]
async fn a_gibibyte_through_a_group_of_64_mib_leaves_the_process_small() {
    let daemon = Daemon::start(&config("[groups.g]\ncapacity = '64MiB'\nmax_value = '1MiB'")).await;
    let start = Instant::now();
    let share = TOTAL / CLIENTS;
    let peaks = join_all((0..CLIENTS).map(|client| fill(&daemon, client as u64, share))).await;
    let peak = peaks.into_iter().max().unwrap();
    println!("at most {} MiB resident, {} MiB allowed, in {:?}", peak / MIB, RESIDENT_MAX / MIB, start.elapsed());
    assert!(peak < RESIDENT_MAX, "{} MiB are more than {} MiB", peak / MIB, RESIDENT_MAX / MIB);
    let held = daemon.metric("larder_cache_bytes").await as usize;
    assert!(held <= CAPACITY && held > CAPACITY / 2, "{held} bytes are counted");
}

#[tokio::test]
async fn a_value_that_is_too_large_evicts_nothing() {
    let origin = Origin::start().await;
    let groups =
        format!("{}[groups.plain]\ncapacity = '8MiB'\nmax_value = '16MiB'\n", origin.group("max_value = '1MiB'"));
    let daemon = Daemon::start(&config(&groups)).await;
    let plain = |key: &str, value: Bytes| {
        let mut request = put_key(key, value);
        *request.uri_mut() = format!("/v1/groups/plain/keys/{key}").parse().unwrap();
        request
    };
    for number in 0..50 {
        daemon.ask(get_key(format!("key{number}"))).await;
        assert_eq!(daemon.ask(plain(&format!("key{number}"), "v".into())).await.status, 204);
    }
    let items = daemon.metric("larder_cache_items").await;
    assert_eq!(items, 100);
    for _ in 0..20 {
        let origins = daemon.ask(get_key(format!("sized/{}/", 2 * MIB))).await;
        assert_eq!(origins.problem().0, 413);
        // Over `max_value`, and within it but over what the group could ever hold.
        for len in [17 * MIB, 12 * MIB] {
            assert_eq!(daemon.ask(plain("large", vec![0; len].into())).await.problem().0, 413);
        }
    }
    assert_eq!(daemon.metric("larder_cache_items").await, items);
    assert_eq!(daemon.metric("larder_evictions_total").await, 0);
    for number in 0..50 {
        assert_eq!(daemon.ask(get_key(format!("key{number}"))).await.header("cache-status"), "larder; hit");
    }
}
