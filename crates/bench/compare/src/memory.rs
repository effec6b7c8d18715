//! `memory`: what an entry takes beside its key and value, as the system counts the process's resident memory.
//!
//! Every figure comes from a process of its own, so that none is weighed with what another left behind.

use std::{env, fs, process::Command};

use serde::{Deserialize, Serialize};

use crate::systems::{self, Room};

const KEY_LEN: usize = 20;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many entries.
    #[arg(long, default_value_t = 1_000_000)]
    items: u64,
    /// Lengths of the values; `20-180` draws each evenly from between.
    #[arg(long, value_delimiter = ',', default_values_t = ["16", "100", "20-180", "4096"].map(String::from))]
    values: Vec<String>,
}

/// One weighing, in a process of its own.
#[derive(clap::Args)]
pub(crate) struct Weigh {
    name: String,
    items: u64,
    value: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) items: u64,
    pub(crate) value_len: String,
    /// Bytes an entry beside key and value, once the cache is full.
    pub(crate) value: f64,
    /// The same after twice as many other entries came and went.
    pub(crate) churned: f64,
    /// Resident bytes after that, over those that the store counts; Larder only, as the others count entries.
    pub(crate) resident_to_budget: Option<f64>,
}

pub(crate) fn run(options: &Options, names: &[&'static str]) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let mut rows = Vec::new();
    for value in &options.values {
        // As many entries of 4 KiB as take the memory of a million small ones.
        let items = options.items.min(options.items * 400 / mean(value)?.max(1));
        for name in names {
            let output = Command::new(env::current_exe()?).args(["weigh", name, &items.to_string(), value]).output()?;
            if !output.status.success() {
                return Err(format!("weighing {name}: {}", String::from_utf8_lossy(&output.stderr)).into());
            }
            rows.push(serde_json::from_slice(&output.stdout)?);
        }
    }
    Ok(rows)
}

fn bounds(value: &str) -> Result<(usize, usize), Box<dyn std::error::Error>> {
    let (least, most) = value.split_once('-').unwrap_or((value, value));
    Ok((least.parse()?, most.parse()?))
}

fn mean(value: &str) -> Result<u64, Box<dyn std::error::Error>> {
    let (least, most) = bounds(value)?;
    Ok((least + most) as u64 / 2)
}

pub(crate) fn weigh(weigh: &Weigh) -> Result<Row, Box<dyn std::error::Error>> {
    let Weigh { name, items, value } = weigh;
    let (least, most) = bounds(value)?;
    let room = Room { items: *items, key_len: KEY_LEN, value_len: usize::midpoint(least, most) };
    let before = resident()?;
    let cache = systems::build(name, room).ok_or("no such system")?;
    let mut random = fastrand::Rng::with_seed(5);
    let content = vec![7u8; most];
    let mut fill = |from: u64, to: u64| {
        for number in from..to {
            cache.put(&key(number), &content[..random.usize(least..=most)]);
        }
    };
    let sum = |from: u64, to: u64| (from..to).filter(|&number| cache.get(&key(number)).is_some()).count() as f64;
    let beside = |held: f64| -> Result<f64, Box<dyn std::error::Error>> {
        Ok((resident()? - before) / held - (KEY_LEN + room.value_len) as f64)
    };
    fill(0, *items);
    let filled = beside(sum(0, *items))?;
    fill(*items, items * 3);
    let churned = beside(sum(0, items * 3))?;
    let budget = (*items * systems::entry_cost(room)) as f64;
    let resident_to_budget = name.starts_with("larder").then_some((resident()? - before) / budget);
    Ok(Row { name: name.clone(), items: *items, value_len: value.clone(), value: filled, churned, resident_to_budget })
}

fn key(number: u64) -> [u8; KEY_LEN] {
    let mut key = *b"key:000000000000\0\0\0\0";
    key[12..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key
}

/// Resident bytes of this process.
fn resident() -> Result<f64, Box<dyn std::error::Error>> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = statm.split_whitespace().nth(1).ok_or("no resident size")?.parse()?;
    Ok(pages * 4_096.0)
}
