//! A real PostgreSQL, as a process with its data in a temporary folder.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
        mpsc,
    },
    thread,
};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_postgres::{NoTls, types::ToSql};

/// Where there is memory to write to: disks of busy machines are slow.
const MEMORY: &str = "/dev/shm";

/// Where Debian has the programs, a folder for each version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Whom the server may run as if the tests run as root, as which it refuses to.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// What it says once it takes connections.
const READY: &str = "database system is ready to accept connections";

/// How much of what it said is shown after a test that failed.
const SHOWN_LINES_MAX: usize = 30;

/// A PostgreSQL server with one database, in which the user `larder` may do anything. It is stopped when this is dropped.
pub(crate) struct Server {
    folder: TempDir,
    address: Option<SocketAddr>,
    settings: Vec<String>,
    child: Option<Child>,
    said: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// One that is reached by a socket in its folder.
    pub(crate) fn start() -> Self {
        let mut server = Self::stopped();
        server.restart();
        server
    }

    /// One that is reached over TCP too, and wants passwords there.
    pub(crate) fn start_with_tcp(settings: &[&str], files: &[(&str, &str)]) -> Self {
        let mut server = Self::stopped();
        server.address = Some(free_address());
        server.settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        for (name, text) in files {
            let path = server.data().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            give_away(&path);
        }
        server.restart();
        server
    }

    /// One on the disk that keeps what it has acknowledged, as it does unless it is told otherwise.
    pub(crate) fn start_synced() -> Self {
        let mut server = Self::stopped_in(tempfile::tempdir().unwrap());
        server.settings = ["fsync=on", "full_page_writes=on", "shared_buffers=128MB"].map(str::to_owned).into();
        server.restart();
        server
    }

    /// One that is not started yet.
    pub(crate) fn stopped() -> Self {
        Self::stopped_in(tempfile::tempdir_in(MEMORY).or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn stopped_in(folder: TempDir) -> Self {
        let server = Self { folder, address: None, settings: Vec::new(), child: None, said: Arc::default() };
        copy(&template(), &server.data());
        give_away(server.folder.path());
        server
    }

    /// Where it is reached by its socket.
    pub(crate) fn url(&self) -> String {
        format!("host={} user=larder dbname=postgres", self.folder.path().display())
    }

    /// Where it is reached over TCP.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    /// Starts it where it was, with the data that it had, and waits until it answers.
    pub(crate) fn restart(&mut self) {
        let folder = self.folder.path().to_str().unwrap().to_owned();
        let (host, port) = self.address.map_or((String::new(), 5432), |it| (it.ip().to_string(), it.port()));
        let mut settings = vec![
            format!("listen_addresses={host}"),
            format!("port={port}"),
            format!("unix_socket_directories={folder}"),
        ];
        // As small and as forgetful as it can be.
        settings.extend(
            [
                "fsync=off",
                "full_page_writes=off",
                "shared_buffers=4MB",
                "max_connections=50",
                "autovacuum=off",
                "wal_level=minimal",
                "max_wal_senders=0",
                "jit=off",
                "logging_collector=off",
            ]
            .map(str::to_owned),
        );
        settings.extend_from_slice(&self.settings);
        let mut command = program("postgres");
        command.arg("-D").arg(self.data()).args(settings.iter().flat_map(|setting| ["-c", setting]));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("postgres can be started");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        self.child = Some(child);
        let said = Arc::clone(&self.said);
        let mut hear = move |line: String| {
            let is_ready = line.contains(READY);
            said.lock().unwrap().push(line);
            is_ready
        };
        let is_ready = lines.by_ref().any(&mut hear);
        assert!(is_ready, "postgres ended");
        thread::spawn(move || {
            for line in lines {
                hear(line);
            }
        });
    }

    /// Has it drop all connections and stop.
    pub(crate) fn stop(&mut self) {
        let mut child = self.child.take().expect("it runs");
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::QUIT).unwrap();
        child.wait().unwrap();
    }

    /// Runs statements as its administrator, and waits until they are done.
    pub(crate) fn admin(&self) -> Admin {
        Admin::connect(&self.url(), self.address)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.stop();
        }
        if thread::panicking() {
            let said = self.said.lock().unwrap();
            let end = said[said.len().saturating_sub(SHOWN_LINES_MAX)..].join("\n");
            // Who can't be told it can't be helped.
            let _shown = writeln!(std::io::stderr(), "── what postgres said ──\n{end}");
        }
    }
}

