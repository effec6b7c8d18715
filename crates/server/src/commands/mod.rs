//! What each command does, one a file, and how it may end.

use std::{
    fmt, io,
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use crate::config::{Mistake, Mistakes, Place};

pub mod bench;
pub mod check;
mod client;
pub mod dead_letters;
pub mod demo;
pub mod get;
pub mod invalidate;
pub mod journal;
pub mod lock;
pub mod owner;
pub mod rm;
pub mod serve;
pub mod set;
pub mod status;
pub mod takeover;

pub use client::NodeUrl;

/// How a command ends that does not end well; the numbers are the process's exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// It failed.
    Failed = 1,
    /// It was asked for something that can't be: an unknown group too.
    Usage = 2,
    /// There is no such key.
    NotFound = 3,
    /// No node could be reached.
    Unreachable = 4,
    /// The lock was not to be had.
    NotAcquired = 5,
}

/// Why a command did not do what it was asked.
///
/// # Examples
///
/// ```
/// use larder_server::commands::{Exit, Failure};
///
/// let failure = Failure::usage("there is no group \"usrs\"");
/// assert_eq!(failure.exit(), Exit::Usage);
/// assert_eq!(failure.to_string(), "there is no group \"usrs\"");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// An end with this exit code; `message` is a sentence that says what to do.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// It failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// It was asked for something that can't be.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Its configuration has `mistakes`: wrong usage if all of them are in flags.
    #[must_use]
    pub fn mistaken(config: Option<&Path>, mistakes: &Mistakes) -> Self {
        let tell = |mistake: &Mistake| match (config, mistake.place) {
            (Some(path), Place::Line(_)) => format!("{}, {mistake}", path.display()),
            (Some(path), Place::Unwritten) => format!("{}: {mistake}", path.display()),
            _ => mistake.to_string(),
        };
        let told: Vec<String> = mistakes.iter().map(tell).collect();
        Self::new(if mistakes.are_all_in_flags() { Exit::Usage } else { Exit::Failed }, told.join("\n"))
    }

    /// The exit code.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// Tells it on stderr.
    pub(crate) fn report(&self) -> ExitCode {
        use io::Write;

        // If stderr is closed, the exit code still tells.
        for line in self.message.lines() {
            let _ = writeln!(io::stderr(), "larder: {line}");
        }
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Runs a command that only waits: for one node's answer.
fn wait_for<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the process can't wait for the network: {error}")))?
        .block_on(future)
}

/// Runs a command that has work for all cores.
fn run_on_threads<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("threads can't be started: {error}")))?
        .block_on(future)
}

/// A time by the wall clock, in milliseconds since 1970, as people write it.
fn time(ms: u64) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms));
    time.map_or_else(|| ms.to_string(), |time| humantime::format_rfc3339_millis(time).to_string())
}

/// Writes to stdout. Who reads it may have seen enough: a closed pipe is no failure.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    use io::Write;

    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("stdout can't be written: {error}")))
        }
        _ => Ok(()),
    }
}
