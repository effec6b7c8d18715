//! `latency`: how long single look-ups take while entries are swept or dropped by the thousand, beside a run in which
//! nothing else happens.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use larder_core::{
    Moment, Value,
    placement::Slot,
    store::{Meta, Store, StoreConfig},
};
use serde::Serialize;

use crate::{
    clock::Stopwatch,
    speed::{KEY_LEN, key, value},
    systems::{META, Room, entry_cost},
};

/// Of all entries, one in so many goes.
const GOING_PART: usize = 10;

/// Entries a sweep looks at before it pauses for its reader, as a group's housekeeping would.
const SWEPT_AT_ONCE: usize = 1_024;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long, default_value_t = 5_000_000)]
    keys: usize,
    /// How long each run is, in milliseconds; the sweep goes on all the time.
    #[arg(long, default_value_t = 3_000)]
    run_ms: u64,
    /// Rounds of all three runs, on a fresh store each.
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
    Sweep,
    DropSlots,
}

pub(crate) fn run(options: &Options) -> Vec<Row> {
    let all = [("control", Meanwhile::Nothing), ("sweep", Meanwhile::Sweep), ("drop slots", Meanwhile::DropSlots)];
    let rounds = (0..options.rounds).flat_map(|round| all.map(|(name, meanwhile)| (round, name, meanwhile)));
    rounds.map(|(round, name, meanwhile)| one(options, round, name, meanwhile)).collect()
}

fn one(options: &Options, round: usize, name: &'static str, meanwhile: Meanwhile) -> Row {
    let room = Room { items: options.keys as u64 * 5 / 4, key_len: KEY_LEN, value_len: value(0).len() };
    let capacity_bytes = room.items * entry_cost(room);
    let store = Store::new(StoreConfig { capacity_bytes, ..StoreConfig::default() });
    let slot = |rank: usize| Slot::new(u16::from(rank.is_multiple_of(GOING_PART))).unwrap_or(META.slot);
    let soon = Moment::from_nanos(10);
    for rank in 0..options.keys {
        let keep_until = if rank.is_multiple_of(GOING_PART) { soon } else { Moment::NEVER };
        let meta = Meta { slot: slot(rank), fresh_until: keep_until, keep_until, ..META };
        let _ = store.insert(&key(rank), Some(Value::from(value(rank).to_vec())), meta);
    }
    let done = AtomicBool::new(false);
    let (mut taken, gone) = thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut gone = 0;
            while !done.load(Ordering::Relaxed) {
                gone += match meanwhile {
                    Meanwhile::Nothing => {
                        std::hint::spin_loop();
                        0
                    }
                    Meanwhile::Sweep => store.sweep(soon, SWEPT_AT_ONCE),
                    Meanwhile::DropSlots => store.drop_slots(|slot| slot.number() == 1),
                };
            }
            gone
        });
        let taken = look_up(&store, options.keys, Duration::from_millis(options.run_ms));
        done.store(true, Ordering::Relaxed);
        (taken, other.join().unwrap_or_default())
    });
    taken.sort_unstable();
    let at =
        |share: f64| taken.get((taken.len() as f64 * share) as usize).or(taken.last()).copied().unwrap_or_default();
    Row { name, round, look_ups: taken.len(), gone, p50: at(0.5), p99: at(0.99), p9999: at(0.9999), most: at(1.0) }
}

/// Looks keys up that stay, evenly, and notes how long each takes, in nanoseconds.
fn look_up(store: &Store, keys: usize, during: Duration) -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(9);
    let mut taken = Vec::with_capacity(8 << 20);
    let run = Stopwatch::start();
    while run.elapsed() < during {
        let rank = random.usize(0..keys / GOING_PART) * GOING_PART + 1;
        let key = key(rank);
        let one = Stopwatch::start();
        std::hint::black_box(store.get(&key, Moment::from_nanos(1)));
        taken.push(one.elapsed().as_nanos() as u64);
    }
    taken
}