/// A statement, its parameters, and who waits for the rows that it changed or found.
type Asked = (String, Vec<Box<dyn ToSql + Sync + Send>>, mpsc::Sender<u64>);

/// A connection on a thread of its own, so that tests can use it without awaiting.
pub(crate) struct Admin(UnboundedSender<Asked>);

impl Admin {
    fn connect(url: &str, address: Option<SocketAddr>) -> Self {
        let url = address.map_or_else(|| url.to_owned(), |it| format!("{url} port={}", it.port()));
        let (send, mut receive) = unbounded_channel::<Asked>();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (client, driver) = tokio_postgres::connect(&url, NoTls).await.expect("it answers");
                tokio::spawn(driver);
                while let Some((sql, parameters, answer)) = receive.recv().await {
                    let rows = if parameters.is_empty() {
                        client.batch_execute(&sql).await.map(|()| 0)
                    } else {
                        let parameters = parameters.iter().map(|it| &**it as &(dyn ToSql + Sync));
                        client.execute(&sql, &parameters.collect::<Vec<_>>()).await
                    };
                    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
                    // Who doesn't wait any more needs no answer.
                    let _heard = answer.send(rows);
                }
            });
        });
        Self(send)
    }

    /// Runs statements.
    pub(crate) fn run(&self, sql: &str) {
        self.run_with(sql, Vec::new());
    }

    /// Runs one with parameters, and says how many rows it changed or found.
    pub(crate) fn run_with(&self, sql: &str, parameters: Vec<Box<dyn ToSql + Sync + Send>>) -> u64 {
        let (send, receive) = mpsc::channel();
        self.0.send((sql.to_owned(), parameters, send)).unwrap();
        receive.recv().expect("the statement works")
    }
}

/// A program of PostgreSQL's latest version here, to be run as somebody it agrees to.
fn program(name: &str) -> Command {
    let versions = fs::read_dir(DEBIAN).into_iter().flatten().flatten().map(|entry| entry.path());
    let latest = versions.max_by_key(|path| path.file_name()?.to_str()?.parse::<u32>().ok());
    let mut command = Command::new(latest.map_or_else(|| name.into(), |folder| folder.join("bin").join(name)));
    command.env("LC_ALL", "C").current_dir("/");
    if let Some((user, group)) = user() {
        command.uid(user).gid(group);
    }
    command
}

/// Whom the server runs as; `None`: as whom the tests run.
fn user() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(USERS.iter().find_map(|name| ids(name)).expect("there is a user to run postgres as"))
}

/// Makes a file, or a folder and all below, whom the server runs as own it.
fn give_away(path: &Path) {
    let Some((user, group)) = user() else { return };
    chown(path, Some(user), Some(group)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give_away(&entry.unwrap().path()));
    }
}

/// An empty database, made once for all tests: that takes longer than most of them.
fn template() -> PathBuf {
    let template = Path::new(env!("CARGO_TARGET_TMPDIR")).join("postgres-template");
    if template.exists() {
        return template;
    }
    let folder = tempfile::tempdir_in(MEMORY).or_else(|_| tempfile::tempdir()).unwrap();
    give_away(folder.path());
    let data = folder.path().join("data");
    let made = program("initdb")
        .args(["--no-sync", "--no-locale", "--encoding=UTF8", "--username=larder", "--wal-segsize=1", "--pgdata"])
        .arg(&data)
        .output()
        .expect("initdb can be started");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let may_connect = "local all all trust\nhost all all 127.0.0.0/8 scram-sha-256\n";
    fs::write(data.join("pg_hba.conf"), may_connect).unwrap();
    let made = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    copy(&data, &made.path().join("data"));
    // Another test may have been faster; then its template is as good.
    let _first = fs::rename(made.path().join("data"), &template);
    template
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// A free port of a loopback address that no other process and no other call has, so that nobody takes it meanwhile.
fn free_address() -> SocketAddr {
    static CALLS: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, 64 | (high & 63), low, CALLS.fetch_add(1, Ordering::Relaxed));
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
}
