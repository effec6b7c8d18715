//! The store's promises one by one; against a naive model it is held in `reference.rs`.

mod reference;

use std::{collections::HashMap, sync::atomic::AtomicU64, sync::atomic::Ordering};

use super::*;

/// Entries of the same sizes cost the same.
const KEY_LEN: usize = 8;

/// Miri takes a thousand times longer.
const SCALE: u64 = if cfg!(miri) { 20 } else { 1 };

fn slot(number: u16) -> Slot {
    Slot::new(number).unwrap()
}

fn at(nanos: u64) -> Moment {
    Moment::from_nanos(nanos)
}

pub(super) fn meta_until(nanos: u64) -> Meta {
    Meta {
        slot: slot(1),
        tier: Tier::Main,
        version: Version::new(Reading::from_bits(5 << 16), 1),
        load_start: Reading::from_bits(5 << 16),
        fresh_until: at(nanos),
        keep_until: at(nanos),
    }
}

fn meta() -> Meta {
    meta_until(u64::MAX)
}

fn value(len: usize) -> Option<Value> {
    Some(Value::from(vec![7; len]))
}

fn key(number: u64) -> [u8; KEY_LEN] {
    number.to_be_bytes()
}

fn store(capacity_bytes: u64, policy: Policy) -> Store {
    Store::new(StoreConfig { capacity_bytes, policy, shards: Some(1), hash_seed: 3 })
}

/// What an entry of this value's length costs, alone in a store.
fn cost(value_len: usize) -> u64 {
    let store = store(1 << 20, Policy::Lru);
    let _ = store.insert(&key(0), value(value_len), meta());
    store.stats().bytes()
}

/// What a look-up should find.
#[derive(Clone, PartialEq, Debug)]
struct Found {
    value: Option<Value>,
    meta: Meta,
}

fn found(hit: Option<Hit>) -> Option<Found> {
    hit.map(|hit| Found { meta: hit.meta(), value: hit.into_value() })
}

#[test]
fn an_oversized_value_evicts_nothing_but_what_was_there_for_its_key() {
    for policy in [Policy::Lru, Policy::S3Fifo] {
        let store = store(64 << 10, policy);
        for number in 0..20 {
            assert_eq!(store.insert(&key(number), value(1_000), meta()), Inserted::Stored);
        }
        assert_eq!(store.insert(&key(3), value(64 << 10), meta()), Inserted::TooLarge);
        assert!(store.peek(&key(3), at(0)).is_none());
        assert_eq!(store.insert_if(&key(4), value(64 << 10), meta(), at(0), |_| true), Judged::TooLarge);
        assert_eq!(store.stats().items(), 18);
        assert_eq!(store.stats().main.evictions.capacity, 0);
    }
}

#[test]
fn what_is_said_about_a_value_counts_against_the_budget() {
    let store = store(1 << 20, Policy::Lru);
    let _ = store.insert(&key(1), value(100), meta());
    let plain = store.stats().bytes();
    let typed = Value::from(vec![7; 100]).with_content_type("x".repeat(1_000));
    let _ = store.insert(&key(1), Some(typed), meta());
    assert!(store.stats().bytes() >= plain + 1_000);
}

#[test]
fn a_remembered_not_found_is_a_hit_without_a_value() {
    let store = store(1 << 20, Policy::S3Fifo);
    let _ = store.insert(b"gone", None, meta());
    assert_eq!(found(store.get(b"gone", at(0))), Some(Found { value: None, meta: meta() }));
}

#[test]
fn a_stale_entry_is_returned_until_its_keep_until_and_reclaimed_then() {
    let store = store(1 << 20, Policy::S3Fifo);
    let stale = Meta { fresh_until: at(10), keep_until: at(20), ..meta() };
    let _ = store.insert(b"k", value(1), stale);
    assert_eq!(store.get(b"k", at(19)).map(|hit| hit.meta()), Some(stale));
    assert_eq!(store.get(b"k", at(20)), None);
    assert_eq!(store.stats().bytes(), 0);
    assert_eq!(store.stats().main.evictions.expired, 1);
}

#[test]
fn a_sweep_goes_on_where_it_stopped_and_gives_expired_bytes_back() {
    let store = Store::new(StoreConfig { shards: Some(4), ..StoreConfig::default() });
    for number in 0..1_000 {
        let until = if number % 2 == 0 { 10 } else { 1_000 };
        let _ = store.insert(&key(number), value(10), meta_until(until));
    }
    let before = store.stats().bytes();
    let mut steps = 0;
    while store.stats().main.evictions.expired < 500 {
        store.sweep(at(10), 50);
        steps += 1;
        assert!(steps <= 100, "two rounds of 50 entries a step reach all 1,000");
    }
    assert_eq!(store.stats().items(), 500);
    assert!(store.stats().bytes() * 2 <= before + 1);
    assert_eq!(store.sweep(at(10), usize::MAX), 0);
}

