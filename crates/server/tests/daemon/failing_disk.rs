//! A disk whose syncs fail under a node that has a journal: it stops taking writes, says so, and goes on after a start (rule B7).
//!
//! The disk is the real one. What the node calls to sync it is in a library that is loaded before the system's, and fails while a file is
//! there: what the kernel does when a disk fails, which can't be had from one that does not.

use std::{fs, path::Path, process::Command};

use crate::{
    client::{get_key, put_key},
    commands::run,
    process::Daemon,
    sink::Sink,
};

/// Names the file.
const FAILS: &str = "LARDER_TEST_SYNCS_FAIL";

/// The kernel is asked itself, as no library that comes after this one need be looked for then.
const LIBRARY: &str = r#"
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(void) {
    const char *file = getenv("LARDER_TEST_SYNCS_FAIL");
    if (!file || access(file, F_OK) != 0) return 0;
    errno = EIO;
    return 1;
}

int fsync(int fd) { return fails() ? -1 : (int)syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return fails() ? -1 : (int)syscall(SYS_fdatasync, fd); }
"#;

/// Makes the library. The C compiler is there, as dependencies are built by it.
fn library(folder: &Path) -> String {
    let (source, library) = (folder.join("syncs.c"), folder.join("syncs.so"));
    fs::write(&source, LIBRARY).unwrap();
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap();
    assert!(made.success());
    library.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_node_whose_disk_fails_takes_no_more_writes_and_says_so_until_it_is_started_again() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::start().await);
    let (data_dir, flag) = (folder.path().join("data"), folder.path().join("fails"));
    let group = sink.group("write_delay = '1h'");
    let config = format!(
        "[node]\nname = 'a'\nlisten = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\npeer = '127.0.0.1:0'\ndata_dir = {data_dir:?}\n{group}"
    );
    let library = library(folder.path());
    let envs = [("LD_PRELOAD", library.as_str()), (FAILS, flag.to_str().unwrap())];
    let mut daemon = Daemon::start_with_env(&config, &envs).await;
    assert_eq!(daemon.ask(put_key("k", "kept")).await.status, 204);
    assert_eq!(daemon.metric("larder_write_behind_failed").await, 0);

    fs::write(&flag, "").unwrap();
    // Whether it is kept nobody knows.
    assert_eq!(daemon.ask(put_key("doubt", "v")).await.problem(), (504, "indeterminate".to_owned()));
    // A disk that works again makes no difference: what was not synced may be gone for good.
    fs::remove_file(&flag).unwrap();
    let refused = daemon.ask(put_key("more", "v")).await;
    assert_eq!(refused.problem(), (503, "overloaded".to_owned()));
    assert!(refused.text().contains("until its disk is seen to and it is started again"), "{}", refused.text());
    assert_eq!(daemon.ready().await, 503);
    assert_eq!(daemon.metric("larder_write_behind_failed").await, 1);
    let status = String::from_utf8(run(&daemon, &["status"]).await.stdout).unwrap();
    assert!(status.contains("takes no writes until its disk is seen to"), "{status}");
    assert!(daemon.stderr().contains("the journal failed"), "{}", daemon.stderr());
    assert_eq!(daemon.ask(get_key("k")).await.text(), "kept");

    daemon.kill();
    let daemon = Daemon::start(&config).await;
    assert_eq!(daemon.ask(get_key("k")).await.text(), "kept");
    assert_eq!(daemon.ask(put_key("more", "v")).await.status, 204);
}
