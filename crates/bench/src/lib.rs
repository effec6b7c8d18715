//! A load generator: which keys are asked for ([`Distribution`]), by whom and when ([`Plan`], [`Pace`]), and how long
//! the answers took ([`Report`]).
//!
//! It knows nothing of caches: what a get is comes as a function from the index of a key to a future. So one generator
//! serves nodes in this process, a daemon over HTTP, and other systems to compare with.
//!
//! ```
//! use std::time::Duration;
//! use larder_bench::{Distribution, Load, Outcome, Pace, Plan};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let plan = Plan {
//!     distribution: Distribution::Zipf { exponent: 0.99 },
//!     keys: 10_000,
//!     pace: Pace::Closed { callers: 8 },
//!     duration: Duration::from_millis(20),
//!     seed: 1,
//! };
//! let load = Load::start(&plan, |key| async move { if key < 9_000 { Outcome::Found } else { Outcome::NotFound } });
//! let report = load.finish().await;
//! println!("{:.0} gets/s, p99 {:.1} µs", report.gets_per_second, report.latency.p99_us);
//! # assert!(report.gets > 0 && report.failed == 0);
//! # }
//! ```

#![forbid(unsafe_code)]

mod distribution;
mod interleave;
mod load;
mod report;
mod timetable;
mod zipf;

pub use distribution::{Distribution, DistributionError, Keys};
pub use interleave::{Spread, interleave};
pub use load::{CALLERS_MAX, Load, Outcome, Pace, Plan};
pub use report::{Latency, Report};
pub use zipf::Zipf;