#[test]
fn each_reason_is_counted_for_the_tier_of_the_entry() {
    let store = store(1 << 20, Policy::S3Fifo);
    let hot = Meta { tier: Tier::Hot, slot: slot(9), ..meta_until(10) };
    for number in 0..4 {
        let _ = store.insert(&key(number), value(10), hot);
    }
    assert_eq!(store.stats().hot.items, 4);
    assert!(store.remove(&key(0)).is_some());
    assert!(store.remove_if(&key(1), |_| true));
    assert!(!store.remove_if(&key(2), |_| false));
    assert!(store.get(&key(2), at(10)).is_none());
    assert_eq!(store.drop_slots(|slot| slot.number() == 9), 1);
    let expected = Evictions { capacity: 0, expired: 1, invalidated: 2, moved: 1 };
    assert_eq!(store.stats().hot, TierStats { bytes: 0, items: 0, evictions: expected });
    assert_eq!(store.stats().main, TierStats::default());
}

#[test]
fn dropping_slots_looks_at_a_bounded_number_of_entries_at_a_time() {
    const ITEMS: u64 = 10_000 / SCALE;
    let store = store(1 << 30, Policy::S3Fifo);
    for number in 0..ITEMS {
        let _ = store.insert(&key(number), value(10), Meta { slot: slot((number % 2) as u16), ..meta() });
    }
    assert_eq!(store.drop_slots(|slot| slot.number() == 0) as u64, ITEMS / 2);
    assert_eq!(store.stats().items(), ITEMS / 2);
    assert!(store.stats().touched_max <= TOUCHED_BOUND as u64);
}

/// The shard is made for a small capacity, so that its index has to grow all the way, and shrink again.
#[test]
fn no_operation_touches_more_entries_than_is_stated() {
    const ITEMS: u64 = 100_000 / SCALE;
    const LARGE: usize = 8 << 20;
    for policy in [Policy::Lru, Policy::S3Fifo] {
        let store = store(1 << 20, policy);
        let check = |step: &str| {
            let touched = store.stats().touched_max;
            assert!((1..=TOUCHED_BOUND as u64).contains(&touched), "{policy:?}, {step}: {touched}");
        };
        let fill = |from: u64| {
            for number in from..from + ITEMS {
                let slot = slot((number % 10) as u16);
                let until = if number % 10 == 1 { 10 } else { u64::MAX };
                let _ = store.insert(&key(number), value(10), Meta { slot, ..meta_until(until) });
            }
        };
        store.set_capacity(16 << 20);
        fill(0);
        check("growth");
        assert_eq!(store.stats().items(), ITEMS, "they fit");
        fill(0);
        check("replacement");
        let keys: Vec<_> = (0..ITEMS).map(key).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        store.get_many(&keys, at(0), |_, hit| assert!(hit.is_some()));
        check("look-ups");
        let mut from = Hottest::start();
        while store.hottest(&mut from, usize::MAX, at(0), |_| true, |_, _| {}) {}
        check("a walk");
        assert_eq!(store.sweep(at(10), usize::MAX) as u64, ITEMS / 10);
        check("a sweep");
        assert_eq!(store.drop_slots(|slot| slot.number() == 2) as u64, ITEMS / 10);
        check("a dropped slot");
        store.raise_mark(Mark::All, meta().load_start).unwrap();
        assert_eq!(store.sweep(at(0), usize::MAX) as u64, ITEMS * 8 / 10);
        check("invalidation");
        fill(ITEMS);
        assert_eq!(store.insert(b"large", value(LARGE), meta()), Inserted::Stored);
        assert!(store.stats().items() < ITEMS);
        check("a large value");
        assert!(store.remove(b"large").is_some());
        fill(2 * ITEMS);
        fill(3 * ITEMS);
        check("eviction");
        store.set_capacity(1 << 20);
        assert!(store.stats().bytes() <= 1 << 20);
        check("a smaller capacity");
        store.clear();
        check("all gone");
    }
}

