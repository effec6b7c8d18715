use std::collections::{BTreeMap, BTreeSet};

use larder_core::version::Reading;
use proptest::prelude::*;

use super::*;

const DELAY: Duration = Duration::from_secs(1);

fn version(number: u64) -> Version {
    Version::new(Reading::from_bits(number), 1)
}

fn key(name: &(impl ToString + ?Sized)) -> Key {
    Key::new(name.to_string()).unwrap()
}

fn slot(key: &Key) -> Slot {
    Slot::of("users", key.as_bytes())
}

/// A flusher, and a time that passes when a test says so.
struct Bench {
    flusher: Flusher,
    now: Instant,
}

impl Bench {
    fn new(batch_len_max: usize) -> Self {
        Self { flusher: Flusher::new(DELAY, batch_len_max, 7), now: Instant::now() }
    }

    fn record(&mut self, name: &(impl ToString + ?Sized), number: u64) {
        let key = key(name);
        self.flusher.recorded(self.now, &key, slot(&key), version(number));
    }

    fn take(&mut self) -> Option<Batch> {
        self.flusher.take(self.now)
    }

    /// The next batch, as soon as it is due.
    fn next(&mut self) -> Batch {
        self.now = self.now.max(self.flusher.wake_at().expect("something is due"));
        self.take().expect("what is due is given")
    }

    /// Answers, and takes down what is to be.
    fn answer(&mut self, batch: &Batch, outcome: impl Fn(&Key) -> Outcome) -> Vec<Settlement> {
        let outcomes = batch.items.iter().map(|(key, _)| outcome(key)).collect();
        let settlements = self.flusher.answered(self.now, batch.id, outcomes);
        self.flusher.settled(self.now, settlements.iter().map(|settlement| &settlement.key));
        settlements
    }
}

fn names(batch: &Batch) -> Vec<String> {
    batch.items.iter().map(|(key, _)| String::from_utf8(key.as_bytes().to_vec()).unwrap()).collect()
}

#[test]
fn changes_of_a_key_are_gathered_from_the_first_on_and_the_newest_is_flushed() {
    let mut bench = Bench::new(1);
    bench.record("a", 1);
    bench.now += DELAY / 2;
    bench.record("a", 3);
    bench.record("a", 2);
    assert!(bench.take().is_none());
    bench.now += DELAY / 2;
    let batch = bench.take().unwrap();
    assert_eq!(batch.items, [(key("a"), version(3))]);
    let settled = bench.answer(&batch, |_| Outcome::Flushed);
    assert_eq!(settled, [Settlement { key: key("a"), version: version(3), how: Settled::Flushed }]);
    assert!(bench.flusher.is_empty());
}

#[test]
fn a_key_is_flushed_again_only_when_the_flush_before_is_taken_down() {
    let mut bench = Bench::new(1);
    bench.record("a", 1);
    let batch = bench.next();
    bench.record("a", 2);
    bench.now += DELAY * 2;
    assert!(bench.take().is_none(), "it is under way");
    bench.flusher.answered(bench.now, batch.id, vec![Outcome::Flushed]);
    assert!(bench.take().is_none(), "it is not taken down");
    bench.flusher.settled(bench.now, [&key("a")]);
    assert_eq!(bench.take().unwrap().items, [(key("a"), version(2))]);
}

#[test]
fn keys_that_come_one_after_the_other_go_together_and_none_before_its_time() {
    let mut bench = Bench::new(1_000);
    let (began, step, count) = (bench.now, Duration::from_millis(3), 500);
    let mut gathered = Vec::new();
    let mut batches = 0;
    while gathered.len() < count as usize {
        let passed = bench.now - began;
        if passed < step * count {
            bench.record(&passed.as_millis(), 1);
        }
        while let Some(batch) = bench.take() {
            batches += 1;
            let came = names(&batch).into_iter().map(|name| Duration::from_millis(name.parse().unwrap()));
            gathered.extend(came.map(|came| passed - came));
            bench.answer(&batch, |_| Outcome::Flushed);
        }
        bench.now += step;
    }
    let late = DELAY + DELAY_PART_MAX + step;
    assert!(gathered.iter().all(|gathered| *gathered >= DELAY && *gathered < late), "{gathered:?}");
    let parts = (step * (count - 1)).div_duration_f64(DELAY_PART_MAX).ceil();
    assert_eq!(f64::from(batches), parts + 1.0, "one for each part, and the first key's");
}

