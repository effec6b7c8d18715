//! The store against a naive reference: whatever is done to both, they agree.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Miri takes a thousand times longer.
const CASES: u32 = if cfg!(miri) { 2 } else { 256 };

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
