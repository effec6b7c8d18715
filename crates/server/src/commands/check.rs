//! `larder check`: is this configuration right?

use super::{Failure, print};
use crate::{cli::CheckArgs, config::Config};

/// Prints every mistake with its line, or what the configuration makes.
///
/// # Errors
///
/// If there are mistakes, or the file can't be read.
pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    let path = args.config.as_path();
    let config = Config::load(Some(path), &args.set).map_err(|mistakes| Failure::mistaken(Some(path), &mistakes))?;
    let groups: Vec<&str> = config.groups.keys().map(String::as_str).collect();
    let (path, groups) = (path.display(), groups.join(", "));
    print(format!("{path} is right; its groups: {groups}\n").as_bytes())
}
