//! golang/groupcache: `groupcache.go` is both sides of it, in Go as Debian packages it.

use std::process::Command;

use super::keys::KEYS;
use crate::{
    go,
    process::{Outcome, Process},
};

pub(crate) fn start(ask: &[&str], value_len: usize) -> Outcome<Process> {
    let (keys, value_len) = (KEYS.to_string(), value_len.to_string());
    let mut command = Command::new(go::build("src/peer/groupcache.go")?);
    Process::start(command.args(["--keys", &keys, "--value-len", &value_len]).args(ask).env("GOMAXPROCS", "1"))
}
