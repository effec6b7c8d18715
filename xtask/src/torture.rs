//! `torture`: the tests that hold what clients of a cluster see against its promises, for longer than `test` runs them.

use crate::{
    Outcome,
    command::{cargo, run},
    fuzz::seconds_and_seed,
};

/// How long it runs unless told otherwise, in seconds.
const SECONDS: u64 = 240;

/// How many tests share the time: nothing happens, nodes stand still, nodes come and go, links break; nodes that write behind are killed.
const TESTS: u64 = 5;

/// `[--seconds N] [--seed S]`.
pub(crate) fn torture(arguments: &[&str]) -> Outcome {
    let (seconds, seed) = seconds_and_seed(arguments)?;
    let tests = ["test", "--package", "larder-server", "--locked", "--test", "daemon", "torture::", "--"];
    let mut command = cargo(tests);
    // One after the other, each with the machine for itself.
    command.args(["--nocapture", "--test-threads=1"]);
    command.env("LARDER_TORTURE_SECONDS", seconds.unwrap_or(SECONDS).div_ceil(TESTS).to_string());
    if let Some(seed) = seed {
        command.env("LARDER_TORTURE_SEED", seed.to_string());
    }
    run(&mut command)
}
