//! The Larder daemon and its commands, as a library: the binary `larder` is its [`cli::main`].
//!
//! - [`assemble`]: the whole system, drawn in code.
//! - [`config`]: the configuration, with every mistake named by its key and line.
//! - [`cli`]: the command line.
//! - [`commands`]: what each command does.
//! - [`http`]: HTTP, as clients and operators meet it.
//! - [`lock_note`]: what a node that is alone knows after a restart of the locks that it granted.
//! - [`logging`]: where the logs go.
//! - [`reload`]: what becomes of a configuration that changes while the node runs.

#![forbid(unsafe_code)]

pub mod assemble;
pub mod cli;
pub mod commands;
pub mod config;
pub mod http;
pub mod lock_note;
pub mod logging;
pub mod reload;
