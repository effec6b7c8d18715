//! `compare`: the store beside the crates people use. It is run by hand, as it takes long.

use std::process::ExitCode;

use crate::{command::cargo, needs};

const COMPARISON: &str = "crates/bench/compare/Cargo.toml";

/// Runs the comparison, which is a workspace of its own, so that what it compares with is built only here. Prints nothing
/// itself: the output may be JSON.
pub(crate) fn compare(arguments: &[&str]) -> ExitCode {
    let building = ["run", "--quiet", "--release", "--locked", "--target-dir", "target/compare", "--manifest-path"];
    let all = building.into_iter().chain([COMPARISON, "--"]).chain(arguments.iter().copied());
    let mut comparison = cargo(all);
    if arguments.contains(&"peer") {
        comparison.env(needs::WITHOUT, needs::provide_peers().to_string());
    }
    match comparison.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
