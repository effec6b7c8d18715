//! `larder demo`: a whole cluster, an origin and a load, on this machine.

use super::Failure;
use crate::{cli::DemoArgs, logging};

/// Runs the demonstration.
///
/// # Errors
///
/// If the cluster can't start.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    logging::start(&args.log.level, args.log.format)?;
    Err(Failure::failed("the demonstration can't be started: nothing is assembled yet"))
}
