//! `fuzz`: the fuzzing tests, run for longer than `test` runs them.

use crate::{
    Outcome,
    command::{cargo, run},
};

/// How long it runs unless told otherwise, in seconds.
const SECONDS: u64 = 60;

/// How many tests share the time: a hostile asker and a hostile node.
const SIDES: u64 = 2;

/// Frames of the peer protocol: `[--seconds N] [--seed S]`.
pub(crate) fn peer(arguments: &[&str]) -> Outcome {
    let (seconds, seed) = seconds_and_seed(arguments)?;
    let seconds = seconds.unwrap_or(SECONDS);
    let mut command = cargo(["test", "--package", "larder-peer", "--locked", "--test", "fuzz", "harms_nobody", "--"]);
    command.arg("--nocapture").env("LARDER_FUZZ_SECONDS", seconds.div_ceil(SIDES).to_string());
    if let Some(seed) = seed {
        command.env("LARDER_FUZZ_SEED", seed.to_string());
    }
    run(&mut command)
}

/// What `[--seconds N] [--seed S]` says.
pub(crate) fn seconds_and_seed(arguments: &[&str]) -> Outcome<(Option<u64>, Option<u64>)> {
    let (mut seconds, mut seed) = (None, None);
    for pair in arguments.chunks(2) {
        let wrong = || format!("`{}`: give --seconds or --seed, and a number", pair.join(" "));
        let [name, number] = pair else { return Err(wrong().into()) };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        match *name {
            "--seconds" => seconds = Some(number),
            "--seed" => seed = Some(number),
            _ => return Err(wrong().into()),
        }
    }
    Ok((seconds, seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_named_and_nothing_is_run() {
        for wrong in [&["--seconds"][..], &["--seed", "x"], &["--cases", "7"], &["--seed", "1", "2"]] {
            let failure = peer(wrong).unwrap_err().to_string();
            assert!(failure.contains("give --seconds or --seed"), "{failure}");
        }
    }
}
