//! `larder takeover`: has a node go on without members that don't come back.

use bytes::Bytes;
use http::Method;

use super::{Failure, client::NodeClient, print, wait_for};
use crate::cli::TakeoverArgs;

/// Prints in one sentence what is given up.
///
/// # Errors
///
/// If the node can't be asked.
pub fn run(args: &TakeoverArgs) -> Result<(), Failure> {
    let client = NodeClient::of_admin(args.admin.url.clone());
    let told = wait_for(client.ask_for_json(Method::POST, "/v1/takeover", Bytes::new()))?;
    print(format!("{}\n", told["told"].as_str().unwrap_or_default()).as_bytes())
}
