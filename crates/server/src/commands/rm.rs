//! `larder rm`: removes a key from every node.

use bytes::Bytes;
use http::Method;

use super::{
    Failure,
    client::{ask, key_path},
    wait_for,
};
use crate::cli::KeyArgs;

/// Removes the key, whether or not it was there.
///
/// # Errors
///
/// If the node refuses or can't be asked.
pub fn run(args: &KeyArgs) -> Result<(), Failure> {
    wait_for(ask(&args.node.url, Method::DELETE, &key_path(&args.group, &args.key), Bytes::new())).map(drop)
}