#[test]
fn readers_and_writers_on_many_threads_never_see_another_keys_value() {
    const KEYS: u64 = 512;
    const ROUNDS: u64 = 20_000 / SCALE / SCALE;
    let store = Store::new(StoreConfig { capacity_bytes: 64 << 10, shards: Some(4), ..StoreConfig::default() });
    let hits = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (store, hits) = (&store, &hits);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                for round in 0..ROUNDS {
                    let number = random.u64(0..KEYS);
                    match random.u32(0..12) {
                        0 => _ = store.remove(&key(number)),
                        4 => {
                            let keys: [_; 20] = std::array::from_fn(|at| key((number + at as u64) % KEYS));
                            store.get_many(&keys.each_ref().map(|key| &key[..]), at(round), |index, hit| {
                                let Some(hit) = hit else { return };
                                assert_eq!(hit.bytes().unwrap()[..KEY_LEN], keys[index]);
                            });
                        }
                        5 if round % 50 == 0 => store.set_capacity((16 << 10) + random.u64(0..64 << 10)),
                        6 if round % 50 == 0 => _ = store.drop_slots(|_| true),
                        7 if round % 50 == 0 => {
                            let mut from = Hottest::start();
                            let mut show = |key: &[u8], hit: Hit| assert_eq!(hit.bytes().unwrap()[..KEY_LEN], *key);
                            while store.hottest(&mut from, 64, at(round), |_| true, &mut show) {}
                        }
                        1 | 2 => {
                            let value = Value::from(number.to_be_bytes().repeat(random.usize(1..20)));
                            let _ = store.insert(&key(number), Some(value), meta_until(round + 1_000));
                        }
                        3 => _ = store.sweep(at(round), 8),
                        _ => {
                            let Some(hit) = store.get(&key(number), at(round)) else { continue };
                            let value = hit.bytes().unwrap();
                            assert_eq!(value[..KEY_LEN], number.to_be_bytes());
                            assert_eq!(value[value.len() - KEY_LEN..], number.to_be_bytes());
                            hits.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    assert!(hits.load(Ordering::Relaxed) > 0);
    store.clear();
    assert_eq!((store.stats().bytes(), store.stats().items()), (0, 0));
}

#[test]
fn a_value_outlives_its_eviction_in_the_hands_of_its_reader() {
    let store = store(1 << 20, Policy::S3Fifo);
    let _ = store.insert(b"k", Some(Value::from("kept").with_content_type("text/plain")), meta());
    let value = store.get(b"k", at(0)).and_then(Hit::into_value).unwrap();
    let bytes = value.to_bytes();
    store.clear();
    drop(store);
    assert_eq!(&value[..], b"kept");
    assert_eq!(value.content_type(), Some("text/plain"));
    assert_eq!(bytes.as_ptr(), value.as_ptr(), "shared, not copied");
    drop(value);
    assert_eq!(&bytes[..], b"kept");
}

#[test]
fn a_value_larger_than_a_shards_share_displaces_a_little_everywhere() {
    const SHARDS: usize = 8;
    const CAPACITY: u64 = (1 << 20) / SCALE;
    for policy in [Policy::Lru, Policy::S3Fifo] {
        let store = Store::new(StoreConfig { capacity_bytes: CAPACITY, policy, shards: Some(SHARDS), hash_seed: 1 });
        let fill =
            |from| (from..from + 10_000 / SCALE).for_each(|number| _ = store.insert(&key(number), value(100), meta()));
        fill(0);
        let before = store.stats();
        let large = CAPACITY as usize / 4;
        assert_eq!(store.insert(b"large", value(large), meta()), Inserted::Stored);
        let after = store.stats();
        assert!(store.peek(b"large", at(0)).is_some());
        assert!(after.bytes() <= CAPACITY && after.bytes() > CAPACITY * 9 / 10, "{after:?}");
        assert!(after.items() > before.items() / 2, "most of the small ones stay");
        // Once it is gone, the others get their shares back.
        assert!(store.remove(b"large").is_some());
        fill(20_000);
        assert!(store.stats().bytes() > CAPACITY * 9 / 10, "{:?}", store.stats());
        assert!(store.stats().touched_max <= TOUCHED_BOUND as u64, "{:?}", store.stats());
    }
}

#[test]
fn a_changed_capacity_holds_at_once() {
    const CAPACITY: u64 = (1 << 20) / SCALE;
    let store = Store::new(StoreConfig { capacity_bytes: CAPACITY, shards: Some(4), ..StoreConfig::default() });
    let fill = || (0..10_000 / SCALE).for_each(|number| _ = store.insert(&key(number), value(100), meta()));
    fill();
    store.set_capacity(CAPACITY / 4);
    assert!(store.stats().bytes() <= CAPACITY / 4);
    assert!(store.stats().bytes() > CAPACITY / 8);
    store.set_capacity(CAPACITY * 2);
    fill();
    assert!(store.stats().bytes() > CAPACITY);
    assert!(store.stats().touched_max <= TOUCHED_BOUND as u64);
}

#[test]
fn a_walk_shows_every_entry_of_its_slots_once_the_hottest_first() {
    const ITEMS: u64 = 2_000 / SCALE;
    for policy in [Policy::Lru, Policy::S3Fifo] {
        let store = Store::new(StoreConfig { policy, shards: Some(4), ..StoreConfig::default() });
        for number in 0..ITEMS {
            let _ = store.insert(&key(number), value(10), Meta { slot: slot((number % 2) as u16), ..meta() });
        }
        for number in (0..ITEMS).filter(|number| number % 20 == 0) {
            for _ in 0..3 {
                assert!(store.get(&key(number), at(0)).is_some());
            }
        }
        let mut shown = Vec::new();
        let mut from = Hottest::start();
        while store.hottest(&mut from, 100, at(0), |slot| slot.number() == 0, |key, _| shown.push(key.to_vec())) {}
        let numbers: Vec<u64> = shown.iter().map(|key| u64::from_be_bytes(key[..].try_into().unwrap())).collect();
        let last_hot = numbers.iter().rposition(|number| number % 20 == 0).unwrap();
        // Under LRU, degrees are quarters of the queue.
        assert!(
            last_hot < if policy == Policy::Lru { ITEMS / 5 } else { ITEMS / 20 } as usize,
            "{policy:?}: {last_hot}"
        );
        let mut sorted = numbers;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..ITEMS / 2).map(|half| half * 2).collect::<Vec<_>>());
    }
}

#[test]
fn an_entry_read_twice_stays_while_others_pass_through_the_small_queue() {
    let store = store(200 * cost(100), Policy::S3Fifo);
    // Full, so that newcomers push others out.
    (1_000..1_200).for_each(|number| _ = store.insert(&key(number), value(100), meta()));
    let _ = store.insert(&key(1), value(100), meta());
    for _ in 0..2 {
        assert!(store.get(&key(1), at(0)).is_some());
    }
    (2_000..2_150).for_each(|number| _ = store.insert(&key(number), value(100), meta()));
    assert!(store.peek(&key(1), at(0)).is_some());
    assert!(store.peek(&key(2_000), at(0)).is_none());
}

/// More entries than many chunks of a queue hold, so that chunks become sparse and are merged.
#[test]
fn the_order_of_use_survives_when_sparse_chunks_become_one() {
    const HELD: u64 = 2_000 / SCALE;
    let store = store(HELD * cost(100), Policy::Lru);
    let mut random = fastrand::Rng::with_seed(11);
    let mut used_at: HashMap<u64, u64> = HashMap::new();
    for turn in 0..40_000 / SCALE {
        // Most uses are of a few, which leave holes all over the queue.
        let number = if random.u8(0..4) == 0 { random.u64(0..2 * HELD) } else { random.u64(0..HELD / 4) };
        if store.get(&key(number), at(0)).is_none() {
            let _ = store.insert(&key(number), value(100), meta());
        }
        used_at.insert(number, turn);
    }
    let mut latest: Vec<u64> = used_at.keys().copied().collect();
    latest.sort_unstable_by_key(|number| u64::MAX - used_at[number]);
    for (rank, number) in latest.iter().enumerate() {
        assert_eq!(store.peek(&key(*number), at(0)).is_some(), (rank as u64) < HELD, "rank {rank}");
    }
}

#[test]
fn a_scan_costs_the_default_policy_less_than_lru() {
    const HELD: u64 = 1_000 / SCALE;
    let hits = [Policy::Lru, Policy::S3Fifo].map(|policy| {
        let store = store(HELD * cost(1), policy);
        let mut random = fastrand::Rng::with_seed(12);
        let mut hits = 0;
        for turn in 0..60_000 / SCALE {
            // Every other half a thousand keys are a scan; the rest favours the low ones.
            let scanned = (turn / (HELD / 2)).is_multiple_of(2);
            let number = if scanned { 1_000_000 + turn } else { random.u64(0..HELD * 2).min(random.u64(0..HELD * 2)) };
            if store.get(&key(number), at(0)).is_some() {
                hits += 1;
            } else {
                let _ = store.insert(&key(number), value(1), meta());
            }
        }
        hits
    });
    assert!(hits[1] * 100 > hits[0] * 115, "{hits:?}");
}
