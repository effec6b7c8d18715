//! `churn`: what it costs the origin when nodes join, drain, die, and are restarted one after the other.
//!
//! Every node is a process; the origin and the clients are this one. The clients get every key over and over, each key as
//! often as every other, at an even pace and through all nodes. What the origin is asked for beyond once a key is excess.

mod cluster;

use std::{collections::HashSet, error::Error, fmt, path::PathBuf, sync::Arc, time::Duration};

use clap::ValueEnum;
use serde::Serialize;
use tokio::{
    runtime::{self, Runtime},
    time::sleep,
};

use self::cluster::Cluster;
use crate::{
    moves::{Excess, moved},
    needs,
    origin::Origin,
    picture::{self, Line, Panel},
    process::Outcome,
    traffic::{Plan, Report, Traffic, Window},
};

/// Gets and loads are counted by stretches of this length.
const WINDOW: Duration = Duration::from_millis(500);

/// How many of them are a second.
const WINDOWS_PER_SECOND: usize = 2;

/// How long the clients ask before anything happens.
const BEFORE: Duration = Duration::from_secs(2);

/// How long they ask after it at least. A pass over all keys has to end too.
const AFTER: Duration = Duration::from_secs(5);

/// How many clients there are, and while all keys are loaded.
const CALLERS: usize = 32;

/// A hit ratio under this counts as a dip.
const DIP: f64 = 0.95;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many nodes there are at first.
    #[arg(long, value_delimiter = ',', default_values_t = [3, 5, 9])]
    nodes: Vec<usize>,
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Event::value_variants().to_vec())]
    events: Vec<Event>,
    #[arg(long, default_value_t = 20_000)]
    keys: usize,
    /// Gets of all clients together.
    #[arg(long, default_value_t = 4_000.0)]
    per_second: f64,
    /// The daemon.
    #[arg(long, default_value = "target/release/larder")]
    larder: PathBuf,
    /// Where the picture goes.
    #[arg(long, default_value = "target/compare-churn.svg")]
    picture: PathBuf,
}

/// What happens to the members.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Event {
    Join,
    Drain,
    Crash,
    Rolling,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Join => "one joins",
            Self::Drain => "one drains",
            Self::Crash => "one is killed",
            Self::Rolling => "all are restarted in turn",
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Larder {
        /// Whether who gains slots gets what was in them.
        warms: bool,
    },
    Groupcache,
}

const SYSTEMS: [(&str, Kind); 3] = [
    ("larder", Kind::Larder { warms: true }),
    ("larder without warming", Kind::Larder { warms: false }),
    ("golang/groupcache", Kind::Groupcache),
];

pub(crate) const NAMES: [&str; SYSTEMS.len()] = [SYSTEMS[0].0, SYSTEMS[1].0, SYSTEMS[2].0];

#[derive(Serialize)]
pub(crate) struct Row {
    system: &'static str,
    event: Event,
    nodes: usize,
    keys: usize,
    /// Keys whose owner is another than it was, for a while at least.
    moved: usize,
    excess_moved: usize,
    excess_stayed: usize,
    /// Of the second with the fewest.
    hit_ratio_min: f64,
    /// How long it was under 0.95.
    dip_seconds: f64,
    gets: usize,
    /// Gets that two nodes did not answer with the value.
    failed: usize,
    /// Attempts that a node answered with an error.
    refused: usize,
    /// Attempts that no node answered.
    unreached: usize,
    slowest_ms: u128,
    /// By half seconds, from two seconds before.
    hit_ratios: Vec<f64>,
}

