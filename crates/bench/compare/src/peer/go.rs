//! golang/groupcache: `groupcache.go` is both sides of it, in Go as Debian packages it.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::{keys::KEYS, process::Process};

/// Where Debian puts the sources of Go packages.
const GOPATH: &str = "/usr/share/gocode";

pub(crate) fn start(ask: &[&str], value_len: usize) -> Result<Process, Box<dyn Error>> {
    let (keys, value_len) = (KEYS.to_string(), value_len.to_string());
    let mut command = Command::new(program()?);
    Process::start(command.args(["--keys", &keys, "--value-len", &value_len]).args(ask).env("GOMAXPROCS", "1"))
}

/// Builds it, once a run.
fn program() -> Result<&'static Path, Box<dyn Error>> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program);
    }
    let folder = env::current_exe()?.with_file_name("go");
    let program = folder.join("groupcache");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/peer/groupcache.go"))
        .env("GO111MODULE", "off")
        .env("GOPATH", GOPATH)
        .env("GOCACHE", folder.join("cache"))
        .output()
        .map_err(|error| format!("go could not be started: {error}"))?;
    if !built.status.success() {
        return Err(format!("groupcache.go does not build: {}", String::from_utf8_lossy(&built.stderr)).into());
    }
    Ok(PROGRAM.get_or_init(|| program))
}
