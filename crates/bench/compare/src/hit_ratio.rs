//! `hit-ratio`: what part of a trace each system finds, with one entry a unit of capacity.

use std::path::PathBuf;

use serde::Serialize;

use crate::{
    picture::{self, Line, Panel},
    systems::{self, Room},
    trace::{self, Trace},
};

/// Keys are 64 bits, values one byte.
const KEY_LEN: usize = 8;
const VALUE: [u8; 1] = [1];

/// How many panels of the picture stand beside each other.
const PANELS_BESIDE: usize = 2;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Little-endian 64-bit keys, plain or `.zst`; may be given several times. Without: made-up traces.
    #[arg(long)]
    trace: Vec<PathBuf>,
    /// Entries; may be given several times, or as a list. Without: from a hundredth of the trace's keys to a third.
    #[arg(long, value_delimiter = ',')]
    capacity: Vec<u64>,
    /// Where the picture goes.
    #[arg(long, default_value = "target/compare-hit-ratio.svg")]
    picture: PathBuf,
}

#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) trace: String,
    pub(crate) capacity: u64,
    /// In percent.
    pub(crate) value: f64,
}

pub(crate) fn run(options: &Options, names: &[&'static str]) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let traces = match options.trace.as_slice() {
        [] => trace::made_up(),
        paths => paths.iter().map(|path| trace::read(path)).collect::<Result<_, _>>()?,
    };
    let mut rows = Vec::new();
    for trace in &traces {
        let capacities = if options.capacity.is_empty() { capacities(trace) } else { options.capacity.clone() };
        for capacity in capacities {
            for &name in names {
                let value = ratio(name, trace, capacity).ok_or("no such system")?;
                rows.push(Row { name, trace: trace.name.clone(), capacity, value });
            }
        }
    }
    picture::draw(&options.picture, &panels(&rows, names), PANELS_BESIDE)?;
    Ok(rows)
}

/// A panel for each trace, a line for each system. Each capacity is as far from the next, as each is twice the one before.
fn panels(rows: &[Row], names: &[&'static str]) -> Vec<Panel> {
    let of_trace = |rows: &[Row]| {
        let mut capacities: Vec<u64> = rows.iter().map(|row| row.capacity).collect();
        capacities.sort_unstable();
        capacities.dedup();
        let ticks = (0..).zip(&capacities).map(|(at, capacity)| (f64::from(at), capacity.to_string())).collect();
        let place = |row: &Row| capacities.binary_search(&row.capacity).unwrap_or_default() as f64;
        let points = |name| rows.iter().filter(|row| row.name == name).map(|row| (place(row), row.value)).collect();
        let lines = names.iter().map(|&name| Line { name, points: points(name) }).collect();
        Panel { title: format!("{}: hits in %, by capacity in entries", rows[0].trace), ticks, lines }
    };
    rows.chunk_by(|one, other| one.trace == other.trace).map(of_trace).collect()
}

/// Six capacities, each twice the one before.
fn capacities(trace: &Trace) -> Vec<u64> {
    let mut keys = trace.keys.clone();
    keys.sort_unstable();
    keys.dedup();
    (0..6).map(|step| ((keys.len() as u64) << step) / 96).map(|items| items.max(1)).collect()
}

fn ratio(name: &str, trace: &Trace, items: u64) -> Option<f64> {
    let cache = systems::build(name, Room { items, key_len: KEY_LEN, value_len: VALUE.len() })?;
    let mut hits = 0u64;
    for key in &trace.keys {
        let key = key.to_le_bytes();
        if cache.get(&key).is_some() {
            hits += 1;
        } else {
            cache.put(&key, &VALUE);
        }
    }
    Some(hits as f64 * 100.0 / trace.keys.len().max(1) as f64)
}
