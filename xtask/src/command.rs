//! Other programs, run from the project's root with their output passed on.

use std::{
    env,
    ffi::OsStr,
    io,
    process::{Command, Stdio},
};

use crate::{Outcome, workspace};

/// The cargo that runs us, so that every step uses one toolchain.
pub(crate) fn cargo<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace::root());
    command
}

/// Runs a command to its end, after printing it as one would type it.
pub(crate) fn run(command: &mut Command) -> Outcome {
    println!("$ {}", line(command));
    finish(command)
}

/// The same with all that is printed on stderr, for commands whose output is for programs.
pub(crate) fn run_aside(command: &mut Command) -> Outcome {
    eprintln!("$ {}", line(command));
    finish(command.stdout(io::stderr()))
}

fn finish(command: &mut Command) -> Outcome {
    let line = line(command);
    let status = command.status().map_err(|error| format!("`{line}` could not be started: {error}."))?;
    if status.success() { Ok(()) } else { Err(format!("`{line}` failed ({status}).").into()) }
}

/// Whether a line of shell succeeds in the project's root; what it prints is thrown away.
pub(crate) fn succeeds(line: &str) -> bool {
    let status = Command::new("sh")
        .args(["-c", line])
        .current_dir(workspace::root())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn line(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let name = program.rsplit('/').next().unwrap_or(&program).to_owned();
    let set = command.get_envs().filter_map(|(name, value)| Some((name.to_string_lossy(), value?.to_string_lossy())));
    let set = set.filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name}='{value}'"));
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    set.chain([name]).chain(arguments).collect::<Vec<_>>().join(" ")
}
