//! The object origin against a real server that speaks WebDAV.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by its panic")]

#[cfg(feature = "journal")]
#[path = "support/behind.rs"]
mod behind;
#[path = "support/files.rs"]
mod files;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use files::Files;
use larder_core::{
    Key, Loader, Store, loader_contract, store_contract,
    testing::{loader::Arrange, store},
};
use larder_origin::{ObjectConfig, ObjectOrigin};

/// What the server says before its address once it listens.
const READY: &str = "WebDav Server started on ";

/// A server of what is below a folder.
struct WebDav {
    files: Files<ObjectOrigin>,
    server: Child,
}

impl WebDav {
    fn start() -> Self {
        let mut server = None;
        let open = |folder: &Path| {
            let (started, url) = serve(folder);
            server = Some(started);
            ObjectOrigin::open(ObjectConfig::new(url)).unwrap()
        };
        let is_name = |part: &[u8]| {
            str::from_utf8(part).is_ok_and(|part| !part.chars().any(|char| char.is_ascii_control()))
                && part.len() <= 255
        };
        let files = Files::new(open, is_name);
        Self { files, server: server.expect("it was started") }
    }
}

/// Starts a server, and gives its address.
fn serve(folder: &Path) -> (Child, String) {
    let mut command = Command::new("rclone");
    command.args(["serve", "webdav", "--config", "", "--addr", "127.0.0.1:0", "--dir-cache-time", "0"]).arg(folder);
    let mut server = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("rclone can be started");
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
    let url = lines.find_map(|line| line.split_once(READY).map(|(_, url)| url.to_owned())).expect("it serves");
    // Else what it says later would find nobody who reads it.
    thread::spawn(move || lines.for_each(drop));
    (server, url)
}

impl Drop for WebDav {
    fn drop(&mut self) {
        // Neither can fail in a way that leaves a process behind.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Arrange for WebDav {
    fn loader(&self) -> &dyn Loader {
        Arrange::loader(&self.files)
    }

    fn put(&self, key: &Key, value: &[u8]) -> bool {
        self.files.put(key, value)
    }

    fn hang(&self, _: &Key) -> bool {
        false
    }

    fn fail(&self, _: &Key) -> bool {
        false
    }
}

impl store::Arrange for WebDav {
    fn store(&self) -> &dyn Store {
        self.files.store()
    }

    fn loader(&self) -> &dyn Loader {
        Arrange::loader(&self.files)
    }

    fn refuse(&self, _: &Key) -> bool {
        false
    }

    fn keep_out(&self, _: &Key) -> bool {
        false
    }

    fn break_off(&self, _: &Key) -> bool {
        false
    }

    fn hang(&self, _: &Key) -> bool {
        false
    }
}

loader_contract!(needs "rclone", contract, WebDav::start());
store_contract!(needs "rclone", writes, WebDav::start());
#[cfg(feature = "journal")]
behind::behind_contract!(needs "rclone", behind_writes, WebDav::start());
