//! `peer`: gets that another process answers, through Larder and through what people use in its place.
//!
//! Two processes a system, each with one worker thread. A caller is one task with one get outstanding; keys are drawn
//! uniformly, and the serving side holds every one of them. All systems of a case take turns within a round.

mod keys;
mod larder;
mod process;
mod sides;

use std::{error::Error, fmt, time::Duration};

use larder_core::stats::Protocol;
use serde::Serialize;

use crate::speed::median;
use process::{Measured, Process, Turn};

/// What a turn costs on either side is told in hundredths of a second: shorter turns would round it too much.
const TURN_DEFAULT: f64 = 1.0;

/// Before the first round of a case, to open connections and fill what fills.
const WARM_UP: Duration = Duration::from_millis(300);

/// Of the gets that an asker counts, so many the server must have seen. The others are callers that asked for the same
/// key at the same moment, and shared one answer: at 512 callers and 100,000 keys some five in a thousand.
const REMOTE_PART: f64 = 0.98;

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

/// One side of a system, which this program starts itself as.
#[derive(clap::Args)]
pub(crate) struct Side {
    system: String,
    /// Serves unless it is told whom to ask.
    #[arg(long)]
    ask: Option<String>,
    #[arg(long)]
    value_len: usize,
}

#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) system: &'static str,
    pub(crate) case: String,
    pub(crate) metric: &'static str,
    pub(crate) value: f64,
}

pub(crate) const SYSTEMS: [&str; 2] = ["larder grpc", "larder http"];

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

/// A turn of one system.
struct Cost {
    measured: Measured,
    asking_cpu_seconds: f64,
    serving_cpu_seconds: f64,
}

/// Measures every case, and tells each on stderr as it is done: a run takes minutes.
pub(crate) fn run(options: &Options, names: &[&'static str]) -> Result<Vec<Row>, Box<dyn Error>> {
    let mut rows = Vec::new();
    for &value_len in &options.value_len {
        let mut systems = names.iter().map(|name| System::start(name, value_len)).collect::<Result<Vec<_>, _>>()?;
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
                    Row { system: system.name, case: case.clone(), metric, value }
                }));
            }
        }
    }
    Ok(rows)
}

/// The process of one side.
pub(crate) fn side(options: &Side) -> sides::Ended {
    let Side { system, ask, value_len } = options;
    let protocol = match system.as_str() {
        "larder grpc" => Protocol::Grpc,
        "larder http" => Protocol::Http,
        _ => return Err(format!("there is no system {system}").into()),
    };
    sides::on_one_thread(async {
        match ask {
            None => larder::serve(protocol, *value_len).await,
            Some(address) => larder::ask(protocol, address, *value_len).await,
        }
    })
}

/// A system at work.
struct System {
    name: &'static str,
    server: Process,
    asker: Process,
}

impl System {
    fn start(name: &'static str, value_len: usize) -> Result<Self, Box<dyn Error>> {
        let value_len = value_len.to_string();
        let common = ["peer-side", name, "--value-len", &value_len];
        let mut server = Process::start_self(&common)?;
        let address = server.line()?;
        let asker = Process::start_self(&[&common[..], &["--ask", &address]].concat())?;
        Ok(Self { name, server, asker })
    }

    fn turn(&mut self, turn: Turn) -> Result<Cost, Box<dyn Error>> {
        let answered: u64 = self.server.say("")?.parse()?;
        let cpu = (self.asker.cpu_seconds()?, self.server.cpu_seconds()?);
        let measured: Measured = serde_json::from_str(&self.asker.say(turn)?)?;
        let cost = Cost {
            asking_cpu_seconds: self.asker.cpu_seconds()? - cpu.0,
            serving_cpu_seconds: self.server.cpu_seconds()? - cpu.1,
            measured,
        };
        let Measured { gets, wrong, .. } = cost.measured;
        let answered = self.server.say("")?.parse::<u64>()? - answered;
        if gets == 0 || wrong > 0 {
            return Err(format!("{}: of {gets} gets {wrong} did not bring the right value", self.name).into());
        }
        if (answered as f64) < gets as f64 * REMOTE_PART {
            return Err(format!("{}: of {gets} gets the server saw {answered}", self.name).into());
        }
        Ok(cost)
    }
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
