//! Logs: structured, on stderr, for people unless JSON is asked for.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, fmt};

use crate::commands::Failure;

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// A JSON object a line.
    Json,
}

/// Sends this process's logs to stderr. `level` is a level, or `tracing`'s filter directives: `info,larder_peer=debug`.
///
/// # Errors
///
/// If `level` is neither, or logs are already sent somewhere.
pub fn start(level: &str, format: LogFormat) -> Result<(), Failure> {
    let filter = EnvFilter::builder()
        .parse(level)
        .map_err(|error| Failure::usage(format!("--log {level:?} is neither a level nor a filter: {error}")))?;
    let logs = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Human => logs.try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    }
    .map_err(|error| Failure::failed(format!("logs can't be written: {error}")))
}
