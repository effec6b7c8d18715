//! What a process of this program does as one side of a system, on one thread: the lines that [`turn`](super::turn)
//! tells of.

use std::{error::Error, fmt::Display, future::Future, io, process, sync::Arc};

use larder_bench::{Distribution, Load, Outcome, Pace, Plan, Report};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

use super::{
    keys::KEYS,
    turn::{Measured, Turn},
};

pub(crate) type Ended = Result<(), Box<dyn Error>>;

/// Runs one side on the calling thread.
pub(crate) fn on_one_thread(side: impl Future<Output = Ended>) -> Ended {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(side)
}

/// Says where this server is, and on demand how many gets it has answered.
pub(crate) async fn serving(address: impl Display, answered: impl Fn() -> u64) -> Ended {
    println!("{address} {}", process::id());
    let mut lines = BufReader::new(stdin()).lines();
    while lines.next_line().await?.is_some() {
        println!("{}", answered());
    }
    Ok(())
}

/// The same for a server that is a process of its own and can't speak for itself.
pub(crate) fn serving_beside<A>(server: u32, address: &str, mut answered: A) -> Ended
where
    A: FnMut() -> Result<u64, Box<dyn Error>>,
{
    println!("{address} {server}");
    for line in io::stdin().lines() {
        line?;
        println!("{}", answered()?);
    }
    Ok(())
}

/// Takes turns at asking. `get` is called with the index of a key, and says whether the right value came.
pub(crate) async fn asking<G, F>(get: G) -> Ended
where
    G: Fn(u64) -> F + Send + Sync + 'static,
    F: Future<Output = bool> + Send,
{
    asking_in_batches(1, get).await
}

/// Takes turns at asking for so many keys at once, of which `get` is told one. What a batch takes counts as the latency
/// of each of its gets.
pub(crate) async fn asking_in_batches<G, F>(batch_len: u64, get: G) -> Ended
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
            let get = get.clone();
            // Made where it is awaited: moved into the block, each get would be copied, and kept, twice.
            async move { if get(index).await { Outcome::Found } else { Outcome::Failed("the right value did not come") } }
        });
        let Report { gets, found, seconds, latency, .. } = load.finish().await;
        let measured = Measured {
            gets: gets * batch_len,
            wrong: (gets - found) * batch_len,
            seconds,
            p50_us: latency.p50_us,
            p99_us: latency.p99_us,
            p999_us: latency.p999_us,
        };
        println!("{}", serde_json::to_string(&measured)?);
    }
    Ok(())
}
