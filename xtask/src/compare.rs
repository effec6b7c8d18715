//! `compare`: the store and clusters beside what people use. It is run by hand, as it takes long.

use std::process::ExitCode;

use crate::{
    Outcome,
    command::{cargo, run_aside},
    needs,
};

const COMPARISON: &str = "crates/bench/compare/Cargo.toml";

/// Makes the daemon, for the comparison that runs it.
const BUILD_DAEMON: [&str; 5] = ["build", "--release", "--locked", "--package", "larder-server"];

/// Runs the comparison, which is a workspace of its own, so that what it compares with is built only here. Prints nothing
/// itself: the output may be JSON.
pub(crate) fn compare(arguments: &[&str]) -> ExitCode {
    match try_compare(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn try_compare(arguments: &[&str]) -> Outcome {
    let building = ["run", "--quiet", "--release", "--locked", "--target-dir", "target/compare", "--manifest-path"];
    let all = building.into_iter().chain([COMPARISON, "--"]).chain(arguments.iter().copied());
    let mut comparison = cargo(all);
    if arguments.contains(&"churn") {
        run_aside(&mut cargo(BUILD_DAEMON))?;
        comparison.env(needs::WITHOUT, needs::provide_compared(needs::CHURN).to_string());
    } else if arguments.contains(&"peer") {
        comparison.env(needs::WITHOUT, needs::provide_compared(needs::PEERS).to_string());
    }
    let status = comparison.status()?;
    if status.success() { Ok(()) } else { Err(format!("the comparison failed ({status}).").into()) }
}
