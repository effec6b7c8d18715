//! `store`: how many look-ups and writes a second, with keys drawn by Zipf's law.

use std::{collections::BTreeMap, hint::black_box, sync::Arc, thread, time::Duration};

use serde::Serialize;

use crate::{
    clock::Stopwatch,
    systems::{self, Cache, Room},
    trace::Zipf,
};

pub(crate) const KEY_LEN: usize = 20;
const VALUE_LEN: usize = 100;

/// Keys a thread draws beforehand, so that drawing isn't measured; a round goes through them again and again.
const DRAWN: usize = 1 << 21;

/// A system's turn comes in so many slices, between which the others have theirs: what else the machine does comes and
/// goes, and should hit all alike.
const SLICES: u32 = 10;

/// Operations between two looks at the clock.
const STRIDE: usize = 1_024;

const BATCH_LEN: usize = 16;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many keys; all fit.
    #[arg(long, value_delimiter = ',', default_values_t = [100_000, 5_000_000])]
    keys: Vec<usize>,
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// Rounds, in each of which every system takes its turn with every load.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a system's turn is, in milliseconds.
    #[arg(long, default_value_t = 500)]
    turn_ms: u64,
    /// Of: reads, batch, 95/5, 50/50.
    #[arg(long, value_delimiter = ',', default_values_t = ["reads", "batch", "95/5", "50/50"].map(String::from))]
    load: Vec<String>,
}

#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) keys: usize,
    pub(crate) threads: usize,
    pub(crate) load: String,
    /// Million operations a second: the median of the rounds.
    pub(crate) value: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    /// The median of the rounds' ratios to quick_cache.
    pub(crate) to_quick_cache: Option<f64>,
    /// The median of the rounds' ratios to the same system's reads.
    pub(crate) to_reads: Option<f64>,
}

/// One way to use a system.
#[derive(Clone, Copy, PartialEq)]
enum Load {
    Reads,
    Batch,
    /// Of a hundred operations, so many write.
    Mix(u8),
}

impl Load {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "reads" => Self::Reads,
            "batch" => Self::Batch,
            "95/5" => Self::Mix(5),
            "50/50" => Self::Mix(50),
            _ => return None,
        })
    }
}

pub(crate) fn run(options: &Options, names: &[&'static str]) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let loads =
        options.load.iter().map(|name| Load::parse(name).ok_or("no such load").map(|load| (name.as_str(), load)));
    let loads: Vec<(&str, Load)> = loads.collect::<Result<_, _>>()?;
    let mut rows = Vec::new();
    for &keys in &options.keys {
        let room = Room { items: keys as u64 * 5 / 4, key_len: KEY_LEN, value_len: VALUE_LEN };
        let systems = names.iter().map(|name| systems::build(name, room).ok_or("no such system").map(|it| (*name, it)));
        let systems: Vec<(&str, Arc<dyn Cache>)> = systems.collect::<Result<_, _>>()?;
        for (_, cache) in &systems {
            for rank in shuffled(keys) {
                cache.put(&key(rank), &value(rank));
            }
        }
        let drawn = draw(keys, options.threads.iter().copied().max().unwrap_or(1));
        for &threads in &options.threads {
            let mut measured: Measured<'_> = BTreeMap::new();
            let slice = Duration::from_millis(options.turn_ms) / SLICES;
            for _ in 0..options.rounds {
                let mut sums = BTreeMap::new();
                for _ in 0..SLICES {
                    for (load_name, load) in &loads {
                        for (name, cache) in &systems {
                            let rate = turn_of(cache.as_ref(), &drawn[..threads], *load, slice);
                            *sums.entry((*load_name, *name)).or_insert(0.0) += rate / f64::from(SLICES);
                        }
                    }
                }
                sums.into_iter().for_each(|(what, rate)| measured.entry(what).or_default().push(rate));
            }
            for (load_name, _) in &loads {
                rows.extend(names.iter().map(|name| row(name, keys, threads, load_name, &measured)));
            }
        }
    }
    Ok(rows)
}

/// The rates of the rounds, by load and system.
type Measured<'a> = BTreeMap<(&'a str, &'a str), Vec<f64>>;

fn row(name: &str, keys: usize, threads: usize, load: &str, measured: &Measured<'_>) -> Row {
    let mine = &measured[&(load, name)];
    let ratio = |load: &str, name: &str| {
        let theirs = measured.get(&(load, name))?;
        Some(median(mine.iter().zip(theirs).map(|(mine, theirs)| mine / theirs).collect()))
    };
    Row {
        name: name.to_owned(),
        keys,
        threads,
        load: load.to_owned(),
        value: median(mine.clone()),
        least: mine.iter().copied().fold(f64::INFINITY, f64::min),
        most: mine.iter().copied().fold(0.0, f64::max),
        to_quick_cache: ratio(load, "quick_cache"),
        to_reads: ratio("reads", name),
    }
}

pub(crate) fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or_default()
}

/// The key of a rank: neighbours in rank are not neighbours in memory, as the numbers are scattered.
pub(crate) fn key(rank: usize) -> [u8; KEY_LEN] {
    let mut key = *b"key:000000000000\0\0\0\0";
    key[12..].copy_from_slice(&(rank as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key
}

pub(crate) fn value(rank: usize) -> [u8; VALUE_LEN] {
    [rank as u8; VALUE_LEN]
}

fn shuffled(keys: usize) -> Vec<usize> {
    let mut ranks: Vec<usize> = (0..keys).collect();
    fastrand::Rng::with_seed(2).shuffle(&mut ranks);
    ranks
}

/// For each thread, the ranks that it asks for.
fn draw(keys: usize, threads: usize) -> Vec<Vec<u32>> {
    let zipf = Zipf::new(keys, 0.99);
    (0..threads as u64)
        .map(|thread| {
            let mut random = fastrand::Rng::with_seed(100 + thread);
            (0..DRAWN).map(|_| zipf.draw(&mut random) as u32).collect()
        })
        .collect()
}

/// Million operations a second, of all threads together.
fn turn_of(cache: &dyn Cache, drawn: &[Vec<u32>], load: Load, turn: Duration) -> f64 {
    thread::scope(|scope| {
        let threads: Vec<_> =
            drawn.iter().map(|ranks| scope.spawn(move || one_thread(cache, ranks, load, turn))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).sum()
    })
}

fn one_thread(cache: &dyn Cache, ranks: &[u32], load: Load, turn: Duration) -> f64 {
    let watch = Stopwatch::start();
    let mut done = 0usize;
    let mut random = fastrand::Rng::with_seed(3);
    let start = random.usize(0..ranks.len());
    for stride in ranks.chunks_exact(STRIDE).cycle().skip(start / STRIDE) {
        match load {
            Load::Reads => {
                for &rank in stride {
                    black_box(cache.get(&key(rank as usize)));
                }
            }
            Load::Batch => {
                for ranks in stride.chunks_exact(BATCH_LEN) {
                    let keys: [[u8; KEY_LEN]; BATCH_LEN] = std::array::from_fn(|at| key(ranks[at] as usize));
                    black_box(cache.get_many(&keys.each_ref().map(|key| &key[..])));
                }
            }
            Load::Mix(writes) => {
                for &rank in stride {
                    let rank = rank as usize;
                    if random.u8(0..100) < writes {
                        cache.put(&key(rank), &value(rank));
                    } else {
                        black_box(cache.get(&key(rank)));
                    }
                }
            }
        }
        done += STRIDE;
        if watch.elapsed() >= turn {
            break;
        }
    }
    done as f64 / watch.elapsed().as_secs_f64() / 1e6
}
