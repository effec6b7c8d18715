//! What a process of this program does as one side of a system, on one thread: the lines that [`process`](super::process)
//! tells of.

use std::{fmt::Display, future::Future, sync::Arc};

use larder_bench::{Distribution, Load, Outcome, Pace, Plan, Report};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

use super::{
    keys::KEYS,
    process::{Measured, Turn},
};

pub(crate) type Ended = Result<(), Box<dyn std::error::Error>>;

/// Runs one side on the calling thread.
pub(crate) fn on_one_thread(side: impl Future<Output = Ended>) -> Ended {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(side)
}

/// Says where a server is, and on demand how many gets it has answered.
pub(crate) async fn serving(address: impl Display, answered: impl Fn() -> u64) -> Ended {
    println!("{address}");
    let mut lines = BufReader::new(stdin()).lines();
    while lines.next_line().await?.is_some() {
        println!("{}", answered());
    }
    Ok(())
}

/// Takes turns at asking. `get` is called with the index of a key, and says whether the right value came.
pub(crate) async fn asking<G, F>(get: G) -> Ended
where
    G: Fn(u64) -> F + Send + Sync + 'static,
    F: Future<Output = bool> + Send,
{
    let get = Arc::new(get);
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let turn: Turn = line.parse()?;
        let plan = Plan {
            distribution: Distribution::Uniform,
            keys: KEYS,
            pace: Pace::Closed { callers: turn.callers },
            duration: turn.duration,
            seed: turn.seed,
        };
        let get = get.clone();
        let load = Load::start(&plan, move |index| {
            let answer = get(index);
            async move { if answer.await { Outcome::Found } else { Outcome::Failed("no answer") } }
        });
        println!("{}", serde_json::to_string(&measured(&load.finish().await))?);
    }
    Ok(())
}

fn measured(report: &Report) -> Measured {
    let Report { gets, found, seconds, latency, .. } = report;
    Measured {
        gets: *gets,
        wrong: gets - found,
        seconds: *seconds,
        p50_us: latency.p50_us,
        p99_us: latency.p99_us,
        p999_us: latency.p999_us,
    }
}
