//! `larder set`: gives a key a value.

use std::io::{self, Read};

use bytes::Bytes;
use http::Method;

use super::{
    Failure,
    client::{ask, key_path},
    wait_for,
};
use crate::cli::SetArgs;

/// The longest value that is read from stdin: no group takes a longer one.
const VALUE_BYTES_MAX: u64 = 1 << 30;

/// Sets the value from the command line or from stdin.
///
/// # Errors
///
/// If the node refuses it or can't be asked, or stdin can't be read.
pub fn run(args: SetArgs) -> Result<(), Failure> {
    let value = match args.value {
        Some(value) if value != "-" => Bytes::from(value.into_encoded_bytes()),
        _ => from_stdin()?,
    };
    let key = args.key;
    wait_for(ask(&key.node.url, Method::PUT, &key_path(&key.group, &key.key), value)).map(drop)
}

fn from_stdin() -> Result<Bytes, Failure> {
    let mut value = Vec::new();
    io::stdin()
        .lock()
        .take(VALUE_BYTES_MAX + 1)
        .read_to_end(&mut value)
        .map_err(|error| Failure::failed(format!("stdin can't be read: {error}")))?;
    if value.len() as u64 > VALUE_BYTES_MAX {
        return Err(Failure::failed(format!("the value is too long: {VALUE_BYTES_MAX} bytes is the most")));
    }
    Ok(value.into())
}
