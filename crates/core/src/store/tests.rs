//! The store against a naive reference, and its promises one by one.

use std::{collections::HashMap, sync::atomic::AtomicU64, sync::atomic::Ordering};

use proptest::prelude::*;

use super::*;

/// Entries of the same sizes cost the same.
const KEY_LEN: usize = 8;

/// Miri takes a thousand times longer.
const CASES: u32 = if cfg!(miri) { 2 } else { 256 };
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

/// What all keys together fit in, in any shard.
const CAPACITY_MIN: u64 = 1 << 18;

#[derive(Clone, Debug)]
enum Op {
    Get(u64),
    GetWhen(u64),
    Peek(u64),
    Insert(u64, Option<usize>, Meta),
    InsertNewer(u64, usize, Meta),
    InsertIf(u64, usize, Meta, bool),
    InsertTagged(u64, usize, Meta, Tags),
    GetMany(Vec<u64>),
    Remove(u64),
    RemoveIf(u64, bool),
    RemoveUpTo(u64, Version),
    DropSlot(Slot),
    Hottest(Slot),
    RaiseMark(Mark, Reading),
    SetCapacity(u64),
    SweepSome(usize),
    Sweep,
    Clear,
    Wait(u64),
}

fn metas() -> impl Strategy<Value = Meta> {
    let reading = || prop_oneof![(0..40u64).prop_map(|ms| ms << 16), any::<u64>()].prop_map(Reading::from_bits);
    let until = || prop_oneof![1..60u64, Just(u64::MAX), any::<u64>()];
    (0..4u16, any::<bool>(), reading(), 0..3u32, reading(), until(), prop_oneof![Just(0), any::<u64>()]).prop_map(
        |(number, hot, version, incarnation, load_start, fresh, stale)| Meta {
            slot: slot(number),
            tier: if hot { Tier::Hot } else { Tier::Main },
            version: Version::new(version, incarnation),
            load_start,
            fresh_until: at(fresh),
            keep_until: at(fresh.saturating_add(stale)),
        },
    )
}

fn tags() -> impl Strategy<Value = Tags> {
    proptest::collection::vec(0..6u16, 0..4).prop_map(|tags| tags.into_iter().filter_map(Tag::new).collect())
}

fn marks() -> impl Strategy<Value = Mark> {
    prop_oneof![Just(Mark::All), (0..6u16).prop_map(|tag| Mark::Tag(Tag::new(tag).unwrap()))]
}

fn ops() -> impl Strategy<Value = Op> {
    let key = || 0..12u64;
    prop_oneof![
        6 => key().prop_map(Op::Get),
        2 => key().prop_map(Op::GetWhen),
        2 => key().prop_map(Op::Peek),
        6 => (key(), proptest::option::weighted(0.8, 0..300usize), metas()).prop_map(|(k, v, m)| Op::Insert(k, v, m)),
        3 => (key(), 0..300usize, metas()).prop_map(|(k, v, m)| Op::InsertNewer(k, v, m)),
        2 => (key(), 0..300usize, metas(), any::<bool>()).prop_map(|(k, v, m, agree)| Op::InsertIf(k, v, m, agree)),
        3 => (key(), 0..300usize, metas(), tags()).prop_map(|(k, v, m, t)| Op::InsertTagged(k, v, m, t)),
        2 => proptest::collection::vec(key(), 0..40).prop_map(Op::GetMany),
        2 => key().prop_map(Op::Remove),
        1 => (key(), any::<bool>()).prop_map(|(k, agree)| Op::RemoveIf(k, agree)),
        2 => (key(), metas()).prop_map(|(k, m)| Op::RemoveUpTo(k, m.version)),
        1 => (0..4u16).prop_map(|number| Op::DropSlot(slot(number))),
        1 => (0..4u16).prop_map(|number| Op::Hottest(slot(number))),
        1 => (marks(), (0..40u64).prop_map(|ms| Reading::from_bits(ms << 16))).prop_map(|(m, to)| Op::RaiseMark(m, to)),
        1 => (CAPACITY_MIN..4 * CAPACITY_MIN).prop_map(Op::SetCapacity),
        1 => (1..20usize).prop_map(Op::SweepSome),
        1 => Just(Op::Sweep),
        1 => Just(Op::Clear),
        3 => (0..20u64).prop_map(Op::Wait),
    ]
}

/// What the store has to agree with while nothing needs to be evicted.
#[derive(Default)]
struct Reference {
    entries: HashMap<u64, (Found, Tags)>,
    marks: HashMap<Mark, Reading>,
    now: u64,
}

