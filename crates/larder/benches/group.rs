//! What a group adds to its store: a hit in process beside the bare look-up of the same keys, on one thread.
//!
//! `cargo xtask bench group`. Both hold the same keys and values and are asked for them in the same order, drawn
//! beforehand; rounds take turns. The bare look-up is handed its `now`; the group reads the clock, checks the owner and
//! counts. In between stands the look-up that reads the clock: a processor runs bare look-ups into one another, so that
//! they wait for memory together, and reading its clock stops that.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark")]

use std::{convert::Infallible, hint::black_box, time::Instant};

use larder::{
    ByteSize, Clock, Group, Key, Node, SystemClock, Value, Version,
    core::{
        Moment,
        placement::Slot,
        store::{Inserted, Meta, Store, StoreConfig, Tier},
        version::Reading,
    },
    loader_fn,
};
use larder_bench::{Distribution, Keys, interleave};

const KEYS: u64 = 100_000;
const VALUE_LEN: usize = 100;
const GETS: usize = 2_000_000;
const ROUNDS: usize = 5;
const CAPACITY: ByteSize = ByteSize::mib(256);

fn main() {
    let keys: Vec<String> = (0..KEYS).map(|index| format!("user:{index:015}")).collect();
    let zipf = Keys::new(Distribution::Zipf { exponent: 0.99 }, KEYS, 1);
    let asked: Vec<&[u8]> = zipf.take(GETS).map(|index| keys[index as usize].as_bytes()).collect();

    let store = filled_store(&keys);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_node, group) = runtime.block_on(filled_group(&keys));

    let now = Moment::from_nanos(1);
    let mut bare = || per_get(|| asked.iter().for_each(|key| drop(black_box(store.get(key, now).unwrap()))));
    let clock = SystemClock;
    let mut timed = || per_get(|| asked.iter().for_each(|key| drop(black_box(store.get(key, clock.now()).unwrap()))));
    let mut hit = || {
        per_get(|| {
            runtime.block_on(async {
                for key in &asked {
                    drop(black_box(group.get(key).await.unwrap()));
                }
            });
        })
    };
    let mut measured: [(&str, &mut dyn FnMut() -> f64); 3] =
        [("store look-up", &mut bare), ("store look-up and clock", &mut timed), ("group hit", &mut hit)];
    let spreads = interleave(ROUNDS, &mut measured);

    println!("ns a get, one thread, {KEYS} keys, Zipf 0.99, median of {ROUNDS} rounds of {GETS} (least to greatest)");
    spreads.iter().for_each(|spread| println!("{spread}"));
    println!("group hit / store look-up {:.2}", spreads[2].median / spreads[0].median);
    let misses = group.core().stats().misses.sum();
    assert_eq!(misses, KEYS, "after the group was filled, only hits were to be measured");
}

fn per_get(gets: impl FnOnce()) -> f64 {
    let started = Instant::now();
    gets();
    started.elapsed().as_nanos() as f64 / GETS as f64
}

fn value(key: &[u8]) -> Value {
    key.iter().copied().cycle().take(VALUE_LEN).collect::<Vec<u8>>().into()
}

fn filled_store(keys: &[String]) -> Store {
    let store = Store::new(StoreConfig { capacity_bytes: CAPACITY.as_u64(), ..StoreConfig::default() });
    for key in keys {
        let meta = Meta {
            slot: Slot::of("users", key.as_bytes()),
            tier: Tier::Main,
            version: Version::ZERO,
            load_start: Reading::default(),
            fresh_until: Moment::NEVER,
            keep_until: Moment::NEVER,
        };
        assert_eq!(store.insert(key.as_bytes(), Some(value(key.as_bytes())), meta), Inserted::Stored);
    }
    store
}

/// A group of a node that is alone.
async fn filled_group(keys: &[String]) -> (Node, Group) {
    let node = Node::builder().start().await.unwrap();
    let loader = loader_fn(|key: Key| async move { Ok::<_, Infallible>(Some(value(key.as_bytes()))) });
    let group = node.group("users", loader).capacity(CAPACITY).open().unwrap();
    for key in keys {
        group.get(key).await.unwrap();
    }
    (node, group)
}
