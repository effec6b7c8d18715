//! `peer`: gets that another process answers, through Larder and through what people use in its place.
//!
//! Two processes a system, each with one worker thread. A caller is one task with one get outstanding; keys are drawn
//! uniformly, and the serving side holds every one of them. All systems of a case take turns within a round.

mod go;
mod keys;
mod larder;
mod petroniuss;
mod process;
mod sides;
mod system;
mod unary;
mod wire;

use std::{error::Error, fmt, time::Duration};

use serde::Serialize;

use crate::speed::median;
use process::Turn;
use system::{Cost, System};
pub(crate) use system::{NAMES, Side, side};

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

/// What a turn comes to.
const METRICS: [Metric; 6] = [
    ("gets_per_second", |it| it.measured.gets as f64 / it.measured.seconds),
    ("p50_us", |it| it.measured.p50_us),
    ("p99_us", |it| it.measured.p99_us),
    ("p999_us", |it| it.measured.p999_us),
    ("asking_cpu_seconds_per_million", |it| it.asking_cpu_seconds * 1e6 / it.measured.gets as f64),
    ("serving_cpu_seconds_per_million", |it| it.serving_cpu_seconds * 1e6 / it.measured.gets as f64),
];

/// Measures every case, and tells each on stderr as it is done: a run takes minutes.
pub(crate) fn run(options: &Options, names: &[&'static str]) -> Result<Vec<Row>, Box<dyn Error>> {
    let mut rows = Vec::new();
    for &value_len in &options.value_len {
        let systems = names.iter().filter_map(|name| System::start(name, value_len).transpose());
        let mut systems = systems.collect::<Result<Vec<_>, _>>()?;
        for &callers in &options.callers {
            let case = format!("{value_len} B, {callers} callers");
            let mut costs: Vec<Vec<Cost>> = systems.iter().map(|_| Vec::new()).collect();
            for system in &mut systems {
                system.turn(Turn { callers, duration: WARM_UP, seed: 0 })?;
            }
            for round in 1..=options.rounds {
                let duration = Duration::from_secs_f64(options.seconds);
                for (system, costs) in systems.iter_mut().zip(&mut costs) {
                    costs.push(system.turn(Turn { callers, duration, seed: round as u64 * callers as u64 })?);
                }
            }
            eprintln!("{case}: measured");
            for (system, costs) in systems.iter().zip(&costs) {
                rows.extend(METRICS.map(|(metric, of)| {
                    let value = median(costs.iter().map(of).collect());
                    Row { system: system.name(), case: case.clone(), metric, value }
                }));
            }
        }
    }
    Ok(rows)
}

/// The rows as people read them: a case, then a line a system.
pub(crate) struct Table<'a>(pub(crate) &'a [Row]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut case = "";
        for row in self.0.chunks(METRICS.len()) {
            if row[0].case != case {
                case = &row[0].case;
                writeln!(
                    f,
                    "{case:<26} {:>10} {:>10} {:>10} {:>10}   CPU s/million: {:>6} {:>7} {:>6}",
                    "gets/s", "p50 µs", "p99 µs", "p99.9 µs", "asking", "serving", "both"
                )?;
            }
            let [gets, p50, p99, p999, asking, serving] = std::array::from_fn(|at| row[at].value);
            let both = asking + serving;
            writeln!(
                f,
                "  {:<24} {gets:>10.0} {p50:>10.1} {p99:>10.1} {p999:>10.1}   {asking:>21.2} {serving:>7.2} {both:>6.2}",
                row[0].system
            )?;
        }
        Ok(())
    }
}
