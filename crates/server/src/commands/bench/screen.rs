//! What is shown of a benchmark: a bar while it runs, and then its figures, for people or as JSON.

use std::{fmt::Write, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use larder_bench::{Latency, Report};
use serde::Serialize;

use crate::cli::BenchArgs;

/// An open load that ends this much later than its last get was due was not what was asked for.
const OVERTIME_MAX: Duration = Duration::from_secs(1);

/// How far a benchmark is, on stderr where that is a terminal. Dropped, it leaves nothing behind.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Of so many keys to write.
    pub(super) fn of_keys(keys: u64) -> Self {
        Self::new(keys, "{bar:20} {pos} of {len} keys written")
    }

    /// Of a load that takes so long.
    pub(super) fn of_time(duration: Duration) -> Self {
        Self::new(millis(duration), "{bar:20} {msg}")
    }

    fn new(len: u64, template: &str) -> Self {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::stderr()).with_style(style))
    }

    pub(super) fn another_key(&self) {
        self.0.inc(1);
    }

    pub(super) fn show(&self, elapsed: Duration, report: &Report) {
        let Report { gets_per_second, latency, failed, .. } = report;
        let (p50, p99) = (time(latency.p50_us), time(latency.p99_us));
        self.0.set_position(millis(elapsed));
        self.0.set_message(format!(
            "{:.0} s  {gets_per_second:.0} gets/s  p50 {p50}  p99 {p99}  {failed} failed",
            elapsed.as_secs_f64()
        ));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The figures for people.
pub(super) fn summary(args: &BenchArgs, target: &str, report: &Report, interrupted: bool) -> String {
    let BenchArgs { group, prefix, keys, dist, concurrency, .. } = args;
    let Report { gets, found, not_found, failed, seconds, gets_per_second, latency, .. } = report;
    let Latency { p50_us, p90_us, p99_us, p999_us, max_us } = *latency;
    let mut text = String::new();
    let mut line = |name: &str, told: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name:<10} {told}");
    };
    line("asked", &format!("{target}, group {group}, keys {prefix}0 to {prefix}{}, {dist}", keys - 1));
    if let Some(len) = args.value_size {
        line("written", &format!("{keys} keys of {len} bytes each, before"));
    }
    let ended = if interrupted { ", stopped early" } else { "" };
    line(
        "load",
        &match args.rate {
            Some(rate) => format!("{rate} gets/s, {concurrency} at once at most, for {seconds:.1} s{ended}"),
            None => format!("{concurrency} callers, for {seconds:.1} s{ended}"),
        },
    );
    line("gets", &format!("{gets}, {gets_per_second:.0}/s"));
    line("found", &found.to_string());
    line("not found", &not_found.to_string());
    let reasons = if *failed > 0 { format!(" ({})", reasons(report)) } else { String::new() };
    line("failed", &format!("{failed}{reasons}"));
    let [p50, p90, p99, p999, max] = [p50_us, p90_us, p99_us, p999_us, max_us].map(time);
    line("latency", &format!("p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p999}  max {max}"));
    if args.rate.is_some() && *seconds > (args.duration + OVERTIME_MAX).as_secs_f64() {
        line("note", "the rate was not kept: too much for the node, for this machine, or for so many at once");
    }
    text
}

/// What failed, by reason.
pub(super) fn reasons(report: &Report) -> String {
    let reasons: Vec<String> = report.failures.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.join(", ")
}

#[derive(Serialize)]
struct Told<'a> {
    target: &'a str,
    protocol: &'static str,
    group: &'a str,
    keys: u64,
    prefix: &'a str,
    dist: String,
    value_size: Option<usize>,
    concurrency: usize,
    rate: Option<f64>,
    duration_seconds: f64,
    interrupted: bool,
    #[serde(flatten)]
    report: &'a Report,
}

/// The figures as one line of JSON.
pub(super) fn json(args: &BenchArgs, target: &str, report: &Report, interrupted: bool) -> String {
    let told = Told {
        target,
        protocol: if args.peer.is_some() { "grpc" } else { "http" },
        group: &args.group,
        keys: args.keys,
        prefix: &args.prefix,
        dist: args.dist.to_string(),
        value_size: args.value_size,
        concurrency: args.concurrency,
        rate: args.rate,
        duration_seconds: args.duration.as_secs_f64(),
        interrupted,
        report,
    };
    // Names, numbers and strings: there is nothing in it that could fail to be written as JSON.
    let json = serde_json::to_string(&told).unwrap_or_default();
    format!("{json}\n")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time as people read it.
fn time(us: f64) -> String {
    if us < 1e3 {
        format!("{us:.0} µs")
    } else if us < 1e6 {
        format!("{:.2} ms", us / 1e3)
    } else {
        format!("{:.2} s", us / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_the_unit_that_fits() {
        assert_eq!(
            [0.4, 524.2, 1_234.0, 999_900.0, 15_000_000.0].map(time),
            ["0 µs", "524 µs", "1.23 ms", "999.90 ms", "15.00 s"]
        );
    }
}
