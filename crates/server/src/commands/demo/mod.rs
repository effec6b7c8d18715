//! `larder demo`: a whole cluster, an origin and a load, on this machine.
//!
//! Everything is real but two things, and it says so: all nodes are in one process, and the origin, a small database, is made as
//! slow as one across a network. The nodes talk over sockets as they would anywhere.

mod cluster;
mod screen;

use std::{sync::Arc, time::Duration};

use larder::core::group::TIMEOUT_DEFAULT;
use larder_bench::{Distribution, Load, Outcome, Pace, Plan, Report};
use tokio::{task::JoinSet, time::Instant};

use self::{
    cluster::{Cluster, Counts, ORIGIN_DELAY},
    screen::Screen,
};
use super::{Failure, run_on_threads};
use crate::{cli::DemoArgs, logging};

/// Callers of each node: enough that their gets overlap, few enough that latencies are the cluster's and not the machine's.
const CALLERS_PER_NODE: usize = 16;

/// Callers who ask for one cold key at the same moment.
const STAMPEDE_CALLERS: usize = 300;

/// How often the table is drawn; without a terminal, a line is printed as often.
const DRAW_EVERY: Duration = Duration::from_millis(250);
const PRINT_EVERY: Duration = Duration::from_secs(1);

/// Runs the demonstration.
///
/// # Errors
///
/// If the cluster can't start.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    logging::start(&args.log.level, args.log.format)?;
    run_on_threads(demo(args))
}

async fn demo(args: &DemoArgs) -> Result<(), Failure> {
    let cluster = Arc::new(Cluster::start(args.nodes, args.keys).await?);
    let mut screen = Screen::new();
    screen.say(&format!(
        "{} nodes in this process, gRPC between them; clients over HTTP on {}\n\
         origin: SQLite, {} rows, each request made {} ms slower (artificial, as if it were across a network)\n\
         load: Zipf 0.99 over {} keys, {} callers a node, for {}\n\
         try: larder get users user:1 --node {}",
        args.nodes,
        cluster.addresses().join(", "),
        args.keys,
        ORIGIN_DELAY.as_millis(),
        args.keys,
        CALLERS_PER_NODE,
        humantime::format_duration(args.duration),
        cluster.addresses()[0],
    ));
    let (report, counts) = load(args, &cluster, &mut screen).await?;
    screen.finish();
    let stampede = stampede(&cluster).await?;
    sum_up(&report, &counts, &stampede);
    Ok(())
}

/// Runs the load and shows how it goes.
async fn load(args: &DemoArgs, cluster: &Arc<Cluster>, screen: &mut Screen) -> Result<(Report, Counts), Failure> {
    let plan = Plan {
        distribution: Distribution::Zipf { exponent: 0.99 },
        keys: args.keys.into(),
        pace: Pace::Closed { callers: CALLERS_PER_NODE * usize::from(args.nodes) },
        duration: args.duration,
        seed: 1,
    };
    let target = cluster.clone();
    let mut load = Load::start(&plan, move |key| {
        let group = target.next_group();
        async move {
            match group.get(cluster::key(key), TIMEOUT_DEFAULT).await {
                Ok(answer) if answer.value.is_some() => Outcome::Found,
                Ok(_) => Outcome::NotFound,
                Err(error) => Outcome::Failed(error.kind().slug()),
            }
        }
    });
    let start = Instant::now();
    let mut ticks = tokio::time::interval(if screen.is_live() { DRAW_EVERY } else { PRINT_EVERY });
    // The first tick is at once, when there is nothing to show yet.
    ticks.tick().await;
    let mut last = (Instant::now(), cluster.counts());
    let report = loop {
        tokio::select! {
            report = load.ended() => break report,
            _ = ticks.tick() => {
                let now = Instant::now();
                let counts = cluster.counts();
                let elapsed = now - start;
                screen.show(&counts, &last.1, now - last.0, &load.so_far(), elapsed, args.duration)?;
                last = (now, counts);
            }
        }
    };
    if report.failed > 0 {
        return Err(Failure::failed(format!("{} of {} gets failed", report.failed, report.gets)));
    }
    Ok((report, cluster.counts()))
}

/// What became of many callers on one cold key.
struct Stampede {
    origin_loads: u64,
    slowest: Duration,
}

async fn stampede(cluster: &Arc<Cluster>) -> Result<Stampede, Failure> {
    let before = cluster.origin_requests();
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..STAMPEDE_CALLERS {
        let group = cluster.next_group();
        callers.spawn(async move { group.get(cluster::COLD_KEY, TIMEOUT_DEFAULT).await });
    }
    for answer in callers.join_all().await {
        answer.map_err(|error| Failure::failed(format!("the cold key: {error}")))?;
    }
    Ok(Stampede { origin_loads: cluster.origin_requests() - before, slowest: start.elapsed() })
}

#[expect(clippy::print_stdout, reason = "the summary is what the command is for")]
fn sum_up(report: &Report, counts: &Counts, stampede: &Stampede) {
    let per_thousand = counts.origin_requests as f64 * 1_000.0 / report.gets.max(1) as f64;
    println!();
    println!(
        "{} gets in {:.1} s: {:.0} a second, p50 {:.0} µs, p99 {:.0} µs, none failed",
        report.gets, report.seconds, report.gets_per_second, report.latency.p50_us, report.latency.p99_us
    );
    println!(
        "what the cache bought: 1,000 gets cost the origin {per_thousand:.2} loads instead of 1,000 \
         ({} loads; {:.1}% of the gets were answered by the node that was asked, the rest by the key's owner)",
        counts.origin_requests,
        counts.hit_percent(),
    );
    println!(
        "{STAMPEDE_CALLERS} callers at once on one cold key, on all nodes: {} load{}, the slowest caller waited {:.0} ms",
        stampede.origin_loads,
        if stampede.origin_loads == 1 { "" } else { "s" },
        stampede.slowest.as_secs_f64() * 1e3,
    );
}
