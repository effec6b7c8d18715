//! Larder beside what people use in its place: the store's speed, memory and hit ratio, gets between nodes, and what it costs when
//! those come and go.
//!
//! Speed is told as ratios of interleaved rounds, as a machine's noise moves all systems alike; memory as the resident
//! size of a process that does nothing else.

#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

mod churn;
#[path = "../../../server/tests/daemon/client.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "what tests ask for and how, of which less is needed here")]
mod client;
mod clock;
mod go;
mod hit_ratio;
mod latency;
mod memory;
#[path = "../../../server/tests/daemon/moves.rs"]
#[expect(dead_code, reason = "tests need more of it")]
mod moves;
mod needs;
#[path = "../../../server/tests/daemon/origin.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "the origin of tests, of which less is needed here")]
mod origin;
mod peer;
mod picture;
mod process;
mod speed;
mod systems;
mod trace;
#[path = "../../../server/tests/daemon/traffic.rs"]
#[expect(clippy::unwrap_used, reason = "the traffic of tests")]
mod traffic;

use clap::{Parser, Subcommand};
use serde::Serialize;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(all(feature = "mimalloc", not(feature = "jemalloc")))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "cargo xtask compare", about = "Larder beside what people use in its place")]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Rows as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Only these systems.
    #[arg(long, visible_alias = "only", global = true, value_delimiter = ',')]
    systems: Vec<String>,
}

#[derive(Subcommand)]
enum What {
    /// Look-ups and writes a second.
    Store(speed::Options),
    /// Bytes an entry beside key and value.
    Memory(memory::Options),
    /// How long look-ups take while entries are swept or dropped.
    Latency(latency::Options),
    /// Hits in percent.
    HitRatio(hit_ratio::Options),
    /// Gets that another process answers.
    Peer(peer::Options),
    /// Loads at the origin while nodes come and go.
    Churn(churn::Options),
    #[command(hide = true)]
    Weigh(memory::Weigh),
    #[command(hide = true)]
    PeerSide(peer::Side),
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { what, json, systems } = Arguments::parse();
    let all: &[&str] = match what {
        What::Peer(_) => &peer::NAMES,
        What::Churn(_) => &churn::NAMES,
        _ => &systems::NAMES,
    };
    if let Some(unknown) = systems.iter().find(|name| !all.contains(&name.as_str())) {
        return Err(format!("there is no system {unknown}; there are {}", all.join(", ")).into());
    }
    let wanted = |name: &&str| systems.is_empty() || systems.iter().any(|wanted| wanted == name);
    let names: Vec<&str> = all.iter().copied().filter(wanted).collect();
    match &what {
        What::Store(options) => print(&speed::run(options, &names)?, json, |row| {
            let ratio = row.to_quick_cache.map_or_else(String::new, |ratio| format!("{ratio:.2} × quick_cache"));
            let own = row.to_reads.map_or_else(String::new, |ratio| format!("{ratio:.2} × its reads"));
            let Row { name, keys, threads, load, value, least, most, .. } = row;
            format!(
                "{name:16} {keys:>8} keys {threads} threads {load:>6}  {value:6.2} M/s ({least:.2} to {most:.2})  {ratio}  {own}"
            )
        }),
        What::Memory(options) => print(&memory::run(options, &names)?, json, |row| {
            let ratio = row.resident_to_budget.map_or_else(String::new, |r| format!("resident/budget {r:.3}"));
            let memory::Row { name, value_len, value, churned, .. } = row;
            format!("{name:16} 20 + {value_len:>6} bytes: {value:6.1} B full, {churned:6.1} B after churn  {ratio}")
        }),
        What::HitRatio(options) => print(&hit_ratio::run(options, &names)?, json, |row| {
            let hit_ratio::Row { name, trace, capacity, value } = row;
            format!("{name:16} {trace:16} {capacity:>8} {value:6.2}%")
        }),
        What::Latency(options) => print(&latency::run(options), json, |row| {
            let latency::Row { name, round, look_ups, gone, p50, p99, p9999, most } = row;
            format!(
                "{name:10} {round}: {look_ups} look-ups, {gone} entries gone; ns p50 {p50} p99 {p99} p99.99 {p9999} most {most}"
            )
        }),
        What::Peer(options) => {
            let rows = peer::run(options, &names)?;
            if json {
                println!("{}", serde_json::json!({ "suite": "peer", "rows": rows }));
            } else {
                print!("{}", peer::Tables(&rows));
            }
        }
        What::Churn(options) => {
            let rows = churn::run(options, &names)?;
            if json {
                println!("{}", serde_json::json!({ "suite": "churn", "rows": rows }));
            } else {
                print!("{}", churn::Table(&rows));
            }
        }
        What::PeerSide(options) => peer::side(options)?,
        What::Weigh(options) => println!("{}", serde_json::to_string(&memory::weigh(options)?)?),
    }
    Ok(())
}

use speed::Row;

fn print<R: Serialize>(rows: &[R], json: bool, line: impl Fn(&R) -> String) {
    if json {
        println!("{}", serde_json::json!({ "rows": rows }));
        return;
    }
    for row in rows {
        println!("{}", line(row));
    }
}
