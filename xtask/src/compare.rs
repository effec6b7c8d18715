//! `compare` and `sanitize`: what is run by hand, as it takes long, or tools that not every machine has.

use std::process::{Command, ExitCode};

use crate::{
    Outcome,
    command::{cargo, run},
    needs, workspace,
};

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

/// The store's tests under Miri, which sees undefined behaviour, and under the address sanitizer, which sees freed
/// memory used in runs too long for Miri. Both need a nightly toolchain.
pub(crate) fn sanitize() -> Outcome {
    let nightly = |arguments: &[&str]| {
        let mut command = Command::new("rustup");
        command.args(["run", "nightly", "cargo"]).args(arguments).current_dir(workspace::root());
        command
    };
    let tests = ["--package", "larder-core", "--lib", "store::"];
    let miri = [&["miri", "test", "--target-dir", "target/miri"][..], &tests].concat();
    run(nightly(&miri).env("MIRIFLAGS", "-Zmiri-disable-isolation"))?;
    let target = ["--target", "x86_64-unknown-linux-gnu", "--target-dir", "target/sanitize"];
    let address = [&["test"][..], &target, &tests].concat();
    run(nightly(&address).env("RUSTFLAGS", "-Zsanitizer=address"))
}
