//! `larder serve`: a node, until it is told to stop.

use super::Failure;
use crate::{cli::ServeArgs, logging};

/// Runs a node.
///
/// # Errors
///
/// If its configuration has mistakes, or it can't start.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let config = args.load().map_err(|mistakes| Failure::mistaken(args.config.as_deref(), &mistakes))?;
    logging::start(&args.log.level, args.log.format)?;
    tracing::info!(listen = %config.node.listen, groups = config.groups.len(), "the configuration is right");
    Err(Failure::failed("a node can't be started: nothing is assembled yet"))
}
