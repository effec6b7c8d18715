//! `torture` and `outages`: tests of whole clusters that need more time than `test` has for them.

use crate::{
    Outcome,
    command::{cargo, run},
    fuzz::seconds_and_seed,
};

/// How long torture runs unless told otherwise, in seconds.
const SECONDS: u64 = 240;

/// How many tests share the time: nothing happens, nodes stand still, nodes come and go, links break; all kinds of faults, and nodes
/// that are cut off, with strong groups by etcd and by Consul; nodes that write behind are killed.
const TESTS: u64 = 9;

/// How long a registry is away unless told otherwise, in seconds.
const OUTAGE_SECONDS: u64 = 60;

/// How often each of nine contenders has a lock.
const LOCK_TURNS: u64 = 56;

const TEST: [&str; 6] = ["test", "--package", "larder-server", "--locked", "--test", "daemon"];

/// What clients see, held against the promises: `[--seconds N] [--seed S]`.
pub(crate) fn torture(arguments: &[&str]) -> Outcome {
    let (seconds, seed) = seconds_and_seed(arguments)?;
    let mut command = cargo(TEST);
    // One after the other, each with the machine for itself.
    command.args(["--", "history::", "behind_torture::", "nine_contenders", "--nocapture", "--test-threads=1"]);
    command.env("LARDER_TORTURE_SECONDS", seconds.unwrap_or(SECONDS).div_ceil(TESTS).to_string());
    command.env("LARDER_LOCK_TURNS", LOCK_TURNS.to_string());
    if let Some(seed) = seed {
        command.env("LARDER_TORTURE_SEED", seed.to_string());
    }
    run(&mut command)
}

/// Registries that are away, and owners of locks, for longer than `test` has them: `[--seconds N]`. From a minute on, locks are free again.
pub(crate) fn outages(arguments: &[&str]) -> Outcome {
    let (seconds, _) = seconds_and_seed(arguments)?;
    let mut command = cargo(TEST);
    command.args(["--", "registries::", "lock_owners::", "--nocapture", "--test-threads=1"]);
    command.env("LARDER_OUTAGE_SECONDS", seconds.unwrap_or(OUTAGE_SECONDS).to_string());
    run(&mut command)
}
