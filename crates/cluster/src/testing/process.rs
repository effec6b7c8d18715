//! [`Server`]: a program in the background, with a folder and an address of its own, that tests stop, kill and pause.

use std::{
    fs::{self, File},
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;

/// Where there is memory to write to. A registry syncs all it does to disk, and on a machine whose disks are busy that takes
/// longer than the leases of tests.
const MEMORY: &str = "/dev/shm";

/// What a server's data is called in its folder.
pub(super) const DATA: &str = "data";

/// How much of what a program said is shown after a test that failed.
const SHOWN_LINES_MAX: usize = 30;

/// A server of a registry, as a process with its data in a temporary folder.
///
/// ```no_run
/// use larder_cluster::testing::{ConsulServer, EtcdServer, Server};
///
/// fn fails_for_a_moment(server: &mut impl Server) {
///     server.kill();
///     server.restart();
/// }
/// fails_for_a_moment(&mut EtcdServer::start());
/// fails_for_a_moment(&mut ConsulServer::start());
/// ```
pub trait Server: Send + 'static {
    /// Where clients reach it, as a URL.
    fn url(&self) -> String;

    /// The same, as an address.
    fn address(&self) -> SocketAddr;

    /// Starts it again where it was, with the data that it had.
    fn restart(&mut self);

    /// Its process.
    #[doc(hidden)]
    fn process(&self) -> &Process;

    /// Its process.
    #[doc(hidden)]
    fn process_mut(&mut self) -> &mut Process;

    /// Stops it as its operator would.
    fn stop(&mut self) {
        self.process_mut().end(Signal::TERM);
    }

    /// Kills it at once.
    fn kill(&mut self) {
        self.process_mut().end(Signal::KILL);
    }

    /// Has it lose its data while it is stopped.
    fn forget(&mut self) {
        fs::remove_dir_all(self.process().folder().join(DATA)).expect("the data can be removed");
    }

    /// Has it do nothing until it is [continued](Self::resume).
    fn pause(&self) {
        self.process().signal(Signal::STOP);
        self.process().has_stopped();
    }

    /// Has it go on.
    fn resume(&self) {
        self.process().signal(Signal::CONT);
    }
}

/// A program that runs, or did. It is killed and its folder removed when this is dropped; if a test fails then, the end of
/// what it said is shown.
#[derive(Debug)]
pub struct Process {
    folder: TempDir,
    child: Option<Child>,
}

impl Process {
    /// A program that has not been started.
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir_in(MEMORY).or_else(|_| tempfile::tempdir());
        Self { folder: folder.expect("a folder can be made"), child: None }
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it; what it says goes to a file.
    pub(super) fn start(&mut self, command: &mut Command) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.log()).expect("a log can be made");
        let both = log.try_clone().expect("a log has two ends");
        let child = command.current_dir(self.folder()).stdin(Stdio::null()).stdout(log).stderr(both).spawn();
        let name = command.get_program().to_string_lossy();
        self.child = Some(child.unwrap_or_else(|error| panic!("{name} can't be started: {error}")));
    }

    /// Ends it with this signal, and waits until it has ended.
    pub(super) fn end(&mut self, signal: Signal) {
        self.signal(signal);
        let mut child = self.child.take().expect("it runs");
        child.wait().expect("a child can be waited for");
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a child can be signalled");
    }

    /// Waits until all of its threads stand still: a signal takes them one by one.
    fn has_stopped(&self) {
        waitpid(Some(self.pid()), WaitOptions::UNTRACED).expect("a child can be waited for");
    }

    fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("it runs");
        Pid::from_raw(child.id().cast_signed()).expect("a process has a number")
    }

    fn log(&self) -> std::path::PathBuf {
        self.folder().join("log")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.end(Signal::KILL);
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(SHOWN_LINES_MAX)..].join("\n");
            // Who can't be told it can't be helped.
            let _shown = writeln!(std::io::stderr(), "── what a server said ──\n{end}");
        }
    }
}

/// Free ports of a loopback address that no other process and no other call has, so that nobody takes them meanwhile, nor
/// while the program on them is restarted.
pub(super) fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    static CALLS: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, 64 | (high & 63), low, CALLS.fetch_add(1, Ordering::Relaxed));
    let listeners = [(); N].map(|()| TcpListener::bind((host, 0)).expect("there are free ports"));
    listeners.map(|listener| listener.local_addr().expect("a listener has an address"))
}
