//! Programs in Go, with golang/groupcache as Debian packages it.

use std::{env, fs, path::PathBuf, process::Command};

use crate::process::Outcome;

/// Where Debian puts the sources of Go packages.
const GOPATH: &str = "/usr/share/gocode";

/// Builds a program from one file, whose path counts from this workspace. Go itself sees whether there is anything to do.
pub(crate) fn build(source: &str) -> Outcome<PathBuf> {
    let folder = env::current_exe()?.with_file_name("go");
    fs::create_dir_all(&folder)?;
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(source);
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&folder)
        .arg(&source)
        .env("GO111MODULE", "off")
        .env("GOPATH", GOPATH)
        .env("GOCACHE", folder.join("cache"))
        .output()
        .map_err(|error| format!("go could not be started: {error}"))?;
    if !built.status.success() {
        return Err(format!("{} does not build: {}", source.display(), String::from_utf8_lossy(&built.stderr)).into());
    }
    Ok(folder.join(source.file_stem().ok_or("no name")?))
}