/// Measures every case, and tells each on stderr as it is done: a run takes minutes.
pub(crate) fn run(options: &Options, names: &[&'static str]) -> Result<Vec<Row>, Box<dyn Error>> {
    let mut rows = Vec::new();
    for &nodes in &options.nodes {
        for &event in &options.events {
            for (system, kind) in SYSTEMS.into_iter().filter(|(name, _)| names.contains(name)) {
                if kind == Kind::Groupcache && !needs::is_there("go") {
                    continue;
                }
                let row = measure(options, system, kind, event, nodes)?;
                eprintln!("{nodes} nodes, {event}, {system}: {} of {} keys loaded again", row.excess(), row.moved);
                rows.push(row);
            }
        }
    }
    picture::draw(&options.picture, &panels(&rows), options.events.len())?;
    Ok(rows)
}

fn measure(options: &Options, system: &'static str, kind: Kind, event: Event, nodes: usize) -> Outcome<Row> {
    // The nodes are seen to on this thread, and asked on another.
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _entered = runtime.enter();
    let origin = Arc::new(runtime.block_on(Origin::start()));
    let mut cluster = Cluster::start(kind, options, &runtime, origin.url(), nodes)?;
    let keys: Vec<String> = (0..options.keys).map(|number| format!("key{number}")).collect();
    let start = |pause: Duration| {
        let plan = Plan { keys: keys.clone(), callers: CALLERS, pause, path: cluster.path(), window: WINDOW };
        Traffic::start(plan, cluster.doors(), &origin)
    };
    load_all(&runtime, start(Duration::from_millis(1)))?;
    let traffic = start(Duration::from_secs_f64(CALLERS as f64 / options.per_second));
    runtime.block_on(sleep(BEFORE));
    let owners_before = cluster.owners(&keys);
    match event {
        Event::Join => cluster.join(&traffic),
        Event::Drain => cluster.drain(&traffic),
        Event::Crash => cluster.crash(&traffic),
        Event::Rolling => cluster.roll(&traffic),
    }?;
    let moved = match event {
        Event::Rolling => keys.iter().cloned().collect(),
        _ => moved(&keys, &owners_before, &cluster.owners(&keys)),
    };
    let report = runtime.block_on(async {
        tokio::join!(traffic.pass(), sleep(AFTER));
        traffic.stop().await
    });
    Ok(row(system, event, nodes, &origin, &moved, keys.len(), &report))
}

/// Lets the clients ask for each key, until each has been loaded.
fn load_all(runtime: &Runtime, traffic: Traffic) -> Outcome<()> {
    let Report { refused, failed, .. } = runtime.block_on(async {
        traffic.pass().await;
        traffic.stop().await
    });
    if refused.is_empty() && failed.is_empty() {
        return Ok(());
    }
    Err(format!("the keys could not be loaded: {failed:?}, {refused:?}").into())
}

fn row(
    system: &'static str,
    event: Event,
    nodes: usize,
    origin: &Origin,
    moved: &HashSet<String>,
    keys: usize,
    report: &Report,
) -> Row {
    let excess = Excess::of(origin, moved);
    let seconds: Vec<f64> = report.windows.chunks_exact(WINDOWS_PER_SECOND).map(hit_ratio).collect();
    Row {
        system,
        event,
        nodes,
        keys,
        moved: moved.len(),
        excess_moved: excess.moved,
        excess_stayed: excess.stayed,
        hit_ratio_min: seconds.iter().copied().fold(1.0, f64::min),
        dip_seconds: seconds.iter().filter(|ratio| **ratio < DIP).count() as f64,
        gets: report.gets,
        failed: report.failed.len(),
        refused: report.refused.len(),
        unreached: report.unreached,
        slowest_ms: report.slowest.as_millis(),
        hit_ratios: report.windows.iter().map(|window| window.hit_ratio()).collect(),
    }
}

/// Over several windows.
fn hit_ratio(windows: &[Window]) -> f64 {
    let sum = |of: fn(&Window) -> usize| windows.iter().map(of).sum();
    Window { gets: sum(|it| it.gets), loads: sum(|it| it.loads) }.hit_ratio()
}

impl Row {
    fn excess(&self) -> usize {
        self.excess_moved + self.excess_stayed
    }
}

/// A panel for each case, a line for each system: the hit ratio in percent over seconds.
fn panels(rows: &[Row]) -> Vec<Panel> {
    let cases = rows.chunk_by(|one, other| (one.nodes, one.event) == (other.nodes, other.event));
    cases
        .map(|case| {
            let Row { nodes, event, .. } = case[0];
            let seconds = |at: usize| at as f64 * WINDOW.as_secs_f64() - BEFORE.as_secs_f64();
            let points =
                |row: &Row| (0..).zip(&row.hit_ratios).map(|(at, ratio)| (seconds(at), ratio * 100.0)).collect();
            let lines = case.iter().map(|row| Line { name: row.system, points: points(row) }).collect();
            let windows_len = case.iter().map(|row| row.hit_ratios.len()).max().unwrap_or_default();
            let ticks = [0.0, seconds(windows_len) / 2.0, seconds(windows_len)].map(|at| (at, format!("{at:.0} s")));
            Panel { title: format!("{nodes} nodes, {event}: hits in %"), ticks: ticks.to_vec(), lines }
        })
        .collect()
}

/// The rows as people read them, as Markdown.
pub(crate) struct Table<'a>(pub(crate) &'a [Row]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = [
            "nodes",
            "event",
            "system",
            "keys moved",
            "loads beyond one a key: of those",
            "of others",
            "part of the moved",
            "lowest second's hits",
            "seconds under 95%",
            "gets failed",
            "slowest get",
        ];
        writeln!(f, "| {} |\n{}|", heads.join(" | "), "|---".repeat(heads.len()))?;
        for row in self.0 {
            let Row { system, event, nodes, moved, excess_moved, excess_stayed, .. } = row;
            let part = row.excess() as f64 * 100.0 / (*moved).max(1) as f64;
            writeln!(
                f,
                "| {nodes} | {event} | {system} | {moved} | {excess_moved} | {excess_stayed} | {part:.1}% | {:.1}% | {:.0} | {} of {} | {} ms |",
                row.hit_ratio_min * 100.0,
                row.dip_seconds,
                row.failed,
                row.gets,
                row.slowest_ms
            )?;
        }
        Ok(())
    }
}
