//! `larder bench`: how many gets a node answers, and how long they take.
//!
//! [`larder_bench`] decides who asks for which key when, and measures; here is what is asked (`ByHttp` as a client does,
//! `ByPeer` as another node does) and what people are shown of it.

mod by_http;
mod by_peer;
mod screen;

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use larder_bench::{Load, Outcome, Pace, Plan, Report};
use larder_core::{ErrorKind, Key};
use tokio::time::{Instant, interval};

use self::{by_http::ByHttp, by_peer::ByPeer, screen::Bar};
use super::{Failure, print, run_on_threads};
use crate::cli::BenchArgs;

/// How often the progress is shown anew.
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// What is asked for keys.
trait Target: Send + Sync + 'static {
    /// How reports name it.
    fn name(&self) -> String;

    /// Makes sure that there is a node, and that it has the group. `first` is one of the keys.
    ///
    /// # Errors
    ///
    /// What is wrong, and what to do.
    async fn check(&self, first: Key) -> Result<(), Failure>;

    fn get(&self, key: Key) -> impl Future<Output = Outcome> + Send;

    /// # Errors
    ///
    /// If the key is not written, or that is not known.
    async fn put(&self, key: Key, value: Bytes) -> Result<(), Failure>;
}

/// Measures, and prints what was measured.
///
/// # Errors
///
/// If there is no such node or group, or the keys can't be written, or gets failed.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    run_on_threads(async {
        match &args.peer {
            Some(address) => bench(ByPeer::new(address, &args.group)?, args).await,
            None => {
                let node = args.node().map_err(|error| Failure::usage(format!("LARDER_NODE: {error}")))?;
                bench(ByHttp::new(node, &args.group), args).await
            }
        }
    })
}

/// The key of an index.
///
/// # Errors
///
/// If that is too long for a key.
fn key(prefix: &str, index: u64) -> Result<Key, larder_core::Error> {
    Key::new(format!("{prefix}{index}"))
}

async fn bench<T: Target>(target: T, args: &BenchArgs) -> Result<(), Failure> {
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let prepared = async {
        // The last key is the longest.
        key(&args.prefix, args.keys - 1).map_err(|error| Failure::usage(format!("--prefix: {error}")))?;
        let first = key(&args.prefix, 0).map_err(|error| Failure::usage(format!("--prefix: {error}")))?;
        target.check(first).await?;
        write(&target, args).await
    };
    tokio::select! {
        prepared = prepared => prepared?,
        _ = &mut interrupt => return Err(Failure::failed("stopped before anything was measured")),
    }
    let name = target.name();
    let (report, interrupted) = load(target, args, interrupt).await;
    let told = if args.json {
        screen::json(args, &name, &report, interrupted)
    } else {
        screen::summary(args, &name, &report, interrupted)
    };
    print(told.as_bytes())?;
    if report.failed > 0 {
        let Report { gets, failed, .. } = report;
        return Err(Failure::failed(format!("{failed} of {gets} gets failed: {}", screen::reasons(&report))));
    }
    Ok(())
}

/// Gives each key its value, if keys are to be written.
async fn write<T: Target>(target: &T, args: &BenchArgs) -> Result<(), Failure> {
    let Some(len) = args.value_size else { return Ok(()) };
    let value = Bytes::from(vec![b'x'; len]);
    let bar = Bar::of_keys(args.keys);
    let bar = &bar;
    let written = stream::iter(0..args.keys).map(Ok).try_for_each_concurrent(args.concurrency, |index| {
        let value = value.clone();
        async move {
            let key = key(&args.prefix, index).map_err(|error| Failure::usage(error.to_string()))?;
            target.put(key, value).await?;
            bar.another_key();
            Ok(())
        }
    });
    written.await.map_err(|failure: Failure| {
        let message = format!("the keys can't be written, and without --value-size none are: {failure}");
        Failure::new(failure.exit(), message)
    })
}

/// Runs the load to its end, or to an interrupt: then with what was measured until then, and true.
async fn load<T: Target>(target: T, args: &BenchArgs, interrupt: impl Future + Unpin) -> (Report, bool) {
    let callers = args.concurrency;
    let pace = match args.rate {
        Some(per_second) => Pace::Open { callers, per_second },
        None => Pace::Closed { callers },
    };
    let plan = Plan { distribution: args.dist, keys: args.keys, pace, duration: args.duration, seed: 1 };
    let (target, prefix) = (Arc::new(target), Arc::<str>::from(args.prefix.as_str()));
    let mut load = Load::start(&plan, move |index| {
        let (target, prefix) = (target.clone(), prefix.clone());
        async move {
            match key(&prefix, index) {
                Ok(key) => target.get(key).await,
                Err(_) => Outcome::Failed(ErrorKind::Invalid.slug()),
            }
        }
    });
    let bar = Bar::of_time(args.duration);
    let start = Instant::now();
    let mut ticks = interval(DRAW_EVERY);
    let mut interrupt = interrupt;
    loop {
        tokio::select! {
            report = load.ended() => return (report, false),
            _ = &mut interrupt => return (load.so_far(), true),
            _ = ticks.tick() => bar.show(start.elapsed(), &load.so_far()),
        }
    }
}