#[test]
fn a_batch_holds_no_more_keys_than_the_origin_takes() {
    let mut bench = Bench::new(3);
    for name in 0..7 {
        bench.record(&name, 1);
    }
    let sizes: Vec<usize> = (0..3).map(|_| bench.next().items.len()).collect();
    assert_eq!(sizes, [3, 3, 1]);
    assert!(bench.take().is_none());
}

#[test]
fn a_failed_key_is_tried_again_later_and_later_while_others_go_on() {
    let mut bench = Bench::new(2);
    bench.record("bad", 1);
    let mut waits = Vec::new();
    for number in 0..14 {
        let before = bench.now;
        let batch = bench.next();
        waits.push(bench.now - before);
        assert_eq!(names(&batch), ["bad"]);
        bench.answer(&batch, |_| Outcome::Unknown);
        if number == 3 {
            bench.record("good", 1);
            bench.now += DELAY + DELAY_PART_MAX;
            while let Some(batch) = bench.take() {
                bench.answer(&batch, |key| if key.as_bytes() == b"bad" { Outcome::Unknown } else { Outcome::Flushed });
            }
            assert_eq!(bench.flusher.len(), 1, "the good one is flushed");
        }
    }
    assert!(waits[1] <= RETRY_MIN && waits[2] <= RETRY_MIN * 2, "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= RETRY_MAX) && waits.iter().any(|wait| *wait > RETRY_MAX / 4), "{waits:?}");
}

/// What fails at the same time at several nodes is not tried again at the same time.
#[test]
fn retries_are_spread_over_all_of_their_bounds() {
    let wait = |seed: u64, failures: usize| {
        let mut bench = Bench { flusher: Flusher::new(DELAY, 1, seed), now: Instant::now() };
        bench.record("a", 1);
        let mut last = bench.now;
        for _ in 0..failures {
            let batch = bench.next();
            last = bench.now;
            bench.answer(&batch, |_| Outcome::Unknown);
        }
        bench.flusher.wake_at().unwrap() - last
    };
    for (failures, bound) in [(1, RETRY_MIN), (3, RETRY_MIN * 4), (20, RETRY_MAX)] {
        let waits: Vec<Duration> = (0..100).map(|seed| wait(seed, failures)).collect();
        assert!(waits.iter().all(|wait| *wait <= bound), "{waits:?}");
        for part in [0, 1, 2, 3] {
            let is_in_part = |wait: &&Duration| **wait >= bound * part / 4 && **wait <= bound * (part + 1) / 4;
            assert!(waits.iter().filter(is_in_part).count() > 5, "{failures} failures: {waits:?}");
        }
    }
}

#[test]
fn a_retry_takes_what_came_meanwhile() {
    let mut bench = Bench::new(1);
    bench.record("a", 1);
    let batch = bench.next();
    bench.record("a", 2);
    bench.answer(&batch, |_| Outcome::Unknown);
    assert_eq!(bench.next().items, [(key("a"), version(2))]);
}

#[test]
fn a_refusal_and_a_conflict_are_the_end_of_a_key() {
    let mut bench = Bench::new(3);
    for name in ["refused", "conflict", "gone"] {
        bench.record(&name, 1);
    }
    let batch = bench.next();
    let settled = bench.answer(&batch, |key| match key.as_bytes() {
        b"refused" => Outcome::Refused("no".into()),
        b"conflict" => Outcome::Conflict,
        _ => Outcome::Gone,
    });
    let how: Vec<Settled> = settled.into_iter().map(|settlement| settlement.how).collect();
    assert_eq!(how, [Settled::Refused("no".into()), Settled::Conflict]);
    assert!(bench.flusher.is_empty());
}

#[test]
fn one_poison_change_is_found_by_halving_and_the_others_get_through() {
    for outcome in [Outcome::Unknown, Outcome::Refused("poison".into())] {
        let mut bench = Bench::new(100);
        for name in 0..10_000 {
            bench.record(&name, 1);
        }
        let is_poison = |key: &Key| key.as_bytes() == b"4242";
        let (mut requests, mut after_last) = (0, None);
        while bench.flusher.len() > 1 {
            let batch = bench.next();
            requests += 1;
            assert!(requests < 1000, "it is never found");
            let has_poison = batch.items.iter().any(|(key, _)| is_poison(key));
            bench.answer(&batch, |_| if has_poison { outcome.clone() } else { Outcome::Flushed });
            after_last = Some(bench.now);
        }
        // A batch of 100 is halved 7 times, and each time one half succeeds.
        assert!(requests <= 100 + 2 * 7, "{requests}");
        assert!(after_last.is_some());
    }
}

#[test]
fn an_origin_that_is_down_is_not_asked_for_each_key() {
    let mut bench = Bench::new(100);
    for name in 0..10_000 {
        bench.record(&name, 1);
    }
    let end = bench.now + Duration::from_secs(60);
    let (mut requests, mut first) = (0, 0);
    while bench.flusher.wake_at().is_some_and(|at| at < end) {
        let batch = bench.next();
        bench.answer(&batch, |_| Outcome::Unknown);
        requests += 1;
        first += usize::from(bench.now == end - Duration::from_secs(59));
    }
    assert_eq!(first, 100, "each batch was tried when it was due");
    // Each of 100 batches some 10 times within a minute, and some batches in parts.
    assert!(requests < 2500, "{requests}");
    // Back again, everything comes through, mostly in batches.
    let mut requests = 0;
    while !bench.flusher.is_empty() {
        let batch = bench.next();
        bench.answer(&batch, |_| Outcome::Flushed);
        requests += 1;
    }
    assert!(requests < 1000, "{requests}");
}

#[test]
fn an_origin_that_is_not_reached_gets_its_batches_whole() {
    let mut bench = Bench::new(100);
    for name in 0..100 {
        bench.record(&name, 1);
    }
    for _ in 0..5 {
        let batch = bench.next();
        assert_eq!(batch.items.len(), 100);
        bench.answer(&batch, |_| Outcome::Unreached);
    }
}

#[test]
fn a_drain_flushes_without_delay_until_its_end() {
    let mut bench = Bench::new(1);
    bench.record("failed", 1);
    let batch = bench.next();
    bench.answer(&batch, |_| Outcome::Unknown);
    bench.record("fresh", 1);
    let until = bench.now + DELAY;
    bench.flusher.drain(bench.now, until);
    let mut drained = Vec::new();
    while let Some(batch) = bench.take() {
        drained.extend(names(&batch));
        bench.answer(&batch, |_| Outcome::Flushed);
    }
    drained.sort();
    assert_eq!(drained, ["failed", "fresh"]);
    bench.record("late", 1);
    assert_eq!(names(&bench.take().unwrap()), ["late"]);
    bench.record("too late", 1);
    bench.now = until;
    assert!(bench.take().is_none() && bench.flusher.wake_at().is_none());
}

#[test]
fn a_released_slot_ends_what_is_under_way_and_begins_nothing() {
    let mut bench = Bench::new(1);
    bench.record("{x}under way", 1);
    let batch = bench.next();
    bench.record("{x}under way", 2);
    bench.record("{x}waiting", 1);
    bench.record("{y}elsewhere", 1);
    let slot = slot(&key("{x}"));
    assert_eq!(bench.flusher.release(slot), 1);
    assert_eq!(bench.answer(&batch, |_| Outcome::Flushed).len(), 1, "its end is taken down");
    assert_eq!(bench.flusher.under_way(slot), 0);
    bench.now += DELAY;
    assert_eq!(names(&bench.take().unwrap()), ["{y}elsewhere"]);
    assert!(bench.take().is_none());
}

#[test]
fn a_released_slot_that_comes_back_is_flushed_again() {
    let mut bench = Bench::new(2);
    bench.record("{x}a", 1);
    bench.record("{x}b", 1);
    let batch = bench.next();
    bench.flusher.release(slot(&key("{x}")));
    bench.record("{x}a", 1);
    bench.answer(&batch, |_| Outcome::Unknown);
    assert_eq!(names(&bench.next()), ["{x}a"]);
    assert_eq!(bench.flusher.len(), 1);
}

/// What may happen.
#[derive(Clone, Debug)]
enum Step {
    Record(u8),
    Pass(u16),
    Take,
    Answer(prop::sample::Index),
    Settle(prop::sample::Index),
    Poison(u8),
    Mood(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        4 => (0..12u8).prop_map(Step::Record),
        3 => (0..1500u16).prop_map(Step::Pass),
        4 => Just(Step::Take),
        4 => index().prop_map(Step::Answer),
        3 => index().prop_map(Step::Settle),
        1 => (0..12u8).prop_map(Step::Poison),
        1 => (0..4u8).prop_map(Step::Mood),
    ];
    proptest::collection::vec(step, 1..200)
}

/// An origin, a ledger and what was asked of them, beside a flusher.
#[derive(Default)]
struct Model {
    next: u64,
    /// The newest version of each key that was recorded.
    newest: BTreeMap<Key, Version>,
    /// What is settled of each key.
    settled: BTreeMap<Key, Version>,
    /// What was sent last for each key.
    sent: BTreeMap<Key, Version>,
    under_way: Vec<Batch>,
    settling: Vec<Settlement>,
    busy: BTreeSet<Key>,
    poison: BTreeSet<Key>,
    mood: u8,
}

impl Model {
    fn took(&mut self, batch: Batch, batch_len_max: usize) {
        assert!(!batch.items.is_empty() && batch.items.len() <= batch_len_max);
        for (key, version) in &batch.items {
            assert_eq!(self.newest[key], *version, "the newest is flushed");
            assert!(self.busy.insert(key.clone()), "one flush of a key at a time");
            assert!(
                self.settled.get(key).is_none_or(|settled| settled < version),
                "what is settled is not flushed again"
            );
            let before = self.sent.insert(key.clone(), *version);
            assert!(before.is_none_or(|before| before <= *version), "versions go in order");
        }
        self.under_way.push(batch);
    }

    fn outcomes(&self, batch: &Batch) -> Vec<Outcome> {
        let has_poison = batch.items.iter().any(|(key, _)| self.poison.contains(key));
        let outcome = |(key, _): &(Key, Version)| match self.mood {
            1 => Outcome::Unknown,
            2 => Outcome::Unreached,
            // The whole request fails for one.
            3 if has_poison => Outcome::Unknown,
            _ if self.poison.contains(key) => Outcome::Refused("poison".into()),
            _ => Outcome::Flushed,
        };
        batch.items.iter().map(outcome).collect()
    }

    fn answered(&mut self, batch: &Batch, settlements: Vec<Settlement>) {
        for (key, _) in &batch.items {
            if !settlements.iter().any(|settlement| settlement.key == *key) {
                self.busy.remove(key);
            }
        }
        self.settling.extend(settlements);
    }

    fn took_down(&mut self, settlement: &Settlement) {
        self.busy.remove(&settlement.key);
        self.settled.insert(settlement.key.clone(), settlement.version);
    }
}

proptest! {
    #[test]
    fn whatever_happens_keys_go_in_order_nothing_is_lost_and_nothing_goes_twice(steps in steps(), batch_len_max in 1..6usize) {
        let mut bench = Bench::new(batch_len_max);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Record(name) => {
                    model.next += 1;
                    bench.record(&name, model.next);
                    model.newest.insert(key(&name), version(model.next));
                }
                Step::Pass(ms) => bench.now += Duration::from_millis(ms.into()),
                Step::Take => {
                    if let Some(batch) = bench.take() {
                        model.took(batch, batch_len_max);
                    }
                }
                Step::Answer(index) if !model.under_way.is_empty() => {
                    let batch = model.under_way.swap_remove(index.index(model.under_way.len()));
                    let settlements = bench.flusher.answered(bench.now, batch.id, model.outcomes(&batch));
                    model.answered(&batch, settlements);
                }
                Step::Settle(index) if !model.settling.is_empty() => {
                    let settlement = model.settling.swap_remove(index.index(model.settling.len()));
                    model.took_down(&settlement);
                    bench.flusher.settled(bench.now, [&settlement.key]);
                }
                Step::Poison(name) => drop(model.poison.insert(key(&name))),
                Step::Mood(mood) => model.mood = mood,
                Step::Answer(_) | Step::Settle(_) => {}
            }
        }
        // From now on the origin is well, and has its reasons only against poison.
        model.mood = 3;
        model.poison.clear();
        let mut rounds = 0;
        while !bench.flusher.is_empty() {
            rounds += 1;
            prop_assert!(rounds < 10_000, "it comes to an end");
            for batch in std::mem::take(&mut model.under_way) {
                let settlements = bench.flusher.answered(bench.now, batch.id, model.outcomes(&batch));
                model.answered(&batch, settlements);
            }
            for settlement in std::mem::take(&mut model.settling) {
                model.took_down(&settlement);
                bench.flusher.settled(bench.now, [&settlement.key]);
            }
            if let Some(at) = bench.flusher.wake_at() {
                bench.now = bench.now.max(at);
            }
            while let Some(batch) = bench.take() {
                model.took(batch, batch_len_max);
            }
        }
        prop_assert_eq!(model.settled, model.newest);
        prop_assert!(bench.flusher.family.is_none() && bench.flusher.parts.is_empty() && bench.flusher.gathering.is_empty());
    }
}
