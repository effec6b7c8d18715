//! `larder invalidate`: drops what is cached on every node, and leaves the origin alone.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::Method;
use serde_json::json;

use super::{Failure, client::ask, wait_for};
use crate::cli::InvalidateArgs;

/// Drops it, whether or not it was there.
///
/// # Errors
///
/// If the node refuses or can't be asked.
pub fn run(args: &InvalidateArgs) -> Result<(), Failure> {
    let InvalidateArgs { group, keys, tags, all, node } = args;
    let keys: Vec<String> = keys.iter().map(|key| STANDARD.encode(key.as_bytes())).collect();
    let body = json!({ "keys_b64": keys, "tags": tags, "all": all }).to_string();
    wait_for(ask(&node.url, Method::POST, &format!("/v1/groups/{group}/invalidate"), body.into())).map(drop)
}
