//! `latency`: how long single look-ups take while a part of all entries expires, is invalidated or dropped, beside a run
//! in which nothing else happens.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use larder_core::{
    Moment, Value,
    placement::Slot,
    store::{Mark, Meta, Store, StoreConfig, Tag, Tags},
    version::Reading,
};
use serde::Serialize;

use crate::{
    clock::Stopwatch,
    speed::{KEY_LEN, key, value},
    systems::{META, Room, entry_cost},
};

/// Of all entries, one in so many goes.
const GOING_PART: usize = 10;

const GOING_SLOT: Slot = match Slot::new(2) {
    Some(slot) => slot,
    None => unreachable!(),
};

/// Entries a sweep looks at, as many as a group's housekeeping does at once; here the next one follows at once.
const SWEPT_AT_ONCE: usize = 4_096;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long, default_value_t = 5_000_000)]
    keys: usize,
    /// How long the control run is, in milliseconds; the others end when all entries are gone that have to.
    #[arg(long, default_value_t = 1_000)]
    run_ms: u64,
    /// Rounds of all runs, on a fresh store each.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) round: usize,
    pub(crate) look_ups: usize,
    /// Entries that went meanwhile.
    pub(crate) gone: usize,
    /// Nanoseconds.
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p9999: u64,
    pub(crate) most: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Meanwhile {
    /// A second thread that keeps its core busy without the store, so that both runs share the machine alike.
    Nothing,
    /// The entries have expired, and are swept.
    Sweep,
    /// A tag of theirs is invalidated, and they are swept.
    Invalidate,
    /// Their slot has gone elsewhere.
    DropSlot,
}

pub(crate) fn run(options: &Options) -> Vec<Row> {
    let all = [
        ("control", Meanwhile::Nothing),
        ("sweep", Meanwhile::Sweep),
        ("invalidate", Meanwhile::Invalidate),
        ("drop slot", Meanwhile::DropSlot),
    ];
    let rounds = (0..options.rounds).flat_map(|round| all.map(|(name, meanwhile)| (round, name, meanwhile)));
    rounds.map(|(round, name, meanwhile)| one(options, round, name, meanwhile)).collect()
}

fn one(options: &Options, round: usize, name: &'static str, meanwhile: Meanwhile) -> Row {
    let room = Room { items: options.keys as u64 * 5 / 4, key_len: KEY_LEN, value_len: value(0).len() };
    let capacity_bytes = room.items * entry_cost(room);
    let store = Store::new(StoreConfig { capacity_bytes, ..StoreConfig::default() });
    let soon = Moment::from_nanos(10);
    let tag = Tag::of(b"going");
    for rank in 0..options.keys {
        let value = Some(Value::from(value(rank).to_vec()));
        let (meta, tags) = match meanwhile {
            _ if !rank.is_multiple_of(GOING_PART) => (META, Tags::NONE),
            Meanwhile::Nothing | Meanwhile::Sweep => (Meta { fresh_until: soon, keep_until: soon, ..META }, Tags::NONE),
            Meanwhile::Invalidate => (META, Tags::from_iter([tag])),
            Meanwhile::DropSlot => (Meta { slot: GOING_SLOT, ..META }, Tags::NONE),
        };
        let _ = store.insert(&key(rank), value.map(|value| value.with_tags(tags)), meta);
    }
    let going = options.keys.div_ceil(GOING_PART);
    let swept = |now| {
        let mut gone = 0;
        while gone < going {
            gone += store.sweep(now, SWEPT_AT_ONCE);
        }
        gone
    };
    let done = AtomicBool::new(false);
    let (mut taken, gone) = thread::scope(|scope| {
        let other = scope.spawn(|| {
            let gone = match meanwhile {
                Meanwhile::Nothing => {
                    let run = Stopwatch::start();
                    while run.elapsed() < Duration::from_millis(options.run_ms) {
                        std::hint::spin_loop();
                    }
                    0
                }
                Meanwhile::Sweep => swept(soon),
                Meanwhile::Invalidate => {
                    let _ = store.raise_mark(Mark::Tag(tag), Reading::from_bits(1));
                    swept(Moment::from_nanos(1))
                }
                Meanwhile::DropSlot => store.drop_slots(|slot| slot == GOING_SLOT),
            };
            done.store(true, Ordering::Relaxed);
            gone
        });
        (look_up(&store, options.keys, &done), other.join().unwrap_or_default())
    });
    taken.sort_unstable();
    let at =
        |share: f64| taken.get((taken.len() as f64 * share) as usize).or(taken.last()).copied().unwrap_or_default();
    Row { name, round, look_ups: taken.len(), gone, p50: at(0.5), p99: at(0.99), p9999: at(0.9999), most: at(1.0) }
}

/// Looks keys up that stay, evenly, until the others are gone, and notes how long each takes, in nanoseconds.
fn look_up(store: &Store, keys: usize, done: &AtomicBool) -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(9);
    let mut taken = Vec::with_capacity(8 << 20);
    while !done.load(Ordering::Relaxed) {
        let rank = random.usize(0..keys / GOING_PART) * GOING_PART + 1;
        let key = key(rank);
        let one = Stopwatch::start();
        std::hint::black_box(store.get(&key, Moment::from_nanos(1)));
        taken.push(one.elapsed().as_nanos() as u64);
    }
    taken
}
