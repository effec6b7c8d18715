//! `torture` and `outages`: tests of whole clusters that need more time than `test` has for them.

use crate::{
    Outcome,
    command::{cargo, run},
    fuzz::seconds_and_seed,
};

/// How long torture runs unless told otherwise, in seconds.
const SECONDS: u64 = 240;

/// How many tests share the time: nothing happens, nodes stand still, nodes come and go, links break; all kinds of faults, and nodes
/// that are cut off, with strong groups by etcd and by Consul.
const TESTS: u64 = 8;

/// How often each test of write-behind does something to its nodes, those that gossip half as often: some 200 times in all. They wait for
/// views to change and for members that are away, so that they run at once.
const ROUNDS: u64 = 84;

/// How long a registry or an origin is away unless told otherwise, in seconds.
const OUTAGE_SECONDS: u64 = 60;

/// Among how many writes there is poison.
const POISON_WRITES: u64 = 10_000;

/// How often each of nine contenders has a lock.
const LOCK_TURNS: u64 = 56;

const TEST: [&str; 6] = ["test", "--package", "larder-server", "--locked", "--test", "daemon"];

/// What clients see, held against the promises: `[--seconds N] [--seed S]`.
pub(crate) fn torture(arguments: &[&str]) -> Outcome {
    let (seconds, seed) = seconds_and_seed(arguments)?;
    let seconds = seconds.unwrap_or(SECONDS);
    let torture = |arguments: &[&str]| {
        let mut command = cargo(TEST);
        command.args(["--", "--nocapture"]).args(arguments);
        command.env("LARDER_TORTURE_SECONDS", seconds.div_ceil(TESTS).to_string());
        command.env("LARDER_TORTURE_ROUNDS", (seconds * ROUNDS).div_ceil(SECONDS).to_string());
        command.env("LARDER_LOCK_TURNS", LOCK_TURNS.to_string());
        command.env("LARDER_POISON_WRITES", POISON_WRITES.to_string());
        if let Some(seed) = seed {
            command.env("LARDER_TORTURE_SEED", seed.to_string());
        }
        run(&mut command)
    };
    // One after the other, each with the machine for itself.
    torture(&["history::", "nine_contenders", "poison::", "--test-threads=1"])?;
    torture(&["behind_torture::", "behind_restarts::three_nodes", "--test-threads=3"])
}

/// Registries, origins and owners of locks that are away, for longer than `test` has them: `[--seconds N]`. From a minute on, locks are free
/// again.
pub(crate) fn outages(arguments: &[&str]) -> Outcome {
    let (seconds, _) = seconds_and_seed(arguments)?;
    let mut command = cargo(TEST);
    command.args(["--", "registries::", "outage::", "lock_owners::", "--nocapture", "--test-threads=1"]);
    command.env("LARDER_OUTAGE_SECONDS", seconds.unwrap_or(OUTAGE_SECONDS).to_string());
    run(&mut command)
}
