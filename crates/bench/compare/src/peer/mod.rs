//! `peer`: gets that another process answers, through Larder and through what people use in its place.
//!
//! Two processes a system, each with one worker thread. A caller is one task with one get outstanding; keys are drawn
//! uniformly, and the serving side holds every one of them. All systems of a case take turns within a round.

mod go;
mod keys;
mod larder;
mod petroniuss;
mod sides;
mod system;
mod turn;
mod unary;
mod wire;

use std::{error::Error, fmt, time::Duration};

use serde::Serialize;

use crate::speed::median;
use system::{Cost, System};
pub(crate) use system::{NAMES, Side, side};
use turn::Turn;

/// What a turn costs on either side is told in hundredths of a second: shorter turns would round it too much.
const TURN_DEFAULT: f64 = 1.0;

/// Before the first round of a case, to open connections and fill what fills.
const WARM_UP: Duration = Duration::from_millis(300);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Bytes of a value.
    #[arg(long = "value-size", value_delimiter = ',', default_values_t = [100, 4096])]
    value_len: Vec<usize>,
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 512])]
    callers: Vec<usize>,
    /// Rounds, in each of which every system takes its turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a system's turn is.
    #[arg(long, default_value_t = TURN_DEFAULT)]
    seconds: f64,
}

#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) system: &'static str,
    pub(crate) case: String,
    pub(crate) metric: &'static str,
    pub(crate) value: f64,
}

type Metric = (&'static str, fn(&Cost) -> f64);

/// What a turn comes to, of which a case's rows have the medians.
const METRICS: [Metric; 6] = [
    ("gets_per_second", Cost::gets_per_second),
    ("p50_us", |it| it.measured.p50_us),
    ("p99_us", |it| it.measured.p99_us),
    ("p999_us", |it| it.measured.p999_us),
    ("asking_cpu_seconds_per_million", |it| it.asking_cpu_seconds * 1e6 / it.measured.gets as f64),
    ("serving_cpu_seconds_per_million", |it| it.serving_cpu_seconds * 1e6 / it.measured.gets as f64),
];

/// Whose rate is told as a multiple of the others'.
const OURS: &str = "larder grpc";

/// The median of the rounds' ratios of our rate to this one: what else the machine does falls on both.
const RATIO: &str = "larder_grpc_rate_ratio";

/// Measures every case, and tells each on stderr as it is done: a run takes minutes.
pub(crate) fn run(options: &Options, names: &[&'static str]) -> Result<Vec<Row>, Box<dyn Error>> {
    let mut rows = Vec::new();
    for &value_len in &options.value_len {
        let systems = names.iter().filter_map(|name| System::start(name, value_len).transpose());
        let mut systems = systems.collect::<Result<Vec<_>, _>>()?;
        for &callers in &options.callers {
            let costs = take_turns(&mut systems, callers, options)?;
            let case = case(value_len, callers);
            eprintln!("{case}: measured");
            let ours = systems.iter().position(|it| it.name() == OURS).map(|at| &costs[at]);
            for (system, costs) in systems.iter().zip(&costs) {
                let row =
                    |metric, values| Row { system: system.name(), case: case.clone(), metric, value: median(values) };
                rows.extend(METRICS.map(|(metric, of)| row(metric, costs.iter().map(of).collect())));
                rows.extend(ours.map(|ours| {
                    let ratio = |(ours, cost): (&Cost, &Cost)| ours.gets_per_second() / cost.gets_per_second();
                    row(RATIO, ours.iter().zip(costs).map(ratio).collect())
                }));
            }
        }
    }
    Ok(rows)
}

fn case(value_len: usize, callers: usize) -> String {
    let value_len =
        if value_len.is_multiple_of(1024) { format!("{} KiB", value_len / 1024) } else { format!("{value_len} B") };
    format!("{value_len}, {callers} caller{}", if callers == 1 { "" } else { "s" })
}

/// What each system's turns came to, round by round.
fn take_turns(systems: &mut [System], callers: usize, options: &Options) -> Result<Vec<Vec<Cost>>, Box<dyn Error>> {
    for system in &mut *systems {
        system.turn(Turn { callers, duration: WARM_UP, seed: 0 })?;
    }
    let duration = Duration::from_secs_f64(options.seconds);
    let mut costs: Vec<Vec<Cost>> = systems.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for (system, costs) in systems.iter_mut().zip(&mut costs) {
            costs.push(system.turn(Turn { callers, duration, seed: round as u64 * callers as u64 })?);
        }
    }
    Ok(costs)
}

/// The rows as people read them, as Markdown: a table a case, a line a system.
pub(crate) struct Tables<'a>(pub(crate) &'a [Row]);

impl fmt::Display for Tables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rows in self.0.chunk_by(|one, other| one.case == other.case) {
            writeln!(f, "\n{}\n", rows[0].case)?;
            let heads =
                ["gets/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU s/million: asking", "serving", "larder grpc's rate"];
            writeln!(f, "| {:24} | {} |\n|---{}|", "", heads.join(" | "), "|---".repeat(heads.len()))?;
            for rows in rows.chunk_by(|one, other| one.system == other.system) {
                write!(f, "| {:24}", rows[0].system)?;
                for Row { metric, value, .. } in rows {
                    match *metric {
                        "gets_per_second" => write!(f, " | {value:>7.0}")?,
                        RATIO => write!(f, " | {value:.2} ×")?,
                        _ => write!(f, " | {value:>8.*}", if *value < 100.0 { 2 } else { 0 })?,
                    }
                }
                writeln!(f, " |")?;
            }
        }
        Ok(())
    }
}
