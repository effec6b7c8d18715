//! `sanitize`: the tests of unsafe code, under the address sanitizer. All of that code is in the store.
//!
//! The sanitizer sees memory used after it was freed, and memory never freed. It comes with the toolchain, which only has
//! to be told that unstable options are meant.

use std::{path::Path, process::Command};

use crate::{
    Outcome,
    command::{cargo, run},
    workspace,
};

/// All that touch unsafe code.
const TESTS: &[&str] = &["--package", "larder-core", "--lib", "--locked", "store::"];

/// Left out aloud where the toolchain has no sanitizer for its own machine.
pub(crate) fn sanitize() -> Outcome {
    let rustc = |arguments: &[&str]| -> Outcome<String> {
        let output = Command::new("rustc").args(arguments).current_dir(workspace::root()).output()?;
        Ok(String::from_utf8(output.stdout)?)
    };
    let about = rustc(&["--version", "--verbose"])?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc does not tell its host.")?;
    let libraries = rustc(&["--print", "target-libdir"])?;
    if !has_address_sanitizer(Path::new(libraries.trim()))? {
        println!("Without the address sanitizer: the toolchain has none for {host}. It is left out.");
        return Ok(());
    }
    // Named, so that build scripts and macros are spared.
    let building = ["test", "--target", host, "--target-dir", "target/sanitize"];
    let sanitizing = [("RUSTC_BOOTSTRAP", "1"), ("RUSTFLAGS", "-Zsanitizer=address")];
    run(cargo(building.iter().chain(TESTS)).envs(sanitizing))
}

fn has_address_sanitizer(libraries: &Path) -> Outcome<bool> {
    let names = libraries.read_dir()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.into_iter().any(|name| name.contains("_rt.asan")))
}