impl Reference {
    fn is_kept(&self, hit: &Found, tags: &Tags) -> bool {
        let void = |mark| self.marks.get(&mark).is_some_and(|&reading| hit.meta.load_start <= reading);
        hit.meta.keep_until > at(self.now) && !void(Mark::All) && !tags.iter().any(|tag| void(Mark::Tag(tag)))
    }

    fn kept(&self, key: u64) -> Option<Found> {
        self.entries.get(&key).filter(|(hit, tags)| self.is_kept(hit, tags)).map(|(hit, _)| hit.clone())
    }

    fn insert(&mut self, key: u64, value: Option<Value>, meta: Meta, tags: Tags) {
        self.entries.insert(key, (Found { value, meta }, tags));
    }

    /// Removes all but what is kept.
    fn sweep(&mut self) {
        let kept: Vec<u64> = self.entries.keys().copied().filter(|&key| self.kept(key).is_some()).collect();
        self.entries.retain(|key, _| kept.contains(key));
    }
}

fn agree_on(op: &Op, store: &Store, reference: &mut Reference) {
    let now = at(reference.now);
    match *op {
        Op::Get(number) => assert_eq!(found(store.get(&key(number), now)), reference.kept(number)),
        Op::GetWhen(number) => assert_eq!(found(store.get_when(&key(number), || now)), reference.kept(number)),
        Op::Peek(number) => assert_eq!(found(store.peek(&key(number), now)), reference.kept(number)),
        Op::GetMany(ref numbers) => {
            let keys: Vec<_> = numbers.iter().map(|&number| key(number)).collect();
            let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
            let mut turn = 0;
            store.get_many(&keys, now, |index, hit| {
                assert_eq!((index, found(hit)), (turn, reference.kept(numbers[turn])));
                turn += 1;
            });
            assert_eq!(turn, numbers.len());
        }
        Op::Insert(number, len, meta) => {
            let value = len.and_then(value);
            assert_eq!(store.insert(&key(number), value.clone(), meta), Inserted::Stored);
            reference.insert(number, value, meta, Tags::NONE);
        }
        Op::InsertNewer(number, len, meta) => {
            let present = reference.kept(number);
            let judged = store.insert_newer(&key(number), value(len), meta, now);
            if present.as_ref().is_none_or(|hit| hit.meta.version < meta.version) {
                assert_eq!(judged, Judged::Stored);
                reference.insert(number, value(len), meta, Tags::NONE);
            } else {
                let Judged::Refused(held) = judged else { panic!("{judged:?} instead of {present:?}") };
                assert_eq!(found(held), present);
            }
        }
        Op::InsertIf(number, len, meta, agree) => {
            let present = reference.kept(number);
            let judged = store.insert_if(&key(number), value(len), meta, now, |shown| {
                assert_eq!(found(shown.cloned()), present);
                agree
            });
            if agree {
                assert_eq!(judged, Judged::Stored);
                reference.insert(number, value(len), meta, Tags::NONE);
            } else {
                let Judged::Refused(held) = judged else { panic!("{judged:?} although refused") };
                assert_eq!(found(held), present);
            }
        }
        Op::InsertTagged(number, len, meta, tags) => {
            let tagged = value(len).map(|value| value.with_tags(tags));
            let inserted = store.insert(&key(number), tagged.clone(), meta);
            assert_eq!(inserted, Inserted::Stored);
            let tags = if tagged.is_some() { tags } else { Tags::NONE };
            reference.insert(number, tagged, meta, tags);
        }
        Op::Remove(number) => {
            let kept = reference.kept(number).is_some();
            let removed = found(store.remove(&key(number)));
            let expected = reference.entries.remove(&number).map(|(hit, _)| hit);
            // What is no longer kept may have been reclaimed already.
            if kept || removed.is_some() {
                assert_eq!(removed, expected);
            }
        }
        Op::RemoveIf(number, agree) => {
            let kept = reference.kept(number);
            let removed = store.remove_if(&key(number), |hit| {
                assert!(kept.is_none() || found(Some(hit.clone())) == kept);
                agree
            });
            assert!(removed == agree || kept.is_none());
            if agree {
                reference.entries.remove(&number);
            }
        }
        Op::RemoveUpTo(number, version) => {
            let kept = reference.kept(number).is_some();
            let removed = store.remove_up_to(&key(number), version);
            let up_to = reference.entries.get(&number).is_some_and(|(hit, _)| hit.meta.version <= version);
            assert!(removed == up_to || !kept);
            if up_to {
                reference.entries.remove(&number);
            }
        }
        Op::DropSlot(slot) => {
            store.drop_slots(|other| other == slot);
            reference.entries.retain(|_, (hit, _)| hit.meta.slot != slot);
        }
        Op::Hottest(slot) => {
            let mut shown = HashMap::new();
            let mut from = Hottest::start();
            let mut show = |key: &[u8], hit: Hit| {
                let number = u64::from_be_bytes(key.try_into().unwrap());
                assert!(shown.insert(number, found(Some(hit))).is_none(), "{number} twice");
            };
            while store.hottest(&mut from, 5, now, |other| other == slot, &mut show) {}
            let of_slot = |number: &u64| reference.kept(*number).filter(|hit| hit.meta.slot == slot);
            let kept = reference.entries.keys().filter_map(|number| Some((*number, Some(of_slot(number)?))));
            assert_eq!(shown, kept.collect());
        }
        Op::RaiseMark(mark, to) => {
            let before = reference.marks.get(&mark).copied().unwrap_or_default();
            assert_eq!(store.mark(mark), before);
            if to > before {
                assert_eq!(store.raise_mark(mark, to), Ok(()));
                reference.marks.insert(mark, to);
            } else {
                assert_eq!(store.raise_mark(mark, to), Err(before));
            }
        }
        Op::SetCapacity(bytes) => {
            store.set_capacity(bytes);
            assert_eq!(store.stats().capacity_bytes, bytes);
        }
        Op::SweepSome(items) => {
            let before = store.stats().items();
            let removed = store.sweep(now, items) as u64;
            assert_eq!(store.stats().items(), before - removed);
        }
        Op::Sweep => {
            store.sweep(now, usize::MAX);
            reference.sweep();
            assert_eq!(store.stats().items(), reference.entries.len() as u64);
        }
        Op::Clear => {
            store.clear();
            reference.entries.clear();
            assert_eq!(store.stats().bytes(), 0);
        }
        Op::Wait(nanos) => reference.now += nanos,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_operation_agrees_with_a_naive_reference(
        ops in proptest::collection::vec(ops(), 1..200 / SCALE as usize),
        shards in 1..5usize,
        lru in any::<bool>(),
    ) {
        let policy = if lru { Policy::Lru } else { Policy::S3Fifo };
        let config = StoreConfig { capacity_bytes: CAPACITY_MIN, policy, shards: Some(shards), hash_seed: 9 };
        let store = Store::new(config);
        let mut reference = Reference::default();
        for op in ops {
            agree_on(&op, &store, &mut reference);
        }
        store.sweep(at(reference.now), usize::MAX);
        reference.sweep();
        for tier in [Tier::Main, Tier::Hot] {
            let items = reference.entries.values().filter(|(hit, _)| hit.meta.tier == tier).count();
            prop_assert_eq!(store.stats()[tier].items, items as u64);
        }
    }

    #[test]
    fn a_full_shard_under_lru_holds_exactly_the_last_used(
        uses in proptest::collection::vec((0..24u64, any::<bool>()), 1..400 / SCALE as usize),
    ) {
        let store = store(10 * cost(100), Policy::Lru);
        let mut latest: Vec<u64> = Vec::new();
        for (number, read) in uses {
            let held = latest.iter().position(|&other| other == number);
            if read {
                prop_assert_eq!(store.get(&key(number), at(0)).is_some(), held.is_some());
                if held.is_none() {
                    continue;
                }
            } else {
                prop_assert_eq!(store.insert(&key(number), value(100), meta()), Inserted::Stored);
            }
            if let Some(held) = held {
                latest.remove(held);
            }
            latest.push(number);
            if latest.len() > 10 {
                latest.remove(0);
            }
            prop_assert_eq!(store.stats().items(), latest.len() as u64);
        }
        for number in 0..24 {
            prop_assert_eq!(store.peek(&key(number), at(0)).is_some(), latest.contains(&number));
        }
    }

    #[test]
    fn the_budget_is_never_exceeded(inserts in proptest::collection::vec((0..400u64, 0..5_000usize), 1..400 / SCALE as usize)) {
        for policy in [Policy::Lru, Policy::S3Fifo] {
            let store = store(64 << 10, policy);
            for &(number, len) in &inserts {
                let _ = store.insert(&key(number), value(len), meta());
                let stats = store.stats();
                prop_assert!(stats.bytes() <= stats.capacity_bytes);
            }
        }
    }
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
