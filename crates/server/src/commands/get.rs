//! `larder get`: a key's value, byte for byte.

use std::io::{self, IsTerminal};

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;

use super::{
    Failure,
    client::{ANSWER_TIMEOUT, ask, key_path},
    print, wait_for,
};
use crate::cli::KeyArgs;

/// Writes the value to stdout as it arrives; a terminal gets a line break after it.
///
/// # Errors
///
/// If there is no such key or group, or the node can't be asked.
pub fn run(args: &KeyArgs) -> Result<(), Failure> {
    wait_for(async {
        let response = ask(&args.node.url, Method::GET, &key_path(&args.group, &args.key), Bytes::new()).await?;
        let mut body = response.into_body();
        while let Some(frame) = tokio::time::timeout(ANSWER_TIMEOUT, body.frame())
            .await
            .map_err(|_| Failure::failed("the value stopped coming: what was written is not all of it"))?
        {
            let frame = frame.map_err(|error| {
                Failure::failed(format!("the value broke off, what was written is not all: {error}"))
            })?;
            if let Some(bytes) = frame.data_ref() {
                print(bytes)?;
            }
        }
        if io::stdout().is_terminal() { print(b"\n") } else { Ok(()) }
    })
}
